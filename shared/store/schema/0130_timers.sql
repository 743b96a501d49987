-- When each timer of the service last ran, so that it keeps its period whichever process runs it, also after a restart.

CREATE TABLE timer (
    name text COLLATE "C" PRIMARY KEY,
    started_at timestamptz NOT NULL,
    seconds double precision NOT NULL,
    succeeded_at timestamptz,
    failures integer NOT NULL DEFAULT 0,
    error text
);
