# What Kafka has lost is found, shown and never skipped: a topic that was made
# again, longer and shorter, one that is gone, one with fewer partitions, one
# that retention has overtaken.  Another mock cluster behind the same address of
# the server is a topic that was made again.  What is accepted is known for
# ever.  What only a real Kafka can do is in 052_real_kafka_gaps.pl.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";

use DetectTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use constant UNKNOWN_TOPIC => 3;

my $node    = make_node('main');
my $next_id = 1;
my @brokers;

# As the owner of the stream.
sub ask
{
	my ($sql) = @_;

	return $node->safe_psql('city', "SET ROLE ops; SET search_path = city, public; $sql");
}

# What a statement complains of, the owner's unless it is somebody else's.
sub complaint
{
	my ($sql, $role) = @_;
	my ($rc, $stdout, $stderr) =
	  $node->psql('city', "SET ROLE " . ($role // 'ops') . "; SET search_path = city, public; $sql", on_error_stop => 0);

	return $stderr;
}

# A cluster that has a topic with so many new messages in each partition.
sub start_broker
{
	my ($topic, @counts) = @_;
	my $broker = DetectTest::Broker->start();

	push @brokers, $broker;
	$broker->create_topic($topic, scalar @counts);
	produce($broker, $topic, @counts);
	return $broker;
}

# So many messages to each partition of a topic.
sub produce
{
	my ($broker, $topic, @counts) = @_;

	$broker->produce_messages($topic, map {
			my $partition = $_;
			map { { partition => $partition, payload => '{"id": ' . $next_id++ . '}' } } 1 .. $counts[$partition]
		} 0 .. $#counts);
	return;
}

# The server leads to another cluster from now on.
sub lead_to
{
	my ($broker) = @_;

	$node->safe_psql('city', "ALTER SERVER city OPTIONS (SET bootstrap_servers '" . $broker->bootstrap . "')");
	return;
}

# The partitions of a stream come to say this: of each its state, reason and
# applied offset, as regular expressions.
sub partitions_are
{
	my ($stream, $what, @expected) = @_;
	my $wanted = join(' AND ', 'count(*) = ' . @expected,
		map { "bool_or(kafka_partition = $_ AND concat_ws(' ', state, applied_offset, reason) ~ \$q\$^$expected[$_]\$\$q\$)" } 0 .. $#expected);

	return ok($node->poll_query_until('city',
			"SELECT $wanted FROM detect.stat_partition WHERE stream = '$stream' AND kafka_partition >= 0"), $what)
	  || diag(ask("SELECT kafka_partition, state, applied_offset, reason, remedy FROM detect.stat_partition WHERE stream = '$stream'")) && 0;
}

# All that is in the topic is there, once.
sub has_events
{
	my ($count, $what) = @_;

	ask("SELECT detect.wait_for('event', '180s')");
	return is(ask('SELECT count(*) FROM event'), $count, $what);
}

sub gaps
{
	my ($columns, $where) = @_;

	return ask("SELECT concat_ws(' ', $columns) FROM detect.gap WHERE $where ORDER BY kafka_topic, kafka_partition");
}

$node->start;
install_detect($node, 'city');
my $first = start_broker('event', 10, 10, 10);
$node->safe_psql('city', "CREATE SERVER city FOREIGN DATA WRAPPER detect_kafka OPTIONS (bootstrap_servers '"
	  . $first->bootstrap . "'); GRANT USAGE ON FOREIGN SERVER city TO ops; CREATE ROLE stranger LOGIN");
ask(q{CREATE TABLE event (id int PRIMARY KEY); SELECT detect.create_stream('event')});
has_events(30, 'the topic is applied');

# ---------------------------------------------------------------------
# The same topic, met again
# ---------------------------------------------------------------------
my $fingerprints = $node->safe_psql('city', 'SELECT count(DISTINCT last_fingerprint) FROM detect._applied_progress');
is($fingerprints, 3, 'the message that was applied last is known of each partition');
$node->restart;
produce($first, 'event', 1, 1, 1);
has_events(33, 'after a restart it is the same topic');
$first->command('down', 0);
stream_is($node, 'city', 'event', 'connecting', '.', 'the broker is lost');
$first->command('up', 0);
produce($first, 'event', 1, 1, 1);
has_events(36, 'and the same when it is back');
partitions_are('event', 'nothing is said', ('running 12') x 3);

# ---------------------------------------------------------------------
# Made again, and longer
# ---------------------------------------------------------------------
my $second = start_broker('event', 20, 12, 30);
my @made_again = ('paused 12 the topic was made again: its message at offset 11 is not the one that was applied') x 3;

lead_to($second);
partitions_are('event', 'a topic that was made again is another one, however long', @made_again);
is(ask('SELECT count(*) FROM event'), 36, 'nothing of it is applied');
is(ask(q{SELECT concat_ws('|', state, reason, remedy) FROM detect.stat_stream}),
	q{running|partition 0 of topic "event": the topic was made again: its message at offset 11 is not the one that was applied|SELECT detect.accept_gap('event', 'event', 0)},
	'the stream says so, and what to type');
$node->stop('immediate');
$node->start;
partitions_are('event', 'also after a crash', @made_again);
my ($since) = ask('SELECT min(paused_since) FROM detect.stat_partition') =~ /(.*)/;
ask("SELECT detect.resume('event')");
ok($node->poll_query_until('city', "SELECT count(*) = 3 FROM detect.stat_partition WHERE state = 'paused' AND paused_since > '$since'"),
	'detect.resume has it looked at again');
partitions_are('event', 'with the same result', @made_again);

# The server is led back: nothing has happened.
lead_to($first);
ask("SELECT detect.resume('event')");
produce($first, 'event', 1, 1, 1);
has_events(39, 'the topic that was read is found again');
partitions_are('event', 'and read on', ('running 13') x 3);

# Accepted: one partition, then all.
lead_to($second);
@made_again = map { s/12/13/r =~ s/offset 11/offset 12/r } @made_again;
$made_again[1] = 'paused 13 the topic ends at offset 12, and was read up to offset 13: it was made again, or has lost messages';
partitions_are('event', 'made again, longer and shorter', @made_again);
is(ask("SELECT detect.accept_gap('event', 'event', 2)"), 1, 'a gap is accepted');
partitions_are('event', 'that partition is read from its beginning, no other', @made_again[0, 1], 'running 30');
like(complaint("SELECT detect.accept_gap('event', 'event', 2)"),
	qr/ERROR:  partition 2 of topic "event" has no gap\nHINT:  detect.seek has it read on/, 'which is accepted once');
is(ask("SELECT detect.accept_gap('event')"), 2, 'all others together');
has_events(39 + 62, 'all that is there is read');
is(ask("SELECT detect.accept_gap('event')"), 0, 'there is no gap any more');
is(gaps('kafka_partition, from_offset, to_offset, resume_offset, accepted_by, acting_as', 'true'),
	join("\n", map { "$_ 13 13 0 " . $node->safe_psql('city', 'SELECT session_user') . ' ops' } 0 .. 2), 'detect.gap has them');
is(gaps('reason', 'kafka_partition = 0'), $made_again[0] =~ s/paused 13 //r, 'and why');
is(ask('SELECT bool_and(detected_at < accepted_at AND accepted_at < clock_timestamp()) FROM detect.gap'), 't', 'and when');
is(ask(q{SELECT detail FROM detect.history WHERE verb = 'accept_gap' ORDER BY history_id}),
	"event/2: 13 to 0\nevent/0: 13 to 0, event/1: 13 to 0", 'so has detect.history');

# ---------------------------------------------------------------------
# Shorter; who may accept it, and from where on it is read
# ---------------------------------------------------------------------
my $third = start_broker('event', 5, 11, 0);

ask(q{CREATE TABLE keyless (id int); SELECT detect.create_stream('keyless', topic => 'event', key => '{}');
	SELECT detect.wait_for('keyless', '180s')});
lead_to($third);
my @shorter = (
	'paused 20 the topic ends at offset 5, and was read up to offset 20: it was made again, or has lost messages',
	'paused 12 the topic ends at offset 11, and was read up to offset 12: it was made again, or has lost messages',
	'paused 30 the topic ends at offset 0, and was read up to offset 30: it was made again, or has lost messages');
partitions_are($_, "$_: a topic that is shorter", @shorter) foreach ('event', 'keyless');
like(complaint("SELECT detect.accept_gap('event')", 'stranger'), qr/must be owner of stream "event"/, 'a stranger may not accept a gap');
is($node->safe_psql('city', 'SET ROLE stranger; SELECT count(*) FROM detect.gap'), 0, 'nor see one');
like(complaint("SELECT detect.accept_gap('event', at_offset => 5)"), qr/at_offset is an offset of one partition/, 'one offset for all');
like(complaint("SELECT detect.accept_gap('event', partition => 0, at_offset => 6)"),
	qr/partition 0 of topic "event" has no offset 6\nDETAIL:  It begins at offset 0, and its next message will have offset 5\./, 'an offset that is not there');
like(complaint("SELECT detect.accept_gap('keyless')"),
	qr/stream "keyless" has no key: .*\nDETAIL:  The partition has offsets 0 to 5 now, and is applied up to offset 19\.\nHINT:  Name topic, partition and at_offset/,
	'without a key the caller must know');
is(ask("SELECT detect.accept_gap('keyless', partition => $_, at_offset => 0)"), 1, 'and says') foreach (0 .. 2);
is(ask("SELECT detect.accept_gap('event', partition => 0, at_offset => 3)"), 1, 'read from an offset');
is(ask("SELECT detect.accept_gap('event')"), 2, 'the others from their beginning');
has_events(101 + 2 + 11, 'what lies before that offset is left out');
is(gaps('from_offset, to_offset, resume_offset', "stream = 'event' AND accepted_at > (SELECT max(accepted_at) FROM detect.gap WHERE stream = 'keyless')"),
	"20 20 3\n12 12 0\n30 30 0", 'detect.gap has them');
ask("SELECT detect.wait_for('keyless', '180s'); SELECT detect.drop_stream('keyless')");
is(ask('SELECT count(*) FROM keyless'), 62 + 16, 'every message of both topics is an event without a key');
is(gaps('kafka_partition', "stream = 'keyless'"), "0\n1\n2", 'the gaps of a stream that was dropped are seen by who accepted them');

# ---------------------------------------------------------------------
# Not there any more: the topic, a partition
# ---------------------------------------------------------------------
$third->command('topic_error', 'event', UNKNOWN_TOPIC);
$node->restart;
my @gone = map { "$_ the topic does not exist any more" } ('paused 5', 'paused 11');
partitions_are('event', 'a topic that is gone; a partition of it that nobody had read a message of is none', @gone, '.* 0.*');
$third->command('topic_error', 'event', 0);
partitions_are('event', 'it was there after all', 'running 5', 'running 11', 'running 0');
produce($third, 'event', 1, 1, 1);
has_events(117, 'and goes on by itself');

$third->command('topic_error', 'event', UNKNOWN_TOPIC);
$node->restart;
partitions_are('event', 'gone again', map { "paused $_ the topic does not exist any more" } (6, 12, 1));
is(ask("SELECT detect.accept_gap('event')"), 3, 'accepted while the topic is gone');
stream_is($node, 'city', 'event', 'connecting', '^topic "event" does not exist on server "city"', 'then a topic of that name is waited for');
is(gaps('from_offset, to_offset, resume_offset', "reason ~ 'not exist'"), "6 6 0\n12 12 0\n1 1 0", 'to be read from its beginning');
my $duplicates = ask("SELECT duplicates FROM detect.stat_stream WHERE stream = 'event'");
$third->command('topic_error', 'event', 0);
produce($third, 'event', 1, 1, 1);
has_events(123, 'as it is');
is(ask("SELECT duplicates FROM detect.stat_stream WHERE stream = 'event'") - $duplicates, 6 - 3 + 12 + 1,
	'what it had already is known by its key');

my $fourth = start_broker('event', 40, 40);
lead_to($fourth);
partitions_are('event', 'fewer partitions', 'paused 7 the topic was made again: .*', 'paused 13 the topic was made again: .*',
	'paused 2 the topic has 2 partitions and was made again');
is(ask("SELECT detect.accept_gap('event', 'event', 2)"), 1, 'accepted');
partitions_are('event', 'a partition that does not exist is forgotten', map { "paused $_ the topic was made again: .*" } (7, 13));
is(gaps('from_offset, to_offset, COALESCE(resume_offset::text, $$-$$)', "reason ~ '2 partitions'"), '2 2 -', 'detect.gap has it');
is(ask("SELECT detect.accept_gap('event')"), 2, 'the others, too');
has_events(203, 'all is read');

# ---------------------------------------------------------------------
# Retention: the mock broker keeps 5 MB a partition
# ---------------------------------------------------------------------
ask("SELECT detect.alter_stream('event', consumers => 2)");
has_events(203, 'two consumers');
ask("SELECT detect.pause('event')");
$fourth->command('produce', 'event', 1, '-', '{"padding": "' . 'x' x 900_000 . '"}') for 1 .. 20;
produce($fourth, 'event', 3, 3);
ask("SELECT detect.resume('event')");
partitions_are('event', 'retention was faster', 'running 43',
	'paused 40 offset 40 is not in the topic any more, which begins at offset \d+: \d+ offsets are gone');
my ($begin, $count) = ask("SELECT reason FROM detect.stat_partition WHERE state = 'paused'") =~ /offset (\d+): (\d+) offsets/;
is($begin - 40, $count, 'so many offsets are gone');
is(ask('SELECT count(*) FROM event'), 206, 'the other partition goes on');
is(ask("SELECT detect.accept_gap('event', partition => 1, at_offset => 60)"), 1, 'accepted, and some more with it');
has_events(209, 'read from there');
is(gaps('from_offset, to_offset, resume_offset', "reason ~ 'offsets are gone'"), '40 60 60', 'detect.gap has all that was not read');

# ---------------------------------------------------------------------
# What is staged may be nowhere else
# ---------------------------------------------------------------------
my $holder = $node->background_psql('city');
$holder->query_safe('BEGIN; LOCK TABLE city.event IN SHARE MODE');
produce($fourth, 'event', 5, 5);
ok($node->poll_query_until('city', q{SELECT bool_and(staged_offset = applied_offset + 5) FROM detect.stat_partition WHERE kafka_partition >= 0}),
	'messages are staged and not applied');
my $fifth = start_broker('event', 100, 100);
lead_to($fifth);
ok($node->poll_query_until('city', q{SELECT count(*) = 2 FROM detect._staged_progress WHERE paused_reason ~ 'made again'}),
	'the topic is made again meanwhile');
like(complaint("SELECT detect.accept_gap('event')"),
	qr/messages of partition 0 of topic "event" are staged and not applied yet\nDETAIL:  Kafka may not have them any more/, 'they are applied first');
$holder->query_safe('COMMIT');
$holder->quit;
partitions_are('event', 'applied', map { "paused $_ the topic was made again.*" } (48, 68));
is(ask("SELECT detect.accept_gap('event')"), 2, 'then the gap may be accepted');
has_events(419, 'nothing that was delivered is lost');

# ---------------------------------------------------------------------
# Dead letters of a partition that is forgotten
# ---------------------------------------------------------------------
# So many messages to each partition, of which the last two have a bad number.
sub produce_letters
{
	my ($broker, $topic, @counts) = @_;

	$broker->produce_messages($topic, map {
			my $partition = $_;
			my $good      = $counts[$partition] - 2;
			map { { partition => $partition, payload => sprintf('{"id": %d, "n": "%s"}', $next_id++, $_ > $good ? 'bad' : 1) } } 1 .. $counts[$partition]
		} 0 .. $#counts);
	return;
}

# The stream goes on: all that is there is applied, and its dead letters have failed
# so often.
sub letters_are
{
	my ($events, $letters, $what) = @_;
	my ($rc) = $node->psql('city', "SELECT detect.wait_for('letter', '30s')");

	is($rc, 0, "$what: the stream goes on") or diag(ask(q{SELECT state, reason FROM detect.stat_stream WHERE stream = 'letter'}));
	is(ask('SELECT count(*) FROM letter'), $events, "$what: events");
	return is(
		ask(q{SELECT string_agg(concat_ws(' ', kafka_partition, n, attempts), ', ' ORDER BY kafka_partition)
			FROM (SELECT kafka_partition, count(*) AS n, attempts FROM detect.dead_letter WHERE stream = 'letter' GROUP BY 1, 3) l}),
		$letters, "$what: dead letters");
}

my $sixth = DetectTest::Broker->start();
$sixth->create_topic('letter', 3);
$sixth->create_topic('position', 1);
produce_letters($sixth, 'position', 4);
produce_letters($sixth, 'letter', 4, 4, 4);
create_server($node, 'city', $sixth, 'town');
ask(q{CREATE TABLE letter (id int PRIMARY KEY, n int); SELECT detect.create_stream('letter', server => 'town')});
letters_are(6, '0 2 1, 1 2 1, 2 2 1', 'a topic of three partitions');
ask(q{CREATE TABLE position (id int PRIMARY KEY, n int);
	SELECT detect.create_stream('position', server => 'town', dead_letter_limit => 0, on_limit => 'keep_offsets')});
is(ask(q{SELECT detect.wait_for('position'); SELECT count(*) FROM position}), "\n2", 'a topic of whose dead letters the position alone is kept');

my $seventh = DetectTest::Broker->start();
$seventh->create_topic('letter', 2);
$seventh->create_topic('position', 1);
produce_letters($seventh, 'position', 4);
# at the same offsets it has dead letters, too
produce_letters($seventh, 'letter', 4, 4);
$node->safe_psql('city', "ALTER SERVER town OPTIONS (SET bootstrap_servers '" . $seventh->bootstrap . "')");
partitions_are('letter', 'made again with two', ('paused 4 the topic was made again: .*') x 2, 'paused 4 the topic has 2 partitions and was made again');
is(ask("SELECT detect.accept_gap('letter')"), 3, 'accepted, and one of them forgotten');
letters_are(10, '0 4 1, 1 4 1, 2 2 1', 'all is read, and no letter takes the place of another');
is(ask("SELECT detect.retry_dead_letters('letter')"), 10, 'its dead letters are retried with the others');
letters_are(10, '0 4 2, 1 4 2, 2 2 2', 'they fail again');
ask(q{ALTER TABLE letter ALTER n TYPE text; SELECT detect.alter_stream('letter', columns => 'id int, n text')});
is(ask("SELECT detect.retry_dead_letters('letter')"), 10, 'mended');
letters_are(20, '', 'they are events');

# What stands at the position of an older one is another message.
partitions_are('position', 'the other topic was made again, too', 'paused 4 the topic was made again: .*');
ask(q{SELECT detect.accept_gap('position'); SELECT detect.wait_for('position');
	ALTER TABLE position ALTER n TYPE text; SELECT detect.alter_stream('position', columns => 'id int, n text')});
is(ask(q{SELECT count(*) FROM detect.dead_letter WHERE stream = 'position' AND NOT is_whole}), 4, 'dead letters of both at the same offsets');
my ($rc, $retried, $notice) = $node->psql('city', q{SET ROLE ops; SET search_path = city, public; SELECT detect.retry_dead_letters('position')});
is($retried, 2, 'those of the new topic are retried');
like($notice, qr/2 dead letters of stream "position" are not retried/, 'the others are not');
is(ask(q{SELECT detect.wait_for('position'); SELECT count(*), count(*) FILTER (WHERE n = 'bad') FROM position}), "\n6|2", 'and become events');
is(ask(q{SELECT count(*) FROM detect.dead_letter WHERE reason LIKE '%; Kafka does not have the message any more'}), 2, 'what is left says why');

$node->restart;
$seventh->produce_messages('letter', map { { partition => $_, payload => '{"id": ' . $next_id++ . '}' } } 0 .. 1);
letters_are(22, '', 'after a restart');
partitions_are('letter', 'what was forgotten stays so', 'running 5', 'running 5');
is(ask("SELECT min(dead_letters) FROM detect.stat_partition WHERE stream = 'letter'"), 0, 'no partition has fewer than no dead letters');

log_is_clean($node);
$node->stop;
done_testing();
