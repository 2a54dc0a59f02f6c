# The faults that a step of a plan can have, as a table, and how each is done.
package LedgerFault;

use strict;
use warnings;

use DetectTest;
use FaultPoint;
use LedgerChange;
use LedgerConflict;
use LedgerDefinition;
use LedgerGive;
use LedgerOutcome;

# Each fault: how often it is taken, and what happens before the messages of the
# step are produced, after that, and when a part of them is applied.  A fault
# has one of the streams, and a number from 0 to 1 for whatever it has to choose.
our %faults = (
	'kill apply'       => { weight => 3, strike => sub { kill_duty(@_, 'apply') } },
	'kill consume'     => { weight => 2, strike => sub { kill_duty(@_, 'consume') } },
	'kill launcher'    => { weight => 1, strike => sub { kill_process(@_, 'launcher') } },
	'kill a client'    => { weight => 1, strike => sub { kill_process(@_, 'client') } },
	'kill postmaster'  => { weight => 2, strike => sub { strike($_[0]{node}, 'postmaster') } },
	'immediate stop'   => { weight => 2, strike => sub { strike($_[0]{node}, 'immediate') } },
	'fast restart'     => { weight => 2, strike => sub { $_[0]{node}->restart } },
	'cancel apply'     => { weight => 2, strike => sub { signal_duty(@_, 'cancel', 'apply') } },
	'cancel consume'   => { weight => 1, strike => sub { signal_duty(@_, 'cancel', 'consume') } },
	'terminate apply'  => { weight => 2, strike => sub { signal_duty(@_, 'terminate', 'apply') } },
	'terminate launcher' => { weight => 1, strike => sub { terminate_launcher(@_) } },
	'produce while stopped' => {
		weight => 1,
		before => sub { $_[0]{node}->stop('fast') },
		then   => sub { $_[0]{node}->start }
	},
	'produce while paused' => {
		weight => 2,
		before => sub { verb(@_, 'pause') },
		then   => sub { verb(@_, 'resume') }
	},
	'crash while paused' => {
		weight => 1,
		before => sub { verb(@_, 'pause') },
		then   => sub { strike($_[0]{node}, 'immediate'); verb(@_, 'resume') }
	},
	'alter consumers' => { weight => 2, strike => \&alter_consumers },
	'alter rollups'   => { weight => 2, strike => \&alter_rollups },
	'alter columns'  => { weight => 2, strike => sub { LedgerChange::make(@_, 'columns') } },
	'alter query'    => { weight => 2, strike => sub { LedgerChange::make(@_, 'query') } },
	'keep longer'    => { weight => 1, strike => sub { LedgerChange::make(@_, 'longer') } },
	'one more topic' => { weight => 1, strike => sub { LedgerChange::make(@_, 'topics') }, drawn => sub { $_[0]{drawn_topics}++ } },
	'mend and retry' => { weight => 3, strike => sub { LedgerChange::make(@_, 'mend') } },
	'retry'          => { weight => 2, strike => sub { LedgerChange::make(@_, 'retry') } },
	'purge'          => { weight => 2, strike => sub { LedgerChange::make(@_, 'purge') } },
	'other places'   => { weight => 2, strike => sub { LedgerChange::make(@_, 'places') } },
	'seek back'       => { weight => 2, strike => \&seek_back },
	'recreate'        => { weight => 2, strike => \&recreate },
	'broker down'     => { weight => 1, mock => 1, strike => \&broker_down },
	'fetch errors'    => { weight => 1, mock => 1, then => sub { $_[0]{broker}->command('error', 1, 3, 6, 5, 7) } },
	'stop apply'      => { weight => 1, before => sub { freeze(@_, 'apply') },   then => \&thaw },
	'stop consume'    => { weight => 1, before => sub { freeze(@_, 'consume') }, then => \&thaw },
	'slow broker'     => { weight => 1, mock => 1, then => sub { $_[0]{broker}->command('rtt', 0, 1200) }, strike => sub { $_[0]{broker}->command('rtt', 0, 0) } },
	'leader change'   => { weight => 1, mock => 1, then => sub { lead(@_, 2) }, strike => sub { lead(@_, 1) } },
	'no worker slot'  => { weight => 1, run => \&use_up_slots },
	(map { my $name = $_; ("$name conflict" => { weight => 1, run => sub { meet_rival(@_, $name) } }) } qw(held crossed moved slow)),
	'fault point'     => { weight => 30, run => \&fail_at_point },
	'nothing'         => { weight => 2 });

