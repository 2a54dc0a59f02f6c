--
-- dedup_edit: dedup knows what others do to the rows of an events table
--
-- A key inserted by hand is known, a deleted one is free again, in the table as
-- in its partitions, in memory as behind an index.  Each part ends with the
-- oracle: of all rows, staged again, none is accepted.
--
CREATE ROLE regress_edit IN ROLE detect_admin LOGIN;
CREATE ROLE regress_edit_writer LOGIN;
CREATE SCHEMA dedup_edit AUTHORIZATION regress_edit;
GRANT USAGE ON SCHEMA dedup_edit TO regress_edit_writer;
SET SESSION AUTHORIZATION regress_edit;
SET search_path = dedup_edit, public;
SET timezone = 'UTC';
SET datestyle = 'ISO';

-- Whether as many identities are in memory, as soon as the applier has said so.
CREATE FUNCTION are_in_memory(expected bigint) RETURNS boolean LANGUAGE sql
RETURN regress.wait_for_rows(format('SELECT FROM detect.stat_stream WHERE identities = %s', expected), 1) = 1;

-- ---------------------------------------------------------------------
-- A plain table
-- ---------------------------------------------------------------------
CREATE TABLE plain (id int, v text);
SELECT detect.create_stream('plain', key => '{id}');
INSERT INTO detect_staging.plain VALUES (1, 'staged'), (2, 'staged'), (3, 'staged');
SELECT detect.wait_for('plain');

INSERT INTO plain VALUES (4, 'by hand'), (NULL, 'by hand');
INSERT INTO detect_staging.plain VALUES (4, 'staged'), (5, 'staged');
SELECT detect.wait_for('plain');
SELECT 'inserted', * FROM plain WHERE id > 3 ORDER BY id;
DELETE FROM plain WHERE id IN (1, 4);
INSERT INTO detect_staging.plain VALUES (1, 'again'), (4, 'again'), (2, 'again');
SELECT detect.wait_for('plain');
SELECT 'deleted', * FROM plain ORDER BY id;
UPDATE plain SET id = id + 10 WHERE id IN (1, 2);
UPDATE plain SET v = 'changed' WHERE id = 3;
INSERT INTO detect_staging.plain VALUES (1, 'third'), (2, 'third'), (11, 'third'), (12, 'third'), (3, 'third');
SELECT detect.wait_for('plain');
SELECT 'updated', * FROM plain ORDER BY id;
COPY plain (id, v) FROM stdin;
20	copied
21	copied
\.
INSERT INTO detect_staging.plain VALUES (20, 'staged'), (21, 'staged'), (22, 'staged');
SELECT detect.wait_for('plain');
SELECT 'copied', * FROM plain WHERE id >= 20 ORDER BY id;

-- what is rolled back has not been
BEGIN;
INSERT INTO plain VALUES (30, 'rolled back');
DELETE FROM plain WHERE id = 3;
ROLLBACK;
BEGIN;
SAVEPOINT s;
INSERT INTO plain VALUES (31, 'rolled back');
ROLLBACK TO s;
INSERT INTO plain VALUES (32, 'kept');
DELETE FROM plain WHERE id = 20;
INSERT INTO plain VALUES (20, 'put back');
COMMIT;
INSERT INTO detect_staging.plain VALUES (30, 'staged'), (3, 'staged'), (31, 'staged'), (32, 'staged'), (20, 'staged');
SELECT detect.wait_for('plain');
SELECT 'rolled back', * FROM plain WHERE id IN (30, 3, 31, 32, 20) ORDER BY id;

-- a key that stands twice is known until its last row goes
INSERT INTO plain VALUES (40, 'one'), (40, 'two'), (3, 'two');
DELETE FROM plain WHERE v = 'two';
INSERT INTO detect_staging.plain VALUES (40, 'staged'), (3, 'staged');
SELECT detect.wait_for('plain');
SELECT 'twice', * FROM plain WHERE id IN (40, 3) ORDER BY id;
DELETE FROM plain WHERE id = 40;
INSERT INTO detect_staging.plain VALUES (40, 'staged');
SELECT detect.wait_for('plain');
SELECT 'gone', * FROM plain WHERE id = 40;

