--
-- rollup_view: a rollup by fewer of its group columns
--
-- The oracle: the view and the query of the rollup with these groups alone,
-- EXCEPT ALL both ways.
--
SET client_min_messages = warning;
CREATE ROLE regress_view IN ROLE detect_admin LOGIN;
CREATE ROLE regress_view_reader;
CREATE ROLE regress_view_stranger;
CREATE SCHEMA rollup_view AUTHORIZATION regress_view;
GRANT USAGE ON SCHEMA rollup_view TO regress_view_reader, regress_view_stranger;
GRANT CREATE ON SCHEMA rollup_view TO regress_view_stranger;
SET SESSION AUTHORIZATION regress_view;
SET search_path = rollup_view, public;
SET timezone = 'UTC';
SET datestyle = 'ISO';

CREATE TYPE colour AS ENUM ('red', 'green', 'blue');
CREATE TABLE event (
    id int PRIMARY KEY, small smallint, big bigint, f float8, n numeric, colour colour, flag boolean, d date,
    at timestamptz, stay interval, tags int[], name text COLLATE "C", geom geometry(Point, 4326));
SELECT detect.create_stream('event', event_time => 'at');

-- A rollup: names and expressions of its groups, aggregates, and what follows FROM.
CREATE TABLE kept (name text PRIMARY KEY, groups text[], expressions text[], aggregates text, clauses text[] DEFAULT '{"",""}');
INSERT INTO kept VALUES
('numbers', '{colour,flag,d}', '{colour,flag,d}', $$
    count(*) AS events, count(f) AS fs, sum(small) AS small, sum(id) AS id, sum(big) AS big, sum(f) AS f, sum(n) AS n, sum(stay) AS stay,
    avg(small) AS avg_small, avg(id) AS avg_id, avg(big) AS avg_big, avg(f) AS avg_f, avg(n) AS avg_n, avg(stay) AS avg_stay,
    stddev_samp(n) AS spread_n, var_pop(id) AS spread_id, variance(small) AS spread_small $$, DEFAULT),
('extremes', '{month,colour}', '{"date_trunc(''month'', at)",colour}', $$
    min(f) AS f1, max(f) AS f2, max(n) AS n, min(name) AS name1, max(name) AS name2, max(name COLLATE "C") AS name3, min(d) AS d, max(at) AS at, min(stay) AS stay,
    max(tags) AS tags, min(colour) AS least, bool_and(flag) AS all_flags, bool_or(flag) AS any_flag, bit_or(id) AS bits, bit_xor(small) AS more_bits $$, DEFAULT),
('others', '{flag,colour}', '{flag,colour}', $$
    detect.last(name, at) AS last_name, detect.first(geom, at) AS first_place, ST_Extent(geom)::text AS extent,
    regr_count(small, id) AS pairs, round(regr_sxx(small, id)::numeric, 4) AS sxx, round(corr(small, id)::numeric, 8) AS corr,
    sum(n) / count(*) AS mean, coalesce(max(name), 'none') || '!' AS loud, ARRAY[min(id), max(id)] AS ends,
    count(*) FILTER (WHERE flag) AS flags, sum(n) FILTER (WHERE id < 0) AS nothing $$, DEFAULT),
('chosen', '{colour,d}', '{colour,d}', 'count(*) AS events, sum(n) AS n', '{WHERE id % 3 > 0,HAVING sum(id) > 300}'),
('no_groups', '{}', '{}', 'count(*) AS events, avg(n) AS n, max(name) AS name', DEFAULT);

-- The query of a rollup with some of its groups alone.
CREATE FUNCTION plain(rollup text, columns text[]) RETURNS text LANGUAGE sql AS $$
    SELECT concat_ws(' ', 'SELECT', string_agg(e || ' AS ' || g || ',', ' ' ORDER BY i), aggregates, 'FROM event', clauses[1],
                     'GROUP BY ' || string_agg(i::text, ', ' ORDER BY i), clauses[2])
    FROM kept LEFT JOIN LATERAL (SELECT g, e, row_number() OVER () AS i FROM unnest(groups, expressions) u (g, e) WHERE g = ANY (columns)) u ON true
    WHERE name = rollup GROUP BY kept.name
$$;

