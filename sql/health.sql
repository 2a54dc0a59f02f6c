--
-- health: what detect.health() finds, one condition after another, and that it
-- is gone when the remedy was typed as printed
--
-- What needs another server, a restart or a broker is in test/t/034_health.pl.
--
SET client_min_messages = warning;
CREATE ROLE regress_health IN ROLE detect_admin LOGIN;
CREATE ROLE regress_health_monitor IN ROLE pg_monitor;
CREATE SCHEMA health AUTHORIZATION regress_health;
GRANT EXECUTE ON PROCEDURE regress.await TO regress_health;
SET timezone = 'UTC';
SET datestyle = 'ISO';

-- nothing is defined: all green
SELECT * FROM detect.health('0');
SELECT detect.status('0');

CREATE VIEW regress.finding AS SELECT "check", severity, detail, remedy FROM detect.health('0') WHERE severity <> 'ok';
GRANT SELECT ON regress.finding TO PUBLIC;

SET search_path = health, public;
SET SESSION AUTHORIZATION regress_health;
CREATE TABLE reading (id int, at timestamptz, kind text, v int, CONSTRAINT small CHECK (v < 1000));
SELECT detect.create_stream('reading', key => '{id}', event_time => 'at');
SELECT detect.create_rollup('kinds', $$ SELECT date_trunc('hour', at) AS hour, count(*) AS n, sum(60 / v) AS s FROM reading GROUP BY 1 $$);
INSERT INTO detect_staging.reading VALUES (1, now(), 'a', 1), (2, now(), 'b', 2);
SELECT detect.wait_for('reading');
SELECT detect.wait_for_rollup('kinds');
SELECT * FROM regress.finding;
\pset format unaligned

-- stream: paused by somebody
SELECT detect.pause('reading');
SELECT * FROM regress.finding;
SELECT remedy FROM regress.finding \gset
:remedy
;
SELECT detect.wait_for('reading');
CALL regress.await('SELECT FROM regress.finding', 0);
SELECT detect.status('0');

-- stream: paused by its definition
ALTER TABLE reading DISABLE TRIGGER _detect_accepted;
INSERT INTO detect_staging.reading VALUES (3, now(), 'a', 3);
SELECT split_part(regress.wait_for_pause('reading'), E'\n', 1);
SELECT * FROM regress.finding;
SELECT detect.status('0');
ALTER TABLE reading ENABLE ALWAYS TRIGGER _detect_accepted;
SELECT detect.resume('reading');
SELECT detect.wait_for('reading');
CALL regress.await('SELECT FROM regress.finding', 0);

-- stream: a copy of another database
RESET SESSION AUTHORIZATION;
UPDATE detect._stream SET home_database = 0;
SELECT * FROM regress.finding;
SELECT remedy FROM regress.finding \gset
:remedy
;
SELECT detect.wait_for('reading');
CALL regress.await('SELECT FROM regress.finding', 0);

-- owner: may not log in, may not connect; also of a stream that somebody has paused
SELECT detect.pause('reading');
ALTER ROLE regress_health NOLOGIN;
SELECT * FROM regress.finding WHERE "check" = 'owner';
SELECT remedy FROM regress.finding WHERE "check" = 'owner' \gset
:remedy
SELECT detect.wait_for('reading');
CALL regress.await('SELECT FROM regress.finding', 0);
SELECT detect.pause('reading');
REVOKE CONNECT ON DATABASE regression FROM PUBLIC;
SELECT * FROM regress.finding WHERE "check" = 'owner';
SELECT remedy FROM regress.finding WHERE "check" = 'owner' \gset
:remedy
GRANT CONNECT ON DATABASE regression TO PUBLIC;
REVOKE CONNECT ON DATABASE regression FROM regress_health;
SELECT detect.wait_for('reading');
CALL regress.await('SELECT FROM regress.finding', 0);
SET SESSION AUTHORIZATION regress_health;

-- dead letters: mended, they are tried again
INSERT INTO detect_staging.reading VALUES (4, now(), 'a', 4000), (5, now(), 'a', 5000);
SELECT detect.wait_for('reading');
SELECT * FROM regress.finding;
ALTER TABLE reading DROP CONSTRAINT small;
SELECT remedy FROM regress.finding \gset
:remedy
SELECT detect.wait_for('reading');
CALL regress.await('SELECT FROM regress.finding', 0);

-- rollup
INSERT INTO detect_staging.reading VALUES (6, now(), 'a', 0);
SELECT detect.wait_for('reading');
SELECT * FROM regress.finding;
SELECT remedy FROM regress.finding \gset
DELETE FROM reading WHERE id = 6;
SELECT detect.wait_for('reading');
:remedy
;
SELECT detect.wait_for_rollup('kinds');
CALL regress.await('SELECT FROM regress.finding', 0);

