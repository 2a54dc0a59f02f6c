# Who waits for a stream may find another one of its name, or none; who looks for streams
# that can't run may find one that is just mended; and a database may be closed for a
# while.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";

use DetectTest;
use FaultPoint;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = make_node('main');

sub ask
{
	my ($sql, $database) = @_;

	return $node->safe_psql($database // 'city', "SET ROLE ops; SET search_path = city, public; $sql");
}

# A session of the streams' owner.
sub session
{
	my $session = $node->background_psql('city', on_error_stop => 0);

	$session->query_safe('SET ROLE ops; SET search_path = city, public; SET client_min_messages = warning');
	return $session;
}

# Has a session begin a statement, and returns when it waits for a lock.
sub begin_to_wait
{
	my ($session, $sql) = @_;
	my $pid = $session->query_safe('SELECT pg_backend_pid()');

	$session->query_until(qr/^begins$/m, "\\echo begins\n$sql;\n");
	$node->poll_query_until('city', "SELECT EXISTS (SELECT FROM pg_locks WHERE pid = $pid AND NOT granted)")
	  or die "\"$sql\" does not wait";
	return;
}

# What a session that was let go complains of.
sub complaint
{
	my ($session) = @_;

	$session->query('SELECT 1');
	my $stderr = $session->{stderr};
	$session->{stderr} = '';
	return $stderr;
}

sub runs
{
	my ($stream, $what, $database) = @_;

	ask("INSERT INTO detect_staging.$stream (id) SELECT coalesce(max(id), 0) + 1 FROM $stream; SELECT detect.wait_for('$stream', '60s')", $database // 'city');
	return is(ask("SELECT state FROM detect.stat_stream WHERE stream = '$stream'", $database), 'running', $what);
}

sub close_database
{
	$node->safe_psql('postgres', 'ALTER DATABASE city ALLOW_CONNECTIONS false');
	return;
}

sub open_database
{
	my ($what) = @_;

	$node->safe_psql('postgres', 'ALTER DATABASE city ALLOW_CONNECTIONS true');
	ok($node->poll_query_until('postgres', q{SELECT count(*) > 0 FROM pg_stat_activity WHERE datname = 'city' AND backend_type LIKE 'detect apply%'}), $what);
	runs($_, "stream $_ runs") foreach ('a', 'b');
	return;
}

$node->append_conf('postgresql.conf', 'max_worker_processes = 20');
$node->start;
install_detect($node, 'city');
FaultPoint::configure($node, 'mutant_small_limits');
ask("CREATE TABLE $_ (id bigint PRIMARY KEY); SELECT detect.create_stream('$_', server => '')") foreach ('a', 'b', 'c');
runs($_, "stream $_ runs") foreach ('a', 'b', 'c');

my ($first, $second, $third) = map { session() } 1 .. 3;

# ---------------------------------------------------------------------
# Dropped while somebody waits
# ---------------------------------------------------------------------
$first->query_safe("BEGIN; SELECT detect.drop_stream('a'); SELECT detect.create_stream('a', server => '')");
begin_to_wait($second, "SELECT detect.drop_stream('a')");
begin_to_wait($third, "SELECT detect.alter_stream('a', retention => '1 day')");
$first->query_safe('COMMIT');
like(complaint($second), qr/ERROR:  stream "a" was altered or dropped meanwhile/, 'another stream of the name is not dropped');
like(complaint($third), qr/ERROR:  stream "a" was altered or dropped meanwhile/, 'nor altered');
runs('a', 'it runs');

$first->query_safe('BEGIN; SELECT count(*) FROM c');
begin_to_wait($second, "SELECT detect.drop_stream('c')");
begin_to_wait($third, "SELECT detect.create_stream('c', server => '', events_table => 'c', key => '{id}', if_not_exists => true)");
$first->query_safe('COMMIT');
is(complaint($second), '', 'a stream is dropped');
like(complaint($third), qr/ERROR:  stream "c" was altered or dropped meanwhile/, 'beside it nobody finds it there');

# ---------------------------------------------------------------------
# Mended while it is found to be broken
# ---------------------------------------------------------------------
$node->safe_psql('city', 'UPDATE detect._stream SET home_database = 1');
$first->query_safe("BEGIN; SELECT detect.resume('b')");
ask("SELECT detect.resume('a')");
runs('a', 'a copy that is taken over runs, while somebody takes over another one');
$first->query_safe('COMMIT');
runs('b', 'and so does that');
is(ask('SELECT string_agg(stream, $$,$$) FROM detect.stream WHERE paused'), '', 'neither is paused');

# ---------------------------------------------------------------------
# A database that is closed for a while
# ---------------------------------------------------------------------
install_detect($node, 'town');
ask("CREATE TABLE t (id bigint PRIMARY KEY); SELECT detect.create_stream('t', server => '')", 'town');
runs('t', 'a stream of another database runs', 'town');
$_->quit foreach ($first, $second, $third);
close_database();
ask("SELECT detect.pause('t')", 'town');
$node->poll_query_until('postgres', q{SELECT count(*) = 0 FROM pg_stat_activity WHERE datname = 'city'}) or die 'workers stay';
open_database('workers come back when it is open again');

# Closed while another database is looked at, and open again before its workers have
# ended: none begins beside them.
my $appliers = q{FROM pg_stat_activity WHERE datname = 'city' AND backend_type = 'detect apply'};
my ($count, $before) = split /\|/, $node->safe_psql('postgres', "SELECT count(*), array_agg(pid) $appliers");
close_database();
ask("SELECT detect.resume('t')", 'town');
runs('t', 'another database was looked at', 'town');
$node->safe_psql('postgres', 'ALTER DATABASE city ALLOW_CONNECTIONS true');
ask("SELECT detect.resume('a')");
$node->poll_query_until('postgres', "SELECT count(*) > $count OR NOT bool_or(pid = ANY ('$before')) IS TRUE $appliers")
  or die 'workers stay';
cmp_ok($node->safe_psql('postgres', "SELECT count(*) $appliers"), '<=', $count, 'a stream has one applier at most');
runs($_, "stream $_ runs") foreach ('a', 'b');
close_database();
$node->restart;
open_database('also after a restart');

log_is_clean($node);
$node->stop;
done_testing();
