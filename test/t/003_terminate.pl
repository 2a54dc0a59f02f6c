# What disturbs a transaction of a worker costs a retry and nothing else: being
# terminated or cancelled, a deadlock, a lock that is not to be had.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";

use DetectTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use constant {
	BLOWS => 50,
	CHUNK => 400,
};

my $broker  = DetectTest::Broker->start();
my $node    = make_node('main');
my %lines;
my %table   = (camera => 'detection', gate => 'gate_detection');
my %applied = (camera => 0, gate => 0);

# Produces a chunk, and returns when a random part of it is applied.
sub produce_some
{
	my ($stream) = @_;
	my $more = int(rand(CHUNK));

	$broker->produce($stream, splice(@{ $lines{$stream} }, 0, CHUNK));
	wait_applied($node, 'city', $stream, $applied{$stream} + $more, '');
	$applied{$stream} += CHUNK;
	return;
}

sub ledgers_are_exact
{
	my ($what) = @_;

	ledger_is_exact($node, 'city', $broker, "$what, stream $_", name => $_, table => $table{$_})
	  foreach sort keys %table;
	return;
}

# Produces while a session holds a lock, which it does until a condition is met.
# Nothing is lost by it.
sub is_survived
{
	my ($lock, $condition, $what) = @_;
	my $blocker = $node->background_psql('city');

	$blocker->query_safe("BEGIN; $lock");
	$broker->produce('camera', splice(@{ $lines{camera} }, 0, CHUNK));
	$applied{camera} += CHUNK;
	ok($node->poll_query_until('city', "SELECT $condition"), $what);
	$blocker->query_safe('ROLLBACK');
	$blocker->quit;
	ok( $node->poll_query_until(
			'city', "SELECT state = 'active' FROM detect.stat_rollup WHERE rollup = 'camera_per_minute'"),
		"$what: the rollup takes part afterwards");
	ledger_is_exact($node, 'city', $broker, "$what: nothing is lost and nothing dead-lettered");
	return;
}

$node->start;
install_detect($node, 'city');
foreach my $stream ('camera', 'gate')
{
	$lines{$stream} = [
		camera_lines(
			(BLOWS + 8) * CHUNK,
			seed   => $DetectTest::seed + ($stream eq 'gate'),
			broken => 0)
	];
	$broker->create_topic($stream, 4);
	create_camera(
		$node, 'city', $broker,
		name      => $stream,
		table     => $table{$stream},
		consumers => $stream eq 'gate' ? 1 : 0);
}

# ---------------------------------------------------------------------
# Terminated and cancelled
# ---------------------------------------------------------------------

my $terminated = 0;
my $started_at =
  $node->safe_psql('city', 'SELECT pg_postmaster_start_time()');

for my $blow (1 .. BLOWS)
{
	my $stream = ('camera', 'gate')[ rand 2 ];
	my $duty   = ('apply', $stream eq 'gate' ? 'consume' : 'apply')[ rand 2 ];
	my $verb   = rand() < 0.3 ? 'terminate' : 'cancel';

	produce_some($stream);
	$node->safe_psql('city', "SELECT pg_${verb}_backend(pid) FROM detect.stat_worker
		WHERE stream = '$stream' AND duty = '$duty' AND pid IS NOT NULL");
	$terminated++ if $verb eq 'terminate';

	# Each end in a row doubles the wait for the next start; who resumes a
	# stream wants to see it start.
	$node->safe_psql('city', "SELECT detect.resume('$stream')")
	  if $verb eq 'terminate' && $terminated % 3 == 0;
}
note("$terminated of " . BLOWS . " terminated");
ledgers_are_exact('after workers were terminated and cancelled');
ok( $node->poll_query_until('city',
		"SELECT count(*) = 2 FROM detect.stat_stream WHERE state = 'running' AND reason IS NULL"),
	'once they run again, nothing is said of their ends');
is($node->safe_psql('city', 'SELECT pg_postmaster_start_time()'),
	$started_at, 'the server did not restart');
is($node->safe_psql('city', 'SELECT count(*) FROM detect.dead_letter'),
	'0', 'no event was blamed');

# The launcher comes back, adopts the workers, and starts those that end later.
my $launcher = $node->safe_psql('city',
	"SELECT pid FROM pg_stat_activity WHERE backend_type = 'detect launcher'");
my $worker = worker_pid($node, 'city', 'camera');

$node->safe_psql('city', "SELECT pg_terminate_backend($launcher)");
wait_for_exit($launcher);
produce_some('camera');
ledgers_are_exact('while there is no launcher');
ok( $node->poll_query_until(
		'city', "SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'detect launcher'"),
	'the launcher is started again');
is(worker_pid($node, 'city', 'camera'), $worker, 'it leaves running workers alone');
$node->safe_psql('city', "SELECT pg_terminate_backend($worker)");
wait_for_exit($worker);
produce_some('camera');
ledgers_are_exact('after it has started another worker');

# Who resumes a stream does not wait for the next try.
$node->append_conf('postgresql.conf', 'detect.retry_interval = 1min');
$node->reload;
$worker = worker_pid($node, 'city', 'camera');
$node->safe_psql('city', "SELECT pg_terminate_backend($worker)");
wait_for_exit($worker);
$node->safe_psql('city', "SELECT detect.resume('camera')");
cmp_ok(seconds_of(sub { worker_pid($node, 'city', 'camera') }), '<', 50, 'a worker that is waited for starts at once');
$node->append_conf('postgresql.conf', 'detect.retry_interval = 100ms');
$node->reload;

# ---------------------------------------------------------------------
# Locks
# ---------------------------------------------------------------------

is_survived(
	'LOCK TABLE detection IN SHARE MODE',
	"EXISTS (SELECT FROM detect.stat_stream
		WHERE stream = 'camera' AND state = 'retrying' AND last_sqlstate = '55P03')",
	'events table locked: the batch is tried again');

