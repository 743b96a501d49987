-- What is parked of consents is asked for whenever somebody outside asks: by this, however much else is parked. Basic: a
-- record that could not be read, which may be one.
CREATE INDEX parked_consents ON parked (consumer, tenant) WHERE type IN ('Consent', 'Basic');

-- A record that does not say its clinic may be any clinic's; each has to know that it waits.
ALTER POLICY clinic ON parked USING (
    (SELECT current_setting('kap.clinic_number', true)) = '0' OR tenant = (SELECT current_setting('kap.clinic', true))
    OR tenant = 'unreadable');
