-- Events out (outbox), in (inbox, positions) and set aside (parked).

-- The first columns have the names that Debezium's outbox router reads, so that operations can switch to it:
-- https://debezium.io/documentation/reference/stable/transformations/outbox-event-router.html
CREATE TABLE outbox (
    sequence bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id text COLLATE "C" NOT NULL,
    aggregatetype text COLLATE "C" NOT NULL,
    aggregateid text COLLATE "C" NOT NULL,
    type text COLLATE "C" NOT NULL,
    payload bytea NOT NULL,
    tenant text COLLATE "C" NOT NULL,
    shard smallint NOT NULL,
    resource_id text COLLATE "C" NOT NULL,
    version integer NOT NULL,
    time timestamptz NOT NULL,
    labels text[] COLLATE "C" NOT NULL,
    request_id text,
    traceparent text,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    published_at timestamptz
);
CREATE INDEX outbox_unpublished ON outbox (sequence) INCLUDE (shard) WHERE published_at IS NULL;
ALTER TABLE outbox SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.02);

-- Relays, and which of them sleep: only those are notified, since NOTIFY takes a lock at commit.
CREATE UNLOGGED TABLE relay_state (
    relay uuid PRIMARY KEY,
    pid integer NOT NULL,
    sleeping boolean NOT NULL
);

CREATE TABLE inbox (
    consumer text COLLATE "C" NOT NULL,
    source text COLLATE "C" NOT NULL,
    event_id text COLLATE "C" NOT NULL,
    time timestamptz NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (consumer, source, event_id)
);
CREATE INDEX inbox_by_time ON inbox (applied_at);

CREATE TABLE inbox_position (
    consumer text COLLATE "C" NOT NULL,
    source text COLLATE "C" NOT NULL,
    tenant text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    sequence bigint NOT NULL,
    PRIMARY KEY (consumer, source, tenant, key)
) WITH (fillfactor = 80);

CREATE TABLE parked (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    consumer text COLLATE "C" NOT NULL,
    source text COLLATE "C" NOT NULL,
    event_id text COLLATE "C" NOT NULL,
    tenant text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    interaction text COLLATE "C" NOT NULL,
    type text COLLATE "C" NOT NULL,
    resource_id text COLLATE "C" NOT NULL,
    version integer NOT NULL,
    time timestamptz NOT NULL,
    shard smallint NOT NULL,
    sequence bigint NOT NULL,
    body bytea NOT NULL,
    labels text[] COLLATE "C" NOT NULL,
    request_id text,
    traceparent text,
    topic text COLLATE "C" NOT NULL,
    partition integer NOT NULL,
    "offset" bigint NOT NULL,
    error text NOT NULL,
    attempts integer NOT NULL DEFAULT 1,
    parked_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- Someone asked for another try: the worker takes the events of the key up again, in order of `number`.
    due boolean NOT NULL DEFAULT false,
    UNIQUE (consumer, source, event_id)
);
CREATE INDEX parked_by_key ON parked (consumer, tenant, key, number);
