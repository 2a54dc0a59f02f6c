# Dead letters of messages: limits, positions alone, payloads cut, and a retry
# that reads Kafka again; a worker killed in the middle of a retry; and a bad
# deploy upstream, played from its first bad message to the last good row.

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

# A topic of two partitions with these messages, and a stream of it.
sub create_case
{
	my ($name, $table_columns, $messages, %options) = @_;
	my $arguments = join('', map { ", $_ => $options{$_}" } sort keys %options);

	$broker->create_topic($name, 2);
	$broker->produce($name, @$messages);
	$node->safe_psql(
		'city', qq{
		SET client_min_messages = warning;
		SET ROLE ops;
		CREATE TABLE $name ($table_columns);
		SELECT detect.create_stream('$name', server => 'city'$arguments)});
	return;
}

# Messages with these numbers, of which every third has a bad one.
sub numbers
{
	return map { $_ % 3 ? qq({"id": $_, "n": $_}) : qq({"id": $_, "n": "bad $_"}) } @_;
}

sub gives
{
	my ($sql, $value, $what) = @_;

	return is($node->safe_psql('city', $sql), $value, $what);
}

# Outcomes of a stream in the order accepted, duplicate, dead letter, and whether
# those of each partition are as many as its messages.
sub outcomes_are
{
	my ($stream, $outcomes, $what) = @_;
	my $ends = join(',', $broker->ends($stream));

	wait_for($node, 'city', $stream);
	return gives(
		qq{SELECT sum(accepted), sum(duplicates), sum(dead_letters),
			string_agg((accepted + duplicates + filtered + expired + dead_letters)::text, ',' ORDER BY kafka_partition)
		FROM detect.stat_partition WHERE stream = '$stream' AND kafka_partition >= 0},
		"$outcomes|$ends", $what);
}

# Letters of a stream by what is kept of them.
sub letters_are
{
	my ($stream, $kept, $what) = @_;

	return gives(
		qq{SELECT string_agg(concat_ws(' ', n, kept, attempts), ', ' ORDER BY kept, attempts)
		FROM (SELECT count(*) AS n, attempts,
				CASE WHEN is_whole THEN 'whole' WHEN payload IS NULL THEN 'position' ELSE 'cut' END AS kept
			FROM detect.dead_letter WHERE stream = '$stream' GROUP BY 2, 3) k},
		$kept, $what);
}

# what is staged together is one commit, however slow the machine is
$node->append_conf('postgresql.conf', 'detect.max_batch_time = 0');
$node->start;
install_detect($node, 'city');
$broker->create_topic('camera', 4);
create_camera($node, 'city', $broker);

# ---------------------------------------------------------------------
# Positions alone
# ---------------------------------------------------------------------

create_case('kept', 'id int PRIMARY KEY, n int, kafka_key bytea, kafka_value bytea, kafka_headers jsonb', [ numbers(1 .. 3000) ],
	dead_letter_limit => 100, on_limit => "'keep_offsets'");
outcomes_are('kept', '2000|0|1000', 'past the limit the stream goes on');
letters_are('kept', '900 position 1, 100 whole 1', 'and keeps positions alone');
gives(q{SELECT count(*) FROM detect.dead_letter WHERE stream = 'kept'
	AND NOT is_whole AND (kafka_key IS NOT NULL OR kafka_headers IS NOT NULL OR payload_bytes IS NULL OR sqlstate <> '22P02')},
	'0', 'with size and reason');
$broker->command('produce', 'kept', 0, 'the key', '{"id": 5001, "n": "no"}', '@1577836800000', 'h=v');
$broker->command('produce', 'kept', 0, 'the key', '-');
$broker->{ends}{kept}[0] += 2;
outcomes_are('kept', '2000|0|1002', 'a message with a key and a header, and one without a payload');
gives("SELECT detect.retry_dead_letters('kept')", '1002', 'a retry asks for all');
outcomes_are('kept', '2000|0|1002', 'which all fail again');
letters_are('kept', '902 position 2, 100 whole 2', 'and no more than the limit keeps its payload');
$node->safe_psql('city', q{
	ALTER TABLE city.kept ALTER n TYPE text;
	SELECT detect.alter_stream('kept', columns => 'id int, n text, kafka_key bytea, kafka_value bytea, kafka_headers jsonb')});
gives("SELECT detect.retry_dead_letters('kept', sqlstate => '22P02')", '1001', 'a retry of those with one SQLSTATE');
outcomes_are('kept', '3001|0|1', 'reads Kafka again, and all become events');
gives("SELECT sqlstate, reason FROM detect.dead_letter WHERE stream = 'kept'",
	'22023|message has no payload', 'but for the one that has nothing');
