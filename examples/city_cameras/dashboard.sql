-- What a dashboard sends.  psql -f dashboard.sql, as city_ops, or after SET ROLE
-- city_dashboard.

SET search_path = city, public;

\echo Is the stream well?  (a stream that should run and does not is a row, too)
SELECT stream, state, reason, lag_messages, round(events_per_second) AS events_per_second,
       freshness_p50_ms, freshness_p99_ms, duplicates, dead_letters
FROM detect.stat_stream;

\echo The busiest quarters of the last ten minutes
SELECT z.zone_name, sum(detections) AS detections, count(DISTINCT item_name) AS kinds_of_items
FROM items_per_minute i JOIN zones z USING (zone_id)
WHERE minute > now() - interval '10 minutes'
GROUP BY z.zone_name ORDER BY detections DESC LIMIT 10;

\echo What the town sees, minute by minute
SELECT minute, item_name, detections, sure, round(confidence::numeric, 3) AS confidence, last_seen
FROM town_per_minute
WHERE minute > now() - interval '5 minutes'
ORDER BY minute DESC, detections DESC LIMIT 20;

\echo Cars against pedestrians within one kilometre of the market
SELECT minute, sum(detections) FILTER (WHERE item_name = 'car') AS cars,
       sum(detections) FILTER (WHERE item_name = 'person') AS persons
FROM items_per_minute i JOIN zones z USING (zone_id)
WHERE minute > now() - interval '10 minutes'
  AND ST_DWithin(z.geom::geography, ST_Point(13.404, 52.5, 4326)::geography, 1000)
GROUP BY minute ORDER BY minute DESC;

\echo The last detections at one location
SELECT timestamp_detected, item_name, confidence, location_name
FROM detection
WHERE timestamp_detected > now() - interval '1 minute' AND geographical_location_oid = 1
ORDER BY timestamp_detected DESC LIMIT 10;

\echo An alarm: an ambulance in the last 30 seconds
SELECT timestamp_detected, location_name, ST_X(geom) AS lon, ST_Y(geom) AS lat
FROM detection
WHERE timestamp_detected > now() - interval '30 seconds' AND item_name = 'ambulance'
ORDER BY timestamp_detected DESC LIMIT 10;
