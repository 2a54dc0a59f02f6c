--
-- rollup_refused: queries that cannot be kept, and what is said about them
--
-- Each row is a label and the SQLSTATE, the message, the detail and the hint.
--
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS detect CASCADE;
CREATE ROLE regress_rollup_refused IN ROLE detect_admin LOGIN;
CREATE ROLE regress_rollup_stranger IN ROLE detect_admin LOGIN;
CREATE SCHEMA rollup_refused AUTHORIZATION regress_rollup_refused;
GRANT USAGE ON SCHEMA rollup_refused TO regress_rollup_stranger;

SET SESSION AUTHORIZATION regress_rollup_refused;
SET search_path = rollup_refused, public;

CREATE TABLE zone (zone_id int PRIMARY KEY, name text);
CREATE TABLE refused_sighting (
    sighting_id bigint PRIMARY KEY, camera int, item text, confidence real, seen_at timestamptz,
    transaction xid, remark text, code text COLLATE "C", unit text COLLATE "POSIX");
CREATE TABLE refused_reading (reading_id bigint PRIMARY KEY, value float8);
SELECT detect.create_stream('refused_sighting');
SELECT detect.create_stream('refused_reading');
GRANT SELECT ON ALL TABLES IN SCHEMA rollup_refused TO regress_rollup_stranger;
CREATE VIEW sighting_view AS SELECT * FROM refused_sighting;
CREATE VIEW newest AS SELECT camera, max(seen_at) AS newest FROM refused_sighting GROUP BY camera;
CREATE VIEW newest_of_newest AS SELECT * FROM newest WHERE newest > '2024-01-01';
CREATE VIEW lottery AS SELECT zone_id AS camera FROM zone WHERE random() < 0.5;
CREATE TABLE refused_parted (camera int, seen_at timestamptz) PARTITION BY RANGE (seen_at);
CREATE TABLE refused_parted_1 PARTITION OF refused_parted FOR VALUES FROM ('2024-01-01') TO ('2024-02-01');
SELECT detect.create_stream('refused_parted', key => '{}', event_time => 'seen_at');
CREATE TEMP TABLE temporary_zone (zone_id int);
CREATE FUNCTION a_volatile_function() RETURNS int LANGUAGE sql VOLATILE AS 'SELECT 1';
CREATE AGGREGATE sum_without_combine(int) (sfunc = int4pl, stype = int);

CREATE FUNCTION rollup_refused.outcome(query text, name text DEFAULT 'refused', retention interval DEFAULT NULL)
RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    detail text;
    hint text;
BEGIN
    PERFORM detect.create_rollup(name, query, retention);
    RETURN 'created';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
    RETURN concat_ws(E'\n', SQLSTATE || ' ' || SQLERRM, '  ' || nullif(detail, ''), '  ' || nullif(hint, ''));
END $$;

\pset format unaligned
\pset tuples_only on
\pset fieldsep ': '

-- what is no query
SELECT label, outcome(query)
FROM (VALUES
    ('syntax error',      'SELEC 1'),
    ('nothing',           ''),
    ('two statements',    'SELECT 1; SELECT 2'),
    ('no SELECT',         'INSERT INTO zone VALUES (1)'),
    ('SELECT INTO',       'SELECT count(*) INTO copy FROM refused_sighting'),
    ('unknown column',    'SELECT count(colour) FROM refused_sighting'),
    ('parameter',         'SELECT count(*) FROM refused_sighting WHERE camera = $1'),
    ('null',              NULL)) v (label, query);

