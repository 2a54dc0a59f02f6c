-- The city's windows as their user would check them: one rollup of ten seconds, kept
-- at four more widths as well, over late and repeated detections, with a
-- retention of each; and all zones together.

\set QUIET on
\set ON_ERROR_STOP on
\pset format unaligned
\pset tuples_only on
\pset pager off
SET client_min_messages = warning;

\set bootstrap `echo "${DETECT_BOOTSTRAP:-127.0.0.1:1}"`
\set topic pgtap.city_rollups
\o /dev/null
\ir ../../examples/city_cameras/schema.sql
CREATE EXTENSION pgtap;
SET client_min_messages = warning;
SET search_path = city, public;
SET timezone = 'UTC';

-- The windows are made by city_ops, who keeps seconds for a day and days for ever.
SET ROLE city_ops;
SELECT detect.create_rollup('seen_per_10s', $$
    SELECT date_bin('10 seconds', timestamp_detected, 'epoch') AS at, zone_id, item_name,
           count(*) AS detections, avg(confidence) AS confidence, max(timestamp_detected) AS last_seen
    FROM detection GROUP BY 1, 2, 3 $$, retention => '1 day',
    coarser => '{"seen_per_minute": {"width": "1 minute", "column": "minute", "retention": "7 days"},
                 "seen_per_5min": {"width": "5 minutes", "column": "five", "retention": "14 days"},
                 "seen_per_hour": {"width": "1 hour", "column": "hour", "retention": "20 days"},
                 "seen_per_day": {"width": "1 day", "column": "day"}}');
SELECT detect.create_rollup_view('town_per_5min', 'seen_per_5min', columns => '{five}');
SELECT detect.create_rollup_view('items_per_day', 'seen_per_day', columns => '{day,item_name}');
RESET ROLE;
SELECT detect.wait_for_rollup(rollup) FROM detect.rollup;
\o

SELECT plan(35);

-- A window, its width and how long it is kept.
CREATE TEMP TABLE windows (name text, width interval, kept interval);
INSERT INTO windows VALUES ('seen_per_10s', '10 seconds', '1 day'), ('seen_per_minute', '1 minute', '7 days'), ('seen_per_5min', '5 minutes', '14 days'),
    ('seen_per_hour', '1 hour', '20 days'), ('seen_per_day', '1 day', NULL);

-- What a window should show, from the detections themselves; confidences are eighths,
-- so that averages do not depend on the order of adding.
CREATE FUNCTION pg_temp.wanted(width interval) RETURNS TABLE (at timestamptz, zone_id int, item_name text, detections bigint, confidence float8, last_seen timestamptz)
LANGUAGE sql AS $$
    SELECT date_bin(width, timestamp_detected, 'epoch'), zone_id, item_name, count(*), avg(confidence), max(timestamp_detected)
    FROM detection GROUP BY 1, 2, 3 $$;

