# Processes die at random moments; each event is counted once nevertheless, and
# one that was accepted before a crash is still a duplicate after it.
#
# Two streams at once: one worker that consumes and applies, and two consumers
# beside their applier.  Whoever dies by SIGKILL takes the server's shared memory
# along, so each round also empties all unlogged tables.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";

use DetectTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use constant {
	ROUNDS => 20,
	CHUNK  => 1500,
};

my $broker = DetectTest::Broker->start();
my $node   = make_node('main');
my %lines;
my @victims = ('apply', 'consume', 'maintain', 'launcher', 'client', 'checkpointer', 'postmaster', 'immediate');

$node->start;
install_detect($node, 'city');
foreach my $stream ('camera', 'gate')
{
	$lines{$stream} =
	  [ camera_lines(ROUNDS * CHUNK, seed => $DetectTest::seed + ($stream eq 'gate')) ];
	$broker->create_topic($stream, 4);
	create_camera(
		$node, 'city', $broker,
		name      => $stream,
		table     => "${stream}_detection",
		consumers => $stream eq 'gate' ? 2 : 0);
}

# Stops a process, which may end just now, so that it is there to be killed.
sub holds_still
{
	my ($pid) = @_;
	my $status = '';

	return 0 unless $pid && kill('STOP', $pid);
	until ($status =~ /^State:\s+T/m)
	{
		$status = eval { slurp_file("/proc/$pid/status") } // 'State: X';
		return 0 if $status =~ /^State:\s+[XZ]/m;
	}
	return 1;
}

for my $round (1 .. ROUNDS)
{
	my $kind   = $victims[ rand @victims ];
	my $stream = ('camera', 'gate')[ rand 2 ];
	my $more   = int(rand(CHUNK));
	my $client = $node->background_psql('city');

	$client->query_safe("SET application_name = 'bystander'");
	foreach my $each ('camera', 'gate')
	{
		$broker->produce($each, splice(@{ $lines{$each} }, 0, CHUNK));
	}
	wait_applied($node, 'city', $stream, ($round - 1) * CHUNK + $more, '');
	my $victim = $kind =~ /^(postmaster|immediate)$/ ? $kind : find_process($node, 'city', $kind);

	# there is not always one
	unless ($victim =~ /^(postmaster|immediate)$/ || holds_still($victim))
	{
		$kind   = 'client';
		$victim = find_process($node, 'city', $kind);
	}
	note("round $round: $kind after $more messages of $stream");
	strike($node, $victim);
	eval { $client->quit };
}

foreach my $stream ('camera', 'gate')
{
	ledger_is_exact(
		$node, 'city', $broker, "stream $stream is exact after all that",
		name  => $stream,
		table => "${stream}_detection");

	# What was accepted before the crashes comes again.
	my @again = ($broker->lines($stream))[ 0 .. 2 * CHUNK ];

	$broker->produce($stream, @again);
	ledger_is_exact(
		$node, 'city', $broker, "events of stream $stream from before the crashes are duplicates",
		name  => $stream,
		table => "${stream}_detection");
}

log_is_clean($node);
$node->stop;
done_testing();
