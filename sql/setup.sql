--
-- setup: what the extension brings, explained and closed to strangers
--
-- Runs before all others, which use its database, its extension and the
-- functions in schema regress.
--
\set VERBOSITY terse
CREATE EXTENSION detect;
SET client_min_messages = warning;
CREATE EXTENSION detect CASCADE;
RESET client_min_messages;
CREATE EXTENSION IF NOT EXISTS detect;

-- What becomes of a statement: "done", or SQLSTATE, message, detail and hint.
CREATE SCHEMA regress;
GRANT USAGE ON SCHEMA regress TO PUBLIC;
CREATE FUNCTION regress.outcome(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    detail text;
    hint text;
BEGIN
    EXECUTE statement;
    RETURN 'done';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
    RETURN concat_ws(E'\n', SQLSTATE || ' ' || SQLERRM, '  ' || nullif(detail, ''), '  ' || nullif(hint, ''));
END $$;

-- The same, and undone if it succeeded.
CREATE FUNCTION regress.attempt(statement text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION USING errcode = 'UNDO0', message = regress.outcome(statement);
EXCEPTION WHEN SQLSTATE 'UNDO0' THEN
    RETURN SQLERRM;
END $$;

-- Waits until a stream has paused itself; the result is why, and what to do.
CREATE FUNCTION regress.wait_for_pause(stream_name text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    deadline timestamptz := clock_timestamp() + interval '3 minutes';
    said text;
BEGIN
    LOOP
        SELECT concat_ws(E'\n', state, reason, remedy) INTO said FROM detect.stat_stream WHERE stream = stream_name AND state = 'paused';
        IF FOUND THEN
            RETURN said;
        ELSIF clock_timestamp() > deadline THEN
            RETURN 'not paused';
        END IF;
        BEGIN
            PERFORM detect.wait_for(stream_name, '20 ms');
        EXCEPTION WHEN object_not_in_prerequisite_state THEN
            CONTINUE;
        END;
    END LOOP;
END $$;

-- Waits until a query gives so many rows; what it gives then.
CREATE FUNCTION regress.wait_for_rows(query text, expected bigint) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    deadline timestamptz := clock_timestamp() + interval '3 minutes';
    found_rows bigint;
BEGIN
    LOOP
        EXECUTE 'SELECT count(*) FROM (' || query || ') q' INTO found_rows;
        IF found_rows = expected OR clock_timestamp() > deadline THEN
            RETURN found_rows;
        END IF;
    END LOOP;
END $$;

-- The same in many transactions, which hold up nothing: what is built, detached or dropped waits for old ones.
CREATE PROCEDURE regress.await(query text, expected bigint, patience interval DEFAULT '3 minutes') LANGUAGE plpgsql AS $$
DECLARE
    deadline timestamptz := clock_timestamp() + patience;
    found_rows bigint;
BEGIN
    LOOP
        EXECUTE 'SELECT count(*) FROM (' || query || ') q' INTO found_rows;
        COMMIT;
        EXIT WHEN found_rows = expected;
        IF clock_timestamp() > deadline THEN
            RAISE 'there are % rows', found_rows;
        END IF;
    END LOOP;
END $$;

-- Outcomes as counted, and how many there are.
CREATE VIEW regress.outcomes AS
    SELECT stream, accepted, duplicates, filtered, expired, dead_letters,
           accepted + duplicates + filtered + expired + dead_letters AS sum
    FROM detect.stat_stream;
GRANT SELECT ON regress.outcomes TO PUBLIC;

-- Groups in which a view and a query differ.
CREATE FUNCTION regress.differences(name text, query text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    differing bigint;
BEGIN
    EXECUTE format('SELECT count(*) FROM ((SELECT * FROM %1$I EXCEPT ALL (%2$s)) UNION ALL ((%2$s) EXCEPT ALL SELECT * FROM %1$I)) d',
                   name, query) INTO differing;
    RETURN differing;
END $$;

-- The same, and how many groups the view has.
CREATE FUNCTION regress.compare(name text, query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    groups bigint;
BEGIN
    EXECUTE format('SELECT count(*) FROM %I', name) INTO groups;
    RETURN format('%s groups, %s differ', groups, regress.differences(name, query));
END $$;

-- A role in an ACL.
CREATE FUNCTION regress.grantee(role oid) RETURNS text LANGUAGE sql STABLE
RETURN CASE role WHEN 0 THEN 'PUBLIC' ELSE coalesce(pg_get_userbyid(role), 'nobody') END;

-- version, schemas, and a role that cannot log in
SELECT extversion, extrelocatable FROM pg_extension WHERE extname = 'detect';
SELECT nspname, obj_description(oid, 'pg_namespace') FROM pg_namespace WHERE nspname ~ '^detect' ORDER BY nspname COLLATE "C";
SELECT rolname, rolsuper, rolinherit, rolcreaterole, rolcreatedb, rolcanlogin, shobj_description(oid, 'pg_authid')
FROM pg_roles WHERE rolname ~ '^detect';

-- members of the extension, as a user would look them up
CREATE VIEW regress.member AS
    SELECT d.classid, d.objid, i.type, i.identity, p.pronargs
    FROM pg_depend d
    CROSS JOIN LATERAL pg_identify_object(d.classid, d.objid, d.objsubid) i
    LEFT JOIN pg_proc p ON d.classid = 'pg_proc'::regclass AND p.oid = d.objid
    WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
      AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'detect');
SELECT type, identity FROM regress.member
WHERE identity !~ '^detect\._' ORDER BY type COLLATE "C", identity COLLATE "C";

-- all that has a name for users, and all functions, are explained: no rows
SELECT m.type, m.identity
FROM regress.member m
LEFT JOIN pg_description c ON c.classoid = m.classid AND c.objoid = m.objid AND c.objsubid = 0
WHERE c.description IS NULL AND (m.identity !~ '^detect\._' OR m.type = 'function')
ORDER BY 1, 2;

-- who may call what
SELECT regexp_replace(m.identity, '\(.*', '') AS function, m.pronargs AS args, regress.grantee(a.grantee), a.is_grantable
FROM regress.member m
JOIN pg_proc p ON p.oid = m.objid AND m.type = 'function'
LEFT JOIN LATERAL (SELECT * FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) x
                   WHERE x.grantee <> p.proowner) a ON true
ORDER BY m.identity COLLATE "C", a.grantee;

-- who may read what: our views, and nothing else of ours
SELECT c.relkind, c.relname, regress.grantee(a.grantee), a.privilege_type
FROM pg_class c
LEFT JOIN LATERAL (SELECT * FROM aclexplode(c.relacl) x WHERE x.grantee <> c.relowner) a ON true
WHERE c.relnamespace IN (SELECT oid FROM pg_namespace WHERE nspname ~ '^detect') AND c.relkind <> 'i'
ORDER BY c.relkind, c.relname COLLATE "C";

-- who may make what, and where
SELECT n.nspname, regress.grantee(a.grantee), a.privilege_type
FROM pg_namespace n, aclexplode(n.nspacl) a
WHERE n.nspname ~ '^detect' AND a.grantee <> n.nspowner ORDER BY n.nspname COLLATE "C";
SELECT w.fdwname, regress.grantee(a.grantee), a.privilege_type
FROM pg_foreign_data_wrapper w, aclexplode(w.fdwacl) a
WHERE w.fdwname ~ '^detect' AND a.grantee <> w.fdwowner;

-- no function of ours has its owner's rights, and none finds what it calls by search_path: no rows
SELECT p.oid::regprocedure
FROM pg_proc p JOIN regress.member m ON m.objid = p.oid AND m.type = 'function'
WHERE p.prosecdef OR (p.prolang <> (SELECT oid FROM pg_language WHERE lanname = 'c') AND p.prosqlbody IS NULL);

-- settings, and no other of the prefix can be made
SELECT name, setting, unit, context, short_desc FROM pg_settings WHERE name ~ '^detect\.' ORDER BY name COLLATE "C";
SET detect.no_such_setting = 1;

-- what is dumped: definitions, logged progress, dead letters
SELECT c::regclass FROM pg_extension, unnest(extconfig) c WHERE extname = 'detect';

-- columns of the views
\pset format unaligned
SELECT c.relname, string_agg(a.attname || ' ' || format_type(a.atttypid, a.atttypmod), ', ' ORDER BY a.attnum) AS columns
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
WHERE c.relnamespace = 'detect'::regnamespace AND c.relkind = 'v'
GROUP BY c.relname ORDER BY c.relname COLLATE "C";
\pset format aligned

-- there is one launcher, and no stream yet
SELECT count(*) AS launchers FROM pg_stat_activity WHERE backend_type = 'detect launcher';
SELECT (SELECT count(*) FROM detect.stream) AS streams, (SELECT count(*) FROM detect.rollup) AS rollups,
       (SELECT count(*) FROM detect.stat_stream) AS stat_streams, (SELECT count(*) FROM detect.stat_partition) AS stat_partitions,
       (SELECT count(*) FROM detect.stat_rollup) AS stat_rollups, (SELECT count(*) FROM detect.stat_worker) AS stat_workers,
       (SELECT count(*) FROM detect.dead_letter) AS dead_letters, (SELECT count(*) FROM detect._slots()) AS slots;
