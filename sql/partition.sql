--
-- partition: which partitions are made, and what becomes of those of others
--
-- Times lie relative to now, so what is compared is what the rule says, not a
-- list of names.
--
CREATE ROLE regress_partition IN ROLE detect_admin LOGIN;
CREATE ROLE regress_partition_other LOGIN;
CREATE SCHEMA partition;
GRANT USAGE, CREATE ON SCHEMA partition TO regress_partition, regress_partition_other;
-- workers and users may live where they like: bounds are UTC
ALTER ROLE regress_partition SET timezone = 'America/St_Johns';
SET SESSION AUTHORIZATION regress_partition;
SET search_path = partition, public;
SET timezone = 'America/St_Johns';
SET datestyle = 'ISO';

-- The partitions of a table with their bounds in UTC; a default one has none.
CREATE FUNCTION parts(parent regclass) RETURNS TABLE (part name, intervals bigint, low timestamp, high timestamp, made_by xid)
LANGUAGE sql STABLE SET timezone = 'UTC' SET datestyle = 'ISO' AS $$
    SELECT c.relname, coalesce(substring(c.relname FROM '_x(10*)$')::bigint, 1), b[1]::timestamptz::timestamp, b[2]::timestamptz::timestamp, i.xmin
    FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
    LEFT JOIN LATERAL regexp_match(pg_get_expr(c.relpartbound, c.oid), $r$FROM \('([^']*)'\) TO \('([^']*)'\)$r$) b ON true
    WHERE i.inhparent = parent $$;

-- ---------------------------------------------------------------------
-- The older the wider
-- ---------------------------------------------------------------------
CREATE TABLE aged (id int, seen_at timestamptz, v int) PARTITION BY RANGE (seen_at);
SELECT detect.create_stream('aged', key => '{id}', partition_interval => '1 hour');
CREATE TABLE sent AS
    SELECT n AS id, now() - interval '1 second' * round(3600 * 10 ^ (n * 7.75 / 4000)) AS seen_at, n % 7 AS v FROM generate_series(0, 4000) n;
INSERT INTO detect_staging.aged TABLE sent;
INSERT INTO detect_staging.aged SELECT * FROM sent ORDER BY seen_at;
SELECT detect.wait_for('aged');
SELECT * FROM regress.outcomes;
(TABLE sent EXCEPT ALL TABLE aged) UNION ALL (TABLE aged EXCEPT ALL TABLE sent);
-- times of 6,000 years: some hundred partitions, not many of them in one transaction
SELECT count(*) < 800 AS few, count(DISTINCT intervals) AS widths FROM parts('aged');
SELECT count(*) FROM (SELECT FROM parts('aged') GROUP BY made_by HAVING count(*) > 53) too_many;
-- a wide one has been over for as long as it is wide, and lies on multiples of its width unless others are beside it: no rows
SELECT * FROM parts('aged') p
WHERE intervals > 1 AND (high + (high - low) > now() AT TIME ZONE 'UTC' OR high - low > intervals * interval '1 hour'
    OR (extract(epoch FROM low - '2000-01-01') % (3600.0 * intervals) <> 0
        AND low <> '4714-11-24 00:00 BC' AND NOT EXISTS (SELECT FROM parts('aged') b WHERE b.high = p.low))
    OR (extract(epoch FROM high - '2000-01-01') % (3600.0 * intervals) <> 0 AND NOT EXISTS (SELECT FROM parts('aged') b WHERE b.low = p.high)));
-- what is young lies in its hour, what is old in no narrower partition than its age has: no rows
SELECT e.*, p.* FROM aged e JOIN pg_class c ON c.oid = e.tableoid JOIN parts('aged') p ON p.part = c.relname,
    LATERAL (SELECT extract(epoch FROM now() - e.seen_at) / 3600 AS age) a
WHERE p.intervals <> 1 AND age < 100 OR p.intervals < 100 AND age > 200 + 1 OR p.intervals < 10000 AND age > 20000 + 100
   OR p.intervals < 1000000 AND age > 2000000 + 10000;
