-- A flow that nothing comes to, watched for :seconds once nothing has come for two of the times after which
-- brokers gather no more for it (src/ingest/patience.c): its client is another one then.

SELECT detect.wait_for('flow_1', '5 minutes');
SELECT pg_sleep(75);
CALL bench.begin_load();
SELECT pg_sleep(:seconds);
SELECT bench.keep('CPU of a stream that is idle', 100 * (n.seconds - b.seconds) / :seconds, '% of a core', 0.1) FROM bench.load_begun b, bench.load_now() n;
SELECT detect.drop_rollup('flow_1_items'), detect.drop_stream('flow_1');
DROP TABLE city.flow_1;
