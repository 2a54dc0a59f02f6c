# A copy of a database consumes nothing until somebody resumes its streams, and
# is exact from there on: copied by CREATE DATABASE … TEMPLATE, dumped and
# restored, and a standby that takes over, which is no copy.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";

use DetectTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $broker = DetectTest::Broker->start();
my $node   = make_node('main', allows_streaming => 1);
my @lines  = camera_lines(30_000);
my $copied = qr/^this is a copy of another database$/;

sub produce
{
	my ($count) = @_;

	$broker->produce('camera', splice(@lines, 0, $count));
	return;
}

# The stream of a copy shows why it does not run, and has consumed nothing.
sub is_paused_copy
{
	my ($database, $applied, $what) = @_;

	stream_is($node, $database, 'camera', 'paused', 'this is a copy of another database',
		"$what: it is paused as a copy");
	like(
		$node->safe_psql($database, "SELECT remedy FROM detect.stat_stream WHERE stream = 'camera'"),
		qr/detect\.resume\('camera'\)/, "$what: and says what to do");
	is( $node->safe_psql($database, 'SELECT sum(applied_offset) FROM detect.stat_partition'),
		$applied, "$what: it has consumed nothing");
	# a probe looks into each database when the launcher starts
	is($node->safe_psql('postgres', "SELECT count(*) FROM pg_stat_activity WHERE datname = '$database' AND backend_type ~ '^detect (apply|consume|maintain|fill)'"),
		'0', "$what: no worker is in it");
	ok( $node->poll_query_until('postgres', "SELECT count(*) = 0 FROM pg_stat_activity WHERE datname = '$database'"),
		"$what: nor anybody else");
	return;
}

$node->append_conf('postgresql.conf', 'max_prepared_transactions = 1');
$node->start;
install_detect($node, 'city');
$broker->create_topic('camera', 4);
create_camera($node, 'city', $broker);
produce(3000);
ledger_is_exact($node, 'city', $broker, 'the original');

# ---------------------------------------------------------------------
# CREATE DATABASE … TEMPLATE
# ---------------------------------------------------------------------

# The copy carries staged rows along: the applier is held up, the consumer not.
# A prepared transaction holds it up until the last worker has ended; a session
# would be ended first, and the applier go on.
$node->safe_psql('city', "BEGIN; LOCK TABLE detection IN SHARE MODE; PREPARE TRANSACTION 'blocker'");
produce(2000);
$node->poll_query_until('city', 'SELECT sum(next_offset) > 3000 FROM detect._staged_progress')
  or die 'nothing was staged';

# A database that is in use cannot be copied: copy while no worker runs.
$node->append_conf('postgresql.conf', "shared_preload_libraries = ''");
$node->restart;
$node->safe_psql('city', "ROLLBACK PREPARED 'blocker'");
cmp_ok($node->safe_psql('city', 'SELECT sum(next_offset) FROM detect._staged_progress'),
	'>', 3000, 'events are in staging while the copy is made');
$node->safe_psql('postgres', 'CREATE DATABASE template_copy TEMPLATE city');
$node->safe_psql('postgres', 'ALTER DATABASE template_copy SET search_path = city, public');
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'detect'");
$node->restart;

is_paused_copy('template_copy', 3000, 'copy by template');
ledger_is_exact($node, 'city', $broker, 'the original goes on');
produce(1000);
ledger_is_exact($node, 'city', $broker, 'and on');
is_paused_copy('template_copy', 3000, 'copy by template, while the original runs');
$node->restart;
is_paused_copy('template_copy', 3000, 'copy by template, after a restart');
$node->safe_psql('template_copy', "SELECT detect.resume('camera')");
ledger_is_exact($node, 'template_copy', $broker, 'the copy by template, once it is resumed');

# Made while the server runs, from a stream that was paused for it.
$node->safe_psql('city', "SELECT detect.pause('camera')");
$node->poll_query_until('postgres', "SELECT count(*) = 0 FROM pg_stat_activity WHERE datname = 'city'");
$node->safe_psql('postgres', 'CREATE DATABASE paused_copy TEMPLATE city');
$node->safe_psql('postgres', 'ALTER DATABASE paused_copy SET search_path = city, public');
$node->safe_psql('city', "SELECT detect.resume('camera')");
produce(1000);
ledger_is_exact($node, 'city', $broker, 'the original after its pause');
is($node->safe_psql('paused_copy', "SELECT state, reason FROM detect.stat_stream WHERE stream = 'camera'"),
	'paused|this is a copy of another database', 'a copy of a paused stream is paused, and told as a copy');
