--
-- locator_oracle: a locator answers as PostGIS does
--
-- Places of all shapes, and points that make it hard: on vertices and edges,
-- level with vertices, a rounding error beside them, as many of each shape.
-- DETECT_LOCATOR_POINTS sets how many points there are, DETECT_LOCATOR_SEED which:
--
--   DETECT_LOCATOR_POINTS=1000000 DETECT_LOCATOR_SEED=0.7 test/run sql/locator_oracle.sql
--
\set points 30000
\set seed 0.5
\getenv points DETECT_LOCATOR_POINTS
\getenv seed DETECT_LOCATOR_SEED
SET client_min_messages = warning;
CREATE SCHEMA oracle;
SET search_path = oracle, public;
SELECT setseed(:seed) IS NOT NULL AS seeded;

-- ---------------------------------------------------------------------
-- Zones: round ones, tangles that cross themselves, figures on a grid that
-- touch, holes, parts, nested and empty ones, lines, points, curves, heights
-- ---------------------------------------------------------------------
CREATE TABLE zone (id serial PRIMARY KEY, kind text, geom geometry);
CREATE FUNCTION ring(x float8, y float8, size float8, vertices int, grid bool) RETURNS geometry LANGUAGE sql AS $$
    SELECT ST_MakePolygon(ST_AddPoint(line, ST_StartPoint(line)))
    FROM (SELECT ST_MakeLine(array_agg(CASE WHEN grid THEN ST_Point(round(px), round(py)) ELSE ST_Point(px, py) END)) AS line
          FROM (SELECT x + random() * size AS px, y + random() * size AS py FROM generate_series(1, vertices)) v) l $$;
INSERT INTO zone (kind, geom) SELECT 'round', ST_Buffer(ST_Point(random() * 1000, random() * 1000), 20 + random() * 60, 2 + (random() * 20)::int)
    FROM generate_series(1, 60);
INSERT INTO zone (kind, geom) SELECT 'large', ST_Buffer(ST_Point(random() * 1000, random() * 1000), 60, 300) FROM generate_series(1, 2);
INSERT INTO zone (kind, geom) SELECT 'tangle', ring(random() * 900, random() * 900, 100, 4 + (random() * 40)::int, false) FROM generate_series(1, 60);
INSERT INTO zone (kind, geom) SELECT 'grid', ring(floor(random() * 950), floor(random() * 950), 40, 3 + (random() * 5)::int, true) FROM generate_series(1, 200);
INSERT INTO zone (kind, geom) SELECT 'sliver', ST_MakePolygon(ST_MakeLine(ARRAY[a, b, ST_Translate(b, 1e-9, 0), a]))
    FROM (SELECT ST_Point(random() * 1000, random() * 1000) AS a, ST_Point(random() * 1000, random() * 1000) AS b FROM generate_series(1, 12)) v;
INSERT INTO zone (kind, geom) SELECT 'cell', geom FROM ST_SquareGrid(50, ST_MakeEnvelope(500, 500, 800, 800));
INSERT INTO zone (kind, geom) SELECT 'hole', ST_MakePolygon(ST_ExteriorRing(ST_Buffer(p, 60)), ARRAY[ST_ExteriorRing(ST_Buffer(p, 30, 3)), ST_ExteriorRing(ring(ST_X(p) + 32, ST_Y(p), 20, 4, true))])
    FROM (SELECT ST_Point(random() * 1000, random() * 1000) AS p FROM generate_series(1, 40)) v;
INSERT INTO zone (kind, geom) SELECT 'parts', ST_Collect(ARRAY[ring(random() * 900, random() * 900, 100, 3, true), ring(random() * 900, random() * 900, 60, 5, false),
    ST_Buffer(ST_Point(random() * 1000, random() * 1000), 30)]) FROM generate_series(1, 40);