gives("SELECT kafka_key, kafka_value, kafka_headers FROM city.kept WHERE id = 5001",
	'\x746865206b6579|\x7b226964223a20353030312c20226e223a20226e6f227d|[["h", "v"]]', 'with key, bytes and headers');
gives(q{
	SELECT count(*) FROM (SELECT id, n FROM city.kept WHERE id < 5000
		EXCEPT ALL SELECT i, CASE WHEN i % 3 = 0 THEN 'bad ' ELSE '' END || i FROM generate_series(1, 3000) i) d},
	'0', 'each as it was produced');

# What Kafka has thrown away is not retried, and said so: the mock keeps 5 MB.
create_case('lost', 'id int PRIMARY KEY, n int', [ numbers(1 .. 30) ], dead_letter_limit => 0, on_limit => "'keep_offsets'");
outcomes_are('lost', '20|0|10', 'a limit of none');
my $padding = 'x' x 50_000;
foreach my $hundred (1 .. 3)
{
	$broker->produce('lost', map { qq({"id": $_, "n": $_, "padding": "$padding"}) } $hundred * 100 + 1 .. $hundred * 100 + 100);
	wait_for($node, 'city', 'lost');
}
outcomes_are('lost', '320|0|10', 'many long messages behind');
my ($rc, $stdout, $stderr) = $node->psql('city', "SELECT detect.retry_dead_letters('lost')");
is($stdout, '0', 'messages that are no more are not retried');
like($stderr, qr/10 dead letters of stream "lost" are not retried/, 'which is said');
gives(q{SELECT count(*) FILTER (WHERE reason ~ '; Kafka does not have the message any more$') FROM detect.dead_letter WHERE stream = 'lost'},
	'10', 'and written into the reason');

# ---------------------------------------------------------------------
# Payloads that are cut
# ---------------------------------------------------------------------