$node->safe_psql('paused_copy', "SELECT detect.resume('camera')");
ledger_is_exact($node, 'paused_copy', $broker, 'a copy of a paused stream, once it is resumed');

# ---------------------------------------------------------------------
# pg_dump | psql
# ---------------------------------------------------------------------

# A partition is dropped while nobody looks.
$node->safe_psql('city', q{SET ROLE ops;
	CREATE TABLE seen (id int, at timestamptz, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
	SELECT detect.create_stream('seen', server => '', partition_interval => '1 day');
	SELECT detect.create_rollup('seen_daily', 'SELECT date_trunc(''day'', at) AS day, count(*) AS n FROM seen GROUP BY 1');
	SELECT detect.wait_for_rollup('seen_daily');
	INSERT INTO detect_staging.seen SELECT n, now() - n * interval '1 day' FROM generate_series(0, 3) n;
	SELECT detect.wait_for('seen');
	SELECT detect.pause('seen')});
$node->safe_psql('city', $node->safe_psql('city', q{SELECT format('DROP TABLE %s', tableoid::regclass) FROM seen WHERE id = 3}));

my $dump    = "$PostgreSQL::Test::Utils::tmp_check/city.sql";
my $applied = $node->safe_psql('city', 'SELECT sum(applied_offset) FROM detect.stat_partition');
my $letters = $node->safe_psql('city', 'SELECT count(*) FROM detect.dead_letter');

$node->safe_psql('city', "SELECT detect.create_rollup_view('camera_together', 'camera_per_minute', '{}')");
# its states are PostGIS's, and name their maker
my $places = q{SELECT date_trunc('hour', timestamp_detected) AS hour,
	ST_AsText(ST_Normalize(ST_Union(ST_Point(video_camera_oid, geographical_location_oid)))) AS places FROM detection GROUP BY 1};
$node->safe_psql('city', "SELECT detect.create_rollup('places', \$\$ $places \$\$)");
$node->safe_psql('city', "SELECT detect.wait_for_rollup('places')");
$node->safe_psql('city', "INSERT INTO detect._gone VALUES ('detection', '-infinity', '2000-01-01')");
$node->safe_psql('city', q{INSERT INTO detect._gap SELECT nextval('detect._gap_id'), stream_id, name, 'camera', 0, 1, 2, 2, 'lost', now(), now(), 'ops', NULL
	FROM detect._stream WHERE name = 'camera'});
$node->command_ok([ 'pg_dump', '-d', $node->connstr('city'), '-f', $dump ], 'pg_dump');
$node->safe_psql('city', "SELECT detect.drop_rollup('seen_daily'); SELECT detect.drop_stream('seen')");
$node->safe_psql('postgres', 'CREATE DATABASE restored');
$node->safe_psql('postgres', 'ALTER DATABASE restored SET search_path = city, public');
$node->command_ok(
	[ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('restored'), '-f', $dump ],
	'the dump is restored without an error');
produce(1000);
is_paused_copy('restored', $applied, 'restored');
is( $node->safe_psql('restored', q{
		SELECT s.stream, s.owner, s.server, s.topics[1], s.events_table, s.key, s.event_time, r.rollup, r.view, t.state
		FROM detect.stream s JOIN detect.rollup r USING (stream) JOIN detect.stat_rollup t USING (rollup)
		WHERE rollup = 'camera_per_minute'}),
	'camera|ops|city|camera|detection|{detection_oid}|timestamp_detected|camera_per_minute|camera_per_minute|active',
	'stream and rollup are as they were');
is( $node->safe_psql('restored', 'SELECT count(*) FROM detect.dead_letter'),
	$letters, 'dead letters are there too');
is( $node->safe_psql('restored', 'SELECT events_table, from_time FROM detect._gone'),
	'detection|-infinity', 'what is gone is known');
{
	my ($rc, $stdout, $stderr) = $node->psql('restored', "SELECT detect.rebuild_rollup('seen_daily')");

	like($stderr, qr/rollup "seen_daily" cannot be rebuilt without loss/, 'and that a partition was dropped, which nobody had seen yet');
}
is( $node->safe_psql('restored', 'SELECT stream, from_offset, to_offset, accepted_by FROM detect.gap'),
	'camera|1|2|ops', 'and what Kafka had lost');
is( $node->safe_psql('restored', 'SELECT count(*) > 0 FROM places') . $node->safe_psql('restored', "TABLE places EXCEPT ALL $places"),
	't', 'states that only PostGIS reads are read');
$node->safe_psql('restored', "SELECT detect.resume('camera')");
ledger_is_exact($node, 'restored', $broker, 'what was restored, once it is resumed');
is($node->safe_psql('restored', "TABLE places EXCEPT ALL $places"), '', 'and merged with new ones');
create_camera($node, 'restored', $broker, name => 'gate', table => 'gate_detection', topic => 'camera');
ledger_is_exact(
	$node, 'restored', $broker, 'a new stream beside what was restored',
	name  => 'gate',
	table => 'gate_detection',
	topic => 'camera');
is( $node->safe_psql('restored', 'SELECT detections = (SELECT count(*) FROM detection) FROM camera_together'),
	't', 'a view of the rollup was restored with it, and follows');
{
	my ($rc, $stdout, $stderr) = $node->psql('restored', 'DROP VIEW detect_query.camera_per_minute');

	like($stderr, qr/view camera_per_minute depends on table detect_state\.camera_per_minute/, 'the query of a rollup that was restored does not take its view along');
}
# Restored over itself: progress and events are those of the dump, whatever ran since.
my $again = "$PostgreSQL::Test::Utils::tmp_check/restored.sql";
my $applied_again = $node->safe_psql('restored', 'SELECT sum(applied_offset) FROM detect.stat_partition');
$node->command_ok([ 'pg_dump', '-d', $node->connstr('restored'), '-f', $again ], 'pg_dump of what was restored');
produce(1000);
ledger_is_exact($node, 'restored', $broker, 'which goes on meanwhile');
$node->safe_psql('restored', 'SET client_min_messages = warning; DROP EXTENSION detect CASCADE; DROP SCHEMA city CASCADE; DROP EXTENSION postgis CASCADE');
$node->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('restored'), '-f', $again ], 'it is restored over itself');
is_paused_copy('restored', $applied_again, 'restored over itself');
$node->safe_psql('restored', "SELECT detect.resume('camera'); SELECT detect.resume('gate')");
ledger_is_exact($node, 'restored', $broker, 'what was restored over itself, once it is resumed');

