# What the TAP tests share: camera events of which each one is known, a server
# with a stream, and what to wait for.  The broker is DetectTest/Broker.pm or
# DetectTest/Kafka.pm, the ledger that compares them DetectTest/Ledger.pm.
#
# Truth is kept apart from what is tested.  The broker object knows every line
# that it produced and where each partition ends; ledger_is_exact() computes
# from those lines alone what the database must hold.
#
# Nothing here waits for a time.  Random choices come from $seed, which each
# test prints; DETECT_SEED=N runs a test with the same choices again.
package DetectTest;

use strict;
use warnings;

use DetectTest::Broker;
use DetectTest::Kafka;
use DetectTest::Ledger;
use Exporter 'import';
use FindBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes;

our @EXPORT = qw(
  camera_lines
  create_camera
  create_server
  find_process
  install_detect
  ledger_is_exact
  log_is_clean
  make_node
  make_standby
  output_of
  past_partitions_sql
  seconds_of
  skip_without_kafka
  stream_is
  strike
  wait_applied
  wait_for
  wait_for_exit
  worker_pid
);

our $programs = "$FindBin::RealBin/../broker";
our $seed     = $ENV{DETECT_SEED} // (time() ^ ($$ << 8)) % 1_000_000;

srand($seed);
note("DETECT_SEED=$seed");

my $nfiles = 0;
my %busy;       # servers by name
my @clients;    # and who keeps them so

# A file of the test's own, with these lines.
sub write_lines
{
	my @lines = @_;
	my $path  = "$PostgreSQL::Test::Utils::tmp_check/lines_" . $nfiles++;

	open(my $file, '>', $path) or die "could not open \"$path\": $!";
	print $file "$_\n" for @lines;
	close($file) or die "could not write \"$path\": $!";
	return $path;
}

# What a command prints; the test ends if it fails.
sub output_of
{
	my @command = @_;
	my ($stdout, $stderr);

	IPC::Run::run(\@command, '<', \undef, '>', \$stdout, '2>', \$stderr)
	  or die "@command: $stderr";
	return $stdout;
}

# Camera events as lines of JSON: options are those of the generator.  Event
# times end now; some events are late, some repeated, some broken.
sub camera_lines
{
	my ($count, %options) = @_;
	my $path = "$PostgreSQL::Test::Utils::tmp_check/camera_" . $nfiles++;

	%options = (
		'duplicates' => 0.05,
		'late'       => 0.05,
		'broken'     => 0.005,
		'seed'       => $seed,
		'locations'  => 100,
		'event-rate' => 5,
		%options);
	system_or_bail("$programs/generator", '--file', $path, '--count', $count,
		map { ("--$_" => $options{$_}) } sort keys %options);
	return split(/\n/, slurp_file($path));
}

# ---------------------------------------------------------------------
# The server
# ---------------------------------------------------------------------

# A node that is initialized and not started, with the settings of all tests;
# install_path is that of another PostgreSQL than the one that runs the tests.
sub make_node
{
	my ($name, %params) = @_;
	my @install = map { exists $params{$_} ? ($_ => delete $params{$_}) : () } ('install_path');
	my $node    = PostgreSQL::Test::Cluster->new($name, @install);

	$node->init(%params);
	$node->append_conf('postgresql.conf',
		slurp_file("$FindBin::RealBin/../detect.conf"));
	$node->append_conf(
		'postgresql.conf', qq{
log_statement = none
max_connections = 50
restart_after_crash = on
shared_buffers = 64MB
wal_sender_timeout = 0
# small batches: many commits to be killed between
detect.max_batch_rows = 500
detect.max_batch_size = 64kB
detect.retry_interval = 100ms
});
	return $node;
}

# A standby of a running node that has all of it.
sub make_standby
{
	my ($node) = @_;
	my $standby = PostgreSQL::Test::Cluster->new('standby');

	$node->backup('base');
	$standby->init_from_backup($node, 'base', has_streaming => 1);
	$standby->start;
	$node->wait_for_catchup($standby);
	return $standby;
}

