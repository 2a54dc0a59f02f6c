# What a DBA does to the tables of a stream while messages flow: what the stream
# can live with costs it nothing, anything else pauses it with the reason; no
# event is blamed for it, nothing is lost, and the DBA does not wait.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";

use DetectTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use constant {
	CHUNK     => 600,
	LONGEST_S => 20,    # of a command, on a machine that is busy with other tests
};

my $broker  = DetectTest::Broker->start();
my $node    = make_node('main');
my @lines   = camera_lines(60 * CHUNK, broken => 0);
my $applied = 0;

# As the owner of the stream.
sub ask
{
	my ($sql) = @_;

	return $node->safe_psql('city', "SET ROLE ops; SET search_path = city, public; SET client_min_messages = warning; $sql");
}

# Messages, of which a random part is applied when this returns.
sub load
{
	$broker->produce('camera', splice(@lines, 0, CHUNK));
	wait_applied($node, 'city', 'camera', $applied + int(rand(CHUNK)), '');
	$applied += CHUNK;
	return;
}

# A command in the middle of a topic; the ledger afterwards.
sub goes_on
{
	my ($what, @commands) = @_;
	my $slowest = 0;

	foreach my $command (@commands)
	{
		load();
		my $seconds = seconds_of(sub { ask($command) });
		$slowest = $seconds if $seconds > $slowest;
	}
	cmp_ok($slowest, '<', LONGEST_S, "$what does not wait for long");
	ledger_is_exact($node, 'city', $broker, "$what: the stream goes on");
	return;
}

# A command that the stream cannot live with, and what mends it.
sub pauses
{
	my ($what, $command, $reason, $mend) = @_;

	load();
	ask($command);
	$broker->produce('camera', splice(@lines, 0, CHUNK));
	$applied += CHUNK;
	stream_is($node, 'city', 'camera', 'paused', $reason, "$what: the stream pauses and says why");
	like(ask(q{SELECT remedy FROM detect.stat_stream}), qr/detect\.resume\('camera'\)/, "$what: and what to do");
	is( $node->safe_psql('city', q{SELECT count(*) FROM detect.health('0') WHERE "check" = 'stream' AND severity = 'critical'}),
		'1', "$what: health says so");
	ask("$mend; SELECT detect.resume('camera')");
	ledger_is_exact($node, 'city', $broker, "$what: nothing is lost");
	return;
}

# A command that is refused, with what to type; nothing has happened.
sub is_refused
{
	my ($command, $said) = @_;

	load();
	my ($rc, $stdout, $stderr) = $node->psql('city', "SET ROLE ops; SET search_path = city, public; $command");
	isnt($rc, 0, "refused: $command");
	like($stderr, $said, 'with the reason');
	ledger_is_exact($node, 'city', $broker, "refused: $command: the stream goes on");
	return;
}

$node->start;
install_detect($node, 'city');
$broker->create_topic('camera', 4);
create_camera($node, 'city', $broker, consumers => 1);
load();
ledger_is_exact($node, 'city', $broker, 'the stream runs');

# ---------------------------------------------------------------------
# What the stream can live with
# ---------------------------------------------------------------------

# rows are compared as a whole: what a command adds, the next takes away
goes_on('a column more and less', 'ALTER TABLE detection ADD COLUMN note text', "ALTER TABLE detection ALTER COLUMN note SET DEFAULT 'x'",
	'ALTER TABLE detection DROP COLUMN note');
goes_on('another type of a column', 'ALTER TABLE detection ALTER COLUMN location_name TYPE varchar(100)', 'ALTER TABLE detection ALTER COLUMN location_name TYPE text');
goes_on('another name of the table', 'ALTER TABLE detection RENAME TO sighting', 'ALTER TABLE sighting RENAME TO detection');
goes_on('another schema', 'ALTER TABLE detection SET SCHEMA public', 'ALTER TABLE public.detection SET SCHEMA city')
  if $node->safe_psql('city', 'GRANT CREATE ON SCHEMA public TO ops') eq '';
goes_on('a joined table with other names', 'ALTER TABLE location RENAME TO street', 'ALTER TABLE street RENAME COLUMN location_name TO title',
	'ALTER TABLE street RENAME COLUMN title TO location_name', 'ALTER TABLE street RENAME TO location');
