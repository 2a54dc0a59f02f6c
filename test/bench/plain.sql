-- The best plain SQL for the same work: the same rows, the same two rollups, each
-- event once.  One statement does it for every contestant that writes PostgreSQL
-- without detect; they differ in where its rows come from.  What is best here was
-- tried: taking the JSON apart with json_to_record is as fast as jsonb with an
-- arrow a column; batches of 100,000 are faster than smaller ones; half empty
-- pages let the upserts stay within their page.  Run by a superuser, after town.sql.

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

CREATE VIEW bench.items AS
SELECT minute, zone_id, item_name, detections, confidence_sum / detections AS confidence FROM bench.items_per_minute;

CREATE VIEW bench.town AS
SELECT minute, item_name, detections, sure, confidence_sum / detections AS confidence, last_seen FROM bench.town_per_minute;

-- An empty events table with a key, and empty rollups.
CREATE FUNCTION bench.make_plain(first timestamptz, last timestamptz) RETURNS void
LANGUAGE sql VOLATILE AS $$
    SELECT bench.make_table(first, last);
    ALTER TABLE city.detection ADD UNIQUE (detection_oid, timestamp_detected);
    TRUNCATE bench.items_per_minute, bench.town_per_minute;
$$;

-- The statement that accepts those rows of a source that are new.  The source is
-- a relation or a query in brackets with the columns of the message; zone_by is
-- "location", or "join" for a join with ST_Contains.
CREATE FUNCTION bench.accept_statement(source text, zone_by text) RETURNS text
LANGUAGE sql IMMUTABLE AS $$
    SELECT format($q$
        INSERT INTO city.detection (detection_oid, video_camera_oid, geographical_location_oid, item_name, confidence,
                                    timestamp_detected, location_name, zone_id, geom)
        SELECT m.detection_oid, m.video_camera_oid, m.geographical_location_oid, m.item_name, m.confidence,
               m.timestamp_detected, l.geographical_location, %s, ST_Point(m.lon, m.lat, 4326)
        FROM %s m
        LEFT JOIN city.location l USING (geographical_location_oid) %s
        ON CONFLICT DO NOTHING $q$,
        CASE zone_by WHEN 'join' THEN 'z.zone_id' ELSE 'l.zone_id' END, source,
        CASE zone_by WHEN 'join' THEN 'LEFT JOIN city.zones z ON ST_Contains(z.geom, ST_Point(m.lon, m.lat, 4326))' ELSE '' END)
$$;

-- The same, and both rollups.  Groups are written in their order, so that two
-- sessions at it don't wait for each other in a circle.
CREATE FUNCTION bench.plain_statement(source text, zone_by text) RETURNS text
LANGUAGE sql IMMUTABLE AS $$
    SELECT 'WITH accepted AS (' || bench.accept_statement(source, zone_by) || $q$
            RETURNING timestamp_detected, zone_id, item_name, confidence
        ), items AS (
            INSERT INTO bench.items_per_minute AS t
            SELECT date_bin('1 minute', timestamp_detected, 'epoch'), zone_id, item_name,
                   count(*), sum(confidence::float8)
            FROM accepted GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
            ON CONFLICT (minute, zone_id, item_name) DO UPDATE
            SET detections = t.detections + EXCLUDED.detections,
                confidence_sum = t.confidence_sum + EXCLUDED.confidence_sum
        )
        INSERT INTO bench.town_per_minute AS t
        SELECT date_bin('1 minute', timestamp_detected, 'epoch'), item_name,
               count(*), count(*) FILTER (WHERE confidence >= 0.9), sum(confidence::float8), max(timestamp_detected)
        FROM accepted GROUP BY 1, 2 ORDER BY 1, 2
        ON CONFLICT (minute, item_name) DO UPDATE
        SET detections = t.detections + EXCLUDED.detections,
            sure = t.sure + EXCLUDED.sure,
            confidence_sum = t.confidence_sum + EXCLUDED.confidence_sum,
            last_seen = greatest(t.last_seen, EXCLUDED.last_seen) $q$
$$;

-- Messages from the table of them, as a source: those after $1, and up to $2.
CREATE FUNCTION bench.plain_source() RETURNS text
LANGUAGE sql IMMUTABLE AS $$
    SELECT $q$(SELECT m.* FROM bench.message
               CROSS JOIN json_to_record(payload::json) AS m (detection_oid bigint, video_camera_oid int,
                   geographical_location_oid int, item_name text, confidence real, timestamp_detected timestamptz,
                   lon float8, lat float8)
               WHERE message_id > $1 AND message_id <= $2)$q$
$$;

-- Runs a statement over the table of messages, one commit for each so many.
CREATE PROCEDURE bench.apply_plain(statement text, batch_rows int)
LANGUAGE plpgsql AS $$
DECLARE
    done bigint := 0;
    last bigint := (SELECT max(message_id) FROM bench.message);
BEGIN
    WHILE done < last LOOP
        EXECUTE statement USING done, done + batch_rows;
        COMMIT;
        done := done + batch_rows;
    END LOOP;
END
$$;
