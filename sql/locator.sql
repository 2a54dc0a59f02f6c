--
-- locator: from a point to the key of a place
--
-- Whether answers are those of PostGIS is tested in locator_oracle; here is what
-- can be asked for, by whom, and what is said when it can't.
--
CREATE ROLE regress_surveyor LOGIN;
CREATE ROLE regress_visitor LOGIN;
CREATE ROLE regress_builder LOGIN;
CREATE SCHEMA locator AUTHORIZATION regress_surveyor;
GRANT USAGE ON SCHEMA locator TO PUBLIC;
GRANT CREATE ON SCHEMA locator TO regress_builder;
SET SESSION AUTHORIZATION regress_surveyor;
SET search_path = locator, public;

CREATE TABLE zones (
    zone_id int PRIMARY KEY, code text, level int NOT NULL DEFAULT 1, owner_id int,
    geom geometry(Polygon, 25832));
CREATE INDEX ON zones USING gist (geom);
-- a city of 10 by 10, a district in it, a yard in that, and a zone with a hole
INSERT INTO zones VALUES
    (1, 'city',     1, 7, 'SRID=25832;POLYGON((0 0, 10 0, 10 10, 0 10, 0 0))'),
    (2, 'district', 2, 7, 'SRID=25832;POLYGON((0 0, 5 0, 5 5, 0 5, 0 0))'),
    (3, 'yard',     3, 7, 'SRID=25832;POLYGON((1 1, 2 1, 2 2, 1 2, 1 1))'),
    (4, 'ring',     1, 7, 'SRID=25832;POLYGON((20 0, 30 0, 30 10, 20 10, 20 0), (22 2, 28 2, 28 8, 22 8, 22 2))');

-- ---------------------------------------------------------------------
-- What it makes
-- ---------------------------------------------------------------------
SELECT detect.create_locator('zone_of', 'zones', key => 'zone_id', geometry => 'geom');
SELECT p.oid::regprocedure AS function, pg_get_function_result(p.oid) AS result, p.provolatile, p.proparallel,
       obj_description(p.oid, 'pg_proc') AS comment
FROM pg_proc p WHERE p.pronamespace = 'locator'::regnamespace ORDER BY p.oid::regprocedure::text COLLATE "C";
SELECT locator, owner, place_table, key, geometry, mode, within, priority, filter, all_name, srid, max_age FROM detect.locator;
SELECT pg_get_viewdef('detect_query.zone_of'::regclass);
SELECT tgname, tgenabled, pg_get_triggerdef(oid) FROM pg_trigger WHERE tgrelid = 'zones'::regclass ORDER BY 1;
-- a call is that of the C function
EXPLAIN (VERBOSE, COSTS OFF) SELECT zone_of(x, y) FROM (VALUES (1.5::float8, 1.5::float8), (7, 7)) v (x, y);

-- ---------------------------------------------------------------------
-- What it answers
-- ---------------------------------------------------------------------
CREATE TABLE points (label text, x float8, y float8);
INSERT INTO points VALUES ('in all three', 1.5, 1.5), ('in two', 3, 3), ('in one', 7, 7), ('on the border of two', 5, 3), ('corner', 0, 0),
    ('outside', 50, 50), ('in the ring', 21, 5), ('in the hole', 25, 5), ('on the hole', 22, 5),
    ('nowhere', 'NaN', 1), ('infinite', 1, 'Infinity'), ('unknown', NULL, 1);
SELECT label, zone_of(x, y), zone_of(ST_Point(x, y, 25832)), zones_of_array(x, y), (SELECT array_agg(z) FROM zones_of(ST_Point(x, y, 25832)) z) AS zones_of
FROM points;
SELECT zone_of(NULL::geometry), zone_of('SRID=25832;POINT EMPTY'), zones_of_array(NULL::geometry), zone_of('SRID=25832;POINT Z (1.5 1.5 9)'),
       zone_of('SRID=25832;POINT ZM (1.5 1.5 9 9)');
-- whatever is no point goes to PostGIS
SELECT zone_of('SRID=25832;LINESTRING(1.2 1.2, 1.8 1.8)'), zone_of('SRID=25832;LINESTRING(1.5 1.5, 7 7)'), zones_of_array('SRID=25832;MULTIPOINT((1.5 1.5), (3 3))');
SELECT regress.outcome('SELECT zone_of(ST_Point(1, 1, 4326))');
SELECT regress.outcome('SELECT zone_of(ST_Point(1, 1))');

