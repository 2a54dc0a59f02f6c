-- Events that are a year late beside those on time: :cameras, :events.  The
-- partition that they go to is past, and has its unique index.

SELECT date_trunc('day', now()) AS since, date_trunc('day', now()) - interval '1 year' AS late \gset
SET ROLE city_ops;
SELECT bench.make_sightings('{1 minute}');
RESET ROLE;
SELECT detect.wait_for_rollup('sightings_1');
CALL bench.drain(1, :events, :cameras, :'since');
SELECT rollup_us, all_us FROM bench.drained \gset
CALL bench.drain(:events + 1, :events + 1000, :cameras, :'late');
CALL bench.await_rows($$
    SELECT FROM pg_index i JOIN (SELECT tableoid FROM city.sighting WHERE at < now() - interval '300 days' LIMIT 1) s ON s.tableoid = i.indrelid
    WHERE i.indisunique AND i.indisvalid $$);
CALL bench.drain(:events + 1001, 2 * :events, :cameras, :'late');
SELECT bench.check_sightings('{1 minute}', 2 * :events);
SELECT bench.keep('a year late: the whole cost, times that on time', d.all_us / :all_us, 'times', 2,
    format('%s and %s µs an event, of which the rollup''s step %s and %s', bench.digits(d.all_us), bench.digits(:all_us),
           bench.digits(d.rollup_us), bench.digits(:rollup_us))) FROM bench.drained d;
SELECT bench.drop_sightings();
