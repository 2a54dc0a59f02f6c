--
-- stream_create: what detect.create_stream takes, guesses and refuses
--
-- Each refusal is SQLSTATE, message, detail and hint, and leaves nothing behind.
--
CREATE ROLE regress_create IN ROLE detect_admin LOGIN;
CREATE ROLE regress_create_nologin IN ROLE detect_admin;
CREATE ROLE regress_create_other IN ROLE detect_admin LOGIN;
CREATE SCHEMA stream_create AUTHORIZATION regress_create;
GRANT USAGE, CREATE ON SCHEMA stream_create TO regress_create_nologin, regress_create_other;
CREATE FOREIGN DATA WRAPPER regress_wrapper;
CREATE SERVER regress_no_kafka FOREIGN DATA WRAPPER regress_wrapper;
GRANT USAGE ON FOREIGN SERVER regress_no_kafka TO regress_create;

SET SESSION AUTHORIZATION regress_create;
SET search_path = stream_create, public;
SET timezone = 'UTC';

-- What becomes of a call with these arguments; then it is undone.
CREATE FUNCTION stream_create.attempt(arguments text) RETURNS text LANGUAGE sql AS $$
    SELECT regress.attempt('SELECT detect.create_stream(' || arguments || ')')
$$;

CREATE TABLE place (place_id int PRIMARY KEY, name text);
CREATE TABLE event (id bigint PRIMARY KEY, seen_at timestamptz, place_id int, place_name text, v real);

-- ---------------------------------------------------------------------
-- Defaults
-- ---------------------------------------------------------------------

-- everything but the name
CREATE TABLE plain (id bigint PRIMARY KEY, v text, n int GENERATED ALWAYS AS IDENTITY, w text GENERATED ALWAYS AS (v || '!') STORED);
SELECT detect.create_stream('plain');

-- the columns of a wide key, and the time from the partitions
CREATE TABLE timed (a text, seen_at timestamptz, b int, v text DEFAULT 'none', PRIMARY KEY (b, seen_at, a)) PARTITION BY RANGE (seen_at);
SELECT detect.create_stream('timed');

-- names that must be quoted, 63 bytes of them
CREATE TABLE "Ünïcode ""quoted"" 'täble'" ("the ""key""" int PRIMARY KEY, "Time" timestamptz, "a,b" text[]);
SELECT detect.create_stream(rpad('Ünïcode "quoted" ''nåme''. ', 56, 'x'), events_table => '"Ünïcode ""quoted"" ''täble''"', event_time => 'Time');

-- all arguments
CREATE TABLE full_event (k1 int, k2 text, seen_at timestamptz, v text) PARTITION BY RANGE (seen_at);
SELECT detect.create_stream('full', server => '', topic => NULL, events_table => 'full_event',
    columns => 'k1 int, k2 text, seen_at timestamptz, kafka_topic text, kafka_partition int, kafka_offset bigint,
                kafka_timestamp timestamptz, kafka_key bytea, kafka_headers jsonb, kafka_value bytea',
    fields => '{"k1": "$.k[0]", "k2": "$.k[1]", "seen_at": "$.\"seen at\""}',
    query => 'SELECT k1, k2, seen_at, kafka_topic AS v FROM batch',
    key => '{k1,k2}', event_time => 'seen_at', start => '2024-01-01 00:00+02', partition_interval => '1 month',
    retention => '10 years', consumers => 1);
SELECT stream, server, topics, events_table, key, event_time, start, partition_interval, retention, consumers, paused, fields
FROM detect.stream ORDER BY stream COLLATE "C";
SELECT stream, query FROM detect.stream ORDER BY stream COLLATE "C";
SELECT c.relname, c.relkind, c.relpersistence, pg_get_userbyid(c.relowner) AS owner,
       string_agg(a.attname || ' ' || format_type(a.atttypid, a.atttypmod), ', ' ORDER BY a.attnum) AS columns
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
WHERE c.relnamespace = 'detect_staging'::regnamespace AND c.relkind = 'r'
GROUP BY c.oid ORDER BY c.relname COLLATE "C";
SELECT relname, relkind, pg_get_userbyid(relowner) AS owner FROM pg_class
WHERE relnamespace = 'detect_query'::regnamespace ORDER BY relname COLLATE "C";
SELECT tgrelid::regclass, tgname, tgenabled FROM pg_trigger
WHERE tgname ~ '^_detect' AND NOT tgisinternal AND NOT (SELECT relispartition FROM pg_class WHERE oid = tgrelid)
ORDER BY tgrelid::regclass::text COLLATE "C", tgname;
SELECT changed_by, changed_at <= now() AS has_changed FROM detect.stream WHERE stream = 'plain';

