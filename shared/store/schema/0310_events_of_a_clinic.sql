-- Events of two clinics may have one name, since an event is named by what it changed (ADR 4): each is a clinic's own.
-- What was taken in before there were clinics was the default clinic's.
ALTER TABLE inbox ADD COLUMN tenant text COLLATE "C" NOT NULL DEFAULT 'default';
ALTER TABLE inbox ALTER COLUMN tenant DROP DEFAULT;
ALTER TABLE inbox DROP CONSTRAINT inbox_pkey, ADD PRIMARY KEY (consumer, source, tenant, event_id);

ALTER TABLE parked DROP CONSTRAINT parked_consumer_source_event_id_key, ADD UNIQUE (consumer, source, tenant, event_id);

ALTER TABLE inbox ENABLE ROW LEVEL SECURITY;
ALTER TABLE inbox FORCE ROW LEVEL SECURITY;
CREATE POLICY clinic ON inbox USING (
    (SELECT current_setting('kap.clinic_number', true)) = '0' OR tenant = (SELECT current_setting('kap.clinic', true)));
