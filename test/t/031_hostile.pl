# Code of others runs in a stream's workers and beside our functions: objects that
# shadow PostgreSQL's own, triggers, constraints, types and views on tables, and
# queries that leave dirt in the session or never end.  None of it ever runs with
# more rights than the stream's owner has, and each batch begins in a clean session.
#
# Code that spies says in the server's log as whom it was called and what it could
# do: a row that it wrote would be gone with an error.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";

use DetectTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $timeout = $PostgreSQL::Test::Utils::timeout_default;
my $node    = make_node('main');

# Our own questions are asked where nothing of others is found.
sub ask
{
	my ($sql) = @_;

	return $node->safe_psql('city', "SET search_path = pg_catalog; $sql");
}

# The same by somebody who is nobody else even after RESET of everything: code of
# others is run by whoever touches the tables, a superuser among them.
sub ask_as
{
	my ($role, $sql) = @_;

	return $node->safe_psql('city', "SET search_path = pg_catalog; $sql", extra_params => [ '-U', $role ]);
}

# The log from a position on.
sub log_from
{
	my ($from) = @_;

	return substr(slurp_file($node->logfile), $from);
}

# with the SQLSTATE, which tells an internal error
$node->append_conf('postgresql.conf', "log_error_verbosity = terse\nlog_line_prefix = '%m [%p] %e %b %q%a '");
$node->start;
$node->safe_psql('postgres', 'CREATE DATABASE city');
ask(q{
	CREATE SCHEMA gis;
	GRANT USAGE ON SCHEMA gis TO PUBLIC;
	CREATE EXTENSION postgis SCHEMA gis;
	CREATE ROLE ops LOGIN;
	CREATE ROLE mallory LOGIN;
	CREATE ROLE other;
	GRANT other TO ops;
	CREATE SCHEMA city AUTHORIZATION ops;
	CREATE SCHEMA mallory AUTHORIZATION mallory;
	GRANT USAGE ON SCHEMA mallory TO PUBLIC;
	GRANT CREATE ON SCHEMA public TO mallory;
	ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO mallory;
	ALTER DEFAULT PRIVILEGES GRANT ALL ON SEQUENCES TO mallory;
	ALTER DEFAULT PRIVILEGES GRANT ALL ON FUNCTIONS TO mallory;
	ALTER DEFAULT PRIVILEGES GRANT ALL ON SCHEMAS TO mallory;
	ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO PUBLIC;
	ALTER DEFAULT PRIVILEGES GRANT ALL ON SEQUENCES TO PUBLIC;
	ALTER DEFAULT PRIVILEGES GRANT ALL ON SCHEMAS TO PUBLIC});

# ---------------------------------------------------------------------
# What shadows PostgreSQL's own functions and operators
# ---------------------------------------------------------------------

# one for each function and each operator of PostgreSQL that can have one
ask(q{
	SET ROLE mallory;
	CREATE PROCEDURE public.make(commands text) LANGUAGE plpgsql SET search_path = pg_catalog AS $$
	DECLARE
		command text;
	BEGIN
		FOR command IN EXECUTE commands LOOP
			BEGIN
				EXECUTE command;
			EXCEPTION WHEN OTHERS THEN -- a few of them cannot be made
			END;
		END LOOP;
	END $$;
	CREATE FUNCTION public.body(what text) RETURNS text LANGUAGE sql SET search_path = pg_catalog AS $$
		SELECT format('BEGIN RAISE LOG %L, current_user, current_setting(%L); RETURN NULL; END', 'TROJAN ' || what || ' as % super %', 'is_superuser') $$;
	CALL public.make($$
		SELECT format('CREATE FUNCTION public.%I(%s) RETURNS %s LANGUAGE plpgsql SET search_path = pg_catalog AS %L', p.proname,
			pg_get_function_identity_arguments(p.oid), pg_get_function_result(p.oid), public.body(p.proname))
		FROM pg_proc p
		WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.prokind = 'f' AND NOT p.proretset AND p.provariadic = 0
		AND NOT EXISTS (SELECT FROM unnest(p.proargtypes::oid[] || p.prorettype) t(oid) JOIN pg_type USING (oid) WHERE typtype = 'p' AND typname <> 'void') $$);
	CALL public.make($$
		SELECT format('CREATE FUNCTION public.trojan_%s(l %s, r %s) RETURNS %s LANGUAGE plpgsql SET search_path = pg_catalog AS %L', oid,
			oprleft::regtype, oprright::regtype, oprresult::regtype, public.body('operator'))
		FROM pg_operator WHERE oprnamespace = 'pg_catalog'::regnamespace AND oprleft <> 0
		UNION ALL
		SELECT format('CREATE OPERATOR public.%s (LEFTARG = %s, RIGHTARG = %s, FUNCTION = public.trojan_%s)',
			oprname, oprleft::regtype, oprright::regtype, oid)
		FROM pg_operator WHERE oprnamespace = 'pg_catalog'::regnamespace AND oprleft <> 0 $$)});
