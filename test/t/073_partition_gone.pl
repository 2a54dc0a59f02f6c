# A partition that goes, or an index that cannot be used yet, while events for it are at
# hand: the stream waits and goes on by itself.

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

sub session
{
	my $session = $node->background_psql('city', on_error_stop => 0);

	$session->query_safe('SET ROLE ops; SET search_path = city, public');
	return $session;
}

# Waits until a stream that has no way on says so, and has not paused.
sub waits
{
	my ($stream, $reason, $what) = @_;

	ok( $node->poll_query_until(
			'city', "SELECT reason LIKE '%$reason%' OR state = 'paused' FROM detect.stat_stream WHERE stream = '$stream'"),
		$what);
	isnt(ask("SELECT state FROM detect.stat_stream WHERE stream = '$stream'"), 'paused', 'it is not paused');
	return;
}

$node->start;
install_detect($node, 'city');
my ($reader, $other) = (session(), session());

# ---------------------------------------------------------------------
# A partition that is being detached takes no rows, and is there
# ---------------------------------------------------------------------
ask(q{CREATE TABLE keyless (id int, at timestamptz NOT NULL) PARTITION BY RANGE (at);
	SELECT detect.create_stream('keyless', server => '', key => '{}', event_time => 'at', partition_interval => '1 day');
	CREATE TABLE day PARTITION OF keyless FOR VALUES FROM ('2026-01-01 00:00+00') TO ('2026-01-02 00:00+00');
	INSERT INTO detect_staging.keyless VALUES (1, '2026-01-01 10:00+00');
	SELECT detect.wait_for('keyless', '60s')});
$reader->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM keyless');
$other->query_until(qr/^begins$/m, "\\echo begins\nALTER TABLE keyless DETACH PARTITION day CONCURRENTLY;\n");
$node->poll_query_until('city', "SELECT bool_or(inhdetachpending) FROM pg_inherits WHERE inhparent = 'city.keyless'::regclass")
  or die 'the partition is not being detached';
ask("INSERT INTO detect_staging.keyless VALUES (2, '2026-01-01 11:00+00')");
waits('keyless', 'being detached', 'an event waits for its partition to go');
$reader->query_safe('COMMIT');
ask("SELECT detect.wait_for('keyless', '60s')");
is(ask('SELECT count(*) FROM keyless'), 1, 'it is in a partition that was made for it');

# ---------------------------------------------------------------------
# An index that older transactions may not use
# ---------------------------------------------------------------------
$reader->query_safe('BEGIN; SELECT pg_current_xact_id()');
ask(q{BEGIN;
	CREATE TABLE number (id numeric, v int);
	INSERT INTO number VALUES (1, 1);
	UPDATE number SET v = 2;
	CREATE UNIQUE INDEX ON number (id);
	SELECT detect.create_stream('number', server => '', key => '{id}');
	COMMIT;
	INSERT INTO detect_staging.number VALUES (1, 1), (2, 2)});
waits('number', 'cannot be used yet', 'the unique index is waited for');
$reader->query_safe('COMMIT');
ask("SELECT detect.wait_for('number', '60s')");
is(ask("SELECT string_agg(id || ' ' || v, ', ' ORDER BY id) FROM number"), '1 2, 2 2', 'the stream goes on by itself');

$_->quit foreach ($reader, $other);
log_is_clean($node);
$node->stop;
done_testing();
