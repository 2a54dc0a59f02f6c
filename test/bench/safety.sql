-- What test/bench/safety measures with.  Run by a superuser, after rollup.sql.

-- Each measurement, in seconds; NULL where it did not come to that while events came.
CREATE TABLE bench.resumed (what text NOT NULL, measure text NOT NULL, seconds float8);

-- Keeps the median of the measurements of a kind as a figure.
CREATE FUNCTION bench.keep_median(of_what text, of_measure text, what text, target float8, beside text) RETURNS void
LANGUAGE sql VOLATILE AS $$
    SELECT bench.keep(keep_median.what, median, 's', target, format('%s; %s–%s in %s runs', beside, bench.digits(least), bench.digits(most), runs))
    FROM (SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY seconds) AS median, min(seconds) AS least, max(seconds) AS most, count(*) AS runs
          FROM bench.resumed r WHERE r.what = of_what AND measure = of_measure) m
$$;

-- Ends the script unless each message has its outcome, each distinct one is an
-- event beside those that were there before, and the rollups have all of them.
CREATE FUNCTION bench.check_delivered(before bigint, produced bigint, distinct_events bigint) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    PERFORM bench.must_equal('outcomes', produced, accepted + duplicates + filtered + expired + dead_letters),
            bench.must_equal('accepted', distinct_events, accepted),
            bench.must_equal('events', before + distinct_events, (SELECT count(*) FROM city.detection)),
            bench.must_equal('distinct events', before + distinct_events,
                             (SELECT count(*) FROM (SELECT DISTINCT detection_oid, timestamp_detected FROM city.detection) d))
    FROM detect.stat_stream WHERE stream = 'camera';
    PERFORM bench.check_town();
END
$$;
