-- What the soak samples, and how it judges.  Run by a superuser, after town.sql.

CREATE TABLE bench.sample (
    at timestamptz NOT NULL,
    state text,
    reason text,
    events_per_second float8,
    lag_messages bigint,
    p50_ms float8,                  -- of the last 10 to 20 seconds
    p99_ms float8,
    retries bigint,
    own_kb float8,                  -- memory of the applier's process, shared buffers aside
    identity_kb float8,             -- and what of it holds identities
    consumer_kb float8,             -- the same of consumers beside it, together
    resident_kb float8,
    staging_bytes bigint,
    state_bytes bigint,
    progress_bytes bigint
);

CREATE FUNCTION bench.take_sample() RETURNS void
LANGUAGE sql VOLATILE AS $$
    INSERT INTO bench.sample
    SELECT clock_timestamp(), s.state, s.reason, s.events_per_second, s.lag_messages, s.freshness_p50_ms, s.freshness_p99_ms,
           s.retries, bench.memory_kb(s.pid, 'RssAnon'), s.identity_bytes / 1024.0,
           (SELECT coalesce(sum(bench.memory_kb(w.pid, 'RssAnon')), 0) FROM detect.stat_worker w WHERE w.duty = 'consume'), bench.memory_kb(s.pid, 'VmRSS'),
           (SELECT sum(pg_total_relation_size(oid)) FROM pg_class WHERE relname ~ '^_staged_\d+_\d+$'),
           pg_total_relation_size('detect_state.items_per_minute') + pg_total_relation_size('detect_state.town_per_minute'),
           pg_total_relation_size('detect._applied_progress') + pg_total_relation_size('detect._staged_progress')
    FROM detect.stat_stream s WHERE s.stream = 'camera'
$$;

CREATE FUNCTION bench.last_sample() RETURNS text
LANGUAGE sql STABLE AS $$
    SELECT format('%5s s  %s  %s events/s  lag %s  p50 %s ms  p99 %s ms  own memory %s MB, %s MB of it identities%s',
                  round(extract(epoch FROM at - (SELECT min(at) FROM bench.sample))), state, round(events_per_second),
                  lag_messages, round(p50_ms::numeric, 1), round(p99_ms::numeric, 1), round(own_kb / 1024),
                  round(identity_kb / 1024), '  ' || reason)
    FROM bench.sample ORDER BY at DESC LIMIT 1
$$;
