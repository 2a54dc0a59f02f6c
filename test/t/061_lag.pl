# How much one commit applies while a stream is behind: events that are late already
# wait for larger commits, in which a rollup's groups are merged less often.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";

use DetectTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use constant {
	MESSAGES => 3000,
	HOUR_MS  => 3_600_000 };

my $broker = DetectTest::Broker->start();
my $node   = make_node('main');

# Applies messages whose events take a millisecond each at least, and are so late;
# the size of the largest commit.
sub largest_commit
{
	my ($name, $late_ms) = @_;
	my $ms = time() * 1000 - $late_ms;

	$broker->create_topic($name, 1);
	$broker->produce_messages($name, map { { partition => 0, payload => qq({"id": $_}), ms => $ms } } 1 .. MESSAGES);
	$node->safe_psql(
		'city', qq{
		SET ROLE ops;
		CREATE TABLE city.$name (id int PRIMARY KEY);
		SELECT detect.create_stream('$name', events_table => 'city.$name', query => 'SELECT city.slow(id) AS id FROM batch')});
	wait_for($node, 'city', $name);
	is($node->safe_psql('city', "SELECT count(*) FROM city.$name"), MESSAGES, "$name: each event is there");
	# the first one knows nothing of how long an event takes
	return $node->safe_psql('city', "SELECT max(n) FROM (SELECT count(*) AS n FROM city.$name GROUP BY xmin::text ORDER BY min(id) OFFSET 1) c");
}

$node->start;
install_detect($node, 'city');
create_server($node, 'city', $broker);
$node->safe_psql(
	'city', q{
	CREATE FUNCTION city.slow(id int) RETURNS int LANGUAGE plpgsql AS $$
	DECLARE
		until timestamptz := clock_timestamp() + interval '1 ms';
	BEGIN
		WHILE clock_timestamp() < until LOOP
		END LOOP;
		RETURN id;
	END $$});

my $fresh = largest_commit('fresh', -HOUR_MS());
cmp_ok($fresh, '<=', 250, 'a commit of fresh events takes detect.max_batch_time');
my $late = largest_commit('late', HOUR_MS);
# a slow machine makes both smaller
cmp_ok($late, '>', 1.5 * $fresh, 'one of late events takes longer');
cmp_ok($late, '<=', 1000, 'but four times that at most');

log_is_clean($node);
$node->stop;
done_testing();
