-- A flow that nothing comes to, watched for :seconds once nothing has come for longer than
-- brokers gather messages for it (src/ingest/patience.c).

SELECT detect.wait_for('flow_1', '5 minutes');
SELECT pg_sleep(40);
CALL bench.begin_load();
SELECT pg_sleep(:seconds);
SELECT bench.keep('CPU of a stream that is idle', 100 * (n.seconds - b.seconds) / :seconds, '% of a core', 0.1) FROM bench.load_begun b, bench.load_now() n;
SELECT detect.drop_rollup('flow_1_items'), detect.drop_stream('flow_1');
DROP TABLE city.flow_1;
