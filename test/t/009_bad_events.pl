# What producers and DBAs can get wrong: a dead letter or a pause with a clear
# reason; nothing is lost, the worker stays, and the other streams go on.
#
# Each case is a stream of its own over a small table, all in one server.

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
my @lines  = camera_lines(12_000);

# A topic, and a stream of it into a table with these columns; the columns of
# the stream are those of the table unless options say otherwise.
sub create_case
{
	my ($name, $table_columns, $messages, %options) = @_;
	my $more      = delete $options{more} // '';
	my $arguments = join('', map { ", $_ => $options{$_}" } sort keys %options);

	$broker->create_topic($name, 2);
	$broker->produce($name, @$messages);
	$node->safe_psql(
		'city', qq{
		SET client_min_messages = warning;
		SET ROLE ops;
		SET search_path = city, public;
		CREATE TABLE $name ($table_columns);
		$more
		SELECT detect.create_stream('$name', server => 'city'$arguments)});
	return;
}

# Messages with these numbers: {"id": n, "n": n}.
sub numbers
{
	return map { qq({"id": $_, "n": $_}) } @_;
}

# What a query gives.
sub gives
{
	my ($sql, $value, $what) = @_;

	return is($node->safe_psql('city', $sql), $value, $what);
}

# Outcomes of a stream, in the order accepted, duplicate, filtered, dead letter.
sub outcomes_are
{
	my ($stream, $outcomes, $what) = @_;

	wait_for($node, 'city', $stream);
	return gives("SELECT accepted, duplicates, filtered, dead_letters FROM detect.stat_stream WHERE stream = '$stream'",
		$outcomes, $what);
}

$node->start;
install_detect($node, 'city');
$broker->create_topic('camera', 4);
create_camera($node, 'city', $broker);
$broker->produce('camera', splice(@lines, 0, 4000));
my $camera_pid = worker_pid($node, 'city', 'camera');

# ---------------------------------------------------------------------
# One element is to blame
# ---------------------------------------------------------------------

# A column of a type that no message has.
create_case('wrong_type', 'id int PRIMARY KEY, n inet', [ numbers(1 .. 500) ]);
outcomes_are('wrong_type', '0|0|0|500', 'a column of the wrong type: all are dead letters');
gives(q{SELECT DISTINCT stage, sqlstate, kafka_topic, payload IS NOT NULL
		FROM detect.dead_letter WHERE stream = 'wrong_type'},
	'decode|22P02|wrong_type|t', 'with stage, reason and bytes');
stream_is($node, 'city', 'wrong_type', 'running', '^$', 'and the stream runs');
gives(q{SELECT convert_from(payload, 'UTF8') FROM detect.dead_letter
		WHERE stream = 'wrong_type' ORDER BY kafka_partition, kafka_offset LIMIT 1},
	'{"id": 1, "n": 1}', 'the bytes are the message');

# One row in ten thousand divides by zero.
create_case(
	'divided', 'id int PRIMARY KEY, n int, share int',
	[ numbers(1 .. 20_000) ],
	columns => "'id int, n int'",
	query   => "'SELECT b.*, 100 / (b.n % 10000) AS share FROM batch b'");
outcomes_are('divided', '19998|0|0|2', 'a query that divides by zero now and then');
gives(q{SELECT string_agg(concat_ws(' ', convert_from(payload, 'UTF8'), stage, sqlstate, reason), ', ' ORDER BY kafka_offset)
		FROM detect.dead_letter WHERE stream = 'divided'},
	'{"id": 10000, "n": 10000} query 22012 division by zero, {"id": 20000, "n": 20000} query 22012 division by zero',
	'exactly these are dead letters');
gives('SELECT count(*), sum(id) FROM city.divided', '19998|199980000', 'all others are events');

# A constraint that has nothing to do with the key.
create_case(
	'rival', 'id int PRIMARY KEY, n int UNIQUE',
	[ numbers(1 .. 300), '{"id": 1001, "n": 7}', '{"id": 7, "n": 7}', '{"id": 1002, "n": 1002}' ]);
