# A stream is sent back and forth: by offset, to the beginning and to the end,
# one partition and all, while batches are under way.  Going back changes no
# row; what was skipped comes when one goes back for it.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";

use DetectTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use constant { CHUNK => 2000, PARTITIONS => 4 };

my $broker = DetectTest::Broker->start();
my $node   = make_node('main');
my @lines  = camera_lines(16 * CHUNK, broken => 0);

sub produce
{
	my ($topic) = @_;

	$broker->produce($topic, splice(@lines, 0, CHUNK));
	return;
}

# As the owner of the stream.
sub ask
{
	my ($sql) = @_;

	return $node->safe_psql('city', "SET ROLE ops; SET search_path = city, public; $sql");
}

# What a statement of the owner complains of.
sub complaint
{
	my ($sql) = @_;
	my ($rc, $stdout, $stderr) =
	  $node->psql('city', "SET ROLE ops; SET search_path = city, public; $sql", on_error_stop => 0);

	return $stderr;
}

# How many messages of each partition were delivered again, as the history of
# seeks tells it; fewer than none where some were skipped.
sub again
{
	my (@topics) = @_;
	my @again;

	foreach my $topic (sort @topics)
	{
		push @again, split(/\n/, $node->safe_psql('city', "
			SELECT COALESCE(sum(m[2]::bigint - m[3]::bigint), 0)
			FROM generate_series(0, @{[ PARTITIONS - 1 ]}) p
			LEFT JOIN (SELECT regexp_matches(detail, '$topic/(\\d+): (\\d+) to (\\d+)', 'g') AS m
				FROM detect.history WHERE verb = 'seek') h ON m[1]::int = p
			GROUP BY p ORDER BY p"));
	}
	return \@again;
}

sub is_exact
{
	my ($what, @topics) = @_;

	@topics = ('camera') unless @topics;
	return ledger_is_exact($node, 'city', $broker, $what, topics => \@topics, again => again(@topics));
}

$node->append_conf('postgresql.conf', "max_worker_processes = 16\ndetect.max_batch_rows = 100");
$node->start;
install_detect($node, 'city');
$broker->create_topic($_, PARTITIONS) foreach ('camera', 'gate');
create_camera($node, 'city', $broker, consumers => 2);
produce('camera');
is_exact('the topic, once');

# ---------------------------------------------------------------------
# While nothing flows
# ---------------------------------------------------------------------
is(ask(q{SELECT detect.seek('camera', to_time => '-infinity')}), PARTITIONS, 'all partitions go back to their beginning');
is_exact('the topic, twice');
is(ask(q{SELECT detect.seek('camera', to_offset => 17, partition => 2)}), '1', 'one partition goes back');
is_exact('a part of one partition, again');
is(ask(q{SELECT detect.seek('camera', to_offset => 400)}), PARTITIONS, 'all go back to an offset');
is_exact('the last hundred of each, again');
is(ask(q{SELECT detect.seek('camera', to_time => 'infinity')}), '0', 'to the end, where it is already');
is_exact('nothing has come');
is_deeply(again('camera'), [ 600, 600, 1083, 600 ], 'so many were delivered again');

# ---------------------------------------------------------------------
# While batches flow: one worker, two consumers
# ---------------------------------------------------------------------
foreach my $consumers (0, 2, 1)
{
	ask("SELECT detect.alter_stream('camera', consumers => $consumers)");
	for my $try (1 .. 4)
	{
		produce('camera') if $try % 2;
		# all outcomes: what is delivered again counts again
		my $applied = ask('SELECT accepted + duplicates + filtered + expired + dead_letters FROM detect.stat_stream');

		# a seek between any two batches, back to where few or many are to be read again
		my $to = int(rand(450));
		my $where = $try == 2 ? "to_offset => $to, partition => " . int(rand(PARTITIONS)) : "to_offset => $to";

		ask("SELECT detect.seek('camera', $where)");
		wait_applied($node, 'city', 'camera', $applied + int(rand(500)), '');
		ask("BEGIN; SELECT detect.seek('camera', to_time => '-infinity'); ROLLBACK");
	}
	is_exact("consumers => $consumers: to and fro while batches flow");
}
cmp_ok((sort { $a <=> $b } @{ again('camera') })[0], '>', 1500, 'every partition was read again and again');
unlike(slurp_file($node->logfile), qr/are missing; reading/, 'no staged rows were missed, where a seek was rolled back neither');

# ---------------------------------------------------------------------
# Forward, and back for what was skipped
# ---------------------------------------------------------------------
ask("SELECT detect.pause('camera')");
produce('camera');
my $notice = complaint(q{SELECT detect.seek('camera', to_time => 'infinity')});
is(scalar(() = $notice =~ /NOTICE:  500 messages of topic "camera", partition \d, are skipped/g),
	PARTITIONS, 'what is skipped is counted, partition by partition') or diag($notice);
ask("SELECT detect.resume('camera'); SELECT detect.wait_for('camera')");
my $missing = $broker->lines('camera');
cmp_ok(ask('SELECT count(*) FROM detection'), '<', $missing - CHUNK / 2, 'it is skipped');
is(ask(q{SELECT detect.seek('camera', to_offset => 100)}), PARTITIONS, 'and comes when one goes back for it');
is_exact('nothing is missing');

# Two seeks in a transaction: the last one counts.
ask(q{BEGIN; SELECT detect.seek('camera', to_time => 'infinity'); SELECT detect.seek('camera', to_time => '-infinity');
	SELECT detect.seek('camera', to_offset => 1000, partition => 1); COMMIT});
is_exact('two seeks in one transaction');

# Several topics.
produce('gate');
ask("SELECT detect.alter_stream('camera', topics => '{camera,gate}')");
is_exact('a second topic', 'camera', 'gate');
is(ask(q{SELECT detect.seek('camera', to_time => '-infinity', topic => 'gate')}), PARTITIONS, 'one topic of two');
is(ask(q{SELECT detect.seek('camera', to_offset => 3, topic => 'gate', partition => 3)}), '1', 'one partition of one of them');
is_exact('only that was read again', 'camera', 'gate');
is(ask(q{SELECT detect.seek('camera', to_time => '-infinity')}), 2 * PARTITIONS, 'all of both');
is_exact('both again', 'camera', 'gate');

# ---------------------------------------------------------------------
# Against an open batch: it waits until that has committed
# ---------------------------------------------------------------------
ask(q{
	CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql SET lock_timeout = '600s' AS $$
	BEGIN PERFORM pg_advisory_xact_lock_shared(41); RETURN NULL; END $$;
	CREATE TRIGGER hold AFTER INSERT ON detection FOR EACH STATEMENT EXECUTE FUNCTION hold()});
my $holder = $node->background_psql('city');
$holder->query_safe('SELECT pg_advisory_lock(41)');
produce('camera');
$node->poll_query_until('city', "SELECT count(*) = 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
  or die 'no batch is open';
my $seeker = $node->background_psql('city');
$seeker->query_safe('SET ROLE ops');
$seeker->query_until(qr/asked/, "\\echo asked\nSELECT detect.seek('camera', to_offset => 0, topic => 'camera');\n");
ok($node->poll_query_until('city', q{
	SELECT count(*) = 1 FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND locktype = 'object' AND NOT granted}),
	'a seek waits for the open batch');
$holder->query_safe('SELECT pg_advisory_unlock(41)');
$holder->quit;
$seeker->query_safe('SELECT 1');
$seeker->quit;
ask('DROP TRIGGER hold ON detection');
is_exact('and falls between two batches', 'camera', 'gate');

# ---------------------------------------------------------------------
# What is refused
# ---------------------------------------------------------------------
my $end = ($broker->ends('camera'))[0];
like(complaint(q{SELECT detect.seek('camera', to_offset => 1000000, topic => 'camera')}),
	qr/partition 0 of topic "camera" has no offset 1000000\nDETAIL:  It begins at offset 0, and its next message will have offset $end/,
	'an offset that is not there');
like(complaint(q{SELECT detect.seek('camera', to_offset => -1, topic => 'gate')}), qr/has no offset -1/, 'nor a negative one');
like(complaint(q{SELECT detect.seek('camera', to_offset => 1, topic => 'tunnel')}), qr/does not read topic "tunnel"/, 'no such topic');
like(complaint(q{SELECT detect.seek('camera', to_offset => 1, topic => 'gate', partition => 4)}),
	qr/topic "gate" has no partition 4\nHINT:  It has partitions 0 to 3/, 'no such partition');
like(complaint(q{SELECT detect.seek('camera', to_offset => 1, topic => 'gate', partition => -1)}),
	qr/topic "gate" has no partition -1/, 'all partitions are asked for in another way');
like(complaint(q{SELECT detect.seek('camera', to_offset => 1, partition => 1)}), qr/reads 2 topics/, 'which of two topics?');
ask(q{CREATE TABLE keyless (LIKE detection);
	SELECT detect.create_stream('keyless', topic => 'gate', key => '{}', start => 'latest');
	SELECT detect.seek('keyless', to_offset => 100)});
ask(q{SELECT detect.wait_for('keyless')});
is(ask('SELECT count(*) FROM keyless'), ($broker->ends('gate'))[0] * PARTITIONS - 100 * PARTITIONS, 'a new stream may be sent anywhere');
like(complaint(q{SELECT detect.seek('keyless', to_offset => 99)}),
	qr/stream "keyless" cannot go back: it has no key, and would double events/, 'without a key nobody goes back');
is(ask(q{SELECT detect.seek('keyless', to_time => 'infinity')}), '0', 'but forward');
$broker->command('topic_error', 'ghost', 3);
ask(q{CREATE TABLE ghost (LIKE keyless);
	BEGIN; SELECT detect.create_stream('ghost', topics => '{ghost,camera}', key => '{}'); SELECT detect.pause('ghost'); COMMIT});
like(complaint(q{SELECT detect.seek('ghost', to_offset => 0)}), qr/topic "ghost" does not exist on server "city"/, 'a topic that is not there');
like(complaint(q{SELECT detect.seek('ghost', to_offset => 0, topic => 'camera', partition => 2)}),
	qr/has not begun to read topic "camera"/, 'one partition before all have begun');
$node->safe_psql('city', 'CREATE ROLE stranger LOGIN');
my ($rc, $stdout, $stderr) = $node->psql('city', "SET ROLE stranger; SELECT detect.seek('camera', to_offset => 0)");
like($stderr, qr/must be owner of stream "camera"/, 'a stranger may not');

is(ask(q{SELECT count(*) FILTER (WHERE caller = session_user AND acting_as = 'ops' AND at <= clock_timestamp()) - count(*)
	FROM detect.history WHERE verb = 'seek'}), '0', 'who did it is known');
log_is_clean($node);
$node->stop;
done_testing();