-- in a trigger of an ordinary table, in a join, in a view
CREATE TABLE sighting (id int, at geometry(Point, 25832), zone_id int);
CREATE FUNCTION locate_sighting() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN new.zone_id := zone_of(new.at); RETURN new; END $$;
CREATE TRIGGER locate BEFORE INSERT ON sighting FOR EACH ROW EXECUTE FUNCTION locate_sighting();
INSERT INTO sighting SELECT row_number() OVER (), ST_Point(x, y, 25832) FROM points WHERE x < 100 AND y < 100;
SELECT s.id, s.zone_id, z.code FROM sighting s LEFT JOIN zones z USING (zone_id) ORDER BY id;

-- ---------------------------------------------------------------------
-- The order of several places, filters, modes
-- ---------------------------------------------------------------------
SELECT detect.create_locator('top_zone', 'zones', priority => 'level, code DESC', all_name => 'all_zones');
SELECT detect.create_locator('code_of', 'zones', key => 'code', filter => 'level < 3');
SELECT detect.create_locator('zone_covering', 'zones', mode => 'covers');
SELECT label, top_zone(x, y), all_zones_array(x, y), code_of(x, y), zone_covering(x, y) FROM points;
SELECT pg_get_viewdef('detect_query.top_zone'::regclass), pg_get_viewdef('detect_query.code_of'::regclass);

CREATE TABLE roads (road_id int PRIMARY KEY, geom geometry(LineString, 25832));
INSERT INTO roads VALUES (1, 'SRID=25832;LINESTRING(0 0, 100 0)'), (2, 'SRID=25832;LINESTRING(0 10, 100 10)'), (3, 'SRID=25832;LINESTRING(0 5, 0 5)');
CREATE INDEX ON roads USING gist (geom);
SELECT detect.create_locator('road_near', 'roads', within => 20);
SELECT road_near(50, 4), road_near(50, 5) AS tie, road_near(50, 29.9), road_near(50, 30), road_near(50, 30.1), road_near(0, 5), road_near(50, 'NaN');
SELECT * FROM road_near_all(50, 4);
SELECT * FROM road_near_all(ST_Point(50, 4, 25832), 1);
SELECT * FROM road_near_all(1, 5, k => 2);
SELECT * FROM road_near_all(50, 4, 0);
SELECT regress.outcome('SELECT * FROM road_near_all(50, 4, -1)');
SELECT * FROM road_near_all('SRID=25832;LINESTRING(50 4, 50 6)');

-- metres on the globe
CREATE TABLE hospital (name text PRIMARY KEY, kind text, geom geometry(Point, 4326));
INSERT INTO hospital VALUES ('Charité', 'hospital', ST_Point(13.3777, 52.5256, 4326)), ('Westend', 'hospital', ST_Point(13.2569, 52.5177, 4326)),
    ('Apotheke', 'pharmacy', ST_Point(13.38, 52.52, 4326)), ('Fiji', 'hospital', ST_Point(179.9, -17, 4326));
CREATE INDEX ON hospital USING gist ((geom::geography));
SELECT detect.create_locator('hospital_near', 'hospital', within => 50000, filter => $$kind = 'hospital'$$);
SELECT hospital_near(13.38, 52.52), hospital_near(-179.95, -17), hospital_near(0, 90), hospital_near(200, 0), hospital_near(13, 91);
SELECT key, round(distance) AS metres FROM hospital_near_all(13.38, 52.52, 3);
CREATE TABLE region (id int PRIMARY KEY, geog geography(Polygon));
INSERT INTO region VALUES (1, 'POLYGON((-10 80, 110 80, 230 80, -10 80))'), (2, 'POLYGON((170 -10, -170 -10, -170 10, 170 10, 170 -10))');
CREATE INDEX ON region USING gist (geog);
SELECT detect.create_locator('region_of', 'region', mode => 'covers');
SELECT region_of(0, 90), region_of('POINT(180 0)'::geography), region_of(-175, 5), region_of(0, 0), region_of(175, -9.99);
-- each type of PostGIS is taken where places are of the other one
CREATE TABLE quarter (id int PRIMARY KEY, geom geometry(Polygon, 4326));
INSERT INTO quarter VALUES (1, 'SRID=4326;POLYGON((13 52, 14 52, 14 53, 13 53, 13 52))');
CREATE INDEX ON quarter USING gist (geom);
SELECT detect.create_locator('quarter_of', 'quarter');
SELECT detect._locate('detect_query.quarter_of', NULL::int, 'POINT(13.4 52.5)'::geography) AS point,
       detect._locate('detect_query.quarter_of', NULL::int, 'LINESTRING(13.4 52.5, 13.5 52.5)'::geography) AS line,
       detect._locate('detect_query.quarter_of', NULL::int, 'LINESTRING(13.4 52.5, 14.5 52.5)'::geography) AS leaving,
       detect._locate('detect_query.region_of', NULL::int, ST_Point(180, 0, 4326)) AS region,
       detect._locate('detect_query.region_of', NULL::int, 'SRID=4326;MULTIPOINT((179 0), (180 0))'::geometry) AS points;

