-- What test/bench/rollup measures with.  Run by a superuser, after town.sql.
--
-- Confidences are multiples of 1/64: whatever the order of adding, sums and
-- averages are the same to the last bit, so that results are compared exactly.

SET client_min_messages = warning;

-- What is printed: a figure, what it is to reach, and what was measured beside it.
CREATE TABLE bench.rollup_figure (
    figure_id int GENERATED ALWAYS AS IDENTITY,
    what text NOT NULL,
    value float8,
    unit text NOT NULL,
    target text,                    -- NULL: a figure to know
    is_reached boolean,
    beside text
);

-- Keeps a figure that is to be at most, or with at_least at least, so much.
CREATE FUNCTION bench.keep(what text, value float8, unit text, target float8 DEFAULT NULL, beside text DEFAULT NULL,
                           at_least boolean DEFAULT false) RETURNS void
LANGUAGE sql VOLATILE AS $$
    INSERT INTO bench.rollup_figure (what, value, unit, target, is_reached, beside)
    VALUES (what, value, unit, CASE WHEN at_least THEN '>= ' ELSE '<= ' END || target,
            CASE WHEN at_least THEN value >= target ELSE value <= target END, beside)
$$;

-- Ends the script unless a view or table has the rows of a query, each as often.
CREATE FUNCTION bench.must_match(what text, relation regclass, query text) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    rows bigint;
    wrong bigint;
