# What is staged is bounded: in the memory of a consumer that takes a large
# message apart, and in the staging table while nothing of it can be applied.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";

use DetectTest;
use List::Util qw(max);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use constant {
	ITEMS         => 1500,
	PAYLOAD_BYTES => 100 * 1024,
	MORE_BYTES    => 100 * 1024 * 1024,    # a consumer may need for the message
};

my $broker = DetectTest::Broker->start();
my $node   = make_node('main');

# The most memory that a process has had.
sub peak_bytes
{
	my ($pid) = @_;
	my ($kb) = slurp_file("/proc/$pid/status") =~ /^VmHWM:\s+(\d+) kB/m;

	return $kb * 1024;
}

# A message of so many items, with something large that is common to all.
sub message
{
	my ($first, $items) = @_;

	return sprintf('{"common": "%s", "items": [%s]}',
		'x' x PAYLOAD_BYTES, join(', ', map { qq({"id": $_}) } $first .. $first + $items - 1));
}

$node->start;
install_detect($node, 'city');
create_server($node, 'city', $broker);

# ---------------------------------------------------------------------
# Each event wants the payload, and what is common to all
# ---------------------------------------------------------------------

$broker->create_topic('item', 1);
$node->safe_psql(
	'city', q{
	SET ROLE ops;
	CREATE TABLE item (id int PRIMARY KEY, common_bytes int, payload_bytes int);
	SELECT detect.create_stream('item', server => 'city', consumers => 1, unnest => '$.items',
		columns => 'id int, common text, kafka_value bytea', fields => '{"common": "$.common"}',
		query => 'SELECT id, length(common) AS common_bytes, length(kafka_value) AS payload_bytes FROM batch')});
$broker->produce('item', message(1, 1));
wait_for($node, 'city', 'item');

my $pid   = worker_pid($node, 'city', 'item', 'consume');
my $peak  = peak_bytes($pid);
my $large = message(2, ITEMS);

$broker->produce('item', $large);
wait_for($node, 'city', 'item');
is( $node->safe_psql('city', 'SELECT count(*), min(common_bytes), max(payload_bytes) FROM item'),
	join('|', ITEMS + 1, PAYLOAD_BYTES, length($large)),
	'all items of a large message are events');
is(worker_pid($node, 'city', 'item', 'consume'), $pid, 'from the same consumer');
SKIP:
{
	skip 'a checked server keeps what is freed', 1 if $ENV{DETECT_CHECK};
	cmp_ok(peak_bytes($pid) - $peak, '<', MORE_BYTES, 'which needs the payload once, not for each item');
}

# ---------------------------------------------------------------------
# Nothing can be applied for a while
# ---------------------------------------------------------------------

my $staged = q{SELECT sum(next_offset) FROM detect._staged_progress JOIN detect._stream USING (stream_id) WHERE name = 'plain'};
my $retries = q{SELECT retries FROM detect.stat_stream WHERE stream = 'plain'};

$broker->create_topic('plain', 1);
$node->safe_psql(
	'city', q{
	SET ROLE ops;
	CREATE TABLE plain (id int PRIMARY KEY);
	SELECT detect.create_stream('plain', server => 'city')});
$broker->produce('plain', map { qq({"id": $_}) } 1 .. 10);
wait_for($node, 'city', 'plain');

my $session = $node->background_psql('city');

$session->query_safe('BEGIN; LOCK TABLE plain IN SHARE MODE');
$broker->produce('plain', map { qq({"id": $_}) } 11 .. 20);
ok($node->poll_query_until('city', "SELECT ($retries) > 0"), 'a batch fails while the table is locked');

my $end   = $node->safe_psql('city', $staged);
my $tries = $node->safe_psql('city', $retries);

foreach my $i (1 .. 3)
{
	$broker->produce('plain', map { qq({"id": $_}) } 10 * $i + 11 .. 10 * $i + 20);
	ok($node->poll_query_until('city', "SELECT ($retries) >= $tries + $i"), "and fails again ($i)");
}
is($node->safe_psql('city', $staged), $end, 'meanwhile nothing more is staged');
$session->quit;
wait_for($node, 'city', 'plain');
is($node->safe_psql('city', 'SELECT count(*), max(id) FROM plain'), '50|50', 'afterwards everything is applied');

# ---------------------------------------------------------------------
# One worker, and a query that is slower than Kafka
# ---------------------------------------------------------------------

my $behind = q{SELECT (SELECT sum(next_offset) FROM detect._staged_progress JOIN detect._stream USING (stream_id) WHERE name = 'slow') -
	(SELECT sum(next_offset) FROM detect._applied_progress JOIN detect._stream USING (stream_id) WHERE name = 'slow')};

