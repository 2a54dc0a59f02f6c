# A disk that is full: of data, of temporary files, of WAL, and of all at once.
# Nothing is lost and nobody is blamed; when there is room again the streams go
# on by themselves.
#
# test/disk/full_disk.c makes the disk.  Where a file can't grow, PostgreSQL
# raises an error; where WAL can't, it crashes, and ends if it has no room for
# its recovery either.  Then somebody has to start it, and that is all.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";

use DetectTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use constant CHUNK => 4000;

my $broker = DetectTest::Broker->start();
# small pieces of WAL, each a new file
my $node = make_node('main', extra => ['--wal-segsize=1']);
my $full = $node->data_dir . '/full_disk';
my %table = (camera => 'detection', gate => 'gate_detection');
my %lines;

# What needs more than the work_mem that it has: what the query of both streams sorts.
my $names = q{
	CREATE FUNCTION names() RETURNS TABLE (geographical_location_oid int, location_name text)
	LANGUAGE plpgsql STABLE SET work_mem = '64kB' AS $$
	BEGIN
		RETURN QUERY SELECT DISTINCT ON (i) i, 'Street ' || i FROM generate_series(1, 100) i, generate_series(1, 50) n ORDER BY i, n DESC;
	END $$};

my $per_event = q{
	SELECT detection_oid, date_bin('1 minute', timestamp_detected, 'epoch') AS minute, item_name,
		   count(*) AS detections, max(location_name) AS place
	FROM EVENTS GROUP BY 1, 2, 3};

my $query = 'SELECT b.*, l.location_name FROM batch b LEFT JOIN names() l USING (geographical_location_oid)';

# To the topics of both streams.
sub produce
{
	$broker->produce($_, splice(@{ $lines{$_} }, 0, CHUNK)) foreach sort keys %lines;
	return;
}

# No room for these, until make_room().
sub fill_disk
{
	my (@contents) = @_;

	open(my $file, '>', $full) or die "could not open \"$full\": $!";
	print $file "@contents";
	close($file) or die "could not write \"$full\": $!";
	return;
}

sub make_room
{
	unlink($full) or die "could not remove \"$full\": $!";
	return;
}

# Both streams, and the rollup that is not the usual one.
sub all_is_exact
{
	my ($what) = @_;

	foreach my $stream (sort keys %table)
	{
		my $plain = $per_event =~ s/EVENTS/$table{$stream}/r;

		ledger_is_exact($node, 'city', $broker, "$what: stream $stream", name => $stream, table => $table{$stream});
		$node->safe_psql('city', "SELECT detect.wait_for_rollup('${stream}_per_event', '180s')");
		is( $node->safe_psql('city', "SELECT count(*) FROM
				((($plain) EXCEPT ALL TABLE ${stream}_per_event) UNION ALL (TABLE ${stream}_per_event EXCEPT ALL ($plain))) d"),
			0, "$what: its rollup by event");
		stream_is($node, 'city', $stream, 'running', '^$', "$what: stream $stream runs");
	}
	return;
}

# A stream says that it has found no room.
sub is_retrying
{
	my ($stream, $what) = @_;

	ok($node->poll_query_until('city', "SELECT state = 'retrying' AND last_sqlstate = '53100' AND reason ~ 'No space left on device'
			FROM detect.stat_stream WHERE stream = '$stream'"), "$what: stream $stream says so")
	  || diag($node->safe_psql('city', 'SELECT stream, state, reason, last_sqlstate FROM detect.stat_stream'));
	return;
}

# Waits until the server serves.  If it has ended, having found no room for what
# ends its recovery, it is started, as whoever made room would do.
sub serve_again
{
	my $deadline = time() + $PostgreSQL::Test::Utils::timeout_default;

	while ($node->psql('postgres', 'SELECT 1') != 0)
	{
		if (!-e $node->data_dir . '/postmaster.pid')
		{
			note('the server has ended');
			$node->_update_pid(0);
			$node->start;
		}
		die 'the server does not come back' if time() > $deadline;
	}
	return;
}

$node->append_conf('postgresql.conf', q{
min_wal_size = 2MB
max_wal_size = 4MB
wal_recycle = off
maintenance_work_mem = 1MB
detect.max_batch_rows = 4000
detect.max_batch_size = 1MB
});
$ENV{FULL_DISK}  = $full;
$ENV{LD_PRELOAD} = "$FindBin::RealBin/../disk/full_disk.so";
$node->start;
install_detect($node, 'city');
$node->safe_psql('city', $names);
foreach my $stream (sort keys %table)
{
	$lines{$stream} = [ camera_lines(6 * CHUNK, seed => $DetectTest::seed + ($stream eq 'gate')) ];
	$broker->create_topic($stream, 4);
	create_camera(
		$node, 'city', $broker,
		name      => $stream,
		table     => $table{$stream},
		consumers => $stream eq 'gate' ? 1 : 0,
		query     => "\$\$ $query \$\$",
		rollups   => { "${stream}_per_minute" => $DetectTest::per_minute, "${stream}_per_event" => $per_event });
}
produce();
all_is_exact('at first');

# ---------------------------------------------------------------------
# Data
# ---------------------------------------------------------------------

my $started_at = $node->safe_psql('city', 'SELECT pg_postmaster_start_time()');
my %pid = map { $_ => worker_pid($node, 'city', $_) } sort keys %table;

fill_disk('data');
produce();
is_retrying($_, 'no room for data') foreach sort keys %table;
make_room();
all_is_exact('room for data');
is(worker_pid($node, 'city', $_), $pid{$_}, "the worker of stream $_ has stayed") foreach sort keys %table;

# ---------------------------------------------------------------------
# Temporary files
# ---------------------------------------------------------------------

fill_disk('temporary');
produce();
is_retrying($_, 'no room for temporary files') foreach sort keys %table;
make_room();
all_is_exact('room for temporary files');
is($node->safe_psql('city', 'SELECT pg_postmaster_start_time()'), $started_at, 'the server did not restart');
log_is_clean($node);

# ---------------------------------------------------------------------
# WAL, and everything
# ---------------------------------------------------------------------

# Whoever writes WAL crashes, a worker as a rule: its elements are not to blame.
sub outlives_panic
{
	my ($what, $is_late, @contents) = @_;
	my $log_end = -s $node->logfile;

	fill_disk(@contents);
	produce();
	# streams that get no room for data write little WAL
	$node->psql('city', q{SELECT pg_switch_wal() FROM generate_series(1, 3), LATERAL pg_logical_emit_message(true, '', '')})
	  if grep { $_ eq 'data' } @contents;
	$node->wait_for_log(
		$is_late
		? qr/PANIC: .*No space left on device.*(database system is shut down|ready to accept connections)/s
		: qr/PANIC: .*No space left on device/,
		$log_end);
	make_room();
	# who has crashed may serve no more, and be there still
	$node->wait_for_log(qr/PANIC: .*No space left on device.*(database system is shut down|all server processes terminated)/s, $log_end);
	serve_again();
	all_is_exact($what);
	return;
}

outlives_panic('room for WAL at once',               0, 'wal');
outlives_panic('room for WAL after another attempt', 1, 'wal');
outlives_panic('room for everything',                1, 'data', 'temporary', 'wal');
my @panics = grep { /PANIC|TRAP/ && !/No space left on device/ } split(/\n/, slurp_file($node->logfile));
is("@panics", '', 'no process crashed for another reason');
ok($node->poll_query_until('city', 'SELECT count(*) = 0 FROM pg_index WHERE NOT indisvalid'), 'no index stays half built');
$node->stop;
done_testing();
