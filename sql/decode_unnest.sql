--
-- decode_unnest: one message, many elements; and members that no column takes
--
-- Each row is a label and what became of the payload: the elements, or the
-- SQLSTATE and the reason when the message is bad as a whole.
--
SET client_min_messages = warning;
SET timezone = 'Europe/Berlin';
SET intervalstyle = postgres;

CREATE FUNCTION pg_temp.outcome(payload text, columns text, fields jsonb, "unnest" text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    detail text;
BEGIN
    RETURN detect.decode(convert_to(payload, 'UTF8'), columns, fields, "unnest");
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
    RETURN concat_ws(' ', SQLSTATE, SQLERRM, '| ' || nullif(detail, ''));
END $$;

-- a usual message
SELECT jsonb_pretty(detect.decode(
    '{"camera":4711,"taken":"2026-11-22T10:11:12Z","boxes":[{"class":"bicycle","score":0.8731,"corner":[10,20]},
                                                           {"class":"car","score":"high","corner":[30,40]},
                                                           {"class":"bus","score":0.5,"corner":[50]}]}',
    'camera int, taken timestamptz, class text, score real, x int, y int',
    '{"camera":"$.camera","taken":"$.taken","x":"@.corner[0]","y":"@.corner[1]"}', "unnest" => '$.boxes'));

-- arrays
SELECT label, pg_temp.outcome(payload, 'a int, b text', NULL, '$.p') AS outcome
FROM (VALUES
    ('objects',                  '{"p":[{"a":1,"b":"x"},{"b":"y","a":2}]}'),
    ('one',                      '{"p":[{"a":1}]}'),
    ('empty',                    '{"p":[]}'),
    ('empty with space',         '{"p":[ ]}'),
    ('missing',                  '{"a":1}'),
    ('null',                     '{"p":null}'),
    ('white space',              E'{"p" : [\n{ "a" : 1 } ,\t{ "a" : 2 } ] } '),
    ('empty item',               '{"p":[{}]}'),
    ('columns are of the item',  '{"a":1,"b":"x","p":[{"a":2}]}'),
    ('object',                   '{"p":{"a":1}}'),
    ('string',                   '{"p":"[]"}'),
    ('number',                   '{"p":1}'),
    ('true',                     '{"p":true}'),
    ('nothing is left over',     '{"p":[{"a":1,"b":"x"},{"a":2},{"b":"y"},{}]}'),
    ('members twice',            '{"p":[{"a":1,"a":2},{"a":3,"a":null}]}'),
    ('bad value',                '{"p":[{"a":1},{"a":"x"},{"a":3}]}'),
    ('bad values',               '{"p":[{"a":"x"},{"a":{}},{"a":99999999999}]}'),
    ('items that are no object', '{"p":[{"a":1},null,2,"x",true,[],[1],{"a":3}]}'),
    ('array of arrays',          '{"p":[[{"a":1}]]}'),
    ('such an array in an item', '{"p":[{"a":1,"p":[{"a":2}]}]}'),
    ('such an array elsewhere',  '{"q":{"p":[{"a":2}]},"p":[{"a":1}]}'),
    ('invalid item',             '{"p":[{"a":1},{"a":01}]}'),
    ('invalid in an unknown',    '{"p":[{"a":1,"q":tru}]}'),
    ('invalid behind it',        '{"p":[{"a":1}],"q":nul}'),
    ('cut off',                  '{"p":[{"a":1},{"a":2}'),
    ('comma too much',           '{"p":[{"a":1},]}'),
    ('no payload',               NULL),
    ('empty payload',            ''),
    ('payload is an array',      '[{"a":1}]'),
    ('payload is null',          'null'),
    ('twice: the last counts',   '{"p":[{"a":1},{"a":2}],"p":[{"a":3}]}'),
    ('twice: then empty',        '{"p":[{"a":1}],"p":[]}'),
    ('twice: then null',         '{"p":[{"a":1}],"p":null}'),
    ('twice: then an object',    '{"p":[{"a":1}],"p":{}}'),
    ('twice: an object first',   '{"p":{},"p":[{"a":1}]}'),
    ('twice, once escaped',      '{"p":[{"a":1}],"\u0070":[{"a":2}]}'),
    ('escaped names',            '{"\u0070":[{"\u0061":1,"\u0062":"\u00e9"}]}')
) AS t (label, payload);