-- later the same times find the partitions that are there
SELECT count(*) AS made, date_trunc('hour', now() AT TIME ZONE 'UTC') AS this_hour FROM parts('aged')
WHERE low < date_trunc('hour', now() AT TIME ZONE 'UTC') \gset
INSERT INTO detect_staging.aged SELECT id + 10000, seen_at + interval '1 microsecond', v FROM sent WHERE seen_at < now() - interval '2 hours';
SELECT detect.wait_for('aged');
SELECT accepted - 4001 - (SELECT count(*) FROM aged WHERE id >= 10000) AS others, duplicates FROM regress.outcomes;
SELECT count(*) - :made AS more FROM parts('aged') WHERE low < :'this_hour';
SELECT detect.drop_stream('aged');

-- ---------------------------------------------------------------------
-- The ends of time
-- ---------------------------------------------------------------------
CREATE TABLE ends (id int, seen_at timestamptz) PARTITION BY RANGE (seen_at);
CREATE TABLE ends_local (id int, seen_at timestamp) PARTITION BY RANGE (seen_at);
CREATE TABLE ends_day (id int, seen_at date) PARTITION BY RANGE (seen_at);
CREATE TABLE ends_month (id int, seen_at timestamptz) PARTITION BY RANGE (seen_at);
SELECT detect.create_stream('ends', key => '{id}');
SELECT detect.create_stream('ends_local', key => '{id}', partition_interval => '1 second');
SELECT detect.create_stream('ends_day', key => '{id}', partition_interval => '1 week');
SELECT detect.create_stream('ends_month', key => '{id}', partition_interval => '1 month');
CREATE TABLE far AS SELECT * FROM (VALUES (1, '9999-12-31 00:00Z'), (2, '0001-01-01 00:00Z'), (3, '4714-11-24 00:00Z BC'), (4, '-infinity'), (5, 'infinity'),
    (6, '0001-01-01 00:00Z')) v (id, seen_at);
SET timezone = 'UTC';
INSERT INTO detect_staging.ends SELECT id, seen_at::timestamptz FROM far;
INSERT INTO detect_staging.ends_local SELECT id, seen_at::timestamptz::timestamp FROM far;
INSERT INTO detect_staging.ends_day SELECT id, seen_at::timestamptz::date FROM far;
INSERT INTO detect_staging.ends_month SELECT id, seen_at::timestamptz FROM far;
SELECT detect.wait_for('ends'), detect.wait_for('ends_local'), detect.wait_for('ends_day'), detect.wait_for('ends_month');
SELECT * FROM regress.outcomes ORDER BY stream;
SELECT tableoid::regclass, * FROM ends ORDER BY id;
SELECT tableoid::regclass, * FROM ends_local ORDER BY id;
SELECT tableoid::regclass, * FROM ends_day ORDER BY id;
SELECT tableoid::regclass, * FROM ends_month ORDER BY id;
SELECT t, part, low, high FROM unnest('{ends,ends_local,ends_day,ends_month}'::regclass[]) t, parts(t) WHERE high < '1900-01-01' ORDER BY t::text, low;
-- none for the year 9999, which is a dead letter
SELECT count(*) FROM unnest('{ends,ends_local,ends_day,ends_month}'::regclass[]) t, parts(t) WHERE high > now() + interval '4 months';
SELECT stream, sqlstate, convert_from(payload, 'UTF8')::json ->> 'id' AS id FROM detect.dead_letter ORDER BY stream, id;
SELECT detect.drop_stream('ends'), detect.drop_stream('ends_local'), detect.drop_stream('ends_day'), detect.drop_stream('ends_month');
SET timezone = 'America/St_Johns';

-- ---------------------------------------------------------------------
-- By the calendar
-- ---------------------------------------------------------------------
CREATE TABLE by_month (id int, seen_at timestamptz) PARTITION BY RANGE (seen_at);
CREATE TABLE by_quarter (id int, seen_at timestamp) PARTITION BY RANGE (seen_at);
CREATE TABLE by_year (id int, seen_at date) PARTITION BY RANGE (seen_at);
SELECT detect.create_stream('by_month', key => '{id}', partition_interval => '1 month');
SELECT detect.create_stream('by_quarter', key => '{id}', partition_interval => '3 months');
SELECT detect.create_stream('by_year', key => '{id}', partition_interval => '1 year');
-- around the ends of the last five years' months, and of the last leap day, in UTC
CREATE TABLE around AS
    SELECT row_number() OVER ()::int AS id, t + d AS at
    FROM (SELECT date_trunc('month', now() AT TIME ZONE 'UTC') - n * interval '1 month' FROM generate_series(0, 60) n
          UNION ALL SELECT max(make_date(y, 3, 1)) - o FROM generate_series(2020, extract(year FROM now())::int - 1) y, generate_series(0, 1) o
          WHERE y % 4 = 0 GROUP BY o) b (t),
         unnest('{-1 microsecond,0,1 microsecond,3 hours 30 minutes}'::interval[]) d;
