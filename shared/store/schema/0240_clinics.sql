-- A second wall between clinics: a connection is shown the rows of the one clinic that it says it works for, whatever a
-- statement forgets to ask. It says so by `kap.clinic_number` and `kap.clinic` (shared/store/clinics.py); where it says
-- nothing it is shown nothing, and 0 is the services' own work on all of them. ADR 28.
--
-- Each setting is read once for a statement: it stands in a SELECT of its own. No function of this schema is asked, for
-- a rebuilt projection outlives the schema it was built in (shared/store/projection.py).
--
-- Not behind it: idx_number and idx_quantity, of which a search could use no index (the operators of numeric are not
-- leakproof) and which hold numbers and rids alone; booking and booking_closure, for the same reason (ranges): they
-- name people and rooms by the number of a booking_resource.

DO $$
DECLARE
    of record;
BEGIN
    FOR of IN
        SELECT c.table_name AS name, c.data_type = 'integer' AS numbered
        FROM information_schema.columns c JOIN pg_tables t ON t.tablename = c.table_name AND t.schemaname = c.table_schema
        WHERE c.table_schema = current_schema() AND c.column_name = 'tenant'
          AND c.table_name <> ALL (ARRAY['idx_number', 'idx_quantity', 'booking', 'booking_closure'])
    LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', of.name);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', of.name);
        EXECUTE format(
            'CREATE POLICY clinic ON %I USING ('
            '(SELECT current_setting(''kap.clinic_number'', true)) = ''0'' OR tenant = %s)',
            of.name,
            CASE WHEN of.numbered
                THEN '(SELECT nullif(current_setting(''kap.clinic_number'', true), '''')::integer)'
                ELSE '(SELECT current_setting(''kap.clinic'', true))' END
        );
    END LOOP;
END $$;

-- The audit's chain is one for all clinics of a service, whoever appends to it: for so long, and no longer, every
-- clinic's rows are shown.
ALTER FUNCTION kap_audit_append(bytea[]) RENAME TO kap_audit_append_to_all;

CREATE FUNCTION kap_audit_append(p_bodies bytea[], OUT sequence bigint, OUT hash bytea) LANGUAGE plpgsql AS $$
DECLARE
    before text := coalesce(current_setting('kap.clinic_number', true), '');
BEGIN
    PERFORM set_config('kap.clinic_number', '0', true);
    SELECT a.sequence, a.hash INTO sequence, hash FROM kap_audit_append_to_all(p_bodies) AS a;
    PERFORM set_config('kap.clinic_number', before, true);
END
$$;
