-- TimescaleDB: the events table is a hypertable with a unique key, which plain SQL
-- fills from the table of messages; the rollups are continuous aggregates.  What
-- is fastest: chunks of an hour, as the partitions of the others, no index but the
-- key's, and one refresh when all events are there.  A refresh after each batch
-- would be as fresh as the others.  :run, :kafka_pid.

SET jit = off;
SET work_mem = '64MB';
SET synchronous_commit = off;

CREATE EXTENSION timescaledb;
DROP TABLE IF EXISTS city.detection;
CREATE TABLE city.detection (LIKE bench.detection INCLUDING ALL);
SELECT create_hypertable('city.detection', 'timestamp_detected', chunk_time_interval => interval '1 hour',
                         create_default_indexes => false);
ALTER TABLE city.detection ADD UNIQUE (detection_oid, timestamp_detected);
CREATE MATERIALIZED VIEW bench.timescaledb_items WITH (timescaledb.continuous) AS
SELECT time_bucket('1 minute', timestamp_detected) AS minute, zone_id, item_name,
       count(*) AS detections, avg(confidence) AS confidence
FROM city.detection GROUP BY 1, 2, 3 WITH NO DATA;
CREATE MATERIALIZED VIEW bench.timescaledb_town WITH (timescaledb.continuous) AS
SELECT time_bucket('1 minute', timestamp_detected) AS minute, item_name,
       count(*) AS detections, count(*) FILTER (WHERE confidence >= 0.9) AS sure,
       avg(confidence) AS confidence, max(timestamp_detected) AS last_seen
FROM city.detection GROUP BY 1, 2 WITH NO DATA;

CHECKPOINT;
SELECT bench.open_peer(:kafka_pid);
CALL bench.apply_plain(bench.accept_statement(bench.plain_source(), 'join'), 100000);
CALL refresh_continuous_aggregate('bench.timescaledb_items', NULL, NULL);
CALL refresh_continuous_aggregate('bench.timescaledb_town', NULL, NULL);
BEGIN;
SELECT bench.close_peer(:run, 'timescaledb', clock_timestamp());
SELECT bench.check_events(true);
SELECT bench.check_rollups(true, 'bench.timescaledb_items', 'bench.timescaledb_town');
COMMIT;

DROP MATERIALIZED VIEW bench.timescaledb_items;
DROP MATERIALIZED VIEW bench.timescaledb_town;
DROP TABLE city.detection;
DROP EXTENSION timescaledb;
