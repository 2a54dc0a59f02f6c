--
-- locator_shapes: the countries of the earth, as Natural Earth draws them
--
-- Real borders: neighbours share them, islands, an enclave, the antimeridian and
-- a pole.  They are in a package that test/install_dependencies.sh unpacks; where
-- it is not there this test is skipped, and locator_shapes_1.out says so.
--
\getenv source PG_ABS_SRCDIR
\set file :source '/test/shapes/naturalearth_lowres.shp'
SELECT pg_stat_file(:'file', true) IS NULL AS missing \gset
\if :missing
\echo skipped: there are no shapes
\quit
\endif
SET client_min_messages = warning;
CREATE SCHEMA shapes;
SET search_path = shapes, public;
SELECT setseed(0.5) IS NOT NULL AS seeded;

-- ---------------------------------------------------------------------
-- From a shapefile to a table: a record has rings, clockwise ones are no holes
-- ---------------------------------------------------------------------
CREATE FUNCTION big_endian(bytes bytea, at int) RETURNS int LANGUAGE sql IMMUTABLE AS
    $$ SELECT ('x' || encode(substring(bytes FROM at + 1 FOR 4), 'hex'))::bit(32)::int $$;
CREATE FUNCTION reverse(bytes bytea) RETURNS bytea LANGUAGE sql IMMUTABLE AS
    $$ SELECT string_agg(substring(bytes FROM i FOR 1), '' ORDER BY i DESC) FROM generate_series(1, length(bytes)) i $$;
CREATE FUNCTION little_endian(bytes bytea, at int) RETURNS int LANGUAGE sql IMMUTABLE AS
    $$ SELECT big_endian(reverse(substring(bytes FROM at + 1 FOR 4)), 0) $$;
CREATE FUNCTION rings(record bytea) RETURNS SETOF geometry LANGUAGE sql IMMUTABLE AS $$
    SELECT ST_MakePolygon(ST_GeomFromWKB('\x0102000000' || reverse(int4send(last - first)) || substring(record FROM 45 + 4 * parts + 16 * first FOR 16 * (last - first)), 4326))
    FROM (SELECT parts, little_endian(record, 44 + 4 * i) AS first, CASE WHEN i + 1 < parts THEN little_endian(record, 48 + 4 * i) ELSE little_endian(record, 40) END AS last
          FROM (SELECT little_endian(record, 36) AS parts) p, generate_series(0, parts - 1) i) r $$;
CREATE TABLE country (id serial PRIMARY KEY, geom geometry(MultiPolygon, 4326) NOT NULL);
SELECT set_config('shapes.file', :'file', false) = :'file' AS set;
DO $$
DECLARE
    file bytea := pg_read_binary_file(current_setting('shapes.file'));
    at int := 100;
    bytes int;
BEGIN
    WHILE at < length(file) LOOP
        bytes := 2 * big_endian(file, at + 4);
        INSERT INTO country (geom)
            WITH ring AS MATERIALIZED (SELECT row_number() OVER () AS n, g FROM rings(substring(file FROM at + 9 FOR bytes)) g)
            SELECT ST_Collect(ST_MakePolygon(ST_ExteriorRing(o.g), ARRAY(SELECT ST_ExteriorRing(h.g) FROM ring h WHERE NOT ST_IsPolygonCW(h.g) AND ST_Contains(o.g, h.g))) ORDER BY n)
            FROM ring o WHERE ST_IsPolygonCW(g);
        at := at + 8 + bytes;
    END LOOP;
END $$;
CREATE INDEX ON country USING gist (geom);
SELECT count(*) AS countries, sum(ST_NPoints(geom)) AS vertices, (SELECT sum(ST_NumInteriorRings(d.geom)) FROM country, ST_Dump(country.geom) d) AS holes FROM country;
-- the coasts and borders of each as a line, on the globe
CREATE TABLE border AS SELECT id, ST_Boundary(geom)::geography AS geog FROM country;
ALTER TABLE border ADD PRIMARY KEY (id);
CREATE INDEX ON border USING gist (geog);

-- ---------------------------------------------------------------------
-- On each vertex, in the middle of edges, a little beside both, anywhere
-- ---------------------------------------------------------------------
CREATE TABLE point AS
    WITH vertex AS MATERIALIZED (SELECT d.path, c.id, d.geom AS g, lead(d.geom) OVER (PARTITION BY c.id, d.path[1:2] ORDER BY d.path) AS next FROM country c, ST_DumpPoints(c.geom) d)
    SELECT row_number() OVER () AS id, how, g AS geom
    FROM (SELECT 'vertex' AS how, g FROM vertex
          UNION ALL SELECT 'edge', ST_Point((ST_X(g) + ST_X(next)) / 2, (ST_Y(g) + ST_Y(next)) / 2, 4326) FROM vertex WHERE next IS NOT NULL
          UNION ALL SELECT 'beside', ST_Translate(g, (random() - 0.5) * 10 ^ (-15 * random()), (random() - 0.5) * 10 ^ (-15 * random())) FROM vertex
          UNION ALL SELECT 'level', ST_Point(ST_X(g) + random() - 0.5, ST_Y(g), 4326) FROM vertex WHERE random() < 0.2
          UNION ALL SELECT 'anywhere', ST_Point(random() * 360 - 180, random() * 180 - 90, 4326) FROM generate_series(1, 5000)) p
    WHERE abs(ST_X(g)) <= 180 AND abs(ST_Y(g)) <= 90;
