--
-- rollup_retention: old groups go, old events go, and neither takes the other along
--
-- The oracle: the view and the query itself over what is to be kept, EXCEPT
-- ALL both ways.
--
SET client_min_messages = warning;
CREATE ROLE regress_retention IN ROLE detect_admin LOGIN;
CREATE SCHEMA rollup_retention AUTHORIZATION regress_retention;
SET SESSION AUTHORIZATION regress_retention;
SET search_path = rollup_retention, public;
SET timezone = 'America/New_York';

CREATE TABLE visit (visit_id int, kind int, at timestamptz, PRIMARY KEY (visit_id, at)) PARTITION BY RANGE (at);
SELECT detect.create_stream('visit', partition_interval => '1 day');
CREATE FUNCTION stage(first int, last int, since timestamptz, step interval DEFAULT '6 hours') RETURNS void LANGUAGE sql AS $$
    INSERT INTO detect_staging.visit (visit_id, kind, at) SELECT n, n % 3, since + (n - first) * step FROM generate_series(first, last) n
$$;

CREATE TABLE kept (name text PRIMARY KEY, bucket text, retention interval, query text);
INSERT INTO kept VALUES
('by_day',  'date_trunc(''day'', at)', '20 days', $$ SELECT kind, date_trunc('day', at) AS day, count(*) AS n, sum(visit_id) AS ids FROM visit WHERE %s GROUP BY 1, 2 $$),
('by_bin',  'date_bin(''3 hours'', at, ''epoch'')', '12 days', $$ SELECT date_bin('3 hours', at, 'epoch') AS bin, count(*) AS n FROM visit WHERE %s GROUP BY 1 $$),
('by_date', '(at AT TIME ZONE ''Asia/Kathmandu'')::date', '1 month', $$ SELECT (at AT TIME ZONE 'Asia/Kathmandu')::date AS day, count(*) AS n FROM visit WHERE %s GROUP BY 1 $$),
('hourly',  'true', NULL, $$ SELECT date_trunc('hour', at) AS hour, count(*) AS n, avg(visit_id) AS id FROM visit WHERE %s GROUP BY 1 $$);