-- the events table: exactly once, directly in FROM, never null-extended
SELECT label, outcome(query)
FROM (VALUES
    ('no events table',   'SELECT count(*) FROM zone'),
    ('no FROM',           'SELECT count(*)'),
    ('through a view',    'SELECT count(*) FROM sighting_view'),
    ('in a subquery',     'SELECT count(*) FROM (SELECT * FROM refused_sighting) s'),
    ('twice',             'SELECT count(*) FROM refused_sighting a, refused_sighting b'),
    ('again in WHERE',    'SELECT count(*) FROM refused_sighting WHERE camera > (SELECT avg(camera) FROM refused_sighting)'),
    ('in a partition',    'SELECT count(*) FROM refused_parted p, refused_parted_1 q WHERE q.camera = p.camera'),
    ('in a joined view',  'SELECT count(*) FROM refused_sighting JOIN newest USING (camera)'),
    ('a view of a view',  'SELECT count(*) FROM refused_sighting JOIN newest_of_newest USING (camera)'),
    ('volatile view',     'SELECT count(*) FROM refused_sighting JOIN lottery USING (camera)'),
    ('of two streams',    'SELECT count(*) FROM refused_sighting, refused_reading'),
    ('right of LEFT',     'SELECT count(*) FROM zone LEFT JOIN refused_sighting ON zone_id = camera'),
    ('left of RIGHT',     'SELECT count(*) FROM refused_sighting RIGHT JOIN zone ON zone_id = camera'),
    ('FULL',              'SELECT count(*) FROM zone FULL JOIN refused_sighting ON zone_id = camera'),
    ('ONLY',              'SELECT count(*) FROM ONLY refused_sighting'),
    ('TABLESAMPLE',       'SELECT count(*) FROM refused_sighting TABLESAMPLE system (10)'),
    ('temporary table',   'SELECT count(*) FROM refused_sighting, temporary_zone'),
    ('system column',     'SELECT count(*) FROM refused_sighting WHERE ctid IS NOT NULL'),
    ('grouped tableoid',  'SELECT tableoid, count(*) FROM refused_sighting GROUP BY 1')) v (label, query);

-- clauses that need all groups at once
SELECT label, outcome(query)
FROM (VALUES
    ('no aggregate',      'SELECT camera FROM refused_sighting'),
    ('WITH',              'WITH z AS (SELECT * FROM zone) SELECT count(*) FROM refused_sighting, z'),
    ('UNION',             'SELECT count(*) FROM refused_sighting UNION ALL SELECT 1'),
    ('GROUPING SETS',     'SELECT camera, count(*) FROM refused_sighting GROUP BY GROUPING SETS ((camera), ())'),
    ('CUBE',              'SELECT camera, count(*) FROM refused_sighting GROUP BY CUBE (camera)'),
    ('GROUPING',          'SELECT camera, grouping(camera), count(*) FROM refused_sighting GROUP BY camera'),
    ('window function',   'SELECT camera, count(*), rank() OVER (ORDER BY camera) FROM refused_sighting GROUP BY camera'),
    ('DISTINCT',          'SELECT DISTINCT camera, count(*) FROM refused_sighting GROUP BY camera'),
    ('LIMIT',             'SELECT camera, count(*) FROM refused_sighting GROUP BY camera LIMIT 3'),
    ('OFFSET',            'SELECT camera, count(*) FROM refused_sighting GROUP BY camera OFFSET 3'),
    ('ORDER BY',          'SELECT camera, count(*) FROM refused_sighting GROUP BY camera ORDER BY camera'),
    ('FOR UPDATE',        'SELECT camera FROM refused_sighting FOR UPDATE'),
    ('set-returning',     'SELECT camera, generate_series(1, 2) AS g FROM refused_sighting GROUP BY camera'),
    ('subquery',          'SELECT camera, (SELECT name FROM zone WHERE zone_id = camera), count(*) FROM refused_sighting GROUP BY camera'),
    ('dependent column',  'SELECT z.zone_id, z.name, count(*) FROM refused_sighting JOIN zone z ON z.zone_id = camera GROUP BY z.zone_id')) v (label, query);

-- aggregates that PostgreSQL cannot split
SELECT label, outcome(query)
FROM (VALUES
    ('DISTINCT',          'SELECT count(DISTINCT camera) FROM refused_sighting'),
    ('ORDER BY',          'SELECT array_agg(item ORDER BY item) FROM refused_sighting'),
    ('ordered-set',       'SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY confidence) FROM refused_sighting'),
    ('hypothetical-set',  'SELECT rank(1) WITHIN GROUP (ORDER BY confidence) FROM refused_sighting'),
    ('no combine',        'SELECT sum_without_combine(camera) FROM refused_sighting'),
    ('in HAVING',         'SELECT camera FROM refused_sighting GROUP BY camera HAVING count(DISTINCT item) > 1'),
    ('in an expression',  'SELECT 1 + json_agg(item)::text::int AS x FROM refused_sighting')) v (label, query);

