# A guest among others: somebody keeps a snapshot, or a dump, open for long; a
# synchronous standby is gone; everything is published and decoded.  Streams go
# on, and what they write can be cleaned.

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
my @lines  = camera_lines(40_000);

sub produce
{
	my ($count) = @_;

	$broker->produce('camera', splice(@lines, 0, $count));
	return;
}

# As the owner of the stream.
sub ask
{
	my ($sql) = @_;

	return $node->safe_psql('city', "SET ROLE ops; SET search_path = city, public; $sql");
}

# A number of the statistics of a table.
sub statistic
{
	my ($table, $column) = @_;

	return $node->safe_psql('city', "SELECT $column FROM pg_stat_all_tables WHERE relid = '$table'::regclass");
}

$node->append_conf(
	'postgresql.conf', q{
autovacuum_naptime = 1s
wal_level = logical
detect.max_batch_rows = 20
});
$node->start;
install_detect($node, 'city');
$broker->create_topic('camera', 4);
$broker->create_topic('load', 4);
create_camera($node, 'city', $broker, consumers => 1);
create_camera($node, 'city', $broker, consumers => 1, name => 'load', table => 'load');
produce(1000);
ledger_is_exact($node, 'city', $broker, 'the stream runs');

# ---------------------------------------------------------------------
# A snapshot that is kept
# ---------------------------------------------------------------------

# What our tables take, with their indexes, once what was handed over is given back.
sub bytes_taken
{
	my ($what) = @_;

	ok($node->poll_query_until('city', q{SELECT bool_and(pg_relation_size(c.oid) < 64 * 8192) FROM pg_class c WHERE c.relname ~ '^_staged_[0-9]+_' AND c.relkind = 'r'}),
		"what was handed over is given back, $what");
	return $node->safe_psql('city', q{
		SELECT sum(pg_total_relation_size(c.oid)) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE n.nspname IN ('detect', 'detect_state', 'detect_staging') AND c.relkind = 'r'});
}

