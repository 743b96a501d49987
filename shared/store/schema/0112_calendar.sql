-- Secret links to calendars: who has the link reads when somebody or something is booked. Only its hash is kept.
CREATE TABLE calendar_link (
    digest bytea PRIMARY KEY,
    tenant text COLLATE "C" NOT NULL,
    -- Practitioner/<id>, Location/<id>, Patient/<id>
    actor text COLLATE "C" NOT NULL,
    created_at timestamptz NOT NULL,
    revoked_at timestamptz
);
CREATE INDEX calendar_link_of_actor ON calendar_link (tenant, actor);
