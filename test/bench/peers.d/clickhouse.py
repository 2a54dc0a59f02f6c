"""
clickhouse.py BOOTSTRAP TOPIC GROUP EVENTS DIR

The work of a stream in ClickHouse: a Kafka table, and views that feed each other.

The hard idea: a view sees one block after another, so that with one consumer a
set of what was seen makes each event one, as long as nothing fails: events, set,
rollups and offsets are written one by one.  The usual way, a table that folds
duplicates later, has them in the rollups.

DIR has the locations and the zones; events and rollups are written there.  Says
"ready" and waits for a line of input; then says the time, in seconds since 1970,
at which the last block was in events and rollups, and waits for a line again.
"""
import sys
import time

from chdb.session import Session

# One consumer, as two would let duplicates pass; large blocks; and polls that give
# up soon, so that the last block does not wait for more.
TABLES = """
CREATE DATABASE city;

CREATE TABLE city.location_file (id UInt64, location_name String) ENGINE = File(TabSeparated, '{dir}/location');
CREATE DICTIONARY city.location (id UInt64, location_name String) PRIMARY KEY id
    SOURCE(CLICKHOUSE(DB 'city' TABLE 'location_file')) LAYOUT(FLAT()) LIFETIME(0);

CREATE TABLE city.zone_file (zone_id UInt32, wkt String) ENGINE = File(TabSeparated, '{dir}/zones');
CREATE TABLE city.zone (ring Array(Array(Array(Tuple(Float64, Float64)))), zone_id UInt32) ENGINE = Memory;
INSERT INTO city.zone SELECT [readWKTPolygon(wkt)], zone_id FROM city.zone_file;
CREATE DICTIONARY city.zones (ring Array(Array(Array(Tuple(Float64, Float64)))), zone_id UInt32) PRIMARY KEY ring
    SOURCE(CLICKHOUSE(DB 'city' TABLE 'zone')) LAYOUT(POLYGON()) LIFETIME(0);

CREATE TABLE city.queue (
    detection_oid Int64, video_camera_oid Int32, geographical_location_oid Int32, item_name String,
    confidence Float32, timestamp_detected DateTime64(6, 'UTC'), lon Float64, lat Float64
) ENGINE = Kafka SETTINGS
    kafka_broker_list = '{bootstrap}', kafka_topic_list = '{topic}', kafka_group_name = '{group}',
    kafka_format = 'JSONEachRow', date_time_input_format = 'best_effort',
    kafka_num_consumers = 1, kafka_max_block_size = 131072, kafka_poll_max_batch_size = 131072,
    kafka_poll_timeout_ms = 20, kafka_flush_interval_ms = 1000;

CREATE TABLE city.detection (
    detection_oid Int64, video_camera_oid Int32, geographical_location_oid Int32, item_name LowCardinality(String),
    confidence Float32, timestamp_detected DateTime64(6, 'UTC'), location_name LowCardinality(String), zone_id UInt32,
    lon Float64, lat Float64
) ENGINE = MergeTree PARTITION BY toStartOfHour(timestamp_detected) ORDER BY (video_camera_oid, timestamp_detected);

CREATE TABLE city.seen (detection_oid Int64) ENGINE = Set;
CREATE MATERIALIZED VIEW city.remember TO city.seen AS SELECT detection_oid FROM city.detection;

CREATE TABLE city.items_per_minute (
    minute DateTime('UTC'), zone_id UInt32, item_name LowCardinality(String), detections UInt64, confidence_sum Float64
) ENGINE = SummingMergeTree ORDER BY (minute, zone_id, item_name);
CREATE MATERIALIZED VIEW city.count_items TO city.items_per_minute AS
SELECT toStartOfMinute(timestamp_detected) AS minute, zone_id, item_name,
       count() AS detections, sum(toFloat64(confidence)) AS confidence_sum
FROM city.detection GROUP BY minute, zone_id, item_name;

CREATE TABLE city.town_per_minute (
    minute DateTime('UTC'), item_name LowCardinality(String),
    detections SimpleAggregateFunction(sum, UInt64), sure SimpleAggregateFunction(sum, UInt64),
    confidence_sum SimpleAggregateFunction(sum, Float64), last_seen SimpleAggregateFunction(max, DateTime64(6, 'UTC'))
) ENGINE = AggregatingMergeTree ORDER BY (minute, item_name);
CREATE MATERIALIZED VIEW city.count_town TO city.town_per_minute AS
SELECT toStartOfMinute(timestamp_detected) AS minute, item_name, count() AS detections,
       countIf(confidence >= 0.9) AS sure, sum(toFloat64(confidence)) AS confidence_sum, max(timestamp_detected) AS last_seen
FROM city.detection GROUP BY minute, item_name;

SYSTEM RELOAD DICTIONARIES;
"""

# The view that starts the work: the engine reads the topic as soon as it is there.
START = """
CREATE MATERIALIZED VIEW city.accept TO city.detection AS
SELECT detection_oid, video_camera_oid, geographical_location_oid, item_name, confidence, timestamp_detected,
       dictGet('city.location', 'location_name', toUInt64(geographical_location_oid)) AS location_name,
       dictGet('city.zones', 'zone_id', (lon, lat)) AS zone_id, lon, lat
FROM city.queue WHERE detection_oid NOT IN city.seen LIMIT 1 BY detection_oid
"""

# What is compared with the truth; 0 stands for no zone.
RESULTS = {
    "detection": "SELECT * REPLACE (nullIf(zone_id, 0) AS zone_id) FROM city.detection",
    "items": "SELECT minute, nullIf(zone_id, 0), item_name, sum(detections), sum(confidence_sum) / sum(detections)"
             " FROM city.items_per_minute GROUP BY minute, zone_id, item_name",
    "town": "SELECT minute, item_name, sum(detections), sum(sure), sum(confidence_sum) / sum(detections), max(last_seen)"
            " FROM city.town_per_minute GROUP BY minute, item_name",
}


def is_complete(ask, events):
    """Whether all events are in the table and in both rollups."""
    return (int(ask("SELECT count() FROM city.detection")) >= events
            and int(ask("SELECT sum(detections) FROM city.items_per_minute")) >= events
            and int(ask("SELECT sum(detections) FROM city.town_per_minute")) >= events)


def main():
    bootstrap, topic, group, events, dir = sys.argv[1:]
    with Session(f"{dir}/data") as session:
        def ask(query):
            return session.query(query, "TabSeparated").data()

        for statement in TABLES.format(bootstrap=bootstrap, topic=topic, group=group, dir=dir).split(";\n"):
            if statement.strip():
                ask(statement)
        print("ready", flush=True)
        sys.stdin.readline()
        ask(START)
        while not is_complete(ask, int(events)):
            time.sleep(0.01)
        print(time.time(), flush=True)
        sys.stdin.readline()
        for name, query in RESULTS.items():
            with open(f"{dir}/{name}", "w", encoding="utf-8") as file:
                file.write(ask(query))


main()
