# What is said of a database that workers do not leave: typed as it stands, it works
# at once, busy, without a broker and with one that is silent, and streams go on.
# PostgreSQL waits five seconds for who leaves; on a slow machine that may be too little.

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
my @lines  = camera_lines(30_000);
my $place  = PostgreSQL::Test::Utils::tempdir;
my ($typed, $repeated) = (0, 0);

sub produce
{
	my ($state) = @_;

	$broker->produce('camera', splice(@lines, 0, 1500)) if $state eq 'busy';
	return;
}

# The statements that a hint consists of, besides its words.
sub statements
{
	my ($stderr) = @_;
	my ($hint) = $stderr =~ /^HINT:  (.*)$/m;

	like($hint // '', qr/^Workers of detect are among them: as a superuser in that database, /, 'who is there, and who can help');
	return ($hint // '') =~ /(SELECT [^;]*;)/g;
}

# A command that nobody is in the way of but who is about to leave.
sub typed
{
	my ($sql, @psql_options) = @_;

	$typed++;
	foreach my $try (1 .. 6)
	{
		my ($rc, $stdout, $stderr) = $node->psql('postgres', $sql, @psql_options);

		return if $rc == 0;
		die $stderr unless $stderr =~ /being accessed by other users/ && $try < 6;
		$repeated++ if $try == 1;
	}
	return;
}

# Not all were typed again: a slow machine is not slow each time.
sub works_at_once
{
	my ($state) = @_;

	cmp_ok($repeated, '<', $typed, "$state: it works at once");
	$typed = $repeated = 0;
	return;
}

# A command that is refused, then done as the hint says, with messages in between.
sub done_as_hinted
{
	my ($state, $sql, $database) = @_;

	produce($state);
	my ($rc, $stdout, $stderr) = $node->psql('postgres', $sql);
	like($stderr, qr/ERROR:.*is being accessed by other users$/m, "$state: refused: $sql");
	my ($pause, $resume, @more) = statements($stderr);
	is(scalar(@more), 0, 'two statements');
	produce($state);
	# nobody waits in between
	my $seconds = seconds_of(sub {
		$node->safe_psql('city', $pause);
		typed($sql) });
	note("$seconds s");
	$node->safe_psql($database // 'city', $resume);
	return;
}

# The same by the other way that a hint names.
sub dropped_by_force
{
	my ($state) = @_;

	# a copy that consumes as well
	$node->safe_psql('copy', "ALTER DATABASE copy SET search_path = city, public; SELECT detect.resume(stream) FROM detect.stream");
	ok($node->poll_query_until('postgres', q{SELECT count(*) > 0 FROM pg_stat_activity WHERE datname = 'copy' AND backend_type ~ '^detect (apply|consume)'}),
		"$state: somebody is in the copy");
	my ($rc, $stdout, $stderr) = $node->psql('postgres', 'DROP DATABASE copy');
	like($stderr, qr/^HINT:  .* then try again, or add WITH \(FORCE\)\.$/m, "$state: a drop is refused, with the other way to do it");
	$node->safe_psql('postgres', 'DROP DATABASE copy WITH (FORCE)');
	return;
}

$node->start;
install_detect($node, 'city');
$broker->create_topic('camera', 4);
create_camera($node, 'city', $broker, consumers => 2);
$broker->produce('camera', splice(@lines, 0, 1000));
ledger_is_exact($node, 'city', $broker, 'the stream runs');
mkdir("$place/ours");
$node->safe_psql('postgres', "CREATE TABLESPACE ours LOCATION '$place/ours'");

foreach my $state ('busy', 'no broker', 'a silent broker')
{
	$broker->command('down', 0) if $state eq 'no broker';
	kill('STOP', $broker->pid) if $state eq 'a silent broker';
	done_as_hinted($state, 'ALTER DATABASE city RENAME TO town', 'town');
	$node->safe_psql('town', 'SELECT detect.pause(stream) FROM detect.stream');
	typed('ALTER DATABASE town RENAME TO city');
	$node->safe_psql('city', 'SELECT detect.resume(stream) FROM detect.stream');
	worker_pid($node, 'city', 'camera');
	done_as_hinted($state, 'ALTER DATABASE city SET TABLESPACE ours') if $state eq 'busy';
	worker_pid($node, 'city', 'camera');
	done_as_hinted($state, 'CREATE DATABASE copy TEMPLATE city');
	dropped_by_force($state);
	$broker->command('up', 0) if $state eq 'no broker';
	kill('CONT', $broker->pid) if $state eq 'a silent broker';
	ledger_is_exact($node, 'city', $broker, "$state: nothing is lost");
	works_at_once($state);
}

# ---------------------------------------------------------------------
# A database's owner who is no superuser
# ---------------------------------------------------------------------

$node->safe_psql('postgres', 'CREATE ROLE keeper LOGIN CREATEDB; ALTER DATABASE city OWNER TO keeper');
my @as = (extra_params => [ '-U', 'keeper' ]);
worker_pid($node, 'city', 'camera');
my ($rc, $stdout, $stderr) = $node->psql('postgres', 'ALTER DATABASE city RENAME TO town', @as);
my ($pause, $resume) = statements($stderr);
is($node->safe_psql('city', $pause, @as), '', 'he sees no streams of others, and pauses none');
$node->safe_psql('city', $pause);
typed('ALTER DATABASE city RENAME TO town', @as);
$node->safe_psql('town', $resume);
$broker->produce('camera', splice(@lines, 0, 1000));
ledger_is_exact($node, 'town', $broker, 'once a superuser has paused them he renames his database, and they go on');

log_is_clean($node);
$node->stop;
done_testing();
