--
-- stream_sql: from rows that SQL stages to events, dead letters and counts
--
-- Every element has exactly one outcome: accepted, duplicate, filtered, expired
-- or dead letter.
--
CREATE ROLE regress_sql IN ROLE detect_admin LOGIN;
CREATE SCHEMA stream_sql AUTHORIZATION regress_sql;
SET SESSION AUTHORIZATION regress_sql;
SET search_path = stream_sql, public;
SET timezone = 'UTC';
SET datestyle = 'ISO';

-- Dead letters without what differs from run to run.
CREATE VIEW letters AS
    SELECT stream, stage, sqlstate, regexp_replace(reason, '\d{4,6}-\d\d-\d\d [0-9:.+]+', '<time>') AS reason,
           attempts, convert_from(payload, 'UTF8') AS payload
    FROM detect.dead_letter ORDER BY dead_letter_id;

-- ---------------------------------------------------------------------
-- Dedup: the first occurrence counts
-- ---------------------------------------------------------------------
CREATE TABLE plain (id int, v text);
SELECT detect.create_stream('plain', key => '{id}');
INSERT INTO detect_staging.plain VALUES (1, 'first'), (2, 'first'), (1, 'second');
SELECT detect.wait_for('plain');
SELECT 'within a batch', * FROM plain ORDER BY id;
INSERT INTO detect_staging.plain VALUES (2, 'second'), (3, 'first'), (1, 'third');
SELECT detect.wait_for('plain');
SELECT 'across batches', * FROM plain ORDER BY id;
INSERT INTO detect_staging.plain VALUES (NULL, 'no key'), (4, NULL), (NULL, NULL);
SELECT detect.wait_for('plain');
SELECT 'without a key', * FROM plain WHERE id > 3 OR id IS NULL;
SELECT * FROM letters;
SELECT * FROM regress.outcomes;

-- in the order of the table, also when one transaction stages many times
BEGIN;
INSERT INTO detect_staging.plain VALUES (5, 'first');
SAVEPOINT s;
INSERT INTO detect_staging.plain VALUES (6, 'undone');
ROLLBACK TO s;
INSERT INTO detect_staging.plain VALUES (5, 'second'), (6, 'first');
COPY detect_staging.plain (id, v) FROM stdin;
6	second
7	first
\.
COMMIT;
SELECT detect.wait_for('plain');
SELECT 'one transaction', * FROM plain WHERE id BETWEEN 5 AND 7 ORDER BY id;

-- what is staged may be changed and taken back until it is committed; nothing staged stays
BEGIN;
INSERT INTO detect_staging.plain VALUES (8, 'x'), (9, 'x');
UPDATE detect_staging.plain SET v = 'changed' WHERE id = 8;
DELETE FROM detect_staging.plain WHERE id = 9;
COMMIT;
BEGIN;
INSERT INTO detect_staging.plain VALUES (10, 'rolled back');
ROLLBACK;
SELECT detect.wait_for('plain');
SELECT 'changed in time', * FROM plain WHERE id BETWEEN 8 AND 10;
SELECT 'staged', count(*) FROM detect_staging.plain;
-- the ordinal is ours, whatever one writes there
INSERT INTO detect_staging.plain VALUES (11, 'x', 77), (12, 'x', 77), (13, 'x', -1);
SELECT detect.wait_for('plain');
SELECT 'ordinal', count(*) FROM plain WHERE id BETWEEN 11 AND 13;

-- rows that were in the table before the stream are known
SELECT detect.drop_stream('plain');
INSERT INTO plain VALUES (20, 'by hand'), (NULL, 'by hand');
SELECT detect.create_stream('plain', key => '{id}');
INSERT INTO detect_staging.plain VALUES (20, 'staged'), (1, 'again'), (21, 'new');
SELECT detect.wait_for('plain');
SELECT 'kept table', * FROM plain WHERE id IN (1, 20, 21) ORDER BY id;
SELECT * FROM regress.outcomes;