# The extension, and the role that owns streams, in a database that is made
# unless it is there.
sub install_detect
{
	my ($node, $database) = @_;

	$node->safe_psql('postgres', "CREATE DATABASE $database")
	  unless $node->safe_psql('postgres',
		"SELECT 1 FROM pg_database WHERE datname = '$database'");
	$node->safe_psql(
		$database, qq{
		SET client_min_messages = warning;
		CREATE EXTENSION detect CASCADE;
		SELECT 'CREATE ROLE ops LOGIN' WHERE to_regrole('ops') IS NULL \\gexec
		GRANT detect_admin TO ops;
		CREATE SCHEMA IF NOT EXISTS city AUTHORIZATION ops;
		ALTER DATABASE $database SET search_path = city, public;
	});
	keep_others_busy($node) if $ENV{DETECT_BUSY} && !$busy{ $node->name }++;
	return;
}

# Two other databases with clients that write, and temporary tables that come
# and go, for as long as this process lives; a server that restarts finds them
# back.
sub keep_others_busy
{
	my ($node) = @_;
	my $script = write_lines(
		'\\set n random(1, 1000)',
		'CREATE TEMP TABLE passing AS SELECT n FROM generate_series(1, 10) n;',
		'INSERT INTO busy VALUES (:n, now()) ON CONFLICT (id) DO UPDATE SET at = now();',
		'DROP TABLE passing;');

	foreach my $database ('busy_1', 'busy_2')
	{
		$node->safe_psql('postgres', "CREATE DATABASE $database");
		$node->safe_psql($database, 'CREATE TABLE busy (id int PRIMARY KEY, at timestamptz)');
		my $clients = IPC::Run::start(
			[
				'bash', '-c',
				qq{while kill -0 $$; do pgbench -n -c 2 -T 5 -R 40 -f "$script" "$database" || timeout 1 tail -f /dev/null; done}
			],
			'<', \undef, '>', '/dev/null', '2>', '/dev/null',
			init => sub { @ENV{ 'PGHOST', 'PGPORT' } = ($node->host, $node->port) });
		push @clients, $clients;
	}
	return;
}

# The standard rollup.
our $per_minute = q{
	SELECT date_bin('1 minute', timestamp_detected, 'epoch') AS minute, item_name,
		   count(*) AS detections, sum(video_camera_oid) AS cameras,
		   avg(geographical_location_oid) AS place,
		   min(timestamp_detected) AS first_seen, max(confidence) AS surest
	FROM EVENTS GROUP BY 1, 2};

# A server with the address of a broker, which the owner of streams may use; one that is
# there already stays as it is.
sub create_server
{
	my ($node, $database, $broker, $name, $owner) = @_;
	my $bootstrap = ref($broker) ? $broker->bootstrap : $broker;

	$name  //= 'city';
	$owner //= 'ops';
	$node->safe_psql(
		$database, qq{
		SELECT 'CREATE SERVER $name FOREIGN DATA WRAPPER detect_kafka OPTIONS (bootstrap_servers ''$bootstrap'')'
		WHERE NOT EXISTS (SELECT FROM pg_foreign_server WHERE srvname = '$name') \\gexec
		GRANT USAGE ON FOREIGN SERVER $name TO $owner});
	return;
}