outcomes_are('rival', '301|1|0|1', 'a unique violation of another constraint');
gives("SELECT sqlstate, reason FROM detect.dead_letter WHERE stream = 'rival'",
	'23505|duplicate key value violates unique constraint "rival_n_key"',
	'is a dead letter, and no duplicate');

# A CHECK, a NOT NULL, a trigger and a domain that refuse.
create_case(
	'refused', 'id int PRIMARY KEY, n int NOT NULL CHECK (n <> 5)',
	[ numbers(1 .. 100), '{"id": 101}', '{"id": null, "n": 1}', '{"n": 1}' ],
	more => q{
		CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN
			IF NEW.n = 77 THEN RAISE 'no 77 please'; END IF;
			RETURN NEW;
		END $$;
		CREATE TRIGGER refuse BEFORE INSERT ON refused FOR EACH ROW EXECUTE FUNCTION refuse();});
outcomes_are('refused', '98|0|0|5', 'constraints and triggers that refuse');
gives(q{SELECT string_agg(sqlstate, ' ' ORDER BY sqlstate) FROM detect.dead_letter WHERE stream = 'refused'},
	'23502 23502 23502 23514 P0001', 'each with its SQLSTATE');

# An error that only the commit raises.
create_case(
	'deferred', 'id int PRIMARY KEY, n int',
	[ numbers(1 .. 1000) ],
	more => q{
		CREATE FUNCTION refuse_late() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN
			IF NEW.n % 400 = 0 THEN RAISE 'too late for %', NEW.n; END IF;
			RETURN NULL;
		END $$;
		CREATE CONSTRAINT TRIGGER refuse_late AFTER INSERT ON deferred DEFERRABLE INITIALLY DEFERRED
		FOR EACH ROW EXECUTE FUNCTION refuse_late();});
outcomes_are('deferred', '998|0|0|2', 'a deferred trigger that raises at commit');
gives(q{SELECT string_agg(reason, ', ' ORDER BY reason) FROM detect.dead_letter WHERE stream = 'deferred'},
	'too late for 400, too late for 800', 'blames the elements that it is about');
gives('SELECT count(*), sum(id) FROM city.deferred', '998|499300', 'and all others are events');

# A BEFORE trigger that drops rows, of which some come again.
create_case(
	'dropped', 'id int PRIMARY KEY, n int',
	[ numbers(1 .. 1000), numbers(1 .. 100) ],
	more => q{
		CREATE FUNCTION drop_tenth() RETURNS trigger LANGUAGE plpgsql AS
		$$ BEGIN RETURN CASE WHEN NEW.n % 10 = 0 THEN NULL ELSE NEW END; END $$;
		CREATE TRIGGER drop_tenth BEFORE INSERT ON dropped FOR EACH ROW EXECUTE FUNCTION drop_tenth();});
outcomes_are('dropped', '900|90|110|0', 'what a BEFORE trigger drops is filtered');
gives('SELECT count(*) FROM city.dropped', '900', 'and no event');

# What the query leaves out is tried again when it comes again.
create_case(
	'left_out', 'id int PRIMARY KEY, n int',
	[ numbers(1 .. 100), map { qq({"id": $_, "n": 0}) } 1 .. 100 ],
	query => "'SELECT b.* FROM batch b WHERE b.n <= 50'");
outcomes_are('left_out', '100|50|50|0', 'a query that leaves rows out');
gives('SELECT count(*) FILTER (WHERE n = 0) FROM city.left_out', '50',
	'a filtered element is no duplicate of itself');

# ---------------------------------------------------------------------
# The definition is to blame
# ---------------------------------------------------------------------

# A trigger that changes the key: a duplicate could pass.
create_case(
	'changed', 'id int PRIMARY KEY, n int',
	[ numbers(1 .. 100) ],
	more => q{
		CREATE FUNCTION change_key() RETURNS trigger LANGUAGE plpgsql AS
		$$ BEGIN NEW.id := NEW.id + 1000000; RETURN NEW; END $$;
		CREATE TRIGGER change_key BEFORE INSERT ON changed FOR EACH ROW EXECUTE FUNCTION change_key();});
stream_is($node, 'city', 'changed', 'paused', 'a trigger of table "changed" changes the key',
	'a trigger that changes the key pauses the stream');