-- replaying everything changes nothing
CREATE TEMP TABLE before AS SELECT * FROM plain;
SELECT detect.drop_stream('plain');
SELECT detect.create_stream('plain', key => '{id}');
INSERT INTO detect_staging.plain SELECT id, 'replayed' FROM plain WHERE id IS NOT NULL;
SELECT detect.wait_for('plain');
SELECT 'replayed', count(*) FROM (TABLE plain EXCEPT ALL TABLE before) d;
SELECT duplicates = (SELECT count(*) FROM before WHERE id IS NOT NULL) AS all_known, accepted, sum - duplicates AS others FROM regress.outcomes;
SELECT detect.drop_stream('plain');

-- many rows, every fifth twice, in several commits of the applier
CREATE TABLE many (id bigint PRIMARY KEY, v int);
SELECT detect.create_stream('many');
INSERT INTO detect_staging.many SELECT n, 1 FROM generate_series(1, 60000) n;
INSERT INTO detect_staging.many SELECT n, 2 FROM generate_series(1, 75000) n WHERE n % 5 = 0;
SELECT detect.wait_for('many', '10 min');
SELECT count(*), count(DISTINCT id), sum(v) FROM many;
SELECT * FROM regress.outcomes;
SELECT detect.drop_stream('many');

-- keys of every kind: text, several columns, numeric by an index, floats and times as PostgreSQL compares them
CREATE TABLE keyed (t text, u uuid, b bytea, f float8, s timestamp, d date, c char(5), e bool, v int);
SELECT detect.create_stream('keyed', key => '{t,u,b,f,s,d,c,e}');
INSERT INTO detect_staging.keyed VALUES
    ('a', '00000000-0000-0000-0000-000000000001', '\x00', 0.0, '2024-01-01', '2024-01-01', 'x', true, 1),
    ('a', '00000000-0000-0000-0000-000000000001', '\x00', -0.0, '2024-01-01', '2024-01-01', 'x  ', true, 2),
    ('a ', '00000000-0000-0000-0000-000000000001', '\x00', 0.0, '2024-01-01', '2024-01-01', 'x', true, 3),
    ('a', '00000000-0000-0000-0000-000000000001', '\x0000', 0.0, '2024-01-01', '2024-01-01', 'x', true, 4),
    ('a', '00000000-0000-0000-0000-000000000001', '\x00', 'NaN', '2024-01-01', '2024-01-01', 'x', true, 5),
    ('a', '00000000-0000-0000-0000-000000000001', '\x00', 'NaN', '2024-01-01', '2024-01-01', 'x', true, 6),
    ('', '00000000-0000-0000-0000-000000000001', '', 'NaN', 'infinity', '-infinity', '', true, 7),
    ('', '00000000-0000-0000-0000-000000000001', '', 'NaN', 'infinity', '-infinity', '', false, 8);
SELECT detect.wait_for('keyed');
SELECT array_agg(v ORDER BY v) FROM keyed;
SELECT detect.drop_stream('keyed');
CREATE TABLE numbered (n numeric PRIMARY KEY, v int);
SELECT detect.create_stream('numbered');
INSERT INTO detect_staging.numbered VALUES (1.0, 1), (1.00, 2), (2, 3), ('NaN', 4);
SELECT detect.wait_for('numbered');
INSERT INTO detect_staging.numbered VALUES (1, 5), (2.000, 6), ('NaN', 7), (3, 8);
SELECT detect.wait_for('numbered');
SELECT * FROM numbered ORDER BY n;
SELECT detect.drop_stream('numbered');

