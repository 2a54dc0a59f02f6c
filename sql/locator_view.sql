--
-- locator_view: the owner of a locator may put any query into its view
--
-- He owns the view, so he can replace its rule.  What the locator then says is an
-- answer or an error that tells him something; the server stays up.
--
SET client_min_messages = warning;
CREATE ROLE regress_owner LOGIN;
CREATE SCHEMA locator_view AUTHORIZATION regress_owner;
SET SESSION AUTHORIZATION regress_owner;
SET search_path = locator_view, public;

CREATE TABLE zone (zone_id int PRIMARY KEY, code text, level int, geom geometry(Polygon, 25832));
CREATE INDEX ON zone USING gist (geom);
INSERT INTO zone VALUES
    (1, 'city',     1, 'SRID=25832;POLYGON((0 0, 10 0, 10 10, 0 10, 0 0))'),
    (2, 'district', 2, 'SRID=25832;POLYGON((0 0, 5 0, 5 5, 0 5, 0 0))');
CREATE TABLE road (road_id int PRIMARY KEY, name text, geom geometry(LineString, 25832));
CREATE INDEX ON road USING gist (geom);
INSERT INTO road VALUES (1, 'south', 'SRID=25832;LINESTRING(0 0, 10 0)'), (2, 'north', 'SRID=25832;LINESTRING(0 4, 10 4)');
SELECT detect.create_locator('zone_of', 'zone', key => 'zone_id');
SELECT detect.create_locator('code_of', 'zone', key => 'code', priority => 'level');
SELECT detect.create_locator('road_near', 'road', key => 'name', within => 20);
SELECT zone_of(1, 1), code_of(1, 1);
INSERT INTO zone VALUES (3, NULL, 3, 'SRID=25832;POLYGON((0 0, 2 0, 2 2, 0 2, 0 0))'), (4, 'nowhere', 4, NULL);
INSERT INTO road VALUES (3, NULL, 'SRID=25832;LINESTRING(0 1, 10 1)'), (4, 'nowhere', NULL);