-- more rows than are queued one by one, put in and taken out
INSERT INTO plain SELECT n, 'many' FROM generate_series(1001, 21000) n;
INSERT INTO detect_staging.plain SELECT n, 'staged' FROM generate_series(20901, 21100) n;
SELECT detect.wait_for('plain');
SELECT v, count(*) FROM plain WHERE id > 1000 GROUP BY v ORDER BY v;
DELETE FROM plain WHERE id BETWEEN 1001 AND 20000;
INSERT INTO detect_staging.plain SELECT n, 'staged' FROM generate_series(19901, 20100) n;
SELECT detect.wait_for('plain');
SELECT v, count(*) FROM plain WHERE id > 1000 GROUP BY v ORDER BY v;
-- emptied
TRUNCATE plain;
INSERT INTO detect_staging.plain VALUES (1, 'after'), (40, 'after'), (19950, 'after');
SELECT detect.wait_for('plain');
BEGIN;
INSERT INTO plain VALUES (2, 'truncated');
TRUNCATE plain;
INSERT INTO plain VALUES (3, 'by hand');
COMMIT;
INSERT INTO detect_staging.plain VALUES (1, 'last'), (2, 'last'), (3, 'last');
SELECT detect.wait_for('plain');
SELECT 'emptied', * FROM plain ORDER BY id;
SELECT are_in_memory((SELECT count(DISTINCT id) FROM plain)) AS memory_is_table;
-- a row merged, and one inserted on conflict
MERGE INTO plain USING (VALUES (1), (60)) m (id) ON plain.id = m.id
    WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT VALUES (m.id, 'merged');
INSERT INTO detect_staging.plain VALUES (1, 'staged'), (60, 'staged');
SELECT detect.wait_for('plain');
SELECT 'merged', * FROM plain WHERE id IN (1, 60) ORDER BY id;
-- oracle
CREATE TEMP TABLE before AS SELECT * FROM regress.outcomes;
INSERT INTO detect_staging.plain SELECT id, 'replayed' FROM plain WHERE id IS NOT NULL;
SELECT detect.wait_for('plain');
SELECT o.accepted - b.accepted AS accepted, o.duplicates - b.duplicates = (SELECT count(*) FROM plain WHERE id IS NOT NULL) AS all_duplicates
FROM regress.outcomes o, before b;
DROP TABLE before;
SELECT detect.drop_stream('plain');
SELECT tgname FROM pg_trigger WHERE tgrelid = 'plain'::regclass;

-- ---------------------------------------------------------------------
-- Keys of every kind come back as they were, whatever the session's settings
-- ---------------------------------------------------------------------
CREATE TABLE keyed (t text, u uuid, b bytea, f float8, s timestamp, z timestamptz, d date, c char(5), e bool, i bigint);
SELECT detect.create_stream('keyed', key => '{t,u,b,f,s,z,d,c,e,i}');
SET extra_float_digits = -15;
SET bytea_output = escape;
SET datestyle = 'SQL, DMY';
SET timezone = 'America/St_Johns';
CREATE TABLE sample AS SELECT * FROM (VALUES
    ('a"\x', '00000000-0000-0000-0000-000000000001'::uuid, '\x005c27'::bytea, 0.1::float8 + 0.2, timestamp '2024-02-01 01:02:03.123456', timestamptz '1800-01-01 00:00:00.000001Z',
     date '2024-02-01', 'x'::char(5), true, 9007199254740993),
    ('', '00000000-0000-0000-0000-000000000002', '', 'NaN', 'infinity', '-infinity', 'infinity', '', false, -1),
    (E'\u00e4\n', '00000000-0000-0000-0000-000000000003', '\xff', -0.0, '0044-03-15 BC', '0044-03-15 00:00Z BC', '0044-03-15 BC', 'abcde', true, 0),
    ('1e400', '00000000-0000-0000-0000-000000000004', '\x00', 1.7976931348623157e308, '2000-01-01', '2000-01-01', '2000-01-01', 'null', false, 1)) v (t, u, b, f, s, z, d, c, e, i);
