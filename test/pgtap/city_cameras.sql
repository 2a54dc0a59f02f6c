-- The city cameras as their users would check them: the schema of the example,
-- fed by SQL through the stream's staging table, beside a topic that is empty.

\set QUIET on
\set ON_ERROR_STOP on
\pset format unaligned
\pset tuples_only on
\pset pager off
SET client_min_messages = warning;

\set bootstrap `echo "${DETECT_BOOTSTRAP:-127.0.0.1:1}"`
\set topic pgtap.city_cameras
\o /dev/null
\ir ../../examples/city_cameras/schema.sql
CREATE EXTENSION pgtap;
\o
SET client_min_messages = warning;
SET search_path = city, public;

SELECT plan(30);

-- One detection as a camera sends it.  Locations lie on a grid; so do zones.
CREATE FUNCTION pg_temp.detect(oid bigint, item text, at timestamptz, lon float8 DEFAULT 13.41, lat float8 DEFAULT 52.508,
                               confidence real DEFAULT 0.5, location int DEFAULT 42) RETURNS void LANGUAGE sql AS $$
    INSERT INTO detect_staging.camera (detection_oid, video_camera_oid, geographical_location_oid, item_name,
                                       confidence, timestamp_detected, lon, lat)
    VALUES ($1, 7, $7, $2, $6, $3, $4, $5) $$;

SELECT has_table('city', 'detection', 'the events table is there');
SELECT has_view('city', 'items_per_minute', 'the rollup is a view in the user''s schema');
SELECT view_owner_is('city', 'items_per_minute', 'city_ops', 'and belongs to the user');

-- What happens on the street: three cars, one of them sent twice, a bicycle
-- that comes three hours late, and a bus outside of the town.
SELECT date_trunc('minute', now() - interval '10 minutes') AS minute \gset
\o /dev/null
SELECT pg_temp.detect(1, 'car', :'minute'::timestamptz + interval '1 s');
SELECT pg_temp.detect(2, 'car', :'minute'::timestamptz + interval '2 s', confidence => 0.9);
SELECT pg_temp.detect(2, 'car', :'minute'::timestamptz + interval '2 s', confidence => 0.1);
SELECT pg_temp.detect(3, 'car', :'minute'::timestamptz + interval '61 s');
SELECT pg_temp.detect(4, 'bicycle', :'minute'::timestamptz - interval '3 hours');
SELECT pg_temp.detect(5, 'bus', :'minute'::timestamptz + interval '3 s', lon => 20, lat => 50, location => -1);
SELECT detect.wait_for('camera', '60s');
\o

SELECT is(count(*), 5::bigint, 'five detections, each once') FROM detection;
SELECT is(confidence, 0.9::real, 'of a detection that came twice the first one stands') FROM detection WHERE detection_oid = 2;
SELECT is(location_name, (SELECT geographical_location FROM location WHERE geographical_location_oid = 42),
          'the location is joined') FROM detection WHERE detection_oid = 1;
SELECT is(d.zone_id, z.zone_id, 'the zone is the one that contains the point')
FROM detection d JOIN zones z ON ST_Contains(z.geom, d.geom) WHERE detection_oid = 1;
SELECT ok(zone_id IS NULL AND location_name IS NULL, 'outside of the town there is no zone and no location')
FROM detection WHERE detection_oid = 5;

-- Windows of a minute.
SELECT results_eq(
    format('SELECT sum(detections)::int, max(last_seen) FROM town_per_minute WHERE minute = %L AND item_name = ''car''', :'minute'),
    format('SELECT 2, %L::timestamptz + interval ''2 s''', :'minute'), 'two cars in the first minute');
SELECT is(sum(detections), 1::numeric, 'a late event lands in its own minute')
FROM items_per_minute WHERE minute = :'minute'::timestamptz - interval '3 hours';
SELECT is(round(avg(confidence)::numeric, 2), 0.70, 'the average is that of the accepted ones')
FROM town_per_minute WHERE minute = :'minute' AND item_name = 'car';
SELECT bag_eq('TABLE items_per_minute',
    $$ SELECT date_bin('1 minute', timestamp_detected, 'epoch'), zone_id, item_name, count(*), avg(confidence)
       FROM detection GROUP BY 1, 2, 3 $$, 'the rollup is what its query says');