INSERT INTO detect_staging.by_month SELECT id, at AT TIME ZONE 'UTC' FROM around;
INSERT INTO detect_staging.by_quarter SELECT id, at FROM around;
INSERT INTO detect_staging.by_year SELECT id, at::date FROM around;
SELECT detect.wait_for('by_month'), detect.wait_for('by_quarter'), detect.wait_for('by_year');
SELECT stream, accepted = (SELECT count(*) FROM around) AS all_accepted, sum - accepted AS others FROM regress.outcomes ORDER BY stream;
-- each lies within the month, quarter and year that it belongs to in UTC, and no partition is less or more: no rows
SELECT * FROM by_month e JOIN around a USING (id) JOIN pg_class c ON c.oid = e.tableoid JOIN parts('by_month') p ON p.part = c.relname
WHERE (low, high, part) IS DISTINCT FROM (date_trunc('month', a.at), date_trunc('month', a.at) + interval '1 month', 'by_month_' || to_char(a.at, 'YYYYMM'));
SELECT * FROM by_quarter e JOIN around a USING (id) JOIN pg_class c ON c.oid = e.tableoid JOIN parts('by_quarter') p ON p.part = c.relname
WHERE (low, high) IS DISTINCT FROM (date_trunc('quarter', a.at), date_trunc('quarter', a.at) + interval '3 months');
SELECT * FROM by_year e JOIN around a USING (id) JOIN pg_class c ON c.oid = e.tableoid JOIN parts('by_year') p ON p.part = c.relname
WHERE (low, high) IS DISTINCT FROM (date_trunc('year', a.at), date_trunc('year', a.at) + interval '1 year');
SELECT detect.drop_stream('by_month'), detect.drop_stream('by_quarter'), detect.drop_stream('by_year');

-- ---------------------------------------------------------------------
-- A replay of what is past retention
-- ---------------------------------------------------------------------
CREATE TABLE replayed (id int, seen_at timestamptz) PARTITION BY RANGE (seen_at);
SELECT detect.create_stream('replayed', key => '{id}', partition_interval => '1 hour', retention => '2 hours');
INSERT INTO detect_staging.replayed SELECT n, now() - interval '3 hours' - n * interval '1 minute' FROM generate_series(1, 20000) n;
INSERT INTO detect_staging.replayed VALUES (0, now());
SELECT detect.wait_for('replayed');
SELECT * FROM regress.outcomes;
-- the lead is there, which grows with each hour, and one row
SELECT count(*) BETWEEN 3 AND 4 AS has_lead FROM parts('replayed');
SELECT sum(pg_relation_size(inhrelid)) = current_setting('block_size')::int AS one_block FROM pg_inherits WHERE inhparent = 'replayed'::regclass;
SELECT count(*) AS dead_letters FROM detect.dead_letter;
SELECT detect.drop_stream('replayed');

-- ---------------------------------------------------------------------
-- Partitions that the user made
-- ---------------------------------------------------------------------
-- columns in another order, an index and constraints of its own, and one index that dedup can use
CREATE TABLE mixed (id int NOT NULL, seen_at timestamptz NOT NULL, v int) PARTITION BY RANGE (seen_at);
CREATE TABLE mixed_old (v int CHECK (v < 10), gone text, seen_at timestamptz NOT NULL, id int NOT NULL);
ALTER TABLE mixed_old DROP COLUMN gone;
CREATE UNIQUE INDEX ON mixed_old (v) WHERE v < 0;
CREATE TABLE mixed_older (seen_at timestamptz NOT NULL, id int NOT NULL, v int, PRIMARY KEY (seen_at, id));
INSERT INTO mixed_old VALUES (1, '2020-01-01', 1);
INSERT INTO mixed_older VALUES ('2019-01-01', 1, 1);
ALTER TABLE mixed ATTACH PARTITION mixed_old FOR VALUES FROM ('2019-12-31 12:00Z') TO ('2020-02-01');
ALTER TABLE mixed ATTACH PARTITION mixed_older FOR VALUES FROM ('2019-01-01') TO ('2019-01-02');
SELECT detect.create_stream('mixed', key => '{id}');
INSERT INTO detect_staging.mixed VALUES (1, '2020-01-01', 2), (2, '2020-01-01', 2), (3, '2020-01-01', 11), (4, '2020-01-01', -1), (5, '2020-01-01', -1),
    (1, '2019-01-01', 2), (2, '2019-01-01', 2), (2, '2019-01-01', 3), (6, '2019-12-31 11:59Z', 1), (7, '2018-12-31', 1);
