--
-- decode_oracle: what detect.decode accepts is what PostgreSQL accepts, value
-- for value
--
-- Each round makes columns of random types and a payload for them, mostly right,
-- often at the edge of a type, and every third time with some bytes changed.  The
-- oracle knows nothing of our decoder: a payload is valid if it is valid UTF-8
-- and valid jsonb, and the columns are what json_to_record() makes of it.
-- ROUNDS=100000 in the environment plays so many, SEED=7 others.
--
SET client_min_messages = warning;
-- as in a worker
SET timezone = 'UTC';
SET datestyle = 'ISO, YMD';
\getenv rounds ROUNDS
\if :{?rounds}
\else
\set rounds 4000
\endif
\getenv seed SEED
\if :{?seed}
\else
\set seed 1
\endif

CREATE SCHEMA oracle;
SET search_path = oracle, public;
CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE DOMAIN named AS text NOT NULL;
CREATE TYPE pair AS (a int, b text);

-- Types with literals of JSON that they, or their neighbours, take.
CREATE TABLE types (type text, literals text[]);
INSERT INTO types VALUES
    ('bool',        '{true,false,"\"true\"","\"t\"","\"no\"","\"maybe\"",1,"\"1\""}'),
    ('int2',        '{0,-0,1,32767,-32768,32768,1.0,1.5,2.5,-2.5,1e2,"\" 7 \"","\"0x1\""}'),
    ('int4',        '{2147483647,-2147483648,2147483648,1e3,"\"12\"","\"+12\"","\"1_000\"",1.4999999999999999}'),
    ('int8',        '{9223372036854775807,-9223372036854775808,9223372036854775808,123456789012,"\"-9\"",1e18}'),
    ('float4',      '{0.1,-0.0,1e38,3.4028235e38,3.4028236e38,1e-45,1e-46,16777217,"\"NaN\"","\"-Infinity\"","\"1e5\""}'),
    ('float8',      '{0.1,1e308,1.7976931348623157e308,1e309,4.9e-324,1e-324,9007199254740993,0.30000000000000004,"\"inf\"",123456789.123456789}'),
    ('numeric',     '{1,0.10,1e5,1e-5,12345678901234567890.123456789,"\"NaN\"","\"1.50\"",-0}'),
    ('numeric(6,2)','{1234.565,9999.994,9999.995,12345,"\"1e3\"",0.005}'),
    ('text',        '{"\"x\"","\"\"","\"a\\\\u00e9\\\\n\"","\"\\\\ud83d\\\\ude00\"",1.50,true,"[1, 2]","{\"a\": 1}","\"é€😀\"","\"\\\\u0000\"","\"\\\\/\""}'),
    ('varchar(5)',  '{"\"abcde\"","\"abcdef\"","\"abc   \"","\"abcde  \"","\"éééé\"","\"\\\\u00e9\\\\u00e9\\\\u00e9\\\\u00e9\\\\u00e9\\\\u00e9\"",12345,123456}'),
    ('char(3)',     '{"\"ab\"","\"abc\"","\"abcd\"","\"abc \"","\"é\"",12}'),
    ('json',        '{1,"\"x\"","{\"b\": 1, \"a\": [true, null]}","[]","{\"a\":1,\"a\":2}","1.0","\"\\\\u00e9\""}'),
    ('jsonb',       '{1,"\"x\"","{\"b\": 1, \"a\": [true, null]}","[]","{\"a\":1,\"a\":2}","1.0","\"\\\\u00e9\"",1e-3}'),
    ('date',        '{"\"2026-11-22\"","\"2026-02-29\"","\"2024-02-29\"","\"22.11.2026\"","\"infinity\"","\"0001-01-01\"","\"2026-11-22T10:11:12\"","\"2026-1-2\"",20261122}'),
    ('timestamp',   '{"\"2026-11-22 10:11:12\"","\"2026-11-22T10:11:12.5\"","\"2026-11-22T24:00:00\"","\"2026-11-22T10:11:60\"","\"2026-11-22T10:11:12Z\"","\"2026-11-22T10:11:12.1234567\"","\"2026-11-22\""}'),
    ('timestamptz', '{"\"2026-11-22 10:11:12\"","\"2026-11-22T10:11:12.123456Z\"","\"2026-03-29T02:30:00\"","\"2026-10-25T02:30:00\"","\"2026-11-22T10:11:12+02\"","\"2026-11-22T10:11:12-0330\"","\"2026-11-22T10:11:12+15:59\"","\"2026-11-22T10:11:12+16:00\"","\"2026-11-22T10:11:12 Europe/Paris\"",1763806272}'),
    ('timestamptz(0)', '{"\"2026-11-22T10:11:12.5Z\"","\"2026-11-22T10:11:12.499999Z\""}'),
    ('time',        '{"\"10:11:12\"","\"24:00\"","\"25:00\"","\"10:11:12.1234567\""}'),
    ('interval',    '{"\"1 hour\"","\"P1DT2H\"","\"-1 mon\"",5}'),
    ('uuid',        '{"\"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11\"","\"A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11\"","\"{a0eebc999c0b4ef8bb6d6bb9bd380a11}\"","\"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a1\"","\"g0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11\""}'),
    ('inet',        '{"\"10.0.0.1\"","\"::1/64\"","\"10.0.0\""}'),
    ('bytea',       '{"\"\\\\\\\\x00ff\"","\"abc\"","\"\\\\\\\\x0\""}'),
    ('int[]',       '{"[1, 2, null]","[]","[[1], [2]]","[[1], 2]","\"{1,2}\"","[1.5]",null}'),
    ('text[]',      '{"[\"a\", \"b,c\"]","[1, true]","\"{a,NULL}\"","{\"a\": 1}"}'),
    ('point',       '{"\"(1,2)\"","\"1,2\"","[1, 2]"}'),
    ('oracle.mood', '{"\"ok\"","\"OK\"","\"\"",1}'),
    ('oracle.positive', '{1,0,-1,"\"5\"",null}'),
    ('oracle.named', '{"\"x\"",null,1}'),
    ('oracle.pair', '{"{\"a\": 1, \"b\": \"x\"}","{\"a\": \"x\"}","\"(1,x)\"","{}","[1]"}');

