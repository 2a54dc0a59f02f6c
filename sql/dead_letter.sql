--
-- dead_letter: kept, limited, tried again, purged
--
-- Each element has exactly one outcome: one that is retried moves from the
-- count of dead letters to that of what became of it.
--
CREATE ROLE regress_letter IN ROLE detect_admin LOGIN;
CREATE ROLE regress_letter_stranger LOGIN;
CREATE SCHEMA dead_letter AUTHORIZATION regress_letter;
SET SESSION AUTHORIZATION regress_letter;
SET search_path = dead_letter, public;
SET timezone = 'UTC';
SET datestyle = 'ISO';

-- Dead letters without what differs from run to run.
CREATE VIEW letters AS
    SELECT stream, stage, sqlstate, left(reason, 70) AS reason, attempts, convert_from(payload, 'UTF8') AS payload,
           payload_bytes = octet_length(payload) AS bytes, is_whole AS whole, retry_asked_at IS NOT NULL AS asked,
           last_attempt_at > recorded_at AS again
    FROM detect.dead_letter ORDER BY dead_letter_id;

-- ---------------------------------------------------------------------
-- Retry: each outcome, and one that fails again
-- ---------------------------------------------------------------------
CREATE TABLE divisor (id int PRIMARY KEY, by int);
INSERT INTO divisor SELECT n, 0 FROM generate_series(0, 9) n;
CREATE TABLE reading (id int, at timestamptz, v int, quotient int CHECK (quotient < 1000));
SELECT detect.create_stream('reading', key => '{id}', event_time => 'at', retention => '30 days',
    query => 'SELECT b.id, b.at, b.v, b.v / d.by AS quotient FROM batch b JOIN divisor d ON d.id = b.id % 10');
SELECT detect.create_rollup('reading_sum', 'SELECT id % 10 AS kind, count(*) AS n, sum(quotient) AS quotients FROM reading GROUP BY 1');
SELECT detect.wait_for_rollup('reading_sum');
INSERT INTO detect_staging.reading (id, at, v) SELECT n, now(), n FROM generate_series(1, 100) n;
SELECT detect.wait_for('reading');
SELECT * FROM regress.outcomes;
SELECT stage, sqlstate, reason, attempts, payload::json ->> 'id' AS id, bytes, whole, asked, again FROM letters LIMIT 2;

-- nothing has changed: all fail again, and none is doubled
SELECT detect.retry_dead_letters('reading');
SELECT detect.wait_for('reading');
SELECT attempts, count(*) FROM letters GROUP BY 1;
SELECT stage, sqlstate, reason, attempts, payload::json ->> 'id' AS id, bytes, whole, asked, again FROM letters LIMIT 2;
SELECT * FROM regress.outcomes;

-- the place table is mended: accepted; by SQLSTATE and time
UPDATE divisor SET by = 1 WHERE id < 5;
SELECT detect.retry_dead_letters('reading', sqlstate => '22003') AS none,
       detect.retry_dead_letters('reading', to_time => now() - interval '1 hour') AS older,
       detect.retry_dead_letters('reading', from_time => now()) AS newer;
SELECT detect.retry_dead_letters('reading', now() - interval '1 hour', now(), '22012') AS asked;
SELECT detect.wait_for('reading');
SELECT * FROM regress.outcomes;
SELECT attempts, asked, count(*) FROM letters GROUP BY 1, 2;

-- a key that came again meanwhile is a duplicate, what the query leaves out is filtered
UPDATE divisor SET by = 1 WHERE id = 5;
INSERT INTO detect_staging.reading (id, at, v) SELECT n, now(), n FROM generate_series(5, 95, 10) n;
SELECT detect.wait_for('reading');
DELETE FROM divisor WHERE id = 6;
UPDATE divisor SET by = 1 WHERE id > 6;
SELECT detect.retry_dead_letters('reading');
SELECT detect.wait_for('reading');
SELECT * FROM regress.outcomes;
SELECT * FROM letters;

-- what has become older than the retention meanwhile is expired
INSERT INTO divisor VALUES (6, 0);
INSERT INTO detect_staging.reading (id, at, v) SELECT n, now() - interval '20 days', n FROM generate_series(1006, 1096, 10) n;
SELECT detect.wait_for('reading');
SELECT detect.alter_stream('reading', retention => '10 days');
SELECT detect.retry_dead_letters('reading');
SELECT detect.wait_for('reading');
SELECT * FROM regress.outcomes;
SELECT * FROM letters;

