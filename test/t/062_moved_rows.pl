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

use constant {
	BATCH => 100,
	HOLD  => "SELECT pg_advisory_lock(hashtext('before_apply'))" };

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

# Waits until so many sessions wait to hold an applier, or are held.
sub waiting
{
	my ($count, $what) = @_;

	ok($node->poll_query_until('city', "SELECT count(*) = $count FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"), $what);
	return;
}

$node->start;
install_detect($node, 'city');
ask(q{
	CREATE SERVER city FOREIGN DATA WRAPPER detect_kafka OPTIONS (bootstrap_servers '} . $broker->bootstrap . q{');
	GRANT USAGE ON FOREIGN SERVER city TO ops;
	SET ROLE ops;
	CREATE TABLE city.moved (id int PRIMARY KEY)});
$broker->create_topic('moved', 1);
produce();

# Behind a first batch, which is held, rows are staged twice: what the transaction
# that fails has written takes room in front of the others.
my $holder = $node->background_psql('city');
my $next   = $node->background_psql('city');
$holder->query_safe(HOLD);
my $armed = arm($node, 'before_apply:wait:1:2', 'after_staging_insert:58000:2');
ask(q{
	SET ROLE ops;
	SELECT detect.create_stream('moved', events_table => 'city.moved', query => 'SELECT id FROM batch', consumers => 1)});
waiting(1, 'a batch is held');
produce();
my $table = ask(q{SELECT oid::regclass FROM pg_class WHERE relname ~ '^_staged_\d+_0$'});
ok($node->poll_query_until('city', "SELECT count(*) = $produced FROM $table"), 'the next one is staged');

# That one is held in its turn, and moved.
$next->query_until(qr/^waiting$/m, "\\echo waiting\n" . HOLD . ";\n");
waiting(2, 'and will be held');
$holder->quit;
ok($node->poll_query_until('city', 'SELECT count(*) = ' . 0.9 * BATCH . ' FROM city.moved'), 'the first one is applied');
waiting(1, 'the next one is held when it was read');
my $place = "SELECT ctid FROM $table WHERE kafka_offset = " . BATCH;
my $read  = ask($place);
ask("VACUUM FULL $table");
isnt(ask($place), $read, 'its rows are moved');
my $log_end = -s $node->logfile;
$next->quit;
ok($node->wait_for_log(qr/tries again after an error: a staged message of stream "moved" is not where it was read/, $log_end), 'which is noticed');
wait_for($node, 'city', 'moved');
is_deeply([ disarm($node, $armed) ], [ 2, 1 ], 'all that was to happen did');
is(ask('SELECT count(*), count(DISTINCT id), min(id), max(id) FROM city.moved'),
	join('|', 0.9 * $produced, 0.9 * $produced, 1, $produced - 1), 'each event is there once');
is( ask(q{SELECT count(*), count(*) FILTER (WHERE convert_from(payload, 'UTF8') = format('{"id": "bad %s"}', kafka_offset + 1)) FROM detect.dead_letter}),
	join('|', $produced / 10, $produced / 10), 'each dead letter has its own message');

done_testing();
