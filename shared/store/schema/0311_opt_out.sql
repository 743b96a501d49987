-- A privacy consent that is nothing but the policy of opting out (`policyRule` OPTOUT, OPTOUTE) denies all of it.
CREATE OR REPLACE FUNCTION kap_keep_consent(p_consent bigint, p_tenant integer, p_patient uuid, p_body jsonb)
RETURNS void LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    reason constant text := 'http://terminology.hl7.org/CodeSystem/v3-ActReason';
    unknown constant text[] := ARRAY['action', 'class', 'code', 'modifierExtension'];
    rule jsonb := coalesce(p_body -> 'provision', CASE WHEN jsonb_path_exists(
        p_body, '$.policyRule.coding[*].code ? (@ starts with "OPTOUT")') THEN '{"type": "deny"}'::jsonb END);
    permits boolean := coalesce(rule ->> 'type' = 'permit', false);
    whole boolean := NOT rule ?| unknown AND NOT p_body ? 'modifierExtension';
    part_2 boolean := coalesce(jsonb_path_exists(p_body, '$.category[*].coding[*].code ? (@ == "42CFRPart2CD")'), false);
    recipients text[] := kap_recipients(rule -> 'actor', permits);
    purposes text[] := kap_codes(rule -> 'purpose', reason, permits);
    labels text[] := kap_codes(rule -> 'securityLabel', NULL, permits);
    low timestamptz := kap_instant(rule -> 'period' ->> 'start', false);
    high timestamptz := kap_instant(rule -> 'period' ->> 'end', true);
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
                                         kap_both(about, NULL));
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
            kap_both(about, kap_about(besides, allows)));
    END LOOP;
END $$;

DO $$
BEGIN
    PERFORM set_config('kap.clinic_number', '0', true);
    PERFORM kap_keep_consent(r.rid, r.tenant, r.patient, convert_from(h.body, 'UTF8')::jsonb)
    FROM resource r JOIN history h ON h.rid = r.rid AND h.version = r.version WHERE r.type = 15 AND NOT r.deleted;
END $$;