-- paths
SELECT label, pg_temp.outcome(payload, 'a int, b jsonb', fields::jsonb, path) AS outcome
FROM (VALUES
    ('the item itself',          '{"p":[1,"2",null,"x",{"c":1}]}', '{"a":"@","b":"@"}',           '$.p'),
    ('the item and a member',    '{"p":[1,{"a":2},[3]]}',     '{"a":"@.a","b":"@"}',              '$.p'),
    ('item of an item',          '{"p":[[1,2],[3],{},4]}',    '{"a":"@[0]","b":"@[1]"}',          '$.p'),
    ('item or member of it',     '{"p":[[1,2],{"c":3},4]}',   '{"a":"@[0]","b":"@.c"}',           '$.p'),
    ('deep in an item',          '{"p":[{"q":{"r":[5,6]}}]}', '{"a":"@.q.r[1]","b":"@.q"}',       '$.p'),
    ('odd names',                '{"odd p":[{"odd \"a":1}]}', '{"a":"@.\"odd \\\"a\""}',          '$."odd p"'),
    ('message and item',         '{"a":1,"p":[{"b":2},{}]}',  '{"a":"$.a"}',                      '$.p'),
    ('message behind the array', '{"p":[{"b":2},{}],"a":1}',  '{"a":"$.a"}',                      '$.p'),
    ('message alone',            '{"a":1,"b":2,"p":[7,{}]}',  '{"a":"$.a","b":"$.b"}',            '$.p'),
    ('same member of both',      '{"a":1,"p":[{"a":2}]}',     '{"a":"$.a","b":"@.a"}',            '$.p'),
    ('the array itself',         '{"p":[{"a":1},{"a":2}]}',   '{"b":"$.p"}',                      '$.p'),
    ('an item of the array',     '{"p":[{"a":1},{"a":2}]}',   '{"a":"$.p[1].a","b":"@.a"}',       '$.p'),
    ('through the array',        '{"p":[{"q":[1]},{"q":[2,3]}]}', '{"a":"@"}',                    '$.p[1].q'),
    ('the message itself',       '{"p":[{"a":1}]}',           '{"b":"$"}',                        '$.p'),
    ('the message twice',        '{"p":[{"a":1},{"a":2}]}',   '{"b":"$"}',                        '$.p'),
    ('bad in the message',       '{"a":"x","p":[{"b":2}]}',   '{"a":"$.a"}',                      '$.p'),
    ('bad, without elements',    '{"a":"x","p":[]}',          '{"a":"$.a"}',                      '$.p'),
    ('payload is the array',     '[{"a":1},{"a":2}]',         NULL,                               '$'),
    ('payload is null',          'null',                      NULL,                               '$'),
    ('payload is an object',     '{"a":1}',                   NULL,                               '$'),
    ('payload is a number',      '1',                         NULL,                               '$'),
    ('array in an array',        '[0,[{"a":1}]]',             NULL,                               '$[1]'),
    ('member of a member',       '{"p":{"q":[{"a":1}]}}',     NULL,                               '$.p.q'),
    ('through a number',         '{"p":1}',                   NULL,                               '$.p.q'),
    ('through an array',         '{"p":[{"q":[1]}]}',         NULL,                               '$.p.q'),
    ('item beyond the end',      '{"p":[[1]]}',               NULL,                               '$.p[1]'),
    ('twice: nothing is left',   '{"p":{"q":[{"a":1}]},"p":{"r":1}}', NULL,                       '$.p.q'),
    ('twice: not even here',     '{"p":{"q":[{"a":1}]},"p":3}', NULL,                             '$.p.q')
) AS t (label, payload, fields, path);

