# A topic is replayed whose events are past retention, but for a few: they are
# counted, and leave no partition, no row and no WAL but that of progress.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";

use DetectTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use constant { EXPIRED => 20_000, KEPT => 100 };

my $broker = DetectTest::Broker->start();
my $node   = make_node('main', extra => ['--no-sync']);
my $lsn    = q{SELECT pg_current_wal_insert_lsn() - '0/0'};

# An event of so many seconds ago.
sub line
{
	my ($id, $age) = @_;
	my @at = gmtime(time() - $age);

	return sprintf(
		'{"detection_oid":%d,"video_camera_oid":1,"geographical_location_oid":1,"item_name":"car",'
		  . '"confidence":0.5,"timestamp_detected":"%04d-%02d-%02dT%02d:%02d:%02dZ"}',
		$id, $at[5] + 1900, $at[4] + 1, @at[ 3, 2, 1, 0 ]);
}

# WAL is that of the stream alone
$node->append_conf('postgresql.conf', "autovacuum = off\ncheckpoint_timeout = 1h");
$node->start;
install_detect($node, 'city');
$broker->create_topic('camera', 4);
create_camera($node, 'city', $broker, retention => "'1 hour'");
wait_for($node, 'city', 'camera');

# Eight months of hours, each of which would have its partition.
$node->safe_psql('city', "SELECT detect.pause('camera')");
$broker->produce('camera', map { line($_, 2 * 3600 + $_ * 1000) } 1 .. EXPIRED);
my $before = $node->safe_psql('city', $lsn);
$node->safe_psql('city', "SELECT detect.resume('camera')");
wait_for($node, 'city', 'camera');
my $wal = $node->safe_psql('city', $lsn) - $before;

is( $node->safe_psql('city', 'SELECT accepted, duplicates, filtered, expired, dead_letters FROM detect.stat_stream'),
	'0|0|0|' . EXPIRED . '|0',
	'all are expired');
cmp_ok($wal / EXPIRED, '<', 16, "WAL of a message: $wal bytes in all");
is( $node->safe_psql(
		'city', q{SELECT count(*) > 0, sum(pg_relation_size(inhrelid)), count(*) < 6 FROM pg_inherits WHERE inhparent = 'detection'::regclass}),
	't|0|t',
	'only the partitions of now are there, and they are empty');
is($node->safe_psql('city', 'SELECT count(*) FROM camera_per_minute'), '0', 'so is the rollup');

# Those in time are kept among them.
$broker->produce('camera', map { (line($_, 60), line($_ + EXPIRED, 7200 + $_)) } 1 .. KEPT);
wait_for($node, 'city', 'camera');
is( $node->safe_psql(
		'city', q{SELECT count(*), count(DISTINCT detection_oid), max(detection_oid),
		(SELECT sum(detections) FROM camera_per_minute), (SELECT expired FROM detect.stat_stream) FROM detection}),
	join('|', (KEPT) x 4, EXPIRED + KEPT),
	'what is in time is kept');

log_is_clean($node);
$node->stop;
done_testing();
