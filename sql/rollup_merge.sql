--
-- rollup_merge: batches merge into the rows of their groups, whatever becomes of
-- these rows between two of them
--
-- The oracle: each view and its query, EXCEPT ALL both ways.
--
SET client_min_messages = warning;
CREATE ROLE regress_merge IN ROLE detect_admin LOGIN;
CREATE SCHEMA rollup_merge AUTHORIZATION regress_merge;
CREATE COLLATION rollup_merge.any_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
SET SESSION AUTHORIZATION regress_merge;
SET search_path = rollup_merge, public;

CREATE TABLE sale (sale_id int PRIMARY KEY CHECK (sale_id <> 666), shop int, price money, code varbit, name text COLLATE any_case, amount numeric);
SELECT detect.create_stream('sale', server => '', key => '{sale_id}');
CREATE TABLE kept (name text PRIMARY KEY, query text);
INSERT INTO kept VALUES
('by_shop',  $$ SELECT shop, count(*) AS n, sum(amount) AS amount, max(sale_id) AS last FROM sale GROUP BY shop $$),
('by_price', $$ SELECT price, shop, count(*) AS n, avg(amount) AS amount FROM sale GROUP BY price, shop $$),
('by_code',  $$ SELECT code, count(amount) AS n FROM sale GROUP BY code $$),
('by_name',  $$ SELECT name COLLATE any_case AS name, count(*) AS n, sum(sale_id) AS ids FROM sale GROUP BY 1 $$),
('shops',    $$ SELECT shop FROM sale GROUP BY shop $$),
('in_all',   $$ SELECT count(*) AS n, min(amount) AS least FROM sale $$);
SELECT count(*) FROM (SELECT detect.create_rollup(name, query) FROM kept) c;
SELECT count(*) FROM (SELECT detect.wait_for_rollup(name) FROM kept) w;

CREATE FUNCTION sell(first int, last int) RETURNS void LANGUAGE sql AS $$
    INSERT INTO detect_staging.sale SELECT n, nullif(n % 40, 0), (n % 7)::text::money, nullif(n % 5, 0)::bit(8)::varbit,
        CASE n % 4 WHEN 0 THEN 'shoe' WHEN 1 THEN 'Shoe' WHEN 2 THEN 'hat' END, n % 11 / 7.0 FROM generate_series(first, last) n
$$;
-- The rollups that differ from their query: none.  A name of two cases is as good as the other.
CREATE FUNCTION differing() RETURNS TABLE (name text, rows bigint) LANGUAGE plpgsql AS $$
DECLARE
    rollup kept;
BEGIN
    FOR rollup IN SELECT * FROM kept ORDER BY 1 LOOP
        EXECUTE format('SELECT %L, count(*) FROM ((TABLE %I EXCEPT ALL %s) UNION ALL (%s EXCEPT ALL TABLE %I)) d HAVING count(*) > 0',
                       rollup.name, rollup.name, rollup.query, rollup.query, rollup.name) INTO name, rows;
        CONTINUE WHEN name IS NULL;
        RETURN NEXT;
    END LOOP;
END $$;
CREATE PROCEDURE sold(first int, last int) LANGUAGE plpgsql AS $$
BEGIN
    PERFORM sell(first, last);
    COMMIT;
    PERFORM detect.wait_for('sale');
END $$;
\set compare 'SELECT * FROM differing();'

