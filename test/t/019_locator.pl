# Locators beyond one session: a stream whose query asks one, while its zones
# change between two batches; dump and restore; a standby; logical replication;
# and the memory of a process that builds its places again and again.
#
#   DETECT_LOCATOR_REBUILDS=1000000 test/run test/t/019_locator.pl
#
# The oracle is ST_Contains, over the same rows.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";

use DetectTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use constant REBUILDS => $ENV{DETECT_LOCATOR_REBUILDS} // 2000;

my $node = make_node('main', allows_streaming => 'logical');
$node->start;
install_detect($node, 'city');

# Ten by ten zones, a name for each.
my $zones = q{
	CREATE TABLE city.zones (zone_id int PRIMARY KEY, geom geometry(Polygon, 25832) NOT NULL);
	CREATE INDEX ON city.zones USING gist (geom);
};
$node->safe_psql(
	'city', qq{
	SET ROLE ops;
	$zones
	INSERT INTO zones SELECT i, ST_MakeEnvelope(i % 10, i / 10, i % 10 + 1, i / 10 + 1, 25832) FROM generate_series(0, 99) i;
	SELECT detect.create_locator('zone_of', 'zones');
	CREATE TABLE sighting (id int PRIMARY KEY, x float8, y float8, batch int, zone_id int);
	SELECT detect.create_stream('sighting', server => '', columns => 'id int, x float8, y float8, batch int',
		query => 'SELECT b.*, zone_of(b.x, b.y) AS zone_id FROM batch b');
	SELECT detect.create_rollup('per_zone', 'SELECT batch, zone_id, count(*) AS n FROM sighting GROUP BY 1, 2');
	SELECT detect.create_rollup('per_zone_again', 'SELECT batch, zone_of(x, y) AS zone_id, count(*) AS n FROM sighting GROUP BY 1, 2');
});

# How a look of a session differs from PostGIS.
my $differences = q{
	SELECT count(*) FROM (SELECT random() * 12 - 1 AS x, random() * 12 - 1 AS y FROM generate_series(1, 500)) p
	WHERE city.zones_of_array(x, y) IS DISTINCT FROM
		ARRAY(SELECT zone_id FROM city.zones WHERE ST_Contains(geom, ST_Point(x, y, 25832)) ORDER BY ST_Area(geom), zone_id)};

# Stage a batch, and compare what the worker has found with what PostGIS finds
# in the zones of now.
sub batch_is_right
{
	my ($batch, $what) = @_;

	$node->safe_psql(
		'city', qq{
		INSERT INTO detect_staging.sighting (id, x, y, batch)
		SELECT $batch * 10000 + i, random() * 12 - 1, random() * 12 - 1, $batch FROM generate_series(1, 2000) i});
	wait_for($node, 'city', 'sighting');
	is( $node->safe_psql('city', qq{
			SELECT count(*), count(*) FILTER (WHERE s.zone_id IS DISTINCT FROM
				(SELECT z.zone_id FROM zones z WHERE ST_Contains(z.geom, ST_Point(s.x, s.y, 25832)) ORDER BY ST_Area(z.geom), z.zone_id LIMIT 1))
			FROM sighting s WHERE batch = $batch}),
		'2000|0', "the stream, $what");
	return;
}

# ---------------------------------------------------------------------
# A stream: the next batch uses the zones of now
# ---------------------------------------------------------------------
batch_is_right(1, 'at first');
$node->safe_psql('city', 'UPDATE zones SET geom = ST_Translate(geom, 1, 0) WHERE zone_id % 2 = 0');
batch_is_right(2, 'after an UPDATE');
$node->safe_psql('city', 'DELETE FROM zones WHERE zone_id < 50');
batch_is_right(3, 'after a DELETE');
$node->safe_psql('city', 'BEGIN; TRUNCATE zones; ROLLBACK');
batch_is_right(4, 'after a TRUNCATE that was rolled back');
$node->safe_psql('city', 'INSERT INTO zones SELECT 1000 + i, ST_Buffer(ST_Point(random() * 10, random() * 10, 25832), 2) FROM generate_series(1, 20) i');
batch_is_right(5, 'after an INSERT');
$node->safe_psql('city', 'TRUNCATE zones; INSERT INTO zones SELECT i, ST_MakeEnvelope(i, 0, i + 1, 10, 25832) FROM generate_series(0, 9) i');
batch_is_right(6, 'after a TRUNCATE');
is( $node->safe_psql('city', q{
		SELECT count(*) FROM (
			(TABLE per_zone EXCEPT ALL SELECT batch, zone_id, count(*) FROM sighting GROUP BY 1, 2) UNION ALL
			(SELECT batch, zone_id, count(*) FROM sighting GROUP BY 1, 2 EXCEPT ALL TABLE per_zone)) d}),
	'0', 'and its rollup is exact');
