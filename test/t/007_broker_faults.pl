# Whatever a broker does, nothing is lost and nothing doubled; the stream says
# in detect.stat_stream what is wrong, and goes on by itself when it is over.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";

use DetectTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

# Of the Kafka protocol.
use constant {
	FETCH                      => 1,
	LIST_OFFSETS               => 2,
	METADATA                   => 3,
	FIND_COORDINATOR           => 10,
	LEADER_NOT_AVAILABLE       => 5,
	NOT_LEADER                 => 6,
	UNKNOWN_TOPIC              => 3,
	REQUEST_TIMED_OUT          => 7,
	COORDINATOR_NOT_AVAILABLE  => 15,
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

# Without a coordinator nobody can be told how far the stream is.  Nothing waits
# for that, least of all the end of a worker.
$broker->command('error', FIND_COORDINATOR, 1000, COORDINATOR_NOT_AVAILABLE);
$node->restart;
produce(1000);
ledger_is_exact($node, 'city', $broker, 'no coordinator');
cmp_ok(seconds_of(sub { $node->stop('fast') }), '<', 20, 'a stream stops though its commits hang');
$node->start;
$broker->command('clear_errors', FIND_COORDINATOR);

# Far away.
foreach my $rtt_ms (150, 1200)
{
	$broker->command('rtt', 0, $rtt_ms);
	$node->restart;
	produce(500);
	ledger_is_exact($node, 'city', $broker, "a broker $rtt_ms ms away");
}
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

# What SQL staged needs no broker: here an event that is there already.
my $duplicates = 0;

sub sql_is_applied
{
	my ($what) = @_;

	$node->safe_psql('city', q{
		INSERT INTO detect_staging.camera (detection_oid, video_camera_oid, geographical_location_oid,
			item_name, confidence, timestamp_detected)
		SELECT detection_oid, video_camera_oid, geographical_location_oid, item_name, confidence, timestamp_detected
		FROM detection LIMIT 1});
	$duplicates++;
	ok( $node->poll_query_until(
			'city', qq{
			SELECT duplicates = $duplicates FROM detect.stat_partition
			WHERE stream = 'camera' AND kafka_partition = -1}),
		$what);
	return;
}

sql_is_applied('what SQL staged is applied while brokers are down');
$node->restart;
stream_is($node, 'city', 'camera', 'connecting', 'could not query topic .*refused',
	'a stream that starts says that its brokers are down');
sql_is_applied('what SQL staged is applied by a stream that has not found its brokers yet');

$broker->command('up', 0);
produce(1000);
ledger_is_exact($node, 'city', $broker, 'brokers are back');
stream_is($node, 'city', 'camera', 'running', '^$', 'and the stream says so');
cmp_ok(scalar(() = slurp_file($node->logfile, $log_end) =~ /detect apply (LOG|WARNING):/g),
	'<', 30, 'the log is not flooded');

# A topic that the user may not read: known at once when the stream starts …
$broker->command('topic_error', 'camera', TOPIC_AUTHORIZATION_FAILED);
$node->restart;
stream_is($node, 'city', 'camera', 'paused', 'authorization failed',
	'a stream that may not read its topic is paused');
like(
	$node->safe_psql('city', "SELECT remedy FROM detect.stat_stream WHERE stream = 'camera'"),
	qr/Allow the Kafka user to read .* detect\.resume\('camera'\)/,
	'and says what to do');
$broker->command('topic_error', 'camera', 0);
$node->safe_psql('city', "SELECT detect.resume('camera')");
produce(500);
ledger_is_exact($node, 'city', $broker, 'after the topic was opened');

# … or while it runs: others may be read, and it may be over soon.
$broker->command('error', FETCH, 1000, TOPIC_AUTHORIZATION_FAILED);
produce(500);
ok( $node->poll_query_until(
		'city', "SELECT reason ~ 'authorization failed' FROM detect.stat_stream WHERE stream = 'camera'"),
	'a running stream that may not read any more says so');
$broker->command('clear_errors', FETCH);
ledger_is_exact($node, 'city', $broker, 'after it was opened again');
stream_is($node, 'city', 'camera', 'running', '^$', 'which ends the reason');

# ---------------------------------------------------------------------
# What is not there
# ---------------------------------------------------------------------

# Nobody listens at the address; then the address is corrected.
$node->safe_psql('city',
	"CREATE SERVER nowhere FOREIGN DATA WRAPPER detect_kafka OPTIONS (bootstrap_servers '127.0.0.1:1');
	GRANT USAGE ON FOREIGN SERVER nowhere TO ops");
$broker->create_topic('nowhere', 2);
create_camera(
	$node, 'city', $broker,
	name   => 'nowhere',
	table  => 'nowhere_detection',
	server => 'nowhere');
stream_is($node, 'city', 'nowhere', 'connecting', '"127.0.0.1:1".*refused',
	'a wrong address shows with its reason');
$broker->produce('nowhere', camera_lines(500));
$node->safe_psql('city',
	"ALTER SERVER nowhere OPTIONS (SET bootstrap_servers '" . $broker->bootstrap . "')");
ledger_is_exact(
	$node, 'city', $broker, 'a corrected address needs no restart',
	name  => 'nowhere',
	table => 'nowhere_detection');

# No such topic, which is then created.
$broker->create_topic('later', 2);
$broker->command('topic_error', 'later', UNKNOWN_TOPIC);
create_camera(
	$node, 'city', $broker,
	name  => 'later',
	table => 'later_detection');
stream_is($node, 'city', 'later', 'connecting', 'topic "later" does not exist',
	'a missing topic shows with its name');
my (undef, undef, $warning) = $node->psql('city', q{SELECT detect.wait_for('later')});
like($warning, qr/WARNING:  topic "later" does not exist, so that there is nothing to wait for/, 'and who waits for its stream is told');
$broker->command('topic_error', 'later', 0);
$broker->produce('later', camera_lines(500));
ok($node->poll_query_until('city', 'SELECT count(*) > 0 FROM later_detection'),
	'the stream begins by itself when the topic is created');
ledger_is_exact(
	$node, 'city', $broker, 'and is exact',
	name  => 'later',
	table => 'later_detection');
produce(500);
ledger_is_exact($node, 'city', $broker, 'the other stream never minded');

# ---------------------------------------------------------------------
# Retention overtakes a stream: the mock broker keeps 5 MB a partition
# ---------------------------------------------------------------------

$broker->create_topic('slow', 3);
$broker->produce('slow', my @slow_lines = camera_lines(600));
create_camera(
	$node, 'city', $broker,
	name  => 'slow',
	table => 'slow_detection');
ledger_is_exact(
	$node, 'city', $broker, 'before retention overtakes',
	name  => 'slow',
	table => 'slow_detection');
$node->safe_psql('city', "SELECT detect.pause('slow')");
$broker->command('produce', 'slow', 1, '-', '{"padding": "' . 'x' x 900_000 . '"}') for 1 .. 12;
my ($later) = camera_lines(1, 'first-oid' => 1_000_000, broken => 0);
$broker->command('produce', 'slow', $_, '-', $later =~ s/1000000/100000$_/r) for (0, 2);
$node->safe_psql('city', "SELECT detect.resume('slow')");
ok( $node->poll_query_until(
		'city', q{
		SELECT count(*) = 1 FROM detect.stat_partition
		WHERE stream = 'slow' AND kafka_partition = 1 AND state = 'paused' AND reason ~ 'offset 200 is not in the topic any more'}),
	'a partition whose messages are gone is paused and says so');
ok( $node->poll_query_until('city',
		'SELECT count(*) = 2 FROM slow_detection WHERE detection_oid >= 1000000'),
	'its other partitions go on');
is( $node->safe_psql('city', q{
		SELECT string_agg(applied_offset || ' ' || (state = 'paused'), ', ' ORDER BY kafka_partition)
		FROM detect.stat_partition WHERE stream = 'slow' AND kafka_partition >= 0}),
	'201 false, 200 true, 201 false', 'nothing is skipped');
$node->restart;
ok( $node->poll_query_until(
		'city', q{
		SELECT count(*) = 1 FROM detect.stat_partition
		WHERE stream = 'slow' AND kafka_partition = 1 AND state = 'paused' AND reason ~ 'offset 200 is not in the topic any more'
		AND applied_offset = 200}),
	'also after a restart');
$node->safe_psql('city', "SELECT detect.resume('slow')");
ok( $node->poll_query_until(
		'city', q{
		SELECT count(*) = 1 FROM detect.stat_partition
		WHERE stream = 'slow' AND kafka_partition = 1 AND state = 'paused' AND reason ~ 'offset 200 is not in the topic any more'
		AND applied_offset = 200}),
	'and after a resume that mends nothing');
my $remedy = $node->safe_psql('city', q{SELECT remedy FROM detect.stat_partition
	WHERE stream = 'slow' AND kafka_partition = 1});
is($remedy, q{SELECT detect.accept_gap('slow', 'slow', 1)}, 'what to type is said');
is( $node->safe_psql('city', q{SELECT state, reason ~ '^partition 1 of topic "slow": offset 200 is not', remedy LIKE 'SELECT detect.accept_gap%'
		FROM detect.stat_stream WHERE stream = 'slow'}), 'running|t|t', 'for the stream, too');
is($node->safe_psql('city', $remedy), '1', 'and can be typed');
ok( $node->poll_query_until(
		'city', q{
		SELECT state = 'running' AND applied_offset = end_offset AND remedy IS NULL FROM detect.stat_partition
		WHERE stream = 'slow' AND kafka_partition = 1 AND dead_letters BETWEEN 1 AND 12}),
	'it goes on at the first message that is left');
produce(500);
ledger_is_exact($node, 'city', $broker, 'other streams go on');

# ---------------------------------------------------------------------
# A broker that accepts and never answers
# ---------------------------------------------------------------------

kill('STOP', $broker->pid);
cmp_ok(seconds_of(sub { $node->stop('fast') }), '<', 20, 'a running stream stops though its broker is silent');
$node->start;
stream_is($node, 'city', 'camera', 'connecting', 'could not query topic', 'a silent broker shows');
cmp_ok(seconds_of(sub { $node->safe_psql('city', "SELECT detect.pause('camera')") }),
	'<', 20, 'a stream that looks for a silent broker can be paused');
cmp_ok(seconds_of(sub { $node->stop('fast') }), '<', 20, 'and stopped');
kill('CONT', $broker->pid);
$node->start;
$node->safe_psql('city', "SELECT detect.resume('camera')");
produce(500);
ledger_is_exact($node, 'city', $broker, 'a broker that answers again');

log_is_clean($node);
$node->stop;
done_testing();
