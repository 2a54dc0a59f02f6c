--
-- rollup_types: groups and aggregates over types beyond plain numbers
--
-- The oracle: the view and the query itself, EXCEPT ALL both ways, and the
-- same answer before there is any event.
--
CREATE ROLE regress_types IN ROLE detect_admin LOGIN;
CREATE SCHEMA rollup_types AUTHORIZATION regress_types;
SET SESSION AUTHORIZATION regress_types;
SET search_path = rollup_types, public;
SET timezone = 'UTC';
SET datestyle = 'ISO';

CREATE TYPE colour AS ENUM ('red', 'green', 'blue');
CREATE TYPE pair AS (a int, b text);
CREATE DOMAIN share AS real CHECK (VALUE BETWEEN 0 AND 1);
CREATE TABLE event (
    id int PRIMARY KEY, small smallint, f float8, r real, n numeric, colour colour, share share, pair pair, flag boolean,
    d date, t time, tz timetz, ts timestamp, at timestamptz, stay interval,
    tags int[], address inet, letters char(4), number oid, name text, document jsonb, geom geometry(Point, 4326), number_id uuid);
SELECT detect.create_stream('event');

CREATE TABLE kept (name text PRIMARY KEY, query text);
INSERT INTO kept VALUES
('no_groups',       $$ SELECT count(*) AS n, count(name) AS names, sum(small) AS small, min(at) AS since, avg(n) AS n_avg FROM event $$),
('no_groups_none',  $$ SELECT count(*) AS n FROM event HAVING count(*) > 1 $$),
('filtered_out',    $$ SELECT count(*) AS n, max(id) AS id FROM event WHERE id < 0 $$),
('filter_none',     $$ SELECT colour, count(*) FILTER (WHERE false) AS none, sum(n) FILTER (WHERE id < 0) AS nothing FROM event GROUP BY colour $$),
('by_enum',         $$ SELECT colour, count(*) AS n, min(colour) AS least, max(colour) AS most FROM event GROUP BY colour $$),
('by_domain',       $$ SELECT share, count(*) AS n, sum(share) AS sum, max(share) AS most, avg(share) AS mean FROM event GROUP BY share $$),
('by_composite',    $$ SELECT pair, count(*) AS n FROM event GROUP BY pair $$),
('by_array',        $$ SELECT tags, count(*) AS n, min(tags) AS least FROM event GROUP BY tags $$),
('by_document',     $$ SELECT document -> 'a' AS a, count(*) AS n FROM event GROUP BY 1 $$),
('by_flag',         $$ SELECT flag, f > 1 AS big, count(*) AS n FROM event GROUP BY 1, 2 $$),
('by_char',         $$ SELECT letters, number_id, address, count(*) AS n FROM event GROUP BY letters, number_id, address $$),
('by_nothing_else', $$ SELECT n::int % 3 AS rest FROM event GROUP BY 1 $$),
('times',           $$ SELECT date_trunc('month', ts) AS month, min(d) AS d1, max(d) AS d2, min(t) AS t1, max(t) AS t2, min(tz) AS tz1,
                              max(ts) AS ts, max(at) AS at, sum(t) AS sum_t, avg(stay) AS stay, sum(stay) AS sum_stay, min(stay) AS stay1
                       FROM event GROUP BY 1 $$),
('time_span',       $$ SELECT d, max(at) - min(at) AS span, extract(epoch FROM max(ts))::bigint AS s, age(max(d)::timestamp, min(d)::timestamp) AS age
                       FROM event GROUP BY d $$),
('others',          $$ SELECT max(tags) AS tags, min(address) AS address, max(letters) AS letters, min(number) AS number, bit_xor(small) AS bits FROM event $$),
('not_numbers',     $$ SELECT colour, sum(f) AS f, min(f) AS f1, max(f) AS f2, avg(r) AS r, sum(n) AS n, max(n) AS n2, avg(n) AS n3 FROM event GROUP BY colour $$),
('two_arguments',   $$ SELECT regr_count(small, id) AS c, round(regr_sxx(small, id)::numeric, 4) AS sxx,
                              round(covar_pop(small, id)::numeric, 4) AS cov, round(corr(small, id)::numeric, 8) AS corr FROM event $$),
('spread',          $$ SELECT colour, stddev_samp(n) AS sn, var_pop(n) AS vn, stddev_pop(small) AS ss, variance(id) AS vi FROM event GROUP BY colour $$),
('group_twice',     $$ SELECT colour, colour AS again, count(*) AS n FROM event GROUP BY 1, 2 $$),
('same_twice',      $$ SELECT colour, count(*) AS n, count(*) AS again, count(*) + 1 AS more, sum(id) / count(*) AS mean FROM event GROUP BY colour $$),
('nested',          $$ SELECT CASE WHEN count(*) > 2 THEN 'many' WHEN bool_or(flag) THEN 'flagged' ELSE 'few' END AS how, colour,
                              coalesce(sum(n), -1) AS n, greatest(max(id), 100) AS id, ARRAY[min(id), max(id)] AS ends,
                              row(count(*), max(name))::text AS both FROM event GROUP BY colour $$),
('where_clause',    $$ SELECT colour, count(*) AS n FROM event WHERE f IS NOT NULL AND (colour <> 'blue' OR id % 2 = 0) GROUP BY colour
                       HAVING count(*) FILTER (WHERE flag) > 0 $$),
('shapes',          $$ SELECT colour, ST_Extent(geom)::text AS extent, count(geom) AS shapes FROM event GROUP BY colour $$);

