-- By which rules what a service holds of its own is labelled: how far it has looked through what was written before them.
-- One row. after: the place (rid) up to which it has looked; finished_at: null as long as it is at it.
-- begun_at: while a new version comes in, programs of the one before write on by their rules, behind that place; who came
-- to the end soon after the beginning looks once more when they are gone (shared/store/labelling.py).
CREATE TABLE labelling (
    one boolean PRIMARY KEY CHECK (one),
    digest text COLLATE "C" NOT NULL,
    after bigint NOT NULL,
    looked bigint NOT NULL DEFAULT 0,
    changed bigint NOT NULL DEFAULT 0,
    begun_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at timestamptz
);
