--
-- rollup_repair: what is done to events by hand reaches their groups
--
-- The oracle: each view and its query written out, EXCEPT ALL both ways, after
-- each edit.
--
SET client_min_messages = warning;
CREATE ROLE regress_repair IN ROLE detect_admin LOGIN;
CREATE ROLE regress_repair_writer LOGIN;
CREATE SCHEMA rollup_repair AUTHORIZATION regress_repair;
GRANT USAGE ON SCHEMA rollup_repair TO regress_repair_writer;
SET SESSION AUTHORIZATION regress_repair;
SET search_path = rollup_repair, public;
SET timezone = 'Europe/Berlin';

CREATE TABLE district (kind text PRIMARY KEY, name text);
INSERT INTO district VALUES ('a', 'north'), ('b', 'south'), ('c', 'south');
CREATE TABLE item (item_id int, kind text, weight numeric, speed float8, at timestamptz NOT NULL) PARTITION BY RANGE (at);
DO $$ BEGIN
    FOR day IN 28 .. 31 LOOP
        EXECUTE format('CREATE TABLE item_%s PARTITION OF item FOR VALUES FROM (%L) TO (%L)',
                       day, make_timestamptz(2024, 3, day, 0, 0, 0, 'UTC'), make_timestamptz(2024, 3, day, 0, 0, 0, 'UTC') + interval '24 hours');
    END LOOP;
END $$;
GRANT SELECT, INSERT, UPDATE, DELETE ON item TO regress_repair_writer;
SELECT detect.create_stream('item', key => '{item_id}', event_time => 'at', partition_interval => '1 day');
CREATE FUNCTION stage(first int, last int, since timestamptz, step interval) RETURNS void LANGUAGE sql AS $$
    INSERT INTO detect_staging.item
    SELECT n, CASE n % 4 WHEN 1 THEN 'a' WHEN 2 THEN 'b' WHEN 3 THEN 'c' END, CASE WHEN n % 9 > 0 THEN n / 8.0 END, n / 7.0,
           since + (n - first) * step
    FROM generate_series(first, last) n
$$;
-- both changes of the clock
SELECT stage(1, 1500, '2024-03-29 00:00+01', '3 minutes');
SELECT stage(1501, 2500, '2024-10-26 00:00+02', '2 minutes');
SELECT detect.wait_for('item');

CREATE TABLE kept (name text PRIMARY KEY, query text);
INSERT INTO kept VALUES
('per_minute', $$ SELECT date_bin('1 minute', at, 'epoch') AS minute, kind, count(*) AS n, avg(weight) AS weight, max(item_id) AS last_id FROM item GROUP BY 1, 2 $$),
('per_hour', $$ SELECT date_trunc('hour', at) AS hour, kind, count(*) AS n, sum(weight) AS weight FROM item WHERE weight > 10 GROUP BY 1, 2 $$),
('per_day', $$ SELECT date_trunc('day', at) AS day, count(*) AS n, min(weight) AS lightest FROM item GROUP BY 1 $$),
('per_day_there', $$ SELECT date_trunc('day', at, 'Asia/Tokyo') AS day, kind, count(*) AS n FROM item GROUP BY 1, 2 $$),
-- an hour of it comes twice, when summer ends
('per_local_quarter', $$ SELECT date_bin('15 minutes', at AT TIME ZONE 'Europe/Berlin', '2000-01-01') AS quarter, count(*) AS n FROM item GROUP BY 1 $$),
('per_date', $$ SELECT at::date AS day, count(*) AS n FROM item GROUP BY 1 $$),
('raw', $$ SELECT at, count(*) AS n FROM item GROUP BY 1 $$);
-- only rebuilt when somebody asks
CREATE TABLE asked (name text PRIMARY KEY, query text);
INSERT INTO asked VALUES
('per_kind', $$ SELECT kind, count(*) AS n, avg(weight) AS weight FROM item GROUP BY 1 $$),
('all_of_it', $$ SELECT count(*) AS n, sum(weight) AS weight FROM item $$),
('districts', $$ SELECT date_trunc('day', at) AS day, d.name, count(*) AS n FROM item LEFT JOIN district d USING (kind) GROUP BY 1, 2 $$),
('shifted', $$ SELECT date_trunc('day', at) + interval '6 hours' AS shift, count(*) AS n FROM item GROUP BY 1 $$);
CREATE FUNCTION name_of(k text) RETURNS text LANGUAGE sql STABLE RETURN (SELECT name FROM rollup_repair.district WHERE kind = k);
INSERT INTO asked VALUES ('named', $$ SELECT date_trunc('day', at) AS day, name_of(kind) AS name, count(*) AS n FROM item GROUP BY 1, 2 $$);
SELECT count(detect.create_rollup(name, query)) FROM (TABLE kept UNION ALL TABLE asked) r;
SELECT count(*) FROM (SELECT detect.wait_for_rollup(name) FROM (TABLE kept UNION ALL TABLE asked) r) w;

