--
-- locator_changes: places that are brought up to date are those that a join finds
--
-- Random edits, kept and rolled back, with looks between them, against PostGIS.
-- DETECT_LOCATOR_EDITS sets how many there are, DETECT_LOCATOR_SEED which:
--
--   DETECT_LOCATOR_EDITS=20000 DETECT_LOCATOR_SEED=0.7 test/run sql/locator_changes.sql
--
\set edits 120
\set seed 0.5
\getenv edits DETECT_LOCATOR_EDITS
\getenv seed DETECT_LOCATOR_SEED
SET client_min_messages = warning;
CREATE SCHEMA changes;
SET search_path = changes, public;
SELECT setseed(:seed) IS NOT NULL AS seeded;

-- ---------------------------------------------------------------------
-- Only rows that have changed are made into places
-- ---------------------------------------------------------------------
CREATE TABLE cell (id int PRIMARY KEY, geom geometry(Polygon, 25832));
INSERT INTO cell SELECT x * 100 + y, ST_MakeEnvelope(x, y, x + 1, y + 1, 25832) FROM generate_series(0, 99) x, generate_series(0, 99) y;
SELECT detect.create_locator('cell_of', 'cell');
CREATE FUNCTION built(OUT places bigint, OUT builds bigint, OUT partial_builds bigint, OUT places_built bigint) LANGUAGE sql AS
    $$ SELECT places, builds, partial_builds, places_built FROM detect.stat_locator WHERE locator = 'cell_of' AND pid = pg_backend_pid() $$;
SELECT cell_of(5.5, 7.5), (built()).*;
UPDATE cell SET geom = ST_Translate(geom, 1000, 0) WHERE id = 507;
SELECT cell_of(5.5, 7.5), cell_of(1005.5, 7.5), (built()).*;
INSERT INTO cell SELECT 20000 + i, ST_MakeEnvelope(0, 0, 100 + i, 100, 25832) FROM generate_series(1, 5) i;
SELECT zones, (built()).* FROM cells_of_array(5.5, 7.5) zones;
DELETE FROM cell WHERE id IN (20002, 607);
SELECT cells_of_array(5.5, 7.5), cells_of_array(6.5, 7.5), (built()).*;
-- a rolled-back change makes no place but while it lasts
BEGIN;
UPDATE cell SET geom = NULL WHERE id = 20001;
SELECT cells_of_array(5.5, 7.5), (built()).*;
ROLLBACK;
SELECT cells_of_array(5.5, 7.5), (built()).*;
-- a second look finds nothing to do, and VACUUM changes nothing
VACUUM cell;
SELECT cell_of(0.5, 0.5), (built()).*;
-- after a large change all are built again, and so they are where rows lie elsewhere or a definition is told to be looked at
UPDATE cell SET geom = ST_Translate(geom, 0, 1) WHERE id < 3000;
SELECT cells_of_array(5.5, 7.5), (built()).*;
VACUUM FULL cell;
SELECT cells_of_array(5.5, 7.5), (built()).*;
SELECT detect.refresh_locator('cell_of');
SELECT cells_of_array(5.5, 7.5), (built()).*;
UPDATE cell SET geom = geom WHERE id = 1;
SELECT cells_of_array(5.5, 7.5), (built()).*;
-- many small changes wear places out
DO $$
BEGIN
    FOR i IN 1..1500 LOOP
        UPDATE cell SET geom = geom WHERE id = i;
        PERFORM cell_of(0.5, 0.5);
    END LOOP;
