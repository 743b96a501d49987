-- A subscription outlives the token that it was asked for with. `grant_id` and `token` name what that token was given by,
-- so that the issuer can be asked whether it still stands. `asked_at`: when a living token last asked for it.
ALTER TABLE subscription
    ADD COLUMN grant_id text COLLATE "C",
    ADD COLUMN token text COLLATE "C",
    ADD COLUMN asked_at timestamptz NOT NULL DEFAULT clock_timestamp();
