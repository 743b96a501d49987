-- Terminology that the clinic loaded from its own files: SNOMED CT, LOINC, RxNorm, value sets. Nothing is shipped here.
-- One version of a code system or value set at a time; a load replaces it in one transaction.

CREATE TABLE code_system (
    id smallint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    url text COLLATE "C" NOT NULL UNIQUE,
    version text NOT NULL,
    title text NOT NULL,
    concepts integer NOT NULL,
    sha256 text NOT NULL,
    loaded_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE concept (
    system smallint NOT NULL REFERENCES code_system ON DELETE CASCADE,
    code text COLLATE "C" NOT NULL,
    display text NOT NULL,
    active boolean NOT NULL,
    PRIMARY KEY (system, code)
);

-- The edges of the hierarchy; what is above or below a code is walked, a closure of SNOMED CT would be 20 times as large.
CREATE TABLE concept_parent (
    system smallint NOT NULL REFERENCES code_system ON DELETE CASCADE,
    code text COLLATE "C" NOT NULL,
    parent text COLLATE "C" NOT NULL,
    PRIMARY KEY (system, code, parent)
);
CREATE INDEX concept_parent_down ON concept_parent (system, parent, code);

CREATE TABLE value_set (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    url text COLLATE "C" NOT NULL UNIQUE,
    version text NOT NULL,
    title text NOT NULL,
    sha256 text NOT NULL,
    loaded_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE value_set_member (
    value_set integer NOT NULL REFERENCES value_set ON DELETE CASCADE,
    system text COLLATE "C" NOT NULL,
    code text COLLATE "C" NOT NULL,
    display text NOT NULL,
    PRIMARY KEY (value_set, system, code)
);
