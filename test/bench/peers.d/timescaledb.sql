-- TimescaleDB: the events table is a hypertable with a unique key, which plain SQL
-- fills from the table of messages; the rollups are continuous aggregates.  What
-- is fastest: chunks of an hour, as the partitions of the others, no index but the
-- key's, and one refresh when all events are there.  A refresh after each batch
-- would be as fresh as the others.  A build under the Apache license alone, as
-- Debian's, has no continuous aggregates: there the same SQL keeps the rollups of
-- "sql_zones".  :run, :kafka_pid.

SET jit = off;
SET work_mem = '64MB';
SET synchronous_commit = off;

CREATE EXTENSION timescaledb;
SELECT current_setting('timescaledb.license') <> 'apache' AS continuous \gset
DROP TABLE IF EXISTS city.detection;
CREATE TABLE city.detection (LIKE bench.detection INCLUDING ALL);
SELECT create_hypertable('city.detection', 'timestamp_detected', chunk_time_interval => interval '1 hour',
                         create_default_indexes => false);
ALTER TABLE city.detection ADD UNIQUE (detection_oid, timestamp_detected);
\if :continuous
    CREATE MATERIALIZED VIEW bench.timescaledb_items WITH (timescaledb.continuous) AS
    SELECT time_bucket('1 minute', timestamp_detected) AS minute, zone_id, item_name,
           count(*) AS detections, avg(confidence) AS confidence
    FROM city.detection GROUP BY 1, 2, 3 WITH NO DATA;
    CREATE MATERIALIZED VIEW bench.timescaledb_town WITH (timescaledb.continuous) AS
    SELECT time_bucket('1 minute', timestamp_detected) AS minute, item_name,
           count(*) AS detections, count(*) FILTER (WHERE confidence >= 0.9) AS sure,
           avg(confidence) AS confidence, max(timestamp_detected) AS last_seen
    FROM city.detection GROUP BY 1, 2 WITH NO DATA;
\else
    \warn timescaledb: this build has no continuous aggregates, its rollups are those of plain SQL
    TRUNCATE bench.items_per_minute, bench.town_per_minute;
\endif

CHECKPOINT;
SELECT bench.open_peer(:kafka_pid);
\if :continuous
    CALL bench.apply_plain(bench.accept_statement(bench.plain_source(), 'join'), 100000);
    CALL refresh_continuous_aggregate('bench.timescaledb_items', NULL, NULL);
    CALL refresh_continuous_aggregate('bench.timescaledb_town', NULL, NULL);
\else
    CALL bench.apply_plain(bench.plain_statement(bench.plain_source(), 'join'), 100000);
\endif
BEGIN;
SELECT bench.close_peer(:run, 'timescaledb', clock_timestamp());
SELECT bench.check_events(true);
\if :continuous
    SELECT bench.check_rollups(true, 'bench.timescaledb_items', 'bench.timescaledb_town');
\else
    SELECT bench.check_rollups(true, 'bench.items', 'bench.town');
\endif
COMMIT;

\if :continuous
    DROP MATERIALIZED VIEW bench.timescaledb_items;
    DROP MATERIALIZED VIEW bench.timescaledb_town;
\endif
DROP TABLE city.detection;
DROP EXTENSION timescaledb;
