-- What rollup_fill.sql measured: :rows of history, :produced messages.

SELECT bench.must_equal('events', :rows + :produced, (SELECT count(*) FROM city.detection));
SELECT bench.check_town();
SELECT bench.must_equal('events that were filled, at least', :rows, least(:rows, rows_filled)) FROM bench.fill;
SELECT bench.keep('filling: speed, times CREATE TABLE AS', rows_filled / seconds / speed, 'times', 0.8,
           format('%s s for %s events, %s s and %s s for %s and %s', bench.digits(seconds), rows_filled,
                  bench.digits(created[1]), bench.digits(created[2]), events[1], events[2]), true),
       bench.keep('filling: freshness of 99 % of the events meanwhile', bench.p99_ms(since, until), 'ms', 1000,
           format('%s ms afterwards', bench.digits(bench.p99_ms(until, 'infinity'))))
FROM (SELECT *, extract(epoch FROM until - since)::float8 AS seconds FROM bench.fill) f,
     (SELECT sum(events) / sum(seconds) AS speed, array_agg(seconds ORDER BY events) AS created,
             array_agg(events ORDER BY events) AS events FROM bench.created) c;
DROP TABLE bench.fill, bench.created;
