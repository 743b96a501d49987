-- Exports ($export of Bulk Data Access): who asked for what, and which versions of which resources it came to. An export
-- is a list of versions, not a copy of them: their bodies stay where they are, in history, and are read, as what may be
-- told then, when a file is downloaded. ADR 30.

CREATE TABLE export_job (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- 192 bits of chance; in the URLs
    id text COLLATE "C" NOT NULL UNIQUE,
    tenant text COLLATE "C" NOT NULL,
    client text COLLATE "C" NOT NULL,
    state text COLLATE "C" NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'complete', 'failed', 'withdrawn')),
    asked_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- what was asked for and by whom, as services/gateway/exporting has it
    asked jsonb NOT NULL,
    -- all that owners committed until then is in it
    known_until timestamptz,
    finished_at timestamptz,
    expires_at timestamptz NOT NULL,
    -- sentences about it: why it failed, what may be missing
    said text[] NOT NULL DEFAULT '{}'
);
CREATE INDEX export_job_in_line ON export_job (number) WHERE state = 'waiting';
CREATE INDEX export_job_of_client ON export_job (tenant, client);
CREATE INDEX export_job_end ON export_job (expires_at);

-- A file of a finished export: so many of its lines, of one type.
CREATE TABLE export_file (
    job bigint NOT NULL,
    file integer NOT NULL,
    tenant text COLLATE "C" NOT NULL,
    type smallint NOT NULL,
    deleted boolean NOT NULL,
    lines integer NOT NULL,
    PRIMARY KEY (job, file)
);

-- A line of a file: one version of one resource, by its name: numbers of rows do not outlive a rebuilt projection.
CREATE TABLE export_line (
    job bigint NOT NULL,
    file integer NOT NULL,
    line integer NOT NULL,
    tenant text COLLATE "C" NOT NULL,
    type smallint NOT NULL,
    id text COLLATE "C" NOT NULL,
    version integer NOT NULL,
    PRIMARY KEY (job, file, line)
);

DO $$
DECLARE
    walled text;
BEGIN
    FOREACH walled IN ARRAY ARRAY['export_job', 'export_file', 'export_line'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', walled);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', walled);
        EXECUTE format(
            'CREATE POLICY clinic ON %I USING ((SELECT current_setting(''kap.clinic_number'', true)) = ''0'' '
            'OR tenant = (SELECT current_setting(''kap.clinic'', true)))',
            walled
        );
    END LOOP;
END $$;
