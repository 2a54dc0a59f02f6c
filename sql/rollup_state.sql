--
-- rollup_state: states that only their own aggregate reads
--
-- Whoever owns a state table may write into it, and anybody may call the
-- functions that merge states and make results of them.  The aggregates of
-- extensions follow whatever the bytes of a state say: none of that may hand
-- them bytes that they have not made.  rollup_hll has what they give.
--
SET client_min_messages = warning;
CREATE EXTENSION hll;
CREATE EXTENSION tdigest;
CREATE ROLE regress_state IN ROLE detect_admin LOGIN;
CREATE SCHEMA rollup_state AUTHORIZATION regress_state;
SET search_path = rollup_state, public;
SET timezone = 'UTC';

-- aggregates that a superuser has made of the functions of hll: one that is going to be
-- replaced, and a polymorphic one, which takes any value for a hash
CREATE AGGREGATE plates(hll_hashval) (SFUNC = hll_add_trans0, STYPE = internal, FINALFUNC = hll_pack, COMBINEFUNC = hll_union_internal,
    SERIALFUNC = hll_serialize, DESERIALFUNC = hll_deserialize);
CREATE FUNCTION any_step(internal, anyelement) RETURNS internal IMMUTABLE LANGUAGE c AS '$libdir/hll', 'hll_add_trans0';
CREATE FUNCTION any_result(internal, anyelement) RETURNS anyelement IMMUTABLE LANGUAGE c AS '$libdir/hll', 'hll_pack';
CREATE AGGREGATE anything(anyelement) (SFUNC = any_step, STYPE = internal, FINALFUNC = any_result, FINALFUNC_EXTRA, COMBINEFUNC = hll_union_internal,
    SERIALFUNC = hll_serialize, DESERIALFUNC = hll_deserialize);

SET SESSION AUTHORIZATION regress_state;
CREATE TABLE passage (id int PRIMARY KEY, zone int, plate int, speed float8, spot geometry, raw bytea, at timestamptz);
SELECT detect.create_stream('passage', event_time => 'at');
CREATE TABLE kept (name text PRIMARY KEY, query text);
INSERT INTO kept VALUES
('sketches', $$ SELECT date_trunc('day', at) AS day, zone, plates(hll_hash_integer(plate))::text AS plates, ST_AsText(ST_Normalize(ST_Union(spot))) AS spots,
                       sum(id::bigint) AS ids FROM passage GROUP BY 1, 2 $$),
('speeds',   $$ SELECT zone, tdigest_percentile(speed, 100, 0.5) > 0 AS one, tdigest_percentile(speed, 100, '{0.1,0.9}'::float8[]) IS NOT NULL AS several,
                       tdigest_count(tdigest(speed, 100)) AS events FROM passage GROUP BY 1 $$),
('raws',     $$ SELECT zone, anything(raw) IS NOT NULL AS raws, anything(zone::bigint) IS NOT NULL AS zones FROM passage GROUP BY 1 $$);
CREATE FUNCTION stage(first int, last int) RETURNS void LANGUAGE sql AS $$
    INSERT INTO detect_staging.passage
    SELECT n, n % 3, n % 50, n % 120, ST_Point(n % 5, n % 7), '\x0102', '2024-03-01'::timestamptz + n * interval '1 hour' FROM generate_series(first, last) n
$$;
SELECT detect.create_rollup(name, query) FROM kept;
SELECT count(*) FROM (SELECT detect.wait_for_rollup(name) FROM kept) w;
SELECT stage(1, 100);
SELECT detect.wait_for('passage');
SELECT stage(101, 200);
SELECT detect.wait_for('passage');
SELECT name, regress.compare(name, query) FROM kept ORDER BY name;

-- the columns, and what a DBA sees in them
SELECT attrelid::regclass, attname, format_type(atttypid, atttypmod), col_description(attrelid, attnum)
FROM pg_attribute WHERE attrelid IN ('detect_state.sketches'::regclass, 'detect_state.raws'::regclass) AND attnum > 0 ORDER BY attrelid::regclass::text, attnum;
CREATE FUNCTION shown(said text) RETURNS text LANGUAGE sql RETURN regexp_replace(regexp_replace(regexp_replace(said, ' \(\d+-bit, \w+-endian\)', '', 'g'), 'PostgreSQL \d\d', 'PostgreSQL …', 'g'), '#\d+', '#…', 'g');
CREATE FUNCTION maker(state detect.aggregate_state) RETURNS text LANGUAGE sql RETURN regexp_replace(state::text, '^PostgreSQL \d+ \(\d+-bit, \w+-endian\) (.*): \\x[0-9a-f]+$', '\1');
SELECT DISTINCT maker(s1) AS s1, maker(s2) AS s2 FROM detect_state.sketches;
SELECT DISTINCT maker(s1) AS s1, maker(s2) AS s2 FROM detect_state.raws;
SELECT DISTINCT maker(s1) AS s1, maker(s2) AS s2, maker(s3) AS s3 FROM detect_state.speeds;