-- "fine" for an answer, or an error that users get; an internal one says what it is.
CREATE FUNCTION reply(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    answer text;
BEGIN
    EXECUTE statement INTO answer;
    RETURN 'fine';
EXCEPTION WHEN OTHERS THEN
    RETURN CASE WHEN SQLSTATE ~ '^XX' THEN SQLERRM ELSE 'fine' END;
END $$;
-- The same for all that can be asked of a locator whose view has another query: no row is good.
CREATE FUNCTION ask(locator text, query text, point text DEFAULT '1, 1') RETURNS TABLE (statement text, said text) LANGUAGE plpgsql AS $$
DECLARE
    all_name text := (SELECT l.all_name FROM detect.locator l WHERE l.locator = $1);
BEGIN
    EXECUTE format('CREATE OR REPLACE RULE "_RETURN" AS ON SELECT TO detect_query.%I DO INSTEAD %s', locator, query);
    FOREACH statement IN ARRAY ARRAY[
        format('SELECT %I(%s)', locator, point),
        format('SELECT %I(ST_Point(%s, 25832))', locator, point),
        format('SELECT %I(''SRID=25832;MULTIPOINT((1 1), (2 2))''::geometry)', locator),
        format('SELECT %I(100, 100)', locator),
        format('SELECT array_agg(a::text) FROM %I(ST_Point(%s, 25832)) a', all_name, point),
        format('SELECT detect.get_definition(%L)', locator),
        format('SELECT detect.refresh_locator(%L)', locator),
        format('SELECT %I(%s)', locator, point)] LOOP
        said := reply(statement);
        IF said <> 'fine' THEN
            RETURN NEXT;
        END IF;
    END LOOP;
END $$;

-- ---------------------------------------------------------------------
-- A key that is no column, and one that is NULL
-- ---------------------------------------------------------------------
CREATE OR REPLACE RULE "_RETURN" AS ON SELECT TO detect_query.zone_of DO INSTEAD SELECT 1 AS key, geom AS place FROM zone;
SELECT reply('SELECT zone_of(1, 1)');
SELECT reply('SELECT zone_of(1, 1)');
SELECT * FROM ask('zone_of', 'SELECT 1 AS key, geom AS place FROM zone');
CREATE OR REPLACE RULE "_RETURN" AS ON SELECT TO detect_query.code_of DO INSTEAD SELECT code AS key, geom AS place FROM zone;
SELECT reply('SELECT code_of(1, 1)');
SELECT reply('SELECT code_of(1, 1)');
SELECT * FROM ask('code_of', 'SELECT code AS key, geom AS place FROM zone');
CREATE OR REPLACE RULE "_RETURN" AS ON SELECT TO detect_query.road_near DO INSTEAD SELECT name AS key, geom AS place FROM road;
SELECT reply('SELECT road_near(1, 1)');
SELECT * FROM ask('road_near', 'SELECT name AS key, geom AS place FROM road');
-- a row that comes later
INSERT INTO zone SELECT 10 + n, CASE n WHEN 1 THEN 'more' END, 1, geom FROM zone, generate_series(1, 2) n WHERE zone_id = 2;
SELECT reply('SELECT zone_of(1, 1)'), reply('SELECT code_of(1, 1)');

-- ---------------------------------------------------------------------
-- Queries of every other kind
-- ---------------------------------------------------------------------
CREATE VIEW queries (name, query) AS VALUES
    ('another column',    'SELECT level AS key, geom AS place FROM zone'),
    ('two columns',       'SELECT zone_id + level AS key, geom AS place FROM zone WHERE geom IS NOT NULL'),
    ('no place',          'SELECT zone_id AS key, NULL::geometry(Polygon, 25832) AS place FROM zone'),
    ('nothing',           'SELECT 1 AS key, NULL::geometry(Polygon, 25832) AS place'),
    ('no table',          'SELECT 1 AS key, ST_MakeEnvelope(0, 0, 5, 5, 25832)::geometry(Polygon, 25832) AS place'),
    ('a subquery',        'SELECT (SELECT max(road_id) FROM road) AS key, geom AS place FROM zone'),
    ('a join',            'SELECT r.road_id AS key, z.geom AS place FROM zone z, road r WHERE z.geom IS NOT NULL'),
    ('a join of itself',  'SELECT b.zone_id AS key, a.geom AS place FROM zone a LEFT JOIN zone b ON b.zone_id = a.zone_id + 1'),
    ('another table',     'SELECT road_id AS key, ST_Buffer(geom, 1)::geometry(Polygon, 25832) AS place FROM road WHERE geom IS NOT NULL'),
    ('a union',           'SELECT zone_id AS key, geom AS place FROM zone UNION ALL SELECT 7, geom FROM zone'),
    ('groups',            'SELECT max(zone_id) AS key, geom AS place FROM zone GROUP BY geom'),
    ('an aggregate',      'SELECT count(*)::int AS key, NULL::geometry(Polygon, 25832) AS place FROM zone'),
    ('a window',          'SELECT rank() OVER (ORDER BY zone_id)::int AS key, geom AS place FROM zone'),
    ('distinct',          'SELECT DISTINCT ON (level) zone_id AS key, geom AS place FROM zone ORDER BY level'),
    ('a limit',           'SELECT zone_id AS key, geom AS place FROM zone ORDER BY zone_id LIMIT 1'),
    ('a set',             'SELECT generate_series(1, zone_id) AS key, geom AS place FROM zone'),
    ('a table expression', 'WITH z AS (SELECT * FROM zone) SELECT zone_id AS key, geom AS place FROM z'),
    ('a derived table',   'SELECT zone_id AS key, geom AS place FROM (SELECT * FROM zone LIMIT 5) z'),
    ('a function',        'SELECT n AS key, ST_MakeEnvelope(0, 0, n, n, 25832)::geometry(Polygon, 25832) AS place FROM generate_series(1, 5) n'),
    ('system columns',    'SELECT zone_id AS key, geom AS place FROM zone WHERE ctid IS NOT NULL AND tableoid = ''zone''::regclass'),
    ('a whole row',       'SELECT zone_id AS key, geom AS place FROM zone z WHERE z IS NOT NULL'),
    ('another order',     'SELECT zone_id AS key, geom AS place FROM zone ORDER BY (SELECT random()), level'),
    ('an error',          'SELECT zone_id / (zone_id - zone_id) AS key, geom AS place FROM zone'),
    ('a lock',            'SELECT zone_id AS key, geom AS place FROM zone FOR UPDATE'),
    ('itself',            'SELECT key, place FROM detect_query.zone_of');
SELECT q.name, a.* FROM queries q, ask('zone_of', query) a;
-- where PostGIS answers, too
SET detect.locator_memory = 0;
SELECT q.name, a.* FROM queries q, ask('zone_of', query) a;
SELECT * FROM ask('code_of', 'SELECT code AS key, geom AS place FROM zone');
SELECT * FROM ask('road_near', 'SELECT name AS key, geom AS place FROM road');
RESET detect.locator_memory;

-- ---------------------------------------------------------------------
-- The locator is made again, and answers
-- ---------------------------------------------------------------------
SELECT detect.drop_locator('zone_of'), detect.drop_locator('code_of'), detect.drop_locator('road_near');
SELECT detect.create_locator('zone_of', 'zone', key => 'zone_id', filter => 'zone_id < 10');
SELECT zone_of(1, 1), zone_of(3, 3), zone_of(7, 7);
SELECT count(*) FROM detect.locator;

-- ---------------------------------------------------------------------
-- A view whose rows are not everybody's, and rights that are taken back
-- ---------------------------------------------------------------------
CREATE TABLE plot (plot_id int PRIMARY KEY, tenant int, geom geometry(Polygon, 25832));
INSERT INTO plot SELECT n, n, 'SRID=25832;POLYGON((0 0, 10 0, 10 10, 0 10, 0 0))' FROM generate_series(1, 2) n;
ALTER TABLE plot ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON plot USING (tenant = current_setting('app.tenant')::int);
CREATE VIEW plot_view WITH (security_invoker) AS TABLE plot;
RESET SESSION AUTHORIZATION;
CREATE ROLE regress_tenant LOGIN;
GRANT USAGE, CREATE ON SCHEMA locator_view TO regress_tenant;
GRANT SELECT ON locator_view.plot, locator_view.plot_view, locator_view.zone TO regress_tenant;
SET SESSION AUTHORIZATION regress_tenant;
SET app.tenant = 1;
SELECT detect.create_locator('plot_of', 'plot_view', key => 'plot_id');
SELECT plot_of(1, 1);
SET app.tenant = 2;
SELECT plot_of(1, 1);
SELECT reason FROM detect.stat_locator WHERE locator = 'plot_of';
SELECT zone_of(1, 1);
SET SESSION AUTHORIZATION regress_owner;
ALTER VIEW detect_query.zone_of RESET (security_invoker);
REVOKE SELECT ON detect_query.zone_of FROM PUBLIC;
SET SESSION AUTHORIZATION regress_tenant;
SELECT zone_of(1, 1);

RESET SESSION AUTHORIZATION;
DROP SCHEMA locator_view CASCADE;
DROP ROLE regress_owner, regress_tenant;
