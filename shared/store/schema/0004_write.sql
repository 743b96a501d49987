-- The ways into the record. Each is one VOLATILE function, so one round trip; its statements see what was committed
-- while it waited for its locks, as the parts of one statement would not.

-- Replace the index rows of a resource, touching only those that changed. `fresh`: there are none yet.
CREATE FUNCTION kap_index(
    p_rid bigint, p_tenant integer, p_type smallint, p_patient uuid, fresh boolean,
    token_param smallint[], token_system text[], token_code text[], token_edge smallint[],
    string_param smallint[], string_value text[], string_exact text[], string_edge smallint[],
    reference_param smallint[], reference_target text[], reference_edge smallint[],
    date_param smallint[], date_low timestamptz[], date_high timestamptz[], date_edge smallint[],
    number_param smallint[], number_low numeric[], number_high numeric[], number_edge smallint[],
    quantity_param smallint[], quantity_low numeric[], quantity_high numeric[], quantity_system text[],
    quantity_code text[], quantity_edge smallint[],
    uri_param smallint[], uri_value text[], uri_edge smallint[]
) RETURNS void LANGUAGE plpgsql VOLATILE SET plan_cache_mode = force_generic_plan AS $$
BEGIN
    IF NOT fresh THEN
        DELETE FROM idx_token t WHERE t.rid = p_rid AND (t.patient IS DISTINCT FROM p_patient OR NOT EXISTS (
            SELECT FROM unnest(token_param, token_system, token_code, token_edge) AS n(param, system, code, edge)
            WHERE n.param = t.param AND n.system = t.system AND n.code = t.code AND n.edge = t.edge));
        DELETE FROM idx_string t WHERE t.rid = p_rid AND (t.patient IS DISTINCT FROM p_patient OR NOT EXISTS (
            SELECT FROM unnest(string_param, string_value, string_exact, string_edge) AS n(param, value, exact, edge)
            WHERE n.param = t.param AND n.value = t.value AND n.exact = t.exact AND n.edge = t.edge));
        DELETE FROM idx_reference t WHERE t.rid = p_rid AND (t.patient IS DISTINCT FROM p_patient OR NOT EXISTS (
            SELECT FROM unnest(reference_param, reference_target, reference_edge) AS n(param, target, edge)
            WHERE n.param = t.param AND n.target = t.target AND n.edge = t.edge));
        DELETE FROM idx_date t WHERE t.rid = p_rid AND (t.patient IS DISTINCT FROM p_patient OR NOT EXISTS (
            SELECT FROM unnest(date_param, date_low, date_high, date_edge) AS n(param, low, high, edge)
            WHERE n.param = t.param AND n.low = t.low AND n.high = t.high AND n.edge = t.edge));
        DELETE FROM idx_number t WHERE t.rid = p_rid AND (t.patient IS DISTINCT FROM p_patient OR NOT EXISTS (
            SELECT FROM unnest(number_param, number_low, number_high, number_edge) AS n(param, low, high, edge)
            WHERE n.param = t.param AND n.low = t.low AND n.high = t.high AND n.edge = t.edge));
        DELETE FROM idx_quantity t WHERE t.rid = p_rid AND (t.patient IS DISTINCT FROM p_patient OR NOT EXISTS (
            SELECT FROM unnest(quantity_param, quantity_low, quantity_high, quantity_system, quantity_code,
                               quantity_edge) AS n(param, low, high, system, code, edge)
            WHERE n.param = t.param AND n.low = t.low AND n.high = t.high AND n.system = t.system
              AND n.code = t.code AND n.edge = t.edge));
        DELETE FROM idx_uri t WHERE t.rid = p_rid AND (t.patient IS DISTINCT FROM p_patient OR NOT EXISTS (
            SELECT FROM unnest(uri_param, uri_value, uri_edge) AS n(param, value, edge)
            WHERE n.param = t.param AND n.value = t.value AND n.edge = t.edge));
    END IF;
    IF cardinality(token_param) > 0 THEN
        INSERT INTO idx_token (tenant, type, param, edge, patient, rid, system, code)
        SELECT p_tenant, p_type, n.param, n.edge, p_patient, p_rid, n.system, n.code
        FROM unnest(token_param, token_system, token_code, token_edge) AS n(param, system, code, edge)
        WHERE fresh OR NOT EXISTS (SELECT FROM idx_token t WHERE t.rid = p_rid AND t.param = n.param
                                   AND t.code = n.code AND t.system = n.system);
    END IF;
    IF cardinality(string_param) > 0 THEN
        INSERT INTO idx_string (tenant, type, param, edge, patient, rid, value, exact)
        SELECT p_tenant, p_type, n.param, n.edge, p_patient, p_rid, n.value, n.exact
        FROM unnest(string_param, string_value, string_exact, string_edge) AS n(param, value, exact, edge)
        WHERE fresh OR NOT EXISTS (SELECT FROM idx_string t WHERE t.rid = p_rid AND t.param = n.param
                                   AND t.value = n.value AND t.exact = n.exact);
    END IF;
    IF cardinality(reference_param) > 0 THEN
        INSERT INTO idx_reference (tenant, type, param, edge, patient, rid, target)
        SELECT p_tenant, p_type, n.param, n.edge, p_patient, p_rid, n.target
        FROM unnest(reference_param, reference_target, reference_edge) AS n(param, target, edge)
        WHERE fresh OR NOT EXISTS (SELECT FROM idx_reference t WHERE t.rid = p_rid AND t.param = n.param
                                   AND t.target = n.target);
    END IF;
    IF cardinality(date_param) > 0 THEN
        INSERT INTO idx_date (tenant, type, param, edge, patient, rid, low, high)
        SELECT p_tenant, p_type, n.param, n.edge, p_patient, p_rid, n.low, n.high
        FROM unnest(date_param, date_low, date_high, date_edge) AS n(param, low, high, edge)
        WHERE fresh OR NOT EXISTS (SELECT FROM idx_date t WHERE t.rid = p_rid AND t.param = n.param
                                   AND t.low = n.low AND t.high = n.high);
    END IF;
    IF cardinality(number_param) > 0 THEN
        INSERT INTO idx_number (tenant, type, param, edge, patient, rid, low, high)
        SELECT p_tenant, p_type, n.param, n.edge, p_patient, p_rid, n.low, n.high
        FROM unnest(number_param, number_low, number_high, number_edge) AS n(param, low, high, edge)
        WHERE fresh OR NOT EXISTS (SELECT FROM idx_number t WHERE t.rid = p_rid AND t.param = n.param
                                   AND t.low = n.low AND t.high = n.high);
    END IF;
    IF cardinality(quantity_param) > 0 THEN
        INSERT INTO idx_quantity (tenant, type, param, edge, patient, rid, low, high, system, code)
        SELECT p_tenant, p_type, n.param, n.edge, p_patient, p_rid, n.low, n.high, n.system, n.code
        FROM unnest(quantity_param, quantity_low, quantity_high, quantity_system, quantity_code, quantity_edge)
             AS n(param, low, high, system, code, edge)
        WHERE fresh OR NOT EXISTS (SELECT FROM idx_quantity t WHERE t.rid = p_rid AND t.param = n.param
                                   AND t.low = n.low AND t.high = n.high AND t.system = n.system AND t.code = n.code);
    END IF;
    IF cardinality(uri_param) > 0 THEN
        INSERT INTO idx_uri (tenant, type, param, edge, patient, rid, value)
        SELECT p_tenant, p_type, n.param, n.edge, p_patient, p_rid, n.value
        FROM unnest(uri_param, uri_value, uri_edge) AS n(param, value, edge)
        WHERE fresh OR NOT EXISTS (SELECT FROM idx_uri t WHERE t.rid = p_rid AND t.param = n.param
                                   AND t.value = n.value);
    END IF;
