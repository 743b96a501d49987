-- What patients' privacy consents say, one row for each rule of a Consent that is in force: who may be told what.
--
-- A trigger keeps the rows with the version of the Consent that they are of, whoever writes it, so a change counts from
-- its commit on. `shared/store/visibility.py` asks them for each row that a caller outside of the clinic may see.
--
-- weight: 3 an exception that denies, 2 a rule or an exception that permits, 1 a rule that denies. Of one Consent the
-- highest that applies counts; of several Consents all that apply have to permit.
-- recipients, purposes, labels: of the Consent's rule; those with x_: of the exception. null: any. Of each one has to be
-- among those of who asks, and of the resource. part_2: whether it is a consent under 42 CFR Part 2.
CREATE TABLE consent_rule (
    tenant integer NOT NULL,
    patient uuid NOT NULL,
    consent bigint NOT NULL,
    weight smallint NOT NULL CHECK (weight BETWEEN 1 AND 3),
    part_2 boolean NOT NULL,
    recipients text[] COLLATE "C",
    purposes text[] COLLATE "C",
    labels text[] COLLATE "C",
    x_recipients text[] COLLATE "C",
    x_purposes text[] COLLATE "C",
    x_labels text[] COLLATE "C",
    low timestamptz,
    high timestamptz
);

CREATE INDEX consent_rule_by_patient ON consent_rule (tenant, patient);
CREATE INDEX consent_rule_by_consent ON consent_rule (consent);

-- A FHIR date or dateTime as its first instant, or the first one after it; a day is one of UTC.
CREATE FUNCTION kap_instant(p_text text, p_after boolean) RETURNS timestamptz LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE length(p_text)
        WHEN 4 THEN ((p_text || '-01-01')::timestamp + CASE WHEN p_after THEN interval '1 year' ELSE '0' END)
            AT TIME ZONE 'UTC'
        WHEN 7 THEN ((p_text || '-01')::timestamp + CASE WHEN p_after THEN interval '1 month' ELSE '0' END)
            AT TIME ZONE 'UTC'
        WHEN 10 THEN (p_text::timestamp + CASE WHEN p_after THEN interval '1 day' ELSE '0' END) AT TIME ZONE 'UTC'
        ELSE p_text::timestamptz END
$$;

-- The codes of codings, of one system where it is named; null where there are no codings. What cannot be understood:
-- nothing where it would permit, everything where it would deny.
CREATE FUNCTION kap_codes(p_codings jsonb, p_system text, p_permits boolean) RETURNS text[] LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE
        WHEN coalesce(jsonb_array_length(p_codings), 0) = 0 THEN NULL
        WHEN p_permits OR count(*) = count(*) FILTER (WHERE known)
            THEN coalesce(array_agg(one ->> 'code') FILTER (WHERE known), '{}')
        END
    FROM (SELECT one, one ->> 'code' IS NOT NULL AND (p_system IS NULL OR one ->> 'system' = p_system) AS known
          FROM jsonb_array_elements(p_codings) one) q
$$;

-- The recipients that a provision names, as Type/id, in the same way.
CREATE FUNCTION kap_recipients(p_actors jsonb, p_permits boolean) RETURNS text[] LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE
        WHEN coalesce(jsonb_array_length(p_actors), 0) = 0 THEN NULL
        WHEN p_permits THEN coalesce(array_agg(named) FILTER (WHERE named IS NOT NULL AND receives), '{}')
        WHEN count(*) = count(named) THEN array_agg(named)
        END
    FROM (SELECT substring(one -> 'reference' ->> 'reference'
                           FROM '^([A-Z][A-Za-z]+/[A-Za-z0-9.-]{1,64})(?:/_history/.*)?$') AS named,
                 coalesce(jsonb_path_exists(one, '$.role.coding[*].code ? (@ == "IRCP")'), false) AS receives
          FROM jsonb_array_elements(p_actors) one) q
$$;