-- ---------------------------------------------------------------------
-- What is refused, and what to do
-- ---------------------------------------------------------------------
CREATE TABLE bad (id int, twice int, nothing int, geom geometry, other geometry);
INSERT INTO bad VALUES (1, 1, NULL, ST_Point(0, 0, 25832), ST_Point(0, 0, 25832)), (2, 1, 1, ST_Point(1, 1, 25832), ST_Point(1, 1, 4326));
CREATE TABLE plain (id int PRIMARY KEY, name text);
CREATE TABLE empty (id int PRIMARY KEY, geom geometry);
CREATE TEMP TABLE own (id int PRIMARY KEY, geom geometry(Point, 25832));
CREATE SEQUENCE counter;
SELECT label, regress.attempt(format('SELECT detect.create_locator(%s)', arguments)) FROM (VALUES
    ('no name',             $$NULL, 'zones'$$),
    ('no table',            $$'l', NULL$$),
    ('bad name',            $$'_l', 'zones'$$),
    ('taken name',          $$'zone_of', 'zones'$$),
    ('same names',          $$'l', 'zones', all_name => 'l'$$),
    ('long name',           $$'l', 'zones', all_name => repeat('l', 60)$$),
    ('taken function',      $$'l', 'zones', all_name => 'zone_of'$$),
    ('sequence',            $$'l', 'counter'$$),
    ('temporary table',     $$'l', 'own'$$),
    ('no such column',      $$'l', 'zones', key => 'zone_ids'$$),
    ('nothing like it',     $$'l', 'zones', geometry => 'where_it_is'$$),
    ('no key',              $$'l', 'bad', geometry => 'geom'$$),
    ('no geometry',         $$'l', 'plain'$$),
    ('two geometries',      $$'l', 'bad', key => 'id'$$),
    ('no geometry either',  $$'l', 'zones', geometry => 'code'$$),
    ('NULL keys',           $$'l', 'bad', key => 'nothing', geometry => 'geom'$$),
    ('duplicate keys',      $$'l', 'bad', key => 'twice', geometry => 'geom'$$),
    ('several SRIDs',       $$'l', 'bad', key => 'id', geometry => 'other'$$),
    ('no SRID',             $$'l', 'empty'$$),
    ('unknown mode',        $$'l', 'zones', mode => 'touches'$$),
    ('no distance',         $$'l', 'zones', mode => 'within'$$),
    ('needless distance',   $$'l', 'zones', mode => 'covers', within => 1$$),
    ('negative distance',   $$'l', 'zones', within => -1$$),
    ('infinite distance',   $$'l', 'zones', within => 'Infinity'$$),
    ('nearest by priority', $$'l', 'zones', within => 1, priority => 'level'$$),
    ('contains, geography', $$'l', 'region'$$),
    ('negative age',        $$'l', 'zones', max_age => '-1 s'$$),
    ('filter: unknown',     $$'l', 'zones', filter => 'levels = 1'$$),
    ('filter: syntax',      $$'l', 'zones', filter => 'level ='$$),
    ('filter: injected',    $$'l', 'zones', filter => 'true) OR (true); DROP TABLE zones; --'$$),
    ('filter: union',       $$'l', 'zones', filter => 'true) UNION SELECT 1, NULL WHERE (true'$$),
    ('filter: subquery',    $$'l', 'zones', filter => 'level IN (SELECT 1)'$$),
    ('filter: now',         $$'l', 'zones', filter => 'level < extract(hour FROM now())'$$),
    ('filter: aggregate',   $$'l', 'zones', filter => 'count(*) > 1'$$),
    ('priority: random',    $$'l', 'zones', priority => 'random()'$$),
    ('priority: window',    $$'l', 'zones', priority => 'rank() OVER (ORDER BY level)'$$),
    ('priority: limit',     $$'l', 'zones', priority => 'level LIMIT 1 --'$$)) v (label, arguments);
SELECT regress.outcome('SELECT detect.drop_locator(''none'')');
SELECT detect.drop_locator('none', if_exists => true);
SELECT regress.outcome('SELECT detect.refresh_locator(''none'')');
-- a table without an index
SELECT regress.outcome($$SELECT detect.create_locator('bad_of', 'bad', key => 'id', geometry => 'geom')$$);
SELECT bad_of(1, 1);

