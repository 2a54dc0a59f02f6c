-- A rollup over the town's history is filled while the town's stream runs.  The same
-- query makes a table before and after, with the stream running too, so that neither
-- finds more in memory than the other, or a quieter machine.  What was measured goes to
-- bench.fill; rollup_filled.sql judges it when the stream has come to rest.

CREATE TABLE bench.fill (since timestamptz, until timestamptz, rows_filled bigint);
CREATE TABLE bench.created (seconds float8, events bigint);

CREATE PROCEDURE bench.create_table() LANGUAGE plpgsql AS $$
DECLARE
    since timestamptz := clock_timestamp();
BEGIN
    EXECUTE format('CREATE TABLE bench.items AS %s', bench.items_query());
    COMMIT;
    INSERT INTO bench.created
        SELECT extract(epoch FROM clock_timestamp() - since), (SELECT sum(detections) FROM bench.items);
    DROP TABLE bench.items;
END $$;

SELECT detect.drop_rollup('items_per_minute');
SET jit = off;
SET work_mem = '64MB';
CALL bench.create_table();

SELECT clock_timestamp() AS since \gset
SET ROLE city_ops;
SET search_path = city, public;
SELECT detect.create_rollup('items_per_minute', bench.items_query());
RESET ROLE;
RESET search_path;
CALL bench.await_rows($$ SELECT FROM detect.stat_rollup WHERE rollup = 'items_per_minute' AND state = 'active' $$, '1 hour');
INSERT INTO bench.fill SELECT :'since', clock_timestamp(), rows_filled FROM detect.stat_rollup WHERE rollup = 'items_per_minute';

CALL bench.create_table();
DROP PROCEDURE bench.create_table;
