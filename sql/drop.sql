--
-- drop: what goes with what, and what a stream says of changed tables
--
CREATE ROLE regress_drop IN ROLE detect_admin LOGIN;
CREATE SCHEMA drops AUTHORIZATION regress_drop;

-- What there is of definitions, in our catalog and of objects.
CREATE VIEW regress.left_over AS
    SELECT 'stream' AS kind, name FROM detect._stream
    UNION ALL SELECT 'rollup', name FROM detect._rollup
    UNION ALL SELECT 'progress', stream_id::text FROM detect._applied_progress
    UNION ALL SELECT 'dead letter', stream_id::text FROM detect._dead_letter
    UNION ALL SELECT c.relkind::text, format('%s.%s', n.nspname, c.relname)
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname IN ('detect_staging', 'detect_query', 'detect_state') AND c.relkind IN ('r', 'v')
    UNION ALL SELECT 'trigger', format('%s on %s', tgname, tgrelid::regclass) FROM pg_trigger WHERE tgname ~ '^_detect' AND tgparentid = 0;
GRANT SELECT ON regress.left_over TO PUBLIC;
SET SESSION AUTHORIZATION regress_drop;
SET search_path = drops, public;

CREATE TABLE place (place_id int PRIMARY KEY, name text, remark text);
INSERT INTO place VALUES (1, 'Market'), (2, 'Station');
CREATE FUNCTION whisper(text) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT lower($1) || '!' $$;
CREATE TYPE colour AS ENUM ('red', 'green');
CREATE TABLE event (id int PRIMARY KEY, place text, v int CHECK (v > 0));
CREATE FUNCTION define() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM detect.create_stream('event', columns => 'id int, place_id int, v int, colour drops.colour',
        query => 'SELECT b.id, b.v, whisper(p.name) AS place FROM batch b LEFT JOIN place p USING (place_id)');
    PERFORM detect.create_rollup('event_sum', 'SELECT place, count(*) AS n, sum(v) AS v FROM event GROUP BY place');
    INSERT INTO detect_staging.event SELECT coalesce(max(id), 0) + 1, 1, 1 FROM event;
    INSERT INTO detect_staging.event VALUES (-1, 1, 0);
END $$;
SELECT define();
SELECT detect.wait_for('event');
SELECT detect.wait_for_rollup('event_sum');
SELECT kind, CASE WHEN kind IN ('progress', 'dead letter') THEN 'of event' ELSE name END AS name FROM regress.left_over ORDER BY 1, 2;

-- ---------------------------------------------------------------------
-- What a stream uses is not dropped without CASCADE
-- ---------------------------------------------------------------------
\pset format unaligned
\pset tuples_only on
\pset fieldsep ': '
SELECT statement, regress.attempt(statement)
FROM unnest(ARRAY[
    'DROP TABLE event', 'DROP TABLE place', 'ALTER TABLE place DROP COLUMN name', 'DROP FUNCTION whisper(text)', 'DROP TYPE colour',
    'DROP TABLE detect_staging.event', 'DROP VIEW detect_query.event', 'ALTER TABLE detect_staging.event DROP COLUMN id',
    'ALTER TABLE detect_staging.event DROP COLUMN _ordinal', 'DROP TABLE detect_state.event_sum', 'DROP VIEW detect_query.event_sum',
    'ALTER TABLE event DROP COLUMN v', 'DROP SCHEMA drops']) statement;
\pset tuples_only off
\pset format aligned

-- with CASCADE the stream and its rollups go along, and can be made again; events stay where they stay
SET client_min_messages = warning;
DROP TABLE event CASCADE;
SELECT * FROM regress.left_over;
SELECT to_regclass('event_sum');
CREATE TABLE event (id int PRIMARY KEY, place text, v int CHECK (v > 0));
SELECT define();
SELECT detect.wait_for('event');

