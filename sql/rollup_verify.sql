--
-- rollup_verify: the groups of a rollup that differ from what its query gives
--
-- A rollup that is as it should be gives no rows, whatever its types; what is
-- damaged by hand is found, and nothing else.
--
SET client_min_messages = warning;
CREATE ROLE regress_verify IN ROLE detect_admin LOGIN;
CREATE SCHEMA rollup_verify AUTHORIZATION regress_verify;
SET SESSION AUTHORIZATION regress_verify;
SET search_path = rollup_verify, public;
SET timezone = 'UTC';
SET datestyle = 'ISO';

CREATE TYPE colour AS ENUM ('red', 'green', 'blue');
CREATE TYPE pair AS (a int, b text);
CREATE DOMAIN share AS real CHECK (VALUE BETWEEN 0 AND 1);
CREATE TABLE place (kind int PRIMARY KEY, label text);
INSERT INTO place VALUES (0, 'park'), (1, 'road'), (2, 'road');
CREATE TABLE event (
    id int, kind int, f float8, r real, n numeric, colour colour, share share, pair pair, flag boolean, name text,
    document jsonb, plain json, box box, tags int[], stay interval, at timestamptz) PARTITION BY RANGE (at);
CREATE TABLE event_03 PARTITION OF event FOR VALUES FROM ('2024-03-01') TO ('2024-04-01');
CREATE TABLE event_04 PARTITION OF event FOR VALUES FROM ('2024-04-01') TO ('2024-05-01');
CREATE TABLE event_05 PARTITION OF event FOR VALUES FROM ('2024-05-01') TO ('2024-06-01');
CREATE TABLE event_rest PARTITION OF event DEFAULT;
SELECT detect.create_stream('event', key => '{}', event_time => 'at');
-- A third of a day between two events: some four months of them, and some without a time.
CREATE FUNCTION stage(first int, last int) RETURNS void LANGUAGE sql AS $$
    INSERT INTO detect_staging.event
    SELECT i, i % 3, CASE i % 20 WHEN 3 THEN NULL WHEN 4 THEN 'NaN' WHEN 5 THEN '-Infinity' ELSE i / 7.0 END, i / 3.0,
           CASE i % 10 WHEN 2 THEN NULL ELSE i / 10.0 END, (ARRAY['red', 'green', 'blue', NULL]::colour[])[1 + i % 4],
           CASE i % 5 WHEN 1 THEN NULL ELSE (i % 5) / 4.0 END, CASE i % 3 WHEN 0 THEN NULL ELSE row(i % 3, 'x')::pair END,
           CASE i % 7 WHEN 2 THEN NULL ELSE i % 2 = 0 END, nullif(repeat('x', i % 4), ''), jsonb_build_object('a', i % 3), to_json(i),
           box(point(i, i), point(0, 0)), CASE i % 4 WHEN 0 THEN NULL ELSE ARRAY[i % 4, NULL] END, (i % 6) * interval '1 day 1 hour',
           CASE WHEN i % 50 = 0 THEN NULL ELSE '2024-03-01'::timestamptz + i * interval '8 hours' END
    FROM generate_series(first, last) i
$$;

CREATE TABLE kept (name text PRIMARY KEY, query text);
INSERT INTO kept VALUES
('all_in_one',   $$ SELECT count(*) AS n, sum(f) AS f, avg(r) AS r, avg(n) AS mean, min(at) AS since FROM event $$),
('none',         $$ SELECT count(*) AS n, max(id) AS id FROM event WHERE id < 0 $$),
('groups_only',  $$ SELECT kind, colour FROM event GROUP BY 1, 2 $$),
('by_day',       $$ SELECT date_trunc('day', at) AS day, kind, count(*) AS n, sum(f) AS f, avg(r) AS r, stddev_samp(f) AS spread FROM event GROUP BY 1, 2 $$),
('by_date',      $$ SELECT (at AT TIME ZONE 'Asia/Tokyo')::date AS "the day", count(*) AS n FROM event GROUP BY 1 $$),
('by_month',     $$ SELECT date_trunc('month', at) AS month, name, count(name) AS n, sum(stay) AS stay FROM event GROUP BY 1, 2 $$),
('by_colour',    $$ SELECT colour, share, count(*) AS n, max(colour) AS most, sum(share) AS share_sum FROM event GROUP BY 1, 2 $$),
('by_others',    $$ SELECT pair, tags, document, count(*) AS n, max(tags) AS tags_max FROM event GROUP BY 1, 2, 3 $$),
('no_equality',  $$ SELECT kind, detect.last(plain, at) AS plain, detect.first(box, at) AS box, detect.last(pair, at) AS pair FROM event GROUP BY kind $$),
('expressions',  $$ SELECT kind + 1 AS "Kind+1", CASE WHEN count(*) > 50 THEN 'many' ELSE 'few' END AS how, max(id) - min(id) AS span,
                           ARRAY[min(id), max(id)] AS ends, row(count(*), max(name))::text AS both FROM event GROUP BY kind $$),
