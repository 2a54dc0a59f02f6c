# Event times that messages count since 1970: a column of detect.epoch_ms is event time,
# part of identities and of partitions, and what was a dead letter before the column said
# so becomes an event by a retry.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";

use DetectTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use constant {
	EVENTS => 100,
	STEP_S => 4 * 3600,    # between two of them: 17 days in all
	DAY_S  => 86_400,
};

my $broker = DetectTest::Broker->start();
my $node   = make_node('main');
my $now    = time();

# As the owner of the streams.
sub ask
{
	my ($sql) = @_;

	return $node->safe_psql('city', "SET ROLE ops; SET search_path = city, public; $sql");
}

# Outcomes of a stream, in the order accepted, duplicate, expired, dead letter.
sub outcomes_are
{
	my ($stream, $outcomes, $what) = @_;

	wait_for($node, 'city', $stream);
	return is(ask("SELECT accepted, duplicates, expired, dead_letters FROM detect.stat_stream WHERE stream = '$stream'"),
		$outcomes, $what);
}

# Both ways: the events of a table beside those that were sent.
sub events_are
{
	my ($table, $sent, $what) = @_;

	return is(ask("SELECT count(*) FROM ((TABLE $table EXCEPT ALL $sent) UNION ALL ($sent EXCEPT ALL TABLE $table)) d"), 0, $what);
}

# A message of an event so many seconds ago, in milliseconds.
sub message
{
	my ($id, $ago_s) = @_;

	return sprintf('{"id": %d, "at": %d%03d}', $id, $now - $ago_s, $id % 1000);
}

$node->start;
install_detect($node, 'city');
create_server($node, 'city', $broker);

my $sent = "SELECT g, to_timestamp($now - g * @{[STEP_S]}) + g * interval '1 millisecond' FROM generate_series(1, @{[EVENTS]}) g";
my @in_time = map { message($_, $_ * STEP_S) } 1 .. EVENTS;
my @old     = map { message(200 + $_, (40 + $_) * DAY_S) } 1 .. 5;

# ---------------------------------------------------------------------
# As event time, from the beginning
# ---------------------------------------------------------------------
$broker->create_topic('counted', 1);
$broker->produce('counted', @in_time, @old, message(300, -3 * DAY_S), '{"id": 301, "at": true}', @in_time);
ask('CREATE TABLE counted (id int NOT NULL, at timestamptz NOT NULL) PARTITION BY RANGE (at)');
my $arguments = "'counted', columns => 'id int, at detect.epoch_ms', key => '{id}', event_time => 'at', retention => '30 days'";
is( ask("SELECT outcome, count(*) FROM detect.try_stream($arguments) GROUP BY 1 ORDER BY 1"),
	join("\n", 'accepted|' . EVENTS, 'dead_letter|2', 'duplicate|' . EVENTS, 'expired|5'),
	'detect.try_stream tells what will become of the messages');
ask("SELECT detect.create_stream($arguments)");
outcomes_are('counted', join('|', EVENTS, EVENTS, 5, 2), 'an event is known by its key and its counted time, and expires by it');
events_are('counted', $sent, 'each event has its time, to the millisecond');
is( ask("SELECT string_agg(sqlstate, ' ' ORDER BY kafka_offset) FROM detect.dead_letter WHERE stream = 'counted'"),
	'22008 22007', 'what is too far ahead, and what is no time, is a dead letter');

# SQL feeds times, not numbers
ask("INSERT INTO detect_staging.counted (id, at) VALUES (400, to_timestamp($now)), (1, to_timestamp($now - @{[STEP_S]}) + interval '1 millisecond')");
ok($node->poll_query_until('city', "SELECT (accepted, duplicates) = (@{[EVENTS + 1]}, @{[EVENTS + 1]}) FROM detect.stat_stream WHERE stream = 'counted'"),
	'SQL stages times of the same column, and what Kafka brought is known');

# the definition is SQL that makes the same stream again
my $definition = ask("SELECT detect.get_definition('counted')");
like($definition, qr/at detect\.epoch_ms/, 'the definition has the type');
ask("SELECT detect.drop_stream('counted'); $definition");
outcomes_are('counted', join('|', 0, 2 * EVENTS, 5, 2), 'a stream made again from its definition knows its events');

# ---------------------------------------------------------------------
# The column says so later
# ---------------------------------------------------------------------
$broker->create_topic('told', 1);
$broker->produce('told', @in_time, '{"id": 500, "at": "soon"}');
ask(q{
	CREATE TABLE told (id int NOT NULL, at timestamptz NOT NULL) PARTITION BY RANGE (at);
	SELECT detect.create_stream('told', key => '{id}', event_time => 'at')});
outcomes_are('told', join('|', 0, 0, 0, EVENTS + 1), 'numbers are no times for a column that does not say what they count');
is( ask(q{SELECT count(*) FROM detect.dead_letter WHERE stream = 'told' AND reason LIKE '%a number is a time in a column of detect.epoch_ms or its like%'}),
	EVENTS, 'the reasons name the type that does');
ask("SELECT detect.alter_stream('told', columns => 'id int, at detect.epoch_ms')");
is(ask("SELECT detect.retry_dead_letters('told')"), EVENTS + 1, 'they are retried once the column says it');
outcomes_are('told', join('|', EVENTS, 0, 0, 1), 'and are events, but for the one that is no time at all');
events_are('told', $sent, 'with their times');