-- paths that are refused
SELECT path, pg_temp.outcome('{}', 'a int', NULL, path) AS outcome
FROM unnest(ARRAY['', 'p', '@', '@.p', '$.p[*]', '$.p.', '$.**']) AS path;
SELECT path, pg_temp.outcome('{}', 'a int', jsonb_build_object('a', path), '$.p') AS outcome
FROM unnest(ARRAY['', 'a', '.a', '@a', '@.', '@[*]', '@@', '@.@']) AS path;
SELECT detect.decode('{}', 'a int', "unnest" => '@.p');

-- types that need their input functions, and a required value, cost one element
CREATE DOMAIN pg_temp.share AS real CHECK (VALUE BETWEEN 0 AND 1);
CREATE DOMAIN pg_temp.required AS int NOT NULL;
SELECT label, pg_temp.outcome(payload, columns, fields::jsonb, '$.p') AS outcome
FROM (VALUES
    ('domain',                   'a pg_temp.share',       NULL,             '{"p":[{"a":0.5},{"a":1.5},{},{"a":"x"},{"a":1}]}'),
    ('required',                 'a pg_temp.required',    NULL,             '{"p":[{"a":1},{"a":null},{},{"a":2}]}'),
    ('required of the message',  'a pg_temp.required',    '{"a":"$.a"}',    '{"p":[1,2]}'),
    ('arrays',                   'a int[], b interval',   NULL,             '{"p":[{"a":[1,2],"b":"1 h"},{"a":["x"]},{"a":[[3]]},{"b":"soon"}]}'),
    ('shared by reference',      'a numeric[], b text',   '{"a":"$.a"}',    '{"a":[1.5,2],"p":[{"b":"x"},{"b":5},{}]}')
) AS t (label, columns, fields, payload);

-- one bad element among 1000 costs one
SELECT count(*), count(*) FILTER (WHERE element ? 'sqlstate') AS bad, jsonb_agg(n) FILTER (WHERE element ? 'sqlstate') AS which,
       sum((element -> 'a')::int), bool_and(element ? 'sqlstate' OR (element -> 'a')::int = n) AS in_order
FROM (SELECT jsonb_build_object('p', jsonb_agg(jsonb_build_object('a', CASE n WHEN 700 THEN 'x' ELSE n::text END))) AS message
      FROM generate_series(1, 1000) n) m,
     jsonb_array_elements(detect.decode(convert_to(message::text, 'UTF8'), 'a int', "unnest" => '$.p')) WITH ORDINALITY AS e (element, n);

-- as many as there may be, and one more
SELECT n, CASE WHEN outcome ~ '^5' THEN outcome ELSE jsonb_array_length(outcome::jsonb)::text END AS outcome,
       CASE WHEN outcome !~ '^5' THEN outcome::jsonb -> -1 END AS last
FROM (SELECT n, pg_temp.outcome('{"p":[' || string_agg(i::text, ',') || ']}', 'a int', '{"a":"@"}', '$.p') AS outcome
      FROM (VALUES (99999), (100000), (100001), (300000)) v (n), generate_series(1, n) i GROUP BY n) t
ORDER BY n;
SELECT pg_temp.outcome('{"p":[1' || repeat(',1', 100000) || '}', 'a int', '{"a":"@"}', '$.p') AS outcome;
SELECT pg_temp.outcome('{"p":[1' || repeat(',1', 100000) || '],"p":[7]}', 'a int', '{"a":"@"}', '$.p') AS outcome;

-- 1000 levels, of which the item is the third
SELECT levels, left(pg_temp.outcome('{"p":[{"a":' || repeat('[', levels - 3) || repeat(']', levels - 3) || '},{"a":[]}]}',
                                    'a jsonb', NULL, '$.p'), 60) AS outcome
