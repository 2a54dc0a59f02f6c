-- The town of the benchmarks: that of examples/city_cameras without its stream,
-- and a schema "bench" with what measures and checks.  Run by a superuser.

SELECT detect.drop_rollup('items_per_minute'), detect.drop_rollup('town_per_minute'), detect.drop_stream('camera');

-- The zone in which a location lies, for those who join with locations alone.
ALTER TABLE city.location ADD COLUMN zone_id int;
UPDATE city.location l SET zone_id = z.zone_id FROM city.zones z WHERE ST_Contains(z.geom, l.geom);
VACUUM (FULL, ANALYZE) city.location;

CREATE SCHEMA bench;
GRANT USAGE ON SCHEMA bench TO city_ops;

-- What the events table looks like, to make it anew for each measurement.
CREATE TABLE bench.detection (LIKE city.detection INCLUDING ALL);

-- Every figure of every run.
CREATE TABLE bench.figure (
    run int NOT NULL,
    contestant text NOT NULL,
    what text NOT NULL,
    value float8
);

-- The messages, as a file has them, and what must become of them.
CREATE UNLOGGED TABLE bench.message (
    message_id bigint GENERATED ALWAYS AS IDENTITY,
    payload text NOT NULL
);
CREATE UNLOGGED TABLE bench.expected (LIKE bench.detection, zone_of_point int);

-- ---------------------------------------------------------------------
-- Figures
-- ---------------------------------------------------------------------

-- A figure with as many digits as it is worth.
CREATE FUNCTION bench.digits(value float8) RETURNS text
LANGUAGE sql IMMUTABLE AS $$
    SELECT round(value::numeric, CASE WHEN abs(value) >= 100 THEN 0 WHEN abs(value) >= 10 THEN 1 ELSE 2 END)::text
$$;

-- The median of several figures, and in brackets the least and the greatest.
CREATE FUNCTION bench.spread(figures float8[]) RETURNS text
LANGUAGE sql IMMUTABLE AS $$
    SELECT bench.digits(percentile_cont(0.5) WITHIN GROUP (ORDER BY value)) ||
           CASE WHEN count(*) > 1 THEN format(' (%s–%s)', bench.digits(min(value)), bench.digits(max(value))) ELSE '' END
    FROM unnest(figures) f (value)
$$;

-- How long each contestant took, in proportion to this one in the same run.
CREATE FUNCTION bench.elapsed_times(of_contestant text) RETURNS TABLE (run int, contestant text, times float8)
LANGUAGE sql STABLE AS $$
    SELECT f.run, f.contestant, f.value / o.value
    FROM bench.figure f JOIN bench.figure o USING (run, what) WHERE o.contestant = of_contestant AND what = 'elapsed'
$$;

-- ---------------------------------------------------------------------
-- Tables and streams, made anew for each measurement
-- ---------------------------------------------------------------------

-- An empty events table.  With a range of time also its partitions: whoever is
-- no stream finds them made.
CREATE FUNCTION bench.make_table(first timestamptz, last timestamptz) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    hour timestamptz;
BEGIN
    DROP TABLE IF EXISTS city.detection;
    CREATE TABLE city.detection (LIKE bench.detection INCLUDING ALL) PARTITION BY RANGE (timestamp_detected);
    ALTER TABLE city.detection OWNER TO city_ops;
    FOR hour IN SELECT generate_series(date_trunc('hour', first), last, '1 hour') LOOP
        EXECUTE format('CREATE TABLE city.detection_%s PARTITION OF city.detection FOR VALUES FROM (%L) TO (%L)',
                       to_char(hour, 'YYYYMMDDHH24'), hour, hour + interval '1 hour');
    END LOOP;
END
$$;

-- The stream and its two rollups: the example's, but that the zone may come from
-- elsewhere: zone_by is "location", "locator", or "join" for one by ST_Contains.
-- With stamps, events keep their kafka_timestamp.
CREATE FUNCTION bench.make_stream(zone_by text, consumers int, stamps boolean,
                                  width interval DEFAULT '1 hour', retention interval DEFAULT NULL,
                                  topic text DEFAULT 'camera.detections', query text DEFAULT NULL) RETURNS void
