# Places are edited in three sessions, and each of them finds what PostGIS finds.
#
# First one session moves at a time, in an order that a seed draws: transactions
# that keep their snapshot or do not, savepoints that are rolled back, rows that
# come, change and go through the place table, through its partition and by COPY,
# partitions that are emptied, detached and attached.  After each step every
# session that can looks.  Then the three move at once, where a look is compared
# under a snapshot that holds still: REPEATABLE READ, or no writer let in.
#
#   DETECT_SEED=7 DETECT_LOCATOR_EDITS=5000 test/run test/t/054_locator_sessions.pl

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";

use DetectTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use constant SESSIONS => 3;

my $edits = $ENV{DETECT_LOCATOR_EDITS} // 300;
my $node  = make_node('main');

# so that transactions which keep their snapshot share the places of all
$node->append_conf('postgresql.conf', 'max_prepared_transactions = 0');
$node->start;
install_detect($node, 'city');

# Each session has its own partition and edits its own rows alone, so that none
# waits for another.
$node->safe_psql(
	'city', q{
	SET client_min_messages = warning;
	SET ROLE ops;
	CREATE SEQUENCE next_id;
	CREATE TABLE zones (zone_id int DEFAULT nextval('next_id'), owner int, geom geometry(Geometry, 25832)) PARTITION BY LIST (owner);
	CREATE TABLE zones_0 PARTITION OF zones FOR VALUES IN (0);
	CREATE TABLE zones_1 (geom geometry(Geometry, 25832), owner int, zone_id int DEFAULT nextval('next_id'));
	ALTER TABLE zones ATTACH PARTITION zones_1 FOR VALUES IN (1);
	CREATE TABLE zones_2 PARTITION OF zones FOR VALUES IN (2);
	CREATE TABLE areas (area_id int PRIMARY KEY DEFAULT nextval('next_id'), owner int, geom geometry(Geometry, 25832));
	CREATE INDEX ON zones USING gist (geom);
	CREATE INDEX ON areas USING gist (geom);
	SELECT detect.create_locator('zone_of', 'zones', key => 'zone_id', priority => 'zone_id');
	SELECT detect.create_locator('area_of', 'areas', key => 'area_id');
	SELECT detect.create_locator('near', 'areas', key => 'area_id', within => 2);

	CREATE FUNCTION shape(seed int) RETURNS geometry LANGUAGE sql IMMUTABLE AS $$
		SELECT CASE WHEN seed % 5 < 3 THEN ST_Expand(p, 1 + seed % 4) ELSE ST_Buffer(p, 1 + seed % 3, 2) END
		FROM ST_Point((seed * 7919::bigint) % 20, (seed * 104729::bigint) % 20, 25832) p $$;
	-- how many points a locator and the join that it replaces find differently
	CREATE FUNCTION differences() RETURNS bigint LANGUAGE sql STABLE AS $$
		SELECT count(*) FROM (SELECT ST_Point(x, y, 25832) AS p FROM generate_series(1, 20, 5) x, generate_series(0, 20, 5) y) v
		WHERE zones_of_array(p) IS DISTINCT FROM ARRAY(SELECT zone_id FROM zones WHERE ST_Contains(geom, p) ORDER BY zone_id)
		   OR areas_of_array(p) IS DISTINCT FROM ARRAY(SELECT area_id FROM areas WHERE ST_Contains(geom, p) ORDER BY ST_Area(geom), area_id)
		   OR near(p) IS DISTINCT FROM (SELECT area_id FROM areas WHERE ST_DWithin(geom, p, 2) ORDER BY geom <-> p, area_id LIMIT 1) $$;
	INSERT INTO zones (owner, geom) SELECT i % 3, shape(i) FROM generate_series(1, 300) i;
	INSERT INTO areas (owner, geom) SELECT i % 3, shape(i) FROM generate_series(1, 300) i;
});

