-- What measures contestants that are not detect's: time, CPU, WAL.  A measurement
-- is opened and closed, possibly by different sessions; in between somebody else
-- works.  Run by a superuser, after town.sql and plain.sql.

-- The measurement that is open.
CREATE TABLE bench.opened (
    at timestamptz NOT NULL,
    wal pg_lsn NOT NULL,
    kafka_pid int NOT NULL,
    kafka_seconds float8 NOT NULL,
    server_seconds float8 NOT NULL,
    program_pid int,
    program_seconds float8
);

-- Seconds of CPU that all processes of this server have used: those that run, and
-- those that ended, which the postmaster has counted.
CREATE FUNCTION bench.server_cpu_seconds() RETURNS float8
LANGUAGE sql VOLATILE AS $$
    SELECT (SELECT sum(bench.cpu_seconds('/proc/' || pid || '/stat')) FROM pg_stat_activity) +
           (f[12]::float8 + f[13]::float8 + f[14]::float8 + f[15]::float8) / 100
    FROM split_part(pg_read_file('postmaster.pid'), E'\n', 1) AS postmaster (pid),
         regexp_split_to_array(substring(pg_read_file('/proc/' || pid || '/stat', 0, 4096, true) FROM '.*\) (.*)'), ' ') f
$$;

-- Ingestion begins now.  A contestant that is a program of its own is named.
CREATE FUNCTION bench.open_peer(kafka_pid int, program_pid int DEFAULT NULL) RETURNS void
LANGUAGE sql VOLATILE AS $$
    DELETE FROM bench.opened;
    INSERT INTO bench.opened
    SELECT clock_timestamp(), pg_current_wal_insert_lsn(), kafka_pid, bench.cpu_seconds('/proc/' || kafka_pid || '/stat'),
           bench.server_cpu_seconds(), program_pid, bench.cpu_seconds('/proc/' || program_pid || '/stat');
$$;

-- Keeps the figures of the measurement that is open, whose last commit was at a
-- time.  The caller checks the result in the same transaction, so that none are
-- kept of one that is not exact.
CREATE FUNCTION bench.close_peer(run int, contestant text, last_commit timestamptz) RETURNS void
LANGUAGE sql VOLATILE AS $$
    INSERT INTO bench.figure
    SELECT run, contestant, f.what, f.value
    FROM bench.opened o, (SELECT count(*) AS messages FROM bench.message) m,
         LATERAL (VALUES
            ('elapsed', extract(epoch FROM last_commit - o.at)::float8 * 1e6 / m.messages),
            ('WAL', (pg_current_wal_insert_lsn() - o.wal)::float8 / m.messages),
            ('cpu Kafka', bench.cpu_seconds('/proc/' || o.kafka_pid || '/stat') - o.kafka_seconds),
            ('cpu server', bench.server_cpu_seconds() - o.server_seconds),
            ('cpu program', bench.cpu_seconds('/proc/' || o.program_pid || '/stat') - o.program_seconds)) f (what, value)
    WHERE f.value IS NOT NULL
$$;

-- Whether a table has all events.  They are counted once it can be so: counting
-- all the time would slow down who writes.
CREATE FUNCTION bench.has_events(events_table regclass) RETURNS boolean
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    expected bigint := (SELECT count(*) FROM bench.expected);
    actual bigint;
BEGIN
    IF expected > (SELECT sum(pg_stat_get_tuples_inserted(relid)) FROM pg_partition_tree(events_table)) THEN
        RETURN false;
    END IF;
    EXECUTE format('SELECT count(*) FROM %s', events_table) INTO actual;
    RETURN actual >= expected;
END
$$;

-- The events of a table that has the columns of the message alone.
CREATE FUNCTION bench.check_flat(flat_table regclass) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    expected text := 'SELECT detection_oid, video_camera_oid, geographical_location_oid, item_name, confidence,
                             timestamp_detected, geom FROM bench.expected';
    actual text := format('SELECT detection_oid, video_camera_oid, geographical_location_oid, item_name, confidence,
                                  timestamp_detected, ST_Point(lon, lat, 4326) FROM %s', flat_table);
    wrong bigint;
BEGIN
    EXECUTE format('SELECT count(*) FROM ((%s EXCEPT ALL %s) UNION ALL (%2$s EXCEPT ALL %1$s)) d', expected, actual) INTO wrong;
    PERFORM bench.must_equal('events that are missing or should not be there', 0, wrong);
END
$$;
