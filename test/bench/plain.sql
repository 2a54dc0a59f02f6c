-- The contestant in plain SQL: the same JSON from a table, the same rows, the
-- same two rollups, each event once.  What is best here was tried: taking the
-- JSON apart with json_to_record is as fast as jsonb with an arrow a column;
-- batches of 100,000 are faster than smaller ones; half empty pages let the
-- upserts stay within their page.  Run by a superuser, after town.sql.

CREATE TABLE bench.items_per_minute (
    minute timestamptz NOT NULL,
    zone_id int,
    item_name text NOT NULL,
    detections bigint NOT NULL,
    confidence_sum float8 NOT NULL,
    UNIQUE NULLS NOT DISTINCT (minute, zone_id, item_name)
) WITH (fillfactor = 50);

CREATE TABLE bench.town_per_minute (
    minute timestamptz NOT NULL,
    item_name text NOT NULL,
    detections bigint NOT NULL,
    sure bigint NOT NULL,
    confidence_sum float8 NOT NULL,
    last_seen timestamptz NOT NULL,
    UNIQUE (minute, item_name)
) WITH (fillfactor = 50);

-- One commit for each so many messages.
CREATE PROCEDURE bench.apply_plain(batch_rows int)
LANGUAGE plpgsql AS $$
DECLARE
    done bigint := 0;
    last bigint := (SELECT max(message_id) FROM bench.message);
BEGIN
    WHILE done < last LOOP
        WITH accepted AS (
            INSERT INTO city.detection (detection_oid, video_camera_oid, geographical_location_oid, item_name, confidence,
                                        timestamp_detected, location_name, zone_id, geom)
            SELECT m.detection_oid, m.video_camera_oid, m.geographical_location_oid, m.item_name, m.confidence,
                   m.timestamp_detected, l.geographical_location, l.zone_id, ST_Point(m.lon, m.lat, 4326)
            FROM bench.message
            CROSS JOIN json_to_record(payload::json) AS m (detection_oid bigint, video_camera_oid int,
                geographical_location_oid int, item_name text, confidence real, timestamp_detected timestamptz,
                lon float8, lat float8)
            LEFT JOIN city.location l USING (geographical_location_oid)
            WHERE message_id > done AND message_id <= done + batch_rows
            ON CONFLICT DO NOTHING
            RETURNING timestamp_detected, zone_id, item_name, confidence
        ), items AS (
            INSERT INTO bench.items_per_minute AS t
            SELECT date_bin('1 minute', timestamp_detected, 'epoch'), zone_id, item_name,
                   count(*), sum(confidence::float8)
            FROM accepted GROUP BY 1, 2, 3
            ON CONFLICT (minute, zone_id, item_name) DO UPDATE
            SET detections = t.detections + EXCLUDED.detections,
                confidence_sum = t.confidence_sum + EXCLUDED.confidence_sum
        )
        INSERT INTO bench.town_per_minute AS t
        SELECT date_bin('1 minute', timestamp_detected, 'epoch'), item_name,
               count(*), count(*) FILTER (WHERE confidence >= 0.9), sum(confidence::float8), max(timestamp_detected)
        FROM accepted GROUP BY 1, 2
        ON CONFLICT (minute, item_name) DO UPDATE
        SET detections = t.detections + EXCLUDED.detections,
            sure = t.sure + EXCLUDED.sure,
            confidence_sum = t.confidence_sum + EXCLUDED.confidence_sum,
            last_seen = greatest(t.last_seen, EXCLUDED.last_seen);
        COMMIT;
        done := done + batch_rows;
    END LOOP;
END
$$;