-- Groups in which a view and its query differ, over what is to be kept.
CREATE FUNCTION differences(rollup_name text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    k kept;
    kept_from timestamptz;
    query text;
BEGIN
    SELECT * INTO k FROM kept WHERE name = rollup_name;
    SELECT s.kept_from INTO kept_from FROM detect.stat_rollup s WHERE s.rollup = rollup_name;
    query := format(k.query, CASE WHEN kept_from IS NULL THEN 'true'
                                  ELSE format('%s >= (SELECT %s FROM (SELECT %L::timestamptz AS at) t)', k.bucket, k.bucket, kept_from) END);
    RETURN regress.differences(rollup_name, query);
END $$;

-- what has no age can't be old
SELECT detect.create_rollup('ageless', 'SELECT kind, count(*) FROM visit GROUP BY kind', retention => '1 day');
SELECT detect.create_rollup('ageless', 'SELECT date_trunc(''day'', at + kind * interval ''1 day'') AS day, count(*) FROM visit GROUP BY 1', retention => '1 day');
SELECT detect.create_rollup('ageless', 'SELECT extract(hour FROM at) AS hour, count(*) FROM visit GROUP BY 1', retention => '1 day');
SELECT detect.create_rollup('ageless', 'SELECT date_trunc(''day'', at) AS day, count(*) FROM visit GROUP BY 1', retention => '-1 day');

-- filled from a history that is longer
SELECT stage(1, 200, now() - interval '50 days');
SELECT detect.wait_for('visit');
SELECT count(*) FROM (SELECT detect.create_rollup(name, replace(query, 'WHERE %s', ''), retention => retention) FROM kept) c;
SELECT count(*) FROM (SELECT detect.wait_for_rollup(name) FROM kept) w;
SELECT name, differences(name) FROM kept ORDER BY name;
SELECT rollup, kept_from <= (now() AT TIME ZONE 'UTC' - retention) AT TIME ZONE 'UTC' AS has_retention
FROM detect.stat_rollup JOIN detect.rollup USING (rollup, stream) ORDER BY rollup COLLATE "C";
SELECT count(*) BETWEEN 28 AND 33 AS by_the_month FROM by_date;
SELECT detect.get_definition('by_bin');

-- late ones: counted where the group is kept, and no group comes back
SELECT stage(1001, 1300, now() - interval '49 days', '4 hours');
SELECT detect.wait_for('visit');
SELECT name, differences(name) FROM kept ORDER BY name;

-- a shorter retention: old groups go; a longer one does not bring them back; none at all neither
UPDATE kept SET retention = '5 days' WHERE name = 'by_day';
SELECT detect.alter_rollup('by_day', retention => '5 days');
SELECT regress.wait_for_rows('SELECT FROM rollup_retention.by_day WHERE day < now() - interval ''7 days''', 0);
SELECT differences('by_day'), count(*) >= 15 AS some_are_left FROM by_day;
SELECT retention FROM detect.rollup WHERE rollup = 'by_day';
SELECT detect.alter_rollup('by_day', retention => '1 year');
SELECT stage(2001, 2200, now() - interval '45 days', '5 hours');
SELECT detect.wait_for('visit');
SELECT differences('by_day'), count(*) FILTER (WHERE day < now() - interval '7 days') AS came_back FROM by_day;
SELECT detect.alter_rollup('by_day', reset => '{retention}');
SELECT stage(2201, 2300, now() - interval '45 days', '5 hours');
SELECT detect.wait_for('visit');
SELECT differences('by_day'), count(*) FILTER (WHERE day < now() - interval '7 days') AS came_back FROM by_day;
SELECT retention FROM detect.rollup WHERE rollup = 'by_day';

-- more groups than one transaction deletes
SELECT detect.create_rollup('many', 'SELECT visit_id, date_trunc(''day'', at) AS day, count(*) AS n FROM visit GROUP BY 1, 2');
SELECT stage(10001, 32000, now() - interval '9 days', '0');
SELECT detect.wait_for('visit');
SELECT detect.wait_for_rollup('many');
SELECT count(*) >= 22000 AS many FROM many;
SELECT detect.alter_rollup('many', retention => '7 days');
SELECT regress.wait_for_rows('SELECT FROM rollup_retention.many WHERE day < now() - interval ''9 days''', 0);
SELECT count(*) = (SELECT count(*) FROM visit, detect.stat_rollup WHERE rollup = 'many' AND date_trunc('day', at) >= date_trunc('day', kept_from)) AS rest_is_left FROM many;

-- old events go: no rollup changes by it
CREATE TABLE before AS SELECT * FROM hourly;
SELECT detect.alter_stream('visit', retention => '3 days');
CALL regress.await($$ SELECT FROM visit WHERE at < now() - interval '5 days' $$, 0, '4 minutes');
SELECT count(*) AS changed FROM ((TABLE hourly EXCEPT ALL TABLE before) UNION ALL (TABLE before EXCEPT ALL TABLE hourly)) d;
SELECT sum(n) > (SELECT count(*) FROM visit) AS tells_more FROM hourly;
SELECT DISTINCT name, problem FROM kept, detect.verify_rollup(name) ORDER BY name, problem;
-- and goes on where it was
SELECT stage(40001, 40010, now() - interval '2 hours', '1 minute');
SELECT detect.wait_for('visit');
SELECT sum(n) - (SELECT sum(n) FROM before) AS more FROM hourly;

-- a clock that is two hours ahead takes all groups, and when it is right again none of the events that come then
CREATE TABLE tick (tick_id int PRIMARY KEY, at timestamptz);
SELECT detect.create_stream('tick', event_time => 'at');
SELECT detect.create_rollup('ticks', 'SELECT date_bin(''1 minute'', at, ''epoch'') AS minute, count(*) AS n FROM tick GROUP BY 1', retention => '3 hours');
SELECT detect.wait_for_rollup('ticks');
INSERT INTO detect_staging.tick SELECT n, now() - n * interval '1 minute' FROM generate_series(30, 60) n;
SELECT detect.wait_for('tick');
SELECT sum(n) FROM ticks;
SELECT detect.pause('tick');
RESET SESSION AUTHORIZATION;
UPDATE detect._rollup SET retention = '-2 hours' WHERE name = 'ticks';
SET SESSION AUTHORIZATION regress_retention;
SELECT detect.resume('tick');
SELECT regress.wait_for_rows('SELECT FROM rollup_retention.ticks', 0);
SELECT detect.pause('tick');
RESET SESSION AUTHORIZATION;
UPDATE detect._rollup SET retention = '3 hours' WHERE name = 'ticks';
SET SESSION AUTHORIZATION regress_retention;
SELECT detect.resume('tick');
INSERT INTO detect_staging.tick SELECT n, now() - n * interval '1 minute' FROM generate_series(1, 10) n;
SELECT detect.wait_for('tick');
SELECT sum(n) FROM ticks;
SELECT problem, count(*) FROM detect.verify_rollup('ticks') GROUP BY 1;

-- what can't be asked for
SELECT detect.alter_rollup(NULL, retention => '1 day');
SELECT detect.alter_rollup('nothing', retention => '1 day');
SELECT detect.alter_rollup('by_day', retention => '1 day', reset => '{retention}');
SELECT detect.alter_rollup('by_day', reset => '{query}');
SELECT detect.alter_rollup('by_day', retention => '0');
SELECT detect.create_rollup('ageless', 'SELECT kind, count(*) AS n FROM visit GROUP BY kind');
SELECT detect.alter_rollup('ageless', retention => '1 day');

RESET SESSION AUTHORIZATION;
DROP SCHEMA rollup_retention CASCADE;
SELECT count(*) FROM detect._rollup;
DROP ROLE regress_retention;
