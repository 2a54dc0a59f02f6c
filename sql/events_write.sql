--
-- events_write: rows that are written as COPY writes them, and those that are
-- left to the executor: the table and the rollup are the same either way
--
-- Which way was taken is told by WAL: only the first has records of many rows.
--
CREATE ROLE regress_write IN ROLE detect_admin LOGIN;
CREATE SCHEMA write AUTHORIZATION regress_write;
CREATE EXTENSION IF NOT EXISTS pg_walinspect;
-- the records of many rows that tables of this schema got since
CREATE FUNCTION write.many_since(since pg_lsn) RETURNS boolean LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public AS $$
    SELECT EXISTS (SELECT FROM pg_get_wal_records_info(since, pg_current_wal_flush_lsn()) w
        JOIN pg_class c ON w.block_ref ~ format('rel \d+/\d+/%s ', pg_relation_filenode(c.oid))
        WHERE c.relnamespace = 'write'::regnamespace AND c.relkind = 'r' AND record_type LIKE 'MULTI\_INSERT%')
$$;
GRANT EXECUTE ON FUNCTION write.many_since TO regress_write;
SET SESSION AUTHORIZATION regress_write;
SET search_path = write, public;

CREATE TABLE this_hour AS SELECT date_trunc('hour', now()) AS hour;

-- Rows 1 to 100 through a stream into a table of this definition; how they were
-- written, and what differs from the rows and from the rollup's query.
CREATE PROCEDURE feed(definition text, extra text DEFAULT '', bad int DEFAULT 0) LANGUAGE plpgsql AS $$
DECLARE
    since pg_lsn;
    differences bigint;
    outcomes text;
BEGIN
    EXECUTE 'CREATE TABLE fed ' || definition;
    EXECUTE extra;
    PERFORM detect.create_stream('fed', key => '{id}', event_time => 'at', columns => 'id int, at timestamptz, v int, word text',
                                 partition_interval => CASE WHEN definition ~ 'RANGE \(at\)' THEN interval '1 hour' END);
    PERFORM detect.create_rollup('fed_rollup', 'SELECT v, count(*) AS n, sum(id) AS ids, max(word) AS word FROM fed GROUP BY v');
    COMMIT;
    PERFORM detect.wait_for('fed');
    PERFORM detect.wait_for_rollup('fed_rollup');
    COMMIT;
    since := pg_current_wal_insert_lsn();
    INSERT INTO detect_staging.fed (id, at, v, word)
        SELECT n, (SELECT hour FROM this_hour) - n % 3 * interval '1 hour', CASE WHEN n = bad THEN -1 ELSE n % 7 END, 'word ' || n FROM generate_series(1, 100) n;
    COMMIT;
    PERFORM detect.wait_for('fed');
    PERFORM pg_logical_emit_message(true, 'events_write', '');
    COMMIT;     -- flushes what the applier has committed before
    SELECT count(*) INTO differences FROM (
        (SELECT v, n, ids, word FROM fed_rollup EXCEPT ALL SELECT v, count(*), sum(id), max(word) FROM fed GROUP BY v)
        UNION ALL (SELECT v, count(*), sum(id), max(word) FROM fed GROUP BY v EXCEPT ALL SELECT v, n, ids, word FROM fed_rollup)
        UNION ALL (SELECT n % 7, 1, n, 'word ' || n FROM generate_series(1, 100) n WHERE n <> bad
                   EXCEPT ALL SELECT v, 1, id, word FROM fed)) d;
    SELECT format('%s accepted, %s dead letters', accepted, dead_letters) INTO outcomes FROM detect.stat_stream WHERE stream = 'fed';
    RAISE NOTICE '%; %, % differences', outcomes, CASE WHEN many_since(since) THEN 'many at a time' ELSE 'row by row' END, differences;
    PERFORM detect.drop_rollup('fed_rollup'), detect.drop_stream('fed');
    DROP TABLE fed;
    COMMIT;
END $$;

-- many at a time
CALL feed('(id int, at timestamptz, v int, word text)');
CALL feed('(id int PRIMARY KEY, at timestamptz NOT NULL, v int, word text); CREATE INDEX ON fed (word) WHERE v > 2; CREATE INDEX ON fed ((v + 1))');
CALL feed('(id int, at timestamptz NOT NULL, v int, word text) PARTITION BY RANGE (at)');
-- defaults, casts and columns that are gone; a large value
CREATE DOMAIN small AS int CHECK (VALUE < 1000);
CALL feed('(gone int, word varchar(20), extra text DEFAULT repeat(''x'', 5000), n bigserial, v small, at timestamptz, id int); ALTER TABLE fed DROP COLUMN gone');
-- an hour whose partition has other columns
CREATE PROCEDURE attach(part regclass) LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('ALTER TABLE fed ATTACH PARTITION %s FOR VALUES FROM (%L) TO (%L)', part, (SELECT hour FROM this_hour) - interval '1 hour', (SELECT hour FROM this_hour));
END $$;
CALL feed('(id int, at timestamptz NOT NULL, v int, word text) PARTITION BY RANGE (at)',
    'CREATE TABLE other (word text, gone int, v int CHECK (v > -5), at timestamptz NOT NULL, id int); ALTER TABLE other DROP COLUMN gone; CALL attach(''other'')');

