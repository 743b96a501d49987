-- How old what is known of others is, and how far the worker that takes a partition in is behind.

-- All that `source` committed in `shard` before `until` was taken in here, or is parked.
CREATE TABLE known_until (
    consumer text COLLATE "C" NOT NULL,
    source text COLLATE "C" NOT NULL,
    shard smallint NOT NULL,
    until timestamptz NOT NULL,
    heard_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (consumer, source, shard)
) WITH (fillfactor = 50);

-- Written by whoever holds a partition, so that every process can tell of all of them.
CREATE TABLE consumer_lag (
    consumer text COLLATE "C" NOT NULL,
    topic text COLLATE "C" NOT NULL,
    partition integer NOT NULL,
    events bigint NOT NULL,
    measured_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (consumer, topic, partition)
) WITH (fillfactor = 50);
