# What stands before a broker that is down accepts connections and closes them: a
# connection that is lost, and nothing that somebody would have to mend here.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";

use DetectTest;
use IO::Socket::INET;
use POSIX ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node     = make_node('main');
my $listener = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 16) or die "cannot listen: $!";
my $proxy    = fork() // die "cannot fork: $!";

if ($proxy == 0)
{
	alarm($PostgreSQL::Test::Utils::timeout_default * 2);
	while (my $client = $listener->accept)
	{
		# it has said hello
		sysread($client, my $hello, 4096);
		close $client;
	}
	POSIX::_exit(0);
}

sub ask
{
	my ($sql) = @_;

	return $node->safe_psql('city', "SET ROLE ops; SET search_path = city, public; $sql");
}

$node->start;
install_detect($node, 'city');
$node->safe_psql(
	'city', "CREATE SERVER proxy FOREIGN DATA WRAPPER detect_kafka
		OPTIONS (bootstrap_servers '127.0.0.1:" . $listener->sockport . "', security_protocol 'ssl');
	GRANT USAGE ON FOREIGN SERVER proxy TO ops");
ask("CREATE TABLE event (id int PRIMARY KEY); SELECT detect.create_stream('event', server => 'proxy', topic => 'event')");
ok($node->poll_query_until('city', "SELECT reason ~ 'unexpected eof|Disconnected' FROM detect.stat_stream"), 'the handshake is told of');
is(ask('SELECT state FROM detect.stat_stream'), 'connecting', 'the stream goes on trying');

log_is_clean($node);
$node->stop;
kill 'KILL', $proxy;
waitpid($proxy, 0);
done_testing();
