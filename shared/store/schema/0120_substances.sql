-- The ledger of controlled substances: what came in, was opened, given, wasted, destroyed, returned, counted, adjusted.
-- Append-only: a mistake is corrected by a further entry. Amounts are whole micrograms, so that nothing is rounded.

CREATE TABLE substance_event (
    sequence bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id uuid NOT NULL UNIQUE,
    tenant text COLLATE "C" NOT NULL,
    kind text COLLATE "C" NOT NULL CHECK (kind IN (
        'receive', 'open', 'administer', 'waste', 'destroy', 'return', 'count', 'adjust')),
    ndc text COLLATE "C" NOT NULL CHECK (ndc <> ''),
    lot text COLLATE "C" NOT NULL CHECK (lot <> ''),
    vial text COLLATE "C" NOT NULL CHECK (vial <> ''),
    -- What the vial holds more (receive), or less (administer, waste, destroy, return), or either (count, adjust).
    change_ug bigint NOT NULL CHECK (CASE kind
        WHEN 'receive' THEN change_ug > 0
        WHEN 'open' THEN change_ug = 0
        WHEN 'count' THEN true
        WHEN 'adjust' THEN true
        ELSE change_ug < 0 END),
    -- What is in the vial after this entry.
    balance_ug bigint NOT NULL CHECK (balance_ug >= 0),
    counted_ug bigint CHECK ((counted_ug IS NOT NULL) = (kind = 'count') AND counted_ug >= 0),
    occurred_at timestamptz NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    performer text COLLATE "C" NOT NULL CHECK (performer <> ''),
    witness text COLLATE "C" CHECK (witness <> performer),
    administration text COLLATE "C",
    patient text COLLATE "C",
    form41 text,
    note text,
    expires date,
    CHECK (kind NOT IN ('waste', 'destroy', 'adjust') OR witness IS NOT NULL),
    CHECK (kind <> 'destroy' OR form41 IS NOT NULL),
    CHECK (kind <> 'administer' OR (administration IS NOT NULL AND patient IS NOT NULL))
);

CREATE INDEX substance_event_of_vial ON substance_event (tenant, ndc, lot, vial, sequence);
CREATE INDEX substance_event_by_time ON substance_event (tenant, occurred_at);
-- A vial comes in once, and a dose is booked out of a vial once.
CREATE UNIQUE INDEX substance_event_received ON substance_event (tenant, ndc, lot, vial) WHERE kind = 'receive';
CREATE UNIQUE INDEX substance_event_given ON substance_event (tenant, administration, ndc, lot, vial)
    WHERE kind = 'administer';

CREATE FUNCTION substance_event_is_kept() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the ledger of controlled substances is append-only';
END
$$;

CREATE TRIGGER substance_event_append_only BEFORE UPDATE OR DELETE ON substance_event
    FOR EACH ROW EXECUTE FUNCTION substance_event_is_kept();
CREATE TRIGGER substance_event_not_emptied BEFORE TRUNCATE ON substance_event
    FOR EACH STATEMENT EXECUTE FUNCTION substance_event_is_kept();