INSERT INTO zone (kind, geom) SELECT 'height', ST_Force3D(geom, 7) FROM zone WHERE kind = 'grid' LIMIT 20;
INSERT INTO zone (kind, geom) SELECT 'measure', ST_Force4D(geom) FROM zone WHERE kind = 'parts' LIMIT 20;
INSERT INTO zone (kind, geom) SELECT 'line', ST_ExteriorRing(geom) FROM zone WHERE kind = 'grid' LIMIT 20;
INSERT INTO zone (kind, geom) SELECT 'point', ST_Point(round(random() * 1000), round(random() * 1000)) FROM generate_series(1, 50);
INSERT INTO zone (kind, geom) SELECT 'points', ST_Points(geom) FROM zone WHERE kind = 'grid' LIMIT 20;
INSERT INTO zone (kind, geom) SELECT 'curve', ST_LineToCurve(ST_Buffer(ST_Point(random() * 1000, random() * 1000), 8)) FROM generate_series(1, 10);
INSERT INTO zone (kind, geom) SELECT 'mixed', ST_Collect(ARRAY[ST_Buffer(p, 6, 2), ST_MakeLine(p, ST_Translate(p, 9, 5)), p])
    FROM (SELECT ST_Point(round(random() * 900), round(random() * 900)) AS p FROM generate_series(1, 10)) v;
INSERT INTO zone (kind, geom) VALUES ('empty', 'POLYGON EMPTY'), ('empty', 'MULTIPOLYGON EMPTY'), ('empty', 'POINT EMPTY'), ('empty', 'GEOMETRYCOLLECTION EMPTY'), ('null', NULL),
    ('twice', 'POLYGON((100 100, 100 100, 200 100, 200 100, 200 200, 100 200, 100 200, 100 100))'), ('flat', 'POLYGON((0 0, 10 0, 20 0, 0 0))'),
    ('bow', 'POLYGON((300 300, 400 400, 400 300, 300 400, 300 300))'), ('huge', 'POLYGON((-1e300 -1e300, 1e300 -1e300, 0 -1e299, -1e300 -1e300))');
ALTER TABLE zone ADD COLUMN area float8;
UPDATE zone SET area = ST_Area(geom);
CREATE INDEX ON zone USING gist (geom);
ANALYZE zone;

-- ---------------------------------------------------------------------
-- Points
-- ---------------------------------------------------------------------
-- nth counts within a kind: whoever takes the first takes as many of each.
CREATE TABLE vertex AS
    SELECT kind, (d).geom, row_number() OVER (PARTITION BY kind ORDER BY random()) AS nth
    FROM (SELECT kind, ST_DumpPoints(geom) AS d FROM zone WHERE kind <> 'curve' AND NOT ST_IsEmpty(geom)) v;
CREATE TABLE edge AS
    SELECT kind, a, b, row_number() OVER (PARTITION BY kind ORDER BY random()) AS nth
    FROM (SELECT z.kind, d.geom AS a, lead(d.geom) OVER (PARTITION BY z.id, d.path[1:cardinality(d.path) - 1] ORDER BY d.path) AS b
          FROM zone z, ST_DumpPoints(z.geom) d WHERE z.kind NOT IN ('curve', 'mixed', 'point', 'points', 'huge')) e WHERE b IS NOT NULL;
CREATE TABLE point AS
    SELECT row_number() OVER () AS id, how, geom FROM (
        (SELECT 'anywhere' AS how, ST_Point(random() * 1000, random() * 1000) AS geom FROM generate_series(1, :points / 20))
        UNION ALL
        (SELECT 'on the grid', ST_Point(round(random() * 1000), round(random() * 1000)) FROM generate_series(1, :points / 20 * 3))
        UNION ALL
        (SELECT 'vertex', geom FROM vertex, generate_series(1, 1 + :points / 40000) again ORDER BY again, nth LIMIT :points / 4)
        UNION ALL
        (SELECT 'level', ST_Point(ST_X(geom) + (random() - 0.5) * 100, ST_Y(geom)) FROM vertex, generate_series(1, 1 + :points / 40000) again ORDER BY again, nth LIMIT :points / 20 * 3)
        UNION ALL
        (SELECT 'edge', ST_Point(ST_X(a) + f * (ST_X(b) - ST_X(a)), ST_Y(a) + f * (ST_Y(b) - ST_Y(a)))
         FROM (SELECT a, b, CASE WHEN random() < 0.5 THEN 0.5 ELSE random() END AS f, nth, again FROM edge, generate_series(1, 1 + :points / 40000) again) e ORDER BY again, nth LIMIT :points / 4)
        UNION ALL
        (SELECT 'beside', ST_Point(ST_X(geom) * (1 + (random() - 0.5) * 1e-15), ST_Y(geom) * (1 + (random() - 0.5) * 1e-15)) FROM vertex, generate_series(1, 1 + :points / 40000) again ORDER BY again, nth LIMIT :points / 20 * 3)) p;