cmp_ok(ask("SELECT count(*) FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND proname !~ '^trojan_'"), '>', 1500, 'functions that shadow those of PostgreSQL');
cmp_ok(ask("SELECT count(*) FROM pg_operator WHERE oprnamespace = 'public'::regnamespace"), '>', 500, 'operators that shadow those of PostgreSQL');
ask(q{
	SET ROLE mallory;
	CREATE FUNCTION public.trojan_step(bigint) RETURNS bigint LANGUAGE plpgsql SET search_path = pg_catalog AS
		$$ BEGIN RAISE LOG 'TROJAN aggregate as % super %', current_user, current_setting('is_superuser'); RETURN NULL; END $$;
	CREATE FUNCTION public.trojan_step(bigint, anyelement) RETURNS bigint LANGUAGE plpgsql SET search_path = pg_catalog AS
		$$ BEGIN RAISE LOG 'TROJAN aggregate as % super %', current_user, current_setting('is_superuser'); RETURN NULL; END $$;
	CREATE AGGREGATE public.count(*) (SFUNC = public.trojan_step, STYPE = bigint);
	CREATE AGGREGATE public.sum(bigint) (SFUNC = public.trojan_step, STYPE = bigint);
	CREATE AGGREGATE public.min(timestamptz) (SFUNC = public.trojan_step, STYPE = bigint);
	CREATE AGGREGATE public.array_agg(text) (SFUNC = public.trojan_step, STYPE = bigint);
	CREATE TABLE public._stream (name text);
	CREATE TABLE public.batch (id int)});

# the trojans come first for everybody who names no schema
ask(q{ALTER DATABASE city SET search_path = public, pg_catalog, gis});
like($node->safe_psql('city', q{SELECT lower('X') IS NULL}), qr/t/, 'they are found first');
like(slurp_file($node->logfile), qr/TROJAN lower as postgres super on/, 'and run as who calls them, were he a superuser');
my $log_end = -s $node->logfile;

# Before CREATE EXTENSION, by a superuser; then all verbs, by the owner and by a
# superuser, in sessions that have temporary relations named as PostgreSQL's own.
$node->safe_psql('city', 'CREATE EXTENSION detect');
ask('GRANT detect_admin TO ops; GRANT CREATE ON SCHEMA public TO ops');
my $shadows = join('', map { "CREATE TEMP VIEW $_ AS SELECT public.lower('shadow') AS oid, public.lower('shadow') AS relname;" }
	  qw(pg_class pg_namespace pg_attribute pg_roles pg_authid pg_database pg_proc pg_type pg_extension pg_constraint pg_trigger
	  pg_inherits pg_foreign_server pg_stats pg_settings _stream _rollup _locator _dead_letter stat_stream));
my $session = "SET client_min_messages = error; $shadows";

