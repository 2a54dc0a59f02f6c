# A stream becomes another one while messages flow: other columns, another
# query, another number of consumers, more topics, another Kafka.  Whatever is
# changed, each message is counted once, and progress is kept.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";

use DetectTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use constant CHUNK => 1200;

my $broker = DetectTest::Broker->start();
my $node   = make_node('main');
my @lines  = camera_lines(21 * CHUNK);

sub produce
{
	my ($topic, $count) = @_;

	$broker->produce($topic, splice(@lines, 0, $count // CHUNK));
	return;
}

# As the owner of the stream.
sub ask
{
	my ($sql) = @_;

	return $node->safe_psql('city', "SET ROLE ops; SET search_path = city, public; $sql");
}

# How many messages are applied; a statement that has just been run stands
# between these and the rest.
sub applied
{
	return $node->safe_psql('city', 'SELECT COALESCE(sum(next_offset), 0) FROM detect._applied_progress');
}

$node->append_conf('postgresql.conf', "max_worker_processes = 16\ndetect.max_batch_rows = 100");
$node->start;
install_detect($node, 'city');
$broker->create_topic($_, 4) foreach ('camera', 'gate', 'road');
create_camera($node, 'city', $broker);
produce('camera');
ledger_is_exact($node, 'city', $broker, 'one topic, one worker');

# ---------------------------------------------------------------------
# Consumers
# ---------------------------------------------------------------------
foreach my $consumers (3, 1, 16, 0, 2)
{
	produce('camera');
	ask("SELECT detect.alter_stream('camera', consumers => $consumers)");
	ledger_is_exact($node, 'city', $broker, "consumers => $consumers");
}
ok( $node->poll_query_until('city',
		"SELECT count(pid) FILTER (WHERE duty = 'consume') = 2 AND count(DISTINCT pid) = 3
		FROM detect.stat_worker WHERE stream = 'camera' AND duty IN ('apply', 'consume')"),
	'an applier and two consumers are at work');

# ---------------------------------------------------------------------
# Topics
# ---------------------------------------------------------------------
produce('gate');
ask("SELECT detect.alter_stream('camera', topics => '{camera,gate}')");
produce($_) foreach ('camera', 'gate');
ledger_is_exact($node, 'city', $broker, 'a second topic', topics => [ 'camera', 'gate' ]);
produce('road');
ask("SELECT detect.alter_stream('camera', topics => '{road,camera,gate}', consumers => 0)");
produce($_) foreach ('camera', 'gate', 'road');
ledger_is_exact(
	$node, 'city', $broker, 'a third one, in another order, and one worker for all',
	topics => [ 'camera', 'gate', 'road' ]);

# One that does not exist keeps nobody from reading the others.
$broker->command('topic_error', 'tunnel', 3);
ask("SELECT detect.alter_stream('camera', topics => '{camera,gate,road,tunnel}')");
produce('gate');
stream_is($node, 'city', 'camera', 'running', 'topic "tunnel" does not exist',
	'a topic that is missing is told of, and the others are read');
ask("SELECT detect.alter_stream('camera', topics => '{camera,gate,road}', consumers => 2)");
ledger_is_exact(
	$node, 'city', $broker, 'nothing was lost meanwhile',
	topics => [ 'camera', 'gate', 'road' ]);

# ---------------------------------------------------------------------
# Columns and query, in one transaction with ALTER TABLE, batches under way
# ---------------------------------------------------------------------
my $applied = applied();
produce('camera', 2 * CHUNK);
wait_applied($node, 'city', 'camera', $applied + 1, '');
ask(q{
	BEGIN;
	ALTER TABLE detection ADD COLUMN kafka_offset bigint;
	SELECT detect.alter_stream('camera',
		columns => 'detection_oid bigint, video_camera_oid int, geographical_location_oid int,
			item_name text, confidence real, timestamp_detected timestamptz, kafka_offset bigint',
		query => 'SELECT b.*, l.location_name FROM batch b LEFT JOIN location l USING (geographical_location_oid)');
	COMMIT});
produce('camera');
ask("SELECT detect.wait_for('camera')");
cmp_ok(ask('SELECT count(kafka_offset) FROM detection'), '>', 0, 'the new column is filled');
ask(q{
	BEGIN;
	SELECT detect.alter_stream('camera',
		columns => 'detection_oid bigint, video_camera_oid int, geographical_location_oid int,
			item_name text, confidence real, timestamp_detected timestamptz',
		query => 'SELECT b.*, l.location_name FROM batch b LEFT JOIN location l USING (geographical_location_oid)');
	ALTER TABLE detection DROP COLUMN kafka_offset;
	COMMIT});
ledger_is_exact(
	$node, 'city', $broker, 'columns came and went',
	topics => [ 'camera', 'gate', 'road' ]);

# A definition that cannot work changes nothing.
my ($rc, $stdout, $stderr) = $node->psql('city', q{SET ROLE ops; SET search_path = city;
	SELECT detect.alter_stream('camera', query => 'SELECT 1 AS video_camera_oid FROM batch')});
isnt($rc, 0, 'a query that loses the key is refused');
produce('camera');
ledger_is_exact(
	$node, 'city', $broker, 'and the stream goes on',
	topics => [ 'camera', 'gate', 'road' ]);

# ---------------------------------------------------------------------
# ALTER SERVER and user mappings take effect by themselves
# ---------------------------------------------------------------------
my $bootstrap = $broker->bootstrap;
$node->safe_psql('city', "ALTER SERVER city OPTIONS (SET bootstrap_servers '127.0.0.1:1')");
stream_is($node, 'city', 'camera', 'connecting', 'refused', 'a wrong address is noticed at once');
produce('camera');
$node->safe_psql('city', "ALTER SERVER city OPTIONS (SET bootstrap_servers '$bootstrap')");
ledger_is_exact(
	$node, 'city', $broker, 'and so is the right one',
	topics => [ 'camera', 'gate', 'road' ]);

# ---------------------------------------------------------------------
# A server gets another name
# ---------------------------------------------------------------------
$node->safe_psql('city', 'ALTER SERVER city RENAME TO metropolis');
stream_is($node, 'city', 'camera', 'paused', 'server "city" does not exist', 'the new name of a server is not known');
produce('camera');
ask("SELECT detect.alter_stream('camera', server => 'metropolis'); SELECT detect.resume('camera')");
ledger_is_exact(
	$node, 'city', $broker, 'once it is said the stream goes on where it was',
	topics => [ 'camera', 'gate', 'road' ]);
$node->safe_psql('city', 'ALTER SERVER metropolis RENAME TO city');
ask("SELECT detect.alter_stream('camera', server => 'city')");
my ($paused) = ask("SELECT paused FROM detect.stream WHERE stream = 'camera'");
ask("SELECT detect.resume('camera')") if $paused eq 't';

# ---------------------------------------------------------------------
# Another Kafka, where the last messages of the old one are too
# ---------------------------------------------------------------------
my $other = DetectTest::Broker->start();
my @all   = map { $broker->lines($_) } ('camera', 'gate', 'road');
my @overlap = @all[ -CHUNK .. -1 ];

$other->create_topic('camera', 3);
$other->produce('camera', @overlap, splice(@lines, 0, CHUNK));
create_server($node, 'city', $other, 'town');
($rc, $stdout, $stderr) = $node->psql('city',
	"SET ROLE ops; SELECT detect.alter_stream('camera', server => 'town', topic => 'camera')");
like($stderr, qr/another server needs start/, 'a move says where to start');
($rc, $stdout, $stderr) = $node->psql('city', q{
	SET ROLE ops;
	BEGIN;
	SELECT detect.alter_stream('camera', server => '', reset => '{topic,topics}');
	SELECT detect.alter_stream('camera', server => 'town', topic => 'camera')});
like($stderr, qr/another server needs start/, 'also one that had none for a while');
my $before = ask('SELECT count(*) FROM detection');
ask("SELECT detect.alter_stream('camera', server => 'town', topic => 'camera', start => 'earliest')");
ask("SELECT detect.wait_for('camera')");
is( ask(q{SELECT string_agg(applied_offset::text, ',' ORDER BY kafka_partition) FROM detect.stat_partition
	WHERE stream = 'camera' AND kafka_topic = 'camera' AND kafka_partition < 3}),
	join(',', $other->ends('camera')), 'the new topic is read to its end');

# The events are those of both clusters, each once: a second stream from both
# into an empty table says the same.
foreach my $server ('city', 'town')
{
	my $from = $server eq 'city' ? $broker : $other;
	my $topics = $server eq 'city' ? '{camera,gate,road}' : '{camera}';

	ask("CREATE TABLE ${server}_detection (LIKE detection INCLUDING CONSTRAINTS) PARTITION BY RANGE (timestamp_detected);
		SELECT detect.create_stream('${server}_again', server => '$server', topics => '$topics',
			events_table => '${server}_detection', key => '{detection_oid}', partition_interval => '1 hour',
			columns => 'detection_oid bigint, video_camera_oid int, geographical_location_oid int, item_name text,
				confidence real, timestamp_detected timestamptz',
			query => 'SELECT b.*, l.location_name FROM batch b LEFT JOIN location l USING (geographical_location_oid)')");
	ask("SELECT detect.wait_for('${server}_again')");
}
is( ask(q{
	SELECT count(*) FROM (
		((SELECT * FROM city_detection UNION SELECT * FROM town_detection) EXCEPT ALL TABLE detection)
		UNION ALL
		(TABLE detection EXCEPT ALL (SELECT * FROM city_detection UNION SELECT * FROM town_detection))) d}),
	'0', 'events of both, each once');
is( ask(q{
	SELECT count(*) FROM (
		(TABLE camera_per_minute EXCEPT ALL TABLE recomputed) UNION ALL (TABLE recomputed EXCEPT ALL TABLE camera_per_minute)) d}
	  =~ s/TABLE recomputed/SELECT date_bin('1 minute', timestamp_detected, 'epoch') AS minute, item_name,
		count(*) AS detections, sum(video_camera_oid) AS cameras, avg(geographical_location_oid) AS place,
		min(timestamp_detected) AS first_seen, max(confidence) AS surest FROM detection GROUP BY 1, 2/gr),
	'0', 'and so is the rollup');
cmp_ok(ask('SELECT count(*) FROM detection'), '>', $before, 'the new cluster brought events');
cmp_ok(ask("SELECT duplicates FROM detect.stat_stream WHERE stream = 'camera'"),
	'>=', CHUNK, 'what both had was known by its key');

log_is_clean($node);
$node->stop;
done_testing();
