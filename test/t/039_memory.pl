# What a worker holds after thousands of batches, failing ones among them, is
# what it held before: private memory, files and threads.
#
# A leak of a few hundred bytes a batch shows as a slope, which noise does not
# have.  To see that it would, the same is done with a trigger that leaks.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";

use DetectTest;
use List::Util qw(sum);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use constant {
	BATCHES         => 10_000,
	ROWS            => 4,      # in a batch
	SAMPLES         => 40,
	BYTES_PER_BATCH => 200,    # more is a leak
};

# Memory that is freed goes back to the system: holes between blocks are no leak.
$ENV{MALLOC_MMAP_THRESHOLD_} = 16384;
$ENV{MALLOC_TRIM_THRESHOLD_} = 65536;
$ENV{MALLOC_ARENA_MAX}       = 1;

my $broker = DetectTest::Broker->start();
my $node   = make_node('main');

# Messages with these numbers: some are no JSON, some are refused by the table,
# and some meet an error that passes.
sub messages
{
	return
	  map { $_ % 50 ? qq({"id": $_, "n": @{[ $_ % 97 ]}, "name": "number $_", "more": $_}) : qq({"id": $_,) } @_;
}

# A stream of such messages; more is what the trigger does for each row.
sub create_case
{
	my ($name, $more) = @_;

	$broker->create_topic($name, 2);
	$node->safe_psql(
		'city', qq{
		SET client_min_messages = warning;
		SET ROLE ops;
		SET search_path = city, public;
		CREATE TABLE $name (id int NOT NULL, n int CHECK (n <> 7), name text);
		CREATE FUNCTION ${name}_row() RETURNS trigger LANGUAGE plpgsql AS \$\$
		BEGIN
			$more
			IF NEW.id % 401 = 0 AND random() < 0.5 THEN
				RAISE 'not now' USING ERRCODE = 'serialization_failure';
			END IF;
			RETURN NEW;
		END \$\$;
		CREATE TRIGGER row BEFORE INSERT ON $name FOR EACH ROW EXECUTE FUNCTION ${name}_row();
		BEGIN;
		SELECT detect.create_stream('$name', server => 'city', key => '{}');
		SELECT detect.create_rollup('${name}_counts', 'SELECT n, count(*) AS events, max(name) AS name FROM $name GROUP BY n');
		COMMIT});
	return;
}

# What a process holds: private memory in bytes, files, threads.
sub holdings
{
	my ($pid) = @_;
	my $status = slurp_file("/proc/$pid/status");
	my ($kb)      = $status =~ /^RssAnon:\s+(\d+) kB/m;
	my ($threads) = $status =~ /^Threads:\s+(\d+)/m;
	my @files     = glob("/proc/$pid/fd/*");

	return { bytes => $kb * 1024, files => scalar(@files), threads => $threads };
}

# By how much something grows with each batch: the slope of the line that fits best.
sub slope
{
	my ($what, @samples) = @_;
	my $x = sum(map { $_->{batches} } @samples) / @samples;
	my $y = sum(map { $_->{$what} } @samples) / @samples;

	return sum(map { ($_->{batches} - $x) * ($_->{$what} - $y) } @samples) /
	  sum(map { ($_->{batches} - $x)**2 } @samples);
}

# Samples of a stream's worker over the second half of so many batches, each when
# all that was produced is applied: what Kafka's client has in its queue is no leak.
sub samples_of
{
	my ($name, $batches) = @_;
	my $pid = worker_pid($node, 'city', $name);
	my $step = $batches / SAMPLES;
	my @samples;

	for (my $done = 0; $done < $batches; $done += $step)
	{
		$broker->produce($name, messages($done * ROWS + 1 .. ($done + $step) * ROWS));
		wait_for($node, 'city', $name);
		push @samples, { batches => $done + $step, %{ holdings($pid) } };
	}
	is(worker_pid($node, 'city', $name), $pid, "the worker of stream $name has stayed");
	note(join(' ', map { sprintf('%d:%dk/%d/%d', $_->{batches}, $_->{bytes} / 1024, $_->{files}, $_->{threads}) } @samples));
	return splice(@samples, SAMPLES / 2);
}

$node->append_conf('postgresql.conf', 'detect.max_batch_rows = ' . ROWS . "\ndetect.retry_interval = 10ms");
$node->start;
install_detect($node, 'city');
create_server($node, 'city', $broker);

create_case('sound', '');
my @samples = samples_of('sound', BATCHES);
my $growth  = slope('bytes', @samples);

cmp_ok($growth, '<', BYTES_PER_BATCH, sprintf('private memory is flat: %.1f bytes a batch', $growth));
# PostgreSQL keeps some files open, not always the same number
cmp_ok(abs(slope('files', @samples)) * BATCHES, '<', 10, 'so are files');
cmp_ok(abs(slope('threads', @samples)) * BATCHES, '<', 2, 'and threads');
is( $node->safe_psql('city', "SELECT accepted + dead_letters, dead_letters > 0, retries > 0 FROM detect.stat_stream WHERE stream = 'sound'"),
	BATCHES * ROWS . '|t|t', 'failing batches were among them');

# a session keeps each setting that it has been given
create_case('leaky', "PERFORM set_config('leak.n' || NEW.id, repeat('x', 500), false);");
my $leak = slope('bytes', samples_of('leaky', BATCHES / 10));

cmp_ok($leak, '>', BYTES_PER_BATCH, sprintf('a leak is seen: %.1f bytes a batch', $leak));
log_is_clean($node);
$node->stop;
done_testing();