('guarded',      $$ SELECT id % 40 AS rest, sum(kind) / (count(*) - 10) AS quotient FROM event GROUP BY 1 HAVING count(*) <> 10 $$),
('rounded',      $$ SELECT kind, round(avg(r)::numeric) AS r, round((sum(f) * 7)::numeric) AS f FROM event WHERE f > 0 AND f < 1000 GROUP BY kind $$),
('having',       $$ SELECT flag, count(*) AS n FROM event GROUP BY flag HAVING count(*) > 1000 $$),
('joined',       $$ SELECT p.label, date_trunc('week', e.at) AS week, count(*) AS n FROM event e LEFT JOIN place p USING (kind) GROUP BY 1, 2 $$),
('sums',         $$ SELECT kind, sum(f * 1e6) AS f, avg(f) AS mean, sum(r) AS r, stddev(r) AS spread, corr(f, id) AS corr
                    FROM event WHERE f > 0 AND f <= 1e9 GROUP BY kind $$);
SELECT count(*) FROM (SELECT detect.create_rollup(name, query) FROM kept ORDER BY name COLLATE "C") c;
SELECT detect.create_rollup('by_minute', 'SELECT date_bin(''30 minutes'', at, ''epoch'') AS t, kind, count(*) AS n FROM event GROUP BY 1, 2', coarser => '{"by_hour": {"width": "1 hour"}, "by_year": "1 year"}');
INSERT INTO kept VALUES ('by_minute', ''), ('by_hour', ''), ('by_year', '');
SELECT count(*) FROM (SELECT detect.wait_for_rollup(name) FROM kept) w;

-- no event yet, then some, in one batch and in many: no rollup differs
CREATE VIEW differing AS SELECT k.name, v.* FROM kept k, detect.verify_rollup(k.name) v ORDER BY k.name COLLATE "C", v.group_columns;
SELECT * FROM differing;
SELECT stage(1, 200);
SELECT detect.wait_for('event');
SELECT * FROM differing;
SELECT count(*) FROM (SELECT stage(200 + i, 200 + i) FROM generate_series(1, 100) i) s;
SELECT stage(301, 370);
SELECT detect.wait_for('event');
SELECT * FROM differing;

-- what is not the same to the last digit, and is alike
SELECT count(*) AS groups, bool_or(s.f <> ANY (q.f)) AS some_differ
FROM sums s FULL JOIN (SELECT kind, ARRAY[sum(f * 1e6 ORDER BY id), sum(f * 1e6 ORDER BY id DESC), sum(f * 1e6 ORDER BY id % 7, id)] AS f
                       FROM event WHERE f > 0 AND f <= 1e9 GROUP BY kind) q USING (kind);
SELECT detect._alike(1.0::float8, 1.0 + 9e-10), detect._alike(1.0::float8, 1.0 + 2e-9), detect._alike(-1e300::float8, 1e300), detect._alike(0.0::float8, 1e-300),
       detect._alike('Infinity'::float8, 1e300), detect._alike('NaN'::float8, 'NaN'), detect._alike('NaN'::float8, 1), detect._alike(NULL::float8, NULL), detect._alike(NULL::float8, 1),
       detect._alike(1.0::real, 1.000009), detect._alike(1.0::real, 1.00002), detect._alike(0.0::float8, -0.0);