# ---------------------------------------------------------------------
# One session moves at a time
# ---------------------------------------------------------------------
my @sessions = map { { id => $_, psql => $node->background_psql('city'), is_open => 0, savepoints => 0 } } 0 .. SESSIONS - 1;
my @log;
my $exclusive;    # the session that has locked others out

sub run_in
{
	my ($session, $sql) = @_;

	push @log, "$session->{id}: $sql";
	return $session->{psql}->query_safe($sql);
}

append_to_file("$PostgreSQL::Test::Utils::tmp_check/copied_$_", "$_\tSRID=25832;POLYGON((1 1,9 1,9 9,1 9,1 1))\n") for 0 .. SESSIONS - 1;

# One statement that edits the rows of a session.
sub edit
{
	my ($id)  = @_;
	my $n     = int(rand(1_000_000));
	my $some  = "owner = $id AND zone_id % 8 = " . $n % 8;
	my $areas = $some =~ s/zone_id/area_id/r;
	my $table = rand() < 0.5 ? 'zones' : "zones_$id";
	my @edits = (
		"INSERT INTO $table (owner, geom) SELECT $id, shape($n + i) FROM generate_series(1, 4) i",
		"INSERT INTO areas (owner, geom) SELECT $id, shape($n + i) FROM generate_series(1, 4) i",
		"UPDATE $table SET geom = shape($n + zone_id) WHERE $some",
		"UPDATE areas SET geom = shape($n + area_id) WHERE $areas",
		"UPDATE areas SET area_id = nextval('next_id') WHERE $areas",
		"DELETE FROM $table WHERE $some AND zone_id % 3 = 0",
		"DELETE FROM areas WHERE $areas AND area_id % 3 = 0",
		"COPY $table (owner, geom) FROM '$PostgreSQL::Test::Utils::tmp_check/copied_$id'",
		"WITH gone AS (DELETE FROM $table WHERE $some AND zone_id % 4 = 0 RETURNING *) INSERT INTO areas (owner, geom) SELECT owner, geom FROM gone");

	return $edits[ rand @edits ];
}

# One that locks others out; only when no other session has a transaction open.
sub exclude
{
	my ($id)  = @_;
	my $n     = int(rand(1_000_000));
	my @edits = (
		"TRUNCATE zones_$id",
		"TRUNCATE zones_$id; INSERT INTO zones_$id (owner, geom) SELECT $id, shape($n + i) FROM generate_series(1, 50) i",
		"TRUNCATE zones, areas; INSERT INTO areas (owner, geom) SELECT i % 3, shape($n + i) FROM generate_series(1, 150) i",
		"ALTER TABLE zones DETACH PARTITION zones_$id; UPDATE zones_$id SET geom = shape($n + zone_id); ALTER TABLE zones ATTACH PARTITION zones_$id FOR VALUES IN ($id)",
		"ALTER TABLE zones_$id DISABLE TRIGGER _detect_place_changed; DELETE FROM zones_$id WHERE zone_id % 5 = 0; ALTER TABLE zones_$id ENABLE ALWAYS TRIGGER _detect_place_changed");

	return $edits[ rand @edits ];
}

# One step of a session.
sub step
{
	my ($session) = @_;
	my $others    = grep { $_->{is_open} && $_ != $session } @sessions;
	my $draw      = rand();

	if ($draw < 0.2 && !$session->{is_open})
	{
		run_in($session, 'BEGIN ISOLATION LEVEL ' . ('READ COMMITTED', 'REPEATABLE READ')[ rand 2 ]);
		$session->{is_open} = 1;
	}
	elsif ($draw < 0.15)
	{
		run_in($session, rand() < 0.7 ? 'COMMIT' : 'ROLLBACK');
		@$session{qw(is_open savepoints)} = (0, 0);
		undef $exclusive;
	}
	elsif ($draw < 0.3 && $session->{is_open})
	{
		run_in($session, 'SAVEPOINT s');
		$session->{savepoints}++;
	}
	elsif ($draw < 0.4 && $session->{savepoints})
	{
		my $is_back = rand() < 0.7;

		run_in($session, $is_back ? 'ROLLBACK TO s' : 'RELEASE s');
		$session->{savepoints}-- unless $is_back;
	}
	elsif ($draw < 0.5 && !$others)
	{
		my $sql = exclude($session->{id});

		run_in($session, $session->{is_open} ? $sql : "BEGIN; $sql; COMMIT");
		$exclusive = $session if $session->{is_open};
	}
	else
	{
		run_in($session, edit($session->{id}));
	}
	return;
}