-- Which views differ from their queries, once the stream is up to date.
CREATE FUNCTION wrong() RETURNS TABLE (name text, groups bigint) LANGUAGE sql AS $$
    SELECT k.name, d.n FROM kept k, LATERAL (SELECT regress.differences(k.name, k.query)) d (n) WHERE d.n > 0 ORDER BY 1
$$;
SELECT * FROM wrong();

-- ---------------------------------------------------------------------
-- Edits
-- ---------------------------------------------------------------------

-- values, groups, buckets; in the hour that comes twice too
UPDATE item SET weight = weight + 1 WHERE item_id IN (3, 700);
SELECT detect.wait_for('item');
SELECT * FROM wrong();
UPDATE item SET kind = 'd' WHERE item_id BETWEEN 100 AND 120;
SELECT detect.wait_for('item');
SELECT * FROM wrong();
UPDATE item SET at = at + interval '211 days' WHERE item_id IN (5, 50, 500);
SELECT detect.wait_for('item');
SELECT * FROM wrong();
DELETE FROM item WHERE at BETWEEN '2024-10-27 02:10+02' AND '2024-10-27 02:20+02';
SELECT detect.wait_for('item');
SELECT * FROM wrong();
SELECT count(*) FROM per_local_quarter WHERE quarter = '2024-10-27 02:15' AND n > 0;
DELETE FROM item WHERE at >= '2024-10-27 02:15+01' AND at < '2024-10-27 02:30+01';
SELECT detect.wait_for('item');
SELECT * FROM wrong();

-- in one statement, from before the clock is set back until after it: the range ends in an earlier bucket than it begins in
INSERT INTO item SELECT 60000 + n, 'a', n, n, '2024-10-27 00:50Z'::timestamptz + n * interval '0.1 s' FROM generate_series(0, 11999) n;
SELECT detect.wait_for('item');
SELECT * FROM wrong();
DELETE FROM item WHERE item_id BETWEEN 60000 AND 71999;
SELECT detect.wait_for('item');
SELECT * FROM wrong();

-- whole groups go, and come back by hand
DELETE FROM item WHERE at >= '2024-03-29 10:00+01' AND at < '2024-03-29 12:00+01';
SELECT detect.wait_for('item');
SELECT * FROM wrong();
SELECT count(*) FROM per_hour WHERE hour IN ('2024-03-29 10:00+01', '2024-03-29 11:00+01');
INSERT INTO item SELECT 10000 + n, 'a', n, n, '2024-03-29 10:00+01'::timestamptz + n * interval '1 minute' FROM generate_series(1, 100) n;
SELECT detect.wait_for('item');
SELECT * FROM wrong();
COPY item FROM stdin;
20000	b	1.5	\N	2024-03-29 11:45:00+01
20001	\N	2.5	NaN	2024-10-28 23:59:59.999999+01
\.
SELECT detect.wait_for('item');
SELECT * FROM wrong();

-- by others; what is rolled back has not been
SET SESSION AUTHORIZATION regress_repair_writer;
UPDATE rollup_repair.item SET weight = 77 WHERE item_id = 1001;
BEGIN;
UPDATE rollup_repair.item SET weight = 78 WHERE item_id = 1002;
ROLLBACK;
SET SESSION AUTHORIZATION regress_repair;
SELECT detect.wait_for('item');
SELECT * FROM wrong();

