-- Intermediaries under 42 CFR Part 2 (2.11, 2.31(a)(4)(ii)): a consent may name who receives a record to pass it on, as an
-- actor with the role `intermediary`; to participants that it names, too, or to all of them who treat the patient (a
-- general designation). through, x_through: of a rule or exception that permits, the intermediaries that it names; null:
-- none. Where recipients are null and through is not, whoever asks through one of these may be told.
ALTER TABLE consent_rule ADD COLUMN through text[] COLLATE "C", ADD COLUMN x_through text[] COLLATE "C";

-- Whether an actor is an intermediary, by its role.
CREATE FUNCTION kap_is_intermediary(p_actor jsonb) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
    SELECT coalesce(jsonb_path_exists(p_actor, '$.role.coding[*] ? (@.code == "intermediary"
        && @.system == "https://kap-exchange.org/fhir/CodeSystem/kap")'), false)
$$;

CREATE FUNCTION kap_named(p_actor jsonb) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT substring(p_actor -> 'reference' ->> 'reference'
                     FROM '^([A-Z][A-Za-z]+/[A-Za-z0-9.-]{1,64})(?:/_history/.*)?$')
$$;

CREATE FUNCTION kap_intermediaries(p_actors jsonb, p_permits boolean) RETURNS text[] LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN p_permits AND count(*) > 0
        THEN coalesce(array_agg(kap_named(one)) FILTER (WHERE kap_named(one) IS NOT NULL), '{}') END
    FROM jsonb_array_elements(p_actors) one WHERE kap_is_intermediary(one)
$$;

-- The recipients that a provision names, as Type/id. Of one that permits: who receives, and no intermediary; null where
-- all of them are intermediaries. What cannot be understood: nobody where it would permit, everybody where it would deny.
CREATE OR REPLACE FUNCTION kap_recipients(p_actors jsonb, p_permits boolean) RETURNS text[] LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE
        WHEN coalesce(jsonb_array_length(p_actors), 0) = 0 THEN NULL
        WHEN p_permits AND bool_and(passes) THEN NULL
        WHEN p_permits THEN coalesce(array_agg(named) FILTER (WHERE named IS NOT NULL AND receives AND NOT passes), '{}')
        WHEN count(*) = count(named) THEN array_agg(named)
        END
    FROM (SELECT kap_named(one) AS named, kap_is_intermediary(one) AS passes,
                 coalesce(jsonb_path_exists(one, '$.role.coding[*].code ? (@ == "IRCP")'), false) AS receives
          FROM jsonb_array_elements(p_actors) one) q
$$;

CREATE OR REPLACE FUNCTION kap_keep_consent(p_consent bigint, p_tenant integer, p_patient uuid, p_body jsonb)
RETURNS void LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    reason constant text := 'http://terminology.hl7.org/CodeSystem/v3-ActReason';
    unknown constant text[] := ARRAY['action', 'class', 'code', 'modifierExtension'];
    rule jsonb := coalesce(p_body -> 'provision', kap_rule_of_policy(p_body));
    permits boolean := coalesce(rule ->> 'type' = 'permit', false);
    whole boolean := NOT rule ?| unknown AND NOT p_body ? 'modifierExtension';
    part_2 boolean := coalesce(jsonb_path_exists(p_body, '$.category[*].coding[*].code ? (@ == "42CFRPart2CD")'), false);
    recipients text[] := kap_recipients(rule -> 'actor', permits);
    purposes text[] := kap_codes(rule -> 'purpose', reason, permits);
    labels text[] := kap_codes(rule -> 'securityLabel', NULL, permits);
    low timestamptz := kap_instant(rule -> 'period' ->> 'start', false);
    high timestamptz := kap_instant(rule -> 'period' ->> 'end', true);
    through text[] := kap_intermediaries(rule -> 'actor', permits);
    about jsonb := kap_about(rule, permits);
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
                                         recipients, purposes, labels, NULL, NULL, NULL, low, high,
                                         kap_both(about, NULL), through, NULL);
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
            least(high, kap_instant(besides -> 'period' ->> 'end', true)),
            kap_both(about, kap_about(besides, allows)), through, kap_intermediaries(besides -> 'actor', allows));
    END LOOP;
END $$;

DO $$
BEGIN
    PERFORM set_config('kap.clinic_number', '0', true);
    PERFORM kap_keep_consent(r.rid, r.tenant, r.patient, convert_from(h.body, 'UTF8')::jsonb)
    FROM resource r JOIN history h ON h.rid = r.rid AND h.version = r.version WHERE r.type = 15 AND NOT r.deleted;
END $$;

-- What was told through an intermediary: who passed it on; the recipient is then whom it was for. Kept for three years at
-- least, as all of it (kap_disclosure_stays).
ALTER TABLE disclosure ADD COLUMN through text COLLATE "C";

-- Through whom a destination is told, where it is a participant of an intermediary.
ALTER TABLE delivery_destination ADD COLUMN through text COLLATE "C";