FROM unnest(ARRAY[1000, 1001]) AS levels;

--
-- an oracle: random documents by PostgreSQL's own functions
--
CREATE FUNCTION pg_temp.some_json(depth int) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    kind int := floor(random() * CASE WHEN depth > 0 THEN 18 ELSE 6 END);
    space text := (ARRAY['', '', '', ' ', E'\n\t '])[1 + floor(random() * 5)];
    part text[] := '{}';
BEGIN
    IF kind < 6 THEN
        RETURN (ARRAY['null', 'true', '17', '"12"', '"x,]}\"\u00e9"', '-1.50'])[kind + 1];
    END IF;
    FOR i IN 1..floor(random() * 6) LOOP
        part := part || (CASE WHEN kind < 14
                              THEN (ARRAY['"a"', '"b"', '"p"', '"p"', '"\u0061"', '"\u0070"', '"q"'])[1 + floor(random() * 7)] || space || ':' || space
                              ELSE '' END || pg_temp.some_json(depth - 1) || space);
    END LOOP;
    RETURN CASE WHEN kind < 14 THEN '{' ELSE '[' END || space || array_to_string(part, ',' || space) ||
           CASE WHEN kind < 14 THEN '}' ELSE ']' END;
END $$;

CREATE FUNCTION pg_temp.expected_element(message jsonb, item jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    r record;
BEGIN
    IF jsonb_typeof(item) <> 'object' THEN
        RETURN '"bad"';
    END IF;
    SELECT nullif(message -> 'b', 'null') AS m, * INTO r FROM jsonb_to_record(item) AS t (a int, b jsonb, p numeric);
    RETURN to_jsonb(r);
EXCEPTION WHEN data_exception THEN
    RETURN '"bad"';
END $$;

CREATE FUNCTION pg_temp.expected(message jsonb, path text[]) RETURNS text LANGUAGE sql AS $$
    SELECT CASE WHEN coalesce(jsonb_typeof(message #> path), 'null') = 'null' THEN '[]'
                WHEN jsonb_typeof(message #> path) <> 'array' THEN '22039'
                ELSE (SELECT coalesce(jsonb_agg(pg_temp.expected_element(message, item) ORDER BY n), '[]')::text
                      FROM jsonb_array_elements(message #> path) WITH ORDINALITY AS e (item, n)) END
$$;

CREATE FUNCTION pg_temp.found(payload text, path text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    RETURN (SELECT coalesce(jsonb_agg(CASE WHEN element ? 'sqlstate' THEN '"bad"' ELSE element END ORDER BY n), '[]')::text
            FROM jsonb_array_elements(detect.decode(convert_to(payload, 'UTF8'), 'm jsonb, a int, b jsonb, p numeric', '{"m": "$.b"}', path))
                 WITH ORDINALITY AS e (element, n));
EXCEPTION WHEN OTHERS THEN
    RETURN SQLSTATE;
END $$;

SELECT setseed(0.5);
CREATE TEMPORARY TABLE document AS
    SELECT n, '{"q":' || pg_temp.some_json(1) || ', "b":' || pg_temp.some_json(4) || ', "p":' ||
              CASE WHEN n % 2 = 0 THEN pg_temp.some_json(3)
                   ELSE format('[{"a":%s,"b":%s}, %s,{"p":%s}]', n, pg_temp.some_json(2), pg_temp.some_json(2), pg_temp.some_json(1)) END ||
              CASE WHEN n % 5 = 0 THEN ', "p":' || pg_temp.some_json(3) ELSE '' END || '}' AS payload
    FROM generate_series(1, 1500) n;
WITH outcome AS MATERIALIZED (
    SELECT payload, path, pg_temp.found(payload, path) AS found, pg_temp.expected(payload::jsonb, steps) AS expected
    FROM document, (VALUES ('$.p', '{p}'::text[]), ('$.b.p', '{b,p}'), ('$.p[1]', '{p,1}')) AS v (path, steps)
)
SELECT count(*) AS outcomes, count(*) FILTER (WHERE found IS DISTINCT FROM expected) AS wrong,
       count(*) FILTER (WHERE found = '22039') > 100 AS many_no_array, count(*) FILTER (WHERE found ~ 'bad.*bad') > 100 AS many_bad,
       count(*) FILTER (WHERE found ~ '"a": [1-9]') > 500 AS many_good
FROM outcome;

--
-- members that no column takes
--
CREATE FUNCTION pg_temp.unknown(payloads text[], columns text, fields text DEFAULT NULL, "unnest" text DEFAULT NULL)
RETURNS text LANGUAGE sql AS $$
    SELECT string_agg(format('%s%s %s', CASE WHEN of_item THEN '@.' ELSE '$.' END, name, count), ', ' ORDER BY of_item, name COLLATE "C")
    FROM detect._unknown_fields((SELECT array_agg(convert_to(payload, 'UTF8') ORDER BY n)
                                 FROM unnest(payloads) WITH ORDINALITY AS p (payload, n)), columns, fields::jsonb, "unnest")
$$;

SELECT label, pg_temp.unknown(payloads, 'a int', fields) AS unknown
FROM (VALUES
    ('none',                     ARRAY['{"a":1}', '{}'],                                        NULL),
    ('one',                      ARRAY['{"a":1,"b":2}', '{"b":3}', '{"a":1}'],                  NULL),
    ('several, in any order',    ARRAY['{"b":1,"a":1,"c":1}', '{"c":1,"b":1,"a":1}', '{"b":1}'], NULL),
    ('the top level alone',      ARRAY['{"a":1,"b":{"c":2}}', '{"b":[{"d":3}]}'],               NULL),
    ('beside a longer path',     ARRAY['{"p":{"a":1,"c":2},"b":3}'],                            '{"a":"$.p.a"}'),
    ('twice in a message',       ARRAY['{"b":1,"b":2}', '{"b":1,"c":2,"b":3}'],                 NULL),
    ('escaped',                  ARRAY['{"\u0062":1}', '{"b":1}', '{"\u00e9\"":1}'],             NULL),
    ('odd names',                ARRAY['{"":1," ":2,"(others)":3}'],                            NULL),
    ('bad messages do not count', ARRAY['{"b":1,"a":"x"}', '{"c":1', '{"d":tru}', NULL, '5', '{"e":1}'], NULL),
    ('nor after good ones',      ARRAY['{"b":1,"c":1}', '{"b":1,"c":1,"a":"x"}', '{"b":1,"c":1', '{"b":1}'], NULL),
    ('all is taken',             ARRAY['{"b":1}'],                                              '{"a":"$"}'),
    ('array at the top',         ARRAY['[1,{"b":2}]'],                                          '{"a":"$[0]"}')
) AS t (label, payloads, fields);

SELECT label, pg_temp.unknown(payloads, 'a int, b text', fields, '$.p') AS unknown
FROM (VALUES
    ('of items',                 ARRAY['{"p":[{"a":1,"c":1},{"c":2,"d":3}]}', '{"p":[{"d":4}]}'], NULL),
    ('of messages',              ARRAY['{"a":0,"p":[{"a":1},{"a":2}],"q":1}', '{"q":1}', '{"q":1,"p":[]}'], NULL),
    ('of both',                  ARRAY['{"c":0,"p":[{"c":1},{"c":2}]}'],                        NULL),
    ('known to one alone',       ARRAY['{"a":0,"b":0,"p":[{"a":1,"b":1}]}'],                    '{"b":"$.b"}'),
    ('same names, other order',  ARRAY['{"x":1,"p":[{"x":1,"a":1},{"a":1,"x":1}],"y":1}', '{"y":1,"x":1,"p":[{"a":1,"x":1}]}'], NULL),
    ('bad elements do not count', ARRAY['{"c":0,"p":[{"c":1,"a":"x"},{"c":2},7]}'],             NULL),
    ('bad messages do not count', ARRAY['{"c":0,"p":[{"c":1}]', '{"c":0,"p":{"c":1}}', '{"c":0,"b":[],"p":[{"c":1}]}'], NULL),
    ('bad in the message',       ARRAY['{"a":"x","c":0,"p":[{"c":1}]}'],                        '{"a":"$.a"}'),
    ('all of the item is taken', ARRAY['{"c":0,"p":[{"c":1}]}'],                                '{"b":"@"}'),
    ('all of both is taken',     ARRAY['{"c":0,"p":[{"c":1}]}'],                                '{"b":"@","a":"$.p[9]"}'),
    ('nothing of the item',      ARRAY['{"c":0,"p":[{"c":1},5]}'],                              '{"b":"$.b","a":"$.a"}')
) AS t (label, payloads, fields);

-- long names are cut off between two characters, and are then one name; that of a column's member is not taken
SELECT of_item, octet_length(name) AS bytes, left(name, 5) || '…' || right(name, 2) AS name, count
FROM detect._unknown_fields(ARRAY(SELECT convert_to(format('{"%s":1,"%s":1,"%s":1}', repeat('x', 62) || 'é' || n, repeat('y', 63), repeat('z', 63) || n), 'UTF8')
                                  FROM generate_series(1, 3) n), repeat('z', 63) || ' int')
ORDER BY name COLLATE "C";

-- a hundred names, and all further ones together; those known before still count
SELECT left(name, 2) AS name, count(*) AS names, sum(count) AS count, min(count), max(count)
FROM detect._unknown_fields(ARRAY(SELECT convert_to('{"a":1,' || string_agg(format('"nn%s":1', i), ',') || '}', 'UTF8')
                                  FROM (VALUES (1, 60), (2, 100), (3, 250), (4, 250), (5, 250)) v (n, names), generate_series(1, names) i
                                  GROUP BY n ORDER BY n), 'a int')
GROUP BY left(name, 2) ORDER BY left(name, 2) COLLATE "C";

-- what a bad message would have brought leaves the names alone
SELECT count(*) AS names, sum(count) AS count, bool_or(name = '(others)') AS others
FROM detect._unknown_fields(ARRAY(SELECT convert_to('{' || string_agg(format('"n%s":1', i), ',') || CASE n WHEN 1 THEN '' ELSE '}' END, 'UTF8')
                                  FROM (VALUES (1, 1, 500), (2, 501, 600)) v (n, low, high), generate_series(low, high) i
                                  GROUP BY n ORDER BY n), 'a int');

-- an oracle: names in random documents
SELECT count(*) AS names, bool_and(u.count = k.count) AS right_counts, sum(u.count) > 500 AS many
FROM detect._unknown_fields(ARRAY(SELECT convert_to(payload, 'UTF8') FROM document ORDER BY n), 'm jsonb', '{"m": "@.a"}', '$.b') u
FULL JOIN (SELECT of_item, name, count(*)
           FROM document,
                LATERAL (SELECT false AS of_item, jsonb_object_keys(payload::jsonb) AS name
                         UNION ALL
                         SELECT true, jsonb_object_keys(item)
                         FROM jsonb_array_elements(CASE jsonb_typeof(payload::jsonb -> 'b') WHEN 'array' THEN payload::jsonb -> 'b' ELSE '[]' END) item
                         WHERE jsonb_typeof(item) = 'object') key
           WHERE jsonb_typeof(payload::jsonb -> 'b') IN ('array', 'null') AND (of_item, name) NOT IN ((false, 'b'), (true, 'a'))
           GROUP BY of_item, name) k USING (of_item, name);