\pset format unaligned
\pset tuples_only on
\pset fieldsep ': '

-- no way leads from bytes or text to a state
CREATE TYPE pair AS (state detect.aggregate_state, n int);
CREATE DOMAIN state_domain AS detect.aggregate_state;
CREATE TABLE copied AS SELECT zone, s1 AS digest, s1::text AS said, NULL::bytea AS bytes FROM detect_state.speeds;
SELECT label, shown(regress.attempt(statement))
FROM (VALUES
    ('literal',          $$ SELECT 'PostgreSQL 15: \x00'::detect.aggregate_state $$),
    ('what was printed', $$ SELECT said::detect.aggregate_state FROM copied $$),
    ('input function',   $$ SELECT detect._aggregate_state_in('PostgreSQL 15: \x00') $$),
    ('bytea',            $$ SELECT bytes::detect.aggregate_state FROM copied $$),
    ('to bytea',         $$ SELECT s1::bytea FROM detect_state.speeds $$),
    ('update',           $$ UPDATE detect_state.speeds SET s1 = 'PostgreSQL 15: \x00' $$),
    ('update by bytea',  $$ UPDATE detect_state.speeds SET s1 = '\x00'::bytea $$),
    ('row',              $$ SELECT ROW('\x00'::bytea, 1)::pair $$),
    ('row as text',      $$ SELECT '("x: \\x00",1)'::pair $$),
    ('array',            $$ SELECT ARRAY['\x00'::bytea]::detect.aggregate_state[] $$),
    ('array as text',    $$ SELECT '{x: \\x00}'::detect.aggregate_state[] $$),
    ('domain',           $$ SELECT 'x: \x00'::state_domain $$),
    ('jsonb',            $$ SELECT * FROM jsonb_populate_record(NULL::pair, '{"state": "x: \\x00"}') $$),
    ('record',           $$ SELECT * FROM json_to_record('{"state": "x: \\x00"}') AS r (state detect.aggregate_state) $$),
    ('set of records',   $$ CREATE FUNCTION records() RETURNS SETOF record LANGUAGE sql AS 'SELECT ''\x00''::bytea'; SELECT * FROM records() AS r (state detect.aggregate_state) $$),
    ('PL/pgSQL',         $$ DO 'DECLARE state detect.aggregate_state := ''\x00''::bytea; BEGIN END' $$),
    ('SQL function',     $$ CREATE FUNCTION f(bytea, anyelement) RETURNS anyelement LANGUAGE sql AS 'SELECT $1'; SELECT f('\x00', NULL::detect.aggregate_state) $$),
    ('our aggregate',    $$ SELECT detect.last(s1, now()) FROM detect_state.speeds $$),
    ('and its result',   $$ SELECT detect._timed_value(ROW(now(), 'x: \x00')::detect._timed, NULL::detect.aggregate_state, now()) $$),
    ('generated',        $$ CREATE TABLE g (said text, state detect.aggregate_state GENERATED ALWAYS AS (said::detect.aggregate_state) STORED) $$),
    ('column type',      $$ ALTER TABLE copied ALTER said TYPE detect.aggregate_state USING said::detect.aggregate_state $$),
    ('cast',             $$ CREATE CAST (bytea AS detect.aggregate_state) WITHOUT FUNCTION $$),
    ('cast by text',     $$ CREATE CAST (bytea AS detect.aggregate_state) WITH INOUT $$),
    ('own type',         $$ CREATE TYPE mine AS (b bytea); CREATE CAST (mine AS detect.aggregate_state) WITH INOUT; SELECT ROW('\x00')::mine::detect.aggregate_state $$),
    ('C function',       $$ CREATE FUNCTION f(bytea) RETURNS detect.aggregate_state LANGUAGE internal AS 'byteaout' $$),
    ('own aggregate',    $$ CREATE AGGREGATE mine(bytea) (SFUNC = hll_add_trans0, STYPE = internal) $$)) a (label, statement);