-- called with anything
SELECT label, regress.outcome(statement) FROM (VALUES
    ('no locator',    $$SELECT detect._locate(NULL, NULL::int, 1, 1)$$),
    ('a table',       $$SELECT detect._locate('zones', NULL::int, 1, 1)$$),
    ('no relation',   $$SELECT detect._locate(0::oid::regclass, NULL::int, 1, 1)$$),
    ('another type',  $$SELECT detect._locate('detect_query.zone_of', NULL::text, 1, 1)$$),
    ('an array',      $$SELECT detect._locate('detect_query.zone_of', NULL::int[], 1, 1)$$),
    ('no array',      $$SELECT detect._locate_all('detect_query.zone_of', NULL::text[], 1, 1)$$),
    ('no geometry',   $$SELECT detect._locate('detect_query.zone_of', NULL::int, 'here'::text)$$),
    ('no distance',   $$SELECT detect._nearest('detect_query.zone_of', NULL::int, 1, 1, 1)$$),
    ('no record',     $$SELECT detect._nearest('detect_query.road_near', NULL::text, 1, 1, 1)$$),
    ('near array',    $$SELECT detect._nearest('detect_query.road_near', NULL::int[], 1, 1, 1)$$),
    ('no trigger',    $$SELECT detect._place_changed()$$)) v (label, statement);

-- ---------------------------------------------------------------------
-- Memory
-- ---------------------------------------------------------------------
SELECT locator, places, vertices, bytes > 0 AS bytes, builds, build_ms > 0 AS build_ms, built_at IS NOT NULL AS built, from_memory > 0 AS from_memory, reason
FROM detect.stat_locator ORDER BY 1;
SET detect.locator_memory = 0;
UPDATE zones SET level = level;
SELECT label, zone_of(x, y), zones_of_array(x, y), top_zone(x, y), code_of(x, y), zone_covering(x, y) FROM points;
SELECT locator, places, bytes, from_table > 0 AS from_table, reason FROM detect.stat_locator WHERE locator IN ('zone_of', 'top_zone') ORDER BY 1;
UPDATE roads SET road_id = road_id;
SELECT road_near(50, 4), road_near(50, 5) AS tie, road_near(50, 30), road_near(50, 30.1);
SELECT * FROM road_near_all(50, 4);
UPDATE hospital SET kind = kind;
SELECT hospital_near(13.38, 52.52), hospital_near(-179.95, -17), hospital_near(0, 90), hospital_near(200, 0);
RESET detect.locator_memory;
SELECT zone_of(1.5, 1.5);
SELECT locator, places, reason FROM detect.stat_locator WHERE locator = 'zone_of';

-- ---------------------------------------------------------------------
-- Who may
-- ---------------------------------------------------------------------
SET SESSION AUTHORIZATION regress_visitor;
SELECT regress.outcome('SELECT locator.zone_of(1.5, 1.5)');
SELECT regress.outcome('SELECT * FROM detect_query.zone_of');
SELECT regress.outcome('SELECT detect.drop_locator(''zone_of'')');
SELECT regress.outcome('SELECT detect.refresh_locator(''zone_of'')');
SELECT count(*) FROM detect.locator;
SET SESSION AUTHORIZATION regress_surveyor;
GRANT SELECT (zone_id, geom) ON zones TO regress_visitor, regress_builder;
SET SESSION AUTHORIZATION regress_visitor;
-- the columns that a locator reads, and no others
SELECT locator.zone_of(1.5, 1.5), regress.outcome('SELECT locator.top_zone(1.5, 1.5)');
-- another user of the same session
SET SESSION AUTHORIZATION regress_surveyor;
SELECT zone_of(1.5, 1.5);
REVOKE SELECT (geom) ON zones FROM regress_visitor;
SET SESSION AUTHORIZATION regress_visitor;
SELECT regress.outcome('SELECT locator.zone_of(1.5, 1.5)');
-- whoever may make functions may make locators, of tables whose changes can be told
SET SESSION AUTHORIZATION regress_builder;
SELECT regress.outcome($$ SELECT detect.create_locator('builders_zone', 'locator.zones', key => 'zone_id', geometry => 'geom') $$);
SET SESSION AUTHORIZATION regress_surveyor;
GRANT TRIGGER ON zones TO regress_builder;
SET SESSION AUTHORIZATION regress_builder;
SELECT detect.create_locator('builders_zone', 'locator.zones', key => 'zone_id', geometry => 'geom');
SELECT locator.builders_zone(1.5, 1.5);
SELECT regress.outcome('SELECT detect.create_locator(''builders_road'', ''locator.roads'', within => 5)');
SELECT detect.drop_locator('builders_zone');
SET SESSION AUTHORIZATION regress_surveyor;
SELECT detect.drop_locator('road_near');
SELECT count(*) AS triggers FROM pg_trigger WHERE tgrelid = 'roads'::regclass;
GRANT SELECT ON roads TO regress_builder;
SET SESSION AUTHORIZATION regress_builder;
SELECT regress.outcome('SELECT detect.create_locator(''builders_road'', ''locator.roads'', within => 5)');
SET SESSION AUTHORIZATION regress_surveyor;
GRANT TRIGGER ON roads TO regress_builder;
SET SESSION AUTHORIZATION regress_builder;
SELECT detect.create_locator('builders_road', 'locator.roads', within => 5);
SELECT locator.builders_road(1, 1);

