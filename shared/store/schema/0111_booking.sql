-- Bookings: who and what an appointment holds, and when. Written in the transaction that writes the Appointment.
--
-- The constraint is the database's own: no two bookings hold one resource at one time, however they came about. It needs
-- no extension, since every part of it is a range: the number of the resource as [n, n], the lanes it takes of it, and
-- the time. A room takes all lanes; a monitor who may watch over three rooms has three, and each room takes one.

CREATE TABLE booking_resource (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant integer NOT NULL,
    name text COLLATE "C" NOT NULL,
    UNIQUE (tenant, name)
);

CREATE TABLE booking (
    tenant integer NOT NULL,
    -- What holds it: Appointment/<id>, or Slot/<id> of a group session.
    owner text COLLATE "C" NOT NULL,
    resource int8range NOT NULL,
    lanes int4range NOT NULL CHECK (NOT isempty(lanes)),
    during tstzrange NOT NULL CHECK (NOT isempty(during)),
    CONSTRAINT booking_holds_once EXCLUDE USING gist (resource WITH &&, lanes WITH &&, during WITH &&)
);
CREATE INDEX booking_of_owner ON booking (tenant, owner);

-- When a resource is closed: nothing new is booked, what is booked stays.
CREATE TABLE booking_closure (
    tenant integer NOT NULL,
    owner text COLLATE "C" NOT NULL,
    resource int8range NOT NULL,
    during tstzrange NOT NULL CHECK (NOT isempty(during))
);
CREATE INDEX booking_closed ON booking_closure USING gist (resource, during);
CREATE INDEX booking_closure_of_owner ON booking_closure (tenant, owner);

CREATE FUNCTION kap_booking_resources(p_tenant integer, p_names text[]) RETURNS void LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    INSERT INTO booking_resource (tenant, name)
    SELECT p_tenant, n FROM (SELECT DISTINCT unnest(p_names) AS n) AS names ORDER BY n
    ON CONFLICT DO NOTHING;
    -- One who books a resource waits here for the other's commit, and then sees what it booked.
    PERFORM 1 FROM booking_resource WHERE tenant = p_tenant AND name = ANY (p_names) ORDER BY id FOR UPDATE;
END $$;

-- Let p_owner hold these resources, in place of what it held before. Of each: the name, how many may share it (0: nobody),
-- and when. Returns what stands in the way; then nothing is changed.
CREATE FUNCTION kap_book(
    p_tenant integer, p_owner text, p_names text[], p_lanes integer[], p_lows timestamptz[], p_highs timestamptz[]
) RETURNS TABLE (name text, low timestamptz, high timestamptz, closed boolean)
LANGUAGE plpgsql VOLATILE SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    wanted record;
    chosen int4range;
    rows booking[] := '{}';
    free boolean := true;
BEGIN
    PERFORM kap_booking_resources(p_tenant, p_names);
    FOR wanted IN
        SELECT r.name, int8range(r.id, r.id, '[]') AS resource, w.lanes, tstzrange(w.low, w.high) AS during
        FROM unnest(p_names, p_lanes, p_lows, p_highs) AS w(name, lanes, low, high)
        JOIN booking_resource r ON r.tenant = p_tenant AND r.name = w.name ORDER BY r.id
    LOOP
        RETURN QUERY
            SELECT wanted.name, lower(c.during), upper(c.during), true FROM booking_closure c
            WHERE c.resource && wanted.resource AND c.during && wanted.during AND c.owner <> p_owner;
        free := free AND NOT FOUND;
        chosen := NULL;
        IF wanted.lanes = 0 THEN
            chosen := int4range(0, 1000000);
        ELSE
            SELECT int4range(lane, lane + 1) INTO chosen FROM generate_series(0, wanted.lanes - 1) AS lane
            WHERE NOT EXISTS (
                SELECT FROM booking b WHERE b.resource && wanted.resource AND b.during && wanted.during
                AND b.lanes && int4range(lane, lane + 1) AND b.owner <> p_owner)
            ORDER BY lane LIMIT 1;
        END IF;
        RETURN QUERY
            SELECT wanted.name, lower(b.during), upper(b.during), false FROM booking b
            WHERE b.resource && wanted.resource AND b.during && wanted.during AND b.owner <> p_owner
              AND (chosen IS NULL OR b.lanes && chosen)
            ORDER BY b.during;
        free := free AND NOT FOUND;
        IF chosen IS NOT NULL THEN
            rows := rows || ROW(p_tenant, p_owner, wanted.resource, chosen, wanted.during)::booking;
        END IF;
    END LOOP;
    IF free THEN
        DELETE FROM booking b WHERE b.tenant = p_tenant AND b.owner = p_owner;
        INSERT INTO booking SELECT (unnest(rows)).*;
    END IF;
END $$;

-- Free again what p_owner held or closed.
CREATE FUNCTION kap_unbook(p_tenant integer, p_owner text) RETURNS void LANGUAGE sql VOLATILE AS $$
    DELETE FROM booking WHERE tenant = p_tenant AND owner = p_owner;
    DELETE FROM booking_closure WHERE tenant = p_tenant AND owner = p_owner;
$$;

-- Close resources for a time, in place of what p_owner closed before. Returns who holds them in that time.
CREATE FUNCTION kap_close(p_tenant integer, p_owner text, p_names text[], p_low timestamptz, p_high timestamptz)
RETURNS TABLE (owner text) LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    PERFORM kap_booking_resources(p_tenant, p_names);
    DELETE FROM booking_closure c WHERE c.tenant = p_tenant AND c.owner = p_owner;
    INSERT INTO booking_closure (tenant, owner, resource, during)
    SELECT p_tenant, p_owner, int8range(r.id, r.id, '[]'), tstzrange(p_low, p_high)
    FROM booking_resource r WHERE r.tenant = p_tenant AND r.name = ANY (p_names);
    RETURN QUERY
        SELECT DISTINCT b.owner FROM booking b
        JOIN booking_resource r ON r.tenant = p_tenant AND r.name = ANY (p_names) AND b.resource = int8range(r.id, r.id, '[]')
        WHERE b.during && tstzrange(p_low, p_high) ORDER BY 1;
END $$;

-- What is taken of these resources between two times; `lane` is null where it is all of the resource.
CREATE FUNCTION kap_busy(p_tenant integer, p_names text[], p_low timestamptz, p_high timestamptz)
RETURNS TABLE (name text, low timestamptz, high timestamptz, lane integer)
LANGUAGE sql STABLE AS $$
    SELECT r.name, greatest(lower(b.during), p_low), least(upper(b.during), p_high),
           CASE WHEN upper(b.lanes) - lower(b.lanes) > 1 THEN NULL ELSE lower(b.lanes) END
    FROM unnest(p_names) AS n(name)
    JOIN booking_resource r ON r.tenant = p_tenant AND r.name = n.name
    JOIN booking b ON b.resource && int8range(r.id, r.id, '[]') AND b.during && tstzrange(p_low, p_high)
    UNION ALL
    SELECT r.name, greatest(lower(c.during), p_low), least(upper(c.during), p_high), NULL
    FROM unnest(p_names) AS n(name)
    JOIN booking_resource r ON r.tenant = p_tenant AND r.name = n.name
    JOIN booking_closure c ON c.resource && int8range(r.id, r.id, '[]') AND c.during && tstzrange(p_low, p_high)
$$;
