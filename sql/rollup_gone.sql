--
-- rollup_gone: which event times have lost events
--
-- The applier writes down what has vanished before it merges the next batch.
-- What is deleted or truncated is no loss, but an edit (rollup_repair).
--
SET client_min_messages = warning;
CREATE ROLE regress_gone IN ROLE detect_admin LOGIN;
CREATE SCHEMA rollup_gone AUTHORIZATION regress_gone;
GRANT USAGE ON SCHEMA rollup_gone TO PUBLIC;
SET search_path = rollup_gone, public;
SET timezone = 'UTC';
-- What is gone of a table; times about now are shown as such.
CREATE FUNCTION shown(t timestamptz) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN t BETWEEN now() - interval '2 days' AND now() + interval '4 days' THEN 'about now' ELSE t::text END
$$;
CREATE FUNCTION gone(events_table regclass) RETURNS TABLE (since text, until text) LANGUAGE sql SECURITY DEFINER AS $$
    SELECT rollup_gone.shown(g.from_time), rollup_gone.shown(g.until_time)
    FROM detect._gone g WHERE g.events_table = $1 ORDER BY g.from_time, g.until_time
$$;
CREATE FUNCTION known(events_table regclass) RETURNS bigint LANGUAGE sql SECURITY DEFINER AS $$
    SELECT count(*) FROM detect._partition p WHERE p.events_table = $1
$$;
SET SESSION AUTHORIZATION regress_gone;

CREATE TABLE visit (visit_id int, at timestamptz) PARTITION BY RANGE (at);
CREATE FUNCTION add_partition(day date) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('CREATE TABLE rollup_gone.visit_%s PARTITION OF rollup_gone.visit FOR VALUES FROM (%L) TO (%L)',
                   to_char(day, 'MMDD'), day, day + 1);
END $$;
SELECT count(add_partition(day::date)) FROM generate_series('2024-03-01', '2024-03-20', interval '1 day') day;
CREATE TABLE visit_rest PARTITION OF visit DEFAULT;
SELECT detect.create_stream('visit', key => '{}', event_time => 'at');
-- An event on each of these days, and one that the default partition takes.
CREATE FUNCTION stage(first int, last int) RETURNS void LANGUAGE sql AS $$
    INSERT INTO detect_staging.visit SELECT n, '2024-02-29 12:00+00'::timestamptz + n * interval '1 day' FROM generate_series(first, last) n
    UNION ALL SELECT 0, '2023-06-01 12:00+00'
$$;

-- without a rollup nothing can be wrong
SELECT stage(1, 20);
SELECT detect.wait_for('visit');
DROP TABLE visit_0320;
TRUNCATE visit_0319;
SELECT stage(1, 18);
SELECT detect.wait_for('visit');
SELECT * FROM gone('visit');
SELECT known('visit');

-- a rollup knows the partitions that it is filled from
SELECT detect.create_rollup('per_day', 'SELECT date_trunc(''day'', at) AS day, count(*) AS n FROM visit GROUP BY 1');
SELECT detect.wait_for_rollup('per_day');
SELECT known('visit') - (SELECT count(*) FROM pg_inherits WHERE inhparent = 'visit'::regclass) AS too_many;
SELECT * FROM gone('visit');

-- what is deleted is an edit, what comes along has lost nothing
DELETE FROM visit WHERE at < '2024-03-02';
CREATE TABLE visit_0319b (visit_id int, at timestamptz);
ALTER TABLE visit ATTACH PARTITION visit_0319b FOR VALUES FROM ('2024-03-20') TO ('2024-03-21');
SELECT stage(1, 18);
SELECT detect.wait_for('visit');
SELECT * FROM gone('visit');
SELECT known('visit') - (SELECT count(*) FROM pg_inherits WHERE inhparent = 'visit'::regclass) AS too_many;

-- dropped by hand: neighbours make one row
DROP TABLE visit_0302;
SELECT stage(3, 3);
SELECT detect.wait_for('visit');
SELECT * FROM gone('visit');
DROP TABLE visit_0301;
DROP TABLE visit_0305;
SELECT stage(3, 3);
SELECT detect.wait_for('visit');
SELECT * FROM gone('visit');
DROP TABLE visit_0303, visit_0304;
SELECT stage(6, 6);
SELECT detect.wait_for('visit');
SELECT * FROM gone('visit');

-- detached: that it comes back brings nothing back
ALTER TABLE visit DETACH PARTITION visit_0308;
SELECT stage(6, 6);
SELECT detect.wait_for('visit');
SELECT * FROM gone('visit');
ALTER TABLE visit ATTACH PARTITION visit_0308 FOR VALUES FROM ('2024-03-08') TO ('2024-03-09');
SELECT stage(6, 9);
SELECT detect.wait_for('visit');
SELECT * FROM gone('visit');

