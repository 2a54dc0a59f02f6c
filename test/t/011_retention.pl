# A topic is replayed whose events are past retention, but for a few: they are
# counted, and leave no partition, no row and no WAL but that of progress.  And a
# partition whose end was begun when retention became longer is kept.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";

use DetectTest;
use FaultPoint;
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

# ---------------------------------------------------------------------
# The end of a partition that was begun, and is not to be
# ---------------------------------------------------------------------

# A partition of the hour that many hours ago, with one row.
sub make_partition
{
	my ($name, $hours) = @_;

	$node->safe_psql(
		'city', qq{
		SET ROLE ops;
		CREATE TABLE city.$name PARTITION OF city.detection
			FOR VALUES FROM (date_trunc('hour', now()) - interval '$hours hours') TO (date_trunc('hour', now()) - interval '@{[$hours - 1]} hours');
		INSERT INTO city.$name VALUES (-$hours, 1, 1, 'car', 0.5, date_trunc('hour', now()) - interval '$hours hours')});
	return;
}

# The applier looks for what is to be done when it starts.
sub look_for_chores
{
	$node->safe_psql('city', q{SELECT pg_terminate_backend(pid) FROM detect.stat_worker WHERE duty = 'apply' AND pid IS NOT NULL});
	return;
}

sub waits_until
{
	my ($condition, $what) = @_;

	return ok($node->poll_query_until('city', "SELECT $condition"), $what);
}

use constant IDLE => q{NOT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'detect maintain')};
use constant COMMENT => q{obj_description('city.kept'::regclass)};

# each try of maintenance ends between its comment and the detach
my $armed = arm($node, 'before_detach:53100:1:100');
make_partition('kept', 10);
look_for_chores();
waits_until(COMMENT . q{ = 'detect: past the retention of its stream'}, 'a partition bears the comment');
is($node->safe_psql('city', q{SELECT relispartition FROM pg_class WHERE oid = 'city.kept'::regclass}), 't', 'and is attached');
$node->safe_psql('city', q{SELECT detect.alter_stream('camera', retention => '30 days')});
# who has begun with the old retention may not go on
waits_until(IDLE, 'nobody is at it');
disarm($node, $armed);
look_for_chores();
waits_until(COMMENT . ' IS NULL', 'with a longer retention the comment is taken off');

# Who detaches it by hand wants to keep it.
$node->safe_psql('city', 'ALTER TABLE city.detection DETACH PARTITION city.kept');
make_partition('dropped', 40 * 24);
look_for_chores();
waits_until(q{to_regclass('city.dropped') IS NULL AND } . IDLE, 'a partition past retention is dropped');
is($node->safe_psql('city', q{SELECT to_regclass('city.kept') IS NOT NULL}), 't', 'the one that was detached by hand is not');
wait_for($node, 'city', 'camera');
is($node->safe_psql('city', q{SELECT string_agg(detection_oid::text, ' ') FROM city.detection WHERE detection_oid < 0}), '', 'nor is it a part of the table');

log_is_clean($node);
$node->stop;
done_testing();
