--
-- rollup_failure: a rollup that fails is set aside, the events go on, and it
-- catches up
--
-- The oracle: the view and the query itself, EXCEPT ALL both ways.
--
SET client_min_messages = warning;
CREATE ROLE regress_failure IN ROLE detect_admin LOGIN;
CREATE ROLE regress_failure_places;
CREATE SCHEMA rollup_failure AUTHORIZATION regress_failure;
GRANT USAGE, CREATE ON SCHEMA rollup_failure TO regress_failure_places;
SET ROLE regress_failure_places;
CREATE TABLE rollup_failure.place (place_id int PRIMARY KEY, district text);
INSERT INTO rollup_failure.place SELECT n, 'district ' || n % 3 FROM generate_series(0, 9) n;
GRANT SELECT ON rollup_failure.place TO regress_failure;
RESET ROLE;

-- what is staged together is one commit, however slow the machine is
\o /dev/null
ALTER SYSTEM SET detect.max_batch_time = 0;
SELECT pg_reload_conf();
\o
SET SESSION AUTHORIZATION regress_failure;
SET search_path = rollup_failure, public;
SET timezone = 'Europe/Berlin';

-- a dropped column, so that rows are not simply the columns one after another
CREATE TABLE reading (gone text, reading_id int, at timestamptz, sensor int, amount float8, divisor int,
                      PRIMARY KEY (at, reading_id)) PARTITION BY RANGE (at);
ALTER TABLE reading DROP COLUMN gone;
SELECT detect.create_stream('reading', key => '{reading_id}', partition_interval => '1 day');

CREATE TABLE kept (name text PRIMARY KEY, query text);
INSERT INTO kept VALUES
('counts',      $$ SELECT sensor, count(*) AS n, max(at) AS last_at FROM reading GROUP BY sensor $$),
('amounts',     $$ SELECT sensor, sum(amount) AS amount, avg(reading_id::bigint) AS id FROM reading GROUP BY sensor $$),
('quotients',   $$ SELECT date_trunc('day', at) AS day, sum(100 / divisor) AS quotient FROM reading GROUP BY 1 $$),
('districts',   $$ SELECT district, count(*) AS n, sum(reading_id) AS ids FROM reading JOIN place ON place_id = sensor GROUP BY 1 $$);

CREATE FUNCTION stage(first int, last int, since timestamptz DEFAULT '2024-03-30 12:00+01', amount float8 DEFAULT NULL, divisor int DEFAULT NULL)
RETURNS void LANGUAGE sql AS $$
    INSERT INTO detect_staging.reading (reading_id, at, sensor, amount, divisor)
    SELECT n, since + n * interval '1 minute', n % 10, coalesce(amount, n % 50), coalesce(divisor, 1 + n % 9) FROM generate_series(first, last) n
$$;
CREATE VIEW failing AS
    SELECT rollup, state, error, failed_event, events_missed, events_lost
    FROM detect.stat_rollup WHERE stream IN ('reading', 'tick') ORDER BY rollup COLLATE "C";

SELECT stage(1, 1000);
SELECT detect.wait_for('reading');
SELECT count(*) FROM (SELECT detect.create_rollup(name, query) FROM kept) c;
SELECT count(*) FROM (SELECT detect.wait_for_rollup(name) FROM kept) w;

-- two rollups fail by one event each, one of them only by what is there already; nothing becomes a dead letter
SELECT stage(1001, 1200);
SELECT stage(1201, 1201, amount => 1.7e308);
SELECT detect.wait_for('reading');
SELECT stage(1202, 1300);
SELECT detect.wait_for('reading');
SELECT stage(1301, 1301, amount => 1.7e308);
SELECT stage(1302, 1400);
SELECT detect.wait_for('reading');
SELECT stage(1401, 1401, divisor => 0);
SELECT stage(1402, 1500);
SELECT detect.wait_for('reading');
SELECT * FROM failing;
SELECT accepted, dead_letters FROM detect.stat_stream WHERE stream = 'reading';
SELECT name, regress.differences(name, query) FROM kept WHERE name IN ('counts', 'districts') ORDER BY name;

-- trying again changes nothing as long as the cause is there
SELECT detect.retry_rollup('amounts');
SELECT detect.wait_for_rollup('amounts');

-- more arrives meanwhile: late ones, duplicates, a day that nobody knew, no place for them
SELECT stage(1501, 1700, '2024-02-01');
SELECT stage(1400, 1600);
SELECT stage(2001, 2100, '2024-10-26 20:00+02');
SELECT detect.wait_for('reading');
SELECT rollup, state, events_missed FROM failing;

-- the states are those of all events before, and are read as such
SELECT sum(n) AS events FROM counts;
SELECT count(*) AS groups, max(amount) >= 1.7e308 AS has_first FROM amounts;

