# What stat_stream and stat_partition say in each state of a stream, and that
# what they say to do helps.  This is the table in README.md; the states that
# only a real Kafka brings about are in 051_real_kafka_seek.pl, a partition
# that is paused in 007_broker_faults.pl, a copy in 008_copy.pl.

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
my $readme = slurp_file("$FindBin::RealBin/../../README.md");
my @lines  = camera_lines(6000, broken => 0);
my %seen;

# As the owner of the stream.
sub ask
{
	my ($sql) = @_;

	return $node->safe_psql('city', "SET ROLE ops; SET search_path = city, public; $sql");
}

# A stream, and its partition 0, come to say this; what it says to do.
sub says
{
	my ($stream, $state, $reason, $remedy, $what, %options) = @_;
	my $partition_state = $options{partition} // $state;
	my $ok = $node->poll_query_until('city', qq{
		SELECT s.state = '$state' AND COALESCE(s.reason, '') ~ \$q\$$reason\$q\$ AND COALESCE(s.remedy, '') ~ \$q\$$remedy\$q\$
			AND COALESCE(p.state, '$partition_state') = '$partition_state'
		FROM detect.stat_stream s LEFT JOIN detect.stat_partition p ON p.stream = s.stream AND p.kafka_partition = 0
		WHERE s.stream = '$stream'});

	ok($ok, $what)
	  or diag(ask("SELECT state, reason, remedy FROM detect.stat_stream WHERE stream = '$stream'"),
		"\n", ask("SELECT kafka_partition, state, reason, remedy FROM detect.stat_partition WHERE stream = '$stream'"));
	$seen{$state} = 1;
	return ask("SELECT remedy FROM detect.stat_stream WHERE stream = '$stream'");
}

$node->append_conf('postgresql.conf', 'detect.max_batch_rows = 100');
$node->start;
install_detect($node, 'city');
$broker->create_topic($_, 2) foreach ('camera', 'later');
create_camera($node, 'city', $broker);
$broker->produce('camera', splice(@lines, 0, 1000));
ledger_is_exact($node, 'city', $broker, 'a stream that runs');
says('camera', 'running', '^$', '^$', 'running');

# Paused by the user: what is said to type helps.
ask("SELECT detect.pause('camera')");
my $remedy = says('camera', 'paused', '^paused by ops$', '^SELECT detect.resume\(', 'paused by the user');
ask($remedy);
says('camera', 'running', '^$', '^$', 'resumed by what it said');

# Paused by its definition.
ask('ALTER TABLE detection DISABLE TRIGGER _detect_accepted');
$broker->produce('camera', splice(@lines, 0, 100));
says('camera', 'paused', 'trigger "_detect_accepted" .* did not fire', 'ENABLE ALWAYS TRIGGER.*detect\.resume', 'paused by its definition');
ask(q{ALTER TABLE detection ENABLE ALWAYS TRIGGER _detect_accepted; SELECT detect.resume('camera')});
ledger_is_exact($node, 'city', $broker, 'nothing is lost');

# Catching up: a batch is open, and more than one is waiting behind it.
ask(q{
	SELECT detect.alter_stream('camera', consumers => 1);
	CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql SET lock_timeout = '600s' AS $$
	BEGIN PERFORM pg_advisory_xact_lock_shared(41); RETURN NULL; END $$;
	CREATE TRIGGER hold AFTER INSERT ON detection FOR EACH STATEMENT EXECUTE FUNCTION hold()});