sub sql
{
	my ($run, $sql) = @_;
	return $run->{node}->safe_psql($run->{database}, $sql);
}

sub verb
{
	my ($run, $step, $verb) = @_;

	sql($run, "SELECT detect.$verb('$step->{stream}{name}')");
	return;
}

# The duty that some process of the stream has.
sub existing_duty
{
	my ($stream, $duty) = @_;
	return $stream->{definition}{consumers} > 0 ? $duty : 'apply';
}

sub duty_pid
{
	my ($run, $stream, $duty) = @_;

	return worker_pid($run->{node}, $run->{database}, $stream->{name}, existing_duty($stream, $duty));
}

sub kill_duty
{
	my ($run, $step, $duty) = @_;

	strike($run->{node}, duty_pid($run, $step->{stream}, $duty));
	return;
}

sub kill_process
{
	my ($run, $step, $kind) = @_;
	my $client = $run->{node}->background_psql($run->{database});
	my $pid;

	$client->query_safe("SET application_name = 'bystander'");
	$run->{node}->poll_query_until($run->{database},
		"SELECT count(*) > 0 FROM pg_stat_activity WHERE backend_type = 'detect launcher'");
	strike($run->{node}, find_process($run->{node}, $run->{database}, $kind));
	eval { $client->quit };
	return;
}

sub signal_duty
{
	my ($run, $step, $verb, $duty) = @_;

	sql($run, "SELECT pg_${verb}_backend(" . duty_pid($run, $step->{stream}, $duty) . ')');
	verb($run, $step, 'resume') if $verb eq 'terminate';
	return;
}