ANALYZE country, point;
SELECT detect.create_locator('country_of', 'country', key => 'id', all_name => 'countries_of');
SELECT detect.create_locator('covered_by', 'country', key => 'id', mode => 'covers');
SELECT p.how, ST_AsText(p.geom, 17), countries_of_array(p.geom) AS locator, t.contains, covered_by_all_array(p.geom) AS covering, t.covers
FROM point p, LATERAL (SELECT coalesce(array_agg(c.id ORDER BY c.area, c.id) FILTER (WHERE c.contains), '{}') AS contains, coalesce(array_agg(c.id ORDER BY c.area, c.id) FILTER (WHERE c.covers), '{}') AS covers
                       FROM (SELECT c.id, ST_Area(c.geom) AS area, ST_Contains(c.geom, p.geom) AS contains, ST_Covers(c.geom, p.geom) AS covers FROM country c WHERE c.geom && p.geom OFFSET 0) c) t
WHERE countries_of_array(p.geom) IS DISTINCT FROM t.contains OR covered_by_all_array(p.geom) IS DISTINCT FROM t.covers LIMIT 10;
SELECT how, count(*) > 1000 AS many, count(country_of(geom)) > 500 AS many_inside, count(*) FILTER (WHERE cardinality(covered_by_all_array(geom)) > 1) > 500 AS many_between FROM point GROUP BY 1 ORDER BY 1;

-- ---------------------------------------------------------------------
-- The nearest border on the globe, and the nearest countries in degrees
-- ---------------------------------------------------------------------
SELECT detect.create_locator('border_near', 'border', within => 300000);
SELECT p.how, ST_AsText(p.geom, 17), border_near(ST_X(p.geom), ST_Y(p.geom)) AS locator, a.ids AS locator_all, t.ids AS postgis
FROM (SELECT * FROM point WHERE id % 40 = 0) p, LATERAL (SELECT array_agg(n.key) AS ids, array_agg(n.distance) AS distances FROM border_near_all(p.geom::geography, 3) n) a,
    LATERAL (SELECT array_agg(w.id) AS ids, array_agg(w.d) AS distances
             FROM (SELECT b.id, b.geog <-> p.geom::geography AS d FROM border b WHERE ST_DWithin(b.geog, p.geom::geography, 300000) ORDER BY b.geog <-> p.geom::geography, b.id LIMIT 3) w) t
WHERE border_near(ST_X(p.geom), ST_Y(p.geom)) IS DISTINCT FROM t.ids[1] OR a.ids IS DISTINCT FROM t.ids OR a.distances IS DISTINCT FROM t.distances LIMIT 10;
CREATE TABLE flat AS SELECT id, ST_SetSRID(geom, 0)::geometry(MultiPolygon, 0) AS geom FROM country;
ALTER TABLE flat ADD PRIMARY KEY (id);
CREATE INDEX ON flat USING gist (geom);
SELECT detect.create_locator('flat_near', 'flat', within => 4);
SELECT p.how, ST_AsText(p.geom, 17), flat_near(p.geom) AS locator, a.ids AS locator_all, t.ids AS postgis
FROM (SELECT id, how, ST_SetSRID(geom, 0) AS geom FROM point WHERE id % 10 = 0) p, LATERAL (SELECT array_agg(n.key) AS ids, array_agg(n.distance) AS distances FROM flat_near_all(p.geom, 3) n) a,
    LATERAL (SELECT array_agg(w.id) AS ids, array_agg(w.d) AS distances
             FROM (SELECT f.id, f.geom <-> p.geom AS d FROM flat f WHERE ST_DWithin(f.geom, p.geom, 4) ORDER BY f.geom <-> p.geom, f.id LIMIT 3) w) t
WHERE flat_near(p.geom) IS DISTINCT FROM t.ids[1] OR a.ids IS DISTINCT FROM t.ids OR a.distances IS DISTINCT FROM t.distances LIMIT 10;
SELECT locator, places, from_table, reason FROM detect.stat_locator WHERE pid = pg_backend_pid() ORDER BY 1;
DROP SCHEMA shapes CASCADE;