END $$;

-- Wake the relays that sleep. Called last before a commit that put rows into the outbox.
CREATE FUNCTION kap_wake() RETURNS void LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    IF EXISTS (SELECT FROM relay_state WHERE sleeping) THEN
        PERFORM pg_notify('kap_outbox', '');
    END IF;
END $$;

-- Commit one change of one own resource: key lock, row lock, current, history, index rows, outbox.
--
-- The body is head || versionId || lastUpdated || tail. last_updated grows with every version.
-- SQLSTATE KA404: not there, or not to be seen by this caller. KA410: deleted before. KA409: a create of an id that is
-- taken, or a resource of another service. KA412: the current version is not p_expected (the message names it).
-- KA403: the caller would not see what he writes.
CREATE FUNCTION kap_write(
    p_service text, p_tenant integer, p_tenant_name text, p_lock bigint, p_shard smallint,
    p_publish boolean, p_wake boolean,
    p_type smallint, p_type_name text, p_id text, p_interaction text, p_expected integer,
    p_key text, p_patient uuid, p_labels text[], p_request_id text, p_traceparent text,
    p_head bytea, p_tail bytea, p_patients uuid[], p_hidden text[],
    token_param smallint[], token_system text[], token_code text[], token_edge smallint[],
    string_param smallint[], string_value text[], string_exact text[], string_edge smallint[],
    reference_param smallint[], reference_target text[], reference_edge smallint[],
    date_param smallint[], date_low timestamptz[], date_high timestamptz[], date_edge smallint[],
    number_param smallint[], number_low numeric[], number_high numeric[], number_edge smallint[],
    quantity_param smallint[], quantity_low numeric[], quantity_high numeric[], quantity_system text[],
    quantity_code text[], quantity_edge smallint[],
    uri_param smallint[], uri_value text[], uri_edge smallint[],
    OUT version integer, OUT last_updated timestamptz, OUT sequence bigint, OUT created boolean
) LANGUAGE plpgsql VOLATILE SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    held record;
    held_rid bigint;
    written_patient uuid := p_patient;
    written_labels text[] := p_labels;
    body bytea;
