-- The town of the benchmarks: the example's, and a schema "bench" that holds
-- what is measured.  Run by a superuser, after examples/city_cameras/schema.sql.

SELECT detect.drop_rollup('items_per_minute'), detect.drop_rollup('town_per_minute'), detect.drop_stream('camera');

-- Where a location lies in a zone, for those who join with locations alone.
ALTER TABLE city.location ADD COLUMN zone_id int;
UPDATE city.location l SET zone_id = z.zone_id FROM city.zones z WHERE ST_Contains(z.geom, l.geom);
VACUUM (FULL, ANALYZE) city.location;

CREATE SCHEMA bench;
GRANT USAGE ON SCHEMA bench TO city_ops;

-- What the events table looks like, to make it anew for each measurement.
CREATE TABLE bench.detection (LIKE city.detection INCLUDING ALL);
GRANT SELECT ON bench.detection TO city_ops;

-- Every figure of every run.
CREATE TABLE bench.figure (
    run int NOT NULL,
    contestant text NOT NULL,
    what text NOT NULL,
    value float8
);

-- An empty events table.  With a range of time, also its partitions: whoever is
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

-- Seconds of CPU that a process or a thread has used: user and system, the
-- 12th and 13th field behind its name.
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

-- CPU by process, now.  The library's threads are those of a worker that are
-- not its main thread.
CREATE FUNCTION bench.cpu_now(kafka_pid int)
RETURNS TABLE (process text, seconds float8)
LANGUAGE sql VOLATILE AS $$
    SELECT 'kafka', bench.cpu_seconds(format('/proc/%s/stat', kafka_pid))
    UNION ALL
    SELECT replace(backend_type, 'background writer', 'bgwriter'), bench.cpu_seconds(format('/proc/%s/stat', pid))
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
