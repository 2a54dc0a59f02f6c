# What a real Kafka loses, and what only looks like it: offsets of transactions
# and of compaction are no gap; records that were deleted, topics that were made
# again, and a log that has lost its end, are.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";

use DetectTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

skip_without_kafka();

my $kafka   = DetectTest::Kafka->start("$PostgreSQL::Test::Utils::tmp_check/kafka");
my $node    = make_node('main');
my $next_id = 1;
my %expected;    # so many events of each stream

# As the owner of the streams.
sub ask
{
	my ($sql) = @_;

	return $node->safe_psql('city', "SET ROLE ops; SET search_path = city, public; $sql");
}

# New messages, with a key if it is given.
sub messages
{
	my ($partition, $count, $key) = @_;

	return map { { partition => $partition, key => $key, payload => '{"id": ' . $next_id++ . '}' } } 1 .. $count;
}

# A committed transaction of so many messages.
sub produce
{
	my ($topic, $partition, $count, $key) = @_;

	$kafka->produce_messages($topic, 'begin', messages($partition, $count, $key), 'commit');
	$expected{$topic} += $count;
	return;
}

# A topic with ten messages in each partition, and a stream that has applied it.
sub make_stream
{
	my ($topic, $partitions, @configs) = @_;

	$kafka->obey('create-topic', $topic, $partitions, @configs);
	produce($topic, $_, 10) foreach 0 .. $partitions - 1;
	ask("CREATE TABLE $topic (id int PRIMARY KEY); SELECT detect.create_stream('$topic')");
	is_exact($topic, "$topic: ten messages in each partition");
	return;
}

