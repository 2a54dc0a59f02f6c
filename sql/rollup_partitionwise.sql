--
-- rollup_partitionwise: states are partial where the planner aggregates partition by partition
--
-- enable_partitionwise_aggregate puts an Append on top of the plan, or a node that
-- finishes what others below it have begun.  The oracle is the query itself.
--
SET client_min_messages = warning;
CREATE ROLE regress_partitionwise IN ROLE detect_admin LOGIN;
-- workers take it along, as they would from the database
ALTER ROLE regress_partitionwise SET enable_partitionwise_aggregate = on;
CREATE SCHEMA rollup_partitionwise AUTHORIZATION regress_partitionwise;
SET SESSION AUTHORIZATION regress_partitionwise;
SET search_path = rollup_partitionwise, public;
SET timezone = 'UTC';
SET max_parallel_workers_per_gather = 0;

-- Eight days, four times in each, with 1250 events of five kinds at each time.
CREATE TABLE event (id int, at timestamptz, kind int, v int, w numeric, f float8) PARTITION BY RANGE (at);
DO $$
BEGIN
    FOR day IN 1..8 LOOP
        EXECUTE format('CREATE TABLE %I PARTITION OF event FOR VALUES FROM (%L) TO (%L)', 'event_' || day,
                       '2024-03-01'::date + day, '2024-03-01'::date + day + 1);
    END LOOP;
END $$;
INSERT INTO event
SELECT n, '2024-03-02'::timestamptz + (n / 1250) * interval '6 hours', n % 5, n % 100, n / 8.0, n % 64 FROM generate_series(0, 39999) n;
ANALYZE event;

CREATE TABLE kept (name text PRIMARY KEY, query text);
INSERT INTO kept VALUES
('per_kind',     $$ SELECT kind, count(*) AS n, sum(v) AS v, max(id) AS last_id FROM event GROUP BY kind $$),
('per_day',      $$ SELECT date_trunc('day', at) AS day, count(*) AS n, min(v) AS least, count(*) FILTER (WHERE v > 50) AS much FROM event GROUP BY 1 $$),
-- the partition key itself: no group has rows of two partitions
('per_time',     $$ SELECT at, count(*) AS n, sum(v) AS v FROM event GROUP BY at $$),
('per_time_kind', $$ SELECT at, kind, count(*) AS n FROM event WHERE v < 90 GROUP BY at, kind $$),
('kinds',        $$ SELECT kind FROM event GROUP BY kind $$),
('all_in_one',   $$ SELECT count(*) AS n, sum(v) AS v, min(at) AS since, max(at) AS until FROM event $$),
-- states that are internal, and serialized
('averages',     $$ SELECT kind, avg(w) AS w, avg(f) AS f, stddev(v) AS spread, sum(id::bigint) AS ids FROM event GROUP BY kind $$),
('averages_at',  $$ SELECT at, avg(w) AS w, sum(w) AS sum FROM event GROUP BY at HAVING count(*) > 1 $$);

-- How the planner would do it: nodes that aggregate, for each query more than one.
CREATE FUNCTION aggregations(query text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    line text;
    lines bigint := 0;
BEGIN
    FOR line IN EXECUTE 'EXPLAIN (COSTS OFF) ' || query LOOP
        lines := lines + (line ~ 'Aggregate|Group$')::int;
    END LOOP;
    RETURN lines;
END $$;
SET enable_partitionwise_aggregate = on;
SELECT name, aggregations(query) > 1 AS by_partition FROM kept ORDER BY name COLLATE "C";

-- filled from what was there
SELECT detect.create_stream('event', server => '', key => '{id}', event_time => 'at', partition_interval => '1 day');
SELECT count(detect.create_rollup(name, query)) FROM kept;
SELECT count(*) FROM (SELECT detect.wait_for_rollup(name, '1 minute') FROM kept) w;
SELECT name, regress.compare(name, query) FROM kept ORDER BY name COLLATE "C";
SELECT rollup, state, error FROM detect.stat_rollup WHERE state <> 'active' OR error IS NOT NULL ORDER BY rollup COLLATE "C";

-- a batch, into the groups that are there
INSERT INTO detect_staging.event SELECT n, '2024-03-02'::timestamptz + (n % 32) * interval '6 hours', n % 6, n % 100, n / 8.0, n % 64 FROM generate_series(40000, 40999) n;
SELECT detect.wait_for('event');
SELECT name, regress.compare(name, query) FROM kept ORDER BY name COLLATE "C";

-- verified by a session that plans so, and one that does not
CREATE VIEW differing AS SELECT k.name, v.* FROM kept k, detect.verify_rollup(k.name) v;
SELECT * FROM differing ORDER BY name COLLATE "C", group_columns;
SELECT * FROM detect.verify_rollup('per_day', '2024-03-03', '2024-03-06');
RESET enable_partitionwise_aggregate;
SELECT * FROM differing ORDER BY name COLLATE "C", group_columns;
-- and what is damaged is found
RESET SESSION AUTHORIZATION;
UPDATE detect_state.per_kind SET n = n + 1 WHERE kind = 3;
UPDATE detect_state.per_time SET v = 0 WHERE at = '2024-03-05 06:00';
DELETE FROM detect_state.per_day WHERE day IN ('2024-03-04', '2024-03-08');
SET SESSION AUTHORIZATION regress_partitionwise;
SET enable_partitionwise_aggregate = on;
SELECT name, problem, group_columns FROM differing ORDER BY name COLLATE "C", group_columns;
RESET enable_partitionwise_aggregate;
SELECT name, problem, group_columns FROM differing ORDER BY name COLLATE "C", group_columns;

-- computed again: as a whole, and by a range of several partitions
SELECT detect.rebuild_rollup('per_kind'), detect.rebuild_rollup('per_time', '2024-03-03', '2024-03-07'), detect.rebuild_rollup('per_day', to_time => '2024-03-06');
SELECT detect.wait_for_rollup('per_kind', '1 minute'), detect.wait_for_rollup('per_time', '1 minute'), detect.wait_for_rollup('per_day', '1 minute');
SELECT name, problem, group_columns FROM differing ORDER BY name COLLATE "C", group_columns;
SELECT count(detect.rebuild_rollup(name)) FROM kept;
SELECT count(*) FROM (SELECT detect.wait_for_rollup(name, '1 minute') FROM kept) w;
SELECT name, regress.compare(name, query) FROM kept ORDER BY name COLLATE "C";

-- after an edit in all partitions, those that have a bucket
UPDATE event SET v = v + 1, w = w + 1 WHERE id % 10 = 7;
DELETE FROM event WHERE id % 1000 = 3;
SELECT detect.wait_for('event');
SELECT k.name, regress.compare(k.name, k.query) FROM kept k JOIN detect.stat_rollup s ON s.rollup = k.name WHERE s.repair_error IS NULL ORDER BY k.name COLLATE "C";

RESET SESSION AUTHORIZATION;
RESET max_parallel_workers_per_gather;
DROP SCHEMA rollup_partitionwise CASCADE;
DROP ROLE regress_partitionwise;
