--
-- batch_time: how much one commit applies follows from how long that takes
--
CREATE SCHEMA batch_time;
CREATE ROLE regress_batch_time IN ROLE detect_admin LOGIN;
GRANT ALL ON SCHEMA batch_time TO regress_batch_time;
SET SESSION AUTHORIZATION regress_batch_time;
SET search_path = batch_time, public;
SET client_min_messages = warning;

-- A row takes at least a millisecond, and 250 of them what a commit may take.
CREATE FUNCTION slow(v int) RETURNS int LANGUAGE plpgsql AS $$
DECLARE
    until timestamptz := clock_timestamp() + interval '1 ms';
BEGIN
    WHILE clock_timestamp() < until LOOP
    END LOOP;
    RETURN v;
END $$;
CREATE TABLE event (id int PRIMARY KEY, v int);
SELECT detect.create_stream('event', query => 'SELECT id, batch_time.slow(v) AS v FROM batch');
CREATE FUNCTION rows_of_commits(from_id int, to_id int) RETURNS TABLE (n bigint) LANGUAGE sql AS
    'SELECT count(*) FROM batch_time.event WHERE id BETWEEN from_id AND to_id GROUP BY xmin::text';

INSERT INTO detect_staging.event SELECT i, i FROM generate_series(1, 1500) i;
SELECT detect.wait_for('event', '3 min');
SELECT sum(n) AS events, max(n) <= 250 AS is_bounded FROM rows_of_commits(1, 1500);

-- A worker that starts anew begins with few.
SELECT detect.pause('event');
CALL regress.await('SELECT FROM detect.stat_worker WHERE stream = ''event'' AND pid IS NOT NULL', 0);
INSERT INTO detect_staging.event SELECT i, i FROM generate_series(1501, 2500) i;
SELECT detect.resume('event');
SELECT detect.wait_for('event', '3 min');
SELECT sum(n) AS events, max(n) <= 250 AS is_bounded FROM rows_of_commits(1501, 2500);

-- What is fast has large commits.
CREATE OR REPLACE FUNCTION slow(v int) RETURNS int LANGUAGE sql AS 'SELECT v';
INSERT INTO detect_staging.event SELECT i, i FROM generate_series(2501, 22500) i;
SELECT detect.wait_for('event', '3 min');
SELECT sum(n) AS events, max(n) > 500 AS has_grown FROM rows_of_commits(2501, 22500);

-- So has a trigger its share.
CREATE FUNCTION hold_up() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    until timestamptz := clock_timestamp() + interval '1 ms';
BEGIN
    WHILE clock_timestamp() < until LOOP
    END LOOP;
    RETURN NEW;
END $$;
CREATE TRIGGER hold_up BEFORE INSERT ON event FOR EACH ROW EXECUTE FUNCTION hold_up();
SELECT detect.pause('event');
CALL regress.await('SELECT FROM detect.stat_worker WHERE stream = ''event'' AND pid IS NOT NULL', 0);
SELECT detect.resume('event');
INSERT INTO detect_staging.event SELECT i, i FROM generate_series(22501, 23500) i;
SELECT detect.wait_for('event', '3 min');
SELECT sum(n) AS events, max(n) <= 250 AS is_bounded FROM rows_of_commits(22501, 23500);

-- Who wants it has all in one commit.
SELECT detect.pause('event');
CALL regress.await('SELECT FROM detect.stat_worker WHERE stream = ''event'' AND pid IS NOT NULL', 0);
RESET SESSION AUTHORIZATION;
ALTER SYSTEM SET detect.max_batch_time = 0;
SELECT pg_reload_conf();
SET SESSION AUTHORIZATION regress_batch_time;
INSERT INTO detect_staging.event SELECT i, i FROM generate_series(23501, 24500) i;
SELECT detect.resume('event');
SELECT detect.wait_for('event', '3 min');
SELECT n FROM rows_of_commits(23501, 24500);
RESET SESSION AUTHORIZATION;
ALTER SYSTEM RESET detect.max_batch_time;
SELECT pg_reload_conf();

SELECT detect.drop_stream('event');
DROP SCHEMA batch_time CASCADE;
DROP ROLE regress_batch_time;
