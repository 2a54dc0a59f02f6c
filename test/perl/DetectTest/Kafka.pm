# The real Kafka, behind the same pipe.
package DetectTest::Kafka;

use strict;
use warnings;
no warnings 'once';    # what is DetectTest's is in DetectTest.pm, which loads this

use DetectTest::Broker;

our @ISA = ('DetectTest::Broker');

# Start a Kafka that serves from a directory; it ends with this process.
sub start
{
	my ($class, $dir) = @_;
	my $program = "$DetectTest::programs/kafka";

	local $ENV{DETECT_KAFKA_PARENT} = $$;
	chomp(my $bootstrap = DetectTest::output_of($program, 'start', $dir));
	my $self = $class->SUPER::start(bootstrap => $bootstrap);
	@$self{ 'program', 'dir' } = ($program, $dir);
	return $self;
}

# Have one of the commands of test/broker/kafka done.
sub obey
{
	my ($self, $command, @arguments) = @_;

	return DetectTest::output_of($self->{program}, $command, $self->{dir}, @arguments);
}

sub create_topic
{
	my ($self, $topic, $partitions) = @_;

	$self->obey('create-topic', $topic, $partitions);
	return;
}

# Begin with a new producer: one that goes on minds a topic that was made again.
sub renew_producer
{
	my ($self) = @_;

	$self->SUPER::stop();
	my $renewed = DetectTest::Broker->start(bootstrap => $self->{bootstrap});
	@$self{qw(pid in out)} = @$renewed{qw(pid in out)};
	return;
}

# A coordinator says that a transaction is committed before its partitions know: until
# then nobody finds its messages, nor an end of the topic behind them.
sub produce_messages
{
	my ($self, $topic, @messages) = @_;
	my $deadline = time() + $PostgreSQL::Test::Utils::timeout_default;
	my %last;

	$self->SUPER::produce_messages($topic, @messages);
	return if $messages[-1] ne 'commit';
	$last{ $_->{partition} } = $_->{offset} foreach grep { ref($_) } @messages;
	while (1)
	{
		my @ends = $self->broker_ends($topic);

		return if !grep { $ends[$_] <= $last{$_} } keys %last;
		die "a committed transaction does not come into topic $topic" if time() > $deadline;
	}
	return;
}

sub has_transactions { return 1; }

sub stop
{
	my ($self) = @_;

	$self->SUPER::stop();
	$self->obey('stop');
	return;
}

1;
