-- Delivery's ledger: what is to reach which destination, and what is known of it there.

CREATE TABLE delivery_destination (
    id text COLLATE "C" PRIMARY KEY,
    tenant text COLLATE "C" NOT NULL,
    name text NOT NULL,
    address text NOT NULL,
    active boolean NOT NULL,
    types text[] COLLATE "C" NOT NULL,
    creates_patients boolean NOT NULL,
    -- What was held when the destination was added has been queued.
    filled boolean NOT NULL DEFAULT false
);

-- Grows in the order of queueing; an entry that is queued anew takes a new place.
CREATE SEQUENCE delivery_place;

CREATE TABLE delivery (
    destination text COLLATE "C" NOT NULL REFERENCES delivery_destination (id),
    type text COLLATE "C" NOT NULL,
    id text COLLATE "C" NOT NULL,
    tenant text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    place bigint NOT NULL DEFAULT nextval('delivery_place'),
    wanted_version integer NOT NULL,
    wanted_at timestamptz NOT NULL,
    deleted boolean NOT NULL,
    state text COLLATE "C" NOT NULL DEFAULT 'queued' CHECK (state IN (
        'queued', 'sending', 'waiting', 'accepted', 'withdrawn', 'superseded', 'refused', 'not-accepted', 'cancelled')),
    attempts integer NOT NULL DEFAULT 0,
    -- An attempt may have reached the destination although no answer came back: ask before trying again.
    uncertain boolean NOT NULL DEFAULT false,
    queued_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    next_attempt_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    sent_at timestamptz,
    server_id text COLLATE "C",
    delivered_version integer,
    committed_at timestamptz,
    accepted_at timestamptz,
    content_hash text COLLATE "C",
    unresolved text[] COLLATE "C" NOT NULL DEFAULT '{}',
    outcome text,
    task_id text COLLATE "C",
    task_status text COLLATE "C",
    PRIMARY KEY (destination, type, id)
) WITH (fillfactor = 80);

CREATE INDEX delivery_queue ON delivery (destination, place) INCLUDE (key) WHERE state = 'queued';
CREATE INDEX delivery_sending ON delivery (destination, sent_at) WHERE state = 'sending';
CREATE INDEX delivery_of_patient ON delivery (destination, tenant, key);
CREATE INDEX delivery_by_task ON delivery (task_id) WHERE task_id IS NOT NULL;
-- What waits and is not yet shown to anyone by a Task.
CREATE INDEX delivery_unshown ON delivery (destination, queued_at) WHERE state IN ('queued', 'waiting');
