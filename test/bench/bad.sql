-- One measurement of bad: :run, :contestant, :topic.  Times the drain and the
-- retry of the dead letters after they can be mended, and checks both.

SET synchronous_commit = off;
SELECT count(*) AS messages FROM bench.message \gset
SELECT bench.make_table(NULL, NULL);
SELECT CASE WHEN :'contestant' = 'reject30' THEN 'CASE WHEN b.detection_oid % 10 < 3 THEN ''not yet'' END' ELSE 'NULL::text' END AS reject \gset
SELECT CASE :'contestant' WHEN 'refuse1' THEN 1 WHEN 'refuse30' THEN 30 ELSE 0 END AS refused \gset
CHECKPOINT;
SELECT clock_timestamp() AS begin \gset
SET ROLE city_ops;
SELECT bench.make_stream('location', 0, false, topic => :'topic', query => $q$
    SELECT b.detection_oid, b.video_camera_oid, b.geographical_location_oid, b.item_name,
           CASE WHEN b.detection_oid % 100 < $q$ || :refused || $q$ THEN 2 ELSE b.confidence END AS confidence, b.timestamp_detected, b.lon, b.lat,
           l.geographical_location AS location_name, l.zone_id, ST_Point(b.lon, b.lat, 4326) AS geom, $q$ || :'reject' || $q$ AS reject_reason
    FROM batch b LEFT JOIN location l USING (geographical_location_oid) $q$);
RESET ROLE;
CALL bench.await(:messages);
SELECT extract(epoch FROM clock_timestamp() - :'begin'::timestamptz) AS drain \gset
SELECT detect.wait_for('camera');
SELECT count(*) AS letters FROM detect.dead_letter \gset
SELECT bench.must_equal('events and letters', :messages, (SELECT count(*) FROM city.detection) + :letters);
SELECT bench.must_equal('dead letters counted', :letters, dead_letters) FROM detect.stat_stream WHERE stream = 'camera';
SELECT bench.must_equal('events that should not be there', 0, (SELECT count(*) FROM (
    SELECT * FROM city.detection EXCEPT ALL SELECT * FROM bench.events(false)) d));

-- The fix: "gate 7" is camera 7, and nothing is rejected.
SET ROLE city_ops;
SET search_path = city, public;
SELECT detect.alter_stream('camera', columns => 'detection_oid bigint, video_camera_oid text, geographical_location_oid int,
        item_name text, confidence real, timestamp_detected timestamptz, lon float8, lat float8',
    query => $q$
        SELECT b.detection_oid, substring(b.video_camera_oid FROM '\d+')::int AS video_camera_oid, b.geographical_location_oid,
               b.item_name, b.confidence, b.timestamp_detected, b.lon, b.lat,
               l.geographical_location AS location_name, l.zone_id, ST_Point(b.lon, b.lat, 4326) AS geom
        FROM batch b LEFT JOIN location l USING (geographical_location_oid) $q$);
SELECT clock_timestamp() AS begin \gset
SELECT detect.retry_dead_letters('camera');
SELECT detect.wait_for('camera');
SELECT extract(epoch FROM clock_timestamp() - :'begin'::timestamptz) AS retry \gset
RESET ROLE;
SELECT bench.check_events(false);
SELECT bench.check_rollups(false, 'city.items_per_minute', 'city.town_per_minute');
SELECT bench.must_equal('dead letters left', 0, (SELECT count(*) FROM detect.dead_letter));
INSERT INTO bench.figure VALUES (:run, :'contestant', 'drain', :drain * 1e6 / :messages),
    (:run, :'contestant', 'retry', :retry * 1e6 / nullif(:letters, 0));
SELECT detect.drop_rollup('items_per_minute'), detect.drop_rollup('town_per_minute'), detect.drop_stream('camera');
