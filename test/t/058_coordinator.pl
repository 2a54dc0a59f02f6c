# The coordinator of a stream's consumer group is away for a while.  librdkafka 2.0.2
# aborts, and the server with it, when it finds the coordinator after the time limit
# of a commit: so none may come to its limit.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";

use DetectTest;
use FaultPoint;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

# Of the Kafka protocol.
use constant {
	FIND_COORDINATOR          => 10,
	COORDINATOR_NOT_AVAILABLE => 15,
};

my $broker = DetectTest::Broker->start();
my $node   = make_node('main');
my @lines  = camera_lines(4000);

sub produce
{
	$broker->produce('camera', splice(@lines, 0, 1000));
	return;
}

$node->append_conf('postgresql.conf', 'log_min_messages = debug1');
$node->start;
install_detect($node, 'city');
$broker->create_topic('camera', 4);
$broker->command('error', FIND_COORDINATOR, 1000, COORDINATOR_NOT_AVAILABLE);
create_camera($node, 'city', $broker);
produce();
ledger_is_exact($node, 'city', $broker, 'there is no coordinator');

# What is waited for here is time: the library's limit was 5 s.
$node->safe_psql('city', q{
	DO $$
	BEGIN
		WHILE clock_timestamp() < now() + interval '8 s' LOOP
			PERFORM FROM generate_series(1, 100000);
		END LOOP;
	END $$});
my $started_at = $node->safe_psql('city', 'SELECT pg_postmaster_start_time()');
my $pid        = worker_pid($node, 'city', 'camera');
my $log_end    = -s $node->logfile;

$broker->command('clear_errors', FIND_COORDINATOR);
$node->wait_for_log(qr/Kafka group commit: Success|terminated by signal/, $log_end);
log_is_clean($node, 'once it is there the commit succeeds');
produce();
ledger_is_exact($node, 'city', $broker, 'and the stream is exact');
is(worker_pid($node, 'city', 'camera'), $pid, 'its worker has stayed');
is($node->safe_psql('city', 'SELECT pg_postmaster_start_time()'), $started_at, 'and the server');

# A client that is closed while it looks for the coordinator.
$broker->command('error', FIND_COORDINATOR, 1000, COORDINATOR_NOT_AVAILABLE);
$node->restart;
produce();
ledger_is_exact($node, 'city', $broker, 'it is away again');
$log_end = -s $node->logfile;
$node->restart;
$broker->command('clear_errors', FIND_COORDINATOR);
ledger_is_exact($node, 'city', $broker, 'the stream stops and starts meanwhile');

# All brokers are away for longer than a commit may take.  A consumer that few messages
# come to has another client soon, and keeps that.
FaultPoint::configure($node, 'mutant_small_limits');
$node->wait_for_log(qr/brokers wait for messages of stream "camera"/, $log_end);
$pid = worker_pid($node, 'city', 'camera');
my $threads = "SELECT task FROM pg_ls_dir('/proc/$pid/task') task WHERE pg_read_file(format('/proc/$pid/task/%s/comm', task), 0, 20, true) = E'rdk:main\n'";
my $thread  = $node->safe_psql('city', $threads);
$broker->command('error', FIND_COORDINATOR, 1000, COORDINATOR_NOT_AVAILABLE);
$log_end = -s $node->logfile;
$broker->produce('camera', shift @lines);
$node->wait_for_log(qr/Kafka group commit of/, $log_end);
$broker->command('down', 0);
ok($node->poll_query_until('city', "SELECT count(*) = 1 AND min(task) <> '$thread' FROM ($threads) t"), 'the client of a commit that hangs is closed also while there is no broker');
$broker->command('clear_errors', FIND_COORDINATOR);
$broker->command('up', 0);
ledger_is_exact($node, 'city', $broker, 'and the stream goes on');
log_is_clean($node);
$node->stop;
done_testing();
