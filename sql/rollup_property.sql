--
-- rollup_property: random rollups over random events, batch by batch
--
-- A seed makes a query: some of all aggregates in pg_aggregate that split,
-- groups, filters; and says after which batch the rollup is made.  The events
-- are random too: NULLs, late ones, duplicates, batches of any size; and then
-- what is done to them by hand, among more batches.  The oracle: the view and
-- the query itself, EXCEPT ALL both ways.  Where it differs, the seed and the
-- query are printed.  SEEDS=1000 in the environment plays a thousand of them.
--
SET client_min_messages = warning;
\getenv seeds SEEDS
\if :{?seeds}
\else
\set seeds 200
\endif
CREATE EXTENSION hll;
CREATE EXTENSION tdigest;
CREATE ROLE regress_property IN ROLE detect_admin LOGIN;
CREATE SCHEMA rollup_property AUTHORIZATION regress_property;
-- what is staged together is one commit, however slow the machine is
\o /dev/null
ALTER SYSTEM SET detect.max_batch_time = 0;
SELECT pg_reload_conf();
\o
SET SESSION AUTHORIZATION regress_property;
SET search_path = rollup_property, public;
SET timezone = 'Europe/Paris';

CREATE TABLE sample (
    id int, at timestamptz, g int, kind text, small smallint, whole int, big bigint, exact numeric, single real, double float8,
    flag boolean, name text, day date, clock time, zoned timetz, local_at timestamp, stay interval, address inet, letters bpchar, number oid,
    PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
SELECT detect.create_stream('sample', partition_interval => '1 day');

-- One of n, or NULL now and then.
CREATE FUNCTION pick(n int) RETURNS int LANGUAGE sql VOLATILE RETURN CASE WHEN random() < 0.9 THEN floor(random() * n)::int END;

-- A batch: new events, duplicates and late ones.  Whole numbers, so that no order of adding changes a sum.
CREATE FUNCTION stage(events int) RETURNS void LANGUAGE sql VOLATILE AS $$
    INSERT INTO detect_staging.sample
    SELECT id, '2024-10-26 00:00Z'::timestamptz + id * interval '7 minutes' - (id % 13 = 0)::int * interval '30 days',
           pick(4), 'kind ' || pick(3), pick(100) - 50, pick(100000), pick(1000000)::bigint * 4000000000, pick(10000) / 8.0, pick(50), pick(100),
           pick(2) = 1, 'name ' || pick(20), '2024-01-01'::date + pick(100), '10:00'::time + pick(500) * interval '1 minute',
           ('10:00'::time + pick(500) * interval '1 minute')::timetz, '2024-01-01'::timestamp + pick(100000) * interval '1 second',
           pick(50) * interval '1 hour 1 day', '10.0.0.0'::inet + pick(200), chr(97 + pick(5)), pick(1000)::oid
    FROM (SELECT floor(random() * 1500)::int AS id FROM generate_series(1, events)) s
$$;

-- Each aggregate over columns of its types; what floating point gives is compared to four digits, and what
-- depends on the order of rows (array_agg and string_agg split since 16) is left out.
CREATE TABLE part AS
    SELECT row_number() OVER (ORDER BY p.oid) AS number,
           CASE WHEN p.prorettype IN ('float4'::regtype, 'float8'::regtype) THEN format('round((%s)::numeric, 4)', c.call) ELSE c.call END AS expression
    FROM pg_aggregate a
    JOIN pg_proc p ON p.oid = a.aggfnoid
    CROSS JOIN LATERAL (
        SELECT format('%s(%s) ', a.aggfnoid::oid::regproc, string_agg(attname, ', ' ORDER BY n)) || '%s' AS call, count(*) AS arguments
        FROM unnest(p.proargtypes) WITH ORDINALITY AS t (type, n)
        JOIN pg_attribute ON attrelid = 'sample'::regclass AND attnum > 0 AND attname NOT IN ('id', 'g', 'kind')
                          AND atttypid = CASE type WHEN '"any"'::regtype THEN 'int4'::regtype ELSE type END) c
    WHERE a.aggkind = 'n' AND a.aggcombinefn <> 0 AND p.pronamespace = 'pg_catalog'::regnamespace AND p.pronargs > 0 AND c.arguments = p.pronargs
      AND (a.aggtranstype <> 'internal'::regtype OR a.aggserialfn <> 0) AND p.proname NOT IN ('array_agg', 'string_agg');
INSERT INTO part SELECT (SELECT max(number) FROM part) + row_number() OVER (), c
FROM unnest(ARRAY['count(*) %s', 'min(at) %s', 'max(at) %s', 'detect.first(name, at) %s', 'detect.last(exact, at) %s', 'detect.last(big, at) %s',
                  -- of extensions
                  '(hll_add_agg(hll_hash_integer(whole)) %s)::text', '(hll_union_agg(hll_empty() || hll_hash_text(name)) %s)::text', 'tdigest_count(tdigest(double, 100) %s)',
                  'ST_AsText(ST_Normalize(ST_Union(ST_Point(g, small)) %s))', 'ST_AsText(ST_Normalize(ST_MemUnion(ST_Point(g, double)) %s))', '(ST_Extent(ST_Point(small, double)) %s)::text']) c;
SELECT count(*) > 86 AS many FROM part;

CREATE TABLE seed (seed int PRIMARY KEY, batch int, query text, outcome text);

-- The query of a seed.
CREATE FUNCTION make_query() RETURNS text LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    groups text[];
    aggregates text[];
BEGIN
    SELECT array_agg(x) INTO groups
    FROM (SELECT x FROM unnest(ARRAY['g', 'kind', 'date_trunc(''day'', at)', 'date_bin(''3 hours'', at, ''epoch'')', 'whole % 7', 'flag', 'name || kind', 'letters']) x
          ORDER BY random() LIMIT floor(random() * 4)) s;
    SELECT array_agg(format(expression, CASE floor(random() * 4)::int WHEN 0 THEN 'FILTER (WHERE flag)' WHEN 1 THEN 'FILTER (WHERE whole % 2 = 0)' ELSE '' END))
    INTO aggregates
    FROM (SELECT expression FROM part ORDER BY random() LIMIT 1 + floor(random() * 6)) s;
    RETURN (SELECT 'SELECT ' || string_agg(format('%s AS c%s', x, n), ', ' ORDER BY n)
            FROM unnest(groups || aggregates) WITH ORDINALITY c (x, n))
        || ' FROM sample' || CASE floor(random() * 3)::int WHEN 0 THEN ' WHERE small IS NOT NULL AND kind <> ''kind 1''' ELSE '' END
        || coalesce(' GROUP BY ' || array_to_string(groups, ', '), '');
END $$;

-- What somebody does by hand: other values, other groups, other buckets; rows go and come.
CREATE FUNCTION edit() RETURNS void LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    k int := floor(random() * 23);
BEGIN
    CASE floor(random() * 5)::int
        WHEN 0 THEN UPDATE sample SET whole = pick(100000), exact = pick(10000) / 8.0, flag = NOT flag, kind = 'kind ' || pick(3) WHERE id % 23 = k;
        WHEN 1 THEN DELETE FROM sample WHERE id % 23 = k AND random() < 0.5;
        WHEN 2 THEN UPDATE sample SET at = at - interval '2 hours' WHERE id % 23 = k AND at::time > '04:00';
        WHEN 3 THEN INSERT INTO sample (id, at, g, kind, whole, name) SELECT 10000 + max(id), at, pick(4), 'by hand', pick(100), 'name' FROM sample WHERE id % 23 = k GROUP BY at ON CONFLICT DO NOTHING;
        ELSE WITH d AS (DELETE FROM sample WHERE id % 23 = k RETURNING *) INSERT INTO sample SELECT * FROM d;
    END CASE;
END $$;

-- Compare each rollup with its query.
CREATE PROCEDURE compare() LANGUAGE plpgsql AS $$
DECLARE
    s seed;
    differing bigint;
BEGIN
    FOR s IN SELECT * FROM seed LOOP
        differing := regress.differences('seed_' || s.seed, s.query);
        UPDATE seed SET outcome = CASE WHEN differing = 0 THEN 'same' ELSE differing || ' differ' END WHERE seed = s.seed;
    END LOOP;
END $$;

CREATE PROCEDURE play(seeds int) LANGUAGE plpgsql AS $$
BEGIN
    FOR i IN 1 .. seeds LOOP
        PERFORM setseed(1.0 / i);
        INSERT INTO seed VALUES (i, floor(random() * 12), make_query());
    END LOOP;
    COMMIT;
    FOR i IN 0 .. 11 LOOP
        PERFORM detect.create_rollup('seed_' || seed, query) FROM seed WHERE batch = i;
        COMMIT;
        PERFORM setseed(-1.0 / (i + 1));
        FOR j IN 1 .. 4 LOOP
            PERFORM stage(CASE WHEN random() < 0.4 THEN 1 ELSE 1 + floor(random() * 150)::int END);
            COMMIT;
            IF random() < 0.7 THEN
                PERFORM detect.wait_for('sample', '5 minutes');
                COMMIT;
            END IF;
        END LOOP;
    END LOOP;
    PERFORM detect.wait_for_rollup('seed_' || seed, '5 minutes') FROM seed;
    PERFORM detect.wait_for('sample', '5 minutes');
    COMMIT;
    CALL compare();
END $$;

-- Rollups without a bucket are rebuilt at the end.
CREATE PROCEDURE play_edits() LANGUAGE plpgsql AS $$
BEGIN
    FOR i IN 1 .. 5 LOOP
        PERFORM setseed(1.0 / (i + 1));
        PERFORM stage(1 + floor(random() * 60)::int) WHERE random() < 0.7;
        COMMIT;
        FOR j IN 1 .. floor(random() * 4)::int LOOP
            PERFORM edit();
            COMMIT;
        END LOOP;
    END LOOP;
    PERFORM detect.wait_for('sample', '5 minutes');
    COMMIT;
    PERFORM detect.rebuild_rollup(rollup) FROM detect.stat_rollup WHERE stream = 'sample' AND repair_error IS NOT NULL;
    COMMIT;
    PERFORM detect.wait_for_rollup('seed_' || seed, '5 minutes') FROM seed;
    COMMIT;
    CALL compare();
END $$;

CALL play(:seeds);
SELECT seed, batch, query, outcome FROM seed WHERE outcome <> 'same' OR outcome IS NULL ORDER BY seed;
SELECT count(*) = :seeds AS all_same FROM seed WHERE outcome = 'same';
SELECT accepted > 800 AS many_events, duplicates > 300 AS many_duplicates, dead_letters FROM detect.stat_stream WHERE stream = 'sample';
SELECT rollup, state, error FROM detect.stat_rollup WHERE state <> 'active';
CALL play_edits();
SELECT seed, query, outcome FROM seed WHERE outcome <> 'same' ORDER BY seed;
SELECT count(*) = :seeds AS all_same FROM seed WHERE outcome = 'same';
SELECT rollup, state, repairs, repair_error FROM detect.stat_rollup WHERE state <> 'active' OR repairs > 0;
-- the other oracle is of the same mind, but for what the query rounds or puts in order only then
SELECT seed, query, v.* FROM seed, detect.verify_rollup('seed_' || seed) v
WHERE v.problem <> 'differs' OR v.kept IS DISTINCT FROM v.recomputed ORDER BY seed, v.problem, v.group_columns;

-- a row of states is written once a batch, in place: no index on states, room on each page
CREATE TABLE hot (hot_id int PRIMARY KEY, g int);
SELECT detect.create_stream('hot', server => '');
SELECT detect.create_rollup('hot_groups', 'SELECT g, count(*) AS n, sum(hot_id) AS ids, avg(hot_id::bigint) AS id FROM hot GROUP BY g');
SELECT detect.wait_for_rollup('hot_groups');
CREATE PROCEDURE feed() LANGUAGE plpgsql AS $$
BEGIN
    FOR i IN 0 .. 100 LOOP
        INSERT INTO detect_staging.hot SELECT i * 1000 + n, n % 200 FROM generate_series(1, 1000) n;
        COMMIT;
        PERFORM detect.wait_for('hot');
        COMMIT;
    END LOOP;
END $$;
CALL feed();
SET stats_fetch_consistency = 'none';
SELECT regress.wait_for_rows($$ SELECT FROM pg_stat_user_tables WHERE relid = 'detect_state.hot_groups'::regclass AND n_tup_upd >= 20000 $$, 1);
-- the first may take a commit or two more
SELECT n_tup_ins, n_tup_upd < 21000 AS once_a_batch, n_tup_hot_upd >= 0.8 * n_tup_upd AS are_hot FROM pg_stat_user_tables WHERE relid = 'detect_state.hot_groups'::regclass;
SELECT pg_relation_size('detect_state.hot_groups') < 200000 AS is_small;
SELECT indexdef FROM pg_indexes WHERE schemaname = 'detect_state' AND tablename = 'hot_groups';
SELECT count(*) AS differences FROM ((TABLE hot_groups EXCEPT ALL SELECT g, count(*), sum(hot_id), avg(hot_id) FROM hot GROUP BY g)
    UNION ALL (SELECT g, count(*), sum(hot_id), avg(hot_id) FROM hot GROUP BY g EXCEPT ALL TABLE hot_groups)) d;

RESET SESSION AUTHORIZATION;
\o /dev/null
ALTER SYSTEM RESET detect.max_batch_time;
SELECT pg_reload_conf();
\o
DROP SCHEMA rollup_property CASCADE;
SELECT count(*) FROM detect._rollup;
DROP ROLE regress_property;
DROP EXTENSION hll;
DROP EXTENSION tdigest;