# Whether all sessions that can look find what PostGIS finds.
sub all_are_right
{
	for my $session ($exclusive // @sessions)
	{
		return 0 if run_in($session, 'SELECT differences()') ne '0';
	}
	return 1;
}

my $done = 0;
for (1 .. $edits)
{
	my $session = $exclusive // $sessions[ rand @sessions ];

	step($session);
	last unless all_are_right();
	$done++;
}
is($done, $edits, 'one at a time: each session finds what PostGIS finds')
  or diag(join("\n", "DETECT_SEED=$DetectTest::seed", @log));
for my $session (@sessions)
{
	run_in($session, 'ROLLBACK') if $session->{is_open};
	cmp_ok(run_in($session, 'SELECT sum(partial_builds) FROM detect.stat_locator WHERE pid = pg_backend_pid()'), '>', 0, "session $session->{id} built only what had changed");
	$session->{psql}->quit;
}

# ---------------------------------------------------------------------
# All three at once
# ---------------------------------------------------------------------
my %scripts = (
	edit => q{
		BEGIN ISOLATION LEVEL REPEATABLE READ;
		SELECT 1 / (differences() = 0)::int;
		UPDATE zones SET geom = shape(:n + zone_id) WHERE owner = :client_id AND zone_id % 8 = :n % 8;
		INSERT INTO areas (owner, geom) SELECT :client_id, shape(:n + i) FROM generate_series(1, 4) i;
		SELECT 1 / (differences() = 0)::int;
		SAVEPOINT s;
		DELETE FROM zones_:client_id WHERE zone_id % 4 = :n % 4;
		DELETE FROM areas WHERE owner = :client_id AND area_id % 8 = :n % 8;
		SELECT 1 / (differences() = 0)::int;
		ROLLBACK TO s;
		SELECT 1 / (differences() = 0)::int;
		COMMIT;
	},
	replace => q{
		BEGIN ISOLATION LEVEL REPEATABLE READ;
		TRUNCATE zones_:client_id;
		INSERT INTO zones_:client_id (owner, geom) SELECT :client_id, shape(:n + i) FROM generate_series(1, 50) i;
		SELECT 1 / (differences() = 0)::int;
		DELETE FROM areas WHERE owner = :client_id AND area_id % 8 = :n % 8;
		COMMIT;
	},
	# writers wait: the newest places are those of the statement
	look => q{
		BEGIN;
		LOCK TABLE zones, areas IN SHARE MODE;
		SELECT 1 / (differences() = 0)::int;
		COMMIT;
	});
my @weights = (edit => 6, look => 3, replace => 1);
my @files;
while (my ($name, $weight) = splice(@weights, 0, 2))
{
	my $file = "$PostgreSQL::Test::Utils::tmp_check/$name.sql";

	append_to_file($file, "\\set n random(1, 1000000)\n$scripts{$name}");
	push @files, '-f', "$file\@$weight";
}

# whoever finds a difference divides by zero; a deadlock is tried again
$ENV{PGOPTIONS} = '-c deadlock_timeout=10ms';
$node->command_ok(
	[
		'pgbench', '-n', '-c', SESSIONS, '-t', int($edits / 4), '--max-tries', 1000,
		'--random-seed', $DetectTest::seed, @files, $node->connstr('city')
	],
	'all at once: each session finds what PostGIS finds');
delete $ENV{PGOPTIONS};
is($node->safe_psql('city', 'SELECT differences()'), '0', 'and so does a new one');

log_is_clean($node);
$node->stop;
done_testing();
