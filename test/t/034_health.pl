# Each condition of detect.health() that needs a restart, a broker, a standby or
# another session: its line is there, and gone once its remedy was pasted into
# psql as printed.  And that the table of settings in README.md is right.  What a single session can bring about is in sql/health.sql.

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
my @lines  = camera_lines(4000, broken => 0);

# A finding of a check comes; its remedy.
sub finds
{
	my ($check, $severity, $detail, $what) = @_;
	my $from = qq{FROM detect.health('0') WHERE "check" = '$check' AND severity = '$severity' AND detail ~ \$d\$$detail\$d\$};

	# in one question: a stream that tries again and again changes its state
	my $deadline = time() + 2 * $PostgreSQL::Test::Utils::timeout_default;
	my $found    = '';
	$found = $node->safe_psql('city', "SELECT 'found ' || COALESCE(remedy, '') $from LIMIT 1") until $found ne '' || time() > $deadline;
	isnt($found, '', $what)
	  or diag($node->safe_psql('city', "SELECT * FROM detect.health('0') WHERE severity <> 'ok'"));
	return $found =~ s/^found //r;
}

# The remedy, typed as printed; then the server restarted if it says so.
sub follow
{
	my ($remedy) = @_;

	note("remedy: $remedy");
	$node->safe_psql('city', "$remedy\n;");
	$node->restart if $remedy =~ /restart the server/;
	return;
}

# A check finds nothing any more.
sub is_well
{
	my ($check, $what) = @_;

	ok($node->poll_query_until('city', qq{SELECT bool_and(severity = 'ok') FROM detect.health('0') WHERE "check" = '$check'}), "$what: it is over")
	  or diag($node->safe_psql('city', "SELECT * FROM detect.health('0') WHERE severity <> 'ok'"));
	return;
}

# All of that.
sub is_mended
{
	my ($check, $severity, $detail, $what) = @_;

	follow(finds($check, $severity, $detail, $what));
	is_well($check, $what);
	return;
}

# Another setting, as a DBA would have it: by ALTER SYSTEM, which what is in
# postgresql.conf does not undo.
sub set_and_restart
{
	my ($setting) = @_;

	$node->safe_psql('postgres', "ALTER SYSTEM SET $setting");
	$node->restart;
	return;
}

$node->start;
install_detect($node, 'city');
is($node->safe_psql('city', 'SELECT detect.status()'), 'ok', 'a fresh install is all green');
$broker->create_topic($_, 2) foreach ('camera', 'slow');
create_camera($node, 'city', $broker);
$broker->produce('camera', splice(@lines, 0, 1000));
ledger_is_exact($node, 'city', $broker, 'a stream that runs');
is($node->safe_psql('city', 'SELECT detect.status()'), 'ok', 'and still');

# ---------------------------------------------------------------------
# The table of settings in README.md is what the server says
# ---------------------------------------------------------------------

