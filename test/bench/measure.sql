-- One measurement: :run, :contestant, :kafka_pid, :rows (the finished rows).
-- Times the contestant, then checks what it made, and only then keeps figures.

SET jit = off;
SET work_mem = '64MB';
SET synchronous_commit = off;       -- as a stream's worker has it
SELECT :'contestant' = 'copy' AS is_copy, :'contestant' IN ('sql', 'sql_zones') AS is_sql,
       :'contestant' IN ('zones', 'zones_consumer', 'join', 'sql_zones') AS zones,
       CASE WHEN :'contestant' IN ('zones', 'zones_consumer') THEN 'locator'
            WHEN :'contestant' IN ('join', 'sql_zones') THEN 'join' ELSE 'location' END AS zone_by,
       (:'contestant' IN ('consumer', 'zones_consumer'))::int AS consumers \gset
SELECT min(timestamp_detected) AS first, max(timestamp_detected) AS last FROM bench.expected \gset
SELECT count(*) AS messages FROM bench.message \gset

\if :is_copy
    SELECT bench.make_table(:'first', :'last');
\elif :is_sql
    SELECT bench.make_plain(:'first', :'last');
\else
    SELECT bench.make_table(NULL, NULL);
\endif
CHECKPOINT;
CREATE TEMP TABLE before AS SELECT * FROM bench.cpu_now(:kafka_pid);
SELECT clock_timestamp() AS begin, pg_current_wal_insert_lsn() AS wal \gset

\if :is_copy
    COPY city.detection FROM :'rows';
\elif :is_sql
    CALL bench.apply_plain(bench.plain_statement(bench.plain_source(), :'zone_by'), 100000);
\else
    SET ROLE city_ops;
    SELECT bench.make_stream(:'zone_by', :consumers, false);
    RESET ROLE;
    CALL bench.await(:messages);
\endif

SELECT extract(epoch FROM clock_timestamp() - :'begin'::timestamptz) AS seconds,
       pg_current_wal_insert_lsn() - :'wal'::pg_lsn AS wal_bytes \gset
CREATE TEMP TABLE after AS SELECT * FROM bench.cpu_now(:kafka_pid);
\if :is_copy
\elif :is_sql
\else
    SELECT detect.wait_for('camera');
\endif
CREATE TEMP TABLE steps AS
SELECT sum(fetch_us) AS fetch_us, sum(decode_us) AS decode_us, sum(stage_us) AS stage_us, sum(read_us) AS read_us,
       sum(dedup_us) AS dedup_us, sum(query_us) AS query_us, sum(insert_us) AS insert_us, sum(rollup_us) AS rollup_us,
       sum(commit_us) AS commit_us, s.batches, s.elements
FROM detect.stat_worker JOIN (SELECT stream, batches, elements FROM detect.stat_stream) s USING (stream)
GROUP BY s.batches, s.elements;
CREATE TEMP TABLE memory AS
SELECT process, bench.memory_kb(pid, 'VmHWM') AS peak_kb, bench.memory_kb(pid, 'RssAnon') AS own_kb
FROM (SELECT 'session' AS process, pg_backend_pid() AS pid WHERE :'is_copy' OR :'is_sql'
      UNION ALL
      SELECT duty || ' worker', pid FROM detect.stat_worker WHERE pid IS NOT NULL) p;

SELECT bench.check_events(:'zones');
SELECT '' AS replay_seconds \gset
\if :is_copy
\elif :is_sql
    SELECT bench.check_rollups(:'zones', 'bench.items', 'bench.town');
\else
    SELECT bench.check_rollups(:'zones', 'city.items_per_minute', 'city.town_per_minute');
    SELECT bench.check_outcomes();
    -- The topic once more: everything in it is known, and nothing may change.
    SELECT clock_timestamp() AS again \gset
    SELECT detect.seek('camera', to_time => '-infinity');
    CALL bench.await(2 * :messages);
    SELECT extract(epoch FROM clock_timestamp() - :'again'::timestamptz) AS replay_seconds \gset
    SELECT bench.check_events(:'zones');
    SELECT bench.check_rollups(:'zones', 'city.items_per_minute', 'city.town_per_minute');
    SELECT detect.drop_rollup('items_per_minute'), detect.drop_rollup('town_per_minute'), detect.drop_stream('camera');
\endif

-- COPY reads finished rows, the others messages.
SELECT CASE WHEN :'is_copy' THEN (SELECT count(*) FROM bench.expected)
            ELSE :messages END AS events \gset
INSERT INTO bench.figure
SELECT :run, :'contestant', what, value
FROM (VALUES ('elapsed', :seconds * 1e6 / :events), ('WAL', :wal_bytes / :events::float8),
             ('replay', nullif(:'replay_seconds', '')::float8 * 1e6 / :events)) f (what, value)
WHERE value IS NOT NULL
UNION ALL
SELECT :run, :'contestant', 'step ' || step, us / :events::float8
FROM steps, LATERAL (VALUES ('fetch', fetch_us), ('decode', decode_us), ('stage', stage_us), ('read', read_us),
                            ('dedup', dedup_us), ('query', query_us), ('insert', insert_us), ('rollup', rollup_us),
                            ('commit', commit_us)) s (step, us)
UNION ALL
SELECT :run, :'contestant', 'events a commit', elements / batches::float8 FROM steps WHERE batches > 0
UNION ALL
SELECT :run, :'contestant', 'cpu ' || process, a.seconds - coalesce(b.seconds, 0)
FROM after a LEFT JOIN before b USING (process)
UNION ALL
SELECT :run, :'contestant', what || process, kb / 1024
FROM memory, LATERAL (VALUES ('peak of ', peak_kb), ('own of ', own_kb)) m (what, kb);