INSERT INTO keyed TABLE sample;
INSERT INTO detect_staging.keyed TABLE sample;
SELECT detect.wait_for('keyed');
SELECT accepted, duplicates FROM regress.outcomes;
DELETE FROM keyed;
INSERT INTO detect_staging.keyed TABLE sample;
SELECT detect.wait_for('keyed');
SELECT accepted, duplicates FROM regress.outcomes;
RESET extra_float_digits;
RESET bytea_output;
SET datestyle = 'ISO';
SET timezone = 'UTC';
SELECT detect.drop_stream('keyed');

-- ---------------------------------------------------------------------
-- Partitions: through the table, and directly
-- ---------------------------------------------------------------------
-- Two partitions that are open for the next minutes: what is past gets an index.
CREATE TABLE daily (id int, seen_at timestamptz, v text) PARTITION BY RANGE (seen_at);
SELECT now() - interval '10 minutes' AS low, now() + interval '1 hour' AS middle, now() + interval '2 hours' AS high,
       now() + interval '5 hours' AS beyond, now() AS early, now() + interval '90 minutes' AS late \gset
CREATE TABLE daily_early PARTITION OF daily FOR VALUES FROM (:'low') TO (:'middle');
CREATE TABLE daily_late PARTITION OF daily FOR VALUES FROM (:'middle') TO (:'high');
CREATE TABLE daily_rest PARTITION OF daily DEFAULT;
-- what comes later is kept free of the partitions that the stream makes ahead: late in the day it is tomorrow
CREATE TABLE reserved PARTITION OF daily FOR VALUES FROM (:'high') TO (:'beyond');
SELECT detect.create_stream('daily', key => '{id}');
SELECT tgrelid::regclass, tgname, tgenabled FROM pg_trigger WHERE tgrelid::regclass::text ~ '^daily' ORDER BY tgrelid::regclass::text, tgname;
INSERT INTO detect_staging.daily VALUES (1, :'early', 'staged'), (2, :'early', 'staged'), (1, :'late', 'staged');
SELECT detect.wait_for('daily');

CREATE VIEW daily_rows AS
    SELECT regexp_replace(tableoid::regclass::text, '\d+', '<day>') AS part, id, v FROM daily ORDER BY part, id, v;
INSERT INTO daily_early VALUES (3, :'early', 'by hand');
INSERT INTO daily VALUES (3, :'late', 'by hand');
DELETE FROM daily_early WHERE id = 1;
DELETE FROM daily WHERE id = 1 AND seen_at = :'late';
INSERT INTO detect_staging.daily VALUES (3, :'early', 'again'), (3, :'late', 'again'), (1, :'early', 'again'), (1, :'late', 'again'), (2, :'early', 'again');
SELECT detect.wait_for('daily');
SELECT 'direct', * FROM daily_rows;
-- from one partition to the other
UPDATE daily SET seen_at = :'late', v = 'moved' WHERE id = 2;
UPDATE daily_early SET id = 5 WHERE id = 3;
INSERT INTO detect_staging.daily VALUES (2, :'early', 'third'), (2, :'late', 'third'), (3, :'early', 'third'), (5, :'early', 'third');
SELECT detect.wait_for('daily');
SELECT 'moved', * FROM daily_rows;
-- one emptied, then all
TRUNCATE daily_early;
INSERT INTO detect_staging.daily VALUES (1, :'early', 'fourth'), (2, :'late', 'fourth');
SELECT detect.wait_for('daily');
SELECT 'emptied', * FROM daily_rows;
TRUNCATE daily;
INSERT INTO detect_staging.daily VALUES (1, :'early', 'fifth'), (2, :'late', 'fifth');
SELECT detect.wait_for('daily');
SELECT 'all emptied', * FROM daily_rows;
-- a partition goes: its keys are free in the one that takes their time now; what becomes of its rows is no matter
ALTER TABLE daily DETACH PARTITION daily_early;
INSERT INTO daily_early VALUES (7, :'early', 'detached');
INSERT INTO detect_staging.daily VALUES (1, :'early', 'sixth'), (7, :'early', 'sixth');
SELECT detect.wait_for('daily');
SELECT 'detached', regexp_replace(part, '<day>|rest', '<other>') AS part, id, v FROM daily_rows ORDER BY part COLLATE "C", id, v;
-- and comes back with what it has got meanwhile
DELETE FROM daily_rest;
BEGIN;
DO $$
DECLARE
    part regclass;