-- the causes are mended: one event is corrected, the other one deleted
BEGIN;
UPDATE reading SET amount = 0 WHERE reading_id = 1301 AND amount > 1e308;
DELETE FROM reading WHERE reading_id = 1401 AND divisor = 0;
COMMIT;
SELECT detect.retry_rollup('amounts');
SELECT detect.wait_for_rollup('amounts');
SELECT detect.retry_rollup('quotients');
SELECT detect.wait_for_rollup('quotients');
SELECT * FROM failing;
SELECT name, regress.differences(name, query) FROM kept WHERE name NOT IN ('counts', 'districts') ORDER BY name;
SELECT stage(2101, 2300);
SELECT detect.wait_for('reading');
SELECT name, regress.differences(name, query) FROM kept WHERE name NOT IN ('counts', 'districts') ORDER BY name;
SELECT count(*) AS written_down FROM detect.stat_rollup WHERE events_missed > 0;

-- it goes on by itself once rights are given back
SET SESSION AUTHORIZATION DEFAULT;
REVOKE SELECT ON place FROM regress_failure;
SET SESSION AUTHORIZATION regress_failure;
SELECT stage(2301, 2400);
SELECT detect.wait_for('reading');
SELECT * FROM failing WHERE state <> 'active';
SET SESSION AUTHORIZATION DEFAULT;
GRANT SELECT ON place TO regress_failure;
SET SESSION AUTHORIZATION regress_failure;
SELECT regress.wait_for_rows($$ SELECT FROM detect.stat_rollup WHERE stream = 'reading' AND state = 'active' $$, 4);
SELECT sum(n) - (SELECT sum(n) FROM districts) AS differ FROM counts;

-- a state that somebody has broken, and put back
CREATE TABLE saved AS SELECT * FROM detect_state.amounts;
UPDATE detect_state.amounts SET s2 = '\x00' WHERE sensor < 5;
SELECT stage(2401, 2500);
SELECT detect.wait_for('reading');
SELECT rollup, state, error, events_missed FROM failing WHERE state <> 'active';
UPDATE detect_state.amounts a SET s2 = s.s2 FROM saved s WHERE s.sensor = a.sensor;
SELECT detect.retry_rollup('amounts');
SELECT detect.wait_for_rollup('amounts');
SELECT regress.differences(name, query) FROM kept WHERE name = 'amounts';

-- states that another major version of PostgreSQL has serialized, as after an upgrade: it is aside until they are made
-- again; states that are plain values have no version
SELECT detect.drop_rollup('districts');
SET SESSION AUTHORIZATION DEFAULT;
SELECT name, server_major = current_setting('server_version_num')::int / 10000 AS is_ours FROM detect._rollup ORDER BY name;
UPDATE detect._rollup SET server_major = 9 WHERE server_major IS NOT NULL;
SET SESSION AUTHORIZATION regress_failure;
SELECT rollup, state, error, remedy FROM detect.stat_rollup WHERE error IS NOT NULL;
SELECT detect.alter_rollup('amounts');
SELECT stage(2501, 2600);
SELECT detect.wait_for('reading');
SELECT rollup, state, error, remedy, events_missed FROM detect.stat_rollup ORDER BY rollup COLLATE "C";
SELECT dead_letters FROM detect.stat_stream WHERE stream = 'reading';
SELECT detect.retry_rollup('amounts');
SELECT detect.wait_for_rollup('amounts');
SELECT name, regress.differences(name, query) FROM kept WHERE name = 'quotients';
SELECT regress.attempt($$SELECT detect.rebuild_rollup('amounts', '2024-01-01')$$);
SELECT detect.rebuild_rollup('amounts');
SELECT detect.wait_for_rollup('amounts');
SELECT rollup, state, error, remedy, events_missed FROM detect.stat_rollup WHERE rollup = 'amounts';
SELECT name, regress.differences(name, query) FROM kept WHERE name = 'amounts';

-- one that has no states yet is filled by this server
BEGIN;
SELECT detect.create_rollup('mean', 'SELECT avg(reading_id::bigint) AS id FROM reading');
SET SESSION AUTHORIZATION DEFAULT;
UPDATE detect._rollup SET server_major = 9 WHERE name = 'mean';
COMMIT;
SET SESSION AUTHORIZATION regress_failure;
SELECT detect.wait_for_rollup('mean');
SET SESSION AUTHORIZATION DEFAULT;
SELECT server_major = current_setting('server_version_num')::int / 10000 AS is_ours FROM detect._rollup WHERE name = 'mean';
SET SESSION AUTHORIZATION regress_failure;
SELECT regress.differences('mean', 'SELECT avg(reading_id::bigint) AS id FROM reading');
SELECT detect.drop_rollup('mean');

