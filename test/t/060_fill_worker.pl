# A worker fills new rollups beside the applier: while it reads a chunk, batches
# bring events of that chunk and others, and somebody edits events by hand.  Each
# event is counted once, the stream does not wait, and nobody who changes the stream
# waits for the chunk.  The worker is held where it has read a chunk; that it is
# killed and fails at its points is in 023_fault_points.pl.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";

use DetectTest;
use FaultPoint;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use constant EVENTS => 200_000;

my $timeout = $PostgreSQL::Test::Utils::timeout_default;
my $node    = make_node('main');

# Groups with a bucket that chunks can end with, with one that they cannot, because
# local time goes back in autumn, and without any.
my %queries = (
	per_minute => q{SELECT date_bin('1 minute', at, 'epoch') AS minute, place, count(*) AS n, sum(v) AS v FROM event GROUP BY 1, 2},
	per_day    => q{SELECT date_trunc('day', at AT TIME ZONE 'Europe/Paris') AS day, count(*) AS n, max(at) AS newest FROM event GROUP BY 1},
	per_place  => q{SELECT place, count(*) AS n, avg(v) AS v, min(at) AS oldest FROM event GROUP BY 1});

sub ask
{
	my ($sql) = @_;

	return $node->safe_psql('city', "SET ROLE ops; $sql");
}

sub await
{
	my ($condition, $what) = @_;

	return ok($node->poll_query_until('city', "SELECT $condition"), $what);
}

# The rollups equal their queries.
sub rollups_are_exact
{
	my ($what) = @_;

	ask(join(';', map { "SELECT detect.wait_for_rollup('$_', '${timeout}s')" } sort keys %queries));
	# and until edits are repaired
	ask("SELECT detect.wait_for('event', '${timeout}s')");
	is($node->safe_psql('city', 'SELECT count(*) FROM detect._repair'), '0', "$what: nothing is left to be repaired");
	foreach my $name (sort keys %queries)
	{
		is(ask("SELECT count(*) FROM (((TABLE $name) EXCEPT ALL ($queries{$name})) UNION ALL (($queries{$name}) EXCEPT ALL (TABLE $name))) d"),
			'0', "$what: $name is exact");
	}
	is(ask('SELECT sum(n) FROM per_place'), ask('SELECT count(*) FROM event'), "$what: each event is counted");
	is($node->safe_psql('city', 'SELECT count(*) FROM detect._missed'), '0', "$what: nothing is missed");
	return;
}

# Makes the rollups anew; the applier fills a first chunk of next to nothing.
sub make_rollups
{
	ask("SELECT detect.drop_rollup(rollup) FROM detect.rollup");
	ask("SELECT detect.create_rollup('$_', \$\$ $queries{$_} \$\$)") foreach sort keys %queries;
	return;
}

# Lets the worker stop at a point, until what is returned is quit.
sub hold_worker
{
	my ($point) = @_;
	my $holder = $node->background_psql('city');

	$holder->query_safe("SELECT pg_advisory_lock(hashtext('$point'))");
	return $holder;
}

my $is_held = "count(*) = 1 FROM pg_locks l JOIN detect.stat_worker w USING (pid)
	WHERE w.duty = 'fill' AND l.locktype = 'advisory' AND NOT l.granted";

@FaultPoint::always = ('mutant_small_limits');
$node->append_conf('postgresql.conf', "detect.retry_interval = 10ms\nlog_min_messages = debug1");
$node->start;
install_detect($node, 'city');
FaultPoint::configure($node);

# Ten hours that are past, and one to come for the stream.
ask(q{
	CREATE TABLE city.event (id bigint NOT NULL, at timestamptz NOT NULL, place int, v int) PARTITION BY RANGE (at);
	SELECT format('CREATE TABLE city.event_%s PARTITION OF city.event FOR VALUES FROM (%L) TO (%L)', i, t, t + interval '1 hour')
	FROM (SELECT i, date_trunc('hour', now()) - i * interval '1 hour' AS t FROM generate_series(1, 10) i) x \gexec
	INSERT INTO city.event SELECT n, date_trunc('hour', now()) - interval '10 hours' * (n / (} . EVENTS . q{ + 1.0)), n % 50, n % 1000
	FROM generate_series(1, } . EVENTS . q{) n;
	ANALYZE city.event;
	SELECT detect.create_stream('event', server => '', events_table => 'city.event', key => '{id}', event_time => 'at',
		partition_interval => '1 hour')});