BEGIN
    FOR part IN SELECT inhrelid FROM pg_inherits WHERE inhparent = 'daily'::regclass AND inhrelid::regclass::text ~ '\d' LOOP
        EXECUTE 'DROP TABLE ' || part;
    END LOOP;
END $$;
ALTER TABLE daily ATTACH PARTITION daily_early FOR VALUES FROM (:'low') TO (:'middle');
COMMIT;
INSERT INTO detect_staging.daily VALUES (1, :'early', 'seventh'), (7, :'early', 'seventh'), (8, :'early', 'seventh');
SELECT detect.wait_for('daily');
SELECT 'attached', * FROM daily_rows;
-- one that never was a partition: its edits are known from when the applier has seen it
DROP TABLE reserved;
CREATE TABLE daily_new (v text, id int, seen_at timestamptz);
INSERT INTO daily_new VALUES ('before', 1, now() + interval '3 hours');
SELECT now() + interval '3 hours' AS later \gset
UPDATE daily_new SET seen_at = :'later';
ALTER TABLE daily ATTACH PARTITION daily_new FOR VALUES FROM (:'high') TO (:'beyond');
INSERT INTO daily_new VALUES ('at once', 2, :'later');
INSERT INTO detect_staging.daily VALUES (1, :'later', 'eighth'), (2, :'later', 'eighth'), (3, :'later', 'eighth');
SELECT detect.wait_for('daily');
INSERT INTO daily_new VALUES ('after', 4, :'later');
DELETE FROM daily_new WHERE id = 1;
INSERT INTO detect_staging.daily VALUES (1, :'later', 'ninth'), (2, :'later', 'ninth'), (4, :'later', 'ninth');
SELECT detect.wait_for('daily');
SELECT 'new', * FROM daily_rows WHERE part = 'daily_new';
-- so do those that the user makes
DROP TABLE daily_new;
CREATE TABLE daily_new PARTITION OF daily FOR VALUES FROM (:'high') TO (:'beyond');
INSERT INTO detect_staging.daily VALUES (1, :'later', 'tenth'), (2, :'later', 'tenth');
SELECT detect.wait_for('daily');
DELETE FROM daily_new WHERE id = 2;
INSERT INTO daily_new VALUES (3, :'later', 'by hand');
INSERT INTO detect_staging.daily VALUES (1, :'later', 'eleventh'), (2, :'later', 'eleventh'), (3, :'later', 'eleventh');
SELECT detect.wait_for('daily');
SELECT 'made', * FROM daily_rows WHERE part = 'daily_new';
-- many rows directly
INSERT INTO daily_late SELECT n, :'late', 'many' FROM generate_series(1001, 21000) n;
INSERT INTO detect_staging.daily SELECT n, :'late', 'staged' FROM generate_series(20991, 21010) n;
SELECT detect.wait_for('daily');
SELECT v, count(*) FROM daily_late WHERE id > 1000 GROUP BY v ORDER BY v;
-- a cascade from what the events refer to
CREATE TABLE camera (id int PRIMARY KEY);
INSERT INTO camera SELECT DISTINCT id FROM daily;
ALTER TABLE daily ADD FOREIGN KEY (id) REFERENCES camera ON DELETE CASCADE;
DELETE FROM camera WHERE id = 1;
INSERT INTO camera VALUES (1);
INSERT INTO detect_staging.daily VALUES (1, :'early', 'twelfth'), (1, :'later', 'twelfth');
SELECT detect.wait_for('daily');
SELECT 'cascaded', * FROM daily_rows WHERE id = 1;
-- oracle
SELECT are_in_memory((SELECT count(*) FROM (SELECT DISTINCT id, seen_at FROM daily) d)) AS memory_is_table;
CREATE TEMP TABLE before AS SELECT * FROM regress.outcomes;
INSERT INTO detect_staging.daily TABLE daily;
SELECT detect.wait_for('daily');
SELECT o.accepted - b.accepted AS accepted, o.duplicates - b.duplicates = (SELECT count(*) FROM daily) AS all_duplicates
FROM regress.outcomes o, before b;
DROP TABLE before;
SELECT detect.drop_stream('daily');
SELECT count(*) FROM pg_trigger WHERE tgname ~ '^_detect' AND tgrelid::regclass::text ~ '^daily';