-- row security gives each his own places
SET SESSION AUTHORIZATION regress_surveyor;
GRANT SELECT ON zones TO regress_visitor, regress_builder;
ALTER TABLE zones ENABLE ROW LEVEL SECURITY;
CREATE POLICY visitor ON zones TO regress_visitor USING (zone_id = 1);
SELECT zones_of_array(1.5, 1.5);
SET SESSION AUTHORIZATION regress_visitor;
SELECT locator.zones_of_array(1.5, 1.5);
SET SESSION AUTHORIZATION regress_builder;
SELECT locator.zones_of_array(1.5, 1.5);
SET SESSION AUTHORIZATION regress_surveyor;
ALTER TABLE zones FORCE ROW LEVEL SECURITY;
SELECT zones_of_array(1.5, 1.5);
ALTER TABLE zones NO FORCE ROW LEVEL SECURITY;
ALTER TABLE zones DISABLE ROW LEVEL SECURITY;
SELECT zones_of_array(1.5, 1.5);

-- ---------------------------------------------------------------------
-- Changes of the place table are seen at once, undone ones by nobody
-- ---------------------------------------------------------------------
CREATE FUNCTION seen() RETURNS text LANGUAGE sql AS $$ SELECT zones_of_array(1.5, 1.5)::text $$;
BEGIN;
DELETE FROM zones WHERE zone_id = 3;
SELECT seen() AS deleted;
SAVEPOINT s;
DELETE FROM zones WHERE zone_id = 2;
SELECT seen() AS deleted_too;
ROLLBACK TO s;
SELECT seen() AS rolled_back;
SAVEPOINT s;
DELETE FROM zones WHERE zone_id = 2;
ROLLBACK TO s;
DELETE FROM zones WHERE zone_id = 1;
SELECT seen() AS deleted;
ROLLBACK;
SELECT seen() AS rolled_back;
BEGIN;
TRUNCATE zones;
SELECT seen() AS truncated;
ROLLBACK;
SELECT seen() AS rolled_back;
COPY zones FROM stdin (DELIMITER '|');
9|copied|1|7|SRID=25832;POLYGON((1 1, 2 1, 2 2, 1.4 2.6, 1 2, 1 1))
\.
SELECT seen() AS copied;
-- a change and a look within one statement of a function
DO $$
BEGIN
    FOR i IN 11..13 LOOP
        INSERT INTO zones SELECT i, 'loop', 1, 7, geom FROM zones WHERE zone_id = 3;
        RAISE NOTICE '% places have it', cardinality(zones_of_array(1.5, 1.5));
    END LOOP;
END $$;
-- while its statement runs it sees what it began with
SELECT seen();
WITH gone AS (DELETE FROM zones WHERE zone_id > 4 RETURNING zone_id) SELECT count(*), seen() FROM gone;
SELECT seen();
-- ANALYZE costs no places
SELECT builds AS builds_before FROM detect.stat_locator WHERE locator = 'zone_of' \gset
ANALYZE zones;
SELECT seen();
SELECT builds - :builds_before AS builds FROM detect.stat_locator WHERE locator = 'zone_of';
-- changed under another role of replication
SET SESSION AUTHORIZATION DEFAULT;
SET session_replication_role = replica;
DELETE FROM locator.zones WHERE zone_id = 3;
RESET session_replication_role;
SELECT locator.seen();
INSERT INTO locator.zones VALUES (3, 'yard', 3, 7, 'SRID=25832;POLYGON((1 1, 2 1, 2 2, 1 2, 1 1))');
-- nobody would tell of changes: PostGIS answers, until the trigger is back
ALTER TABLE locator.zones DISABLE TRIGGER _detect_place_changed;
SELECT locator.seen();
DELETE FROM locator.zones WHERE zone_id = 3;
SELECT locator.seen();
ALTER TABLE locator.zones ENABLE ALWAYS TRIGGER _detect_place_changed;
SELECT locator.seen();
SELECT reason FROM detect.stat_locator WHERE locator = 'zone_of';
SET SESSION AUTHORIZATION regress_surveyor;
SET search_path = locator, public;

