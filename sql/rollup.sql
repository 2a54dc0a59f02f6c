--
-- rollup: views that say what their query would say
--
-- The oracle: the view and the query itself, EXCEPT ALL both ways.
--
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS detect CASCADE;
CREATE ROLE regress_rollup IN ROLE detect_admin LOGIN;
CREATE ROLE regress_rollup_reader;
CREATE SCHEMA rollup_test AUTHORIZATION regress_rollup;
GRANT USAGE ON SCHEMA rollup_test TO regress_rollup_reader;
GRANT regress_rollup_reader TO regress_rollup;

SET SESSION AUTHORIZATION regress_rollup;
SET search_path = rollup_test, public;
SET timezone = 'Europe/Berlin';

CREATE TABLE place (place_id int PRIMARY KEY, district text, keeper text COLLATE "C");
INSERT INTO place SELECT n, 'district ' || n % 3, CASE WHEN n % 4 > 0 THEN 'Keeper ' || n END
FROM generate_series(1, 20) n;

CREATE TABLE sighting (
    sighting_id bigint NOT NULL,
    place_id int,
    item text,
    confidence real,
    speed float8,
    price numeric(12, 3),
    big bigint,
    small smallint,
    stay interval,
    is_parked boolean,
    day date,
    seen_at timestamptz NOT NULL,
    PRIMARY KEY (sighting_id, seen_at)
) PARTITION BY RANGE (seen_at);
SELECT detect.create_stream('sighting', event_time => 'seen_at', partition_interval => '1 day');

-- Whole numbers in the floats, so that no order of adding changes a sum.
CREATE FUNCTION stage_sightings(first int, last int, since timestamptz, step interval) RETURNS void LANGUAGE sql AS $$
    INSERT INTO detect_staging.sighting
        (sighting_id, place_id, item, confidence, speed, price, big, small, stay, is_parked, day, seen_at)
    SELECT n, nullif(n % 23, 0), CASE WHEN n % 7 > 0 THEN 'item ' || n % 5 END,
           n % 100, CASE n % 50 WHEN 0 THEN 'NaN' WHEN 1 THEN 'Infinity' WHEN 2 THEN NULL ELSE (n % 100)::float8 END,
           CASE WHEN n % 11 > 0 THEN (n % 1000) / 8.0 END, 4611686018427387904 - n, n % 100,
           (n % 60) * interval '7 minutes', n % 3 = 0, '2024-10-01'::date + n % 40,
           since + n * step
    FROM generate_series(first, last) n
$$;

CREATE TABLE kept (name text PRIMARY KEY, query text);
INSERT INTO kept VALUES
('by_minute',       $$ SELECT date_bin('1 minute', seen_at, 'epoch') AS minute, place_id, item,
                              count(*) AS sightings, avg(confidence) AS confidence
                       FROM sighting GROUP BY 1, 2, 3 $$),
('by_local_day',    $$ SELECT date_trunc('day', seen_at) AS day, count(*) AS sightings FROM sighting GROUP BY 1 $$),
('numbers',         $$ SELECT item, count(*), count(speed) AS speeds, sum(small) AS small, sum(place_id) AS places,
                              sum(big) AS big, sum(price) AS price, sum(confidence) AS confidence, sum(stay) AS stay,
                              avg(small) AS avg_small, avg(place_id) AS avg_place, avg(big) AS avg_big,
                              avg(price) AS avg_price, avg(speed) AS avg_speed, avg(stay) AS avg_stay,
                              stddev(small) AS stddev, variance(price) AS variance
                       FROM sighting GROUP BY item $$),
('extremes',        $$ SELECT place_id, min(seen_at) AS first_at, max(seen_at) AS last_at, min(item), max(item COLLATE "C"),
                              min(speed) AS slowest, max(speed) AS fastest, max(price) AS price, min(day) AS day,
                              max(stay) AS stay, min(small) AS small, max(big) AS big
                       FROM sighting GROUP BY place_id $$),
