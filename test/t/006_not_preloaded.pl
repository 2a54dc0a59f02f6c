# Without shared_preload_libraries the extension loads; whatever needs a worker
# says what to set, and what is defined shows as not running.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";

use DetectTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $hint   = qr/HINT:  Add "detect" to shared_preload_libraries and restart the server\./;
my $broker = DetectTest::Broker->start();
my $node   = make_node('main');

# A call is refused with the hint.
sub is_refused
{
	my ($sql) = @_;
	my ($rc, $stdout, $stderr) = $node->psql('city', $sql);

	isnt($rc, 0, "refused: $sql");
	like($stderr, $hint, 'and says what to set');
	return;
}

$broker->create_topic('camera', 2);
$node->append_conf('postgresql.conf', "shared_preload_libraries = ''");
$node->start;
install_detect($node, 'city');

# What needs no worker works.
is( $node->safe_psql('city', q{SELECT detect.decode('{"a": 7}', 'a int')}),
	'{"a": 7}', 'decode works');
$node->safe_psql('city',
	"CREATE SERVER elsewhere FOREIGN DATA WRAPPER detect_kafka OPTIONS (bootstrap_servers 'x:9092')");
my ($rc, $stdout, $stderr) = $node->psql('city',
	"CREATE SERVER wrong FOREIGN DATA WRAPPER detect_kafka OPTIONS (bootstrap_server 'x:9092')");
like($stderr, qr/bootstrap_servers/, 'options are checked');
is($node->safe_psql('city', 'SELECT count(*) FROM detect.stat_stream'), '0', 'views can be read');

# What needs one does not.
$node->safe_psql('city', 'CREATE TABLE city.event (id int PRIMARY KEY); ALTER TABLE city.event OWNER TO ops');
is_refused("SET ROLE ops; SELECT detect.create_stream('event')");

# A stream that was made while the library was there.
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'detect'");
$node->restart;
create_camera($node, 'city', $broker);
my @lines = camera_lines(1000);
$broker->produce('camera', splice(@lines, 0, 500));
ledger_is_exact($node, 'city', $broker, 'with the library the stream runs');

$node->append_conf('postgresql.conf', "shared_preload_libraries = ''");
$node->restart;
$broker->produce('camera', @lines);
is( $node->safe_psql('city', "SELECT state, remedy FROM detect.stat_stream WHERE stream = 'camera'"),
	'stopped|add detect to shared_preload_libraries and restart the server',
	'without it the stream is a row that says what to do');
is_refused("SELECT detect.wait_for('camera')");
$node->safe_psql('city', "SELECT detect.pause('camera')");
is_refused("SELECT detect.resume('camera')");
is( $node->safe_psql('city', "SELECT state FROM detect.stat_stream WHERE stream = 'camera'"),
	'paused', 'a stream can be paused all the same');

# What is inserted by hand is the user's; the events table stays a table.
$node->safe_psql('city', q{
	BEGIN;
	INSERT INTO detection SELECT (0 - 1), video_camera_oid, geographical_location_oid, item_name, confidence,
		timestamp_detected, location_name FROM detection LIMIT 1;
	ROLLBACK});
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'detect'");
$node->restart;
$node->safe_psql('city', "SELECT detect.resume('camera')");
ledger_is_exact($node, 'city', $broker, 'with the library again it goes on');

$node->append_conf('postgresql.conf', "shared_preload_libraries = ''");
$node->restart;
$node->safe_psql('city', "SELECT detect.drop_stream('camera')");
is($node->safe_psql('city', 'SELECT count(*) > 0 FROM detection'), 't',
	'a stream can be dropped; its events stay');
$node->safe_psql('city', 'SET client_min_messages = warning; DROP EXTENSION detect CASCADE');
is($node->safe_psql('city', 'SELECT count(*) > 0 FROM detection'), 't',
	'the extension can be dropped; events stay');

log_is_clean($node);
$node->stop;
done_testing();