-- rollup: a repair that is not done by itself
SELECT detect.create_rollup('all_of_it', 'SELECT kind, count(*) AS n FROM reading GROUP BY 1');
SELECT detect.wait_for_rollup('all_of_it');
UPDATE reading SET kind = 'b' WHERE id = 1;
SELECT detect.wait_for('reading');
SELECT * FROM regress.finding;
SELECT remedy FROM regress.finding \gset
:remedy
;
SELECT detect.wait_for_rollup('all_of_it');
CALL regress.await('SELECT FROM regress.finding', 0);
SELECT detect.drop_rollup('all_of_it');

-- rollup: its new query
SELECT detect.alter_rollup('kinds', $$ SELECT date_trunc('hour', at) AS hour, count(*) AS n, sum(60 / (v - 2)) AS s FROM reading GROUP BY 1 $$);
CALL regress.await($$ SELECT FROM regress.finding WHERE "check" = 'rollup' $$, 1);
SELECT * FROM regress.finding;
SELECT remedy FROM regress.finding \gset
DELETE FROM reading WHERE v = 2;
SELECT detect.wait_for('reading');
:remedy
SELECT detect.wait_for_rollup('kinds');
CALL regress.await('SELECT FROM regress.finding', 0);

-- problem: how these come and go is in dedup_index
RESET SESSION AUTHORIZATION;
-- the applier does not see it, and so does not clear it
BEGIN;
INSERT INTO detect._problem SELECT stream_id, 'unique index', events_table, 'warning', 'it was not built', 'Delete all but one.', now() - interval '1 min' FROM detect._stream;
SELECT * FROM regress.finding;
SELECT * FROM detect.health('1 hour') WHERE severity <> 'ok';
ROLLBACK;

-- event trigger
ALTER EVENT TRIGGER detect_dropped DISABLE;
SELECT * FROM regress.finding;
SELECT remedy FROM regress.finding \gset
:remedy
CALL regress.await('SELECT FROM regress.finding', 0);

-- wraparound: a table that claims to be old, unseen by autovacuum
BEGIN;
SET allow_system_table_mods = on;
UPDATE pg_class SET relfrozenxid = ((pg_current_xact_id()::text::numeric - 300000000 + 4294967296 * 10) % 4294967296)::text::xid
WHERE oid = 'detect._history'::regclass;
SET allow_system_table_mods = off;
SELECT "check", severity, regexp_replace(detail, '300000\d\d\d', 'many') AS detail, remedy FROM regress.finding;
SELECT remedy FROM regress.finding \gset
COMMIT;
:remedy
CALL regress.await('SELECT FROM regress.finding', 0);

-- disk and launcher, as if they were told so; only pg_monitor is told of the disk
SET ROLE regress_health_monitor;
SELECT holds, free_bytes BETWEEN 0 AND total_bytes AS is_told FROM detect._disks();
SET ROLE regress_health;
SELECT count(*) FROM detect._disks();
RESET ROLE;
BEGIN;
CREATE OR REPLACE FUNCTION detect._disks(OUT holds text, OUT free_bytes bigint, OUT total_bytes bigint) RETURNS SETOF record LANGUAGE sql
AS $$ VALUES ('the data directory', 40::bigint << 30, 1000::bigint << 30), ('pg_wal', 3::bigint << 30, 100::bigint << 30), ('elsewhere', 500::bigint << 20, 100::bigint << 30) $$;
CREATE OR REPLACE FUNCTION detect._server(OUT library_version text, OUT launcher_pid int, OUT workers_wanted int, OUT no_worker_slot boolean) LANGUAGE sql
AS $$ VALUES ('1.0', NULL::int, 1, false) $$;
SELECT * FROM regress.finding;
ROLLBACK;
SELECT * FROM regress.finding;

-- prepared transaction
BEGIN;
CREATE TABLE lost (a int);
PREPARE TRANSACTION 'it''s lost';
SELECT "check", severity, regexp_replace(detail, 'since .*', 'since …') AS detail, remedy FROM regress.finding;
SELECT * FROM detect.health('1 hour') WHERE severity <> 'ok';
SELECT remedy FROM regress.finding \gset
:remedy
CALL regress.await('SELECT FROM regress.finding', 0);

-- who sees what: a member of pg_monitor everything, a stranger nothing of others' streams
SELECT detect.pause('reading');
SET ROLE regress_health_monitor;
SELECT * FROM regress.finding;
SET ROLE pg_read_all_settings;
SELECT * FROM regress.finding;
SELECT count(*) FROM detect.health();
RESET ROLE;

\pset format aligned
DROP VIEW regress.finding;
DROP SCHEMA health CASCADE;
SELECT detect.status('0');
REVOKE EXECUTE ON PROCEDURE regress.await FROM regress_health;
DROP ROLE regress_health, regress_health_monitor;
