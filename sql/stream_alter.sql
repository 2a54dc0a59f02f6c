-- detect.alter_stream, detect.get_definition and if_not_exists: a definition
-- becomes another one between two commits, with nothing lost and nothing twice.

\set VERBOSITY terse
CREATE ROLE regress_alter IN ROLE detect_admin LOGIN;
CREATE SCHEMA stream_alter AUTHORIZATION regress_alter;
SET SESSION AUTHORIZATION regress_alter;
SET search_path = stream_alter, public;

CREATE TABLE reading (
	reading_id bigint PRIMARY KEY, sensor int NOT NULL, value float8, taken_at timestamptz, unit text);
SELECT detect.create_stream('reading', server => '', columns => 'reading_id bigint, sensor int, value float8');
INSERT INTO detect_staging.reading VALUES (1, 1, 1.5), (2, 1, 2.5);
SELECT detect.wait_for('reading');

-- the definition as SQL makes the same stream again
SELECT detect.get_definition('reading');
SELECT detect.get_definition('reading') AS definition \gset
SELECT detect.drop_stream('reading');
:definition
SELECT detect.get_definition('reading') = :'definition' AS same;
INSERT INTO detect_staging.reading VALUES (2, 1, 2.5), (3, 2, 3.5);
SELECT detect.wait_for('reading');
SELECT accepted, duplicates FROM detect.stat_stream WHERE stream = 'reading';

-- a column that the producer has added, in one transaction with the table's;
-- a query that nobody wrote takes it up
BEGIN;
ALTER TABLE reading ADD COLUMN place text;
SELECT detect.alter_stream('reading', columns => 'reading_id bigint, sensor int, value float8, unit text, place text');
INSERT INTO detect_staging.reading (reading_id, sensor, value, unit, place) VALUES (4, 2, 4.5, 'm', 'roof');
COMMIT;
SELECT detect.wait_for('reading');
TABLE reading ORDER BY reading_id;

-- rolled back, nothing has happened
BEGIN;
SELECT detect.alter_stream('reading', columns => 'reading_id bigint, sensor int', key => '{sensor}');
ROLLBACK;
SELECT key, to_regclass('detect_staging.reading') IS NOT NULL AS staged FROM detect.stream WHERE stream = 'reading';
\d detect_staging.reading

-- a query, with everything around the names that get_definition puts right
SELECT detect.alter_stream('reading', query => $$ SELECT batch.*, upper(batch.unit) AS unit_name FROM batch $$);
ALTER TABLE reading ADD COLUMN unit_name text;
SELECT detect.alter_stream('reading', query => $$ SELECT batch.*, upper(batch.unit) AS unit_name FROM batch $$);
SELECT detect.get_definition('reading');
SELECT detect.alter_stream('reading', query => $$
	SELECT reading.reading_id, sensor, coalesce(value, 0) AS value, unit, s.note AS place
	FROM batch reading LEFT JOIN (VALUES (1, 'batch'), (2, 'detect_staging.reading')) s (n, note) ON s.n = sensor
	WHERE value IS DISTINCT FROM 99 $$);
SELECT detect.get_definition('reading');
SELECT detect.get_definition('reading') AS definition \gset
SELECT detect.drop_stream('reading');
:definition
SELECT detect.get_definition('reading') = :'definition' AS same;
INSERT INTO detect_staging.reading (reading_id, sensor, value, unit) VALUES (4, 2, 4.5, 'm'), (5, 2, 5.5, 'm'), (6, 1, 99, 'm');
SELECT detect.wait_for('reading');
SELECT accepted, duplicates, filtered FROM detect.stat_stream WHERE stream = 'reading';
SELECT place FROM reading WHERE reading_id = 5;

-- a written query stays when columns change, and must still be possible
SELECT detect.alter_stream('reading', columns => 'reading_id bigint, sensor int, value numeric(10, 2), unit text, taken_at timestamptz');
SELECT detect.alter_stream('reading', columns => 'reading_id bigint, value float8');
\d detect_staging.reading
INSERT INTO detect_staging.reading (reading_id, sensor, value) VALUES (7, 1, 7.777);
SELECT detect.wait_for('reading');
SELECT value FROM reading WHERE reading_id = 7;

-- another key and another table
SELECT detect.alter_stream('reading', reset => '{query,columns}', key => '{sensor,value}');
CREATE TABLE archive (LIKE reading INCLUDING ALL);
SELECT detect.alter_stream('reading', events_table => 'archive');
INSERT INTO detect_staging.reading (reading_id, sensor, value) VALUES (8, 1, 7), (9, 1, 7), (10, 1, 8);
SELECT detect.wait_for('reading');
SELECT count(*) FROM archive;
SELECT tgrelid::regclass, tgname FROM pg_trigger WHERE tgname = '_detect_accepted' AND NOT tgisinternal
	AND tgrelid IN ('reading'::regclass, 'archive'::regclass);
