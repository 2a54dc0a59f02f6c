# Rows that crash the server: after at most three crashes the stream is paused
# with the message named, the server stays up, and all other messages are exact.
# Processes that are killed by chance leave no element accused.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";

use DetectTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use constant LINES => 3000;

my $broker = DetectTest::Broker->start();
my $node   = make_node('main');
my %lines  = map { $_ => [ camera_lines(LINES, seed => $DetectTest::seed + ($_ eq 'gate')) ] } ('camera', 'gate');

# What a query gives.
sub gives
{
	my ($sql, $value, $what) = @_;

	return is($node->safe_psql('city', $sql), $value, $what);
}

# How often a row has crashed the server.
sub crashes
{
	return scalar(() = slurp_file($node->logfile) =~ /was terminated by signal 4/g);
}

# A statement that commits, and then the server may crash.
sub provoke
{
	$node->psql('city', $_[0]);
	return;
}

# Has rows of a table crash the server that are as a condition says.
sub poison
{
	my ($table, $condition) = @_;

	$node->safe_psql('city',
		"CREATE TRIGGER crash BEFORE INSERT ON city.$table FOR EACH ROW WHEN ($condition) EXECUTE FUNCTION crash()");
	return;
}

sub mend
{
	my ($table) = @_;

	$node->safe_psql('city', "DROP TRIGGER crash ON city.$table");
	return;
}

