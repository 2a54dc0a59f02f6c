-- Five rollups over one stream beside one of them: :cameras, :events.

SELECT date_trunc('day', now()) AS since, '{1 minute,10 seconds,5 minutes,1 hour,1 day}' AS widths \gset
SET ROLE city_ops;
SELECT bench.make_sightings('{1 minute}');
RESET ROLE;
SELECT detect.wait_for_rollup('sightings_1');
CALL bench.drain(1, :events, :cameras, :'since');
SELECT bench.check_sightings('{1 minute}', :events);
SELECT rollup_us AS one_us FROM bench.drained \gset
SELECT bench.drop_sightings();

SET ROLE city_ops;
SELECT bench.make_sightings(:'widths');
RESET ROLE;
SELECT detect.wait_for_rollup(rollup) FROM detect.rollup;
CALL bench.drain(1, :events, :cameras, :'since');
SELECT bench.check_sightings(:'widths', :events);
SELECT bench.keep('five rollups: their step, times that of one', rollup_us / :one_us, 'times', 4,
    format('five %s, one %s µs an event', bench.digits(rollup_us), bench.digits(:one_us))) FROM bench.drained;
SELECT bench.drop_sightings();