END $$;
SELECT (built()).*;
-- a table that was made in this transaction is emptied in place: its rows lie where others have lain
BEGIN;
CREATE TABLE fresh (id int PRIMARY KEY, geom geometry(Polygon, 25832));
SELECT detect.create_locator('fresh_of', 'fresh');
INSERT INTO fresh SELECT i, ST_MakeEnvelope(0, 0, i, i, 25832) FROM generate_series(1, 20) i;
SELECT fresh_of(0.5, 0.5);
TRUNCATE fresh;
INSERT INTO fresh SELECT i, ST_MakeEnvelope(0, 0, i, i, 25832) FROM generate_series(11, 30) i;
SELECT fresh_of(0.5, 0.5);
COMMIT;
SELECT fresh_of(0.5, 0.5);
BEGIN;
TRUNCATE fresh;
INSERT INTO fresh SELECT i, ST_MakeEnvelope(0, 0, i, i, 25832) FROM generate_series(1, 20) i;
SELECT fresh_of(0.5, 0.5);
TRUNCATE fresh;
INSERT INTO fresh SELECT i, ST_MakeEnvelope(0, 0, i, i, 25832) FROM generate_series(3, 22) i;
SELECT fresh_of(0.5, 0.5);
ROLLBACK;
SELECT fresh_of(0.5, 0.5);
-- a locator that is dropped holds no memory
SELECT fresh_of(0.5, 0.5) IS NULL AS used, (SELECT count(*) FROM pg_backend_memory_contexts WHERE name = 'detect places') AS held;
SELECT detect.drop_locator('fresh_of');
SELECT count(*) AS held FROM pg_backend_memory_contexts WHERE name = 'detect places';

-- ---------------------------------------------------------------------
-- What no trigger tells of: partitions that are emptied in place, or exchanged
-- ---------------------------------------------------------------------
CREATE TABLE lot (id int, town int, geom geometry(Polygon, 25832)) PARTITION BY LIST (town);
CREATE TABLE lot_1 PARTITION OF lot FOR VALUES IN (1);
CREATE FUNCTION squares(town int, first int, last int) RETURNS TABLE (id int, town int, geom geometry) LANGUAGE sql AS
    $$ SELECT i, town, ST_MakeEnvelope(0, 0, i, i, 25832) FROM generate_series(first, last) i $$;
INSERT INTO lot SELECT * FROM squares(1, 1, 3);
SELECT detect.create_locator('lot_of', 'lot', key => 'id', priority => 'town');
-- what the locator finds, and whether PostGIS finds the same
CREATE FUNCTION lots(OUT ids int[], OUT is_right bool) LANGUAGE sql VOLATILE AS $$
    SELECT l, l = ARRAY(SELECT id FROM lot WHERE ST_Contains(geom, 'SRID=25832;POINT(0.5 0.5)') ORDER BY town, ST_Area(geom), id) FROM lots_of_array(0.5, 0.5) l $$;