-- ---------------------------------------------------------------------
-- What is queued is taken, also of a value that its type takes no more
-- ---------------------------------------------------------------------
CREATE DOMAIN number AS int;
CREATE DOMAIN moment AS timestamptz;
CREATE TABLE guarded (id number, seen_at timestamptz, v text);
CREATE TABLE guarded_parts (id number, seen_at moment, v text) PARTITION BY RANGE (seen_at);
CREATE TABLE guarded_rest PARTITION OF guarded_parts DEFAULT;
SELECT detect.create_stream('guarded', key => '{id}', event_time => 'seen_at'), detect.create_stream('guarded_parts', key => '{id}');
SELECT detect.create_rollup('guarded_days', 'SELECT date_trunc(''day'', seen_at) AS day, count(*) AS n, sum(id) AS ids FROM guarded GROUP BY 1'),
       detect.create_rollup('guarded_part_days', 'SELECT date_trunc(''day'', seen_at) AS day, count(*) AS n, sum(id) AS ids FROM guarded_parts GROUP BY 1');
SELECT detect.wait_for_rollup('guarded_days'), detect.wait_for_rollup('guarded_part_days');
INSERT INTO detect_staging.guarded VALUES (-3, '2024-01-01', 'staged'), (-2, '2024-01-02', 'staged'), (-1, '2024-01-03', 'staged'), (1, '2024-01-01', 'staged');
INSERT INTO detect_staging.guarded_parts SELECT id, seen_at, 'staged' FROM generate_series(-2, 2) id, (VALUES (timestamptz '2024-01-01'), ('1990-01-01')) t (seen_at);
SELECT detect.wait_for('guarded');
SELECT detect.wait_for('guarded_parts');
-- they are deleted, or get a value that it takes
BEGIN;
DELETE FROM guarded WHERE id < -1;
UPDATE guarded SET id = 2 WHERE id = -1;
DELETE FROM guarded_parts WHERE id < -1;
UPDATE guarded_parts SET id = 11 WHERE id = -1;
UPDATE guarded_parts SET seen_at = '2024-01-02' WHERE seen_at < '2000-01-01' AND id = 11;
DELETE FROM guarded_parts WHERE seen_at < '2000-01-01';
ALTER DOMAIN number ADD CHECK (VALUE >= 0);
ALTER DOMAIN moment ADD CHECK (VALUE >= '2000-01-01');
COMMIT;
INSERT INTO detect_staging.guarded SELECT n, '2024-01-01', 'again' FROM generate_series(1, 3) n;
INSERT INTO detect_staging.guarded_parts
    SELECT id, seen_at, 'again' FROM unnest('{0,1,2,3,11}'::int[]) id, (VALUES (timestamptz '2024-01-01'), ('2024-01-02')) t (seen_at);
