# Edits that nobody looks at when they are made: of a partition that is detached and
# attached again at once, of one that was counted by no rollup, of a transaction that is
# older than the stream, of a stream that is dropped.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";

use DetectTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use constant PER_HOUR => q{SELECT date_trunc('hour', at) AS hour, count(*) AS events, sum(n) AS n FROM EVENTS GROUP BY 1};

my $node = make_node('main');

sub ask
{
	my ($sql) = @_;

	return $node->safe_psql('city', "SET ROLE ops; SET search_path = city, public; $sql");
}

# A stream that SQL feeds over a table partitioned by days, with its rollup.
sub create_fed
{
	my ($name) = @_;

	ask("CREATE TABLE $name (id int NOT NULL, at timestamptz NOT NULL, n int) PARTITION BY RANGE (at);
		CREATE TABLE ${name}_old PARTITION OF $name FOR VALUES FROM ('2026-01-01 00:00+00') TO ('2026-01-02 00:00+00');
		CREATE TABLE ${name}_new PARTITION OF $name FOR VALUES FROM ('2026-01-02 00:00+00') TO ('2026-01-03 00:00+00')");
	create_stream($name);
	create_rollup($name, "${name}_per_hour") unless $name eq 'counted';
	stage($name, map { [ $_, $_ <= 10 ? '2026-01-01 10:00+00' : '2026-01-02 10:00+00' ] } 1 .. 20);
	is(ask("SELECT count(*) FROM $name"), 20, "$name: events");
	return;
}

sub create_stream
{
	my ($name) = @_;

	ask("SELECT detect.create_stream('$name', server => '', key => '{id}', event_time => 'at')");
	return;
}

sub create_rollup
{
	my ($name, $rollup) = @_;
	my $query = PER_HOUR =~ s/EVENTS/$name/r;

	ask("SELECT detect.create_rollup('$rollup', \$\$ $query \$\$); SELECT detect.wait_for('$name', '60s')");
	return;
}

# Stages rows of an id and a time, and waits until they are applied.
sub stage
{
	my ($name, @rows) = @_;
	my $values = join(', ', map { "($_->[0], '$_->[1]', 1)" } @rows);

	ask("INSERT INTO detect_staging.$name (id, at, n) VALUES $values; SELECT detect.wait_for('$name', '60s')");
	return;
}

# A rollup, and each event once.
sub is_right
{
	my ($name, $what, $rollup) = @_;
	my $query = PER_HOUR =~ s/EVENTS/$name/r;

	$rollup //= "${name}_per_hour";
	ask("SELECT detect.wait_for('$name', '60s')");
	is(ask("SELECT count(*) FROM ((TABLE $rollup EXCEPT ALL ($query)) UNION ALL (($query) EXCEPT ALL TABLE $rollup)) d"), 0, "$what: the rollup is right")
	  or diag(ask("TABLE $rollup; $query"));
	is(ask("SELECT count(*) - count(DISTINCT id) FROM $name"), 0, "$what: each event is there once");
	return;
}

use constant {
	DETACH => 'ALTER TABLE %1$s DETACH PARTITION %1$s_new',
	ATTACH => q{ALTER TABLE %1$s ATTACH PARTITION %1$s_new FOR VALUES FROM ('2026-01-02 00:00+00') TO ('2026-01-03 00:00+00')},
};

$node->start;
install_detect($node, 'city');

# ---------------------------------------------------------------------
# Detached, edited and attached again between two looks
# ---------------------------------------------------------------------
create_fed('again');
ask(sprintf("BEGIN; @{[DETACH]}; DELETE FROM %1\$s_new WHERE id = 11; INSERT INTO %1\$s_new VALUES (100, '2026-01-02 11:00+00', 1); @{[ATTACH]}; COMMIT", 'again'));
stage('again', [ 11, '2026-01-02 10:00+00' ], [ 100, '2026-01-02 11:00+00' ]);
is(ask('SELECT count(*) FILTER (WHERE id = 11), count(*) FILTER (WHERE id = 100) FROM again'), '1|1', 'what was deleted comes again, what was inserted is known');
is_right('again', 'edited meanwhile');
ask(sprintf("BEGIN; @{[DETACH]}; TRUNCATE %1\$s_new; @{[ATTACH]}; COMMIT", 'again'));
stage('again', [ 200, '2026-01-01 11:00+00' ]);
is_right('again', 'truncated meanwhile');
is(ask('SELECT count(*) FROM again'), 11, 'and it is empty');
is($node->safe_psql('city', 'SELECT count(*) FROM detect._edit'), 0, 'nothing stays noted');

# ---------------------------------------------------------------------
# Attached with triggers of its own, and counted by nobody
# ---------------------------------------------------------------------
create_fed('counted');
ask(sprintf(DETACH, 'counted'));
create_rollup('counted', 'counted_later');
stage('counted', [ 29, '2026-01-01 11:00+00' ]);
is_right('counted', 'made without a partition', 'counted_later');
ask(sprintf(ATTACH, 'counted'));
stage('counted', [ 30, '2026-01-01 11:00+00' ]);
is_right('counted', 'with it', 'counted_later');

# ---------------------------------------------------------------------
# A transaction that is older than the stream
# ---------------------------------------------------------------------
my $session = $node->background_psql('city');
$session->query_safe('SET ROLE ops; SET search_path = city, public; BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1');
create_fed('late');
$session->query_safe(q{INSERT INTO late VALUES (50, '2026-01-02 12:00+00', 1); COMMIT});
$session->quit;
stage('late', [ 50, '2026-01-02 12:00+00' ]);
is_right('late', 'edited under an old snapshot');

# ---------------------------------------------------------------------
# A stream that is dropped with edits that nobody has seen
# ---------------------------------------------------------------------
create_fed('dropped');
ask(q{SELECT detect.pause('dropped'); DELETE FROM dropped WHERE id IN (1, 11); SELECT detect.drop_stream('dropped')});
create_stream('dropped');
stage('dropped', [ 60, '2026-01-02 13:00+00' ]);
is_right('dropped', 'another stream of the table');

# ---------------------------------------------------------------------
# Rows with values that are no jsonb
# ---------------------------------------------------------------------
ask(q{CREATE TABLE odd (id int PRIMARY KEY, doc json); INSERT INTO odd VALUES (1, '{"a":"\u0000"}'), (2, '{}');
	SELECT detect.create_stream('odd', server => ''); DELETE FROM odd WHERE id = 1;
	INSERT INTO detect_staging.odd (id) VALUES (1), (2); SELECT detect.wait_for('odd', '60s')});
is(ask('SELECT string_agg(id::text, $$ $$ ORDER BY id) FROM odd'), '1 2', 'a row that is no jsonb can be deleted, and comes again');

log_is_clean($node);
$node->stop;
done_testing();