my $holder = $node->background_psql('city');
$holder->query_safe('SELECT pg_advisory_lock(41)');
$broker->produce('camera', splice(@lines, 0, 900));
$remedy = says('camera', 'catching up', '^$', 'SELECT detect.alter_stream\(.camera., consumers => 2\)', 'catching up');
$holder->query_safe('SELECT pg_advisory_unlock(41)');
says('camera', 'running', '^$', '^$', 'it has caught up');
ask('DROP TRIGGER hold ON detection');
ask($remedy =~ s/.*: //r);
ledger_is_exact($node, 'city', $broker, 'with more workers, as it said');

# Retrying: somebody holds the table.
$holder->query_safe('BEGIN; LOCK TABLE city.detection IN SHARE MODE');
$broker->produce('camera', splice(@lines, 0, 100));
says('camera', 'retrying', 'lock timeout', '^mend what the reason names; it is tried again by itself$', 'retrying');
is(ask("SELECT last_sqlstate FROM detect.stat_stream"), '55P03', 'with its SQLSTATE');
$holder->query_safe('COMMIT');
says('camera', 'running', '^$', '^$', 'which is over');

# Connecting: no broker, no topic, one of several topics missing.
$broker->command('down', 0);
says('camera', 'connecting', '.', '^have the brokers answer, or correct their address: ALTER SERVER city OPTIONS', 'connecting');

# A worker that ends is started again, which does not make the trouble younger.
my $since = ask("SELECT state_since FROM detect.stat_stream WHERE stream = 'camera'");
foreach my $end (1 .. 2)
{
	my $applier = ask("SELECT pid FROM detect.stat_worker WHERE stream = 'camera' AND duty = 'apply'");

	$node->safe_psql('city', "SELECT pg_terminate_backend($applier)");
	$node->poll_query_until('city', "SELECT pid <> $applier FROM detect.stat_stream WHERE stream = 'camera'") or die 'the worker did not come back';
}
says('camera', 'connecting', '.', '^have the brokers answer', 'still connecting');
is(ask("SELECT state_since FROM detect.stat_stream WHERE stream = 'camera'"), $since, 'since it lost the broker');
$broker->command('up', 0);
says('camera', 'running', '^$', '^$', 'connected');
$broker->command('topic_error', 'later', 3);
ask(q{CREATE TABLE later (LIKE detection INCLUDING ALL) PARTITION BY RANGE (timestamp_detected)});
create_camera($node, 'city', $broker, name => 'later', table => 'later');
says('later', 'connecting', '^topic "later" does not exist', '^create the topic.*SELECT detect.alter_stream', 'no topic');
ask(q{SELECT detect.alter_stream('later', topics => '{later,camera}')});
says('later', 'running', '^topic "later" does not exist', '^create the topic', 'one of two topics');
$broker->command('topic_error', 'later', 0);
ask(q{SELECT detect.drop_stream('later')});

# Starting: identities can't be read while somebody holds the table, which the
# worker waits for, for half a second, before it says so; who looks may miss
# that on a slow machine.
my $said = '';
foreach my $try (1 .. 10)
{
	ask(q{SELECT detect.pause('camera')});
	$holder->query_safe('BEGIN; LOCK TABLE city.detection IN ACCESS EXCLUSIVE MODE');
	$holder->query_safe('CREATE TEMP TABLE said AS SELECT state, reason, remedy FROM detect.stat_stream LIMIT 0');
	# it looks already when the worker begins
	$holder->query_until(qr/^looking$/m, q{\echo looking
		DO $$
		DECLARE deadline timestamptz := clock_timestamp() + interval '15 s';
		BEGIN
			LOOP
				INSERT INTO said SELECT state, reason, remedy FROM detect.stat_stream
				WHERE stream = 'camera' AND state = 'starting' AND reason IS NULL LIMIT 1;
				EXIT WHEN FOUND OR clock_timestamp() > deadline;
			END LOOP;
		END $$;
	});
	ask(q{SELECT detect.resume('camera')});
	$said = $holder->query_safe('SELECT * FROM said; ROLLBACK');
	last if $said ne '';
	# only then it forgets why it has failed
	says('camera', 'running', '^$', '^$', 'it has started, and nobody saw it');
}
is($said, 'starting||', 'starting');
$seen{starting} = 1;
says('camera', 'running', '^$', '^$', 'it has started');

# Waiting for a worker: the launchers and a probe take what there is.
ask(q{CREATE TABLE other (id int PRIMARY KEY); SELECT detect.alter_stream('camera', consumers => 0);
	SELECT detect.create_stream('other', server => '')});
$node->append_conf('postgresql.conf', 'max_worker_processes = 3');
$node->restart;
ok($node->poll_query_until('city', q{
	SELECT count(*) = 1 FROM detect.stat_stream WHERE state = 'waiting for a worker' AND reason ~ '^waiting for a worker slot'
	AND remedy = 'if it stays so, raise max_worker_processes, now 3, and restart the server'}), 'waiting for a worker');
$seen{'waiting for a worker'} = 1;

# Stopped: more streams than slots, or no library.
$node->append_conf('postgresql.conf', "max_worker_processes = 8\ndetect.max_streams = 1");
$node->restart;
ok($node->poll_query_until('city', q{
	SELECT count(*) = 1 FROM detect.stat_stream WHERE state = 'stopped'
	AND remedy = 'if it stays so, raise detect.max_streams, now 1, and restart the server'}), 'stopped for want of a slot');
$node->adjust_conf('postgresql.conf', 'detect.max_streams', undef, 1);
$node->append_conf('postgresql.conf', "shared_preload_libraries = ''");
$node->restart;
says('camera', 'stopped', '^$', '^add detect to shared_preload_libraries and restart the server$', 'stopped without the library');
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'detect'");
$node->restart;

says('camera', 'running', '^$', '^$', 'all is well again');
ledger_is_exact($node, 'city', $broker, 'and exact');

# Each of these states is in the table of README.md, and no other.
my ($table) = $readme =~ /\n\| state \|.*?\n\|---.*?\n(.*?)\n\n/s;
my @documented = $table =~ /^\| `([^`]+)`/mg;
is_deeply([ sort(keys %seen, 'waiting for an open transaction') ], [ sort @documented ], 'README.md has all states');

log_is_clean($node);
$node->stop;
done_testing();