-- each of them gets its events
INSERT INTO detect_staging.plain VALUES (1, 'x');
INSERT INTO detect_staging.timed VALUES ('x', '2024-03-01', 1, NULL);
SELECT format('INSERT INTO detect_staging.%I VALUES (1, ''2024-03-01'', ''{x,NULL}'')', stream)
FROM detect.stream WHERE event_time = 'Time' \gexec
INSERT INTO detect_staging.full (k1, k2, seen_at, kafka_topic) VALUES (1, 'x', '2024-03-01', 'by hand');
SELECT count(*) AS streams FROM (SELECT detect.wait_for(stream) FROM detect.stream) w;
SELECT * FROM plain;
SELECT tableoid::regclass, * FROM timed;
SELECT * FROM "Ünïcode ""quoted"" 'täble'";
SELECT tableoid::regclass, * FROM full_event;
SELECT count(*) AS streams FROM (SELECT detect.drop_stream(stream) FROM detect.stream) d;

-- a key from nothing: every message is an event
CREATE TABLE keyless (v text);
SELECT detect.create_stream('keyless', key => '{}');
INSERT INTO detect_staging.keyless VALUES ('x'), ('x'), (NULL);
SELECT detect.wait_for('keyless');
SELECT * FROM keyless;
SELECT key FROM detect.stream;
SELECT detect.drop_stream('keyless');

\pset format unaligned
\pset tuples_only on
\pset fieldsep ': '

-- ---------------------------------------------------------------------
-- Names
-- ---------------------------------------------------------------------
SELECT detect.create_stream('event');
SELECT detect.create_rollup('event_count', 'SELECT count(*) FROM event');
SELECT label, attempt(arguments || $$, events_table => 'plain'$$)
FROM (VALUES
    ('null',            'NULL'),
    ('empty',           ''''''),
    ('underscore',      '''_plain'''),
    ('pg_',             '''pg_plain'''),
    ('64 bytes',        quote_literal(repeat('x', 64))),
    ('64 in UTF-8',     quote_literal(repeat('ä', 32))),
    ('batch',           '''batch'''),
    ('of a stream',     '''event'''),
    ('of a rollup',     '''event_count''')) v (label, arguments);
SELECT 'events table taken', attempt($$'other', events_table => 'event'$$);
SELECT detect.drop_rollup('event_count');
SELECT detect.drop_stream('event');

