--
-- history: who called which verb, and who may see it
--
CREATE ROLE regress_history IN ROLE detect_admin LOGIN;
CREATE ROLE regress_history_member LOGIN IN ROLE regress_history;
CREATE ROLE regress_history_other IN ROLE detect_admin LOGIN;
CREATE ROLE regress_history_monitor IN ROLE pg_monitor LOGIN;
CREATE SCHEMA history AUTHORIZATION regress_history;
GRANT ALL ON SCHEMA history TO regress_history_other;
SET search_path = history, public;

-- every verb, by the owner, and by a member as the owner
SET SESSION AUTHORIZATION regress_history;
CREATE TABLE event (id int PRIMARY KEY, v int, place text);
SELECT detect.create_stream('event', query => 'SELECT b.* FROM batch b WHERE v <> 7', consumers => 1);
SELECT detect.create_rollup('event_sum', 'SELECT sum(v) AS v FROM event');
SET SESSION AUTHORIZATION regress_history_member;
SELECT detect.alter_stream('event', dead_letter_limit => 5, reset => '{query,consumers}');
SELECT detect.pause('event');
SET ROLE regress_history;
SELECT detect.pause('event');
SELECT detect.resume('event');
RESET ROLE;

-- what fails, what is rolled back and what does nothing is none
SELECT detect.pause('no_such_stream');
SELECT detect.alter_stream('event', consumers => -1);
SELECT detect.drop_stream('no_such_stream', if_exists => true);
BEGIN;
SELECT detect.drop_stream('event');
ROLLBACK;
SELECT caller, acting_as, verb, object, detail FROM detect.history ORDER BY history_id;
SELECT count(*) AS not_of_now FROM detect.history WHERE at NOT BETWEEN now() - interval '1 hour' AND clock_timestamp();

-- others see nothing, monitors all
SET SESSION AUTHORIZATION regress_history_other;
SELECT count(*) FROM detect.history;
SELECT count(*) FROM detect._history;
SET SESSION AUTHORIZATION regress_history_monitor;
SELECT count(*) > 0 AS sees FROM detect.history WHERE object = 'event';

-- dropped: seen by who did it, and by monitors; a name that comes again is another one
SET SESSION AUTHORIZATION regress_history;
SELECT detect.drop_rollup('event_sum');
SELECT detect.create_rollup('event_sum', 'SELECT count(*) FROM event');
DROP VIEW event_sum CASCADE;
DROP VIEW detect_query.event_sum CASCADE;
SELECT detect.drop_stream('event');
SET SESSION AUTHORIZATION regress_history_other;
CREATE TABLE other (id int PRIMARY KEY, v int);
SELECT detect.create_stream('event', events_table => 'other');
SELECT caller, acting_as, verb, object, detail FROM detect.history ORDER BY history_id;
DROP TABLE other CASCADE;
SELECT caller, acting_as, verb, object, detail FROM detect.history ORDER BY history_id;
SET SESSION AUTHORIZATION regress_history_member;
SELECT caller, acting_as, verb, object, detail FROM detect.history ORDER BY history_id;
SET SESSION AUTHORIZATION regress_history;
SELECT caller, acting_as, verb, object, detail FROM detect.history ORDER BY history_id;

-- kept for a year: appliers delete what is older, some at a time
RESET SESSION AUTHORIZATION;
INSERT INTO detect._history SELECT -n, now() - interval '1 year' - n * interval '1 hour', 'x', NULL, 'pause', 'old', NULL, NULL
FROM generate_series(1, 2500) n;
INSERT INTO detect._history VALUES (0, now() - interval '364 days', 'x', NULL, 'pause', 'old', NULL, NULL);
SET SESSION AUTHORIZATION regress_history;
SELECT detect.create_stream('event', server => '');
RESET SESSION AUTHORIZATION;
SELECT regress.wait_for_rows('SELECT FROM detect._history WHERE object = ''old''', 1);

SET client_min_messages = warning;
DELETE FROM detect._history;
DROP SCHEMA history CASCADE;
DROP ROLE regress_history, regress_history_member, regress_history_other, regress_history_monitor;