-- Groups in which a window and the detections differ, either way.
CREATE FUNCTION pg_temp.differences(name text, width interval, since timestamptz DEFAULT '-infinity') RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    differing bigint;
BEGIN
    EXECUTE format('WITH wanted AS (SELECT * FROM pg_temp.wanted($1) WHERE at >= $2), shown AS (TABLE %I)
                    SELECT count(*) FROM ((TABLE wanted EXCEPT ALL TABLE shown) UNION ALL (TABLE shown EXCEPT ALL TABLE wanted)) d', name)
    INTO differing USING width, since;
    RETURN differing;
END $$;

-- Detections first to last, one each step from since on; locations lie on a grid, and so do zones.
CREATE FUNCTION pg_temp.detect(first int, last int, since timestamptz, step interval) RETURNS void LANGUAGE sql AS $$
    INSERT INTO detect_staging.camera (detection_oid, video_camera_oid, geographical_location_oid, item_name, confidence, timestamp_detected, lon, lat)
    SELECT n, n % 50, n % 100 + 1, (ARRAY['car', 'bus', 'bicycle'])[1 + n % 3], n % 9 / 8.0, since + (n - first) * step,
           13.01 + n % 7 * 0.02, CASE WHEN n % 11 > 0 THEN 52.308 ELSE 60 END
    FROM generate_series(first, last) n $$;
CREATE FUNCTION pg_temp.settle() RETURNS void LANGUAGE sql AS $$ SELECT detect.wait_for('camera', '60s') $$;

-- Retention is looked after once a minute.
CREATE PROCEDURE pg_temp.await_none(query text) LANGUAGE plpgsql AS $$
DECLARE
    deadline timestamptz := clock_timestamp() + interval '3 minutes';
    found boolean := true;
BEGIN
    WHILE found AND clock_timestamp() < deadline LOOP
        EXECUTE format('SELECT EXISTS (%s)', query) INTO found;
        COMMIT;
    END LOOP;
END $$;

SELECT has_view('city', name::name, format('%s is a view in the user''s schema', name)) FROM windows;
SELECT columns_are('city', 'seen_per_5min', '{five,zone_id,item_name,detections,confidence,last_seen}', 'each with its own column for the time');

-- Twenty minutes on the street.
SELECT date_bin('1 hour', now() - interval '2 hours', 'epoch') AS hour \gset
\o /dev/null
SELECT pg_temp.detect(1, 1200, :'hour', '1 second');
SELECT pg_temp.settle();
\o
SELECT is(pg_temp.differences(name, width), 0::bigint, format('%s is what the detections give', name)) FROM windows;
SELECT is(count(DISTINCT at), 120::bigint, 'twenty minutes have a hundred and twenty times ten seconds') FROM seen_per_10s;
SELECT is(count(DISTINCT minute), 20::bigint, 'and twenty minutes') FROM seen_per_minute;
SELECT results_eq('SELECT five, sum(detections)::int FROM seen_per_5min GROUP BY 1 ORDER BY 1',
    format('SELECT %L::timestamptz + n * interval ''5 minutes'', 300 FROM generate_series(0, 3) n', :'hour'), 'and four times five, of three hundred detections each');

-- Half of them come again, with other confidences; some come hours and days late.
\o /dev/null
SELECT pg_temp.detect(601, 1800, :'hour'::timestamptz + interval '10 minutes', '1 second');
SELECT pg_temp.detect(1801, 1830, :'hour'::timestamptz - interval '5 hours', '7 seconds');
SELECT pg_temp.detect(1831, 1860, :'hour'::timestamptz - interval '2 days', '1 minute');
SELECT pg_temp.settle();
CALL pg_temp.await_none('SELECT FROM seen_per_10s WHERE at < now() - interval ''1 day 10 seconds''');
\o
SELECT is(duplicates, 600::bigint, 'what comes twice is counted once') FROM detect.stat_stream;
SELECT is(pg_temp.differences(name, width), 0::bigint, format('%s has what came late', name)) FROM windows WHERE kept IS NULL OR kept > interval '2 days';
SELECT is(pg_temp.differences('seen_per_10s', '10 seconds', date_bin('10 seconds', now() - interval '1 day', 'epoch')), 0::bigint,
          'seen_per_10s too, but for what is older than a day');
SELECT is(sum(detections), 30::numeric, 'detections of two days ago lie in their own minutes')
FROM seen_per_minute WHERE minute < now() - interval '1 day';

-- All zones together.  An average of averages would be another one.
SELECT results_eq('SELECT five, detections, confidence, last_seen FROM town_per_5min ORDER BY five',
    'SELECT date_bin(''5 minutes'', timestamp_detected, ''epoch''), count(*), avg(confidence), max(timestamp_detected) FROM detection GROUP BY 1 ORDER BY 1',
    'all zones and items together are what their detections give');
SELECT bag_eq('TABLE items_per_day',
    'SELECT date_bin(''1 day'', timestamp_detected, ''epoch''), item_name, count(*), avg(confidence), max(timestamp_detected) FROM detection GROUP BY 1, 2',
    'and so are items by day');
SELECT ok(t.confidence <> a.confidence, 'which the average of the zones'' averages is not')
FROM town_per_5min t JOIN (SELECT five, avg(confidence) AS confidence FROM seen_per_5min GROUP BY 1) a USING (five)
WHERE five = :'hour'::timestamptz + interval '20 minutes';
SELECT is(sum(detections), (SELECT count(*)::numeric FROM detection), 'nobody is lost on the way to the days') FROM items_per_day;

-- Detections of ten and sixteen days ago: the narrow windows do not keep them, the wide do.
\o /dev/null
SELECT pg_temp.detect(1861, 1890, date_trunc('hour', now()) - interval '10 days', '10 minutes');
SELECT pg_temp.detect(1891, 1920, date_trunc('hour', now()) - interval '16 days', '10 minutes');
SELECT pg_temp.detect(1921, 1950, date_trunc('hour', now()) - interval '25 days', '10 minutes');
SELECT pg_temp.settle();
CALL pg_temp.await_none('SELECT FROM seen_per_10s WHERE at < now() - interval ''1 day 10 seconds''');
CALL pg_temp.await_none('SELECT FROM seen_per_minute WHERE minute < now() - interval ''7 days 1 minute''');
CALL pg_temp.await_none('SELECT FROM seen_per_5min WHERE five < now() - interval ''14 days 5 minutes''');
CALL pg_temp.await_none('SELECT FROM seen_per_hour WHERE hour < now() - interval ''20 days 1 hour''');
\o
SELECT is(pg_temp.differences(name, width, coalesce(date_bin(width, now() - kept, 'epoch'), '-infinity')), 0::bigint,
          format('%s has what its retention keeps', name)) FROM windows;
SELECT ok(NOT EXISTS (SELECT FROM seen_per_10s WHERE at < now() - interval '1 day 10 seconds'), 'no ten seconds are older than a day');
SELECT is(count(*), 0::bigint, 'and no five minutes older than two weeks') FROM town_per_5min WHERE five < now() - interval '14 days 5 minutes';
SELECT is(sum(detections), 1950::numeric, 'the days have them all') FROM seen_per_day;

-- What a user can do to see whether it is right.
SELECT is((SELECT count(*) FROM detect.verify_rollup(name) WHERE problem <> 'unverifiable'), 0::bigint, format('detect.verify_rollup finds nothing in %s', name))
FROM windows WHERE name IN ('seen_per_minute', 'seen_per_day');

SELECT * FROM finish();
\o /dev/null
SET client_min_messages = error;
SELECT detect.drop_stream('camera');
