# DROP EXTENSION under load commits, workers exit, events stay; rolled back it
# was never there; created again it starts clean.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";

use DetectTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $broker = DetectTest::Broker->start();
my $node   = make_node('main');
my @lines  = camera_lines(24_000);
my $quiet  = 'SET client_min_messages = warning;';

sub produce
{
	my ($count) = @_;

	$broker->produce('camera', splice(@lines, 0, $count));
	return;
}

$node->start;
install_detect($node, 'city');
$broker->create_topic('camera', 4);
create_camera($node, 'city', $broker, consumers => 1);
produce(2000);
ledger_is_exact($node, 'city', $broker, 'the stream runs');

# Without CASCADE it is refused, and nothing has happened.
my ($rc, $stdout, $stderr) = $node->psql('city', 'DROP EXTENSION detect');
isnt($rc, 0, 'DROP EXTENSION is refused while streams depend on it');
like($stderr, qr/CASCADE/, 'and says how');

# Rolled back, in the middle of a topic.
my $session = $node->background_psql('city');
for my $round (1 .. 3)
{
	produce(2000);
	$session->query_safe("$quiet BEGIN; DROP EXTENSION detect CASCADE");
	produce(1000);
	$session->query_safe('ROLLBACK');
}
$session->quit;
ledger_is_exact($node, 'city', $broker, 'after DROP EXTENSION was rolled back the stream goes on');
is($node->safe_psql('city', 'SELECT count(*) FROM detect.dead_letter') > 0,
	1, 'dead letters are those of broken messages');

# Committed, in the middle of a topic.
my @pids = map { worker_pid($node, 'city', 'camera', $_) } ('apply', 'consume');
produce(4000);
wait_applied($node, 'city', 'camera', 11_000 + int(rand(4000)), '');
cmp_ok(seconds_of(sub { $node->safe_psql('city', "$quiet DROP EXTENSION detect CASCADE") }),
	'<', 20, 'DROP EXTENSION … CASCADE under load is quick');
cmp_ok(seconds_of(sub { wait_for_exit($_) for @pids }), '<', 20, 'its workers exit');
ok($node->poll_query_until('city',
		"SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type ~ '^detect (apply|consume|maintain)'"),
	'and none is started again');
cmp_ok($node->safe_psql('city', 'SELECT count(*) FROM detection'), '>', 10_000, 'events stay');
is( $node->safe_psql('city', q{
		SELECT count(*) FROM pg_trigger WHERE tgname ~ 'detect'}),
	'0', 'no trigger is left on the events table');
is( $node->safe_psql('city', q{
		SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE n.nspname ~ '^detect'}),
	'0', 'no table is left in our schemas');
$node->safe_psql('city', 'UPDATE detection SET item_name = item_name WHERE detection_oid % 10 = 0');

# Created again, over the kept table: all that comes again is known.
install_detect($node, 'city');
is($node->safe_psql('city', 'SELECT count(*) FROM detect.stream'), '0', 'the extension starts clean');
create_camera($node, 'city', $broker, consumers => 1);
produce(2000);
ledger_is_exact($node, 'city', $broker, 'created again, over the kept table', replayed => 1);

# The schema with its objects goes and comes in one transaction.
$node->safe_psql('city', "$quiet BEGIN; DROP EXTENSION detect CASCADE; CREATE EXTENSION detect; COMMIT");
create_camera($node, 'city', $broker);
produce(1000);
ledger_is_exact($node, 'city', $broker, 'dropped and created in one transaction', replayed => 1);

log_is_clean($node);
$node->stop;
done_testing();
