# Messages of no byte to 64 MB, a batch that a broker sends in some kilobytes and that
# is 64 MB, and one that has changed on the broker's disk.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";

use DetectTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use constant {
	MB        => 1024 * 1024,
	MEMORY_MB => 100,       # that a worker may hold when all is applied
};

skip_without_kafka();

my $kafka = DetectTest::Kafka->start("$PostgreSQL::Test::Utils::tmp_check/kafka");
my $node  = make_node('main');
my @limit = ('max.message.bytes=' . 70 * MB);

# As the owner of the streams.
sub ask
{
	my ($sql) = @_;

	return $node->safe_psql('city', "SET ROLE ops; SET search_path = city, public; $sql");
}

# An event with a text of so many bytes.
sub event
{
	my ($id, $bytes) = @_;

	return '{"id": ' . $id . ', "n": "' . 'x' x $bytes . '"}';
}

# A committed transaction for a topic of one partition.
sub produce
{
	my ($topic, @payloads) = @_;

	$kafka->produce_messages($topic, 'begin', (map { { partition => 0, payload => $_ } } @payloads), 'commit');
	return;
}

sub make_stream
{
	my ($topic) = @_;

	ask("CREATE TABLE $topic (id int PRIMARY KEY, n text); SELECT detect.create_stream('$topic')");
	return;
}

# The stream has applied all that it was given, and holds no more memory than ever.
sub is_applied
{
	my ($stream, $events, $what) = @_;

	ask("SELECT detect.wait_for('$stream', '${PostgreSQL::Test::Utils::timeout_default}s')");
	is(ask("SELECT string_agg(id || ' ' || length(n), ', ' ORDER BY id) FROM $stream WHERE n = repeat('x', length(n))"), $events, $what);
	my $pid = worker_pid($node, 'city', $stream);

	ok($node->poll_query_until('city', "SELECT substring(pg_read_file('/proc/$pid/status') FROM 'RssAnon:\\s+(\\d+) kB')::int < 1024 * @{[ MEMORY_MB ]}"),
		"$what: its memory is free again");
	return;
}

$node->start;
install_detect($node, 'city');
create_server($node, 'city', $kafka);

# ---------------------------------------------------------------------
# Sizes
# ---------------------------------------------------------------------

my @sizes = (0, 1, MB, 8 * MB, 64 * MB);
my $id    = 0;

$kafka->obey('create-topic', 'sizes', 1, @limit);
produce('sizes', undef, '', '1', (map { event(++$id, $_) } @sizes), 'y' x (64 * MB), event(++$id, 3));
make_stream('sizes');
is_applied('sizes', '1 0, 2 1, 3 1048576, 4 8388608, 5 67108864, 6 3', 'messages of all sizes');
is(ask(q{SELECT string_agg(concat_ws(' ', sqlstate, payload_bytes, length(payload), is_whole), ', ' ORDER BY kafka_offset)
		FROM detect.dead_letter WHERE stream = 'sizes'}),
	'22023 t, 22023 0 0 t, 2203C 1 1 t, 22P02 67108864 1048576 f', 'what is no event has a reason, and is kept up to a megabyte');

# The broker keeps it compressed: 64 MB come in some kB.
$kafka->obey('create-topic', 'inflating', 1, @limit, 'compression.type=gzip');
produce('inflating', event(1, 64 * MB), event(2, 64 * MB), event(3, 1));
my $bytes = 0;
$bytes += -s $_ foreach glob("$kafka->{dir}/data/inflating-0/*.log");
cmp_ok($bytes, '<', MB, "the topic has $bytes bytes on the disk");
make_stream('inflating');
is_applied('inflating', '1 67108864, 2 67108864, 3 1', 'batches that inflate');

# ---------------------------------------------------------------------
# A byte that has changed on the broker's disk
# ---------------------------------------------------------------------

# Changes the first byte of a text in the log of a topic, while the broker is away.
sub change
{
	my ($topic, $text, $byte) = @_;
	my ($path) = glob("$kafka->{dir}/data/$topic-0/*.log");
	my $log    = slurp_file($path);
	my $place  = index($log, $text);

	die "no $text in $path" if $place < 0;
	$kafka->obey('stop');
	open(my $file, '+<:raw', $path) or die "could not open \"$path\": $!";
	seek($file, $place, 0);
	print $file $byte;
	close($file) or die "could not write \"$path\": $!";
	$kafka->obey('start');
	$kafka->renew_producer;
	return;
}

$kafka->obey('create-topic', 'changed', 1);
produce('changed', event(1, 2));
produce('changed', '{"id": 2, "n": "xxPLACE"}');
produce('changed', event(3, 2));
change('changed', 'PLACE', 'Q');
make_stream('changed');
ok($node->poll_query_until('city', q{SELECT reason ~* 'crc|bad message' FROM detect.stat_stream WHERE stream = 'changed'}), 'a batch whose checksum is wrong shows')
  || diag(ask(q{SELECT state, reason, remedy FROM detect.stat_stream WHERE stream = 'changed'}));
$node->poll_query_until('city', 'SELECT count(*) > 0 FROM changed');
is(ask('SELECT max(id) FROM changed'), 1, 'nothing of it is taken, and nothing skipped');
change('changed', 'QLACE', 'P');
ask("SELECT detect.wait_for('changed', '${PostgreSQL::Test::Utils::timeout_default}s')");
is(ask("SELECT string_agg(id || n, ' ' ORDER BY id) FROM changed"), '1xx 2xxPLACE 3xx', 'once it is as it was, it goes on');

log_is_clean($node);
$node->stop;
$kafka->stop;
done_testing();
