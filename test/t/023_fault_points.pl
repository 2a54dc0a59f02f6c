# A process fails at each fault point of the table in test/README.md, by SIGKILL
# and by errors of the environment; after each failure every event is counted
# once.  A point that does not fire has no test, which is a failure too.
#
# One stream meets all of them, one after another: a consumer beside its
# applier, two rollups, duplicates and broken messages.  What a batch alone does
# not reach, something is done for, before the point is armed or after.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";

use DetectTest;
use FaultPoint;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use POSIX qw(strftime);
use Test::More;

use constant CHUNK => 100;

my $broker = DetectTest::Broker->start();
my $node   = make_node('main');
my @points = fault_points();
my @lines  = camera_lines(CHUNK * (2 * @points + 1));
my @errors = qw(53100 40001 40P01 55P03 57014);
my $per_place = q{
	SELECT geographical_location_oid AS place, date_trunc('hour', timestamp_detected) AS hour, count(*) AS detections,
		   max(confidence) AS surest
	FROM EVENTS GROUP BY 1, 2};
my $hours = 5;      # so long ago no event was yet
my $days  = 40;     # so long ago there is no partition
my $years = 100;    # so long groups are kept

# Asks a server that may crash meanwhile; what it was asked is done before that.
sub ask
{
	my ($sql) = @_;

	# a psql that is refused may end before it has read what to ask
	eval { $node->psql('city', "SET search_path = city, public; $sql") };
	return;
}

# An event for which there is no partition yet.
sub late_line
{
	my $at = strftime('%Y-%m-%dT%H:%M:%SZ', gmtime(time() - 3600 * ++$hours));

	return sprintf('{"detection_oid": %d, "video_camera_oid": 1, "geographical_location_oid": 1, '
		  . '"item_name": "car", "confidence": 0.5, "timestamp_detected": "%s"}', 100_000_000 + $hours, $at);
}

