-- What the issuer of tokens keeps: clients, its own signing keys, assertions that were used, tokens that were given.
CREATE TABLE oauth_client (
    id text COLLATE "C" PRIMARY KEY,
    tenant text COLLATE "C" NOT NULL,
    name text NOT NULL,
    -- public keys by value, or where they are
    jwks jsonb,
    jwks_uri text,
    scope text NOT NULL,
    -- a role of the policy's section access that all its tokens are of
    role text,
    fhir_user text,
    patient text,
    -- whether it may ask for a token of any role and user of its tenant (the operator's own client)
    acts_for_others boolean NOT NULL,
    token_seconds integer NOT NULL,
    created_at timestamptz NOT NULL,
    disabled_at timestamptz,
    CHECK ((jwks IS NULL) <> (jwks_uri IS NULL))
);

CREATE TABLE oauth_key (
    kid text COLLATE "C" PRIMARY KEY,
    public jsonb NOT NULL,
    -- the private key, sealed under the service's secret
    sealed bytea NOT NULL,
    created_at timestamptz NOT NULL,
    -- signs nothing from then on; is published until tokens signed by it have ended
    retired_at timestamptz,
    gone_at timestamptz
);

CREATE TABLE oauth_assertion (
    digest bytea PRIMARY KEY,
    expires_at timestamptz NOT NULL
);
CREATE INDEX oauth_assertion_end ON oauth_assertion (expires_at);

CREATE TABLE oauth_token (
    jti text COLLATE "C" PRIMARY KEY,
    client text COLLATE "C" NOT NULL REFERENCES oauth_client,
    issued_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    revoked_at timestamptz
);
CREATE INDEX oauth_token_of_client ON oauth_token (client, expires_at);
CREATE INDEX oauth_token_revoked ON oauth_token (expires_at) WHERE revoked_at IS NOT NULL;