SELECT detect.wait_for('guarded', '1 minute');
SELECT detect.wait_for('guarded_parts', '1 minute');
SELECT * FROM guarded ORDER BY id;
SELECT * FROM guarded_parts ORDER BY seen_at, id;
SELECT stream, accepted, duplicates, dead_letters, sum FROM regress.outcomes ORDER BY stream;
SELECT regress.wait_for_rows($$ SELECT FROM detect.stat_stream WHERE identities = CASE stream WHEN 'guarded' THEN 3 ELSE 10 END $$, 2) AS memory_is_table;
SELECT regress.compare('guarded_days', 'SELECT date_trunc(''day'', seen_at), count(*), sum(id) FROM guarded GROUP BY 1'),
       regress.compare('guarded_part_days', 'SELECT date_trunc(''day'', seen_at), count(*), sum(id) FROM guarded_parts GROUP BY 1');
SELECT detect.drop_stream('guarded'), detect.drop_stream('guarded_parts');

-- ---------------------------------------------------------------------
-- Writers need no right on anything of ours, and have none
-- ---------------------------------------------------------------------
CREATE TABLE shared (id int, v text);
GRANT SELECT, INSERT, UPDATE, DELETE ON shared TO regress_edit_writer;
SELECT detect.create_stream('shared', key => '{id}');
SET SESSION AUTHORIZATION regress_edit_writer;
SET search_path = dedup_edit;
INSERT INTO shared VALUES (1, 'writer'), (2, 'writer'), (3, 'writer');
DELETE FROM shared WHERE id = 1;
UPDATE shared SET id = 4 WHERE id = 3;
SELECT regress.outcome(s) FROM unnest('{TABLE detect._edit,DELETE FROM detect._edit,INSERT INTO detect._edit VALUES (1\, 1\, 1),SELECT nextval(''detect._edit_id''),
    TABLE detect._problem,SELECT detect._edited()}'::text[]) s;
SET SESSION AUTHORIZATION regress_edit;
SET search_path = dedup_edit, public;
INSERT INTO detect_staging.shared SELECT n, 'staged' FROM generate_series(1, 4) n;
SELECT detect.wait_for('shared');
SELECT * FROM shared ORDER BY id;
-- of columns that are neither key nor event time nothing is queued, and no cast runs
CREATE TYPE mood AS ENUM ('good');
CREATE FUNCTION mood_json(mood) RETURNS json LANGUAGE plpgsql AS $$
BEGIN
    RETURN to_json(current_user::text);
END $$;
CREATE TABLE moody (id int, m mood);
SELECT detect.create_stream('moody', columns => 'id int', query => 'SELECT b.id FROM batch b', key => '{id}');
RESET SESSION AUTHORIZATION;
CREATE CAST (dedup_edit.mood AS json) WITH FUNCTION dedup_edit.mood_json(dedup_edit.mood);
SET SESSION AUTHORIZATION regress_edit;
SELECT detect.pause('moody');
INSERT INTO moody VALUES (1, 'good');
RESET SESSION AUTHORIZATION;
SELECT new_row FROM detect._edit;
SET SESSION AUTHORIZATION regress_edit;
SELECT detect.resume('moody');
INSERT INTO detect_staging.moody VALUES (1), (2);
SELECT detect.wait_for('moody');
SELECT * FROM moody ORDER BY id;
SELECT detect.drop_stream('moody');
-- a date that no timestamp can tell stops nothing
CREATE TABLE far (id int PRIMARY KEY, day date);
SELECT detect.create_stream('far', server => '', event_time => 'day');
INSERT INTO far VALUES (1, '300000-01-01');
INSERT INTO far SELECT n, '300000-01-01' FROM generate_series(10, 12000) n;
INSERT INTO detect_staging.far VALUES (2, '2026-01-01');
SELECT detect.wait_for('far');
SELECT count(*) FROM far;
SELECT detect.drop_stream('far');
-- what is queued goes with the stream
SELECT detect.pause('shared');
INSERT INTO shared VALUES (10, 'by hand');
SELECT detect.drop_stream('shared');
RESET SESSION AUTHORIZATION;
SELECT count(*) AS queued FROM detect._edit;
SET client_min_messages = warning;
DROP CAST (dedup_edit.mood AS json);
DROP SCHEMA dedup_edit CASCADE;
DROP ROLE regress_edit, regress_edit_writer;