# All that was produced and is still to be had is there, and nothing is wrong.
sub is_exact
{
	my ($stream, $what) = @_;

	ask("SELECT detect.wait_for('$stream', '180s')");
	is(ask("SELECT count(*) FROM $stream"), $expected{$stream}, $what);
	is(ask("SELECT string_agg(concat_ws(' ', kafka_partition, state, reason), ', ') FROM detect.stat_partition
			WHERE stream = '$stream' AND (state = 'paused' OR reason IS NOT NULL)"), '', "$what: no gap");
	return;
}

# Partition 0 of a stream comes to be paused for this reason, and what it says
# to do helps; how many events came then.
sub has_gap
{
	my ($stream, $reason, $what) = @_;

	ok($node->poll_query_until('city', qq{SELECT state = 'paused' AND reason ~ '$reason' FROM detect.stat_partition
			WHERE stream = '$stream' AND kafka_partition = 0}), "$stream: $what")
	  || diag(ask("SELECT state, reason, applied_offset, end_offset FROM detect.stat_partition WHERE stream = '$stream'"));
	is(ask("SELECT count(*) FROM $stream"), $expected{$stream}, "$stream: $what: nothing is skipped");
	return;
}

sub accept_gap
{
	my ($stream, $columns) = @_;

	is(ask(ask("SELECT remedy FROM detect.stat_partition WHERE stream = '$stream' AND kafka_partition = 0")), 1, "$stream: accepted");
	return ask("SELECT concat_ws(' ', $columns) FROM detect.gap WHERE stream = '$stream' AND kafka_partition = 0 ORDER BY gap_id DESC LIMIT 1");
}

# Delete a topic and make it again.
sub make_again
{
	my ($topic, $partitions) = @_;

	$kafka->obey('delete-topic', $topic);
	$kafka->obey('create-topic', $topic, $partitions);
	$kafka->renew_producer;
	return;
}

$node->append_conf('postgresql.conf', 'max_worker_processes = 20');
$node->start;
install_detect($node, 'city');
create_server($node, 'city', $kafka);

# ---------------------------------------------------------------------
# Transactions: a topic begins, goes on and ends with offsets that have no message
# ---------------------------------------------------------------------
make_stream('ledger', 2);
foreach my $partition (0, 1)
{
	$kafka->produce_messages('ledger', 'begin', messages($partition, 7), 'abort');
	produce('ledger', $partition, 3);
	$kafka->produce_messages('ledger', 'begin', messages($partition, 5), 'abort') for 1 .. 2;
}
is_exact('ledger', 'what was aborted is no gap');
$node->restart;
is_exact('ledger', 'nor after a restart, which reads on behind it');
produce('ledger', 1, 4);
is_exact('ledger', 'and on');

# A transaction that is aborted at the very beginning.
$kafka->obey('create-topic', 'aborted', 1);
$kafka->produce_messages('aborted', 'begin', messages(0, 5), 'abort');
ask("CREATE TABLE aborted (id int PRIMARY KEY); SELECT detect.create_stream('aborted')");
$expected{aborted} = 0;
is_exact('aborted', 'no message at all');
$node->restart;
produce('aborted', 0, 2);
is_exact('aborted', 'then two');

# ---------------------------------------------------------------------
# Compaction takes what was applied last
# ---------------------------------------------------------------------
$kafka->obey('create-topic', 'latest', 1, 'cleanup.policy=compact', 'segment.ms=100', 'min.cleanable.dirty.ratio=0.001');
produce('latest', 0, 10, "car-$_") foreach 1 .. 3;
ask("CREATE TABLE latest (id int PRIMARY KEY); SELECT detect.create_stream('latest'); SELECT detect.wait_for('latest', '180s')");
my $last = ask("SELECT last_offset FROM detect.stat_partition, LATERAL (SELECT applied_offset - 2 AS last_offset) l WHERE stream = 'latest' AND kafka_partition = 0");
ask("SELECT detect.pause('latest')");
my $is_gone = 0;
for my $try (1 .. 60)
{
	# each transaction lets the segment before it be closed and cleaned
	produce('latest', 0, 1, "car-$_") foreach 1 .. 3;
	$is_gone = ask("SELECT count(*) = 0 FROM detect.peek('city', 'latest', 100000, newest => false, timeout => '60s') WHERE kafka_offset = $last") eq 't';
	last if $is_gone;
}
ok($is_gone, 'compaction has taken the message that was applied last');
ask("SELECT detect.resume('latest'); SELECT detect.wait_for('latest', '180s')");
is(ask("SELECT state || COALESCE(reason, '') FROM detect.stat_partition WHERE stream = 'latest' AND kafka_partition = 0"), 'running', 'which is no gap');
is(ask("SELECT count(*) FROM latest WHERE id = @{[ $next_id - 1 ]}"), 1, 'the newest message is there');

# ---------------------------------------------------------------------
# Deleted records
# ---------------------------------------------------------------------
make_stream('retained', 2);
$kafka->obey('delete-records', 'retained', 0, 11);
$node->restart;
is_exact('retained', 'what was deleted after it was read is no gap');
produce('retained', 0, 5);
is_exact('retained', 'it goes on');
ask("SELECT detect.pause('retained')");
produce('retained', 0, 20);
produce('retained', 1, 20);
$kafka->obey('delete-records', 'retained', 0, 30);
ask("SELECT detect.resume('retained')");
ok($node->poll_query_until('city', 'SELECT count(*) = 45 FROM retained'), 'the other partition goes on');
$expected{retained} -= 20;
has_gap('retained', '^offset 17 is not in the topic any more, which begins at offset 30: 13 offsets are gone$', 'deleted before it was read');
is(accept_gap('retained', 'from_offset, to_offset, resume_offset'), '17 30 30', 'so many are gone');
$expected{retained} += 7;
is_exact('retained', 'what is left is read');

# ---------------------------------------------------------------------
# A topic that is made again: while the stream is down, and while it runs
# ---------------------------------------------------------------------
foreach my $is_down (1, 0)
{
	my $when = $is_down ? 'down' : 'up';
	# a stream that runs may look at the new topic before it has all of its messages
	my $end = $is_down ? '4' : '\d+';
	my $shorter = "the topic ends at offset $end, and was read up to offset 11: it was made again, or has lost messages";
	my $other   = 'the topic was made again: its message at offset 9 is not the one that was applied';

	foreach my $count (3, 30)
	{
		my $topic = "again_${when}_$count";

		make_stream($topic, 2);
		ask("SELECT detect.pause('$topic')") if $is_down;
		if (!$is_down)
		{
			$kafka->obey('delete-topic', $topic);
			has_gap($topic, '^the topic does not exist any more$', 'deleted while the stream runs');
			$kafka->obey('create-topic', $topic, 2);
			$kafka->renew_producer;
		}
		else
		{
			make_again($topic, 2);
		}
		my $before = $expected{$topic};
		produce($topic, $_, $count) foreach (0, 1);
		$expected{$topic} = $before;
		ask("SELECT detect.resume('$topic')") if $is_down;
		has_gap($topic, $count < 10 ? "^$shorter\$" : $is_down ? "^$other\$" : "^($shorter|$other)\$", "made again with $count messages");
		ok($node->poll_query_until('city', "SELECT count(*) = 2 FROM detect.stat_partition WHERE stream = '$topic' AND state = 'paused' AND reason ~ 'was made again'"),
			"$topic: in both partitions");
		is(ask("SELECT detect.accept_gap('$topic')"), 2, "$topic: accepted");
		$expected{$topic} += 2 * $count;
		is_exact($topic, "$topic: read from its beginning");
	}
}

# ---------------------------------------------------------------------
# A log that loses its end, as an unclean election makes it: an older copy
# ---------------------------------------------------------------------
my @torn = ('torn', 'regrown', 'shrunk');

make_stream($_, 1) foreach @torn;
$kafka->obey('stop');
system_or_bail('cp', '-a', "$kafka->{dir}/data/$_-0", "$kafka->{dir}/copy-$_") foreach @torn;
$kafka->obey('start');
$kafka->renew_producer;
produce($_, 0, 10) foreach ('torn', 'regrown');
is_exact($_, "$_: ten more") foreach ('torn', 'regrown');
$kafka->produce_messages('shrunk', 'begin', messages(0, 10));
ok($node->poll_query_until('city', q{SELECT end_offset = 21 FROM detect.stat_partition WHERE stream = 'shrunk' AND kafka_partition = 0}),
	'shrunk: ten more, which cannot be read yet');
ask("SELECT detect.pause('regrown')");
$kafka->obey('kill');
foreach my $topic (@torn)
{
	system_or_bail('rm', '-rf', "$kafka->{dir}/data/$topic-0");
	system_or_bail('mv', "$kafka->{dir}/copy-$topic", "$kafka->{dir}/data/$topic-0");
}
$kafka->obey('start');
$kafka->renew_producer;
has_gap('torn', '^the topic ends at offset 1\d, and was read up to offset 22: it was made again, or has lost messages$', 'the end is lost');
has_gap('shrunk', '^the topic ends at offset 1\d, and did end at offset 21: it was made again, or has lost messages; \d+ offsets are gone$',
	'what was not read is lost');
# only what was known of its end tells, which a crash takes with all that is staged
$node->stop('immediate');
$node->start;
has_gap('shrunk', 'did end at offset 21: it was made again, or has lost messages', 'the server has crashed since');
ask("SELECT detect.pause('shrunk')");
$node->stop('immediate');
$node->start;
ask("SELECT detect.resume('shrunk')");
has_gap('shrunk', 'did end at offset 21: it was made again, or has lost messages', 'and while the stream was paused');
my $before = $expected{regrown};
produce('regrown', 0, 20);
$expected{regrown} = $before;
ask("SELECT detect.resume('regrown')");
has_gap('regrown', '^the topic was made again: its message at offset 20 is not the one that was applied$', 'the end is lost and grown again');
like(accept_gap('torn', 'from_offset, to_offset, resume_offset'), qr/^22 22 0$/, 'torn: read from the beginning');
like(accept_gap('shrunk', 'from_offset, to_offset, resume_offset'), qr/^1[12] 21 0$/, 'shrunk: read from the beginning');
accept_gap('regrown', 'from_offset');
$expected{regrown} += 20;
is_exact($_, "$_: nothing is doubled") foreach @torn;

# ---------------------------------------------------------------------
# More partitions
# ---------------------------------------------------------------------
$kafka->obey('add-partitions', 'ledger', 3);
$kafka->renew_producer;
produce('ledger', 2, 6);
is_exact('ledger', 'a partition that is added is read from its first message');

log_is_clean($node);
$node->stop;
$kafka->stop;
done_testing();