-- damage is found: each kind of it, in these groups alone
BEGIN;
RESET SESSION AUTHORIZATION;
UPDATE detect_state.by_day SET n = n + 1 WHERE day = '2024-03-10' AND kind = 1;
DELETE FROM detect_state.by_day WHERE day = '2024-03-11' AND kind = 2;
INSERT INTO detect_state.by_day (day, kind, n, f, s3, s4) SELECT '2023-01-01', kind, n, f, s3, s4 FROM detect_state.by_day WHERE day = '2024-03-12' AND kind = 1;
UPDATE detect_state.by_day SET f = f * (1 + 1e-8) WHERE day = '2024-03-13' AND kind = 0;
UPDATE detect_state.by_day SET f = f * (1 + 1e-10) WHERE day = '2024-03-13' AND kind = 1;
UPDATE detect_state.by_day SET n = n + 1 WHERE day IS NULL AND kind = 2;
UPDATE detect_state.having SET n = 17 WHERE flag IS NULL;
UPDATE detect_state.guarded SET s1 = 0 WHERE rest IN (3, 30);
DELETE FROM detect_state.groups_only WHERE kind = 1 AND colour IS NULL;
UPDATE detect_state.all_in_one SET n = 0;
UPDATE detect_state.no_equality SET s1.value = '17' WHERE kind = 0;
UPDATE detect_state.no_equality SET s2.value = '(2,2),(0,0)' WHERE kind = 1;
UPDATE detect_state.expressions SET s2 = 0 WHERE g1 = 1;
SET SESSION AUTHORIZATION regress_verify;
SELECT * FROM differing;

-- whole buckets that begin within the limits
SELECT problem, group_columns FROM detect.verify_rollup('by_day', '2024-03-11', '2024-03-14');
SELECT problem, group_columns FROM detect.verify_rollup('by_day', '2024-03-10 00:00:01', '2024-03-11 00:00:01');
SELECT problem, group_columns FROM detect.verify_rollup('by_day', to_time => '2024-03-11');
SELECT problem, group_columns FROM detect.verify_rollup('by_day', from_time => '2024-03-13');
SELECT problem, group_columns FROM detect.verify_rollup('by_day', from_time => '-infinity', to_time => 'infinity');
SELECT * FROM detect.verify_rollup('by_day', '2024-03-14', '2024-03-11');
SELECT * FROM detect.verify_rollup('by_date', '2024-03-14', '2024-03-20');
SELECT * FROM detect.verify_rollup('by_year', '2024-03-14');
SELECT * FROM detect.verify_rollup('joined', '2024-03-14', '2024-03-20');
ROLLBACK;

-- a joined table that has changed since shows as what it is
BEGIN;
UPDATE place SET label = 'path' WHERE kind = 1;
SELECT problem, group_columns ->> 'label' AS label, count(*) FROM detect.verify_rollup('joined') GROUP BY 1, 2 ORDER BY 1, 2;
SELECT * FROM detect.verify_rollup('joined', '2024-03-11', '2024-03-18');
ROLLBACK;

-- what a rollup that is filling has not got yet is not missing
RESET SESSION AUTHORIZATION;
BEGIN;
DELETE FROM detect_state.by_day WHERE day < '2024-04-02' OR day IS NULL;
SELECT count(*) FROM detect.verify_rollup('by_day');
UPDATE detect._rollup SET state = 'filling', filled_from = '2024-04-02' WHERE name = 'by_day';
SELECT count(*) FROM detect.verify_rollup('by_day');
SELECT count(*) FROM detect.verify_rollup('by_day', '2024-04-01', '2024-04-10');
UPDATE detect_state.by_day SET n = 0 WHERE day = '2024-04-02' AND kind = 1;
SELECT * FROM detect.verify_rollup('by_day', '2024-04-01', '2024-04-10');
ROLLBACK;
-- groups that are going can't be compared
BEGIN;
UPDATE detect._rollup SET kept_from = '2024-03-05 17:00+00' WHERE name = 'by_date';
SELECT * FROM detect.verify_rollup('by_date');
ROLLBACK;
-- nor can a rollup that has nothing, or misses something
BEGIN;
UPDATE detect._rollup SET state = 'new' WHERE name = 'by_date';
UPDATE detect._rollup SET state = 'failed', aside_state = 'active' WHERE name = 'by_day';
UPDATE detect._rollup SET state = 'behind', aside_state = 'filling' WHERE name = 'by_month';
SELECT regress.outcome(format('SELECT detect.verify_rollup(%L)', name)) FROM unnest('{by_date,by_day,by_month}'::text[]) name;
ROLLBACK;

