--
-- rollup_compact: a state table that has grown while an old snapshot was held shrinks again
--
-- The oracle: the view and the query itself over the events table, EXCEPT ALL
-- both ways.  A prepared transaction stands for the long reader.
--
SET client_min_messages = warning;
CREATE ROLE regress_compact IN ROLE detect_admin LOGIN;
CREATE SCHEMA rollup_compact AUTHORIZATION regress_compact;
SET SESSION AUTHORIZATION regress_compact;
SET search_path = rollup_compact, public;

CREATE TABLE visit (visit_id int PRIMARY KEY, shop int, at timestamptz);
SELECT detect.create_stream('visit');
CREATE VIEW by_shop_query AS SELECT shop, repeat('shop ' || shop, 30) AS name, count(*) AS n, max(visit_id) AS last, avg(visit_id) AS average FROM visit GROUP BY 1, 2;
SELECT detect.create_rollup('by_shop', 'SELECT shop, repeat(''shop '' || shop, 30) AS name, count(*) AS n, max(visit_id) AS last, avg(visit_id) AS average FROM visit GROUP BY 1, 2');
SELECT detect.create_rollup('by_hour', 'SELECT date_trunc(''hour'', at) AS hour, count(*) AS n FROM visit GROUP BY 1');

-- Visits to each of so many shops, and they are counted.
CREATE FUNCTION stage(first int, shops int) RETURNS void LANGUAGE sql AS $$
    INSERT INTO detect_staging.visit (visit_id, shop, at)
    SELECT first + n, n, '2026-03-01 00:00Z'::timestamptz + n * interval '1 min' FROM generate_series(1, shops) n
$$;

-- Blocks of the state table, and groups behind those that it should have.
CREATE VIEW blocks AS
SELECT pg_relation_size('detect_state.by_shop') / current_setting('block_size')::int AS nblocks,
       (SELECT count(*) FROM detect_state.by_shop WHERE ctid >= '(600,0)') AS groups_at_end;

SELECT stage(0, 5000);
SELECT detect.wait_for('visit');

-- each batch updates all groups, and nothing of it can go
BEGIN;
SELECT pg_current_xact_id() IS NOT NULL AS has_snapshot;
PREPARE TRANSACTION 'regress_compact';
\t on
SELECT format('SELECT stage(%s, 5000)', n * 10000), 'SELECT detect.wait_for(''visit'')' FROM generate_series(1, 9) n \gexec
\t off
INSERT INTO detect_staging.visit (visit_id, shop, at) VALUES (99999, 0, '2026-03-01 00:00Z');
SELECT detect.wait_for('visit');
VACUUM detect_state.by_shop;
SELECT nblocks > 1400 AS has_grown, groups_at_end FROM blocks;
COMMIT PREPARED 'regress_compact';

-- a table with a trigger that would see rows go is left alone
CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
CREATE TRIGGER seen AFTER DELETE ON detect_state.by_shop FOR EACH ROW EXECUTE FUNCTION see();
SELECT detect.pause('visit');
VACUUM detect_state.by_shop;
SELECT detect.resume('visit');
SELECT stage(100000, 100);
SELECT detect.wait_for('visit');
SELECT detect.pause('visit');
SELECT groups_at_end FROM blocks;
DROP TRIGGER seen ON detect_state.by_shop;

-- a row that somebody has locked stays where it is, all others move, while batches go on
BEGIN;
SELECT shop FROM detect_state.by_shop WHERE shop = 0 FOR UPDATE;
PREPARE TRANSACTION 'regress_compact';
SELECT detect.resume('visit');
SELECT stage(110000, 5100) IS NULL AND stage(120000, 70) IS NULL AS staged;
SELECT detect.wait_for('visit');
CALL regress.await('SELECT FROM rollup_compact.blocks WHERE groups_at_end = 1', 1);
COMMIT PREPARED 'regress_compact';
SELECT stage(130000, 5200);
SELECT detect.wait_for('visit');
SELECT regress.compare('by_shop', 'TABLE by_shop_query');
SELECT regress.compare('by_hour', 'SELECT date_trunc(''hour'', at), count(*) FROM visit GROUP BY 1');
SELECT count(*) AS dead_letters FROM detect.dead_letter WHERE stream = 'visit';
SELECT detect.pause('visit');
VACUUM detect_state.by_shop;
SELECT detect.resume('visit');
CALL regress.await('SELECT FROM rollup_compact.blocks WHERE groups_at_end = 0 AND nblocks <= 600', 1, '3 minutes');
DROP VIEW blocks;

-- what else README says, while the stream runs
REINDEX TABLE CONCURRENTLY detect_state.by_shop;
SELECT stage(140000, 5300);
SELECT detect.wait_for('visit');
SELECT regress.compare('by_shop', 'TABLE by_shop_query');

-- the rows have their index entries, and those only
SET enable_seqscan = off;
SET enable_bitmapscan = off;
SELECT count(*) AS found FROM generate_series(0, 5300) s (shop), LATERAL (SELECT FROM by_shop b WHERE b.shop = s.shop OFFSET 0) f;
RESET enable_seqscan;
RESET enable_bitmapscan;
RESET SESSION AUTHORIZATION;
CREATE EXTENSION amcheck;
SELECT bt_index_check(indexrelid, true) FROM pg_index WHERE indrelid = 'detect_state.by_shop'::regclass;
DROP EXTENSION amcheck;

SELECT state, error FROM detect.stat_rollup WHERE rollup ~ '^by_' ORDER BY rollup;
SELECT detect.drop_rollup('by_shop'), detect.drop_rollup('by_hour'), detect.drop_stream('visit');
DROP SCHEMA rollup_compact CASCADE;
DROP ROLE regress_compact;
