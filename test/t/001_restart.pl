# A stream goes on exactly where it was after the server was stopped and
# started: idle, in the middle of its topic, and with events in staging.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";

use DetectTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $broker = DetectTest::Broker->start();
my $node   = make_node('main');
my @lines  = camera_lines(24_000);

$broker->create_topic('camera', 4);
$node->start;
install_detect($node, 'city');
create_camera($node, 'city', $broker);

$broker->produce('camera', splice(@lines, 0, 4000));
ledger_is_exact($node, 'city', $broker, 'a topic is applied');

my $rounds = 0;

# Idle: nothing is lost, nothing is read twice.
$node->restart;
$broker->produce('camera', splice(@lines, 0, 2000));
ledger_is_exact($node, 'city', $broker, 'after a restart of an idle stream');

# In the middle of the topic, wherever that is.
for my $round (1 .. 5)
{
	my $applied = 6000 + ($round - 1) * 2000;
	my $more    = int(rand(2000));

	$broker->produce('camera', splice(@lines, 0, 2000));
	wait_applied($node, 'city', 'camera', $applied + $more, '');
	my $seconds = seconds_of(sub { $node->stop('fast') });
	cmp_ok($seconds, '<', 20, "a fast stop after $more of 2000 messages is fast");
	$node->start;
	wait_for($node, 'city', 'camera');
}
ledger_is_exact($node, 'city', $broker, 'after fast stops in the middle');

# With events in staging: nothing can be inserted into the events table, so that
# the applier waits while the consumer's rows are committed.  A prepared transaction
# holds it up beyond the stop; a session would be ended first, and the applier go on.
my $staged  = q{SELECT sum(next_offset) FROM detect._staged_progress};
my $applied = q{SELECT sum(next_offset) FROM detect._applied_progress WHERE kafka_partition >= 0};

$node->safe_psql('city', "BEGIN; LOCK TABLE detection IN SHARE MODE; PREPARE TRANSACTION 'blocker'");
$broker->produce('camera', splice(@lines, 0, 4000));
$node->poll_query_until('city', "SELECT ($staged) > ($applied)") or die 'nothing was staged';
my $seconds = seconds_of(sub { $node->stop('fast') });
cmp_ok($seconds, '<', 20, 'a fast stop while the applier waits for a lock is fast');

# What was staged survives a clean stop: it is applied with no broker there.
$broker->command('down', 0);
$node->start;
my $end = $node->safe_psql('city', $staged);
cmp_ok($end, '>', $node->safe_psql('city', $applied), 'events are in staging after the restart');
$node->safe_psql('city', "ROLLBACK PREPARED 'blocker'");
ok($node->poll_query_until('city', "SELECT ($applied) >= $end"), 'and are applied, though the broker is down');
$broker->command('up', 0);
ledger_is_exact($node, 'city', $broker, 'after a fast stop with events in staging');

$broker->produce('camera', @lines);
ledger_is_exact($node, 'city', $broker, 'and the stream goes on');

log_is_clean($node);
$node->stop;
done_testing();