-- Whole numbers, so that no order of adding changes a sum.
CREATE FUNCTION stage(first int, last int) RETURNS void LANGUAGE sql AS $$
    INSERT INTO detect_staging.event
    SELECT i, i % 100, CASE i % 20 WHEN 3 THEN NULL WHEN 4 THEN 'NaN' WHEN 5 THEN '-Infinity' WHEN 6 THEN -0.0 WHEN 7 THEN 0.0 ELSE i % 8 END,
           i % 16, CASE i % 10 WHEN 2 THEN NULL ELSE i % 30 END, (ARRAY['red', 'green', 'blue', NULL]::colour[])[1 + i % 4],
           CASE i % 5 WHEN 1 THEN NULL ELSE (i % 5) / 4.0 END, CASE i % 3 WHEN 0 THEN NULL ELSE row(i % 3, 'x')::pair END,
           CASE i % 7 WHEN 2 THEN NULL ELSE i % 2 = 0 END,
           '2024-01-01'::date + i % 5, '10:00'::time + i % 3 * interval '1 hour', '10:00+02'::timetz, '2024-01-15'::timestamp + i % 4 * interval '1 month',
           '2024-03-31 00:30+00'::timestamptz + i * interval '1 minute', (i % 6) * interval '1 day 1 hour',
           CASE i % 4 WHEN 0 THEN NULL WHEN 1 THEN '{}' ELSE ARRAY[i % 4, NULL, i % 2] END, '10.0.0.0'::inet + i % 6, chr(97 + i % 3), i % 9,
           nullif(repeat('x', i % 4), ''), CASE i % 3 WHEN 0 THEN NULL ELSE jsonb_build_object('a', i % 3, 'b', 1.0) END,
           ST_Point(i % 10, i % 7, 4326), ('00000000-0000-0000-0000-00000000000' || i % 2)::uuid
    FROM generate_series(first, last) i
$$;

SELECT count(*) FROM (SELECT detect.create_rollup(name, query) FROM kept ORDER BY name COLLATE "C") c;
SELECT count(*) FROM (SELECT detect.wait_for_rollup(name) FROM kept) w;

-- there is no event yet: one row where the query has one
SELECT name, regress.compare(name, query) FROM kept ORDER BY name COLLATE "C";
SELECT * FROM no_groups;

-- some; more in other batches; duplicates change nothing
SELECT stage(1, 7);
SELECT detect.wait_for('event');
SELECT name, regress.compare(name, query) FROM kept ORDER BY name COLLATE "C";
SELECT stage(1, 200);
SELECT stage(150, 400);
SELECT detect.wait_for('event');
SELECT name, regress.compare(name, query) FROM kept ORDER BY name COLLATE "C";

-- one row at a time
SELECT count(*) FROM (SELECT stage(1000 + i, 1000 + i) FROM generate_series(1, 20) i) s;
SELECT detect.wait_for('event');
SELECT name, regress.compare(name, query) FROM kept WHERE regress.compare(name, query) !~ ' 0 differ';

-- filled in one step from all of them, the result is the same
SELECT count(*) FROM (SELECT detect.drop_rollup(name) FROM kept WHERE name IN ('times', 'not_numbers', 'spread', 'nested')) r;
SELECT count(*) FROM (SELECT detect.create_rollup(name, query) FROM kept WHERE name IN ('times', 'not_numbers', 'spread', 'nested')) r;
SELECT count(*) FROM (SELECT detect.wait_for_rollup(name) FROM kept WHERE name IN ('times', 'not_numbers', 'spread', 'nested')) r;
SELECT name, regress.compare(name, query) FROM kept WHERE name IN ('times', 'not_numbers', 'spread', 'nested') ORDER BY name COLLATE "C";
SELECT rollup, state, rows_filled FROM detect.stat_rollup WHERE rows_filled > 0 ORDER BY rollup COLLATE "C";

-- what it looks like
SELECT * FROM by_enum ORDER BY colour;
SELECT * FROM nested ORDER BY colour;
SELECT * FROM shapes ORDER BY colour;

-- states are merged in the order in which their aggregate compares
CREATE FUNCTION lowest_of(state jsonb, other text) RETURNS jsonb IMMUTABLE LANGUAGE plpgsql AS $$
BEGIN
    RETURN CASE WHEN state ->> 'v' IS NULL OR other < state ->> 'v' THEN jsonb_build_object('v', other) ELSE state END;
END $$;
CREATE FUNCTION lowest_of(state jsonb, other jsonb) RETURNS jsonb IMMUTABLE LANGUAGE plpgsql AS $$
DECLARE
    mine text := state ->> 'v';
    others text := other ->> 'v';
BEGIN
    RETURN CASE WHEN mine IS NULL OR others < mine THEN other ELSE state END;
END $$;
CREATE AGGREGATE lowest(text) (SFUNC = lowest_of, STYPE = jsonb, COMBINEFUNC = lowest_of, INITCOND = '{}');
CREATE TABLE word (id int PRIMARY KEY, word text COLLATE "en-x-icu");
SELECT detect.create_stream('word');
SELECT detect.create_rollup('lowest_word', 'SELECT lowest(word) AS word FROM word');
INSERT INTO detect_staging.word VALUES (1, 'a');
SELECT detect.wait_for('word');
INSERT INTO detect_staging.word VALUES (2, 'B');
SELECT detect.wait_for('word');
SELECT * FROM lowest_word;

RESET SESSION AUTHORIZATION;
SET client_min_messages = warning;
DROP SCHEMA rollup_types CASCADE;
SELECT count(*) FROM detect._rollup;
DROP ROLE regress_types;
