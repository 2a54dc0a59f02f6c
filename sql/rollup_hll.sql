--
-- rollup_hll: aggregates of extensions: hll, tdigest, PostGIS
--
-- The oracle: the view and its query over the events, EXCEPT ALL both ways.
-- Digests depend on the order of events: there it is how far off they are.
--
SET client_min_messages = warning;
CREATE EXTENSION hll;
CREATE EXTENSION tdigest;
CREATE ROLE regress_hll IN ROLE detect_admin LOGIN;
CREATE SCHEMA rollup_hll AUTHORIZATION regress_hll;
SET SESSION AUTHORIZATION regress_hll;
SET search_path = rollup_hll, public;
SET timezone = 'UTC';

CREATE TABLE passage (id int PRIMARY KEY, zone text, plate int, speed float8, at timestamptz, spot geometry);
SELECT detect.create_stream('passage', event_time => 'at');

-- what cannot be split is refused by name
SELECT regress.outcome(format($$ SELECT detect.create_rollup('refused', 'SELECT zone, %s AS x FROM passage GROUP BY 1') $$, expression))
FROM (VALUES ('count(DISTINCT plate)'), ('percentile_cont(0.9) WITHIN GROUP (ORDER BY speed)'), ('tdigest(speed, 100 ORDER BY id)'),
             ('ST_Collect(spot)'), ('ST_MakeLine(spot)')) r (expression);

SELECT detect.create_rollup('plates_per_minute', $$
    SELECT date_bin('1 minute', at, 'epoch') AS minute, zone, count(*) AS passages,
           round(hll_cardinality(hll_add_agg(hll_hash_integer(plate)))) AS plates, hll_add_agg(hll_hash_integer(plate))::text AS sketch
    FROM passage GROUP BY 1, 2 $$, coarser => '{"plates_per_hour": {"width": "1 hour", "column": "hour"}, "plates_per_day": {"width": "1 day", "column": "day"}}');
SELECT count(*) FROM (SELECT detect.wait_for_rollup(name) FROM unnest('{plates_per_minute,plates_per_hour,plates_per_day}'::text[]) name) w;
SELECT detect.create_rollup_view('plates_of_town', 'plates_per_hour', columns => '{hour}');
SELECT detect.create_rollup_view('plates_ever', 'plates_per_day', columns => '{}');

CREATE FUNCTION plain(bucket text, zone boolean DEFAULT true) RETURNS text LANGUAGE sql AS $$
    SELECT concat_ws(', ', 'SELECT ' || bucket, CASE WHEN zone THEN 'zone' END, 'count(*) AS passages',
                     'round(hll_cardinality(hll_add_agg(hll_hash_integer(plate)))), hll_add_agg(hll_hash_integer(plate))::text FROM passage GROUP BY 1')
           || CASE WHEN zone THEN ', 2' ELSE '' END
$$;
CREATE VIEW compared AS
    SELECT name, regress.compare(name, query)
    FROM (VALUES ('plates_per_minute', plain($$ date_bin('1 minute', at, 'epoch') $$)), ('plates_per_hour', plain($$ date_trunc('hour', at) $$)),
                 ('plates_per_day', plain($$ date_trunc('day', at) $$)), ('plates_of_town', plain($$ date_trunc('hour', at) $$, false)),
                 ('plates_ever', 'SELECT count(*), round(hll_cardinality(hll_add_agg(hll_hash_integer(plate)))), hll_add_agg(hll_hash_integer(plate))::text FROM passage HAVING count(*) > 0')) v (name, query);

-- some plates many times, NULL plates, a zone without any; few values are kept one
-- by one, many in registers
CREATE FUNCTION stage(first int, last int, plates int, step interval) RETURNS void LANGUAGE sql AS $$
    INSERT INTO detect_staging.passage
    SELECT n, CASE n % 4 WHEN 1 THEN 'north' WHEN 2 THEN 'south' WHEN 3 THEN 'west' END, CASE WHEN n % 4 <> 3 AND n % 10 > 0 THEN n * 7 % plates END, n % 130,
           '2024-03-30 22:00+00'::timestamptz + n * step, CASE WHEN n % 10 > 0 THEN ST_MakeEnvelope(n % 9, n % 8, n % 9 + 2, n % 8 + 1) END
    FROM generate_series(first, last) n
$$;
SELECT stage(1, 200, 5, '17 seconds');
SELECT detect.wait_for('passage');
SELECT count(*) FROM (SELECT detect.wait_for_rollup(name) FROM unnest('{plates_per_minute, plates_per_hour, plates_per_day}'::text[]) name) w;
SELECT * FROM compared;
SELECT stage(100, 5000, 3000, '11 seconds');
SELECT detect.wait_for('passage');
SELECT stage(5001, 9000, 3000, '5 seconds');
SELECT detect.wait_for('passage');
SELECT * FROM compared;
SELECT abs(plates / (SELECT count(DISTINCT plate) FROM passage) - 1) < 0.1 AS is_about_right FROM plates_ever;