-- a constraint finds the bad ones among many that are good by now
INSERT INTO detect_staging.reading (id, at, v)
SELECT 2006 + 10 * n, now(), CASE WHEN n % 100 = 7 THEN 5000 ELSE 5 END FROM generate_series(0, 599) n;
SELECT detect.wait_for('reading');
UPDATE divisor SET by = 1 WHERE id = 6;
SELECT detect.retry_dead_letters('reading');
SELECT detect.wait_for('reading');
SELECT * FROM regress.outcomes;
SELECT stage, sqlstate, attempts, count(*), string_agg(payload::json ->> 'id', ' ') AS ids FROM letters GROUP BY 1, 2, 3;
SELECT count(*) AS differences FROM (
    (TABLE reading_sum EXCEPT ALL SELECT id % 10, count(*), sum(quotient) FROM reading GROUP BY 1)
    UNION ALL
    (SELECT id % 10, count(*), sum(quotient) FROM reading GROUP BY 1 EXCEPT ALL TABLE reading_sum)) d;

-- a stream that is paused keeps the marks
SELECT detect.pause('reading');
ALTER TABLE reading DROP CONSTRAINT reading_quotient_check;
SELECT detect.retry_dead_letters('reading');
SELECT asked, count(*) FROM letters GROUP BY 1;
\set VERBOSITY terse
SELECT detect.wait_for('reading');
\set VERBOSITY default
SELECT detect.resume('reading');
SELECT detect.wait_for('reading');
SELECT * FROM regress.outcomes;
SELECT count(*) FROM letters;

-- a retry that was rolled back, and one that its own transaction waits for
UPDATE divisor SET by = 0 WHERE id = 7;
INSERT INTO detect_staging.reading (id, at, v) VALUES (7007, now(), 1);
SELECT detect.wait_for('reading');
BEGIN;
SELECT detect.retry_dead_letters('reading');
SELECT detect.wait_for('reading');
ROLLBACK;
SELECT asked, attempts FROM letters;

-- purge: counts stay
SELECT regress.outcome($$SELECT detect.purge_dead_letters('reading', sqlstate => '2351')$$);
SELECT detect.purge_dead_letters('reading', sqlstate => '23514') AS others, detect.purge_dead_letters('reading', '-infinity', now() - interval '1 hour') AS older;
SELECT detect.purge_dead_letters('reading');
SELECT count(*) FROM letters;
SELECT * FROM regress.outcomes;

-- who may, and what is refused
SELECT detect.retry_dead_letters(NULL);
SELECT detect.retry_dead_letters('no_such');
SELECT detect.purge_dead_letters('reading', NULL);
RESET SESSION AUTHORIZATION;
SET ROLE regress_letter_stranger;
SELECT detect.retry_dead_letters('reading');
SELECT detect.purge_dead_letters('reading');
RESET ROLE;
SET SESSION AUTHORIZATION regress_letter;
SELECT detect.drop_rollup('reading_sum');
SELECT detect.drop_stream('reading');

-- ---------------------------------------------------------------------
-- A row comes back as it was staged, whatever its types
-- ---------------------------------------------------------------------
CREATE TYPE mood AS ENUM ('calm', 'cross');
CREATE DOMAIN share AS real CHECK (VALUE BETWEEN 0 AND 1);
CREATE TABLE typed (id bigint PRIMARY KEY, "odd ""name\" text, n numeric, f float8, b bytea, j jsonb, a int[], u uuid, at timestamptz,
    i interval, c char(3), ok boolean, g geometry, m mood, s share, h jsonb);
