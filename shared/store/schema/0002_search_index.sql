-- One narrow row for each value that a resource can be searched for, in a table for each kind of search parameter.
--
-- Every table has
--   * a unique index led by rid: what is there of this resource (a write replaces only what changed; a search probes);
--   * a covering index led by (tenant, type, param, value), which ends in rid: who has this value, oldest first;
--   * token and date: one led by the patient, for the record of one person.
-- `edge` marks the row a sort goes by, so that each resource takes part once: 1 the parameter's lowest value in this
-- resource, 2 its highest, 3 both.
-- Texts that a B-tree could not hold are stored shortened, with a digest (shared/store/rows.py).

CREATE TABLE idx_token (
    tenant integer NOT NULL,
    type smallint NOT NULL,
    param smallint NOT NULL,
    edge smallint NOT NULL,
    patient uuid,
    rid bigint NOT NULL,
    system text COLLATE "C" NOT NULL,
    code text COLLATE "C" NOT NULL
);
CREATE UNIQUE INDEX idx_token_of ON idx_token (rid, param, code, system) INCLUDE (edge);
CREATE INDEX idx_token_value ON idx_token (tenant, type, param, code, system, rid) INCLUDE (edge);
CREATE INDEX idx_token_patient ON idx_token (tenant, patient, type, param, code, system, rid);

CREATE TABLE idx_string (
    tenant integer NOT NULL,
    type smallint NOT NULL,
    param smallint NOT NULL,
    edge smallint NOT NULL,
    patient uuid,
    rid bigint NOT NULL,
    prefix text COLLATE "C" GENERATED ALWAYS AS (left(value, 100)) STORED NOT NULL,
    value text COLLATE "C" NOT NULL,
    exact text COLLATE "C" NOT NULL
);
CREATE INDEX idx_string_of ON idx_string (rid, param) INCLUDE (edge, prefix);
CREATE INDEX idx_string_value ON idx_string (tenant, type, param, prefix, rid) INCLUDE (edge);

CREATE TABLE idx_reference (
    tenant integer NOT NULL,
    type smallint NOT NULL,
    param smallint NOT NULL,
    edge smallint NOT NULL,
    patient uuid,
    rid bigint NOT NULL,
    target text COLLATE "C" NOT NULL
);
CREATE UNIQUE INDEX idx_reference_of ON idx_reference (rid, param, target) INCLUDE (edge);
CREATE INDEX idx_reference_value ON idx_reference (tenant, type, param, target, rid) INCLUDE (edge);

CREATE TABLE idx_date (
    tenant integer NOT NULL,
    type smallint NOT NULL,
    param smallint NOT NULL,
    edge smallint NOT NULL,
    patient uuid,
    rid bigint NOT NULL,
    low timestamptz NOT NULL,
    high timestamptz NOT NULL,
    -- The parameter's only interval, and of a day at most: what nearly all are. A range search finds these by `low`
    -- alone, between two bounds; the others, which may begin long before the range, are few and apart.
    plain boolean GENERATED ALWAYS AS (edge = 3 AND high - low <= interval '1 day') STORED NOT NULL
);
CREATE UNIQUE INDEX idx_date_of ON idx_date (rid, param, low, high) INCLUDE (edge);
CREATE INDEX idx_date_low ON idx_date (tenant, type, param, low, rid) INCLUDE (high, edge, plain);
CREATE INDEX idx_date_wide ON idx_date (tenant, type, param, high, rid) INCLUDE (low) WHERE NOT plain;
CREATE INDEX idx_date_patient ON idx_date (tenant, patient, type, param, low, rid) INCLUDE (high, edge, plain);

CREATE TABLE idx_number (
    tenant integer NOT NULL,
    type smallint NOT NULL,
    param smallint NOT NULL,
    edge smallint NOT NULL,
    patient uuid,
    rid bigint NOT NULL,
    low numeric NOT NULL,
    high numeric NOT NULL
);
CREATE UNIQUE INDEX idx_number_of ON idx_number (rid, param, low, high) INCLUDE (edge);
CREATE INDEX idx_number_low ON idx_number (tenant, type, param, low, rid) INCLUDE (high, edge);
CREATE INDEX idx_number_high ON idx_number (tenant, type, param, high, rid) INCLUDE (low);

CREATE TABLE idx_quantity (
    tenant integer NOT NULL,
    type smallint NOT NULL,
    param smallint NOT NULL,
    edge smallint NOT NULL,
    patient uuid,
    rid bigint NOT NULL,
    low numeric NOT NULL,
    high numeric NOT NULL,
    system text COLLATE "C" NOT NULL,
    code text COLLATE "C" NOT NULL
);
CREATE UNIQUE INDEX idx_quantity_of ON idx_quantity (rid, param, low, high, system, code) INCLUDE (edge);
CREATE INDEX idx_quantity_low ON idx_quantity (tenant, type, param, low, rid) INCLUDE (high, code, system, edge);
CREATE INDEX idx_quantity_high ON idx_quantity (tenant, type, param, high, rid) INCLUDE (low, code, system);

CREATE TABLE idx_uri (
    tenant integer NOT NULL,
    type smallint NOT NULL,
    param smallint NOT NULL,
    edge smallint NOT NULL,
    patient uuid,
    rid bigint NOT NULL,
    value text COLLATE "C" NOT NULL
);
CREATE UNIQUE INDEX idx_uri_of ON idx_uri (rid, param, value) INCLUDE (edge);
CREATE INDEX idx_uri_value ON idx_uri (tenant, type, param, value, rid) INCLUDE (edge);

-- The columns of a search's predicates hang together: how frequent a code is depends on the type and the parameter.
CREATE STATISTICS idx_token_values (mcv, ndistinct) ON type, param, code FROM idx_token;
CREATE STATISTICS idx_string_values (mcv, ndistinct) ON type, param, prefix FROM idx_string;
CREATE STATISTICS idx_reference_values (mcv, ndistinct) ON type, param, target FROM idx_reference;
CREATE STATISTICS idx_date_values (mcv, ndistinct) ON type, param FROM idx_date;
CREATE STATISTICS idx_number_values (mcv, ndistinct) ON type, param FROM idx_number;
CREATE STATISTICS idx_quantity_values (mcv, ndistinct) ON type, param, code FROM idx_quantity;
CREATE STATISTICS idx_uri_values (mcv, ndistinct) ON type, param, value FROM idx_uri;
ALTER STATISTICS idx_token_values SET STATISTICS 1000;
ALTER TABLE idx_token ALTER COLUMN code SET STATISTICS 1000;
ALTER TABLE idx_reference ALTER COLUMN target SET STATISTICS 500;
ALTER TABLE idx_token SET (autovacuum_analyze_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.05);
ALTER TABLE idx_string SET (autovacuum_analyze_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.05);
ALTER TABLE idx_reference SET (autovacuum_analyze_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.05);
ALTER TABLE idx_date SET (autovacuum_analyze_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.05);
ALTER TABLE idx_quantity SET (autovacuum_analyze_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.05);
