-- The flows have come to rest, with :produced events in all; they are compared,
-- and nothing of them is left.

SELECT detect.wait_for(stream, '5 minutes') FROM detect.stream WHERE stream LIKE 'flow%';
SELECT bench.must_match(stream, format('city.%I', stream || '_items')::regclass, bench.flow_query(stream)) FROM detect.stream WHERE stream LIKE 'flow%';
SELECT bench.must_equal('events of all flows', :produced, sum(accepted)::bigint) FROM detect.stat_stream WHERE stream LIKE 'flow%';
SELECT bench.keep(format('CPU for %s of the same sum, times that of one', what), us_an_event / (SELECT us_an_event FROM bench.load WHERE what = 'one stream'),
                  'times', 1.5, format('%s µs an event; half visible in %s ms, 99 %% in %s ms', bench.digits(us_an_event), bench.digits(p50_ms), bench.digits(p99_ms)))
FROM bench.load WHERE what <> 'one stream' AND NOT EXISTS (SELECT FROM bench.rollup_figure f WHERE f.what LIKE format('CPU for %s %%', load.what));
SELECT detect.drop_rollup(stream || '_items'), detect.drop_stream(stream) FROM detect.stream WHERE stream LIKE 'flow%';
SELECT format('DROP TABLE city.%I', relname) FROM pg_class WHERE relname ~ '^flow_\d+$' AND relkind = 'p' \gexec
