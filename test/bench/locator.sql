-- Contests of a locator with the join that it replaces: see test/bench/locator.
SET client_min_messages = warning;
\o /dev/null
CREATE EXTENSION detect CASCADE;

CREATE TABLE result (what text, locator_us float8, postgis_us float8, vertices bigint, build_us_a_vertex float8, megabytes float8);

-- Time a query over some of the points, in microseconds a point, the best of three.
CREATE FUNCTION time_query(query text, points int) RETURNS float8 LANGUAGE plpgsql AS $$
DECLARE
    began timestamptz;
    best float8;
BEGIN
    FOR i IN 1..3 LOOP
        began := clock_timestamp();
        EXECUTE format(query, points);
        best := least(best, extract(epoch FROM clock_timestamp() - began) * 1e6 / points);
    END LOOP;
    RETURN best;
END $$;

-- What reading the points alone costs is taken off both.
CREATE FUNCTION contest(what text, locator text, locator_query text, postgis_query text, points int, postgis_points int) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    read_us float8 := time_query('SELECT count(g) FROM (SELECT g FROM point LIMIT %s) p', points);
    locator_us float8 := time_query(locator_query, points) - read_us;
    postgis_us float8 := time_query(postgis_query, postgis_points) - read_us;
BEGIN
    INSERT INTO result SELECT what, locator_us, postgis_us, s.vertices, s.build_ms * 1e3 / s.builds / nullif(s.vertices, 0), s.bytes / 1048576.0
    FROM detect.stat_locator s WHERE s.locator = contest.locator;
END $$;

-- Round zones on a square of 100 km; with more of them they are smaller.
CREATE FUNCTION contest_zones(zones int, vertices int, points int, postgis_points int) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    DROP TABLE IF EXISTS zone CASCADE;
    CREATE TABLE zone AS
        SELECT i AS id, CASE WHEN vertices = 5 THEN ST_MakeEnvelope(x - r, y - r, x + r, y + r, 25832)
            ELSE ST_MakePolygon((SELECT ST_AddPoint(line, ST_StartPoint(line)) FROM (
                SELECT ST_MakeLine(array_agg(ST_Point(x + r * (0.9 + 0.2 * random()) * cos(a), y + r * (0.9 + 0.2 * random()) * sin(a), 25832) ORDER BY a)) AS line
                FROM (SELECT 2 * pi() * v / (vertices - 1) AS a FROM generate_series(1, vertices - 1) v) angles) ring)) END AS geom
        FROM (SELECT i, random() * 100000 AS x, random() * 100000 AS y, 50000 / sqrt(zones) AS r FROM generate_series(1, zones) i) z;
    ALTER TABLE zone ADD PRIMARY KEY (id);
    CREATE INDEX ON zone USING gist (geom);
    ANALYZE zone;
    PERFORM detect.create_locator('in_zone', 'zone');
    PERFORM contest(format('contains: %s zones of %s', zones, vertices), 'in_zone',
        'SELECT count(in_zone(g)) FROM (SELECT g FROM point LIMIT %s) p',
        'SELECT count((SELECT id FROM zone WHERE ST_Contains(geom, g) ORDER BY ST_Area(geom), id LIMIT 1)) FROM (SELECT g FROM point LIMIT %s) p',
        points, postgis_points);
END $$;

CREATE TABLE point AS SELECT ST_Point(random() * 100000, random() * 100000, 25832) AS g FROM generate_series(1, :points);
VACUUM ANALYZE point;
SELECT contest_zones(1000, 5, :points, :points / 20);
SELECT contest_zones(1000, 65, :points, :points / 20);
SELECT contest_zones(1000, 1000, :points, :points / 100);
SELECT contest_zones(10, 65, :points, :points / 20);
SELECT contest_zones(100000, 65, :points, :points / 20);

-- Segments of road of 10 to 200 m, and points within some metres of one.
CREATE TABLE road AS
    SELECT i AS id, ST_MakeLine(ST_Point(x, y, 25832), ST_Point(x + l * cos(a), y + l * sin(a), 25832)) AS geom
    FROM (SELECT i, random() * 30000 AS x, random() * 30000 AS y, 10 + 190 * random() AS l, 2 * pi() * random() AS a FROM generate_series(1, 100000) i) r;
ALTER TABLE road ADD PRIMARY KEY (id);
CREATE INDEX ON road USING gist (geom);
ANALYZE road;
TRUNCATE point;
INSERT INTO point SELECT ST_Point(random() * 30000, random() * 30000, 25832) FROM generate_series(1, :points);
VACUUM ANALYZE point;
SELECT detect.create_locator('on_road', 'road', within => 50);
SELECT contest('within 50: 100000 road segments', 'on_road', 'SELECT count(on_road(g)) FROM (SELECT g FROM point LIMIT %s) p',
    'SELECT count((SELECT id FROM road WHERE ST_DWithin(geom, g, 50) ORDER BY geom <-> g LIMIT 1)) FROM (SELECT g FROM point LIMIT %s) p', :points, :points / 20);

CREATE TABLE street AS SELECT id, ST_Transform(geom, 4326)::geography AS geog FROM (SELECT id, ST_Translate(geom, 390000, 5800000) AS geom FROM road) r;
ALTER TABLE street ADD PRIMARY KEY (id);
CREATE INDEX ON street USING gist (geog);
ANALYZE street;
CREATE TABLE point_on_globe AS SELECT ST_Transform(ST_Translate(g, 390000, 5800000), 4326)::geography AS g FROM point;
ALTER TABLE point RENAME TO point_on_plane;
ALTER TABLE point_on_globe RENAME TO point;
SELECT detect.create_locator('on_street', 'street', within => 50);
SELECT contest('within 50 m: 100000 streets on the globe', 'on_street', 'SELECT count(on_street(g)) FROM (SELECT g FROM point LIMIT %s) p',
    'SELECT count((SELECT id FROM street WHERE ST_DWithin(geog, g, 50) ORDER BY geog <-> g LIMIT 1)) FROM (SELECT g FROM point LIMIT %s) p', :points / 10, :points / 100);

-- Round zones of a town on the globe, of 65 vertices and 200 m: whether a point in the box of one is in it, PostGIS is asked.
CREATE TABLE area AS
    SELECT i AS id, ST_Transform(ST_Buffer(ST_Point(390000 + random() * 30000, 5800000 + random() * 30000, 25832), 100, 16), 4326)::geography AS geog FROM generate_series(1, 10000) i;
ALTER TABLE area ADD PRIMARY KEY (id);
CREATE INDEX ON area USING gist (geog);
ANALYZE area;
SELECT detect.create_locator('near_area', 'area', within => 50);
SELECT contest('within 50 m: 10000 zones of 65 on the globe', 'near_area', 'SELECT count(near_area(g)) FROM (SELECT g FROM point LIMIT %s) p',
    'SELECT count((SELECT id FROM area WHERE ST_DWithin(geog, g, 50) ORDER BY geog <-> g LIMIT 1)) FROM (SELECT g FROM point LIMIT %s) p', :points / 10, :points / 100);

\o
SELECT what, round(locator_us::numeric, 2) AS locator_us, round(postgis_us::numeric, 1) AS postgis_us, round((postgis_us / locator_us)::numeric, 1) AS ratio,
       vertices, round(build_us_a_vertex::numeric, 2) AS build_us_a_vertex, round(megabytes::numeric, 1) AS mb
FROM result;