$node->safe_psql('city', 'ALTER SYSTEM SET detect.max_batch_rows = 1000');
$node->reload;
$broker->create_topic('slow', 1);
$broker->produce('slow', map { qq({"id": $_}) } 1 .. 10000);
$node->safe_psql(
	'city', q{
	SET ROLE ops;
	CREATE TABLE slow (id int PRIMARY KEY);
	SELECT detect.create_stream('slow', server => 'city',
		query => 'SELECT id FROM batch WHERE (SELECT count(*) FROM generate_series(1, 100000) n WHERE n > id) > 0')});
# commits, not rows: each takes as long on a slow machine
ok($node->poll_query_until('city', q{SELECT batches >= 10 FROM detect.stat_stream WHERE stream = 'slow'}), 'a slow query gets on');
cmp_ok($node->safe_psql('city', $behind),
	'<=', 2 * 1000, 'and no more is staged meanwhile than two commits may apply');

# ---------------------------------------------------------------------
# One worker stages onto the same pages, and leaves out those that are in use
# ---------------------------------------------------------------------

use constant {
	ROUNDS         => 20,
	ROUND_MESSAGES => 500,
	ROUND_BYTES    => 500 * 1000,           # with room to spare
};

my $produced = 0;

# Produces a round of messages, and waits until it is applied.
sub apply_round
{
	my ($first, $last) = ($produced + 1, $produced + ROUND_MESSAGES);

	$broker->produce('paged', map { sprintf('{"id": %d, "name": "%s"}', $_, 'x' x 400) } $first .. $last);
	$produced = $last;
	wait_for($node, 'city', 'paged');
	return;
}

$broker->create_topic('paged', 1);
$node->safe_psql(
	'city', q{
	SET ROLE ops;
	CREATE TABLE paged (id int PRIMARY KEY, name text);
	SELECT detect.create_stream('paged', server => 'city')});
apply_round();

my $staging = $node->safe_psql('city', q{SELECT format('detect._staged_%s_0', stream_id) FROM detect._stream WHERE name = 'paged'});
my $most_bytes = 0;

# What the staging table has on disk.
sub staging_bytes { return $node->safe_psql('city', "SELECT pg_relation_size('$staging')") }

foreach (1 .. ROUNDS)
{
	apply_round();
	$most_bytes = max($most_bytes, staging_bytes());
}
cmp_ok($most_bytes, '<', 3 * ROUND_BYTES, 'the staging table has room for a few rounds, not for all');

# who looks at the table has a page in hand; it is truncated when the stream is idle
my $looks = $node->background_psql('city');
my $seen  = '';

$looks->query_safe('BEGIN');
while ($seen eq '')
{
	apply_round();
	$seen = $looks->query_safe("COMMIT; BEGIN; DECLARE rows CURSOR FOR SELECT kafka_offset, length(payload) FROM $staging; FETCH 1 FROM rows");
}
apply_round() foreach (1 .. 3);
my ($first) = $seen =~ /^(\d+)\|/;
is(join(' ', $looks->query_safe('FETCH 5 FROM rows') =~ /^(\d+)\|4\d\d$/mg), join(' ', map { $first + $_ } 1 .. 5), 'its rows stay as they were');
$looks->quit;

# what VACUUM says of a page does not keep it from serving again
$node->safe_psql('city', "VACUUM $staging");
my $bytes = staging_bytes();
apply_round() foreach (1 .. 3);
cmp_ok(staging_bytes(), '<=', max($bytes, ROUND_BYTES), 'the table has not grown');
is($node->safe_psql('city', 'SELECT count(*), count(DISTINCT id), max(id) FROM paged'),
	"$produced|$produced|$produced", 'every message is applied once');
# ---------------------------------------------------------------------
# What SQL has staged keeps nobody from emptying the tables
# ---------------------------------------------------------------------

use constant {
	SPOOL_ITEMS   => 2500,                  # of PAYLOAD_BYTES each: more than a consumer may stage
	SPOOL_LIMIT   => 256 * 1024 * 1024,
	HEAVY_ROUNDS  => 20,
	HEAVY_PAYLOAD => 4096,
	HEAVY_LIMIT   => 32 * 1024 * 1024,      # half of that is emptied at once
};

# The condition of a query that an event staged by SQL, whose id is negative, takes long
# to meet.
sub slow_for_sql
{
	my ($work) = @_;

	return "CASE WHEN id > 0 THEN true ELSE (SELECT count(*) FROM generate_series(1, $work) n WHERE n > id) > 0 END";
}

