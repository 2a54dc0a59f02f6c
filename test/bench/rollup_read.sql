-- Reading from a long history: :groups, of twenty events each, put into the states
-- directly.  The last hour by minute of one camera of 1000, from the rollup and
-- from a table with the same rows and index.

SET ROLE city_ops;
SELECT bench.make_sightings('{}');
SET search_path = city, public;
SELECT detect.create_rollup('by_camera', $$ SELECT camera, date_bin('1 minute', at, 'epoch') AS bucket, count(*) AS detections, avg(confidence) AS confidence
    FROM sighting GROUP BY 1, 2 $$);
SELECT detect.create_rollup('by_minute', $$ SELECT date_bin('1 minute', at, 'epoch') AS bucket, camera, count(*) AS detections, avg(confidence) AS confidence
    FROM sighting GROUP BY 1, 2 $$);
RESET ROLE;
RESET search_path;
SELECT detect.wait_for_rollup('by_camera'), detect.wait_for_rollup('by_minute');

-- The state of avg(real): count, sum, sum of squares of differences.
CREATE TEMP VIEW history AS
SELECT camera, date_trunc('minute', now()) - n * interval '1 minute' AS bucket, 20::bigint AS detections, (camera + n) % 64 / 64.0::float8 AS confidence
FROM generate_series(0, :groups / 1000 - 1) n, generate_series(0, 999) camera;
BEGIN;
INSERT INTO detect_state.by_camera (camera, bucket, detections, s2) SELECT camera, bucket, detections, ARRAY[20, 20 * confidence, 0] FROM history;
INSERT INTO detect_state.by_minute (bucket, camera, detections, s2) SELECT bucket, camera, detections, ARRAY[20, 20 * confidence, 0] FROM history;
CREATE TABLE bench.plain_by_camera AS SELECT camera, bucket, detections, confidence FROM history;
CREATE TABLE bench.plain_by_minute AS SELECT bucket, camera, detections, confidence FROM history;
SELECT bench.must_match('by_camera', 'city.by_camera', 'TABLE bench.plain_by_camera'),
       bench.must_match('by_minute', 'city.by_minute', 'TABLE bench.plain_by_minute');
COMMIT;
CREATE UNIQUE INDEX ON bench.plain_by_camera (camera, bucket);
CREATE UNIQUE INDEX ON bench.plain_by_minute (bucket, camera);
VACUUM (ANALYZE) detect_state.by_camera, detect_state.by_minute, bench.plain_by_camera, bench.plain_by_minute;

SELECT bench.keep(format('reading an hour of one camera, GROUP BY %s', CASE name WHEN 'by_camera' THEN 'camera, minute' ELSE 'minute, camera' END),
    bench.read_ms(format(query, 'city.' || name)), 'ms', 5,
    format('summary table %s; %s groups', bench.digits(bench.read_ms(format(query, 'bench.plain_' || name))), :groups))
FROM (VALUES ('by_camera'), ('by_minute')) n (name),
     (VALUES ($$ SELECT bucket, detections, confidence FROM %s WHERE camera = 7 AND bucket > now() - interval '1 hour' ORDER BY bucket $$)) q (query);
SELECT bench.drop_sightings();
DROP TABLE bench.plain_by_camera, bench.plain_by_minute;
