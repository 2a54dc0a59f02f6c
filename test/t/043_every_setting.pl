# Every setting there is.  Of the Kafka library: what is not on our list is refused by
# its name, with dots or underscores, on servers and user mappings.  Of detect: nonsense
# is refused, and the least and the greatest value are taken at reload, by workers that
# run; the events are the same.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";

use DetectTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $broker = DetectTest::Broker->start();
my $node   = make_node('main');
my @lines  = camera_lines(4000);

sub ask
{
	my ($sql) = @_;

	return $node->safe_psql('city', $sql);
}

sub produce
{
	my ($count) = @_;

	$broker->produce('camera', splice(@lines, 0, $count));
	return;
}

$node->start;
install_detect($node, 'city');
$broker->create_topic('camera', 2);
create_camera($node, 'city', $broker, consumers => 1);
produce(1000);
ledger_is_exact($node, 'city', $broker, 'the stream as it is');

# ---------------------------------------------------------------------
# The Kafka library's
# ---------------------------------------------------------------------

# besides those that it does not list
my %property = map { $_ => 1 } 'test.mock.num.brokers', 'test.mock.broker.rtt', map { /^([a-z]\S*) +\|/ ? $1 : () } split(/\n/, output_of('kcat', '-X', 'list'));
cmp_ok(scalar(keys %property), '>', 130, 'properties that the library has');
ok($property{$_}, "$_ is among them")
  foreach ('plugin.library.paths', 'ssl.engine.location', 'sasl.kerberos.kinit.cmd', 'sasl.kerberos.keytab', 'ssl.keystore.location', 'ssl.crl.location',
	'offset.store.path', 'sasl.oauthbearer.token.endpoint.url', 'enable.ssl.certificate.verification', 'debug');

# Members of pg_read_server_files and detect_admin, who may whatever anybody may but a
# superuser; what CREATE says of each.
my $names = join(',', map { ($_, tr/./_/r) } sort keys %property);
my $try = q{
	CREATE ROLE admin LOGIN IN ROLE detect_admin, pg_read_server_files;
	SET ROLE admin;
	CREATE SERVER open FOREIGN DATA WRAPPER detect_kafka OPTIONS (bootstrap_servers 'kafka:9092');
	CREATE TEMP TABLE said (place text, name text, state text, message text);
	DO $$
	DECLARE
		name text;
		state text;
		message text;
	BEGIN
		FOREACH name IN ARRAY string_to_array('NAMES', ',') LOOP
			FOR i IN 0 .. 1 LOOP
				BEGIN
					EXECUTE format(CASE i WHEN 0 THEN 'CREATE SERVER s FOREIGN DATA WRAPPER detect_kafka OPTIONS (%1$s%2$I %3$L)'
						ELSE 'CREATE USER MAPPING FOR CURRENT_USER SERVER open OPTIONS (%2$I %3$L)' END,
						CASE WHEN name <> 'bootstrap_servers' THEN $o$bootstrap_servers 'kafka:9092', $o$ ELSE '' END, name, '1');
					RAISE 'accepted' USING ERRCODE = 'ZZ001';
				EXCEPTION WHEN OTHERS THEN
					GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT;
					INSERT INTO said VALUES ((ARRAY['server', 'mapping'])[i + 1], name, state, message);
				END;
			END LOOP;
		END LOOP;
	END $$;
	SELECT place, name, state, message FROM said ORDER BY place DESC, name};
my (%accepted, @unclear);
foreach my $row (map { [ split(/\|/) ] } split(/\n/, ask($try =~ s/NAMES/$names/r)))
{
	my ($place, $name, $state, $message) = @$row;

	# refused for its value, or not at all, is not refused for its name
	$accepted{$name} = 1 if $state ne 'HV00D';
	push @unclear, "@$row" if $state eq 'HV00D' && $message !~ /"\Q$name\E"/;
}
is( join(' ', sort keys %accepted),
	'bootstrap_servers broker_address_family client_id client_rack fetch_max_bytes fetch_message_max_bytes fetch_min_bytes fetch_wait_max_ms queued_max_messages_kbytes '
	  . 'sasl_mechanism sasl_password sasl_username security_protocol socket_timeout_ms ssl_ca_location ssl_ca_pem ssl_certificate_location ssl_certificate_pem '
	  . 'ssl_cipher_suites ssl_endpoint_identification_algorithm ssl_key_location ssl_key_password ssl_key_pem',
	'options that there are, and no others');
is(join("\n", @unclear), '', 'what is refused is named');

# ---------------------------------------------------------------------
# Ours
# ---------------------------------------------------------------------

my $ours = q{FROM pg_settings WHERE name ~ '^detect\.' AND name <> 'detect.fault_point'};
foreach my $row (map { [ split(/\|/, $_, -1) ] } split(/\n/, ask("SELECT name, min_val, max_val, vartype $ours ORDER BY name")))
{
	my ($name, $least, $greatest, $type) = @$row;

	foreach my $nonsense ($type eq 'bool' ? ('maybe') : ('lots', '5 parsecs', $least - 1, $greatest + 1))
	{
		my ($rc, $stdout, $stderr) = $node->psql('city', "ALTER SYSTEM SET $name = '$nonsense'");
		like($stderr, qr/ERROR:.*\Q"$name"\E/, "refused: $name = '$nonsense'");
	}
}
my ($rc, $stdout, $stderr) = $node->psql('city', 'ALTER SYSTEM SET detect.max_batch_row = 5');
like($stderr, qr/unrecognized configuration parameter "detect.max_batch_row"/, 'a name that is misspelt');

my @pids = map { worker_pid($node, 'city', 'camera', $_) } ('apply', 'consume');
foreach my $bound ('min_val', 'max_val')
{
	ask($_) foreach split(/\n/, ask("SELECT format('ALTER SYSTEM SET %s = %L', name, $bound) $ours AND context IN ('sighup', 'user') AND vartype <> 'bool'"));
	$node->reload;
	ok($node->poll_query_until('city', "SELECT bool_and(setting = $bound) $ours AND context IN ('sighup', 'user') AND vartype <> 'bool'"), "all settings are $bound");
	# once the workers have them, too: with one row a commit there are as many of both
	my $before = ask(q{SELECT batches FROM detect.stat_stream});
	produce(200);
	ledger_is_exact($node, 'city', $broker, "the same events with $bound");
	cmp_ok(ask(q{SELECT batches FROM detect.stat_stream}) - $before, '>=', 150, 'workers that run have them') if $bound eq 'min_val';
}
is(join(' ', map { worker_pid($node, 'city', 'camera', $_) } ('apply', 'consume')), "@pids", 'nobody was started again for it');
ask('ALTER SYSTEM RESET ALL');
$node->reload;
produce(500);
ledger_is_exact($node, 'city', $broker, 'and with none of them');
is(ask(q{SELECT string_agg(name, ' ' ORDER BY name) } . "$ours AND context = 'postmaster'"), 'detect.max_streams', 'one setting alone needs a restart');

log_is_clean($node);
$node->stop;
done_testing();