# ---------------------------------------------------------------------
# Handed on by a query as what it is below the domain; and the column was a number before
# ---------------------------------------------------------------------
$broker->create_topic('asked', 1);
$broker->produce('asked', @in_time);
ask(q{
	CREATE TABLE asked (id int NOT NULL, at timestamptz) PARTITION BY RANGE (at);
	SELECT detect.create_stream('asked', columns => 'id int, at detect.epoch_ms, kafka_timestamp timestamptz', key => '{id}', event_time => 'at',
		query => 'SELECT b.id, coalesce(b.at, b.kafka_timestamp) AS at, NULL::varchar AS reject_reason FROM batch b')});
outcomes_are('asked', join('|', EVENTS, 0, 0, 0), 'a query may hand on the time below the domain');
events_are('asked', $sent, 'and its events have their times');

ask(q{
	CREATE TABLE retyped (id int PRIMARY KEY, at timestamptz);
	SELECT detect.create_stream('retyped', server => '', columns => 'id int, at bigint', query => 'SELECT b.id, to_timestamp(b.at / 1000.0) AS at FROM batch b');
	SELECT detect.pause('retyped');
	INSERT INTO detect_staging.retyped (id, at) VALUES (1, 1764547200123);
	CREATE FUNCTION city.divided(bigint, numeric) RETURNS numeric LANGUAGE sql RETURN 0;
	CREATE OPERATOR city.* (LEFTARG = bigint, RIGHTARG = numeric, FUNCTION = city.divided);
	CREATE OPERATOR city./ (LEFTARG = bigint, RIGHTARG = numeric, FUNCTION = city.divided);
	SELECT detect.alter_stream('retyped', columns => 'id int, at detect.epoch_ms', reset => '{query}');
	INSERT INTO detect_staging.retyped (id, at) VALUES (2, '2025-12-01 00:00:00.456+00');
	SELECT detect.resume('retyped')});
outcomes_are('retyped', '2|0|0|0', 'a column of numbers becomes one of times, with what was staged in it');
ask(q{
	CREATE TABLE retyped_ns (id int PRIMARY KEY, at timestamptz);
	SELECT detect.create_stream('retyped_ns', server => '', columns => 'id int, at bigint', query => 'SELECT b.id FROM batch b');
	SELECT detect.pause('retyped_ns');
	INSERT INTO detect_staging.retyped_ns (id, at) VALUES (1, 1764547200454593528);
	SELECT detect.alter_stream('retyped_ns', columns => 'id int, at detect.epoch_ns', reset => '{query}');
	SELECT detect.resume('retyped_ns')});
outcomes_are('retyped_ns', '1|0|0|0', 'nanoseconds, too');
is( ask("SELECT to_char(at AT TIME ZONE 'UTC', 'HH24:MI:SS.US'), to_jsonb(at) = detect.decode('{\"at\": 1764547200454593528}', 'at detect.epoch_ns') -> 'at' FROM retyped_ns"),
	'00:00:00.454594|t', 'which are rounded as those of a message');
is(ask("SELECT string_agg(to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.MS'), ' ' ORDER BY id) FROM retyped"),
	'2025-12-01 00:00:00.123 2025-12-01 00:00:00.456', 'as what the numbers counted');

# ---------------------------------------------------------------------
# Of the items of messages, along a path, read by a consumer of its own
# ---------------------------------------------------------------------
$broker->create_topic('frames', 1);
$broker->produce('frames', map { sprintf('{"camera": %d, "boxes": [{"id": 1, "when": {"us": %d000001}}, {"id": 2, "when": {"us": "%d000002"}}]}', $_, $now - $_, $now - $_) } 1 .. 10);
ask(q{
	CREATE TABLE box (camera int, id int, at timestamptz NOT NULL, PRIMARY KEY (camera, id));
	SELECT detect.create_stream('frames', events_table => 'box', columns => 'camera int, id int, at detect.epoch_us', unnest => '$.boxes',
		fields => '{"camera": "$.camera", "at": "@.when.us"}', consumers => 1)});
outcomes_are('frames', '20|0|0|0', 'items have times, too');
events_are('box', "SELECT c, b, to_timestamp($now - c) + b * interval '1 microsecond' FROM generate_series(1, 10) c, generate_series(1, 2) b",
	'to the microsecond');

# ---------------------------------------------------------------------
# Where the types do not belong
# ---------------------------------------------------------------------
for (
	[ 'CREATE TABLE own (id int PRIMARY KEY, at detect.epoch_ms)', "SELECT detect.create_stream('own')", qr/it has a column "at" of type detect\.epoch_ms/ ],
	[ 'CREATE TABLE own_many (id int PRIMARY KEY, times detect.epoch_ms[])', "SELECT detect.create_stream('own_many')", qr/it has a column "times" of type detect\.epoch_ms\[\]/ ],
	[   'CREATE TABLE many (id int PRIMARY KEY, times timestamptz[])',
		"SELECT detect.create_stream('many', columns => 'id int, times detect.epoch_ms[]')",
		qr/column "times" cannot be of type detect\.epoch_ms\[\]/
	])
{
	my ($table, $stream, $error) = @$_;
	ask($table);
	my ($code, undef, $message) = $node->psql('city', "SET ROLE ops; SET search_path = city, public; $stream");
	isnt($code, 0, "$stream is refused");
	like($message, $error, 'and is told why');
}

log_is_clean($node);
$node->stop;
done_testing();
