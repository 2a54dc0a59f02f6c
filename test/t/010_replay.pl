# The whole topic comes again, over the kept events table: no row changes.
# First the events are known from memory, then past partitions are known from
# their unique index.

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

# Four hours of events; a fifth is up to three hours late.
my @lines = camera_lines(14_400, 'event-rate' => 1, 'late' => 0.2);

# Every row with its place in the table: an update would show.
my $rows_sql = q{SELECT count(*), md5(string_agg(md5(d::text || tableoid || ctid || xmin), '' ORDER BY tableoid, ctid))
	FROM detection d};
my $rollup_sql = q{SELECT count(*), md5(string_agg(r::text, '' ORDER BY minute, item_name)) FROM camera_per_minute r};

# Drops the stream and makes it again; the topic is read from its beginning.
sub is_replayed
{
	my ($what, %options) = @_;
	my $rows   = $node->safe_psql('city', $rows_sql);
	my $rollup = $node->safe_psql('city', $rollup_sql);

	$node->safe_psql('city', "SELECT detect.drop_stream('camera'); SELECT detect.drop_rollup('camera_per_minute')");
	create_camera($node, 'city', $broker, %options);
	ledger_is_exact($node, 'city', $broker, $what, replayed => 1);
	is( $node->safe_psql('city', "SELECT accepted FROM detect.stat_stream WHERE stream = 'camera'"),
		'0', "$what: nothing was accepted");
	is($node->safe_psql('city', $rows_sql),   $rows,   "$what: no row has changed");
	is($node->safe_psql('city', $rollup_sql), $rollup, "$what: neither has the rollup");
	return;
}

my ($past_sql, $lacks_sql) = past_partitions_sql('detection');

$node->start;
install_detect($node, 'city');
$broker->create_topic('camera', 4);

# Late events find their partition, though it was made for nobody else.
$broker->produce('camera', grep { /_detected/ } splice(@lines, 0, 200));
create_camera($node, 'city', $broker);
$broker->produce('camera', splice(@lines, 0, 6000));
ledger_is_exact($node, 'city', $broker, 'the first half');
is_replayed('replayed from memory');
$broker->produce('camera', @lines);
ledger_is_exact($node, 'city', $broker, 'the second half', replayed => 1);

# A stream that starts looks at once for partitions that lack their index.
$node->restart;
ok($node->poll_query_until('city', $lacks_sql, '0'), 'past partitions get their unique index');
my $past = $node->safe_psql('city', "SELECT count(*) $past_sql");
cmp_ok($past, '>=', 3, "there are past partitions: $past");
worker_pid($node, 'city', 'camera');
ok( $node->poll_query_until(
		'city', q{SELECT identities < (SELECT count(*) FROM detection)
		FROM detect.stat_stream WHERE stream = 'camera' AND identities > 0}),
	'what has an index is not in memory');
is_replayed('replayed against indexes');
is_replayed('replayed with a consumer beside the applier', consumers => 1);

# One event of a past partition is gone: it alone comes back.
$node->safe_psql('city', "SELECT detect.drop_stream('camera'); SELECT detect.drop_rollup('camera_per_minute')");
$node->safe_psql('city', 'DELETE FROM detection WHERE (detection_oid, timestamp_detected) IN (
	SELECT detection_oid, timestamp_detected FROM detection ORDER BY timestamp_detected LIMIT 1)');
create_camera($node, 'city', $broker);
ledger_is_exact($node, 'city', $broker, 'an event that was deleted comes back', replayed => 1);
is( $node->safe_psql('city', "SELECT accepted FROM detect.stat_stream WHERE stream = 'camera'"),
	'1', 'and no other');

# The same in a table without partitions, known by the key alone.
$node->safe_psql('city', q{
	SET ROLE ops;
	CREATE TABLE plain_detection (
		detection_oid bigint PRIMARY KEY, video_camera_oid int NOT NULL,
		geographical_location_oid int NOT NULL, item_name text NOT NULL,
		confidence real CHECK (confidence BETWEEN 0 AND 1),
		timestamp_detected timestamptz NOT NULL, location_name text)});
$broker->create_topic('plain', 2);
# without event time there is no future to be refused
$broker->produce('plain', camera_lines(3000, broken => 0));
for my $turn ('first', 'second')
{
	create_camera(
		$node, 'city', $broker,
		name               => 'plain',
		table              => 'plain_detection',
		event_time         => 'NULL',
		partition_interval => 'NULL');
	ledger_is_exact(
		$node, 'city', $broker, "a table without partitions, $turn time",
		name     => 'plain',
		table    => 'plain_detection',
		replayed => $turn eq 'second');
	$node->safe_psql('city', "SELECT detect.drop_stream('plain'); SELECT detect.drop_rollup('plain_per_minute')");
}

log_is_clean($node);
$node->stop;
done_testing();
