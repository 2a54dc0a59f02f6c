-- The town's stream over :rows events of history, from ten hours ago until the hour
-- began, with some 24 events a group, as the town has at 10,000/s; it is as it will
-- stay when this ends.

SELECT date_trunc('hour', now()) - interval '10 hours' AS first \gset
SELECT bench.make_history(:'first', CASE WHEN :rows > 0 THEN now() END, :rows,
                          format('%L::timestamptz + interval ''10 hours'' * (n / (%s + 1.0))', :'first', :rows),
                          format('location %% greatest(%s / (600 * 24 * 4), 1)', :rows));
ANALYZE city.detection;

SET ROLE city_ops;
SELECT bench.make_stream_from_end();
RESET ROLE;
CALL bench.await_rows('SELECT WHERE NOT EXISTS (SELECT FROM detect.stat_rollup WHERE state <> ''active'')', '1 hour');
-- the partitions that are past get their indexes; a vacuum would come some time
CALL bench.await_rows(format($$
    SELECT WHERE NOT EXISTS (SELECT FROM pg_inherits c JOIN pg_class p ON p.oid = c.inhrelid WHERE c.inhparent = 'city.detection'::regclass
        AND p.relname < 'detection_' || to_char(now() - interval '2 hours', 'YYYYMMDDHH24')
        AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = p.oid AND i.indisunique AND i.indisvalid)) $$), '1 hour');
VACUUM (ANALYZE) city.detection;
CHECKPOINT;