-- ---------------------------------------------------------------------
-- One bad row among good ones becomes a dead letter
-- ---------------------------------------------------------------------
CREATE TABLE place (place_id int PRIMARY KEY, name text);
INSERT INTO place VALUES (1, 'Market'), (2, 'Station');
CREATE TABLE checked (
    id int PRIMARY KEY, place_id int REFERENCES place, code text UNIQUE, share real CHECK (share BETWEEN 0 AND 1),
    required text NOT NULL, late_place_id int REFERENCES place DEFERRABLE INITIALLY DEFERRED, quotient int, short varchar(3));
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF new.code = 'refuse' THEN
        RAISE EXCEPTION 'code % is refused', new.code;
    ELSIF new.code = 'odd' THEN
        RAISE EXCEPTION USING errcode = 'XX000', message = 'something odd';
    END IF;
    RETURN new;
END $$;
CREATE TRIGGER refuse BEFORE INSERT ON checked FOR EACH ROW EXECUTE FUNCTION refuse();
SELECT detect.create_stream('checked',
    columns => 'id int, place_id int, code text, share real, required text, late_place_id int, divisor int, short text, wrong text',
    query => $$ SELECT b.id, b.place_id, b.code, b.share, b.required, b.late_place_id, 100 / b.divisor AS quotient, b.short,
                       CASE WHEN b.wrong <> '' THEN 'wrong: ' || b.wrong END AS reject_reason
                FROM batch b $$);
SELECT detect.create_rollup('checked_share', 'SELECT sum(10 / quotient) AS quotients, count(*) AS n FROM checked');
SELECT detect.wait_for_rollup('checked_share');
INSERT INTO detect_staging.checked (id, place_id, code, share, required, late_place_id, divisor, short, wrong)
SELECT n, 1 + n % 2, 'code ' || n, 0.5, 'x', 1, 1 + n % 10, 'abc', NULL FROM generate_series(1, 500) n;
INSERT INTO detect_staging.checked (id, place_id, code, share, required, late_place_id, divisor, short, wrong) VALUES
    (1001, 1, 'a', 0.5, 'x', 1, 0, 'abc', NULL),
    (1002, 9, 'b', 0.5, 'x', 1, 1, 'abc', NULL),
    (1003, 1, 'code 7', 0.5, 'x', 1, 1, 'abc', NULL),
    (1004, 1, 'd', 1.5, 'x', 1, 1, 'abc', NULL),
    (1005, 1, 'e', 0.5, NULL, 1, 1, 'abc', NULL),
    (1006, 1, 'f', 0.5, 'x', 9, 1, 'abc', NULL),
    (1007, 1, 'refuse', 0.5, 'x', 1, 1, 'abc', NULL),
    (1008, 1, 'h', 0.5, 'x', 1, 1, 'abcd', NULL),
    (1009, 1, 'i', 0.5, 'x', 1, 1, 'abc', 'really'),
    (1010, 1, 'odd', 0.5, 'x', 1, 1, 'abc', NULL),
    (1011, 1, 'k', 0.5, 'x', 1, 1000, 'abc', NULL),
    (1012, 1, 'l', 0.5, 'x', 1, 1, 'ab   ', NULL);
INSERT INTO detect_staging.checked (id, place_id, code, share, required, late_place_id, divisor, short, wrong)
SELECT n, 1 + n % 2, 'code ' || n, 0.5, 'x', 1, 1 + n % 10, 'abc', NULL FROM generate_series(501, 1000) n;
SELECT detect.wait_for('checked');
SELECT count(*), max(id) FROM checked;
SELECT stage, sqlstate, reason, payload::json ->> 'id' AS id FROM letters WHERE stream = 'checked';
SELECT payload FROM letters WHERE payload::json ->> 'id' = '1009';
SELECT * FROM regress.outcomes;
SELECT dead_letter_id IS NOT NULL AS id, stream, kafka_topic, kafka_partition, kafka_offset, element, kafka_timestamp, kafka_key,
       kafka_headers, attempts, recorded_at <= now() AS recorded
