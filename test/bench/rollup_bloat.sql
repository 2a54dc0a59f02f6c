-- What a reader that held a snapshot has left behind, the stream at rest.  State
-- tables grow with what they hold, so they are compared with a copy of it; others
-- with what they were before the reader began, at :held_at, but for 1 MB.

SELECT bench.must_equal('events', :produced, (SELECT count(*) FROM city.detection));
SELECT bench.check_town();

CREATE TABLE bench.items_copy (LIKE detect_state.items_per_minute) WITH (fillfactor = 70);
INSERT INTO bench.items_copy TABLE detect_state.items_per_minute;
CREATE UNIQUE INDEX ON bench.items_copy (minute, zone_id, item_name) NULLS NOT DISTINCT;
CREATE TABLE bench.town_copy (LIKE detect_state.town_per_minute) WITH (fillfactor = 70);
INSERT INTO bench.town_copy TABLE detect_state.town_per_minute;
CREATE UNIQUE INDEX ON bench.town_copy (minute, item_name) NULLS NOT DISTINCT;

SELECT bench.take_sample();
SELECT bench.keep('after a long reader: ' || what, last / greatest(before, floor)::float8, 'times', 2,
           format('%s beside %s, most %s', pg_size_pretty(last), pg_size_pretty(before), pg_size_pretty(most)))
FROM (SELECT * FROM bench.sample WHERE at <= :'held_at' ORDER BY at DESC LIMIT 1) b,
     (SELECT * FROM bench.sample ORDER BY at DESC LIMIT 1) l,
     (SELECT max(state_bytes) AS states, max(staging_bytes) AS staging, max(progress_bytes) AS progress FROM bench.sample) m,
     (SELECT pg_total_relation_size('bench.items_copy') + pg_total_relation_size('bench.town_copy') AS bytes) c,
     LATERAL (VALUES ('states, times a copy of them', l.state_bytes, c.bytes, m.states, 0),
                     ('staging, times its size before', l.staging_bytes, b.staging_bytes, m.staging, 1048576),
                     ('progress, times its size before', l.progress_bytes, b.progress_bytes, m.progress, 1048576)) f (what, last, before, most, floor);
DROP TABLE bench.items_copy, bench.town_copy;
