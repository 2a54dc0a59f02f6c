--
-- privileges: who sees what, and who may do what
--
-- The owner and its members, one who feeds the stream, one who reads, another
-- detect_admin, one who watches, a stranger, and a superuser.
--
CREATE ROLE regress_owner IN ROLE detect_admin LOGIN;
CREATE ROLE regress_member IN ROLE regress_owner LOGIN;
CREATE ROLE regress_noinherit IN ROLE regress_owner LOGIN NOINHERIT;
CREATE ROLE regress_feeder LOGIN;
CREATE ROLE regress_reader LOGIN;
CREATE ROLE regress_admin IN ROLE detect_admin LOGIN;
CREATE ROLE regress_watcher IN ROLE pg_monitor LOGIN;
CREATE ROLE regress_stranger LOGIN;
CREATE SCHEMA privileges AUTHORIZATION regress_owner;
GRANT USAGE ON SCHEMA privileges TO PUBLIC;

SET SESSION AUTHORIZATION regress_owner;
SET search_path = privileges, public;
SET client_min_messages = warning;
CREATE TABLE event (id int PRIMARY KEY, v int CHECK (v < 100));
SELECT detect.create_stream('event');
SELECT detect.create_rollup('event_sum', 'SELECT sum(v) AS v, avg(v) AS mean FROM event');
GRANT INSERT (id, v) ON detect_staging.event TO regress_feeder;
GRANT SELECT ON event_sum TO regress_reader, regress_admin;

-- ---------------------------------------------------------------------
-- Feeding needs the right to insert into the staging table, and no other
-- ---------------------------------------------------------------------
SET SESSION AUTHORIZATION regress_feeder;
SELECT label, regress.outcome(statement)
FROM (VALUES
    ('feed',            'INSERT INTO detect_staging.event (id, v) VALUES (1, 10), (2, 20), (2, 30), (3, 1000)'),
    ('read',            'SELECT * FROM detect_staging.event'),
    ('take back',       'DELETE FROM detect_staging.event'),
    ('empty',           'TRUNCATE detect_staging.event'),
    ('the ordinal',     'INSERT INTO detect_staging.event VALUES (1, 10, 1)'),
    ('the events',      'INSERT INTO privileges.event VALUES (4, 40)'),
    ('wait',            'SELECT detect.wait_for(''event'')')) v (label, statement);
SET SESSION AUTHORIZATION regress_owner;
SELECT detect.wait_for('event');
SELECT detect.wait_for_rollup('event_sum');
SELECT * FROM privileges.event ORDER BY id;

-- ---------------------------------------------------------------------
-- What each of them sees
-- ---------------------------------------------------------------------
CREATE FUNCTION privileges.seen() RETURNS TABLE (who name, stream bigint, rollup bigint, stat_stream bigint, stat_partition bigint,
                                                 stat_rollup bigint, stat_worker bigint, dead_letter bigint, has_query boolean)
LANGUAGE sql AS $$
    SELECT current_user, (SELECT count(*) FROM detect.stream), (SELECT count(*) FROM detect.rollup),
           (SELECT count(*) FROM detect.stat_stream), (SELECT count(*) FROM detect.stat_partition),
           (SELECT count(*) FROM detect.stat_rollup), (SELECT count(*) FROM detect.stat_worker),
           (SELECT count(*) FROM detect.dead_letter), (SELECT bool_and(query <> '') FROM detect.stream)
$$;
SELECT * FROM privileges.seen();
SET SESSION AUTHORIZATION regress_member;
SELECT * FROM privileges.seen();
SET SESSION AUTHORIZATION regress_noinherit;
SELECT * FROM privileges.seen();
SET SESSION AUTHORIZATION regress_feeder;
SELECT * FROM privileges.seen();
SET SESSION AUTHORIZATION regress_reader;
SELECT * FROM privileges.seen();
SET SESSION AUTHORIZATION regress_admin;
SELECT * FROM privileges.seen();
SET SESSION AUTHORIZATION regress_watcher;
SELECT * FROM privileges.seen();
SET SESSION AUTHORIZATION regress_stranger;
SELECT * FROM privileges.seen();
RESET SESSION AUTHORIZATION;
SELECT * FROM privileges.seen();