FROM detect.dead_letter WHERE stream = 'checked' ORDER BY dead_letter_id LIMIT 1;
-- an event that a rollup fails by is an event all the same: the rollup waits until it is mended
SELECT state, error, failed_event FROM detect.stat_rollup WHERE rollup = 'checked_share';
UPDATE checked SET quotient = 1 WHERE quotient = 0;
SELECT detect.retry_rollup('checked_share');
SELECT detect.wait_for_rollup('checked_share');
SELECT n = (SELECT count(*) FROM checked) AS same_count, quotients = (SELECT sum(10 / quotient) FROM checked) AS same_sum FROM checked_share;

-- the key of a dead letter is free: the next one of it is tried
INSERT INTO detect_staging.checked (id, place_id, code, share, required, late_place_id, divisor) VALUES
    (2001, 1, 'x', 7, 'x', 1, 1), (2001, 1, 'y', 0.1, 'x', 1, 1), (2001, 1, 'z', 0.2, 'x', 1, 1), (1001, 1, 'a', 0.5, 'x', 1, 1);
SELECT detect.wait_for('checked');
SELECT id, code FROM checked WHERE id IN (1001, 2001) ORDER BY id;
SELECT detect.drop_rollup('checked_share');
SELECT detect.drop_stream('checked');
SELECT 'dead letters go with the stream', count(*) FROM detect.dead_letter WHERE stream = 'checked';

-- nothing but bad rows
CREATE TABLE bad (id int PRIMARY KEY, v int);
SELECT detect.create_stream('bad', query => 'SELECT b.id, 1 / (b.v - b.v) AS v FROM batch b');
INSERT INTO detect_staging.bad SELECT n, n FROM generate_series(1, 300) n;
SELECT detect.wait_for('bad');
SELECT * FROM regress.outcomes;
SELECT detect.drop_stream('bad');

-- ---------------------------------------------------------------------
-- Filtered: the query gives no row, or a trigger drops it
-- ---------------------------------------------------------------------
CREATE TABLE chosen (id int, place text, v int);
CREATE FUNCTION drop_row() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN CASE WHEN new.v < 100 THEN new END; END';
CREATE FUNCTION keep_from_sight() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    new.place := upper(new.place);
    RETURN new;
END $$;
SELECT detect.create_stream('chosen', columns => 'id int, place_id int, v int', key => '{id}',
    query => 'SELECT b.id, p.name AS place, b.v FROM batch b JOIN place p USING (place_id) WHERE b.v > 0');
SELECT detect.create_rollup('chosen_by_place', 'SELECT place, count(*) AS n, sum(v) AS v FROM chosen GROUP BY place');
INSERT INTO detect_staging.chosen VALUES (1, 1, 1), (2, 3, 1), (3, 2, 0), (4, NULL, 1), (5, 2, NULL), (6, 2, 2), (1, 2, 2);
SELECT detect.wait_for('chosen');
SELECT * FROM chosen ORDER BY id;
-- the key of a filtered one is free, within the batch too
INSERT INTO detect_staging.chosen VALUES (3, 2, 3), (7, 3, 1), (7, 2, 0), (7, 1, 7), (7, 2, 8), (8, 9, 1), (8, 9, 1);
SELECT detect.wait_for('chosen');
SELECT * FROM chosen ORDER BY id;
SELECT * FROM regress.outcomes;
-- triggers drop and change rows; rollups count what the table has
CREATE TRIGGER a_drop BEFORE INSERT ON chosen FOR EACH ROW EXECUTE FUNCTION drop_row();
CREATE TRIGGER b_change BEFORE INSERT ON chosen FOR EACH ROW EXECUTE FUNCTION keep_from_sight();
INSERT INTO detect_staging.chosen VALUES (11, 1, 50), (12, 1, 100), (13, 2, 60), (12, 2, 70), (12, 2, 80), (14, 1, 100);
SELECT detect.wait_for('chosen');
SELECT * FROM chosen WHERE id > 10 ORDER BY id;
INSERT INTO detect_staging.chosen VALUES (15, 1, 100);
SELECT detect.wait_for('chosen');
SELECT * FROM regress.outcomes;
SELECT detect.wait_for_rollup('chosen_by_place');
SELECT * FROM chosen_by_place ORDER BY place;
SELECT 'oracle', count(*) FROM (
    (TABLE chosen_by_place EXCEPT ALL SELECT place, count(*), sum(v) FROM chosen GROUP BY place) UNION ALL
    (SELECT place, count(*), sum(v) FROM chosen GROUP BY place EXCEPT ALL TABLE chosen_by_place)) d;
