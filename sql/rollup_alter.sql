--
-- rollup_alter: another query of a rollup, built beside the old one
--
-- The oracle: the view and the query that is in force, EXCEPT ALL both ways.
--
SET client_min_messages = warning;
CREATE ROLE regress_alter IN ROLE detect_admin LOGIN;
CREATE ROLE regress_alter_member LOGIN IN ROLE regress_alter;
CREATE ROLE regress_alter_other IN ROLE detect_admin LOGIN;
CREATE ROLE regress_alter_reader;
CREATE SCHEMA rollup_alter AUTHORIZATION regress_alter;
GRANT USAGE ON SCHEMA rollup_alter TO PUBLIC;
GRANT CREATE ON SCHEMA rollup_alter TO regress_alter_member;
SET SESSION AUTHORIZATION regress_alter;
SET search_path = rollup_alter, public;
SET timezone = 'Europe/Berlin';

CREATE TABLE lane (lane_id int PRIMARY KEY, road text);
INSERT INTO lane SELECT n, 'road ' || n % 3 FROM generate_series(0, 8) n;
CREATE TABLE pass (pass_id int, lane_id int, speed int, at timestamptz, PRIMARY KEY (pass_id, at)) PARTITION BY RANGE (at);
CREATE TABLE other (id int PRIMARY KEY);
SELECT detect.create_stream('pass', server => '', partition_interval => '1 day');
SELECT detect.create_stream('other', server => '');
CREATE FUNCTION stage(first int, last int) RETURNS void LANGUAGE sql AS $$
    INSERT INTO detect_staging.pass SELECT n, n % 9, n % 70, '2024-03-30 12:00+01'::timestamptz + n * interval '17 minutes' FROM generate_series(first, last) n
$$;