-- late events, and ones that are removed by hand
SELECT stage(9001, 9100, 3000, '1 second');
DELETE FROM passage WHERE id % 5 = 0;
SELECT detect.wait_for('passage');
SELECT * FROM compared;
SELECT count(*) FROM detect.verify_rollup('plates_per_hour');

-- percentiles: one is kept as such, or the digest is, and asked when reading
SELECT detect.create_rollup('speeds_per_hour', $$ SELECT date_trunc('hour', at) AS hour, tdigest(speed, 100) AS speeds, count(*) AS passages,
    tdigest_percentile(speed, 100, 0.9) AS p90, tdigest_percentile(speed, 100, '{0.1,0.9}'::float8[]) AS p10_90 FROM passage GROUP BY 1 $$);
SELECT detect.create_rollup_view('speeds_ever', 'speeds_per_hour', columns => '{}');
SELECT detect.wait_for_rollup('speeds_per_hour');
SELECT stage(10001, 12000, 3000, '5 seconds');
SELECT detect.wait_for('passage');
SELECT count(*) > 5 AS many, bool_and(k.counted = e.passages) AS all_are_counted, bool_and(abs(k.p90 - e.p90) < 3 AND abs(k.other_p90 - e.p90) < 3 AND abs(k.last_p90 - e.p90) < 3) AS is_about_right
FROM (SELECT hour, sum(tdigest_count(speeds)) AS counted, tdigest_percentile(speeds, 0.9) AS p90, min(p90) AS other_p90, min(p10_90[2]) AS last_p90 FROM speeds_per_hour GROUP BY 1) k
FULL JOIN (SELECT date_trunc('hour', at) AS hour, count(*) AS passages, percentile_cont(0.9) WITHIN GROUP (ORDER BY speed) AS p90 FROM passage GROUP BY 1) e USING (hour);
SELECT abs(p90 - percentile_cont(0.9) WITHIN GROUP (ORDER BY speed)) < 3 AS is_about_right, tdigest_count(speeds) - count(*) AS differ FROM speeds_ever, passage GROUP BY p90, speeds::text, tdigest_count(speeds);
SELECT count(*) FROM detect.verify_rollup('speeds_per_hour') WHERE problem <> 'differs';

-- areas
CREATE FUNCTION area_query(columns text, more text DEFAULT '') RETURNS text LANGUAGE sql AS $$
    SELECT format('SELECT %s ST_Extent(spot)::text AS extent, ST_Area(ST_Union(spot)) AS area, ST_Area(ST_MemUnion(spot)) AS same_area, ST_Area(ST_Union(spot) FILTER (WHERE plate IS NULL)) AS unread %s
                   FROM passage WHERE id %% 7 = 0', columns, more) || CASE WHEN columns <> '' THEN ' GROUP BY 1' ELSE '' END
$$;
SELECT detect.create_rollup('areas', area_query('zone,'));
SELECT detect.create_rollup_view('area_of_town', 'areas', columns => '{}');
SELECT detect.wait_for_rollup('areas');
SELECT stage(12001, 12100, 3000, '5 seconds');
SELECT detect.wait_for('passage');
SELECT stage(12101, 12110, 3000, '5 seconds');
SELECT detect.wait_for('passage');
SELECT name, regress.compare(name, query) FROM (VALUES ('areas', area_query('zone,')), ('area_of_town', area_query(''))) v (name, query);

-- another query of a rollup
DROP VIEW area_of_town;
SELECT detect.alter_rollup('areas', area_query('zone,', ', hll_add_agg(hll_hash_integer(plate))::text AS plates'));
SELECT detect.wait_for_rollup('areas');
SELECT regress.compare('areas', area_query('zone,', ', hll_add_agg(hll_hash_integer(plate))::text AS plates'));

-- one of one's own whose state is a value: a DBA can read it
CREATE AGGREGATE distinct_values(hll_hashval) (SFUNC = hll_add, STYPE = hll, COMBINEFUNC = hll_union, INITCOND = '\x118b7f', PARALLEL = SAFE);
SELECT hll_empty()::text AS initial_condition;
SELECT detect.create_rollup('plates_by_value', 'SELECT zone, distinct_values(hll_hash_integer(plate))::text AS sketch FROM passage GROUP BY 1');
SELECT detect.wait_for_rollup('plates_by_value');
SELECT stage(12111, 12120, 3000, '5 seconds');
SELECT detect.wait_for('passage');
SELECT regress.compare('plates_by_value', 'SELECT zone, distinct_values(hll_hash_integer(plate))::text FROM passage GROUP BY 1');
SELECT attname, format_type(atttypid, atttypmod), max(hll_cardinality(s1)) > 100 AS is_readable FROM pg_attribute, detect_state.plates_by_value
WHERE attrelid = 'detect_state.plates_by_value'::regclass AND attnum > 1 GROUP BY 1, 2;

RESET SESSION AUTHORIZATION;
DROP SCHEMA rollup_hll CASCADE;
SELECT count(*) FROM detect._rollup;
DROP ROLE regress_hll;
DROP EXTENSION hll;
DROP EXTENSION tdigest;
