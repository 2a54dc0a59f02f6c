# pg_upgrade of a server whose streams run: nobody works while it moves files,
# definitions, progress, rollups and dead letters arrive whole, what was staged is
# read again, and the new server consumes once somebody says so: for detect it is a
# copy, whose old server may be started again.  The versions of PostgreSQL are the
# same here.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";

use DetectTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $broker = DetectTest::Broker->start();
my $old    = make_node('old');
my $new    = make_node('new');
my @lines  = camera_lines(6000);
my $quotes = 'SELECT string_agg(detect.get_definition(name), E\'\n\' ORDER BY name) FROM (SELECT stream AS name FROM detect.stream UNION ALL SELECT rollup FROM detect.rollup) x';
chomp(my $programs = output_of('pg_config', '--bindir'));

sub produce
{
	my ($count) = @_;

	$broker->produce('camera', splice(@lines, 0, $count));
	return;
}

$old->append_conf('postgresql.conf', 'max_prepared_transactions = 1');
$old->start;
install_detect($old, 'city');
$broker->create_topic('camera', 4);
create_camera($old, 'city', $broker, consumers => 1);
produce(2000);
ledger_is_exact($old, 'city', $broker, 'the old server');

# Rows are staged, and not applied, when it is stopped for the upgrade: a prepared
# transaction holds the applier up, and is gone before pg_upgrade looks.
$old->safe_psql('city', "BEGIN; LOCK TABLE detection IN SHARE MODE; PREPARE TRANSACTION 'blocker'");
produce(1000);
$old->poll_query_until('city', 'SELECT sum(next_offset) > 2000 FROM detect._staged_progress') or die 'nothing was staged';
$old->append_conf('postgresql.conf', "shared_preload_libraries = ''");
$old->restart;
$old->safe_psql('city', "ROLLBACK PREPARED 'blocker'");
my $definitions = $old->safe_psql('city', $quotes);
my $letters     = $old->safe_psql('city', 'SELECT count(*) FROM detect.dead_letter');
$old->append_conf('postgresql.conf', "shared_preload_libraries = 'detect'");
$old->stop;

# it writes where it is called
chdir($PostgreSQL::Test::Utils::tmp_check) or die;
command_ok(
	[
		'pg_upgrade', '-U', $ENV{PGUSER} // (getpwuid($>))[0], '-d', $old->data_dir, '-D', $new->data_dir, '-b', $programs, '-B', $programs,
		'-s', $new->host, '-p', $old->port, '-P', $new->port
	],
	'pg_upgrade');
$new->start;
stream_is($new, 'city', 'camera', 'paused', 'this is a copy of another database', 'the new server waits until somebody says that it takes over');
is( $new->safe_psql('city', q{SELECT severity || ' ' || remedy FROM detect.health() WHERE "check" = 'stream'}),
	q{warning SELECT detect.resume('camera') -- if this database is to take over}, 'health says what to type');
is($new->safe_psql('city', $quotes), $definitions, 'definitions are what they were');
is($new->safe_psql('city', 'SELECT count(*) FROM detect.dead_letter'), $letters, 'dead letters, too');
is($new->safe_psql('city', q{SELECT * FROM detect.verify_rollup('camera_per_minute')}), '', 'rollups, too');
produce(1000);
is($new->safe_psql('city', 'SELECT sum(applied_offset) FROM detect.stat_partition'), '2000', 'it has consumed nothing');
$new->safe_psql('city', q{SELECT detect.resume(stream) FROM detect.stream});
ledger_is_exact($new, 'city', $broker, 'the new server, once it has taken over');
produce(500);
ledger_is_exact($new, 'city', $broker, 'and on');
ok($new->poll_query_until('city', q{SELECT count(*) = 0 FROM detect.health('0') WHERE severity <> 'ok' AND "check" <> 'dead letters'}), 'all is green')
  or diag($new->safe_psql('city', q{SELECT * FROM detect.health('0') WHERE severity <> 'ok'}));

# The old one as it was left, in case the upgrade is not wanted after all.
$old->start;
ledger_is_exact($old, 'city', $broker, 'the old server, if it is started again, goes on where it was');
produce(500);
ledger_is_exact($_, 'city', $broker, $_->name . ': one does not disturb the other') foreach ($old, $new);

log_is_clean($_) foreach ($old, $new);
$_->stop foreach ($old, $new);
done_testing();
