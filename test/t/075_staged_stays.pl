# What is staged stays when the query of a stream is altered that could not go on with
# the old one: Kafka may not have it any more.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";

use DetectTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use constant MESSAGES => 100;

my $broker = DetectTest::Broker->start();
my $node   = make_node('main');

sub ask
{
	my ($sql) = @_;

	return $node->safe_psql('city', "SET ROLE ops; SET search_path = city, public; $sql");
}

$node->start;
install_detect($node, 'city');
create_server($node, 'city', $broker);
$broker->create_topic('event', 1);
ask(q{
	CREATE TABLE event (id int PRIMARY KEY, v int);
	CREATE TABLE gate AS SELECT false AS is_open;
	CREATE FUNCTION lost(int) RETURNS int LANGUAGE plpgsql AS $$
	BEGIN
		WHILE NOT (SELECT is_open FROM city.gate) LOOP
		END LOOP;
		RAISE EXCEPTION 'what it reads is not there' USING ERRCODE = 'undefined_table';
	END $$;
	SELECT detect.create_stream('event', consumers => 1, query => 'SELECT b.id, lost(b.v) AS v FROM batch b')});

# The applier is held up until all is staged.
$broker->produce('event', map { qq({"id": $_, "v": $_}) } 1 .. MESSAGES);
$node->poll_query_until('city', 'SELECT sum(next_offset) = ' . MESSAGES . ' FROM detect._staged_progress') or die 'not all is staged';
ask('UPDATE gate SET is_open = true');
ok($node->poll_query_until('city', "SELECT state = 'paused' FROM detect.stat_stream"), 'the stream cannot go on');

# Nobody has the messages now.
$broker->stop;
ask(q{SELECT detect.alter_stream('event', query => 'SELECT b.id, b.v FROM batch b'); SELECT detect.resume('event')});
ok($node->poll_query_until('city', 'SELECT count(*) = ' . MESSAGES . ' FROM city.event'), 'with another query it applies what was staged');
is(ask('SELECT accepted FROM detect.stat_stream'), MESSAGES, 'each once');

log_is_clean($node);
$node->stop;
done_testing();
