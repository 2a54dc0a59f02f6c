# One topic of a real Apache Kafka from its first to its last offset: all four
# compressions, transactions of which some are aborted, the server stopped and
# crashed on the way.  Then where a stream begins that starts at "latest" or at
# a time.
#
# Truth is what Kafka's own Java consumer reads: librdkafka, which produces
# here and is what we consume with, has no say in it.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";

use DetectTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use constant MESSAGES => 3000;    # for each compression
use constant BROKEN   => qw(invalid_json wrong_type empty missing_key out_of_range far_future);

my $kafka     = "$DetectTest::programs/kafka";
my $kafka_dir = "$PostgreSQL::Test::Utils::tmp_check/kafka";

skip_without_kafka();

# ---------------------------------------------------------------------
# Kafka
# ---------------------------------------------------------------------

# The broker ends with this process.
$ENV{DETECT_KAFKA_PARENT} = $$;
chomp(my $bootstrap = output_of($kafka, 'start', $kafka_dir));

sub create_topic
{
	my ($topic, $partitions) = @_;

	output_of($kafka, 'create-topic', $kafka_dir, $topic, $partitions);
	return;
}

my $next_oid = 1;

# Produces camera events; what the generator says of them.
sub produce
{
	my ($topic, $count, %options) = @_;
	my $ledger = output_of(
		"$DetectTest::programs/generator",
		'--bootstrap' => $bootstrap,
		'--topic'     => $topic,
		'--count'     => $count,
		'--first-oid' => $next_oid,
		'--seed'      => $DetectTest::seed,
		'--locations' => 100,
		'--event-rate' => 10,
		map { ("--$_" => $options{$_}) } sort keys %options);

	$next_oid += $count;
	return { $ledger =~ /"(\w+)": (\d+)/g };
}

# Where the partitions of a topic end, as the broker says.
sub ends_of
{
	my ($topic) = @_;
	my %ends = output_of($kafka, 'class', $kafka_dir, 'org.apache.kafka.tools.GetOffsetShell',
		'--topic', $topic) =~ /^\Q$topic\E:(\d+):(\d+)$/mg;

	return map { $ends{$_} } sort { $a <=> $b } keys %ends;
}

# Reads so many committed messages of a topic into a table of the database:
# partition, offset, time, key and payload of each.
sub read_topic
{
	my ($node, $topic, $messages, $table) = @_;
	my $path = "$PostgreSQL::Test::Utils::tmp_check/$table.tsv";
	my @formatter = map { ('--property', "print.$_=true") } qw(partition offset timestamp key);
	my $listing = output_of(
		$kafka, 'class', $kafka_dir, 'org.apache.kafka.tools.consumer.ConsoleConsumer',
		'--topic', $topic, '--from-beginning', '--isolation-level', 'read_committed',
		'--max-messages', $messages, '--timeout-ms', 60_000, @formatter);

	$listing =~ s/^CreateTime:(\d+)\tPartition:(\d+)\tOffset:(\d+)\t/$1\t$2\t$3\t/mg;
	append_to_file($path, $listing);
	# a payload is one column: control characters do not occur in it
	$node->safe_psql(
		'city', qq{
		CREATE TABLE $table (kafka_ms bigint, kafka_partition int, kafka_offset bigint, key text, line text);
		COPY $table FROM '$path' (FORMAT csv, DELIMITER E'\\t', QUOTE E'\\x02');
	});
	return;
}

# ---------------------------------------------------------------------
# The ledger
# ---------------------------------------------------------------------

