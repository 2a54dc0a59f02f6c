-- Loads the messages from :file, works out what must become of them, and writes
-- the finished rows to :rows.  :zones is true where points are looked up too.

SET jit = off;
COPY bench.message (payload) FROM :'file';
CREATE UNIQUE INDEX ON bench.message (message_id);
VACUUM ANALYZE bench.message;

-- A duplicate has the same bytes, so that it does not matter which one is kept.
INSERT INTO bench.expected
SELECT m.detection_oid, m.video_camera_oid, m.geographical_location_oid, m.item_name, m.confidence,
       m.timestamp_detected, l.geographical_location, l.zone_id, ST_Point(m.lon, m.lat, 4326)
FROM (SELECT min(message_id) AS first_id, payload FROM bench.message GROUP BY payload) d
CROSS JOIN json_to_record(payload::json) AS m (detection_oid bigint, video_camera_oid int,
    geographical_location_oid int, item_name text, confidence real, timestamp_detected timestamptz,
    lon float8, lat float8)
LEFT JOIN city.location l USING (geographical_location_oid)
ORDER BY first_id;

\if :zones
    CREATE UNLOGGED TABLE bench.contained AS
    SELECT detection_oid, z.zone_id FROM bench.expected e JOIN city.zones z ON ST_Contains(z.geom, e.geom);
    UPDATE bench.expected e SET zone_of_point = z.zone_id FROM bench.contained z WHERE z.detection_oid = e.detection_oid;
\endif
VACUUM ANALYZE bench.expected;
COPY (SELECT * FROM bench.events(false)) TO :'rows';