-- between batches that touch the same groups
UPDATE item SET weight = 5 WHERE item_id % 100 = 7;
SELECT stage(2501, 3500, '2024-03-29 00:01+01', '5 minutes');
UPDATE item SET weight = 6 WHERE item_id % 100 = 8;
SELECT detect.wait_for('item');
SELECT * FROM wrong();

-- more rows than are queued one by one, scattered and in one partition
SELECT stage(30001, 55000, '2024-03-29 00:01+01', '10 seconds');
SELECT detect.wait_for('item');
UPDATE item SET weight = weight * 2 WHERE item_id > 30000 AND item_id % 2 = 0;
SELECT detect.wait_for('item');
SELECT * FROM wrong();
DELETE FROM item WHERE item_id > 40000;
SELECT detect.wait_for('item');
SELECT * FROM wrong();

-- directly in a partition, and TRUNCATE of one
SELECT tableoid::regclass::text AS partition FROM item WHERE item_id = 20001 \gset
UPDATE :partition SET kind = 'c' WHERE item_id = 20001;
SELECT detect.wait_for('item');
SELECT * FROM wrong();
SELECT count(*) > 100 AS has_events FROM :partition;
TRUNCATE :partition;
SELECT detect.wait_for('item');
SELECT * FROM wrong();

SELECT rollup, repairs, repair_error FROM detect.stat_rollup WHERE repair_error IS NULL ORDER BY rollup COLLATE "C";

-- ---------------------------------------------------------------------
-- What is not repaired says so, and is rebuilt
-- ---------------------------------------------------------------------
SELECT rollup, state, repairs, repair_error, remedy FROM detect.stat_rollup WHERE repair_error IS NOT NULL ORDER BY rollup COLLATE "C";
SELECT count(*) AS all_differ FROM asked WHERE regress.differences(name, query) > 0;
SELECT count(detect.rebuild_rollup(name)) FROM asked;
SELECT count(*) FROM (SELECT detect.wait_for_rollup(name) FROM asked) w;
SELECT name, regress.differences(name, query) FROM asked ORDER BY name COLLATE "C";
SELECT rollup, repairs, repair_error FROM detect.stat_rollup WHERE repairs > 0 ORDER BY rollup COLLATE "C";

-- a joined table has changed: events count as they were known, until a rebuild
UPDATE district SET name = 'west' WHERE kind = 'a';
SELECT regress.differences(name, query) > 0 AS differs FROM asked WHERE name = 'districts';
SELECT detect.rebuild_rollup('districts', '2024-04-01 00:00+02', '2024-10-27 12:00+01');
SELECT detect.wait_for_rollup('districts');
SELECT day < '2024-04-01 00:00+02' AS older, day >= '2024-10-28' AS newer, bool_or(name = 'north') AS old_name, bool_or(name = 'west') AS new_name
FROM districts GROUP BY 1, 2 ORDER BY 1, 2;
SELECT detect.rebuild_rollup('districts');
SELECT detect.wait_for_rollup('districts');
SELECT regress.differences(name, query) FROM asked WHERE name = 'districts';

-- events on both sides of the change of the clock
INSERT INTO item SELECT 80000 + n, 'b', n, n, '2024-10-26 22:00Z'::timestamptz + n * interval '5 minutes' FROM generate_series(0, 72) n;
SELECT detect.wait_for('item');
-- states that somebody has spoilt, those in the range alone
RESET SESSION AUTHORIZATION;
UPDATE detect_state.per_minute SET n = n + 1;
UPDATE detect_state.per_day SET n = n + 1;
UPDATE detect_state.per_local_quarter SET n = n + 1;
SET SESSION AUTHORIZATION regress_repair;
SELECT detect.rebuild_rollup('per_minute', '2024-03-30 00:00:30+01', '2024-03-30 00:05:01+01');
SELECT detect.rebuild_rollup('per_day', to_time => '2024-03-31 01:00+01');
SELECT detect.wait_for_rollup('per_minute'), detect.wait_for_rollup('per_day');
SELECT min(minute), max(minute), count(DISTINCT minute) AS right_minutes
FROM (SELECT minute, kind, n FROM per_minute INTERSECT SELECT date_bin('1 minute', at, 'epoch'), kind, count(*) FROM item GROUP BY 1, 2) r;
SELECT min(day), max(day), count(DISTINCT day) AS right_days
FROM (SELECT day, n FROM per_day INTERSECT SELECT date_trunc('day', at), count(*) FROM item GROUP BY 1) r;
-- and those of local times that come twice: the last quarter of the hour, and the first one again
SELECT detect.rebuild_rollup('per_local_quarter', '2024-10-27 00:50Z', '2024-10-27 01:10Z');
SELECT detect.wait_for_rollup('per_local_quarter');
SELECT quarter, k.n = count(*) AS is_right
FROM per_local_quarter k JOIN item i ON date_bin('15 minutes', i.at AT TIME ZONE 'Europe/Berlin', '2000-01-01') = quarter
WHERE quarter IN ('2024-10-27 02:00', '2024-10-27 02:45') GROUP BY quarter, k.n ORDER BY quarter;
SELECT detect.rebuild_rollup(name) FROM kept;
SELECT count(*) FROM (SELECT detect.wait_for_rollup(name) FROM kept) w;
SELECT * FROM wrong();

