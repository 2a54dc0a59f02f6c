--
-- gap: what can be said of gaps without a broker, and who sees those that were accepted
--
CREATE ROLE regress_gap IN ROLE detect_admin LOGIN;
CREATE ROLE regress_gap_member LOGIN IN ROLE regress_gap;
CREATE ROLE regress_gap_other IN ROLE detect_admin LOGIN;
CREATE ROLE regress_gap_monitor IN ROLE pg_monitor LOGIN;
CREATE SCHEMA gap AUTHORIZATION regress_gap;
SET search_path = gap, public;
CREATE SERVER regress_gap_nowhere FOREIGN DATA WRAPPER detect_kafka OPTIONS (bootstrap_servers '127.0.0.1:1');
GRANT USAGE ON FOREIGN SERVER regress_gap_nowhere TO regress_gap;

SET SESSION AUTHORIZATION regress_gap;
CREATE TABLE event (id int PRIMARY KEY);
CREATE TABLE by_sql (id int PRIMARY KEY);
SELECT detect.create_stream('event', server => 'regress_gap_nowhere', topics => '{a,b}');
SELECT detect.create_stream('by_sql', server => '');

-- calls that are none
SELECT detect.accept_gap(NULL);
SELECT detect.accept_gap('no_such_stream');
SELECT detect.accept_gap('by_sql');
SELECT detect.accept_gap('event', 'c');
SELECT detect.accept_gap('event', partition => 1);
SELECT detect.accept_gap('event', at_offset => 1);
SELECT detect.accept_gap('event', 'a', at_offset => 1);

-- no gap: nothing to do for all, a mistake for one
SELECT detect.accept_gap('event');
SELECT detect.accept_gap('event', 'a');
SELECT detect.accept_gap('event', 'a', 1);

-- a gap whose broker does not answer, and which is kept
RESET SESSION AUTHORIZATION;
INSERT INTO detect._staged_progress SELECT stream_id, 'a', 1, 9, 10, 20, 'lost', now(), false FROM detect._stream WHERE name = 'event';
SET SESSION AUTHORIZATION regress_gap;
\set VERBOSITY sqlstate
SELECT detect.accept_gap('event', 'a', 1);
\set VERBOSITY default
SELECT detect.accept_gap('event', 'a', 2);
SELECT count(*) FROM detect.gap;
SELECT count(*) FROM detect.history WHERE verb = 'accept_gap';

-- only the owner, and who is its member
SET SESSION AUTHORIZATION regress_gap_other;
SELECT detect.accept_gap('event', 'a', 1);
SET SESSION AUTHORIZATION regress_gap_monitor;
SELECT detect.accept_gap('event', 'a', 1);
SET SESSION AUTHORIZATION regress_gap_member;
SELECT detect.accept_gap('event', 'a', 2);

-- who sees it: owner, members and monitors; of a dropped stream who accepted it, and monitors
RESET SESSION AUTHORIZATION;
INSERT INTO detect._gap SELECT nextval('detect._gap_id'), stream_id, name, 'a', 1, 10, 20, 20, 'lost', now(), now(), 'regress_gap_member', 'regress_gap'
FROM detect._stream WHERE name = 'event';
INSERT INTO detect._gap SELECT nextval('detect._gap_id'), stream_id, name, 'a', 2, 5, 7, NULL, 'lost, too', now(), now(), 'regress_gap', NULL
FROM detect._stream WHERE name = 'event';
GRANT USAGE ON SCHEMA gap TO PUBLIC;
CREATE FUNCTION gap.seen() RETURNS SETOF text LANGUAGE sql AS
$$ SELECT concat_ws(' ', stream, kafka_topic, kafka_partition, from_offset, to_offset, resume_offset, reason, accepted_by, acting_as) FROM detect.gap ORDER BY gap_id $$;
SET SESSION AUTHORIZATION regress_gap;
SELECT * FROM gap.seen();
SET SESSION AUTHORIZATION regress_gap_member;
SELECT * FROM gap.seen();
SET SESSION AUTHORIZATION regress_gap_monitor;
SELECT * FROM gap.seen();
SET SESSION AUTHORIZATION regress_gap_other;
SELECT * FROM gap.seen();
SELECT * FROM detect._gap;
SET SESSION AUTHORIZATION regress_gap;
SELECT detect.drop_stream('event');
SELECT * FROM gap.seen();
SET SESSION AUTHORIZATION regress_gap_member;
SELECT * FROM gap.seen();
SET SESSION AUTHORIZATION regress_gap_monitor;
SELECT * FROM gap.seen();

RESET SESSION AUTHORIZATION;
SET client_min_messages = warning;
DELETE FROM detect._gap;
DROP SCHEMA gap CASCADE;
DROP SERVER regress_gap_nowhere CASCADE;
DROP ROLE regress_gap, regress_gap_member, regress_gap_other, regress_gap_monitor;
