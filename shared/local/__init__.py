"""PostgreSQL and Kafka on one machine, without containers: what `kap up` and the tests both start."""
