-- :events events that are applied, to an empty table and to one with :history
-- events in 720 partitions.

SELECT date_trunc('hour', now()) AS since \gset
SET ROLE city_ops;
SELECT bench.make_sightings('{1 minute}', '1 hour');
RESET ROLE;
SELECT detect.wait_for_rollup('sightings_1');
CALL bench.drain(1, :events, 1000, :'since');
SELECT all_us FROM bench.drained \gset
SELECT bench.check_sightings('{1 minute}', :events);
SELECT bench.drop_sightings();

CREATE TABLE city.sighting (sighting_id bigint NOT NULL, camera int NOT NULL, confidence real NOT NULL, at timestamptz NOT NULL) PARTITION BY RANGE (at);
ALTER TABLE city.sighting OWNER TO city_ops;
SELECT format('CREATE TABLE city.sighting_past_%s PARTITION OF city.sighting FOR VALUES FROM (%L) TO (%L)', n, :'since'::timestamptz - n * interval '1 hour',
              :'since'::timestamptz - (n - 1) * interval '1 hour') FROM generate_series(1, 720) n \gexec
SELECT format('ALTER TABLE %s OWNER TO city_ops', inhrelid::regclass) FROM pg_inherits WHERE inhparent = 'city.sighting'::regclass \gexec
INSERT INTO city.sighting
SELECT -n, (n * 7919 % 1000)::int, (n % 64 / 64.0)::real, :'since'::timestamptz - interval '720 hours' + interval '720 hours' * (n / (:history + 1.0))
FROM generate_series(1::bigint, :history) n;
VACUUM (ANALYZE) city.sighting;
SET ROLE city_ops;
SELECT bench.make_sightings('{1 minute}', '1 hour');
RESET ROLE;
-- filled, and each partition that is past has its index
CALL bench.await_rows('SELECT WHERE NOT EXISTS (SELECT FROM detect.stat_rollup WHERE state <> ''active'')', '1 hour');
CALL bench.await_rows($$
    SELECT WHERE 700 <= (SELECT count(*) FROM pg_inherits c JOIN pg_index i ON i.indrelid = c.inhrelid
        WHERE c.inhparent = 'city.sighting'::regclass AND i.indisunique AND i.indisvalid) $$, '1 hour');
CHECKPOINT;
CALL bench.drain(1, :events, 1000, :'since');
SELECT bench.must_equal('events', :events + :history, (SELECT count(*) FROM city.sighting));
SELECT bench.must_match('the rollup with history', 'city.sightings_1', bench.sighting_query('1 minute', 'city.sighting'));
SELECT bench.keep(format('cost of an event with %s million events of history, times that without', bench.digits(:history / 1e6)), d.all_us / :all_us, 'times', 1.2,
    format('%s and %s µs', bench.digits(d.all_us), bench.digits(:all_us))) FROM bench.drained d;
SELECT bench.drop_sightings();
