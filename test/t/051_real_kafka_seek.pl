# What only a real Kafka can say: which offset belongs to a time, and that a
# transaction is open.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";

use DetectTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

skip_without_kafka();

my $kafka = DetectTest::Kafka->start("$PostgreSQL::Test::Utils::tmp_check/kafka");
my $node  = make_node('main');
my $next_id = 1;

# As the owner of the stream.
sub ask
{
	my ($sql) = @_;

	return $node->safe_psql('city', "SET ROLE ops; SET search_path = city, public; $sql");
}

# A message of a partition, made at a time.
sub message
{
	my ($partition, $ms) = @_;

	return { partition => $partition, ms => $ms, payload => '{"id": ' . $next_id++ . '}' };
}

$node->start;
install_detect($node, 'city');
$kafka->create_topic('timed', 2);
create_server($node, 'city', $kafka);

# ---------------------------------------------------------------------
# Seek by time: two messages a second, in partition 1 for half of the time
# ---------------------------------------------------------------------
my $first_ms = int(time() / 10) * 10_000 - 1_000_000;
my @sent = map { (message(0, $first_ms + $_ * 500), $_ < 100 ? message(1, $first_ms + $_ * 500 + 250) : ()) } 0 .. 199;

# One transaction: control records have times, too, and this one comes last.
$kafka->produce_messages('timed', 'begin', @sent, 'commit');
ask(q{CREATE TABLE timed (id int PRIMARY KEY); SELECT detect.create_stream('timed'); SELECT detect.wait_for('timed')});
is(ask('SELECT count(*) FROM timed'), scalar(@sent), 'all events are there');
my @ends = split(/,/, ask(q{SELECT string_agg(applied_offset::text, ',' ORDER BY kafka_partition) FROM detect.stat_partition WHERE kafka_partition >= 0}));

# The first offset of each partition that is not before a time: by what was sent.
sub first_offsets
{
	my ($ms) = @_;
	my @first = @ends;

	foreach my $message (reverse @sent)
	{
		$first[ $message->{partition} ] = $message->{offset} if $message->{ms} >= $ms;
	}
	return join(',', @first);
}

my $duplicates = 0;

# The offset of the first message that is left is found for a time of its own.
foreach my $after ('-5000000', '0', '0.001', '1', '20250', '20251', '60000', '99500')
{
	my $ms = $first_ms + ($after == 0.001 ? 1 : $after);
	ask("SELECT detect.pause('timed'); SELECT detect.seek('timed', to_time => to_timestamp($first_ms / 1000) + interval '$after ms')");
	my $offsets = ask(q{SELECT string_agg(applied_offset::text, ',' ORDER BY kafka_partition) FROM detect.stat_partition WHERE kafka_partition >= 0});
	my $expected = first_offsets($ms);

	# behind the last message there are only control records: which of those offsets is the end, does not matter
	is(join(',', map { my $p = $_; my $o = (split(/,/, $offsets))[$p]; my $e = (split(/,/, $expected))[$p];
				$e == $ends[$p] && $o >= $e - 1 ? $e : $o } 0 .. 1), $expected, "first messages at $after ms");
	$duplicates += grep { $_->{ms} >= $ms } @sent;
	ask("SELECT detect.resume('timed'); SELECT detect.wait_for('timed')");
	is(ask('SELECT count(*) || \' \' || (SELECT duplicates FROM detect.stat_stream) FROM timed'), @sent . " $duplicates", 'which alone come again');
}
is(ask("SELECT detect.seek('timed', to_time => now() + interval '1 hour')"), '0', 'no message is that late');

# ---------------------------------------------------------------------
# An open transaction
# ---------------------------------------------------------------------
foreach my $consumers (0, 2)
{
	foreach my $end ('commit', 'abort')
	{
		ask("SELECT detect.alter_stream('timed', consumers => $consumers); SELECT detect.wait_for('timed')");
		my $before = ask('SELECT count(*) FROM timed');
		my @open = map { message(0) } 1 .. 10;

		$kafka->produce_messages('timed', 'begin', @open);
		ok($node->poll_query_until('city', q{SELECT state = 'waiting for an open transaction' AND lag_messages = 10
				AND reason ~ '^offset \d+ belongs to a transaction that is open, seen first at ' AND remedy ~ '^end the transaction'
				FROM detect.stat_partition WHERE kafka_partition = 0}),
			"consumers => $consumers: a partition says that it waits for an open transaction")
		  or diag(ask('SELECT * FROM detect.stat_partition'));
		is(ask(q{SELECT concat_ws(' ', state, reason ~ '^partition 0 of topic "timed": offset \d+ belongs', remedy ~ '^end the transaction') FROM detect.stat_stream}),
			'waiting for an open transaction t t', 'and so does the stream');
		is(ask(q{SELECT state FROM detect.stat_partition WHERE kafka_partition = 1}), 'running', 'while the other partition does not');
		ask("SELECT detect.wait_for('timed')");
		$kafka->produce_messages('timed', $end);
		ok($node->poll_query_until('city', q{SELECT bool_and(state = 'running' AND reason IS NULL AND remedy IS NULL AND COALESCE(lag_messages, 0) = 0)
				FROM detect.stat_partition}), "$end ends it");
		is(ask(q{SELECT state, remedy FROM detect.stat_stream}), 'running|', 'for the stream, too');
		is(ask('SELECT count(*) FROM timed') - $before, $end eq 'commit' ? 10 : 0, "what it held was worth as $end says");
	}
}

log_is_clean($node);
$node->stop;
$kafka->stop;
done_testing();