sub terminate_launcher
{
	my ($run) = @_;

	sql($run, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'detect launcher'");
	return;
}

sub alter_consumers
{
	my ($run, $step) = @_;
	my $stream = $step->{stream};

	$stream->{definition}{consumers} = int($step->{chance} * 4);
	sql($run, "SELECT detect.alter_stream('$stream->{name}', consumers => $stream->{definition}{consumers})");
	return;
}

# Each rollup gets its own query anew: other states take the place of the old
# ones, by now or within the next steps.
sub alter_rollups
{
	my ($run, $step) = @_;
	my $stream  = $step->{stream};
	my %rollups = LedgerDefinition::rollups($stream);

	foreach my $name (sort keys %rollups)
	{
		my $query = $rollups{$name}{query} =~ s/\bEVENTS\b/$stream->{table}/r;

		sql($run, "SELECT detect.alter_rollup('$name', query => \$\$ $query \$\$)");
	}
	return;
}

# The groups of each rollup are computed again.
sub rebuild_rollups
{
	my ($run, $step) = @_;
	my %rollups = LedgerDefinition::rollups($step->{stream});

	sql($run, "SELECT detect.rebuild_rollup('$_')") foreach sort keys %rollups;
	return;
}

# The stream reads all of its topics again: what was applied is delivered once
# more.
sub seek_back
{
	my ($run, $step) = @_;
	my $stream = $step->{stream};
	my ($applied) = LedgerChange::between_batches($run, $stream,
		"SELECT detect.seek('$stream->{name}', to_time => '-infinity'); SELECT detect.resume('$stream->{name}')");

	LedgerOutcome::read_again($stream, $applied);
	push @{ $stream->{read_again} }, $step;
	return;
}

# The stream is dropped and made again over its table, with its rollups kept or
# made again, too: it reads its topics from the beginning, and counts anew.
# Rows that SQL staged would be dropped with it, and letters: those that are to
# become events are waited for.
sub recreate
{
	my ($run, $step) = @_;
	my $stream  = $step->{stream};
	my $name    = $stream->{name};
	my $anew    = $step->{chance} < 0.5;
	my %rollups = LedgerDefinition::rollups($stream);

	my (undef, $accepted) = LedgerChange::between_batches($run, $stream,
		"SELECT COALESCE(sum(accepted), 0) FROM detect.stat_stream WHERE stream = '$name'; SELECT detect.drop_stream('$name')");
	if ($anew)
	{
		sql($run, "SELECT detect.drop_rollup('$_')") foreach sort keys %rollups;
	}
	$stream->{accepted} += $accepted;
	LedgerOutcome::begin_anew($stream);
	push @{ $stream->{read_again} }, $step;
	LedgerDefinition::create($run, $stream, $anew);
	return;
}

# A worker comes back while there is no broker.
sub broker_down
{
	my ($run, $step) = @_;
	my $pid = duty_pid($run, $step->{stream}, 'consume');

	$run->{broker}->command('down', 0);
	sql($run, "SELECT pg_terminate_backend($pid)");
	wait_for_exit($pid);
	verb($run, $step, 'resume');
	$run->{broker}->command('up', 0);
	return;
}

# A process stands still while messages arrive.
sub freeze
{
	my ($run, $step, $duty) = @_;

	$run->{frozen} = duty_pid($run, $step->{stream}, $duty);
	kill('STOP', $run->{frozen}) or die "could not stop process $run->{frozen}: $!";
	return;
}

sub thaw
{
	my ($run) = @_;

	kill('CONT', delete $run->{frozen});
	return;
}

# One of the brokers leads all partitions of a stream from now on.
sub lead
{
	my ($run, $step, $id) = @_;
	my $stream = $step->{stream};

	foreach my $topic (LedgerDefinition::topics($stream))
	{
		$run->{broker}->command('leader', $topic, $_, $id) foreach 0 .. $stream->{definition}{partitions} - 1;
	}
	return;
}

# No worker can start while messages come.
sub use_up_slots
{
	my ($run, $step) = @_;

	$step->{fired} = LedgerConflict::use_up_slots($run, $step, duty_pid($run, $step->{stream}, 'apply'));
	return;
}

# The applier and another session get into each other's way.
sub meet_rival
{
	my ($run, $step, $name) = @_;
	$step->{fired} = LedgerConflict::meet($run, $step, $name);
	return;
}

# Whether the fault has fired as often as it may, or everything is applied, as
# SQL.  A staging table is emptied after that.
sub is_over_sql
{
	my ($run, $fault) = @_;
	my $streams = $fault->{item} =~ /_truncation:/ ? 'false' : LedgerGive::is_applied_sql($run);

	return "SELECT $streams OR $fault->{times} <= (SELECT count(*) FROM
		regexp_split_to_table(pg_read_file('detect_fault_points', 0, 100000000, true), E'\\n') l WHERE l = '$fault->{item}')";
}

# A step in which a process fails at a fault point.  While the point is armed
# nobody talks to the server who could not bear that it crashes.
sub fail_at_point
{
	my ($run, $step) = @_;
	my ($node, $stream) = ($run->{node}, $step->{stream});
	my $resume = "SELECT detect.resume('$stream->{name}')";

	verb($run, $step, 'pause');
	LedgerGive::give($run, $step);
	alter_rollups($run, $step) if $step->{item} =~ /_(fill_chunk|chunk_\w+|swap):/;
	rebuild_rollups($run, $step) if $step->{item} =~ /_(group_deletion|repair_chunk):/;
	# without rollups being guarded, and then guarded
	my @cause = $step->{item} =~ /_catch_up:/ ? 'before_rollup_merge:53100:1:2' : ();
	my $armed = arm($node, $step->{item}, @cause);
	# a psql that is refused may end before it has read what to ask
	eval { $node->psql($run->{database}, $resume) };
	1 until eval { $node->poll_query_until($run->{database}, is_over_sql($run, $armed->{faults}[0])); 1 } || $@ !~ /Broken pipe/;
	$step->{fired} = (disarm($node, $armed))[0];
	sql($run, $resume);
	return;
}

1;