SELECT detect.drop_rollup('chosen_by_place');
SELECT detect.drop_stream('chosen');
-- what a trigger inserts beside them is no event of the stream, and in no rollup
CREATE TABLE echoed (id int PRIMARY KEY, v int);
CREATE FUNCTION echo_row() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF pg_trigger_depth() = 1 THEN
        INSERT INTO stream_sql.echoed SELECT -id, v FROM n;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER echo_row AFTER INSERT ON echoed REFERENCING NEW TABLE AS n FOR EACH STATEMENT EXECUTE FUNCTION echo_row();
SELECT detect.create_stream('echoed');
SELECT detect.create_rollup('echoed_sum', 'SELECT count(*) AS n, sum(v) AS v FROM echoed');
SELECT detect.wait_for_rollup('echoed_sum');
INSERT INTO detect_staging.echoed VALUES (1, 1), (2, 2), (1, 3);
SELECT detect.wait_for('echoed');
SELECT * FROM echoed ORDER BY id;
SELECT * FROM regress.outcomes;
SELECT * FROM echoed_sum;
SELECT detect.drop_rollup('echoed_sum');
SELECT detect.drop_stream('echoed');
-- without a key a dropped row is counted all the same
CREATE TABLE unkeyed (place text, v int);
CREATE TRIGGER a_drop BEFORE INSERT ON unkeyed FOR EACH ROW EXECUTE FUNCTION drop_row();
SELECT detect.create_stream('unkeyed', key => '{}');
INSERT INTO detect_staging.unkeyed VALUES ('a', 1), ('b', 100), ('a', 1), ('c', 200);
SELECT detect.wait_for('unkeyed');
SELECT * FROM unkeyed;
SELECT * FROM regress.outcomes;
SELECT detect.drop_stream('unkeyed');

-- ---------------------------------------------------------------------
-- Partitions by event time
-- ---------------------------------------------------------------------
CREATE TABLE daily (id int, seen_at timestamptz, v int) PARTITION BY RANGE (seen_at);
CREATE TABLE daily_by_hand PARTITION OF daily FOR VALUES FROM ('2024-03-10 06:00') TO ('2024-03-12 18:00');
SELECT detect.create_stream('daily', key => '{id}');
INSERT INTO detect_staging.daily VALUES
    (1, '2024-03-01 00:00Z', 1), (2, '2024-03-01 23:59:59.999999Z', 1), (3, '2024-03-02 00:00Z', 1),   -- UTC days
    (1, '2024-03-01 00:00Z', 2), (1, '2024-03-01 00:00:00.000001Z', 3),                               -- the identity has the time
    (4, '2024-03-10 05:59Z', 1), (5, '2024-03-10 06:00Z', 1), (6, '2024-03-12 17:59Z', 1), (7, '2024-03-12 18:00Z', 1),
    (8, '1969-12-31 23:59Z', 1), (9, '0001-01-01 00:00Z BC', 1);
SELECT detect.wait_for('daily');
SELECT tableoid::regclass, * FROM daily ORDER BY seen_at, id;
SELECT c.relname, pg_get_expr(c.relpartbound, c.oid) AS bound, pg_get_userbyid(c.relowner) AS owner
FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
WHERE i.inhparent = 'daily'::regclass AND c.relname !~ to_char(now() - interval '10 days', 'YYYY') AND c.relname !~ to_char(now() + interval '10 days', 'YYYY')
ORDER BY c.relname COLLATE "C";
-- partitions of today and of two days to come are there before they are needed, whatever day it is by now
SELECT count(*) BETWEEN 3 AND 4 AS has_lead FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
WHERE i.inhparent = 'daily'::regclass
  AND c.relname IN (SELECT 'daily_' || to_char(now() + n * interval '1 day', 'YYYYMMDD') FROM generate_series(-1, 3) n);