-- Each rollup by each set of its groups.
CREATE TABLE seen AS
    SELECT k.name || '_' || n AS name, k.name AS rollup, ARRAY(SELECT g FROM unnest(groups) WITH ORDINALITY u (g, i) WHERE n & (1 << (i - 1)::int) > 0) AS columns
    FROM kept k, generate_series(0, (1 << cardinality(groups)) - 1) n;
SELECT count(*) FROM (SELECT detect.create_rollup(name, plain(name, groups)) FROM kept ORDER BY name) c;
-- plans are shown below: nobody shall count the states meanwhile
ALTER TABLE detect_state.chosen SET (autovacuum_enabled = off);
ALTER TABLE detect_state.extremes SET (autovacuum_enabled = off);
ALTER TABLE detect_state.numbers SET (autovacuum_enabled = off);
SELECT count(*) FROM (SELECT detect.create_rollup_view(name, rollup, columns) FROM seen ORDER BY name) c;
SELECT count(*) FROM (SELECT detect.wait_for_rollup(name) FROM kept) w;

-- there is no event yet: one row where the query has one
SELECT name, regress.compare(name, plain(rollup, columns)) FROM seen ORDER BY name COLLATE "C";

-- Whole numbers, so that no order of adding changes a sum.
CREATE FUNCTION stage(first int, last int) RETURNS void LANGUAGE sql AS $$
    INSERT INTO detect_staging.event
    SELECT i, i % 100, i * 10000000000, CASE i % 20 WHEN 3 THEN NULL WHEN 5 THEN '-Infinity' WHEN 6 THEN -0.0 ELSE i % 8 END,
           CASE WHEN i % 10 > 2 THEN (i % 30) / 8.0 END, (ARRAY['red', 'green', 'blue', NULL]::colour[])[1 + i % 4],
           CASE i % 7 WHEN 2 THEN NULL ELSE i % 2 = 0 END, CASE WHEN i % 6 > 0 THEN '2024-01-01'::date + i % 6 END,
           '2024-01-31 00:30+00'::timestamptz + i * interval '3 hours', (i % 6) * interval '1 day 1 hour',
           CASE i % 4 WHEN 0 THEN NULL WHEN 1 THEN '{}' ELSE ARRAY[i % 4, NULL, i % 2] END,
           CASE WHEN i % 9 > 0 THEN repeat(chr(97 + i % 5), i % 9 * 100) END, ST_Point(i % 10, i % 7, 4326)
    FROM generate_series(first, last) i
$$;
SELECT stage(1, 7);
SELECT detect.wait_for('event');
SELECT name, regress.compare(name, plain(rollup, columns)) FROM seen ORDER BY name COLLATE "C";
SELECT stage(5, 200);
SELECT stage(150, 1000);
SELECT detect.wait_for('event');
SELECT name, regress.compare(name, plain(rollup, columns)) FROM seen ORDER BY name COLLATE "C";

-- sorted; and hashed, with more groups than memory takes
SET enable_hashagg = off;
SELECT name FROM seen WHERE regress.differences(name, plain(rollup, columns)) <> 0;
RESET enable_hashagg;
CREATE VIEW states AS
    SELECT i % 20000 AS g, ARRAY[1, i]::bigint[] AS mean, i::bigint AS sum, repeat(i::text, 20) AS name FROM generate_series(1, 60000) i;
SET work_mem = '64kB';
EXPLAIN (COSTS OFF) SELECT g, detect._merge('avg(int)', mean), detect._merge('sum(int)', sum), detect._merge('max(text)', name) FROM states GROUP BY g;
CREATE TABLE spilled AS
    SELECT g, detect._merge('avg(int)', mean), detect._merge('sum(int)', sum) AS sum, detect._merge('max(text)', name) AS name FROM states GROUP BY g;
RESET work_mem;
SELECT regress.compare('spilled', 'SELECT g, ARRAY[count(*), sum(sum)::bigint], sum(sum)::bigint, max(name) FROM states GROUP BY g');
DROP VIEW states;

-- by a parallel scan
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET min_parallel_table_scan_size = 0;
EXPLAIN (COSTS OFF) SELECT colour, avg_n FROM numbers_1;
CREATE TABLE scanned AS SELECT * FROM numbers_1;
RESET parallel_setup_cost;
RESET parallel_tuple_cost;
RESET min_parallel_table_scan_size;
SELECT regress.compare('scanned', plain('numbers', '{colour}'));

