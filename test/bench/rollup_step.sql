-- One shape of events: :shape, :cameras, :events, :target.  The step of one rollup,
-- beside a trigger that one writes by hand, and beside recomputing.

SET synchronous_commit = off;       -- as a stream's worker has it
SET jit = off;
SET work_mem = '64MB';
SET plan_cache_mode = force_custom_plan;
SELECT date_trunc('day', now()) AS since \gset

SET ROLE city_ops;
SELECT bench.make_sightings('{1 minute}');
RESET ROLE;
SELECT detect.wait_for_rollup('sightings_1');
CALL bench.drain(1, :events, :cameras, :'since');
SELECT bench.check_sightings('{1 minute}', :events);
SELECT rollup_us, all_us, batch_events::int FROM bench.drained \gset
SELECT bench.drop_sightings();

SELECT bench.make_by_hand();
CHECKPOINT;
CALL bench.apply_by_hand(:events, :cameras, :batch_events, :'since', NULL, NULL) \gset
SELECT bench.keep(:'shape' || ': step of one rollup', :rollup_us, 'µs an event', :target,
    format('trigger %s, recomputing %s; batches of %s', bench.digits(:trigger_us), bench.digits(:recompute_us), :batch_events));
