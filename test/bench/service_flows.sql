-- A flow for each of :topics, running.

SET ROLE city_ops;
SELECT bench.make_flow('flow_' || n, topic) FROM unnest(:'topics'::text[]) WITH ORDINALITY t (topic, n);
RESET ROLE;
SELECT detect.wait_for(stream) FROM detect.stream WHERE stream LIKE 'flow%';
