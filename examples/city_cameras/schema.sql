-- City cameras: from a Kafka topic to the tables that a dashboard reads.
--
--   psql -v bootstrap=localhost:9092 -f schema.sql
--
-- Run it as a superuser in a database of its own; it creates the extension, two
-- roles and the schema "city".  -v topic=NAME takes another topic than
-- "camera.detections".

\set ON_ERROR_STOP on
\if :{?bootstrap}
\else
    \set bootstrap localhost:9092
\endif
\if :{?topic}
\else
    \set topic camera.detections
\endif

CREATE EXTENSION IF NOT EXISTS postgis;
CREATE EXTENSION IF NOT EXISTS detect;

-- ---------------------------------------------------------------------
-- Who does what: city_ops owns the tables and runs the stream (its worker
-- logs in as this role), city_dashboard reads.
-- ---------------------------------------------------------------------

SELECT 'CREATE ROLE city_ops LOGIN' WHERE to_regrole('city_ops') IS NULL \gexec
SELECT 'CREATE ROLE city_dashboard NOLOGIN' WHERE to_regrole('city_dashboard') IS NULL \gexec
GRANT detect_admin TO city_ops;
GRANT pg_monitor TO city_dashboard;    -- sees how streams do, but no dead letters

CREATE SCHEMA city AUTHORIZATION city_ops;
GRANT USAGE ON SCHEMA city TO city_dashboard;

SET ROLE city_ops;
SET search_path = city, public;
ALTER DEFAULT PRIVILEGES IN SCHEMA city GRANT SELECT ON TABLES TO city_dashboard;

-- ---------------------------------------------------------------------
-- Places: 10,000 locations of cameras, and 1000 zones that cover the town
-- without overlap, so that a point lies in at most one of them.
-- ---------------------------------------------------------------------

CREATE TABLE location (
    geographical_location_oid int PRIMARY KEY,
    geographical_location text NOT NULL,
    geom geometry(Point, 4326) NOT NULL
);
COMMENT ON TABLE location IS 'where cameras are; refreshed now and then, read anew by each batch';

INSERT INTO location
SELECT id + 1,
       format('%s %s',
              (ARRAY['Market', 'Station', 'Harbour', 'Mill', 'Castle', 'Garden', 'Church', 'School', 'River', 'North'])[id % 10 + 1]
              || (ARRAY[' Street', ' Square', ' Road', ' Lane', ' Bridge', ' Alley', ' Park', ' Gate'])[id / 10 % 8 + 1],
              id / 80 + 1),
       ST_Point(13.0 + 0.8 * (id % 100 + 0.5) / 100, 52.3 + 0.4 * (id / 100 + 0.5) / 100, 4326)
FROM generate_series(0, 9999) id;

CREATE TABLE zones (
    zone_id int PRIMARY KEY,
    zone_name text NOT NULL,
    geom geometry(Polygon, 4326) NOT NULL
);
COMMENT ON TABLE zones IS 'quarters of the town, 40 by 25, none overlapping another';