CREATE TABLE original (LIKE typed);
INSERT INTO original VALUES
    (1, E'tab\t"quote" \\ ü€😀', 1234567890123456789.12345, 0.1::float8 + 0.2, '\x00ff10', '{"a": [1, null]}', '{1,NULL,3}',
     'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '2020-02-29 12:00:00.123456+02', '1 mon 2 days 03:04:05.6', 'ab', true,
     ST_SetSRID(ST_Point(13.41234567890123, 52.5), 25833), 'cross', 0.25, '[["h", "x"]]'),
    (2, '', 'NaN', '-Infinity', '', '[]', '{}', NULL, 'infinity', '-1 year', '', false, 'POINT EMPTY', 'calm', 0, '{}'),
    (9223372036854775807, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
SELECT detect.create_stream('typed', query => $$ SELECT b.*, NULLIF('not yet', '') AS reject_reason FROM batch b $$);
INSERT INTO detect_staging.typed SELECT * FROM original;
SELECT detect.wait_for('typed');
SELECT count(*), min(reason) FROM letters;
SELECT detect.alter_stream('typed', query => 'SELECT b.* FROM batch b');
SELECT detect.retry_dead_letters('typed');
SELECT detect.wait_for('typed');
SELECT * FROM letters;
SELECT count(*) AS rows, (SELECT count(*) FROM (SELECT t::text FROM typed t EXCEPT ALL SELECT o::text FROM original o) d) AS differ FROM typed;
SELECT * FROM regress.outcomes;

-- a column that does not fit any more, and one that is new
SELECT detect.alter_stream('typed', query => $$ SELECT b.*, NULLIF('not yet', '') AS reject_reason FROM batch b $$);
INSERT INTO detect_staging.typed (id, "odd ""name\", m) VALUES (11, 'eleven', 'cross'), (12, '12', 'calm');
SELECT detect.wait_for('typed');
SELECT detect.alter_stream('typed', columns => 'id bigint, "odd ""name\" int, m text, extra text',
    query => $$ SELECT b.id, b."odd ""name\"::text AS "odd ""name\", b.m::mood AS m, b.extra::jsonb AS h FROM batch b $$);
SELECT detect.retry_dead_letters('typed');
SELECT detect.wait_for('typed');
SELECT * FROM letters;
SELECT id, "odd ""name\", m, h FROM typed WHERE id IN (11, 12);
SELECT * FROM regress.outcomes;
SELECT detect.drop_stream('typed');

-- ---------------------------------------------------------------------
-- Limit
-- ---------------------------------------------------------------------
CREATE TABLE limited (id int PRIMARY KEY, v int);
SELECT detect.create_stream('limited', dead_letter_limit => 10,
    query => $$ SELECT b.id, b.v, CASE WHEN b.v < 0 THEN 'negative' END AS reject_reason FROM batch b $$);
INSERT INTO detect_staging.limited SELECT n, CASE WHEN n % 10 = 0 THEN -n ELSE n END FROM generate_series(1, 99) n;
SELECT detect.wait_for('limited');
SELECT * FROM regress.outcomes;
-- the eleventh pauses the stream; what came before it is applied
INSERT INTO detect_staging.limited SELECT n, CASE WHEN n % 10 = 0 THEN -n ELSE n END FROM generate_series(100, 150) n;
SELECT regress.wait_for_pause('limited');
SELECT last_sqlstate FROM detect.stat_stream;
SELECT * FROM regress.outcomes;
SELECT count(*) AS events, max(id) FROM limited;
SELECT count(*) AS staged, min(id) FROM detect_staging.limited;
-- resumed with nothing mended
SELECT detect.resume('limited');
SELECT regress.wait_for_pause('limited');
-- purge makes room for as many
SELECT detect.purge_dead_letters('limited');
SELECT detect.resume('limited');
SELECT detect.wait_for('limited');
SELECT * FROM regress.outcomes;
SELECT count(*) AS letters FROM letters;
-- a retry makes room, before more is applied
INSERT INTO detect_staging.limited SELECT n, -n FROM generate_series(151, 170) n;
SELECT regress.wait_for_pause('limited');
SELECT detect.alter_stream('limited', query => $$ SELECT b.id, b.v, CASE WHEN b.v < -160 THEN 'negative' END AS reject_reason FROM batch b $$);
SELECT detect.retry_dead_letters('limited');
SELECT detect.resume('limited');
SELECT detect.wait_for('limited');
SELECT * FROM regress.outcomes;
SELECT count(*) AS letters FROM letters;
-- without a limit
SELECT detect.alter_stream('limited', reset => '{dead_letter_limit}');
INSERT INTO detect_staging.limited SELECT n, -n FROM generate_series(171, 200) n;
SELECT detect.wait_for('limited');
SELECT count(*) AS letters FROM letters;
-- none at all
SELECT detect.purge_dead_letters('limited');
SELECT detect.alter_stream('limited', dead_letter_limit => 0, on_limit => 'pause');
INSERT INTO detect_staging.limited VALUES (301, 301), (302, -302), (303, 303);
SELECT regress.wait_for_pause('limited');
SELECT count(*) FILTER (WHERE id = 301) AS before, count(*) FILTER (WHERE id = 303) AS behind, (SELECT count(*) FROM letters) AS letters FROM limited;

-- ---------------------------------------------------------------------
-- Retention
-- ---------------------------------------------------------------------
SELECT detect.alter_stream('limited', reset => '{dead_letter_limit}');
SELECT detect.resume('limited');
INSERT INTO detect_staging.limited SELECT n, -n FROM generate_series(1001, 4500) n;
SELECT detect.wait_for('limited');
SELECT count(*) FROM letters;
RESET SESSION AUTHORIZATION;
UPDATE detect._dead_letter SET recorded_at = recorded_at - interval '2 days' WHERE convert_from(payload, 'UTF8')::json ->> 'id' < '4';
SET SESSION AUTHORIZATION regress_letter;
SELECT detect.alter_stream('limited', dead_letter_retention => '1 day');
SELECT regress.wait_for_rows($$ SELECT FROM detect.dead_letter WHERE stream = 'limited' $$, 501);
SELECT count(*) FROM letters WHERE payload::json ->> 'id' < '4';
SELECT * FROM regress.outcomes;
SELECT detect.drop_stream('limited');

-- ---------------------------------------------------------------------
-- Many that the events table refuses: as if each row had come alone
-- ---------------------------------------------------------------------
CREATE TABLE parent (id int PRIMARY KEY);
INSERT INTO parent SELECT generate_series(0, 90);
CREATE TABLE picky (id int PRIMARY KEY, n int UNIQUE, share int CHECK (share < 70), parent int REFERENCES parent, kind int);
CREATE TABLE alone (LIKE picky INCLUDING ALL, FOREIGN KEY (parent) REFERENCES parent);
CREATE TABLE failed (id int, sqlstate text);
CREATE FUNCTION at_most_100() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE there int;
BEGIN
    EXECUTE format('SELECT count(*) FROM %s WHERE kind = $1', TG_RELID::regclass) INTO there USING new.kind;
    IF there >= 100 THEN RAISE 'enough of kind %', new.kind; END IF;
    RETURN new;
END $$;
CREATE TRIGGER at_most_100 BEFORE INSERT ON picky FOR EACH ROW EXECUTE FUNCTION at_most_100();
CREATE TRIGGER at_most_100 BEFORE INSERT ON alone FOR EACH ROW EXECUTE FUNCTION at_most_100();
CREATE TABLE given AS
SELECT n AS place, hashint4(n) & 1023 AS id, hashint4(n + 10000) & 2047 AS n, abs(hashint4(n + 20000)) % 100 AS share,
       abs(hashint4(n + 30000)) % 93 AS parent, n % 3 AS kind
FROM generate_series(1, 1500) n;
DO $$
DECLARE g given;
BEGIN
    FOR g IN SELECT * FROM given ORDER BY place LOOP
        BEGIN
            INSERT INTO alone SELECT g.id, g.n, g.share, g.parent, g.kind
            WHERE NOT EXISTS (SELECT FROM alone a WHERE a.id = g.id);
        EXCEPTION WHEN OTHERS THEN
            INSERT INTO failed VALUES (g.id, SQLSTATE);
        END;
    END LOOP;
END $$;
SELECT detect.create_stream('picky');
SELECT detect.create_rollup('picky_kinds', 'SELECT kind, count(*) AS n, sum(share) AS shares FROM picky GROUP BY kind');
SELECT detect.wait_for_rollup('picky_kinds');
INSERT INTO detect_staging.picky SELECT id, n, share, parent, kind FROM given ORDER BY place;
SELECT detect.wait_for('picky');
SELECT count(*) AS refused, count(DISTINCT sqlstate) AS reasons FROM failed;
SELECT count(*) AS differences FROM (
    (TABLE picky EXCEPT ALL TABLE alone) UNION ALL (TABLE alone EXCEPT ALL TABLE picky)) d;
SELECT count(*) AS differences FROM (
    (SELECT (convert_from(payload, 'UTF8')::json ->> 'id')::int, sqlstate FROM detect.dead_letter EXCEPT ALL TABLE failed)
    UNION ALL
    (TABLE failed EXCEPT ALL SELECT (convert_from(payload, 'UTF8')::json ->> 'id')::int, sqlstate FROM detect.dead_letter)) d;
SELECT count(*) AS differences FROM (
    (TABLE picky_kinds EXCEPT ALL SELECT kind, count(*), sum(share) FROM picky GROUP BY kind)
    UNION ALL
    (SELECT kind, count(*), sum(share) FROM picky GROUP BY kind EXCEPT ALL TABLE picky_kinds)) d;
SELECT accepted + duplicates + dead_letters - (SELECT count(*) FROM given) AS missing, dead_letters - (SELECT count(*) FROM failed) AS more
FROM detect.stat_stream WHERE stream = 'picky';
-- the second row of 5001 has its place before 5002, which then is too late
INSERT INTO detect_staging.picky VALUES (5001, 9001, 99, 1, 7), (5001, 9002, 1, 1, 7), (5002, 9002, 1, 1, 7);
SELECT detect.wait_for('picky');
SELECT id, n FROM picky WHERE id > 5000;
SELECT detect.drop_rollup('picky_kinds');
SELECT detect.drop_stream('picky');

DROP SCHEMA dead_letter CASCADE;
RESET SESSION AUTHORIZATION;
DROP ROLE regress_letter, regress_letter_stranger;
