# The plan of a seed: chunks of messages, and a fault with each, of the table in
# LedgerFault.pm.  All that is random is drawn before anything runs; what a crash then
# interrupts is up to the machine.
package LedgerPlan;

use strict;
use warnings;

use DetectTest;
use FaultPoint;
use LedgerFault;
use LedgerGive;
use LedgerMessage;
use LedgerOutcome;

use constant {
	STEPS    => 7,
	CHUNK    => 300,       # messages of a stream in a step, at most
	STAGED   => 30,        # rows that SQL stages in a step, at most
	SQL_ODDS => 0.3,
	ABORTED  => 0.3,       # of the transactions, where there are any
	KILLED   => 0.6,       # of the fault points: the others raise errors
};

my $faults = \%LedgerFault::faults;
my @errors = qw(53100 40001 40P01 55P03 57014);

# Those that a run can reach, and those of them that each batch does.
my @points = grep { $_->{process} ne 'maintenance' && $_->{name} !~ /edits|expiry/ } fault_points();
my $of_batch = qr/poll|decode|staging_(insert|commit)|staged|apply|dedup|merge|rollup|events|letters/;

# ---------------------------------------------------------------------
# Drawing
# ---------------------------------------------------------------------

# A fault at one of the points.
sub draw_item
{
	my (@items) = @_;
	my $point  = $points[ rand @points ];
	my $kills  = rand() < KILLED || !$point->{has_errors};
	my $action = $kills ? 'kill' : $errors[ rand @errors ];
	my $most   = $point->{process} eq 'worker' ? 40 : $point->{name} =~ $of_batch ? 4 : 1;
	my $nth    = 1 + int(rand($most));
	my $times  = $kills || $most == 1 ? 1 : 1 + int(rand(3));

	return @items ? $items[ rand @items ] : "$point->{name}:$action:$nth:$times";
}

# Messages of a stream in one step, as transactions: some are aborted, where
# there are transactions at all.
sub draw_chunk
{
	my ($stream) = @_;
	my $left = 1 + int(rand(CHUNK));
	my @transactions;

	while ($left > 0)
	{
		my $count = 1 + int(rand($left < 100 ? $left : 100));

		push @transactions, [ draw_aborted($stream) ] if rand() < ABORTED;
		push @transactions, [ map { LedgerMessage::draw($stream, 'kafka') } 1 .. $count ];
		$left -= $count;
	}
	return \@transactions;
}

# New events, each with a number of its own, that nobody must ever see.
sub draw_aborted
{
	my ($stream) = @_;

	return map {
		my $payload = LedgerMessage::payload_of(++$stream->{serial});
		{
			kind     => 'aborted',
			origin   => 'kafka',
			payload  => $payload,
			elements => [ { json => $payload } ],
			LedgerMessage::placed($stream) }
	} 1 .. 1 + int(rand(20));
}

# The steps of a seed for these streams, with all faults or with these at fault
# points.
sub draw
{
	my ($has_mock, $streams, @items) = @_;
	my @streams = @$streams;
	my @steps;

	foreach my $number (1 .. STEPS)
	{
		my $fault = @items ? 'fault point' : LedgerMessage::draw_weighted($faults, sort keys %$faults);
		my %step = (
			number => $number,
			fault  => $fault,
			stream => $streams[ rand @streams ],
			chance => rand(),
			part   => rand(),
			item   => draw_item(@items));

		foreach my $stream (@streams)
		{
			my $rows = rand() < SQL_ODDS ? 1 + int(rand(STAGED)) : 0;

			$step{chunks}{ $stream->{name} } = draw_chunk($stream);
			$step{staged}{ $stream->{name} } = [ map { LedgerMessage::draw($stream, 'sql') } 1 .. $rows ];
			$step{undone}{ $stream->{name} } = [ map { +{ %{ (draw_aborted($stream))[0] }, origin => 'sql' } } 1 .. $rows ];
		}
		$faults->{$fault}{drawn}->($step{stream}) if $faults->{$fault}{drawn};
		# drawn all the same, so that a seed has the same plan everywhere
		$step{fault} = 'nothing' if $faults->{$fault}{mock} && !$has_mock;
		push @steps, \%step;
	}
	return @steps;
}

sub describe
{
	my ($step) = @_;
	my @amounts = map {
		my $messages = 0;
		$messages += @$_ foreach @{ $step->{chunks}{$_} };
		my $rows = @{ $step->{staged}{$_} };
		"$_: $messages messages" . ($rows ? ", $rows rows" : '')
	} sort keys %{ $step->{chunks} };

	my $when = $step->{fault} eq 'fault point' ? "$step->{item}" : sprintf('when %.2f of that is applied', $step->{part});

	return sprintf('step %d: %s; %s of stream %s %s, chance %.2f%s',
		$step->{number}, join('; ', @amounts), $step->{fault}, $step->{stream}{name}, $when, $step->{chance},
		defined $step->{fired} ? ", has fired $step->{fired} times" : '');
}

# ---------------------------------------------------------------------
# Running
# ---------------------------------------------------------------------

# A step in short; in brackets a fault that has met nobody.
sub name
{
	my ($step) = @_;

	my $what = $step->{fault} eq 'fault point' ? $step->{item} : $step->{fault};

	return !exists $step->{fired} || $step->{fired} ? $what : "($what)";
}

# One step of a plan.
sub run_step
{
	my ($run, $step) = @_;
	my $fault  = $faults->{ $step->{fault} };
	my $stream = $step->{stream};
	my $before = LedgerOutcome::delivered($stream);

	$run->{step} = $step;
	return $fault->{run}->($run, $step) if $fault->{run};
	$fault->{before}->($run, $step) if $fault->{before};
	LedgerGive::give($run, $step, $fault->{then});
	wait_applied($run->{node}, $run->{database}, $stream->{name},
		$before + int($step->{part} * (LedgerOutcome::delivered($stream) - $before)), '');
	$fault->{strike}->($run, $step) if $fault->{strike};
	return;
}

1;
