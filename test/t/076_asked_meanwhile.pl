# What somebody asks for while a worker is at a step that was begun before: it is done
# afterwards, and the step's outcome does not stand for it.
#
# Fault points hold the steps.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";

use DetectTest;
use FaultPoint;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $timeout = $PostgreSQL::Test::Utils::timeout_default;
my $node    = make_node('main');
my $holder;    # of the lock that a step waits for
my $armed;

# As the owner of the streams.
sub ask
{
	my ($sql) = @_;

	return $node->safe_psql('city', "SET ROLE ops; SET client_min_messages = warning; $sql");
}

# Has the next step stop at a point.
sub hold
{
	my ($point) = @_;

	$holder->query_safe("SELECT pg_advisory_lock(hashtext('$point'))");
	$armed = arm($node, "$point:wait");
	return;
}

# Returns when it has stopped there.
sub await_step
{
	$node->poll_query_until('city', "SELECT count(*) = 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
	  or die 'no step is held';
	return;
}

sub release
{
	$holder->query_safe('SELECT pg_advisory_unlock_all()');
	disarm($node, $armed);
	return;
}

sub await
{
	my ($condition, $what) = @_;

	return ok($node->poll_query_until('city', "SELECT $condition"), $what);
}

# How many groups of a rollup differ from a query.
sub differences
{
	my ($rollup, $query) = @_;

	return ask("SELECT count(*) FROM (((TABLE $rollup) EXCEPT ALL ($query)) UNION ALL (($query) EXCEPT ALL (TABLE $rollup))) d");
}

$node->append_conf('postgresql.conf', 'detect.retry_interval = 10ms');
$node->start;
install_detect($node, 'city');
$holder = $node->background_psql('city');

# ---------------------------------------------------------------------
# A stream is changed while its worker is about to pause it
# ---------------------------------------------------------------------

ask(q{
	CREATE TABLE strict (id int PRIMARY KEY, kind int NOT NULL);
	CREATE TABLE place (kind int PRIMARY KEY);
	INSERT INTO place VALUES (1), (2);
	SELECT detect.create_stream('strict', server => '', dead_letter_limit => 3, on_limit => 'pause')});
hold('before_pause');
ask('INSERT INTO detect_staging.strict SELECT n, CASE WHEN n > 5 THEN 1 END FROM generate_series(1, 10) n');
await_step();
ask("SELECT detect.alter_stream('strict', dead_letter_limit => 100)");
release();
ask("SELECT detect.wait_for('strict', '${timeout}s')");
is(ask("SELECT state, accepted, dead_letters FROM detect.stat_stream WHERE stream = 'strict'"),
	'running|5|5', 'who raises a limit that was just reached does not find the stream paused for it');

# ---------------------------------------------------------------------
# A rollup is rebuilt while a new query of it is about to take over
# ---------------------------------------------------------------------

ask(q{
	CREATE TABLE zone (kind int PRIMARY KEY, name text);
	INSERT INTO zone SELECT k, 'zone ' || k FROM generate_series(0, 4) k;
	CREATE TABLE visit (id int PRIMARY KEY, kind int);
	INSERT INTO visit SELECT n, n % 5 FROM generate_series(1, 1000) n;
	SELECT detect.create_stream('visit', server => '');
	SELECT detect.create_rollup('visits', 'SELECT name, count(*) AS n FROM visit JOIN zone USING (kind) GROUP BY name')});
ask("SELECT detect.wait_for_rollup('visits', '${timeout}s')");
my $query = 'SELECT name, count(*) AS n, sum(id) AS ids FROM visit JOIN zone USING (kind) GROUP BY name';
hold('before_swap');
ask("SELECT detect.alter_rollup('visits', query => '$query')");
await_step();
ask("UPDATE zone SET name = 'centre' WHERE kind = 0");
my $rebuilder = $node->background_psql('city');
$rebuilder->query_safe('SET ROLE ops');
$rebuilder->query_until(qr/^begins$/m, "\\echo begins\nSELECT detect.rebuild_rollup('visits');\n");
await("EXISTS (SELECT FROM pg_stat_activity WHERE query LIKE '%rebuild_rollup(''visits%' AND wait_event_type = 'Lock')",
	'who rebuilds a rollup waits for the step');
release();
$rebuilder->quit;
ask("SELECT detect.wait_for_rollup('visits', '${timeout}s')");
is(differences('visits', $query), '0', 'and has the groups of the new query computed again');

# the new query has read all, and cannot take over because somebody reads the view
$query = 'SELECT name, count(*) AS n, sum(id) AS ids, max(id) AS last FROM visit JOIN zone USING (kind) GROUP BY name';
my $reader = $node->background_psql('city');
$reader->query_safe('BEGIN; SELECT count(*) FROM visits');
ask("SELECT detect.alter_rollup('visits', query => '$query')");
await("EXISTS (SELECT FROM detect._rollup WHERE replaces IS NOT NULL AND state = 'active')", 'a new query has read all');
ask("UPDATE zone SET name = 'outskirts' WHERE kind = 1; SELECT detect.rebuild_rollup('visits')");
$reader->query_safe('COMMIT');
$reader->quit;
ask("SELECT detect.wait_for_rollup('visits', '${timeout}s')");
is(differences('visits', $query), '0', 'also when it waits for a reader of the view');

# ---------------------------------------------------------------------
# Retention is taken back while a partition is about to go
# ---------------------------------------------------------------------

ask(q{
	CREATE TABLE daily (id int, at timestamptz) PARTITION BY RANGE (at);
	CREATE TABLE daily_old PARTITION OF daily FOR VALUES FROM ('2024-01-01') TO ('2024-01-02');
	INSERT INTO daily SELECT n, '2024-01-01 12:00' FROM generate_series(1, 100) n});
hold('before_detach');
ask("SELECT detect.create_stream('daily', server => '', key => '{id}', event_time => 'at', partition_interval => '1 day', retention => '30 days')");
await_step();
ask("SELECT detect.alter_stream('daily', reset => '{retention}')");
release();
await(q{obj_description('daily_old'::regclass) IS NULL}, 'a partition that is to stay after all is not marked any more');
is(ask('SELECT count(*) FROM daily'), '100', 'and it stays');

# ---------------------------------------------------------------------
# The events table is exchanged before an edit of it was looked at
# ---------------------------------------------------------------------

my $hours = q{SELECT date_trunc('hour', at) AS hour, count(*) AS n FROM first GROUP BY 1};
ask(qq{
	CREATE TABLE first (id int PRIMARY KEY, at timestamptz);
	CREATE TABLE second (id int PRIMARY KEY, at timestamptz);
	SELECT detect.create_stream('moving', server => '', events_table => 'first', event_time => 'at');
	SELECT detect.create_rollup('firsts', \$\$ $hours \$\$);
	INSERT INTO detect_staging.moving SELECT n, '2024-01-01'::timestamptz + n * interval '1 minute' FROM generate_series(1, 300) n});
ask("SELECT detect.wait_for('moving', '${timeout}s')");
ask("SELECT detect.pause('moving')");
await("count(*) = 0 FROM detect.stat_worker WHERE stream = 'moving' AND pid IS NOT NULL", 'a paused stream has no worker');
ask(q{
	DELETE FROM first WHERE id <= 30;
	SELECT detect.alter_stream('moving', events_table => 'second');
	SELECT detect.resume('moving');
	INSERT INTO detect_staging.moving VALUES (1, '2024-01-01')});
ask("SELECT detect.wait_for('moving', '${timeout}s')");
ask("SELECT detect.create_stream('again', server => '', events_table => 'first', event_time => 'at')");
ask("SELECT detect.wait_for_rollup('firsts', '${timeout}s')");
is(differences('firsts', $hours), '0', 'an edit of the table that a stream had before reaches its rollups');

# ---------------------------------------------------------------------
# The key is exchanged while an edit is open
# ---------------------------------------------------------------------

ask(q{
	CREATE TABLE item (id int NOT NULL, code int NOT NULL, at timestamptz NOT NULL) PARTITION BY RANGE (at);
	CREATE TABLE item_1 PARTITION OF item FOR VALUES FROM ('2024-01-01') TO ('2024-02-01');
	SELECT detect.create_stream('item', server => '', key => '{id}', event_time => 'at');
	INSERT INTO detect_staging.item SELECT n, 1000 + n, '2024-01-10' FROM generate_series(1, 10) n});
ask("SELECT detect.wait_for('item', '${timeout}s')");
my $editor = $node->background_psql('city');
$editor->query_safe('SET ROLE ops; BEGIN; DELETE FROM item WHERE id = 7');
ask("SELECT detect.alter_stream('item', key => '{code}')");
# segments are read for the new key, without the edit
ask("INSERT INTO detect_staging.item VALUES (1, 1001, '2024-01-10')");
ask("SELECT detect.wait_for('item', '${timeout}s')");
$editor->query_safe('COMMIT');
$editor->quit;
ask("INSERT INTO detect_staging.item VALUES (7, 1007, '2024-01-10'), (8, 1008, '2024-01-10')");
ask("SELECT detect.wait_for('item', '${timeout}s')");
is(ask('SELECT count(*), count(*) FILTER (WHERE code = 1007) FROM item'),
	'10|1', 'what was deleted under the key before is no duplicate under the new one');

$holder->quit;
log_is_clean($node);
done_testing();