('flags',           $$ SELECT is_parked, bool_and(is_parked), bool_or(small > 50) AS any_big, every(small >= 0),
                              bit_or(place_id), bit_and(small) AS bits
                       FROM sighting GROUP BY is_parked $$),
('filtered',        $$ SELECT item, count(*) FILTER (WHERE is_parked) AS parked,
                              sum(price) FILTER (WHERE small > 10 AND place_id < 9) AS price
                       FROM sighting WHERE small <> 50 GROUP BY item $$),
('expressions',     $$ SELECT upper(item) AS item, sum(big) / nullif(count(*), 0) AS ratio, round(avg(price), 2) AS price,
                              upper(item) || '!' AS loud, count(*) FILTER (WHERE is_parked)::float8 / count(*) AS share
                       FROM sighting GROUP BY upper(item), length(item) $$),
('having',          $$ SELECT place_id, count(*) AS n FROM sighting GROUP BY place_id HAVING avg(small) > 49.5 AND count(*) > 3 $$),
('everything',      $$ SELECT count(*), min(seen_at) AS since, avg(price) AS price FROM sighting $$),
('only_extremes',   $$ SELECT min(seen_at) AS since, max(seen_at) AS until FROM sighting $$),
('only_groups',     $$ SELECT item, small % 3 AS third FROM sighting GROUP BY 1, 2 $$),
('hidden_groups',   $$ SELECT count(*) AS n FROM sighting GROUP BY item, place_id $$),
('by_district',     $$ SELECT district, keeper, count(*) AS n, sum(price) AS price
                       FROM sighting LEFT JOIN place USING (place_id) GROUP BY district, keeper $$),
('using_column',    $$ SELECT place_id, max(keeper) AS keeper, count(*) AS n FROM place JOIN sighting USING (place_id) GROUP BY place_id $$),
('in_a_district',   $$ SELECT item, count(*) AS n FROM sighting
                       WHERE place_id IN (SELECT place_id FROM place WHERE district = 'district 1') GROUP BY item $$),
('whole_rows',      $$ SELECT s.is_parked, count(s) AS n FROM sighting s GROUP BY 1 $$);