SELECT * FROM lots();
-- a partition that was made in this transaction
BEGIN;
CREATE TABLE lot_2 PARTITION OF lot FOR VALUES IN (2);
INSERT INTO lot_2 SELECT * FROM squares(2, 21, 23);
SELECT * FROM lots();
TRUNCATE lot_2;
SELECT * FROM lots();
INSERT INTO lot_2 SELECT * FROM squares(2, 24, 25);
SELECT * FROM lots();
TRUNCATE lot_2;
COMMIT;
SELECT * FROM lots();
-- one that was emptied before, or within a savepoint
BEGIN;
TRUNCATE lot_1;
INSERT INTO lot_1 SELECT * FROM squares(1, 4, 6);
SELECT * FROM lots();
TRUNCATE lot_1;
SELECT * FROM lots();
ROLLBACK;
SELECT * FROM lots();
BEGIN;
SAVEPOINT s;
CREATE TABLE lot_3 PARTITION OF lot FOR VALUES IN (3);
INSERT INTO lot_3 SELECT * FROM squares(3, 31, 32);
SELECT * FROM lots();
RELEASE s;
TRUNCATE lot_3;
SELECT * FROM lots();
INSERT INTO lot_3 SELECT * FROM squares(3, 31, 32);
SAVEPOINT s;
SELECT * FROM lots();
TRUNCATE lot_3;
SELECT * FROM lots();
ROLLBACK TO s;
SELECT * FROM lots();
COMMIT;
SELECT * FROM lots();
-- exchanged again and again in one transaction, and changed while it stands alone
BEGIN;
SELECT * FROM lots();
ALTER TABLE lot DETACH PARTITION lot_3;
UPDATE lot_3 SET id = 33 WHERE id = 31;
ALTER TABLE lot ATTACH PARTITION lot_3 FOR VALUES IN (3);
SELECT * FROM lots();
ALTER TABLE lot DETACH PARTITION lot_3;
UPDATE lot_3 SET id = 34 WHERE id = 33;
ALTER TABLE lot ATTACH PARTITION lot_3 FOR VALUES IN (3);
SELECT * FROM lots();
ALTER TABLE lot DETACH PARTITION lot_3;
SELECT * FROM lots();
DELETE FROM lot_3 WHERE id = 34;
ALTER TABLE lot ATTACH PARTITION lot_3 FOR VALUES IN (3);
COMMIT;
SELECT * FROM lots();
-- a trigger that was away for a moment, twice in one transaction
BEGIN;
ALTER TABLE lot_3 DISABLE TRIGGER _detect_place_changed;
UPDATE lot_3 SET id = 35;
ALTER TABLE lot_3 ENABLE ALWAYS TRIGGER _detect_place_changed;
SELECT * FROM lots();
ALTER TABLE lot_3 DISABLE TRIGGER _detect_place_changed;
UPDATE lot_3 SET id = 36;
ALTER TABLE lot_3 ENABLE ALWAYS TRIGGER _detect_place_changed;
SELECT * FROM lots();
COMMIT;
-- attached with its rows and with partitions of its own, and rolled back
BEGIN;
CREATE TABLE lot_4 (LIKE lot) PARTITION BY RANGE (id);
CREATE TABLE lot_4_1 PARTITION OF lot_4 FOR VALUES FROM (0) TO (100);
INSERT INTO lot_4 SELECT * FROM squares(4, 41, 42);
SAVEPOINT s;
ALTER TABLE lot ATTACH PARTITION lot_4 FOR VALUES IN (4);
SELECT * FROM lots();
TRUNCATE lot_4;
SELECT * FROM lots();
INSERT INTO lot_4_1 SELECT * FROM squares(4, 43, 43);
SELECT * FROM lots();
ROLLBACK TO s;
SELECT * FROM lots();
ALTER TABLE lot ATTACH PARTITION lot_4 FOR VALUES IN (4);
COMMIT;
SELECT * FROM lots();
TRUNCATE lot_4;
SELECT * FROM lots();
-- a trigger of the user that looks before its row is there
CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM lot_of(0.5, 0.5);
    RETURN coalesce(NEW, OLD);
END $$;
CREATE TRIGGER zz_look BEFORE INSERT OR UPDATE OR DELETE ON lot FOR EACH ROW EXECUTE FUNCTION look();
BEGIN;
INSERT INTO lot SELECT * FROM squares(1, 7, 8);
SELECT * FROM lots();
UPDATE lot SET id = 9 WHERE id = 8;
SELECT * FROM lots();
DELETE FROM lot_1 WHERE id IN (7, 9);
SELECT * FROM lots();
COPY lot FROM stdin (DELIMITER '|');
5|1|SRID=25832;POLYGON((0 0, 5 0, 5 5, 0 5, 0 0))
\.
SELECT * FROM lots();
COMMIT;
SELECT * FROM lots();

DROP TRIGGER zz_look ON lot;
-- a command that fails is over too: the next look brings places up to date, and none after it
INSERT INTO cell SELECT * FROM cell WHERE id = 8000;
SELECT cell_of(0.5, 0.5) IS NOT NULL AS found;
SELECT builds + partial_builds AS before FROM built() \gset
SELECT cell_of(0.5, 0.5) IS NOT NULL AS found;
SELECT builds + partial_builds - :before AS built FROM built();
-- a session whose first look is within a plan that runs in parallel, which takes no snapshot of its own
ALTER TABLE cell SET (parallel_workers = 2);
CREATE VIEW lots_of_cells AS SELECT sum(lot_of(id / 4000.0, 0.5)) FROM cell;
CREATE VIEW lots_of_cells_in_postgis AS
    SELECT sum((SELECT id FROM lot WHERE ST_Contains(geom, ST_Point(c.id / 4000.0, 0.5, 25832)) ORDER BY town, ST_Area(geom), id LIMIT 1)) FROM cell c;
