-- What ClickHouse has at the end, from files of :dir, compared; :run.
--
-- Its polygon dictionaries keep coordinates in single precision, so that a point
-- near a border can be in the wrong zone.  How many are is told; all the rest must
-- be as if these zones were right.  It reads JSON's numbers fast, and not always to
-- their last bit: coordinates are compared by the six digits that messages have.

CREATE TEMP TABLE copied (LIKE bench.detection, lon float8, lat float8);
ALTER TABLE copied DROP COLUMN geom;
CREATE TEMP TABLE items (minute timestamptz, zone_id int, item_name text, detections bigint, confidence float8);
CREATE TEMP TABLE town (minute timestamptz, item_name text, detections bigint, sure bigint, confidence float8, last_seen timestamptz);
\set file :dir /detection
COPY copied FROM :'file';
\set file :dir /items
COPY items FROM :'file';
\set file :dir /town
COPY town FROM :'file';
ANALYZE copied;

SELECT bench.make_table(min(timestamp_detected), max(timestamp_detected)) FROM bench.expected;
INSERT INTO city.detection
SELECT detection_oid, video_camera_oid, geographical_location_oid, item_name, confidence, timestamp_detected,
       location_name, zone_id, ST_Point(round(lon::numeric, 6)::float8, round(lat::numeric, 6)::float8, 4326)
FROM copied;
SELECT count(*) AS wrong, greatest(0, count(*) - (SELECT count(*) FROM copied) / 1000) AS too_many
FROM copied c JOIN bench.expected e USING (detection_oid) WHERE c.zone_id IS DISTINCT FROM e.zone_of_point \gset

BEGIN;
SELECT bench.must_equal('wrong zones beyond 1 in 1000', 0, :too_many);
UPDATE bench.expected e SET zone_of_point = c.zone_id
FROM copied c WHERE c.detection_oid = e.detection_oid AND c.zone_id IS DISTINCT FROM e.zone_of_point;
SELECT bench.check_events(true);
SELECT bench.check_rollups(true, 'items', 'town');
ROLLBACK;
INSERT INTO bench.figure VALUES (:run, 'clickhouse', 'wrong zones', :wrong);