goes_on('triggers', 'CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
	CREATE TRIGGER nothing BEFORE INSERT ON detection FOR EACH ROW EXECUTE FUNCTION nothing()', 'DROP TRIGGER nothing ON detection');
goes_on('constraints and indexes', 'ALTER TABLE detection ADD CONSTRAINT positive CHECK (video_camera_oid >= 0)', 'CREATE INDEX by_item ON detection (item_name)',
	'DROP INDEX by_item', 'ALTER TABLE detection DROP CONSTRAINT positive');
goes_on('storage and statistics', 'ALTER TABLE detection ALTER COLUMN item_name SET STATISTICS 1000', 'ANALYZE detection', 'VACUUM FREEZE location');
goes_on('a staging table with other settings', 'ALTER TABLE detect_staging.camera SET (fillfactor = 90)');
goes_on('the owner of the joined table', 'COMMENT ON TABLE location IS $$streets$$', 'GRANT SELECT ON location TO PUBLIC');

# ---------------------------------------------------------------------
# What it can't
# ---------------------------------------------------------------------

pauses('a NOT NULL column that nothing fills', q{ALTER TABLE detection ADD COLUMN must int NOT NULL DEFAULT 1; ALTER TABLE detection ALTER COLUMN must DROP DEFAULT},
	'^nothing fills column "must" of table "detection", which is NOT NULL$', 'ALTER TABLE detection DROP COLUMN must');
pauses('a column that it fills is gone', 'ALTER TABLE detection RENAME COLUMN location_name TO street_name', '^column "location_name" of (table|relation) "detection".* does not exist',
	'ALTER TABLE detection RENAME COLUMN street_name TO location_name');
pauses('a function that a trigger calls is gone', 'CREATE FUNCTION lost() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM no_such_function(); RETURN NEW; END $$;
	CREATE TRIGGER lost BEFORE INSERT ON detection FOR EACH ROW EXECUTE FUNCTION lost()', 'function no_such_function\(\) does not exist', 'DROP TRIGGER lost ON detection');
pauses('a right on a joined table', 'REVOKE SELECT ON location FROM PUBLIC; REVOKE SELECT ON location FROM ops', '^permission denied for table location$', 'GRANT SELECT ON location TO ops');
pauses('our trigger', 'ALTER TABLE detection DISABLE TRIGGER _detect_accepted', '^trigger "_detect_accepted" of table "detection" did not fire$', 'ALTER TABLE detection ENABLE ALWAYS TRIGGER _detect_accepted');

is_refused('ALTER TABLE detection DROP COLUMN item_name', qr/because other objects depend on them.*camera_per_minute.*HINT:  Use DROP \.\.\. CASCADE/s);
is_refused('DROP TABLE location', qr/because other objects depend on it.*view detect_query\.camera depends.*HINT/s);
is_refused('DROP TABLE detection', qr/because other objects depend on it.*HINT/s);
is_refused('DROP SCHEMA city', qr/HINT/);

# ---------------------------------------------------------------------
# Partitions
# ---------------------------------------------------------------------

$node->safe_psql('city', q{
	SET ROLE ops; SET search_path = city, public;
	CREATE TABLE old (LIKE detection INCLUDING ALL)});
goes_on('a partition attached, detached and dropped', q{ALTER TABLE detection ATTACH PARTITION old FOR VALUES FROM ('2001-01-01') TO ('2001-02-01')});
load();
$node->safe_psql('city', 'ALTER TABLE city.detection DETACH PARTITION city.old CONCURRENTLY');
goes_on('a partition that was detached', 'DROP TABLE old', q{CREATE TABLE old PARTITION OF detection FOR VALUES FROM ('2001-01-01') TO ('2001-02-01')}, 'DROP TABLE old');

# A right that it needs for the next partition: revoked, no event is blamed.
$node->safe_psql('city', 'REVOKE CREATE ON SCHEMA city FROM ops; ALTER SCHEMA city OWNER TO postgres; GRANT USAGE ON SCHEMA city TO ops');
my ($ahead) = camera_lines(1, 'first-oid' => 9_000_000, broken => 0, late => 0, duplicates => 0);
my $then = $node->safe_psql('city', q{SELECT to_char(now() AT TIME ZONE 'UTC' + interval '20 hours', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')});
$ahead =~ s/("timestamp_detected": ")[^"]*/$1$then/ or die $ahead;
$broker->produce('camera', $ahead);
stream_is($node, 'city', 'camera', 'paused', 'permission denied for schema city|no partition', 'a missing partition pauses the stream');
$node->safe_psql('city', q{GRANT CREATE ON SCHEMA city TO ops; SELECT detect.resume('camera')});
ledger_is_exact($node, 'city', $broker, 'and it goes on once the partition can be made');

is($node->safe_psql('city', 'SELECT count(*) FROM detect.dead_letter'), '0', 'no event was blamed for anything');
ok($node->poll_query_until('city', q{SELECT status = 'ok' FROM detect.status('0') status}), 'all is green')
  or diag($node->safe_psql('city', q{SELECT * FROM detect.health('0') WHERE severity <> 'ok'}));

# ---------------------------------------------------------------------
# The table goes, with all that is built upon it
# ---------------------------------------------------------------------

load();
my $pid = worker_pid($node, 'city', 'camera');
cmp_ok(seconds_of(sub { ask('DROP TABLE detection CASCADE') }), '<', LONGEST_S, 'DROP TABLE … CASCADE under load does not wait for long');
wait_for_exit($pid);
is($node->safe_psql('city', 'SELECT (SELECT count(*) FROM detect.rollup), (SELECT count(*) FROM detect.stat_stream WHERE state = $$running$$)'), '0|0', 'its rollups go, and its stream does not run');

log_is_clean($node);
$node->stop;
done_testing();
