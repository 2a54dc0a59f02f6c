# detect.peek shows what is in a topic, of whatever kind, and leaves nothing
# behind: the newest or the first messages, as many as asked for.

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

# As a member of detect_admin; rows with columns by bars.
sub peek
{
	my ($arguments, $columns, $condition) = @_;

	return $node->safe_psql('city', 'SET ROLE ops; SELECT '
		  . ($columns // 'kafka_partition, kafka_offset, payload')
		  . " FROM detect.peek($arguments) WHERE "
		  . ($condition // 'true'));
}

sub peek_fails
{
	my ($arguments, $error, $what) = @_;
	my ($rc, $stdout, $stderr) =
	  $node->psql('city', "SET ROLE ops; SELECT * FROM detect.peek($arguments)");

	like($stderr, $error, $what);
	return;
}

$node->start;
install_detect($node, 'city');
$node->safe_psql('city', "CREATE SERVER city FOREIGN DATA WRAPPER detect_kafka OPTIONS (bootstrap_servers '"
	  . $broker->bootstrap . "'); CREATE SERVER nowhere FOREIGN DATA WRAPPER detect_kafka
	OPTIONS (bootstrap_servers '127.0.0.1:1'); GRANT USAGE ON FOREIGN SERVER city, nowhere TO ops");
$broker->create_topic('mixed', 3);
$broker->create_topic('empty', 2);
$broker->command('produce', 'mixed', 0, 'k1', '{"a": 1}', '@1700000000000', 'who=me', 'none=-');
$broker->command('produce', 'mixed', 0, '-',  '-');
$broker->command('produce', 'mixed', 0, '-',  '');
$broker->command('produce', 'mixed', 0, '\xff', '\xff\x00');
$broker->command('produce', 'mixed', 1, 'k2', "second $_") foreach (0 .. 9);

is(peek("'city', 'empty'"), '', 'an empty topic');
is( peek("'city', 'mixed', 4, false", 'kafka_topic, kafka_partition, kafka_offset'),
	"mixed|0|0\nmixed|0|1\nmixed|1|0\nmixed|1|1", 'the first messages of each partition');
is(peek("'city', 'mixed', 4"),
	"0|2|\n0|3|\n1|8|second 8\n1|9|second 9", 'the newest ones');
is(peek("'city', 'mixed', 1000", 'count(*)'), '14', 'all there are');
is(peek("'city', 'mixed', 9", "string_agg(kafka_partition || ':' || kafka_offset, ' ')"),
	'0:0 0:1 0:2 0:3 1:5 1:6 1:7 1:8 1:9', 'a short partition leaves its share to others');
is( peek("'city', 'mixed', 14, false",
		q{kafka_key, kafka_headers, kafka_value, payload IS NULL, kafka_timestamp = to_timestamp(1700000000)},
		'kafka_partition = 0'),
	"\\x6b31|[[\"who\", \"me\"], [\"none\", null]]|\\x7b2261223a20317d|f|t\n|||t|f\n||\\x|f|f\n\\xff||\\xff00|t|f",
	'tombstone, empty payload, bytes that are no text');
is($node->safe_psql('city', 'SELECT count(*) FROM detect._applied_progress'), '0', 'nothing is kept');

peek_fails("'city', 'mixed', 0",      qr/count must be 1 to 100000, not 0/, 'too few');
peek_fails("'city', 'mixed', 100001", qr/count must be 1 to 100000/,        'too many');
peek_fails("'city', ''",              qr/name of a topic must not be empty/, 'no name');
peek_fails("'town', 'mixed'",         qr/server "town" does not exist/,     'no such server');
peek_fails("'nowhere', 'mixed', timeout => '5 s'", qr/could not query topic "mixed".*refused/s, 'no broker');
$broker->command('topic_error', 'ghost', 3);
peek_fails("'city', 'ghost'", qr/topic "ghost" does not exist/, 'no such topic');
my ($rc, $stdout, $stderr) = $node->psql('city',
	"CREATE ROLE stranger LOGIN; SET ROLE stranger; SELECT detect.peek('city', 'mixed')");
like($stderr, qr/permission denied for function detect\.peek\nHINT:  Have a superuser say: GRANT detect_admin TO stranger;/, 'a stranger may not');
$node->safe_psql('city', 'GRANT detect_admin TO stranger');
($rc, $stdout, $stderr) = $node->psql('city', "SET ROLE stranger; SELECT detect.peek('city', 'mixed')");
like($stderr, qr/permission denied for server "city"/, 'nor who may not use the server');

# A broker that says nothing: time is up, and a cancel is answered at once.
kill('STOP', $broker->pid);
peek_fails("'city', 'mixed', timeout => '1 s'", qr/could not query topic "mixed"/, 'a silent broker');
my $session = $node->background_psql('city', on_error_stop => 0);
my $pid = $session->query_safe('SELECT pg_backend_pid()');
$session->query_until(qr/asked/, "\\echo asked\nSELECT detect.peek('city', 'mixed', timeout => '1 hour');\n");
$node->poll_query_until('city', "SELECT state = 'active' FROM pg_stat_activity WHERE pid = $pid");
cmp_ok(seconds_of(sub {
			$node->safe_psql('city', "SELECT pg_cancel_backend($pid)");
			$node->poll_query_until('city', "SELECT state <> 'active' FROM pg_stat_activity WHERE pid = $pid");
		}), '<', 60, 'a cancel ends the wait of an hour');
kill('CONT', $broker->pid);
$session->quit;
is(peek("'city', 'mixed', 100", 'count(*)'), '14', 'the broker is back');

log_is_clean($node);
$node->stop;
done_testing();