-- no time, and times that are none
INSERT INTO detect_staging.daily VALUES (20, NULL, 1), (21, 'infinity', 1), (22, '-infinity', 1), (23, now() + interval '25 hours', 1),
    (24, now() + interval '23 hours', 1), (25, '294276-12-31', 1), (26, '2024-03-01', 1);
SELECT detect.wait_for('daily');
SELECT id FROM daily WHERE id >= 20 ORDER BY id;
SELECT stage, sqlstate, reason, (payload::json ->> 'id')::int AS id FROM letters WHERE stream = 'daily' ORDER BY id;
SELECT * FROM regress.outcomes;
-- a replay finds the identities of all partitions
SELECT detect.drop_stream('daily');
SELECT detect.create_stream('daily', key => '{id}');
INSERT INTO detect_staging.daily SELECT id, seen_at, -1 FROM daily;
SELECT detect.wait_for('daily');
SELECT accepted, duplicates = (SELECT count(*) FROM daily) AS all_known, sum - duplicates AS others FROM regress.outcomes;
SELECT count(*) FROM daily WHERE v < 0;
SELECT detect.drop_stream('daily');

-- the same without a key: what no partition can take costs one element
CREATE TABLE daily_keyless (seen_at timestamptz, v int) PARTITION BY RANGE (seen_at);
SELECT detect.create_stream('daily_keyless', key => '{}');
INSERT INTO detect_staging.daily_keyless VALUES ('2024-03-01', 1), (NULL, 2), ('-infinity', 3), ('infinity', 4), ('2024-03-01', 1);
SELECT detect.wait_for('daily_keyless');
SELECT tableoid::regclass, * FROM daily_keyless;
SELECT stage, sqlstate, reason, payload::json ->> 'v' AS v FROM letters WHERE stream = 'daily_keyless' ORDER BY v;
SELECT * FROM regress.outcomes;
SELECT detect.drop_stream('daily_keyless');

-- a default partition takes what nothing else takes, and none is made over its rows
CREATE TABLE with_default (id int, seen_at timestamptz) PARTITION BY RANGE (seen_at);
CREATE TABLE with_default_rest PARTITION OF with_default DEFAULT;
INSERT INTO with_default VALUES (1, '2024-03-01 12:00');
SELECT detect.create_stream('with_default', key => '{id}');
INSERT INTO detect_staging.with_default VALUES (1, '2024-03-01 12:00'), (2, '2024-03-01 13:00'), (3, '2024-03-02'), (4, '-infinity');
SELECT detect.wait_for('with_default');
SELECT tableoid::regclass, * FROM with_default ORDER BY id;
SELECT stage, sqlstate, reason FROM letters WHERE stream = 'with_default';
SELECT * FROM regress.outcomes;
SELECT detect.drop_stream('with_default');

