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
# the applier waits while the consumer's rows are committed.
my $staged = q{SELECT count(*) > 0 FROM detect._staged_progress p
	JOIN detect._applied_progress a USING (stream_id, kafka_topic, kafka_partition)
	WHERE p.next_offset > a.next_offset};
my $blocker = $node->background_psql('city');

$blocker->query_safe('BEGIN; LOCK TABLE detection IN SHARE MODE');
$broker->produce('camera', splice(@lines, 0, 4000));
$node->poll_query_until('city', $staged)
  or die 'nothing was staged';
my $seconds = seconds_of(sub { $node->stop('fast') });
cmp_ok($seconds, '<', 20, 'a fast stop while the applier waits for a lock is fast');
eval { $blocker->quit };

# What was staged survives a clean stop: it is applied with no broker there.
$broker->command('down', 0);
$node->start;
ok($node->poll_query_until('city', $staged, 'f'),
	'events in staging are applied after a restart, though the broker is down');
$broker->command('up', 0);
ledger_is_exact($node, 'city', $broker, 'after a fast stop with events in staging');

$broker->produce('camera', @lines);
ledger_is_exact($node, 'city', $broker, 'and the stream goes on');

$node->stop;
done_testing();