-- Two more within the same minute, then what no camera should send.
\o /dev/null
SELECT pg_temp.detect(6, 'car', :'minute'::timestamptz + interval '59 s');
SELECT pg_temp.detect(7, 'car', :'minute'::timestamptz, confidence => 1.5);
SELECT pg_temp.detect(8, 'car', now() + interval '2 years');
SELECT pg_temp.detect(NULL, 'car', :'minute');
SELECT detect.wait_for('camera', '60s');
\o
SELECT is(sum(detections), 3::numeric, 'later events join the minute that was shown before')
FROM town_per_minute WHERE minute = :'minute' AND item_name = 'car';
SELECT set_eq('SELECT stage, sqlstate FROM detect.dead_letter',
    $$ VALUES ('insert', '23514'), ('check', '22008'), ('check', '23502') $$, 'broken ones are dead letters with their reasons');
SELECT results_eq('SELECT accepted, duplicates, filtered, expired, dead_letters FROM detect.stat_stream',
    'VALUES (6::bigint, 1::bigint, 0::bigint, 0::bigint, 3::bigint)', 'each of ten has one outcome');

-- Old hours share a partition; what is past retention is counted and not kept.
\o /dev/null
SELECT pg_temp.detect(9, 'car', now() - interval '20 days');
SELECT pg_temp.detect(10, 'car', now() - interval '31 days');
SELECT detect.wait_for('camera', '60s');
\o
SELECT is(tableoid::regclass::text,
          to_char(date_bin('100 hours', timestamp_detected AT TIME ZONE 'UTC', '2000-01-01'), '"detection_"YYYYMMDD_HH2400"_x100"'),
          'an event of three weeks ago lies in a partition of 100 hours') FROM detection WHERE detection_oid = 9;
SELECT is_empty('SELECT FROM detection WHERE detection_oid = 10', 'one that is past retention is not kept');
SELECT is(expired, 1::bigint, 'but counted') FROM detect.stat_stream;

-- Places change while the stream runs: new events see it, old ones stay as they are.
\o /dev/null
UPDATE location SET geographical_location = 'New Square 1' WHERE geographical_location_oid = 42;
SELECT pg_temp.detect(11, 'dog', :'minute'::timestamptz + interval '5 s');
SELECT detect.wait_for('camera', '60s');
\o
SELECT is(location_name, 'New Square 1', 'a location that was renamed has its new name in later events')
FROM detection WHERE detection_oid = 11;
SELECT isnt(location_name, 'New Square 1', 'and keeps its old one in earlier ones') FROM detection WHERE detection_oid = 1;

-- Everything once more, as after a new start from the beginning of the topic.
CREATE TEMP TABLE seen AS TABLE detection;
\o /dev/null
INSERT INTO detect_staging.camera (detection_oid, video_camera_oid, geographical_location_oid, item_name, confidence,
                                   timestamp_detected, lon, lat)
SELECT detection_oid, video_camera_oid, geographical_location_oid, item_name, 0, timestamp_detected, ST_X(geom), ST_Y(geom) FROM seen;
SELECT detect.wait_for('camera', '60s');
\o
SELECT bag_eq('TABLE detection', 'TABLE seen', 'a replay changes no event');
SELECT bag_eq('TABLE items_per_minute',
    $$ SELECT date_bin('1 minute', timestamp_detected, 'epoch'), zone_id, item_name, count(*), avg(confidence)
       FROM detection GROUP BY 1, 2, 3 $$, 'nor a rollup');
SELECT bag_eq('TABLE town_per_minute',
    $$ SELECT date_bin('1 minute', timestamp_detected, 'epoch'), item_name, count(*) AS n, count(*) FILTER (WHERE confidence >= 0.9::real) AS sure,
              avg(confidence), max(timestamp_detected)
       FROM detection GROUP BY 1, 2 $$, 'neither of them');
SELECT is(duplicates, 1 + (SELECT count(*) FROM seen), 'each of them is a duplicate') FROM detect.stat_stream;

-- Who may see what.
SET ROLE city_dashboard;
\o /dev/null
\ir ../../examples/city_cameras/dashboard.sql
\o
SELECT pass('the queries of the dashboard run');
SELECT is(count(*), 1::bigint, 'the dashboard sees how the stream does') FROM detect.stat_stream;
SELECT lives_ok('TABLE city.items_per_minute', 'the dashboard reads rollups');
SELECT throws_ok('INSERT INTO detect_staging.camera DEFAULT VALUES', '42501', NULL, 'but feeds no stream');
SELECT throws_ok('SELECT detect.pause(''camera'')', '42501', NULL, 'and pauses none');
SELECT is_empty('TABLE detect.dead_letter', 'and sees no dead letters');
RESET ROLE;

SELECT * FROM finish();
\o /dev/null
SET client_min_messages = error;
SELECT detect.drop_stream('camera');
