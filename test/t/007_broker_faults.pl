# Whatever a broker does, nothing is lost and nothing doubled; the stream says
# in detect.stat_stream what is wrong, and goes on by itself when it is over.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";

use DetectTest;
use IO::Socket::INET;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

# Of the Kafka protocol.
use constant {
	FETCH                      => 1,
	LIST_OFFSETS               => 2,
	METADATA                   => 3,
	LEADER_NOT_AVAILABLE       => 5,
	NOT_LEADER                 => 6,
	UNKNOWN_TOPIC              => 3,
	REQUEST_TIMED_OUT          => 7,
	TOPIC_AUTHORIZATION_FAILED => 29,
	KAFKA_STORAGE_ERROR        => 56,
	TRANSPORT                  => -195,
};

my $broker = DetectTest::Broker->start(brokers => 2);
my $node   = make_node('main');
my @lines  = camera_lines(40_000);

sub produce
{
	my ($count) = @_;

	$broker->produce('camera', splice(@lines, 0, $count));
	return;
}

# The next requests of this kind fail; meanwhile messages come.
sub is_exact_through
{
	my ($api, $error, $what) = @_;

	$broker->command('error', $api, 6, $error);
	produce(1000);
	ledger_is_exact($node, 'city', $broker, "fetching through $what");
	return;
}

$node->start;
install_detect($node, 'city');
$broker->create_topic('camera', 4);
create_camera($node, 'city', $broker);
produce(2000);
ledger_is_exact($node, 'city', $broker, 'the stream runs');
stream_is($node, 'city', 'camera', 'running', '^$', 'and says so');

# ---------------------------------------------------------------------
# Errors that pass
# ---------------------------------------------------------------------

is_exact_through(FETCH, NOT_LEADER,           'NOT_LEADER');
is_exact_through(FETCH, UNKNOWN_TOPIC,        'UNKNOWN_TOPIC');
is_exact_through(FETCH, LEADER_NOT_AVAILABLE, 'LEADER_NOT_AVAILABLE');
is_exact_through(FETCH, KAFKA_STORAGE_ERROR,  'KAFKA_STORAGE_ERROR');
is_exact_through(FETCH, TRANSPORT,            'lost connections');

# Leaders move, and one partition has none for a while.
$broker->command('leader', 'camera', $_, 1) for 0 .. 3;
produce(1000);
$broker->command('leader', 'camera', $_, 2) for 0 .. 3;
produce(1000);
ledger_is_exact($node, 'city', $broker, 'leaders moved');

# Connecting meets the same.
$broker->command('error', METADATA, 2, LEADER_NOT_AVAILABLE, TRANSPORT);
$broker->command('error', LIST_OFFSETS, 2, NOT_LEADER, REQUEST_TIMED_OUT);
$node->restart;
produce(1000);
ledger_is_exact($node, 'city', $broker, 'connecting through errors');

# Far away.
$broker->command('rtt', 0, 300);
$node->restart;
produce(500);
ledger_is_exact($node, 'city', $broker, 'a broker 300 ms away');
$broker->command('rtt', 0, 0);

# ---------------------------------------------------------------------
# Down and up
# ---------------------------------------------------------------------

my $log_end = -s $node->logfile;

$broker->command('down', 0);
stream_is($node, 'city', 'camera', 'connecting', 'Connect|Disconnect|refused|down',
	'a running stream says that its brokers are down');
my ($rc, $stdout, $stderr) = $node->psql('city', "SELECT detect.wait_for('camera', '1s')");
isnt($rc, 0, 'wait_for does not wait for ever');
like($stderr, qr/could not query topic "camera" at Kafka brokers/, 'and says why');

# What SQL staged needs no broker.
$node->safe_psql('city', q{
	INSERT INTO detect_staging.camera (detection_oid, video_camera_oid, geographical_location_oid,
		item_name, confidence, timestamp_detected)
	VALUES (-1, 1, 1, 'by hand', 0.5, now())});
ok($node->poll_query_until('city', 'SELECT count(*) = 1 FROM detection WHERE detection_oid = -1'),
	'what SQL staged is applied while brokers are down');

# Neither does it when the stream starts without a broker.
$node->restart;
stream_is($node, 'city', 'camera', 'connecting|retrying', 'could not query topic .*refused',
	'a stream that starts says that its brokers are down');
$node->safe_psql('city', q{
	INSERT INTO detect_staging.camera (detection_oid, video_camera_oid, geographical_location_oid,
		item_name, confidence, timestamp_detected)
	VALUES (-2, 1, 1, 'by hand', 0.5, now())});
ok($node->poll_query_until('city', 'SELECT count(*) = 1 FROM detection WHERE detection_oid = -2'),
	'what SQL staged is applied by a stream that has not found its brokers yet');
$node->safe_psql('city', "SELECT detect.create_rollup('by_item', 'SELECT item_name, count(*) FROM detection GROUP BY 1');
	SET ROLE ops;") if 0;

$broker->command('up', 0);
produce(1000);
$node->poll_query_until('city', 'SELECT count(*) = 2 FROM detection WHERE detection_oid < 0');
$node->safe_psql('city', "SELECT detect.wait_for('camera', '20s')");
$node->safe_psql('city', 'DELETE FROM detection WHERE detection_oid < 0');
stream_is($node, 'city', 'camera', 'running', '^$', 'brokers are back');
cmp_ok(scalar(() = slurp_file($node->logfile, $log_end) =~ /detect apply (LOG|WARNING):/g),
	'<', 30, 'the log is not flooded');

$node->stop;
done_testing();
