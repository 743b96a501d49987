"""What Prometheus scrapes of the events: published, applied, parked, lag. No label ever names a patient.

Names follow https://prometheus.io/docs/practices/naming/; the label `service` tells the services of one process apart.
"""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

_DELAYS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 3600)

PUBLISHED = Counter("kap_events_published_total", "Events that Kafka has acknowledged", ("service",))
PUBLISH_DELAY = Histogram(
    "kap_event_publish_delay_seconds",
    "From a change's commit to Kafka's acknowledgement",
    ("service",),
    buckets=_DELAYS,
)
RELAY_FAILURES = Counter(
    "kap_relay_failures_total", "Rounds of the relay that failed and were begun again", ("service",)
)
HELD_SHARDS = Gauge("kap_relay_held_shards", "Shards of the outbox this process publishes", ("service",))
CLAIMED = Counter(
    "kap_events_claimed_total",
    "Events published whose body was too large for a record and went ahead in pieces",
    ("service",),
)
OUTBOX_PENDING = Gauge("kap_outbox_pending_events", "Committed events that Kafka has not acknowledged", ("service",))
OUTBOX_AGE = Gauge(
    "kap_outbox_oldest_seconds",
    "Age of the oldest event that Kafka has not acknowledged; 0: there is none",
    ("service",),
)
PRODUCER_REBUILDS = Counter("kap_producer_rebuilds_total", "Producers given up and made anew", ("service",))

CONSUMED = Counter(
    "kap_events_consumed_total", "Events taken in, by what became of them", ("service", "source", "outcome")
)
APPLY_DELAY = Histogram(
    "kap_event_apply_delay_seconds",
    "From a change's commit at its owner to its commit here",
    ("service", "source"),
    buckets=_DELAYS,
)
TOGETHER = Histogram(
    "kap_events_together",
    "Events taken in by one transaction",
    ("service",),
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
)
TOGETHER_FAILED = Counter(
    "kap_events_together_failed_total", "Transactions of several events that failed: each was tried alone", ("service",)
)
ATTEMPTS_FAILED = Counter(
    "kap_event_attempts_failed_total", "Attempts to apply an event that failed", ("service", "source")
)
PARKED = Gauge("kap_events_parked", "Events parked, waiting ones included", ("service", "topic", "partition"))
PAUSED = Gauge(
    "kap_consumer_paused",
    "1 where a partition takes nothing in because too much is parked; alert",
    ("service", "topic", "partition"),
)
LAG = Gauge("kap_consumer_lag", "Events in the topic that are not applied yet", ("service", "topic", "partition"))
CLOCK_AHEAD = Gauge(
    "kap_source_clock_ahead_seconds",
    "How far a source's clock was ahead of this process's when it was last heard; 0: it was not",
    ("service", "source"),
)
REBALANCES = Counter(
    "kap_consumer_rebalances_total", "Times that the group gave this process its partitions", ("service",)
)
CONSUMER_REBUILDS = Counter("kap_consumer_rebuilds_total", "Consumers given up and made anew", ("service",))