-- functions that give another result each time
SELECT label, outcome(query)
FROM (VALUES
    ('in a group',        'SELECT random() AS r, count(*) FROM refused_sighting GROUP BY 1'),
    ('in WHERE',          'SELECT count(*) FROM refused_sighting WHERE a_volatile_function() = 1'),
    ('in an aggregate',   'SELECT max(clock_timestamp() - seen_at) FROM refused_sighting'),
    ('in a subquery',     'SELECT count(*) FROM refused_sighting WHERE camera IN (SELECT (random() * 10)::int)')) v (label, query);

-- groups and output columns
SELECT label, outcome(query)
FROM (VALUES
    ('no btree',          'SELECT transaction, count(*) FROM refused_sighting GROUP BY 1'),
    ('no name',           'SELECT camera + 1, count(*) FROM refused_sighting GROUP BY 1'),
    ('same name',         'SELECT count(item), count(camera) FROM refused_sighting'),
    ('collations',        'SELECT max(item COLLATE "C" || remark COLLATE "POSIX") AS m FROM refused_sighting'),
    ('which collation',   'SELECT max(code || unit) AS m FROM refused_sighting'),
    ('of a group',        'SELECT count(*) AS n FROM refused_sighting GROUP BY code || unit'),
    ('33 groups',         (SELECT 'SELECT count(*) FROM refused_sighting GROUP BY ' || string_agg('camera + ' || n, ', ') FROM generate_series(1, 33) n))) v (label, query);

-- names and retention
SELECT label, outcome('SELECT count(*) FROM refused_sighting', name, retention)
FROM (VALUES
    ('null',              NULL, NULL::interval),
    ('empty',             '', NULL),
    ('underscore',        '_count', NULL),
    ('pg_',               'pg_count', NULL),
    ('too long',          repeat('x', 64), NULL),
    ('of a stream',       'refused_reading', NULL),
    ('of a table',        'zone', NULL),
    ('no retention',      'refused', '0'),
    ('negative',          'refused', '-1 day')) v (label, name, retention);

SELECT 'first', outcome('SELECT count(*) FROM refused_sighting', 'refused_count');
SELECT 'again', outcome('SELECT count(*) FROM refused_sighting', 'refused_count');

-- only the owner of the stream
SET SESSION AUTHORIZATION regress_rollup_stranger;
SET search_path = rollup_refused, public;
SELECT 'a stranger', outcome('SELECT count(*) FROM refused_sighting');
SELECT detect.drop_rollup('refused_count');
SELECT detect.wait_for_rollup('refused_count');
SELECT detect.wait_for_rollup('no_such_rollup');
SELECT detect.drop_rollup('no_such_rollup');
SET client_min_messages = notice;
SELECT detect.drop_rollup('no_such_rollup', if_exists => true);
SET client_min_messages = warning;

-- partial states by hand: only what the aggregate's own states are
SELECT detect._combine('sum(bigint)'::regprocedure, 1, 2);
SELECT detect._combine('sum(int)'::regprocedure, '\x01'::bytea, '\x02');
SELECT detect._combine('sum(bigint)'::regprocedure, '\x00'::bytea, '\x01');
SELECT detect._combine('json_agg(anyelement)'::regprocedure, '\x00'::bytea, '\x01');
SELECT detect._combine('lower(text)'::regprocedure, 'a'::text, 'b');
SELECT detect._combine(NULL, 1, 2);
SELECT detect._finalize(NULL::int, 'avg(int)'::regprocedure, '{1,2}'::bigint[]);
SELECT detect._finalize(NULL::numeric, 'avg(int)'::regprocedure, '{2,5}'::bigint[]);

RESET SESSION AUTHORIZATION;
DROP TABLE temporary_zone;
DROP SCHEMA rollup_refused CASCADE;
SELECT count(*) FROM detect._rollup WHERE name LIKE 'refused%';
DROP ROLE regress_rollup_refused, regress_rollup_stranger;
