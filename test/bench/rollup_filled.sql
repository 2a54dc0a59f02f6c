-- What rollup_fill.sql measured: :rows of history, :produced messages.

-- 99 % of the events that came to Kafka within a time were visible after so many
-- ms: by their commits, so of every event.
CREATE FUNCTION bench.p99_ms(since timestamptz, until timestamptz) RETURNS float8
LANGUAGE sql STABLE AS $$
    SELECT percentile_cont(0.99) WITHIN GROUP (ORDER BY 1000 * extract(epoch FROM pg_xact_commit_timestamp(xmin) - kafka_timestamp)::float8)
    FROM city.detection WHERE kafka_timestamp >= since AND kafka_timestamp < until
$$;

SELECT bench.must_equal('events', :rows + :produced, (SELECT count(*) FROM city.detection));
SELECT bench.check_town();
SELECT bench.must_equal('events that were filled, at least', :rows, least(:rows, rows_filled)) FROM bench.fill;
SELECT bench.keep('filling: speed, times CREATE TABLE AS', rows_filled / seconds / (rows_created / create_seconds), 'times', 0.8,
           format('%s s for %s events, %s s for %s', bench.digits(seconds), rows_filled, bench.digits(create_seconds), rows_created), true),
       bench.keep('filling: freshness of 99 % of the events meanwhile', bench.p99_ms(since, until), 'ms', 1000,
           format('%s ms afterwards', bench.digits(bench.p99_ms(until, 'infinity'))))
FROM (SELECT *, extract(epoch FROM until - since)::float8 AS seconds FROM bench.fill) f;
DROP TABLE bench.fill;
DROP FUNCTION bench.p99_ms;