-- ---------------------------------------------------------------------
-- Tables without partitions, times without a zone, and none
-- ---------------------------------------------------------------------
CREATE TABLE plain (plain_id int PRIMARY KEY, at timestamp, n int);
SELECT detect.create_stream('plain', event_time => 'at');
CREATE TABLE dated (dated_id int PRIMARY KEY, at date, n int);
SELECT detect.create_stream('dated', event_time => 'at');
CREATE TABLE others (name text, query text);
INSERT INTO others VALUES
('plain_hours', $$ SELECT date_trunc('hour', at) AS hour, count(*) AS events, sum(n) AS n FROM plain GROUP BY 1 $$),
('plain_utc', $$ SELECT date_trunc('day', at AT TIME ZONE 'UTC') AS day, count(*) AS events, sum(n) AS n FROM plain GROUP BY 1 $$),
-- an hour of it comes twice here too
('plain_quarters', $$ SELECT date_bin('15 minutes', at AT TIME ZONE 'UTC' AT TIME ZONE 'Europe/Berlin', '2000-01-01') AS quarter, count(*) AS events, sum(n) AS n FROM plain GROUP BY 1 $$),
('dated_weeks', $$ SELECT date_trunc('week', at) AS week, count(*) AS events, sum(n) AS n FROM dated GROUP BY 1 $$),
('dated_days', $$ SELECT at, count(*) AS events, sum(n) AS n FROM dated GROUP BY 1 $$);
SELECT count(detect.create_rollup(name, query)) FROM others;
SELECT count(*) FROM (SELECT detect.wait_for_rollup(name) FROM others) w;
INSERT INTO detect_staging.plain SELECT n, '2024-03-31'::timestamp + n * interval '7 minutes', n FROM generate_series(1, 500) n;
INSERT INTO detect_staging.dated SELECT n, '2024-03-31'::date + n % 40, n FROM generate_series(1, 500) n;
SELECT detect.wait_for('plain'), detect.wait_for('dated');
UPDATE plain SET n = 1000 WHERE plain_id % 50 = 0;
UPDATE plain SET at = at + interval '1 day' WHERE plain_id = 7;
DELETE FROM plain WHERE plain_id BETWEEN 90 AND 120;
UPDATE dated SET n = 1000 WHERE dated_id % 50 = 0;
DELETE FROM dated WHERE at = '2024-04-05';
SELECT detect.wait_for('plain'), detect.wait_for('dated');
SELECT name, regress.differences(name, query) FROM others ORDER BY name COLLATE "C";
-- one event of the hour that comes twice: its group has events of an hour before, or after
INSERT INTO detect_staging.plain SELECT 600 + n, '2024-10-26 23:50'::timestamp + n * interval '5 minutes', n FROM generate_series(0, 30) n;
SELECT detect.wait_for('plain'), detect.wait_for('dated');
UPDATE plain SET n = 2000 WHERE at = '2024-10-27 01:20';
SELECT detect.wait_for('plain'), detect.wait_for('dated');
SELECT name, regress.differences(name, query) FROM others ORDER BY name COLLATE "C";
DELETE FROM plain WHERE at = '2024-10-27 00:40';
SELECT detect.wait_for('plain'), detect.wait_for('dated');
SELECT name, regress.differences(name, query) FROM others ORDER BY name COLLATE "C";
-- a row without a time may be of any bucket
INSERT INTO plain VALUES (1001, NULL, 5), (1002, 'infinity', 6), (1003, '-infinity', 7);
INSERT INTO dated VALUES (1001, NULL, 5), (1002, 'infinity', 6), (1003, '-infinity', 7);
SELECT detect.wait_for('plain'), detect.wait_for('dated');
SELECT name, regress.differences(name, query) FROM others ORDER BY name COLLATE "C";
UPDATE plain SET at = '2024-04-01' WHERE plain_id > 1000;
DELETE FROM dated WHERE dated_id > 1000;
SELECT detect.wait_for('plain'), detect.wait_for('dated');
SELECT name, regress.differences(name, query) FROM others ORDER BY name COLLATE "C";
TRUNCATE plain, dated;
SELECT detect.wait_for('plain'), detect.wait_for('dated');
SELECT name, regress.differences(name, query) FROM others ORDER BY name COLLATE "C";

