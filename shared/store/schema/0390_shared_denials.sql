-- Of the Consents of another record of the same person those that deny count (0380). So of one that only permits nothing is
-- kept with the others: a program of before 0380, which does not know of `linked`, would take it for a permission.
CREATE OR REPLACE FUNCTION kap_share_rules(p_tenant integer, p_patients uuid[]) RETURNS void LANGUAGE plpgsql VOLATILE AS $$
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

DO $$
BEGIN
    PERFORM set_config('kap.clinic_number', '0', true);
    DELETE FROM consent_rule c WHERE c.linked AND NOT EXISTS (
        SELECT FROM consent_rule d WHERE d.tenant = c.tenant AND d.consent = c.consent AND d.linked
        AND d.patient = c.patient AND d.weight <> 2);
END $$;
