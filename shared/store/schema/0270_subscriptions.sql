-- Subscriptions: what somebody asked to be told of, what has changed since, and what he was told. ADR 31.
--
-- A change is noted by a trigger in the transaction that puts a version into history, whoever does: a notification
-- cannot be without its change, nor the other way round. Numbers of events are given when they are told, so that what
-- a subscriber may not see leaves no gap.

-- status: as Subscription.status. types: of resources that its topic is about. scopes ... outside: of the token that it
-- was asked for with, from which who may see what is worked out anew at each request. headers: sealed, never shown.
-- last_number: of the last event that was told. attempt, attempt_until: of the request under way; who settles another
-- attempt than the last one is late, and changes nothing.
CREATE TABLE subscription (
    tenant integer NOT NULL,
    id text COLLATE "C" NOT NULL,
    status text COLLATE "C" NOT NULL CHECK (status IN ('requested', 'active', 'error', 'off')),
    topic text COLLATE "C" NOT NULL,
    types smallint[] NOT NULL,
    filters text[] COLLATE "C" NOT NULL,
    client text COLLATE "C",
    fhir_user text COLLATE "C",
    role text COLLATE "C",
    patient text COLLATE "C",
    scopes text COLLATE "C" NOT NULL,
    outside boolean NOT NULL,
    everything boolean NOT NULL,
    endpoint text COLLATE "C" NOT NULL,
    headers bytea NOT NULL,
    content text COLLATE "C" NOT NULL CHECK (content IN ('empty', 'id-only', 'full-resource')),
    heartbeat integer,
    timeout integer NOT NULL,
    most integer NOT NULL,
    ends_at timestamptz,
    last_number bigint NOT NULL DEFAULT 0,
    attempt bigint NOT NULL DEFAULT 0,
    attempt_until timestamptz,
    failures integer NOT NULL DEFAULT 0,
    failing_since timestamptz,
    next_attempt_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    told_at timestamptz,
    error text,
    PRIMARY KEY (tenant, id)
);

-- A version that somebody listens for, until it was decided whom it is an event for; kept a while after, so that a
-- projection that is built anew tells nothing twice.
CREATE TABLE subscription_change (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant integer NOT NULL,
    type smallint NOT NULL,
    id text COLLATE "C" NOT NULL,
    version integer NOT NULL,
    interaction text COLLATE "C" NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    matched boolean NOT NULL DEFAULT false,
    UNIQUE (tenant, type, id, version)
);
CREATE INDEX subscription_change_waiting ON subscription_change (tenant, number) WHERE NOT matched;
CREATE INDEX subscription_change_by_time ON subscription_change (at) WHERE matched;

-- An event of a subscription in its place. number: since it was told, or was to be. taken_at: the subscriber has it.
CREATE TABLE subscription_event (
    tenant integer NOT NULL,
    subscription text COLLATE "C" NOT NULL,
    place bigint GENERATED ALWAYS AS IDENTITY,
    number bigint,
    type smallint NOT NULL,
    id text COLLATE "C" NOT NULL,
    version integer NOT NULL,
    interaction text COLLATE "C" NOT NULL,
    at timestamptz NOT NULL,
    taken_at timestamptz,
    PRIMARY KEY (tenant, subscription, place),
    UNIQUE (tenant, subscription, type, id, version),
    FOREIGN KEY (tenant, subscription) REFERENCES subscription ON DELETE CASCADE
);
CREATE INDEX subscription_event_waiting ON subscription_event (tenant, subscription, place) WHERE taken_at IS NULL;
CREATE UNIQUE INDEX subscription_event_number ON subscription_event (tenant, subscription, number)
    WHERE number IS NOT NULL;

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['subscription', 'subscription_change', 'subscription_event'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format(
            'CREATE POLICY clinic ON %I USING ('
            '(SELECT current_setting(''kap.clinic_number'', true)) = ''0'' OR tenant = '
            '(SELECT nullif(current_setting(''kap.clinic_number'', true), '''')::integer))', name);
    END LOOP;
END $$;

-- What a second projection is built of was told long ago, but for the newest of it (shared/store/projection.py).
CREATE FUNCTION kap_note_change() RETURNS trigger LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    IF TG_TABLE_SCHEMA = 'kap_next' AND NEW.last_updated < now() - interval '3 days' THEN
        RETURN NULL;
    END IF;
    IF EXISTS (SELECT FROM subscription s WHERE s.tenant = NEW.tenant AND s.status <> 'off'
               AND NEW.type = ANY (s.types)) THEN
        INSERT INTO subscription_change (tenant, type, id, version, interaction)
        SELECT NEW.tenant, NEW.type, r.id, NEW.version, NEW.interaction FROM resource r WHERE r.rid = NEW.rid
        ON CONFLICT DO NOTHING;
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER history_change AFTER INSERT ON history FOR EACH ROW EXECUTE FUNCTION kap_note_change();