-- ---------------------------------------------------------------------
-- The events table
-- ---------------------------------------------------------------------
CREATE VIEW a_view AS SELECT * FROM event;
CREATE MATERIALIZED VIEW a_matview AS SELECT * FROM event;
CREATE SEQUENCE a_sequence;
CREATE TYPE a_composite AS (a int);
CREATE FOREIGN TABLE a_foreign_table (a int) SERVER regress_no_kafka;
CREATE UNLOGGED TABLE unlogged (a int PRIMARY KEY);
CREATE TEMP TABLE temporary (a int PRIMARY KEY);
CREATE TABLE partitioned (a int PRIMARY KEY) PARTITION BY RANGE (a);
CREATE TABLE a_partition PARTITION OF partitioned FOR VALUES FROM (0) TO (10);
CREATE TABLE ruled (a int PRIMARY KEY);
CREATE RULE rule AS ON INSERT TO ruled DO ALSO NOTHING;
CREATE TABLE secured (a int PRIMARY KEY);
ALTER TABLE secured ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
SET SESSION AUTHORIZATION regress_create_other;
CREATE TABLE stream_create.of_others (a int PRIMARY KEY);
SET SESSION AUTHORIZATION regress_create;
SET search_path = stream_create, public;
SELECT label, attempt(arguments)
FROM (VALUES
    ('no table',            '''no_such_table'''),
    ('in no schema found',  '''of_nobody'''),
    ('no such table',       '''x'', events_table => ''no_such_table'''),
    ('no such oid',         '''x'', events_table => 4294967295'),
    ('oid 0',               '''x'', events_table => 0'),
    ('somebody else''s',    '''of_others'''),
    ('system catalog',      '''x'', events_table => ''pg_class'''),
    ('view',                '''a_view'''),
    ('materialized view',   '''a_matview'''),
    ('sequence',            '''a_sequence'''),
    ('index',               '''event_pkey'''),
    ('composite type',      '''a_composite'''),
    ('foreign table',       '''a_foreign_table'''),
    ('partition',           '''a_partition'''),
    ('unlogged',            '''unlogged'''),
    ('temporary',           '''temporary'''),
    ('rules',               '''ruled'''),
    ('row security',        '''secured''')) v (label, arguments);

-- what the hints say is enough
DROP RULE rule ON ruled;
SELECT 'rule dropped', attempt($$'ruled'$$);
ALTER TABLE secured NO FORCE ROW LEVEL SECURITY;
SELECT 'not forced', attempt($$'secured'$$);
ALTER TABLE unlogged SET LOGGED;
SELECT 'logged', attempt($$'unlogged'$$);

-- ---------------------------------------------------------------------
-- The caller
-- ---------------------------------------------------------------------
RESET SESSION AUTHORIZATION;
SELECT 'superuser', attempt($$'event'$$);
SET detect.superuser_streams = on;
SELECT 'allowed', attempt($$'event'$$);
RESET detect.superuser_streams;
SET SESSION AUTHORIZATION regress_create_nologin;
CREATE TABLE of_nologin (a int PRIMARY KEY);
SELECT 'cannot log in', attempt($$'of_nologin'$$);
RESET SESSION AUTHORIZATION;
BEGIN;
REVOKE CONNECT ON DATABASE regression FROM PUBLIC;
SET LOCAL SESSION AUTHORIZATION regress_create;
SELECT 'cannot connect', attempt($$'event'$$);
ROLLBACK;
-- a partitioned table whose owner may make no partitions
CREATE SCHEMA stream_create_closed;
GRANT USAGE ON SCHEMA stream_create_closed TO regress_create;
CREATE TABLE stream_create_closed.timed (a int, seen_at timestamptz, PRIMARY KEY (a, seen_at)) PARTITION BY RANGE (seen_at);
ALTER TABLE stream_create_closed.timed OWNER TO regress_create;
SET SESSION AUTHORIZATION regress_create;
SET search_path = stream_create, public;
SET timezone = 'UTC';
SELECT 'cannot make partitions', attempt($$'closed', events_table => 'stream_create_closed.timed'$$);

-- ---------------------------------------------------------------------
-- Where messages come from
-- ---------------------------------------------------------------------
SELECT label, attempt(arguments)
FROM (VALUES
    ('topic without server', '''event'', topic => ''x'''),
    ('and said so',          '''event'', server => '''', topic => ''x'''),
    ('no such server',       '''event'', server => ''Other'''),
    ('no Kafka',             '''event'', server => ''regress_no_kafka'''),
    ('start',                '''event'', start => ''first'''),
    ('start, empty',         '''event'', start => '''''),
    ('start, infinite',      '''event'', start => ''infinity'''),
    ('start, no such day',   '''event'', start => ''2024-02-30'''),
    ('consumers', '''event'', consumers => 17'),
    ('consumers, negative',  '''event'', consumers => -1')) v (label, arguments);
CREATE SERVER regress_kafka1 FOREIGN DATA WRAPPER detect_kafka OPTIONS (bootstrap_servers 'localhost:1');
SET SESSION AUTHORIZATION regress_create_other;
SET search_path = stream_create, public;
SELECT 'no USAGE', attempt($$'of_others', server => 'regress_kafka1'$$);
SET SESSION AUTHORIZATION regress_create;
SET search_path = stream_create, public;
SET timezone = 'UTC';
BEGIN;
SELECT detect.create_stream('event');
SELECT 'the only server, the name as topic', server, topics FROM detect.stream;
ROLLBACK;
BEGIN;
SELECT detect.create_stream('event', topic => 'city.events', start => 'latest');
SELECT 'topic, start', server, topics, start FROM detect.stream;
ROLLBACK;
CREATE SERVER regress_kafka2 FOREIGN DATA WRAPPER detect_kafka OPTIONS (bootstrap_servers 'localhost:2');
SELECT 'two servers', attempt($$'event'$$);
DROP SERVER regress_kafka1, regress_kafka2;

-- a key that all items of a message have in common
CREATE TABLE item (kafka_topic text, kafka_partition int, kafka_offset bigint, frame int, box int, class text);
SELECT label, attempt('''item'', "unnest" => ''$.boxes'', server => '''', ' || arguments)
FROM (VALUES
    ('of the message',       'key => ''{kafka_topic,kafka_partition,kafka_offset}'''),
    ('of its fields',        'key => ''{frame}'', fields => ''{"frame": "$.frame"}'''),
    ('and of the item',      'key => ''{kafka_topic,kafka_partition,kafka_offset,box}'''),
    ('none',                 'key => ''{}''')) v (label, arguments);
DROP TABLE item;

-- ---------------------------------------------------------------------
-- Columns and fields
-- ---------------------------------------------------------------------
CREATE TABLE reserved (id int PRIMARY KEY, kafka_offset text);
CREATE TABLE ordinal (id int PRIMARY KEY, _ordinal bigint);
CREATE TYPE colour AS ENUM ('red', 'green');
SELECT columns, attempt(format('''event'', columns => %L', columns))
FROM unnest(ARRAY['', ' ', 'id', 'id bigint,', 'id bigint v real', 'id no_such_type', 'id bigint, id int', 'id bigint PRIMARY KEY',
                  'id bigint NOT NULL', 'id bigint DEFAULT 1', 'id bigint, CHECK (id > 0)', 'id bigint COLLATE "C"', 'id SETOF bigint',
                  'id bigserial', 'id record', 'id anyelement', 'LIKE event', 'id bigint) INHERITS (event', 'id bigint); DROP TABLE event; --',
                  'id bigint, xmin int', '_ordinal bigint', 'id bigint, kafka_topic varchar', 'id bigint, kafka_partition bigint',
                  'id bigint, kafka_offset int', 'id bigint, kafka_timestamp timestamp', 'id bigint, kafka_key text',
                  'id bigint, kafka_headers json', 'id bigint, kafka_value text', 'v real']) columns;
SELECT 'reserved name in the table', attempt($$'reserved'$$);
SELECT 'ordinal in the table', attempt($$'ordinal'$$);
SELECT fields, attempt(format('''event'', columns => ''id bigint, v real, kafka_offset bigint'', fields => %L', fields))
FROM unnest(ARRAY['[]', '1', 'null', '"id"', '{"id": 1}', '{"id": ["$"]}', '{"id": {"a": "$"}}', '{"id": null}', '{"id": "a"}', '{"id": "$.a[*]"}',
                  '{"iid": "$.a"}', '{"place_name": "$.a"}', '{"kafka_offset": "$.a"}', '{"kafka_ofset": "$.a"}',
                  '{"_ordinal": "$.a"}', '{"id": "$.a", "w": "$.b"}']) fields;

-- ---------------------------------------------------------------------
-- The query
-- ---------------------------------------------------------------------
CREATE TABLE batch (id bigint, x int);
CREATE TABLE identity_always (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v text);
CREATE TABLE generated (id bigint PRIMARY KEY, v text, w text GENERATED ALWAYS AS (v || '!') STORED);
CREATE TABLE required (id bigint PRIMARY KEY, v text NOT NULL, w text NOT NULL DEFAULT '', n int NOT NULL GENERATED ALWAYS AS IDENTITY);
CREATE TEMP VIEW temporary_view AS SELECT * FROM temporary;
CREATE FUNCTION pg_temp.event(query text) RETURNS text LANGUAGE sql AS $$
    SELECT regress.attempt(format(
        'SELECT detect.create_stream(''event'', query => %L, columns => ''id bigint, seen_at timestamptz, place_id int, v real, colour colour, note text'')', query))
$$;
SELECT label, pg_temp.event(query)
FROM (VALUES
    ('nothing',                 ''),
    ('syntax error',            'SELECT b.id FROM batch b WHERE'),
    ('two statements',          'SELECT b.id FROM batch b; SELECT 1'),
    ('no SELECT',               'DELETE FROM event'),
    ('SELECT INTO',             'SELECT b.id INTO copy FROM batch b'),
    ('VALUES',                  'VALUES (1)'),
    ('parameter',               'SELECT b.id, $1 AS v FROM batch b'),
    ('no batch',                'SELECT 1 AS id'),
    ('another batch',           'SELECT b.id FROM stream_create.batch b'),
    ('twice',                   'SELECT b.id FROM batch b, batch c'),
    ('again in a subquery',     'SELECT b.id FROM batch b WHERE b.id IN (SELECT id FROM batch)'),
    ('in a subquery alone',     'SELECT b.id FROM (SELECT * FROM batch) b'),
    ('in WITH alone',           'WITH b AS (SELECT * FROM batch) SELECT b.id FROM b'),
    ('WITH of that name',       'WITH batch AS (SELECT 1::bigint AS id) SELECT b.id FROM batch b'),
    ('WITH of the stream''s',    'WITH event AS (SELECT * FROM place) SELECT b.id FROM batch b LEFT JOIN event USING (place_id)'),
    ('sampled',                 'SELECT b.id FROM batch b TABLESAMPLE system (10)'),
    ('its staging table too',   'SELECT b.id FROM batch b JOIN detect_staging.event e USING (id)'),
    ('right of LEFT JOIN',      'SELECT b.id FROM place p LEFT JOIN batch b USING (place_id)'),
    ('left of RIGHT JOIN',      'SELECT b.id FROM batch b RIGHT JOIN place p USING (place_id)'),
    ('FULL JOIN',               'SELECT b.id FROM batch b FULL JOIN place p USING (place_id)'),
    ('below a LEFT JOIN',       'SELECT b.id FROM place q LEFT JOIN (batch b JOIN place p USING (place_id)) ON q.place_id = p.place_id'),
    ('aggregate',               'SELECT max(b.id) AS id FROM batch b'),
    ('GROUP BY',                'SELECT b.id FROM batch b GROUP BY b.id'),
    ('HAVING',                  'SELECT 1 AS id FROM batch b HAVING true'),
    ('window function',         'SELECT rank() OVER (ORDER BY b.id) AS id FROM batch b'),
    ('DISTINCT',                'SELECT DISTINCT b.id FROM batch b'),
    ('DISTINCT ON',             'SELECT DISTINCT ON (b.v) b.id FROM batch b'),
    ('LIMIT',                   'SELECT b.id FROM batch b LIMIT 1'),
    ('OFFSET',                  'SELECT b.id FROM batch b OFFSET 1'),
    ('UNION',                   'SELECT b.id FROM batch b UNION ALL SELECT 1'),
    ('set-returning function',  'SELECT generate_series(b.id, b.id + 1) AS id FROM batch b'),
    ('FOR UPDATE',              'SELECT b.id FROM batch b JOIN place p USING (place_id) FOR UPDATE OF p'),
    ('writing WITH',            'WITH w AS (DELETE FROM place RETURNING *) SELECT b.id FROM batch b, w'),
    ('system column',           'SELECT b.id FROM batch b WHERE b.ctid IS NOT NULL'),
    ('whole row''s table',      'SELECT b.id, b.tableoid::text AS place_name FROM batch b'),
    ('in a lateral subquery',   'SELECT b.id FROM batch b, LATERAL (SELECT b.xmin) x'),
    ('temporary table',         'SELECT b.id FROM batch b LEFT JOIN temporary t ON t.a = b.id'),
    ('temporary view',          'SELECT b.id FROM batch b LEFT JOIN temporary_view t ON t.a = b.id'),
    ('unknown table',           'SELECT b.id FROM batch b JOIN places p USING (place_id)'),
    ('unknown column',          'SELECT b.id, b.vv AS v FROM batch b'),
    ('output no column',        'SELECT b.id, b.v AS place_nam FROM batch b'),
    ('no name',                 'SELECT b.id, b.v + 1 FROM batch b'),
    ('nothing like it',         'SELECT b.id, b.v AS confidence_of_the_detector FROM batch b'),
    ('same name twice',         'SELECT b.*, p.place_id FROM batch b JOIN place p USING (place_id)'),
    ('other type',              'SELECT b.id, b.v AS seen_at FROM batch b'),
    ('text for a number',       'SELECT b.id, b.note AS v FROM batch b'),
    ('NULL of no type',         'SELECT b.id, NULL AS v FROM batch b'),
    ('fills nothing',           'SELECT b.note FROM batch b'),
    ('without the key',         'SELECT b.v FROM batch b'),
    ('reject_reason, no text',  'SELECT b.id, 5 AS reject_reason FROM batch b'),
    ('reject_reason, boolean',  'SELECT b.id, b.v < 0 AS reject_reason FROM batch b'),
    ('reject_reason, name',     'SELECT b.id, ''x''::name AS reject_reason FROM batch b'),
    ('reject_reason, "char"',   'SELECT b.id, ''x''::"char" AS reject_reason FROM batch b')) v (label, query);
SELECT label, attempt(arguments)
FROM (VALUES
    ('generated column',        '''generated'', columns => ''id bigint, v text, w text'', query => ''SELECT * FROM batch'''),
    ('identity column',         '''identity_always'', columns => ''id bigint, v text'''),
    ('identity as key',         '''identity_always'''),
    ('NOT NULL not filled',     '''required'', columns => ''id bigint, w text'''),
    ('NOT NULL, default query', '''required'', query => ''SELECT b.id, b.w FROM batch b''')) v (label, arguments);

-- an error points into the text, not into the caller's statement
\set VERBOSITY default
SELECT detect.create_stream('event', query => 'SELECT b.id, b.nope FROM batch b');
SELECT detect.create_stream('event', query => 'SELECT b.id b.v FROM batch b');
SELECT detect.create_stream('event', columns => 'id bigint, v real real');

-- what may be said
SELECT label, pg_temp.event(query)
FROM (VALUES
    ('star',                    'SELECT * FROM batch'),
    ('batch as name',           'SELECT batch.* FROM batch'),
    ('other columns'' names',   'SELECT a AS id, c AS place_id FROM batch AS x (a, b, c)'),
    ('more than the table',     'SELECT b.*, p.name AS place_name FROM batch b JOIN place p ON p.place_id = b.place_id'),
    ('USING',                   'SELECT * FROM (SELECT place_id, name AS place_name FROM place) p JOIN batch USING (place_id)'),
    ('NATURAL LEFT',            'SELECT id, name AS place_name FROM batch NATURAL LEFT JOIN place'),
    ('comma, LATERAL',          'SELECT b.id, x.n AS place_name FROM batch b, LATERAL (SELECT max(name) AS n FROM place p WHERE p.place_id = b.place_id) x'),
    ('left of LEFT in brackets', 'SELECT b.id FROM (batch b LEFT JOIN place p USING (place_id)) LEFT JOIN place q ON q.place_id = 2'),
    ('right of RIGHT',          'SELECT b.id FROM place p RIGHT JOIN batch b USING (place_id)'),
    ('WITH of a place',         'WITH p AS (SELECT * FROM place) SELECT b.id, p.name AS place_name FROM batch b LEFT JOIN p USING (place_id)'),
    ('the other batch too',     'SELECT b.id, c.x AS place_id FROM batch b LEFT JOIN stream_create.batch c USING (id)'),
    ('its own ordinal',         'SELECT b.id, 7 AS _ordinal FROM batch b'),
    ('WHERE, ORDER BY',         'SELECT b.id FROM batch b WHERE b.v > 0 ORDER BY b.id'),
    ('volatile functions',      'SELECT b.id, clock_timestamp() AS seen_at, random() AS v FROM batch b'),
    ('literals',                'SELECT b.id, ''somewhere'' AS place_name, NULL::real AS v FROM batch b'),
    ('cast on assignment',      'SELECT b.id, b.id AS place_id FROM batch b'),
    ('reject_reason',           'SELECT b.id, CASE WHEN b.v < 0 THEN ''negative'' END AS reject_reason FROM batch b'),
    ('reject_reason, varchar',  'SELECT b.id, b.note::varchar(10) AS reject_reason FROM batch b'),
    ('reject_reason, null',     'SELECT b.id, NULL AS reject_reason FROM batch b')) v (label, query);

-- ---------------------------------------------------------------------
-- What makes two events the same, and when they happened
-- ---------------------------------------------------------------------
CREATE COLLATION nondeterministic (provider = icu, locale = 'und', deterministic = false);
CREATE DOMAIN moment AS timestamptz;
CREATE TABLE no_key (id bigint, seen_at timestamptz, v varchar(10), j json, s tsvector, c text COLLATE nondeterministic, n numeric);
CREATE UNIQUE INDEX ON no_key (c);
CREATE TABLE by_list (id bigint PRIMARY KEY) PARTITION BY LIST (id);
CREATE TABLE by_hash (id bigint, seen_at timestamptz) PARTITION BY HASH (id);
CREATE TABLE by_two (id bigint, seen_at timestamptz) PARTITION BY RANGE (seen_at, id);
CREATE TABLE by_expression (id bigint, seen_at timestamptz) PARTITION BY RANGE (date_trunc('day', seen_at AT TIME ZONE 'UTC'));
CREATE TABLE by_number (id bigint PRIMARY KEY, seen_at timestamptz) PARTITION BY RANGE (id);
CREATE TABLE by_date (id bigint, day date, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
CREATE TABLE by_moment (id bigint, at moment, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE by_time (id bigint, seen_at timestamptz, kept_at timestamptz) PARTITION BY RANGE (seen_at);
CREATE TABLE nested (id bigint, seen_at timestamptz) PARTITION BY RANGE (seen_at);
CREATE TABLE nested_2024 PARTITION OF nested FOR VALUES FROM ('2024-01-01') TO ('2025-01-01') PARTITION BY HASH (id);
CREATE TABLE far (id bigint, seen_at timestamptz) PARTITION BY RANGE (seen_at);
CREATE FOREIGN TABLE far_2024 PARTITION OF far FOR VALUES FROM ('2024-01-01') TO ('2025-01-01') SERVER regress_no_kafka;
DO $$ BEGIN
    EXECUTE 'CREATE TABLE wide (' || (SELECT string_agg('c' || n || ' int', ', ') FROM generate_series(1, 33) n) || ')';
END $$;
SELECT label, attempt(arguments)
FROM (VALUES
    ('no primary key',          '''no_key'''),
    ('null in the key',         '''no_key'', key => ''{id,NULL}'''),
    ('twice in the key',        '''no_key'', key => ''{id,v,id}'''),
    ('no column of the stream', '''no_key'', key => ''{id}'', columns => ''v text'''),
    ('no column of the table',  '''no_key'', key => ''{sid}'', columns => ''sid bigint, v text'''),
    ('no column at all',        '''no_key'', key => ''{nope}'''),
    ('system column',           '''no_key'', key => ''{ctid}'''),
    ('other type',              '''no_key'', key => ''{id}'', columns => ''id int'''),
    ('shorter in the table',    '''no_key'', key => ''{v}'', columns => ''v text'', query => ''SELECT b.v::varchar(10) FROM batch b'''),
    ('varchar is not text',     '''event'', key => ''{place_name}'', columns => ''place_name varchar(5)'', query => ''SELECT * , 1 AS id FROM batch'''),
    ('not handed on',           '''no_key'', key => ''{id}'', query => ''SELECT b.v FROM batch b'''),
    ('33 columns',              '''wide'', key => (SELECT array_agg(''c'' || n) FROM generate_series(1, 33) n)'),
    ('no equality',             '''no_key'', key => ''{j}'''),
    ('no hash',                 '''no_key'', key => ''{s}'''),
    ('equal in many ways',      '''no_key'', key => ''{n}'''),
    ('no such event time',      '''no_key'', key => ''{id}'', event_time => ''seen'''),
    ('event time is no time',   '''no_key'', key => ''{id}'', event_time => ''v'''),
    ('time not in the stream',  '''no_key'', key => ''{id}'', event_time => ''seen_at'', columns => ''id bigint'''),
    ('time of another type',    '''no_key'', key => ''{id}'', event_time => ''seen_at'', columns => ''id bigint, seen_at text'', query => ''SELECT b.id, b.seen_at::timestamptz FROM batch b'''),
    ('time computed',           '''by_time'', key => ''{}'', columns => ''id bigint'', query => ''SELECT b.id, now() AS seen_at FROM batch b'''),
    ('time not handed on',      '''by_time'', key => ''{}'', query => ''SELECT b.id FROM batch b'''),
    ('by list',                 '''by_list'''),
    ('by hash',                 '''by_hash'', key => ''{id}'''),
    ('by two',                  '''by_two'', key => ''{id}'', event_time => ''seen_at'''),
    ('by an expression',        '''by_expression'', key => ''{id}'', event_time => ''seen_at'''),
    ('by a number',             '''by_number'''),
    ('by a number, with time',  '''by_number'', event_time => ''seen_at'''),
    ('by another time',         '''by_time'', key => ''{id}'', event_time => ''kept_at'''),
    ('partition partitioned',   '''nested'', key => ''{id}'''),
    ('foreign partition',       '''far'', key => ''{id}'''),
    ('interval, plain table',   '''event'', event_time => ''seen_at'', partition_interval => ''1 day'''),
    ('interval 0',              '''by_time'', key => ''{id}'', partition_interval => ''0'''),
    ('interval negative',       '''by_time'', key => ''{id}'', partition_interval => ''-1 day'''),
    ('interval too short',      '''by_time'', key => ''{id}'', partition_interval => ''999 ms'''),
    ('interval too long',       '''by_time'', key => ''{id}'', partition_interval => ''1001 years'''),
    ('months and days',         '''by_time'', key => ''{id}'', partition_interval => ''1 month 1 day'''),
    ('months less days',        '''by_time'', key => ''{id}'', partition_interval => ''1 month -1 day'''),
    ('hours of a date',         '''by_date'', partition_interval => ''36 hours'''),
    ('retention 0',             '''by_time'', key => ''{id}'', retention => ''0'''),
    ('retention negative',      '''by_time'', key => ''{id}'', retention => ''-1 hour'''),
    ('retention without time',  '''event'', retention => ''1 day'''),
    ('retention without unit',  '''by_time'', key => ''{id}'', retention => ''30'''),
    ('letters without unit',    '''event'', dead_letter_retention => ''30'''),
    ('start is a word',         '''event'', start => ''beginning'''),
    ('columns without types',   '''event'', columns => ''id, v'''),
    ('name with a schema',      '''stream_create.event'''),
    ('another table than batch', '''event'', query => ''SELECT * FROM staging''')) v (label, arguments);
SELECT label, attempt(arguments)
FROM (VALUES
    ('unique index found',      '''no_key'', key => ''{c}'''),
    ('time without partitions', '''no_key'', key => ''{id}'', event_time => ''seen_at'', retention => ''1 day'''),
    ('by a date',               '''by_date'', partition_interval => ''1 week'''),
    ('by a domain',             '''by_moment'', partition_interval => ''90 minutes'''),
    ('years',                   '''by_time'', key => ''{id}'', partition_interval => ''1 year 6 months'''),
    ('key with the time',       '''by_time'', key => ''{seen_at,id}''')) v (label, arguments);

-- refusals have left nothing, and nothing of the extension is in the way
\pset tuples_only off
\pset format aligned
SELECT count(*) FROM detect.stream;
SELECT relname FROM pg_class WHERE relnamespace IN ('detect_staging'::regnamespace, 'detect_query'::regnamespace, 'detect_state'::regnamespace);
SELECT tgname FROM pg_trigger WHERE tgname ~ '^_detect';

-- rolled back, it was never there
BEGIN;
SELECT detect.create_stream('event');
SAVEPOINT s;
SELECT detect.drop_stream('event');
ROLLBACK TO s;
SELECT detect.create_rollup('event_count', 'SELECT count(*) FROM event');
SELECT (SELECT count(*) FROM detect.stream) AS streams, (SELECT count(*) FROM detect.rollup) AS rollups;
ROLLBACK;
SELECT (SELECT count(*) FROM detect.stream) AS streams, (SELECT count(*) FROM detect.rollup) AS rollups,
       to_regclass('detect_staging.event'), to_regclass('event_count');

-- a script can be run again: the same definition, with a query that reads one table, is there already
BEGIN;
SELECT detect.create_stream('event', if_not_exists => true);
SELECT detect.create_stream('event', if_not_exists => true);
SELECT detect.create_stream('no_key', key => '{id}', query => 'SELECT b.id, upper(b.v) AS v FROM batch b');
SELECT detect.create_stream('no_key', key => '{id}', query => 'SELECT id, upper(v) AS v FROM batch b', if_not_exists => true);
SAVEPOINT s;
SELECT detect.create_stream('no_key', key => '{id}', query => 'SELECT id, lower(v) AS v FROM batch b', if_not_exists => true);
ROLLBACK;

-- stream and rollup of one transaction start together
BEGIN;
SELECT detect.create_stream('event');
SELECT detect.create_rollup('event_count', 'SELECT count(*) FROM event');
INSERT INTO detect_staging.event (id) VALUES (1), (2), (1);
COMMIT;
SELECT detect.wait_for('event');
SELECT detect.wait_for_rollup('event_count');
SELECT * FROM event_count;
SELECT detect.drop_rollup('event_count');
SELECT detect.drop_stream('event');

RESET SESSION AUTHORIZATION;
SET client_min_messages = warning;
DROP VIEW temporary_view;
DROP TABLE temporary;
DROP FUNCTION pg_temp.event;
DROP SCHEMA stream_create, stream_create_closed CASCADE;
DROP SERVER regress_no_kafka;
DROP FOREIGN DATA WRAPPER regress_wrapper;
DROP ROLE regress_create, regress_create_nologin, regress_create_other;