-- the query that is in force, and what it was at first
CREATE TABLE force (name text PRIMARY KEY, query text);
INSERT INTO force VALUES ('passes', $$ SELECT date_trunc('hour', at) AS hour, lane_id AS lane, count(*) AS n, avg(speed) AS speed FROM pass GROUP BY 1, 2 $$);
CREATE TABLE first_force AS TABLE force;
CREATE FUNCTION compare() RETURNS text LANGUAGE sql RETURN (SELECT regress.compare(name, query) FROM force);
CREATE FUNCTION alter_to(text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM detect.alter_rollup('passes', query => $1);
    UPDATE force SET query = $1;
END $$;
CREATE VIEW building AS
    SELECT rollup, state, new_state, new_filled_from IS NOT NULL AS has_frontier, new_rows_filled, new_error FROM detect.stat_rollup WHERE stream = 'pass';
-- what there is of rollups
CREATE VIEW parts AS
    SELECT c.relkind, format('%s.%s', n.nspname, regexp_replace(c.relname, '^_new_\d+', '_new')) AS name, pg_get_userbyid(c.relowner) AS owner
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname IN ('detect_query', 'detect_state') AND c.relname NOT IN ('pass', 'other') AND c.relkind IN ('r', 'v', 'i');

SELECT stage(1, 1000);
SELECT detect.wait_for('pass');
SELECT detect.create_rollup(name, query) FROM force;
SELECT detect.wait_for_rollup('passes');
SELECT compare();
GRANT SELECT ON passes TO regress_alter_reader;
COMMENT ON VIEW passes IS 'what the dashboard reads';
COMMENT ON COLUMN passes.n IS 'how many';
CREATE VIEW upon AS SELECT hour, sum(n) AS n FROM passes GROUP BY hour;

-- ---------------------------------------------------------------------
-- What is refused, before anything is built
-- ---------------------------------------------------------------------
\pset format unaligned
\pset tuples_only on
\pset fieldsep ': '
SELECT what, regress.attempt(format('SELECT detect.alter_rollup(''passes'', query => %L)', query)) FROM (VALUES
    (1, 'less',       'SELECT date_trunc(''hour'', at) AS hour, lane_id AS lane, count(*) AS n FROM pass GROUP BY 1, 2'),
    (2, 'order',      'SELECT lane_id AS lane, date_trunc(''hour'', at) AS hour, count(*) AS n, avg(speed) AS speed FROM pass GROUP BY 1, 2'),
    (3, 'name',       'SELECT date_trunc(''hour'', at) AS hour, lane_id AS lane, count(*) AS m, avg(speed) AS speed FROM pass GROUP BY 1, 2'),
    (4, 'type',       'SELECT date_trunc(''hour'', at) AS hour, lane_id AS lane, count(*) AS n, avg(speed)::float8 AS speed FROM pass GROUP BY 1, 2'),
    (5, 'before',     'SELECT road, date_trunc(''hour'', at) AS hour, lane_id AS lane, count(*) AS n, avg(speed) AS speed FROM pass JOIN lane USING (lane_id) GROUP BY 1, 2, 3'),
    (6, 'aggregate',  'SELECT date_trunc(''hour'', at) AS hour, lane_id AS lane, count(DISTINCT speed) AS n, avg(speed) AS speed FROM pass GROUP BY 1, 2'),
    (7, 'volatile',   'SELECT date_trunc(''hour'', at) AS hour, lane_id AS lane, count(*) AS n, avg(speed) AS speed FROM pass WHERE random() < 1 GROUP BY 1, 2'),
    (8, 'stream',     'SELECT now() AS hour, id AS lane, count(*) AS n, avg(id) AS speed FROM other GROUP BY 1, 2'),
    (9, 'no stream',  'SELECT now() AS hour, lane_id AS lane, count(*) AS n, avg(lane_id) AS speed FROM lane GROUP BY 1, 2'),
    (10, 'no query',  'TABLE'),
    (11, 'two',       'SELECT 1; SELECT 2'),
    (12, 'ungrouped', 'SELECT date_trunc(''hour'', at) AS hour, lane_id AS lane, count(*) AS n, avg(speed) AS speed, l.road FROM pass JOIN lane l USING (lane_id) GROUP BY 1, l.lane_id')) v(number, what, query)
ORDER BY number;
SELECT statement, regress.attempt(statement) FROM unnest(ARRAY[
    $$SELECT detect.alter_rollup('passes', query => 'SELECT 1', reset => '{query}')$$,
    $$SELECT detect.alter_rollup('passes', reset => '{query}')$$,
    $$SELECT detect.alter_rollup('passes', reset => '{coarser}')$$,
    $$SELECT detect.alter_rollup('nothing', query => 'SELECT 1')$$,
    $$SELECT detect.alter_rollup('passes', query => 'SELECT date_trunc(''hour'', now()) AS hour, lane_id AS lane, count(*) AS n, avg(speed) AS speed FROM pass GROUP BY 2', retention => '1 day')$$]) statement;
-- who may: the owner, and of his members who owns the view
SET SESSION AUTHORIZATION regress_alter_other;
SELECT regress.attempt($$SELECT detect.alter_rollup('passes', query => 'SELECT 1')$$);
SELECT regress.attempt($$SELECT detect.alter_rollup('passes', reset => '{query}')$$);
SET SESSION AUTHORIZATION regress_alter_member;
SELECT detect.create_rollup('of_member', 'SELECT count(*) AS n FROM rollup_alter.pass');
SET SESSION AUTHORIZATION regress_alter;
SELECT regress.attempt($$SELECT detect.alter_rollup('of_member', query => 'SELECT count(*) AS n FROM pass')$$);
\pset tuples_only off
\pset format aligned
SET SESSION AUTHORIZATION regress_alter_member;
SELECT detect.wait_for_rollup('of_member');
SELECT detect.alter_rollup('of_member', query => 'SELECT count(*) AS n, max(speed) AS fastest FROM rollup_alter.pass');
SELECT detect.wait_for_rollup('of_member');
SET search_path = rollup_alter, public;
SELECT regress.compare('of_member', 'SELECT count(*), max(speed) FROM pass');
SET SESSION AUTHORIZATION regress_alter;
SELECT relname, relowner::regrole FROM pg_class WHERE oid = 'of_member'::regclass;
SELECT detect.drop_rollup('of_member');
SELECT * FROM parts ORDER BY 1, 2;
SELECT * FROM building;

-- ---------------------------------------------------------------------
-- Built, and swapped
-- ---------------------------------------------------------------------

-- another WHERE
SELECT alter_to($$ SELECT date_trunc('hour', at) AS hour, lane_id AS lane, count(*) AS n, avg(speed) AS speed FROM pass WHERE speed > 10 GROUP BY 1, 2 $$);
SELECT detect.wait_for_rollup('passes');
SELECT compare();
SELECT stage(1001, 1100);
SELECT detect.wait_for('pass');
SELECT compare();
-- other aggregates, another bucket, a join, more columns at the end
SELECT alter_to($$ SELECT date_trunc('day', at) AS hour, lane_id AS lane, count(*) FILTER (WHERE speed > 5) AS n, round(avg(speed + 1), 3)::numeric AS speed,
                          road, max(at) AS last_at, stddev(speed) AS deviation FROM pass JOIN lane USING (lane_id) GROUP BY 1, 2, road $$);
SELECT detect.wait_for_rollup('passes');
SELECT compare();
SELECT stage(1050, 1200);
SELECT detect.wait_for('pass');
SELECT compare();
\d+ passes
SELECT regress.differences('upon', 'SELECT hour, sum(n) AS n FROM passes GROUP BY hour');
SELECT has_table_privilege('regress_alter_reader', 'passes', 'SELECT');
SELECT obj_description('passes'::regclass, 'pg_class'), col_description('passes'::regclass, 3), obj_description('detect_state.passes'::regclass, 'pg_class');
SELECT * FROM parts ORDER BY 1, 2;
SELECT * FROM building;
SELECT caller, verb, object, regexp_replace(detail, '\s+', ' ', 'g') AS detail FROM detect.history WHERE object = 'passes' ORDER BY history_id;
SELECT count(DISTINCT created_at) AS made_once FROM detect.rollup WHERE rollup = 'passes' AND created_at < (SELECT max(at) FROM detect.history WHERE verb = 'alter_rollup');

-- the new columns stay: what the view has by now is what the next query must have
SELECT regress.attempt(format('SELECT detect.alter_rollup(''passes'', query => %L)', query)) FROM first_force;

-- ---------------------------------------------------------------------
-- While it is built: the stream is paused
-- ---------------------------------------------------------------------
SELECT detect.pause('pass');
CREATE TABLE before AS TABLE force;
-- rolled back it was never there
BEGIN;
SELECT alter_to(query || 'HAVING count(*) > 2') FROM before;
SELECT new_state FROM building;
SELECT detect.wait_for_rollup('passes');
ROLLBACK;
SELECT * FROM building;
SELECT * FROM parts WHERE name ~ '_new';
SELECT detect.alter_rollup('passes', query => query || 'HAVING count(*) > 2') FROM before;
SELECT * FROM building;
SELECT * FROM parts WHERE name ~ '_new' ORDER BY 1, 2;
SELECT new_query ~ 'HAVING' AS new_has, query ~ 'HAVING' AS old_has FROM detect.rollup WHERE rollup = 'passes';
SELECT compare();
SELECT detect.wait_for_rollup('passes', '0 s');
SELECT detect.get_definition('passes');
-- a name of ours is nobody else's
RESET SESSION AUTHORIZATION;
SELECT regexp_replace(regress.outcome(format('SELECT detect.%s(%L)', verb, name)), '_new_\d+', '_new', 'g') FROM detect._rollup, unnest('{drop_rollup,retry_rollup,wait_for_rollup,get_definition}'::text[]) verb
WHERE name ~ '^_new';
SET SESSION AUTHORIZATION regress_alter;
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT detect.wait_for_rollup('passes');
ROLLBACK;
-- another one takes its place; the retention is that of both, or of the new one
SELECT alter_to(query || 'HAVING count(*) > 3') FROM before;
SELECT * FROM parts WHERE name ~ '_new' ORDER BY 1, 2;
SELECT detect.alter_rollup('passes', retention => '100 years');
SELECT detect.alter_rollup('passes', query => query, reset => '{retention}') FROM force;
SELECT detect.get_definition('passes');
SELECT detect.alter_rollup('passes', reset => '{retention}');
-- abandoned
SELECT detect.alter_rollup('passes', reset => '{query}');
SELECT * FROM building;
SELECT * FROM parts WHERE name ~ '_new';
SELECT detect.alter_rollup('passes', reset => '{query}');
-- and again, to the end
SELECT detect.alter_rollup('passes', query => query) FROM force;
SELECT detect.resume('pass');
SELECT detect.wait_for_rollup('passes');
SELECT compare();

-- tables are renamed, the view too, and it is moved
SELECT detect.pause('pass');
SELECT alter_to(replace(query, '> 3', '> 1')) FROM force;
ALTER TABLE lane RENAME TO track;
ALTER TABLE track RENAME COLUMN road TO street;
ALTER TABLE pass RENAME COLUMN speed TO velocity;
ALTER VIEW passes RENAME TO passages;
SELECT detect.resume('pass');
SELECT regress.wait_for_pause('pass');
ALTER TABLE pass RENAME COLUMN velocity TO speed;
SELECT detect.resume('pass');
SELECT detect.wait_for_rollup('passes');
ALTER TABLE track RENAME COLUMN street TO road;
ALTER TABLE track RENAME TO lane;
ALTER VIEW passages RENAME TO passes;
SELECT compare();

-- the view is altered meanwhile so that the new query does not fit: it says so, until it fits
SELECT detect.pause('pass');
SELECT alter_to(replace(query, '> 1', '> 0')) FROM force;
ALTER VIEW passes RENAME COLUMN n TO number;
SELECT detect.resume('pass');
CALL regress.await($$ SELECT FROM detect.stat_rollup WHERE rollup = 'passes' AND new_state = 'active' AND new_error ~ 'column' $$, 1);
SELECT * FROM building;
SELECT detect.wait_for_rollup('passes', '0 s');
ALTER VIEW passes RENAME COLUMN number TO n;
SELECT detect.wait_for_rollup('passes');
SELECT compare();
-- others have built upon the states
CREATE VIEW upon_states AS SELECT count(*) FROM detect_state.passes;
SELECT detect.alter_rollup('passes', query => query) FROM force;
CALL regress.await($$ SELECT FROM detect.stat_rollup WHERE rollup = 'passes' AND new_state = 'active' AND new_error ~ 'depend' $$, 1);
SELECT * FROM building;
SELECT stage(1201, 1300);
SELECT detect.wait_for('pass');
SELECT compare();
DROP VIEW upon_states;
SELECT detect.wait_for_rollup('passes');
SELECT compare();
-- it has all events, and fails while it waits: it catches up first
CREATE VIEW upon_states AS SELECT count(*) FROM detect_state.passes;
SELECT alter_to(replace(query, 'AS deviation', 'AS deviation, max(100 / (pass_id - 7050)) AS quotient')) FROM force;
CALL regress.await($$ SELECT FROM detect.stat_rollup WHERE rollup = 'passes' AND new_state = 'active' AND new_error ~ 'depend' $$, 1);
SELECT stage(7001, 7100);
SELECT detect.wait_for('pass');
SELECT * FROM building;
SELECT n = (SELECT count(*) FROM pass WHERE speed > 5) AS complete FROM (SELECT sum(n) AS n FROM passes) s;
DELETE FROM pass WHERE pass_id = 7050;
SELECT detect.retry_rollup('passes');
DROP VIEW upon_states;
SELECT detect.wait_for_rollup('passes');
SELECT compare();

-- ---------------------------------------------------------------------
-- A new query that fails; an old one that fails and is mended by a new one
-- ---------------------------------------------------------------------
SELECT detect.create_rollup('quotients', 'SELECT lane_id, sum(100 / (speed + 1)) AS q FROM pass GROUP BY lane_id');
SELECT detect.wait_for_rollup('quotients');
SELECT detect.alter_rollup('quotients', query => 'SELECT lane_id, sum(100 / speed) AS q FROM pass GROUP BY lane_id');
SELECT detect.wait_for_rollup('quotients');
SELECT * FROM building WHERE rollup = 'quotients';
SELECT stage(1301, 1400);
SELECT detect.wait_for('pass');
SELECT regress.compare('quotients', 'SELECT lane_id, sum(100 / (speed + 1)) FROM pass GROUP BY lane_id');
SELECT detect.retry_rollup('quotients');
SELECT detect.wait_for_rollup('quotients');
SELECT detect.alter_rollup('quotients', reset => '{query}');
SELECT detect.wait_for_rollup('quotients');
SELECT * FROM building WHERE rollup = 'quotients';
-- it is mended, and goes on by itself
SELECT detect.alter_rollup('quotients', query => 'SELECT lane_id, sum(100 / speed) AS q FROM pass GROUP BY lane_id');
SELECT detect.wait_for_rollup('quotients');
DELETE FROM pass WHERE speed = 0;
SELECT detect.retry_rollup('quotients');
SELECT detect.wait_for_rollup('quotients');
SELECT regress.compare('quotients', 'SELECT lane_id, sum(100 / speed) FROM pass GROUP BY lane_id');
INSERT INTO detect_staging.pass VALUES (5000, 1, 0, '2024-04-01');
SELECT detect.wait_for('pass');
SELECT state, error, events_missed FROM detect.stat_rollup WHERE rollup = 'quotients';
SELECT detect.alter_rollup('quotients', query => 'SELECT lane_id, sum(100 / nullif(speed, 0)) AS q FROM pass GROUP BY lane_id');
SELECT detect.wait_for_rollup('quotients');
SELECT state, error, events_missed FROM detect.stat_rollup WHERE rollup = 'quotients';
SELECT regress.compare('quotients', 'SELECT lane_id, sum(100 / nullif(speed, 0)) FROM pass GROUP BY lane_id');
SELECT sum(events_missed) AS missed FROM detect.stat_rollup;
SELECT detect.drop_rollup('quotients');

-- ---------------------------------------------------------------------
-- Retention: groups whose events are gone can't be made again
-- ---------------------------------------------------------------------
SELECT detect.create_rollup('days', 'SELECT date_trunc(''day'', at) AS day, count(*) AS n FROM pass GROUP BY 1', retention => '200 years',
                            coarser => '{"months": "1 month"}');
SELECT detect.wait_for_rollup('days');
SELECT detect.wait_for_rollup('months');
RESET client_min_messages;
SELECT detect.alter_rollup('days', query => 'SELECT date_trunc(''day'', at) AS day, count(*) AS n, min(speed) AS slowest FROM pass GROUP BY 1');
SELECT detect.wait_for_rollup('days');
SELECT retention FROM detect.rollup WHERE rollup = 'days';
INSERT INTO detect_staging.pass SELECT 6000 + n, 1, n, '2025-01-01'::timestamptz + n * interval '1 hour' FROM generate_series(1, 100) n;
SELECT detect.wait_for('pass');
CREATE TABLE months_before AS TABLE months;
DO $$ BEGIN EXECUTE (SELECT format('DROP TABLE %s', tableoid::regclass) FROM pass ORDER BY at LIMIT 1); END $$;
SELECT count(*) FROM days;
SELECT detect.alter_rollup('days', query => 'SELECT date_trunc(''day'', at) AS day, count(*) AS n, max(speed) AS slowest FROM pass GROUP BY 1', retention => '100 years');
SELECT detect.wait_for_rollup('days');
SELECT retention FROM detect.rollup WHERE rollup = 'days';
SELECT regress.compare('days', 'SELECT date_trunc(''day'', at), count(*), max(speed) FROM pass GROUP BY 1');
-- a coarser rollup is one of its own
SELECT regress.compare('months', 'TABLE rollup_alter.months_before');
SET client_min_messages = warning;

-- ---------------------------------------------------------------------
-- What goes with what
-- ---------------------------------------------------------------------
SELECT detect.drop_rollup('days');
SELECT detect.drop_rollup('months');
SELECT detect.pause('pass');
-- the rollup, while a new query is being built
SELECT detect.create_rollup('gone', 'SELECT count(*) AS n FROM pass');
SELECT detect.alter_rollup('gone', query => 'SELECT count(*) AS n, max(at) AS last_at FROM pass');
SELECT detect.drop_rollup('gone');
SELECT * FROM parts WHERE name !~ 'passes' ORDER BY 1, 2;
-- what the new query alone uses: the old one stays
SELECT detect.create_rollup('kept', 'SELECT count(*) AS n FROM pass');
SELECT detect.alter_rollup('kept', query => 'SELECT count(*) AS n FROM pass JOIN lane USING (lane_id) WHERE road < ''x''');
DROP VIEW upon;
SELECT detect.drop_rollup('passes');
DROP TABLE lane CASCADE;
SELECT * FROM parts ORDER BY 1, 2;
SELECT * FROM building;
SELECT verb, detail FROM detect.history WHERE object = 'kept' ORDER BY history_id;
-- what the old query alone uses: both go
CREATE TABLE lane (lane_id int PRIMARY KEY, road text);
SELECT detect.create_rollup('both', 'SELECT count(*) AS n FROM pass JOIN lane USING (lane_id)');
SELECT detect.alter_rollup('both', query => 'SELECT count(*) AS n FROM pass');
DROP TABLE lane CASCADE;
SELECT * FROM parts ORDER BY 1, 2;
SELECT rollup FROM detect.rollup WHERE stream = 'pass';
SELECT verb, detail FROM detect.history WHERE object = 'both' ORDER BY history_id;
-- the states or the query of the new one
SELECT detect.alter_rollup('kept', query => 'SELECT count(*) AS n, max(at) AS last_at FROM pass');
DO $$ BEGIN EXECUTE (SELECT format('DROP TABLE %s', oid::regclass) FROM pg_class WHERE relname ~ '^_new_\d+$' AND relkind = 'r'); END $$;
SELECT * FROM parts ORDER BY 1, 2;
-- the public view: it can't be altered without; if it goes meanwhile, the new query takes over without it
SELECT detect.create_rollup('viewless', 'SELECT count(*) AS n FROM pass');
DROP VIEW viewless;
SELECT detect.alter_rollup('viewless', query => 'SELECT count(*) AS n FROM pass');
SELECT detect.drop_rollup('viewless');
SELECT detect.create_rollup('viewless', 'SELECT count(*) AS n FROM pass');
SELECT detect.alter_rollup('viewless', query => 'SELECT count(*) AS n, max(at) AS last_at FROM pass');
DROP VIEW viewless;
SELECT detect.resume('pass');
SELECT detect.wait_for_rollup('viewless');
SELECT query FROM detect.rollup WHERE rollup = 'viewless';
SELECT detect.drop_rollup('viewless');
-- the stream: what is being built goes on with the next one
SELECT detect.pause('pass');
SELECT detect.alter_rollup('kept', query => 'SELECT count(*) AS n, max(at) AS last_at FROM pass');
SELECT detect.drop_stream('pass');
SELECT new_state FROM detect.stat_rollup WHERE rollup = 'kept';
SELECT detect.alter_rollup('kept', query => 'SELECT count(*) AS n FROM pass');
SELECT detect.create_stream('pass', server => '', partition_interval => '1 day');
SELECT stage(3001, 3100);
SELECT detect.wait_for('pass');
SELECT detect.wait_for_rollup('kept');
SELECT regress.compare('kept', 'SELECT count(*), max(at) FROM pass');
-- made and altered in one transaction, before the stream has begun
BEGIN;
SELECT detect.create_rollup('young', 'SELECT count(*) AS n FROM pass');
SELECT detect.alter_rollup('young', query => 'SELECT count(*) AS n, min(at) AS first_at FROM pass');
COMMIT;
SELECT detect.wait_for_rollup('young');
SELECT regress.compare('young', 'SELECT count(*), min(at) FROM pass');
-- the table
SELECT detect.pause('pass');
SELECT detect.alter_rollup('young', query => 'SELECT count(*) AS n, min(at) AS first_at, max(at) AS last_at FROM pass');
DROP TABLE pass CASCADE;
SELECT * FROM parts ORDER BY 1, 2;
RESET SESSION AUTHORIZATION;
DROP SCHEMA rollup_alter CASCADE;
SELECT count(*) FROM detect._rollup;
DROP ROLE regress_alter_member, regress_alter_other, regress_alter_reader;
DROP OWNED BY regress_alter;
DROP ROLE regress_alter;