LANGUAGE plpgsql SET search_path = city, public AS $$
BEGIN
    PERFORM detect.create_stream('camera', server => 'city', topic => topic, events_table => 'detection',
        columns => 'detection_oid bigint, video_camera_oid int, geographical_location_oid int, item_name text,
                    confidence real, timestamp_detected timestamptz, lon float8, lat float8'
                   || CASE WHEN stamps THEN ', kafka_timestamp timestamptz' ELSE '' END,
        query => coalesce(query, format($q$
            SELECT b.*, l.geographical_location AS location_name, %s AS zone_id, ST_Point(b.lon, b.lat, 4326) AS geom
            FROM batch b
            LEFT JOIN location l USING (geographical_location_oid) %s $q$,
            CASE zone_by WHEN 'locator' THEN 'zone_of(b.lon, b.lat)' WHEN 'join' THEN 'z.zone_id' ELSE 'l.zone_id' END,
            CASE zone_by WHEN 'join' THEN 'LEFT JOIN zones z ON ST_Contains(z.geom, ST_Point(b.lon, b.lat, 4326))' END)),
        key => '{detection_oid}', event_time => 'timestamp_detected',
        partition_interval => width, retention => retention, consumers => consumers);
    PERFORM detect.create_rollup('items_per_minute', $q$
        SELECT date_bin('1 minute', timestamp_detected, 'epoch') AS minute, zone_id, item_name,
               count(*) AS detections, avg(confidence) AS confidence
        FROM detection GROUP BY 1, 2, 3 $q$);
    PERFORM detect.create_rollup('town_per_minute', $q$
        SELECT date_bin('1 minute', timestamp_detected, 'epoch') AS minute, item_name,
               count(*) AS detections, count(*) FILTER (WHERE confidence >= 0.9) AS sure,
               avg(confidence) AS confidence, max(timestamp_detected) AS last_seen
        FROM detection GROUP BY 1, 2 $q$);
END
$$;

-- Returns when so many messages have an outcome.  detect.wait_for would do, but
-- it is one statement, and a statement keeps old row versions alive for as long
-- as it runs: nobody would wait like this for a minute beside a busy stream.
CREATE PROCEDURE bench.await(messages bigint)
LANGUAGE plpgsql AS $$
BEGIN
    WHILE messages > (SELECT coalesce(sum(accepted + duplicates + filtered + expired + dead_letters), 0)
                      FROM detect._applied_progress) LOOP
        COMMIT;
        PERFORM pg_sleep(0.01);
    END LOOP;
END
$$;

-- ---------------------------------------------------------------------
-- What processes used
-- ---------------------------------------------------------------------

-- Seconds of CPU of a process or a thread: user and system, the 12th and 13th
-- field behind its name, in hundredths.
CREATE FUNCTION bench.cpu_seconds(path text) RETURNS float8
LANGUAGE sql VOLATILE AS $$
    SELECT (f[12]::float8 + f[13]::float8) / 100
    FROM regexp_split_to_array(substring(pg_read_file(path, 0, 4096, true) FROM '.*\) (.*)'), ' ') f
$$;

-- One line of /proc/PID/status, in kB.
CREATE FUNCTION bench.memory_kb(pid int, line text) RETURNS float8
LANGUAGE sql VOLATILE AS $$
    SELECT substring(pg_read_file(format('/proc/%s/status', pid), 0, 8192, true) FROM line || ':\s*(\d+) kB')::float8
$$;

-- CPU by process until now.  The library's threads are a worker's others than
-- its main thread.
CREATE FUNCTION bench.cpu_now(kafka_pid int)
RETURNS TABLE (process text, seconds float8)
LANGUAGE sql VOLATILE AS $$
    SELECT 'Kafka', bench.cpu_seconds(format('/proc/%s/stat', kafka_pid))
    UNION ALL
    SELECT backend_type, bench.cpu_seconds(format('/proc/%s/stat', pid))
    FROM pg_stat_activity WHERE backend_type IN ('walwriter', 'checkpointer', 'background writer')
    UNION ALL
    SELECT 'session', bench.cpu_seconds(format('/proc/%s/stat', pg_backend_pid()))
    UNION ALL
    SELECT duty || ' worker', bench.cpu_seconds(format('/proc/%s/task/%s/stat', pid, pid))
    FROM detect.stat_worker WHERE pid IS NOT NULL
    UNION ALL
    SELECT duty || ' worker, librdkafka', bench.cpu_seconds(format('/proc/%s/stat', pid)) -
           bench.cpu_seconds(format('/proc/%s/task/%s/stat', pid, pid))
    FROM detect.stat_worker WHERE pid IS NOT NULL AND duty <> 'maintain'