-- nor from the state of one aggregate to another's, be their functions the same
SELECT label, shown(regress.attempt(statement))
FROM (VALUES
    ('bytes',            $$ SELECT detect._finalize(NULL::hll, 'plates(hll_hashval)'::regprocedure, '\x00'::bytea) $$),
    ('merged bytes',     $$ SELECT detect._combine('plates(hll_hashval)'::regprocedure, '\x00'::bytea, '\x00'::bytea) $$),
    ('domain',           $$ SELECT detect._finalize(NULL::hll, 'plates(hll_hashval)'::regprocedure, s1::state_domain) FROM detect_state.sketches $$),
    ('no serial state',  $$ SELECT detect._finalize(NULL::bigint, 'sum(int)'::regprocedure, s1) FROM detect_state.sketches $$),
    ('of PostgreSQL',    $$ SELECT detect._finalize(NULL::numeric, 'sum(bigint)'::regprocedure, s1) FROM detect_state.sketches $$),
    ('its own',          $$ SELECT DISTINCT detect._finalize(NULL::hll, 'plates(hll_hashval)'::regprocedure, s1) IS NULL FROM detect_state.sketches $$),
    ('hll itself',       $$ SELECT detect._finalize(NULL::hll, 'hll_add_agg(hll_hashval)'::regprocedure, s1) FROM detect_state.sketches $$),
    ('several for one',  $$ SELECT detect._finalize(NULL::float8, 'tdigest_percentile(double precision, integer, double precision)'::regprocedure, s2) FROM detect_state.speeds $$),
    ('merged',           $$ SELECT detect._combine('tdigest_percentile(double precision, integer, double precision)'::regprocedure, s1, s2) FROM detect_state.speeds $$),
    ('in a group',       $$ SELECT detect._merge('tdigest_percentile(double precision, integer, double precision)'::regprocedure, s)
                            FROM (SELECT s1 AS s FROM detect_state.speeds UNION ALL SELECT s2 FROM detect_state.speeds) u $$),
    ('with NULL',        $$ SELECT detect._combine('tdigest(double precision, integer)'::regprocedure, NULL, s2) FROM detect_state.speeds $$),
    ('another type',     $$ SELECT detect._finalize(NULL::text, 'anything(anyelement)'::regprocedure, s1) FROM detect_state.raws $$),
    ('the other type',   $$ SELECT detect._finalize(NULL::bigint, 'anything(anyelement)'::regprocedure, s1) FROM detect_state.raws $$),
    ('its own type',     $$ SELECT DISTINCT detect._finalize(NULL::bytea, 'anything(anyelement)'::regprocedure, s1) IS NULL FROM detect_state.raws $$),
    ('as a state',       $$ SELECT detect._finalize(NULL::detect.aggregate_state, 'anything(anyelement)'::regprocedure, s1) FROM detect_state.raws $$),
    ('two types',        $$ SELECT detect._combine('anything(anyelement)'::regprocedure, s1, s2) FROM detect_state.raws $$),
    ('two types merged', $$ SELECT detect._merge('anything(anyelement)'::regprocedure, s) FROM (SELECT s1 AS s FROM detect_state.raws UNION ALL SELECT s2 FROM detect_state.raws) u $$),
    ('two, in turn',     $$ SELECT detect._merge(a, s) FROM (SELECT 1 AS g, 'anything(anyelement)'::regprocedure AS a, s1 AS s FROM detect_state.raws
                            UNION ALL (SELECT 2, 'plates(hll_hashval)'::regprocedure, s1 FROM detect_state.sketches LIMIT 1)
                            UNION ALL SELECT 1, 'anything(anyelement)'::regprocedure, s2 FROM detect_state.raws) u GROUP BY g $$),
    ('swapped columns',  $$ UPDATE detect_state.speeds SET s1 = s2; SELECT * FROM speeds $$),
    ('of other rollups', $$ UPDATE detect_state.speeds s SET s1 = k.s2 FROM detect_state.sketches k; SELECT * FROM speeds $$)) a (label, statement);
SELECT detect._combine('plates(hll_hashval)'::regprocedure, NULL::detect.aggregate_state, NULL) IS NULL;
-- numbers that no sum can be: of so many digits, with this weight, sign and scale, and such a digit
SELECT label, regress.attempt(format($$ SELECT detect._finalize(NULL::numeric, 'pg_catalog.%s'::regprocedure, decode('%s%s%s', 'hex')) $$,
                                     aggregate, repeat('00', 7) || '01', number, repeat('00', 36)))
FROM (VALUES ('one',                  'sum(numeric)', '000000010000000000000000000000000001'),
             ('no digit',             'sum(bigint)',  '00000000000000000000000000000000'),
             ('digits',               'sum(bigint)',  'ffffffff000000000000000000000000'),
             ('more than are there',  'sum(numeric)', '000001000000000000000000000000000001'),
             ('weight',               'sum(numeric)', '000000018000000000000000000000000001'),
             ('great weight',         'sum(numeric)', '000000017fffffff00000000000000000001'),
             ('sign',                 'sum(numeric)', '000000010000000000000001000000000001'),
             ('scale',                'sum(numeric)', '000000010000000000000000ffffffff0001'),
             ('digit',                'sum(numeric)', '000000010000000000000000000000002710'),
             ('no second sum',        'var_samp(numeric)', '0000000100000000000000000000000000017fffffff')) v (label, aggregate, number);