is( $node->safe_psql('city', q{
		SELECT count(*) FROM (
			(TABLE per_zone EXCEPT ALL TABLE per_zone_again) UNION ALL (TABLE per_zone_again EXCEPT ALL TABLE per_zone)) d}),
	'0', 'as is one that asks the locator itself');

# ---------------------------------------------------------------------
# What the workers hold, and who sees it
# ---------------------------------------------------------------------
$node->safe_psql(
	'city', q{
	CREATE ROLE surveyor;
	CREATE ROLE stranger;
	CREATE ROLE watcher IN ROLE pg_monitor;
	GRANT USAGE, CREATE ON SCHEMA city TO surveyor;
	GRANT SELECT, TRIGGER ON city.zones TO surveyor;
	SET ROLE surveyor;
	SELECT detect.create_locator('near_' || i, 'city.zones', within => i) FROM generate_series(1, 10) i;
	RESET ROLE;
	SET ROLE ops;
	CREATE TABLE many (id int PRIMARY KEY, zones int[]);
	SELECT detect.create_stream('many', server => '', columns => 'id int, x float8, y float8',
		query => format('SELECT b.id, ARRAY[%s] AS zones FROM batch b', (SELECT string_agg(format('near_%s(b.x, b.y)', i), ', ') FROM generate_series(1, 10) i)));
	INSERT INTO detect_staging.many SELECT i, random() * 10, random() * 10 FROM generate_series(1, 100) i;
});
wait_for($node, 'city', 'many');
is( $node->safe_psql('city', q{
		SELECT l.duty, l.locator, l.places, l.vertices, l.bytes > 0, l.builds BETWEEN 4 AND 7, l.build_ms > 0, l.built_at <= now(), l.from_memory, l.from_table, l.reason,
			l.pid = (SELECT pid FROM detect.stat_worker w WHERE w.stream = l.stream AND w.duty = 'apply')
		FROM detect.stat_locator l WHERE stream = 'sighting'}),
	'apply|zone_of|10|50|t|t|t|t|24000|0||t', 'what the worker holds is shown');