SELECT detect.alter_stream('reading', events_table => 'reading', reset => '{key}');

-- intervals, limits and how they are taken back
SELECT detect.alter_stream('reading', event_time => 'taken_at', retention => '100 years', consumers => 3,
	dead_letter_limit => 5, dead_letter_retention => '1 day');
SELECT event_time, retention, consumers, dead_letter_limit, on_limit, dead_letter_retention FROM detect.stream WHERE stream = 'reading';
SELECT detect.alter_stream('reading', reset => '{retention,event_time,consumers,dead_letter_limit,dead_letter_retention}');
SELECT event_time, retention, consumers, dead_letter_limit, on_limit, dead_letter_retention FROM detect.stream WHERE stream = 'reading';

-- what is refused
\set VERBOSITY default
SELECT what, regress.attempt(format('SELECT detect.alter_stream(%s)', arguments)) AS outcome
FROM (VALUES
	('no such stream', '''nothing'', consumers => 1'),
	('no name', 'NULL'),
	('reset what is no argument', '''reading'', reset => ''{colour}'''),
	('given and reset', '''reading'', consumers => 1, reset => ''{consumers}'''),
	('null in reset', '''reading'', reset => ''{NULL}'''),
	('no such server', '''reading'', server => ''nowhere'''),
	('no such table', '''reading'', reset => ''{events_table}'', events_table => ''reading'''),
	('a query that fails', '''reading'', query => ''SELECT nothing FROM batch'''),
	('a query that loses the key', '''reading'', query => ''SELECT sensor FROM batch'''),
	('a type that a value does not have', '''reading'', columns => ''reading_id bigint, sensor date''')
	) v (what, arguments);
SELECT detect.alter_stream('nothing', if_exists => true);
\set VERBOSITY terse

-- if_not_exists: the same is a notice, another one an error that says what differs
CREATE TABLE started (id int PRIMARY KEY);
SELECT detect.create_stream('started', start => '2026-11-26 08:00+00');
SET TimeZone = 'Europe/Berlin';
SELECT detect.create_stream('started', start => '2026-11-26 08:00+00', if_not_exists => true);
RESET TimeZone;
SELECT start FROM detect.stream WHERE stream = 'started';
SELECT detect.drop_stream('started');
DROP TABLE started;
SELECT detect.create_stream('reading', server => '', if_not_exists => true);
SELECT detect.create_stream('reading', server => '', events_table => 'reading', key => '{reading_id}', if_not_exists => true);
\set VERBOSITY default
SELECT detect.create_stream('reading', server => '', events_table => 'archive', key => '{sensor}', consumers => 1,
	columns => 'reading_id bigint, sensor int', query => 'SELECT reading_id, sensor FROM batch', if_not_exists => true);
\set VERBOSITY terse

-- others may not
RESET SESSION AUTHORIZATION;
CREATE ROLE regress_stranger LOGIN;
SET SESSION AUTHORIZATION regress_stranger;
SELECT detect.alter_stream('reading', consumers => 1);
SELECT detect.get_definition('reading');
SELECT detect.get_definition('nothing');
RESET SESSION AUTHORIZATION;
DROP ROLE regress_stranger;

-- a rollup's definition
SET SESSION AUTHORIZATION regress_alter;
SET TimeZone = 'Europe/Paris';
SELECT detect.alter_stream('reading', event_time => 'taken_at');
SELECT detect.create_rollup('readings_per_sensor', 'SELECT sensor, date_trunc(''day'', taken_at) AS day, count(*) AS readings FROM reading GROUP BY 1, 2', retention => '1000 years');
SELECT detect.get_definition('readings_per_sensor');
SELECT detect.get_definition('readings_per_sensor') AS definition \gset
SELECT detect.drop_rollup('readings_per_sensor');
:definition
SELECT detect.wait_for_rollup('readings_per_sensor');
(TABLE readings_per_sensor EXCEPT ALL SELECT sensor, date_trunc('day', taken_at), count(*) FROM reading GROUP BY 1, 2)
UNION ALL
(SELECT sensor, date_trunc('day', taken_at), count(*) FROM reading GROUP BY 1, 2 EXCEPT ALL TABLE readings_per_sensor);
SELECT detect.drop_stream('reading');
SELECT detect.drop_rollup('readings_per_sensor');
DROP TABLE reading, archive;
RESET SESSION AUTHORIZATION;
DROP SCHEMA stream_alter;
DROP ROLE regress_alter;