SELECT detect._finalize(NULL::hll, 'plates(hll_hashval)'::regprocedure, NULL::detect.aggregate_state) IS NULL;
SELECT detect._merge('plates(hll_hashval)'::regprocedure, NULL::detect.aggregate_state) IS NULL;

-- a superuser puts in what was printed, as a restore does, and is believed
RESET SESSION AUTHORIZATION;
SET search_path = rollup_state, public;
CREATE TABLE restored AS SELECT zone, s1::text::detect.aggregate_state AS s1, s2::text::detect.aggregate_state AS s2 FROM detect_state.speeds;
SELECT count(*), bool_and(r.s1::text = s.s1::text AND r.s2::text = s.s2::text) FROM restored r JOIN detect_state.speeds s USING (zone);
SELECT bool_and(detect._finalize(NULL::float8, 'tdigest_percentile(double precision, integer, double precision)'::regprocedure, s1) > 0) FROM restored;
SELECT label, regress.attempt(format('SELECT %L::detect.aggregate_state', value))
FROM (VALUES ('empty', ''), ('no bytes', 'PostgreSQL'), ('no maker', ': \x00'), ('no prefix', 'x: 00'), ('odd', 'x: \x000'), ('no digits', 'x: \xzz'),
             ('colons', 'a: b: \x00'), ('nothing', 'x: \x')) a (label, value);
SELECT 'binary', regress.attempt($$ COPY restored TO '/dev/null' (FORMAT binary) $$);
SELECT 'unknown maker', shown(regress.attempt($$ SELECT detect._finalize(NULL::hll, 'plates(hll_hashval)'::regprocedure, 'x: \x00'::detect.aggregate_state) $$));

-- states of another major version are not read, and are made again when asked for
UPDATE detect_state.sketches SET s2 = regexp_replace(s2::text, 'PostgreSQL \d+', 'PostgreSQL 9')::detect.aggregate_state WHERE zone = 1;
SET SESSION AUTHORIZATION regress_state;
SELECT shown(regress.attempt('SELECT * FROM sketches'));
SELECT count(*) > 0 FROM (SELECT day, zone, plates, ids FROM sketches) s;
SELECT regress.attempt($$ SELECT detect.rebuild_rollup('sketches', '2024-03-02') $$);
SELECT detect.rebuild_rollup('sketches');
SELECT detect.wait_for_rollup('sketches');
SELECT name, regress.compare(name, query) FROM kept WHERE name = 'sketches';

-- an aggregate is replaced, with a function that may read something else: its states are neither read nor merged
RESET SESSION AUTHORIZATION;
SELECT regress.attempt('DROP AGGREGATE plates(hll_hashval)');
CREATE FUNCTION other_deserialize(bytea, internal) RETURNS internal IMMUTABLE STRICT LANGUAGE c AS '$libdir/hll', 'hll_deserialize';
CREATE OR REPLACE AGGREGATE plates(hll_hashval) (SFUNC = hll_add_trans0, STYPE = internal, FINALFUNC = hll_pack, COMBINEFUNC = hll_union_internal,
    SERIALFUNC = hll_serialize, DESERIALFUNC = other_deserialize);
SET SESSION AUTHORIZATION regress_state;
SELECT shown(regress.attempt('SELECT * FROM sketches'));
SELECT stage(201, 210);
SELECT stage(150, 160);
SELECT stage(0, 0);
SELECT detect.wait_for('passage');
SELECT rollup, state, shown(error), remedy, events_missed FROM detect.stat_rollup WHERE stream = 'passage' ORDER BY rollup;
-- whoever does as he is told runs nothing of the owner's as himself
CREATE TABLE truncated_by (name text);
CREATE FUNCTION note_truncation() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO truncated_by VALUES (current_user); RETURN NULL; END $$;
CREATE TRIGGER spy BEFORE TRUNCATE ON detect_state.sketches EXECUTE FUNCTION note_truncation();
RESET SESSION AUTHORIZATION;
SELECT detect.rebuild_rollup('sketches');
SELECT * FROM truncated_by;
SET SESSION AUTHORIZATION regress_state;
DROP TRIGGER spy ON detect_state.sketches;
SELECT detect.wait_for_rollup('sketches');
SELECT stage(211, 230);
SELECT detect.wait_for('passage');
SELECT rollup, state, error, events_missed FROM detect.stat_rollup WHERE stream = 'passage' ORDER BY rollup;
SELECT name, regress.compare(name, query) FROM kept ORDER BY name;
SELECT * FROM detect.verify_rollup('sketches');

RESET SESSION AUTHORIZATION;
DROP SCHEMA rollup_state CASCADE;
SELECT count(*) FROM detect._rollup;
DROP ROLE regress_state;
DROP EXTENSION hll;
DROP EXTENSION tdigest;
