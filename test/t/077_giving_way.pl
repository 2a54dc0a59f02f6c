# Maintenance builds the index of a partition that is past, and waits for a session with
# an old snapshot.  When that session, or another one, comes to wait for the partition,
# maintenance gives way: no command of a user fails or is held up because a stream is
# maintained.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";

use DetectTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = make_node('main');

sub ask
{
	my ($sql) = @_;

	return $node->safe_psql('city', "SET ROLE ops; SET search_path = city, public; $sql");
}

# PostgreSQL looks once for a deadlock, soon; the session, which comes later, hardly ever.
$node->append_conf('postgresql.conf', "deadlock_timeout = 200ms\nlog_lock_waits = on");
$node->start;
install_detect($node, 'city');
ask(q{CREATE TABLE daily (id int, seen_at timestamptz) PARTITION BY RANGE (seen_at);
	CREATE TABLE daily_1 PARTITION OF daily FOR VALUES FROM ('2024-01-01') TO ('2024-01-02')});

my @commands = (
	'TRUNCATE city.daily_1',
	'ALTER TABLE city.daily_1 ADD CHECK (id > 0)',
	'by another: ANALYZE city.daily',
	'by another: ALTER TABLE city.daily ADD COLUMN v int',
	'DROP EXTENSION detect CASCADE');
foreach my $command (@commands)
{
	my $session = $node->background_psql('city');
	my $log_end = -s $node->logfile;

	# a snapshot that stays; who has it wants the partition, or somebody else
	$session->query_safe("SET client_min_messages = warning; SET deadlock_timeout = '10s'; BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1");
	ask(q{SELECT detect.create_stream('daily', key => '{id}', partition_interval => '1 day')});
	ok($node->poll_query_until('city', q{SELECT count(*) = 1 FROM pg_locks l JOIN pg_stat_activity a USING (pid)
		WHERE backend_type = 'detect maintain' AND locktype = 'virtualxid' AND NOT granted AND clock_timestamp() - waitstart > '1 s'}),
		'maintenance waits for a session');
	if ($command =~ s/^by another: //)
	{
		$node->safe_psql('city', "SET client_min_messages = warning; SET lock_timeout = '${PostgreSQL::Test::Utils::timeout_default}s'; $command");
		pass("another one is not held up: $command");
	}
	else
	{
		$session->query_safe($command);
		pass("which is not the victim: $command");
	}
	unlike(slurp_file($node->logfile, $log_end), qr/detect maintain .*still waiting/, 'nor does the log tell of each look');
	$session->query_safe('COMMIT');
	$session->quit;
	last if $command =~ /^DROP/;
	is(ask('SELECT count(*) FROM detect.problem'), '0', 'which is no problem');
	# a stream that begins looks at once
	ask(q{SELECT detect.drop_stream('daily'); SELECT detect.create_stream('daily', key => '{id}', partition_interval => '1 day')});
	ok($node->poll_query_until('city', q{SELECT count(*) = 1 FROM pg_index WHERE indrelid = 'city.daily_1'::regclass AND indisvalid}), 'later it has its index');
	ask(q{SELECT detect.drop_stream('daily')});
	ask($node->safe_psql('city', q{SELECT format('DROP INDEX %s', string_agg(indexrelid::regclass::text, ', ')) FROM pg_index WHERE indrelid = 'city.daily_1'::regclass}));
}

log_is_clean($node);
$node->stop;
done_testing();
