-- Every policy that decided something, whole, so that the decision can be made again under it.

CREATE TABLE policy (
    digest text COLLATE "C" PRIMARY KEY,
    version text COLLATE "C" NOT NULL,
    content text NOT NULL,
    first_used timestamptz NOT NULL DEFAULT now()
);
