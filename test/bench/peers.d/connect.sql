-- Where Kafka Connect writes to, made anew for each drain: :contestant is connect,
-- connect_triggers or connect_rows.

-- The flat table has the columns of the message.  Below triggers it is one for
-- passing through: its rows are events by the time they commit, so that it need
-- not survive a crash, and has no key.
DROP TABLE IF EXISTS city.flat;
SELECT :'contestant' = 'connect_triggers' AS triggers, :'contestant' = 'connect_rows' AS row_triggers \gset
CREATE TABLE city.flat (
    detection_oid bigint NOT NULL,
    video_camera_oid int NOT NULL,
    geographical_location_oid int NOT NULL,
    item_name text NOT NULL,
    confidence real,
    timestamp_detected timestamptz NOT NULL,
    lon float8,
    lat float8
);
ALTER TABLE city.flat OWNER TO city_ops;
SELECT bench.make_plain(min(timestamp_detected), max(timestamp_detected)) FROM bench.expected;

GRANT SELECT, INSERT, UPDATE ON bench.items_per_minute, bench.town_per_minute TO city_ops;
\if :triggers
    ALTER TABLE city.flat SET UNLOGGED;

    -- Location, zone, events and both rollups of the rows of one statement.  One task
    -- at a time: duplicates and groups are those of both, and they would end in
    -- deadlocks.  The other one fetches and decodes meanwhile.
    CREATE OR REPLACE FUNCTION bench.flat_inserted() RETURNS trigger
    LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM pg_advisory_xact_lock('city.detection'::regclass::int);
        EXECUTE bench.plain_statement('new_rows', 'join');
        RETURN NULL;
    END
    $$;
    CREATE TRIGGER flat_inserted AFTER INSERT ON city.flat REFERENCING NEW TABLE AS new_rows
        FOR EACH STATEMENT EXECUTE FUNCTION bench.flat_inserted();
\elif :row_triggers
    ALTER TABLE city.flat SET UNLOGGED;

    -- The same for each row, as one begins.
    CREATE OR REPLACE FUNCTION bench.flat_row_inserted() RETURNS trigger
    LANGUAGE plpgsql AS $$
    DECLARE
        point geometry := ST_Point(NEW.lon, NEW.lat, 4326);
        zone int := (SELECT zone_id FROM city.zones WHERE ST_Contains(geom, point));
        minute_of timestamptz := date_bin('1 minute', NEW.timestamp_detected, 'epoch');
    BEGIN
        INSERT INTO city.detection (detection_oid, video_camera_oid, geographical_location_oid, item_name, confidence,
                                    timestamp_detected, location_name, zone_id, geom)
        VALUES (NEW.detection_oid, NEW.video_camera_oid, NEW.geographical_location_oid, NEW.item_name, NEW.confidence,
                NEW.timestamp_detected,
                (SELECT geographical_location FROM city.location WHERE geographical_location_oid = NEW.geographical_location_oid),
                zone, point)
        ON CONFLICT DO NOTHING;
        IF NOT FOUND THEN
            RETURN NULL;
        END IF;
        INSERT INTO bench.items_per_minute AS t
        VALUES (minute_of, zone, NEW.item_name, 1, NEW.confidence)
        ON CONFLICT (minute, zone_id, item_name) DO UPDATE
        SET detections = t.detections + 1, confidence_sum = t.confidence_sum + EXCLUDED.confidence_sum;
        INSERT INTO bench.town_per_minute AS t
        VALUES (minute_of, NEW.item_name, 1, (NEW.confidence >= 0.9)::int, NEW.confidence, NEW.timestamp_detected)
        ON CONFLICT (minute, item_name) DO UPDATE
        SET detections = t.detections + 1, sure = t.sure + EXCLUDED.sure,
            confidence_sum = t.confidence_sum + EXCLUDED.confidence_sum,
            last_seen = greatest(t.last_seen, EXCLUDED.last_seen);
        RETURN NULL;
    END
    $$;
    CREATE TRIGGER flat_row_inserted AFTER INSERT ON city.flat FOR EACH ROW EXECUTE FUNCTION bench.flat_row_inserted();
\else
    ALTER TABLE city.flat ADD PRIMARY KEY (detection_oid);
\endif
CHECKPOINT;
