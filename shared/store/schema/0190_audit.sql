-- Who did, read, was told or was refused what: rows that are only ever added, each bound to the one before it by a hash.
--
-- body is the row as it was made, as JSON; the other columns are what of it is searched by, taken from it here. hash is
-- the SHA-256 of the hash before it (32 bytes of zero before the first), the sequence (8 bytes, big-endian) and body.
-- One transaction at a time appends, under a lock, so that there is one chain however many processes a service has.
CREATE TABLE audit (
    sequence bigint PRIMARY KEY,
    hash bytea NOT NULL,
    body bytea NOT NULL,
    at timestamptz NOT NULL,
    tenant text COLLATE "C" NOT NULL,
    action text COLLATE "C" NOT NULL,
    kind text COLLATE "C" NOT NULL,
    does text COLLATE "C" NOT NULL,
    outcome smallint NOT NULL,
    patients text[] COLLATE "C" NOT NULL,
    agents text[] COLLATE "C" NOT NULL
);
CREATE INDEX audit_by_patient ON audit USING gin (patients);
CREATE INDEX audit_by_time ON audit USING brin (at);

-- Rows of changes, committed with the change itself; the next append takes them into the chain.
CREATE TABLE audit_pending (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    body bytea NOT NULL
);
ALTER TABLE audit_pending SET (autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 1000);

-- How far rows older than the retention were given up: the rows up to `last` may be deleted, and no others.
CREATE TABLE audit_given_up (
    last bigint PRIMARY KEY,
    hash bytea NOT NULL
);

CREATE FUNCTION kap_audit_append(p_bodies bytea[], OUT sequence bigint, OUT hash bytea) LANGUAGE plpgsql AS $$
DECLARE
    one bytea;
    said jsonb;
BEGIN
    PERFORM pg_advisory_xact_lock(4931920, 1001);  -- shared/store/keys.py: LOCK_CLASS, AUDIT_LOCK
    SELECT a.sequence, a.hash INTO sequence, hash FROM audit a ORDER BY a.sequence DESC LIMIT 1;
    IF NOT FOUND THEN
        SELECT g.last, g.hash INTO sequence, hash FROM audit_given_up g ORDER BY g.last DESC LIMIT 1;
    END IF;
    sequence := coalesce(sequence, 0);
    hash := coalesce(hash, decode(repeat('00', 32), 'hex'));
    FOR one IN
        WITH taken AS (DELETE FROM audit_pending RETURNING number, body)
        SELECT every.body FROM (
            SELECT number, body FROM taken
            UNION ALL SELECT 9223372036854775807, b FROM unnest(p_bodies) AS b
        ) AS every ORDER BY number
    LOOP
        said := convert_from(one, 'UTF8')::jsonb;
        sequence := sequence + 1;
        hash := sha256(hash || int8send(sequence) || one);
        INSERT INTO audit VALUES (
            sequence, hash, one, (said ->> 'at')::timestamptz, said ->> 'tenant', said ->> 'action', said ->> 'kind',
            said ->> 'does', (said ->> 'outcome')::smallint,
            ARRAY(SELECT jsonb_array_elements_text(said -> 'patients')),
            array_remove(ARRAY[said ->> 'user', said ->> 'client', said ->> 'service'], NULL)
        );
    END LOOP;
END
$$;

CREATE FUNCTION kap_audit_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        IF OLD.sequence <= (SELECT max(last) FROM audit_given_up) THEN
            RETURN OLD;
        END IF;
    END IF;
    RAISE EXCEPTION 'the audit is only ever added to' USING ERRCODE = 'insufficient_privilege';
END
$$;

CREATE TRIGGER audit_append_only BEFORE UPDATE OR DELETE ON audit FOR EACH ROW EXECUTE FUNCTION kap_audit_refuse();
CREATE TRIGGER audit_never_emptied BEFORE TRUNCATE ON audit FOR EACH STATEMENT EXECUTE FUNCTION kap_audit_refuse();
ALTER TABLE audit ENABLE ALWAYS TRIGGER audit_append_only;
ALTER TABLE audit ENABLE ALWAYS TRIGGER audit_never_emptied;
REVOKE UPDATE, TRUNCATE ON audit FROM PUBLIC, CURRENT_USER;
