# What SQL stages is applied in the order of its table, of events with the same key the
# first one, also when the table is so large that PostgreSQL has scans join those of others
# in the middle.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";

use DetectTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use constant KEYS => 400;

my $node = make_node('main');

sub ask
{
	my ($sql) = @_;

	return $node->safe_psql('city', "SET ROLE ops; SET search_path = city, public; $sql");
}

# a quarter of this is a large table
$node->append_conf('postgresql.conf', 'shared_buffers = 1MB');
$node->start;
install_detect($node, 'city');
ask(q{
	CREATE TABLE saying (id int PRIMARY KEY, said text);
	BEGIN;
	SELECT detect.create_stream('saying', server => '', columns => 'id int, said text, filler text',
		query => 'SELECT id, said FROM batch');
	SELECT detect.pause('saying');
	COMMIT;
	INSERT INTO detect_staging.saying SELECT id, said, repeat('x', 1000)
	FROM (SELECT n, said, id FROM (VALUES (1, 'first'), (2, 'second')) v (n, said), generate_series(1, } . KEYS . q{) id ORDER BY n, id) s});
is(ask(q{SELECT pg_relation_size('detect_staging.saying') / current_setting('block_size')::int > setting::int / 4
	FROM pg_settings WHERE name = 'shared_buffers'}), 't', 'many rows are staged');

# somebody is past the middle of the table
my $reader = $node->background_psql('city');
$reader->query_safe('BEGIN; DECLARE rows CURSOR FOR SELECT id, said FROM detect_staging.saying');
$reader->query_safe('MOVE ' . int(KEYS * 1.3) . ' FROM rows');
like($reader->query_safe('FETCH 1 FROM rows'), qr/^\d+\|second$/, 'somebody is in the middle of reading them');
ask("SELECT detect.resume('saying')");
ok($node->poll_query_until('city', 'SELECT count(*) = 0 FROM detect_staging.saying'), 'all are applied');
$reader->quit;
is(ask('SELECT said, count(*) FROM saying GROUP BY said ORDER BY said'), 'first|' . KEYS, 'what was staged first is an event');
is(ask("SELECT accepted, duplicates FROM detect.stat_stream WHERE stream = 'saying'"), KEYS . '|' . KEYS, 'and the other a duplicate');

log_is_clean($node);
$node->stop;
done_testing();
