# Another query of a rollup is built and takes over while processes die at random
# moments.  Whoever reads the view, at any time, sees the groups of the old query
# or those of the new one, all of them and exactly; at the end it is the new one.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";

use DetectTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use constant {
	ROUNDS => 12,
	CHUNK  => 1500,
};

my $broker  = DetectTest::Broker->start();
my $node    = make_node('main');
my @lines   = camera_lines((ROUNDS + 2) * CHUNK);
my @victims = ('apply', 'apply', 'terminate', 'postmaster', 'immediate', 'abandon', 'alter');

# The standard query, and others with its columns.
my @queries = (
	$DetectTest::per_minute,
	$DetectTest::per_minute =~ s/FROM EVENTS/FROM EVENTS WHERE video_camera_oid % 2 = 0/r,
	$DetectTest::per_minute =~ s/'1 minute'/'1 hour'/r =~ s/count\(\*\)/count(*) FILTER (WHERE confidence > 0.5)/r);
s/\bEVENTS\b/detection/ foreach @queries;

# In how many groups the view differs from a query.
sub differences
{
	my ($query) = @_;

	return "(SELECT count(*) FROM ((TABLE camera_per_minute EXCEPT ALL $query) "
	  . "UNION ALL ($query EXCEPT ALL TABLE camera_per_minute)) d)";
}

# Which of some queries the view shows, by one snapshot.
sub shows
{
	my ($database, @numbers) = @_;
	my @shown = split(/\|/,
		$node->safe_psql($database, 'SELECT ' . join(', ', map { differences($queries[$_]) } @numbers)));

	return grep { $shown[$_] eq '0' } 0 .. $#numbers;
}

sub alter
{
	my ($database, $number) = @_;

	$node->safe_psql($database,
		"SET ROLE ops; SELECT detect.alter_rollup('camera_per_minute', query => \$\$ $queries[$number] \$\$)");
	return;
}

sub wait_swapped
{
	my ($database) = @_;

	$node->safe_psql($database,
		"SELECT detect.wait_for_rollup('camera_per_minute', '${PostgreSQL::Test::Utils::timeout_default}s')");
	return;
}

$node->start;
install_detect($node, 'city');
$broker->create_topic('camera', 4);
create_camera($node, 'city', $broker);
my $now = 0;    # the query that the view shows

for my $round (1 .. ROUNDS)
{
	my $next   = ($now + 1 + int(rand($#queries))) % @queries;
	my $victim = $victims[ rand @victims ];
	my $looks  = int(rand(8));
	my $reader = $node->background_psql('city');
	my $reads  = rand() < 0.3;
	my @wrong;

	# who has read the view keeps the new query from taking over
	$reader->query_safe('BEGIN; SELECT count(*) FROM camera_per_minute') if $reads;
	$broker->produce('camera', splice(@lines, 0, CHUNK));
	wait_applied($node, 'city', 'camera', ($round - 1) * CHUNK + int(rand(CHUNK)), '');
	alter('city', $next);
	foreach my $look (1 .. $looks)
	{
		push @wrong, $look unless shows('city', $now, $next);
	}
	note("round $round: $victim after $looks looks" . ($reads ? ', while it is read' : ''));
	if ($victim eq 'abandon')
	{
		my ($rc, undef, $error) = $node->psql('city',
			"SELECT detect.alter_rollup('camera_per_minute', reset => '{query}')");

		$next = $now if $rc == 0;
	}
	elsif ($victim eq 'alter')
	{
		alter('city', $next);
	}
	elsif ($victim eq 'terminate')
	{
		$node->safe_psql('city',
			q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'detect apply'});
	}
	else
	{
		strike($node, $victim eq 'apply' ? worker_pid($node, 'city', 'camera') : $victim);
	}
	push @wrong, $victim unless shows('city', $now, $next);
	eval { $reader->quit };
	wait_swapped('city');
	push @wrong, 'after it' unless shows('city', $next);
	is("@wrong", '', "round $round: the old groups or the new ones");
	$now = $next;
}

# ---------------------------------------------------------------------
# Dumped while it is built
# ---------------------------------------------------------------------

my $dump = "$PostgreSQL::Test::Utils::tmp_check/city.sql";

$broker->produce('camera', splice(@lines, 0, CHUNK));
wait_for($node, 'city', 'camera');
$node->safe_psql('city', "SELECT detect.pause('camera')");
alter('city', 0);
$node->command_ok([ 'pg_dump', '-d', $node->connstr('city'), '-f', $dump ], 'pg_dump');
$node->safe_psql('postgres', 'CREATE DATABASE restored');
$node->safe_psql('postgres', 'ALTER DATABASE restored SET search_path = city, public');
$node->command_ok(
	[ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('restored'), '-f', $dump ],
	'the dump is restored without an error');
foreach my $database ('restored', 'city')
{
	ok(shows($database, $now), "$database: the old groups");
	$node->safe_psql($database, "SELECT detect.resume('camera')");
	wait_swapped($database);
	ledger_is_exact($node, $database, $broker, "$database: exact, and by the new query");
}

log_is_clean($node);
$node->stop;
done_testing();
