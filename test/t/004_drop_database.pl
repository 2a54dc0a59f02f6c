# DROP DATABASE waits until every process of the server has answered; ours do
# so at once, busy, idle or without a broker.  Several databases with several
# owners' streams, of which some go away.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";

use DetectTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

# What one DROP DATABASE may take at most; alone it takes 0.05 s.  What would hold it
# up does so for half a minute or for ever.
use constant LONGEST_S => 20;

my $broker = DetectTest::Broker->start();
my $node   = make_node('main');
my @lines  = camera_lines(30_000);

sub produce
{
	my ($count) = @_;

	$broker->produce('camera', splice(@lines, 0, $count));
	return;
}

# Drops databases nobody is in, and says how long the slowest took.
sub drop_others
{
	my ($what, $between) = @_;
	my $slowest = 0;

	for (1 .. 5)
	{
		$node->safe_psql('postgres', 'CREATE DATABASE other');
		$between->() if $between;
		my $seconds = seconds_of(
			sub { $node->safe_psql('postgres', "SET statement_timeout = '30s'; DROP DATABASE other") });
		$slowest = $seconds if $seconds > $slowest;
	}
	cmp_ok($slowest, '<', LONGEST_S, "DROP DATABASE of another database, $what");
	return;
}

$node->start;
install_detect($node, 'city');
$broker->create_topic('camera', 4);
create_camera($node, 'city', $broker);
produce(2000);
ledger_is_exact($node, 'city', $broker, 'the stream runs');

drop_others('stream idle');
drop_others('stream busy', sub { produce(3000) });
ledger_is_exact($node, 'city', $broker, 'nothing was lost by that');

# A broker that refuses, found so by a stream that runs and by one that starts.
$broker->command('down', 0);
drop_others('broker down');
$node->restart;
$node->poll_query_until('city', "SELECT state = 'connecting' OR state = 'retrying'
	FROM detect.stat_stream WHERE stream = 'camera'");
drop_others('broker down and stream starting');
$broker->command('up', 0);

# A broker that accepts and never answers, likewise.
worker_pid($node, 'city', 'camera');
produce(500);
ledger_is_exact($node, 'city', $broker, 'the broker is back');
kill('STOP', $broker->pid);
drop_others('broker silent');
$node->restart;
$node->poll_query_until('city', "SELECT state = 'connecting' OR state = 'retrying'
	FROM detect.stat_stream WHERE stream = 'camera'");
drop_others('broker silent and stream starting');
kill('CONT', $broker->pid);
produce(500);
ledger_is_exact($node, 'city', $broker, 'the broker answers again');

# ---------------------------------------------------------------------
# Several databases, several owners
# ---------------------------------------------------------------------

foreach my $town ('north', 'south', 'west')
{
	install_detect($node, $town);
	$node->safe_psql($town, "CREATE ROLE ops_$town LOGIN; GRANT detect_admin TO ops_$town;
		CREATE SCHEMA ${town}_city AUTHORIZATION ops_$town;
		ALTER DATABASE $town SET search_path = ${town}_city, public");
	$broker->create_topic($town, 2);
	create_camera(
		$node, $town, $broker,
		topic  => $town,
		owner  => "ops_$town",
		schema => "${town}_city");
	$broker->produce($town, camera_lines(2000, seed => $DetectTest::seed + ord($town)));
}
ledger_is_exact($node, $_, $broker, "database $_", topic => $_) foreach ('north', 'south', 'west');
is( $node->safe_psql('postgres', q{
		SELECT string_agg(datname || ' ' || usename, ', ' ORDER BY 1)
		FROM pg_stat_activity WHERE backend_type = 'detect apply'}),
	'city ops, north ops_north, south ops_south, west ops_west',
	'each worker is in its database and runs as the owner of its stream');

# A database with a running stream: in use, then gone, and forgotten at once.
my ($rc, $stdout, $stderr) = $node->psql('postgres', 'DROP DATABASE north');
like($stderr, qr/being accessed by other users/, 'a database with a running stream is in use');
my $log_end = -s $node->logfile;
my $north   = $node->safe_psql('postgres', q{SELECT oid FROM pg_database WHERE datname = 'north'});
my $worker  = worker_pid($node, 'north', 'camera');
cmp_ok(seconds_of(sub { $node->safe_psql('postgres', 'DROP DATABASE north WITH (FORCE)') }),
	'<', 20, 'DROP DATABASE … WITH (FORCE) is quick');
wait_for_exit($worker);

# One whose stream is paused is not in use.
$node->safe_psql('south', "SELECT detect.pause('camera')");
$node->poll_query_until('postgres',
	"SELECT count(*) = 0 FROM pg_stat_activity WHERE datname = 'south'");
$node->safe_psql('postgres', 'DROP DATABASE south');
pass('a database whose streams are paused can be dropped');

$broker->produce('west', camera_lines(1000, seed => $DetectTest::seed + 7, 'first-oid' => 1_000_000));
produce(2000);
ledger_is_exact($node, 'west', $broker, 'the others go on: west', topic => 'west');
ledger_is_exact($node, 'city', $broker, 'the others go on: city');
# the other one is looked at when its last worker has gone, which may be just now
unlike(slurp_file($node->logfile, $log_end), qr/FATAL:  database ("north"|$north) does not exist/, 'nobody looks for a database that was dropped with its workers');

# A database that is made again under the same name is another one.
install_detect($node, 'north');
$node->safe_psql('north', "ALTER DATABASE north SET search_path = north_city, public;
	CREATE SCHEMA north_city AUTHORIZATION ops_north");
create_camera(
	$node, 'north', $broker,
	topic  => 'north',
	owner  => 'ops_north',
	schema => 'north_city');
ledger_is_exact($node, 'north', $broker, 'the same again in a new database', topic => 'north');

log_is_clean($node);
$node->stop;
done_testing();