-- ---------------------------------------------------------------------
-- What each of them may do; what succeeds is undone
-- ---------------------------------------------------------------------
CREATE TABLE privileges.deed (n int GENERATED ALWAYS AS IDENTITY, label text, statement text);
GRANT SELECT ON privileges.deed TO PUBLIC;
INSERT INTO privileges.deed (label, statement) VALUES
    ('read the rollup',         'SELECT * FROM privileges.event_sum'),
    ('read its states',         'SELECT * FROM detect_state.event_sum'),
    ('write its states',        'UPDATE detect_state.event_sum SET v = 0'),
    ('read the events',         'SELECT * FROM privileges.event'),
    ('read what is staged',     'SELECT * FROM detect_staging.event'),
    ('stage',                   'INSERT INTO detect_staging.event (id) VALUES (9)'),
    ('read through the query',  'SELECT * FROM detect_query.event'),
    ('pause',                   'SELECT detect.pause(''event'')'),
    ('resume',                  'SELECT detect.resume(''event'')'),
    ('wait for the stream',     'SELECT detect.wait_for(''event'')'),
    ('wait for the rollup',     'SELECT detect.wait_for_rollup(''event_sum'')'),
    ('make a rollup',           'SELECT detect.create_rollup(''event_count'', ''SELECT count(*) FROM privileges.event'')'),
    ('drop the rollup',         'SELECT detect.drop_rollup(''event_sum'')'),
    ('drop the stream',         'SELECT detect.drop_stream(''event'')'),
    ('drop its query',          'DROP VIEW detect_query.event CASCADE'),
    ('drop its staging table',  'DROP TABLE detect_staging.event CASCADE'),
    ('make a table of ours',    'CREATE TABLE detect.x (a int)'),
    ('in detect_staging',       'CREATE TABLE detect_staging.x (a int)'),
    ('in detect_query',         'CREATE VIEW detect_query.x AS SELECT 1'),
    ('in detect_state',         'CREATE TABLE detect_state.x (a int)'),
    ('read our streams',        'SELECT * FROM detect._stream'),
    ('read our rollups',        'SELECT * FROM detect._rollup'),
    ('read our progress',       'SELECT * FROM detect._applied_progress'),
    ('read staged progress',    'SELECT * FROM detect._staged_progress'),
    ('read dead letters',       'SELECT * FROM detect._dead_letter'),
    ('write our streams',       'UPDATE detect._stream SET paused = true'),
    ('write our rollups',       'DELETE FROM detect._rollup'),
    ('write our progress',      'INSERT INTO detect._applied_progress DEFAULT VALUES'),
    ('write through the view',  'UPDATE detect.stream SET paused = true'),
    ('write dead letters',      'DELETE FROM detect.dead_letter'),
    ('take a number',           'SELECT nextval(''detect._id'')'),
    ('our trigger elsewhere',   'CREATE TEMP TABLE x (a int); CREATE TRIGGER x AFTER INSERT ON x FOR EACH STATEMENT EXECUTE FUNCTION detect._staged(); INSERT INTO x VALUES (1)'),
    ('our event trigger',       'CREATE EVENT TRIGGER x ON sql_drop EXECUTE FUNCTION detect._dropped()'),
    ('set detect.max_batch_rows', 'SET LOCAL detect.max_batch_rows = 1'),
    ('set detect.superuser_streams', 'SET LOCAL detect.superuser_streams = on');

