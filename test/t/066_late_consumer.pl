# One of two consumers finds its broker when the other one reads already: what nobody
# has read yet begins for both where start says, and not at its first message.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";

use DetectTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use constant { OLD => 10, NEW => 5 };

# The mock broker knows no times: it answers with the end for any of them.
my %start  = (newest => 'latest', timed => '2000-01-01 00:00+00');
my $broker = DetectTest::Broker->start();
my $node   = make_node('main');
my %next_id;

sub ask
{
	my ($sql) = @_;

	return $node->safe_psql('city', "SET ROLE ops; SET search_path = city, public; $sql");
}

# So many messages to a partition of a topic; which they are.
sub produce
{
	my ($topic, $partition, $count) = @_;
	my @ids = map { $next_id{$topic}++ } 1 .. $count;

	$broker->produce_messages($topic, map { { partition => $partition, payload => qq({"id": $_}) } } @ids);
	return @ids;
}

# The staging table of a stream's second consumer.
sub staging_table
{
	my ($stream) = @_;

	return $node->safe_psql('city', "SELECT format('detect._staged_%s_1', stream_id) FROM detect._stream WHERE name = '$stream'");
}

# What has been written of a partition.
sub wait_for_start
{
	my ($stream, $partition) = @_;

	return $node->poll_query_until('city', qq{
		SELECT count(*) = 1 FROM detect._applied_progress JOIN detect._stream USING (stream_id)
		WHERE name = '$stream' AND kafka_partition = $partition AND next_offset >= 0});
}

$node->start;
install_detect($node, 'city');
create_server($node, 'city', $broker);
foreach my $stream (sort keys %start)
{
	$broker->create_topic($stream, 2);
	$next_id{$stream} = 1;
	produce($stream, $_, OLD) foreach (0, 1);
}

# Both consumers have come as far as they can without a broker, and the second one is
# kept from going on.
$broker->command('down', 0);
ask("CREATE TABLE $_ (id int PRIMARY KEY); SELECT detect.create_stream('$_', server => 'city', consumers => 2, start => '$start{$_}')")
  foreach sort keys %start;
my $holder = $node->background_psql('city');
$holder->query_safe('BEGIN');
foreach my $stream (sort keys %start)
{
	my $table = staging_table($stream);

	$node->poll_query_until('city', "SELECT to_regclass('$table') IS NOT NULL") or die "no table $table";
	$holder->query_safe("LOCK TABLE $table IN ACCESS EXCLUSIVE MODE");
	ok($node->poll_query_until('city', qq{
		SELECT count(*) = 1 FROM pg_locks l JOIN detect.stat_worker w USING (pid)
		WHERE stream = '$stream' AND duty = 'consume' AND number = 1 AND NOT granted AND relation = '$table'::regclass}),
		"$stream: the second consumer waits");
}
$broker->command('up', 0);
my %expected;
foreach my $stream (sort keys %start)
{
	ok(wait_for_start($stream, 0), "$stream: the first one reads its partition");
	push @{ $expected{$stream} }, produce($stream, 0, NEW);
}

# What comes while the stream reads is not skipped, whoever reads it.
push @{ $expected{newest} }, produce('newest', 1, NEW);
$holder->query_safe('COMMIT');
$holder->quit;
foreach my $stream (sort keys %start)
{
	ok(wait_for_start($stream, 1), "$stream: the second one reads its own");
	push @{ $expected{$stream} }, produce($stream, 1, NEW);
	wait_for($node, 'city', $stream);
	is(ask("SELECT count(*) FROM $stream WHERE id <= 2 * @{[ OLD ]}"), '0', "$stream: nothing is read that is older than the stream");
	is(ask("SELECT string_agg(id::text, ' ' ORDER BY id) FROM $stream WHERE id > 2 * @{[ OLD ]}"),
		join(' ', sort { $a <=> $b } @{ $expected{$stream} }), "$stream: all that has come since is");
}

log_is_clean($node);
$node->stop;
done_testing();
