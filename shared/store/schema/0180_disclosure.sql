-- Delivery asks the patients' consents: whom a destination is, what is held for want of consent, and what was told.

-- recipient: as a Consent's provision.actor names it (Organization/1); null: nobody whom a Consent can name.
-- purpose: a code of v3-ActReason.
ALTER TABLE delivery_destination
    ADD COLUMN recipient text COLLATE "C",
    ADD COLUMN purpose text COLLATE "C" NOT NULL DEFAULT 'TREAT';

ALTER TABLE delivery DROP CONSTRAINT delivery_state_check;
ALTER TABLE delivery ADD CONSTRAINT delivery_state_check CHECK (state IN (
    'queued', 'sending', 'waiting', 'held', 'accepted', 'withdrawn', 'superseded', 'refused', 'not-accepted',
    'cancelled'));

CREATE INDEX delivery_held ON delivery (tenant, key) WHERE state = 'held';

-- Each decision on telling a destination something, written before the request leaves, in the transaction that asked the
-- consents; `ended` is what became of the request, null as long as (or where) nobody knows. Rows are only added and ended.
--
-- request: find or compare (only our identifier goes), match (the patient's identifiers go), create, update.
-- consents: the versions that permit (Consent/1/_history/2). known_seconds: how old the knowledge of consents then was.
CREATE TABLE disclosure (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    asked_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    destination text COLLATE "C" NOT NULL,
    recipient text COLLATE "C",
    purpose text COLLATE "C" NOT NULL,
    tenant text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    type text COLLATE "C" NOT NULL,
    resource text COLLATE "C" NOT NULL,
    version integer NOT NULL,
    labels text[] COLLATE "C" NOT NULL,
    request text COLLATE "C" NOT NULL CHECK (request IN ('find', 'compare', 'match', 'create', 'update')),
    permitted boolean NOT NULL,
    part_2 boolean NOT NULL,
    redacted boolean NOT NULL,
    consents text[] COLLATE "C" NOT NULL,
    known_seconds double precision,
    ended text COLLATE "C" CHECK (ended IN ('accepted', 'refused')),
    ended_at timestamptz
);

CREATE INDEX disclosure_of_patient ON disclosure (tenant, key, id);

CREATE FUNCTION kap_disclosure_stays() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND OLD.ended IS NULL
            AND to_jsonb(NEW) - 'ended' - 'ended_at' = to_jsonb(OLD) - 'ended' - 'ended_at' THEN
        RETURN NEW;
    END IF;
    IF TG_OP = 'DELETE' AND OLD.asked_at < now() - interval '3 years' THEN
        RETURN OLD;
    END IF;
    RAISE EXCEPTION 'What was disclosed is only added to.';
END $$;

CREATE TRIGGER disclosure_stays BEFORE UPDATE OR DELETE ON disclosure FOR EACH ROW
    EXECUTE FUNCTION kap_disclosure_stays();
