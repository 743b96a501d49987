-- When the issuer was last asked whether what was asked for with a token may go on (a Subscription outlives it): such a
-- token is remembered after its end, by whose it was, and so as taken back when the client's keys are changed.
ALTER TABLE oauth_token ADD COLUMN asked_at timestamptz;
