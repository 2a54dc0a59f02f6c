--
-- dedup_index: identities behind unique indexes, by want of memory or of the user
--
-- detect.identity_memory is so small here that everything leaves memory.  The
-- oracle of each part: of all rows, staged again, none is accepted.
--
ALTER SYSTEM SET detect.identity_memory = '64kB';
SELECT pg_reload_conf();
CREATE ROLE regress_index IN ROLE detect_admin LOGIN;
CREATE SCHEMA dedup_index AUTHORIZATION regress_index;
SET SESSION AUTHORIZATION regress_index;
SET search_path = dedup_index, public;
SET timezone = 'UTC';
SET datestyle = 'ISO';

-- ---------------------------------------------------------------------
-- A plain table leaves memory, and works from its index
-- ---------------------------------------------------------------------
CREATE TABLE plain (id int, v text);
SELECT detect.create_stream('plain', key => '{id}');
INSERT INTO detect_staging.plain SELECT n, 'first' FROM generate_series(1, 20000) n;
SELECT detect.wait_for('plain');
CALL regress.await($$ SELECT FROM pg_index WHERE indrelid = 'plain'::regclass AND indisunique AND indisvalid $$, 1);
CALL regress.await($$ SELECT FROM detect.stat_stream WHERE identities = 0 $$, 1);
SELECT indexrelid::regclass FROM pg_index WHERE indrelid = 'plain'::regclass;
CALL regress.await($$ SELECT FROM detect.problem $$, 0);
INSERT INTO detect_staging.plain SELECT n, 'second' FROM generate_series(19001, 21000) n;
INSERT INTO detect_staging.plain SELECT n, 'third' FROM generate_series(1, 22000, 7) n;
SELECT detect.wait_for('plain');
SELECT v, count(*) FROM plain GROUP BY v ORDER BY v;
SELECT * FROM regress.outcomes;
-- by hand: the index knows
DELETE FROM plain WHERE id = 7;
INSERT INTO plain VALUES (30000, 'by hand');
INSERT INTO detect_staging.plain VALUES (7, 'again'), (30000, 'again'), (8, 'again');
SELECT detect.wait_for('plain');
SELECT * FROM plain WHERE id IN (7, 8, 30000) ORDER BY id;
-- the index goes, and memory is there again, and then another index
DROP INDEX plain_identity;
INSERT INTO detect_staging.plain VALUES (7, 'last'), (30000, 'last'), (30001, 'last');
SELECT detect.wait_for('plain');
SELECT * FROM plain WHERE id IN (7, 30000, 30001) ORDER BY id;
CALL regress.await($$ SELECT FROM pg_index WHERE indrelid = 'plain'::regclass AND indisunique AND indisvalid $$, 1);
CREATE TEMP TABLE before AS SELECT * FROM regress.outcomes;
INSERT INTO detect_staging.plain SELECT id, 'replayed' FROM plain;
SELECT detect.wait_for('plain');
SELECT o.accepted - b.accepted AS accepted, o.duplicates - b.duplicates = (SELECT count(*) FROM plain) AS all_duplicates
FROM regress.outcomes o, before b;
DROP TABLE before;
SELECT detect.drop_stream('plain');

-- ---------------------------------------------------------------------
-- Partitions that are not past, and those that are made meanwhile
-- ---------------------------------------------------------------------
CREATE TABLE parted (id int, seen_at timestamptz, v text) PARTITION BY RANGE (seen_at);
SELECT detect.create_stream('parted', key => '{id}', partition_interval => '1 hour');
CREATE TABLE sent AS
    SELECT n AS id, date_trunc('hour', now()) + n % 3 * interval '1 hour' AS seen_at, 'first' AS v FROM generate_series(1, 30000) n;
INSERT INTO detect_staging.parted TABLE sent;
SELECT detect.wait_for('parted');
CALL regress.await($$ SELECT FROM detect.stat_stream WHERE identities < 4000 $$, 1);
SELECT count(*) >= 3 AS indexed FROM pg_index WHERE indrelid IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = 'parted'::regclass) AND indisvalid;
CALL regress.await($$ SELECT FROM detect.problem $$, 0);
INSERT INTO detect_staging.parted SELECT id, seen_at, 'second' FROM sent WHERE id % 3 = 0;
INSERT INTO detect_staging.parted SELECT id + 20000, seen_at, 'third' FROM sent;
INSERT INTO detect_staging.parted SELECT id, seen_at - interval '5 days', 'fourth' FROM sent WHERE id % 10 = 0;
INSERT INTO detect_staging.parted SELECT id, seen_at - interval '5 days', 'fifth' FROM sent WHERE id % 5 = 0;
SELECT detect.wait_for('parted');
SELECT v, count(*) FROM parted GROUP BY v ORDER BY v;
SELECT count(*) AS rows, count(DISTINCT (id, seen_at)) AS identities FROM parted;
SELECT * FROM regress.outcomes;
CREATE TEMP TABLE before AS SELECT * FROM regress.outcomes;
INSERT INTO detect_staging.parted TABLE parted;
SELECT detect.wait_for('parted');
SELECT o.accepted - b.accepted AS accepted, o.duplicates - b.duplicates = (SELECT count(*) FROM parted) AS all_duplicates
FROM regress.outcomes o, before b;
DROP TABLE before;
SELECT detect.drop_stream('parted');

