# What must become of each element that a stream was given, by the definition
# that the stream had when it took it.
#
# The driver keeps that for each element of each message:
#
#	again		how often the stream has begun to read it anew
#	settled		how many of its deliveries were applied before the definition
#				changed last, and so have their outcome for ever
#	counts		their outcomes by class (see LedgerMessage)
#	letter		SQLSTATE of its dead letter, if there is one by now
#
# and for all that are equal together:
#
#	born		the stream as it was when one of them became an event first
#
# What was delivered later has the class that the definition gives it now; but
# what was an event before is a duplicate, whatever the query makes of it.
package LedgerOutcome;

use strict;
use warnings;

use LedgerMessage;

# What is kept of the element of a message.
sub state_of
{
	my ($message, $number) = @_;

	return $message->{states}[$number] //= { again => 0, settled => 0, counts => {} };
}

# Each element of the messages that somebody has to see, as message, its place
# in it, and its state.
sub each_element
{
	my ($stream, $code) = @_;

	foreach my $message (grep { $_->{kind} ne 'aborted' } @{ $stream->{messages} })
	{
		$code->($message, $_, state_of($message, $_)) foreach 0 .. $#{ $message->{elements} };
	}
	return;
}

sub is_letter
{
	my ($class) = @_;
	return length($class) == 5 && $class ne 'event';
}

# How often the stream, as it is now, has been given an element.
sub deliveries
{
	my ($stream, $message, $state) = @_;

	return 1 + $state->{again} if $message->{origin} eq 'kafka';
	return $message->{incarnation} == $stream->{incarnation} ? 1 : 0;
}

# Elements that the stream, as it is now, has been given.
sub delivered
{
	my ($stream) = @_;
	my $count = 0;

	each_element($stream, sub { $count += deliveries($stream, @_[ 0, 2 ]) });
	return $count;
}

# The stream as an event shows it that is accepted now.  A row that SQL staged
# has the columns of its day.
sub birth
{
	my ($stream, $message) = @_;

	return {
		generation => $stream->{generation},
		shift      => $stream->{shift},
		has_plate  => $message->{origin} eq 'kafka' ? $stream->{definition}{plate} : $message->{has_plate} };
}

# What becomes of an element that the stream takes now.
sub class_now
{
	my ($stream, $element) = @_;
	my $class = LedgerMessage::class_of($stream->{definition}, $element);

	return $element->{born} && $class =~ /^(filtered|P0001)$/ ? 'event' : $class;
}

# Enters so many deliveries of an element under the stream's definition into a
# state; their class.
sub enter
{
	my ($stream, $message, $number, $state, $deliveries) = @_;
	my $class = class_now($stream, $message->{elements}[$number]);

	return '' if $deliveries <= 0;
	$state->{settled} += $deliveries;
	$state->{counts}{$class} += $deliveries;
	$state->{letter} = $class if is_letter($class);
	return $class;
}

# The same, to be remembered.
sub remember
{
	my ($stream, $message, $number) = @_;
	my $class = enter(@_);

	$message->{elements}[$number]{born} //= birth($stream, $message) if $class eq 'event';
	return;
}

# The state of an element when all is applied, with its birth; what is kept
# stays as it is.
sub final
{
	my ($stream, $message, $number) = @_;
	my $kept  = state_of($message, $number);
	my %state = (%$kept, counts => { %{ $kept->{counts} } }, born => $message->{elements}[$number]{born});
	my $class = enter($stream, $message, $number, \%state, deliveries($stream, $message, $kept) - $kept->{settled});

	$state{born} //= birth($stream, $message) if $class eq 'event';
	return \%state;
}

# Whether an element was applied since the stream began to read anew: applied
# has the last offset and element by topic and partition.
sub is_applied
{
	my ($stream, $message, $number, $applied) = @_;

	return deliveries($stream, $message, state_of($message, $number)) if $message->{origin} eq 'sql';
	my $last = $applied->{ $message->{topic} }{ $message->{partition} } or return 0;
	my $element = $message->{elements}[$number]{number} // $number;

	return $message->{offset} < $last->[0] || $message->{offset} == $last->[0] && $element <= $last->[1];
}

# The definition is about to change: what is applied by now has its outcome.
# All rows that SQL staged are among it.
sub settle
{
	my ($stream, $applied) = @_;

	each_element(
		$stream,
		sub {
			my ($message, $number, $state) = @_;
			my $last = is_applied($stream, $message, $number, $applied) ? 0 : 1;

			remember($stream, $message, $number, $state, deliveries($stream, $message, $state) - $last - $state->{settled});
		});
	$stream->{generation}++;
	return;
}

# The stream reads its topics from the beginning again: after settle().
sub read_again
{
	my ($stream, $applied) = @_;

	each_element(
		$stream,
		sub {
			my ($message, $number, $state) = @_;

			$state->{again}++ if $message->{origin} eq 'kafka' && is_applied($stream, $message, $number, $applied);
		});
	return;
}

# The stream is another one, over the same events: after settle().
sub begin_anew
{
	my ($stream) = @_;

	$stream->{incarnation}++;
	each_element($stream, sub { $_[0]{states}[ $_[1] ] = { again => 0, settled => 0, counts => {} } });
	return;
}

# The letters with this SQLSTATE, if one is given: how many, and what is done
# with each.  Called after settle().
sub with_letters
{
	my ($stream, $sqlstate, $code) = @_;
	my $count = 0;

	each_element(
		$stream,
		sub {
			my ($message, $number, $state) = @_;

			return unless $state->{letter} && $state->{letter} eq ($sqlstate // $state->{letter});
			$count++;
			$code->($message, $number, $state);
		});
	return $count;
}

# Letters are deleted; how many.
sub purge
{
	my ($stream, $sqlstate) = @_;

	return with_letters($stream, $sqlstate, sub { delete $_[2]{letter} });
}

# Letters are tried again with the definition as it is; how many.
sub retry
{
	my ($stream, $sqlstate) = @_;

	return with_letters(
		$stream,
		$sqlstate,
		sub {
			my ($message, $number, $state) = @_;
			my $letter = delete $state->{letter};
			my ($counted) = grep { is_letter($_) } $letter, sort keys %{ $state->{counts} };

			$state->{counts}{$counted}--;
			$state->{settled}--;
			remember($stream, $message, $number, $state, 1);
		});
}

1;