my ($settings) = slurp_file("$FindBin::RealBin/../../README.md") =~ /\n\| setting \| default \|.*?\n\|---.*?\n(.*?)\n\n/s;
my @documented = map { [ map { s/^\s+|\s+$|`//gr } (split(/\|/))[ 1 .. 4 ] ] } split(/\n/, $settings);
my %by = (sighup => 'reload', user => 'user', superuser => 'superuser', postmaster => 'restart');

# A value with its unit as the number of kB, ms or things that the server has.
sub number_of
{
	my ($value, $unit) = @_;

	return $value eq 'off' ? 'off' : $value unless $unit;
	return $node->safe_psql('postgres', $unit eq 'kB' ? "SELECT pg_size_bytes('$value') / 1024" : "SELECT extract(epoch FROM interval '$value') * 1000") + 0;
}

foreach my $row (map { [ split(/\|/, $_, -1) ] } split(/\n/,
	$node->safe_psql('postgres', q{SELECT name, boot_val, min_val, max_val, unit, context FROM pg_settings WHERE name ~ '^detect\.' ORDER BY name COLLATE "C"})))
{
	my ($name, $default, $least, $greatest, $unit, $context) = @$row;
	my $said = shift @documented // [];
	my ($from, $to) = split(/ … /, $said->[2] // '');

	is($said->[0], $name, "README.md has setting $name in its place");
	is(number_of($said->[1], $unit), $default, "$name: default");
	is(number_of($from, $unit), $least, "$name: least") if $least ne '';
	cmp_ok(abs(number_of($to, $unit) - $greatest), '<=', 1, "$name: greatest") if $greatest ne '';
	is($said->[3], $by{$context}, "$name: changed by");
}
is(scalar(@documented), 0, 'and no others');

# ---------------------------------------------------------------------
# The server
# ---------------------------------------------------------------------

set_and_restart("shared_preload_libraries = 'auto_explain'");
is($node->safe_psql('city', q{SET ROLE ops; SELECT remedy FROM detect.health() WHERE "check" = 'library'}), '-- add detect to shared_preload_libraries and restart the server',
	'who may not see the other libraries is not told to drop them');
is_mended('library', 'critical', 'not in shared_preload_libraries', 'no library');
is($node->safe_psql('city', 'SHOW shared_preload_libraries'), 'auto_explain, detect', 'the other libraries stay');

# maintenance would want one more
my (undef, $lacks_sql) = past_partitions_sql('city.detection');

ok( $node->poll_query_until('city',
		"SELECT ($lacks_sql) = 0 AND NOT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'detect maintain')"),
	'no partition that is past wants its index');
set_and_restart('max_worker_processes = 3');
is_mended('worker processes', 'warning', 'max_worker_processes is 3', 'few worker processes');
is($node->safe_psql('city', 'SHOW max_worker_processes'), '11', 'raised by the remedy');
set_and_restart('max_worker_processes = 2');
stream_is($node, 'city', 'camera', 'waiting for a worker', '', 'not even a probe finds a worker');
is_mended('worker processes', 'critical', 'all are taken', 'no worker processes');
stream_is($node, 'city', 'camera', 'running', '^$', 'and then it runs');

$node->safe_psql('city', q{SET ROLE ops; SET search_path = city; CREATE TABLE other (id int PRIMARY KEY); SELECT detect.create_stream('other', server => '')});
set_and_restart('max_worker_processes = 3');
is_mended('stream', 'critical', 'is waiting for a worker', 'no worker');

set_and_restart('detect.max_streams = 1');
is_mended('stream', 'critical', 'is stopped', 'no slot');
$node->safe_psql('city', q{SELECT detect.drop_stream('other')});

set_and_restart('autovacuum = off');
is_mended('autovacuum', 'critical', 'setting autovacuum is off', 'no autovacuum');

# A library and an extension of different versions.
$node->safe_psql('city', "UPDATE pg_extension SET extversion = '0.9' WHERE extname = 'detect'; SELECT pg_terminate_backend(pid) FROM detect.stat_worker WHERE pid IS NOT NULL");
is(finds('version', 'critical', '^the library is of version 1.0, the extension of 0.9$', 'an extension that is older'), 'ALTER EXTENSION detect UPDATE;', 'what to type');
stream_is($node, 'city', 'camera', 'retrying', '^the library of detect is of version 1.0, the extension in this database of 0.9$', 'the stream does not run with it');
$broker->produce('camera', splice(@lines, 0, 500));
my ($rc, $stdout, $stderr) = $node->psql('city', "SELECT detect.wait_for('camera')");
like($stderr, qr/is of version 1.0.*\nHINT:  ALTER EXTENSION detect UPDATE;/, 'nor is it waited for');
$node->safe_psql('city', "UPDATE pg_extension SET extversion = '99' WHERE extname = 'detect'");
like(finds('version', 'critical', 'the extension of 99$', 'a library that is older'), qr/^-- restart the server/, 'what to do');
$node->safe_psql('city', "UPDATE pg_extension SET extversion = '1.0' WHERE extname = 'detect'");
is_well('version', 'versions');
$node->safe_psql('city', 'ALTER EXTENSION detect UPDATE');
ledger_is_exact($node, 'city', $broker, 'the stream goes on with the right one');

# ---------------------------------------------------------------------
# Kafka
# ---------------------------------------------------------------------

$broker->command('down', 0);
like(finds('stream', 'critical', '^camera is connecting since', 'no broker'), qr/^have the brokers answer/, 'what to do');
$broker->command('up', 0);
is_well('stream', 'no broker');

my $holder = $node->background_psql('city');
$holder->query_safe('BEGIN; LOCK TABLE city.detection IN SHARE MODE');
$broker->produce('camera', splice(@lines, 0, 100));
like(finds('stream', 'critical', '^camera is retrying since .*lock timeout', 'a lock'), qr/^mend what the reason names/, 'what to do');

# ---------------------------------------------------------------------
# Others
# ---------------------------------------------------------------------

# who holds it has a long transaction, too
$holder->query_safe('SELECT pg_current_xact_id()');
is_mended('long transaction', 'warning', '^process \d+ \(', 'a long transaction');
is_well('stream', 'a lock');
eval { $holder->quit };

# Edits and staged rows of a stream that is paused.
$node->safe_psql('city', q{
	SET ROLE ops; SET search_path = city;
	SELECT detect.pause('camera');
	INSERT INTO detect_staging.camera (detection_oid, video_camera_oid, geographical_location_oid, item_name, timestamp_detected)
	SELECT (0 - n), 1, 1, 'car', now() FROM generate_series(1, 6000) n;
	UPDATE detection SET item_name = item_name FROM generate_series(1, 10) n WHERE detection_oid < 1000;
	INSERT INTO detection SELECT (0 - n), 1, 1, 'car', 0.5, now() FROM generate_series(10001, 16000) n});
finds('staging', 'warning', '^camera: about \d+ staged rows wait', 'staged rows');
is_mended('edits', 'warning', '^camera: rows that others changed wait', 'edits');
$node->safe_psql('city', q{SELECT detect.wait_for('camera')});
is_well('staging', 'staged rows');
$node->safe_psql('city', q{DELETE FROM city.detection WHERE detection_oid < 0; SELECT detect.wait_for('camera')});

# Many messages behind a batch that is held open.
$node->safe_psql('city', q{
	SET ROLE ops; SET search_path = city;
	CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql SET lock_timeout = '600s' AS $$
	BEGIN PERFORM pg_advisory_xact_lock_shared(41); RETURN NULL; END $$;
	CREATE TRIGGER hold AFTER INSERT ON detection FOR EACH STATEMENT EXECUTE FUNCTION hold();
	SELECT detect.alter_stream('camera', consumers => 1)});
$holder = $node->background_psql('city');
$holder->query_safe('SELECT pg_advisory_lock(41)');
$broker->produce('camera', splice(@lines, 0, 1500));
my $remedy = finds('lag', 'warning', '^camera is behind: \d+ messages wait', 'lag');
$holder->query_safe('SELECT pg_advisory_unlock(41)');
$holder->quit;
follow($remedy);
is($node->safe_psql('city', "SELECT consumers FROM detect.stream WHERE stream = 'camera'"), '2', 'the remedy gives it more workers');
$node->safe_psql('city', 'DROP TRIGGER hold ON city.detection; DROP FUNCTION city.hold');
ledger_is_exact($node, 'city', $broker, 'it has caught up');
is_well('lag', 'lag');

# A replication slot that nobody reads.
$node->safe_psql('city', $_) foreach ("ALTER SYSTEM SET max_wal_size = '32MB'", "ALTER SYSTEM SET min_wal_size = '32MB'", 'SELECT pg_reload_conf()',
	"SELECT pg_create_physical_replication_slot('nobody', true)");
$node->safe_psql('city', q{SELECT pg_logical_emit_message(false, 'test', 'x'); SELECT pg_switch_wal()}) for 1 .. 6;
is_mended('replication slot', 'warning', '^slot "nobody" is not read', 'a slot');

# A partition whose messages are gone: the broker keeps 5 MB of each.
create_camera($node, 'city', $broker, name => 'slow', table => 'slow_detection');
$broker->produce('slow', splice(@lines, 0, 100));
$node->safe_psql('city', "SELECT detect.wait_for('slow'); SELECT detect.pause('slow')");
$broker->command('produce', 'slow', 1, '-', '{"padding": "' . 'x' x 900_000 . '"}') for 1 .. 12;
$node->safe_psql('city', "SELECT detect.resume('slow')");
is_mended('partition', 'critical', '^slow: partition 1 of topic "slow" is not read: offset \d+ is not in the topic any more', 'a partition');
$node->safe_psql('city', "SELECT detect.wait_for('slow')");
like(finds('dead letters', 'warning', '^slow: \d+ within the last hour', 'what was read in its stead'), qr/^SELECT detect.retry_dead_letters\('slow'\)/, 'what to type');
$node->safe_psql('city', "SELECT detect.purge_dead_letters('slow')");

# ---------------------------------------------------------------------
# A standby
# ---------------------------------------------------------------------

my $standby = make_standby($node);
is($standby->safe_psql('city', 'SELECT detect.status()'), 'ok', 'a standby is well');
is( $standby->safe_psql('city', q{SELECT state, reason, remedy, lag_messages, accepted > 0 FROM detect.stat_stream WHERE stream = $$camera$$}),
	'stopped|this server is a standby|nothing: it runs once the server is promoted||t',
	'its streams say why they do not run');
# workers of the other duties come and go
is($standby->safe_psql('city', "SELECT count(*) FROM detect.$_"), $node->safe_psql('city', "SELECT count(*) FROM detect.$_"), "detect.$_ can be read there")
  foreach ('stat_partition', 'stat_rollup', "stat_worker WHERE duty IN ('apply', 'consume')", 'problem', 'dead_letter', 'history', 'locator', 'rollup', 'stream');
$standby->stop;

$node->poll_query_until('city', "SELECT detect.status('0') = 'ok'");
is($node->safe_psql('city', q{SELECT * FROM detect.health('0') WHERE severity <> 'ok'}), '', 'in the end all is green');
log_is_clean($node);
$node->stop;
done_testing();
