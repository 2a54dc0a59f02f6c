-- The end of a soak: its figures, its ledger (:ledger is the generator's) and
-- the verdict.

-- How long each event took from its kafka_timestamp to its commit: by the commit
-- timestamps, and so for every event, not for samples.
CREATE TABLE bench.freshness AS
SELECT count(*) AS events, percentile_cont(ARRAY[0.5, 0.99, 0.999, 1]) WITHIN GROUP (ORDER BY age_ms) AS ms
FROM (SELECT 1000 * extract(epoch FROM t.committed_at - d.kafka_timestamp)::float8 AS age_ms
      FROM (SELECT xid, pg_xact_commit_timestamp(xid) AS committed_at FROM (SELECT DISTINCT xmin AS xid FROM city.detection) x) t
      JOIN city.detection d ON d.xmin = t.xid) a;

-- Memory in the last third of the time: by then partitions are closed, and their
-- identities given up, as fast as new ones come.  What one has given up serves the
-- next, so that all is counted together.
CREATE TABLE bench.memory AS
SELECT count(*) AS samples, regr_slope(own_kb, extract(epoch FROM at) / 60) AS kb_a_minute,
       min(own_kb) / 1024 AS least_mb, max(own_kb) / 1024 AS most_mb,
       max(identity_kb) / 1024 AS identity_mb, max(resident_kb) / 1024 AS resident_mb, max(consumer_kb) / 1024 AS consumer_mb
FROM bench.sample
WHERE at > (SELECT min(at) + (max(at) - min(at)) * 2 / 3 FROM bench.sample);

CREATE TABLE bench.ledger AS
WITH generator AS (SELECT :'ledger'::jsonb AS j),
stream AS (SELECT * FROM detect.stat_stream WHERE stream = 'camera')
SELECT 'produced = sum of outcomes' AS what, (j ->> 'produced')::int8 AS expected,
       accepted + duplicates + filtered + expired + dead_letters AS found FROM generator, stream
-- an expired event that came twice is expired twice
UNION ALL SELECT 'distinct = accepted, expired aside', (j ->> 'distinct')::int8,
                 greatest(accepted, least((j ->> 'distinct')::int8, accepted + expired)) FROM generator, stream
UNION ALL SELECT 'accepted = sum of items_per_minute', accepted,
                 (SELECT sum(detections) FROM city.items_per_minute)::int8 FROM stream
UNION ALL SELECT 'accepted = sum of town_per_minute', accepted,
                 (SELECT sum(detections) FROM city.town_per_minute)::int8 FROM stream
-- of the last hour, or of what a shorter retention has left
UNION ALL SELECT 'events that are kept = sum of items_per_minute', (SELECT count(*) FROM city.detection WHERE timestamp_detected >= since),
                 (SELECT sum(detections) FROM city.items_per_minute WHERE minute >= since)::int8
FROM (SELECT greatest(date_trunc('minute', now()) - interval '1 hour', date_trunc('minute', min(timestamp_detected)) + interval '1 minute') AS since
      FROM city.detection) kept
-- what the table would refuse may be expired before it gets there
UNION ALL SELECT 'broken = dead letters, expired aside', broken,
                 CASE WHEN dead_letters BETWEEN broken - expired AND broken THEN broken ELSE dead_letters END
FROM stream, (SELECT sum(value::int8)::int8 AS broken FROM generator, jsonb_each_text(j -> 'broken')) b;

CREATE TABLE bench.judgement AS
SELECT 'fresh' AS what, :rate > 10000 OR (ms[1] < 50 AND ms[2] < 200) AS passes,
       format('p50 %s ms and p99 %s ms, targets < 50 and < 200 ms at 10,000/s', round(ms[1]::numeric, 1), round(ms[2]::numeric, 1)) AS reason FROM bench.freshness
UNION ALL
SELECT 'stall', :rate > 10000 OR ms[4] < 1000, format('longest %s ms, target < 1000 ms at 10,000/s', round(ms[4]::numeric, 1)) FROM bench.freshness
UNION ALL
SELECT 'memory', seconds < 300 OR kb_a_minute < 1024,
       CASE WHEN seconds < 300 THEN 'memory not judged in less than 5 minutes'
            ELSE format('memory %s kB a minute, target < 1024', to_char(kb_a_minute, 'FMSG9999990')) END
FROM bench.memory, (SELECT extract(epoch FROM max(at) - min(at)) AS seconds FROM bench.sample) d
UNION ALL
SELECT 'ledger', bool_and(expected IS NOT DISTINCT FROM found),
       'ledger ' || CASE WHEN bool_and(expected IS NOT DISTINCT FROM found) THEN 'exact'
                         ELSE 'WRONG: ' || string_agg(format('%s: %s and %s', what, expected, found), '; ')
                              FILTER (WHERE expected IS DISTINCT FROM found) END
FROM bench.ledger
UNION ALL
SELECT 'state', bool_and(state = 'running' OR :rate > 10000 AND state = 'catching up') AND max(retries) = 0,
       format('state %s, %s retries', string_agg(DISTINCT state, ', '), max(retries)) FROM bench.sample;

CREATE FUNCTION bench.passes() RETURNS boolean
LANGUAGE sql STABLE AS $$ SELECT coalesce(bool_and(coalesce(passes, false)), false) FROM bench.judgement $$;

\echo
SELECT format('freshness of %s events, kafka_timestamp to commit: p50 %s ms, p99 %s ms, p99.9 %s ms, max %s ms',
              events, round(ms[1]::numeric, 1), round(ms[2]::numeric, 1), round(ms[3]::numeric, 1), round(ms[4]::numeric, 1))
FROM bench.freshness;
SELECT format('partitions %s, of which %s have the unique index; %s expired; %s maintenance errors',
              count(*), count(*) FILTER (WHERE EXISTS (SELECT FROM pg_index i WHERE i.indrelid = p.relid AND i.indisunique AND i.indisvalid)),
              (SELECT expired FROM detect.stat_stream), (SELECT count(*) FROM bench.sample WHERE reason IS NOT NULL))
FROM pg_partition_tree('city.detection') p WHERE p.isleaf;
SELECT format('as detect.stat_stream said, %s samples: p50 %s ms (median), p99 %s ms (median) and %s ms (worst), lag %s messages (worst)',
              count(*), round((percentile_cont(0.5) WITHIN GROUP (ORDER BY p50_ms))::numeric, 1),
              round((percentile_cont(0.5) WITHIN GROUP (ORDER BY p99_ms))::numeric, 1), round(max(p99_ms)::numeric, 1),
              max(lag_messages))
FROM bench.sample;
SELECT format('memory of the applier in the last third: %s to %s MB of its own, up to %s MB of it identities; resident with shared buffers %s MB; %s kB a minute; consumers beside it up to %s MB',
              round(least_mb), round(most_mb), round(identity_mb), round(resident_mb), round(kb_a_minute), round(consumer_mb))
FROM bench.memory;
SELECT format('CPU: applier %s %% of a core, its librdkafka %s %%',
              round((100 * sum(seconds) FILTER (WHERE process = 'apply worker') / max(s))::numeric, 1),
              round((100 * sum(seconds) FILTER (WHERE process = 'apply worker, librdkafka') / max(s))::numeric, 1))
FROM bench.cpu_now(NULL), (SELECT extract(epoch FROM max(at) - min(at)) AS s FROM bench.sample) d;
SELECT format('sizes: events %s, rollups %s (most %s), staging %s (most %s), progress %s (most %s)',
              pg_size_pretty((SELECT sum(pg_total_relation_size(relid)) FROM pg_partition_tree('city.detection'))),
              pg_size_pretty(last.state_bytes), pg_size_pretty(most.state_bytes),
              pg_size_pretty(last.staging_bytes), pg_size_pretty(most.staging_bytes),
              pg_size_pretty(last.progress_bytes), pg_size_pretty(most.progress_bytes))
FROM (SELECT * FROM bench.sample ORDER BY at DESC LIMIT 1) last,
     (SELECT max(state_bytes) AS state_bytes, max(staging_bytes) AS staging_bytes, max(progress_bytes) AS progress_bytes
      FROM bench.sample) most;
SELECT format('verdict: %s  %s', CASE WHEN bench.passes() THEN 'PASS' ELSE 'FAIL' END,
              string_agg(CASE WHEN passes THEN '' ELSE 'FAILED: ' END || reason, '; '))
FROM bench.judgement;
