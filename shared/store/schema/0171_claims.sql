-- Bodies that no record of Kafka may hold come ahead of their event, in pieces. They wait here for the event.
CREATE TABLE claim_piece (
    consumer text COLLATE "C" NOT NULL,
    source text COLLATE "C" NOT NULL,
    event_id text COLLATE "C" NOT NULL,
    tenant text COLLATE "C" NOT NULL,
    number integer NOT NULL,
    body bytea NOT NULL,
    deposited_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (consumer, source, tenant, event_id, number)
);
ALTER TABLE claim_piece ALTER COLUMN body SET STORAGE EXTERNAL;
CREATE INDEX claim_piece_by_time ON claim_piece (deposited_at);

-- A parked event whose pieces did not come: its body is the claim, until a repeat brings the resource.
ALTER TABLE parked ADD COLUMN claimed boolean NOT NULL DEFAULT false;
