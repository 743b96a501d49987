-- What an operator asked to be told again, out of history: worked off by the workers, batch by batch.
CREATE TABLE replay (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- For whom; null: for all who take this service's events in.
    consumer text COLLATE "C",
    tenant text COLLATE "C",
    key text COLLATE "C",
    since timestamptz,
    -- Told up to this place of the outbox, and to be told up to that one.
    done bigint NOT NULL,
    until bigint NOT NULL,
    told bigint NOT NULL DEFAULT 0,
    asked_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    ended_at timestamptz
);
CREATE INDEX replay_open ON replay (number) WHERE ended_at IS NULL;