# What must become of the messages in :messages.
my $expected_sql = q{
	CREATE TEMP VIEW valid AS
	SELECT kafka_partition, (line::jsonb->>'detection_oid')::bigint AS detection_oid,
		   (line::jsonb->>'video_camera_oid')::int AS video_camera_oid,
		   (line::jsonb->>'geographical_location_oid')::int AS geographical_location_oid,
		   line::jsonb->>'item_name' AS item_name, (line::jsonb->>'confidence')::real AS confidence,
		   (line::jsonb->>'timestamp_detected')::timestamptz AS timestamp_detected
	FROM MESSAGES WHERE key !~ '^broken-';
	CREATE TEMP TABLE expected AS
	SELECT DISTINCT detection_oid, video_camera_oid, v.geographical_location_oid, item_name, confidence,
		   timestamp_detected, l.location_name
	FROM valid v LEFT JOIN location l USING (geographical_location_oid);
	CREATE TEMP TABLE recomputed AS
	SELECT date_bin('1 minute', timestamp_detected, 'epoch') AS minute, item_name,
		   count(*) AS detections, sum(video_camera_oid) AS cameras,
		   avg(geographical_location_oid) AS place,
		   min(timestamp_detected) AS first_seen, max(confidence) AS surest
	FROM EVENTS GROUP BY 1, 2;
	CREATE TEMP VIEW outcome AS
	SELECT a.* FROM detect.stat_partition a WHERE stream = 'STREAM' AND kafka_partition >= 0;
};

# One line for each difference between what a stream made and what it should.
my %questions = (
	'events that are missing'         => 'TABLE expected EXCEPT ALL TABLE EVENTS',
	'events that should not be'       => 'TABLE EVENTS EXCEPT ALL TABLE expected',
	'rollup rows that are missing'    => 'TABLE recomputed EXCEPT ALL TABLE ROLLUP',
	'rollup rows that should not be'  => 'TABLE ROLLUP EXCEPT ALL TABLE recomputed',
	'partitions whose valid messages are not accepted or duplicates' => q{
		SELECT FROM outcome o LEFT JOIN (SELECT kafka_partition, count(*) AS valid FROM valid GROUP BY 1) v
			USING (kafka_partition)
		WHERE o.accepted + o.duplicates IS DISTINCT FROM COALESCE(valid, 0)},
	'partitions whose broken messages are not dead letters' => q{
		SELECT FROM outcome o
		LEFT JOIN (SELECT kafka_partition, count(*) AS broken FROM MESSAGES WHERE key ~ '^broken-' GROUP BY 1) m
			USING (kafka_partition)
		WHERE o.dead_letters IS DISTINCT FROM COALESCE(broken, 0) OR o.filtered + o.expired > 0},
	'accepted are not the distinct events' => q{
		SELECT FROM outcome HAVING sum(accepted) IS DISTINCT FROM (SELECT count(*) FROM expected)},
	'broken messages without a dead letter' => q{
		SELECT kafka_partition, kafka_offset, key, COALESCE(line, '') FROM MESSAGES WHERE key ~ '^broken-'
		EXCEPT ALL
		SELECT kafka_partition, kafka_offset, convert_from(kafka_key, 'UTF8'), convert_from(payload, 'UTF8')
		FROM detect.dead_letter WHERE stream = 'STREAM'},
	'dead letters of no broken message' => q{
		SELECT kafka_partition, kafka_offset FROM detect.dead_letter WHERE stream = 'STREAM'
		EXCEPT ALL
		SELECT kafka_partition, kafka_offset FROM MESSAGES WHERE key ~ '^broken-'},
	'dead letters with another time than the message' => q{
		SELECT FROM detect.dead_letter d JOIN MESSAGES m USING (kafka_partition, kafka_offset)
		WHERE d.stream = 'STREAM' AND d.kafka_timestamp IS DISTINCT FROM to_timestamp(m.kafka_ms / 1000.0)},
	'events that were aborted' => 'SELECT FROM EVENTS WHERE detection_oid < 0');

