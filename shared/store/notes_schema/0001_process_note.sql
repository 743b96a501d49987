-- Therapists' process notes: a database of their own, to which only sessions has the address and the role. No outbox,
-- no search index: nothing of a note is ever published. `sealed` is a whole FHIR resource, encrypted.

CREATE TABLE patient_key (
    tenant     text NOT NULL,
    patient    text NOT NULL,
    kek        text NOT NULL,
    wrapped    bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant, patient)
);
COMMENT ON TABLE patient_key IS 'The key of a patient''s notes, wrapped by the installation''s key `kek`';

CREATE TABLE process_note (
    tenant       text NOT NULL,
    id           uuid NOT NULL,
    version      integer NOT NULL CHECK (version > 0),
    patient      text NOT NULL,
    author       text NOT NULL,
    last_updated timestamptz NOT NULL,
    sealed       bytea NOT NULL,
    PRIMARY KEY (tenant, id, version)
);
CREATE INDEX process_note_of_patient ON process_note (tenant, patient, id DESC, version DESC);

-- Who was answered what, kept with the notes and never changed.
CREATE TABLE process_note_access (
    at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    tenant     text NOT NULL,
    reader     text NOT NULL,
    client     text NOT NULL,
    action     text NOT NULL CHECK (action IN ('create', 'update', 'read', 'history', 'search')),
    patient    text NOT NULL,
    note       uuid,
    version    integer,
    consent    text,
    request_id text NOT NULL
);
CREATE INDEX process_note_access_of_patient ON process_note_access (tenant, patient, at);
CREATE FUNCTION process_note_is_kept() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'rows of % are only added', TG_TABLE_NAME;
END $$;
CREATE TRIGGER kept BEFORE UPDATE OR DELETE ON process_note_access
    FOR EACH ROW EXECUTE FUNCTION process_note_is_kept();
CREATE TRIGGER kept BEFORE UPDATE OR DELETE ON process_note
    FOR EACH ROW EXECUTE FUNCTION process_note_is_kept();