ALTER TABLE point ADD PRIMARY KEY (id);
CREATE INDEX ON point USING gist (geom);
ANALYZE point;
SELECT how, count(*)::float8 / :points AS share FROM point GROUP BY how ORDER BY how;

-- ---------------------------------------------------------------------
-- Contains and covers: no rows, and a number that shows that there was a lot
-- ---------------------------------------------------------------------
SELECT detect.create_locator('containing', 'zone', key => 'id');
SELECT detect.create_locator('covering', 'zone', key => 'id', mode => 'covers');
CREATE TABLE found AS
    SELECT p.id, z.id AS zone_id, z.area, p.contains, p.covers
    FROM zone z, LATERAL (SELECT p.id, ST_Contains(z.geom, p.geom) AS contains, ST_Covers(z.geom, p.geom) AS covers
                          FROM point p WHERE z.geom && p.geom OFFSET 0) p;
-- (a zone that was just looked at is looked at in another way)
SELECT p.id, z.id AS zone_id, z.contains, z.covers
FROM point p, LATERAL (SELECT z.id, ST_Contains(z.geom, p.geom) AS contains, ST_Covers(z.geom, p.geom) AS covers
                       FROM zone z WHERE z.geom && p.geom OFFSET 0) z WHERE p.id % 8 = 0
EXCEPT ALL SELECT id, zone_id, contains, covers FROM found;
CREATE TABLE truth AS
    SELECT p.id, coalesce(array_agg(f.zone_id ORDER BY f.area, f.zone_id) FILTER (WHERE f.contains), '{}') AS contains,
           coalesce(array_agg(f.zone_id ORDER BY f.area, f.zone_id) FILTER (WHERE f.covers), '{}') AS covers
    FROM point p LEFT JOIN found f USING (id) GROUP BY p.id;
ALTER TABLE truth ADD PRIMARY KEY (id);
ANALYZE truth;
SELECT p.how, p.id, ST_AsText(p.geom, 17), containing_all_array(p.geom) AS locator, t.contains AS postgis
FROM point p JOIN truth t USING (id)
WHERE containing_all_array(p.geom) IS DISTINCT FROM t.contains OR containing(ST_X(p.geom), ST_Y(p.geom)) IS DISTINCT FROM t.contains[1] LIMIT 10;
SELECT p.how, p.id, ST_AsText(p.geom, 17), covering_all_array(p.geom) AS locator, t.covers AS postgis
FROM point p JOIN truth t USING (id)
WHERE covering_all_array(p.geom) IS DISTINCT FROM t.covers OR covering(p.geom) IS DISTINCT FROM t.covers[1] LIMIT 10;
SELECT count(*) = :points AS points, count(*) FILTER (WHERE contains <> '{}') > 0.4 * count(*) AS many_inside,
       count(*) FILTER (WHERE contains <> covers) > 0.05 * count(*) AS many_on_borders FROM truth;
-- both were answered from memory
SELECT locator, from_table, reason FROM detect.stat_locator WHERE locator IN ('containing', 'covering') ORDER BY 1;

