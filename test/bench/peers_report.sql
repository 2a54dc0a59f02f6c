-- The figures of all contestants, one a line: the median, and in brackets the
-- least and the greatest of several runs.

\pset footer off
\pset null ''
\a
\t off

CREATE TEMP VIEW figure AS
SELECT run, contestant, what, value FROM bench.figure WHERE what NOT LIKE 'cpu %'
UNION ALL
SELECT run, contestant, 'cpu', sum(value) * 1e6 / (SELECT count(*) FROM bench.message)
FROM bench.figure WHERE what LIKE 'cpu %' GROUP BY run, contestant
UNION ALL
SELECT run, contestant, 'x COPY', times FROM bench.elapsed_times('copy')
UNION ALL
SELECT run, contestant, 'x detect', times FROM bench.elapsed_times('zones_consumer');

CREATE TEMP VIEW summary AS
SELECT contestant, what, bench.spread(array_agg(value)) AS value
FROM figure GROUP BY contestant, what;

\echo
\echo 'µs an event, from the start of ingestion to the last commit; CPU in µs an event, all processes; WAL in bytes an event;'
\echo 'start-up in seconds, not in the other figures; first: what the process took for its first drain of the topic; wrong: zones'
SELECT c.label AS contestant, s.elapsed AS "µs", s.x_copy AS "x COPY", s.x_detect AS "x detect, 1 consumer",
       s.cpu AS "CPU", s.wal AS "WAL", s.start_up AS "start-up", s.first AS "first",
       s.wrong AS "wrong"
FROM (VALUES (1, 'zones', 'detect'),
             (2, 'zones_consumer', 'detect, 1 consumer'),
             (3, 'copy', 'COPY of finished rows'),
             (4, 'sql_zones', 'plain SQL, from a table'),
             (5, 'timescaledb', 'TimescaleDB, from a table'),
             (6, 'kafka_fdw', 'kafka_fdw'),
             (7, 'connect', 'Kafka Connect, flat table'),
             (8, 'connect_triggers', 'Kafka Connect, triggers'),
             (9, 'connect_rows', 'Kafka Connect, row triggers'),
             (10, 'flink', 'Flink SQL, zone of location'),
             (11, 'clickhouse', 'ClickHouse')) c (place, contestant, label)
JOIN (SELECT contestant,
             max(value) FILTER (WHERE what = 'elapsed') AS elapsed,
             max(value) FILTER (WHERE what = 'x COPY') AS x_copy,
             max(value) FILTER (WHERE what = 'x detect') AS x_detect,
             max(value) FILTER (WHERE what = 'cpu') AS cpu,
             max(value) FILTER (WHERE what = 'WAL') AS wal,
             max(value) FILTER (WHERE what = 'start-up') AS start_up,
             max(value) FILTER (WHERE what = 'first drain') AS first,
             max(value) FILTER (WHERE what = 'wrong zones') AS wrong
      FROM summary GROUP BY contestant) s USING (contestant)
ORDER BY place;