-- set aside while it is filled, with some partitions in: an old event; and what comes meanwhile is not lost
SELECT detect.drop_rollup('quotients');
SELECT stage(1, 1, '2023-01-01', divisor => 0);
SELECT count(*) FROM (SELECT stage(2500 + n, 2500 + n, now() - n * interval '1 day') FROM generate_series(1, 80) n) s;
SELECT detect.wait_for('reading');
SELECT detect.create_rollup(name, query) FROM kept WHERE name = 'quotients';
SELECT detect.wait_for_rollup('quotients');
SELECT stage(3001, 3100, '2022-12-01');
SELECT stage(3101, 3200, now() - interval '4 days');
SELECT stage(3201, 3300);
SELECT detect.wait_for('reading');
SELECT state <> 'active' AS is_aside, filled_from > '2023-01-02' AS some_is_in FROM detect.stat_rollup WHERE rollup = 'quotients';
DELETE FROM reading WHERE divisor = 0;
SELECT detect.retry_rollup('quotients');
SELECT detect.wait_for_rollup('quotients');
SELECT regress.differences(name, query) FROM kept WHERE name = 'quotients';
SELECT * FROM failing WHERE state <> 'active';

-- dropped while it is aside, it leaves nothing behind
SELECT detect.create_rollup('dropped', 'SELECT sum(1 / (reading_id - 4001)) AS s FROM reading');
SELECT detect.wait_for_rollup('dropped');
SELECT stage(4000, 4002);
SELECT detect.wait_for('reading');
SELECT * FROM failing WHERE state <> 'active';
SELECT detect.drop_rollup('dropped');

-- events without a key, some of them alike, and without a time
CREATE TABLE tick (kind int, value int);
SELECT detect.create_stream('tick', server => '', key => '{}');
SELECT detect.create_rollup('ticks', 'SELECT kind, count(*) AS n, sum(60 / value) AS s FROM tick GROUP BY kind');
INSERT INTO detect_staging.tick SELECT n % 3, 1 + n % 2 FROM generate_series(1, 50) n;
SELECT detect.wait_for('tick');
SELECT detect.wait_for_rollup('ticks');
INSERT INTO detect_staging.tick SELECT n % 3, 1 + n % 2 FROM generate_series(1, 60) n UNION ALL VALUES (NULL, NULL), (NULL, 0), (NULL, NULL), (2, NULL);
SELECT detect.wait_for('tick');
SELECT * FROM failing WHERE rollup = 'ticks';
INSERT INTO detect_staging.tick SELECT n % 4, 1 + n % 3 FROM generate_series(1, 60) n;
SELECT detect.wait_for('tick');
DELETE FROM tick WHERE value = 0;
SELECT detect.retry_rollup('ticks');
SELECT detect.wait_for_rollup('ticks');
SELECT regress.differences('ticks', 'SELECT kind, count(*) AS n, sum(60 / value) AS s FROM tick GROUP BY kind');
SELECT * FROM failing WHERE rollup = 'ticks';

-- states that a crash would empty
RESET SESSION AUTHORIZATION;
ALTER TABLE detect_state.ticks SET UNLOGGED;
SET SESSION AUTHORIZATION regress_failure;
INSERT INTO detect_staging.tick SELECT 1, 1 FROM generate_series(1, 10);
SELECT detect.wait_for('tick');
SELECT rollup, state, error, failed_event, events_missed, remedy FROM detect.stat_rollup WHERE rollup = 'ticks';
RESET SESSION AUTHORIZATION;
ALTER TABLE detect_state.ticks SET LOGGED;
SET SESSION AUTHORIZATION regress_failure;
SELECT detect.retry_rollup('ticks');
SELECT detect.wait_for_rollup('ticks');
SELECT regress.differences('ticks', 'SELECT kind, count(*) AS n, sum(60 / value) AS s FROM tick GROUP BY kind');

-- Many events of times in which statistics know of none: comparing each with each would take minutes.
CREATE TABLE tock (id int PRIMARY KEY, at timestamptz, value int) WITH (autovacuum_enabled = false);
INSERT INTO tock SELECT n, '2024-01-01'::timestamptz + n * interval '1 s', 1 FROM generate_series(1, 10000) n;
ANALYZE tock;
SELECT detect.create_stream('tock', server => '', event_time => 'at');
SELECT detect.create_rollup('tocks', 'SELECT id % 7 AS kind, count(*) AS n, sum(60 / value) AS s FROM tock GROUP BY 1');
SELECT detect.wait_for_rollup('tocks');
INSERT INTO detect_staging.tock SELECT 10000 + n, '2024-06-01'::timestamptz + n * interval '1 ms', (n - 1) % 40000 FROM generate_series(1, 40000) n;
SELECT detect.wait_for('tock', '5 min');
SELECT state, error, events_missed FROM detect.stat_rollup WHERE rollup = 'tocks';
DELETE FROM tock WHERE value = 0;
SELECT detect.retry_rollup('tocks');
SELECT detect.wait_for_rollup('tocks', '1 min');
SELECT regress.differences('tocks', 'SELECT id % 7 AS kind, count(*) AS n, sum(60 / value) AS s FROM tock GROUP BY 1');