-- by hours, months, dates, and times without zone
CREATE TABLE hourly (id int, seen_at timestamp) PARTITION BY RANGE (seen_at);
CREATE TABLE monthly (id int, day date, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
SELECT detect.create_stream('hourly', key => '{id}', partition_interval => '1 hour');
SELECT detect.create_stream('monthly', partition_interval => '3 months');
INSERT INTO detect_staging.hourly VALUES (1, '2024-03-31 02:30'), (2, '2024-03-31 03:00'), (1, '2024-03-31 02:30');
INSERT INTO detect_staging.monthly VALUES (1, '2024-02-29'), (1, '2024-03-31'), (1, '2024-04-01'), (1, '2024-02-29'), (2, '-infinity');
SELECT detect.wait_for('hourly');
SELECT detect.wait_for('monthly');
SELECT tableoid::regclass, * FROM hourly ORDER BY id, seen_at;
SELECT tableoid::regclass, * FROM monthly ORDER BY id, day;
SELECT * FROM regress.outcomes ORDER BY stream;
SELECT detect.drop_stream('hourly');
SELECT detect.drop_stream('monthly');

-- so does a partition of the user that is open below
CREATE TABLE open_below (id int, seen_at timestamptz) PARTITION BY RANGE (seen_at);
CREATE TABLE open_below_old PARTITION OF open_below FOR VALUES FROM (MINVALUE) TO ('2024-03-02');
SELECT detect.create_stream('open_below', key => '{}');
INSERT INTO detect_staging.open_below VALUES (1, '-infinity'), (2, '2024-03-01 12:00'), (3, '2024-03-02'), (4, NULL);
SELECT detect.wait_for('open_below');
SELECT tableoid::regclass, * FROM open_below ORDER BY id;
SELECT stage, sqlstate, reason, payload FROM letters WHERE stream = 'open_below';
SELECT detect.drop_stream('open_below');

-- retention: what is older is counted and not kept
CREATE TABLE recent (id int, seen_at timestamptz) PARTITION BY RANGE (seen_at);
CREATE TABLE recent_plain (id int PRIMARY KEY, seen_at timestamptz);
SELECT detect.create_stream('recent', key => '{id}', retention => '7 days');
SELECT detect.create_stream('recent_plain', event_time => 'seen_at', retention => '7 days');
INSERT INTO detect_staging.recent VALUES (1, now() - interval '8 days'), (2, now() - interval '6 days'), (3, '2024-03-01'), (3, '2024-03-01'), (2, now());
INSERT INTO detect_staging.recent_plain VALUES (1, now() - interval '8 days'), (2, now() - interval '6 days'), (3, '2024-03-01'), (3, NULL),
    (4, '-infinity'), (5, 'infinity'), (2, now()), (1, now());
SELECT detect.wait_for('recent');
SELECT detect.wait_for('recent_plain');
SELECT id FROM recent ORDER BY id;
SELECT id, seen_at IS NULL AS no_time FROM recent_plain ORDER BY id;
SELECT relname FROM pg_class WHERE relname ~ '^recent_2024';
SELECT * FROM regress.outcomes ORDER BY stream;
SELECT stage, sqlstate, reason, payload::json ->> 'id' AS id FROM letters WHERE stream ~ '^recent' ORDER BY id;
SELECT detect.drop_stream('recent');
SELECT detect.drop_stream('recent_plain');

-- ---------------------------------------------------------------------
-- Columns of many types, and those that fill themselves
-- ---------------------------------------------------------------------
CREATE TYPE colour AS ENUM ('red', 'green');
CREATE TYPE box2 AS (label text, score real);
CREATE DOMAIN share AS real CHECK (VALUE BETWEEN 0 AND 1);
CREATE TABLE typed (
    id int PRIMARY KEY, colour colour, share share, geom geometry(Point, 4326), tags text[], colours colour[], document jsonb, raw json,
    part box2, parts box2[], price numeric(8, 2), stay interval, span tstzrange, address inet, flag boolean, data bytea, letter char(3),
    big text, number bigint GENERATED ALWAYS AS IDENTITY, twice int GENERATED ALWAYS AS (id * 2) STORED, noted text DEFAULT 'default',
    noted_at timestamptz DEFAULT now());
SELECT detect.create_stream('typed', columns => 'id int, colour colour, share share, lon float8, lat float8, tags text[], colours colour[],
    document jsonb, raw json, part box2, parts box2[], price numeric(8, 2), stay interval, span tstzrange, address inet, flag boolean,
    data bytea, letter char(3), big text', query => 'SELECT b.*, ST_Point(b.lon, b.lat, 4326) AS geom FROM batch b');
INSERT INTO detect_staging.typed VALUES
    (1, 'red', 0.5, 13.4, 52.5, '{a,NULL,"b c"}', '{red,green}', '{"a": [1, null]}', '{"b":  1}', '(cat,0.9)', '{"(dog,0.8)",NULL}', 12.345,
     '1 day 2 hours', '[2024-01-01,2024-01-02)', '10.0.0.1', true, '\x00ff', 'a', repeat('x', 100000)),
    (2, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
SELECT detect.wait_for('typed');
SELECT id, colour, share, ST_AsText(geom) AS geom, ST_SRID(geom) AS srid, tags, colours, document, raw, part, parts FROM typed ORDER BY id;
SELECT id, price, stay, span, address, flag, data, letter, length(big), number, twice, noted, noted_at <= now() AS noted_in_time FROM typed ORDER BY id;
SELECT * FROM regress.outcomes;
SELECT detect.drop_stream('typed');

-- ---------------------------------------------------------------------
-- What breaks a rule of the stream pauses it, and loses nothing
-- ---------------------------------------------------------------------
CREATE TABLE twin (place_id int, name text);
INSERT INTO twin VALUES (1, 'Market'), (2, 'Station'), (2, 'Harbour');
CREATE TABLE ruled (id int PRIMARY KEY, seen_at timestamptz, place text, v int);
SELECT detect.create_stream('ruled', columns => 'id int, seen_at timestamptz, place_id int, v int',
    query => 'SELECT b.id, b.seen_at, p.name AS place, b.v FROM batch b LEFT JOIN twin p USING (place_id)');
INSERT INTO detect_staging.ruled VALUES (1, NULL, 1, 1), (2, NULL, 2, 2), (3, NULL, 1, 3);
SELECT regress.wait_for_pause('ruled');
SELECT count(*) FROM ruled;
SELECT detect.wait_for('ruled', '0');
DELETE FROM twin WHERE name = 'Station';
SELECT detect.resume('ruled');
SELECT detect.wait_for('ruled');
SELECT * FROM ruled ORDER BY id;
SELECT state, reason, remedy FROM detect.stat_stream;
-- a trigger that gives another key
CREATE FUNCTION other_key() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN new.id := new.id + 1000; RETURN new; END';
CREATE TRIGGER other_key BEFORE INSERT ON ruled FOR EACH ROW EXECUTE FUNCTION other_key();
INSERT INTO detect_staging.ruled VALUES (4, NULL, 1, 4), (5, NULL, 1, 5);
SELECT regress.wait_for_pause('ruled');
DROP TRIGGER other_key ON ruled;
-- and the trigger that hands over what was accepted, disabled
ALTER TABLE ruled DISABLE TRIGGER _detect_accepted;
SELECT detect.resume('ruled');
SELECT regress.wait_for_pause('ruled');
ALTER TABLE ruled ENABLE ALWAYS TRIGGER _detect_accepted;
SELECT detect.resume('ruled');
SELECT detect.wait_for('ruled');
SELECT * FROM ruled ORDER BY id;
SELECT * FROM regress.outcomes;
SELECT detect.drop_stream('ruled');
-- a query that gives another key
CREATE TABLE other (id int PRIMARY KEY, v int);
SELECT detect.create_stream('other', query => 'SELECT b.id + b.v AS id, b.v FROM batch b');
INSERT INTO detect_staging.other VALUES (1, 0), (2, 1);
SELECT regress.wait_for_pause('other');
DELETE FROM detect_staging.other WHERE v = 1;
SELECT detect.resume('other');
SELECT detect.wait_for('other');
SELECT * FROM other;
-- and one that gives none
SELECT detect.drop_stream('other');
SELECT detect.create_stream('other', query => 'SELECT nullif(b.id, b.v) AS id, b.v FROM batch b');
INSERT INTO detect_staging.other VALUES (3, 3);
SELECT regress.wait_for_pause('other');
SELECT detect.drop_stream('other');

SELECT count(*) FROM detect.stream;
RESET SESSION AUTHORIZATION;
SET client_min_messages = warning;
DROP TABLE before;
DROP SCHEMA stream_sql CASCADE;
DROP ROLE regress_sql;