-- names and types are those of the rollup
SELECT s.name, v.attname, format_type(v.atttypid, v.atttypmod), v.attcollation::regcollation
FROM seen s JOIN pg_attribute v ON v.attrelid = s.name::regclass AND v.attnum > 0
WHERE NOT EXISTS (SELECT FROM pg_attribute r WHERE r.attrelid = s.rollup::regclass
                  AND (r.attname, r.atttypid, r.atttypmod, r.attcollation) = (v.attname, v.atttypid, v.atttypmod, v.attcollation));

-- what it is, and that its text makes the same view: as pg_dump writes it
SELECT pg_get_viewdef('chosen_1');
SELECT obj_description('chosen_1'::regclass, 'pg_class'), obj_description('chosen_0'::regclass, 'pg_class');
SELECT set_config('search_path', '', false);
DO $$
DECLARE
    copied record;
BEGIN
    FOR copied IN SELECT name FROM rollup_view.seen LOOP
        EXECUTE format('CREATE VIEW rollup_view.%I AS %s', 'copied_' || copied.name, pg_get_viewdef(format('rollup_view.%I', copied.name)::regclass));
    END LOOP;
END $$;
SET search_path = rollup_view, public;
SELECT name FROM seen WHERE regress.differences('copied_' || name, plain(rollup, columns)) <> 0;

-- a filter on a group column reaches the index of the states
SET enable_seqscan = off;
EXPLAIN (COSTS OFF) SELECT * FROM chosen_1 WHERE colour = 'red';
EXPLAIN (COSTS OFF) SELECT f2 FROM extremes_1 WHERE month >= '2024-03-01' AND month < '2024-04-01' AND f2 > 3;
RESET enable_seqscan;

-- coarser rollups have views too
SELECT detect.create_rollup('per_hour', 'SELECT date_trunc(''hour'', at) AS hour, colour, avg(n) AS n, count(*) AS events FROM event GROUP BY 1, 2',
                            coarser => '{"per_day": "1 day"}');
SELECT detect.create_rollup_view('per_day_alone', 'per_day', '{day}');
SELECT detect.wait_for_rollup('per_hour'), detect.wait_for_rollup('per_day');
SELECT regress.compare('per_day_alone', 'SELECT date_trunc(''day'', at) AS day, avg(n) AS n, count(*) AS events FROM event GROUP BY 1');

-- what needs a group column that is left out is left out
SET client_min_messages = notice;
SELECT detect.create_rollup('expressions', $$
    SELECT upper(name) AS name, colour, colour AS again, upper(name) || '!' AS loud, count(*) AS events, count(*) || colour::text AS both, 7 AS seven
    FROM event GROUP BY upper(name), colour $$);
SELECT detect.create_rollup_view('by_name', 'expressions', '{name,name}');
SELECT detect.create_rollup_view('by_colour', 'expressions', '{again}');
SELECT detect.create_rollup_view('by_both', 'expressions', '{again,colour,name}');
SET client_min_messages = warning;
SELECT detect.wait_for_rollup('expressions');
SELECT regress.compare('by_name', 'SELECT upper(name) AS name, upper(name) || ''!'' AS loud, count(*) AS events, 7 AS seven FROM event GROUP BY upper(name)');
SELECT regress.compare('by_colour', 'SELECT colour AS again, count(*) AS events, count(*) || colour::text AS both, 7 AS seven FROM event GROUP BY colour');
SELECT regress.compare('by_both', 'SELECT * FROM expressions');

-- columns are called as the rollup's view calls them now
ALTER VIEW expressions RENAME COLUMN colour TO color;
ALTER TABLE detect_state.expressions RENAME COLUMN name TO label;
SELECT detect.create_rollup_view('by_color', 'expressions', '{color}');
SELECT string_agg(attname, ', ' ORDER BY attnum) FROM pg_attribute WHERE attrelid = 'by_color'::regclass;

