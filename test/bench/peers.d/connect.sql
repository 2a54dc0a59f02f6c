-- Where Kafka Connect writes to, made anew for each drain: :contestant is connect
-- or connect_triggers.

-- The flat table has the columns of the message.  Below triggers it is one for
-- passing through: its rows are events by the time they commit, so that it need
-- not survive a crash, and has no key.
DROP TABLE IF EXISTS city.flat;
SELECT :'contestant' = 'connect_triggers' AS triggers \gset
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

\if :triggers
    ALTER TABLE city.flat SET UNLOGGED;
    GRANT SELECT, INSERT, UPDATE ON bench.items_per_minute, bench.town_per_minute TO city_ops;

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
\else
    ALTER TABLE city.flat ADD PRIMARY KEY (detection_oid);
\endif
CHECKPOINT;
