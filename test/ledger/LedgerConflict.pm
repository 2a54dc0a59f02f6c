# Conflicts with other sessions, as they come about in life: a lock that is held,
# locks that are taken in the other order, a row that moves away, code that waits
# too long, and worker slots that somebody else has.
#
# Nobody waits for a time.  A rival does his harm once somebody waits for him, or
# once all is applied: a step may have nothing that meets him.  Who builds an index
# waits for the end of all transactions, which is no conflict.
package LedgerConflict;

use strict;
use warnings;

use DetectTest;
use LedgerGive;

# Until the one that waited has given up.
my $until_gone = 'LOOP EXIT WHEN NOT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND virtualtransaction = waiter); END LOOP;';

# Each conflict, for an events table and the rival's own: what a trigger of the
# events table does, if it takes one; what the rival holds before messages come,
# and does when he is waited for; a setting that the server has meanwhile.
my %conflicts = (
	# 55P03
	held => sub {
		my ($events) = @_;
		return (hold => "LOCK TABLE $events IN SHARE MODE", harm => $until_gone);
	},
	# 40P01: the rival looks for a deadlock so late that the applier is chosen; one that
	# has looked before the rival came looks no more, and the rival gives up
	crossed => sub {
		my ($events, $rival) = @_;
		return (
			trigger => "LOCK TABLE $rival IN SHARE MODE",
			hold    => "SET LOCAL deadlock_timeout = '1h'; LOCK TABLE $rival IN EXCLUSIVE MODE; SET LOCAL lock_timeout = '5s'",
			harm    => "BEGIN LOCK TABLE $events IN SHARE MODE; EXCEPTION WHEN lock_not_available THEN waiter := NULL; END;");
	},
	# 40001: who waits for a row that then is in another partition
	moved => sub {
		my ($events, $rival) = @_;
		return (trigger => "UPDATE $rival SET n = n + 1", hold => "UPDATE $rival SET side = 3 - side", harm => '');
	},
	# 57014
	slow => sub {
		my ($events, $rival) = @_;
		return (
			trigger => "LOCK TABLE $rival IN SHARE MODE",
			hold    => "LOCK TABLE $rival IN EXCLUSIVE MODE",
			harm    => $until_gone,
			setting => 'detect.batch_timeout = 2s');
	});

