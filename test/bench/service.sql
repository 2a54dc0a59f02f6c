-- What test/bench/service measures with, after rollup.sql.  Run by a superuser.

-- Sends one row at a time and looks for it in the rollup; ms until it is there.
CREATE PROCEDURE bench.wake(rows int)
LANGUAGE plpgsql AS $$
DECLARE
    began timestamptz;
BEGIN
    FOR n IN 1 .. rows LOOP
        began := clock_timestamp();
        INSERT INTO detect_staging.sighting VALUES (n, n, 0.5, began);
        COMMIT;
        WHILE NOT EXISTS (SELECT FROM city.sightings_1 WHERE camera = n) LOOP
            COMMIT;
        END LOOP;
        INSERT INTO bench.woken VALUES (extract(epoch FROM clock_timestamp() - began) * 1000);
        COMMIT;
        -- the stream is quiet again
        PERFORM pg_sleep(0.02);
        COMMIT;
    END LOOP;
END
$$;
CREATE TABLE bench.woken (ms float8);

-- ---------------------------------------------------------------------
-- Flows: streams of the town's messages, each from a topic of its own
-- ---------------------------------------------------------------------

CREATE FUNCTION bench.make_flow(name text, topic text) RETURNS void
LANGUAGE plpgsql SET search_path = city, public AS $$
BEGIN
    EXECUTE format('CREATE TABLE %I (detection_oid bigint NOT NULL, video_camera_oid int, item_name text, confidence real, timestamp_detected timestamptz NOT NULL)
                    PARTITION BY RANGE (timestamp_detected)', name);
    PERFORM detect.create_stream(name, server => 'city', topic => topic, key => '{detection_oid}', event_time => 'timestamp_detected',
                                 query => 'SELECT b.detection_oid, b.video_camera_oid, b.item_name, (round(b.confidence * 64) / 64)::real AS confidence, b.timestamp_detected FROM batch b',
                                 partition_interval => '1 day');
    PERFORM detect.create_rollup(name || '_items', bench.flow_query(name));
END
$$;

CREATE FUNCTION bench.flow_query(name text) RETURNS text
LANGUAGE sql IMMUTABLE AS $$
    SELECT format('SELECT date_bin(''1 minute'', timestamp_detected, ''epoch'') AS minute, item_name, count(*) AS detections, avg(confidence) AS confidence
                   FROM city.%I GROUP BY 1, 2', name)
$$;

-- Has each shared buffer used once: in a server that has just started, the first use of
-- one makes the kernel find it a page.
CREATE PROCEDURE bench.use_all_buffers()
LANGUAGE plpgsql AS $$
BEGIN
    CREATE UNLOGGED TABLE bench.filler (a_page text);
    ALTER TABLE bench.filler ALTER a_page SET STORAGE PLAIN;
    INSERT INTO bench.filler SELECT repeat('x', 6000) FROM generate_series(1, (SELECT setting::int FROM pg_settings WHERE name = 'shared_buffers'));
    DROP TABLE bench.filler;
END
$$;

-- CPU of all workers until now, by thread in nanoseconds, for hundredths of a second are
-- too much of what an idle one takes; and what they have applied.
CREATE TABLE bench.load_begun (seconds float8, events bigint);
CREATE TABLE bench.load (number int GENERATED ALWAYS AS IDENTITY, what text, us_an_event float8, p50_ms float8, p99_ms float8);

CREATE FUNCTION bench.load_now(OUT seconds float8, OUT events bigint)
LANGUAGE sql VOLATILE AS $$
    SELECT (SELECT sum(split_part(pg_read_file(format('/proc/%s/task/%s/schedstat', pid, task), 0, 100, true), ' ', 1)::float8) / 1e9
            FROM detect.stat_worker, pg_ls_dir(format('/proc/%s/task', pid)) task WHERE pid IS NOT NULL),
           (SELECT coalesce(sum(accepted + duplicates + filtered + expired + dead_letters), 0)::bigint FROM detect._applied_progress)
$$;

CREATE PROCEDURE bench.begin_load()
LANGUAGE sql AS $$
    TRUNCATE bench.load_begun;
    INSERT INTO bench.load_begun SELECT * FROM bench.load_now();
$$;

-- One stream and ten are measured twice, in turn, for the machine is not the same all the time.
CREATE PROCEDURE bench.compare_loads()
LANGUAGE sql AS $$
    SELECT bench.keep(format('CPU for %s of the same sum, times that of one', what), avg(us_an_event) / (SELECT avg(us_an_event) FROM bench.load WHERE what = 'one stream'),
                      'times', 1.5, format('%s µs an event; half visible in %s ms, 99 %% in %s ms',
                                           string_agg(bench.digits(us_an_event), ' and ' ORDER BY us_an_event), bench.digits(max(p50_ms)), bench.digits(max(p99_ms))))
    FROM bench.load WHERE what <> 'one stream' GROUP BY what ORDER BY min(number);
$$;

CREATE PROCEDURE bench.end_load(what text)
LANGUAGE sql AS $$
    INSERT INTO bench.load (what, us_an_event, p50_ms, p99_ms)
    SELECT what, (n.seconds - b.seconds) * 1e6 / nullif(n.events - b.events, 0), f.*
    FROM bench.load_begun b, bench.load_now() n, (SELECT avg(freshness_p50_ms), max(freshness_p99_ms) FROM detect.stat_stream) f
$$;