\pset format unaligned
\pset tuples_only on
\pset fieldsep ': '
SELECT session_user, label, regress.attempt(statement) FROM privileges.deed ORDER BY n;
SELECT session_user, call, regress.attempt('SELECT ' || call)
FROM unnest(ARRAY['detect._dropped()', 'detect._dropping()', 'detect._staged()', 'detect._accepted()']) call;
SET SESSION AUTHORIZATION regress_owner;
SELECT session_user, label, regress.attempt(statement) FROM privileges.deed ORDER BY n;
SET SESSION AUTHORIZATION regress_member;
SELECT session_user, label, regress.attempt(statement) FROM privileges.deed ORDER BY n LIMIT 16;
SET SESSION AUTHORIZATION regress_noinherit;
SELECT session_user, label, regress.attempt(statement) FROM privileges.deed ORDER BY n LIMIT 16;
SET SESSION AUTHORIZATION regress_reader;
SELECT session_user, label, regress.attempt(statement) FROM privileges.deed ORDER BY n LIMIT 16;
SET SESSION AUTHORIZATION regress_admin;
SELECT session_user, label, regress.attempt(statement) FROM privileges.deed ORDER BY n LIMIT 16;
SET SESSION AUTHORIZATION regress_watcher;
SELECT session_user, label, regress.attempt(statement) FROM privileges.deed ORDER BY n LIMIT 16;
SET SESSION AUTHORIZATION regress_stranger;
SELECT session_user, label, regress.attempt(statement) FROM privileges.deed ORDER BY n;

SET client_min_messages = notice;
-- a condition that tells what it sees sees no row of others
CREATE FUNCTION pg_temp.tell(text) RETURNS boolean LANGUAGE plpgsql COST 0.0001 AS 'BEGIN RAISE NOTICE ''seen: %'', $1; RETURN true; END';
SELECT stream FROM detect.dead_letter WHERE pg_temp.tell(reason);
SELECT stream FROM detect.stream WHERE pg_temp.tell(stream);
SELECT stream FROM detect.stat_stream WHERE pg_temp.tell(stream);
SELECT stream FROM detect.stat_partition WHERE pg_temp.tell(stream);
SELECT rollup FROM detect.rollup WHERE pg_temp.tell(rollup);
SELECT rollup FROM detect.stat_rollup WHERE pg_temp.tell(rollup);
SELECT stream FROM detect.stat_worker WHERE pg_temp.tell(stream);
DROP FUNCTION pg_temp.tell;

-- the streams and rollups of others are as unknown as those that are not there, but for their names
SELECT 'a stranger', statement, regress.attempt(statement)
FROM unnest(ARRAY['SELECT detect.pause(''no_such_stream'')', 'SELECT detect.create_stream(''x'')', 'SELECT detect.create_rollup(''x'', ''y'')',
                  'SELECT detect.drop_rollup(''no_such_rollup'', true)']) statement;

