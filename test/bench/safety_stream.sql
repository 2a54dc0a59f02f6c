-- The town's stream over :identities events in partitions of an hour that are
-- open now: those that are past would have an index, and not be in memory.

SELECT bench.make_table(now(), now() + interval '2 hours');
ALTER TABLE city.detection ADD COLUMN kafka_timestamp timestamptz;
INSERT INTO city.detection (detection_oid, video_camera_oid, geographical_location_oid, item_name, confidence, timestamp_detected, zone_id, geom)
SELECT -n, (n % 20000)::int, location, (ARRAY['car', 'bus', 'bicycle', 'person'])[1 + n % 4], (n % 64 / 64.0)::real,
       date_trunc('hour', now()) + n % 3 * interval '1 hour' + n % 3600 * interval '1 second', location % 1000, ST_Point(13 + location / 10000.0, 52, 4326)
FROM generate_series(1::bigint, :identities) n, LATERAL (SELECT (n * 7919 % 10000)::int AS location OFFSET 0) l;
SELECT format('ALTER TABLE %s OWNER TO city_ops', inhrelid::regclass) FROM pg_inherits WHERE inhparent = 'city.detection'::regclass \gexec
VACUUM (ANALYZE, FREEZE) city.detection;

SET ROLE city_ops;
BEGIN;
SELECT bench.make_stream('location', 0, true, query => bench.exact_query());
-- from the end of the topic: the events before are those of another measurement
SELECT detect.seek('camera', to_time => 'infinity');
COMMIT;
RESET ROLE;
CALL bench.await_rows('SELECT WHERE NOT EXISTS (SELECT FROM detect.stat_rollup WHERE state <> ''active'')', '1 hour');
SELECT bench.must_equal('identities in memory', :identities, identities) FROM detect.stat_stream WHERE stream = 'camera';
CHECKPOINT;
