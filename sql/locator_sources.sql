--
-- locator_sources: places that are no rows of an ordinary table, or no plain shapes
--
-- A foreign table, whose changes nobody tells; places that come in another SRID when
-- the locator is there already; curves, heights and collections, and the nearest of them.
--
CREATE SCHEMA sources;
SET search_path = sources, public;

-- ---------------------------------------------------------------------
-- A foreign table: read again when asked to, or when its places are old
-- ---------------------------------------------------------------------
SET client_min_messages = warning;
CREATE EXTENSION file_fdw;
RESET client_min_messages;
SELECT current_setting('data_directory') || '/locator_sources.csv' AS file \gset
SELECT format('COPY (SELECT zone_id, ST_AsEWKT(ST_MakeEnvelope(0, 0, size, size, 25832)) FROM (VALUES (1, 10), (2, 5)) v (zone_id, size)) TO %L', :'file') AS write \gset
:write;
CREATE SERVER files FOREIGN DATA WRAPPER file_fdw;
SELECT format('CREATE FOREIGN TABLE zone_file (zone_id int NOT NULL, geom geometry(Polygon, 25832)) SERVER files OPTIONS (filename %L)', :'file') AS define \gset
:define;
SELECT detect.create_locator('zone_in_file', 'zone_file', key => 'zone_id');
SELECT detect.create_locator('young_zone_in_file', 'zone_file', key => 'zone_id', max_age => '0');
SELECT zone_in_file(1, 1), young_zone_in_file(1, 1), zone_in_file(7, 7), zone_in_file(11, 11);
SELECT locator, places, from_table, reason FROM detect.stat_locator WHERE locator ~ 'in_file' ORDER BY 1;
SELECT format('COPY (SELECT 3, ST_AsEWKT(ST_MakeEnvelope(0, 0, 2, 2, 25832))) TO %L', :'file') AS write \gset
:write;
SELECT zone_in_file(1, 1) AS not_refreshed, young_zone_in_file(1, 1) AS young;
SELECT detect.refresh_locator('zone_in_file');
SELECT zone_in_file(1, 1) AS refreshed;
-- a file that has gone is an error of its wrapper, and of no other locator
SELECT format('ALTER FOREIGN TABLE zone_file OPTIONS (SET filename %L)', :'file' || '.gone') AS move \gset
:move;
SELECT regexp_replace(regress.outcome('SELECT young_zone_in_file(1, 1)'), '"/.*/', '"') AS outcome;

-- ---------------------------------------------------------------------
-- SRIDs: a place in another one is refused by name, and nothing else is lost
-- ---------------------------------------------------------------------
CREATE TABLE mixed (id int PRIMARY KEY, geom geometry);
CREATE INDEX ON mixed USING gist (geom);
INSERT INTO mixed VALUES (1, ST_MakeEnvelope(0, 0, 10, 10, 25832));
SELECT detect.create_locator('mixed_of', 'mixed');
SELECT mixed_of(1, 1);
INSERT INTO mixed VALUES (2, ST_MakeEnvelope(0, 0, 5, 5, 4326));
SELECT regress.outcome('SELECT mixed_of(1, 1)');
UPDATE mixed SET geom = ST_SetSRID(geom, 25832) WHERE id = 2;
SELECT mixed_of(1, 1) AS mended;

-- ---------------------------------------------------------------------
-- The nearest of what is no plain shape
-- ---------------------------------------------------------------------
CREATE TABLE shape (id int PRIMARY KEY, kind text, geom geometry);
CREATE INDEX ON shape USING gist (geom);
INSERT INTO shape VALUES
    (1, 'arc',         'CIRCULARSTRING(0 0, 5 5, 10 0)'),
    (2, 'curved area', 'CURVEPOLYGON(CIRCULARSTRING(20 0, 30 0, 20 0))'),
    (3, 'compound',    'COMPOUNDCURVE(CIRCULARSTRING(40 0, 45 5, 50 0), (50 0, 60 0))'),
    (4, 'height',      'POLYGON Z ((70 0 99, 80 0 99, 80 10 99, 70 10 99, 70 0 99))'),
    (5, 'measured',    'LINESTRING M (90 0 7, 100 0 7)'),
    (6, 'both',        'POINT ZM (110 0 3 4)'),
    (7, 'collection',  'GEOMETRYCOLLECTION(POINT(120 0), LINESTRING(122 0, 124 0))'),
    (8, 'triangle',    'TRIANGLE((130 0, 140 0, 135 5, 130 0))'),
    (9, 'empty',       'POLYGON EMPTY');
SELECT detect.create_locator('near_shape', 'shape', key => 'id', within => 6);
-- the nearest and all of them, as PostGIS has them, and how many points each was nearest to
CREATE TABLE point AS SELECT ST_Point(x + 0.25, y) AS geom FROM generate_series(-5, 150) x, generate_series(-8, 16, 4) y;
SELECT ST_AsText(p.geom), near_shape(p.geom), a.ids, t.ids
FROM point p, LATERAL (SELECT array_agg(n.key) AS ids, array_agg(n.distance) AS distances FROM near_shape_all(p.geom) n) a,
    LATERAL (SELECT array_agg(w.id) AS ids, array_agg(w.d) AS distances
             FROM (SELECT s.id, s.geom <-> p.geom AS d FROM shape s WHERE ST_DWithin(s.geom, p.geom, 6) ORDER BY s.geom <-> p.geom, s.id) w) t
WHERE near_shape(p.geom) IS DISTINCT FROM t.ids[1] OR a.ids IS DISTINCT FROM t.ids OR a.distances IS DISTINCT FROM t.distances;
SELECT s.id, s.kind, count(p.geom) > 20 AS nearest FROM shape s LEFT JOIN point p ON near_shape(p.geom) = s.id GROUP BY 1, 2 ORDER BY 1;
SELECT places, from_table, reason FROM detect.stat_locator WHERE locator = 'near_shape';

SET client_min_messages = warning;
DROP SCHEMA sources CASCADE; -- with the extension, which is in it
