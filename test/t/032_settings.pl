# Settings of roles and databases reach background workers, too.  Whatever they are,
# a stream gives the same events, or says why it waits.

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
my @lines  = camera_lines(6000);

# Our own questions are asked under the settings of the tests.
$ENV{PGOPTIONS} = join(
	' ',
	map { "-c $_" } (
		'DateStyle=ISO',                'TimeZone=UTC',
		'search_path=city,public',      'statement_timeout=0',
		'lock_timeout=0',               'exit_on_error=off',
		'session_replication_role=origin', 'row_security=on',
		'idle_session_timeout=0',       'idle_in_transaction_session_timeout=0',
		'default_transaction_isolation=read\\ committed', 'default_transaction_read_only=off',
		'standard_conforming_strings=on', 'bytea_output=hex', 'quote_all_identifiers=off',
		'client_min_messages=notice',   'role=none', 'extra_float_digits=1', 'transform_null_equals=off'));

# What a role or a database might have, each thing that would change what values
# mean, which objects are found, or how long something may take.
my %hostile = (
	array_nulls                    => 'off',
	bytea_output                   => 'escape',
	check_function_bodies          => 'off',
	client_min_messages            => 'debug5',
	constraint_exclusion           => 'off',
	cursor_tuple_fraction          => '0.0001',
	DateStyle                      => 'SQL, DMY',
	default_transaction_deferrable => 'on',
	default_transaction_isolation  => 'serializable',
	enable_hashjoin                => 'off',
	enable_seqscan                 => 'off',
	exit_on_error                  => 'on',
	extra_float_digits             => '-15',
	force_parallel_mode            => 'on',
	gin_fuzzy_search_limit         => '1',
	idle_in_transaction_session_timeout => '1',
	idle_session_timeout           => '1',
	IntervalStyle                  => 'sql_standard',
	jit                            => 'on',
	jit_above_cost                 => '0',
	lock_timeout                   => '1',
	parallel_setup_cost            => '0',
	plan_cache_mode                => 'force_generic_plan',
	quote_all_identifiers          => 'on',
	role                           => 'other',
	row_security                   => 'off',
	search_path                    => 'public, pg_temp, pg_catalog',
	session_replication_role       => 'replica',
	standard_conforming_strings    => 'off',
	statement_timeout              => '1',
	synchronous_commit             => 'on',
	TimeZone                       => 'Asia/Kolkata',
	timezone_abbreviations         => 'India',
	transform_null_equals          => 'on',
	work_mem                       => '64',
	xmlbinary                      => 'hex',
	xmloption                      => 'document');

# A setting and its hostile value.
sub assignment
{
	my ($name) = @_;

	return "$name = " . ($name eq 'search_path' ? $hostile{$name} : "'$hostile{$name}'");
}

# All workers start anew, and so have the settings of by now.
sub restart_workers
{
	$node->safe_psql('city', q{SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE backend_type ~ '^detect (apply|consume)'});
	return;
}

sub produce
{
	my ($count) = @_;

	$broker->produce('camera', splice(@lines, 0, $count));
	return;
}

$node->start;
install_detect($node, 'city');
$broker->create_topic('camera', 2);
$node->safe_psql('city', 'CREATE ROLE other; GRANT other TO ops');
# names that a path with public first would find in the place of others
$node->safe_psql('city', 'CREATE TABLE public.location (geographical_location_oid int, location_name text);
	CREATE TABLE public.detection (LIKE pg_class); CREATE TABLE public.batch (a int)');
create_camera($node, 'city', $broker, consumers => 1,
	retention => "'3650 days'", dead_letter_retention => "'1 day'");
produce(1000);
ledger_is_exact($node, 'city', $broker, 'the stream as it is');

foreach my $where ('ROLE ops', 'DATABASE city', 'ROLE ops IN DATABASE city')
{
	$node->safe_psql('postgres',
		join(';', map { "ALTER $where SET " . assignment($_) } grep { $_ ne 'role' || $where =~ /ROLE/ } sort keys %hostile));
	restart_workers();
	produce(1000);
	ledger_is_exact($node, 'city', $broker, "the same events, whatever $where SETs");
	is( $node->safe_psql('city', q{SELECT string_agg(DISTINCT usename, ',') FROM pg_stat_activity WHERE backend_type ~ '^detect (apply|consume)'}),
		'ops', 'as the owner');
	$node->safe_psql('postgres', "ALTER $where RESET ALL");
	$node->safe_psql('postgres', 'ALTER DATABASE city SET search_path = city, public');
}

# Each setting by itself is no other matter; a maintenance window is: the stream
# waits, says so, and goes on by itself.
$node->safe_psql('postgres', 'ALTER DATABASE city SET default_transaction_read_only = on');
restart_workers();
produce(1000);
stream_is($node, 'city', 'camera', 'retrying', 'read-only transaction', 'read-only: the stream waits, and says why');
$node->safe_psql('postgres', 'ALTER DATABASE city RESET default_transaction_read_only');
restart_workers();
ledger_is_exact($node, 'city', $broker, 'and goes on when that is over');

# Memory for what a batch joins and hands on is one that an applier keeps from
# batch to batch, though it has little by default.
$broker->create_topic('memory', 1);
$node->safe_psql(
	'city', q{
	ALTER DATABASE city SET work_mem = '64kB';
	SET ROLE ops;
	CREATE TABLE memory (id int PRIMARY KEY, work_mem text);
	SELECT detect.create_stream('memory', columns => 'id int', query => $$SELECT id, current_setting('work_mem') AS work_mem FROM batch$$)});
foreach my $id (1 .. 2)
{
	$broker->produce('memory', qq({"id": $id}));
	wait_for($node, 'city', 'memory');
}
is($node->safe_psql('city', 'SELECT DISTINCT work_mem FROM memory'), '64MB', 'appliers have memory for a batch');
$node->safe_psql('city', "ALTER DATABASE city RESET work_mem; SELECT detect.drop_stream('memory')");

# Verbs in sessions with such settings do the same. (In a transaction that keeps its
# snapshot, detect.wait_for says that it cannot wait.)
my $set = join('', map { 'SET ' . assignment($_) . ';' }
	  grep { !/^(role|statement_timeout|lock_timeout|client_min_messages|idle_.*|exit_on_error|default_transaction_.*)$/ } sort keys %hostile);
$node->safe_psql('city', "$set" . q{
	SELECT detect.pause('camera');
	SELECT detect.resume('camera');
	SELECT detect.alter_stream('camera', retention => '3651 days');
	SELECT detect.wait_for('camera', '120s');
	SELECT detect.rebuild_rollup('camera_per_minute', allow_loss => true);
	SELECT detect.wait_for_rollup('camera_per_minute', '120s');
	SELECT count(*) FROM detect.verify_rollup('camera_per_minute')});
produce(1000);
ledger_is_exact($node, 'city', $broker, 'verbs work the same in sessions with such settings');
is($node->safe_psql('city', "SET TimeZone = 'Asia/Kolkata'; SET extra_float_digits = -15; SELECT count(*) FROM detect.verify_rollup('camera_per_minute')"),
	'0', 'and see the same');
log_is_clean($node);
$broker->stop;
done_testing();
