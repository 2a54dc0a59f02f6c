-- What the panels of a dashboard ask: one zone by minute, the town by minute, the
-- zones with most detections.
\set zone random(1, 1000)
\set panel random(1, 3)
\if :panel = 1
SELECT minute, item_name, detections, confidence FROM city.items_per_minute
WHERE minute >= date_bin('1 minute', now() - interval '1 hour', 'epoch') AND zone_id = :zone ORDER BY minute;
\elif :panel = 2
SELECT minute, item_name, detections, sure, confidence, last_seen FROM city.town_per_minute
WHERE minute >= date_bin('1 minute', now() - interval '15 minutes', 'epoch') ORDER BY minute;
\else
SELECT zone_id, sum(detections) AS detections FROM city.items_per_minute
WHERE minute = date_bin('1 minute', now(), 'epoch') GROUP BY zone_id ORDER BY detections DESC LIMIT 10;
\endif
