# Each command of doc/operations.md, run from top to bottom as it says: nothing
# may fail, and no event be lost or doubled by any of it.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";

use DetectTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $broker     = DetectTest::Broker->start();
my $new_broker = DetectTest::Broker->start();
my $node       = make_node('main', allows_streaming => 1);
my $document   = slurp_file("$FindBin::RealBin/../../doc/operations.md");
my @lines      = camera_lines(40_000, 'event-rate' => 50);
my $tmp        = $PostgreSQL::Test::Utils::tmp_check;

# Where the commands of the document find things.
my %place = (
	PGDATA       => $node->data_dir,
	PGHOST       => $node->host,
	PGPORT       => $node->port,
	PGDATABASE   => 'postgres',
	STANDBY      => "$tmp/standby",
	STANDBY_PORT => PostgreSQL::Test::Cluster::get_free_port(),
	BACKUP       => "$tmp/backup");

# Messages that are there while the next command runs.
sub produce
{
	$broker->produce('camera', splice(@lines, 0, 500));
	return;
}

# The tables that are the user's own.
my $places = q{
	CREATE TABLE zones (zone_id int PRIMARY KEY, geom geometry(Polygon, 4326));
	INSERT INTO zones VALUES (7, ST_MakeEnvelope(0, 0, 2, 2, 4326));};
my $tables = q{
	CREATE TABLE location (geographical_location_oid int PRIMARY KEY, location_name text NOT NULL);
	INSERT INTO location SELECT i, 'Street ' || i FROM generate_series(1, 100) i;
	CREATE TABLE detection (
		detection_oid bigint NOT NULL, video_camera_oid int NOT NULL, geographical_location_oid int NOT NULL,
		item_name text NOT NULL, confidence real CHECK (confidence BETWEEN 0 AND 1), timestamp_detected timestamptz NOT NULL,
		location_name text) PARTITION BY RANGE (timestamp_detected);};

# A database with these tables, where the owner has run the definitions.
sub make_twin
{
	my ($definitions) = @_;

	install_detect($node, 'twin');
	create_server($node, 'twin', $broker);
	$node->safe_psql('twin', 'CREATE USER MAPPING FOR ops SERVER city');
	$node->safe_psql('twin', "SET ROLE ops; $places $tables " . slurp_file($definitions));
	return;
}

# What is after a section, beside that nothing failed.
my %after = (
	'Start and stop' => sub { ledger_is_exact($node, 'city', $broker, 'after starting and stopping'); },
	'Back up'        => sub {
		unlike(slurp_file("$place{BACKUP}/city-schema.sql"), qr/^COPY detect\._stream/m, '--schema-only has no streams');
		make_twin("$place{BACKUP}/streams.sql");
		ledger_is_exact($node, 'twin', $broker, 'an empty twin, from the definitions');
		is($node->safe_psql('twin', 'SELECT zone_of(1, 1)'), '7', 'which has the locator, too');
		$node->safe_psql('postgres', 'DROP DATABASE twin WITH (FORCE)');
	},
	'Restore' => sub {
		$node->safe_psql('postgres', 'ALTER DATABASE restored SET search_path = city, public');
		ledger_is_exact($node, 'restored', $broker, 'the restored database took over');
	},
	'Copy, rename and move a database' => sub { ledger_is_exact($node, 'city', $broker, 'after copying'); },
	'Fail over'                        => sub {
		ledger_is_exact($node, 'city', $broker, 'after there and back');
		is($node->safe_psql('city', 'SELECT pg_is_in_recovery()'), 'f', 'on a primary');
	},
	# the mock broker finds no offset for a time: 051_real_kafka_seek.pl has that
	'Move to another Kafka' => sub {
		$node->poll_query_until('city', 'SELECT bool_and(next_offset >= 0) FROM detect._applied_progress WHERE kafka_partition >= 0');
		$new_broker->produce('camera', camera_lines(100, 'first-oid' => 5_000_000, broken => 0, duplicates => 0));
		wait_for($node, 'city', 'camera');
		is($node->safe_psql('city', q{SELECT count(*) FROM detection WHERE detection_oid >= 5000000}), '100', 'the events of the other Kafka are there');
		is($node->safe_psql('city', q{SELECT server FROM detect.stream}), 'new_city', 'which is read');
	});

sub run_sql
{
	my ($sql) = @_;
	my ($stdout, $stderr);

	$sql =~ s/'kafka:9092'/"'" . $broker->bootstrap . "'"/e;
	$sql =~ s/'new-kafka:9092'/"'" . $new_broker->bootstrap . "'"/e;
	my $ok = 0;

	# as somebody does whom PostgreSQL tells that a process has not left the database yet
	for my $try (1 .. 6)
	{
		$ok = IPC::Run::run([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', 'city' ], '<', \$sql, '>', \$stdout, '2>', \$stderr);
		last if $ok || $stderr !~ /being accessed by other users/;
	}
	diag($stderr) unless $ok;
	return $ok;
}

sub run_sh
{
	my ($commands) = @_;
	# a server that is started must not keep our pipe open
	my $log = "$tmp/log/shell.log";
	my $ok = IPC::Run::run([ 'bash', '-euc', $commands ], '<', \undef, '>>', $log, '2>&1');

	diag(slurp_file($log)) unless $ok;
	return $ok;
}

$node->append_conf('postgresql.conf', "wal_log_hints = on\nlogging_collector = off");
$node->start;
install_detect($node, 'city');
mkdir($place{BACKUP});
local @ENV{ keys %place } = values %place;
$broker->create_topic('camera', 4);
$new_broker->create_topic('camera', 4);
create_camera($node, 'city', $broker);
$node->safe_psql('city', "CREATE USER MAPPING FOR ops SERVER city; SET ROLE ops; $places SELECT detect.create_locator('zone_of', 'zones')");
produce();

my $section = '';
my $blocks  = 0;
while ($document =~ /^## ([^\n]*)$|^```(\w+)\n(.*?)^```$/msg)
{
	my ($heading, $language, $text) = ($1, $2, $3);

	if (defined $heading)
	{
		$after{$section}->() if $after{$section};
		$section = $heading;
		next;
	}
	produce();
	$blocks++;
	ok($language eq 'sql' ? run_sql($text) : $language eq 'sh' ? run_sh($text) : 0, "$section: " . (split(/\n/, $text))[0]);
}
cmp_ok($blocks, '>', 15, "$blocks blocks were run");

# The table has every check, and no other.
my ($table) = $document =~ /\n\| check \| severity .*?\n\|---.*?\n(.*?)\n\n/s;
my @documented = map { (split(/\|/))[1] =~ /`([^`]+)`/g } split(/\n/, $table);
is_deeply([ sort @documented ], [ split(/\n/, $node->safe_psql('city', 'SELECT DISTINCT "check" COLLATE "C" FROM detect.health() ORDER BY 1')) ],
	'each check of health is in the table');

$node->stop('fast');
log_is_clean($node);
done_testing();