DROP TABLE place CASCADE;
SELECT * FROM regress.left_over WHERE kind <> 'rollup' AND name !~ 'event_sum';
CREATE TABLE place (place_id int PRIMARY KEY, name text, remark text);
SELECT detect.drop_rollup('event_sum');
SELECT * FROM regress.left_over;
SELECT define();
SELECT detect.wait_for('event');
SELECT id, place FROM event ORDER BY id;

DROP FUNCTION whisper(text) CASCADE;
SELECT detect.drop_rollup('event_sum');
SELECT * FROM regress.left_over;
CREATE FUNCTION whisper(text) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT lower($1) || '!' $$;
SELECT define();
DROP TABLE detect_staging.event CASCADE;
SELECT detect.drop_rollup('event_sum');
SELECT * FROM regress.left_over;
SELECT define();
DROP VIEW detect_query.event;
SELECT detect.drop_rollup('event_sum');
SELECT * FROM regress.left_over;

-- a type that only a column of the stream has: the column goes, the stream goes on
SELECT define();
SELECT detect.wait_for('event');
DROP TYPE colour CASCADE;
INSERT INTO detect_staging.event VALUES (100, 1, 1);
SELECT detect.wait_for('event');
SELECT id FROM event WHERE id = 100;
SELECT string_agg(attname, ',' ORDER BY attnum) FROM pg_attribute
WHERE attrelid = 'detect_staging.event'::regclass AND attnum > 0 AND NOT attisdropped;
CREATE TYPE colour AS ENUM ('red', 'green');

-- parts of a rollup: its view, whose number is that of another relation once a dump without it is restored, its states, its query
DROP VIEW event_sum;
CREATE VIEW bystander AS SELECT 1 AS id;
RESET SESSION AUTHORIZATION;
UPDATE detect._rollup SET view = 'drops.bystander'::regclass WHERE name = 'event_sum';
SET SESSION AUTHORIZATION regress_drop;
INSERT INTO detect_staging.event VALUES (101, 1, 1);
SELECT detect.wait_for('event');
SELECT detect.drop_rollup('event_sum');
SELECT * FROM bystander;
DROP VIEW bystander;
SELECT detect.create_rollup('event_sum', 'SELECT place, count(*) AS n FROM event GROUP BY place');
SELECT detect.wait_for_rollup('event_sum');
DROP TABLE detect_state.event_sum CASCADE;
SELECT * FROM regress.left_over WHERE name ~ 'event_sum';
INSERT INTO detect_staging.event VALUES (102, 1, 1);
SELECT detect.wait_for('event');
SELECT detect.create_rollup('event_sum', 'SELECT place, count(*) AS n FROM event GROUP BY place');
DROP VIEW detect_query.event_sum CASCADE;
SELECT * FROM regress.left_over WHERE name ~ 'event_sum';
SELECT detect.create_rollup('event_sum', 'SELECT place, count(*) AS n FROM event GROUP BY place');
SELECT detect.wait_for_rollup('event_sum');
SELECT n = (SELECT count(*) FROM event) AS complete FROM (SELECT sum(n) AS n FROM event_sum) s;

-- rolled back, all of it is there and goes on
BEGIN;
DROP TABLE event CASCADE;
ROLLBACK;
INSERT INTO detect_staging.event VALUES (103, 1, 1);
SELECT detect.wait_for('event');
SELECT n = (SELECT count(*) FROM event) AS complete FROM (SELECT sum(n) AS n FROM event_sum) s;

