-- What ClickHouse has at the end, from files of :dir, compared; the measurement was
-- closed before.  :run, :last_commit (seconds since 1970).

BEGIN;
CREATE TEMP TABLE copied (LIKE bench.detection, lon float8, lat float8) ON COMMIT DROP;
ALTER TABLE copied DROP COLUMN geom;
CREATE TEMP TABLE items (minute timestamptz, zone_id int, item_name text, detections bigint, confidence float8) ON COMMIT DROP;
CREATE TEMP TABLE town (minute timestamptz, item_name text, detections bigint, sure bigint, confidence float8,
                        last_seen timestamptz) ON COMMIT DROP;
\set file :dir /detection
COPY copied FROM :'file';
\set file :dir /items
COPY items FROM :'file';
\set file :dir /town
COPY town FROM :'file';
SELECT bench.make_table(min(timestamp_detected), max(timestamp_detected)) FROM bench.expected;
INSERT INTO city.detection
SELECT detection_oid, video_camera_oid, geographical_location_oid, item_name, confidence, timestamp_detected,
       location_name, zone_id, ST_Point(lon, lat, 4326)
FROM copied;
SELECT bench.check_events(true);
SELECT bench.check_rollups(true, 'items', 'town');
COMMIT;
