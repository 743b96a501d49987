-- What changed of one type, or of everything, newest first: without reading the history of the rest.
--
-- A version's tenant and type are those of its resource, which never change; the trigger puts them beside it, whoever
-- writes the row.

ALTER TABLE history ADD COLUMN tenant integer, ADD COLUMN type smallint;
UPDATE history h SET tenant = r.tenant, type = r.type FROM resource r WHERE r.rid = h.rid;
ALTER TABLE history ALTER COLUMN tenant SET NOT NULL, ALTER COLUMN type SET NOT NULL;

CREATE INDEX history_by_type ON history (tenant, type, last_updated, rid, version);
CREATE INDEX history_by_time ON history (tenant, last_updated, rid, version);

CREATE FUNCTION kap_history_place() RETURNS trigger LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    SELECT r.tenant, r.type INTO STRICT NEW.tenant, NEW.type FROM resource r WHERE r.rid = NEW.rid;
    RETURN NEW;
END $$;

CREATE TRIGGER history_place BEFORE INSERT ON history FOR EACH ROW EXECUTE FUNCTION kap_history_place();
