-- A rollup over the town's history is filled while the town's stream runs, then
-- the same query makes a table, with the stream still running.  What was measured
-- goes to bench.fill; rollup_filled.sql judges it when the stream has come to rest.

CREATE TABLE bench.fill (since timestamptz, until timestamptz, rows_filled bigint, create_seconds float8, rows_created bigint);

SELECT detect.drop_rollup('items_per_minute');
SELECT clock_timestamp() AS since \gset
SET ROLE city_ops;
SET search_path = city, public;
SELECT detect.create_rollup('items_per_minute', bench.items_query());
RESET ROLE;
RESET search_path;
CALL bench.await_rows($$ SELECT FROM detect.stat_rollup WHERE rollup = 'items_per_minute' AND state = 'active' $$, '1 hour');
SELECT clock_timestamp() AS until, rows_filled FROM detect.stat_rollup WHERE rollup = 'items_per_minute' \gset

SET jit = off;
SET work_mem = '64MB';
SELECT clock_timestamp() AS begin \gset
SELECT format('CREATE TABLE bench.created AS %s', bench.items_query()) \gexec
SELECT extract(epoch FROM clock_timestamp() - :'begin'::timestamptz) AS create_seconds \gset
INSERT INTO bench.fill SELECT :'since', :'until', :rows_filled, :create_seconds, sum(detections) FROM bench.created;
DROP TABLE bench.created;
