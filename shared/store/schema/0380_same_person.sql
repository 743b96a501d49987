-- Records that Patient.link joins are of one person, and what he denied in one of them is denied for all of them; what he
-- permitted in one permits nothing of another.
--
-- linked: a rule of a Consent of another record of the same person, kept with this one for as long as they are joined.
-- Of these a Consent that denies counts, and one that permits does not (shared/store/visibility.py).
ALTER TABLE consent_rule ADD COLUMN linked boolean NOT NULL DEFAULT false;

-- Which Patients a Patient names as of the same person (link of any type), by their ids: they need not be held yet.
CREATE TABLE patient_link (
    tenant integer NOT NULL,
    patient uuid NOT NULL,
    other text COLLATE "C" NOT NULL,
    PRIMARY KEY (tenant, patient, other)
);

CREATE INDEX patient_link_by_other ON patient_link (tenant, other);

ALTER TABLE patient_link ENABLE ROW LEVEL SECURITY;
ALTER TABLE patient_link FORCE ROW LEVEL SECURITY;
CREATE POLICY clinic ON patient_link USING (
    (SELECT current_setting('kap.clinic_number', true)) = '0'
    OR tenant = (SELECT nullif(current_setting('kap.clinic_number', true), '')::integer));

-- The Patients that are joined with one, however far, in either direction, and itself. 41 is Patient, as in
-- resource_type.
CREATE FUNCTION kap_same_person(p_tenant integer, p_patient uuid) RETURNS uuid[] LANGUAGE sql STABLE AS $$
    WITH RECURSIVE same (patient) AS (
        SELECT p_patient
        UNION
        SELECT o.patient FROM same s CROSS JOIN LATERAL (
            SELECT r.patient FROM patient_link l JOIN resource r
                ON r.tenant = p_tenant AND r.type = 41 AND r.id = l.other
            WHERE l.tenant = p_tenant AND l.patient = s.patient
            UNION ALL
            SELECT l.patient FROM resource r JOIN patient_link l ON l.tenant = p_tenant AND l.other = r.id
            WHERE r.tenant = p_tenant AND r.type = 41 AND r.patient = s.patient
        ) o WHERE o.patient IS NOT NULL
    )
    SELECT array_agg(patient) FROM same
$$;

-- Keep with each of these Patients the rules of the others that are joined with it now, and no more. Of a Consent that
-- only permits none: a program that does not know of `linked` would take it for a permission.
CREATE FUNCTION kap_share_rules(p_tenant integer, p_patients uuid[]) RETURNS void LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    one uuid;
    same uuid[];
BEGIN
    FOREACH one IN ARRAY p_patients LOOP
        same := kap_same_person(p_tenant, one);
        DELETE FROM consent_rule c WHERE c.tenant = p_tenant AND c.patient = one AND c.linked;
        INSERT INTO consent_rule (tenant, patient, consent, weight, part_2, recipients, purposes, labels, x_recipients,
                                  x_purposes, x_labels, low, high, about, through, x_through, linked)
        SELECT c.tenant, one, c.consent, c.weight, c.part_2, c.recipients, c.purposes, c.labels, c.x_recipients,
               c.x_purposes, c.x_labels, c.low, c.high, c.about, c.through, c.x_through, true
        FROM consent_rule c
        WHERE c.tenant = p_tenant AND c.patient = ANY (same) AND c.patient <> one AND NOT c.linked
          AND EXISTS (SELECT FROM consent_rule d WHERE d.tenant = p_tenant AND d.consent = c.consent AND NOT d.linked
                      AND d.weight <> 2);
    END LOOP;
END $$;

-- One of these at a time in a clinic: the news of two records of a person may be taken in at once.
CREATE FUNCTION kap_share_alone(p_tenant integer) RETURNS void LANGUAGE sql VOLATILE AS $$
    SELECT pg_advisory_xact_lock(hashtext('kap_same_person'), p_tenant)
$$;

