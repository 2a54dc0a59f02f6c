# SASL and TLS against a real Apache Kafka: what is right, and what is wrong with
# passwords, certificates and names of hosts.  Each error can be read in stat_stream
# and tells what is wrong; mended by ALTER SERVER or ALTER USER MAPPING, the stream
# goes on.  No secret is in any log, view, error or dump but for those who may see it.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";

use DetectTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use constant {
	PASSWORD       => 'Geheim-4711',
	WRONG_PASSWORD => 'Falsch-0815',
	KEY_PASSWORD   => 'Schluessel-99',
};

my $kafka = "$DetectTest::programs/kafka";
my $dir   = "$PostgreSQL::Test::Utils::tmp_check/kafka";

skip_without_kafka();

output_of($kafka, 'secure', $dir, 'alice', PASSWORD);
my $broker = DetectTest::Kafka->start($dir);
my %listener = map { $_ => output_of($kafka, 'listener', $dir, $_) =~ s/\n//r } qw(right expired foreign wrong_host);
my $node = make_node('main');
my $authority = slurp_file("$dir/ca.pem");
my $id = 1;

sub ask
{
	my ($sql) = @_;

	return $node->safe_psql('city', $sql);
}

# What is said of the error, and remedied by what is said to be altered.
sub fails
{
	my ($change, $mend, $reason, $what, %options) = @_;

	ask($change);
	ok( $node->poll_query_until('city',
			"SELECT state IN ('connecting', 'paused', 'retrying') AND reason ~ '$reason' FROM detect.stat_stream"),
		"$what: said in stat_stream") or diag(ask('SELECT state, reason, remedy FROM detect.stat_stream'));
	note(ask('SELECT state, reason, remedy FROM detect.stat_stream'));
	like(ask('SELECT remedy FROM detect.stat_stream'), $options{remedy} // qr/./, "$what: and what to do");
	my ($rc, undef, $stderr) = $node->psql('city', "SET ROLE ops; SELECT * FROM detect.peek('city', 'secret', timeout => '30 s')");
	isnt($rc, 0, "$what: peek fails too");
	like($stderr, qr/$reason/, "$what: for the same reason");
	unlike($stderr, qr/Geheim|Falsch/, "$what: without the password");
	works($mend, $what);
	return;
}

# The stream takes what is produced.
sub works
{
	my ($mend, $what) = @_;

	ask("$mend; SELECT detect.resume('secret') FROM detect.stream WHERE paused") if $mend;
	$broker->produce_messages('secret', 'begin', { partition => 0, payload => qq({"id": $id}) }, 'commit');
	wait_for($node, 'city', 'secret');
	is(ask('SELECT max(id) FROM city.secret'), $id++, "$what: it reads");
	return;
}

$node->append_conf('postgresql.conf', "log_min_messages = debug1\nlog_statement = none\nlog_min_error_statement = panic");
$node->start;
install_detect($node, 'city');
$broker->create_topic('secret', 1);
ask(qq{
	CREATE ROLE stranger LOGIN;
	CREATE ROLE backup LOGIN;
	GRANT pg_read_all_data TO backup;
	CREATE SERVER city FOREIGN DATA WRAPPER detect_kafka OPTIONS (bootstrap_servers '$listener{right}', broker_address_family 'v4',
		security_protocol 'SASL_SSL', sasl_mechanism 'PLAIN', ssl_ca_pem '$authority');
	GRANT USAGE ON FOREIGN SERVER city TO ops, stranger;
	CREATE USER MAPPING FOR ops SERVER city OPTIONS (sasl_username 'alice', sasl_password '${\PASSWORD}');
	SET ROLE ops;
	CREATE TABLE city.secret (id int PRIMARY KEY);
	SELECT detect.create_stream('secret', server => 'city', events_table => 'city.secret')});
works('', 'PLAIN');

# a library that is too old for Kafka's SCRAM is told from a wrong password
my ($major, $minor, $patch) = output_of('kcat', '-V') =~ /librdkafka (\d+)\.(\d+)\.(\d+)/;
if ($major * 10000 + $minor * 100 + $patch >= 20601)
{
	works(q{ALTER SERVER city OPTIONS (SET sasl_mechanism 'SCRAM-SHA-256')}, 'SCRAM');
	works(q{ALTER SERVER city OPTIONS (SET sasl_mechanism 'PLAIN')}, 'PLAIN again');
}
else
{
	fails(q{ALTER SERVER city OPTIONS (SET sasl_mechanism 'SCRAM-SHA-256')}, q{ALTER SERVER city OPTIONS (SET sasl_mechanism 'PLAIN')},
		'[Aa]uthentication failed.*SCRAM', 'SCRAM', remedy => qr/cannot use SCRAM with Kafka 4: that needs 2\.6\.1/);
}
is(ask(q{SET ROLE ops; SELECT count(*) FROM detect.peek('city', 'secret')}), $id - 1, 'peek reads with the secret of its caller');

# ---------------------------------------------------------------------
# What is wrong
# ---------------------------------------------------------------------

my $mapping = 'ALTER USER MAPPING FOR ops SERVER city OPTIONS';
foreach my $mechanism ('SCRAM-SHA-256', 'PLAIN')
{
	my $server = 'ALTER SERVER city OPTIONS (SET sasl_mechanism';

	fails("$server '$mechanism'); $mapping (SET sasl_password '${\WRONG_PASSWORD}')", "$server 'PLAIN'); $mapping (SET sasl_password '${\PASSWORD}')",
		'[Aa]uthentication failed', "wrong password, $mechanism");
}
fails("$mapping (SET sasl_username 'mallory')", "$mapping (SET sasl_username 'alice')", '[Aa]uthentication failed', 'unknown user');
fails(q{ALTER SERVER city OPTIONS (SET sasl_mechanism 'SCRAM-SHA-512')}, q{ALTER SERVER city OPTIONS (SET sasl_mechanism 'PLAIN')},
	'SCRAM-SHA-512', 'a mechanism that the broker does not offer');
fails("ALTER SERVER city OPTIONS (SET bootstrap_servers '$listener{expired}')", "ALTER SERVER city OPTIONS (SET bootstrap_servers '$listener{right}')",
	'it has expired', 'expired certificate');
fails("ALTER SERVER city OPTIONS (SET bootstrap_servers '$listener{foreign}')", "ALTER SERVER city OPTIONS (SET bootstrap_servers '$listener{right}')",
	'its authority is not among those', 'certificate of another authority');
fails("ALTER SERVER city OPTIONS (SET bootstrap_servers '$listener{wrong_host}')", "ALTER SERVER city OPTIONS (SET bootstrap_servers '$listener{right}')",
	'it is that of another host', 'certificate of another host');
works("ALTER SERVER city OPTIONS (SET bootstrap_servers '$listener{wrong_host}', ADD ssl_endpoint_identification_algorithm 'none')",
	'another host, and nobody looks');
ask("ALTER SERVER city OPTIONS (SET bootstrap_servers '$listener{right}', DROP ssl_endpoint_identification_algorithm)");
fails(q{ALTER SERVER city OPTIONS (DROP ssl_ca_pem)}, "ALTER SERVER city OPTIONS (ADD ssl_ca_pem '$authority')",
	'its authority is not among those', 'an authority that is not named');
fails(q{ALTER SERVER city OPTIONS (SET security_protocol 'SASL_PLAINTEXT')}, q{ALTER SERVER city OPTIONS (SET security_protocol 'SASL_SSL')},
	'[Dd]isconnected|[Tt]imed out|not answer|SSL', 'no TLS where the broker wants it');
fails("$mapping (ADD ssl_key_pem 'no key', ADD ssl_key_password '${\KEY_PASSWORD}')", "$mapping (DROP ssl_key_pem, DROP ssl_key_password)",
	'key', 'a key that is none');

# files, by who may name them
works("ALTER SERVER city OPTIONS (DROP ssl_ca_pem, ADD ssl_ca_location '$dir/ca.pem')", 'the authority in a file');
fails("ALTER SERVER city OPTIONS (SET ssl_ca_location '/etc/shadow')", "ALTER SERVER city OPTIONS (SET ssl_ca_location '$dir/ca.pem')",
	'ssl\.ca\.location', 'a file that is no certificate');

# ---------------------------------------------------------------------
# Where the secret is not
# ---------------------------------------------------------------------

my $secret = qr/Geheim|Falsch|Schluessel/;
unlike(slurp_file($node->logfile), $secret, 'no secret is in the server\'s log, at debug1');
foreach my $role (qw(stranger backup))
{
	my @as = (extra_params => [ '-U', $role ]);

	is($node->safe_psql('city', 'SELECT count(umoptions) FROM pg_user_mappings', @as), '0', "$role sees no options of user mappings");
	# PostgreSQL lets members of pg_read_all_data read that table, as any other
	next if $role eq 'backup';
	my ($rc) = $node->psql('city', 'SELECT * FROM pg_user_mapping', @as);
	isnt($rc, 0, "$role cannot read pg_user_mapping");
}
my $connection = $node->connstr('city');
my $dump = output_of('pg_dump', '-U', 'backup', $connection);
like($dump, qr/CREATE USER MAPPING FOR ops SERVER city/, 'the dump of one who may not see secrets has the mapping');
unlike($dump, $secret, 'and not its secrets');
like(output_of('pg_dump', '-U', 'postgres', $connection), qr/Geheim/, 'the dump of a superuser has them');
foreach my $view (split(/\n/, ask(q{SELECT relname FROM pg_class WHERE relnamespace = 'detect'::regnamespace AND relkind IN ('r', 'v')})))
{
	unlike(ask("TABLE detect.$view"), $secret, "no secret in detect.$view");
}
unlike(ask(q{SELECT string_agg(query, '') FROM pg_stat_activity WHERE backend_type ~ '^detect'}), $secret, 'nor in what pg_stat_activity tells of workers');
unlike(ask(q{SELECT detect.get_definition('secret')}), $secret, 'nor in the definition');

log_is_clean($node);
$node->stop;
$broker->stop;
done_testing();
