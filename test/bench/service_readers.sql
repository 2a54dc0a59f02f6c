-- What the readers saw: :log is of pgbench, whose third column is µs and counts
-- from when a query was due; :produced events came.  Then nothing of it is left.

CREATE TABLE bench.pgbench_log (line text);
COPY bench.pgbench_log FROM :'log';
SELECT bench.must_equal('events', :produced, (SELECT count(*) FROM city.detection));
SELECT bench.check_town();
SELECT bench.keep(format('%s readers while 10,000/s come: 95 %% of their queries', :clients), percentile_cont(0.95) WITHIN GROUP (ORDER BY ms), 'ms', 100,
    format('half %s ms, 99 %% %s ms, %s queries', bench.digits(percentile_cont(0.5) WITHIN GROUP (ORDER BY ms)),
           bench.digits(percentile_cont(0.99) WITHIN GROUP (ORDER BY ms)), count(*)))
FROM (SELECT split_part(line, ' ', 3)::float8 / 1000 AS ms FROM bench.pgbench_log) q;
SELECT bench.keep('freshness of 99 % of the events meanwhile', bench.p99_ms(since, 'infinity'), 'ms', 400) FROM bench.loaded;
DROP TABLE bench.pgbench_log, bench.loaded;
SELECT detect.drop_rollup('items_per_minute'), detect.drop_rollup('town_per_minute'), detect.drop_stream('camera');
