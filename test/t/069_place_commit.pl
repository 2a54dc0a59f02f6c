# A commit shows what it has written before it tells of it.  A worker whose trigger edits
# places is held right there: who looks meanwhile finds what he sees.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";

use DetectTest;
use FaultPoint;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

# in which zone of either kind the point is: by the locator, by PostGIS
use constant LOOK => q{
	SELECT coalesce(zone_of(ST_Point(1, 1, 25832))::text, '-') || ' ' ||
		coalesce((SELECT string_agg(zone_id::text, '') FROM zone WHERE ST_Contains(geom, ST_Point(1, 1, 25832))), '-')};

my $node = make_node('main');

sub ask
{
	my ($sql) = @_;

	return $node->safe_psql('city', "SET ROLE ops; SET search_path = city, public; $sql");
}

# who commits a prepared transaction does not say that he commits
$node->append_conf('postgresql.conf', 'max_prepared_transactions = 0');
$node->start;
install_detect($node, 'city');
ask(q{
	CREATE TABLE zone (zone_id int PRIMARY KEY, geom geometry(Geometry, 25832));
	INSERT INTO zone SELECT i, ST_Expand(ST_Point(100 * i - 99, 1, 25832), 10) FROM generate_series(1, 20) i;
	SELECT detect.create_locator('zone_of', 'zone', key => 'zone_id');
	CREATE TABLE seen (id int PRIMARY KEY);
	CREATE FUNCTION drop_zone() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		DELETE FROM city.zone WHERE zone_id = NEW.id;
		RETURN NEW;
	END $$;
	CREATE TRIGGER drop_zone AFTER INSERT ON seen FOR EACH ROW EXECUTE FUNCTION drop_zone();
	SELECT detect.create_stream('seen', server => '', columns => 'id int');});

my %sessions = map { $_ => $node->background_psql('city') } ('READ COMMITTED', 'REPEATABLE READ');
my $holder = $node->background_psql('city');
foreach my $session (values %sessions)
{
	$session->query_safe('SET ROLE ops; SET search_path = city, public');
	is($session->query_safe(LOOK), '1 1', 'places are in memory');
}

# the worker stops before it commits, and where it has committed
$holder->query_safe(q{SELECT pg_advisory_lock(hashtext('before_apply_commit'))});
my $armed = arm($node, 'before_apply_commit:wait', 'after_commit:wait:1:100');
ask('INSERT INTO detect_staging.seen (id) VALUES (1)');
$node->poll_query_until('city', q{SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted)})
  or die 'the worker is not held';
$holder->query_safe(q{SELECT pg_advisory_lock(hashtext('after_commit'))});
$holder->query_safe(q{SELECT pg_advisory_unlock(hashtext('before_apply_commit'))});
ok($node->poll_query_until('city', 'SELECT count(*) = 1 FROM city.seen'), 'others see what it has written');

foreach my $level (sort keys %sessions)
{
	$sessions{$level}->query_safe("BEGIN ISOLATION LEVEL $level");
	is($sessions{$level}->query_safe(LOOK), '- -', "$level: who sees a commit finds the places of it");
}
disarm($node, $armed);
$holder->query_safe(q{SELECT pg_advisory_unlock(hashtext('after_commit'))});
foreach my $session (values %sessions)
{
	is($session->query_safe(LOOK), '- -', 'and does so when it has told');
	$session->query_safe('COMMIT');
}

# a snapshot that keeps what all have is answered from that
my $builds  = 'SELECT builds FROM detect.stat_locator WHERE pid = pg_backend_pid()';
my $session = $sessions{'REPEATABLE READ'};
is($session->query_safe(LOOK), '- -', 'places are the newest');
my $before = $session->query_safe($builds);
$session->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ');
is($session->query_safe(LOOK), '- -', 'a transaction that keeps its snapshot looks');
$session->query_safe('COMMIT');
is($session->query_safe($builds), $before, 'and builds nothing');
is(ask(q{SELECT count(*) FROM detect.problem}), 0, 'no problem is left');

$_->quit foreach values %sessions, $holder;
log_is_clean($node);
$node->stop;
done_testing();
