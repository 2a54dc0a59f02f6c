-- One row at a time, fed by SQL, from INSERT to the rollup's view.

SET ROLE city_ops;
SELECT bench.make_sightings('{1 minute}');
RESET ROLE;
SELECT detect.wait_for_rollup('sightings_1');
CALL bench.wake(300);
SELECT bench.check_sightings('{1 minute}', 300);
SELECT bench.keep('one row, from INSERT to the view: half of them', percentile_cont(0.5) WITHIN GROUP (ORDER BY ms), 'ms', 5,
    format('99 %% %s ms', bench.digits(percentile_cont(0.99) WITHIN GROUP (ORDER BY ms)))) FROM bench.woken;
SELECT bench.drop_sightings();