-- ---------------------------------------------------------------------
-- Partitions, children, views
-- ---------------------------------------------------------------------
CREATE TABLE parcel (id int, town int, geom geometry(Polygon, 25832)) PARTITION BY LIST (town);
CREATE TABLE parcel_1 PARTITION OF parcel FOR VALUES IN (1);
INSERT INTO parcel SELECT i, 1, ST_MakeEnvelope(i * 10, 0, i * 10 + 9, 9, 25832) FROM generate_series(0, 9) i;
SELECT detect.create_locator('parcel_of', 'parcel', key => 'id');
SELECT parcel_of(15, 5);
UPDATE parcel_1 SET id = 101 WHERE id = 1;
SELECT parcel_of(15, 5) AS changed_in_the_partition;
CREATE TABLE parcel_2 PARTITION OF parcel FOR VALUES IN (2);
INSERT INTO parcel_2 VALUES (201, 2, ST_MakeEnvelope(1010, 0, 1020, 10, 25832));
SELECT parcel_of(1015, 5) AS in_a_new_partition;
CREATE TABLE parcel_3 (id int, town int, geom geometry(Polygon, 25832));
INSERT INTO parcel_3 VALUES (301, 3, ST_MakeEnvelope(2010, 0, 2020, 10, 25832));
ALTER TABLE parcel ATTACH PARTITION parcel_3 FOR VALUES IN (3);
SELECT parcel_of(2015, 5) AS attached;
DELETE FROM parcel_3;
SELECT parcel_of(2015, 5) AS deleted;
TRUNCATE parcel_2;
SELECT parcel_of(1015, 5) AS truncated;
-- a transaction that keeps its snapshot has its places truncated too
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT parcel_of(25, 5);
UPDATE parcel SET id = 102 WHERE id = 2;
SELECT parcel_of(25, 5) AS changed;
TRUNCATE parcel_1;
SELECT parcel_of(25, 5) AS truncated;
ROLLBACK;
SELECT parcel_of(25, 5) AS rolled_back;
ALTER TABLE parcel DETACH PARTITION parcel_1;
SELECT parcel_of(15, 5) AS detached;
CREATE TABLE zones_too () INHERITS (zones);
SELECT zone_of(1.5, 1.5) AS with_children;
INSERT INTO zones_too VALUES (31, 'child', 1, 1, 'SRID=25832;POLYGON((1 1, 1.9 1, 1.9 1.9, 1 1.9, 1 1))');
SELECT zone_of(1.5, 1.5) AS in_the_child;
DROP TABLE zones_too;

CREATE VIEW small_zone AS SELECT zone_id, geom FROM zones WHERE ST_Area(geom) < 50;
SELECT detect.create_locator('small_zone_of', 'small_zone', key => 'zone_id');
SELECT small_zone_of(1.5, 1.5);
DELETE FROM zones WHERE zone_id = 2;
SELECT small_zone_of(1.5, 1.5) AS not_refreshed;
SELECT detect.refresh_locator('small_zone_of');
SELECT small_zone_of(1.5, 1.5) AS refreshed;
INSERT INTO zones VALUES (2, 'district', 2, 7, 'SRID=25832;POLYGON((0 0, 5 0, 5 5, 0 5, 0 0))');
SELECT detect.create_locator('young_zone_of', 'small_zone', key => 'zone_id', max_age => '0');
SELECT young_zone_of(1.5, 1.5);
DELETE FROM zones WHERE zone_id = 2;
SELECT young_zone_of(1.5, 1.5);
CREATE MATERIALIZED VIEW kept_zone AS SELECT zone_id, geom FROM zones;
SELECT detect.create_locator('kept_zone_of', 'kept_zone', key => 'zone_id');
SELECT kept_zone_of(1.5, 1.5);
DELETE FROM zones WHERE zone_id = 1;
REFRESH MATERIALIZED VIEW kept_zone;
SELECT kept_zone_of(1.5, 1.5);
-- REFRESH CONCURRENTLY changes the rows in place, and tells no more of it
CREATE UNIQUE INDEX ON kept_zone (zone_id);
INSERT INTO zones VALUES (1, 'city', 1, 7, 'SRID=25832;POLYGON((0 0, 10 0, 10 10, 0 10, 0 0))');
REFRESH MATERIALIZED VIEW CONCURRENTLY kept_zone;
SELECT kept_zone_of(1.5, 1.5);
BEGIN;
DELETE FROM zones WHERE zone_id = 1;
REFRESH MATERIALIZED VIEW CONCURRENTLY kept_zone;
SELECT kept_zone_of(1.5, 1.5) AS deleted;
ROLLBACK;
SELECT kept_zone_of(1.5, 1.5) AS rolled_back;
DELETE FROM zones WHERE zone_id = 1;
REFRESH MATERIALIZED VIEW CONCURRENTLY kept_zone;
SELECT kept_zone_of(1.5, 1.5) AS deleted;