-- A grid whose inner borders are bent: each side is a curve of 16 pieces that
-- both neighbours share, so a ring has 64 corners and 65 points.
WITH side AS (
    SELECT line, cell, piece,
           cell + piece / 16.0::float8 AS along,
           line + CASE WHEN piece IN (0, 16) OR line = 0 OR line = last_line THEN 0
                       ELSE 0.25 * sin(pi() * piece / 16) * sin(line * 12.9898 + cell * 78.233) END AS across,
           vertical
    FROM (VALUES (true, 40, 24), (false, 25, 39)) direction (vertical, last_line, last_cell),
         LATERAL generate_series(0, last_line) line,
         LATERAL generate_series(0, last_cell) cell,
         LATERAL generate_series(0, 16) piece
), corner AS (
    SELECT vertical, line, cell, piece,
           ST_Point(13.0 + 0.02 * CASE WHEN vertical THEN across ELSE along END,
                    52.3 + 0.016 * CASE WHEN vertical THEN along ELSE across END, 4326) AS point
    FROM side
), ring AS (
    SELECT x, y, s.nth * 16 + CASE WHEN s.forward THEN c.piece ELSE 16 - c.piece END AS place, c.point
    FROM generate_series(0, 39) x, generate_series(0, 24) y,
         LATERAL (VALUES (0, false, y, x, true), (1, true, x + 1, y, true),
                         (2, false, y + 1, x, false), (3, true, x, y, false)) s (nth, vertical, line, cell, forward)
         JOIN corner c USING (vertical, line, cell)
    WHERE s.nth = 3 OR c.piece <> CASE WHEN s.forward THEN 16 ELSE 0 END
)
INSERT INTO zones
SELECT y * 40 + x + 1, format('%s-%s', chr(65 + y), to_char(x + 1, 'FM00')),
       ST_MakePolygon(ST_MakeLine(point ORDER BY place))
FROM ring GROUP BY x, y;

CREATE INDEX zones_geom ON zones USING gist (geom);
ANALYZE location, zones;

-- From a point to the zone that contains it, from memory: a join with
-- ST_Contains gives the same, and takes some 70 times as long (test/bench/locator).
SELECT detect.create_locator('zone_of', 'zones');

-- ---------------------------------------------------------------------
-- Events: one row a detection, partitions of an hour
-- ---------------------------------------------------------------------

CREATE TABLE detection (
    detection_oid bigint NOT NULL,
    video_camera_oid int NOT NULL,
    geographical_location_oid int NOT NULL,
    item_name text NOT NULL,
    confidence real CHECK (confidence BETWEEN 0 AND 1),
    timestamp_detected timestamptz NOT NULL,
    location_name text,
    zone_id int,
    geom geometry(Point, 4326)
) PARTITION BY RANGE (timestamp_detected);
COMMENT ON TABLE detection IS 'what the cameras saw, each detection once';

-- ---------------------------------------------------------------------
-- The stream and its rollups: one transaction, so that they start together
-- ---------------------------------------------------------------------

CREATE SERVER city FOREIGN DATA WRAPPER detect_kafka OPTIONS (bootstrap_servers :'bootstrap');
CREATE USER MAPPING FOR city_ops SERVER city;    -- sasl_username and sasl_password go here

BEGIN;

SELECT detect.create_stream('camera', server => 'city', topic => :'topic', events_table => 'detection',
    columns => 'detection_oid bigint, video_camera_oid int, geographical_location_oid int, item_name text,
                confidence real, timestamp_detected timestamptz, lon float8, lat float8',
    query   => $$ SELECT b.*, l.geographical_location AS location_name, zone_of(b.lon, b.lat) AS zone_id,
                         ST_Point(b.lon, b.lat, 4326) AS geom
                  FROM batch b
                  LEFT JOIN location l USING (geographical_location_oid) $$,
    key => '{detection_oid}', event_time => 'timestamp_detected',
    partition_interval => '1 hour', retention => '30 days');

SELECT detect.create_rollup('items_per_minute', $$
    SELECT date_bin('1 minute', timestamp_detected, 'epoch') AS minute, zone_id, item_name,
           count(*) AS detections, avg(confidence) AS confidence
    FROM detection GROUP BY 1, 2, 3 $$, retention => '1 year');

SELECT detect.create_rollup('town_per_minute', $$
    SELECT date_bin('1 minute', timestamp_detected, 'epoch') AS minute, item_name,
           count(*) AS detections, count(*) FILTER (WHERE confidence >= 0.9::real) AS sure,
           avg(confidence) AS confidence, max(timestamp_detected) AS last_seen
    FROM detection GROUP BY 1, 2 $$, retention => '1 year');

COMMIT;

GRANT SELECT ON items_per_minute, town_per_minute TO city_dashboard;
RESET ROLE;
RESET search_path;