-- one batch, and the same groups again
CALL sold(1, 500);
:compare
CALL sold(501, 600);
:compare
-- a piece is rolled back, and found again without the row to blame
CALL sold(601, 700);
:compare
-- rows move, and what is noted of them is wrong
RESET SESSION AUTHORIZATION;
SET search_path = rollup_merge, public;
VACUUM FULL detect_state.by_shop;
CLUSTER detect_state.by_price USING by_price_price_shop_idx;
VACUUM detect_state.by_code;
SET SESSION AUTHORIZATION regress_merge;
CALL sold(701, 800);
:compare
-- rows are in each other's place
CREATE TABLE moved AS TABLE detect_state.by_shop;
TRUNCATE detect_state.by_shop;
INSERT INTO detect_state.by_shop SELECT * FROM moved ORDER BY shop DESC NULLS LAST;
CALL sold(801, 900);
:compare
-- and the table is shorter than it was
CREATE TABLE few AS SELECT * FROM detect_state.by_shop WHERE shop < 3;
TRUNCATE detect_state.by_shop;
INSERT INTO detect_state.by_shop TABLE few;
CALL sold(901, 1000);
SELECT name FROM differing();
SELECT b.shop, b.n - f.n AS more FROM detect_state.by_shop b JOIN few f USING (shop) ORDER BY 1;
SELECT count(*) AS shops, count(*) FILTER (WHERE b.n IN (2, 3)) AS fresh FROM detect_state.by_shop b WHERE NOT EXISTS (SELECT FROM few f WHERE f.shop = b.shop);
SELECT detect.rebuild_rollup('by_shop');
SELECT detect.wait_for_rollup('by_shop');
SELECT * FROM differing();

-- triggers of a state table are the owner's own, and see each group once a batch
CREATE TABLE seen (event text, shop int);
CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO rollup_merge.seen VALUES (TG_OP, NEW.shop); RETURN NULL; END $$;
CREATE TRIGGER seen AFTER INSERT OR UPDATE ON detect_state.by_shop FOR EACH ROW EXECUTE FUNCTION see();
CALL sold(1001, 1010);
:compare
SELECT event, count(*), count(DISTINCT shop) FROM seen GROUP BY 1;
DROP TRIGGER seen ON detect_state.by_shop;

-- without the index no group can be found: the rollup waits, and goes on with another index
DROP INDEX detect_state.by_shop_shop_idx;
CALL sold(1011, 1020);
SELECT rollup, state, error, remedy FROM detect.stat_rollup WHERE state <> 'active';
RESET SESSION AUTHORIZATION;
CREATE UNIQUE INDEX half ON detect_state.by_shop (shop) NULLS NOT DISTINCT WHERE shop < 20;
CREATE UNIQUE INDEX nulls ON detect_state.by_shop (shop);
SET SESSION AUTHORIZATION regress_merge;
SELECT detect.retry_rollup('by_shop');
CALL sold(1021, 1030);
CALL regress.await('SELECT FROM detect.stat_rollup WHERE state = ''failed''', 1);
SELECT rollup, state, error FROM detect.stat_rollup WHERE state <> 'active';
RESET SESSION AUTHORIZATION;
CREATE UNIQUE INDEX groups ON detect_state.by_shop (shop) NULLS NOT DISTINCT;
SET SESSION AUTHORIZATION regress_merge;
SELECT detect.retry_rollup('by_shop');
CALL regress.await($$ SELECT FROM detect.stat_rollup WHERE state <> 'active' $$, 0);
CALL sold(1031, 1100);
:compare

-- many groups: more than are noted
CREATE TABLE wide (wide_id int PRIMARY KEY);
SELECT detect.create_stream('wide', server => '', key => '{wide_id}');
SELECT detect.create_rollup('wide_groups', 'SELECT wide_id / 2 AS half, count(*) AS n FROM wide GROUP BY 1');
SELECT detect.wait_for_rollup('wide_groups');
INSERT INTO detect_staging.wide SELECT n FROM generate_series(0, 160000, 2) n;
SELECT detect.wait_for('wide');
INSERT INTO detect_staging.wide SELECT n FROM generate_series(1, 160000, 2) n;
SELECT detect.wait_for('wide');
SELECT n, count(*) FROM wide_groups GROUP BY 1 ORDER BY 1;

RESET SESSION AUTHORIZATION;
DROP SCHEMA rollup_merge CASCADE;
SELECT count(*) FROM detect._rollup;
DROP ROLE regress_merge;
