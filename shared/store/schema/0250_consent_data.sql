-- Of which data a consent speaks: those of a time (`dataPeriod`), and those that `data` names: the resource itself
-- (instance), what it refers to (related), what refers to it (dependents), what somebody wrote (authoredby).
-- https://hl7.org/fhir/R4/valueset-consent-data-meaning.html
--
-- about: what the rule and its exception say of that, one or two objects {permits, low, high, data}; null: of all data.
-- low and high are seconds since 1970, high not included; data are [meaning, Type/id], null: any.
ALTER TABLE consent_rule ADD COLUMN about jsonb;

-- What a provision says of data; null: nothing. What cannot be understood: nothing where it would permit, everything
-- where it would deny.
CREATE FUNCTION kap_about(p_provision jsonb, p_permits boolean) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN p_provision ? 'dataPeriod' OR coalesce(jsonb_array_length(p_provision -> 'data'), 0) > 0 THEN
        jsonb_build_object(
            'permits', p_permits,
            'low', extract(epoch FROM kap_instant(p_provision -> 'dataPeriod' ->> 'start', false)),
            'high', extract(epoch FROM kap_instant(p_provision -> 'dataPeriod' ->> 'end', true)),
            'data', (SELECT CASE
                WHEN count(*) = 0 THEN NULL
                WHEN p_permits OR count(*) = count(named)
                    THEN coalesce(jsonb_agg(jsonb_build_array(means, named)) FILTER (WHERE named IS NOT NULL), '[]') END
                FROM (SELECT one ->> 'meaning' AS means, CASE
                          WHEN one ->> 'meaning' IN ('instance', 'related', 'dependents', 'authoredby')
                          THEN substring(one -> 'reference' ->> 'reference'
                                         FROM '^([A-Z][A-Za-z]+/[A-Za-z0-9.-]{1,64})(?:/_history/.*)?$') END AS named
                      FROM jsonb_array_elements(p_provision -> 'data') one) q)) END
$$;

CREATE FUNCTION kap_both(p_one jsonb, p_other jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
    SELECT jsonb_agg(q.about) FROM (VALUES (p_one), (p_other)) AS q(about) WHERE q.about IS NOT NULL
$$;

-- When the care was that a resource tells of, from low to high; null: it does not say. The most telling element counts.
CREATE FUNCTION kap_time_of(p_body jsonb) RETURNS tstzrange LANGUAGE sql IMMUTABLE AS $$
    SELECT tstzrange(kap_instant(q.low, false), kap_instant(q.high, true),
                     CASE WHEN kap_instant(q.low, false) = kap_instant(q.high, true) THEN '[]' ELSE '[)' END) FROM (
        SELECT s.place, coalesce(p_body -> s.name ->> 'start', p_body ->> s.name) AS low,
               CASE WHEN jsonb_typeof(p_body -> s.name) = 'object' THEN p_body -> s.name ->> 'end'
                    ELSE p_body ->> s.name END AS high,
               jsonb_typeof(p_body -> s.name) AS form
        FROM unnest(ARRAY['effectivePeriod', 'effectiveDateTime', 'effectiveInstant', 'performedPeriod',
                          'performedDateTime', 'occurrencePeriod', 'occurrenceDateTime', 'period', 'onsetPeriod',
                          'onsetDateTime', 'recordedDate', 'authoredOn', 'authored', 'whenHandedOver', 'sent', 'date',
                          'dateTime', 'identifiedDateTime', 'startDate', 'recorded']) WITH ORDINALITY AS s(name, place)
        UNION ALL SELECT 0, p_body ->> 'start', p_body ->> 'end', 'string'
        WHERE p_body ->> 'resourceType' = 'Appointment' AND p_body ? 'start'
    ) q WHERE q.form IN ('object', 'string') AND (q.low IS NOT NULL OR q.high IS NOT NULL)
        AND (q.low IS NULL OR q.high IS NULL OR kap_instant(q.low, false) <= kap_instant(q.high, true))
    ORDER BY q.place LIMIT 1
$$;

-- Whether a body has a reference to a resource, of whatever version.
CREATE FUNCTION kap_names(p_body bytea, p_named text) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
    SELECT position(convert_to('"reference":"' || p_named || '"', 'UTF8') IN p_body) > 0
        OR position(convert_to('"reference":"' || p_named || '/_history/', 'UTF8') IN p_body) > 0
$$;

-- Whether a version of a resource is of the data that a rule speaks of. To permit, all of its time has to be within the
-- rule's, and known; to deny, some of it, or what is not known.
CREATE FUNCTION kap_is_about(p_about jsonb, p_rid bigint, p_version integer) RETURNS boolean
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
                    JOIN history hx ON hx.rid = x.rid AND hx.version = x.version
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

CREATE OR REPLACE FUNCTION kap_keep_consent(p_consent bigint, p_tenant integer, p_patient uuid, p_body jsonb)
RETURNS void LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    reason constant text := 'http://terminology.hl7.org/CodeSystem/v3-ActReason';
    unknown constant text[] := ARRAY['action', 'class', 'code', 'modifierExtension'];
    rule jsonb := p_body -> 'provision';
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