CREATE FUNCTION pick(choices anyarray) RETURNS anyelement LANGUAGE sql VOLATILE
    AS 'SELECT choices[1 + floor(random() * cardinality(choices))::int]';

-- A literal of JSON: mostly of this type, sometimes of any other, or null.
CREATE FUNCTION make_literal(wanted text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    dice float := random();
BEGIN
    IF dice < 0.05 THEN
        RETURN 'null';
    ELSIF dice < 0.1 THEN
        RETURN (round((random() - 0.5)::numeric * 10 ^ floor(random() * 12)::numeric, (random() * 6)::int))::text;
    ELSIF dice < 0.2 THEN
        RETURN (SELECT oracle.pick(literals) FROM oracle.types ORDER BY random() LIMIT 1);
    END IF;
    RETURN (SELECT oracle.pick(literals) FROM oracle.types WHERE type = wanted);
END $$;

-- Some bytes taken out, put in or changed.
CREATE FUNCTION mutate(payload bytea) RETURNS bytea LANGUAGE plpgsql AS $$
DECLARE
    bytes bytea[] := '{"\\x22","\\x5c","\\x00","\\xff","\\x7b","\\x7d","\\x5b","\\x2c","\\x30","\\x2d","\\x65","\\x2e","\\x20","\\x09","\\xc3","\\x75","\\x74"}';
    at int;
BEGIN
    FOR i IN 1 .. 1 + floor(random() * 3) LOOP
        CONTINUE WHEN length(payload) = 0;
        at := 1 + floor(random() * length(payload));
        payload := CASE floor(random() * 4)
            WHEN 0 THEN overlay(payload PLACING '' FROM at FOR 1 + floor(random() * 3)::int)
            WHEN 1 THEN overlay(payload PLACING oracle.pick(bytes) FROM at FOR 0)
            WHEN 2 THEN substring(payload FROM 1 FOR at)
            ELSE overlay(payload PLACING oracle.pick(bytes) FROM at FOR 1) END;
    END LOOP;
    RETURN payload;
END $$;

-- What our decoder says: the columns, or the SQLSTATE.
CREATE FUNCTION ours(payload bytea, columns text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    RETURN detect.decode(payload, columns);
EXCEPTION WHEN data_exception OR integrity_constraint_violation OR feature_not_supported OR program_limit_exceeded THEN
    RETURN 'refused';
END $$;

-- What PostgreSQL says.
CREATE FUNCTION theirs(payload bytea, columns text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    message text;
    decoded jsonb;
BEGIN
    message := convert_from(payload, 'UTF8');
    IF jsonb_typeof(message::jsonb) <> 'object' THEN
        RETURN 'refused';
    END IF;
    EXECUTE format('SELECT to_jsonb(r) FROM json_to_record($1) AS r (%s)', columns) USING message::json INTO decoded;
    -- what differs is meant: a long number is no day of a far year
    IF EXISTS (SELECT FROM regexp_matches(columns, '(c\d+) (?:date|timestamp)', 'g') m
               WHERE json_typeof(message::json -> m[1]) = 'number' AND length(message::json ->> m[1]) > 8) THEN
        RETURN 'refused';
    END IF;
    RETURN decoded;
EXCEPTION WHEN data_exception OR integrity_constraint_violation OR feature_not_supported OR program_limit_exceeded THEN
    RETURN 'refused';
END $$;

CREATE TABLE round (round int, types text[], columns text, payload bytea, ours text, theirs text);

CREATE PROCEDURE play(rounds int, seed int) LANGUAGE plpgsql AS $$
DECLARE
    types text[];
    columns text;
    members text;
    made bytea;
BEGIN
    PERFORM setseed(1.0 / (seed + 1));
    FOR i IN 1 .. rounds LOOP
        SELECT array_agg(type), string_agg(format('c%s %s', n, type), ', ' ORDER BY n),
               string_agg(format('%s"c%s"%s:%s%s', oracle.pick('{"",""," ","\n"}'::text[]), n,
                                 oracle.pick('{"",""," "}'::text[]), oracle.pick('{""," "}'::text[]),
                                 oracle.make_literal(type)), ',' ORDER BY random())
        FROM (SELECT type, row_number() OVER () AS n
              FROM (SELECT type FROM oracle.types ORDER BY random() LIMIT 1 + floor(random() * 3)) t) chosen
        INTO types, columns, members;
        IF random() < 0.1 THEN
            members := members || ',' || oracle.pick(ARRAY['"c1":1', '"other": [1, {"x": "y"}]', '"\u0063\u0031": 2', '"C1": 3']);
        END IF;
        made := convert_to('{' || members || '}', 'UTF8');
        IF random() < 0.35 THEN
            made := oracle.mutate(made);
        END IF;
        INSERT INTO oracle.round VALUES (i, types, columns, made, oracle.ours(made, columns), oracle.theirs(made, columns));
    END LOOP;
END $$;

CALL play(:rounds, :seed);

-- rounds in which the two differ
SELECT round, columns, encode(payload, 'escape') AS payload, ours, theirs
FROM round WHERE ours IS DISTINCT FROM theirs ORDER BY round LIMIT 10;

-- and enough of both kinds, of each type
SELECT count(*) >= :rounds / 10 AS accepted FROM round WHERE theirs <> 'refused';
SELECT count(*) >= :rounds / 10 AS refused FROM round WHERE theirs = 'refused';
SELECT type AS never_accepted FROM types
WHERE NOT EXISTS (SELECT FROM round r WHERE theirs <> 'refused' AND type = ANY (r.types));

DROP SCHEMA oracle CASCADE;
