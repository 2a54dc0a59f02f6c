# A stream's owner loses what its workers need: LOGIN, CONNECT, a privilege on a
# table; or becomes what they must not be, a superuser; or the stream gets
# another owner.  It stops before the next batch and says why, and what it says
# to do helps.  No worker ever works as anybody else than the owner.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";

use DetectTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node    = make_node('main');
my $next_id = 1;

sub ask
{
	my ($sql) = @_;

	return $node->safe_psql('city', $sql);
}

# Stages an event, by a superuser: who owns the stream does not matter.
sub stage
{
	ask('INSERT INTO detect_staging.event (id) VALUES (' . $next_id++ . ')');
	return;
}

# After a change the stream stops before the next event, with a reason.
sub stops
{
	my ($change, $reason, $remedy, $what) = @_;

	ask($change);
	stage();
	stream_is($node, 'city', 'event', 'paused', $reason, "$what: it stops, and says why");
	like(ask("SELECT remedy FROM detect.stat_stream WHERE stream = 'event'"), $remedy, "$what: and what to do");
	is(ask('SELECT count(*) FROM city.event'), $next_id - 2, "$what: the next event waits");
	return;
}

# After it is mended the stream goes on where it stopped, as this role.
sub goes_on
{
	my ($mend, $owner, $what) = @_;

	ask("$mend; SELECT detect.resume('event')");
	wait_for($node, 'city', 'event');
	is( ask('SELECT count(*), max(session), max(role), max(is_super) FROM city.event WHERE id >= ' . ($next_id - 1)),
		"1|$owner|$owner|" . ($what =~ /superuser/ ? 'on' : 'off'),
		"$what: it goes on as $owner");
	is(ask('SELECT count(*) FROM city.event'), $next_id - 1, "$what: nothing is lost");
	return;
}

$node->start;
install_detect($node, 'city');
ask(q{
	CREATE ROLE keeper LOGIN;
	CREATE ROLE shadow NOLOGIN;
	CREATE ROLE stranger LOGIN;
	GRANT ALL ON SCHEMA city TO keeper, shadow;
	CREATE TABLE city.lookup (id int PRIMARY KEY);
	GRANT SELECT ON city.lookup TO ops, keeper;
	SET ROLE ops;
	CREATE TABLE city.event (id int PRIMARY KEY, session name, role name, is_super text);
	CREATE FUNCTION city.note() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		new.session := session_user;
		new.role := current_user;
		new.is_super := current_setting('is_superuser');
		RETURN new;
	END $$;
	CREATE TRIGGER note BEFORE INSERT ON city.event FOR EACH ROW EXECUTE FUNCTION city.note();
	SELECT detect.create_stream('event', server => '', columns => 'id int',
		query => 'SELECT b.id FROM batch b LEFT JOIN city.lookup l USING (id)')});
stage();
wait_for($node, 'city', 'event');

# ---------------------------------------------------------------------
# The owner loses something
# ---------------------------------------------------------------------

stops('ALTER ROLE ops NOLOGIN', 'role "ops", which owns the stream, may not log in', qr/ALTER ROLE ops LOGIN/, 'LOGIN');
goes_on('ALTER ROLE ops LOGIN', 'ops', 'LOGIN');

stops('REVOKE CONNECT ON DATABASE city FROM PUBLIC', 'may not connect to this database', qr/GRANT CONNECT ON DATABASE city TO ops/, 'CONNECT');
goes_on('GRANT CONNECT ON DATABASE city TO ops', 'ops', 'CONNECT');

# CONNECT that comes from a group goes with it
ask('CREATE ROLE staff; GRANT CONNECT ON DATABASE city TO staff; GRANT staff TO ops; REVOKE CONNECT ON DATABASE city FROM ops');
stage();
wait_for($node, 'city', 'event');
stops('REVOKE staff FROM ops', 'may not connect to this database', qr/GRANT CONNECT/, 'a membership');
goes_on('GRANT CONNECT ON DATABASE city TO PUBLIC', 'ops', 'a membership');

stops('REVOKE SELECT ON city.lookup FROM ops', 'permission denied for table lookup', qr/detect\.resume/, 'a table of the query');
goes_on('GRANT SELECT ON city.lookup TO ops', 'ops', 'a table of the query');

stops('REVOKE INSERT ON city.event FROM ops', 'permission denied for table event', qr/detect\.resume/, 'the events table');
goes_on('GRANT INSERT ON city.event TO ops', 'ops', 'the events table');

stops('REVOKE USAGE ON SCHEMA city FROM ops; ALTER SCHEMA city OWNER TO CURRENT_USER; REVOKE ALL ON SCHEMA city FROM ops',
	'permission denied for schema city', qr/detect\.resume/, 'the schema');
goes_on('GRANT ALL ON SCHEMA city TO ops', 'ops', 'the schema');

