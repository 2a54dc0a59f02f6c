-- The town's stream over :identities events in partitions of an hour that are
-- open now: those that are past would have an index, and not be in memory.

SELECT bench.make_history(now(), now() + interval '2 hours', :identities,
                          'date_trunc(''hour'', now()) + n % 3 * interval ''1 hour'' + n % 3600 * interval ''1 second''', 'location % 1000');
VACUUM (ANALYZE, FREEZE) city.detection;

SET ROLE city_ops;
SELECT bench.make_stream_from_end();
RESET ROLE;
CALL bench.await_rows('SELECT WHERE NOT EXISTS (SELECT FROM detect.stat_rollup WHERE state <> ''active'')', '1 hour');
SELECT bench.must_equal('identities in memory', :identities, identities) FROM detect.stat_stream WHERE stream = 'camera';
CHECKPOINT;
