--
-- functions: each function of the extension, called by hand with whatever its types allow
--
-- By a stranger and by a superuser: refused or answered, never an internal error,
-- never a crash.  Only names and counts are printed, for messages are tested elsewhere.
--
CREATE ROLE regress_stranger LOGIN;
CREATE SCHEMA functions;
GRANT USAGE ON SCHEMA functions TO PUBLIC;

-- odd values of each type, as SQL; NULL of each is one more
CREATE TABLE functions.value (type text, value text);
INSERT INTO functions.value VALUES
    ('text', $$''$$), ('text', $$'no_such'$$), ('text', $$repeat('x', 10000)$$), ('text', $$E'\n"; DROP TABLE functions.value; --'$$), ('text', $$'$.a[0]'$$),
    ('integer', '0'), ('integer', '-1'), ('integer', '2147483647'), ('bigint', '0'), ('bigint', '-9223372036854775808'),
    ('boolean', 'true'), ('boolean', 'false'), ('oid', '0'), ('oid', '4294967295'), ('oid', '''pg_class''::regclass::oid'),
    ('regclass', '0'), ('regclass', '4294967295'), ('regclass', '''pg_class'''), ('regclass', '''functions.value'''), ('regclass', '''detect.stat_stream'''), ('regclass', '''pg_class_oid_index'''),
    ('regprocedure', '0'), ('regprocedure', '4294967295'), ('regprocedure', '''now()'''), ('regprocedure', '''sum(int)'''), ('regprocedure', '''avg(numeric)'''),
    ('regprocedure', '''array_agg(anynonarray)'''), ('regprocedure', '''rank("any")'''), ('regprocedure', '''detect.last(anyelement,timestamptz)'''),
    ('interval', '''0'''), ('interval', '''-1 day'''), ('interval', '''178000000 years'''), ('interval', '''1 ms'''),
    ('timestamp with time zone', '''infinity'''), ('timestamp with time zone', '''-infinity'''), ('timestamp with time zone', '''4713-01-01 BC'''),
    ('double precision', '''NaN'''), ('double precision', '''-Infinity'''), ('double precision', '1e308'), ('real', '''NaN'''), ('real', '0'),
    ('bytea', '''\x'''), ('bytea', '''\x00ff'''), ('bytea', 'decode(repeat(''5b'', 20000), ''hex'')'), ('bytea', '''{"a": 1}'''),
    ('jsonb', '''null'''), ('jsonb', '''[]'''), ('jsonb', '''{}'''), ('jsonb', '''{"a": [1, {"b": null}]}'''), ('jsonb', '''"x"'''),
    ('text[]', '''{}'''), ('text[]', '''{NULL}'''), ('text[]', '''[5:6]={a,b}'''), ('text[]', '''{{a,b},{c,d}}'''),
    ('bytea[]', '''{}'''), ('bytea[]', '''{NULL}'''), ('bytea[]', '''{"\\x7b7d"}'''),
    ('anyelement', '1'), ('anyelement', '''x''::text'), ('anyelement', '''\x00''::bytea'), ('anyelement', 'ROW(1)'), ('anyelement', 'ARRAY[1]'), ('anyelement', 'NULL::int'),
    ('anyarray', 'ARRAY[1]'), ('anyarray', 'ARRAY[''x''::text]'), ('anyarray', 'NULL::int[]'),
    ('"any"', '1'), ('"any"', '''x''::text'), ('"any"', '''POINT(0 0)''::geometry'), ('"any"', '''POINT EMPTY''::geography'), ('"any"', 'NULL::geometry'), ('"any"', 'ROW()'),
    ('cstring', '''x'''), ('cstring', '''x: \x00'''), ('detect.aggregate_state', '''x: \x00''::detect.aggregate_state'), ('anyelement', '''x: \x00''::detect.aggregate_state'),
    ('detect._timed', 'NULL'), ('detect._timed', 'ROW(now(), ''x'')'), ('detect._timed', 'ROW(NULL, NULL)'), ('detect._timed', 'ROW(''infinity'', NULL)'),
    ('internal', 'NULL');
INSERT INTO functions.value SELECT DISTINCT type, 'NULL::' || type FROM functions.value WHERE type !~ 'any|internal';
GRANT SELECT ON functions.value TO PUBLIC;

-- calls of a function: each value of each argument beside the NULLs of the others, then mixtures
CREATE FUNCTION functions.calls() RETURNS TABLE (name text, call text) LANGUAGE sql STABLE AS $$
    WITH argument AS (
        SELECT p.oid, a.n, format_type(a.type, NULL) AS type, v.value, row_number() OVER (PARTITION BY p.oid, a.n ORDER BY v.value COLLATE "C") AS k
        FROM regress.member m
        JOIN pg_proc p ON p.oid = m.objid AND m.type IN ('function', 'aggregate')
        CROSS JOIN unnest(p.proargtypes::oid[]) WITH ORDINALITY a(type, n)
        JOIN functions.value v ON v.type = format_type(a.type, NULL)),
    arguments AS (
        -- the k-th values of all; and all the others shifted
        SELECT a.oid, turn, shift, string_agg(a.value, ', ' ORDER BY a.n) AS list
        FROM generate_series(1, 7) turn CROSS JOIN generate_series(0, 2) shift
        JOIN argument a ON a.k = 1 + (turn + shift * a.n) % (SELECT max(k) FROM argument b WHERE b.oid = a.oid AND b.n = a.n)
        GROUP BY 1, 2, 3)
    SELECT DISTINCT p.proname::text, format('SELECT count(q) FROM (SELECT detect.%I(%s)) q', p.proname, coalesce(s.list, ''))
    FROM regress.member m JOIN pg_proc p ON p.oid = m.objid AND m.type IN ('function', 'aggregate')
    LEFT JOIN arguments s ON s.oid = p.oid
$$;
-- an argument whose type has no value here: no rows
SELECT p.oid::regprocedure, format_type(a, NULL)
FROM regress.member m JOIN pg_proc p ON p.oid = m.objid AND m.type IN ('function', 'aggregate'), unnest(p.proargtypes::oid[]) a
WHERE format_type(a, NULL) NOT IN (SELECT type FROM functions.value);
CREATE TABLE functions.call AS SELECT * FROM functions.calls();
GRANT SELECT ON functions.call TO PUBLIC;
SELECT count(DISTINCT name) > 50 AS all_functions, count(*) > 800 AS many_calls FROM functions.call;
CREATE TABLE functions.outcome (who name, name text, call text, outcome text);
GRANT INSERT, SELECT ON functions.outcome TO PUBLIC;

SET client_min_messages = error;
INSERT INTO functions.outcome SELECT current_user, name, call, regress.attempt(call) FROM functions.call;
SET SESSION AUTHORIZATION regress_stranger;
INSERT INTO functions.outcome SELECT current_user, name, call, regress.attempt(call) FROM functions.call;
RESET SESSION AUTHORIZATION;
RESET client_min_messages;

-- internal errors: no rows
SELECT who, call, outcome FROM functions.outcome WHERE outcome ~ '^XX' ORDER BY 1, 2;
-- what is granted to nobody was refused to the stranger; a strict function of NULL is not called: no rows
SELECT DISTINCT o.name FROM functions.outcome o
JOIN pg_proc p ON p.proname = o.name AND p.pronamespace = 'detect'::regnamespace
WHERE o.who = 'regress_stranger' AND o.outcome = 'done' AND NOT (p.proisstrict AND o.call ~ 'NULL') AND NOT has_function_privilege('regress_stranger', p.oid, 'EXECUTE')
AND NOT EXISTS (SELECT FROM pg_proc q WHERE q.proname = p.proname AND q.pronamespace = p.pronamespace AND has_function_privilege('regress_stranger', q.oid, 'EXECUTE'));
-- what takes or gives "internal" is for nobody, but through an aggregate: no rows
SELECT p.oid::regprocedure FROM pg_proc p
WHERE p.pronamespace = 'detect'::regnamespace AND ('internal'::regtype = ANY (p.proargtypes::oid[]) OR p.prorettype = 'internal'::regtype)
AND has_function_privilege('regress_stranger', p.oid, 'EXECUTE');
DROP SCHEMA functions CASCADE;
DROP ROLE regress_stranger;
