# A broker that does not know a partition for a moment, as one may whose metadata is older
# than another's, and one that does not say in time which partitions there are: neither
# pauses a stream, which goes on by itself.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";

use DetectTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes;

# Of the Kafka protocol.
use constant {
	FETCH               => 1,
	LIST_OFFSETS        => 2,
	OFFSET_OUT_OF_RANGE => 1,
	UNKNOWN_TOPIC       => 3,
};

use constant {
	FAR_MS     => 2500,    # longer than any answer to a question is waited for
	LOOKS_SECS => 9,       # partitions are looked for each 5 s, and waited for 3 s
};

my $broker = DetectTest::Broker->start();
my $node   = make_node('main');
my $last_id = 0;

sub ask
{
	my ($sql) = @_;

	return $node->safe_psql('city', "SET ROLE ops; SET search_path = city, public; $sql");
}

# Some messages to each partition of a topic.
sub produce
{
	my ($topic, @partitions) = @_;

	$broker->produce_messages($topic, map { { partition => $_, payload => sprintf('{"id": %d}', ++$last_id) } } @partitions);
	return;
}

# A stream that reads these topics.
sub create_stream
{
	my ($name, @topics) = @_;

	ask("CREATE TABLE $name (id int PRIMARY KEY); SELECT detect.create_stream('$name', server => 'city', topics => '{"
		  . join(',', @topics) . "}')");
	return;
}

sub state_of
{
	my ($stream) = @_;

	return ask("SELECT state FROM detect.stat_stream WHERE stream = '$stream'");
}

# The stream says that something is missing, and is not paused for it.
sub waits_for_partition
{
	my ($stream, $what) = @_;

	ok($node->poll_query_until('city', qq{
		SELECT state IN ('connecting', 'retrying', 'paused') AND reason ~* 'unknown topic or partition|does not exist|is missing'
		FROM detect.stat_stream WHERE stream = '$stream'}), "$what: it says so")
	  or diag(ask("SELECT state, reason FROM detect.stat_stream WHERE stream = '$stream'"));
	return isnt(state_of($stream), 'paused', "$what: it is not paused");
}

# The stream comes to have so many events; a stream that is paused never does.
sub has_events
{
	my ($stream, $count, $what) = @_;

	$node->poll_query_until('city',
		"SELECT state = 'paused' OR (SELECT count(*) = $count FROM city.$stream) FROM detect.stat_stream WHERE stream = '$stream'");
	return is(ask("SELECT count(*) FROM $stream"), $count, $what);
}

$node->start;
install_detect($node, 'city');
create_server($node, 'city', $broker);

# ---------------------------------------------------------------------
# Its leader does not know a partition yet
# ---------------------------------------------------------------------

$broker->create_topic($_, 2) foreach ('fresh', 'known', 'distant', 'nowhere');
$broker->command('error', LIST_OFFSETS, 1000, UNKNOWN_TOPIC);
create_stream('fresh', 'fresh');
waits_for_partition('fresh', 'a stream that begins');
$broker->command('clear_errors', LIST_OFFSETS);
produce('fresh', 0, 1);
has_events('fresh', 2, 'and goes on by itself');

# ... nor any more, when a stream that runs asks what there is.
create_stream('known', 'known');
produce('known', 0, 1);
has_events('known', 2, 'a stream runs');
$broker->command('error', LIST_OFFSETS, 1000, UNKNOWN_TOPIC);
$broker->command('error', FETCH, 1000, OFFSET_OUT_OF_RANGE);
waits_for_partition('known', 'a stream that looks for a gap');
$broker->command('clear_errors', LIST_OFFSETS);
$broker->command('clear_errors', FETCH);
produce('known', 0, 1);
has_events('known', 4, 'and goes on by itself');
stream_is($node, 'city', 'known', 'running', '^$', 'which ends the reason') if state_of('known') ne 'paused';

# ---------------------------------------------------------------------
# Messages come, but no answer in time
# ---------------------------------------------------------------------

# where a topic is missing, partitions are looked for more often
$broker->command('topic_error', 'nowhere', UNKNOWN_TOPIC);
create_stream('distant', 'distant', 'nowhere');
produce('distant', 0, 1);
has_events('distant', 2, 'a stream runs');
stream_is($node, 'city', 'distant', 'running', 'topic "nowhere" does not exist', 'of which one topic is missing');

my $retries = ask("SELECT retries FROM detect.stat_stream WHERE stream = 'distant'");
my $count   = 2;
my $begin   = Time::HiRes::time();

$broker->command('rtt', 0, FAR_MS);
do
{
	produce('distant', 0, 1);
	$count += 2;
	has_events('distant', $count, 'it reads on');
} while (Time::HiRes::time() - $begin < LOOKS_SECS);
is(ask("SELECT state, retries FROM detect.stat_stream WHERE stream = 'distant'"), "running|$retries",
	'though nobody says which partitions there are, nothing is tried again');
$broker->command('rtt', 0, 0);
produce('distant', 0, 1);
has_events('distant', $count + 2, 'answers come in time again');

log_is_clean($node);
$node->stop;
done_testing();