BEGIN
    EXECUTE format('WITH found AS MATERIALIZED (TABLE %s), wanted AS MATERIALIZED (%s)
                    SELECT (SELECT count(*) FROM wanted),
                           (SELECT count(*) FROM (TABLE wanted EXCEPT ALL TABLE found) m) +
                           (SELECT count(*) FROM (TABLE found EXCEPT ALL TABLE wanted) s)', relation, query) INTO rows, wrong;
    IF rows = 0 THEN
        RAISE EXCEPTION 'nothing to compare: %', what;
    END IF;
    PERFORM bench.must_equal('wrong groups of ' || what, 0, wrong);
END
$$;

-- Returns when a query gives rows; in many transactions, which hold up nothing.
CREATE PROCEDURE bench.await_rows(query text, patience interval DEFAULT '10 minutes')
LANGUAGE plpgsql AS $$
DECLARE
    deadline timestamptz := clock_timestamp() + patience;
    found boolean;
BEGIN
    LOOP
        EXECUTE format('SELECT EXISTS (%s)', query) INTO found;
        COMMIT;
        EXIT WHEN found;
        IF clock_timestamp() > deadline THEN
            RAISE EXCEPTION 'waited % for: %', patience, query;
        END IF;
        PERFORM pg_sleep(0.01);
    END LOOP;
END
$$;

-- ---------------------------------------------------------------------
-- The step: sightings, fed by SQL, so that all batches are full
-- ---------------------------------------------------------------------

-- Event n comes 100 µs after the one before, from another camera: neighbours in
-- time are no neighbours in an index, and each camera has its turn once a round.
CREATE FUNCTION bench.sightings(first bigint, last bigint, cameras int, since timestamptz)
RETURNS TABLE (sighting_id bigint, camera int, confidence real, at timestamptz)
LANGUAGE sql IMMUTABLE ROWS 50000 AS $$
    SELECT n, (n * 7919 % cameras)::int, (n % 64 / 64.0)::real, since + n * interval '100 microseconds'
    FROM generate_series(first, last) n
$$;

-- What is kept of sightings, by hand and by a rollup.
CREATE FUNCTION bench.sighting_query(width text, events text) RETURNS text
LANGUAGE sql IMMUTABLE AS $$
    SELECT format('SELECT date_bin(%L, at, ''epoch'') AS bucket, camera, count(*) AS detections, avg(confidence) AS confidence '
                  'FROM %s GROUP BY 1, 2', width, events)
$$;

-- The stream, over its table if there is one, and its rollups of these widths.
CREATE FUNCTION bench.make_sightings(widths text[], partitions interval DEFAULT '1 day') RETURNS void
LANGUAGE plpgsql SET search_path = city, public AS $$
BEGIN
    CREATE TABLE IF NOT EXISTS sighting (sighting_id bigint NOT NULL, camera int NOT NULL, confidence real NOT NULL, at timestamptz NOT NULL)
        PARTITION BY RANGE (at);
    PERFORM detect.create_stream('sighting', server => '', key => '{sighting_id}', partition_interval => partitions);
    PERFORM detect.create_rollup('sightings_' || n, bench.sighting_query(widths[n], 'sighting'))
    FROM generate_subscripts(widths, 1) n;
END
$$;

CREATE FUNCTION bench.drop_sightings() RETURNS void
LANGUAGE sql AS $$
    SELECT detect.drop_rollup(rollup) FROM detect.rollup WHERE stream = 'sighting';
    SELECT detect.drop_stream('sighting');
    DROP TABLE city.sighting;
$$;

-- What the last drain took: µs an event.
CREATE TABLE bench.drained (rollup_us float8, all_us float8, batch_events float8);

-- Stages events while the stream is paused, so that the batches are full, and
-- lets a new worker apply them.
CREATE PROCEDURE bench.drain(first bigint, last bigint, cameras int, since timestamptz)
LANGUAGE plpgsql AS $$
DECLARE
    events bigint := last - first + 1;
    done bigint := (SELECT coalesce(sum(accepted), 0) FROM detect._applied_progress);
BEGIN
    PERFORM detect.pause('sighting');
    COMMIT;
    CALL bench.await_rows('SELECT WHERE NOT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = ''detect apply'')');
    INSERT INTO detect_staging.sighting SELECT * FROM bench.sightings(first, last, cameras, since);
    COMMIT;
    PERFORM detect.resume('sighting');
    COMMIT;
    CALL bench.await(done + events);
    PERFORM detect.wait_for('sighting');
    TRUNCATE bench.drained;
    INSERT INTO bench.drained
    SELECT rollup_us / events::float8, (read_us + dedup_us + query_us + insert_us + rollup_us + commit_us) / events::float8,
           s.elements / s.batches::float8
    FROM detect.stat_worker JOIN detect.stat_stream s USING (stream) WHERE duty = 'apply';
    COMMIT;
END
$$;

-- Each of the stream's rollups is what its query gives.
CREATE FUNCTION bench.check_sightings(widths text[], events bigint) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    PERFORM bench.must_equal('events', events, (SELECT count(*) FROM city.sighting));
    PERFORM bench.must_match('a rollup by ' || widths[n], format('city.sightings_%s', n)::regclass,
                             bench.sighting_query(widths[n], 'city.sighting'))
    FROM generate_subscripts(widths, 1) n;
END
$$;

-- ---------------------------------------------------------------------
-- What one would write by hand
-- ---------------------------------------------------------------------

-- Events with a statement trigger that counts them; half empty pages let the
-- upserts stay within their page.  The index lets recomputing find a bucket.
CREATE FUNCTION bench.make_by_hand() RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    DROP TABLE IF EXISTS bench.event_by_hand, bench.by_hand, bench.recomputed;
    CREATE TABLE bench.event_by_hand (sighting_id bigint NOT NULL, camera int NOT NULL, confidence real NOT NULL, at timestamptz NOT NULL);
    CREATE INDEX ON bench.event_by_hand USING brin (at);
    CREATE TABLE bench.by_hand (bucket timestamptz, camera int, detections bigint NOT NULL, confidence_sum float8 NOT NULL,
                                PRIMARY KEY (bucket, camera)) WITH (fillfactor = 50);
    CREATE TABLE bench.recomputed (bucket timestamptz, camera int, detections bigint NOT NULL, confidence float8 NOT NULL,
                                   PRIMARY KEY (bucket, camera));
    CREATE TRIGGER count_by_hand AFTER INSERT ON bench.event_by_hand REFERENCING NEW TABLE AS added
        FOR EACH STATEMENT EXECUTE FUNCTION bench.count_by_hand();
END
$$;

-- The trigger says itself how long it took, as the worker does of its step.
CREATE FUNCTION bench.count_by_hand() RETURNS trigger
LANGUAGE plpgsql AS $$
DECLARE
    began timestamptz := clock_timestamp();
BEGIN
    INSERT INTO bench.by_hand AS t
    SELECT date_bin('1 minute', at, 'epoch'), camera, count(*), sum(confidence::float8) FROM added GROUP BY 1, 2
    ON CONFLICT (bucket, camera) DO UPDATE
    SET detections = t.detections + EXCLUDED.detections, confidence_sum = t.confidence_sum + EXCLUDED.confidence_sum;
    PERFORM set_config('bench.trigger_us', extract(microseconds FROM clock_timestamp() - began)::text, false);
    RETURN NULL;
END
$$;

-- Computes the buckets of a batch again, as one does who merges nothing.
CREATE FUNCTION bench.recompute(first timestamptz, last timestamptz) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    since timestamptz := date_bin('1 minute', first, 'epoch');
    until timestamptz := date_bin('1 minute', last, 'epoch') + interval '1 minute';
BEGIN
    DELETE FROM bench.recomputed WHERE bucket >= since AND bucket < until;
    EXECUTE 'INSERT INTO bench.recomputed ' || bench.sighting_query('1 minute', 'bench.event_by_hand WHERE at >= $1 AND at < $2')
        USING since, until;
END
$$;

-- The same events in batches of the same size; µs an event of both.
CREATE PROCEDURE bench.apply_by_hand(events bigint, cameras int, batch_events int, since timestamptz,
                                     INOUT trigger_us float8, INOUT recompute_us float8)
LANGUAGE plpgsql AS $$
DECLARE
    first bigint := 1;
    last bigint;
    began timestamptz;
BEGIN
    trigger_us := 0;
    recompute_us := 0;
    WHILE first <= events LOOP
        last := least(first + batch_events - 1, events);
        INSERT INTO bench.event_by_hand SELECT * FROM bench.sightings(first, last, cameras, since);
        trigger_us := trigger_us + current_setting('bench.trigger_us')::float8 / events;
        COMMIT;
        began := clock_timestamp();
        PERFORM bench.recompute(since + first * interval '100 microseconds', since + last * interval '100 microseconds');
        recompute_us := recompute_us + extract(epoch FROM clock_timestamp() - began) * 1e6 / events;
        COMMIT;
        first := last + 1;
    END LOOP;
    PERFORM bench.must_equal('events by hand', events, (SELECT count(*) FROM bench.event_by_hand));
    CREATE TEMP VIEW by_hand AS SELECT bucket, camera, detections, confidence_sum / detections AS confidence FROM bench.by_hand;
    PERFORM bench.must_match('the trigger', 'by_hand', bench.sighting_query('1 minute', 'bench.event_by_hand'));
    PERFORM bench.must_match('recomputing', 'bench.recomputed', bench.sighting_query('1 minute', 'bench.event_by_hand'));
    DROP VIEW by_hand;
    COMMIT;
END
$$;

-- ---------------------------------------------------------------------
-- Reading
-- ---------------------------------------------------------------------

-- Median of so many runs, in ms, planned each time.
CREATE FUNCTION bench.read_ms(query text, runs int DEFAULT 101) RETURNS float8
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    began timestamptz;
    took float8[] := '{}';
BEGIN
    FOR run IN 1 .. runs LOOP
        began := clock_timestamp();
        EXECUTE format('SELECT count(*) FROM (%s OFFSET 0) q', query);
        took := took || (extract(epoch FROM clock_timestamp() - began) * 1000)::float8;
    END LOOP;
    RETURN (SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY ms) FROM unnest(took) ms);
