# What is wrong with a stream, in as few elements as account for it.
#
# A lost event differs in many places: in the table, in rollups, in each of its
# copies.  Events and dead letters name their element for certain; what else
# differs is taken to follow from these where it can.  Of a group of a rollup that
# no such element is in, that member is meant without which, or with which twice,
# the group would be as it is.  What remains is shown as it is.
package LedgerReport;

use strict;
use warnings;

use LedgerOutcome;
use LedgerTruth;
use Scalar::Util qw(refaddr);

use constant SHOWN => 20;    # elements, and differences of no element, at most

# Differences by line, each with the numbers of the elements that it can be about.
sub parse
{
	my (@lines) = @_;
	my (%differences, @differences);

	foreach my $line (@lines)
	{
		my ($what, $row, $number) = split(/\t/, $line);
		my $text = "$what $row";

		push @differences, $differences{$text} = { text => $text, what => $what, row => $row, numbers => [] }
		  unless $differences{$text};
		push @{ $differences{$text}{numbers} }, $number if defined $number;
	}
	return @differences;
}

# Notes of a difference which element accounts for it: all copies are one.
sub account
{
	my ($found, $elements, $difference, $number, $note) = @_;
	my ($message, $place) = @{ $elements->[$number] };
	my $element = $message->{elements}[$place];

	$difference->{is_accounted} = 1;
	push @{ $found->{ refaddr($element) }{differences} }, $difference->{text} . ($note ? ": it $note" : '');
	$found->{ refaddr($element) }{number} //= $number;
	return;
}

# The elements that account for differences, in the order in which they came.
sub smallest_set
{
	my ($run, $stream, $first, $elements, @differences) = @_;
	my $element_of = sub { refaddr($elements->[ $_[0] ][0]{elements}[ $elements->[ $_[0] ][1] ]) };
	my $open       = sub { grep { !$_->{is_accounted} && @{ $_->{numbers} } } @differences };
	my %found;

	account(\%found, $elements, $_, $_->{numbers}[0]) foreach grep { $_->{what} =~ /: (event|dead letter)$/ } $open->();
	foreach my $difference ($open->())
	{
		my ($number) = grep { $found{ $element_of->($_) } } @{ $difference->{numbers} };
		account(\%found, $elements, $difference, $number) if defined $number;
	}
	if ($open->())
	{
		my %miscounts = map { my ($row, $way, $number) = split(/\t/); ($row => [ $way, $number ]) } LedgerTruth::miscounts($run, $stream, $first);

		account(\%found, $elements, $_, reverse @{ $miscounts{ $_->{row} } }) foreach grep { $miscounts{ $_->{row} } } $open->();
		# the group as it should be has the same member
		foreach my $difference ($open->())
		{
			my ($number) = grep { $found{ $element_of->($_) } } @{ $difference->{numbers} };
			account(\%found, $elements, $difference, $number) if defined $number;
		}
	}
	return sort { $a->{number} <=> $b->{number} } values %found;
}

# A step in short; what came after the last one was the replay.
sub name_of
{
	my ($step) = @_;

	return 'at the end' unless $step;
	return "step $step->{number} (" . ($step->{fault} eq 'fault point' ? $step->{item} : $step->{fault}) . ')';
}

# When and where an element was given to the stream, and when all was read again.
sub deliveries
{
	my ($stream, $elements, $element) = @_;
	my @events = map { [ $_->{number}, name_of($_) . ': all topics are read again' ] } @{ $stream->{read_again} // [] };

	foreach my $each (@$elements)
	{
		my ($message, $place) = @$each;
		my $where = $message->{origin} eq 'sql'
		  ? 'staged by SQL'
		  : "topic $message->{topic}, partition $message->{partition}, offset $message->{offset}, element $place";

		push @events, [ $message->{step} ? $message->{step}{number} : 99, name_of($message->{step}) . ": $where" ]
		  if refaddr($message->{elements}[$place]) == refaddr($element);
	}
	return map { $_->[1] } sort { $a->[0] <=> $b->[0] } @events;
}

# An element with what must become of it, what differs, and how it came.
sub describe
{
	my ($stream, $elements, $found) = @_;
	my ($message, $place) = @{ $elements->[ $found->{number} ] };
	my $element = $message->{elements}[$place];
	my @outcomes;

	if ($message->{kind} ne 'aborted')
	{
		my $state = LedgerOutcome::final($stream, $message, $place);

		@outcomes = map { "$_ $state->{counts}{$_} times" } grep { $state->{counts}{$_} } sort keys %{ $state->{counts} };
		push @outcomes, "a letter with $state->{letter}" if $state->{letter};
	}
	return (
		'  ' . ($element->{kind} // $message->{kind}) . " $element->{json}",
		map { "    $_" } 'must have become: ' . (join(', ', @outcomes) || 'nothing'),
		@{ $found->{differences} },
		deliveries($stream, $elements, $element));
}

# At most so many of these, and how many are left out.
sub shown
{
	my (@parts) = @_;
	my @shown = @parts > SHOWN ? @parts[ 0 .. SHOWN - 1 ] : @parts;

	return (@shown, @parts > SHOWN ? '  and ' . (@parts - SHOWN) . ' more' : ());
}

# The report about differences (see LedgerTruth::differences), line by line; the
# same statement comes first.
sub report
{
	my ($run, $stream, $first, @lines) = @_;
	my @differences = parse(@lines);
	my @elements    = LedgerTruth::elements($stream);
	my @found       = smallest_set($run, $stream, $first, \@elements, @differences);
	my @others      = grep { !$_->{is_accounted} } @differences;

	return () unless @differences;
	return (
		sprintf('stream %s: %d differences; %d of %d elements account for %d of them',
			$stream->{name}, scalar(@differences), scalar(@found), scalar(@elements), @differences - @others),
		shown(map { join("\n", describe($stream, \@elements, $_)) } @found),
		shown(map { "  $_->{text}" . (@{ $_->{numbers} } ? ', of ' . @{ $_->{numbers} } . ' elements' : '') } @others));
}

1;
