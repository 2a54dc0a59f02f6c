# ALTER EXTENSION detect UPDATE while the server still has the old library:
# streams stop, say why and what to do, and lose nothing; rolled back it was never
# there.  The next version is made up here, in an installation of this test's own.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";

use DetectTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $source = "$FindBin::RealBin/../..";
chomp(my $programs = output_of("$source/test/private_postgres", "$PostgreSQL::Test::Utils::tmp_check/postgres", 'FAULT_POINTS=1'));
chomp(my $shared = output_of("$programs/pg_config", '--sharedir'));

# A script of the next version: what a column and a function more would be.
append_to_file("$shared/extension/detect--1.0--1.1.sql", q{
ALTER TABLE detect._stream ADD COLUMN note text;
ALTER TABLE detect._applied_progress ADD COLUMN note text;
CREATE FUNCTION detect.next_version() RETURNS int LANGUAGE sql RETURN 1;
});
append_to_file("$shared/extension/detect--1.1--1.0.sql", q{
DROP FUNCTION detect.next_version();
ALTER TABLE detect._applied_progress DROP COLUMN note;
ALTER TABLE detect._stream DROP COLUMN note;
});
# and one that needs the next library
append_to_file("$shared/extension/detect--1.0--1.2.sql", q{
CREATE FUNCTION detect.next_version() RETURNS int AS 'MODULE_PATHNAME', 'detect_next_version' LANGUAGE C;
});

my $broker = DetectTest::Broker->start();
my $node   = make_node('main', install_path => "$programs/..");
my @lines  = camera_lines(14_000);

sub produce
{
	my ($topic, $count) = @_;

	$broker->produce($topic, splice(@lines, 0, $count));
	return;
}

$node->start;
foreach my $database ('city', 'town')
{
	install_detect($node, $database);
	$broker->create_topic($database, 4);
	create_camera($node, $database, $broker, topic => $database, consumers => $database eq 'city' ? 1 : 0);
	produce($database, 1000);
	ledger_is_exact($node, $database, $broker, "the stream of $database runs", topic => $database);
}

# ---------------------------------------------------------------------
# Rolled back
# ---------------------------------------------------------------------

my $session = $node->background_psql('city');
for my $round (1 .. 3)
{
	produce('city', 1000);
	$session->query_safe("BEGIN; ALTER EXTENSION detect UPDATE TO '1.1'");
	produce('city', 500);
	$session->query_safe('ROLLBACK');
}
$session->quit;
ledger_is_exact($node, 'city', $broker, 'rolled back it was never there', topic => 'city');

# A script that the old library can't serve changes nothing.
my ($rc, $stdout, $stderr) = $node->psql('city', "ALTER EXTENSION detect UPDATE TO '1.2'");
like($stderr, qr/could not find function "detect_next_version"/, 'what needs the next library is refused');
produce('city', 500);
ledger_is_exact($node, 'city', $broker, 'and nothing has changed', topic => 'city');

# ---------------------------------------------------------------------
# Committed, in the middle of a topic
# ---------------------------------------------------------------------

my $log_end = -s $node->logfile;
produce('city', 4000);
wait_applied($node, 'city', 'camera', 6000, '');
cmp_ok(seconds_of(sub { $node->safe_psql('city', "ALTER EXTENSION detect UPDATE TO '1.1'") }), '<', 20, 'ALTER EXTENSION under load ends');
stream_is($node, 'city', 'camera', 'retrying', '^the library of detect is of version 1.0, the extension in this database of 1.1$', 'the stream waits for the library');
produce('city', 500);
is( $node->safe_psql('city', q{SELECT severity, detail, remedy FROM detect.health() WHERE "check" = 'version'}),
	'critical|the library is of version 1.0, the extension of 1.1|-- restart the server, which loads the library that is installed',
	'health says what to do');
($rc, $stdout, $stderr) = $node->psql('city', "SELECT detect.wait_for('camera')");
like($stderr, qr/ERROR:  the library of detect is of version 1.0, the extension in this database of 1.1\nHINT:  Restart the server/, 'so does whoever waits');
is($node->safe_psql('city', 'SELECT detect.next_version()'), '1', 'the objects are those of the next version');
produce('town', 500);
ledger_is_exact($node, 'town', $broker, 'other databases go on', topic => 'town');

# A server that starts again with the library that it had.
$node->restart;
stream_is($node, 'city', 'camera', 'retrying', '^the library of detect is of version 1.0', 'a restart with the old library changes nothing');

# The versions agree again.
$node->safe_psql('city', "ALTER EXTENSION detect UPDATE TO '1.0'");
stream_is($node, 'city', 'camera', 'running', '^$', 'it goes on by itself');
ledger_is_exact($node, 'city', $broker, 'nothing is lost', topic => 'city');
produce('town', 500);
ledger_is_exact($node, 'town', $broker, 'nor of others', topic => 'town');

log_is_clean($node);
$node->stop;
done_testing();