gives('SELECT count(*) FROM city.changed', '0', 'and nothing of that was kept');
gives("SELECT remedy FROM detect.stat_stream WHERE stream = 'changed'",
	"-- Let triggers hand key and event time on unchanged. Then call detect.resume('changed').", 'with a remedy');
$node->safe_psql('city', "DROP TRIGGER change_key ON city.changed; SELECT detect.resume('changed')");
outcomes_are('changed', '100|0|0|0', 'once it is gone the stream goes on where it was');

# The query changes the key, or gives two rows for one element.
create_case(
	'altered', 'id int PRIMARY KEY, n int',
	[ numbers(1 .. 100) ],
	query => "'SELECT b.id * 2 AS id, b.n FROM batch b'");
stream_is($node, 'city', 'altered', 'paused', 'changes the key', 'a query that changes the key pauses the stream');
create_case(
	'doubled', 'id int PRIMARY KEY, n int',
	[ numbers(1 .. 100) ],
	query => "'SELECT b.* FROM batch b JOIN (VALUES (1), (1)) twice (n) ON b.n <> 50 OR twice.n = 1'");
stream_is($node, 'city', 'doubled', 'paused', 'more than one row for one element',
	'a query that doubles elements pauses the stream');

# A column of the events table that goes away under the stream.
create_case('altering', 'id int PRIMARY KEY, n int', [ numbers(1 .. 100) ]);
outcomes_are('altering', '100|0|0|0', 'before the table is altered');
$node->safe_psql('city', 'ALTER TABLE city.altering DROP COLUMN n');
$broker->produce('altering', numbers(101 .. 200));
stream_is($node, 'city', 'altering', 'paused', 'column "n" of table "altering", which stream "altering" fills, does not exist any more',
	'a column that was dropped pauses the stream');
$node->safe_psql('city', "ALTER TABLE city.altering ADD COLUMN n int; SELECT detect.resume('altering')");
outcomes_are('altering', '200|0|0|0', 'once it is back the stream goes on');
$node->safe_psql('city', 'ALTER TABLE city.altering ALTER n TYPE text, ADD m int NOT NULL DEFAULT 4');
$broker->produce('altering', numbers(201 .. 300));
outcomes_are('altering', '300|0|0|0', 'changes that fit need no pause');
$node->safe_psql('city', 'ALTER TABLE city.altering RENAME TO renamed; ALTER TABLE city.renamed SET SCHEMA public');
$broker->produce('altering', numbers(301 .. 400));
outcomes_are('altering', '400|0|0|0', 'an events table can be renamed and moved');

# A partition that is dropped under the stream is made again.
sub events_of_2020
{
	return map { qq({"id": $_, "at": "2020-01-01T00:00:00Z"}) } @_;
}
create_case(
	'uncovered',
	'id int NOT NULL, at timestamptz NOT NULL) PARTITION BY RANGE (at',
	[ events_of_2020(1 .. 100) ],
	key        => "'{id}'",
	event_time => "'at'");
outcomes_are('uncovered', '100|0|0|0', 'a partition is made');
$node->safe_psql('city', 'DROP TABLE city.uncovered_20191227_x100');
$broker->produce('uncovered', events_of_2020(51 .. 150));
outcomes_are('uncovered', '200|0|0|0', 'and made again when it was dropped, with what was in it');