# Compares what a stream made with the messages of a table, after the stream
# has applied its topic: one test.
sub is_exact
{
	my ($node, $stream, $table, $messages, $what) = @_;
	my @names = sort keys %questions;
	my $sql = join('', $expected_sql, map { "SELECT count(*) FROM ($questions{$_}) q;\n" } @names);
	my @wrong;

	wait_for($node, 'city', $stream);
	$sql =~ s/\bEVENTS\b/$table/g;
	$sql =~ s/\bROLLUP\b/${stream}_per_minute/g;
	$sql =~ s/\bMESSAGES\b/$messages/g;
	$sql =~ s/\bSTREAM\b/$stream/g;
	my @answers = split(/\n/, $node->safe_psql('city', $sql));
	foreach my $i (0 .. $#names)
	{
		push @wrong, "$names[$i]: $answers[$i]" if $answers[$i] ne '0';
	}
	return ok(!@wrong, $what) || diag(join("\n", @wrong)) && 0;
}

# Waits for a stream; what it has applied then is what the topic has.  The markers of
# a transaction that was committed may come a little later than it.
sub reaches_the_end
{
	my ($node, $stream, $topic, $what) = @_;
	my @ends = ends_of($topic);

	wait_for($node, 'city', $stream);
	my $applied = $node->safe_psql('city',
		"SELECT string_agg(applied_offset::text, ',' ORDER BY kafka_partition) FROM detect.stat_partition "
		  . "WHERE stream = '$stream' AND kafka_partition >= 0");

	return is($applied, join(',', @ends), $what);
}

# ---------------------------------------------------------------------
# A drain
# ---------------------------------------------------------------------

my $node = make_node('main');
my %produced = (aborted => 0, map { $_ => 0 } 'produced', BROKEN);
my %transactional = (
	transaction => 100,
	abort       => 0.3,
	duplicates  => 0.05,
	late        => 0.05,
	broken      => 0.02);

sub produce_compressed
{
	my ($codec) = @_;
	my $ledger = produce('camera', MESSAGES, %transactional, compression => $codec);

	$produced{$_} += $ledger->{$_} for keys %produced;
	return;
}

# a start that is not flushed would be lost in the crash below
$node->append_conf('postgresql.conf', 'wal_writer_delay = 10s');
$node->start;
install_detect($node, 'city');
create_topic('camera', 4);
produce_compressed('gzip');
produce_compressed('snappy');
create_camera($node, 'city', $bootstrap);

wait_applied($node, 'city', 'camera', int(rand(2 * MESSAGES)), '');
$node->restart;
produce_compressed('lz4');
wait_applied($node, 'city', 'camera', 2 * MESSAGES + int(rand(MESSAGES)), '');
strike($node, 'immediate');
produce_compressed('zstd');

cmp_ok($produced{aborted}, '>', 0, 'some transactions were aborted');
reaches_the_end($node, 'camera', 'camera', 'wait_for returns when the end of each partition is applied');
read_topic($node, 'camera', $produced{produced}, 'camera_messages');
is( $node->safe_psql('city',
		q{SELECT count(*) FROM camera_messages WHERE key ~ '^-'}),
	0, 'the Java consumer reads nothing that was aborted');
is( $node->safe_psql(
		'city', q{SELECT count(*) FROM detect.stat_partition p
		WHERE stream = 'camera' AND applied_offset =
			(SELECT max(kafka_offset) + 1 FROM camera_messages m WHERE m.kafka_partition = p.kafka_partition)}),
	0, 'each partition ends with a control record, behind its last message');
is_exact($node, 'camera', 'detection', 'camera_messages', 'four compressions, aborted batches and two restarts');

foreach my $kind (BROKEN)
{
	is( $node->safe_psql('city',
			"SELECT count(*) FROM detect.dead_letter WHERE convert_from(kafka_key, 'UTF8') = 'broken-$kind'"),
		$produced{$kind}, "dead letters of kind $kind");
}

# What was aborted is not shown, and not waited for.
sub peek_is_exact
{
	my ($arguments, $what) = @_;
	my $peek = "SELECT kafka_partition, kafka_offset, convert_from(kafka_key, 'UTF8'), COALESCE(payload, '') "
	  . "FROM detect.peek('city', 'camera', $arguments)";
	my $direction = $arguments =~ /false/ ? 'ASC' : 'DESC';
	my $count     = $arguments =~ /^(\d+)/ ? $1 : die;
	my $truth = "SELECT kafka_partition, kafka_offset, key, COALESCE(line, '') FROM (SELECT *, "
	  . "row_number() OVER (PARTITION BY kafka_partition ORDER BY kafka_offset $direction) AS place "
	  . "FROM camera_messages) m WHERE place <= $count / 4";

	return is(
		$node->safe_psql('city',
			"WITH p AS MATERIALIZED ($peek), t AS MATERIALIZED ($truth) SELECT (SELECT count(*) FROM p), "
			  . '(SELECT count(*) FROM (TABLE p EXCEPT ALL TABLE t) x), '
			  . '(SELECT count(*) FROM (TABLE t EXCEPT ALL TABLE p) x)'),
		$node->safe_psql('city', "SELECT count(*), 0, 0 FROM ($truth) t"),
		$what);
}

peek_is_exact('4',          'peek: the newest message of each partition, before control records');
peek_is_exact('4000',       'peek: the newest messages, though many offsets are none');
peek_is_exact('400, false', 'peek: the oldest messages');

# Nothing new: a restart reads nothing again.
$node->restart;
is_exact($node, 'camera', 'detection', 'camera_messages', 'the same after another restart');

# ---------------------------------------------------------------------
# Where a stream begins
# ---------------------------------------------------------------------

# A stream that begins at the end, which lies behind a control record.  Its
# start is what it was also after a crash that follows at once.
create_topic('newest', 2);
produce('newest', 500, %transactional);
create_camera($node, 'city', $bootstrap, name => 'newest', table => 'newest', start => "'latest'");
my $began_sql = q{SELECT string_agg(applied_offset::text, ',' ORDER BY kafka_partition)
	FROM detect.stat_partition WHERE stream = 'newest' AND kafka_partition >= 0 HAVING count(*) = 2};
my $began = join(',', ends_of('newest'));
ok($node->poll_query_until('city', "SELECT ($began_sql) = '$began'"), 'start => latest begins at the end');

$node->stop('immediate');
my $ledger = produce('newest', 500, %transactional);
$node->start;
wait_for($node, 'city', 'newest');
read_topic($node, 'newest', 1000, 'newest_messages');
$node->safe_psql('city',
	"DELETE FROM newest_messages WHERE kafka_offset < (ARRAY[$began])[kafka_partition + 1]");
is($node->safe_psql('city', 'SELECT count(*) FROM newest_messages'),
	$ledger->{produced}, 'half of the topic came after the start');
reaches_the_end($node, 'newest', 'newest', 'a stream that starts at latest reaches the end');
is_exact($node, 'newest', 'newest', 'newest_messages', 'start => latest: what came afterwards, and nothing else');

# A stream that begins at a time: after another message of the same second, and
# after all messages of one partition.  The creator's time zone says what the
# time means.  Without transactions, whose control records have times, too.
create_topic('timed', 2);
produce('timed', 300, duplicates => 0.05, rate => 2000);
produce('timed', 300, duplicates => 0.05, rate => 2000, partitions => 1);
read_topic($node, 'timed', 600, 'timed_messages');
my $start_ms = $node->safe_psql(
	'city', q{SELECT max(kafka_ms) FROM timed_messages m
	WHERE EXISTS (SELECT FROM timed_messages e WHERE e.kafka_partition = m.kafka_partition
				  AND e.kafka_ms / 1000 = m.kafka_ms / 1000 AND e.kafka_ms < m.kafka_ms)});
local $ENV{PGTZ} = 'Asia/Kolkata';
my $start = $node->safe_psql('city',
	"SELECT to_char(to_timestamp($start_ms / 1000.0), 'YYYY-MM-DD HH24:MI:SS.MS')");
$node->safe_psql('city', "DELETE FROM timed_messages WHERE kafka_ms < $start_ms");
create_camera($node, 'city', $bootstrap, name => 'timed', table => 'timed', start => "'$start'");
is_exact($node, 'timed', 'timed', 'timed_messages', 'start => a time: messages from then on, and nothing else');
reaches_the_end($node, 'timed', 'timed', 'also where no message is that late');

log_is_clean($node);
$node->stop;
output_of($kafka, 'stop', $kafka_dir);
done_testing();
