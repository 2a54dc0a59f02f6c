-- The work of a stream in Flink SQL, but that the zone comes with the location: it
-- has no polygons.  A statement ends at an empty line; {bootstrap}, {url} and
-- {password} are replaced.

CREATE TABLE message (
    detection_oid BIGINT,
    video_camera_oid INT,
    geographical_location_oid INT,
    item_name STRING,
    confidence FLOAT,
    timestamp_detected TIMESTAMP_LTZ(6),
    lon DOUBLE,
    lat DOUBLE,
    arrival AS PROCTIME()
) WITH (
    'connector' = 'kafka',
    'properties.bootstrap.servers' = '{bootstrap}',
    'topic' = 'camera.detections',
    'scan.startup.mode' = 'earliest-offset',
    'scan.bounded.mode' = 'latest-offset',
    'properties.max.poll.records' = '10000',
    'properties.max.partition.fetch.bytes' = '4194304',
    'format' = 'json',
    'json.timestamp-format.standard' = 'ISO-8601'
)

CREATE TABLE location (
    geographical_location_oid INT,
    geographical_location STRING,
    zone_id INT
) WITH (
    'connector' = 'jdbc', 'url' = '{url}', 'username' = 'city_ops', 'password' = '{password}',
    'table-name' = 'city.location',
    'lookup.cache' = 'PARTIAL',
    'lookup.partial-cache.max-rows' = '100000'
)

CREATE TABLE detection (
    detection_oid BIGINT,
    video_camera_oid INT,
    geographical_location_oid INT,
    item_name STRING,
    confidence FLOAT,
    timestamp_detected TIMESTAMP(6),
    location_name STRING,
    zone_id INT,
    geom STRING,
    PRIMARY KEY (detection_oid, timestamp_detected) NOT ENFORCED
) WITH (
    'connector' = 'jdbc', 'url' = '{url}', 'username' = 'city_ops', 'password' = '{password}',
    'table-name' = 'city.detection',
    'sink.buffer-flush.max-rows' = '10000', 'sink.buffer-flush.interval' = '1s'
)

CREATE TABLE items_per_minute (
    `minute` TIMESTAMP(6),
    zone_id INT,
    item_name STRING,
    detections BIGINT,
    confidence_sum DOUBLE,
    PRIMARY KEY (`minute`, zone_id, item_name) NOT ENFORCED
) WITH (
    'connector' = 'jdbc', 'url' = '{url}', 'username' = 'city_ops', 'password' = '{password}',
    'table-name' = 'bench.items_per_minute',
    'sink.buffer-flush.max-rows' = '10000', 'sink.buffer-flush.interval' = '1s'
)

CREATE TABLE town_per_minute (
    `minute` TIMESTAMP(6),
    item_name STRING,
    detections BIGINT,
    sure BIGINT,
    confidence_sum DOUBLE,
    last_seen TIMESTAMP(6),
    PRIMARY KEY (`minute`, item_name) NOT ENFORCED
) WITH (
    'connector' = 'jdbc', 'url' = '{url}', 'username' = 'city_ops', 'password' = '{password}',
    'table-name' = 'bench.town_per_minute',
    'sink.buffer-flush.max-rows' = '10000', 'sink.buffer-flush.interval' = '1s'
)

-- The planner shares what is the same, and leaves out columns that a rollup has no
-- use for: there would be two dedups and three lookups.  A row of all columns, of
-- which only the first is taken, makes it one of each.
CREATE VIEW accepted AS
SELECT detection_oid, video_camera_oid, geographical_location_oid, d.everything.EXPR$0 AS item_name, confidence,
       CAST(timestamp_detected AS TIMESTAMP(6)) AS timestamp_detected, geographical_location AS location_name, zone_id,
       'SRID=4326;POINT(' || CAST(lon AS STRING) || ' ' || CAST(lat AS STRING) || ')' AS geom
FROM (
    SELECT *, ROW(item_name, video_camera_oid, geographical_location_oid, confidence, geographical_location, zone_id, lon, lat) AS everything
    FROM (
        SELECT m.*, l.geographical_location, l.zone_id,
               ROW_NUMBER() OVER (PARTITION BY m.detection_oid, m.timestamp_detected ORDER BY m.arrival) AS nth
        FROM message m
        LEFT JOIN location FOR SYSTEM_TIME AS OF m.arrival AS l ON l.geographical_location_oid = m.geographical_location_oid)
    WHERE nth = 1) d

EXECUTE STATEMENT SET BEGIN
INSERT INTO detection SELECT * FROM accepted;
INSERT INTO items_per_minute
SELECT FLOOR(timestamp_detected TO MINUTE), zone_id, item_name, COUNT(*), SUM(CAST(confidence AS DOUBLE))
FROM accepted GROUP BY FLOOR(timestamp_detected TO MINUTE), zone_id, item_name;
INSERT INTO town_per_minute
SELECT FLOOR(timestamp_detected TO MINUTE), item_name, COUNT(*),
       COUNT(*) FILTER (WHERE CAST(confidence AS DOUBLE) >= 0.9e0), SUM(CAST(confidence AS DOUBLE)), MAX(timestamp_detected)
FROM accepted GROUP BY FLOOR(timestamp_detected TO MINUTE), item_name;
END