-- Events without a key are told by all their columns.  When one of these is gone, their groups are computed again.
CREATE TABLE note (at timestamptz NOT NULL, value int, remark text, other text);
SELECT detect.create_stream('note', server => '', key => '{}', event_time => 'at', columns => 'at timestamptz, value int');
SELECT detect.create_rollup('notes', $$ SELECT date_trunc('hour', at) AS hour, count(*) AS n, sum(60 / value) AS s FROM note GROUP BY 1 $$);
SELECT detect.create_rollup('all_notes', 'SELECT value % 3 AS kind, sum(60 / value) AS s FROM note GROUP BY 1');
SELECT detect.wait_for_rollup('notes');
SELECT detect.wait_for_rollup('all_notes');
INSERT INTO detect_staging.note (at, value) VALUES ('2024-05-01', 0);
SELECT detect.wait_for('note');
INSERT INTO detect_staging.note (at, value) SELECT '2024-05-01'::timestamptz + n * interval '10 min', n FROM generate_series(1, 10) n;
SELECT detect.wait_for('note');
SELECT state, error, events_missed FROM detect.stat_rollup WHERE rollup = 'notes';
ALTER TABLE note RENAME other TO another;
DELETE FROM note WHERE value = 0;
SELECT detect.retry_rollup(r) FROM unnest('{notes, all_notes}'::text[]) r;
SELECT detect.wait_for_rollup(r) FROM unnest('{notes, all_notes}'::text[]) r;
SELECT state, error, events_missed, events_lost FROM detect.stat_rollup WHERE rollup = 'notes';
RESET SESSION AUTHORIZATION;
CALL regress.await('SELECT FROM detect._repair p JOIN detect._rollup r USING (rollup_id) WHERE r.name ~ $$notes$$', 0);
SET SESSION AUTHORIZATION regress_failure;
SELECT regress.differences('all_notes', 'SELECT value % 3 AS kind, sum(60 / value) AS s FROM note GROUP BY 1');
SELECT regress.differences('notes', $$ SELECT date_trunc('hour', at) AS hour, count(*) AS n, sum(60 / value) AS s FROM note GROUP BY 1 $$);

-- wide events are read a few batches at a time
RESET SESSION AUTHORIZATION;
\o /dev/null
ALTER SYSTEM SET detect.max_batch_size = '1MB';
SELECT pg_reload_conf();
\o
SET SESSION AUTHORIZATION regress_failure;
CREATE TABLE wide (id int PRIMARY KEY, value int, filler text);
ALTER TABLE wide ALTER filler SET STORAGE PLAIN;
SELECT detect.create_stream('wide', server => '');
SELECT detect.create_rollup('widths', 'SELECT value % 7 AS kind, sum(60 / value) AS s FROM wide GROUP BY 1');
SELECT detect.wait_for_rollup('widths');
INSERT INTO detect_staging.wide VALUES (0, 0);
SELECT detect.wait_for('wide');
INSERT INTO detect_staging.wide SELECT n, n, (SELECT string_agg(md5(n * i || ''), '') FROM generate_series(1, 150) i) FROM generate_series(1, 3000) n;
SELECT detect.wait_for('wide');
DELETE FROM wide WHERE value = 0;
RESET SESSION AUTHORIZATION;
SELECT sum(bytes) > 10000000 AS are_many FROM detect._missed JOIN detect._rollup USING (rollup_id) WHERE name = 'widths';
SET SESSION AUTHORIZATION regress_failure;
SELECT detect.retry_rollup('widths');
SELECT detect.wait_for_rollup('widths');
SELECT regress.differences('widths', 'SELECT value % 7 AS kind, sum(60 / value) AS s FROM wide GROUP BY 1');
RESET SESSION AUTHORIZATION;
\o /dev/null
ALTER SYSTEM RESET detect.max_batch_size;
SELECT pg_reload_conf();
\o

-- who may ask
SET SESSION AUTHORIZATION regress_failure_places;
SELECT detect.retry_rollup('ticks');
SELECT detect.retry_rollup('nothing');
SET SESSION AUTHORIZATION DEFAULT;
SELECT count(*) AS missed FROM detect._missed;
\o /dev/null
ALTER SYSTEM RESET detect.max_batch_time;
SELECT pg_reload_conf();
\o
DROP SCHEMA rollup_failure CASCADE;
SELECT count(*) FROM detect._rollup;
DROP ROLE regress_failure, regress_failure_places;