# What a stream has staged, large values included.
sub all_staged_bytes
{
	my ($stream) = @_;

	return $node->safe_psql('city', qq{
		SELECT pg_total_relation_size(format('detect._staged_%s_0', stream_id)::regclass) FROM detect._stream WHERE name = '$stream'});
}

# Stages so many such rows.
sub stage_by_sql
{
	my ($stream, $rows) = @_;

	$node->safe_psql('city', "INSERT INTO detect_staging.$stream (id) SELECT -n FROM generate_series(1, $rows) n");
	return;
}

# Waits until all of a topic's one partition up to there is applied, or all that SQL has
# staged; whether both are, and which is the former.
sub comes_before_sql
{
	my ($stream, $end) = @_;
	my $is_applied = "SELECT next_offset = $end FROM detect._applied_progress JOIN detect._stream USING (stream_id) "
	  . "WHERE name = '$stream' AND kafka_partition = 0";
	my $is_left = "EXISTS (SELECT FROM detect_staging.$stream)";

	$node->poll_query_until('city', "SELECT ($is_applied) OR NOT $is_left");
	return $node->safe_psql('city', "SELECT ($is_applied) AND $is_left") eq 't';
}

# A stream with batches of so many rows, whose query that condition is in.
sub create_slow_stream
{
	my ($name, $rows, $work, $arguments) = @_;

	$node->safe_psql('city', "ALTER SYSTEM SET detect.max_batch_rows = $rows");
	$node->reload;
	$broker->create_topic($name, 1);
	$node->safe_psql(
		'city', "SET ROLE ops; CREATE TABLE $name (id int PRIMARY KEY);
		SELECT detect.create_stream('$name', server => 'city', $arguments, query => 'SELECT id FROM batch WHERE " . slow_for_sql($work) . "')");
	return;
}

create_slow_stream('spool', 10, 100_000, q{consumers => 1, unnest => '$.items', columns => 'id int, kafka_value bytea'});
$broker->produce('spool', message(1, 1));
wait_for($node, 'city', 'spool');

# while nothing is applied, the consumer stages as much as it may, and more comes
$session = $node->background_psql('city');
$session->query_safe('BEGIN; LOCK TABLE spool IN SHARE MODE');
$broker->produce('spool', message(2, SPOOL_ITEMS));
ok($node->poll_query_until('city', $staged =~ s/'plain'/'spool'/r =~ s/sum\(next_offset\)/sum(next_offset) = 2/r), 'a large message is staged');
cmp_ok(all_staged_bytes('spool'), '>', SPOOL_LIMIT, 'which is all that a consumer may stage');
$broker->produce('spool', message(SPOOL_ITEMS + 2, 1));
stage_by_sql('spool', 2000);
$session->quit;
ok(comes_before_sql('spool', 3), 'a consumer that waits for room goes on while rows that SQL has staged are left');
$node->safe_psql('city', q{SET ROLE ops; SELECT detect.drop_stream('spool')});

# one worker, and payloads that are stored apart
create_slow_stream('heavy', 100, 10_000, q{columns => 'id int'});

my $heavy = 0;

# Applies so many rounds of heavy messages one after another; the most that was staged
# between two of them, or nothing when one came after all that SQL has staged.
sub most_of_heavy_rounds
{
	my ($beside_sql) = @_;
	my $most = 0;

	foreach (1 .. HEAVY_ROUNDS)
	{
		my ($first, $last) = ($heavy + 1, $heavy + ROUND_MESSAGES);

		$broker->produce('heavy', map { sprintf('{"id": %d, "padding": "%s"}', $_, 'x' x HEAVY_PAYLOAD) } $first .. $last);
		$heavy = $last;
		if ($beside_sql)
		{
			return unless comes_before_sql('heavy', $heavy);
		}
		else
		{
			wait_for($node, 'city', 'heavy');
		}
		$most = max($most, all_staged_bytes('heavy'));
	}
	return $most;
}

cmp_ok(most_of_heavy_rounds(0), '<', HEAVY_LIMIT, 'large payloads have room for some rounds, not for all');
stage_by_sql('heavy', 100_000);
my $most = most_of_heavy_rounds(1);
ok(defined $most, 'all rounds come before what SQL has staged');
cmp_ok($most // 0, '<', HEAVY_LIMIT, 'and large payloads have no more room then');
is($node->safe_psql('city', 'SELECT count(*) FROM heavy WHERE id > 0'), $heavy, 'every message is applied');
$node->safe_psql('city', q{SET ROLE ops; SELECT detect.drop_stream('heavy')});

log_is_clean($node);
$node->stop;
done_testing();