ask("SELECT detect.wait_for('event', '${timeout}s')");

# ---------------------------------------------------------------------
# Batches and edits while a chunk is read
# ---------------------------------------------------------------------

my $holder = hold_worker('after_chunk_read');
my $armed  = arm($node, 'after_chunk_read:wait:1:1000000');

make_rollups();
await($is_held, 'a worker has read a chunk');
is( $node->safe_psql('city', "SELECT string_agg(DISTINCT s.state, ',') FROM detect.stat_rollup s
		JOIN detect._rollup r ON r.name = s.rollup WHERE r.chunk_from IS NOT NULL"),
	'filling', 'of a rollup that is being filled');

my $id = 1_000_000;
my $late = sub {
	my ($count) = @_;

	# late ones for all hours, each third twice, and some that are there already
	ask("INSERT INTO detect_staging.event (id, at, place, v)
		SELECT $id + n, date_trunc('hour', now()) - n % 640 * interval '1 minute', n % 70, n FROM generate_series(1, $count) n;
		INSERT INTO detect_staging.event (id, at, place, v)
		SELECT $id + n, date_trunc('hour', now()) - n % 640 * interval '1 minute', n % 70, n FROM generate_series(1, $count, 3) n;
		INSERT INTO detect_staging.event (id, at, place, v) SELECT id, at, place, v FROM event WHERE id < 1000");
	$id += $count;
	ask("SELECT detect.wait_for('event', '${timeout}s')");
	return;
};

$late->(3000);
await($is_held, 'batches are applied meanwhile');
is(ask("SELECT count(*) FROM event WHERE id > 1000000"), '3000', 'with events of the chunk, once each');
# a worker that began anew, because a partition was made, has read them all
foreach my $try (1 .. 20)
{
	last if $node->safe_psql('city', 'SELECT count(*) FROM detect._missed') > 0;
	$late->(10);
	await($is_held, "and more ($try)");
}
cmp_ok($node->safe_psql('city', 'SELECT COALESCE(sum(events), 0) FROM detect._missed'), '>', 0, 'which are written down');
ask('DELETE FROM event WHERE id % 1000 = 7; UPDATE event SET v = v + 1, place = place + 1 WHERE id % 1000 = 8;
	INSERT INTO event SELECT 2000000 + n, date_trunc(\'hour\', now()) - n % 600 * interval \'1 minute\', 3, 3 FROM generate_series(1, 500) n');
$late->(2000);
await($is_held, 'and after edits');
disarm($node, $armed);
$holder->quit;
ask("SELECT detect.wait_for_rollup('per_place', '${timeout}s')");
await("repair_error IS NOT NULL FROM detect.stat_rollup WHERE rollup = 'per_place'",
	'a rollup without buckets is not computed again after edits, and says so');
ask("SELECT detect.rebuild_rollup('per_place')");
rollups_are_exact('batches and edits meanwhile');

# chunk by chunk, with batches before the worker's snapshot, after it, and after it has
# absorbed most of what came meanwhile
foreach my $point ('after_chunk_begin', 'after_chunk_read', 'before_chunk_lock')
{
	$armed  = arm($node, "$point:wait:1:1000000");
	$holder = hold_worker($point);
	make_rollups();
	for my $chunk (1 .. 6)
	{
		await($is_held, "the worker is held $point, $chunk");
		$late->(500);
		$holder->query_safe("SELECT pg_advisory_unlock(hashtext('$point')), pg_advisory_lock(hashtext('$point'))");
	}
	disarm($node, $armed);
	$holder->quit;
	rollups_are_exact("batches $point");
}

# ---------------------------------------------------------------------
# A batch that follows the first chunk of a rollup at once
# ---------------------------------------------------------------------

# A worker comes late, when the rollup that it was wanted for is filled, and finds
# another one, of which the applier has filled the first chunk.  The batch behind that
# is open: the worker must not read the next chunk until the batch has followed.
ask("SELECT detect.drop_rollup(rollup) FROM detect.rollup");

my $launcher = find_process($node, 'city', 'launcher');
my @holders  = map { hold_worker($_) } qw(after_fill_chunk after_events);

kill('STOP', $launcher) or die "could not stop process $launcher: $!";
ask("SELECT detect.create_rollup('per_day', \$\$ $queries{per_day} \$\$)");
ask("SELECT detect.wait_for_rollup('per_day', '${timeout}s')");
pass('without a worker the applier fills a rollup itself');
$armed = arm($node, 'after_fill_chunk:wait:1:1000000', 'after_events:wait:1:1000000');
ask("SELECT detect.create_rollup('per_minute', \$\$ $queries{per_minute} \$\$)");

my $applier_is_held = sub {
	my ($point) = @_;

	return "count(*) = 1 FROM pg_locks l JOIN detect.stat_worker w USING (pid) WHERE w.duty = 'apply'
		AND l.locktype = 'advisory' AND l.objid = hashtext('$point')::oid AND NOT l.granted";
};

await($applier_is_held->('after_fill_chunk'), 'the applier fills the first chunk of another');
ask("INSERT INTO detect_staging.event (id, at, place, v)
	SELECT 9000000 + n, date_trunc('hour', now()) - n % 600 * interval '1 minute', 1, 1 FROM generate_series(1, 600) n");
$holders[0]->quit;
await($applier_is_held->('after_events'), 'a batch is open');
my $log_end = -s $node->logfile;
kill('CONT', $launcher) or die "could not continue process $launcher: $!";
ok($node->wait_for_log(qr/a chunk is left to the applier of stream "event"/, $log_end), 'the worker has waited for it, and left it alone');
$holders[1]->quit;
disarm($node, $armed);
ask("SELECT detect.create_rollup('per_place', \$\$ $queries{per_place} \$\$)");
rollups_are_exact('a batch behind the first chunk');

# ---------------------------------------------------------------------
# Who changes the stream does not wait for a chunk
# ---------------------------------------------------------------------

foreach my $verb ("SELECT detect.pause('event'), detect.resume('event')", "SELECT detect.drop_rollup('per_minute')",
	"SELECT detect.alter_rollup('per_day', retention => '100 years')")
{
	$holder = hold_worker('after_chunk_read');
	$armed  = arm($node, 'after_chunk_read:wait:1:1000000');
	make_rollups();
	await($is_held, 'a worker has read a chunk');
	ask("SET lock_timeout = '${timeout}s'; $verb");
	pass("not waited for: $verb");
	$late->(1000);
	disarm($node, $armed);
	$holder->quit;
	ask("SELECT detect.create_rollup('per_minute', \$\$ $queries{per_minute} \$\$)") if $verb =~ /drop_rollup/;
	rollups_are_exact($verb);
}

# ---------------------------------------------------------------------
# A table that is rewritten while its lock is waited for
# ---------------------------------------------------------------------

my $writer = $node->background_psql('city');

ask(q{
	CREATE TABLE city.plain (id int, v int);
	CREATE FUNCTION city.checked(v int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN RAISE 'not yet'; END $$;
	INSERT INTO city.plain SELECT n, n FROM generate_series(1, 1000) n;
	SELECT detect.create_stream('plain', server => '', events_table => 'city.plain', key => '{id}');
	SELECT detect.create_rollup('sums', 'SELECT v % 10 AS digit, sum(checked(v)) AS v FROM city.plain GROUP BY 1')});
await("state = 'failed' FROM detect.stat_rollup WHERE rollup = 'sums'", 'a rollup is tried again');
$writer->query_safe(q{SET ROLE ops; BEGIN; ALTER TABLE plain ADD COLUMN noise float8 DEFAULT random();
	CREATE OR REPLACE FUNCTION city.checked(v int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT v'});
await("count(*) > 0 FROM pg_locks l JOIN detect.stat_worker w USING (pid) WHERE w.duty = 'apply'
	AND relation = 'plain'::regclass AND NOT granted", 'the applier waits for the table');
$writer->query_safe('COMMIT');
# the try that was seen may have ended before
ask("SELECT detect.retry_rollup('sums')");
ask("SELECT detect.wait_for_rollup('sums', '${timeout}s')");
is(ask('SELECT sum(v) FROM sums'), '500500', 'its rows are seen, although they are new');
$writer->quit;

$node->stop;
log_is_clean($node);
done_testing();
