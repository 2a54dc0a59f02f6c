# Values of rows are shown to the owner of a stream alone: in dead letters, reasons,
# problems and history, and never in the server's log at its default level.  Two
# tenants, whose every row holds a name that must not be seen elsewhere.

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
	my ($sql, $role) = @_;

	return $node->safe_psql('city', $sql, extra_params => [ '-U', $role // 'postgres' ]);
}

$node->start;
install_detect($node, 'city');
ask('CREATE ROLE stranger LOGIN; CREATE ROLE watcher LOGIN IN ROLE pg_monitor');
foreach my $tenant (qw(one two))
{
	my $name = "Secret$tenant";

	ask("CREATE ROLE $tenant LOGIN IN ROLE detect_admin; CREATE SCHEMA $tenant AUTHORIZATION $tenant");
	ask(qq{
		SET search_path = $tenant;
		CREATE TABLE person (id int, born timestamptz, name text, age text, PRIMARY KEY (id, born), CHECK (name <> 'check $name'))
			PARTITION BY RANGE (born);
		CREATE UNIQUE INDEX ON person (name, born);
		CREATE TABLE seen (name text PRIMARY KEY, v int NOT NULL);
		CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS \$\$
		BEGIN
			IF new.name ~ 'raise' THEN RAISE 'refused: %', new.name USING DETAIL = new.name, HINT = new.name; END IF;
			IF new.name ~ 'odd' THEN RAISE 'odd: %', new.name USING ERRCODE = 'ZZ001'; END IF;
			RETURN new;
		END \$\$;
		CREATE TRIGGER refuse BEFORE INSERT ON person FOR EACH ROW EXECUTE FUNCTION refuse();
		CREATE FUNCTION as_number(text) RETURNS int STABLE LANGUAGE plpgsql AS \$\$ BEGIN RETURN \$1::int; END \$\$;
		SELECT detect.create_stream('person_$tenant', server => '', events_table => 'person', partition_interval => '1 day');
		SELECT detect.create_rollup('ages_$tenant', 'SELECT sum($tenant.as_number(age)) AS ages FROM person');
		SELECT detect.create_stream('seen_$tenant', server => '', events_table => 'seen', columns => 'name text, v text',
			query => 'SELECT b.name, b.v::int AS v FROM batch b');
		SELECT detect.wait_for_rollup('ages_$tenant')}, $tenant);
	ask(qq{
		INSERT INTO detect_staging.person_$tenant (id, born, name, age) VALUES
			(1, now(), 'check $name', 1), (2, now(), 'raise $name', 2), (3, now(), 'odd $name', 3), (4, now(), '$name', 4),
			(5, (SELECT max(born) FROM $tenant.person), '$name', 5), (NULL, now(), 'null $name', 6), (6, '5000-01-01', 'far $name', 7);
		SELECT detect.wait_for('person_$tenant');
		INSERT INTO detect_staging.person_$tenant (id, born, name, age) VALUES (7, now(), 'rollup $name', 'age of $name');
		INSERT INTO detect_staging.seen_$tenant (name, v) VALUES ('$name', 'v of $name'), ('all is well', 1);
		SELECT detect.wait_for('person_$tenant');
		SELECT detect.wait_for('seen_$tenant');
		SELECT detect.pause('seen_$tenant')}, $tenant);
	# keys that are there twice keep an index from being built
	ask(qq{
		SET search_path = $tenant;
		CREATE TABLE twice (name text, at timestamptz) PARTITION BY RANGE (at);
		CREATE TABLE twice_past PARTITION OF twice FOR VALUES FROM ('2024-01-01') TO ('2024-01-02');
		INSERT INTO twice SELECT '$name', '2024-01-01 12:00Z' FROM generate_series(1, 2);
		SELECT detect.create_stream('twice_$tenant', server => '', events_table => 'twice', key => '{name}', partition_interval => '1 day')}, $tenant);
	ok($node->poll_query_until('city', "SELECT detail ~ '$name' FROM detect.problem WHERE stream = 'twice_$tenant'"), "$tenant has a problem that names a key")
	  or diag(ask('TABLE detect.problem'));
}

# ---------------------------------------------------------------------
# Each sees his own
# ---------------------------------------------------------------------

my @views = qw(stream rollup locator stat_stream stat_partition stat_rollup stat_worker stat_locator dead_letter problem history);
my %views_of = (stranger => '', one => 'one', two => 'two');

foreach my $role (sort keys %views_of)
{
	my $own = $views_of{$role};

	foreach my $view (@views)
	{
		my $said = ask("SELECT x::text FROM detect.$view x", $role);
		my @others = grep { $_ ne $own && $said =~ /_$_|Secret$_/ } qw(one two);

		is("@others", '', "$role sees nothing of others in detect.$view");
	}
	foreach my $function ('_slots()', '_workers()', '_locators()')
	{
		unlike(ask("SELECT x::text FROM detect.$function x", $role), $own eq 'one' ? qr/Secrettwo/ : qr/Secretone/, "$role sees nothing of others in detect.$function");
	}
}
foreach my $tenant (qw(one two))
{
	cmp_ok(ask('SELECT count(*) FROM detect.dead_letter WHERE reason ~ current_user OR payload::text IS NOT NULL', $tenant), '>=', 5, "$tenant sees his dead letters");
	like(ask('SELECT error FROM detect.stat_rollup', $tenant), qr/age of Secret$tenant/, "$tenant sees why his rollup fails");
	is(ask('SELECT count(DISTINCT stream) FROM detect.stat_stream', $tenant), '3', "$tenant sees his streams");
	cmp_ok(ask('SELECT count(*) FROM detect.history', $tenant), '>', 3, "$tenant sees what he did");
}
is(ask('SELECT count(*) FROM detect.dead_letter', 'watcher'), '0', 'pg_monitor sees no dead letters');
is(ask('SELECT count(*) FROM detect.stat_stream', 'watcher'), '6', 'but all streams');

# ---------------------------------------------------------------------
# The log has none of it
# ---------------------------------------------------------------------

my @lines = grep { /Secret/ } split(/\n/, slurp_file($node->logfile));
is(join("\n", @lines), '', 'no value of a row is in the log');
like(slurp_file($node->logfile), qr/rollup "ages_one" is set aside: SQLSTATE 22P02, whose message may show a row/, 'which tells of the failures all the same');
log_is_clean($node);
done_testing();
