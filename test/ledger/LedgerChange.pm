# Changes of a stream in use that change what is expected: of its definition,
# of its places, of its dead letters.
#
# All of a change is one transaction, in which no batch is open and what is
# applied by then is read: what follows has the outcomes of the new definition.
# Rows that SQL staged and letters that are being retried can't be told by an
# offset; they are waited for.
package LedgerChange;

use strict;
use warnings;

use LedgerDefinition;
use LedgerOutcome;

# Each change of a stream, by a number from 0 to 1: set, members of the
# definition that become another; sql, what is done beside; letters, what is
# done with which of them.
my %changes = (
	columns => sub {
		my ($stream) = @_;
		return (
			set => { plate => 1 },
			sql => "ALTER TABLE $stream->{table} ADD COLUMN IF NOT EXISTS plate text");
	},
	query  => sub { (set => { query => (qw(join filter reject filter_reject))[ $_[1] * 4 ] }) },
	longer => sub {
		my ($stream) = @_;
		my $definition = $stream->{definition};
		my %longer = ('1 hour' => '3 hours', '1 day' => '2 days');

		return (
			set => {
				retention => $definition->{retention} && '30 days',
				interval  => $longer{ $definition->{interval} } // $definition->{interval}
			});
	},
	topics => sub { (set => { topics => $_[0]{definition}{topics} + 1 }) },
	mend   => sub { (set => { mended => 1, query => 'join' }, letters => { verb => 'retry' }) },
	retry  => sub { (letters => { verb => 'retry', sqlstate => drawn_sqlstate($_[1]) }) },
	purge  => sub { (letters => { verb => 'purge', sqlstate => drawn_sqlstate($_[1]) }) },
	places => sub {
		my ($stream) = @_;
		return (
			shift => 3,
			sql   => $stream->{definition}{locator} ? "UPDATE $stream->{name}_district SET geom = ST_Translate(geom, -3, 0)" : '');
	});

sub drawn_sqlstate
{
	my ($chance) = @_;
	return ('22P02', '23502', 'P0001', '23514', undef, undef)[ $chance * 6 ];
}

# Until no row that SQL staged and no retry is under way.
sub wait_for_rows
{
	my ($run, $stream) = @_;

	$run->{node}->poll_query_until($run->{database}, "SELECT NOT EXISTS (SELECT FROM detect_staging.$stream->{name})
		AND NOT EXISTS (SELECT FROM detect.dead_letter WHERE stream = '$stream->{name}' AND retry_asked_at IS NOT NULL)")
	  or die "rows that SQL staged, or letters that are retried, stay";
	return;
}

# Does something to a stream in a transaction, between two batches, and settles
# what was applied before.  Returns that, and the last line that was printed.
sub between_batches
{
	my ($run, $stream, $sql) = @_;
	my $name = $stream->{name};
	my %applied;

	wait_for_rows($run, $stream);
	my @lines = split(/\n/, $run->{node}->safe_psql($run->{database}, "
		BEGIN;
		SELECT detect.pause('$name');
		SELECT 'applied', a.kafka_topic, a.kafka_partition, a.last_offset, a.last_element
		FROM detect._applied_progress a JOIN detect._stream s USING (stream_id)
		WHERE s.name = '$name' AND a.kafka_partition >= 0;
		SET LOCAL ROLE ops;
		$sql;
		COMMIT"));
	foreach my $line (grep { /^applied\|/ } @lines)
	{
		my (undef, $topic, $partition, @last) = split(/\|/, $line);
		$applied{$topic}{$partition} = \@last;
	}
	LedgerOutcome::settle($stream, \%applied);
	return (\%applied, $lines[-1]);
}

# Makes the change of this name.
sub make
{
	my ($run, $step, $name) = @_;
	my $stream     = $step->{stream};
	my %change     = $changes{$name}->($stream, $step->{chance});
	my $set        = $change{set} // {};
	my $definition = { %{ $stream->{definition} }, %$set };
	my $letters    = $change{letters};
	my @sql        = grep { $_ } $change{sql};

	if ($definition->{topics} > $stream->{definition}{topics})
	{
		$run->{broker}->create_topic((LedgerDefinition::topics($stream, $definition))[-1], $definition->{partitions});
	}
	push @sql, LedgerDefinition::alter_sql($stream, $definition, keys %$set) if %$set;
	push @sql, "SELECT detect.resume('$stream->{name}')";
	push @sql, "SELECT detect.$letters->{verb}_dead_letters('$stream->{name}'"
	  . ($letters->{sqlstate} ? ", sqlstate => '$letters->{sqlstate}')" : ')')
	  if $letters;
	my (undef, $count) = between_batches($run, $stream, join(";\n", @sql));

	$stream->{definition} = $definition;
	$stream->{shift} += $change{shift} // 0;
	return unless $letters;
	my $expected = $letters->{verb} eq 'retry'
	  ? LedgerOutcome::retry($stream, $letters->{sqlstate})
	  : LedgerOutcome::purge($stream, $letters->{sqlstate});
	die "$name: $count letters, not $expected\n" if $count != $expected;
	return;
}

1;