$node->safe_psql('restored', "DROP VIEW camera_together; SELECT detect.drop_rollup('camera_per_minute'); SELECT detect.drop_rollup('places')");
foreach my $drop ('TABLE detection', 'SERVER city')
{
	my ($rc, $stdout, $stderr) = $node->psql('restored', "DROP $drop");

	like($stderr, qr/view detect_query\.camera depends on/, "what was restored is guarded: DROP $drop");
}

# ---------------------------------------------------------------------
# A standby takes over
# ---------------------------------------------------------------------

$node->safe_psql('postgres', "DROP DATABASE $_ WITH (FORCE)") foreach ('template_copy', 'paused_copy', 'restored');
# A standby has all that another server has, and nobody works there.
sub is_standby
{
	my ($server, $upstream, $what) = @_;

	$upstream->wait_for_catchup($server, 'replay', $upstream->lsn($upstream->safe_psql('postgres', 'SELECT pg_is_in_recovery()') eq 't' ? 'replay' : 'insert'));
	is($server->safe_psql('postgres', "SELECT count(*) FROM pg_stat_activity WHERE backend_type ~ '^detect'"),
		'0', "$what: no worker of ours runs there");
	is( $server->safe_psql('city', 'SELECT sum(detections) = (SELECT count(*) FROM detection) FROM camera_per_minute'),
		't', "$what: rollups can be read");
	is($server->safe_psql('city', "SELECT * FROM detect.verify_rollup('camera_per_minute')"), '', "$what: and verified");
	is($server->safe_psql('city', 'SELECT state, reason FROM detect.stat_stream'), 'stopped|this server is a standby', "$what: streams say why they do not run");
	return;
}

my $standby = make_standby($node);
my $cascade = PostgreSQL::Test::Cluster->new('cascade');
$standby->backup('base');
$cascade->init_from_backup($standby, 'base', has_streaming => 1);
$cascade->start;
produce(2000);
ledger_is_exact($node, 'city', $broker, 'the primary');
is_standby($standby, $node, 'a standby');
is_standby($cascade, $standby, 'a standby of it');

produce(3000);
wait_applied($node, 'city', 'camera', $applied + 3000 + int(rand(3000)), '');
$node->stop('immediate');
$standby->promote;
ledger_is_exact($standby, 'city', $broker, 'the standby that was promoted goes on exactly');
produce(1000);
ledger_is_exact($standby, 'city', $broker, 'and on');
is_standby($cascade, $standby, 'the standby of what is the primary by now');

log_is_clean($_) foreach ($node, $standby, $cascade);
$_->stop foreach ($cascade, $standby);
done_testing();
