-- The town's stream over :rows events of history, from ten hours ago until the hour
-- began, with some 24 events a group, as the town has at 10,000/s; it is as it will
-- stay when this ends.

SELECT date_trunc('hour', now()) - interval '10 hours' AS first \gset
SELECT bench.make_table(:'first', CASE WHEN :rows > 0 THEN now() END);
ALTER TABLE city.detection ADD COLUMN kafka_timestamp timestamptz;
INSERT INTO city.detection (detection_oid, video_camera_oid, geographical_location_oid, item_name, confidence, timestamp_detected, zone_id, geom)
SELECT -n, (n % 20000)::int, location, (ARRAY['car', 'bus', 'bicycle', 'person'])[1 + n % 4], (n % 64 / 64.0)::real,
       :'first'::timestamptz + interval '10 hours' * (n / (:rows + 1.0)), location % greatest(:rows / (600 * 24 * 4), 1), ST_Point(13 + location / 10000.0, 52, 4326)
FROM generate_series(1::bigint, :rows) n, LATERAL (SELECT (n * 7919 % 10000)::int AS location OFFSET 0) l;
SELECT format('ALTER TABLE %s OWNER TO city_ops', inhrelid::regclass) FROM pg_inherits WHERE inhparent = 'city.detection'::regclass \gexec
ANALYZE city.detection;

SET ROLE city_ops;
BEGIN;
SELECT bench.make_stream('location', 0, true, query => bench.exact_query());
-- from the end of the topic: the events before are those of another measurement
SELECT detect.seek('camera', to_time => 'infinity');
COMMIT;
RESET ROLE;
CALL bench.await_rows('SELECT WHERE NOT EXISTS (SELECT FROM detect.stat_rollup WHERE state <> ''active'')', '1 hour');
-- the partitions that are past get their indexes; a vacuum would come some time
CALL bench.await_rows(format($$
    SELECT WHERE NOT EXISTS (SELECT FROM pg_inherits c JOIN pg_class p ON p.oid = c.inhrelid WHERE c.inhparent = 'city.detection'::regclass
        AND p.relname < 'detection_' || to_char(now() - interval '2 hours', 'YYYYMMDDHH24')
        AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = p.oid AND i.indisunique AND i.indisvalid)) $$), '1 hour');
VACUUM (ANALYZE) city.detection;
CHECKPOINT;
