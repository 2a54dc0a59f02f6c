--
-- rollup_filling: how far a rollup is that is being filled
--
SET client_min_messages = warning;
CREATE ROLE regress_filling IN ROLE detect_admin LOGIN;
CREATE SCHEMA rollup_filling AUTHORIZATION regress_filling;
SET SESSION AUTHORIZATION regress_filling;
SET search_path = rollup_filling, public;
SET timezone = 'UTC';

-- More partitions than one step of filling takes, with twenty events each.
CREATE TABLE tick (id int, at timestamptz, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
DO $$
BEGIN
    FOR day IN 1..150 LOOP
        EXECUTE format('CREATE TABLE %I PARTITION OF tick FOR VALUES FROM (%L) TO (%L)', 'tick_' || day,
                       '2024-01-01'::date + day, '2024-01-01'::date + day + 1);
    END LOOP;
END $$;
INSERT INTO tick SELECT n, '2024-01-02'::timestamptz + n * interval '72 minutes' FROM generate_series(0, 2999) n;
SELECT detect.create_stream('tick', server => '', partition_interval => '1 day');
ANALYZE tick;

-- what is not older than a time, about
SELECT label, round(detect._share_filled(relation, filled_from)::numeric, 3) AS share
FROM (VALUES
    ('all',              'tick'::regclass, '2024-01-01'::timestamptz),
    ('half',             'tick', '2024-03-17'),
    ('half of a day',    'tick', '2024-05-30 12:00'),
    ('nothing',          'tick', '2024-06-01'),
    ('for ever',         'tick', '-infinity'),
    ('never',            'tick', 'infinity'),
    ('when',             'tick', NULL),
    ('no partitions',    'tick_1', '2024-01-01'),
    ('no table',         0::regclass, '2024-01-01')) v (label, relation, filled_from);

-- Nothing of January is read while the session holds the gate.
CREATE FUNCTION gate(at timestamptz) RETURNS int LANGUAGE plpgsql STABLE AS $$
BEGIN
    WHILE at < '2024-02-01' LOOP
        IF pg_try_advisory_lock_shared(4711) THEN
            PERFORM pg_advisory_unlock_shared(4711);
            EXIT;
        END IF;
    END LOOP;
    RETURN 1;
END $$;
CREATE VIEW progress AS
    SELECT state, share_filled, time_left, rows_filled FROM detect.stat_rollup WHERE rollup = 'gated';

SELECT detect.pause('tick');
SELECT detect.create_rollup('gated', 'SELECT date_trunc(''day'', at) AS day, count(*) AS n, sum(gate(at)) AS gates FROM tick GROUP BY 1');
SELECT * FROM progress;
SELECT pg_advisory_lock(4711);
SELECT detect.resume('tick');
CALL regress.await($$ SELECT FROM progress WHERE state = 'filling' AND share_filled > 0.2 $$, 1);
SELECT state, share_filled BETWEEN 0.2 AND 0.9 AS some_is_in, time_left >= '0' AS time_is_told,
       abs(share_filled - rows_filled / 3000.0) < 0.01 AS agrees_with_rows FROM progress;

SELECT pg_advisory_unlock(4711);
SELECT detect.wait_for_rollup('gated');
SELECT * FROM progress;
SELECT regress.differences('gated', 'SELECT date_trunc(''day'', at) AS day, count(*) AS n, count(*) AS gates FROM tick GROUP BY 1');

-- set aside on the way it is as far as it was, and nobody can tell when it goes on
SELECT detect.create_rollup('gated_out', 'SELECT count(*) AS n, sum(1 / id) AS s FROM tick');
CALL regress.await($$ SELECT FROM detect.stat_rollup WHERE rollup = 'gated_out' AND state = 'failed' $$, 1);
SELECT share_filled >= 0.2 AND share_filled < 1 AS some_is_in, time_left, error FROM detect.stat_rollup WHERE rollup = 'gated_out';
DELETE FROM tick WHERE id = 0;
SELECT detect.retry_rollup('gated_out');
SELECT detect.wait_for_rollup('gated_out');
SELECT share_filled, time_left, rows_filled FROM detect.stat_rollup WHERE rollup = 'gated_out';

-- A chunk is to take some 450 ms.  A rollup whose events take a millisecond each
-- teaches that, and the next one has few of them in a chunk.
CREATE TABLE tock (id int, at timestamptz, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
DO $$
BEGIN
    FOR day IN 1..20 LOOP
        EXECUTE format('CREATE TABLE %I PARTITION OF tock FOR VALUES FROM (%L) TO (%L)', 'tock_' || day,
                       '2024-01-01'::date + day, '2024-01-01'::date + day + 1);
    END LOOP;
END $$;
INSERT INTO tock SELECT n, '2024-01-02'::timestamptz + n * interval '18 minutes' FROM generate_series(0, 1599) n;
SELECT detect.create_stream('tock', server => '', partition_interval => '1 day');
ANALYZE tock;
CREATE FUNCTION slow(at timestamptz) RETURNS int LANGUAGE plpgsql STABLE AS $$
DECLARE
    until timestamptz := clock_timestamp() + interval '1 ms';
BEGIN
    WHILE clock_timestamp() < until LOOP
    END LOOP;
    RETURN 1;
END $$;
SELECT detect.create_rollup('slow', 'SELECT date_trunc(''day'', at) AS day, sum(slow(at)) AS n FROM tock GROUP BY 1');
SELECT detect.wait_for_rollup('slow', '2 min');
SELECT detect.create_rollup('slow_again', 'SELECT date_trunc(''day'', at) AS day, sum(slow(at)) AS n FROM tock GROUP BY 1');
SELECT detect.wait_for_rollup('slow_again', '2 min');
SELECT count(*) AS days, count(DISTINCT xmin::text) > 1 AS in_chunks FROM detect_state.slow_again;
SELECT regress.differences('slow_again', 'SELECT date_trunc(''day'', at) AS day, count(*) AS n FROM tock GROUP BY 1');

-- who waits for the stream finds its events in rollups that were new
CREATE TABLE chime (id int PRIMARY KEY);
SELECT detect.create_stream('chime', server => '');
INSERT INTO detect_staging.chime SELECT generate_series(1, 10);
SELECT count(detect.create_rollup('chime_' || n, 'SELECT id % 2 AS side, count(*) AS n FROM chime GROUP BY 1')) FROM generate_series(1, 8) n;
SELECT detect.wait_for('chime');
SELECT state, count(*), sum(rows_filled) AS rows_filled FROM detect.stat_rollup WHERE rollup ~ '^chime_' GROUP BY state;
SELECT count(*), sum(n) FROM (TABLE chime_1 UNION ALL TABLE chime_8) both_of_them;

-- it cannot do so in the transaction that makes one, nor while the stream is paused
BEGIN;
SELECT detect.create_rollup('chime_9', 'SELECT count(*) AS n FROM chime');
SELECT detect.wait_for('chime');
ROLLBACK;
SELECT detect.pause('chime');
SELECT detect.create_rollup('chime_9', 'SELECT count(*) AS n FROM chime');
SELECT detect.wait_for('chime');
SELECT detect.resume('chime');
SELECT detect.wait_for('chime');
TABLE chime_9;
SELECT detect.drop_stream('chime');

SET SESSION AUTHORIZATION DEFAULT;
DROP SCHEMA rollup_filling CASCADE;
DROP ROLE regress_filling;