SELECT detect.wait_for('mixed');
SELECT tableoid::regclass, id, seen_at AT TIME ZONE 'UTC' AS seen_at, v FROM mixed ORDER BY seen_at, id;
SELECT part, low, high FROM parts('mixed') WHERE high < '2021-01-01' ORDER BY low;
SELECT stage, sqlstate, reason FROM detect.dead_letter ORDER BY dead_letter_id;
SELECT * FROM regress.outcomes;
SELECT detect.drop_stream('mixed');

-- one that is no ordinary table is refused as soon as it would take an event, and nothing is lost
RESET SESSION AUTHORIZATION;
CREATE FOREIGN DATA WRAPPER regress_partition_wrapper;
CREATE SERVER regress_partition_server FOREIGN DATA WRAPPER regress_partition_wrapper;
GRANT USAGE ON FOREIGN SERVER regress_partition_server TO regress_partition;
SET SESSION AUTHORIZATION regress_partition;
CREATE TABLE joined (id int, seen_at timestamptz) PARTITION BY RANGE (seen_at);
CREATE TABLE joined_split (id int, seen_at timestamptz) PARTITION BY HASH (id);
CREATE TABLE joined_split_1 PARTITION OF joined_split FOR VALUES WITH (MODULUS 1, REMAINDER 0);
SELECT detect.create_stream('joined', key => '{}');
ALTER TABLE joined ATTACH PARTITION joined_split FOR VALUES FROM ('2020-01-01') TO ('2020-01-02');
INSERT INTO detect_staging.joined VALUES (1, now()), (2, '2020-01-01 12:00Z'), (3, now());
SELECT regress.wait_for_pause('joined');
ALTER TABLE joined DETACH PARTITION joined_split;
CREATE FOREIGN TABLE joined_far PARTITION OF joined FOR VALUES FROM ('2020-01-01') TO ('2020-01-02') SERVER regress_partition_server;
SELECT detect.resume('joined');
SELECT regress.wait_for_pause('joined');
ALTER TABLE joined DETACH PARTITION joined_far;
CREATE FOREIGN TABLE joined_rest PARTITION OF joined DEFAULT SERVER regress_partition_server;
SELECT detect.resume('joined');
SELECT regress.wait_for_pause('joined');
SELECT count(*) FROM joined_split;
SELECT count(*) AS staged FROM detect_staging.joined;
ALTER TABLE joined DETACH PARTITION joined_rest;
SELECT detect.resume('joined');
SELECT detect.wait_for('joined');
SELECT id FROM joined ORDER BY id;
SELECT * FROM regress.outcomes;
SELECT detect.drop_stream('joined');

