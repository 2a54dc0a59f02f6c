--
-- decode_epoch: times of which messages have the seconds, milliseconds, microseconds
-- or nanoseconds since 1970
--
SET client_min_messages = warning;
SET timezone = 'Europe/Berlin';
SET datestyle = 'ISO, DMY';

CREATE FUNCTION pg_temp.outcome(value text, type text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    RETURN detect.decode(convert_to(format('{"at": %s}', value), 'UTF8'), 'at ' || type) ->> 'at';
EXCEPTION WHEN OTHERS THEN
    RETURN concat_ws(' ', SQLSTATE, SQLERRM);
END $$;

-- each unit; numbers, and strings that are nothing but one
SELECT type, value, pg_temp.outcome(value, 'detect.' || type) AS at
FROM (VALUES
    ('epoch_s',  '1764547200'), ('epoch_s', '1764547200.25'), ('epoch_s', '1.7645472e9'), ('epoch_s', '-1'), ('epoch_s', '0'),
    ('epoch_ms', '1764547200123'), ('epoch_ms', '1764547200123.4'), ('epoch_ms', '"1764547200123"'), ('epoch_ms', '-0'),
    ('epoch_us', '1764547200123456'), ('epoch_us', '1764547200123456.5'), ('epoch_us', '-1764547200123456.5'), ('epoch_us', '1e-30'),
    ('epoch_ns', '1764547200123456789'), ('epoch_ns', '"1764547200123456499"'), ('epoch_ns', '500'), ('epoch_ns', '499'), ('epoch_ns', '-500'),
    -- more digits than a number of 64 bits has
    ('epoch_s',  '1764547200.0000000000'), ('epoch_s', '1764547200.12345649999999999999999'), ('epoch_s', '1764547200.1234565000000000000000000'),
    ('epoch_ms', '1764547200123.456055000'), ('epoch_us', '1764547200123456.50000000000000'), ('epoch_ns', '1764547200123456499.99999999'),
    ('epoch_ns', '-1764547200123456500.0000000000000000000000'),
    -- a string of digits counts, which in another column would be the day 2026-11-29
    ('epoch_s',  '"20261129"')
) AS t (type, value);

-- texts of times are read as in any column of times
SELECT value, pg_temp.outcome(value, 'detect.epoch_ms') AS at
FROM (VALUES ('"2026-12-01T00:00:00Z"'), ('"2026-12-01 01:00+01"'), ('"2026-12-01T00:00:00"'), ('"20261201T000000Z"'), ('"infinity"'), ('null')) AS t (value);

-- what is no time
SELECT type, value, pg_temp.outcome(value, type) AS outcome
FROM (VALUES
    ('detect.epoch_ms', 'true'), ('detect.epoch_ms', '[1]'), ('detect.epoch_ms', '"soon"'), ('detect.epoch_ms', '""'),
    ('detect.epoch_s',  '9224318016000'), ('detect.epoch_s', '-210866803201'), ('detect.epoch_s', '1764547200000000'),
    ('detect.epoch_s',  '99999999999999999999'), ('detect.epoch_s', '1e30'), ('detect.epoch_s', '-1e9999'), ('detect.epoch_s', '1e99999'),
    ('detect.epoch_s',  '99999999999999999999.00000000'), ('detect.epoch_s', '0000000000000000000000000000000000000001764547200.0'),
    -- a number in a column that does not say what it counts
    ('timestamptz',     '1764547200123'), ('timestamp', '1764547200'), ('date', '1764547200'), ('timestamptz', '"1764547200123"'),
    -- a day has eight digits, and those of seconds may look like one of a far year
    ('date', '20261201'), ('timestamptz', '20261201'), ('timestamptz', '1764541205'), ('timestamptz', '1e300'), ('timestamptz', '0.5')
) AS t (type, value);

-- the first time that there is, and the last that is counted
SELECT pg_temp.outcome('-210866803200', 'detect.epoch_s') AS first, pg_temp.outcome('9223372036854.775807', 'detect.epoch_s') AS last;

-- a domain over one of them counts as it does, and has its own say
CREATE DOMAIN since_2020 AS detect.epoch_s CHECK (VALUE >= '2020-01-01 00:00+00');
CREATE DOMAIN plain AS detect.epoch_s;
SELECT type, value, pg_temp.outcome(value, type) AS outcome
FROM (VALUES ('since_2020', '1764547200'), ('since_2020', '1500000000'), ('since_2020', '"2019-01-01"'), ('since_2020', '1e30'), ('plain', '1500000000')) AS t (type, value);

DROP DOMAIN since_2020, plain;

-- PostgreSQL's own arithmetic is the oracle: times from 1700 to 2240, and what is left of a microsecond
SELECT setseed(0.5);
CREATE TEMPORARY TABLE number AS
SELECT round((random() - 0.5)::numeric * 17e9, 6) + lpad((random() * 1e9)::bigint::text, 9, '0')::numeric / 1e15 AS seconds FROM generate_series(1, 4000);
SELECT unit, count(*) AS compared, count(*) FILTER (WHERE at IS DISTINCT FROM expected) AS differ
FROM (SELECT unit, pg_temp.outcome(written::text, 'detect.' || unit)::timestamptz AS at,
             timestamptz 'epoch' + us / 1000000 * interval '1 second' + us % 1000000 * interval '1 microsecond' AS expected
      FROM (VALUES ('epoch_s', 1e0, 1e6), ('epoch_ms', 1e3, 1e3), ('epoch_us', 1e6, 1e0), ('epoch_ns', 1e9, 1e-3)) AS u (unit, a_second, to_us),
           number,
           LATERAL (SELECT trim_scale(seconds * a_second) AS written) AS w,
           LATERAL (SELECT round(written * to_us)::bigint AS us) AS e) AS t
GROUP BY unit ORDER BY unit;
