--
-- verbs: pause, resume and wait_for in every state of a stream
--
CREATE ROLE regress_verbs IN ROLE detect_admin LOGIN;
CREATE SCHEMA verbs AUTHORIZATION regress_verbs;
SET SESSION AUTHORIZATION regress_verbs;
SET search_path = verbs, public;

CREATE TABLE event (id int PRIMARY KEY, v int);

-- in the transaction that makes it, also below a savepoint, it can't be waited for; it can be paused
BEGIN;
SELECT detect.create_stream('event');
SAVEPOINT s;
SELECT detect.wait_for('event');
ROLLBACK TO s;
SELECT detect.pause('event');
SELECT paused FROM detect.stream;
SELECT state, reason, remedy FROM detect.stat_stream;
SELECT detect.resume('event');
SELECT detect.drop_stream('event');
ROLLBACK;
BEGIN;
SAVEPOINT s;
SELECT detect.create_stream('event');
RELEASE s;
SAVEPOINT t;
SELECT detect.wait_for('event');
ROLLBACK TO t;
INSERT INTO detect_staging.event VALUES (1, 1);
COMMIT;
SELECT detect.wait_for('event');
SELECT id FROM event;

-- nothing staged: there is nothing to wait for, whatever the time-out
SELECT detect.wait_for('event', '0');
SELECT detect.wait_for('event', '-1 day');
SELECT detect.wait_for('event', '1 year');
SELECT detect.wait_for('event', '1000000 years');

-- what this transaction has staged is applied when it commits, not before
BEGIN;
INSERT INTO detect_staging.event VALUES (2, 1);
SAVEPOINT s;
SELECT detect.wait_for('event');
ROLLBACK;

-- a transaction that keeps its snapshot can't see progress
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT detect.wait_for('event');
ROLLBACK;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT detect.wait_for('event');
ROLLBACK;

-- paused: what is staged stays, and waiting says why at once
SELECT detect.pause('event');
SELECT detect.pause('event');
SELECT paused, changed_by FROM detect.stream;
SELECT state, reason, remedy FROM detect.stat_stream;
INSERT INTO detect_staging.event VALUES (3, 1), (4, 1);
SELECT detect.wait_for('event');
SELECT count(*) FROM detect_staging.event;
SELECT id FROM event ORDER BY id;

-- a pause or resume that is rolled back was none
BEGIN;
SELECT detect.resume('event');
ROLLBACK;
SELECT detect.wait_for('event');
SELECT state, reason FROM detect.stat_stream;
SELECT detect.resume('event');
SELECT detect.wait_for('event');
SELECT id FROM event ORDER BY id;
SELECT state, reason, remedy FROM detect.stat_stream;
SELECT detect.resume('event');
BEGIN;
SELECT detect.pause('event');
ROLLBACK;
INSERT INTO detect_staging.event VALUES (5, 1);
SELECT detect.wait_for('event');
SELECT state FROM detect.stat_stream;

-- pause and resume in one transaction, many times
BEGIN;
SELECT detect.pause('event');
SELECT detect.resume('event');
SELECT detect.pause('event');
INSERT INTO detect_staging.event VALUES (6, 1);
SELECT detect.resume('event');
COMMIT;
SELECT detect.wait_for('event');
SELECT max(id) FROM event;
-- when pause returns, no batch is open, and none begins
INSERT INTO detect_staging.event SELECT n, 1 FROM generate_series(1001, 3000) n;
BEGIN;
SELECT detect.pause('event');
SELECT (SELECT count(*) FROM event WHERE id > 1000) + (SELECT count(*) FROM detect_staging.event) AS together;
SELECT detect.resume('event');
COMMIT;
SELECT detect.wait_for('event');
SELECT count(*) FROM event WHERE id > 1000;

-- dropped while paused; paused while a rollup is new
SELECT detect.pause('event');
SELECT detect.create_rollup('event_sum', 'SELECT sum(v) AS v FROM event');
SELECT detect.wait_for_rollup('event_sum', '0');
SELECT rollup, state FROM detect.stat_rollup;
SELECT * FROM event_sum;
SELECT detect.resume('event');
SELECT detect.wait_for_rollup('event_sum');
SELECT * FROM event_sum;
SELECT detect.pause('event');
SELECT detect.drop_stream('event');
SELECT detect.create_stream('event');
SELECT paused FROM detect.stream;
INSERT INTO detect_staging.event VALUES (7, 1);
SELECT detect.wait_for('event');
SELECT v = (SELECT sum(v) FROM event) AS complete FROM event_sum;

-- a stream that cannot reach its broker: it runs, says what is wrong, and what SQL stages is applied
CREATE SERVER regress_nowhere FOREIGN DATA WRAPPER detect_kafka OPTIONS (bootstrap_servers '127.0.0.1:1');
CREATE TABLE remote (id int PRIMARY KEY);
SELECT detect.create_stream('remote', server => 'regress_nowhere');
INSERT INTO detect_staging.remote VALUES (1), (2);
SELECT regexp_replace(regress.outcome('SELECT detect.wait_for(''remote'', ''5 s'')'), ': 127[^\n]*', ' …');
SELECT regress.wait_for_rows('SELECT id FROM verbs.remote', 2);
SELECT paused, server, topics FROM detect.stream WHERE stream = 'remote';
SELECT detect.pause('remote');
SELECT state, reason, accepted FROM detect.stat_stream WHERE stream = 'remote';
SELECT detect.resume('remote');
-- its server stays as long as it, and takes it along
DROP SERVER regress_nowhere;
SET client_min_messages = warning;
DROP SERVER regress_nowhere CASCADE;
RESET client_min_messages;
SELECT detect.drop_stream('remote');

-- names that are none
SELECT detect.pause('no_such_stream');
SELECT detect.resume('no_such_stream');
SELECT detect.wait_for('no_such_stream');
SELECT detect.wait_for('event_sum');
SELECT detect.pause('event_sum');
SELECT detect.wait_for_rollup('event');
SELECT detect.wait_for_rollup('no_such_rollup');
SELECT detect.wait_for('Event');

-- seek: what can be said without a broker
SELECT detect.seek('event', to_time => now());
SELECT detect.seek('event', to_offset => 1, to_time => now());
SELECT detect.seek('event');
SELECT detect.seek('no_such_stream', to_offset => 1);
SELECT detect.seek(NULL, to_offset => 1);
CREATE SERVER regress_nowhere FOREIGN DATA WRAPPER detect_kafka OPTIONS (bootstrap_servers '127.0.0.1:1');
SELECT detect.create_stream('remote', server => 'regress_nowhere', topics => '{a,b}');
SELECT detect.seek('remote', to_offset => 1, topic => 'c');
SELECT detect.seek('remote', to_offset => 1, partition => 2);
SELECT detect.drop_stream('remote');
DROP SERVER regress_nowhere;

-- dropped by oneself, it is gone (dropped by others: test/isolation)
SELECT detect.drop_stream('event');
SELECT detect.wait_for('event');
SELECT detect.resume('event');

RESET SESSION AUTHORIZATION;
SET client_min_messages = warning;
DROP SCHEMA verbs CASCADE;
DROP ROLE regress_verbs;