END
$$;

-- ---------------------------------------------------------------------
-- The town's stream, from Kafka
-- ---------------------------------------------------------------------

-- The town's query, with confidences that can be added exactly.
CREATE FUNCTION bench.exact_query() RETURNS text
LANGUAGE sql IMMUTABLE AS $$
    SELECT 'SELECT b.detection_oid, b.video_camera_oid, b.geographical_location_oid, b.item_name, (round(b.confidence * 64) / 64)::real AS confidence,
                   b.timestamp_detected, b.kafka_timestamp, l.geographical_location AS location_name, l.zone_id, ST_Point(b.lon, b.lat, 4326) AS geom
            FROM batch b LEFT JOIN location l USING (geographical_location_oid)'
$$;

-- The events table with so many events of history; their times and zones are
-- expressions of their number, n, and their location.
CREATE FUNCTION bench.make_history(first timestamptz, last timestamptz, events bigint, event_time text, zone text) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    partition regclass;
BEGIN
    PERFORM bench.make_table(first, last);
    ALTER TABLE city.detection ADD COLUMN kafka_timestamp timestamptz;
    EXECUTE format($q$
        INSERT INTO city.detection (detection_oid, video_camera_oid, geographical_location_oid, item_name, confidence, timestamp_detected, zone_id, geom)
        SELECT -n, (n %% 20000)::int, location, (ARRAY['car', 'bus', 'bicycle', 'person'])[1 + n %% 4], (n %% 64 / 64.0)::real,
               %s, %s, ST_Point(13 + location / 10000.0, 52, 4326)
        FROM generate_series(1::bigint, $1) n, LATERAL (SELECT (n * 7919 %% 10000)::int AS location OFFSET 0) l $q$, event_time, zone) USING events;
    FOR partition IN SELECT inhrelid FROM pg_inherits WHERE inhparent = 'city.detection'::regclass LOOP
        EXECUTE format('ALTER TABLE %s OWNER TO city_ops', partition);
    END LOOP;
