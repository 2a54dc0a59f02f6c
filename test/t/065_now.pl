# now() in a default, a query or a trigger is the time of the transaction that stores
# the event, as it is in anybody's session, however long the worker has run.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";

use DetectTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use constant ROUNDS => 3;

my $broker = DetectTest::Broker->start();
my $node   = make_node('main');

sub ask { return $node->safe_psql('city', @_) }

$node->start;
install_detect($node, 'city');
create_server($node, 'city', $broker);
ask(q{
	SET ROLE ops;
	CREATE FUNCTION city.stamp() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.seen_by_trigger := now(); RETURN NEW; END $$});

# a worker that consumes and applies, and one that applies beside a consumer
my %consumers = (alone => 0, beside => 1);
foreach my $stream (sort keys %consumers)
{
	$broker->create_topic($stream, 1);
	ask(qq{
		SET ROLE ops;
		SET search_path = city, public;
		CREATE TABLE $stream (id int PRIMARY KEY, queried_at timestamptz, stored_at timestamptz DEFAULT now(), seen_by_trigger timestamptz);
		CREATE TRIGGER stamp BEFORE INSERT ON $stream FOR EACH ROW EXECUTE FUNCTION city.stamp();
		SELECT detect.create_stream('$stream', server => 'city', columns => 'id int', consumers => $consumers{$stream},
			query => 'SELECT b.id, now() AS queried_at FROM batch b')});
	wait_for($node, 'city', $stream);
}

foreach my $stream (sort keys %consumers)
{
	foreach my $round (1 .. ROUNDS)
	{
		foreach my $source ('Kafka', 'SQL')
		{
			my $id     = 2 * $round + ($source eq 'SQL');
			my $before = ask('SELECT clock_timestamp()');

			if ($source eq 'Kafka')
			{
				$broker->produce_messages($stream, { partition => 0, payload => qq({"id": $id}) });
			}
			else
			{
				ask("SET ROLE ops; INSERT INTO detect_staging.$stream VALUES ($id)");
			}
			wait_for($node, 'city', $stream);
			is( ask(qq{
					SELECT t BETWEEN '$before' AND clock_timestamp(), stored_at = t, seen_by_trigger = t
					FROM (SELECT queried_at AS t, * FROM city.$stream WHERE id = $id) e}),
				't|t|t', "$stream, round $round: an event of $source is stored at its time");
		}
	}
}

log_is_clean($node);
$node->stop;
done_testing();