BEGIN
    PERFORM pg_advisory_xact_lock(p_lock);
    SELECT r.rid, r.version, r.last_updated, r.deleted, r.origin, r.patient, r.labels INTO held
    FROM resource r WHERE r.tenant = p_tenant AND r.type = p_type AND r.id = p_id FOR UPDATE;
    created := NOT FOUND;
    IF created THEN
        IF p_expected IS NOT NULL THEN
            RAISE EXCEPTION 'there is no current version' USING ERRCODE = 'KA412';
        ELSIF p_interaction = 'delete' THEN
            RAISE EXCEPTION 'not found' USING ERRCODE = 'KA404';
        END IF;
        version := 1;
        last_updated := date_trunc('milliseconds', clock_timestamp());
    ELSE
        IF held.labels && p_hidden OR (p_patients IS NOT NULL AND held.patient = ANY (p_patients) IS NOT TRUE) THEN
            RAISE EXCEPTION 'not found' USING ERRCODE = 'KA404';
        ELSIF held.origin <> p_service THEN
            RAISE EXCEPTION 'it belongs to %', held.origin USING ERRCODE = 'KA409';
        ELSIF p_expected IS NOT NULL AND p_expected <> held.version THEN
            RAISE EXCEPTION 'the current version is %', held.version USING ERRCODE = 'KA412';
        ELSIF p_interaction = 'delete' AND held.deleted THEN
            RAISE EXCEPTION 'deleted' USING ERRCODE = 'KA410';
        ELSIF p_interaction = 'create' AND NOT held.deleted THEN
            RAISE EXCEPTION 'the id is taken' USING ERRCODE = 'KA409';
        END IF;
        version := held.version + 1;
        last_updated := greatest(date_trunc('milliseconds', clock_timestamp()),
                                 held.last_updated + interval '1 millisecond');
    END IF;
    IF p_interaction = 'delete' THEN
        -- Who could not see the resource does not see that it is gone either.
        written_patient := held.patient;
        written_labels := held.labels;
    ELSIF written_labels && p_hidden
            OR (p_patients IS NOT NULL AND written_patient = ANY (p_patients) IS NOT TRUE) THEN
        RAISE EXCEPTION 'outside of what the caller may see' USING ERRCODE = 'KA403';
    END IF;
    body := p_head || convert_to(version || '","lastUpdated":"'
            || to_char(last_updated AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') || '"', 'UTF8') || p_tail;

    IF created THEN
        INSERT INTO resource (tenant, type, id, version, last_updated, deleted, origin, patient, labels)
        VALUES (p_tenant, p_type, p_id, kap_write.version, kap_write.last_updated, false, p_service,
                written_patient, written_labels)
        RETURNING rid INTO held_rid;
    ELSE
        held_rid := held.rid;
        UPDATE resource r
        SET version = kap_write.version, last_updated = kap_write.last_updated, deleted = p_interaction = 'delete',
            patient = written_patient, labels = written_labels
        WHERE r.rid = held_rid;
    END IF;
    IF p_publish THEN
        INSERT INTO outbox (id, aggregatetype, aggregateid, type, payload, tenant, shard, resource_id, version, time,
                            labels, request_id, traceparent)
        VALUES (p_type_name || '/' || p_id || '/' || kap_write.version, p_type_name, p_key, p_interaction, body,
                p_tenant_name, p_shard, p_id, kap_write.version, kap_write.last_updated, written_labels,
                p_request_id, p_traceparent)
        RETURNING outbox.sequence INTO kap_write.sequence;
    END IF;
    INSERT INTO history (rid, version, last_updated, interaction, origin, key, labels, sequence, request_id,
                         traceparent, body)
    VALUES (held_rid, kap_write.version, kap_write.last_updated, p_interaction, p_service, p_key, written_labels,
            kap_write.sequence, p_request_id, p_traceparent, body);
    PERFORM kap_index(
        held_rid, p_tenant, p_type, written_patient, created OR held.deleted,
        token_param, token_system, token_code, token_edge,
        string_param, string_value, string_exact, string_edge,
        reference_param, reference_target, reference_edge,
        date_param, date_low, date_high, date_edge,
        number_param, number_low, number_high, number_edge,
        quantity_param, quantity_low, quantity_high, quantity_system, quantity_code, quantity_edge,
        uri_param, uri_value, uri_edge);
    IF p_publish AND p_wake THEN
        PERFORM kap_wake();
    END IF;
END $$;

-- Store a version that another service committed, exactly as it was sent. A version newer than what is held becomes
-- current; an older one only history; one that is held already changes nothing (false).
CREATE FUNCTION kap_copy(
    p_origin text, p_tenant integer, p_lock bigint, p_type smallint, p_id text, p_interaction text,
    p_version integer, p_last_updated timestamptz, p_sequence bigint,
    p_key text, p_patient uuid, p_labels text[], p_request_id text, p_traceparent text, p_body bytea,
    token_param smallint[], token_system text[], token_code text[], token_edge smallint[],
    string_param smallint[], string_value text[], string_exact text[], string_edge smallint[],
    reference_param smallint[], reference_target text[], reference_edge smallint[],
    date_param smallint[], date_low timestamptz[], date_high timestamptz[], date_edge smallint[],
    number_param smallint[], number_low numeric[], number_high numeric[], number_edge smallint[],
    quantity_param smallint[], quantity_low numeric[], quantity_high numeric[], quantity_system text[],
    quantity_code text[], quantity_edge smallint[],
    uri_param smallint[], uri_value text[], uri_edge smallint[]
) RETURNS boolean LANGUAGE plpgsql VOLATILE SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    held record;
    held_rid bigint;
    fresh boolean;
BEGIN
    PERFORM pg_advisory_xact_lock(p_lock);
    SELECT r.rid, r.version, r.deleted, r.origin INTO held
    FROM resource r WHERE r.tenant = p_tenant AND r.type = p_type AND r.id = p_id FOR UPDATE;
    fresh := NOT FOUND;
    IF fresh THEN
        INSERT INTO resource (tenant, type, id, version, last_updated, deleted, origin, patient, labels)
        VALUES (p_tenant, p_type, p_id, p_version, p_last_updated, p_interaction = 'delete', p_origin, p_patient,
                p_labels)
        RETURNING rid INTO held_rid;
    ELSIF held.origin <> p_origin THEN
        RAISE EXCEPTION 'it belongs to %', held.origin USING ERRCODE = 'KA409';
    ELSE
        held_rid := held.rid;
    END IF;
    INSERT INTO history (rid, version, last_updated, interaction, origin, key, labels, sequence, request_id,
                         traceparent, body)
    VALUES (held_rid, p_version, p_last_updated, p_interaction, p_origin, p_key, p_labels, p_sequence, p_request_id,
            p_traceparent, p_body)
    ON CONFLICT (rid, version) DO NOTHING;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    IF NOT fresh THEN
        IF p_version < held.version THEN
            RETURN true;
        END IF;
        UPDATE resource r
        SET version = p_version, last_updated = p_last_updated, deleted = p_interaction = 'delete',
            patient = p_patient, labels = p_labels
        WHERE r.rid = held_rid;
    END IF;
    PERFORM kap_index(
        held_rid, p_tenant, p_type, p_patient, fresh OR held.deleted,
        token_param, token_system, token_code, token_edge,
        string_param, string_value, string_exact, string_edge,
        reference_param, reference_target, reference_edge,
        date_param, date_low, date_high, date_edge,
        number_param, number_low, number_high, number_edge,
        quantity_param, quantity_low, quantity_high, quantity_system, quantity_code, quantity_edge,
        uri_param, uri_value, uri_edge);
    RETURN true;
END $$;