CREATE FUNCTION column_types(query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    types text;
BEGIN
    EXECUTE format('CREATE TEMP VIEW v AS %s', query);
    SELECT string_agg(format('%I %s %s', attname, format_type(atttypid, atttypmod), attcollation::regcollation), ', ' ORDER BY attnum)
    INTO types FROM pg_attribute WHERE attrelid = 'pg_temp.v'::regclass;
    DROP VIEW pg_temp.v;
    RETURN types;
END $$;

-- half of the events are there before the rollups: in old partitions, in the newest, before all of them
SELECT stage_sightings(1, 1500, '2024-10-01', '29 minutes');
SELECT detect.wait_for('sighting');
SELECT detect.create_rollup(name, query) FROM kept ORDER BY name COLLATE "C";
-- plans are shown below: nobody shall count the states meanwhile
ALTER TABLE detect_state.by_minute SET (autovacuum_enabled = off);
ALTER TABLE detect_state.expressions SET (autovacuum_enabled = off);
SELECT stage_sightings(1501, 2000, '2024-10-01', '29 minutes');
SELECT count(*) FROM (SELECT detect.wait_for_rollup(name) FROM kept) w;
SELECT detect.wait_for('sighting');
SELECT name, regress.compare(name, query) FROM kept ORDER BY name COLLATE "C";

-- late ones, early ones, new groups
SELECT stage_sightings(2001, 2600, '2024-09-01', '13 minutes');
SELECT stage_sightings(2601, 3000, '2024-10-01', '17 minutes');
SELECT detect.wait_for('sighting');
SELECT name, regress.compare(name, query) FROM kept ORDER BY name COLLATE "C";

-- days are those of the session that made the rollup, not of the worker, and one of them has 25 hours
SELECT count(*) AS days, count(*) FILTER (WHERE extract(hour FROM day) = 0) AS local_days FROM by_local_day;
SELECT time_zone FROM detect.rollup WHERE rollup = 'by_local_day';

-- names, types and collations are those of the query
SELECT name, column_types(query) = column_types(format('SELECT * FROM %I', name)) AS same_types FROM kept ORDER BY name COLLATE "C";

-- how states are kept: as values where they are values
SELECT attname, format_type(atttypid, atttypmod), col_description(attrelid, attnum)
FROM pg_attribute WHERE attrelid = 'detect_state.numbers'::regclass AND attnum > 0 ORDER BY attnum;
SELECT pg_get_viewdef('expressions');

-- a filter on groups reaches the index of the states
SET enable_seqscan = off;
EXPLAIN (COSTS OFF) SELECT * FROM by_minute WHERE minute = '2024-10-02 00:00Z' AND place_id = 3;
EXPLAIN (COSTS OFF) SELECT * FROM expressions WHERE item = 'ITEM 3';
RESET enable_seqscan;

-- what is joined may be renamed, and have more columns and indexes
ALTER TABLE place RENAME COLUMN district TO borough;
ALTER TABLE place RENAME TO location;
ALTER TABLE location ADD COLUMN remark text;
CREATE INDEX ON location (borough);
UPDATE kept SET query = regexp_replace(regexp_replace(query, '\mplace\M', 'location', 'g'), 'district(,| =)', 'borough\1', 'g');
SELECT stage_sightings(3001, 3300, '2024-10-05', '7 minutes');
SELECT detect.wait_for('sighting');
SELECT name, regress.compare(name, query) FROM kept ORDER BY name COLLATE "C";

-- and those that the rollup needs may not go
ALTER TABLE location DROP COLUMN borough;
DROP TABLE location;

-- who may read
GRANT SELECT ON everything TO regress_rollup_reader;
SET ROLE regress_rollup_reader;
SELECT count FROM everything;
SELECT sightings FROM by_local_day;
SELECT * FROM detect_state.everything;
RESET ROLE;

-- in the transaction that makes it, it can't be waited for; undone, it was never there
BEGIN;
SELECT detect.create_rollup('undone', 'SELECT count(*) FROM sighting');
SAVEPOINT s;
SELECT detect.wait_for_rollup('undone');
ROLLBACK TO s;
SELECT count(*) FROM undone;
ROLLBACK;
SELECT detect.wait_for_rollup('undone');

-- one that cannot be filled is set aside, the stream goes on
SELECT detect.create_rollup('fails', 'SELECT sum(1000 / (small - 50)) AS s FROM sighting');
SELECT detect.wait_for_rollup('fails');
SELECT rollup, state, error FROM detect.stat_rollup WHERE rollup = 'fails';
SELECT state FROM detect.stat_stream WHERE stream = 'sighting';
SELECT detect.drop_rollup('fails');

-- nobody writes through a view, not even its owner by mistake
SELECT detect.create_rollup('plain', 'SELECT item, count(*) AS n FROM sighting GROUP BY item');
SELECT detect.wait_for_rollup('plain');
DELETE FROM plain;
INSERT INTO plain VALUES ('car', 1);
UPDATE plain SET n = 0;
SELECT detect.drop_rollup('plain');

-- dropping: not while others build upon it
CREATE VIEW upon AS SELECT * FROM everything;
SELECT detect.drop_rollup('everything');
DROP VIEW upon;
SELECT detect.drop_rollup('everything');
SELECT to_regclass('everything'), to_regclass('detect_query.everything'), to_regclass('detect_state.everything');
SELECT rollup, state, rows_filled > 0 AS was_filled, error FROM detect.stat_rollup ORDER BY rollup COLLATE "C";

RESET SESSION AUTHORIZATION;
DROP SCHEMA rollup_test CASCADE;
SELECT count(*) FROM detect._rollup;
DROP ROLE regress_rollup, regress_rollup_reader;