$node->safe_psql('city', qq{
	SET SESSION AUTHORIZATION ops;
	$session
	CREATE TABLE city.event (id int, at timestamptz, v int, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
	CREATE TABLE city.zone (zone_id int PRIMARY KEY, geom gis.geometry(Polygon, 4326));
	INSERT INTO city.zone VALUES (1, gis.ST_MakeEnvelope(0, 0, 1, 1, 4326));
	SET search_path = public, pg_catalog, city, gis;
	SELECT detect.create_locator('city_zone', 'city.zone');
	SELECT detect.create_stream('event', server => '', events_table => 'city.event', partition_interval => '1 day', retention => '3650 days',
		query => 'SELECT b.id, b.at, b.v FROM batch b');
	SELECT detect.create_rollup('per_day', 'SELECT pg_catalog.date_bin(''1 day'', at, ''epoch'') AS day, pg_catalog.count(*) AS n, pg_catalog.sum(v) AS v FROM city.event GROUP BY 1');
	INSERT INTO detect_staging.event (id, at, v) VALUES (1, '2026-01-01', 1), (2, '2026-01-02', 2), (3, '2026-01-03', 30000000);
	SELECT detect.wait_for('event', '${timeout}s');
	SELECT detect.wait_for_rollup('per_day', '${timeout}s')});
my $verbs = qq{
	SELECT detect.pause('event');
	SELECT detect.resume('event');
	SELECT detect.wait_for('event', '${timeout}s');
	SELECT detect.alter_stream('event', retention => '3651 days');
	SELECT detect.get_definition('event');
	SELECT detect.get_definition('per_day');
	SELECT detect.get_definition('city_zone');
	SELECT detect.rebuild_rollup('per_day');
	SELECT detect.wait_for_rollup('per_day', '${timeout}s');
	SELECT detect.retry_rollup('per_day');
	SELECT detect.alter_rollup('per_day', retention => '3650 days');
	SELECT detect.verify_rollup('per_day');
	SELECT detect.create_rollup_view('totals', 'per_day', '{}');
	SELECT detect.retry_dead_letters('event');
	SELECT detect.purge_dead_letters('event');
	SELECT detect.refresh_locator('city_zone');
	SELECT detect.decode('{"id": 1}', 'id int');
	SELECT city_zone(0.5, 0.5);
	INSERT INTO city.event VALUES (100, '2026-01-01', 5);
	UPDATE city.event SET v = 6;
	DELETE FROM city.event WHERE true;
	SELECT detect.wait_for('event', '${timeout}s');
	SELECT * FROM per_day;
	SELECT * FROM totals;
	TABLE detect.stat_stream; TABLE detect.stat_partition;
	TABLE detect.stat_rollup; TABLE detect.stat_worker; TABLE detect.stat_locator; TABLE detect.dead_letter; TABLE detect.problem; TABLE detect.history;
	DROP VIEW totals;
	-- what shows queries asks PostgreSQL's own pg_get_viewdef, which trusts the path of its caller
	SET search_path = pg_catalog;
	TABLE detect.stream; TABLE detect.rollup; TABLE detect.locator;
};
foreach my $role (qw(ops postgres))
{
	my ($rc, undef, $stderr) = $node->psql('city', "SET SESSION AUTHORIZATION $role; $session SET search_path = public, pg_catalog, city, gis; $verbs",
		on_error_stop => 1);
	is($rc, 0, "every verb works as $role, whatever shadows what it uses") or diag($stderr);
}
unlike(log_from($log_end), qr/TROJAN .* super on/, 'nothing that shadows was called as a superuser');
unlike(log_from($log_end), qr/TROJAN/, 'nor as anybody else');
ask(q{ALTER DATABASE city RESET search_path; SELECT detect.drop_rollup('per_day'); SELECT detect.drop_stream('event'); DROP SCHEMA public CASCADE; CREATE SCHEMA public; DROP TABLE city.event, city.zone CASCADE});

# ---------------------------------------------------------------------
# Code of others on the tables
# ---------------------------------------------------------------------

# Says as whom it was called, and which of many things it could do that it must not.
ask(q{
	SET ROLE mallory;
	CREATE FUNCTION mallory.spy(place text) RETURNS boolean LANGUAGE plpgsql AS $spy$
	DECLARE
		attempt text;
		done text[] := '{}';
	BEGIN
		FOREACH attempt IN ARRAY ARRAY[
			'SET ROLE postgres', 'SET SESSION AUTHORIZATION postgres', 'SET LOCAL SESSION AUTHORIZATION mallory', 'SET ROLE mallory',
			'RESET SESSION AUTHORIZATION; SET ROLE postgres', 'RESET ROLE; ALTER ROLE mallory SUPERUSER', 'ALTER ROLE mallory CREATEROLE',
			'COPY (SELECT 1) TO PROGRAM ''touch loot''', 'COPY (SELECT 1) TO ''/tmp/loot''', 'SELECT pg_read_file(''PG_VERSION'')',
			'SELECT * FROM pg_authid', 'SELECT rolpassword FROM pg_shadow', 'SELECT * FROM detect._dead_letter', 'DELETE FROM detect._stream',
			'UPDATE detect._applied_progress SET next_offset = 0', 'INSERT INTO detect._history DEFAULT VALUES',
			'ALTER SYSTEM SET detect.superuser_streams = on', 'SET detect.superuser_streams = on', 'SET session_replication_role = replica',
			'SELECT umoptions FROM pg_user_mapping', 'LOAD ''auto_explain''', 'ALTER EXTENSION detect UPDATE', 'DROP EXTENSION detect CASCADE',
			'CREATE EXTENSION plperlu', 'DROP EVENT TRIGGER detect_dropped', 'ALTER FUNCTION detect._accepted() OWNER TO mallory',
			'CREATE TRIGGER t AFTER INSERT ON detect._history EXECUTE FUNCTION mallory.spy()']
		LOOP
			BEGIN
				EXECUTE attempt;
				done := done || attempt;
			EXCEPTION WHEN OTHERS THEN
			END;
		END LOOP;
		RAISE LOG 'SPY % session=% current=% super=% could=%', place, session_user, current_user, current_setting('is_superuser'), done;
		RETURN true;
	END $spy$;
	CREATE FUNCTION mallory.spy_trigger() RETURNS trigger LANGUAGE plpgsql AS
		$$ BEGIN PERFORM mallory.spy(TG_ARGV[0]); RETURN CASE WHEN TG_LEVEL = 'ROW' AND TG_WHEN = 'BEFORE' THEN new END; END $$;
	-- it says so, and it is not
	CREATE FUNCTION mallory.spy_immutable(place text, v int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN PERFORM mallory.spy(place); RETURN v; END $$;
	CREATE FUNCTION mallory.spy_stable(place text, v int) RETURNS int STABLE LANGUAGE plpgsql AS $$ BEGIN PERFORM mallory.spy(place); RETURN v; END $$;
	CREATE DOMAIN mallory.number AS int CHECK (mallory.spy_immutable('domain', VALUE) IS NOT NULL);
	CREATE TYPE mallory.pair AS (a int, b int);
	CREATE FUNCTION mallory.pair_to_int(mallory.pair) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN RETURN mallory.spy_immutable('cast', $1.a); END $$;
	CREATE CAST (mallory.pair AS int) WITH FUNCTION mallory.pair_to_int(mallory.pair) AS ASSIGNMENT;
	CREATE FUNCTION mallory.plus(int, int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN RETURN mallory.spy_immutable('operator', $1) + $2; END $$;
	CREATE OPERATOR mallory.+ (LEFTARG = int, RIGHTARG = int, FUNCTION = mallory.plus);
	CREATE VIEW mallory.prices AS SELECT i AS id, mallory.spy_stable('view', i) AS price FROM generate_series(1, 100) i;
	CREATE FUNCTION mallory.add(int, int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN RETURN mallory.spy_immutable('aggregate', coalesce($1, 0)) + $2; END $$;
	CREATE AGGREGATE mallory.total(int) (SFUNC = mallory.add, STYPE = int, COMBINEFUNC = mallory.add);
	CREATE FUNCTION mallory.default_value() RETURNS int LANGUAGE plpgsql AS $$ BEGIN PERFORM mallory.spy('default'); RETURN 7; END $$;
	GRANT SELECT ON mallory.prices TO PUBLIC});
ask_as('ops', q{
	CREATE TABLE city.event (
		id int NOT NULL, at timestamptz NOT NULL, v mallory.number, w int CHECK (mallory.spy_immutable('check', w) IS NOT NULL),
		d int DEFAULT mallory.default_value(),
		g int GENERATED ALWAYS AS (mallory.spy_immutable('generated', w)) STORED
	) PARTITION BY RANGE (at);
	CREATE INDEX ON city.event (mallory.spy_immutable('index expression', w)) WHERE mallory.spy_immutable('index predicate', w) IS NOT NULL;
	CREATE STATISTICS city.s ON (mallory.spy_immutable('statistics', w)), v FROM city.event;
	GRANT TRIGGER ON city.event TO mallory;
	SELECT detect.create_stream('event', server => '', events_table => 'city.event', columns => 'id int, at timestamptz, v int, p mallory.pair',
		key => '{id}', partition_interval => '1 day', retention => '36500 days',
		query => 'SELECT b.id, b.at, b.v, (b.p::int OPERATOR(mallory.+) 0) + coalesce(p.price, 0) * 0 AS w FROM batch b LEFT JOIN mallory.prices p USING (id)');
	SET search_path = city;
	SELECT detect.create_rollup('by_day', 'SELECT date_bin(''1 day'', at, ''epoch'') AS day, mallory.total(w) AS total, mallory.spy_stable(''group'', 1) AS one FROM event GROUP BY 1, 3')});
# on a partition that is by now somebody else's, and by who has the right to make triggers
ask_as('ops', q{INSERT INTO detect_staging.event (id, at, v, p) VALUES (1, '2026-01-01', 1, '(5,6)')});
wait_for($node, 'city', 'event');
my $partition = ask('SELECT tableoid::regclass FROM city.event');
ask("ALTER TABLE $partition OWNER TO mallory");
ask('GRANT ALL ON SCHEMA city TO mallory; GRANT TRIGGER ON ALL TABLES IN SCHEMA city TO mallory');
ask_as('mallory', qq{
	CREATE TRIGGER spy_before BEFORE INSERT ON $partition FOR EACH ROW EXECUTE FUNCTION mallory.spy_trigger('partition row trigger');
	CREATE CONSTRAINT TRIGGER spy_deferred AFTER INSERT ON $partition DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION mallory.spy_trigger('deferred trigger');
	ALTER TABLE $partition ADD CHECK (mallory.spy_immutable('partition check', w) IS NOT NULL);
	CREATE INDEX ON $partition (mallory.spy_immutable('partition index', w));
	ALTER TABLE $partition ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
	CREATE POLICY p ON $partition USING (mallory.spy_immutable('policy', w) IS NOT NULL) WITH CHECK (mallory.spy_immutable('policy', w) IS NOT NULL);
	CREATE TRIGGER spy_statement AFTER INSERT ON city.event FOR EACH STATEMENT EXECUTE FUNCTION mallory.spy_trigger('statement trigger');
	CREATE CONSTRAINT TRIGGER spy_too AFTER INSERT ON city.event DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION mallory.spy_trigger('deferred trigger of the parent')});
$log_end = -s $node->logfile;
ask_as('ops', q{INSERT INTO detect_staging.event (id, at, v, p) SELECT i, '2026-01-01', i, '(5,6)' FROM generate_series(2, 5) i});
wait_for($node, 'city', 'event');
is(ask(q{SELECT count(*) FROM city.event}), '5', 'events pass all the code of others');
ask_as('ops', 'UPDATE city.event SET v = 9 WHERE id = 2');
wait_for($node, 'city', 'event');
ask_as('ops', "SELECT detect.wait_for_rollup('by_day', '${timeout}s')");

my %spied;
foreach my $line (split(/\n/, log_from($log_end)))
{
	next unless $line =~ /detect \w+ .*SPY ([\w ]+) session=(\w+) current=(\w+) super=(\w+) could=(.*)$/;
	$spied{$1}{"$2 $3 $4 $5"} = 1;
}
my @places = ('aggregate', 'cast', 'check', 'default', 'deferred trigger', 'deferred trigger of the parent', 'domain', 'generated', 'group',
	'index expression', 'index predicate', 'operator', 'partition check', 'partition index', 'partition row trigger', 'statement trigger', 'view');
foreach my $place (@places)
{
	is(join(', ', sort keys %{ $spied{$place} // {} }), 'ops ops off {}', "$place: called as the owner, and could do nothing that it must not");
}

# A superuser who verifies a rollup runs its owner's functions as the owner.
$log_end = -s $node->logfile;
ask(q{SELECT detect.verify_rollup('by_day')});
my @verified = log_from($log_end) =~ /SPY [\w ]+ session=\w+ (current=\w+)/g;
cmp_ok(scalar(@verified), '>', 0, 'verify_rollup runs code of the owner');
is(join(' ', grep { $_ ne 'current=ops' } @verified), '', 'as the owner, also for a superuser');
ask(q{SELECT detect.drop_rollup('by_day'); SELECT detect.drop_stream('event')});

# ---------------------------------------------------------------------
# Code that leaves dirt in the session
# ---------------------------------------------------------------------

ask(q{
	GRANT TEMP ON DATABASE city TO ops;
	SET ROLE ops;
	CREATE TABLE city.dirt (id int PRIMARY KEY, act text, seen text);
	CREATE FUNCTION city.act() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		IF new.act <> '' THEN
			EXECUTE new.act;
		END IF;
		new.seen := pg_catalog.format('%s %s %s %s %s %s %s',
			current_user, current_setting('search_path'), current_setting('TimeZone'), coalesce(current_setting('my.own', true), ''),
			(SELECT count(*) FROM pg_catalog.pg_locks WHERE locktype = 'advisory' AND pid = pg_catalog.pg_backend_pid()),
			(SELECT count(*) FROM pg_catalog.pg_prepared_statements WHERE from_sql) + (SELECT count(*) FROM pg_catalog.pg_cursors WHERE is_holdable),
			(SELECT count(*) FROM pg_catalog.pg_class WHERE relnamespace = pg_catalog.pg_my_temp_schema() AND relkind = 'r'));
		RETURN new;
	END $$;
	CREATE TRIGGER act BEFORE INSERT ON city.dirt FOR EACH ROW EXECUTE FUNCTION city.act();
	SELECT detect.create_stream('dirt', server => '', events_table => 'city.dirt', columns => 'id int, act text')});

my $id = 0;

# Has an act done in a batch; what a later batch then sees of the session.
sub after
{
	my ($act) = @_;
	my $quoted = $act =~ s/'/''/gr;

	$id++;
	ask("INSERT INTO detect_staging.dirt (id, act) VALUES ($id, '$quoted')");
	wait_for($node, 'city', 'dirt');
	# the session is cleaned after the commit
	my $count = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid IN (77, 78)";
	my $held = $node->poll_query_until('city', $count, '0') ? 0 : ask($count);
	$id++;
	ask("INSERT INTO detect_staging.dirt (id, act) VALUES ($id, '')");
	wait_for($node, 'city', 'dirt');
	return "locks $held: " . ask("SELECT seen FROM city.dirt WHERE id = $id");
}

my $clean = after('');
is($clean, 'locks 0: ops  UTC  0 0 0', 'a clean session');
my @acts = (
	q{SET search_path = mallory, public},
	q{SELECT set_config('TimeZone', 'Asia/Kolkata', false)},
	q{SET my.own = 'mine'},
	q{SET ROLE other},
	q{SET SESSION AUTHORIZATION ops},
	q{SET lock_timeout = 1; SET statement_timeout = 1; SET exit_on_error = on},
	q{SET default_transaction_read_only = on; SET default_transaction_isolation = serializable},
	q{SELECT pg_advisory_lock(77)},
	q{SELECT pg_advisory_lock_shared(78)},
	q{CREATE TEMP TABLE junk (a int)},
	q{CREATE TEMP TABLE pg_class AS SELECT 1 AS relname},
	q{PREPARE junk AS SELECT 1},
	q{DECLARE junk CURSOR WITH HOLD FOR SELECT 1});
foreach my $act (@acts)
{
	is(after($act), $clean, "the next batch is clean after: $act") foreach 1, 2;
}
is(ask(q{SELECT count(*) FROM detect.dead_letter}), '0', 'twice each, and none of it failed');

# what a worker must not do at all costs the element
my %refused = (
	'LISTEN junk' => '0A000',
	'COMMIT' => '0A000',
	'ROLLBACK' => '0A000',
	'VACUUM city.dirt' => '25001',
	q{SET TRANSACTION ISOLATION LEVEL SERIALIZABLE} => '25001');
foreach my $act (sort keys %refused)
{
	is(after($act), $clean, "the next batch is clean after: $act");
	is(ask("SELECT sqlstate FROM detect.dead_letter ORDER BY dead_letter_id DESC LIMIT 1"), $refused{$act}, "and it became a dead letter");
}

# ---------------------------------------------------------------------
# Code that never ends
# ---------------------------------------------------------------------

$node->safe_psql('postgres', "ALTER SYSTEM SET detect.batch_timeout = '500ms'");
$node->reload;
ask(q{
	SET ROLE ops;
	CREATE TABLE city.calm (id int PRIMARY KEY);
	SELECT detect.create_stream('calm', server => '', events_table => 'city.calm');
	SELECT detect.purge_dead_letters('dirt')});
# no other test may wait by it
my $nap = 'pg_' . reverse('peels');
foreach my $act ("SELECT pg_catalog.$nap(1e6)", 'DO $x$ BEGIN LOOP END LOOP; END $x$')
{
	my $quoted = $act =~ s/'/''/gr;
	my ($first, $last) = ($id + 1, $id + 100);

	$id = $last;
	ask("INSERT INTO detect_staging.dirt (id, act) SELECT i, CASE WHEN i = $first + 41 THEN '$quoted' ELSE '' END FROM generate_series($first, $last) i");
	ask(q{INSERT INTO detect_staging.calm SELECT coalesce(max(id), 0) + 1 FROM city.calm});
	wait_for($node, 'city', 'calm');
	wait_for($node, 'city', 'dirt');
	is(ask("SELECT count(*) FROM city.dirt WHERE id BETWEEN $first AND $last"), '99', "all others become events: $act");
	is( ask("SELECT sqlstate || ' ' || reason FROM detect.dead_letter ORDER BY dead_letter_id DESC LIMIT 1"),
		'57014 it takes longer than detect.batch_timeout, 500 ms', 'and the one a dead letter');
	is(ask("SELECT (convert_from(payload, 'UTF8')::jsonb)->>'id' FROM detect.dead_letter ORDER BY dead_letter_id DESC LIMIT 1"), $first + 41, 'it is that one');
}
is(ask('SELECT count(*) FROM city.calm'), '2', 'other streams do not notice');

# at the commit
ask(q{
	SET ROLE ops;
	CREATE FUNCTION city.loop_forever() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN LOOP END LOOP; END $$;
	CREATE CONSTRAINT TRIGGER never AFTER INSERT ON city.dirt DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (new.id = -1) EXECUTE FUNCTION city.loop_forever();
	INSERT INTO detect_staging.dirt (id, act) VALUES (-1, '')});
wait_for($node, 'city', 'dirt');
is(ask("SELECT sqlstate FROM detect.dead_letter ORDER BY dead_letter_id DESC LIMIT 1"), '57014', 'a deferred trigger that never ends is cancelled, too');

# in a rollup: it is set aside, the events go on
ask(q{
	SET ROLE ops;
	CREATE FUNCTION city.slow(int) RETURNS int STABLE LANGUAGE plpgsql AS $$ BEGIN IF $1 = -2 THEN LOOP END LOOP; END IF; RETURN 1; END $$;
	SET search_path = city;
	SELECT detect.create_rollup('slowly', 'SELECT city.slow(id) AS one, count(*) AS n FROM dirt GROUP BY 1')});
ask("SET ROLE ops; SELECT detect.wait_for_rollup('slowly', '${timeout}s');
	INSERT INTO detect_staging.dirt (id, act) VALUES (-2, ''), (-3, '')");
wait_for($node, 'city', 'dirt');
is(ask('SELECT count(*) FROM city.dirt WHERE id IN (-2, -3)'), '2', 'a rollup that never ends does not hold up the events');
ok($node->poll_query_until('city', q{SELECT state = 'failed' AND error ~ 'takes longer than detect.batch_timeout' AND attempts > 1 FROM detect.stat_rollup}),
	'it is set aside, says why, and is tried again');
ask(q{SET ROLE ops; DELETE FROM city.dirt WHERE id = -2});
$node->poll_query_until('city', q{SELECT state = 'active' FROM detect.stat_rollup});
is(ask('SELECT sum(n) - (SELECT count(*) FROM city.dirt) FROM city.slowly'), '0', 'it has all events once the cause is gone');

# ---------------------------------------------------------------------
# The owner's own objects, altered by other means than our verbs
# ---------------------------------------------------------------------

ask(q{
	SET ROLE ops;
	CREATE TABLE city.odd (id int PRIMARY KEY, v int);
	SELECT detect.create_stream('odd', server => '', events_table => 'city.odd');
	INSERT INTO detect_staging.odd (id, v) VALUES (1, 1)});
wait_for($node, 'city', 'odd');
my $odd_id = 1;
foreach my $tamper (
	['ALTER VIEW detect_query.odd RENAME COLUMN _ordinal TO x', 'ALTER VIEW detect_query.odd RENAME COLUMN x TO _ordinal'],
	['ALTER VIEW detect_query.odd RENAME COLUMN v TO reject_reason',   'ALTER VIEW detect_query.odd RENAME COLUMN reject_reason TO v'],
	(map { ["CREATE OR REPLACE RULE \"_RETURN\" AS ON SELECT TO detect_query.odd DO INSTEAD SELECT $_ FROM detect_staging.odd",
		"CREATE OR REPLACE RULE \"_RETURN\" AS ON SELECT TO detect_query.odd DO INSTEAD SELECT id, v, _ordinal FROM detect_staging.odd"] }
		  ('id, v, 1000000000000::bigint AS _ordinal', 'id, v, (-1)::bigint AS _ordinal', 'id, v, NULL::bigint AS _ordinal')))
{
	my ($do, $undo) = @$tamper;

	$odd_id++;
	ask("SET ROLE ops; $do; INSERT INTO detect_staging.odd (id, v) VALUES ($odd_id, 1)");
	stream_is($node, 'city', 'odd', 'paused', 'is not what detect made any more|does not hand on|fills, does not exist|column "v" does not exist', "the stream pauses: $do");
	ask("SET ROLE ops; $undo; SELECT detect.resume('odd')");
	wait_for($node, 'city', 'odd');
	is(ask('SELECT count(*) FROM city.odd'), $odd_id, 'and goes on when it is as it was');
}

# The last word: nothing crashed, nothing internal was said.
is($node->safe_psql('city', q{
		SELECT string_agg(o.name, ', ') FROM (SELECT oid::regclass::text, relacl FROM pg_class WHERE relnamespace = 'detect'::regnamespace
			UNION ALL SELECT oid::regprocedure::text, proacl FROM pg_proc WHERE pronamespace = 'detect'::regnamespace
			UNION ALL SELECT nspname, nspacl FROM pg_namespace WHERE nspname ~ '^detect') o (name, acl)
		WHERE EXISTS (SELECT FROM aclexplode(o.acl) a
			WHERE a.grantee = 'mallory'::regrole OR a.grantee = 0 AND a.privilege_type NOT IN ('SELECT', 'USAGE', 'EXECUTE'))}), '', 'default privileges have given nothing of ours to others');

log_is_clean($node);
unlike(slurp_file($node->logfile), qr/^\S+ \S+ \S+ \[\d+\] XX\d{3} /m, 'no internal error');
done_testing();