# row security that the owner is subject to
stops('ALTER TABLE city.event ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY; CREATE POLICY all_of_it ON city.event USING (true)',
	'row security of table "event" applies to the owner', qr/NO FORCE ROW LEVEL SECURITY/, 'row security');
goes_on('ALTER TABLE city.event NO FORCE ROW LEVEL SECURITY, DISABLE ROW LEVEL SECURITY', 'ops', 'row security');

# ---------------------------------------------------------------------
# A superuser
# ---------------------------------------------------------------------

stops('ALTER ROLE ops SUPERUSER', 'role "ops", which owns the stream, is a superuser',
	qr/OWNER TO a role that is no superuser, or set detect\.superuser_streams/, 'superuser');
$node->append_conf('postgresql.conf', 'detect.superuser_streams = on');
$node->reload;
$node->poll_query_until('city', "SELECT current_setting('detect.superuser_streams') = 'on'");
goes_on('SELECT 1', 'ops', 'superuser, allowed');
$node->append_conf('postgresql.conf', 'detect.superuser_streams = off');
$node->reload;
$node->poll_query_until('city', "SELECT current_setting('detect.superuser_streams') = 'off'");
stream_is($node, 'city', 'event', 'paused', 'is a superuser', 'superuser, not allowed any more: it stops by itself');
stage();
goes_on('ALTER ROLE ops NOSUPERUSER', 'ops', 'a plain role again');

# ---------------------------------------------------------------------
# Another owner
# ---------------------------------------------------------------------

my ($rc, undef, $stderr) = $node->psql('city', 'DROP ROLE ops');
isnt($rc, 0, 'the owner cannot be dropped');
like($stderr, qr/owner of view detect_query\.event/, 'and why');

($rc, undef, $stderr) = $node->psql('city', 'SET ROLE ops; ALTER VIEW detect_query.event OWNER TO keeper');
like($stderr, qr/must be member of role "keeper"|must be able to SET ROLE "keeper"/, 'nobody gives a stream to a role that he is no member of');
($rc, undef, $stderr) = $node->psql('city', 'SET ROLE stranger; ALTER VIEW detect_query.event OWNER TO stranger');
like($stderr, qr/must be owner of view event/, 'nobody takes one');

# all goes to another role: the stream is that role's from the next batch on
my $old_pid = worker_pid($node, 'city', 'event');
ask('REASSIGN OWNED BY ops TO keeper');
wait_for_exit($old_pid);
stage();
wait_for($node, 'city', 'event');
is(ask('SELECT session, role, is_super FROM city.event ORDER BY id DESC LIMIT 1'), 'keeper|keeper|off', 'REASSIGN OWNED: it runs as the new owner');
is(ask("SELECT owner FROM detect.stream"), 'keeper', 'REASSIGN OWNED: and says so');

# to one who cannot work
stops('REASSIGN OWNED BY keeper TO shadow', 'role "shadow", which owns the stream, may not log in', qr/ALTER ROLE shadow LOGIN/, 'REASSIGN OWNED to a group');
goes_on('ALTER ROLE shadow LOGIN; GRANT SELECT ON city.lookup TO shadow', 'shadow', 'REASSIGN OWNED to a group');

# the view alone: what it needs beside is missing
stops('ALTER VIEW detect_query.event OWNER TO ops', 'permission denied', qr/detect\.resume/, 'the view alone');
goes_on('REASSIGN OWNED BY shadow TO ops', 'ops', 'the view alone');

is(ask("SELECT count(*) FROM pg_stat_activity WHERE backend_type ~ '^detect (apply|consume|maintain)' AND usename <> 'ops'"),
	'0', 'no worker works as anybody else');
is(ask("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'detect launcher' AND datname IS NULL"),
	'1', 'the launcher is in no database');

# the owner takes all with him
$old_pid = worker_pid($node, 'city', 'event');
ask('DROP OWNED BY ops CASCADE');
wait_for_exit($old_pid);
is(ask('SELECT count(*) FROM detect._stream'), '0', 'DROP OWNED: the stream is gone');
ok($node->poll_query_until('city', "SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type ~ '^detect (apply|consume|maintain)'"),
	'and so are its workers');

# ---------------------------------------------------------------------
# pg_upgrade
# ---------------------------------------------------------------------

# the server as pg_upgrade starts it: nobody works
$node->stop;
$node->append_conf('postgresql.conf', "listen_addresses = ''");
system_or_bail('pg_ctl', '-w', '-D', $node->data_dir, '-l', $node->logfile, '-o', '-b', 'start');
is(ask("SELECT count(*) FROM pg_stat_activity WHERE backend_type ~ '^detect'"), '0', 'binary upgrade: no launcher');
is(ask("SELECT count(*) FROM pg_settings WHERE name = 'detect.max_streams'"), '0', 'binary upgrade: the library does nothing');
system_or_bail('pg_ctl', '-w', '-D', $node->data_dir, 'stop');

log_is_clean($node);
done_testing();