-- ---------------------------------------------------------------------
-- drop_stream and drop_rollup
-- ---------------------------------------------------------------------
RESET client_min_messages;
SELECT detect.drop_stream('no_such_stream');
SELECT detect.drop_stream('no_such_stream', if_exists => true);
SELECT detect.drop_stream('event_sum');
SELECT detect.drop_rollup('event');
-- what others have built upon keeps it
CREATE VIEW upon_staging AS SELECT count(*) FROM detect_staging.event;
SELECT detect.drop_stream('event');
DROP VIEW upon_staging;
CREATE VIEW upon_rollup AS SELECT max(n) FROM event_sum;
SELECT detect.drop_rollup('event_sum');
DROP VIEW upon_rollup;
-- events and rollups outlive the stream; made again over the kept table, it goes on with both
SELECT detect.drop_stream('event');
SELECT kind, name FROM regress.left_over ORDER BY 1, 2;
SELECT n = (SELECT count(*) FROM event) AS complete FROM (SELECT sum(n) AS n FROM event_sum) s;
SELECT rollup, stream FROM detect.rollup;
SELECT rollup, stream, state FROM detect.stat_rollup;
SELECT detect.create_stream('event_again', events_table => 'event');
INSERT INTO detect_staging.event_again VALUES (103, 'again', 1), (104, 'new', 1);
SELECT detect.wait_for('event_again');
SELECT rollup, stream, state FROM detect.stat_rollup;
SELECT * FROM event_sum WHERE place = 'new';
SELECT n = (SELECT count(*) FROM event) AS complete FROM (SELECT sum(n) AS n FROM event_sum) s;
SELECT accepted, duplicates FROM detect.stat_stream;
SELECT detect.drop_stream('event_again');
SELECT detect.drop_rollup('event_sum');
SELECT * FROM regress.left_over;

-- a stream whose parts were taken away by force can still be dropped
SELECT detect.create_stream('moved', events_table => 'event');
ALTER TABLE detect_staging.moved SET SCHEMA drops;
INSERT INTO drops.moved (id) VALUES (1);
SELECT detect.wait_for('moved');
SELECT detect.drop_stream('moved');
SELECT * FROM regress.left_over;
SELECT detect.create_stream('moved', events_table => 'event');
SELECT detect.wait_for('moved');
SELECT detect.drop_stream('moved');
DROP TABLE IF EXISTS drops.moved;
SELECT count(*) > 0 AS events_stay FROM event;

-- ---------------------------------------------------------------------
-- Renamed and altered tables: the stream goes on, or says what
-- ---------------------------------------------------------------------
SET client_min_messages = warning;
DROP SCHEMA drops CASCADE;
SELECT * FROM regress.left_over;
RESET SESSION AUTHORIZATION;
CREATE SCHEMA drops AUTHORIZATION regress_drop;
SET SESSION AUTHORIZATION regress_drop;
RESET client_min_messages;
CREATE TABLE place (place_id int PRIMARY KEY, name text);
INSERT INTO place VALUES (1, 'Market');
CREATE TABLE event (id int PRIMARY KEY, place text, v int);
SELECT detect.create_stream('event', columns => 'id int, place_id int, v int',
    query => 'SELECT b.id, p.name AS place, b.v FROM batch b LEFT JOIN place p USING (place_id)');
SELECT detect.create_rollup('event_sum', 'SELECT e.place, p.name, count(*) AS n, sum(v) AS v FROM event e LEFT JOIN place p ON p.name = e.place GROUP BY 1, 2');
SELECT detect.wait_for_rollup('event_sum');
INSERT INTO detect_staging.event VALUES (1, 1, 1);
SELECT detect.wait_for('event');

-- place table: name, column, schema, more columns, another type
ALTER TABLE place RENAME TO location;
INSERT INTO detect_staging.event VALUES (2, 1, 1);
SELECT detect.wait_for('event');
ALTER TABLE location RENAME COLUMN name TO title;
INSERT INTO detect_staging.event VALUES (3, 1, 1);
SELECT detect.wait_for('event');
ALTER TABLE location RENAME COLUMN place_id TO location_id;
INSERT INTO detect_staging.event VALUES (4, 1, 1);
SELECT detect.wait_for('event');
ALTER TABLE location ADD COLUMN place_id int DEFAULT 77;
INSERT INTO detect_staging.event VALUES (5, 1, 1);
SELECT detect.wait_for('event');
-- events table: name, more columns, a column's type
ALTER TABLE event RENAME TO happening;
INSERT INTO detect_staging.event VALUES (6, 1, 1);
SELECT detect.wait_for('event');
ALTER TABLE happening ADD COLUMN noted text DEFAULT 'default', ADD COLUMN twice int GENERATED ALWAYS AS (id * 2) STORED;
INSERT INTO detect_staging.event VALUES (7, 1, 1);
SELECT detect.wait_for('event');
SELECT * FROM happening ORDER BY id;
SELECT * FROM event_sum;
SELECT stream, events_table, state FROM detect.stream JOIN detect.stat_stream USING (stream);

