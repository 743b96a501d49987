-- Who could not see a resource does not see that it is gone either: a deletion says nothing of itself, so it is judged by
-- the last version that did. And a patient opts out by whichever element says so.

-- The last version up to this one that is no deletion; where none is held, this one.
CREATE FUNCTION kap_living(p_rid bigint, p_version integer) RETURNS integer LANGUAGE sql STABLE AS $$
    SELECT coalesce(max(h.version), p_version)
    FROM history h WHERE h.rid = p_rid AND h.version <= p_version AND h.interaction <> 'delete'
$$;

-- Whether a version of a resource is of the data that a rule speaks of; what is deleted still referred to what it did. To
-- permit, all of its time has to be within the rule's, and known; to deny, some of it, or what is not known.
CREATE OR REPLACE FUNCTION kap_is_about(p_about jsonb, p_rid bigint, p_version integer) RETURNS boolean
LANGUAGE plpgsql STABLE COST 1000 AS $$
DECLARE
    held record;
    body jsonb;
    own text;
    care tstzrange;
    since timestamptz;
    until timestamptz;
    low timestamptz;
    high timestamptz;
    said jsonb;
BEGIN
    SELECT r.tenant, t.name AS type, r.id, h.body INTO held
    FROM resource r JOIN history h ON h.rid = r.rid AND h.version = p_version JOIN resource_type t ON t.id = r.type
    WHERE r.rid = p_rid;
    body := convert_from(held.body, 'UTF8')::jsonb;
    own := held.type || '/' || held.id;
    care := kap_time_of(body);
    since := coalesce(lower(care), '-infinity');
    until := coalesce(upper(care) + CASE WHEN upper_inc(care) THEN interval '1 microsecond' ELSE '0' END, 'infinity');
    FOR said IN SELECT * FROM jsonb_array_elements(p_about) LOOP
        IF said ->> 'low' IS NOT NULL OR said ->> 'high' IS NOT NULL THEN
            low := coalesce(to_timestamp((said ->> 'low')::double precision), '-infinity');
            high := coalesce(to_timestamp((said ->> 'high')::double precision), 'infinity');
            IF (said ->> 'permits')::boolean THEN
                IF care IS NULL OR since < low OR until > high THEN
                    RETURN false;
                END IF;
            ELSIF care IS NOT NULL AND (since >= high OR low >= until) THEN
                RETURN false;
            END IF;
        END IF;
        IF jsonb_typeof(said -> 'data') = 'array' AND NOT EXISTS (
            SELECT FROM jsonb_array_elements(said -> 'data') one CROSS JOIN LATERAL (SELECT one ->> 1 AS named) n
            WHERE CASE one ->> 0
                WHEN 'instance' THEN n.named = own
                WHEN 'dependents' THEN n.named = own OR kap_names(held.body, n.named)
                WHEN 'related' THEN n.named = own OR EXISTS (
                    SELECT FROM resource x JOIN resource_type t ON t.id = x.type
                    JOIN history hx ON hx.rid = x.rid AND hx.version = kap_living(x.rid, x.version)
                    WHERE x.tenant = held.tenant AND t.name = split_part(n.named, '/', 1)
                        AND x.id = split_part(n.named, '/', 2) AND kap_names(hx.body, own))
                ELSE EXISTS (
                        SELECT FROM unnest(ARRAY['author', 'performer', 'recorder', 'asserter', 'requester', 'sender',
                                                 'source', 'informationSource']) AS a(name)
                        WHERE jsonb_path_exists(body -> a.name, '$.reference ? (@ == $who)',
                                                jsonb_build_object('who', n.named))
                            OR jsonb_path_exists(body -> a.name, '$.actor.reference ? (@ == $who)',
                                                 jsonb_build_object('who', n.named))) END
        ) THEN
            RETURN false;
        END IF;
    END LOOP;
    RETURN true;
END $$;

-- What a privacy consent without a provision says by its policy (`policyRule`, the last part of `policy.uri`) or its
-- category: OPTOUT and OPTOUTE deny all of it, EMRGONLY all but treatment in an emergency; null: nothing.
CREATE FUNCTION kap_rule_of_policy(p_body jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE
        WHEN bool_or(q.code LIKE 'OPTOUT%') THEN '{"type": "deny"}'::jsonb
        WHEN bool_or(q.code = 'EMRGONLY') THEN '{"type": "deny", "provision": [{"type": "permit", "purpose": [
            {"system": "http://terminology.hl7.org/CodeSystem/v3-ActReason", "code": "ETREAT"}]}]}'::jsonb END
    FROM (
        SELECT jsonb_path_query(p_body, '$.policyRule.coding[*].code') #>> '{}' AS code
        UNION ALL SELECT jsonb_path_query(p_body, '$.category[*].coding[*].code') #>> '{}'
        UNION ALL SELECT substring(jsonb_path_query(p_body, '$.policy[*].uri') #>> '{}' FROM '[^#|/]*$')
    ) q
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