-- without a row that a constraint refuses
CALL feed('(id int, at timestamptz, v int CHECK (v >= 0), word text)', bad => 50);
CALL feed('(id int, at timestamptz NOT NULL, v int CHECK (v >= 0), word text) PARTITION BY RANGE (at)', bad => 50);
CALL feed('(id int, at timestamptz NOT NULL, v int, word text) PARTITION BY RANGE (at)',
    'CREATE TABLE other (word text, gone int, v int CHECK (v > -1), at timestamptz NOT NULL, id int); ALTER TABLE other DROP COLUMN gone; CALL attach(''other'')', bad => 49);

-- row by row: a row that is refused otherwise, and all beside it in its piece
CREATE DOMAIN positive AS int CHECK (VALUE >= 0);
CALL feed('(id int, at timestamptz, v positive, word text)', bad => 50);
CALL feed('(id int, at timestamptz, v int CHECK (1 / (v + 1) >= 0), word text)', bad => 50);

-- row by row: something else happens to rows
CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CALL feed('(id int, at timestamptz, v int, word text)', 'CREATE TRIGGER look BEFORE INSERT ON fed FOR EACH ROW EXECUTE FUNCTION look()');
CALL feed('(id int, at timestamptz, v int, word text)', 'CREATE TRIGGER look AFTER INSERT ON fed FOR EACH ROW EXECUTE FUNCTION look()');
CALL feed('(id int, at timestamptz, v int, word text)', 'CREATE TRIGGER look BEFORE INSERT ON fed EXECUTE FUNCTION look()');
CALL feed('(id int, at timestamptz, v int, word text)', 'CREATE TRIGGER look AFTER INSERT ON fed EXECUTE FUNCTION look()');
CALL feed('(id int, at timestamptz, v int, word text, twice int GENERATED ALWAYS AS (v * 2) STORED)');
CREATE TABLE known (v int PRIMARY KEY);
INSERT INTO known SELECT generate_series(0, 6);
CALL feed('(id int, at timestamptz, v int REFERENCES known, word text)');
CALL feed('(id int, at timestamptz, v int, word text, UNIQUE (id, word) DEFERRABLE)');
-- one partition is enough
CREATE FUNCTION lower_word() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.word := lower(NEW.word); RETURN NEW; END';
CALL feed('(id int, at timestamptz NOT NULL, v int, word text) PARTITION BY RANGE (at)',
    'CREATE TABLE other (word text, v int, at timestamptz NOT NULL, id int); CREATE TRIGGER lower_word BEFORE INSERT ON other FOR EACH ROW EXECUTE FUNCTION lower_word(); CALL attach(''other'')');

-- Many rows that constraints refuse, in few commits, each with PostgreSQL's own words;
-- an identity that one of them had is free for a row that comes later.
CREATE TABLE fed (id int PRIMARY KEY, v int NOT NULL CONSTRAINT low CHECK (v < 1000), word text CONSTRAINT short CHECK (length(word) < 12));
SELECT detect.create_stream('fed', server => '');
SELECT detect.create_rollup('fed_rollup', 'SELECT v % 7 AS v, count(*) AS n, sum(id) AS ids FROM fed GROUP BY 1');
SELECT detect.pause('fed');
INSERT INTO detect_staging.fed (id, v, word)
    SELECT n, CASE n % 10 WHEN 3 THEN NULL WHEN 6 THEN 1000 ELSE n % 100 END, CASE n % 10 WHEN 9 THEN 'much too long' ELSE 'word ' || n END FROM generate_series(1, 6000) n;
INSERT INTO detect_staging.fed (id, v, word) SELECT n, 1, 'again' FROM generate_series(1, 13) n;
SELECT detect.resume('fed');
SELECT detect.wait_for('fed');
SELECT accepted, duplicates, dead_letters, batches < 60 AS in_few_commits FROM detect.stat_stream WHERE stream = 'fed';
SELECT sqlstate, reason, count(*) FROM detect.dead_letter WHERE stream = 'fed' GROUP BY 1, 2 ORDER BY 1, 2;
SELECT * FROM fed WHERE word = 'again' ORDER BY id;
SELECT regress.compare('fed_rollup', 'SELECT v % 7 AS v, count(*) AS n, sum(id) AS ids FROM fed GROUP BY 1');
-- in one batch, too
SELECT detect.pause('fed');
INSERT INTO detect_staging.fed (id, v, word) VALUES (9001, NULL, 'bad'), (9002, 2, 'good'), (9001, 1, 'good'), (9003, 1001, 'bad'), (9003, 3, 'good'), (9002, 4, 'known');
SELECT detect.resume('fed');
SELECT detect.wait_for('fed');
SELECT * FROM fed WHERE id > 9000 ORDER BY id;
SELECT accepted, duplicates, dead_letters FROM detect.stat_stream WHERE stream = 'fed';
SELECT regress.compare('fed_rollup', 'SELECT v % 7 AS v, count(*) AS n, sum(id) AS ids FROM fed GROUP BY 1');
SELECT detect.drop_stream('fed');

RESET SESSION AUTHORIZATION;
RESET search_path;
SET client_min_messages = warning;
DROP SCHEMA write CASCADE;
DROP ROLE regress_write;
