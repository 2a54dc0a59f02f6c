-- The flows have come to rest, with :produced events in all; they are compared,
-- and nothing of them is left.

SELECT detect.wait_for(stream, '5 minutes') FROM detect.stream WHERE stream LIKE 'flow%';
SELECT bench.must_match(stream, format('city.%I', stream || '_items')::regclass, bench.flow_query(stream)) FROM detect.stream WHERE stream LIKE 'flow%';
SELECT bench.must_equal('events of all flows', :produced, sum(accepted)::bigint) FROM detect.stat_stream WHERE stream LIKE 'flow%';
SELECT detect.drop_rollup(stream || '_items'), detect.drop_stream(stream) FROM detect.stream WHERE stream LIKE 'flow%';
SELECT format('DROP TABLE city.%I', relname) FROM pg_class WHERE relname ~ '^flow_\d+$' AND relkind = 'p' \gexec
