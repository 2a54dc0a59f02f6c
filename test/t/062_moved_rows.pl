# Rows of a consumer's table that somebody moves while their batch is being applied.
# A batch keeps its elements' columns and looks up where a message is staged only for
# dead letters and the last of a partition: it must not take another row for it.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";

use DetectTest;
use FaultPoint;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use constant BATCH => 100;

my $broker   = DetectTest::Broker->start();
my $node     = make_node('main');
my $produced = 0;

sub ask { return $node->safe_psql('city', @_) }

# Produces a batch, of which each tenth message is bad.
sub produce
{
	$broker->produce_messages('moved',
		map { { partition => 0, payload => $_ % 10 == 0 ? qq({"id": "bad $_"}) : qq({"id": $_}) } } $produced + 1 .. $produced + BATCH);
	$produced += BATCH;
	return;
}

# Lets events up to a number pass the stream's query, which waits before others.
sub open_gate
{
	ask("UPDATE city.gate SET greatest = $_[0]");
	return;
}

# Waits until a batch waits there: it has looked at the gate, and is open.
sub is_held
{
	my ($condition, $what) = @_;

	ok($node->poll_query_until('city', "SELECT $condition AND EXISTS (SELECT FROM pg_locks WHERE relation = 'city.gate'::regclass)"), $what);
	return;
}

# a batch that is held makes the next one no smaller
$node->append_conf('postgresql.conf', 'detect.max_batch_time = 0');
$node->start;
install_detect($node, 'city');
create_server($node, 'city', $broker);
ask(q{
	SET ROLE ops;
	CREATE TABLE city.moved (id int PRIMARY KEY);
	CREATE TABLE city.gate AS SELECT 0 AS greatest;
	CREATE FUNCTION city.pass(id int) RETURNS int LANGUAGE plpgsql AS $$
	BEGIN
		WHILE id > (SELECT greatest FROM city.gate) LOOP
		END LOOP;
		RETURN id;
	END $$});
$broker->create_topic('moved', 1);
produce();
ask(q{
	SET ROLE ops;
	SELECT detect.create_stream('moved', events_table => 'city.moved', query => 'SELECT city.pass(id) AS id FROM batch', consumers => 1)});
is_held('true', 'a batch is held');
my $table = ask(q{SELECT oid::regclass FROM pg_class WHERE relname ~ '^_staged_\d+_0$'});
ok($node->poll_query_until('city', "SELECT count(*) = $produced FROM $table"), 'all is staged');

# What a transaction writes before it fails takes room in front of the next rows.
my $armed = arm($node, 'after_staging_insert:58000');
produce();
ok($node->poll_query_until('city', "SELECT count(*) = $produced FROM $table"), 'the next ones are staged');
is_deeply([ disarm($node, $armed) ], [1], 'at the second try');

# Those are read, held and moved.
open_gate(BATCH);
is_held('(SELECT count(*) > 0 FROM city.moved)', 'they are read');
my $place = "SELECT ctid FROM $table WHERE kafka_offset = " . BATCH;
my $read  = ask($place);
ask("VACUUM FULL $table");
isnt(ask($place), $read, 'and moved');
my $log_end = -s $node->logfile;
open_gate($produced);
ok($node->wait_for_log(qr/tries again after an error: a staged message of stream "moved" is not where it was read/, $log_end), 'which is noticed');
wait_for($node, 'city', 'moved');
is(ask('SELECT count(*), count(DISTINCT id), min(id), max(id) FROM city.moved'),
	join('|', 0.9 * $produced, 0.9 * $produced, 1, $produced - 1), 'each event is there once');
is( ask(q{SELECT count(*), count(*) FILTER (WHERE convert_from(payload, 'UTF8') = format('{"id": "bad %s"}', kafka_offset + 1)) FROM detect.dead_letter}),
	join('|', $produced / 10, $produced / 10), 'each dead letter has its own message');

log_is_clean($node);
done_testing();