# A line that becomes an event, from the middle on: its number, partition and offset.
sub find_victim
{
	my ($stream, $from) = @_;
	my %seen;

	foreach my $i (0 .. $#{ $lines{$stream} })
	{
		my $line = $lines{$stream}[$i];
		my ($id) = $line =~ /^\{"detection_oid": (\d+), .*"confidence": 0\.\d+.*\}$/ or next;

		return ($id, $i % 2, int($i / 2)) if $i >= $from && !$seen{$id}++ && 1 == grep { /"detection_oid": $id,/ } @{ $lines{$stream} };
	}
	die 'no event';
}

# what is staged together is one commit, however slow the machine is
$node->append_conf('postgresql.conf', 'detect.max_batch_time = 0');
$node->start;
install_detect($node, 'city');
# as a bug in a library of functions would, and by a signal that no sanitizer
# handles: the shell's parent is the process
$node->safe_psql(
	'city', q{
	CREATE FUNCTION public.crash() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
	BEGIN
		COPY (SELECT 1) TO PROGRAM 'kill -ILL $PPID';
		RETURN NEW;
	END $$});
$broker->create_topic($_, 2) foreach ('camera', 'gate');
create_camera($node, 'city', $broker, name => $_, table => "${_}_detection", consumers => $_ eq 'camera' ? 2 : 0)
  foreach ('camera', 'gate');

# ---------------------------------------------------------------------
# A message of Kafka
# ---------------------------------------------------------------------

my ($id, $partition, $offset) = find_victim('camera', LINES / 2);
my $named = qq(element 0 of the message at offset $offset of topic "camera", partition $partition, has crashed the server);

poison('camera_detection', "NEW.detection_oid = $id");
$broker->produce($_, @{ $lines{$_} }) foreach ('gate', 'camera');
stream_is($node, 'city', 'camera', 'paused', $named, 'the stream is paused, and its message named');
my $first = crashes();
cmp_ok($first, '>=', 2, 'it was not paused for the first crash');
cmp_ok($first, '<=', 3, 'and for few');
gives(
	"SELECT remedy FROM detect.stat_stream WHERE stream = 'camera'",
	"-- Call detect.resume('camera', reject => true) to keep it as a dead letter, or mend the cause and call detect.resume('camera').",
	'with what to type');
ledger_is_exact($node, 'city', $broker, 'another stream is exact', name => 'gate', table => 'gate_detection');
is(crashes(), $first, 'and the server stays up');

my $log_end = -s $node->logfile;
provoke("SELECT detect.resume('camera')");
$node->wait_for_log(qr/was terminated by signal 4/, $log_end);
stream_is($node, 'city', 'camera', 'paused', $named, 'resumed without being mended, it is tried once more');
is(crashes(), $first + 1, 'and crashes the server once more');

$node->safe_psql('city', "SELECT detect.resume('camera', reject => true)");
wait_for($node, 'city', 'camera');
gives(
	"SELECT kafka_partition, kafka_offset, element, stage, sqlstate, reason FROM detect.dead_letter
	 WHERE stream = 'camera' AND sqlstate = '58DC1'",
	"$partition|$offset|0|apply|58DC1|the server has crashed when it was applied",
	'rejected, it is a dead letter');
is(crashes(), $first + 1, 'without another crash');
gives("SELECT count(*) FROM city.camera_detection WHERE detection_oid = $id", '0', 'and no event');

mend('camera_detection');
gives("SELECT detect.retry_dead_letters('camera', sqlstate => '58DC1')", '1', 'once the cause is mended it can be retried');
ledger_is_exact($node, 'city', $broker, 'then all is exact', name => 'camera', table => 'camera_detection');

my ($rc, undef, $stderr) = $node->psql('city', "SELECT detect.resume('camera', reject => true)");
like($stderr, qr/stream "camera" is not paused for an element that has crashed the server/, 'nothing else can be rejected');

# ---------------------------------------------------------------------
# A dead letter that is retried, and a cause that is mended
# ---------------------------------------------------------------------

$broker->create_topic('letters', 1);
$broker->produce('letters', map { qq({"id": $_, "n": 1}) } 1 .. 100);
$node->safe_psql(
	'city', q{
	CREATE TABLE city.letters (id int PRIMARY KEY, n int CHECK (id <> 50));
	ALTER TABLE city.letters OWNER TO ops;
	SET ROLE ops;
	SELECT detect.create_stream('letters', server => 'city')});
wait_for($node, 'city', 'letters');
$node->safe_psql('city', 'ALTER TABLE city.letters DROP CONSTRAINT letters_id_check');
poison('letters', 'NEW.id = 50');
my $before = crashes();
provoke("SELECT detect.retry_dead_letters('letters')");
stream_is($node, 'city', 'letters', 'paused', 'dead letter \\d+ has crashed the server', 'a dead letter that crashes the server when it is retried');
cmp_ok(crashes() - $before, '<=', 3, 'pauses the stream as well');
mend('letters');
$node->safe_psql('city', "SELECT detect.resume('letters')");
wait_for($node, 'city', 'letters');
gives('SELECT count(*) FROM city.letters', '100', 'mended and resumed, it is an event');
gives("SELECT count(*) FROM detect.dead_letter WHERE stream = 'letters'", '0', 'and no letter');

# ---------------------------------------------------------------------
# A row that SQL staged
# ---------------------------------------------------------------------

$node->safe_psql(
	'city', q{
	SET ROLE ops;
	CREATE TABLE city.fed (id int PRIMARY KEY, batch xid8 DEFAULT pg_current_xact_id());
	SELECT detect.create_stream('fed', columns => 'id int')});
poison('fed', 'NEW.id = 70');
$before = crashes();
provoke('INSERT INTO detect_staging.fed SELECT generate_series(1, 100)');
stream_is($node, 'city', 'fed', 'paused', 'row \\(0,70\\) of "detect_staging.fed" has crashed the server', 'a row that SQL staged');
cmp_ok(crashes() - $before, '<=', 3, 'pauses the stream as well');
$node->safe_psql('city', "SELECT detect.resume('fed', reject => true)");
wait_for($node, 'city', 'fed');
gives('SELECT count(*) FROM city.fed', '99', 'rejected, it is no event');
gives("SELECT count(*) FROM detect.dead_letter WHERE stream = 'fed'", '1', 'but a dead letter');
$node->safe_psql('city', "INSERT INTO detect_staging.fed SELECT generate_series(101, 200)");
wait_for($node, 'city', 'fed');
gives('SELECT count(DISTINCT batch) FROM city.fed WHERE id > 100', '1', 'later rows are not suspects');

# ---------------------------------------------------------------------
# Innocent and by chance
# ---------------------------------------------------------------------

# In how many transactions rows from one on are applied when a process of this
# kind is killed, or the server is stopped, while they are.
sub transactions_after
{
	my ($from, $kind) = @_;
	my $client = $node->background_psql('city');

	# the batch is open until this lock is released
	$client->query_safe("SET application_name = 'bystander'; SELECT pg_advisory_lock(1)");
	$node->safe_psql(
		'city', "INSERT INTO detect_staging.fed SELECT generate_series($from, $from + 99)");
	$node->poll_query_until('city', "SELECT count(*) = 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
	  or die 'no batch is open';
	strike($node, $kind eq 'immediate' ? $kind
		: $kind eq 'apply' ? worker_pid($node, 'city', 'fed')
		:                    find_process($node, 'city', $kind));
	eval { $client->quit };
	wait_for($node, 'city', 'fed');
	return $node->safe_psql('city', "SELECT count(DISTINCT batch) FROM city.fed WHERE id BETWEEN $from AND $from + 99");
}

mend('fed');
$node->safe_psql(
	'city', q{
	CREATE FUNCTION public.hold() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		SET LOCAL lock_timeout = 0;
		PERFORM pg_advisory_xact_lock_shared(1);
		RETURN NEW;
	END $$;
	CREATE TRIGGER hold BEFORE INSERT ON city.fed FOR EACH ROW WHEN (NEW.id % 100 = 50) EXECUTE FUNCTION hold()});
is(transactions_after(1001, 'client'), 1, 'when another process crashes no element is a suspect');
is(transactions_after(1101, 'immediate'), 1, 'nor when the server is stopped at once');
is(transactions_after(1201, 'apply'), 100, 'when the applier is killed, the elements of its batch are');
is(transactions_after(1301, 'client'), 1, 'and later ones are not');
is(scalar(grep { /PANIC|TRAP/ } split(/\n/, slurp_file($node->logfile))), 0, 'no process has failed an assertion');

# ---------------------------------------------------------------------
# What is left behind
# ---------------------------------------------------------------------

my $files = $node->data_dir . '/pg_stat_tmp/detect_attempt.*';
my @before = glob($files);
$node->safe_psql('city', "SELECT detect.drop_stream('fed')");
my @after = glob($files);
is(@after, @before - 1, 'a stream that is dropped leaves no file');

$node->stop;
done_testing();