-- ---------------------------------------------------------------------
-- An index that can't be built is a problem with its keys, until it can
-- ---------------------------------------------------------------------
CREATE TABLE twice (id int, code text, v text);
INSERT INTO twice SELECT 1 + n / 2, 'c', 'by hand' FROM generate_series(0, 19) n;
SELECT detect.create_stream('twice', key => '{id,code}');
INSERT INTO detect_staging.twice SELECT n, 'c', 'staged' FROM generate_series(1, 20000) n;
SELECT detect.wait_for('twice');
CALL regress.await($$ SELECT FROM detect.problem WHERE problem = 'unique index' $$, 1);
SELECT stream, problem, relation, severity, detail, remedy, since <= now() AS since FROM detect.problem ORDER BY problem;
SELECT identities, identity_bytes > 64 * 1024 AS over_the_bound FROM detect.stat_stream;
-- the stream goes on from memory
INSERT INTO detect_staging.twice VALUES (1, 'c', 'staged'), (20001, 'c', 'staged');
SELECT detect.wait_for('twice');
SELECT accepted, duplicates FROM regress.outcomes;
-- as the remedy says
DELETE FROM twice a USING twice b WHERE (a.id, a.code) = (b.id, b.code) AND a.ctid > b.ctid;
CALL regress.await($$ SELECT FROM detect.problem $$, 0);
CALL regress.await($$ SELECT FROM detect.stat_stream WHERE identities = 0 AND reason IS NULL $$, 1);
INSERT INTO detect_staging.twice SELECT id, code, 'replayed' FROM twice;
SELECT detect.wait_for('twice');
SELECT accepted, duplicates FROM regress.outcomes;
SELECT count(*) AS rows, count(DISTINCT (id, code)) AS identities FROM twice;
SELECT detect.drop_stream('twice');

RESET SESSION AUTHORIZATION;
ALTER SYSTEM RESET detect.identity_memory;
SELECT pg_reload_conf();

-- ---------------------------------------------------------------------
-- 23505: on our identity a duplicate, on any other constraint a dead letter
-- ---------------------------------------------------------------------
SET SESSION AUTHORIZATION regress_index;
CREATE TABLE place (place_id int PRIMARY KEY);
INSERT INTO place VALUES (1), (2);
CREATE FUNCTION drop_or_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF new.v = 'drop' THEN
        RETURN NULL;
    END IF;
    new.v := upper(new.v);
    RETURN new;
END $$;
CREATE TABLE full_of (
    number bigint GENERATED ALWAYS AS IDENTITY UNIQUE, id int NOT NULL, code text CONSTRAINT one_code UNIQUE,
    place_id int CONSTRAINT in_a_place REFERENCES place, v text, size int GENERATED ALWAYS AS (length(v)) STORED,
    CONSTRAINT one_id UNIQUE (id), CONSTRAINT one_size EXCLUDE USING btree (place_id WITH =, size WITH =) WHERE (size > 5));
CREATE TRIGGER drop_or_change BEFORE INSERT ON full_of FOR EACH ROW EXECUTE FUNCTION drop_or_change();
SELECT detect.create_stream('full_of', columns => 'id int, code text, place_id int, v text',
    query => 'SELECT b.id, b.code, b.place_id, b.v FROM batch b', key => '{id}');
INSERT INTO detect_staging.full_of VALUES
    (1, 'a', 1, 'x'), (2, 'a', 1, 'x'), (1, 'b', 1, 'x'), (3, 'c', 9, 'x'), (4, 'd', 1, 'drop'), (4, 'd', 2, 'kept'),
    (5, 'e', 1, 'longer'), (6, 'f', 1, 'as long'), (7, 'g', 1, 'longed'), (8, 'b', NULL, NULL);
SELECT detect.wait_for('full_of');
SELECT id, code, place_id, v, size FROM full_of ORDER BY id;
SELECT sqlstate, reason, convert_from(payload, 'UTF8')::json ->> 'id' AS id FROM detect.dead_letter ORDER BY dead_letter_id;
SELECT * FROM regress.outcomes;
-- the key of a dead letter is free
INSERT INTO detect_staging.full_of VALUES (2, 'z', 1, 'x'), (3, 'c', 2, 'x'), (7, 'g', 2, 'longed'), (4, 'd', 2, 'kept');
SELECT detect.wait_for('full_of');
SELECT id, code, place_id, v, size FROM full_of ORDER BY id;
INSERT INTO detect_staging.full_of SELECT id, code, place_id, v FROM full_of;
SELECT detect.wait_for('full_of');
SELECT * FROM regress.outcomes;
SELECT detect.drop_stream('full_of');

SELECT count(*) FROM detect.stream;
RESET SESSION AUTHORIZATION;
SELECT count(*) AS queued, (SELECT count(*) FROM detect._problem) AS problems FROM detect._edit;
SET client_min_messages = warning;
DROP SCHEMA dedup_index CASCADE;
DROP ROLE regress_index;
