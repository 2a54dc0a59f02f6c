# A stream is dropped while its maintenance is at work: it ends with the chore
# that it is at.  Should that be an index which waits for a session, and the
# session drop the next stream over the same table, then maintenance gives way.
#
# Fault points hold maintenance where an index is about to be built.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";

use DetectTest;
use FaultPoint;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use constant PARTITIONS => 3;    # that are past

my $node = make_node('main');

# As the owner of the stream.
sub ask
{
	my ($sql) = @_;

	return $node->safe_psql('city', "SET ROLE ops; SET client_min_messages = warning; $sql");
}

# How many partitions have got their index.
sub indexes
{
	return $node->safe_psql('city', "SELECT count(*) FROM pg_index JOIN pg_inherits ON inhrelid = indrelid
		WHERE inhparent = 'daily'::regclass AND indisvalid");
}

# Makes the stream, and holds its maintenance before it builds an index.  Returns
# the session that lets it go, what is armed, and the process.
sub hold_maintenance
{
	my $holder = $node->background_psql('city');

	$holder->query_safe("SELECT pg_advisory_lock(hashtext('before_index_build'))");
	my $armed = arm($node, 'before_index_build:wait');
	ask(q{SELECT detect.create_stream('daily', key => '{id}')});
	$node->poll_query_until('city', "SELECT count(*) = 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
	  or die 'maintenance did not come to an index';
	return ($holder, $armed, find_process($node, 'city', 'maintain'));
}

# A deadlock is found by the session that drops the stream, not by maintenance.
$node->append_conf('postgresql.conf', 'deadlock_timeout = 600s');
$node->start;
install_detect($node, 'city');
ask('CREATE TABLE daily (id int, seen_at timestamptz) PARTITION BY RANGE (seen_at)');
ask("CREATE TABLE daily_$_ PARTITION OF daily FOR VALUES FROM ('2024-01-0$_') TO ('2024-01-0@{[$_ + 1]}')")
  foreach 1 .. PARTITIONS;

# ---------------------------------------------------------------------
# No chore after the one that it is at
# ---------------------------------------------------------------------
my ($holder, $armed, $maintenance) = hold_maintenance();

ask(q{SELECT detect.drop_stream('daily')});
$holder->quit;
wait_for_exit($maintenance);
disarm($node, $armed);
is(indexes(), 1, 'the stream is dropped: maintenance builds the index that it is at, and no other');

# ---------------------------------------------------------------------
# That one waits for a session, which drops the next stream over the table
# ---------------------------------------------------------------------
($holder, $armed, $maintenance) = hold_maintenance();
my $launcher = find_process($node, 'city', 'launcher');

# it would end the maintenance of a stream that is gone, after ten seconds
kill('STOP', $launcher) or die "could not stop the launcher: $!";
# paused, so that no maintenance of its own is there to be ended
ask(q{
	SELECT detect.drop_stream('daily');
	BEGIN;
	SELECT detect.create_stream('daily', key => '{id}'), detect.pause('daily');
	COMMIT});
my $session = $node->background_psql('city');

$session->query_safe("SET deadlock_timeout = '20s'; SET ROLE ops; BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pg_class");
$holder->quit;
ok($node->poll_query_until('city', "SELECT count(*) = 1 FROM pg_locks WHERE locktype = 'virtualxid' AND NOT granted AND pid = $maintenance"),
	'maintenance waits for a session with a snapshot');
ok(eval { $session->query_safe(q{SELECT detect.drop_stream('daily'); COMMIT}); 1 }, 'which drops the next stream')
  or diag($@);
kill('CONT', $launcher);
eval { $session->quit };
wait_for_exit($maintenance);
disarm($node, $armed);
is(indexes(), 1, 'maintenance has given way');

# ---------------------------------------------------------------------
# What is left is found by the maintenance of any other stream
# ---------------------------------------------------------------------
# as DROP INDEX CONCURRENTLY leaves an index that was interrupted while it waited
my ($index) = $node->safe_psql('city', "SELECT indexrelid::regclass FROM pg_index JOIN pg_inherits ON inhrelid = indrelid WHERE inhparent = 'daily'::regclass AND indisvalid");
$node->safe_psql('city', "UPDATE pg_index SET indisvalid = false, indisready = false, indislive = false WHERE indexrelid = '$index'::regclass");
ask(q{SELECT detect.create_stream('daily', key => '{id}', event_time => 'seen_at', retention => '100 years')});
ok($node->poll_query_until('city', "SELECT count(*) = @{[PARTITIONS]} AND bool_and(indisvalid)
		FROM pg_index JOIN pg_inherits ON inhrelid = indrelid WHERE inhparent = 'daily'::regclass"),
	'another stream builds all that are missing, and drops what was dropped by half');

# One that was detached, and could not be dropped then for somebody read it.
ask(q{CREATE TABLE daily_0 (LIKE daily); COMMENT ON TABLE daily_0 IS 'detect: past the retention of its stream'});
ok($node->poll_query_until('city', "SELECT to_regclass('city.daily_0') IS NULL"), 'a partition that was detached is dropped, however late');

log_is_clean($node);
$node->stop;
done_testing();