for my $viewer (
	[ ops => '8|1|10|100|1000', 'the owner of the stream sees all, two of them as one' ],
	[ watcher => '8|1|10|100|1000', 'so does whoever may see all' ],
	[ surveyor => '8|0|8|80|800', 'the owner of the locators sees these' ],
	[ stranger => '0|0|||', 'others see nothing' ])
{
	my ($role, $seen, $what) = @$viewer;

	is($node->safe_psql('city', "SET ROLE $role; SELECT count(locator), count(*) FILTER (WHERE locator IS NULL), sum(builds), sum(places), sum(from_memory)
			FROM detect.stat_locator WHERE stream = 'many'"), $seen, $what);
}
is($node->safe_psql('city', q{SET ROLE surveyor; SELECT count(*) FROM detect.stat_locator WHERE stream IS DISTINCT FROM 'many'}), '0', 'and no others');
$node->safe_psql('city', q{SELECT detect.drop_stream('many'); SELECT detect.drop_locator(locator) FROM detect.locator WHERE owner = 'surveyor'});

my ($result, $stdout, $stderr) = $node->psql('city', "SELECT detect.drop_locator('zone_of')");
isnt($result, 0, 'a locator that a stream asks is not dropped');
like($stderr, qr/detect_query\.sighting depends on function/, 'and says what needs it');

# ---------------------------------------------------------------------
# A worker that may not have the memory asks PostGIS, and says so once
# ---------------------------------------------------------------------
my $logged = -s $node->logfile;

$node->safe_psql('city', q{ALTER SYSTEM SET detect.worker_locator_memory = 0});
$node->reload;
for my $batch (7, 8)
{
	$node->safe_psql('city', 'UPDATE zones SET geom = ST_Translate(geom, 0.25, 0)');
	batch_is_right($batch, 'without memory');
}
is( $node->safe_psql('city', q{SELECT places, bytes, from_table > 0, reason FROM detect.stat_locator WHERE stream = 'sighting'}),
	'0|0|t|its places take more than the memory that is set', 'which is shown');
my @told = PostgreSQL::Test::Utils::slurp_file($node->logfile, $logged) =~ /LOG:  locator "zone_of" answers from its place table/g;
is(scalar @told, 1, 'and told once');
$node->safe_psql('city', q{ALTER SYSTEM RESET detect.worker_locator_memory});
$node->reload;
$node->safe_psql('city', 'UPDATE zones SET geom = ST_Translate(geom, -0.5, 0)');
batch_is_right(9, 'with memory again');
is($node->safe_psql('city', q{SELECT places, reason FROM detect.stat_locator WHERE stream = 'sighting'}), '10|', 'which is shown too');

# ---------------------------------------------------------------------
# Dump and restore
# ---------------------------------------------------------------------
my $dump = "$PostgreSQL::Test::Utils::tmp_check/city.dump";

$node->safe_psql('postgres', 'CREATE DATABASE restored');
command_ok([ 'pg_dump', '-Fc', '-f', $dump, '-d', $node->connstr('city') ], 'pg_dump');
command_ok([ 'pg_restore', '--exit-on-error', '-d', $node->connstr('restored'), $dump ], 'pg_restore');
is($node->safe_psql('restored', $differences), '0', 'restored: the locator answers');
$node->safe_psql('restored', 'UPDATE city.zones SET geom = ST_Translate(geom, 0.5, 0.5)');
is($node->safe_psql('restored', $differences), '0', 'restored: changes are seen');
is($node->safe_psql('restored', 'SELECT city.zone_of(1, 1); SELECT places, from_table, reason FROM detect.stat_locator'),
	"0\n10|0|", 'restored: from memory');
$node->safe_psql('restored', "SELECT detect.drop_rollup('per_zone_again'); SELECT detect.drop_stream('sighting'); SELECT detect.drop_locator('zone_of')");
is( $node->safe_psql('restored', q{SELECT (SELECT count(*) FROM detect.locator), (SELECT count(*) FROM pg_proc WHERE proname ~ '^zones?_of'),
		(SELECT count(*) FROM pg_trigger WHERE tgname ~ '^_detect_place')}),
	'0|0|0', 'restored: it can be dropped, and leaves nothing');

# ---------------------------------------------------------------------
# A standby
# ---------------------------------------------------------------------
my $standby = make_standby($node);
my $reader = $standby->background_psql('city');
is($reader->query_safe($differences), '0', 'a standby answers');
$node->safe_psql('city', 'UPDATE zones SET geom = ST_Translate(geom, 0.5, 0.5)');
$node->wait_for_catchup($standby);
is($reader->query_safe($differences), '0', 'and sees changes, in a session that was open');
$reader->quit;
log_is_clean($standby);
$standby->stop;

# ---------------------------------------------------------------------
# Logical replication
# ---------------------------------------------------------------------
my $subscriber = make_node('subscriber', allows_streaming => 'logical');
$subscriber->start;
install_detect($subscriber, 'city');
$subscriber->safe_psql('city', "SET ROLE ops; $zones SELECT detect.create_locator('zone_of', 'zones')");
$node->safe_psql('city', 'CREATE PUBLICATION zones FOR TABLE zones');
my $watcher = $subscriber->background_psql('city');
is($watcher->query_safe($differences), '0', 'a subscriber without zones');
$subscriber->safe_psql('city', sprintf("CREATE SUBSCRIPTION zones CONNECTION \$\$%s\$\$ PUBLICATION zones", $node->connstr('city')));
$subscriber->wait_for_subscription_sync($node, 'zones', 'city');
is($watcher->query_safe('SELECT count(*) FROM zones'), '10', 'zones were copied');
is($watcher->query_safe($differences), '0', 'and are seen');
for my $change ('UPDATE zones SET geom = ST_Translate(geom, -1, 0)', 'DELETE FROM zones WHERE zone_id = 3', 'TRUNCATE zones')
{
	$node->safe_psql('city', $change);
	$node->wait_for_catchup('zones');
	is($watcher->query_safe($differences), '0', "replicated: $change");
}
$watcher->quit;
$subscriber->safe_psql('city', 'DROP SUBSCRIPTION zones');
log_is_clean($subscriber);
$subscriber->stop;

# ---------------------------------------------------------------------
# Memory
# ---------------------------------------------------------------------
my $bytes = q{SELECT sum(total_bytes) FROM pg_backend_memory_contexts WHERE name = 'detect places' OR parent = 'TopMemoryContext'};
my $builder = $node->background_psql('city', timeout => 60 + REBUILDS / 20);
$builder->query_safe('INSERT INTO zones SELECT i, ST_Buffer(ST_Point(i % 10, i / 10, 25832), 1, 50) FROM generate_series(0, 99) i');
my $rebuild = q{DO $$ BEGIN FOR i IN 1..COUNT LOOP UPDATE zones SET geom = geom WHERE zone_id = 1; PERFORM zone_of(1, 1); COMMIT; END LOOP; END $$};
my $some = $rebuild =~ s/COUNT/100/r;
$builder->query_safe($some);
my $before = $builder->query_safe($bytes);
for my $done (1 .. REBUILDS / 100)
{
	$builder->query_safe($some);
}
my $after = $builder->query_safe($bytes);
cmp_ok($builder->query_safe(q{SELECT builds + partial_builds FROM detect.stat_locator WHERE duty = 'session'}), '>=', REBUILDS, 'places were built again and again');
cmp_ok($builder->query_safe(q{SELECT partial_builds FROM detect.stat_locator WHERE duty = 'session'}), '>=', REBUILDS / 2, 'most times only those that had changed');
cmp_ok($after, '<=', $before * 1.1, "and memory has not grown: $before, then $after bytes");
$builder->quit;

log_is_clean($node);
$node->stop;
done_testing();
