# A consumer that next to nothing comes to waits for single messages; brokers gather
# them again when more come.  For each change it gets another client of the library,
# and nothing is lost or read twice.  A build for tests changes after two seconds.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";

use DetectTest;
use FaultPoint;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use constant ROUNDS => 3;

my $broker = DetectTest::Broker->start();
my $node   = make_node('main');
my @lines  = camera_lines(50_000, duplicates => 0.05);
my $log_end;

# Waits until the log tells of a change since the last one.
sub changes
{
	my ($to) = @_;

	$log_end = $node->wait_for_log(qr/brokers $to messages of stream "camera"/, $log_end);
	return;
}

# Produces single messages until brokers gather them.
sub produce_until_gathered
{
	while (slurp_file($node->logfile, $log_end) !~ /brokers gather messages of stream "camera"/)
	{
		die 'brokers do not gather messages' if !@lines;
		$broker->produce('camera', shift @lines) for 1 .. 10;
	}
	return;
}

$node->start;
install_detect($node, 'city');
FaultPoint::configure($node, 'mutant_small_limits');
$node->append_conf('postgresql.conf', 'log_min_messages = debug1');
$node->reload;
$log_end = -s $node->logfile;
$broker->create_topic('camera', 3);
create_camera($node, 'city', $broker);

for my $round (1 .. ROUNDS)
{
	changes('wait for');
	stream_is($node, 'city', 'camera', 'running', '', "round $round: it runs");
	produce_until_gathered();
	changes('gather');
	$broker->produce('camera', splice(@lines, 0, 500));
	ledger_is_exact($node, 'city', $broker, "round $round: all is there once");
}
is($node->safe_psql('city', q{SELECT sum(retries) FROM detect.stat_stream}), 0, 'nothing went wrong');

log_is_clean($node);
$node->stop;
$broker->stop;
done_testing();
