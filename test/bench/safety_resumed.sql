-- How long after :since the first batch of the stream was committed, and the first
-- of which every event was visible within a second: by the commits of all events.

CREATE TEMP TABLE batch AS
SELECT pg_xact_commit_timestamp(xid) AS committed_at, oldest
FROM (SELECT xmin AS xid, min(kafka_timestamp) AS oldest FROM city.detection WHERE kafka_timestamp IS NOT NULL GROUP BY xmin) b;

INSERT INTO bench.resumed
SELECT :'what', measure, extract(epoch FROM min(committed_at) FILTER (WHERE is_meant) - :'since'::timestamptz)
FROM batch, LATERAL (VALUES ('first batch', true), ('caught up', committed_at - oldest < interval '1 second')) m (measure, is_meant)
WHERE committed_at > :'since'::timestamptz GROUP BY measure;
DROP TABLE batch;