-- ---------------------------------------------------------------------
-- Partitions that the user makes, empties and attaches
-- ---------------------------------------------------------------------
-- one table whose partitions have a unique index from the start, so that dedup need not read them, and one whose stream has no key
CREATE TABLE indexed (id int, at timestamptz, n int, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE indexed_rest PARTITION OF indexed DEFAULT;
CREATE TABLE keyless (id int, at timestamptz, n int) PARTITION BY RANGE (at);
CREATE TABLE keyless_rest PARTITION OF keyless DEFAULT;
SELECT detect.create_stream('indexed'), detect.create_stream('keyless', key => '{}', event_time => 'at');
CREATE FUNCTION stage_parted(first int, last int, since timestamptz) RETURNS void LANGUAGE sql AS $$
    INSERT INTO detect_staging.indexed SELECT n, since + n * interval '10 minutes', n FROM generate_series(first, last) n;
    INSERT INTO detect_staging.keyless SELECT n, since + n * interval '10 minutes', n FROM generate_series(first, last) n
$$;
CREATE TABLE parted AS
    SELECT t || '_' || width AS name, format('SELECT date_trunc(%L, at, ''UTC'') AS since, count(*) AS events, sum(n) AS n FROM %I GROUP BY 1', width, t) AS query
    FROM unnest('{indexed,keyless}'::text[]) t, unnest('{hour,month}'::text[]) width;
CREATE FUNCTION parted_wrong() RETURNS TABLE (name text, groups bigint) LANGUAGE sql AS $$
    SELECT p.name, d.n FROM parted p, LATERAL (SELECT regress.differences(p.name, p.query)) d (n) WHERE d.n > 0 ORDER BY 1
$$;
SELECT count(detect.create_rollup(name, query)) FROM parted;
SELECT count(*) FROM (SELECT detect.wait_for_rollup(name) FROM parted) w;

-- made while the stream runs, and edited by their own names
CREATE TABLE indexed_1 PARTITION OF indexed FOR VALUES FROM ('2024-05-01Z') TO ('2024-05-02Z');
CREATE TABLE keyless_1 PARTITION OF keyless FOR VALUES FROM ('2024-05-01Z') TO ('2024-05-02Z');
SELECT stage_parted(1, 140, '2024-05-01Z');
SELECT detect.wait_for('indexed'), detect.wait_for('keyless');
SELECT * FROM parted_wrong();
UPDATE indexed_1 SET n = n + 1000 WHERE id % 10 = 0;
UPDATE keyless_1 SET n = n + 1000 WHERE id % 10 = 0;
SELECT detect.wait_for('indexed'), detect.wait_for('keyless');
SELECT * FROM parted_wrong();
DELETE FROM indexed_1 WHERE id <= 20;
DELETE FROM keyless_1 WHERE id <= 20;
SELECT detect.wait_for('indexed'), detect.wait_for('keyless');
SELECT * FROM parted_wrong();
INSERT INTO indexed_1 VALUES (1001, '2024-05-01 12:00Z', 7);
INSERT INTO keyless_1 VALUES (1001, '2024-05-01 12:00Z', 7);
SELECT detect.wait_for('indexed'), detect.wait_for('keyless');
SELECT * FROM parted_wrong();
TRUNCATE indexed_1;
TRUNCATE keyless_1;
SELECT detect.wait_for('indexed'), detect.wait_for('keyless');
SELECT * FROM parted_wrong();

-- a default partition, which has the times that no other has
SELECT stage_parted(1, 140, '2024-05-01Z');
SELECT stage_parted(1, 140, '2024-05-02Z');
SELECT stage_parted(1, 140, '2023-05-01Z');
INSERT INTO indexed VALUES (0, '-infinity', 6), (0, 'infinity', 7);
INSERT INTO keyless VALUES (0, '-infinity', 6), (0, 'infinity', 7), (0, NULL, 8);
SELECT detect.wait_for('indexed'), detect.wait_for('keyless');
SELECT * FROM parted_wrong();
TRUNCATE indexed_rest;
TRUNCATE keyless_rest;
SELECT detect.wait_for('indexed'), detect.wait_for('keyless');
SELECT * FROM parted_wrong();
SELECT count(*) FROM indexed;

-- attached with events of times that had none: the next batch finds them, and some are the same as its own
CREATE TABLE indexed_2 (LIKE indexed INCLUDING INDEXES);
INSERT INTO indexed_2 SELECT n, '2024-06-01Z'::timestamptz + n * interval '10 minutes', n FROM generate_series(1, 140) n;
CREATE TABLE keyless_2 (LIKE keyless);
INSERT INTO keyless_2 TABLE indexed_2;
ALTER TABLE indexed ATTACH PARTITION indexed_2 FOR VALUES FROM ('2024-06-01Z') TO ('2024-06-02Z');
ALTER TABLE keyless ATTACH PARTITION keyless_2 FOR VALUES FROM ('2024-06-01Z') TO ('2024-06-02Z');
SELECT stage_parted(101, 143, '2024-06-01Z');
SELECT detect.wait_for('indexed'), detect.wait_for('keyless');
SELECT count(*) FROM (SELECT detect.wait_for_rollup(name) FROM parted) w;
SELECT * FROM parted_wrong();
SELECT i.events AS indexed, k.events AS keyless FROM indexed_month i JOIN keyless_month k USING (since) WHERE since = '2024-06-01Z';
DELETE FROM indexed_2 WHERE id <= 20;
DELETE FROM keyless_2 WHERE id <= 20;
SELECT detect.wait_for('indexed'), detect.wait_for('keyless');
SELECT * FROM parted_wrong();
DROP TABLE indexed, keyless CASCADE;

-- ---------------------------------------------------------------------
-- Refusals, and what fails
-- ---------------------------------------------------------------------
SELECT regress.attempt(format('SELECT detect.rebuild_rollup(%s)', arguments)) FROM (VALUES
    ('NULL'), ($$'no_rollup'$$), ($$'per_kind', '2024-01-01'$$), ($$'shifted', to_time => '2024-01-01'$$),
    ($$'per_day', '2024-02-01', '2024-01-01'$$)) v (arguments);
SET SESSION AUTHORIZATION regress_repair_writer;
SELECT regress.attempt($$SELECT detect.rebuild_rollup('per_day')$$);
SET SESSION AUTHORIZATION regress_repair;

SELECT detect.create_rollup('sums', $$ SELECT date_trunc('day', at) AS day, max(1000 / (item_id - 777777)) AS x FROM item GROUP BY 1 $$);
SELECT detect.wait_for_rollup('sums');
INSERT INTO item VALUES (777777, 'a', 1, 1, '2024-03-30 00:00+01');
CALL regress.await($$SELECT FROM detect.stat_rollup WHERE rollup = 'sums' AND repair_error IS NOT NULL$$, 1);
SELECT rollup, state, repairs, repair_from, repair_until, repair_error, remedy FROM detect.stat_rollup WHERE repair_error IS NOT NULL AND rollup = 'sums';
SELECT regress.attempt($$SELECT detect.wait_for_rollup('sums')$$);
DELETE FROM item WHERE item_id = 777777;
SELECT detect.wait_for('item');
SELECT detect.retry_rollup('sums');
SELECT detect.wait_for_rollup('sums');
SELECT rollup, repairs, repair_error FROM detect.stat_rollup WHERE rollup = 'sums';
SELECT * FROM wrong();

-- ---------------------------------------------------------------------
-- All at once
-- ---------------------------------------------------------------------
TRUNCATE item;
SELECT detect.wait_for('item');
SELECT * FROM wrong();
SELECT count(*) FROM per_minute;
SELECT stage(1, 1500, '2024-03-29 00:00+01', '3 minutes');
SELECT detect.wait_for('item');
SELECT * FROM wrong();

-- ---------------------------------------------------------------------
-- Groups that have lost events
-- ---------------------------------------------------------------------
-- a day in UTC: parts of two of the local days
DROP TABLE item_30;
SELECT regress.attempt($$SELECT detect.rebuild_rollup('per_day')$$);
SELECT regress.attempt($$SELECT detect.rebuild_rollup('per_day', '2024-03-31 22:00+02')$$);
SELECT regress.attempt($$SELECT detect.rebuild_rollup('per_kind')$$);
SELECT detect.rebuild_rollup('per_day', to_time => '2024-03-30 00:00+01');
SELECT detect.wait_for_rollup('per_day');
UPDATE item SET weight = -1 WHERE at IN ('2024-03-31 12:00+02', '2024-03-31 02:30+01', '2024-03-30 00:30+01');
SELECT detect.wait_for('item');
-- what is repaired, and what is left as it was
SELECT date_bin('1 minute', minute, 'epoch') AS minute, n, weight FROM per_minute WHERE weight = -1 ORDER BY minute;
SELECT day, n, lightest FROM per_day WHERE day BETWEEN '2024-03-30' AND '2024-03-31 12:00+02' ORDER BY day;
SELECT rollup, repairs, repair_from, repair_until, repair_error, remedy FROM detect.stat_rollup WHERE rollup IN ('per_day', 'per_minute') ORDER BY rollup;
SELECT detect.rebuild_rollup('per_day', allow_loss => true);
SELECT detect.wait_for_rollup('per_day');
SELECT day, n, lightest FROM per_day WHERE day BETWEEN '2024-03-30' AND '2024-03-31 12:00+02' ORDER BY day;
SELECT name FROM wrong() WHERE name = 'per_day';
SELECT repairs, repair_error, remedy FROM detect.stat_rollup WHERE rollup = 'per_day';

SELECT verb, object, detail FROM detect.history WHERE verb = 'rebuild_rollup' AND caller = 'regress_repair' AND object IN ('districts', 'per_minute') ORDER BY at, object;

-- times of which statistics know nothing, and a joined table without an index: each event with each row would take minutes
SET client_min_messages = warning;
CREATE TABLE visit (id int PRIMARY KEY, at timestamptz, place int) WITH (autovacuum_enabled = false);
CREATE TABLE quarter AS SELECT n AS place, 'district ' || n % 5 AS name FROM generate_series(1, 6000) n;
INSERT INTO visit SELECT n, '2024-01-01Z'::timestamptz + n * interval '1 s', n FROM generate_series(1, 10000) n;
ANALYZE visit, quarter;
SELECT detect.create_stream('visit', server => '', event_time => 'at');
SELECT detect.create_rollup('visits', $$ SELECT date_trunc('day', at, 'UTC') AS day, d.name, count(*) AS n FROM visit JOIN quarter d USING (place) GROUP BY 1, 2 $$);
INSERT INTO detect_staging.visit SELECT 10000 + n, '2024-06-01Z'::timestamptz + n * interval '1 s', n % 6000 FROM generate_series(1, 300000) n;
SELECT detect.wait_for('visit', '5 min');
SELECT detect.wait_for_rollup('visits');
SELECT detect.rebuild_rollup('visits', '2024-06-01Z', '2024-06-05Z');
SELECT detect.wait_for_rollup('visits', '1 min');
SELECT regress.differences('visits', $$ SELECT date_trunc('day', at, 'UTC') AS day, d.name, count(*) AS n FROM visit JOIN quarter d USING (place) GROUP BY 1, 2 $$);
DROP TABLE visit CASCADE;

DROP TABLE item CASCADE;
RESET SESSION AUTHORIZATION;
SELECT count(*) FROM detect._repair;
SELECT count(*) FROM detect._edit;
DROP SCHEMA rollup_repair CASCADE;
DROP ROLE regress_repair, regress_repair_writer;
