# Rows are edited by hand while the stream runs and processes die at random
# moments.  Afterwards memory equals the table: no key is known that no row has,
# and none is unknown that one has; and rollups equal their queries.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";

use DetectTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use constant { ROUNDS => 12, KEYS => 4000 };

my $node = make_node('main');

# A statement of a user, on the table or on one of its partitions.
sub random_edit
{
	my $table = ('event', 'event_0', 'event_1')[ rand 3 ];
	my $id    = int(rand(KEYS));
	my $other = $id + 2 * int(rand(KEYS / 4));
	my $at    = $table eq 'event' ? "at((random())::int)" : "at(" . substr($table, -1) . ")";

	return (
		"INSERT INTO $table SELECT g, $at, 'by hand' FROM generate_series($id, $id + 20) g "
		  . "WHERE NOT EXISTS (SELECT FROM event e WHERE e.id = g)",
		"DELETE FROM $table WHERE id BETWEEN $id AND $id + 300",
		"UPDATE $table SET id = id + 100000 WHERE id BETWEEN $id AND $id + 30 AND id < 100000",
		"BEGIN; DELETE FROM $table WHERE id < $other; ROLLBACK",
		"BEGIN; DELETE FROM $table WHERE id = $other; INSERT INTO event VALUES ($other, at(0), 'twice'), ($other, at(0), 'twice'); "
		  . "DELETE FROM event WHERE ctid = (SELECT max(ctid) FROM event_0) AND id = $other AND tableoid = 'event_0'::regclass; COMMIT",
		$table eq 'event' ? "UPDATE event SET seen_at = at(1) WHERE id BETWEEN $id AND $id + 50" : "TRUNCATE $table")[ rand 6 ];
}

$node->start;
install_detect($node, 'city');
$node->safe_psql('city', <<'SQL');
CREATE TABLE event (id int NOT NULL, seen_at timestamptz NOT NULL, v text) PARTITION BY RANGE (seen_at);
CREATE TABLE base AS SELECT now() AS now;
CREATE FUNCTION at(part int) RETURNS timestamptz LANGUAGE sql STABLE RETURN (SELECT now + part * interval '2 hours' FROM base);
DO $$
DECLARE
	low timestamptz := at(0) - interval '1 hour';
BEGIN
	FOR i IN 0 .. 1 LOOP
		EXECUTE format('CREATE TABLE event_%s PARTITION OF event FOR VALUES FROM (%L) TO (%L)',
			i, low + i * interval '2 hours', low + (i + 1) * interval '2 hours');
	END LOOP;
END $$;
ALTER TABLE event OWNER TO ops;
ALTER TABLE event_0 OWNER TO ops;
ALTER TABLE event_1 OWNER TO ops;
GRANT SELECT ON base TO ops;
SET ROLE ops;
SELECT detect.create_stream('event', server => '', key => '{id}');
SELECT detect.create_rollup('per_minute', 'SELECT date_trunc(''minute'', seen_at) AS minute, v, count(*) AS n, sum(id) AS ids FROM event GROUP BY 1, 2');
SELECT detect.create_rollup('per_day', 'SELECT date_trunc(''day'', seen_at) AS day, count(*) AS n, max(id) AS last_id FROM event GROUP BY 1');
SQL

# Groups in which the rollups differ from their queries.
sub groups_differ
{
	return $node->safe_psql('city', q{
		WITH per_minute_again AS (SELECT date_trunc('minute', seen_at), v, count(*), sum(id) FROM event GROUP BY 1, 2),
			per_day_again AS (SELECT date_trunc('day', seen_at), count(*), max(id) FROM event GROUP BY 1)
		SELECT (SELECT count(*) FROM ((TABLE per_minute EXCEPT ALL TABLE per_minute_again) UNION ALL (TABLE per_minute_again EXCEPT ALL TABLE per_minute)) m)
			|| ' ' || (SELECT count(*) FROM ((TABLE per_day EXCEPT ALL TABLE per_day_again) UNION ALL (TABLE per_day_again EXCEPT ALL TABLE per_day)) d)});
}

for my $round (1 .. ROUNDS)
{
	my $victim = ('apply', 'apply', 'apply', 'postmaster', 'immediate')[ rand 5 ];

	$node->safe_psql('city',
		"INSERT INTO detect_staging.event SELECT g, at(g % 2), 'round $round' FROM generate_series(1, @{[KEYS]}) g WHERE random() < 0.2");
	$node->psql('city', random_edit()) for 1 .. 6;
	wait_for($node, 'city', 'event') if rand() < 0.5;
	$node->psql('city', random_edit()) for 1 .. 3;
	$node->safe_psql('city', "SELECT detect.rebuild_rollup('per_day')") if rand() < 0.3;
	note("round $round: $victim");
	strike($node, $victim eq 'apply' ? worker_pid($node, 'city', 'event', 'apply') : $victim);
}
wait_for($node, 'city', 'event');
is(groups_differ(), '0 0', 'rollups have followed what was done by hand');
$node->psql('city', random_edit()) for 1 .. 10;
wait_for($node, 'city', 'event');
is(groups_differ(), '0 0', 'and follow it again');

# The first look after the edits takes them; then memory is what a worker would
# read from the table.
my $stats = 'SELECT accepted, duplicates FROM detect.stat_stream';
$node->safe_psql('city', "INSERT INTO detect_staging.event SELECT DISTINCT id, seen_at, 'replayed' FROM event LIMIT 1");
wait_for($node, 'city', 'event');
my ($accepted, $duplicates) = split(/\|/, $node->safe_psql('city', $stats));
my $keys = $node->safe_psql('city', 'SELECT count(*) FROM (SELECT DISTINCT id, seen_at FROM event) e');
ok($node->poll_query_until('city', "SELECT identities = $keys FROM detect.stat_stream"), 'memory holds as many identities as the table');

$node->safe_psql('city', "INSERT INTO detect_staging.event SELECT DISTINCT id, seen_at, 'replayed' FROM event");
wait_for($node, 'city', 'event');
my ($accepted_after, $duplicates_after) = split(/\|/, $node->safe_psql('city', $stats));
is($accepted_after, $accepted, 'none of them is accepted again');
is($duplicates_after - $duplicates, $keys, 'all of them are duplicates');

# What was deleted is free: every key of the table goes, and comes again.
$node->safe_psql('city', "CREATE TABLE gone AS SELECT DISTINCT id, seen_at FROM event; DELETE FROM event;"
	  . "INSERT INTO detect_staging.event SELECT id, seen_at, 'again' FROM gone");
wait_for($node, 'city', 'event');
is($node->safe_psql('city', "SELECT count(*) FROM event WHERE v = 'again'"), $keys, 'what was deleted comes again');
is($node->safe_psql('city', 'SELECT count(*) FROM detect._edit'), '0', 'nothing stays queued');

log_is_clean($node);
$node->stop;
done_testing();
