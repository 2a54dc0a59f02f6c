# A topic of a thousand partitions costs a worker no thread more than one of four,
# and little memory; it is exact, through a crash and a restart, too.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";

use DetectTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use constant {
	PARTITIONS => 1000,
	MESSAGES   => 10_000,
	MEMORY_MB  => 100,       # that it may hold more than the other
};

my $broker = DetectTest::Broker->start();
my $node   = make_node('main');
my %table  = (few => 'few_detection', many => 'many_detection');

# Private memory in MB, and threads, of a stream's worker.
sub holdings
{
	my ($stream) = @_;
	my $status = slurp_file('/proc/' . worker_pid($node, 'city', $stream) . '/status');

	return ($status =~ /^RssAnon:\s+(\d+) kB/m)[0] / 1024, ($status =~ /^Threads:\s+(\d+)/m)[0];
}

# Some messages for each stream, and all are applied.
sub is_exact
{
	my ($what) = @_;

	foreach my $stream (sort keys %table)
	{
		ledger_is_exact($node, 'city', $broker, "$what: stream $stream", name => $stream, table => $table{$stream});
	}
	return;
}

my %lines;

sub produce
{
	$broker->produce($_, splice(@{ $lines{$_} }, 0, MESSAGES)) foreach sort keys %table;
	return;
}

$node->start;
install_detect($node, 'city');
foreach my $stream (sort keys %table)
{
	$lines{$stream} = [ camera_lines(3 * MESSAGES) ];
	$broker->create_topic($stream, $stream eq 'many' ? PARTITIONS : 4);
	create_camera($node, 'city', $broker, name => $stream, table => $table{$stream});
}
produce();
is_exact('at first');
$node->restart;
produce();
is_exact('after a restart');
strike($node, 'immediate');
produce();
is_exact('after a crash');
is($node->safe_psql('city', q{SELECT count(*) FROM detect.stat_partition WHERE stream = 'many' AND kafka_partition >= 0 AND state = 'running' AND reason IS NULL}),
	PARTITIONS, 'each partition is shown');

my ($few_mb, $few_threads)   = holdings('few');
my ($many_mb, $many_threads) = holdings('many');

# one may be about to end
cmp_ok($many_threads, '<=', $few_threads + 1, 'no thread more');
cmp_ok($many_mb, '<', $few_mb + MEMORY_MB, sprintf('%d MB beside %d', $many_mb, $few_mb));
log_is_clean($node);
$node->stop;
done_testing();
