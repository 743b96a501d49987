-- Notices: what is to be told to people outside of the record (mail, text message, pager), and what became of it.
--
-- A notice is queued in the transaction that decides on it, and sent after its commit, at least once: who takes it moves
-- `next_attempt_at` on, so that a sender that dies leaves it to the next one.

CREATE TABLE notice (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant text COLLATE "C" NOT NULL,
    -- The idempotency key: one fact is told to one address once.
    key text COLLATE "C" NOT NULL,
    channel text COLLATE "C" NOT NULL CHECK (channel IN ('email', 'sms', 'pager')),
    address text NOT NULL,
    subject text NOT NULL,
    text text NOT NULL,
    urgent boolean NOT NULL,
    -- The Communication that shows it, and the record (Patient/<id>) it belongs to.
    communication text COLLATE "C" NOT NULL,
    record text COLLATE "C" NOT NULL,
    state text COLLATE "C" NOT NULL DEFAULT 'queued' CHECK (state IN ('queued', 'sent', 'failed', 'withdrawn')),
    attempts integer NOT NULL DEFAULT 0,
    most_attempts integer NOT NULL,
    queued_at timestamptz NOT NULL,
    next_attempt_at timestamptz NOT NULL,
    -- Not sent any more after this: a reminder of what is over.
    expires_at timestamptz,
    settled_at timestamptz,
    error text,
    -- What the receiving server said when it took it.
    receipt text,
    UNIQUE (tenant, key)
);

CREATE INDEX notice_due ON notice (next_attempt_at) WHERE state = 'queued';
CREATE INDEX notice_of_communication ON notice (tenant, communication);