\c -
SET client_min_messages = warning;
SET search_path = changes, public;
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET min_parallel_table_scan_size = 0;
SET max_parallel_workers_per_gather = 2;
EXPLAIN (COSTS OFF) TABLE lots_of_cells;
TABLE lots_of_cells;
TABLE lots_of_cells_in_postgis;
BEGIN ISOLATION LEVEL REPEATABLE READ;
UPDATE lot SET id = id + 1 WHERE town = 1;
TABLE lots_of_cells;
TABLE lots_of_cells_in_postgis;
ROLLBACK;
TABLE lots_of_cells;
RESET parallel_setup_cost;
RESET parallel_tuple_cost;
RESET min_parallel_table_scan_size;
RESET max_parallel_workers_per_gather;
SELECT setseed(:seed) IS NOT NULL AS seeded;

-- ---------------------------------------------------------------------
-- Random edits
-- ---------------------------------------------------------------------
CREATE SEQUENCE next_id;
-- two orders with ties and NULLs, a filter, keys that are texts; partitions whose columns lie elsewhere
CREATE TABLE zones (zone_id int PRIMARY KEY DEFAULT nextval('next_id'), level int, name text UNIQUE, geom geometry(Geometry, 25832));
CREATE INDEX ON zones USING gist (geom);
CREATE TABLE parts (LIKE zones INCLUDING DEFAULTS, PRIMARY KEY (zone_id, level)) PARTITION BY LIST (level);
CREATE TABLE part_1 PARTITION OF parts FOR VALUES IN (0, 1);
CREATE TABLE part_2 (gone text, geom geometry(Geometry, 25832), name text, level int NOT NULL, zone_id int NOT NULL DEFAULT nextval('next_id'));
ALTER TABLE part_2 DROP COLUMN gone;
ALTER TABLE parts ATTACH PARTITION part_2 FOR VALUES IN (2, 3);
SELECT detect.create_locator('zone_of', 'zones', key => 'zone_id');
SELECT detect.create_locator('top_zone', 'zones', key => 'name', mode => 'covers', priority => 'level DESC NULLS LAST, length(name), name COLLATE "C" DESC');
SELECT detect.create_locator('near', 'zones', key => 'zone_id', within => 8, filter => 'level > 0');
SELECT detect.create_locator('part_of', 'parts', key => 'zone_id', priority => 'level');

CREATE FUNCTION shape() RETURNS geometry LANGUAGE sql VOLATILE AS $$
    SELECT CASE WHEN r < 0.5 THEN ST_Buffer(p, 1 + 10 * random(), 2) WHEN r < 0.8 THEN ST_Expand(p, ceil(random() * 6)) WHEN r < 0.85 THEN ST_MakeLine(p, ST_Point(50, 50, 25832))
                WHEN r < 0.9 THEN p WHEN r < 0.93 THEN 'SRID=25832;POLYGON EMPTY' WHEN r < 0.97 THEN ST_Collect(p, ST_Expand(p, 3)) END
    FROM (SELECT random() AS r, ST_Point(floor(random() * 100), floor(random() * 100), 25832) AS p) v $$;
CREATE FUNCTION edit() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    r int := floor(random() * 11);
    n int := floor(random() * 40);