# A right that the owner of the stream loses.
create_case(
	'forbidden', 'id int PRIMARY KEY, n int, name text',
	[ numbers(1 .. 100) ],
	columns => "'id int, n int'",
	query   => "'SELECT b.*, s.name FROM batch b LEFT JOIN city.secret s ON s.id = b.id'",
	more    => 'RESET ROLE; CREATE TABLE secret (id int PRIMARY KEY, name text);
		GRANT SELECT ON secret TO ops; SET ROLE ops;');
outcomes_are('forbidden', '100|0|0|0', 'while the owner may read a table');
$node->safe_psql('city', 'REVOKE SELECT ON city.secret FROM ops');
$broker->produce('forbidden', numbers(101 .. 200));
stream_is($node, 'city', 'forbidden', 'paused', 'permission denied for table secret',
	'a right that was lost pauses the stream');
$node->safe_psql('city', "GRANT SELECT ON city.secret TO ops; SELECT detect.resume('forbidden')");
outcomes_are('forbidden', '200|0|0|0', 'once it is given back the stream goes on');

# A place table: its drop is refused; with CASCADE the stream goes too, and
# says so nowhere but in the command's own notice.  Events stay.
create_case(
	'placed', 'id int PRIMARY KEY, n int, name text',
	[ numbers(1 .. 100) ],
	columns => "'id int, n int'",
	query   => "'SELECT b.*, p.name FROM batch b LEFT JOIN place p ON p.id = b.id'",
	more    => 'CREATE TABLE place (id int PRIMARY KEY, name text);');
outcomes_are('placed', '100|0|0|0', 'a place table');
my ($rc, $stdout, $stderr) = $node->psql('city', 'DROP TABLE place');
like($stderr, qr/view detect_query\.placed depends on table place/, 'cannot be dropped while a stream joins with it');
my $placed_pid = worker_pid($node, 'city', 'placed');
$broker->produce('placed', numbers(101 .. 200));
outcomes_are('placed', '200|0|0|0', 'and the stream goes on');
$node->safe_psql('city', 'SET client_min_messages = warning; DROP TABLE place CASCADE');
gives("SELECT count(*) FROM detect.stream WHERE stream = 'placed'", '0', 'with CASCADE the stream goes along');
wait_for_exit($placed_pid);
gives('SELECT count(*) FROM city.placed', '200', 'its events stay');

# ---------------------------------------------------------------------
# Bytes
# ---------------------------------------------------------------------

$broker->create_topic('bytes', 1);
$broker->command('produce', 'bytes', 0, @$_)
  foreach (
	[ '-', '-' ],                                     # no payload
	[ 'k', '' ],                                      # an empty one
	[ '-', '{"id": 1, "n": 1' ],                      # no JSON
	[ '-', '{"id": 2, "n": "\xff"}' ],                # no UTF-8
	[ '-', '{"id": 3, "n": "\x00"}' ],                # a NUL byte
	[ '-', '{"id": 4, "n": "\\\\u0000"}' ],           # the same, escaped
	[ '-', '{"id": 99999999999, "n": "x"}' ],         # out of range
	[ '-', '{"id": 5, "n": ' . '[' x 5000 . ']' x 5000 . '}' ],    # too deep
	[ '-', '{"id": 6, "n": null}' ],
	[ '\xff\x00', '{"id": 7, "n": "x"}', '@1577836800000', 'h=-', 'h=\xff' ],
	[ '-', '{"id": 8, "n": "x"}', '@-1' ],
  );
$node->safe_psql('city', q{
	SET ROLE ops;
	CREATE TABLE city.bytes (id int PRIMARY KEY, n text, kafka_key bytea, kafka_headers jsonb, kafka_timestamp timestamptz);
	SELECT detect.create_stream('bytes', server => 'city')});
wait_for($node, 'city', 'bytes');
gives("SELECT string_agg(kafka_offset || ' ' || sqlstate, ', ' ORDER BY kafka_offset) FROM detect.dead_letter WHERE stream = 'bytes'",
	'0 22023, 1 22023, 2 22P02, 3 22021, 4 22021, 5 22P05, 6 22003, 7 22032', 'each broken message has its reason');
gives('SELECT string_agg(id::text, \' \' ORDER BY id) FROM city.bytes', '6 7 8', 'and the others are events');
gives('SELECT kafka_key, kafka_headers, kafka_timestamp FROM city.bytes WHERE id = 7',
	'\xff00|[["h", null], ["h", "\\\\xff"]]|2020-01-01 00:00:00+00', 'key, headers and time of a message');

# ---------------------------------------------------------------------
# The others
# ---------------------------------------------------------------------

$broker->produce('camera', splice(@lines, 0, 4000));
ledger_is_exact($node, 'city', $broker, 'a stream beside all these is exact');
is(worker_pid($node, 'city', 'camera'), $camera_pid, 'and its worker has stayed');
log_is_clean($node);
$node->stop;
done_testing();