-- ---------------------------------------------------------------------
-- Its definition makes it again, and the history knows
-- ---------------------------------------------------------------------
SET search_path = locator, public;
CREATE TYPE grade AS ENUM ('low', 'high');
CREATE TABLE lot (key text COLLATE "C", number int PRIMARY KEY, grade grade, place float8, shape geometry(Polygon, 25832));
CREATE INDEX ON lot USING gist (shape);
INSERT INTO lot SELECT 'lot ' || i, i, CASE i % 2 WHEN 0 THEN 'low' ELSE 'high' END::grade, -i, ST_Buffer(ST_Point(i, i, 25832), 20) FROM generate_series(1, 9) i;
DO $do$
DECLARE
    priorities text[] := '{"grade DESC, lot.key","lot.key COLLATE \"C\" DESC NULLS LAST","number","number DESC","place + 1","lot.key USING ~>~","st_area(shape) DESC","st_area(shape), number","grade NULLS FIRST, 1 DESC"}';
BEGIN
    FOR i IN 1..cardinality(priorities) LOOP
        PERFORM detect.create_locator('lot_' || i, 'lot', priority => priorities[i]);
    END LOOP;
    PERFORM detect.create_locator('lot_10', 'lot', filter => 'grade = ''high'' AND number > 2');
    PERFORM detect.create_locator('lot_11', 'lot', filter => 'grade = ''high'' OR place < -4', all_name => 'the $$lots$$', mode => 'covers');
    PERFORM detect.create_locator('lot_12', 'lot', filter => $q$key <> '$$' AND NOT (number = 3 AND place = 3)$q$, within => 0.1);
END $do$;
ALTER TABLE lot RENAME COLUMN number TO lot_number;
ALTER TABLE lot RENAME COLUMN shape TO place_of_lot;
ALTER TABLE lot RENAME TO plot;
SET client_min_messages = warning;
CREATE TABLE made AS
    SELECT locator, detect.get_definition(locator) AS definition, pg_get_viewdef(format('detect_query.%I', locator)::regclass) AS view,
           srid, within, max_age, mode, all_name FROM detect.locator;
SELECT definition FROM made ORDER BY locator COLLATE "C";
-- made again without the search_path
SET search_path = pg_catalog;
SELECT detect.drop_locator(locator) FROM detect.locator;
SET search_path = locator;
DO $$
DECLARE
    definition text;
BEGIN
    FOR definition IN SELECT m.definition FROM made m LOOP
        EXECUTE definition;
    END LOOP;
END $$;
SET search_path = locator, public;
SELECT count(*) FROM made;
SELECT m.locator, m.definition, detect.get_definition(m.locator), m.view, pg_get_viewdef(format('detect_query.%I', m.locator)::regclass)
FROM made m FULL JOIN detect.locator l USING (locator)
WHERE (m.definition, m.view, m.srid, m.within, m.max_age, m.mode, m.all_name) IS DISTINCT FROM
      (detect.get_definition(l.locator), pg_get_viewdef(format('detect_query.%I', l.locator)::regclass), l.srid, l.within, l.max_age, l.mode, l.all_name);
RESET client_min_messages;
SELECT detect.drop_locator(locator) FROM detect.locator WHERE locator ~ '^lot_';
SELECT regress.outcome('SELECT detect.get_definition(''lot_1'')');
SET SESSION AUTHORIZATION regress_visitor;
SELECT regress.outcome('SELECT detect.get_definition(''zone_of'')');
SELECT count(*) FROM detect.history;
SET SESSION AUTHORIZATION regress_surveyor;
SELECT verb, object, detail FROM detect.history WHERE object IN ('small_zone_of', 'hospital_near', 'zone_of') ORDER BY history_id;