-- ---------------------------------------------------------------------
-- Our functions, called by hand with what they are not made for
-- ---------------------------------------------------------------------
SELECT call, regress.attempt('SELECT ' || call)
FROM unnest(ARRAY[
    'detect._staged()', 'detect._accepted()', 'detect._dropped()', 'detect._dropping()',
    'detect._stream_owner(NULL)', 'detect._stream_owner(''no_such_stream'')', 'detect._stream_owner(repeat(''x'', 100))',
    'detect._may_see(NULL)', 'detect._may_see(0)', 'count(*) FROM detect._slots()',
    'detect._combine(NULL, NULL::int, NULL::int)', 'detect._combine(''sum(int)'', NULL::bigint, NULL::bigint)',
    'detect._combine(''sum(int)'', 1::bigint, NULL::bigint)', 'detect._combine(''sum(int)'', NULL, 2::bigint)',
    'detect._combine(''sum(int)'', NULL, NULL)', 'detect._combine(0, 1, 1)', 'detect._combine(4294967295, 1, 1)',
    'detect._combine(''now()'', 1, 1)', 'detect._combine(''max(anyarray)'', ARRAY[1], ARRAY[2])', 'detect._combine(''max(anyarray)'', 1, 2)',
    'detect._combine(''max(text)'', ''a''::text, ''b'')', 'detect._combine(''rank("any")'', 1, 2)',
    'detect._combine(''avg(int)'', ''{1,1}''::bigint[], ''{2,2,2}'')', 'detect._combine(''avg(int)'', ''{}''::bigint[], ''{}'')',
    'detect._combine(''avg(int)'', ''{NULL,1}''::bigint[], ''{1,1}'')', 'detect._combine(''avg(float8)'', ''{1}''::float8[], ''{1,1,1}'')',
    'detect._combine(''avg(numeric)'', ''\x''::bytea, ''\x'')', 'detect._combine(''avg(numeric)'', ''\x00''::bytea, ''\xff'')',
    'detect._combine(''avg(bigint)'', decode(repeat(''00ff'', 50), ''hex''), decode(repeat(''00'', 100), ''hex''))',
    'detect._combine(''stddev(int)'', decode(repeat(''7f'', 1000), ''hex''), NULL)',
    'detect._finalize(NULL::int, NULL, 1)', 'detect._finalize(NULL, ''sum(int)'', 1::bigint)', 'detect._finalize(1, ''sum(int)'', 1)',
    'detect._finalize(''x''::text, ''sum(int)'', 1::bigint)', 'detect._finalize(NULL::bigint, ''sum(int)'', NULL)',
    'detect._finalize(NULL::numeric, ''avg(int)'', NULL::bigint[])', 'detect._finalize(NULL::numeric, ''avg(int)'', ''{0,1}''::bigint[])',
    'detect._finalize(NULL::numeric, ''avg(int)'', ''{3}''::bigint[])', 'detect._finalize(NULL::numeric, ''avg(numeric)'', ''\x''::bytea)',
    'detect._finalize(NULL::numeric, ''avg(numeric)'', decode(repeat(''41'', 2000), ''hex''))',
    'detect._finalize(NULL::float8, ''avg(float8)'', ''{1}''::float8[])', 'detect._finalize(NULL::float8, ''corr(float8,float8)'', ''{1,2,3}''::float8[])',
    'detect._finalize(NULL::int[], ''array_agg(anynonarray)'', 1)', 'detect._finalize(NULL::json, ''json_agg(anyelement)'', ''\x''::bytea)',
    'detect._finalize(NULL::float8, ''percentile_cont(float8,float8)'', 1)',
    'detect._finalize(NULL::public.geometry, ''public.st_union(public.geometry)'', ''\x0100000000000000ffffffffffffffff''::bytea)',
    'detect._combine(''public.st_union(public.geometry)'', ''\x01''::bytea, decode(repeat(''ff'', 100), ''hex''))',
    'detect.wait_for(NULL)', 'detect.wait_for(''event'', NULL)', 'detect.pause(NULL)', 'detect.drop_stream(NULL)', 'detect.drop_rollup(NULL, NULL)',
    'detect.wait_for_rollup(NULL)', 'detect.wait_for('''')', 'detect.pause(repeat(''x'', 100))']) call;
CREATE TEMP TABLE caught (a int);
SELECT label, regress.attempt(format('CREATE TRIGGER t %s; INSERT INTO caught VALUES (1)', trigger))
FROM (VALUES
    ('_staged, row',                'AFTER INSERT ON caught FOR EACH ROW EXECUTE FUNCTION detect._staged()'),
    ('_staged, before',             'BEFORE INSERT ON caught FOR EACH STATEMENT EXECUTE FUNCTION detect._staged()'),
    ('_staged, of another stream',  'AFTER INSERT ON caught FOR EACH STATEMENT EXECUTE FUNCTION detect._staged(''event'')'),
    ('_accepted, row',              'AFTER INSERT ON caught REFERENCING NEW TABLE AS n FOR EACH ROW EXECUTE FUNCTION detect._accepted()'),
    ('_accepted, no new table',     'AFTER INSERT ON caught FOR EACH STATEMENT EXECUTE FUNCTION detect._accepted()'),
    ('_accepted, before',           'BEFORE INSERT ON caught FOR EACH STATEMENT EXECUTE FUNCTION detect._accepted()'),
    ('_accepted, right',            'AFTER INSERT ON caught REFERENCING NEW TABLE AS n FOR EACH STATEMENT EXECUTE FUNCTION detect._accepted()'),
    ('_dropped',                    'AFTER INSERT ON caught FOR EACH STATEMENT EXECUTE FUNCTION detect._dropped()')) v (label, trigger);
DROP TABLE caught;
\pset tuples_only off
\pset format aligned

-- ---------------------------------------------------------------------
-- Tables that are made with our rights do not follow the caller's settings
-- ---------------------------------------------------------------------
RESET SESSION AUTHORIZATION;
SET allow_in_place_tablespaces = true;
CREATE TABLESPACE regress_closed LOCATION '';
CREATE SERVER regress_nowhere FOREIGN DATA WRAPPER detect_kafka OPTIONS (bootstrap_servers '127.0.0.1:1');
GRANT USAGE ON FOREIGN SERVER regress_nowhere TO regress_owner;
SET SESSION AUTHORIZATION regress_owner;
CREATE TABLE privileges.placed (id int PRIMARY KEY);
SET default_tablespace = regress_closed;
CREATE TABLE privileges.refused (id int);
BEGIN;
SELECT detect.create_stream('placed', events_table => 'privileges.placed', server => 'regress_nowhere');
SELECT relnamespace::regnamespace, relpersistence, reltablespace FROM pg_class
WHERE relkind = 'r' AND (relnamespace = 'detect_staging'::regnamespace AND relname = 'placed' OR relname ~ '^_staged_\d')
ORDER BY relpersistence;
ROLLBACK;
RESET default_tablespace;
RESET SESSION AUTHORIZATION;
DROP SERVER regress_nowhere;
DROP TABLESPACE regress_closed;

-- ---------------------------------------------------------------------
-- The worker works as the owner
-- ---------------------------------------------------------------------
SET SESSION AUTHORIZATION regress_owner;
CREATE TABLE who (id int PRIMARY KEY, current name, session name, is_super text, path text);
CREATE FUNCTION note_who() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    new.current := current_user;
    new.session := session_user;
    new.is_super := current_setting('is_superuser');
    new.path := current_setting('search_path');
    RETURN new;
END $$;
CREATE TRIGGER note_who BEFORE INSERT ON who FOR EACH ROW EXECUTE FUNCTION privileges.note_who();
SELECT detect.create_stream('who', events_table => 'privileges.who', query => 'SELECT b.id FROM batch b');
INSERT INTO detect_staging.who (id) VALUES (1);
SELECT detect.wait_for('who');
SELECT * FROM who;
SELECT DISTINCT usename FROM pg_stat_activity WHERE backend_type = 'detect apply' AND datname = current_database();

-- what the owner may no longer read pauses the stream, which says so
RESET SESSION AUTHORIZATION;
CREATE TABLE privileges.secret (id int PRIMARY KEY, v int);
GRANT SELECT ON privileges.secret TO regress_owner;
SET SESSION AUTHORIZATION regress_owner;
CREATE TABLE joined (id int PRIMARY KEY, v int);
SELECT detect.create_stream('joined', columns => 'id int', query => 'SELECT b.id, s.v FROM batch b LEFT JOIN secret s USING (id)');
INSERT INTO detect_staging.joined VALUES (1);
SELECT detect.wait_for('joined');
RESET SESSION AUTHORIZATION;
REVOKE SELECT ON privileges.secret FROM regress_owner;
SET SESSION AUTHORIZATION regress_owner;
INSERT INTO detect_staging.joined VALUES (2);
SELECT regress.wait_for_pause('joined');
RESET SESSION AUTHORIZATION;
GRANT SELECT ON privileges.secret TO regress_owner;
SET SESSION AUTHORIZATION regress_member;
SELECT detect.resume('joined');
SELECT detect.wait_for('joined');
SELECT changed_by, paused FROM detect.stream WHERE stream = 'joined';
SELECT id FROM privileges.joined ORDER BY id;

-- a member makes rollups of the owner's stream, which belong to the owner but for the view
SET search_path = privileges, public;
RESET SESSION AUTHORIZATION;
CREATE SCHEMA privileges_member AUTHORIZATION regress_member;
GRANT detect_admin TO regress_member;
SET SESSION AUTHORIZATION regress_member;
SET search_path = privileges_member, privileges, public;
SELECT detect.create_rollup('of_member', 'SELECT count(*) AS n FROM event');
SELECT detect.wait_for_rollup('of_member');
SELECT n FROM of_member;
SELECT rollup, owner, view FROM detect.rollup WHERE rollup = 'of_member';
SELECT relnamespace::regnamespace, pg_get_userbyid(relowner) AS owner FROM pg_class WHERE relname = 'of_member' ORDER BY relnamespace::regnamespace::text;

-- a superuser who does what health says of a stream or a rollup runs nothing of its owner's as himself, and keeps
-- none of the owner's settings
SET SESSION AUTHORIZATION regress_owner;
SET search_path = privileges, public;
CREATE FUNCTION spy(int) RETURNS bool LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('search_path', 'privileges, pg_catalog', false);
    IF current_user <> 'regress_owner' THEN
        RAISE EXCEPTION 'run as %', current_user;
    END IF;
    RETURN true;
END $$;
CREATE DOMAIN spying AS int CHECK (privileges.spy(VALUE));
CREATE TYPE spied AS (x spying);
CREATE TABLE watched (id int PRIMARY KEY, v int);
SELECT detect.create_stream('watched', query => $$ SELECT b.* FROM batch b WHERE '(1)'::spied IS NOT NULL $$);
CREATE FUNCTION spied_group(int) RETURNS int STABLE LANGUAGE plpgsql AS $$ BEGIN PERFORM privileges.spy($1); RETURN $1; END $$;
SELECT detect.create_rollup('watched_sum', 'SELECT spied_group(v) AS v, count(*) AS n FROM watched GROUP BY 1');
INSERT INTO detect_staging.watched VALUES (1, 1), (2, 1);
SELECT detect.wait_for('watched');
SELECT detect.wait_for_rollup('watched_sum');
RESET SESSION AUTHORIZATION;
SET search_path = public;
SELECT detect.alter_stream('watched', dead_letter_limit => 10);
SELECT * FROM detect.verify_rollup('watched_sum');
SHOW search_path;
SET SESSION AUTHORIZATION regress_admin;
SELECT regress.outcome($$ SELECT detect.create_stream('watched', if_not_exists => true) $$);
RESET SESSION AUTHORIZATION;

-- an owner who may not log in, or has become a superuser: the stream pauses instead of going on
RESET SESSION AUTHORIZATION;
SELECT detect.pause('who');
ALTER ROLE regress_owner NOLOGIN;
SELECT detect.resume('who');
SELECT regress.wait_for_pause('who');
ALTER ROLE regress_owner LOGIN;
SELECT detect.resume('who');
SELECT detect.wait_for('who');
ALTER ROLE regress_owner SUPERUSER;
SELECT regress.wait_for_pause('who');
ALTER ROLE regress_owner NOSUPERUSER;
SELECT detect.resume('who');
INSERT INTO detect_staging.who (id) VALUES (2);
SELECT detect.wait_for('who');
SELECT id, current FROM privileges.who ORDER BY id;

SET client_min_messages = warning;
DROP SCHEMA privileges, privileges_member CASCADE;
SELECT count(*) FROM detect._stream;
DROP ROLE regress_owner, regress_member, regress_noinherit, regress_feeder, regress_reader, regress_admin, regress_watcher, regress_stranger;
