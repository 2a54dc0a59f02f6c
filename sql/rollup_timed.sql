--
-- rollup_timed: first and last, as aggregates and in rollups
--
-- The oracle: an ordered array_agg, whose first element it is.
--
SET client_min_messages = warning;
CREATE ROLE regress_timed IN ROLE detect_admin LOGIN;
CREATE SCHEMA rollup_timed AUTHORIZATION regress_timed;
SET SESSION AUTHORIZATION regress_timed;
SET search_path = rollup_timed, public;
SET timezone = 'Asia/Tokyo';
SET datestyle = 'SQL, DMY';

-- as aggregates: nothing, NULLs, ties, types
SELECT detect.first(v, at), detect.last(v, at) FROM (VALUES (1, now()), (2, now())) r (v, at) WHERE false;
SELECT detect.first(v, at), detect.last(v, at) FROM (VALUES (1, NULL::timestamptz), (2, NULL)) r (v, at);
SELECT detect.first(v, at::timestamptz), detect.last(v, at::timestamptz)
FROM (VALUES (1, '2024-01-01'), (NULL, '2024-01-02'), (3, NULL)) r (v, at);
SELECT detect.first(v, at::timestamptz), detect.last(v, at::timestamptz)
FROM (VALUES ('b', '2024-01-01'), ('a', '2024-01-01'), (NULL, '2024-01-01'), ('c', '2024-01-01')) r (v, at);
SELECT detect.first(v, at::timestamptz), detect.last(v, at::timestamptz)
FROM (VALUES (1, 'infinity'), (2, '-infinity'), (3, '2024-01-01')) r (v, at);
SELECT detect.last(at, at), detect.last(at::date, at), detect.last(ARRAY[1, NULL], at), detect.last(row(1, 'x')::text, at),
       detect.last(0.1::float8 + 0.2, at), detect.last('\xff00'::bytea, at), detect.last(interval '1 month -1 day', at)
FROM (VALUES ('2024-02-03 04:05:06.789+00'::timestamptz)) r (at);

-- in parallel
CREATE TABLE numbers AS SELECT n, '2024-01-01'::timestamptz + (n * 7919 % 20011) * interval '1 second' AS at FROM generate_series(1, 60000) n;
SET min_parallel_table_scan_size = 0;
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
EXPLAIN (COSTS OFF) SELECT detect.first(n, at), detect.last(n, at) FROM numbers;
SELECT (SELECT row(detect.first(n, at), detect.last(n, at)) FROM numbers) =
       row((SELECT n FROM numbers ORDER BY at, n::text COLLATE "C" LIMIT 1), (SELECT n FROM numbers ORDER BY at DESC, n::text COLLATE "C" DESC LIMIT 1)) AS same;

-- the last position of each vehicle: a rollup without a bucket; beside it one with
CREATE TABLE fix (fix_id int PRIMARY KEY, vehicle int, seen_at timestamptz, speed float8, place geometry(Point, 4326), remark text);
SELECT detect.create_stream('fix', event_time => 'seen_at');
CREATE FUNCTION stage(first int, last int) RETURNS void LANGUAGE sql AS $$
    INSERT INTO detect_staging.fix
    SELECT n, n % 17, CASE WHEN n % 31 > 0 THEN '2024-05-01'::timestamptz + (n * 7919 % 997) * interval '1 minute' END, n / 3.0,
           ST_Point(n / 7.0, n / 11.0, 4326), CASE WHEN n % 5 > 0 THEN 'remark ' || n END
    FROM generate_series(first, last) n
$$;
SELECT stage(1, 500);
SELECT detect.wait_for('fix');
SELECT detect.create_rollup('last_position', $$ SELECT vehicle, detect.last(place, seen_at) AS place, detect.last(seen_at, seen_at) AS seen_at,
    detect.last(remark, seen_at) AS remark, count(*) AS fixes FROM fix GROUP BY vehicle $$);
SELECT detect.create_rollup('speeds', $$ SELECT date_trunc('day', seen_at) AS day, vehicle, detect.first(speed, seen_at) AS first_speed,
    detect.last(speed, seen_at) - detect.first(speed, seen_at) AS faster FROM fix GROUP BY 1, 2 $$);
SELECT detect.wait_for_rollup('last_position'), detect.wait_for_rollup('speeds');
SELECT stage(501, 1500);
SELECT detect.wait_for('fix');
SELECT stage(1501, 3000);
SELECT count(*) FROM (SELECT stage(3000 + n, 3000 + n) FROM generate_series(1, 50) n) s;
SELECT detect.wait_for('fix');

CREATE VIEW expected_position AS
    SELECT vehicle,
           (array_agg(place ORDER BY seen_at DESC NULLS LAST, (place::text) COLLATE "C" DESC))[1] AS place,
           max(seen_at) AS seen_at,
           (array_agg(remark ORDER BY seen_at DESC NULLS LAST, remark COLLATE "C" DESC NULLS LAST))[1] AS remark, count(*) AS fixes
    FROM fix GROUP BY vehicle;
CREATE VIEW expected_speeds AS
    SELECT date_trunc('day', seen_at) AS day, vehicle, low AS first_speed, high - low AS faster
    FROM (SELECT seen_at, vehicle,
                 first_value(speed) OVER (w ORDER BY seen_at, (speed::text) COLLATE "C") AS low,
                 first_value(speed) OVER (w ORDER BY seen_at DESC, (speed::text) COLLATE "C" DESC) AS high,
                 row_number() OVER w AS number
          FROM fix WINDOW w AS (PARTITION BY date_trunc('day', seen_at), vehicle)) f
    WHERE number = 1 AND seen_at IS NOT NULL;
SELECT count(*) AS vehicles FROM last_position;
SELECT count(*) AS differences FROM ((TABLE last_position EXCEPT ALL TABLE expected_position) UNION ALL (TABLE expected_position EXCEPT ALL TABLE last_position)) d;
SELECT count(*) > 10 AS some FROM speeds;
SELECT count(*) AS differences FROM ((SELECT * FROM speeds WHERE day IS NOT NULL EXCEPT ALL TABLE expected_speeds) UNION ALL (TABLE expected_speeds EXCEPT ALL TABLE speeds)) d;

-- what a human reads in the states
SELECT s3, format_type(atttypid, atttypmod) FROM detect_state.last_position, pg_attribute
WHERE vehicle = 3 AND attrelid = 'detect_state.last_position'::regclass AND attname = 's3';

RESET SESSION AUTHORIZATION;
DROP SCHEMA rollup_timed CASCADE;
SELECT count(*) FROM detect._rollup;
DROP ROLE regress_timed;