-- who may not, what can't be; a member of the owner may, and a transaction that only reads
CREATE ROLE regress_verify_other;
CREATE ROLE regress_verify_member IN ROLE regress_verify;
GRANT USAGE ON SCHEMA rollup_verify TO regress_verify_other;
SET ROLE regress_verify_other;
SELECT detect.verify_rollup('by_day');
RESET ROLE;
SET ROLE regress_verify_member;
BEGIN READ ONLY;
SELECT count(*) FROM detect.verify_rollup('by_day');
COMMIT;
RESET ROLE;
SET SESSION AUTHORIZATION regress_verify;
SELECT detect.verify_rollup(NULL);
SELECT detect.verify_rollup('nothing');
SELECT detect.verify_rollup('having', '2024-03-11');
SELECT detect.verify_rollup('by_day', 'infinity');
SELECT detect.verify_rollup('by_day', NULL, '-infinity');

-- events that are gone: known at once, and nothing else is said
DROP TABLE event_03;
SELECT name, problem, group_columns FROM differing;
SELECT name, problem, kept, recomputed FROM differing WHERE kept IS NOT NULL OR recomputed IS NOT NULL;
SELECT * FROM detect.verify_rollup('by_day', '2024-04-01');
SELECT * FROM detect.verify_rollup('by_day', '2024-03-30', '2024-04-03');
SELECT stage(400, 410);
SELECT detect.wait_for('event');
SELECT name, problem, group_columns FROM differing WHERE name ~ '^by_';
DROP TABLE event_rest, event_05;
SELECT name, problem, group_columns FROM differing WHERE name ~ '^by_';
SELECT * FROM detect.verify_rollup('by_day', '2024-04-01', '2024-05-01');
-- in a group that has lost some, no damage is found; in others it is
RESET SESSION AUTHORIZATION;
UPDATE detect_state.by_month SET n = 0 WHERE month = '2024-03-01';
UPDATE detect_state.by_month SET n = 0 WHERE month = '2024-04-01' AND name = 'x';
SET SESSION AUTHORIZATION regress_verify;
SELECT * FROM detect.verify_rollup('by_month');

-- dates, where events can't be chosen by their time
CREATE TABLE night (night_id int, at date, PRIMARY KEY (night_id, at)) PARTITION BY RANGE (at);
CREATE TABLE night_1 PARTITION OF night FOR VALUES FROM ('2024-01-01') TO ('2024-01-03');
CREATE TABLE night_2 PARTITION OF night FOR VALUES FROM ('2024-01-03') TO (MAXVALUE);
SELECT detect.create_stream('night');
SELECT detect.create_rollup('nights', 'SELECT at, count(*) AS n FROM night GROUP BY at');
SELECT detect.create_rollup('weeks', 'SELECT date_trunc(''week'', at) AS week, count(*) AS n FROM night GROUP BY 1');
SELECT detect.wait_for_rollup('weeks');
INSERT INTO detect_staging.night SELECT n, '2024-01-01'::date + n FROM generate_series(0, 20) n;
SELECT detect.wait_for('night');
SELECT * FROM detect.verify_rollup('nights');
DROP TABLE night_1;
SELECT * FROM detect.verify_rollup('nights');
SELECT * FROM detect.verify_rollup('nights', '2024-01-02', '2024-01-05');
SELECT * FROM detect.verify_rollup('nights', '2024-01-03', '2024-01-05');
SELECT * FROM detect.verify_rollup('weeks');
RESET SESSION AUTHORIZATION;
UPDATE detect_state.nights SET n = n + 1;
SET SESSION AUTHORIZATION regress_verify;
SELECT * FROM detect.verify_rollup('nights', '2024-01-02', '2024-01-05');

-- without a stream nobody knows
SELECT detect.drop_stream('night');
SELECT detect.verify_rollup('nights');

RESET SESSION AUTHORIZATION;
DROP SCHEMA rollup_verify CASCADE;
SELECT count(*) FROM detect._rollup;
DROP ROLE regress_verify, regress_verify_other, regress_verify_member;