END
$$;

-- The town's stream, called by its owner, from the end of the topic: the events
-- before are those of another measurement.
CREATE FUNCTION bench.make_stream_from_end() RETURNS void
LANGUAGE sql VOLATILE AS $$
    SELECT bench.make_stream('location', 0, true, query => bench.exact_query());
    SELECT detect.seek('camera', to_time => 'infinity');
$$;

CREATE FUNCTION bench.items_query() RETURNS text
LANGUAGE sql IMMUTABLE AS $$
    SELECT 'SELECT date_bin(''1 minute'', timestamp_detected, ''epoch'') AS minute, zone_id, item_name,
                   count(*) AS detections, avg(confidence) AS confidence
            FROM city.detection GROUP BY 1, 2, 3'
$$;

CREATE FUNCTION bench.check_town() RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    PERFORM bench.must_match('items_per_minute', 'city.items_per_minute', bench.items_query());
    PERFORM bench.must_match('town_per_minute', 'city.town_per_minute',
        'SELECT date_bin(''1 minute'', timestamp_detected, ''epoch''), item_name, count(*) AS a, count(*) FILTER (WHERE confidence >= 0.9) AS b,
                avg(confidence), max(timestamp_detected)
         FROM city.detection GROUP BY 1, 2');
END
$$;

-- 99 % of the events that came to Kafka within a time were visible after so many
-- ms: by their commits, so of every event.
CREATE FUNCTION bench.p99_ms(since timestamptz, until timestamptz) RETURNS float8
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN (SELECT percentile_cont(0.99) WITHIN GROUP (ORDER BY 1000 * extract(epoch FROM pg_xact_commit_timestamp(xmin) - kafka_timestamp)::float8)
            FROM city.detection WHERE kafka_timestamp >= since AND kafka_timestamp < until);
END
$$;