BEGIN
    IF r <= 2 THEN
        INSERT INTO zones (level, name, geom) SELECT nullif(floor(random() * 4), 3), 'zone ' || random(), shape() FROM generate_series(1, n / 8);
        INSERT INTO parts (level, name, geom) SELECT floor(random() * 4), 'part', shape() FROM generate_series(1, n / 8);
    ELSIF r <= 4 THEN
        UPDATE zones SET geom = shape() WHERE zone_id % 40 = n;
        UPDATE parts SET geom = shape() WHERE zone_id % 40 = n;
    ELSIF r = 5 THEN
        UPDATE zones SET level = nullif(floor(random() * 4), 3) WHERE zone_id % 40 = n;
        UPDATE parts SET level = floor(random() * 4) WHERE zone_id % 40 = n; -- into another partition
    ELSIF r = 6 THEN
        UPDATE zones SET zone_id = nextval('next_id'), name = NULL WHERE zone_id % 40 = n;
        UPDATE part_2 SET zone_id = nextval('next_id') WHERE zone_id % 40 = n;
    ELSIF r = 7 THEN
        INSERT INTO zones (zone_id, level, geom) SELECT zone_id, 1, shape() FROM zones WHERE zone_id % 40 = n
            ON CONFLICT (zone_id) DO UPDATE SET geom = excluded.geom;
        INSERT INTO zones (name, geom) SELECT name, shape() FROM zones WHERE zone_id % 40 = n ON CONFLICT (name) DO NOTHING;
    ELSIF r = 8 THEN
        WITH gone AS (DELETE FROM zones WHERE zone_id % 40 = n RETURNING *) SELECT count(*) FROM gone INTO n;
        WITH gone AS (DELETE FROM parts WHERE zone_id % 40 = n RETURNING *) SELECT count(*) FROM gone INTO n;
    ELSIF r = 9 AND n = 0 THEN
        TRUNCATE zones;
    ELSIF r = 9 AND n = 1 THEN
        TRUNCATE part_1;
    ELSIF r = 9 THEN
        WITH gone AS (DELETE FROM zones WHERE zone_id % 40 = n RETURNING *) INSERT INTO part_2 SELECT geom, name, 2, nextval('next_id') FROM gone;
    END IF;
    -- their number stays about the same
    INSERT INTO zones (level, name, geom) SELECT 1, 'more ' || random(), shape() FROM generate_series(1, 150) WHERE (SELECT count(*) < 100 FROM zones);
    INSERT INTO parts (level, name, geom) SELECT 1, 'more', shape() FROM generate_series(1, 150) WHERE (SELECT count(*) < 100 FROM parts);
    DELETE FROM zones WHERE zone_id % 7 = 0 AND (SELECT count(*) > 250 FROM zones);
    DELETE FROM parts WHERE zone_id % 7 = 0 AND (SELECT count(*) > 250 FROM parts);
END $$;
-- points for which a locator and the join that it replaces differ
CREATE FUNCTION differences() RETURNS bigint LANGUAGE sql VOLATILE AS $$
    SELECT count(*) FROM (SELECT ST_Point(floor(random() * 100), floor(random() * 100), 25832) AS p FROM generate_series(1, 8)) v
    WHERE zones_of_array(p) IS DISTINCT FROM ARRAY(SELECT zone_id FROM zones WHERE ST_Contains(geom, p) ORDER BY ST_Area(geom), zone_id)
       OR zone_of(p) IS DISTINCT FROM (SELECT zone_id FROM zones WHERE ST_Contains(geom, p) ORDER BY ST_Area(geom), zone_id LIMIT 1)
       OR top_zone_all_array(p) IS DISTINCT FROM ARRAY(SELECT name FROM zones WHERE ST_Covers(geom, p) AND name IS NOT NULL
            ORDER BY level DESC NULLS LAST, length(name), name COLLATE "C" DESC, ST_Area(geom))
       OR ARRAY(SELECT n.key FROM near_all(p, 5) n) IS DISTINCT FROM ARRAY(SELECT zone_id FROM zones WHERE ST_DWithin(geom, p, 8) AND level > 0 ORDER BY geom <-> p, zone_id LIMIT 5)
       OR parts_of_array(p) IS DISTINCT FROM ARRAY(SELECT zone_id FROM parts WHERE ST_Contains(geom, p) ORDER BY level, ST_Area(geom), zone_id) $$;
