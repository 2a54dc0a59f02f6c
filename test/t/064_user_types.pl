# Columns of types that users made, which consumers stage as text: a value that its
# type refuses costs one message, in whichever column it stands, and an event time is
# what its message says, whatever its type is called.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";

use DetectTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use POSIX qw(strftime);
use Test::More;

use constant {
	EVENTS  => 100,
	STEP_S  => 4 * 3600,    # between two of them: 17 days in all
	DAY_S   => 86_400,
	REFUSED => 25,          # days ago, as no other event is
};

my $broker = DetectTest::Broker->start();
my $node   = make_node('main');
my $now    = time();

# What a query gives.
sub gives
{
	my ($sql, $value, $what) = @_;

	return is($node->safe_psql('city', $sql), $value, $what);
}

# As the owner of the streams.
sub ask
{
	my ($sql) = @_;

	return $node->safe_psql('city', "SET ROLE ops; SET search_path = city, public; $sql");
}

# what is staged together is one commit, however slow the machine is
$node->append_conf('postgresql.conf', 'detect.max_batch_time = 0');
$node->start;
install_detect($node, 'city');
create_server($node, 'city', $broker);
my $refused_day = strftime('%Y-%m-%d', gmtime($now - REFUSED * DAY_S));
$node->safe_psql(
	'city', qq{
	SET ROLE ops;
	SET search_path = city, public;
	CREATE TYPE mood AS ENUM ('calm', 'cross');
	CREATE TYPE colour AS ENUM ('red', 'green');
	CREATE DOMAIN few AS int CHECK (VALUE < 10);
	CREATE DOMAIN moment AS timestamptz CONSTRAINT proper CHECK (date_trunc('second', VALUE) = VALUE);
	-- of these, partitions cannot have all bounds
	CREATE DOMAIN local_moment AS timestamp CONSTRAINT proper CHECK (VALUE >= date '$refused_day' + interval '1 day');
	CREATE DOMAIN day AS date CONSTRAINT proper CHECK (VALUE <> '$refused_day')});

# ---------------------------------------------------------------------
# One of two columns is refused
# ---------------------------------------------------------------------

$broker->create_topic('bystander', 1);
ask("CREATE TABLE bystander (id int PRIMARY KEY); SELECT detect.create_stream('bystander')");
my $bystander = worker_pid($node, 'city', 'bystander');

# Some messages of many have a colour that there is not, behind a good value of another
# column: $text is of all of them, $kept of those that are events.
sub cost_themselves
{
	my ($name, $column, $text, $kept) = @_;
	my $message = sub { sprintf('{"id": %d%s, "colour": "%s"}', $_[0], $text, $_[0] % 10 == 5 ? 'mauve' : 'green') };

	$broker->create_topic($name, 1);
	# in few answers of the broker, and so in few batches
	$broker->produce_messages($name, map { { partition => 0, payload => $message->($_), header => 'h=v' } } 1 .. 60);
	ask("CREATE TABLE $name (id int PRIMARY KEY, $column, colour colour); SELECT detect.create_stream('$name')");
	# not wait_for: a server that crashes cannot be asked
	ok( $node->poll_query_until(
			'city', "SELECT accepted = 54 AND dead_letters = 6 FROM detect.stat_stream WHERE stream = '$name'"),
		"$name: they are dead letters, and no other");
	gives(
		"SELECT sqlstate, reason, string_agg(kafka_offset::text, ' ' ORDER BY kafka_offset) FROM detect.dead_letter WHERE stream = '$name' GROUP BY 1, 2",
		'22P02|invalid input value for enum city.colour: "mauve"|4 14 24 34 44 54',
		"$name: for the column that its type refuses");
	gives("SELECT count(*), sum(id), string_agg(DISTINCT e, ' ') FROM (SELECT id, (to_jsonb(t) - 'id')::text AS e FROM city.$name t) s",
		"54|1650|$kept", "$name: the others are events");
	return;
}

cost_themselves('two_enums', 'mood mood', ', "mood": "cross"', '{"mood": "cross", "colour": "green"}');
cost_themselves('domain_and_enum', 'n few', ', "n": 5', '{"n": 5, "colour": "green"}');
cost_themselves('headers_and_enum', 'kafka_headers jsonb', '', '{"colour": "green", "kafka_headers": [["h", "v"]]}');

