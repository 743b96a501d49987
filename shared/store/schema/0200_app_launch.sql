-- What the issuer keeps for people and the apps they let in: logins, requests under way, codes, what was granted, refresh
-- tokens, launches. Whatever is a secret of somebody else's (codes, tokens, cookies) is kept as its SHA-256 only.
ALTER TABLE oauth_client
    DROP CONSTRAINT oauth_client_check,
    -- how it shows who it is at the token endpoint: private_key_jwt, client_secret_basic, none
    ADD COLUMN method text NOT NULL DEFAULT 'private_key_jwt',
    ADD COLUMN secret bytea,
    ADD COLUMN redirect_uris text[] NOT NULL DEFAULT '{}',
    ADD COLUMN grants text[] NOT NULL DEFAULT '{client_credentials}',
    ADD CHECK (
        CASE method
            WHEN 'private_key_jwt' THEN (jwks IS NULL) <> (jwks_uri IS NULL) AND secret IS NULL
            WHEN 'client_secret_basic' THEN secret IS NOT NULL AND jwks IS NULL AND jwks_uri IS NULL
            WHEN 'none' THEN secret IS NULL AND jwks IS NULL AND jwks_uri IS NULL
            ELSE false
        END
    );

CREATE TABLE oauth_person (
    id text COLLATE "C" PRIMARY KEY,
    tenant text COLLATE "C" NOT NULL,
    -- by which he logs in
    name text COLLATE "C" NOT NULL UNIQUE,
    -- Patient/<id> or Practitioner/<id>
    fhir_user text NOT NULL,
    role text NOT NULL,
    -- argon2id, with its parameters and salt
    password text NOT NULL,
    -- the secret of one-time codes, sealed; none: he logs in without
    totp bytea,
    -- the last time step of which a code was used: each counts once
    totp_step bigint NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL,
    disabled_at timestamptz
);

-- Tries to log in that were not followed by a success, of an account (whether it exists or not) and of an address.
CREATE TABLE oauth_try (
    about bytea NOT NULL,
    at timestamptz NOT NULL
);
CREATE INDEX oauth_try_about ON oauth_try (about, at);
CREATE INDEX oauth_try_at ON oauth_try (at);

CREATE TABLE oauth_session (
    digest bytea PRIMARY KEY,
    person text COLLATE "C" NOT NULL REFERENCES oauth_person,
    began_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL
);
CREATE INDEX oauth_session_person ON oauth_session (person);

-- An authorization request between its arrival and the person's answer.
CREATE TABLE oauth_request (
    digest bytea PRIMARY KEY,
    -- of the browser that brought it: no other can go on with it
    browser bytea NOT NULL,
    client text COLLATE "C" NOT NULL REFERENCES oauth_client,
    asked jsonb NOT NULL,
    person text COLLATE "C" REFERENCES oauth_person,
    session bytea,
    auth_at timestamptz,
    expires_at timestamptz NOT NULL
);
CREATE INDEX oauth_request_end ON oauth_request (expires_at);

CREATE TABLE oauth_grant (
    id text COLLATE "C" PRIMARY KEY,
    client text COLLATE "C" NOT NULL REFERENCES oauth_client,
    person text COLLATE "C" NOT NULL REFERENCES oauth_person,
    scope text NOT NULL,
    patient text,
    -- what else the app is told of its launch
    context jsonb NOT NULL,
    auth_at timestamptz NOT NULL,
    -- online_access ends with this login
    session bytea,
    began_at timestamptz NOT NULL,
    ends_at timestamptz NOT NULL,
    ended_at timestamptz
);
CREATE INDEX oauth_grant_client ON oauth_grant (client);
CREATE INDEX oauth_grant_person ON oauth_grant (person);

CREATE TABLE oauth_code (
    digest bytea PRIMARY KEY,
    grant_id text COLLATE "C" NOT NULL REFERENCES oauth_grant,
    redirect_uri text NOT NULL,
    challenge text NOT NULL,
    nonce text,
    expires_at timestamptz NOT NULL,
    used_at timestamptz
);

CREATE TABLE oauth_refresh (
    digest bytea PRIMARY KEY,
    grant_id text COLLATE "C" NOT NULL REFERENCES oauth_grant,
    expires_at timestamptz NOT NULL,
    used_at timestamptz
);

CREATE TABLE oauth_launch (
    digest bytea PRIMARY KEY,
    tenant text COLLATE "C" NOT NULL,
    made_by text COLLATE "C" NOT NULL,
    context jsonb NOT NULL,
    expires_at timestamptz NOT NULL,
    used_at timestamptz
);

ALTER TABLE oauth_token ADD COLUMN grant_id text COLLATE "C" REFERENCES oauth_grant;
CREATE INDEX oauth_token_grant ON oauth_token (grant_id) WHERE grant_id IS NOT NULL;