CREATE PROCEDURE edit_and_look(edits int, INOUT differences bigint DEFAULT 0) LANGUAGE plpgsql AS $$
BEGIN
    FOR i IN 1..edits LOOP
        BEGIN
            PERFORM edit();
            differences := differences + differences();
            BEGIN
                PERFORM edit();
                IF random() < 0.5 THEN
                    differences := differences + differences();
                    RAISE 'back';
                END IF;
            EXCEPTION WHEN raise_exception THEN NULL;
            END;
            differences := differences + differences();
            IF random() < 0.3 THEN
                RAISE 'back';
            END IF;
        EXCEPTION WHEN raise_exception THEN
            differences := differences + differences();
        END;
        IF random() < 0.1 THEN
            COMMIT;
        ELSIF random() < 0.1 THEN
            ROLLBACK;
        END IF;
    END LOOP;
END $$;
SELECT edit();
CALL edit_and_look(:edits / 3);
-- rows go where others have lain
VACUUM zones, parts;
CALL edit_and_look(:edits / 3);
CLUSTER zones USING zones_pkey;
VACUUM FULL part_2;
CALL edit_and_look(:edits / 3);
SELECT locator, partial_builds > :edits AS often_in_part, builds > :edits / 10 AS often_whole, from_table, reason FROM detect.stat_locator WHERE locator NOT IN ('cell_of', 'lot_of') ORDER BY 1;

-- in PL/pgSQL each change makes the expressions anew: places are brought up to date all the same, and one of them is in memory
BEGIN;
CREATE TEMP TABLE kept AS SELECT partial_builds FROM detect.stat_locator WHERE locator = 'zone_of' AND pid = pg_backend_pid();
DO $$
DECLARE
    found text;
    contexts int;
BEGIN
    FOR i IN 1..50 LOOP
        UPDATE zones SET level = level WHERE zone_id = (SELECT min(zone_id) FROM zones);
        found := zone_of('SRID=25832;POINT(1 1)'::geometry);
    END LOOP;
    SELECT count(*) INTO contexts FROM pg_backend_memory_contexts WHERE name = 'detect places';
    RAISE WARNING 'few places are in memory: %', contexts < 10;
END $$;
SELECT s.partial_builds - k.partial_builds >= 25 AS in_part FROM detect.stat_locator s, kept k WHERE locator = 'zone_of' AND pid = pg_backend_pid();
COMMIT;

-- a locator of a partition, and one of its parent: whichever comes first, and goes first
CREATE TABLE park (id int, town int, geom geometry(Polygon, 25832)) PARTITION BY LIST (town);
CREATE TABLE park_1 PARTITION OF park FOR VALUES IN (1);
SELECT detect.create_locator('park_1_of', 'park_1', key => 'id');
SELECT detect.create_locator('park_of', 'park', key => 'id');
INSERT INTO park SELECT * FROM squares(1, 1, 3);
SELECT park_of(0.5, 0.5), park_1_of(0.5, 0.5);
SELECT detect.drop_locator('park_of');
DELETE FROM park WHERE id = park_1_of(0.5, 0.5);
SELECT park_1_of(0.5, 0.5) = (SELECT id FROM park WHERE ST_Contains(geom, 'SRID=25832;POINT(0.5 0.5)') ORDER BY ST_Area(geom), id LIMIT 1) AS is_right;
SELECT from_table, reason FROM detect.stat_locator WHERE locator = 'park_1_of';
SELECT detect.create_locator('park_of', 'park', key => 'id');
SELECT detect.drop_locator('park_1_of');
DELETE FROM park WHERE id = park_of(0.5, 0.5);
SELECT park_of(0.5, 0.5) = (SELECT id FROM park WHERE ST_Contains(geom, 'SRID=25832;POINT(0.5 0.5)') ORDER BY ST_Area(geom), id LIMIT 1) AS is_right;
SELECT from_table, reason FROM detect.stat_locator WHERE locator = 'park_of';

DROP SCHEMA changes CASCADE;
