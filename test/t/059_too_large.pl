# Messages that are larger than can be kept: each is a dead letter of its position
# alone, and the stream goes on.  The real limits are beyond what a test can produce;
# a build for tests has small ones.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";

use DetectTest;
use FaultPoint;
use IO::Socket::INET;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use POSIX ();
use Test::More;

use constant {
	PAYLOAD => 64 * 1024,       # the small limits
	KEY     => 4 * 1024,
	WIDE    => 400 };          # columns

my $broker = DetectTest::Broker->start();
my $node   = make_node('main');

# An event whose payload has so many bytes.
sub event
{
	my ($id, $bytes) = @_;
	my $head = qq({"id": $id, "n": ");

	return $head . 'x' x ($bytes - length($head) - 2) . '"}';
}

sub produce
{
	my ($key, $payload, @headers) = @_;

	$broker->command('produce', 'sizes', 0, $key, $payload, @headers);
	return;
}

sub gives
{
	my ($sql, $value, $what) = @_;

	return is($node->safe_psql('city', "SET ROLE ops; SET search_path = city, public; SET client_min_messages = warning; $sql"), $value, $what);
}

# What the stream has of all messages so far.
sub is_applied
{
	my ($events, $letters, $what) = @_;

	wait_for($node, 'city', 'sizes');
	gives("SELECT string_agg(concat_ws(' ', id, length(n)), ', ' ORDER BY id) FROM sizes", $events, "$what: events");
	gives(q{SELECT string_agg(concat_ws(' ', kafka_offset, sqlstate, is_whole, length(payload), length(kafka_key)), ', ' ORDER BY kafka_offset)
		FROM detect.dead_letter WHERE stream = 'sizes'}, $letters, "$what: dead letters");
	gives(q{SELECT count(*) FROM detect.stat_partition WHERE stream = 'sizes' AND paused_since IS NOT NULL}, 0, "$what: nothing is paused");
	return;
}

# A server that is no Kafka: the length of its answer is that of "HTTP".  Its port
# and process.
sub start_web
{
	my $listener = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 5) or die "could not listen: $!";
	my $pid      = fork() // die "could not fork: $!";

	return ($listener->sockport, $pid) if $pid;
	while (my $client = $listener->accept)
	{
		$client->sysread(my $request, 1000);
		$client->syswrite("HTTP/1.1 400 Bad Request\r\n\r\n");
		$client->close;
	}
	POSIX::_exit(0);
}

# What a call says beside its result.
sub tells
{
	my ($sql, $message, $what) = @_;
	my ($rc, $stdout, $stderr) = $node->psql('city', "SET ROLE ops; $sql");

	return like($stderr, $message, $what);
}

$node->start;
install_detect($node, 'city');
FaultPoint::configure($node, 'mutant_small_limits');
$broker->create_topic('sizes', 1);
create_server($node, 'city', $broker);
produce('-', event(0, PAYLOAD));
produce('-', event(1, PAYLOAD + 1));
produce('k' x KEY, event(2, 100));
produce('k' x (KEY + 1), event(3, 100));
produce('-', event(4, 100), map { "h$_=" . 'v' x (KEY / 4) } 1 .. 4);
produce('-', event(5, 100));
$node->safe_psql('city', q{SET ROLE ops; SET search_path = city, public; CREATE TABLE sizes (id int PRIMARY KEY, n text, m text, o text);
	SELECT detect.create_stream('sizes', server => 'city', fields => '{"m": "$.m", "o": "$.m"}')});
is_applied('0 65518, 2 82, 5 82', '1 54DM1 f, 3 54DM1 f, 4 54DM1 f', 'messages that are too large');
gives(q{SELECT string_agg(reason, ', ' ORDER BY kafka_offset) FROM detect.dead_letter WHERE stream = 'sizes'},
	'payload has 65537 bytes, more than 65536, key and headers have 4097 bytes, more than 4096, key and headers have 4168 bytes, more than 4096', 'and why');

# Each column may have its part of the payload, and all together too many bytes.
produce('-', '{"id": 6, "m": "' . 'y' x 60_000 . '"}');
produce('-', '{"id": 7, "m": "' . 'y' x 5_000 . '"}');
is_applied('0 65518, 2 82, 5 82, 7', '1 54DM1 f, 3 54DM1 f, 4 54DM1 f, 6 54000 t 60018', 'a row that is too large');
gives(q{SELECT reason ~ '^payload and columns have 18\d{4} bytes together, more than 163840$' FROM detect.dead_letter WHERE stream = 'sizes' AND kafka_offset = 6},
	't', 'and why');

# The last message that was applied is known again.
produce('-', event(8, PAYLOAD + 10));
is_applied('0 65518, 2 82, 5 82, 7', '1 54DM1 f, 3 54DM1 f, 4 54DM1 f, 6 54000 t 60018, 8 54DM1 f', 'one at the end');
$node->restart;
produce('-', event(9, 100));
is_applied('0 65518, 2 82, 5 82, 7, 9 82', '1 54DM1 f, 3 54DM1 f, 4 54DM1 f, 6 54000 t 60018, 8 54DM1 f', 'after a restart');

# Nothing is gained by reading them again.
tells("SELECT detect.retry_dead_letters('sizes', sqlstate => '54DM1')", qr/4 dead letters of stream "sizes" are not retried.*too large/s, 'they are not retried');
gives("SELECT detect.retry_dead_letters('sizes')", 1, 'others are');
is_applied('0 65518, 2 82, 5 82, 6, 7, 9 82', '1 54DM1 f, 3 54DM1 f, 4 54DM1 f, 8 54DM1 f', 'by themselves');
tells("SELECT count(*) FROM detect.peek('city', 'sizes')", qr/message at offset 1 of partition 0 of topic "sizes" is too large/, 'nor are they shown');

# The library reads no more than so many headers.
produce('-', event(10, 100), '*100001');
produce('-', event(11, 100));
is_applied('0 65518, 2 82, 5 82, 6, 7, 9 82, 11 81', '1 54DM1 f, 3 54DM1 f, 4 54DM1 f, 8 54DM1 f, 10 54DM1 f', 'a message with too many headers');
gives(q{SELECT reason ~ '^headers are too many' FROM detect.dead_letter WHERE stream = 'sizes' AND kafka_offset = 10}, 't', 'and why');

# Each event may have the whole payload, and all together too much.
$broker->create_topic('repeated', 1);
$broker->command('produce', 'repeated', 0, '-', sprintf('{"a": [%s], "pad": "%s"}', join(', ', map { qq({"id": $_}) } 1 .. 20), 'x' x 60_000));
$broker->command('produce', 'repeated', 0, '-', sprintf('{"a": [%s], "pad": "%s"}', join(', ', map { qq({"id": $_}) } 21 .. 30), 'x' x 60_000));
$node->safe_psql('city', q{SET ROLE ops; SET search_path = city, public; CREATE TABLE repeated (id int PRIMARY KEY, kafka_value bytea);
	SELECT detect.create_stream('repeated', server => 'city', unnest => '$.a')});
wait_for($node, 'city', 'repeated');
gives('SELECT count(*), min(id), max(id), min(length(kafka_value)) > 60000 FROM repeated', '10|21|30|t', 'events that repeat a payload');
gives(q{SELECT kafka_offset, element, sqlstate, is_whole, reason FROM detect.dead_letter WHERE stream = 'repeated'},
	'0|-1|54000|t|payload of 60249 bytes would be in each of 20 events', 'unless that is too much');

# The library does not take an answer of any length, and speaks of a property that is no option.
my ($port, $web) = start_web();
$node->safe_psql('city', "CREATE SERVER web FOREIGN DATA WRAPPER detect_kafka OPTIONS (bootstrap_servers '127.0.0.1:$port'); GRANT USAGE ON FOREIGN SERVER web TO ops");
tells("SELECT detect.peek('web', 'sizes')", qr/answer has 1213486160 bytes, more than 100000000: .*"fetch_max_bytes"/, 'an answer that is too large');
$node->safe_psql('city', "ALTER SERVER web OPTIONS (ADD fetch_max_bytes '200000000')");
tells("SELECT detect.peek('web', 'sizes')", qr/answer has 1213486160 bytes, more than 200000512: /, 'and the option lets larger ones in');
kill('TERM', $web);
waitpid($web, 0);

# Many values, none of which is large enough to be stored apart, and which fit on no page
# together: that message is an event or a dead letter, and keeps nobody.
my @wide = map { "c$_" } 1 .. WIDE;

# An event that has so many bytes in each of them.
sub wide_event
{
	my ($id, $bytes) = @_;

	return sprintf('{"id": %d, %s}', $id, join(', ', map { sprintf('"%s": "%s"', $_, 'x' x $bytes) } @wide));
}

my @events = map { wide_event(@$_) } ([ 1, 2 ], [ 2, 22 ], [ 3, 2 ]);
my $bytes  = length($events[1]);
my $fields = join(', ', map { "$_ text" } @wide);

$broker->create_topic('wide', 1);
$broker->produce('wide', @events);
$node->safe_psql('city', qq{SET ROLE ops; SET search_path = city, public; CREATE TABLE wide (id int PRIMARY KEY, bytes int);
	SELECT detect.create_stream('wide', server => 'city', columns => 'id int, $fields',
		query => 'SELECT id, length($wide[0] || $wide[-1]) AS bytes FROM batch')});
ok($node->poll_query_until('city', q{SELECT accepted + dead_letters = 3 OR retries > 2 FROM detect.stat_stream WHERE stream = 'wide'}),
	'messages with many columns come');
gives(q{SELECT retries, accepted + dead_letters FROM detect.stat_stream WHERE stream = 'wide'}, '0|3', 'each has its outcome at once');
gives(q{SELECT string_agg(concat_ws(' ', id, bytes), ', ' ORDER BY id) FROM wide WHERE id <> 2}, '1 4, 3 4', 'those that fit on a page are events');
gives(qq{SELECT (SELECT count(*) FROM wide WHERE id = 2 AND bytes = 44) + (SELECT count(*) FROM detect.dead_letter
		WHERE stream = 'wide' AND kafka_offset = 1 AND sqlstate = '54000' AND is_whole AND length(payload) = $bytes)},
	1, 'the one that does not has all of its bytes, too');

log_is_clean($node);
$node->stop;
$broker->stop;
done_testing();