$$;

-- ---------------------------------------------------------------------
-- Is the result exact?
-- ---------------------------------------------------------------------

-- Ends the script unless two figures are the same.
CREATE FUNCTION bench.must_equal(what text, expected bigint, actual bigint) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    IF expected IS DISTINCT FROM actual THEN
        RAISE EXCEPTION 'not exact: % should be %, and is %', what, expected, actual;
    END IF;
END
$$;

-- The events that must be there; zones tells that these are those of the points.
CREATE FUNCTION bench.events(zones boolean) RETURNS SETOF bench.detection
LANGUAGE sql STABLE AS $$
    SELECT detection_oid, video_camera_oid, geographical_location_oid, item_name, confidence, timestamp_detected,
           location_name, CASE WHEN zones THEN zone_of_point ELSE zone_id END, geom
    FROM bench.expected
$$;

-- The events table, row by row.
CREATE FUNCTION bench.check_events(zones boolean) RETURNS void
LANGUAGE sql VOLATILE AS $$
    SELECT bench.must_equal('events that are missing', 0, (SELECT count(*) FROM (
               SELECT * FROM bench.events(zones) EXCEPT ALL SELECT * FROM city.detection) d));
    SELECT bench.must_equal('events that should not be there', 0, (SELECT count(*) FROM (
               SELECT * FROM city.detection EXCEPT ALL SELECT * FROM bench.events(zones)) d));
$$;

-- Both rollups, group by group.  The last digits of an average depend on the
-- order of its rows.
CREATE FUNCTION bench.check_rollups(zones boolean, items regclass, town regclass) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    wrong bigint;
BEGIN
    EXECUTE format($q$
        SELECT count(*) FROM (
            SELECT date_bin('1 minute', timestamp_detected, 'epoch') AS minute, coalesce(zone_id, -1) AS zone_id,
                   item_name, count(*) AS detections, avg(confidence) AS confidence
            FROM bench.events($1) GROUP BY 1, 2, 3) e
        FULL JOIN (SELECT minute, coalesce(zone_id, -1) AS zone_id, item_name, detections, confidence FROM %s) f
            USING (minute, zone_id, item_name)
        WHERE e.detections IS DISTINCT FROM f.detections
           OR (abs(e.confidence - f.confidence) < 1e-9) IS NOT TRUE $q$, items) INTO wrong USING zones;
    PERFORM bench.must_equal('wrong groups of items_per_minute', 0, wrong);
    EXECUTE format($q$
        SELECT count(*) FROM (
            SELECT date_bin('1 minute', timestamp_detected, 'epoch') AS minute, item_name, count(*) AS detections,
                   count(*) FILTER (WHERE confidence >= 0.9) AS sure, avg(confidence) AS confidence,
                   max(timestamp_detected) AS last_seen
            FROM bench.events($1) GROUP BY 1, 2) e
        FULL JOIN %s f USING (minute, item_name)
        WHERE (e.detections, e.sure, e.last_seen) IS DISTINCT FROM (f.detections, f.sure, f.last_seen)
           OR (abs(e.confidence - f.confidence) < 1e-9) IS NOT TRUE $q$, town) INTO wrong USING zones;
    PERFORM bench.must_equal('wrong groups of town_per_minute', 0, wrong);
END
$$;

-- What the stream itself says.
CREATE FUNCTION bench.check_outcomes() RETURNS void
LANGUAGE sql VOLATILE AS $$
    SELECT bench.must_equal('accepted', (SELECT count(*) FROM bench.expected), accepted),
           bench.must_equal('duplicates', (SELECT count(*) FROM bench.message) - (SELECT count(*) FROM bench.expected),
                            duplicates),
           bench.must_equal('filtered, expired and dead letters', 0, filtered + expired + dead_letters),
           bench.must_equal('rows of detect.dead_letter', 0, (SELECT count(*) FROM detect.dead_letter))
    FROM detect.stat_stream WHERE stream = 'camera'
$$;
