--
-- decode: from the bytes of a message to typed columns
--
-- Each row is a label and what became of the payload: the columns, or the
-- SQLSTATE and the reason.  A payload is valid if it is valid as jsonb; a
-- column becomes what json_to_record() would make of it.
--
SET client_min_messages = warning;
SET timezone = 'Europe/Berlin';
SET datestyle = 'ISO, DMY';
SET intervalstyle = postgres;

CREATE FUNCTION pg_temp.outcome(payload bytea, columns text, fields jsonb DEFAULT NULL)
RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    detail text;
BEGIN
    RETURN detect.decode(payload, columns, fields);
EXCEPTION WHEN OTHERS OR query_canceled THEN
    GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
    RETURN concat_ws(' ', SQLSTATE, SQLERRM, '| ' || nullif(detail, ''));
END $$;

CREATE FUNCTION pg_temp.outcome(payload text, columns text, fields jsonb DEFAULT NULL)
RETURNS text LANGUAGE sql AS $$
    SELECT pg_temp.outcome(convert_to(payload, 'UTF8'), columns, fields)
$$;

-- a usual message
SELECT jsonb_pretty(detect.decode(
    '{"detection_oid":123456789012,"video_camera_oid":4711,"geographical_location_oid":815,"item_name":"bicycle",
      "confidence":0.8731,"timestamp_detected":"2026-11-22T10:11:12.123456Z","lon":13.404954,"lat":52.520008}',
    'detection_oid bigint, video_camera_oid int, geographical_location_oid int, item_name text,
     confidence real, timestamp_detected timestamptz, lon float8, lat float8'));

-- payloads that are no text
SELECT label, pg_temp.outcome(payload, 'a int') AS outcome
FROM (VALUES
    ('none',                     NULL),
    ('empty',                    ''::bytea),
    ('invalid byte',             '\x7b2261223aff7d'),
    ('overlong',                 '\x7b2262223a22c080227d'),
    ('surrogate as UTF-8',       '\x7b2262223a22eda080227d'),
    ('beyond U+10FFFF',          '\x7b2262223a22f4908080227d'),
    ('cut off character',        '\x7b2262223a22e282'),
    ('zero byte in a string',    '\x7b2262223a227800227d'),
    ('zero byte between',        '\x7b002262223a317d'),
    ('zero byte at the end',     '\x7b7d00'),
    ('zero byte behind UTF-8',   '\x7b2262223a22c3a900227d'),
    ('byte order mark',          '\xefbbbf7b7d')
) AS t (label, payload);

-- payloads that are no JSON
SELECT label, pg_temp.outcome(payload, 'a int') AS outcome
FROM (VALUES
    ('white space only',         '  '),
    ('white space around',       E' \t\r\n{ "a" : 1 } '),
    ('other white space',        E'{\f"a":1}'),
    ('cut off object',           '{"a":1'),
    ('cut off name',             '{"a'),
    ('cut off value',            '{"a":'),
    ('cut off literal',          '{"a":tru'),
    ('cut off escape',           '{"b":"\u00'),
    ('missing name',             '{1:2}'),
    ('missing colon',            '{"a" 1}'),
    ('missing comma',            '{"a":1 "b":2}'),
    ('comma too much',           '{"a":1,}'),
    ('comma too much in array',  '{"b":[1,]}'),
    ('wrong bracket',            '{"b":[1}'),
    ('single quotes',            '{''a'':1}'),
    ('comment',                  '{"a":1} // one'),
    ('second value',             '{"a":1}{"a":2}'),
    ('not a number',             '{"b":NaN}'),
    ('literal in capitals',      '{"b":True}'),
    ('literal too long',         '{"b":nullx}'),
    ('leading zero',             '{"b":01}'),
    ('leading plus',             '{"b":+1}'),
    ('leading point',            '{"b":.5}'),
    ('trailing point',           '{"b":5.}'),
    ('empty exponent',           '{"b":5e}'),
    ('minus alone',              '{"b":-}'),
    ('control character',        E'{"b":"x\ny"}'),
    ('unknown escape',           '{"b":"\x41"}'),
    ('bad hexadecimal digit',    '{"b":"\u00g0"}'),
    ('\u0000',                   '{"b":"\u0000"}'),
    ('\u0000 in a name',         '{"\u0000":1}'),
    ('high surrogate alone',     '{"b":"\ud83d"}'),
    ('high surrogate twice',     '{"b":"\ud83d\ud83d"}'),
    ('high surrogate and text',  '{"b":"\ud83d!"}'),
    ('low surrogate alone',      '{"b":"\ude00"}'),
    ('number beyond numeric',    '{"b":1e131072}'),
    ('fraction beyond numeric',  '{"b":1e-16384}'),
    ('long text is cut',         '{"a":1, ' || repeat('x', 1000)),
    ('line ends the quote',      E'{"a":1, x\ny'),
    ('1000 levels',              repeat('[', 999) || repeat(']', 999)),
    ('1000 levels in an object', '{"b":' || repeat('[', 999) || repeat(']', 999) || '}'),
    ('1001 levels in an object', '{"b":' || repeat('[', 1000) || repeat(']', 1000) || '}'),
    ('100000 levels',            repeat('[', 100000)),
    ('array',                    '[1]'),
    ('string',                   '"a"'),
    ('number',                   '-1.5e3'),
    ('true',                     'true'),
    ('null',                     'null'),
    ('empty object',             '{}')
) AS t (label, payload);

-- members
SELECT label, pg_temp.outcome(payload, 'a int, b text') AS outcome
FROM (VALUES
    ('all',                      '{"a":1,"b":"x"}'),
    ('other order',              '{"b":"x","a":1}'),
    ('missing',                  '{"b":"x"}'),
    ('null',                     '{"a":null,"b":null}'),
    ('unknown',                  '{"c":{"a":5},"a":1,"d":[{"b":2}],"b":"x","e":""}'),
    ('invalid in an unknown',    '{"c":{"a":05},"a":1}'),
    ('other case',               '{"A":1,"B":"x"}'),
    ('escaped name',             '{"\u0061":1,"\u0062":"x"}'),
    ('name goes on',             '{"ab":2,"a\"":3,"a":1,"":4}'),
    ('twice: the last counts',   '{"a":1,"a":2,"b":"x","b":"y"}'),
    ('twice: null counts',       '{"a":1,"a":null}'),
    ('twice: the first is bad',  '{"a":"x","a":2}'),
    ('twice, once escaped',      '{"a":1,"\u0061":2}')
) AS t (label, payload);

-- paths
SELECT label, pg_temp.outcome(payload, 'a int, b jsonb', fields::jsonb) AS outcome
FROM (VALUES
    ('member of a member',       '{"p":{"x":1}}',             '{"a":"$.p.x"}'),
    ('other members',            '{"p":{"y":2,"x":1,"z":3}}', '{"a":"$.p.x","b":"$.p.z"}'),
    ('both ends of a path',      '{"p":{"x":1}}',             '{"a":"$.p.x","b":"$.p"}'),
    ('one path twice',           '{"p":7}',                   '{"a":"$.p","b":"$.p"}'),
    ('item',                     '{"p":[5,6,7]}',             '{"a":"$.p[1]","b":"$.p[2]"}'),
    ('item beyond the end',      '{"p":[5,6,7]}',             '{"a":"$.p[3]"}'),
    ('item of an item',          '{"p":[[1],[2,3]]}',         '{"a":"$.p[1][1]"}'),
    ('member of an item',        '{"p":[{"x":1},{"x":2}]}',   '{"a":"$.p[1].x"}'),
    ('through a number',         '{"p":1}',                   '{"a":"$.p.x"}'),
    ('through null',             '{"p":null}',                '{"a":"$.p.x"}'),
    ('member of an array',       '{"p":[{"x":1}]}',           '{"a":"$.p.x"}'),
    ('item of an object',        '{"p":{"x":1}}',             '{"a":"$.p[0]"}'),
    ('item of a number',         '{"p":1}',                   '{"a":"$.p[0]"}'),
    ('twice: nothing is left',   '{"p":{"x":1},"p":{"y":2}}', '{"a":"$.p.x","b":"$.p.y"}'),
    ('twice: not even here',     '{"p":{"x":1},"p":3}',       '{"a":"$.p.x"}'),
    ('quoted name',              '{"odd name":1}',            '{"a":"$.\"odd name\""}'),
    ('escapes in a quoted name', '{"q\"\u00e9":1}',           '{"a":"$.\"q\\\"\\u00e9\""}'),
    ('a quote does not hide',    '{"q"":1}',                  '{"a":"$.\"q\\\"\""}'),
    ('empty name',               '{"":1}',                    '{"a":"$.\"\""}'),
    ('all of it',                '{"x":[1, 2]}',              '{"b":"$"}'),
    ('array at the top',         '[4, {"x":5}]',              '{"a":"$[0]","b":"$[1].x"}'),
    ('object instead of it',     '{"x":5}',                   '{"a":"$[0]"}'),
    ('scalar instead of it',     '5',                         '{"a":"$[0]"}')
) AS t (label, payload, fields);

-- paths that are refused
SELECT path, pg_temp.outcome('{}', 'a int', jsonb_build_object('a', path)) AS outcome
FROM unnest(ARRAY['', 'a', '.a', '$a', '$.', '$..a', '$.*', '$.**', '$.**.a', '$.a[*]', '$[last]', '$[0 to 1]', '$[0,1]', '$[-1]',
                  '$[ 0 ]', '$[', '$[0', '$[99999999999]', '$.a.size()', '$.a ? (@ > 1)', 'lax $.a', 'strict $.a', '$ .a', '$.a ',
                  '$.a + 1', '$.1a', '$.a-b', '$."a', '$."a\x"', '$."\u0000"', '$.$b', '$b', '@', '@.a']) AS path;
SELECT detect.decode('{}', 'a int', '{"a": "$.a[*]"}');
SELECT detect.decode('{}', 'a int', '{"a": "@.a"}');

-- integers
SELECT label, pg_temp.outcome(payload, 'a bigint, b int, c smallint') AS outcome
FROM (VALUES
    ('zero',                     '{"a":0,"b":-0,"c":0}'),
    ('largest',                  '{"a":9223372036854775807,"b":2147483647,"c":32767}'),
    ('smallest',                 '{"a":-9223372036854775808,"b":-2147483648,"c":-32768}'),
    ('too large for bigint',     '{"a":9223372036854775808}'),
    ('too small for bigint',     '{"a":-9223372036854775809}'),
    ('two to the 64th',          '{"a":18446744073709551616}'),
    ('too large for integer',    '{"b":2147483648}'),
    ('too small for smallint',   '{"c":-32769}'),
    ('fraction',                 '{"b":1.0}'),
    ('exponent',                 '{"b":1e3}'),
    ('strings',                  '{"a":"12","b":" -7 ","c":"007"}'),
    ('empty string',             '{"b":""}'),
    ('other string',             '{"b":"x\ty"}'),
    ('boolean',                  '{"b":true}'),
    ('object',                   '{"b":{"x": 1}}'),
    ('long value',               '{"b":1234567890123456789012345678901234567890123456789}')
) AS t (label, payload);

-- floating point
SELECT label, pg_temp.outcome(payload, 'a float8, b real') AS outcome
FROM (VALUES
    ('common',                   '{"a":52.520008,"b":0.8731}'),
    ('whole',                    '{"a":5,"b":-5}'),
    ('exponents',                '{"a":1.5E+3,"b":25e-1}'),
    ('two to the 53rd, plus 1',  '{"a":9007199254740993,"b":16777217}'),
    ('17 digits',                '{"a":13.404954123456781,"b":13.404954123456781}'),
    ('rounded once, not twice',  '{"b":1.000000059604644775390625000000000000001}'),
    ('too large for double',     '{"a":1e309}'),
    ('too small for double',     '{"a":1e-400}'),
    ('too large for real',       '{"b":3.5e38}'),
    ('too small for real',       '{"b":1e-50}'),
    ('long',                     '{"a":0.' || repeat('3', 200) || '}'),
    ('strings',                  '{"a":"1.5","b":"NaN"}'),
    ('infinite strings',         '{"a":"Infinity","b":"-inf"}'),
    ('other string',             '{"b":"abc"}'),
    ('boolean',                  '{"b":false}')
) AS t (label, payload);

SELECT (row ->> 'a')::float8 AS a, (row ->> 'b')::real AS b
FROM unnest(ARRAY['{"a":1.7976931348623157e308,"b":3.4028235e38}',
                  '{"a":2.2250738585072014e-308,"b":1.17549435e-38}',
                  '{"a":-4.9e-324,"b":-1.4e-45}']) AS payload,
     detect.decode(payload::bytea, 'a float8, b real') AS row;

-- numeric, boolean, uuid
SELECT label, pg_temp.outcome(payload, 'a numeric, b numeric(5,2), c boolean, d uuid') AS outcome
FROM (VALUES
    ('common',                   '{"a":1.50,"b":1.505,"c":true,"d":"00112233-4455-6677-8899-aAbBcCdDeEfF"}'),
    ('large',                    '{"a":1e30,"b":999.99,"c":false}'),
    ('scale is kept',            '{"a":1.000}'),
    ('overflow',                 '{"b":1000}'),
    ('strings',                  '{"a":"NaN","b":" 7 ","c":"yes","d":"{00112233445566778899aabbccddeeff}"}'),
    ('numbers as boolean',       '{"c":1}'),
    ('no boolean',               '{"c":"maybe"}'),
    ('no uuid',                  '{"d":"00112233-4455-6677-8899-aabbccddeefg"}'),
    ('misplaced hyphen',         '{"d":"001122334-455-6677-8899-aabbccddeeff"}'),
    ('number as uuid',           '{"d":1}')
) AS t (label, payload);

-- text
SELECT label, pg_temp.outcome(payload, 'a text, b varchar(3), c char(3), d bytea') AS outcome
FROM (VALUES
    ('common',                   '{"a":"x","b":"x","c":"x","d":"\\x00ff"}'),
    ('empty',                    '{"a":"","b":"","c":"","d":""}'),
    ('escapes',                  '{"a":"\"\\\/\b\f\n\r\t\u0041\u00e9\u20ac\ud83d\uDE00"}'),
    ('number',                   '{"a":1.50,"b":1e2}'),
    ('boolean',                  '{"a":true,"c":"no"}'),
    ('object',                   '{"a":{"x" : [1, "\u0041"]}}'),
    ('array',                    '{"a":[ 1 ,2 ]}'),
    ('too long',                 '{"b":"abcd"}'),
    ('too long by spaces',       '{"b":"abc  ","c":"abc  "}'),
    ('three long characters',    '{"b":"\u20ac\u20ac\u20ac"}'),
    ('four long characters',     '{"b":"\u20ac\u20ac\u20ac\u20ac"}')
) AS t (label, payload);

-- times
SELECT label, pg_temp.outcome(payload, 'a timestamptz, b timestamp, c date') AS outcome
FROM (VALUES
    ('UTC',                      '{"a":"2026-11-22T10:11:12.123456Z","b":"2026-11-22T10:11:12.123456Z","c":"2026-11-22"}'),
    ('space, no fraction',       '{"a":"2026-11-22 10:11:12+02","b":"2026-11-22 10:11:12"}'),
    ('offsets',                  '{"a":"2026-11-22T10:11:12-05:30","b":"2026-11-22T10:11:12-0530"}'),
    ('no time zone',        '{"a":"2026-07-01T12:00:00","b":"2026-07-01T12:00:00"}'),
    ('hour that does not exist', '{"a":"2026-03-29T02:30:00"}'),
    ('hour that exists twice',   '{"a":"2026-10-25T02:30:00"}'),
    ('one digit',                '{"a":"2026-11-22T10:11:12.5Z"}'),
    ('nanoseconds are rounded',  '{"a":"2026-11-22T10:11:12.123456500Z","b":"2026-11-22T10:11:12.123457500"}'),
    ('rounded up to a second',   '{"a":"2026-11-22T10:11:59.9999999Z"}'),
    ('leap day',                 '{"a":"2024-02-29T00:00:00Z","c":"2000-02-29"}'),
    ('no leap day',              '{"c":"2026-02-29"}'),
    ('no leap day in 1900',      '{"a":"1900-02-29T00:00:00Z"}'),
    ('leap second',              '{"a":"2016-12-31T23:59:60Z"}'),
    ('end of the day',           '{"a":"2026-11-22T24:00:00Z"}'),
    ('25 hours',                 '{"a":"2026-11-22T25:00:00Z"}'),
    ('month 13',                 '{"b":"2026-13-22T00:00:00"}'),
    ('year 0',                   '{"c":"0000-01-01"}'),
    ('first year',               '{"a":"0001-01-01T00:00:00Z","c":"0001-01-01"}'),
    ('last year',                '{"a":"9999-12-31T23:59:59.999999Z","c":"9999-12-31"}'),
    ('beyond the range',         '{"a":"300000-01-01T00:00:00Z"}'),
    ('offset beyond the range',  '{"a":"2026-11-22T10:11:12+16:00"}'),
    ('named time zone',          '{"a":"2026-11-22 10:11:12 America/New_York"}'),
    ('unknown time zone',        '{"a":"2026-11-22 10:11:12 Nowhere/City"}'),
    ('date with time',           '{"c":"2026-11-22T23:59:59Z"}'),
    ('date alone as time',       '{"a":"2026-11-22","b":"2026-11-22"}'),
    ('DateStyle',                '{"c":"03.02.2026"}'),
    ('special',                  '{"a":"infinity","b":"epoch","c":"-infinity"}'),
    ('escaped',                  '{"a":"2026-11-22T10:11:12\u005a"}'),
    ('epoch seconds',            '{"a":1795342272}'),
    ('no time',                  '{"a":"soon"}'),
    ('null',                     '{"a":null}')
) AS t (label, payload);
SELECT label, pg_temp.outcome(payload, 'a timestamptz(0), b timestamp(3), c time, d interval') AS outcome
FROM (VALUES
    ('precision',                '{"a":"2026-11-22T10:11:12.5Z","b":"2026-11-22T10:11:12.123456"}'),
    ('others',                   '{"c":"10:11:12","d":"PT90S"}')
) AS t (label, payload);

-- json and jsonb
SELECT label, pg_temp.outcome(payload, 'a json, b jsonb') AS outcome
FROM (VALUES
    ('string',                   '{"a":"x","b":"x"}'),
    ('escapes',                  '{"a":"\u0041\"","b":"\u0041\""}'),
    ('number',                   '{"a":1.50,"b":1e2}'),
    ('object',                   '{"a":{"x":1,"x":2},"b":{"x":1,"x":2}}'),
    ('null',                     '{"a":null,"b":null}')
) AS t (label, payload);

-- arrays
SELECT label, pg_temp.outcome(payload, 'a int[], b text[], c timestamptz[]') AS outcome
FROM (VALUES
    ('common',                   '{"a":[1,2,3],"b":["x","y"],"c":["2026-11-22T10:11:12Z"]}'),
    ('empty',                    '{"a":[],"b":[]}'),
    ('nulls',                    '{"a":[1,null],"b":[null,"null","NULL"]}'),
    ('quoting',                  '{"b":["a,b","{","\"","\\","",1,true,{"x": 1},[2]]}'),
    ('quoting, one level',       '{"b":["a,b","{","\"","\\","",1,true,{"x": 1}]}'),
    ('two levels',               '{"a":[[1,2],[3,4]]}'),
    ('levels differ',            '{"a":[[1,2],3]}'),
    ('lengths differ',           '{"a":[[1,2],[3]]}'),
    ('bad item',                 '{"a":[1,"x"]}'),
    ('array literal',            '{"a":"{1,2}","b":"{}"}'),
    ('bad array literal',        '{"a":"{1,2"}'),
    ('number',                   '{"a":1}'),
    ('object',                   '{"a":{"x":1}}')
) AS t (label, payload);

-- composites, domains, enums
CREATE TYPE pg_temp.point2 AS (x int, y text);
CREATE TYPE pg_temp.colour AS ENUM ('red', 'green');
CREATE DOMAIN pg_temp.share AS real CHECK (VALUE BETWEEN 0 AND 1);
CREATE DOMAIN pg_temp.required AS int NOT NULL;
CREATE DOMAIN pg_temp.few AS int[] CHECK (cardinality(VALUE) < 3);
SELECT label, pg_temp.outcome(payload, columns) AS outcome
FROM (VALUES
    ('composite',                'a pg_temp.point2',   '{"a":{"x":1,"y":"z","w":0}}'),
    ('composite literal',        'a pg_temp.point2',   '{"a":"(1,z)"}'),
    ('bad composite',            'a pg_temp.point2',   '{"a":{"x":"z"}}'),
    ('number as composite',      'a pg_temp.point2',   '{"a":1}'),
    ('array of composites',      'a pg_temp.point2[]', '{"a":[{"x":1},{"y":"z"},null]}'),
    ('enum',                     'a pg_temp.colour',   '{"a":"red"}'),
    ('bad enum',                 'a pg_temp.colour',   '{"a":"blue"}'),
    ('domain',                   'a pg_temp.share',    '{"a":0.5}'),
    ('domain, null',             'a pg_temp.share',    '{}'),
    ('bad domain',               'a pg_temp.share',    '{"a":1.5}'),
    ('required',                 'a pg_temp.required', '{"a":1}'),
    ('required, missing',        'a pg_temp.required', '{}'),
    ('required, null',           'a pg_temp.required', '{"a":null}'),
    ('domain over array',        'a pg_temp.few',      '{"a":[1,2]}'),
    ('bad domain over array',    'a pg_temp.few',      '{"a":[1,2,3]}')
) AS t (label, columns, payload);

-- an error names the first column that fails
SELECT pg_temp.outcome('{"b":"y","a":"x"}', 'a int, b int') AS outcome;
SELECT pg_temp.outcome('{"odd name":"x"}', '"odd name" int') AS outcome;

-- errors that are not the payload's are no outcome of it
CREATE FUNCTION pg_temp.fail(code text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION USING errcode = code, message = 'failure';
END $$;
CREATE DOMAIN pg_temp.failing AS text CHECK (pg_temp.fail(VALUE));
SELECT code, pg_temp.outcome(jsonb_build_object('a', code)::text, 'a pg_temp.failing') AS outcome
FROM unnest(ARRAY['22000', '23514', 'P0001', '54000', '57014', '53200', '40P01', '42501', 'XX000']) AS code;

-- columns and fields
SELECT columns, pg_temp.outcome('{"a":1}', columns) AS outcome
FROM unnest(ARRAY['', 'a', 'a int,', 'a no_such_type', 'a int, a int', 'a int PRIMARY KEY', 'a int, UNIQUE (a)', 'a int DEFAULT 1',
                  'a SETOF int', 'a anyelement', 'a serial', 'a int); DROP TABLE x; --', 'a int) INHERITS (x', NULL]) AS columns;
-- as many as a row can have, and more
SELECT n, left(pg_temp.outcome('{}', (SELECT string_agg('c' || i || ' int', ', ') FROM generate_series(1, n) i)), 60) AS outcome
FROM unnest(ARRAY[1664, 1665, 33000]) AS n;
SELECT fields, pg_temp.outcome('{"a":1}', 'a int', fields::jsonb) AS outcome
FROM unnest(ARRAY['[]', '1', '{}', '{"b": "$"}', '{"a": 1}', '{"a": ["$"]}']) AS fields;