# ---------------------------------------------------------------------
# Arrays and composites, and domains that refuse NULL
# ---------------------------------------------------------------------
$broker->create_topic('structured', 1);
$broker->produce(
	'structured',
	'{"id": 1, "colours": ["red", "green", null], "labels": [{"colour": "red", "text": "a, \"b\""}], "label": {"colour": "green", "text": "x"}, "n": 1}',
	'{"id": 2, "colours": "{green,red}", "labels": [], "label": "(red,\"y z\")", "n": 2}',
	'{"id": 3, "colours": "[2:3]={green,red}", "n": 3}',
	'{"id": 4, "colours": ["mauve"], "n": 4}',
	'{"id": 5, "colours": [["red"], ["green"]], "n": 5}',
	'{"id": 6}',
	'{"id": 7, "n": null}');
ask(q{
	CREATE DOMAIN present AS int NOT NULL;
	CREATE TYPE label AS (colour colour, text text);
	CREATE TABLE structured (id int PRIMARY KEY, colours colour[], labels label[], label label, n present);
	SELECT detect.create_stream('structured')});
wait_for($node, 'city', 'structured');
gives(
	"SELECT id, colours, labels, label, n FROM city.structured ORDER BY id",
	join("\n",
		'1|{red,green,NULL}|{"(red,\"a, \"\"b\"\"\")"}|(green,x)|1', '2|{green,red}|{}|(red,"y z")|2',
		'3|[2:3]={green,red}|||3',                                    '5|{{red},{green}}|||5'),
	'arrays and composites come from JSON, or from their own text');
gives("SELECT string_agg(kafka_offset || ' ' || sqlstate, ', ' ORDER BY kafka_offset) FROM detect.dead_letter WHERE stream = 'structured'",
	'3 22P02, 5 23502, 6 23502', 'what a type or a domain refuses is a dead letter, NULL too');

# ---------------------------------------------------------------------
# A type and a trigger that refuse in other words
# ---------------------------------------------------------------------
SKIP:
{
	skip 'there is no ltree', 2
	  if $node->safe_psql('city', "SELECT count(*) FROM pg_available_extensions WHERE name = 'ltree'") == 0;
	$node->safe_psql('city', 'CREATE EXTENSION ltree SCHEMA public');
	$broker->create_topic('worded', 1);
	$broker->produce('worded', '{"id": 1, "path": "a.b"}', '{"id": 2, "path": "a..b"}', '{"id": 3, "path": "b"}', '{"id": 4, "path": "c"}');
	ask(q{
		CREATE TABLE worded (id int PRIMARY KEY, path ltree);
		CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN
			IF NEW.id = 3 THEN RAISE EXCEPTION 'three' USING ERRCODE = 'check_violation'; END IF;
			RETURN NEW;
		END $$;
		CREATE TRIGGER refuse BEFORE INSERT ON worded FOR EACH ROW EXECUTE FUNCTION refuse();
		SELECT detect.create_stream('worded')});
	wait_for($node, 'city', 'worded');
	gives("SELECT string_agg(id::text, ' ' ORDER BY id) FROM city.worded", '1 4', 'a syntax error of a type and an error of a trigger cost one message each');
	gives("SELECT string_agg(sqlstate, ' ' ORDER BY kafka_offset) FROM detect.dead_letter WHERE stream = 'worded'", '42601 23514', 'and are dead letters');
}

# a crash would have taken all processes
is(worker_pid($node, 'city', 'bystander'), $bystander, 'the worker of another stream has stayed');

# ---------------------------------------------------------------------
# Event times
# ---------------------------------------------------------------------

# Outcomes of a stream, in the order accepted, duplicate, expired, dead letter.
sub outcomes_are
{
	my ($stream, $outcomes, $what) = @_;

	wait_for($node, 'city', $stream);
	return gives("SELECT accepted, duplicates, expired, dead_letters FROM detect.stat_stream WHERE stream = '$stream'", $outcomes, $what);
}

# Messages of so many seconds after $now, each with its number.
sub timed_messages
{
	my ($format, %times) = @_;

	return map { sprintf('{"id": %d, "at": "%s"}', $_, strftime($format, gmtime($now + $times{$_}))) } sort { $a <=> $b } keys %times;
}

