-- The figures of all runs: the median, and in brackets the least and the
-- greatest of several.

\pset footer off
\pset null ''
\a
\t off

CREATE TEMP VIEW figure AS
SELECT run, contestant, what, value FROM bench.figure
UNION ALL
SELECT run, contestant, 'x COPY', times FROM bench.elapsed_times('copy')
UNION ALL
SELECT run, contestant, 'replay, times faster', f.value / r.value
FROM bench.figure f JOIN bench.figure r USING (run, contestant) WHERE f.what = 'elapsed' AND r.what = 'replay'
UNION ALL
SELECT run, contestant, 'steps', sum(value) FROM bench.figure WHERE what LIKE 'step %' GROUP BY run, contestant;

CREATE TEMP VIEW summary AS
SELECT contestant, what, bench.spread(array_agg(value)) AS value
FROM figure GROUP BY contestant, what;

CREATE TEMP VIEW side_by_side AS
SELECT what,
       max(value) FILTER (WHERE contestant = 'stream') AS "stream",
       max(value) FILTER (WHERE contestant = 'zones') AS "stream, zone_of",
       max(value) FILTER (WHERE contestant = 'join') AS "stream, zone join",
       max(value) FILTER (WHERE contestant = 'consumer') AS "stream, 1 consumer",
       max(value) FILTER (WHERE contestant = 'copy') AS "COPY",
       max(value) FILTER (WHERE contestant = 'sql') AS "plain SQL"
FROM summary GROUP BY what;

\echo
\echo 'µs an event, from the first call to the last commit; x COPY: in proportion to COPY in the same run'
SELECT s.* FROM side_by_side s JOIN (VALUES (1, 'elapsed'), (2, 'x COPY'), (3, 'replay'), (4, 'replay, times faster')) o (place, what) USING (what) ORDER BY place;

\echo 'µs an event by step of the budget, as the workers timed themselves'
SELECT replace(what, 'step ', '') AS step, s."stream", s."stream, zone_of", s."stream, zone join", s."stream, 1 consumer"
FROM side_by_side s
JOIN (VALUES (1, 'step fetch'), (2, 'step decode'), (3, 'step stage'), (4, 'step read'), (5, 'step dedup'), (6, 'step query'),
             (7, 'step insert'), (8, 'step rollup'), (9, 'step commit'), (10, 'steps'), (11, 'events a commit')) o (place, what)
    USING (what) ORDER BY place;

\echo 'seconds of CPU by process'
SELECT replace(what, 'cpu ', '') AS process, s."stream", s."stream, zone_of", s."stream, zone join", s."stream, 1 consumer", s."COPY", s."plain SQL"
FROM side_by_side s WHERE what LIKE 'cpu %' ORDER BY what;

\echo 'WAL in bytes an event'
SELECT s.* FROM side_by_side s WHERE what = 'WAL';

\echo 'resident memory in MB: the peak, shared buffers included; and what is the process'' own at the end'
SELECT s.* FROM side_by_side s WHERE what ~ '^(peak|own) of ' ORDER BY what DESC;

\echo 'what is to be reached with 1,000,000 events or more, by the medians'
WITH median AS (
    SELECT contestant, what, percentile_cont(0.5) WITHIN GROUP (ORDER BY value) AS value FROM figure GROUP BY contestant, what
    UNION ALL
    SELECT w.contestant, 'WAL, times that of COPY', percentile_cont(0.5) WITHIN GROUP (ORDER BY w.value / c.value)
    FROM figure w JOIN figure c USING (run, what) WHERE what = 'WAL' AND c.contestant = 'copy' GROUP BY w.contestant
)
SELECT t.what, bench.digits(m.value) AS value, CASE WHEN t.at_least THEN '>= ' ELSE '<= ' END || t.target AS target,
       CASE WHEN m.value = t.target OR (m.value > t.target) = t.at_least THEN 'yes' ELSE 'NO' END AS reached
FROM (VALUES (1, 'one worker: time, times that of COPY', 'stream', 'x COPY', 3, false),
             (2, 'a consumer beside it: time, times that of COPY', 'consumer', 'x COPY', 2, false),
             (3, 'a consumer beside it: the same, to stretch for', 'consumer', 'x COPY', 1.5, false),
             (4, 'one worker: a replay, times faster', 'stream', 'replay, times faster', 2, true),
             (5, 'a consumer beside it: a replay, times faster', 'consumer', 'replay, times faster', 2, true),
             (6, 'one worker: WAL, times that of COPY', 'stream', 'WAL, times that of COPY', 1.5, false),
             (7, 'a consumer beside it: WAL, times that of COPY', 'consumer', 'WAL, times that of COPY', 1.5, false))
         t (place, what, contestant, figure, target, at_least)
JOIN median m ON m.contestant = t.contestant AND m.what = t.figure ORDER BY t.place;