# The events come first: they are committed while the rollup is locked.
is_survived(
	'LOCK TABLE detect_state.camera_per_minute IN SHARE MODE',
	"EXISTS (SELECT FROM detect.stat_rollup
		WHERE rollup = 'camera_per_minute' AND state = 'failed' AND events_missed > 0)",
	'rollup locked: it is set aside');

# A table that the query joins, locked for longer than the applier waits just when the
# query must be planned anew, as after ANALYZE: nothing is wrong with the query.
$node->safe_psql(
	'city', q{
	SET ROLE ops;
	CREATE TABLE place (id int PRIMARY KEY, name text);
	INSERT INTO place VALUES (1, 'Market'), (2, 'Station');
	CREATE TABLE placed (id int PRIMARY KEY, name text);
	SELECT detect.create_stream('placed', server => '', columns => 'id int', query => 'SELECT b.id, p.name FROM batch b LEFT JOIN place p USING (id)')});
$node->safe_psql('city', 'INSERT INTO detect_staging.placed VALUES (1)');
wait_for($node, 'city', 'placed');
$node->safe_psql('city', 'ANALYZE place');

my $placer  = $node->background_psql('city');
my $retries = $node->safe_psql('city', "SELECT retries FROM detect.stat_stream WHERE stream = 'placed'");

$placer->query_safe("BEGIN; TRUNCATE place; INSERT INTO place VALUES (2, 'Harbour')");
$node->safe_psql('city', 'INSERT INTO detect_staging.placed VALUES (2)');
ok( $node->poll_query_until(
		'city', "SELECT state = 'paused' OR retries >= $retries + 2 FROM detect.stat_stream WHERE stream = 'placed'"),
	'a joined table is locked: the batch is tried again');
$placer->query_safe('COMMIT');
$placer->quit;
ok( $node->poll_query_until(
		'city', "SELECT state = 'paused' OR EXISTS (SELECT FROM placed WHERE id = 2) FROM detect.stat_stream WHERE stream = 'placed'"),
	'and again, until the lock is gone');
stream_is($node, 'city', 'placed', 'running', '^$', 'then the stream runs');
is($node->safe_psql('city', q{SELECT string_agg(id || ' ' || name, ', ' ORDER BY id) FROM placed}),
	'1 Market, 2 Harbour', 'and has joined what was committed');
$node->safe_psql('city', "SELECT detect.drop_stream('placed')");

# A deadlock: the applier reads location, then waits for detection; the other
# session does it the other way round.  The applier gives up before PostgreSQL
# has to choose a victim: nobody's command fails because a stream runs.
my $log_end = -s $node->logfile;
my $rival   = $node->background_psql('city');

# it looks for deadlocks after the applier has given up, however slow that is
$rival->query_safe("SET deadlock_timeout = '30s'");
$rival->query_safe('BEGIN; LOCK TABLE detection IN SHARE MODE');
$broker->produce('camera', splice(@{ $lines{camera} }, 0, CHUNK));
$rival->query_safe(q{
	DO $$
	BEGIN
		LOOP
			EXIT WHEN EXISTS (SELECT FROM pg_locks WHERE NOT granted AND relation = 'detection'::regclass);
		END LOOP;
		LOCK TABLE location;
	END
	$$});
pass('a session that deadlocks with an applier gets its lock');
unlike(slurp_file($node->logfile, $log_end), qr/client backend .*deadlock detected/, 'no command of a client was the victim');
$rival->query_safe('ROLLBACK');
$rival->quit;
ledgers_are_exact('after a deadlock');

# Whatever comes of the environment, here from a trigger that fails twice.
my %raised = (
	'40001' => 'serialization_failure',
	'40P01' => 'deadlock_detected',
	'53100' => 'disk_full',
	'53200' => 'out_of_memory',
	'55P03' => 'lock_not_available',
	'57014' => 'query_canceled');

foreach my $sqlstate (sort keys %raised)
{
	$node->safe_psql(
		'city', qq{
		BEGIN;
		CREATE SEQUENCE fault;
		GRANT USAGE ON SEQUENCE fault TO ops;
		CREATE FUNCTION fault() RETURNS trigger LANGUAGE plpgsql AS \$\$
		BEGIN
			IF nextval('city.fault') <= 2 THEN
				RAISE EXCEPTION USING ERRCODE = '$sqlstate', MESSAGE = 'injected $raised{$sqlstate}';
			END IF;
			RETURN NULL;
		END \$\$;
		CREATE TRIGGER fault AFTER INSERT ON detection FOR EACH STATEMENT EXECUTE FUNCTION fault();
		COMMIT});
	$broker->produce('camera', splice(@{ $lines{camera} }, 0, CHUNK / 4));
	wait_for($node, 'city', 'camera');
	is( $node->safe_psql('city', qq{
			SELECT (SELECT last_value > 2 FROM fault), last_sqlstate
			FROM detect.stat_stream WHERE stream = 'camera'}),
		"t|$sqlstate", "$raised{$sqlstate}: the batch is tried again");
	$node->safe_psql('city', 'DROP TRIGGER fault ON detection; DROP FUNCTION fault; DROP SEQUENCE fault');
}
ledger_is_exact($node, 'city', $broker, 'after errors of the environment');
is($node->safe_psql('city', 'SELECT count(*) FROM detect.dead_letter'), '0', 'no event was blamed for any');

log_is_clean($node);
$node->stop;
done_testing();
