-- Book all visits of a course in one call: of each claim its owner, and what kap_book takes. The resources of all of them
-- are locked at once and in one order, so that two courses with the same people wait for each other and never cross.
-- Returns what stands in the way of whom.
CREATE FUNCTION kap_book_all(
    p_tenant integer, p_owners text[], p_names text[], p_lanes integer[], p_lows timestamptz[], p_highs timestamptz[]
) RETURNS TABLE (owner text, name text, low timestamptz, high timestamptz, closed boolean)
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    one record;
BEGIN
    PERFORM kap_booking_resources(p_tenant, p_names);
    FOR one IN
        SELECT w.owner, array_agg(w.name) AS names, array_agg(w.lanes) AS lanes, array_agg(w.low) AS lows,
               array_agg(w.high) AS highs
        FROM unnest(p_owners, p_names, p_lanes, p_lows, p_highs) AS w(owner, name, lanes, low, high)
        GROUP BY w.owner ORDER BY min(w.low), w.owner
    LOOP
        RETURN QUERY
            SELECT one.owner, b.name, b.low, b.high, b.closed
            FROM kap_book(p_tenant, one.owner, one.names, one.lanes, one.lows, one.highs) AS b;
    END LOOP;
END $$;