# The rival's table, and a trigger whose waits have no end of their own.
sub prepare
{
	my ($run, $events, $rival, $trigger) = @_;
	my $make_trigger = $trigger && "
		CREATE OR REPLACE FUNCTION $rival() RETURNS trigger LANGUAGE plpgsql SET lock_timeout = 0 AS
			\$\$ BEGIN $trigger; RETURN NULL; END \$\$;
		CREATE OR REPLACE TRIGGER rival AFTER INSERT ON $events FOR EACH STATEMENT EXECUTE FUNCTION $rival()";

	$run->{node}->safe_psql($run->{database}, "
		SET client_min_messages = warning;
		SET ROLE ops;
		CREATE TABLE IF NOT EXISTS $rival (side int, n int) PARTITION BY LIST (side);
		CREATE TABLE IF NOT EXISTS ${rival}_1 PARTITION OF $rival FOR VALUES IN (1);
		CREATE TABLE IF NOT EXISTS ${rival}_2 PARTITION OF $rival FOR VALUES IN (2);
		INSERT INTO $rival SELECT 1, 0 WHERE NOT EXISTS (SELECT FROM $rival);
		@{[ $make_trigger // '' ]}");
	return;
}

# Adds settings to the server's.
sub configure
{
	my ($run, @settings) = @_;

	$run->{node}->append_conf('postgresql.conf', join("\n", @settings));
	$run->{node}->reload;
	return;
}

# The applier of the step's stream meets a rival while messages come.  Returns
# whether it has met him.
sub meet
{
	my ($run, $step, $name) = @_;
	my $stream = $step->{stream};
	my ($events, $rival) = ($stream->{table}, "city.$stream->{name}_rival");
	my %conflict = $conflicts{$name}->($events, $rival);
	my $session  = $run->{node}->background_psql($run->{database});

	prepare($run, $events, $rival, $conflict{trigger});
	configure($run, $conflict{setting}) if $conflict{setting};
	$session->query_safe("BEGIN; $conflict{hold}");
	LedgerGive::give($run, $step);
	my $is_over = LedgerGive::is_applied_sql($run);
	my $met = $session->query_safe("
		CREATE TEMP TABLE met AS SELECT 0 AS times;
		DO \$\$
		DECLARE
			waiter text;
		BEGIN
			LOOP
				SELECT virtualtransaction INTO waiter FROM pg_locks
				WHERE NOT granted AND locktype <> 'virtualxid' AND pg_backend_pid() = ANY (pg_blocking_pids(pid)) LIMIT 1;
				EXIT WHEN waiter IS NOT NULL OR ($is_over);
			END LOOP;
			IF waiter IS NOT NULL THEN
				$conflict{harm}
				UPDATE met SET times = 1 WHERE waiter IS NOT NULL;
			END IF;
		END \$\$;
		TABLE met;
		COMMIT; DROP TABLE met");
	$session->quit;
	configure($run, 'detect.batch_timeout = 1min') if $conflict{setting};
	$run->{node}->safe_psql($run->{database}, "DROP TRIGGER IF EXISTS rival ON $events");
	return $met;
}

# ---------------------------------------------------------------------
# Worker slots
# ---------------------------------------------------------------------

# Another session takes all worker slots that are free, for parallel workers that
# wait until the session that keeps them does not.
sub take_slots
{
	my ($run) = @_;
	my $hog = $run->{node}->background_psql($run->{database});

	$hog->query_safe('SET parallel_leader_participation = off; SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0;
		SET min_parallel_table_scan_size = 0; SET max_parallel_workers = 100; SET max_parallel_workers_per_gather = 100');
	$hog->query_until(qr/^taking$/m, "\\echo taking\nSELECT count(rival_waits()) FROM rival_pages;\n");
	return $hog;
}

# The step's stream loses this worker, and no other can start while messages come:
# the launcher stands still until the slot is taken.  Returns whether it was.
sub use_up_slots
{
	my ($run, $step, $pid) = @_;
	my $stream = $step->{stream}{name};
	my ($node, $database) = @$run{qw(node database)};
	my $launcher_is = "FROM pg_stat_activity WHERE backend_type = 'detect launcher'";

	# it starts again some seconds after it was ended
	$node->poll_query_until($database, "SELECT count(*) = 1 $launcher_is") or die "no launcher runs";

	my $launcher = $node->safe_psql($database, "SELECT pid $launcher_is");
	my $keeper   = $node->background_psql($database);
	my @hogs;

	# a page for each worker that could be
	$node->safe_psql($database, q{
		SET client_min_messages = warning;
		CREATE TABLE IF NOT EXISTS rival_gate (n int);
		CREATE TABLE IF NOT EXISTS rival_pages (filler text) WITH (parallel_workers = 100);
		ALTER TABLE rival_pages ALTER filler SET STORAGE PLAIN;
		INSERT INTO rival_pages SELECT repeat('x', 5000) FROM generate_series(1, 100) WHERE NOT EXISTS (SELECT FROM rival_pages);
		CREATE OR REPLACE FUNCTION rival_waits() RETURNS int LANGUAGE plpgsql PARALLEL SAFE AS
			$$ BEGIN PERFORM FROM rival_gate; RETURN 1; END $$;});
	$keeper->query_safe('BEGIN; LOCK TABLE rival_gate');
	push @hogs, take_slots($run);
	kill('STOP', $launcher) or die "could not stop process $launcher: $!";
	$node->safe_psql($database, "SELECT pg_terminate_backend($pid)");
	wait_for_exit($pid);
	push @hogs, take_slots($run);
	my $taken = $node->poll_query_until($database,
		"SELECT count(*) = 2 FROM (SELECT leader_pid FROM pg_stat_activity WHERE backend_type = 'parallel worker' GROUP BY 1) l");
	kill('CONT', $launcher);
	$node->safe_psql($database, "SELECT detect.resume('$stream')");
	LedgerGive::give($run, $step);
	my $missed = $taken && $node->poll_query_until($database,
		"SELECT state = 'waiting for a worker' FROM detect.stat_stream WHERE stream = '$stream'");
	$keeper->query_safe('ROLLBACK');
	$_->quit foreach $keeper, @hogs;
	return $missed;
}

1;