-- ---------------------------------------------------------------------
-- Nearest on the plane: the tree against a full search with PostGIS
-- ---------------------------------------------------------------------
SELECT detect.create_locator('near', 'zone', key => 'id', within => 20, filter => $$kind NOT IN ('huge', 'curve')$$);
WITH p AS (SELECT * FROM point WHERE id % 8 = 0)
SELECT p.how, p.id, ST_AsText(p.geom, 17), near(p.geom) AS locator, a.ids AS locator_all, t.ids AS postgis
FROM p, LATERAL (SELECT array_agg(n.key) AS ids, array_agg(n.distance) AS distances FROM near_all(p.geom, 4) n) a,
    LATERAL (SELECT array_agg(w.id) AS ids, array_agg(w.d) AS distances
             FROM (SELECT z.id, z.geom <-> p.geom AS d FROM zone z WHERE z.kind NOT IN ('huge', 'curve') AND ST_DWithin(z.geom, p.geom, 20)
                   ORDER BY z.geom <-> p.geom, z.id LIMIT 4) w) t
WHERE near(p.geom) IS DISTINCT FROM t.ids[1] OR a.ids IS DISTINCT FROM t.ids OR a.distances IS DISTINCT FROM t.distances LIMIT 10;

-- ---------------------------------------------------------------------
-- Nearest on the globe, with poles and the antimeridian
-- ---------------------------------------------------------------------
CREATE TABLE globe (id serial PRIMARY KEY, kind text, geog geography);
INSERT INTO globe (kind, geog) SELECT 'point', ST_Point(random() * 360 - 180, degrees(asin(random() * 2 - 1)), 4326)::geography FROM generate_series(1, 400);
INSERT INTO globe (kind, geog) SELECT 'line', ST_MakeLine(ST_Point(x, y, 4326), ST_Point(greatest(least(x + random() * 20 - 10, 180), -180), greatest(least(y + random() * 20 - 10, 90), -90), 4326))::geography
    FROM (SELECT random() * 360 - 180 AS x, random() * 180 - 90 AS y FROM generate_series(1, 200)) v;
INSERT INTO globe (kind, geog) SELECT 'area', ST_Buffer(ST_Point(random() * 360 - 180, random() * 160 - 80, 4326)::geography, 200000, 4) FROM generate_series(1, 50);
INSERT INTO globe (kind, geog) VALUES ('pole', 'POINT(0 90)'), ('pole', 'POINT(77 -90)'), ('meridian', 'POINT(180 10)'), ('meridian', 'POINT(-180 -10)'),
    ('meridian', 'LINESTRING(179 0, -179 5)'), ('cap', 'POLYGON((-10 80, 110 80, 230 80, -10 80))');
CREATE INDEX ON globe USING gist (geog);
CREATE TABLE position AS
    SELECT row_number() OVER () AS id, x, y, ST_Point(x, y, 4326)::geography AS geog FROM (
        (SELECT random() * 360 - 180 AS x, random() * 180 - 90 AS y FROM generate_series(1, least(:points / 40, 5000)))
        UNION ALL (SELECT 180, random() * 40 - 20 FROM generate_series(1, 50)) UNION ALL (SELECT -180, random() * 40 - 20 FROM generate_series(1, 50))
        UNION ALL (SELECT random() * 360 - 180, 90 FROM generate_series(1, 10)) UNION ALL (SELECT random() * 360 - 180, -90 FROM generate_series(1, 10))) p;
SELECT detect.create_locator('near_on_globe', 'globe', key => 'id', within => 700000);
SELECT p.id, p.x, p.y, near_on_globe(p.x, p.y) AS locator, a.ids AS locator_all, t.ids AS postgis
FROM position p, LATERAL (SELECT array_agg(n.key) AS ids, array_agg(n.distance) AS distances FROM near_on_globe_all(p.geog, 3) n) a,
    LATERAL (SELECT array_agg(w.id) AS ids, array_agg(w.d) AS distances
             FROM (SELECT g.id, g.geog <-> p.geog AS d FROM globe g WHERE ST_DWithin(g.geog, p.geog, 700000) ORDER BY g.geog <-> p.geog, g.id LIMIT 3) w) t
