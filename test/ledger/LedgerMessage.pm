# The messages of the ledger driver: numbered events, and all that can be wrong
# with them, by a table of kinds.
#
# Truth is made here, together with the message: each element has a class,
# which says what must become of it under a definition of its stream:
#
#	event         accepted, unless an equal one was: then a duplicate
#	filtered, expired
#	dead letter   with this SQLSTATE
#	aborted       nothing: its transaction was
#
# Which of several equal elements is accepted depends on how partitions
# interleave; as equal ones are equal in every byte, no answer depends on it.
# Event times are counted from the hour in which the run began, and lie far
# from all borders that move with the clock.
package LedgerMessage;

use strict;
use warnings;

use POSIX qw(strftime);

use constant {
	NEAR      => 20,       # a duplicate is often one of so many last messages
	LOCATIONS => 100,
	BASE      => int(($ENV{LEDGER_START} // time()) / 3600) * 3600,
};

use constant COLUMNS => qw(detection_oid video_camera_oid geographical_location_oid item_name confidence timestamp_detected plate);

my @items = qw(car person bicycle truck bus tram van dog);

# Each kind: how often it is taken; what differs from an ordinary event; class,
# and SQLSTATE, as they follow from the definition.  Kinds that are only bytes
# can't be staged by SQL; those with another payload spoil a whole message.  Of
# a mendable one, a dead letter that a retry can make an event of, no other is
# equal to one that SQL staged: such a row has the columns of its day.
my %kinds = (
	event      => { weight => 60 },
	hours_late => { weight => 6, fields => sub { (timestamp_detected => at(-3600 * (1 + int(rand(5))) - rand(600))) } },
	days_late  => { weight => 2, fields => sub { (timestamp_detected => at(-86400 * (1 + int(rand(2))) - rand(600))) } },
	outdated   => {
		weight => 3,
		fields => sub { (timestamp_detected => at(-86400 * (5 + int(rand(3))) - rand(600))) },
		class  => sub { $_[0]{retention} eq '3 days' ? 'expired' : 'event' }
	},
	far_future => {
		weight => 1,
		fields => sub { (timestamp_detected => at(86400 * 3650)) },
		class  => sub { $_[0]{layout} eq 'timeless' ? 'event' : '22008' }
	},
	seen_by_13 => {
		weight => 3,
		fields => sub { (video_camera_oid => 13) },
		class  => sub { $_[0]{query} =~ /filter/ ? 'filtered' : 'event' }
	},
	ghost => {
		weight => 2,
		mendable => 1,
		fields => sub { (item_name => '"ghost"') },
		class  => sub { $_[0]{query} =~ /reject/ ? 'P0001' : 'event' }
	},
	too_sure => {
		weight => 1,
		mendable => 1,
		fields => sub { (confidence => '1.5') },
		class  => sub { $_[0]{mended} ? 'event' : '23514' }
	},
	no_key   => { weight => 1, fields => sub { (detection_oid      => undef) },    class => '23502' },
	null_key => { weight => 1, fields => sub { (detection_oid      => 'null') },   class => '23502' },
	no_time  => { weight => 1, fields => sub { (timestamp_detected => undef) },    class => '23502' },
	no_place => { weight => 1, fields => sub { (geographical_location_oid => undef) }, class => '23502' },
	wrong_type => {
		weight => 1,
		bytes => 1,
		fields => sub { (video_camera_oid => '"gate 7"') },
		class  => sub { $_[0]{mended} ? 'event' : '22P02' }
	},
	wrong_time => { weight => 1, bytes => 1, fields => sub { (timestamp_detected => '"soon"') }, class => '22007' },
	too_large  => { weight => 1, bytes => 1, fields => sub { (video_camera_oid => '99999999999') }, class => '22003' },
	cut_off    => { weight => 1, bytes => 1, payload => sub { substr($_[0], 0, 20 + int(rand(60))) }, class => '22P02' },
	not_utf8   => { weight => 1, bytes => 1, payload => sub { $_[0] =~ s/"item_name": "/$&\xff/r }, class => '22021' },
	empty      => { weight => 1, bytes => 1, payload => sub { '' },    class => '22023' },
	tombstone  => { weight => 1, bytes => 1, payload => sub { undef }, class => '22023' },

	# the same key at another time is another event where the time is part of
	# the identity; elsewhere, which one is accepted would depend on chance
	renumbered => {
		weight => 4,
		needs  => sub { $_[0]{layout} =~ /ly$/ },
		fields => sub { (detection_oid => 1 + int(rand($_[1]))) }
	},
	copy => { weight => 20 });

# A time so many seconds after the base, as a value of JSON.
sub at
{
	my ($seconds) = @_;
	my $ms = int((BASE + $seconds) * 1000);

	return sprintf('"%s.%03dZ"', strftime('%Y-%m-%dT%H:%M:%S', gmtime(int($ms / 1000))), $ms % 1000);
}

# The members of an event that are random; the caller's override them.
sub payload_of
{
	my ($serial, %overrides) = @_;
	my %values = (
		detection_oid             => $serial,
		video_camera_oid          => 100 + int(rand(400)),
		geographical_location_oid => 1 + int(rand(LOCATIONS)),
		item_name                 => '"' . $items[ rand @items ] . '"',
		confidence                => sprintf('%.4f', rand()),
		# around the border of two hours, so that one partition is past
		timestamp_detected => at(rand(3000) - 1500),
		plate              => '"' . int(rand(1000)) . '"',
		%overrides);

	return '{' . join(', ', map { "\"$_\": $values{$_}" } grep { defined $values{$_} } COLUMNS) . '}';
}

# One of the names of a table of things that have weights.
sub draw_weighted
{
	my ($table, @names) = @_;
	my $sum = 0;

	$sum += $table->{$_}{weight} foreach @names;
	my $place = rand($sum);
	foreach my $name (@names)
	{
		$place -= $table->{$name}{weight};
		return $name if $place < 0;
	}
	return $names[-1];
}

# A new element of this kind.
sub new_element
{
	my ($stream, $name) = @_;
	my $definition = $stream->{definition};
	my $kind       = $kinds{$name};
	my $serial     = ++$stream->{serial};

	return { kind => $name, json => payload_of($serial, $kind->{fields} ? $kind->{fields}->($definition, $serial) : ()) };
}

# What becomes of an element under a definition.
sub class_of
{
	my ($definition, $element) = @_;
	my $class = $kinds{ $element->{kind} }{class} // 'event';

	return ref($class) ? $class->($definition) : $class;
}

# A message with an array of elements.  One that is spoilt is a single element
# that failed as a whole.
sub draw_frame
{
	my ($stream, $name) = @_;
	my $kind = $kinds{$name};
	my @usable = grep {
		my $other = $kinds{$_};
		$_ ne 'copy' && !$other->{payload} && (!$other->{needs} || $other->{needs}->($stream->{definition}))
	} sort keys %kinds;
	my @elements = map { new_element($stream, draw_weighted(\%kinds, @usable)) } 1 .. rand() < 0.1 ? 0 : 1 + int(rand(6));
	my $payload = '{"camera": 7, "boxes": [' . join(', ', map { $_->{json} } @elements) . ']}';

	if ($kind->{payload} && @elements)
	{
		$payload = $kind->{payload}->($payload);
		@elements = ({ kind => $name, number => -1, json => '{}' });
	}
	my $message = {
		kind     => 'frame',
		origin   => 'kafka',
		payload  => $payload,
		elements => \@elements,
		placed($stream) };
	push @{ $stream->{given} }, $message;
	return $message;
}

# A new message for a stream, of any kind or, to be staged by SQL, of those that
# are rows.  Nothing is copied or renumbered but what the stream was given.
sub draw
{
	my ($stream, $origin) = @_;
	my $definition = $stream->{definition};
	my $given      = $stream->{given};
	my @usable = grep {
		my $kind = $kinds{$_};
		!($origin eq 'sql' && $kind->{bytes}) && (!$kind->{needs} || $kind->{needs}->($definition))
	} sort keys %kinds;
	my $name = draw_weighted(\%kinds, @usable);

	$name = 'event' if $name eq 'copy' && $origin eq 'sql' && $definition->{unnest};
	if ($name eq 'copy')
	{
		my $reach = rand() < 0.5 && @$given > NEAR ? NEAR : @$given;
		my $original = $reach > 0 ? $given->[ $#$given - int(rand($reach)) ] : undef;

		return { %$original, origin => $origin, copy => 1, placed($stream) }
		  if $original && !($origin eq 'sql' && ($kinds{ $original->{kind} }{bytes} || $kinds{ $original->{kind} }{mendable}));
		$name = 'event';
	}

	return draw_frame($stream, $name) if $definition->{unnest} && $origin eq 'kafka';

	my $element = new_element($stream, $name);
	my $message = {
		kind     => $name,
		origin   => $origin,
		payload  => $kinds{$name}{payload} ? $kinds{$name}{payload}->($element->{json}) : $element->{json},
		elements => [$element],
		placed($stream) };
	push @$given, $message unless $origin eq 'sql' && ($definition->{unnest} || $kinds{$name}{mendable});
	return $message;
}

# Where a message goes.
sub placed
{
	my ($stream) = @_;

	return (
		topic     => "$stream->{name}." . (1 + int(rand($stream->{drawn_topics}))),
		partition => int(rand($stream->{definition}{partitions})));
}

1;
