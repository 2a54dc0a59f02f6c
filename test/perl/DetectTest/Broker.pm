# The mock broker behind its pipe, and what was produced to it.
package DetectTest::Broker;

use strict;
use warnings;
no warnings 'once';    # what is DetectTest's is in DetectTest.pm, which loads this

use IPC::Open2;

# Start a mock broker; it ends with this process.  Options are those of the
# program.
sub start
{
	my ($class, %options) = @_;
	my $self = bless { lines => {}, ends => {} }, $class;

	$self->{pid} = open2($self->{out}, $self->{in},
		"$DetectTest::programs/mock_broker", map { ("--$_" => $options{$_}) } sort keys %options);
	$self->{bootstrap} = $self->answer();
	$self->{bootstrap} =~ s/^bootstrap // or die "no mock broker: $self->{bootstrap}";
	return $self;
}

sub bootstrap { my ($self) = @_; return $self->{bootstrap}; }
sub pid       { my ($self) = @_; return $self->{pid}; }

# One line of what the broker says.
sub answer
{
	my ($self) = @_;
	my $out = $self->{out};
	local $SIG{ALRM} = sub { die "the mock broker does not answer\n" };

	alarm($PostgreSQL::Test::Utils::timeout_default);
	my $line = <$out>;
	alarm(0);
	die "the mock broker has ended\n" unless defined $line;
	chomp $line;
	return $line;
}

# Have a command obeyed; what follows "ok".
sub command
{
	my ($self, @fields) = @_;
	my $in = $self->{in};

	print $in join("\t", @fields), "\n";
	my $answer = $self->answer();
	$answer =~ s/^ok ?// or die "mock broker: @fields: $answer";
	return $answer;
}

# Make a topic.
sub create_topic
{
	my ($self, $topic, $partitions) = @_;

	$self->command('topic', $topic, $partitions);
	$self->{ends}{$topic}  = [ (0) x $partitions ];
	$self->{lines}{$topic} = [];
	return;
}

# Produce lines, to the partitions in turn; returns when all are in the topic.
sub produce
{
	my ($self, $topic, @lines) = @_;
	my $ends = $self->{ends}{$topic};

	$self->command('file', $topic, DetectTest::write_lines(@lines));
	$ends->[ $_ % @$ends ]++ for 0 .. $#lines;
	push @{ $self->{lines}{$topic} }, @lines;
	return;
}

# Produce messages, each to its partition, and note its offset there; returns
# when all are in the topic.  A message is a hash of partition, payload,
# undefined or bytes, key, if it has one, ms, its time if not now, and header, a name=value, if it has one; a string among them is one of begin, commit and abort.
sub produce_messages
{
	my ($self, $topic, @messages) = @_;
	my @lines = map {
		ref($_)
		  ? join("\t", $_->{partition}, $_->{key} // '-', escaped($_->{payload}), defined $_->{ms} ? "\@$_->{ms}" : (), $_->{header} // ())
		  : $_
	} @messages;
	my @offsets = split(/ /, $self->command('messages', $topic, DetectTest::write_lines(@lines)));

	$_->{offset} = shift @offsets foreach grep { ref($_) } @messages;
	return;
}

# A payload as the program wants it.
sub escaped
{
	my ($payload) = @_;

	return '-' unless defined $payload;
	return $payload =~ s/([\\\t\r\n\x00]|[^\x00-\x7f])/sprintf('\\x%02x', ord($1))/egr;
}

# Where the partitions of a topic end, as the broker says.
sub broker_ends
{
	my ($self, $topic) = @_;
	return split(/ /, $self->command('ends', $topic));
}

# Whether messages are produced in transactions.
sub has_transactions { return 0; }

# All lines that were produced to a topic.
sub lines
{
	my ($self, $topic) = @_;
	return @{ $self->{lines}{$topic} };
}

# Where its partitions end.
sub ends
{
	my ($self, $topic) = @_;
	return @{ $self->{ends}{$topic} };
}

sub stop
{
	my ($self) = @_;

	close $self->{in};
	waitpid($self->{pid}, 0);
	return;
}

1;
