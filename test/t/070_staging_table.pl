# Somebody alters the staging table of a stream by hand: its worker follows, or says what
# is wrong and takes nothing down.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";

use DetectTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node   = make_node('main');
my $broker = DetectTest::Broker->start();

sub ask
{
	my ($sql) = @_;

	return $node->safe_psql('city', "SET ROLE ops; SET search_path = city, public; $sql");
}

# So many events are there, once all that was produced is applied.
sub has_events
{
	my ($stream, $count, $what) = @_;

	ask("SELECT detect.wait_for('$stream', '30s')");
	return is(ask("SELECT count(*) FROM $stream"), $count, $what);
}

$node->start;
install_detect($node, 'city');
create_server($node, 'city', $broker);
$broker->create_topic('read', 2);
ask(q{
	CREATE TABLE staged (id bigint PRIMARY KEY, v int, note text);
	CREATE TABLE read (id bigint PRIMARY KEY, note text);
	SELECT detect.create_stream('staged', server => '');
	SELECT detect.create_stream('read')});

# ---------------------------------------------------------------------
# A column comes and goes
# ---------------------------------------------------------------------
ask('INSERT INTO detect_staging.staged VALUES (1, 1, NULL)');
has_events('staged', 1, 'a row is applied');
ask(q{BEGIN; ALTER TABLE detect_staging.staged ADD COLUMN x text; ALTER TABLE detect_staging.staged DROP COLUMN x; COMMIT;
	INSERT INTO detect_staging.staged (id, v, note) VALUES (2, NULL, NULL)});
has_events('staged', 2, 'and one after a column has come and gone');
is(ask('SELECT v IS NULL AND note IS NULL FROM staged WHERE id = 2'), 't', 'NULL is NULL');

# ---------------------------------------------------------------------
# Columns that Kafka fills, of other types, or gone
# ---------------------------------------------------------------------
$broker->produce('read', map { qq({"id": $_}) } 1 .. 10);
has_events('read', 10, 'messages are applied');
my $next_id = 11;
foreach my $change (
	[ 'ADD COLUMN kafka_offset text', 'DROP COLUMN kafka_offset', 'column "kafka_offset" of table "detect_staging.read" is of type text, not bigint' ],
	[ 'ADD COLUMN kafka_value jsonb', 'DROP COLUMN kafka_value', 'column "kafka_value" of table "detect_staging.read" is of type jsonb, not bytea' ],
	[ 'RENAME COLUMN note TO kafka_offset', 'RENAME COLUMN kafka_offset TO note', 'column "kafka_offset" of table "detect_staging.read" is of type text, not bigint' ],
	[ 'RENAME COLUMN _ordinal TO o', 'RENAME COLUMN o TO _ordinal', 'table "detect_staging.read" has no column "_ordinal"' ])
{
	my ($do, $undo, $reason) = @$change;

	ask("ALTER TABLE detect_staging.read $do");
	$broker->produce('read', qq({"id": $next_id}));
	stream_is($node, 'city', 'read', 'paused', $reason, "$do: the stream says what is wrong");
	ask("ALTER TABLE detect_staging.read $undo; SELECT detect.resume('read')");
	has_events('read', $next_id++, 'and goes on when that is undone');
}

# ---------------------------------------------------------------------
# An index, which would point to rows that are no more
# ---------------------------------------------------------------------
my ($table) = $node->safe_psql('city', q{SELECT format('detect.%I', '_staged_' || stream_id || '_0') FROM detect._stream WHERE name = 'read'});
$node->safe_psql('city', "CREATE INDEX by_offset ON $table (kafka_offset)");
$broker->produce('read', qq({"id": $next_id}));
stream_is($node, 'city', 'read', 'paused', 'staging table "detect._staged_\\d+_0" has an index', 'an index is refused');
$node->safe_psql('city', "DROP INDEX detect.by_offset");
ask("SELECT detect.resume('read')");
has_events('read', $next_id++, 'and the stream goes on without it');

# ---------------------------------------------------------------------
# A view in its place, as a rule can make of an empty table, and of others
# ---------------------------------------------------------------------
sub columns_of
{
	my ($table) = @_;

	return $node->safe_psql('city', qq{SELECT string_agg(format('NULL::%s AS %I', format_type(atttypid, atttypmod), attname), ', ' ORDER BY attnum)
		FROM pg_attribute WHERE attrelid = '$table'::regclass AND attnum > 0 AND NOT attisdropped});
}

ask(q{CREATE TABLE bare (id bigint PRIMARY KEY); SELECT detect.create_stream('bare', server => '');
	CREATE TABLE turned (id bigint, v int); SELECT detect.create_stream('turned', server => '', key => '{}');
	CREATE TABLE summed (id bigint PRIMARY KEY, v int); SELECT detect.create_stream('summed', server => '');
	SELECT detect.create_rollup('sums', 'SELECT v, count(*) AS n, stddev(v) AS deviation FROM summed GROUP BY v'); SELECT detect.wait_for_rollup('sums')});
foreach my $case (
	[ 'bare', 'detect_staging.bare', 'DROP TRIGGER _detect_staged ON detect_staging.bare', '^relation "detect_staging.bare" of stream "bare" does not exist$' ],
	[ 'turned', 'city.turned', q{DO $$ DECLARE t name; BEGIN FOR t IN SELECT tgname FROM pg_trigger WHERE tgrelid = 'city.turned'::regclass LOOP
		EXECUTE format('DROP TRIGGER %I ON city.turned', t); END LOOP; END $$}, '^"turned" is not a table any more$' ],
	[ 'summed', 'detect_state.sums', q{DO $$ BEGIN EXECUTE (SELECT format('DROP INDEX %s', indexrelid::regclass) FROM pg_index WHERE indrelid = 'detect_state.sums'::regclass); END $$},
		'^"detect_state.sums" is not a table any more$' ])
{
	my ($stream, $table, $make_bare, $reason) = @$case;

	$node->safe_psql('city', $make_bare);
	$node->safe_psql('city', "VACUUM $table");
	my $columns = columns_of($table);
	my ($rc, undef, $stderr) = $node->psql('city', qq{CREATE RULE "_RETURN" AS ON SELECT TO $table DO INSTEAD SELECT $columns});
  SKIP:
	{
		skip 'tables do not become views any more', 2 if $stderr =~ /is not a view|cannot have ON SELECT rules/i;
		is($rc, 0, "$table is a view") or diag($stderr);
		$node->psql('city', "SELECT detect.resume('$stream')");
		stream_is($node, 'city', $stream, 'paused', $reason, 'which its stream says');
	}
}
has_events('read', $next_id - 1, 'other streams and the server are well');

# ---------------------------------------------------------------------
# What a trigger would have somebody type is a comment
# ---------------------------------------------------------------------
ask(q{CREATE TABLE advised (id bigint PRIMARY KEY); SELECT detect.create_stream('advised', server => '');
	CREATE FUNCTION advise() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN RAISE EXCEPTION USING ERRCODE = '42P17', MESSAGE = 'no', HINT = E'\nALTER ROLE ops SUPERUSER;'; END $$;
	CREATE TRIGGER advise BEFORE INSERT ON advised FOR EACH ROW EXECUTE FUNCTION advise();
	INSERT INTO detect_staging.advised VALUES (1)});
stream_is($node, 'city', 'advised', 'paused', '^no$', 'a trigger pauses its stream');
is(ask("SELECT remedy FROM detect.stat_stream WHERE stream = 'advised'"), "--  ALTER ROLE ops SUPERUSER; Then call detect.resume('advised').",
	'and what it advises is no command');

log_is_clean($node);
$node->stop;
done_testing();
