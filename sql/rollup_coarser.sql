--
-- rollup_coarser: the same rollup at more widths
--
-- The oracle: each view and its query written out, EXCEPT ALL both ways.
--
SET client_min_messages = warning;
CREATE ROLE regress_coarser IN ROLE detect_admin LOGIN;
CREATE SCHEMA rollup_coarser AUTHORIZATION regress_coarser;
SET SESSION AUTHORIZATION regress_coarser;
SET search_path = rollup_coarser, public;
SET timezone = 'Europe/Berlin';

CREATE TABLE item (item_id int PRIMARY KEY, kind text, weight numeric, at timestamptz, local_at timestamp);
SELECT detect.create_stream('item', event_time => 'at');
CREATE FUNCTION stage(first int, last int, since timestamptz, step interval) RETURNS void LANGUAGE sql AS $$
    INSERT INTO detect_staging.item
    SELECT n, CASE n % 4 WHEN 1 THEN 'a' WHEN 2 THEN 'b' WHEN 3 THEN 'c' END, CASE WHEN n % 9 > 0 THEN n / 8.0 END,
           nullif(since + (n - first) * step, '2024-03-31 12:00+02'), since + (n - first) * step
    FROM generate_series(first, last) n
$$;
-- both changes of the clock
SELECT stage(1, 1500, '2024-03-29 00:00+01', '3 minutes');
SELECT stage(1501, 2500, '2024-10-26 00:00+02', '4 minutes');
SELECT detect.wait_for('item');

SELECT detect.create_rollup('per_minute', $$
    SELECT date_bin('1 minute', at, 'epoch') AS minute, kind, count(*) AS n, avg(weight) AS weight,
           to_char(date_bin('1 minute', at, 'epoch'), 'HH24') AS hh, max(item_id) AS last_id
    FROM item GROUP BY 1, 2 HAVING count(*) > 0 $$,
    coarser => '{"per_ten": {"width": "10 minutes", "column": "ten"}, "per_hour": {"width": "1 hour", "column": "hour", "retention": "100 years"},
                 "per_day": {"width": "1 day", "column": "day"}, "per_week": "1 week", "per_quarter": {"width": "3 months", "column": "quarter"}}');
SELECT detect.create_rollup('per_day_there', $$ SELECT date_trunc('day', at, 'Asia/Tokyo') AS day, count(*) AS n FROM item GROUP BY 1 $$,
    coarser => '{"per_month_there": {"width": "1 month", "column": "month"}, "per_two_days": {"width": "2 days", "column": "days"}}');
SELECT detect.create_rollup('local_minutes', $$ SELECT date_trunc('minute', local_at) AS minute, count(*) AS n FROM item GROUP BY 1 $$);

CREATE TABLE kept (name text PRIMARY KEY, query text);
INSERT INTO kept VALUES
('per_minute', $$ SELECT date_bin('1 minute', at, 'epoch'), kind, count(*), avg(weight), to_char(date_bin('1 minute', at, 'epoch'), 'HH24'), max(item_id) FROM item GROUP BY 1, 2 $$),
('per_ten', $$ SELECT date_bin('10 minutes', at, 'epoch'), kind, count(*), avg(weight), to_char(date_bin('10 minutes', at, 'epoch'), 'HH24'), max(item_id) FROM item GROUP BY 1, 2 $$),
('per_hour', $$ SELECT date_trunc('hour', at), kind, count(*), avg(weight), to_char(date_trunc('hour', at), 'HH24'), max(item_id) FROM item GROUP BY 1, 2 $$),
('per_day', $$ SELECT date_trunc('day', at), kind, count(*), avg(weight), to_char(date_trunc('day', at), 'HH24'), max(item_id) FROM item GROUP BY 1, 2 $$),
('per_week', $$ SELECT date_trunc('week', at), kind, count(*), avg(weight), to_char(date_trunc('week', at), 'HH24'), max(item_id) FROM item GROUP BY 1, 2 $$),
('per_quarter', $$ SELECT date_trunc('quarter', at), kind, count(*), avg(weight), to_char(date_trunc('quarter', at), 'HH24'), max(item_id) FROM item GROUP BY 1, 2 $$),
('per_day_there', $$ SELECT date_trunc('day', at, 'Asia/Tokyo'), count(*) FROM item GROUP BY 1 $$),
('per_month_there', $$ SELECT date_trunc('month', at, 'Asia/Tokyo'), count(*) FROM item GROUP BY 1 $$),
('per_two_days', $$ SELECT date_bin('2 days', at, '2000-01-03 00:00Z'), count(*) FROM item GROUP BY 1 $$);

SELECT count(*) FROM (SELECT detect.wait_for_rollup(name) FROM kept) w;
SELECT name, regress.differences(name, query) FROM kept ORDER BY name;
SELECT stage(2501, 3300, '2024-03-30 12:00+01', '5 minutes');
SELECT stage(3301, 3600, '2024-10-27 00:00+02', '1 minute');
SELECT detect.wait_for('item');
SELECT name, regress.differences(name, query) FROM kept ORDER BY name;

-- a column of its own, a retention of its own; days of 23 and 25 hours
SELECT rollup, retention, (SELECT string_agg(attname, ' ' ORDER BY attnum) FROM pg_attribute WHERE attrelid = view AND attnum > 0) AS columns
FROM detect.rollup WHERE stream = 'item' ORDER BY rollup COLLATE "C";
SELECT day, sum(n) AS n, lead(day) OVER (ORDER BY day) - day AS hours FROM per_day GROUP BY day ORDER BY day LIMIT 4;
SELECT detect.get_definition('per_hour');

-- each is a rollup of its own
SELECT detect.drop_rollup('per_minute');
SELECT stage(3601, 3700, '2024-03-30 12:00+01', '5 minutes');
SELECT detect.wait_for('item');
SELECT name, regress.differences(name, query) FROM kept WHERE name IN ('per_hour', 'per_day') ORDER BY name;

-- what can't be asked for; nothing of it is left
SELECT regress.outcome(format($$ SELECT detect.create_rollup('refused', $q$ SELECT %s AS t, kind, count(*) AS n FROM item GROUP BY 1, 2 $q$, coarser => %L) $$, bucket, coarser))
FROM (VALUES ('kind', '{"refused2": "1 day"}'), ('at', '{"refused2": "1 day"}'), ('at::date', '{"refused2": "1 day"}'),
             ('date_trunc(''hour'', at)', '{"refused2": "0"}'), ('date_trunc(''hour'', at)', '{"refused2": "often"}'),
             ('date_trunc(''hour'', at)', '{"refused2": {"column": "day"}}'), ('date_trunc(''hour'', at)', '{"refused2": {"width": "1 day", "columns": "day"}}'),
             ('date_trunc(''hour'', at)', '{"refused2": {"width": "1 day", "column": "kind"}}'), ('date_trunc(''hour'', at)', '{"refused2": "2 months"}'),
             ('date_trunc(''hour'', at)', '{"refused": "1 day"}'), ('date_trunc(''hour'', at)', '{"refused2": {"width": "1 day", "retention": "-1 day"}}'),
             ('date_trunc(''hour'', at)', '["1 day"]')) r (bucket, coarser);
SELECT count(*) FROM detect.rollup WHERE rollup ~ 'refused';

RESET SESSION AUTHORIZATION;
DROP SCHEMA rollup_coarser CASCADE;
SELECT count(*) FROM detect._rollup;
DROP ROLE regress_coarser;
