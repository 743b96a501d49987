-- The record: one row per resource, one row per version of it.
--
-- Bodies stand in history only, once. The row of the resource itself is narrow: it says which version is current and
-- who may see it.

CREATE TABLE tenant (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text COLLATE "C" NOT NULL UNIQUE
);

-- What the numbers in `type` and `param` columns mean; filled by the migrator from the R4 definitions.
CREATE TABLE resource_type (
    id smallint PRIMARY KEY,
    name text COLLATE "C" NOT NULL UNIQUE
);

CREATE TABLE search_parameter (
    id smallint PRIMARY KEY,
    code text COLLATE "C" NOT NULL UNIQUE
);

CREATE TABLE resource (
    rid bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant integer NOT NULL,
    type smallint NOT NULL,
    id text COLLATE "C" NOT NULL,
    version integer NOT NULL,
    last_updated timestamptz NOT NULL,
    deleted boolean NOT NULL,
    origin text COLLATE "C" NOT NULL,
    patient uuid,
    labels text[] COLLATE "C" NOT NULL,
    UNIQUE (tenant, type, id)
);

CREATE INDEX resource_by_creation ON resource (tenant, type, rid);
CREATE INDEX resource_by_patient ON resource (tenant, patient, type, rid);
CREATE INDEX resource_by_time ON resource (tenant, type, last_updated, rid);

CREATE TABLE history (
    rid bigint NOT NULL,
    version integer NOT NULL,
    last_updated timestamptz NOT NULL,
    interaction text COLLATE "C" NOT NULL CHECK (interaction IN ('create', 'update', 'delete')),
    origin text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    labels text[] COLLATE "C" NOT NULL,
    -- The version's event: its position in the outbox of `origin`, null where none was made.
    sequence bigint,
    request_id text,
    traceparent text,
    body bytea NOT NULL,
    PRIMARY KEY (rid, version)
);

CREATE INDEX history_by_sequence ON history (origin, sequence) WHERE sequence IS NOT NULL;