-- ---------------------------------------------------------------------
-- Rights that are lacking
-- ---------------------------------------------------------------------
-- a partition of another role takes events, but gets no index and is not dropped: the stream goes on and says so
CREATE TABLE shared (id int, seen_at timestamptz) PARTITION BY RANGE (seen_at);
CREATE TABLE shared_old PARTITION OF shared FOR VALUES FROM ('2020-01-01') TO ('2020-02-01');
CREATE TABLE shared_late PARTITION OF shared FOR VALUES FROM ('2021-01-01') TO ('2021-02-01');
INSERT INTO shared VALUES (1, '2020-01-01 12:00Z');
RESET SESSION AUTHORIZATION;
ALTER TABLE shared_old OWNER TO regress_partition_other;
SET SESSION AUTHORIZATION regress_partition;
SELECT detect.create_stream('shared', key => '{id}');
INSERT INTO detect_staging.shared VALUES (1, '2020-01-01 12:00Z'), (2, '2020-01-01 12:00Z'), (3, now());
SELECT detect.wait_for('shared');
SELECT * FROM regress.outcomes;
CALL regress.await($$ SELECT FROM detect.stat_stream WHERE stream = 'shared' AND reason IS NOT NULL $$, 1, '3 minutes');
SELECT state, reason, last_sqlstate FROM detect.stat_stream;
-- others are seen to
CALL regress.await($$ SELECT FROM pg_index WHERE indrelid = 'shared_late'::regclass AND indisvalid $$, 1, '3 minutes');
SELECT detect.drop_stream('shared');
SELECT detect.create_stream('shared', key => '{id}', retention => '30 days');
CALL regress.await($$ SELECT FROM detect.stat_stream WHERE stream = 'shared' AND reason ~ 'retire' $$, 1, '3 minutes');
SELECT state, reason, last_sqlstate FROM detect.stat_stream;
CALL regress.await($$ SELECT FROM pg_class WHERE relname = 'shared_late' AND relnamespace = 'partition'::regnamespace $$, 0, '3 minutes');
INSERT INTO detect_staging.shared VALUES (4, now());
SELECT detect.wait_for('shared');
SELECT * FROM regress.outcomes;
SELECT obj_description('shared_old'::regclass);
-- once it is the owner's, it goes, and nothing is said any more
RESET SESSION AUTHORIZATION;
ALTER TABLE shared_old OWNER TO regress_partition;
SET SESSION AUTHORIZATION regress_partition;
SELECT detect.pause('shared');
SELECT detect.resume('shared');
CALL regress.await($$ SELECT FROM pg_class WHERE relname = 'shared_old' AND relnamespace = 'partition'::regnamespace $$, 0, '3 minutes');
CALL regress.await($$ SELECT FROM detect.stat_stream WHERE state = 'running' AND reason IS NULL $$, 1, '3 minutes');
SELECT detect.drop_stream('shared');

-- no partition can be made any more: what there is ahead lasts, then the stream pauses, and nothing is lost
CREATE TABLE closed (id int, seen_at timestamptz) PARTITION BY RANGE (seen_at);
CREATE TABLE closed_2023 PARTITION OF closed FOR VALUES FROM ('2023-01-01') TO ('2024-01-01');
CREATE UNIQUE INDEX ON closed_2023 (id, seen_at);
BEGIN;
SELECT detect.create_stream('closed', key => '{id}');
SELECT detect.pause('closed');
COMMIT;
RESET SESSION AUTHORIZATION;
REVOKE CREATE ON SCHEMA partition FROM regress_partition;
SET SESSION AUTHORIZATION regress_partition;
SELECT detect.resume('closed');
INSERT INTO detect_staging.closed VALUES (1, '2023-06-01 12:00Z'), (1, '2023-06-01 12:00Z');
SELECT detect.wait_for('closed');
-- ahead of the need it is only said
SELECT state, reason, last_sqlstate FROM detect.stat_stream;
INSERT INTO detect_staging.closed VALUES (2, now()), (3, '2023-06-01 12:00Z'), (3, '2023-06-01 12:00Z');
SELECT regress.wait_for_pause('closed');
SELECT detect.resume('closed');
SELECT regress.wait_for_pause('closed');
SELECT count(*) AS staged FROM detect_staging.closed;
RESET SESSION AUTHORIZATION;
GRANT CREATE ON SCHEMA partition TO regress_partition;
SET SESSION AUTHORIZATION regress_partition;
SELECT detect.resume('closed');
SELECT detect.wait_for('closed');
SELECT id FROM closed ORDER BY id;
SELECT * FROM regress.outcomes;
CALL regress.await($$ SELECT FROM detect.stat_stream WHERE state = 'running' AND reason IS NULL AND remedy IS NULL $$, 1, '3 minutes');
-- a partition that a crash would empty
ALTER TABLE closed_2023 SET UNLOGGED;
INSERT INTO detect_staging.closed VALUES (4, now());
SELECT regress.wait_for_pause('closed');
ALTER TABLE closed_2023 SET LOGGED;
SELECT detect.resume('closed');
SELECT detect.wait_for('closed');
SELECT id FROM closed ORDER BY id;
SELECT detect.drop_stream('closed');

SELECT count(*) FROM detect.stream;
RESET SESSION AUTHORIZATION;
SET client_min_messages = warning;
DROP SCHEMA partition CASCADE;
DROP SERVER regress_partition_server;
DROP FOREIGN DATA WRAPPER regress_partition_wrapper;
DROP ROLE regress_partition, regress_partition_other;
