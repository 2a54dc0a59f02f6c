-- A table of Citus is empty where we look: it is refused, by Citus's own list of
-- its tables.  Here that list is one of our own, which is gone at the end.
SET detect.superuser_streams = on;
CREATE TABLE citus_event (id int PRIMARY KEY, zone int);
CREATE TABLE citus_zone (zone_id int PRIMARY KEY, geom geometry(Polygon, 4326));
CREATE VIEW citus_zone_view AS SELECT * FROM citus_zone;
INSERT INTO citus_zone VALUES (1, ST_MakeEnvelope(0, 0, 2, 2, 4326));
CREATE TABLE citus_local (id int PRIMARY KEY, zone int);

BEGIN;
SET LOCAL allow_system_table_mods = on;
CREATE TABLE pg_catalog.pg_dist_partition (logicalrelid regclass NOT NULL, partmethod "char" NOT NULL);
SET LOCAL allow_system_table_mods = off;
INSERT INTO pg_dist_partition VALUES ('citus_event', 'h'), ('citus_zone', 'n');

SELECT * FROM regress.attempt($$SELECT detect.create_stream('citus_event')$$);
SELECT * FROM regress.attempt($$SELECT detect.create_locator('citus_zone_of', 'citus_zone')$$);
SELECT * FROM regress.attempt($$SELECT detect.create_stream('citus_local', columns => 'id int, zone int',
    query => 'SELECT b.id, z.zone_id AS zone FROM batch b LEFT JOIN citus_zone z ON z.zone_id = b.zone')$$);
SELECT * FROM regress.attempt($$SELECT detect.create_stream('citus_local', columns => 'id int, zone int',
    query => 'SELECT b.id, (SELECT z.zone_id FROM citus_zone z WHERE z.zone_id = b.zone) AS zone FROM batch b')$$);

-- what is not in the list is as it was
SELECT detect.create_stream('citus_local');
SELECT * FROM regress.attempt($$SELECT detect.create_rollup('citus_by_zone',
    'SELECT z.zone_id, count(*) AS events FROM citus_local JOIN citus_zone z ON z.zone_id = zone GROUP BY 1')$$);
SELECT detect.create_rollup('citus_events', 'SELECT zone, count(*) AS events FROM citus_local GROUP BY 1');
SELECT detect.create_locator('citus_zone_of', 'citus_zone_view', key => 'zone_id', max_age => '1 minute');
SELECT citus_zone_of(1, 1);
ROLLBACK;

DROP VIEW citus_zone_view;
DROP TABLE citus_event, citus_zone, citus_local;
RESET detect.superuser_streams;