-- a column that the query fills
ALTER TABLE happening RENAME COLUMN place TO place_name;
INSERT INTO detect_staging.event VALUES (8, 1, 1);
SELECT regress.wait_for_pause('event');
SELECT detect.resume('event');
SELECT regress.wait_for_pause('event');
ALTER TABLE happening RENAME COLUMN place_name TO place;
SELECT detect.resume('event');
SELECT detect.wait_for('event');
-- the key
ALTER TABLE happening RENAME COLUMN id TO number;
INSERT INTO detect_staging.event VALUES (9, 1, 1);
SELECT regress.wait_for_pause('event');
ALTER TABLE happening RENAME COLUMN number TO id;
ALTER TABLE happening DROP COLUMN twice, ALTER COLUMN id TYPE bigint;
SELECT detect.resume('event');
SELECT regress.wait_for_pause('event');
ALTER TABLE happening ALTER COLUMN id TYPE int;
SELECT detect.resume('event');
SELECT detect.wait_for('event');
-- the staging table
ALTER TABLE detect_staging.event RENAME COLUMN v TO value;
INSERT INTO detect_staging.event VALUES (10, 1, 1);
SELECT detect.wait_for('event');
ALTER TABLE detect_staging.event RENAME COLUMN id TO number;
INSERT INTO detect_staging.event VALUES (11, 1, 1);
SELECT regress.wait_for_pause('event');
ALTER TABLE detect_staging.event RENAME COLUMN number TO id;
SELECT detect.resume('event');
SELECT detect.wait_for('event');
SELECT id, place, v FROM happening ORDER BY id;
SELECT sum(n) AS n, sum(v) AS v FROM event_sum;
SELECT accepted, duplicates, filtered, dead_letters FROM detect.stat_stream;

-- what a crash would empty
ALTER TABLE happening SET UNLOGGED;
INSERT INTO detect_staging.event VALUES (20, 1, 1);
SELECT regress.wait_for_pause('event');
ALTER TABLE happening SET LOGGED;
SELECT detect.resume('event');
SELECT detect.wait_for('event');

-- another schema, and nothing of its search_path is used
RESET SESSION AUTHORIZATION;
CREATE SCHEMA drops_too AUTHORIZATION regress_drop;
SET SESSION AUTHORIZATION regress_drop;
ALTER TABLE happening SET SCHEMA drops_too;
ALTER TABLE location SET SCHEMA drops_too;
INSERT INTO detect_staging.event VALUES (12, 1, 1);
SELECT detect.wait_for('event');
SELECT id, place FROM drops_too.happening WHERE id = 12;

-- our schemas keep their names, whoever asks
RESET SESSION AUTHORIZATION;
\pset format unaligned
\pset tuples_only on
SELECT schema, regress.attempt(format('ALTER SCHEMA %I RENAME TO regress_renamed', schema))
FROM unnest(ARRAY['detect', 'detect_query', 'detect_staging', 'detect_state', 'drops']) schema;
\pset tuples_only off
\pset format aligned

SET client_min_messages = warning;
DROP SCHEMA drops, drops_too CASCADE;
SELECT * FROM regress.left_over;
DROP OWNED BY regress_drop;
DROP ROLE regress_drop;
DROP VIEW regress.left_over;