-- what is refused
CREATE TABLE a_table ();
SELECT detect.create_rollup('only_groups', 'SELECT colour, flag FROM event GROUP BY 1, 2');
SELECT detect.create_rollup('having_colour', 'SELECT colour, flag, count(*) AS events FROM event GROUP BY 1, 2 HAVING colour <> ''red'' OR count(*) > 3');
SELECT label, regress.outcome(format('SELECT detect.create_rollup_view(%L, %L, %L)', name, rollup, columns)) AS outcome
FROM (VALUES
    ('no such rollup',    'v', 'nothing', '{}'),
    ('a stream',          'v', 'event', '{}'),
    ('no such column',    'v', 'numbers', '{color}'),
    ('of the state',      'v', 'numbers', '{s1}'),
    ('an aggregate',      'v', 'numbers', '{colour,avg_n}'),
    ('an expression',     'v', 'expressions', '{loud}'),
    ('no group columns',  'v', 'no_groups', '{colour}'),
    ('no aggregates',     'v', 'only_groups', '{}'),
    ('of HAVING',         'v', 'having_colour', '{flag}'),
    ('null',              'v', 'numbers', '{NULL}'),
    ('no columns',        'v', 'numbers', NULL),
    ('no name',           NULL, 'numbers', '{}'),
    ('empty',             '', 'numbers', '{}'),
    ('too long',          repeat('x', 64), 'numbers', '{}'),
    ('of a rollup',       'numbers', 'numbers', '{}'),
    ('of a table',        'a_table', 'numbers', '{}')) v (label, name, rollup, columns);
SELECT detect.create_rollup_view('groups_alone', 'only_groups', '{flag}'), detect.create_rollup_view('having_alone', 'having_colour', '{colour}');
SELECT detect.wait_for_rollup('only_groups'), detect.wait_for_rollup('having_colour');
SELECT regress.compare('groups_alone', 'SELECT flag FROM event GROUP BY 1'),
       regress.compare('having_alone', 'SELECT colour, count(*) AS events FROM event GROUP BY 1 HAVING colour <> ''red'' OR count(*) > 3');

-- states by hand: only those of one aggregate
SELECT detect._merge('sum(int)', s), detect._merge('count("any")', s) FROM (VALUES (1::bigint), (NULL), (2)) v (s);
SELECT detect._merge('sum(int)', s), detect._merge('count("any")', s), detect._merge('avg(int)', ARRAY[s]), detect._merge('avg(bigint)', s::text::bytea)
FROM (VALUES (1::bigint)) v (s) WHERE s > 1;
SELECT regress.outcome(statement) FROM (VALUES
    ('SELECT detect._merge(''sum(int)'', 1)'), ('SELECT detect._merge(NULL, 1)'), ('SELECT detect._merge(''lower(text)'', ''a''::text)'),
    ('SELECT detect._merge(''json_agg(anyelement)'', ''\x00''::bytea)'), ('SELECT detect._merge(''avg(bigint)'', ''\x00''::bytea)'),
    ('SELECT detect._merge(''sum(int)'', 1::bigint) OVER ()'),
    ('SELECT detect._merge(a, 1::bigint) FROM unnest(''{sum(int),"max(bigint)"}''::regprocedure[]) a')) v (statement);

-- who may make one, and who may read it
GRANT SELECT ON numbers, numbers_1 TO regress_view_reader;
SET SESSION AUTHORIZATION regress_view_reader;
SELECT count(*) FROM numbers_1;
SELECT count(*) FROM numbers_2;
SET SESSION AUTHORIZATION regress_view_stranger;
SET search_path = rollup_view, public;
SELECT detect.create_rollup_view('v', 'numbers', '{colour}');
SET SESSION AUTHORIZATION regress_view;
SET search_path = rollup_view, public;
SELECT object, detail FROM detect.history WHERE verb = 'create_rollup_view' AND object IN ('numbers', 'no_groups') ORDER BY history_id;

-- it keeps the rollup, as whatever is built upon the rollup's view does
\set VERBOSITY default
SELECT detect.drop_rollup('no_groups');
DROP VIEW no_groups_0, copied_no_groups_0;
SELECT detect.drop_rollup('no_groups');
\set VERBOSITY terse
DROP TABLE event CASCADE;
SELECT count(*) FROM pg_class WHERE relnamespace = 'rollup_view'::regnamespace AND relkind = 'v';
SELECT count(*) FROM detect.rollup;

RESET SESSION AUTHORIZATION;
DROP SCHEMA rollup_view CASCADE;
DROP ROLE regress_view, regress_view_reader, regress_view_stranger;
