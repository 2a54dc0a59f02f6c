# The power fails while a stream writes: what is on the disk then is started as
# a server of its own, and goes on exactly.
#
# Two kinds of what may be on the disk.  All that the processes had written: a
# copy of the data directory while all of them stand still.  And the least that
# PostgreSQL promises: files as they were at the last checkpoint, and of the WAL
# since then a part, cut anywhere, for our commits do not wait for the disk.  A
# standby that is promoted while it lags behind has a part of the WAL, too.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";

use DetectTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use constant { ROUNDS => 4, CHUNK => 3000 };

my $broker = DetectTest::Broker->start();
my $node   = make_node('main', allows_streaming => 1);
my @lines  = camera_lines((2 * ROUNDS + 4) * CHUNK);

sub produce
{
	$broker->produce('camera', splice(@lines, 0, CHUNK));
	return;
}

# Stops every process of the server, and lets them go on afterwards.
sub while_all_stand
{
	my ($code) = @_;
	my $postmaster = (split(/\n/, slurp_file($node->data_dir . '/postmaster.pid')))[0];

	kill('STOP', $postmaster) or die "could not stop the server: $!";
	# it forks no more while its children are listed
	1 until slurp_file("/proc/$postmaster/status") =~ /^State:\s+T/m;
	my @children = split(' ', output_of('ps', '-o', 'pid=', '--ppid', $postmaster));

	kill('STOP', @children);
	$code->();
	kill('CONT', $postmaster, @children);
	return;
}

# A server of the files in a directory that was copied from the node's.
sub make_copy
{
	my ($name, $dir) = @_;
	my $copy = PostgreSQL::Test::Cluster->new($name);

	mkdir $copy->basedir;
	rename($dir, $copy->data_dir) or die "could not rename \"$dir\": $!";
	unlink($copy->data_dir . "/$_") foreach 'postmaster.pid', 'postmaster.opts';
	$copy->append_conf('postgresql.conf',
		"port = " . $copy->port . "\nunix_socket_directories = '" . $copy->host . "'\n");
	return $copy;
}

# Copies files, keeping their rights.
sub copy_files
{
	my ($from, $to) = @_;

	system_or_bail('cp', '-a', $from, $to);
	return;
}

# Cuts the WAL of a copy: nothing of it was written from some place on that lies
# beyond the checkpoint.
sub cut_wal
{
	my ($dir, $from, $to) = @_;
	my $cut = $from + int(rand($to - $from));
	my $bytes = 16 * 1024 * 1024;

	note("the WAL from $from to $to is cut at $cut");
	foreach my $path (glob "$dir/pg_wal/0*")
	{
		my ($high, $low) = $path =~ /(.{8})(.{8})$/;
		my $start = (hex($high) * 256 + hex($low)) * $bytes;
		my $kept = $cut - $start;

		next if $kept >= $bytes;
		$kept = 0 if $kept < 0;
		truncate($path, $kept) && truncate($path, $bytes) or die "could not cut \"$path\": $!";
	}
	return;
}

# A place in the WAL as a number.
sub wal_position
{
	my ($sql) = @_;

	return $node->safe_psql('postgres', "SELECT $sql - '0/0'");
}

# The copy goes on where the original was, and so does the original.
sub both_are_exact
{
	my ($copy, $what) = @_;

	$copy->start;
	ledger_is_exact($copy, 'city', $broker, $what);
	produce();
	ledger_is_exact($copy, 'city', $broker, "$what: and on");
	log_is_clean($copy, "$what: no process crashed");
	$copy->stop('immediate');
	ledger_is_exact($node, 'city', $broker, "$what: the original too");
	return;
}

$node->start;
install_detect($node, 'city');
$broker->create_topic('camera', 4);
create_camera($node, 'city', $broker, consumers => 1);
produce();
wait_for($node, 'city', 'camera');

my $applied = CHUNK;

for my $round (1 .. ROUNDS)
{
	my $only_wal = $round % 2 == 0;
	my $dir      = "$PostgreSQL::Test::Utils::tmp_check/cut_$round";

	if ($only_wal)
	{
		$node->safe_psql('postgres', 'CHECKPOINT');
		while_all_stand(sub { copy_files($node->data_dir, $dir) });
	}
	produce();
	wait_applied($node, 'city', 'camera', $applied + int(rand(CHUNK)), '');
	if ($only_wal)
	{
		my $to = wal_position('pg_current_wal_flush_lsn()');

		while_all_stand(sub { system_or_bail('rm', '-rf', "$dir/pg_wal"); copy_files($node->data_dir . '/pg_wal', "$dir/pg_wal") });
		# the record of the checkpoint itself is on the disk
		cut_wal($dir, wal_position('(SELECT checkpoint_lsn FROM pg_control_checkpoint())') + 1024, $to);
	}
	else
	{
		while_all_stand(sub { copy_files($node->data_dir, $dir) });
	}
	both_are_exact(make_copy("cut_$round", $dir), $only_wal ? "round $round: a part of the WAL" : "round $round: all files");
	$applied += 2 * CHUNK;
}

# ---------------------------------------------------------------------
# A standby that lags behind
# ---------------------------------------------------------------------

my $standby = make_standby($node);
produce();
wait_applied($node, 'city', 'camera', $applied + int(rand(CHUNK)), '');
# it gets nothing from now on
$standby->append_conf('postgresql.conf', "primary_conninfo = ''");
$standby->reload;
$standby->poll_query_until('postgres', 'SELECT count(*) = 0 FROM pg_stat_wal_receiver') or die 'the standby still follows';
produce();
ledger_is_exact($node, 'city', $broker, 'the primary is ahead of its standby');
$node->stop('immediate');
$standby->promote;
ledger_is_exact($standby, 'city', $broker, 'a standby that is promoted before it has all goes on exactly');
produce();
ledger_is_exact($standby, 'city', $broker, 'and on');

log_is_clean($node);
log_is_clean($standby);
$standby->stop;
done_testing();