CREATE FUNCTION kap_keep_consent(p_consent bigint, p_tenant integer, p_patient uuid, p_body jsonb)
RETURNS void LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    reason constant text := 'http://terminology.hl7.org/CodeSystem/v3-ActReason';
    unknown constant text[] := ARRAY['action', 'class', 'code', 'data', 'dataPeriod', 'modifierExtension'];
    rule jsonb := p_body -> 'provision';
    permits boolean := coalesce(rule ->> 'type' = 'permit', false);
    whole boolean := NOT rule ?| unknown AND NOT p_body ? 'modifierExtension';
    part_2 boolean := coalesce(jsonb_path_exists(p_body, '$.category[*].coding[*].code ? (@ == "42CFRPart2CD")'), false);
    recipients text[] := kap_recipients(rule -> 'actor', permits);
    purposes text[] := kap_codes(rule -> 'purpose', reason, permits);
    labels text[] := kap_codes(rule -> 'securityLabel', NULL, permits);
    low timestamptz := kap_instant(rule -> 'period' ->> 'start', false);
    high timestamptz := kap_instant(rule -> 'period' ->> 'end', true);
    besides jsonb;
    allows boolean;
BEGIN
    DELETE FROM consent_rule c WHERE c.consent = p_consent;
    IF p_patient IS NULL OR rule IS NULL OR p_body ->> 'status' IS DISTINCT FROM 'active'
            OR NOT coalesce(jsonb_path_exists(p_body, '$.scope.coding[*].code ? (@ == "patient-privacy")'), false) THEN
        RETURN;
    END IF;
    IF NOT permits OR whole THEN
        INSERT INTO consent_rule VALUES (p_tenant, p_patient, p_consent, CASE WHEN permits THEN 2 ELSE 1 END, part_2,
                                         recipients, purposes, labels, NULL, NULL, NULL, low, high);
    END IF;
    FOR besides IN SELECT * FROM jsonb_array_elements(rule -> 'provision') LOOP
        allows := coalesce(besides ->> 'type' = 'permit', false);
        CONTINUE WHEN allows AND (permits OR NOT whole OR besides ?| unknown OR besides ? 'provision');
        INSERT INTO consent_rule VALUES (
            p_tenant, p_patient, p_consent, CASE WHEN allows THEN 2 ELSE 3 END, part_2,
            recipients, purposes, labels,
            kap_recipients(besides -> 'actor', allows), kap_codes(besides -> 'purpose', reason, allows),
            kap_codes(besides -> 'securityLabel', NULL, allows),
            greatest(low, kap_instant(besides -> 'period' ->> 'start', false)),
            least(high, kap_instant(besides -> 'period' ->> 'end', true)));
    END LOOP;
END $$;

CREATE FUNCTION kap_consent_written() RETURNS trigger LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    held record;
BEGIN
    SELECT r.version, r.patient INTO held FROM resource r WHERE r.rid = NEW.rid;
    IF NEW.version < held.version THEN  -- a copy of an older version that came late
        RETURN NULL;
    END IF;
    PERFORM kap_keep_consent(NEW.rid, NEW.tenant, held.patient, convert_from(NEW.body, 'UTF8')::jsonb);
    RETURN NULL;
END $$;

-- 15 is Consent, as in resource_type.
CREATE TRIGGER consent_written AFTER INSERT ON history FOR EACH ROW WHEN (NEW.type = 15)
    EXECUTE FUNCTION kap_consent_written();

DO $$
BEGIN
    PERFORM kap_keep_consent(r.rid, r.tenant, r.patient, convert_from(h.body, 'UTF8')::jsonb)
    FROM resource r JOIN history h ON h.rid = r.rid AND h.version = r.version WHERE r.type = 15;
END $$;

-- Who could not see a resource does not see that it is gone either: its deletion keeps its labels, though the copy that
-- was made of an owner's answer does not say them.
CREATE OR REPLACE FUNCTION kap_history_place() RETURNS trigger LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    held record;
BEGIN
    SELECT r.tenant, r.type, r.labels INTO STRICT held FROM resource r WHERE r.rid = NEW.rid;
    NEW.tenant := held.tenant;
    NEW.type := held.type;
    IF NEW.interaction = 'delete' AND NEW.labels = '{}' THEN
        NEW.labels := held.labels;
    END IF;
    RETURN NEW;
END $$;

CREATE FUNCTION kap_keep_labels() RETURNS trigger LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    NEW.labels := OLD.labels;
    RETURN NEW;
END $$;

CREATE TRIGGER resource_labels BEFORE UPDATE ON resource FOR EACH ROW
    WHEN (NEW.deleted AND NEW.labels = '{}') EXECUTE FUNCTION kap_keep_labels();
