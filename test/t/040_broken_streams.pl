# What broken streams write to the server's log: each of many kinds, all on one
# server, at most 12 lines an hour.  In make test it is what comes at once; make
# test-guest-long waits for the hour (DETECT_LOG_S).

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";

use DetectTest;
use IPC::Run;
use List::Util;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::Local;

use constant MOST_LINES => 12;

my $patience = $ENV{DETECT_LOG_S} // 20;
my $node     = make_node('main');
my $broker   = DetectTest::Broker->start();
my @fed;    # streams whose tables somebody stages a row for each second

# As the owner of the streams.
sub ask
{
	my ($sql, $role) = @_;

	return $node->safe_psql('city', 'SET client_min_messages = warning; SET ROLE ' . ($role // 'ops') . "; SET search_path = city, public; $sql");
}

# A stream over a table of its name that SQL feeds; arguments are those of
# create_stream.
sub create_fed
{
	my ($name, %options) = @_;
	my $layout    = $options{partition_interval} ? 'PARTITION BY RANGE (at)' : '';
	my $role      = delete $options{role};
	my $before    = delete $options{before} // '';
	my $arguments = join('', map { ", $_ => $options{$_}" } sort keys %options);

	ask("CREATE TABLE $name (id bigint NOT NULL, at timestamptz NOT NULL, n int) $layout; $before;
		SELECT detect.create_stream('$name', server => '', key => '{id}', event_time => 'at'$arguments)", $role);
	push @fed, $name;
	return;
}

# Every message of the log from there on with the lines that belong to it, and
# of which worker it is.
sub logged_since
{
	my ($log_end) = @_;
	my @messages;

	foreach my $line (split(/\n/, slurp_file($node->logfile, $log_end)))
	{
		my ($at, $pid, $of, $level) = $line =~ /^(\S+ \S+) \S+ \[(\d+)\] (.*?) ?(LOG|WARNING|ERROR|FATAL|PANIC|DETAIL|HINT|CONTEXT|STATEMENT|QUERY|LOCATION): /;

		if (defined $level && $level =~ /LOG|WARNING|ERROR|FATAL|PANIC/)
		{
			my ($year, $month, $day, $hour, $minute, $second) = $at =~ /(\d+)/g;
			push @messages, { pid => $pid, of => $of, text => $line, lines => 1, at => timegm($second, $minute, $hour, $day, $month - 1, $year) };
		}
		elsif (@messages)
		{
			$messages[-1]{lines}++;
			$messages[-1]{text} .= "\n$line";
		}
	}
	return @messages;
}

$node->append_conf(
	'postgresql.conf', q{
max_worker_processes = 40
log_checkpoints = off
log_autovacuum_min_duration = -1
detect.retry_interval = 1s
});
$node->start;
install_detect($node, 'city');
$node->safe_psql('city', q{
	CREATE ROLE limited LOGIN CONNECTION LIMIT 0;
	GRANT detect_admin TO limited;
	GRANT CREATE, USAGE ON SCHEMA city TO limited;
	CREATE SERVER gone FOREIGN DATA WRAPPER detect_kafka OPTIONS (bootstrap_servers '127.0.0.1:1');
	GRANT USAGE ON FOREIGN SERVER gone TO ops});
$node->safe_psql('city', qq{
	CREATE SERVER secret FOREIGN DATA WRAPPER detect_kafka OPTIONS (bootstrap_servers '${\$broker->bootstrap}', security_protocol 'SASL_PLAINTEXT', sasl_mechanism 'PLAIN');
	CREATE USER MAPPING FOR ops SERVER secret OPTIONS (sasl_username 'ops', sasl_password 'wrong');
	GRANT USAGE ON FOREIGN SERVER secret TO ops});

my $log_begin = -s $node->logfile;

# ---------------------------------------------------------------------
# Streams, and what breaks them
# ---------------------------------------------------------------------

# no broker, for one worker and for several; one that refuses
foreach my $stream ([ 'no_broker', 'gone', 0 ], [ 'no_brokers', 'gone', 3 ], [ 'no_password', 'secret', 0 ])
{
	my ($name, $server, $consumers) = @$stream;

	ask("CREATE TABLE $name (id bigint NOT NULL, at timestamptz NOT NULL);
		SELECT detect.create_stream('$name', server => '$server', key => '{id}', consumers => $consumers)");
}

# a dead letter each second
create_fed('letters');
ask('ALTER TABLE letters ADD CHECK (n < 0)');

# a table that somebody holds
create_fed('locked');

# an owner who may not have more connections
create_fed('limited', role => 'limited');

# a rollup that fails
create_fed('aside');
ask(q{SELECT detect.create_rollup('aside_rollup', 'SELECT date_bin($$1 minute$$, at, $$epoch$$) AS minute, sum(1 / n) AS s FROM aside GROUP BY 1')});

# groups that can't be deleted
create_fed('expiry');
ask(q{SELECT detect.create_rollup('expiry_rollup', 'SELECT date_bin($$1 minute$$, at, $$epoch$$) AS minute, count(*) AS s FROM expiry GROUP BY 1');
	INSERT INTO detect_staging.expiry VALUES (1, now() - interval '1 day', 1);
	SELECT detect.wait_for('expiry', '3 min');
	CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'stays'; END $$;
	CREATE TRIGGER keep BEFORE DELETE ON detect_state.expiry_rollup FOR EACH ROW EXECUTE FUNCTION keep();
	SELECT detect.alter_rollup('expiry_rollup', retention => '1 hour')});

# errors of the environment, one and many
create_fed($_) foreach ('busy', 'various');
ask(q{
	CREATE FUNCTION busy() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION USING ERRCODE = '53300', MESSAGE = 'too busy'; END $$;
	CREATE TRIGGER busy BEFORE INSERT ON busy FOR EACH STATEMENT EXECUTE FUNCTION busy();
	CREATE FUNCTION various() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION USING ERRCODE = '53' || lpad(floor(random() * 1000)::text, 3, '0'), MESSAGE = 'various'; END $$;
	CREATE TRIGGER various BEFORE INSERT ON various FOR EACH STATEMENT EXECUTE FUNCTION various()});

# a partition that gets no index
create_fed('twice', partition_interval => "'1 day'",
	before => q{SELECT format('CREATE TABLE twice_past PARTITION OF twice FOR VALUES FROM (%L) TO (%L)', current_date - 3, current_date - 2) \gexec
		INSERT INTO twice SELECT 1, current_date - interval '60 hours', 1 FROM generate_series(1, 2)});

# a column that is gone
create_fed('gone');

my $holder = $node->background_psql('city', timeout => $patience + 600);
$holder->query_safe('BEGIN; LOCK TABLE city.locked IN SHARE MODE');
ask('ALTER TABLE gone DROP COLUMN n');
my $rows = join(";\n", map { "INSERT INTO detect_staging.$_ VALUES (nextval('ids'), now(), 0)" } @fed);
$node->safe_psql('city', "SET search_path = city, public; CREATE SEQUENCE ids;
	CREATE PROCEDURE feed() LANGUAGE sql SET search_path = city, public AS \$\$ $rows \$\$");
my $script = "$PostgreSQL::Test::Utils::tmp_check/feed.sql";
append_to_file($script, "CALL feed() \\watch 1\n");
my $feeder = IPC::Run::start([ 'psql', '-X', '-q', '-d', $node->connstr('city'), '-f', $script ], '<', \undef, '>', '/dev/null', '2>', '/dev/null');

# ---------------------------------------------------------------------
# What is logged
# ---------------------------------------------------------------------

$node->poll_query_until('city', "SELECT count(*) >= 5 FROM detect.dead_letter WHERE stream = 'letters'") or die 'no dead letters';
foreach my $name ('no_broker', 'no_brokers', 'locked', 'busy', 'various')
{
	$node->poll_query_until('city', "SELECT state IN ('retrying', 'connecting') FROM detect.stat_stream WHERE stream = '$name'") or die "$name is not broken";
}
$node->poll_query_until('city', q{SELECT state = 'paused' FROM detect.stat_stream WHERE stream = 'gone'}) or die 'gone is not broken';
$node->poll_query_until('city', q{SELECT count(*) = 1 FROM detect.stat_rollup WHERE rollup = 'aside_rollup' AND error IS NOT NULL}) or die 'aside is not broken';

# the time passes in a session that waits for a lock that it does not get
$holder->query_safe('SELECT pg_advisory_lock(77)');
$node->psql('city', "SET lock_timeout = '${patience}s'; SET log_min_messages = fatal; SELECT pg_advisory_lock(77)", timeout => $patience + 60);

my @messages = grep { $_->{of} =~ /^detect/ || $_->{text} =~ /detect|limited/ } logged_since($log_begin);
my (%lines, %stream_of);
foreach my $message (@messages)
{
	# what a worker says before it has a name is told by its process
	$stream_of{ $message->{pid} } = $1 if $message->{text} =~ /stream "(\w+)"/;
}
foreach my $message (@messages)
{
	my $pid    = $message->{text} =~ /\(PID (\d+)\)/ ? $1 : $message->{pid};
	my $stream = $stream_of{$pid} // ($message->{text} =~ /(limited|twice)/ ? $1 : 'none');

	# of an error that is another each time only the messages are bounded
	push @{ $lines{$stream}{messages} }, [ $message->{at}, $stream eq 'various' ? 1 : $message->{lines} ];
	$lines{$stream}{text} .= "$message->{text}\n";
}

# The most lines of any hour.
sub most_in_an_hour
{
	my @counted = @_;

	return List::Util::max(0, map { my $from = $_->[0]; List::Util::sum(map { $_->[1] } grep { $_->[0] >= $from && $_->[0] < $from + 3600 } @counted) } @counted);
}
foreach my $stream ('no_broker', 'no_brokers', 'no_password', @fed, 'none')
{
	my $count = most_in_an_hour(@{ $lines{$stream}{messages} // [] });

	note("$stream: $count lines in an hour, or in $patience s");
	cmp_ok($count, '<=', MOST_LINES, "stream $stream") or diag($lines{$stream}{text});
	cmp_ok($count, '>', 0, "stream $stream: but not in silence") if $stream =~ /^no_/;
}
note(ask('SELECT stream, state, reason FROM detect.stat_stream'));
note(join("\n", map { "$_->{of}: $_->{text}" } @messages));

$feeder->kill_kill;
log_is_clean($node);
$node->stop;
done_testing();
