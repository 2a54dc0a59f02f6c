-- kafka_fdw: the topic is a foreign table, and the plain SQL of the others reads
-- it.  In one transaction with what it reads, each batch keeps the next offset of
-- each partition: that much every user of it has to write.  100,000 messages a
-- batch, as for the table of messages.  :run, :bootstrap, :kafka_pid.

SET jit = off;
SET work_mem = '64MB';
SET synchronous_commit = off;

SELECT bench.make_plain(min(timestamp_detected), max(timestamp_detected)) FROM bench.expected;
CREATE EXTENSION kafka_fdw SCHEMA bench;
CREATE SERVER kafka_fdw FOREIGN DATA WRAPPER kafka_fdw OPTIONS (brokers :'bootstrap');
CREATE USER MAPPING FOR CURRENT_USER SERVER kafka_fdw;
CREATE FOREIGN TABLE bench.kafka_topic (
    kafka_partition int OPTIONS (partition 'true'),
    kafka_offset bigint OPTIONS (offset 'true'),
    detection_oid bigint OPTIONS (json 'detection_oid'),
    video_camera_oid int OPTIONS (json 'video_camera_oid'),
    geographical_location_oid int OPTIONS (json 'geographical_location_oid'),
    item_name text OPTIONS (json 'item_name'),
    confidence real OPTIONS (json 'confidence'),
    timestamp_detected timestamptz OPTIONS (json 'timestamp_detected'),
    lon float8 OPTIONS (json 'lon'),
    lat float8 OPTIONS (json 'lat')
) SERVER kafka_fdw OPTIONS (format 'json', topic 'camera.detections', batch_size '10000', buffer_delay '1000');
CREATE TABLE bench.kafka_progress AS
SELECT partition AS kafka_partition, offset_low AS next_offset, offset_high AS end_offset
FROM bench.kafka_get_watermarks('bench.kafka_topic');

-- Everything that the topic had, one commit for each so many messages of a partition.
CREATE PROCEDURE bench.apply_kafka_fdw(partition_rows int)
LANGUAGE plpgsql AS $$
DECLARE
    condition text;
BEGIN
    LOOP
        SELECT string_agg(format('(kafka_partition = %s AND kafka_offset >= %s AND kafka_offset < %s)',
                                 kafka_partition, next_offset, least(next_offset + partition_rows, end_offset)), ' OR ')
        INTO condition FROM bench.kafka_progress WHERE next_offset < end_offset;
        EXIT WHEN condition IS NULL;
        EXECUTE bench.plain_statement(format('(SELECT * FROM bench.kafka_topic WHERE %s)', condition), 'join');
        UPDATE bench.kafka_progress SET next_offset = least(next_offset + partition_rows, end_offset);
        COMMIT;
    END LOOP;
END
$$;

CHECKPOINT;
SELECT bench.open_peer(:kafka_pid);
CALL bench.apply_kafka_fdw(25000);
BEGIN;
SELECT bench.close_peer(:run, 'kafka_fdw', clock_timestamp());
SELECT bench.check_events(true);
SELECT bench.check_rollups(true, 'bench.items', 'bench.town');
COMMIT;

DROP PROCEDURE bench.apply_kafka_fdw;
DROP TABLE bench.kafka_progress;
DROP EXTENSION kafka_fdw CASCADE;