WHERE near_on_globe(p.x, p.y) IS DISTINCT FROM t.ids[1] OR a.ids IS DISTINCT FROM t.ids OR a.distances IS DISTINCT FROM t.distances LIMIT 10;
-- streets of one town that meet, with edges from a millimetre to a hundred metres, from points on and beside their vertices and edges
CREATE TABLE street AS
    SELECT id, CASE WHEN id % 9 = 0 THEN ST_Collect(line, ST_Translate(line, 3e-4, 1e-5)) WHEN id % 9 = 1 THEN ST_StartPoint(line) ELSE line END::geography AS geog
    FROM (SELECT id, ST_MakeLine(ST_Point(x, y, 4326) ORDER BY step) AS line
          FROM (SELECT id, step, CASE WHEN id % 2 = 0 AND step = 0 THEN 13.4 + id % 10 * 1e-3 ELSE 13.4 + id % 20 * 1e-3 + sum(dx) OVER walk END AS x,
                       CASE WHEN id % 2 = 0 AND step = 0 THEN 52.5 + id % 7 * 1e-3 ELSE 52.5 + id % 17 * 1e-3 + sum(dy) OVER walk END AS y
                FROM (SELECT id, step, (random() - 0.5) * size AS dx, (random() - 0.5) * size AS dy
                      FROM generate_series(1, 300) id, generate_series(0, 1 + id % 40) step, LATERAL (SELECT 10 ^ (-3 - 5 * random()) AS size WHERE id + step > 0) s) v
                WINDOW walk AS (PARTITION BY id ORDER BY step)) w GROUP BY id) l;
ALTER TABLE street ADD PRIMARY KEY (id);
CREATE INDEX ON street USING gist (geog);
CREATE TABLE walker AS
    SELECT row_number() OVER () AS id, ST_Translate(g, (random() - 0.5) * size, (random() - 0.5) * size)::geography AS geog
    FROM (SELECT d.geom AS g, row_number() OVER (ORDER BY random()) AS nth FROM street, ST_DumpPoints(geog::geometry) d
          UNION ALL SELECT ST_LineInterpolatePoint(geog::geometry, random()), row_number() OVER (ORDER BY random()) FROM street WHERE ST_GeometryType(geog::geometry) = 'ST_LineString') v,
        LATERAL (SELECT CASE WHEN nth % 5 = 0 THEN 0 ELSE 10 ^ (-3 - 6 * random()) END AS size) s
    ORDER BY nth LIMIT :points / 15;
SELECT detect.create_locator('near_street', 'street', within => 150);
SELECT p.id, ST_AsText(p.geog), near_street(p.geog) AS locator, a.ids AS locator_all, t.ids AS postgis
FROM walker p, LATERAL (SELECT array_agg(n.key) AS ids, array_agg(n.distance) AS distances FROM near_street_all(p.geog, 3) n) a,
    LATERAL (SELECT array_agg(w.id) AS ids, array_agg(w.d) AS distances
             FROM (SELECT s.id, s.geog <-> p.geog AS d FROM street s WHERE ST_DWithin(s.geog, p.geog, 150) ORDER BY s.geog <-> p.geog, s.id LIMIT 3) w) t
WHERE near_street(p.geog) IS DISTINCT FROM t.ids[1] OR a.ids IS DISTINCT FROM t.ids OR a.distances IS DISTINCT FROM t.distances LIMIT 10;
-- zones of one town, with holes and parts, some across one another, from points in and beside them
CREATE TABLE quarter AS
    SELECT id, CASE WHEN id % 5 = 0 THEN ST_MakePolygon(ST_ExteriorRing(g), ARRAY[ST_ExteriorRing(ST_Scale(g, ST_Point(0.5, 0.5), ST_Centroid(g)))])
                    WHEN id % 5 = 1 THEN ST_Collect(g, ST_Translate(g, 4e-3, 0)) ELSE g END::geography AS geog
    FROM (SELECT id, CASE WHEN id % 3 = 0 THEN ST_MakeEnvelope(x, y, x + size, y + size, 4326) ELSE ST_Buffer(ST_Point(x, y, 4326), size, 1 + id % 9) END AS g
          FROM (SELECT id, 13.4 + random() * 0.02 AS x, 52.5 + random() * 0.02 AS y, 2e-4 + 1e-3 * random() AS size FROM generate_series(1, 200) id) v) w;