# The standard stream: cameras' detections, each joined with its location, in
# partitions of an hour, with a rollup over small and exact types.  Options are
# arguments of create_stream; name, topic, broker and layout, how the table is
# partitioned, are ours.  So is rollups: for each name of one, if not the usual
# one, its query, in which EVENTS is the table.
sub create_camera
{
	my ($node, $database, $broker, %options) = @_;
	my $name   = delete $options{name}  // 'camera';
	my $table  = delete $options{table} // 'detection';
	my $owner  = delete $options{owner} // 'ops';
	my $schema = delete $options{schema} // 'city';
	my $topic  = delete $options{topic} // $name;
	my $server = delete $options{server} // 'city';
	my $layout = delete $options{layout} // 'PARTITION BY RANGE (timestamp_detected)';
	my $rollups = delete $options{rollups} // { "${name}_per_minute" => $per_minute };

	%options = (
		columns => "'detection_oid bigint, video_camera_oid int,
			geographical_location_oid int, item_name text, confidence real,
			timestamp_detected timestamptz'",
		query => "'SELECT b.*, l.location_name FROM batch b
			LEFT JOIN location l USING (geographical_location_oid)'",
		key                => "'{detection_oid}'",
		event_time         => "'timestamp_detected'",
		partition_interval => "'1 hour'",
		%options);

	$options{topic} = "'$topic'" unless $options{topics};

	my $arguments = join(', ', map { "$_ => $options{$_}" } sort keys %options);
	my $create_rollups = join('',
		map { "SELECT detect.create_rollup('$_', \$\$ " . $rollups->{$_} =~ s/\bEVENTS\b/$table/r . " \$\$);\n" }
		sort keys %$rollups);
	create_server($node, $database, $broker // '127.0.0.1:1', 'city', $owner);
	$node->safe_psql(
		$database, qq{
		SET client_min_messages = warning;
		SET ROLE $owner;
		SET search_path = $schema, public;
		CREATE TABLE IF NOT EXISTS location (
			geographical_location_oid int PRIMARY KEY, location_name text NOT NULL);
		INSERT INTO location SELECT i, 'Street ' || i FROM generate_series(1, 100) i
		ON CONFLICT DO NOTHING;
		CREATE TABLE IF NOT EXISTS $table (
			detection_oid bigint NOT NULL, video_camera_oid int NOT NULL,
			geographical_location_oid int NOT NULL, item_name text NOT NULL,
			confidence real CHECK (confidence BETWEEN 0 AND 1),
			timestamp_detected timestamptz NOT NULL, location_name text
		) $layout;
		BEGIN;
		SELECT detect.create_stream('$name', server => '$server', events_table => '$table', $arguments);
		$create_rollups
		COMMIT;
	});
	return;
}

# ---------------------------------------------------------------------
# Waiting
# ---------------------------------------------------------------------

# Until all that is in the topic is applied; the test ends here if it is not.
sub wait_for
{
	my ($node, $database, $stream) = @_;

	$node->safe_psql($database,
		"SELECT detect.wait_for('$stream', '${PostgreSQL::Test::Utils::timeout_default}s')");
	return;
}

# Until so many messages of a stream are applied, as soon as they are: asked
# again and again from within one session.  Returns what the session then
# selects.
sub wait_applied
{
	my ($node, $database, $stream, $messages, $select) = @_;
	my $deadline = $PostgreSQL::Test::Utils::timeout_default;
	my ($rc, $stdout, $stderr) = $node->psql(
		$database, qq{
		DO \$\$
		BEGIN
			LOOP
				EXIT WHEN $messages <= (
					SELECT COALESCE(sum(accepted + duplicates + filtered + expired + dead_letters), 0)
					FROM detect._applied_progress JOIN detect._stream USING (stream_id)
					WHERE name = '$stream');
				IF clock_timestamp() > now() + interval '$deadline s' THEN
					RAISE 'stream $stream has not applied $messages messages in time';
				END IF;
			END LOOP;
		END
		\$\$;
		$select});

	die $stderr if $rc != 0;
	return $stdout;
}

# Until a process is gone.
sub wait_for_exit
{
	my ($pid) = @_;

	system_or_bail('timeout', $PostgreSQL::Test::Utils::timeout_default,
		'tail', "--pid=$pid", '-s', '0.02', '-f', '/dev/null');
	return;
}

# Until a stream's state and reason are as wanted; a test that names both.
sub stream_is
{
	my ($node, $database, $stream, $state, $reason, $what) = @_;
	my $sql = qq{
		SELECT state = '$state' AND COALESCE(reason, '') ~ '$reason'
		FROM detect.stat_stream WHERE stream = '$stream'};
	my $ok;

	# a server that has just crashed ends psql before it has read the query
	until (defined($ok = eval { $node->poll_query_until($database, $sql) }))
	{
		die $@ if $@ !~ /Broken pipe/;
	}
	ok($ok, $what)
	  or diag(
		$node->safe_psql($database,
			"SELECT state, reason, remedy FROM detect.stat_stream WHERE stream = '$stream'"));
	return $ok;
}

# The process that has a duty for a stream, once it runs: the first consumer of
# several.
sub worker_pid
{
	my ($node, $database, $stream, $duty) = @_;
	my $from =
	  "FROM detect.stat_worker WHERE stream = '$stream' AND duty = '"
	  . ($duty // 'apply')
	  . "' AND pid IS NOT NULL ORDER BY number LIMIT 1";

	# one that was there may end before it is asked for
	foreach my $try (1 .. 10)
	{
		$node->poll_query_until($database, "SELECT true $from")
		  or die "no worker of stream $stream";
		my $pid = $node->safe_psql($database, "SELECT pid $from");
		return $pid if $pid ne '';
	}
	die "workers of stream $stream end at once";
}

# Of a table's partitions that are past: what to count to know how many there are,
# and a query for how many have no valid unique index.
sub past_partitions_sql
{
	my ($table) = @_;
	my $past = "
		FROM pg_inherits i JOIN pg_class p ON p.oid = i.inhrelid,
			 LATERAL (SELECT substring(pg_get_expr(p.relpartbound, p.oid) FROM 'TO \\(''([^'']+)''\\)')::timestamptz AS upto) b
		WHERE i.inhparent = '$table'::regclass AND upto < now() - interval '1 hour'";

	return ($past, "SELECT count(*) $past AND NOT EXISTS (
		SELECT FROM pg_index x WHERE x.indrelid = p.oid AND x.indisunique AND x.indisvalid)");
}

# A process of this kind, of any stream, if there is one: a duty of a worker,
# the launcher, the checkpointer, or "client", which is some session that calls
# itself bystander.
sub find_process
{
	my ($node, $database, $kind) = @_;
	my $which = $kind eq 'client' ? "application_name = 'bystander'"
	  : $kind eq 'checkpointer'   ? "backend_type = 'checkpointer'"
	  :                             "backend_type = 'detect $kind'";

	return $node->safe_psql($database,
		"SELECT pid FROM pg_stat_activity WHERE $which ORDER BY random() LIMIT 1");
}

# Does harm to a server, and waits until it serves again: kill -9 of a process
# ("postmaster", or the pid of any other) or "immediate" for such a stop.
sub strike
{
	my ($node, $victim) = @_;
	my $log_end = -s $node->logfile;

	if ($victim eq 'immediate')
	{
		$node->stop('immediate');
		$node->start;
	}
	elsif ($victim eq 'postmaster')
	{
		my ($postmaster) = split(/\n/, slurp_file($node->data_dir . '/postmaster.pid'));

		# it forks no more while its children are listed
		kill('STOP', $postmaster) or die "could not stop process $postmaster: $!";
		1 until slurp_file("/proc/$postmaster/status") =~ /^State:\s+T/m;
		my @children = split(' ', output_of('ps', '-o', 'pid=', '--ppid', $postmaster));

		$node->kill9;
		# the next postmaster needs their shared memory to be gone
		wait_for_exit($_) for @children;
		$node->start;
	}
	else
	{
		kill('KILL', $victim) or die "could not kill process $victim: $!";
		$node->wait_for_log(qr/database system is ready to accept connections/, $log_end);
	}
	return;
}

# How long something takes.
sub seconds_of
{
	my ($code) = @_;
	my $begin = Time::HiRes::time();

	$code->();
	return Time::HiRes::time() - $begin;
}

# The server's log tells of no crash but those that the test made.
sub log_is_clean
{
	my ($node, $what) = @_;
	my @wrong = grep { /PANIC|TRAP|terminated by signal (?!9\b)|exited with exit code (?![01]\b)/ }
	  split(/\n/, slurp_file($node->logfile));

	return ok(!@wrong, $what // 'no process crashed by itself')
	  || diag(join("\n", @wrong)) && 0;
}

# Skips the whole file where a real Kafka can't run, unless it must.
sub skip_without_kafka
{
	return if $ENV{DETECT_TEST_KAFKA};
	return
	  if system('command -v java >/dev/null') == 0
	  && (-d ($ENV{DETECT_KAFKA_LIBS} // '') || system('command -v mvn >/dev/null') == 0);
	plan(skip_all => 'needs Java and Maven: test/install_dependencies.sh --kafka');
}

1;
