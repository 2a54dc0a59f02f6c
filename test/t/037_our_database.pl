# What a DBA does to the database of a stream that runs, or to the cluster beside
# it: it works, or the error says what to type; afterwards streams go on.  Each
# command is issued while messages flow.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";

use DetectTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

# of other databases; make test-guest-long has a hundred
my $drops  = $ENV{DETECT_DROPS} // 5;
my $broker = DetectTest::Broker->start();
my $node   = make_node('main');
my @lines  = camera_lines(40_000);
my $hint   = qr/ERROR:.*being accessed by other users.*HINT:  Workers of detect are among them: as a superuser in that database, SELECT detect\.pause\(stream\) FROM detect\.stream; then try again/s;
my $place  = PostgreSQL::Test::Utils::tempdir;

sub produce
{
	my ($count) = @_;

	$broker->produce('camera', splice(@lines, 0, $count // 400));
	return;
}

# Refused with the hint; the stream goes on.
sub is_refused
{
	my ($sql) = @_;

	produce();
	my ($rc, $stdout, $stderr) = $node->psql('postgres', $sql);
	like($stderr, $hint, "refused, with what to type: $sql");
	ledger_is_exact($node, 'city', $broker, 'the stream goes on');
	return;
}

# Nobody is in our database.
sub wait_until_empty
{
	my ($database) = @_;

	$node->poll_query_until('postgres', "SELECT count(*) = 0 FROM pg_stat_activity WHERE datname = '$database'")
	  or die "somebody is in $database";
	return;
}

$node->start;
install_detect($node, 'city');
$broker->create_topic('camera', 4);
create_camera($node, 'city', $broker);
produce();
ledger_is_exact($node, 'city', $broker, 'the stream runs');
mkdir("$place/$_") foreach ('ours', 'other');
$node->safe_psql('postgres', "CREATE TABLESPACE $_ LOCATION '$place/$_'") foreach ('ours', 'other');

# ---------------------------------------------------------------------
# Refused while the stream runs
# ---------------------------------------------------------------------

is_refused($_)
  foreach ('DROP DATABASE city', 'ALTER DATABASE city RENAME TO town', 'ALTER DATABASE city SET TABLESPACE ours', 'CREATE DATABASE copy TEMPLATE city');
my ($rc, $stdout, $stderr);
$node->safe_psql('postgres', 'CREATE DATABASE other');
my $session = $node->background_psql('other');
$session->query_safe('SELECT 1');
($rc, $stdout, $stderr) = $node->psql('postgres', 'ALTER DATABASE other RENAME TO another');
like($stderr, qr/being accessed by other users/, 'a database that others use is in use');
unlike($stderr, qr/HINT/, 'and we have nothing to do with it');
$session->quit;
$node->safe_psql('postgres', 'DROP DATABASE other');

# ---------------------------------------------------------------------
# Done as the hint says
# ---------------------------------------------------------------------

foreach my $command ('ALTER DATABASE city RENAME TO town; ALTER DATABASE town RENAME TO city', 'ALTER DATABASE city SET TABLESPACE ours',
	'ALTER DATABASE city SET TABLESPACE pg_default', 'CREATE DATABASE copy TEMPLATE city', 'BEGIN; ALTER DATABASE city RENAME TO town; ROLLBACK')
{
	produce();
	$node->safe_psql('city', 'SELECT detect.pause(stream) FROM detect.stream');
	wait_until_empty('city');
	$node->safe_psql('postgres', $_) foreach ($command =~ /^BEGIN/ ? $command : split(/; /, $command));
	$node->safe_psql('city', 'SELECT detect.resume(stream) FROM detect.stream');
	ledger_is_exact($node, 'city', $broker, "goes on after $command");
}

# The database has another name for good, and the stream runs there.
$node->safe_psql('city', "SELECT detect.pause('camera')");
wait_until_empty('city');
$node->safe_psql('postgres', 'ALTER DATABASE city RENAME TO town');
$node->safe_psql('town', "SELECT detect.resume('camera')");
produce();
ledger_is_exact($node, 'town', $broker, 'under another name it is no copy');
is($node->safe_psql('copy', 'SELECT state, reason FROM detect.stat_stream'), 'paused|this is a copy of another database', 'the copy of a paused one is paused');

# ---------------------------------------------------------------------
# Others' databases and tablespaces, busy, idle and without a broker
# ---------------------------------------------------------------------

foreach my $state ('busy', 'idle', 'without a broker')
{
	my $slowest = 0;

	$broker->command('down', 0) if $state eq 'without a broker';
	for (1 .. $drops)
	{
		produce(100) if $state eq 'busy' && @lines > 2000;
		$node->safe_psql('postgres', "CREATE DATABASE other TABLESPACE other");
		my $seconds = seconds_of(sub {
			$node->safe_psql('postgres', "SET statement_timeout = '60s'; DROP DATABASE other");
			$node->safe_psql('postgres', "SET statement_timeout = '60s'; DROP TABLESPACE other") });
		$node->safe_psql('postgres', "CREATE TABLESPACE other LOCATION '$place/other'");
		$slowest = $seconds if $seconds > $slowest;
	}
	# a worker that did not answer would have let statement_timeout end it
	pass("databases and tablespaces of others can be dropped, stream $state: $drops, the slowest in $slowest s");
	$broker->command('up', 0) if $state eq 'without a broker';
}
ledger_is_exact($node, 'town', $broker, 'nothing was lost by that');
# one that a slow machine causes is not one for each
my $waits = () = slurp_file($node->logfile) =~ /still waiting for backend/g;
cmp_ok($waits, '<', $drops, 'nobody waited for a worker to answer');

# ---------------------------------------------------------------------
# Gone
# ---------------------------------------------------------------------

produce();
my $log_end = -s $node->logfile;
my $pid     = worker_pid($node, 'town', 'camera');
$node->safe_psql('postgres', 'DROP DATABASE town WITH (FORCE)');
wait_for_exit($pid);
$node->safe_psql('copy', "ALTER DATABASE copy SET search_path = city, public; SELECT detect.resume('camera')");
ledger_is_exact($node, 'copy', $broker, 'its copy takes over');
unlike(slurp_file($node->logfile, $log_end), qr/\] detect [^\n]*FATAL:  database .* does not exist/, 'nobody looks for the dropped one');
ok($node->poll_query_until('copy', q{SELECT count(*) = 0 FROM detect.health('0') WHERE severity <> 'ok' AND "check" <> 'dead letters'}), 'all is green')
  or diag($node->safe_psql('copy', q{SELECT * FROM detect.health('0') WHERE severity <> 'ok'}));

log_is_clean($node);
$node->stop;
done_testing();