# A partition that is past its end, one that is past retention, and both known.
sub make_chores
{
	$days++;
	$broker->produce('camera', late_line());
	wait_for($node, 'city', 'camera');
	$node->safe_psql('city', "SET ROLE ops;
		CREATE TABLE detection_old_$days PARTITION OF detection
			FOR VALUES FROM (date_trunc('day', now()) - interval '$days days') TO (date_trunc('day', now()) - interval '@{[$days - 1]} days')");
	return;
}

# A state table that is large, and has its rows at the end.
sub grow_states
{
	$node->safe_psql('city', q{
		DO $$ BEGIN
			INSERT INTO detect_state.camera_per_place (place, hour) SELECT -g, 'epoch' FROM generate_series(1, 300000) g;
			FOR i IN 1..50 LOOP
				UPDATE detect_state.camera_per_place SET place = place WHERE place > 0;
			END LOOP;
			DELETE FROM detect_state.camera_per_place WHERE place < 0;
		END $$});
	$node->safe_psql('city', 'VACUUM detect_state.camera_per_place');
	return;
}

# The applier looks for chores, and at state tables, when it starts.
my $restart_applier = sub { ask("SELECT pg_terminate_backend(pid) FROM detect.stat_worker WHERE duty = 'apply'") };
my $alter = sub { ask("SELECT detect.alter_rollup('camera_per_place', query => \$\$ " . $per_place =~ s/EVENTS/detection/r . '$$)') };
my $edit = sub { ask("UPDATE detection SET location_name = location_name WHERE detection_oid % 100 = 7") };
my %chores = (first => \&make_chores, then => $restart_applier);

# What is done for points that a batch does not reach: first, before the point is
# armed; then, afterwards, when the server may crash at any time; with, another
# item that is armed together with it.
my %causes = (
	before_worker_start     => { then => $restart_applier },
	after_worker_start      => { then => $restart_applier },
	before_partition_attach => { then => sub { $broker->produce('camera', late_line()) } },
	after_partition_attach  => { then => sub { $broker->produce('camera', late_line()) } },
	after_partition_commit  => { then => sub { $broker->produce('camera', late_line()) } },
	after_edits             => { then => $edit },
	after_group_deletion    => { then => $edit },
	after_repair_chunk      => { then => $edit },
	after_fill_chunk        => { then => $alter },
	after_chunk_begin       => { then => $alter },
	after_chunk_read        => { then => $alter },
	before_chunk_lock       => { then => $alter },
	after_chunk_merge       => { then => $alter },
	before_swap             => { then => $alter },
	after_swap              => { then => $alter },
	# without rollups being guarded, and then guarded
	after_catch_up => { with => 'before_rollup_merge:53100:1:2' },
	before_pause   => { with => 'before_apply_commit:42501' },
	after_group_expiry =>
	  { then => sub { ask("SELECT detect.alter_rollup('camera_per_minute', retention => '@{[$years--]} years')") } },
	after_row_move        => { first => \&grow_states, then => $restart_applier },
	before_index_build    => \%chores,
	after_index_build     => \%chores,
	before_detach         => \%chores,
	before_partition_drop => \%chores,
	after_partition_drop  => \%chores);

# The second rollup equals its query.
sub place_is_exact
{
	my $plain = $per_place =~ s/EVENTS/detection/r;

	return $node->safe_psql('city', "SELECT count(*) FROM
		(((TABLE camera_per_place) EXCEPT ALL ($plain)) UNION ALL (($plain) EXCEPT ALL (TABLE camera_per_place))) d") eq '0';
}

# Until no rollup is aside, and no group is to be computed again.
sub rollups_are_whole
{
	wait_for($node, 'city', 'camera');
	return $node->poll_query_until('city', "SELECT bool_and(state = 'active') AND NOT EXISTS (SELECT FROM detect._repair)
		FROM detect._rollup WHERE replaces IS NULL");
}

# One point, one way to fail.
sub fail_at
{
	my ($point, $action, $times) = @_;
	my $cause = $causes{ $point->{name} } // {};
	my $what  = "$point->{name}:$action";

	$cause->{first}->() if $cause->{first};
	my $armed = arm($node, "$point->{name}:$action:1:$times", $cause->{with} // ());
	$broker->produce('camera', splice(@lines, 0, CHUNK));
	$cause->{then}->() if $cause->{then};
	my $fires = eval { wait_until_fired($node, $armed); 1 };
	disarm($node, $armed);
	ok($fires, "$what fires") or diag($@);
	ok(rollups_are_whole(), "$what: rollups have what they missed");
	ledger_is_exact($node, 'city', $broker, "$what: the ledger is exact");
	ok(place_is_exact(), "$what: so is the other rollup");
	return;
}

# little is left to be filled here
@FaultPoint::always = ('mutant_small_limits', 'mutant_small_staging');
$node->append_conf('postgresql.conf', 'detect.retry_interval = 10ms');
$node->start;
install_detect($node, 'city');
FaultPoint::configure($node);
$broker->create_topic('camera', 2);
create_camera(
	$node, 'city', $broker,
	consumers => 1,
	retention => "'30 days'",
	rollups   => { camera_per_minute => $DetectTest::per_minute, camera_per_place => $per_place });
$broker->produce('camera', splice(@lines, 0, CHUNK));
wait_for($node, 'city', 'camera');

foreach my $point (@points)
{
	# what is committed or truncated does not come again; and it takes seconds
	# until a launcher, or maintenance, is started again after an error
	my $times = $point->{name} =~ /^after_.*(commit|truncation|expiry|move)$/ || $point->{process} =~ /^(launcher|maintenance|filling)$/ ? 1 : 2;

	fail_at($point, 'kill', 1);
	fail_at($point, $errors[ rand @errors ], $times) if $point->{has_errors};
}

# A point can hold a worker, too: the batch is open until the test lets go.
my $holder = $node->background_psql('city');

$holder->query_safe("SELECT pg_advisory_lock(hashtext('after_events'))");
my $armed = arm($node, 'after_events:wait');
my $before = $node->safe_psql('city', 'SELECT count(*) FROM detection');

$broker->produce('camera', late_line());
ok($node->poll_query_until('city', "SELECT count(*) = 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"),
	'a worker waits at a point');
is($node->safe_psql('city', 'SELECT count(*) FROM detection'), $before, 'with its batch open');
$holder->quit;
is_deeply([ disarm($node, $armed) ], [1], 'the point has fired once');
ledger_is_exact($node, 'city', $broker, 'and then the worker goes on');

log_is_clean($node);
$node->stop;
done_testing();