-- ---------------------------------------------------------------------
-- A build that takes longer than its statement may
-- ---------------------------------------------------------------------
CREATE TABLE plots AS SELECT n AS plot_id, ST_MakeEnvelope(n % 300, n / 300, n % 300 + 1, n / 300 + 1, 0) AS geom FROM generate_series(0, 89999) n;
SELECT detect.create_locator('plot_of', 'plots', key => 'plot_id');
SET detect.locator_memory = '256MB';
BEGIN;
SET LOCAL statement_timeout = '10ms';
\set VERBOSITY terse
SELECT plot_of(5.5, 5.5);
\set VERBOSITY default
ROLLBACK;
SELECT count(*) AS built FROM detect.stat_locator WHERE locator = 'plot_of' AND builds > 0;
SELECT plot_of(5.5, 5.5);
SELECT builds, places, from_table FROM detect.stat_locator WHERE locator = 'plot_of';
RESET detect.locator_memory;
SELECT detect.drop_locator('plot_of');
DROP TABLE plots;

-- ---------------------------------------------------------------------
-- A type that is only called so, and columns that changed their names
-- ---------------------------------------------------------------------
CREATE DOMAIN geometry AS bigint;
CREATE FUNCTION st_srid(locator.geometry) RETURNS int IMMUTABLE LANGUAGE sql RETURN 25832;
CREATE FUNCTION st_area(locator.geometry) RETURNS float8 IMMUTABLE LANGUAGE sql RETURN 1;
CREATE FUNCTION st_isempty(locator.geometry) RETURNS bool IMMUTABLE LANGUAGE sql RETURN false;
CREATE TABLE false_places (id int PRIMARY KEY, geom locator.geometry);
INSERT INTO false_places VALUES (1, 4096);
SELECT regress.outcome($$ SELECT detect.create_locator('false_place', 'false_places', geometry => 'geom') $$);
DROP TABLE false_places;
DROP DOMAIN geometry CASCADE;
CREATE DOMAIN plot_code AS text NOT NULL;
CREATE TABLE coded (code plot_code PRIMARY KEY, geom public.geometry(Polygon, 25832));
INSERT INTO coded VALUES ('a', ST_SetSRID(ST_MakeEnvelope(0, 0, 10, 10), 25832));
SELECT detect.create_locator('coded_at', 'coded');
SELECT coded_at(5, 5), coded_at(15, 5) IS NULL AS nowhere;
ALTER VIEW detect_query.coded_at RENAME COLUMN key TO other;
ALTER VIEW detect_query.coded_at RENAME COLUMN place TO key;
ALTER VIEW detect_query.coded_at RENAME COLUMN other TO place;
SELECT regress.outcome('SELECT coded_at(5, 5)');
SELECT detect.drop_locator('coded_at');
DROP TABLE coded;
DROP DOMAIN plot_code;

-- ---------------------------------------------------------------------
-- Names change, objects go
-- ---------------------------------------------------------------------
ALTER TABLE roads RENAME COLUMN geom TO course;
ALTER TABLE roads RENAME TO ways;
SET SESSION AUTHORIZATION regress_builder;
SELECT locator.builders_road(1, 1);
SET SESSION AUTHORIZATION regress_surveyor;
SELECT regress.outcome('ALTER TABLE ways DROP COLUMN course');
SELECT regress.outcome('DROP TABLE ways');
CREATE VIEW located AS SELECT x, y, kept_zone_of(x, y) FROM points;
SELECT regress.outcome('SELECT detect.drop_locator(''kept_zone_of'')');
DROP VIEW located;
SELECT detect.drop_locator('kept_zone_of');
SELECT detect.drop_locator('top_zone');
-- one zone function dropped by hand, then the locator
DROP FUNCTION zone_covering(geometry);
SELECT detect.drop_locator('zone_covering');
-- a locator of the same name is another one
SELECT zone_of(21, 5);
SELECT detect.drop_locator('zone_of');
SELECT detect.create_locator('zone_of', 'zones', key => 'code', priority => 'level');
SELECT zone_of(21, 5);
-- what takes the table along takes the locators
SET client_min_messages = warning;
DROP TABLE zones CASCADE;
DROP TABLE ways CASCADE;
DROP SCHEMA locator CASCADE;
DROP TABLE own;
RESET client_min_messages;
SELECT count(*) FROM detect.locator;
SELECT caller, verb, object, detail FROM detect.history WHERE object IN ('zone_of', 'kept_zone_of', 'builders_road') AND verb = 'drop_locator' ORDER BY history_id;
RESET SESSION AUTHORIZATION;
SELECT count(*) FROM detect._locator;
DROP SCHEMA IF EXISTS locator;
DROP ROLE regress_surveyor, regress_visitor, regress_builder;