# Have a stream of its own read a topic that is filled again and again, for so long
# at least.  The events differ in their keys alone: all go into the same groups.
my $loaded = 0;
my $start  = $node->safe_psql('city', q{SELECT to_char(now() - interval '2 hours', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')});

sub load
{
	my ($seconds) = @_;
	my $begin     = time();
	my $path      = "$PostgreSQL::Test::Utils::tmp_check/load";

	do
	{
		system_or_bail("$DetectTest::programs/generator", '--file', $path, '--count', 10_000, '--start', $start, '--seed', 1, '--event-rate', 5,
			'--locations', 100, '--first-oid', $loaded + 1);
		$broker->command('file', 'load', $path);
		unlink $path;
		wait_for($node, 'city', 'load');
		$loaded += 10_000;
	} while (time() - $begin < $seconds);
	return;
}

# make test-guest-long keeps it for ten minutes
my $patience = $ENV{DETECT_SNAPSHOT_S} // 0;
my $reader   = $node->background_psql('city', timeout => $patience + 600);
$reader->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM detection');
my $vacuums = statistic('detect_state.camera_per_minute', 'autovacuum_count');
produce(20_000);
ledger_is_exact($node, 'city', $broker, 'while a snapshot is kept the stream goes on');
load($patience);
# PostgreSQL hands statistics on once a second at most
ok($node->poll_query_until('city', "SELECT n_tup_upd > 500 FROM pg_stat_all_tables WHERE relid = 'detect._applied_progress'::regclass"),
	'statistics count what workers write');
ok($node->poll_query_until('city', "SELECT n_dead_tup > 2000 FROM pg_stat_all_tables WHERE relid = 'detect_state.camera_per_minute'::regclass"),
	'autovacuum is told of dead rows');
cmp_ok($node->safe_psql('city', q{SELECT count(*) FROM detect.health('0') WHERE "check" = 'long transaction' AND severity = 'warning'}), '>', 0, 'health names who keeps it');
ok( $node->poll_query_until(
		'city', q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type IN ('detect apply', 'detect consume', 'detect launcher') AND (backend_xmin IS NOT NULL OR xact_start IS NOT NULL)}),
	'we keep none ourselves while nothing is to be done');
my $kept = bytes_taken('while the snapshot is kept');
note("$loaded messages under a snapshot: our tables take $kept bytes");
$reader->query_safe('COMMIT');
ok( $node->poll_query_until(
		'city', "SELECT bool_and(n_dead_tup < 2000) AND bool_or(relname = 'camera_per_minute' AND autovacuum_count > $vacuums) FROM pg_stat_all_tables
			WHERE relid IN ('detect_state.camera_per_minute'::regclass, 'detect_state.load_per_minute'::regclass)"),
	'it is cleaned once nobody keeps it any more');
load(0);
is( $node->safe_psql('city', q{
		SELECT (SELECT count(*) FROM load), (SELECT sum(detections) FROM load_per_minute),
			   (SELECT count(*) FROM (SELECT minute, item_name, detections FROM load_per_minute EXCEPT ALL
				SELECT date_bin('1 minute', timestamp_detected, 'epoch'), item_name, count(*) FROM load GROUP BY 1, 2) x)}),
	"$loaded|$loaded|0", 'nothing of it is lost');
cmp_ok(bytes_taken('after it'), '<=', 1.05 * $kept, 'and what the snapshot took is used again');
produce(2000);
ledger_is_exact($node, 'city', $broker, 'and on');
# ---------------------------------------------------------------------
# A dump that takes its time
# ---------------------------------------------------------------------

# What pg_dump does before it reads: a snapshot, and a lock on every table.
$reader->query_safe(q{
	BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY;
	DO $$
	DECLARE name text;
	BEGIN
		FOR name IN SELECT c.oid::regclass FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
			LEFT JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'
			WHERE c.relkind IN ('r', 'p', 'v') AND n.nspname !~ '^pg_|information_schema'
			AND (d.objid IS NULL OR c.oid = ANY ((SELECT extconfig FROM pg_extension WHERE extname = 'detect')::oid[]))
		LOOP
			EXECUTE format('LOCK TABLE %s IN ACCESS SHARE MODE', name);
		END LOOP;
	END $$});
my $count_retries = "SELECT retries FROM detect.stat_stream WHERE stream = 'camera'";
my $retries       = $node->safe_psql('city', $count_retries);
produce(3000);
wait_for($node, 'city', 'camera');
is($node->safe_psql('city', $count_retries), $retries, 'nothing has to be tried again while a dump is made');
ask(q{SELECT detect.create_rollup('by_camera', 'SELECT video_camera_oid, count(*) AS n FROM detection GROUP BY 1')});
my ($old) = camera_lines(1, 'first-oid' => 9_000_000, broken => 0, late => 0, duplicates => 0);
$old =~ s/("timestamp_detected": ")[^"]*/${1}2020-01-01T00:00:00Z/ or die $old;
$broker->produce('camera', $old);
ledger_is_exact($node, 'city', $broker, 'while a dump is made the stream goes on, with a new partition');
ask(q{SELECT detect.wait_for_rollup('by_camera', '3 min')});
is($node->safe_psql('city', 'SELECT sum(n) = (SELECT count(*) FROM detection) FROM by_camera'), 't', 'a rollup that was made meanwhile is filled');
$reader->query_safe('COMMIT');
$node->command_ok([ 'pg_dump', '-Fd', '-j', '2', '-d', $node->connstr('city'), '-f', "$PostgreSQL::Test::Utils::tmp_check/dump" ], 'a parallel dump');
$node->command_ok([ 'createdb', '-h', $node->host, '-p', $node->port, 'restored' ], 'a database for it');
$node->command_ok([ 'pg_restore', '-j', '2', '-d', $node->connstr('restored'), "$PostgreSQL::Test::Utils::tmp_check/dump" ], 'a parallel restore');
is($node->safe_psql('restored', 'SELECT count(*) > 0 FROM city.detection'), 't', 'with the events');
$node->command_ok([ 'pg_dump', '--schema-only', '-d', $node->connstr('city'), '-f', "$PostgreSQL::Test::Utils::tmp_check/schema.sql" ], 'a dump of the schema');
$node->safe_psql('postgres', 'CREATE DATABASE bare');
$node->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('bare'), '-f', "$PostgreSQL::Test::Utils::tmp_check/schema.sql" ], 'it is restored');
is($node->safe_psql('bare', q{SELECT (SELECT count(*) FROM detect.stream), (SELECT detect.status())}), '0|ok', 'it carries no streams');
$node->safe_psql('postgres', "DROP DATABASE $_") foreach ('restored', 'bare');

# ---------------------------------------------------------------------
# A synchronous standby that is gone
# ---------------------------------------------------------------------

$node->safe_psql('postgres', q{ALTER SYSTEM SET synchronous_standby_names = 'nobody'});
$node->reload;
{
	# what the test itself writes does not wait
	local $ENV{PGOPTIONS} = '-c synchronous_commit=local';
	ok($node->poll_query_until('postgres', q{SELECT current_setting('synchronous_standby_names') = 'nobody'}), 'a synchronous standby is asked for');
	produce(1000);
	ledger_is_exact($node, 'city', $broker, 'the stream does not wait for it');
	ask(q{SELECT detect.pause('camera'); SELECT detect.resume('camera')});
	produce(500);
	ledger_is_exact($node, 'city', $broker, 'nor does it start with it');
	$node->safe_psql('postgres', q{ALTER SYSTEM RESET synchronous_standby_names});
}
$node->reload;

# ---------------------------------------------------------------------
# Everything published and decoded
# ---------------------------------------------------------------------

$node->safe_psql('city', q{
	SELECT pg_create_logical_replication_slot('everything', 'pgoutput');
	CREATE PUBLICATION everything FOR ALL TABLES});
ask(q{SELECT detect.create_rollup('by_place', 'SELECT location_name, date_bin($$1 minute$$, timestamp_detected, $$epoch$$) AS minute, count(*) AS n FROM detection GROUP BY 1, 2')});
produce(1000);
ledger_is_exact($node, 'city', $broker, 'published, the stream goes on');
ask(q{SELECT detect.wait_for_rollup('by_place', '3 min')});
# groups that go, and come again; dead letters tried again and deleted
ask(q{SELECT detect.rebuild_rollup('by_place'); SELECT detect.wait_for_rollup('by_place', '3 min')});
ask(q{SELECT detect.alter_rollup('by_place', retention => '1 hour'); SELECT detect.retry_dead_letters('camera'); SELECT detect.wait_for('camera', '3 min')});
is($node->safe_psql('city', q{SELECT count(*) FROM detect.stat_rollup WHERE error IS NOT NULL OR repair_error IS NOT NULL}), '0', 'rollups do what they do');
my $since = ask('SELECT clock_timestamp()');
ask(q{INSERT INTO detect_staging.camera VALUES (1, 1, 1, 'bad', 2, now()); SELECT detect.wait_for('camera')});
is(ask(qq{SELECT detect.purge_dead_letters('camera', from_time => '$since')}), '1', 'dead letters are deleted');
stream_is($node, 'city', 'camera', 'running', '^$', 'nothing fails');
cmp_ok($node->safe_psql('city', q{SELECT count(*) FROM pg_logical_slot_get_binary_changes('everything', NULL, NULL, 'proto_version', '1', 'publication_names', 'everything')}),
	'>', 1000, 'what we do is decoded');
is( $node->safe_psql('city', q{
		SELECT c.oid::regclass FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE n.nspname IN ('detect', 'detect_state') AND c.relkind = 'r' AND c.relpersistence = 'p' AND c.relreplident <> 'f'
		AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary)}),
	'', 'subscribers can tell the rows of all our tables apart');
$node->safe_psql('city', q{DROP PUBLICATION everything; SELECT pg_drop_replication_slot('everything')});
ask(q{SELECT detect.drop_rollup('by_place'); SELECT detect.drop_rollup('by_camera')});

log_is_clean($node);
$node->stop;
done_testing();