ALTER TABLE quarter ADD PRIMARY KEY (id);
CREATE INDEX ON quarter USING gist (geog);
CREATE TABLE visitor AS
    (SELECT row_number() OVER () AS id, ST_Point(13.399 + random() * 0.022, 52.499 + random() * 0.022, 4326)::geography AS geog FROM generate_series(1, :points / 30))
    UNION ALL (SELECT row_number() OVER () + :points, geom::geography FROM (SELECT d.geom FROM quarter, ST_DumpPoints(geog::geometry) d ORDER BY random() LIMIT :points / 60) v);
SELECT detect.create_locator('near_quarter', 'quarter', within => 100);
SELECT p.id, ST_AsText(p.geog, 17), near_quarter(p.geog) AS locator, a.ids AS locator_all, t.ids AS postgis
FROM visitor p, LATERAL (SELECT array_agg(n.key) AS ids, array_agg(n.distance) AS distances FROM near_quarter_all(p.geog, 3) n) a,
    LATERAL (SELECT array_agg(w.id) AS ids, array_agg(w.d) AS distances
             FROM (SELECT q.id, q.geog <-> p.geog AS d FROM quarter q WHERE ST_DWithin(q.geog, p.geog, 100) ORDER BY q.geog <-> p.geog, q.id LIMIT 3) w) t
WHERE near_quarter(p.geog) IS DISTINCT FROM t.ids[1] OR a.ids IS DISTINCT FROM t.ids OR a.distances IS DISTINCT FROM t.distances LIMIT 10;
SELECT count(near_quarter(geog)) > 0.5 * count(*) AS many_near, count(near_quarter(geog)) < 0.99 * count(*) AS some_far FROM visitor;
-- on the middle of an arc, which rises above its chord
SELECT detect.create_locator('close_on_globe', 'globe', key => 'id', within => 1000);
CREATE TABLE middle AS
    SELECT id, ST_Centroid(geog) AS geog FROM globe WHERE kind = 'line';
SELECT m.id, a.ids AS locator, t.ids AS postgis
FROM middle m, LATERAL (SELECT array_agg(n.key) AS ids FROM close_on_globe_all(m.geog) n) a,
    LATERAL (SELECT array_agg(g.id ORDER BY g.geog <-> m.geog, g.id) AS ids FROM globe g WHERE ST_DWithin(g.geog, m.geog, 1000)) t
WHERE a.ids IS DISTINCT FROM t.ids OR NOT m.id = ANY (t.ids) LIMIT 10;
-- (at the poles PostGIS's index finds less than ST_Covers does)
SET enable_indexscan = off;
SET enable_bitmapscan = off;
SELECT detect.create_locator('covering_on_globe', 'globe', key => 'id', mode => 'covers');
SELECT p.id, p.x, p.y, covering_on_globe_all_array(p.geog) AS locator, t.ids AS postgis
FROM position p, LATERAL (SELECT coalesce(array_agg(g.id ORDER BY ST_Area(g.geog), g.id), '{}') AS ids FROM globe g WHERE ST_Covers(g.geog, p.geog)) t
WHERE covering_on_globe_all_array(p.geog) IS DISTINCT FROM t.ids LIMIT 10;
SELECT locator, from_table, reason FROM detect.stat_locator WHERE locator ~ 'globe|near' ORDER BY 1;
-- a rounding error beside a vertex: PostGIS looks at boxes of floats first
CREATE TABLE beside AS SELECT 1 AS id, 'POLYGON((34 844, 22 838, 26 836, 29 837, 28 866, 9 859, 13 866, 34 844))'::geometry AS geom;
SELECT detect.create_locator('beside_of', 'beside', key => 'id');
SELECT beside_of(8.999999999999998, 859) AS locator, (SELECT id FROM beside WHERE ST_Contains(geom, ST_Point(8.999999999999998, 859))) AS postgis;
DROP SCHEMA oracle CASCADE;