$node->append_conf('postgresql.conf', "detect.dead_letter_payload_size = 2kB\n");
$node->reload;
create_case('cut', 'id int PRIMARY KEY, n int, long text',
	[ map { qq({"id": $_, "n": "bad", "long": ") . ('y' x ($_ * 500)) . '"}' } 1 .. 8 ]);
outcomes_are('cut', '0|0|8', 'long messages');
letters_are('cut', '4 cut 1, 4 whole 1', 'are cut where they are longer than the setting');
gives(q{SELECT string_agg(concat_ws('/', octet_length(payload), payload_bytes), ' ' ORDER BY payload_bytes)
	FROM detect.dead_letter WHERE stream = 'cut' AND NOT is_whole},
	join(' ', map { '2048/' . (33 + $_ * 500) } 5 .. 8), 'and tell how long they were');
gives("SELECT detect.retry_dead_letters('cut')", '8', 'a retry');
outcomes_are('cut', '0|0|8', 'that fails');
letters_are('cut', '4 cut 2, 4 whole 2', 'leaves them as they were');
$node->safe_psql('city', q{
	ALTER TABLE city.cut ALTER n TYPE text;
	SELECT detect.alter_stream('cut', columns => 'id int, n text, long text');
	SELECT detect.retry_dead_letters('cut')});
outcomes_are('cut', '8|0|0', 'a retry that does not');
gives("SELECT count(*) FROM city.cut WHERE long = repeat('y', id * 500)", '8', 'has the whole message');

# ---------------------------------------------------------------------
# The stream pauses
# ---------------------------------------------------------------------

create_case('pausing', 'id int PRIMARY KEY, n int', [ numbers(1 .. 3000) ], dead_letter_limit => 77, on_limit => "'pause'");
stream_is($node, 'city', 'pausing', 'paused', 'has 77 dead letters, and its dead_letter_limit is 77', 'a stream that is to pause at its limit');
letters_are('pausing', '77 whole 1', 'has as many dead letters as it may');
$node->safe_psql('city', q{
	ALTER TABLE city.pausing ALTER n TYPE text;
	SELECT detect.alter_stream('pausing', columns => 'id int, n text');
	SELECT detect.retry_dead_letters('pausing');
	SELECT detect.resume('pausing')});
outcomes_are('pausing', '3000|0|0', 'mended, retried and resumed, nothing is lost');

# ---------------------------------------------------------------------
# Names of columns
# ---------------------------------------------------------------------

create_case('names', qq{id int PRIMARY KEY, "tab\there" int, "a ""b"" \\ c" int}, [
		'{"id": 1, "tab\there": 2, "a \"b\" \\\\ c": 3}' ]);
outcomes_are('names', '1|0|0', 'members with any name');
gives('SELECT * FROM city.names', '1|2|3', 'each is found');

# ---------------------------------------------------------------------
# Items of arrays
# ---------------------------------------------------------------------

create_case('items', 'camera int, id int PRIMARY KEY, n int', [
		'{"camera": 1, "items": [{"id": 1, "n": 1}, {"id": 2, "n": "two"}, {"id": 3, "n": 3}, {"id": 4, "n": "four"}]}',
		'{"camera": "x", "items": [{"id": 11, "n": 11}, {"id": 12, "n": "twelve"}, {"id": 1, "n": 1}]}',
		'{"camera": "y", "items": []}',
		'{"camera": 3, "items": [{"id": 21, "n": 21}]}' ],
	unnest => q{'$.items'}, fields => q{'{"camera": "$.camera"}'});
wait_for($node, 'city', 'items');
my $items_sql = q{SELECT accepted, duplicates, dead_letters FROM detect.stat_stream WHERE stream = 'items'};
my $letters_sql = q{SELECT string_agg(kafka_partition || '/' || kafka_offset || '/' || element || ' ' || attempts, ', '
	ORDER BY kafka_partition, kafka_offset, element) FROM detect.dead_letter WHERE stream = 'items'};
gives($items_sql, '3|0|4', 'items and whole messages that are bad');
gives($letters_sql, '0/0/1 1, 0/0/3 1, 0/1/-1 1, 1/0/-1 1', 'each at its place');
$node->safe_psql('city', q{
	ALTER TABLE city.items ALTER camera TYPE text;
	SELECT detect.alter_stream('items', columns => 'camera text, id int, n int');
	SELECT detect.retry_dead_letters('items')});
wait_for($node, 'city', 'items');
# 2 and 4 fail again; x gives 11, a letter for 12, and 1 again; y has no items
gives($items_sql, '4|1|3', 'a message that can be taken apart by now becomes its items');
gives($letters_sql, '0/0/1 2, 0/0/3 2, 1/0/1 1', 'those that fail become letters of their own');
$node->safe_psql('city', q{
	ALTER TABLE city.items ALTER n TYPE text;
	SELECT detect.alter_stream('items', columns => 'camera text, id int, n text');
	SELECT detect.retry_dead_letters('items')});
wait_for($node, 'city', 'items');
gives($items_sql, '7|1|0', 'which are retried in turn');
gives(q{SELECT string_agg(concat_ws(' ', camera, id, n), ', ' ORDER BY id) FROM city.items},
	'1 1 1, 1 2 two, 1 3 3, 1 4 four, x 11 11, x 12 twelve, 3 21 21', 'each item once');

# ---------------------------------------------------------------------
# A worker that is killed in the middle of a retry
# ---------------------------------------------------------------------

# It retries 500 letters at a time: one is held in the second batch.
$node->safe_psql('city', q{
	SET ROLE ops;
	CREATE FUNCTION city.hold() RETURNS trigger LANGUAGE plpgsql AS
		'BEGIN PERFORM pg_advisory_xact_lock_shared(1); RETURN new; END'});
foreach my $victim ('worker', 'postmaster', 'immediate')
{
	my $stream = "killed_$victim";
	my $blocker = $node->background_psql('city');

	create_case($stream, 'id int, n int', [ numbers(1 .. 3000) ], key => "'{}'");
	outcomes_are($stream, '2000|0|1000', 'a stream without a key, which keeps every message');
	my $held = $node->safe_psql('city', qq{
		SELECT convert_from(payload, 'UTF8')::json ->> 'id' FROM detect.dead_letter WHERE stream = '$stream'
		ORDER BY dead_letter_id OFFSET 700 LIMIT 1});
	$blocker->query_safe('SELECT pg_advisory_lock(1)');
	$node->safe_psql('city', qq{
		SET ROLE ops;
		CREATE TRIGGER hold BEFORE INSERT ON city.$stream FOR EACH ROW WHEN (new.id = $held) EXECUTE FUNCTION city.hold();
		ALTER TABLE city.$stream ALTER n TYPE text;
		SELECT detect.alter_stream('$stream', columns => 'id int, n text');
		SELECT detect.retry_dead_letters('$stream')});
	$node->poll_query_until('city', q{SELECT count(*) = 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted})
	  or die 'the retry is not held';
	gives("SELECT count(*) FROM detect.dead_letter WHERE stream = '$stream'", '500', 'half of the letters are retried');
	strike($node, $victim eq 'worker' ? worker_pid($node, 'city', $stream) : $victim);
	eval { $blocker->quit };
	outcomes_are($stream, '3000|0|0', "$victim: the retry that was killed goes on by itself");
	gives(qq{
		WITH sent AS (SELECT i, CASE WHEN i % 3 = 0 THEN 'bad ' ELSE '' END || i FROM generate_series(1, 3000) i)
		SELECT count(*) FROM ((TABLE city.$stream EXCEPT ALL TABLE sent) UNION ALL (TABLE sent EXCEPT ALL TABLE city.$stream)) d},
		'0', "$victim: nothing is lost and nothing doubled");
}

# ---------------------------------------------------------------------
# A bad deploy upstream
# ---------------------------------------------------------------------

# The events that a producer meant to send: every tenth number of 0 .. 2 is
# broken by its deploy, each in its own way.
sub deploy
{
	my ($deployed, @ids) = @_;

	return map {
		my $way = $deployed ? $_ % 10 : 9;
		$way == 0   ? qq({"id": $_, "speed": "$_ km/h", "unit": "km"})
		  : $way == 1 ? qq({"id": $_, "speed": $_, "unit": "km", "extra": )
		  : $way == 2 ? qq({"id": $_, "speed": $_, "unit": "miles"})
		  :             qq({"id": $_, "speed": $_, "unit": "km"})
	} @ids;
}

create_case('deployed', 'id int PRIMARY KEY, speed int NOT NULL', [ deploy(0, 1 .. 2000) ],
	columns => "'id int, speed int, unit text'",
	query   => q{$$SELECT b.id, b.speed, CASE WHEN b.unit <> 'km' THEN 'speed in ' || b.unit END AS reject_reason FROM batch b$$});
$node->safe_psql('city', q{SET ROLE ops; SET search_path = city, public;
	SELECT detect.create_rollup('deployed_hundreds', 'SELECT id / 100 AS hundred, count(*) AS n, sum(speed) AS speeds FROM deployed GROUP BY 1')});
outcomes_are('deployed', '2000|0|0', 'before the deploy');
my $last = 2000;
foreach my $minute (1 .. 5)
{
	$broker->produce('deployed', deploy(1, $last + 1 .. $last + 2000));
	$last += 2000;
	outcomes_are('deployed', (2000 + $minute * 1400) . '|0|' . $minute * 600, "minute $minute after it: the good ones are there");
}
gives(q{SELECT string_agg(concat_ws(' ', stage, sqlstate, n), ', ' ORDER BY sqlstate)
	FROM (SELECT stage, sqlstate, count(*) AS n FROM detect.dead_letter WHERE stream = 'deployed' GROUP BY 1, 2) l},
	'decode 22P02 2000, query P0001 1000', 'the bad ones are dead letters');
stream_is($node, 'city', 'deployed', 'running', '^$', 'and the stream runs');

# The fix is two commands.
$broker->produce('deployed', deploy(0, $last + 1 .. $last + 1000));
$last += 1000;
$node->safe_psql('city', q{
	SET ROLE ops; SET search_path = city, public;
	SELECT detect.alter_stream('deployed', columns => 'id int, speed text, unit text',
		query => $$SELECT b.id, CASE b.unit WHEN 'miles' THEN round(split_part(b.speed, ' ', 1)::int * 1.609)::int
			ELSE split_part(b.speed, ' ', 1)::int END AS speed FROM batch b$$);
	SELECT detect.retry_dead_letters('deployed')});
outcomes_are('deployed', '12000|0|1000', 'after the fix all but what is no JSON are events');
gives("SELECT DISTINCT sqlstate, attempts FROM detect.dead_letter WHERE stream = 'deployed'", '22P02|2', 'which has been tried again');
gives(qq{
	SELECT count(*) FROM (
		WITH meant AS (SELECT i AS id, CASE WHEN i BETWEEN 2001 AND 12000 AND i % 10 = 2 THEN round(i * 1.609)::int ELSE i END AS speed
			FROM generate_series(1, $last) i WHERE NOT (i BETWEEN 2001 AND 12000 AND i % 10 = 1))
		(TABLE meant EXCEPT ALL SELECT id, speed FROM city.deployed)
		UNION ALL (SELECT id, speed FROM city.deployed EXCEPT ALL TABLE meant)) d},
	'0', 'the events are what the producer meant to send');
gives(q{
	SELECT count(*) FROM (
		(TABLE city.deployed_hundreds EXCEPT ALL SELECT id / 100, count(*), sum(speed) FROM city.deployed GROUP BY 1)
		UNION ALL
		(SELECT id / 100, count(*), sum(speed) FROM city.deployed GROUP BY 1 EXCEPT ALL TABLE city.deployed_hundreds)) d},
	'0', 'and the rollup counts them');
gives("SELECT detect.purge_dead_letters('deployed')", '1000', 'what can never be repaired is purged');
outcomes_are('deployed', '12000|0|1000', 'and stays counted');

log_is_clean($node);
$node->stop;
done_testing();
