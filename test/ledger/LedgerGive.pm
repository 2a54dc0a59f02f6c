# What a step gives the streams of a run: messages that are produced, rows that SQL
# stages.  Each is entered with the step that gave it.
package LedgerGive;

use strict;
use warnings;

use LedgerDefinition;
use LedgerOutcome;

# Enters messages of a stream.
sub enter
{
	my ($run, $stream, @messages) = @_;

	$_->{step} = $run->{step} foreach @messages;
	push @{ $stream->{messages} }, @messages;
	return;
}

# Produces transactions to the topics of a stream, and enters them.
sub produce
{
	my ($run, $stream, @transactions) = @_;
	my $broker = $run->{broker};

	@transactions = grep { $_->[0]{kind} ne 'aborted' } @transactions unless $broker->has_transactions;
	foreach my $topic (LedgerDefinition::topics($stream))
	{
		my @all;
		foreach my $transaction (@transactions)
		{
			my @messages = grep { $_->{topic} eq $topic } @$transaction;

			next unless @messages;
			push @all, 'begin' if $broker->has_transactions;
			push @all, @messages;
			push @all, $messages[0]{kind} eq 'aborted' ? 'abort' : 'commit' if $broker->has_transactions;
		}
		$broker->produce_messages($topic, @all) if @all;
	}
	enter($run, $stream, map { @$_ } @transactions);
	return;
}

# Stages rows by SQL, and others that are rolled back.
sub stage
{
	my ($run, $stream, $rows, $undone) = @_;

	return unless @$rows;
	my $columns = join(', ', map { $_->[0] } LedgerDefinition::columns($stream->{definition}));
	my $insert = sub {
		my $values = join(",\n", map { "(\$j\$$_->{payload}\$j\$)" } @_);
		return "INSERT INTO detect_staging.$stream->{name} ($columns)
			SELECT $columns FROM (VALUES $values) v (payload),
				 LATERAL jsonb_populate_record(NULL::detect_staging.$stream->{name}, v.payload::jsonb) r;\n";
	};
	$run->{node}->safe_psql($run->{database}, $insert->(@$rows) . "BEGIN;\n" . $insert->(@$undone) . 'ROLLBACK');
	foreach my $row (@$rows)
	{
		$row->{incarnation} = $stream->{incarnation};
		$row->{has_plate}   = $stream->{definition}{plate};
	}
	enter($run, $stream, @$rows);
	return;
}

# Produces the messages of a step, has something done, and stages its rows.
sub give
{
	my ($run, $step, $then) = @_;

	produce($run, $_, @{ $step->{chunks}{ $_->{name} } }) foreach @{ $run->{streams} };
	$then->($run, $step) if $then;
	foreach my $each (@{ $run->{streams} })
	{
		stage($run, $each, $step->{staged}{ $each->{name} }, $step->{undone}{ $each->{name} });
	}
	return;
}

# Whether everything that the streams were given is applied, as SQL.
sub is_applied_sql
{
	my ($run) = @_;

	return join(' AND ', map {
		"COALESCE((SELECT sum(accepted + duplicates + filtered + expired + dead_letters) FROM detect._applied_progress
			JOIN detect._stream USING (stream_id) WHERE name = '$_->{name}'), 0) >= " . LedgerOutcome::delivered($_)
	} @{ $run->{streams} });
}

1;