-- dropped and made again between two batches
BEGIN;
DROP TABLE visit_0310;
SELECT add_partition('2024-03-10');
COMMIT;
SELECT stage(10, 10);
SELECT detect.wait_for('visit');
SELECT * FROM gone('visit');

-- what is rolled back is not lost
BEGIN;
DROP TABLE visit_0312;
TRUNCATE visit_0313;
SELECT * FROM gone('visit');
ROLLBACK;
SELECT stage(12, 12);
SELECT detect.wait_for('visit');
SELECT * FROM gone('visit');

-- TRUNCATE takes nothing that groups would keep
TRUNCATE visit_0313, visit_0314;
TRUNCATE visit_0313;
SELECT * FROM gone('visit');

-- the default partition has what no other has, up to what a stream takes
INSERT INTO visit VALUES (-1, '2023-06-01');
SELECT stage(15, 15);
SELECT detect.wait_for('visit');
DROP TABLE visit_rest;
CREATE TABLE visit_2023 PARTITION OF visit FOR VALUES FROM ('2023-01-01') TO ('2024-01-01');
SELECT stage(15, 15);
SELECT detect.wait_for('visit');
SELECT * FROM gone('visit');

-- whose rollup is dropped has no more to remember; another one begins anew
SELECT detect.drop_rollup('per_day');
SELECT * FROM gone('visit');
SELECT known('visit');
SELECT detect.create_rollup('again', 'SELECT date_trunc(''day'', at) AS day, count(*) AS n FROM visit GROUP BY 1');
SELECT detect.wait_for_rollup('again');
SELECT known('visit') - (SELECT count(*) FROM pg_inherits WHERE inhparent = 'visit'::regclass) AS too_many;
DROP TABLE visit_0315;

-- a stream that is dropped and made again: what vanished meanwhile is known
SELECT detect.drop_stream('visit');
DROP TABLE visit_0318;
SELECT detect.create_stream('visit', key => '{}', event_time => 'at');
SELECT stage(16, 16);
SELECT detect.wait_for('visit');
SELECT * FROM gone('visit');
DROP VIEW again;
SELECT * FROM gone('visit');
SELECT detect.drop_rollup('again', if_exists => true);
SELECT detect.drop_stream('visit');

-- event times without a zone are in UTC, dates begin at midnight
SET timezone = 'Asia/Tokyo';
CREATE TABLE stay (stay_id int, at timestamp, PRIMARY KEY (stay_id, at)) PARTITION BY RANGE (at);
CREATE TABLE stay_1 PARTITION OF stay FOR VALUES FROM (MINVALUE) TO ('2024-01-01');
CREATE TABLE stay_2 PARTITION OF stay FOR VALUES FROM ('2024-01-01') TO ('2024-02-01');
CREATE TABLE stay_3 PARTITION OF stay FOR VALUES FROM ('2024-02-01') TO (MAXVALUE);
SELECT detect.create_stream('stay');
SELECT detect.create_rollup('stays', 'SELECT count(*) AS n FROM stay');
CREATE TABLE night (night_id int, at date, PRIMARY KEY (night_id, at)) PARTITION BY RANGE (at);
CREATE TABLE night_1 PARTITION OF night FOR VALUES FROM ('2024-01-01') TO ('2024-01-02');
CREATE TABLE night_2 PARTITION OF night FOR VALUES FROM ('2024-01-02') TO (MAXVALUE);
SELECT detect.create_stream('night');
SELECT detect.create_rollup('nights', 'SELECT at, count(*) AS n FROM night GROUP BY at');
SELECT detect.wait_for_rollup('stays');
SELECT detect.wait_for_rollup('nights');
DROP TABLE stay_2;
ALTER TABLE stay DETACH PARTITION stay_1 CONCURRENTLY;
DROP TABLE night_1;
INSERT INTO detect_staging.stay VALUES (1, now());
INSERT INTO detect_staging.night VALUES (1, now());
SELECT detect.wait_for('stay'), detect.wait_for('night');
SET timezone = 'UTC';
SELECT * FROM gone('stay');
SELECT * FROM gone('night');

RESET SESSION AUTHORIZATION;
CREATE TRIGGER t AFTER DELETE ON rollup_gone.stay FOR EACH STATEMENT EXECUTE FUNCTION detect._truncated();
SELECT regress.attempt('DELETE FROM rollup_gone.stay');

DROP SCHEMA rollup_gone CASCADE;
SELECT count(*) FROM detect._gone;
SELECT count(*) FROM detect._partition;
DROP ROLE regress_gone;