# An event time of type $type, a domain over $base, which messages have in $format, and
# with $fraction of a second where the domain refuses that; with or without retention.
sub event_times_are_right
{
	my ($type, $base, $format, $fraction, $retention) = @_;
	my $name      = "by_$type";
	my $arguments = "'$name', key => '{id}', event_time => 'at', partition_interval => '1 day'" . ($retention ? ", retention => '30 days'" : '');
	my $expired   = $retention ? 5 : 0;
	my @in_time   = timed_messages($format, map { ($_, -$_ * STEP_S) } 1 .. EVENTS);
	my $sent      = "SELECT g, (to_timestamp($now - g * @{[STEP_S]}) AT TIME ZONE 'UTC')::$base FROM generate_series(1, @{[EVENTS]}) g";
	my $mended    = "SELECT 4000, (to_timestamp($now - @{[REFUSED * DAY_S]} + 0$fraction) AT TIME ZONE 'UTC')::$base";
	my $too_far   = strftime($base eq 'date' ? '%Y-%m-%d 00:00:00+00' : '%Y-%m-%d %H:%M:%S+00', gmtime($now + 3 * DAY_S));
	my $no_time   = { timestamptz => 'timestamp with time zone' }->{$base} // $base;
	my ($refused) = timed_messages($format =~ s/%S/%S$fraction/r, 4000 => -REFUSED * DAY_S);

	$broker->create_topic($name, 1);
	$broker->produce_messages($name, map { { partition => 0, payload => $_ } }
		  @in_time, ($retention ? timed_messages($format, map { (1000 + $_, -(40 + $_) * DAY_S) } 1 .. 5) : ()),
		timed_messages($format, 2000 => 3 * DAY_S), '{"id": 3000, "at": "soon"}', $refused);
	ask("CREATE TABLE $name (id int NOT NULL, at $type NOT NULL) PARTITION BY RANGE (at)");
	is( ask("SELECT outcome, count(*) FROM detect.try_stream($arguments) GROUP BY 1 ORDER BY 1"),
		join("\n", 'accepted|' . EVENTS, 'dead_letter|3', $retention ? "expired|$expired" : ()),
		"$type: as detect.try_stream tells it");
	ask("SELECT detect.create_stream($arguments)");
	outcomes_are($name, join('|', EVENTS, 0, $expired, 3), "$type: what is in time is accepted, what is old has expired");
	gives("SELECT count(*) FROM ((TABLE city.$name EXCEPT ALL $sent) UNION ALL ($sent EXCEPT ALL TABLE city.$name)) d", 0, "$type: each event has its time");
	gives(
		qq{SELECT count(*) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
		WHERE inhparent = 'city.$name'::regclass
		AND substring(pg_get_expr(c.relpartbound, c.oid) FROM 'FROM \\(''([^'']+)''\\)')::timestamptz < now() - interval '31 days'},
		0, "$type: there is no partition for another time");
	gives(
		qq{SELECT sqlstate, regexp_replace(reason, '^column "at": ', '') FROM detect.dead_letter WHERE stream = '$name' ORDER BY kafka_offset},
		join("\n",
			"22008|event time $too_far is more than 24 hours in the future",
			qq{22007|invalid input syntax for type $no_time: "soon"},
			qq{23514|value for domain city.$type violates check constraint "proper"}),
		"$type: what is too far ahead, no time, or refused by the domain is a dead letter");

	$broker->produce_messages($name, map { { partition => 0, payload => $_ } } @in_time);
	outcomes_are($name, join('|', EVENTS, EVENTS, $expired, 3), "$type: what comes again is known");

	# no partition takes it yet
	$node->safe_psql('city', "ALTER DOMAIN city.$type DROP CONSTRAINT proper");
	gives("SELECT detect.retry_dead_letters('$name', sqlstate => '23514')", 1, "$type: once the domain takes it, it is retried");
	outcomes_are($name, join('|', EVENTS + 1, EVENTS, $expired, 2), "$type: and accepted");
	gives("SELECT count(*) FROM ((TABLE city.$name EXCEPT ALL ($sent UNION ALL $mended)) UNION ALL (($sent UNION ALL $mended) EXCEPT ALL TABLE city.$name)) d",
		0, "$type: with its own time");
	return;
}

event_times_are_right('moment', 'timestamptz', '%Y-%m-%dT%H:%M:%SZ', '.5', 1);
event_times_are_right('day', 'date', '%Y-%m-%d', '', 1);
event_times_are_right('local_moment', 'timestamp', '%Y-%m-%dT%H:%M:%S', '', 0);

log_is_clean($node);
$node->stop;
done_testing();