-- Who writes a Consent of a record that is joined with none waits for whoever is joining it, and he for him: each sees
-- what the other wrote.
CREATE OR REPLACE FUNCTION kap_consent_written() RETURNS trigger LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    held record;
    same uuid[];
BEGIN
    SELECT r.version, r.patient INTO held FROM resource r WHERE r.rid = NEW.rid;
    IF NEW.version < held.version THEN  -- a copy of an older version that came late
        RETURN NULL;
    END IF;
    PERFORM kap_keep_consent(NEW.rid, NEW.tenant, held.patient, convert_from(NEW.body, 'UTF8')::jsonb);
    IF cardinality(kap_same_person(NEW.tenant, held.patient)) = 1 THEN
        PERFORM pg_advisory_xact_lock_shared(hashtext('kap_same_person'), NEW.tenant);
    END IF;
    IF cardinality(kap_same_person(NEW.tenant, held.patient)) > 1 THEN
        PERFORM kap_share_alone(NEW.tenant);
        same := kap_same_person(NEW.tenant, held.patient);
        PERFORM kap_share_rules(NEW.tenant, same);
    END IF;
    RETURN NULL;
END $$;

-- A Patient that is deleted stays joined with whom he was: nothing says that they are two people.
CREATE FUNCTION kap_patient_written() RETURNS trigger LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    held record;
    named text[];
    same uuid[];
BEGIN
    SELECT r.version, r.patient INTO held FROM resource r WHERE r.rid = NEW.rid;
    IF NEW.version < held.version OR NEW.interaction = 'delete' OR held.patient IS NULL THEN
        RETURN NULL;
    END IF;
    SELECT coalesce(array_agg(DISTINCT q.id), '{}') INTO named FROM (
        SELECT substring(jsonb_path_query(convert_from(NEW.body, 'UTF8')::jsonb, '$.link[*].other.reference') #>> '{}'
                         FROM '^Patient/([A-Za-z0-9.-]{1,64})(?:/_history/.*)?$') AS id) q
    WHERE q.id IS NOT NULL;
    IF named = '{}' AND cardinality(kap_same_person(NEW.tenant, held.patient)) = 1 THEN
        RETURN NULL;
    END IF;
    PERFORM kap_share_alone(NEW.tenant);
    same := kap_same_person(NEW.tenant, held.patient);
    DELETE FROM patient_link l WHERE l.tenant = NEW.tenant AND l.patient = held.patient AND l.other <> ALL (named);
    INSERT INTO patient_link SELECT NEW.tenant, held.patient, one FROM unnest(named) one ON CONFLICT DO NOTHING;
    PERFORM kap_share_rules(NEW.tenant, ARRAY(
        SELECT DISTINCT one FROM unnest(same || kap_same_person(NEW.tenant, held.patient)) one));
    RETURN NULL;
END $$;

CREATE TRIGGER patient_written AFTER INSERT ON history FOR EACH ROW WHEN (NEW.type = 41)
    EXECUTE FUNCTION kap_patient_written();

DO $$
DECLARE
    held record;
BEGIN
    PERFORM set_config('kap.clinic_number', '0', true);
    INSERT INTO patient_link
    SELECT DISTINCT q.tenant, q.patient, q.id FROM (
        SELECT r.tenant, r.patient, substring(
            jsonb_path_query(convert_from(h.body, 'UTF8')::jsonb, '$.link[*].other.reference') #>> '{}'
            FROM '^Patient/([A-Za-z0-9.-]{1,64})(?:/_history/.*)?$') AS id
        FROM resource r JOIN history h ON h.rid = r.rid AND h.version = r.version
        WHERE r.type = 41 AND NOT r.deleted AND r.patient IS NOT NULL AND position('"link"'::bytea IN h.body) > 0) q
    WHERE q.id IS NOT NULL;
    FOR held IN SELECT DISTINCT l.tenant, kap_same_person(l.tenant, l.patient) AS same FROM patient_link l LOOP
        PERFORM kap_share_rules(held.tenant, held.same);
    END LOOP;
END $$;
