# What the database must hold, computed from the messages alone, and all in
# which it differs.
#
# Every difference names all messages that it can be about, where there are any:
# LedgerReport makes few of many.
# Which partition has the accepted one of several equal elements is not
# determined: accepted and duplicates are compared together for each partition,
# and accepted in sum.  Counters of a stream that was dropped are gone: what it
# had accepted is taken from the driver's notes.
package LedgerTruth;

use strict;
use warnings;

use DetectTest;
use LedgerDefinition;
use LedgerOutcome;
use List::Util qw(sum0);
use PostgreSQL::Test::Utils;

# Elements by message with what became of each, and the truth that follows.  Of
# equal events the one that was accepted first counts.
my $truth_sql = <<'SQL';
	CREATE TEMP TABLE element (kind text, origin text, kafka_topic text, kafka_partition int, kafka_offset bigint, element int,
		payload bytea, json text, accepted_or_duplicate int, filtered int, expired int, dead_letters int, sqlstate text,
		generation int, shift int, has_plate bool, number int);
	COPY element FROM 'PATH';
	CREATE TEMP TABLE valid AS
	SELECT e.*, r.detection_oid, substring(r.video_camera_oid FROM '\d+')::int AS video_camera_oid, r.geographical_location_oid,
		   r.item_name, LEAST(r.confidence, 1::real) AS confidence, r.timestamp_detected,
		   CASE WHEN LOCATOR THEN 'District ' || floor((r.geographical_location_oid + 0.5 + shift) / 10)
				ELSE 'Street ' || geographical_location_oid END AS location_name,
		   CASE WHEN has_plate THEN r.plate END AS plate
	FROM element e, LATERAL jsonb_to_record(e.json::jsonb) r (detection_oid bigint, video_camera_oid text,
		geographical_location_oid int, item_name text, confidence real, timestamp_detected timestamptz, plate text)
	WHERE generation IS NOT NULL OR kind = 'aborted';
	CREATE TEMP VIEW expected AS
	SELECT DISTINCT ON (detection_oid, timestamp_detected) detection_oid, video_camera_oid, geographical_location_oid, item_name,
		   confidence, timestamp_detected, location_namePLATE
	FROM valid WHERE generation IS NOT NULL ORDER BY detection_oid, timestamp_detected, generation;
	CREATE TEMP VIEW expected_letters AS
	SELECT kafka_topic, kafka_partition, kafka_offset, CASE origin WHEN 'kafka' THEN element END AS element, sqlstate,
		   CASE origin WHEN 'kafka' THEN encode(payload, 'escape') ELSE (json::jsonb)->>'detection_oid' END AS content
	FROM element WHERE sqlstate IS NOT NULL;
	CREATE TEMP VIEW letters AS
	SELECT kafka_topic, kafka_partition, kafka_offset, CASE WHEN kafka_topic IS NOT NULL THEN element END AS element, sqlstate,
		   CASE WHEN kafka_topic IS NOT NULL THEN encode(payload, 'escape')
				ELSE convert_from(payload, 'UTF8')::jsonb->>'detection_oid' END AS content
	FROM detect.dead_letter WHERE stream = 'STREAM';
	CREATE TEMP VIEW expected_outcomes AS
	SELECT COALESCE(kafka_topic, '') AS kafka_topic, COALESCE(kafka_partition, -1) AS kafka_partition,
		   sum(accepted_or_duplicate) AS accepted_or_duplicate, sum(filtered) AS filtered, sum(expired) AS expired,
		   sum(dead_letters) AS dead_letters
	FROM element GROUP BY 1, 2 HAVING sum(accepted_or_duplicate + filtered + expired + dead_letters) > 0;
	CREATE TEMP VIEW outcomes AS
	SELECT CASE WHEN kafka_partition >= 0 THEN kafka_topic ELSE '' END AS kafka_topic, kafka_partition,
		   accepted + duplicates AS accepted_or_duplicate, filtered, expired, dead_letters
	FROM detect.stat_partition
	WHERE stream = 'STREAM' AND accepted + duplicates + filtered + expired + dead_letters > 0;
	CREATE TEMP VIEW progress AS
	SELECT kafka_topic, kafka_partition, applied_offset FROM detect.stat_partition
	WHERE stream = 'STREAM' AND kafka_partition >= 0;
SQL

my $same_message =
  'm.kafka_topic = d.kafka_topic AND m.kafka_partition = d.kafka_partition AND m.kafka_offset = d.kafka_offset';

# Both ways: what is compared, how a difference d leads to its messages m.
my @comparisons = (
	{
		what    => 'event',
		table   => 'valid',
		truth   => 'TABLE expected',
		is      => 'TABLE EVENTS',
		members => 'm.detection_oid = d.detection_oid AND m.timestamp_detected = d.timestamp_detected'
	},
	{
		what    => 'dead letter',
		table   => 'element',
		truth   => 'TABLE expected_letters',
		is      => 'TABLE letters',
		members => $same_message
	},
	{
		what    => 'outcomes of a partition',
		table   => 'element',
		truth   => 'TABLE expected_outcomes',
		is      => 'TABLE outcomes',
		members => 'false'
	},
	{
		what    => 'number of accepted elements',
		table   => 'element',
		truth   => 'SELECT count(*) FROM expected',
		is      => 'SELECT ACCEPTED + COALESCE(sum(accepted), 0) FROM detect.stat_partition WHERE stream = \'STREAM\'',
		members => 'false'
	},
	{
		what    => 'applied offset',
		table   => 'element',
		truth   => 'ENDS',
		is      => 'TABLE progress',
		members => 'false'
	});

# One more for each rollup: its plain query over the events that are there.
sub rollup_comparisons
{
	my ($stream) = @_;
	my %rollups = LedgerDefinition::rollups($stream);

	return map {
		{
			what    => "row of rollup $_",
			table   => 'valid',
			truth   => $rollups{$_}{query},
			is      => "TABLE $_",
			members => "m.generation IS NOT NULL AND $rollups{$_}{members}" }
	} sort keys %rollups;
}

# A difference, in one direction, as SQL that prints it and its messages, each
# with the number that elements() has for it.
sub difference_sql
{
	my ($comparison, $what, $left, $right) = @_;

	return "
		SELECT E'$what\\t' || d::text || CASE WHEN m.kind IS NULL THEN '' ELSE
			   format(E'\\t%s\\t%s %s/%s/%s/%s %s', m.number, m.kind, m.kafka_topic, m.kafka_partition,
			   m.kafka_offset, m.element, COALESCE(encode(m.payload, 'escape'), 'null')) END
		FROM (($left) EXCEPT ALL ($right)) d LEFT JOIN $comparison->{table} m ON $comparison->{members}
		ORDER BY m.number;\n";
}

# Where the partitions of a stream's topics end, as a query.
sub ends_sql
{
	my ($run, $stream) = @_;
	my @rows;

	foreach my $topic (LedgerDefinition::topics($stream))
	{
		my @ends = $run->{broker}->broker_ends($topic);
		push @rows, map { "('$topic', $_, $ends[$_]::bigint)" } 0 .. $#ends;
	}
	return 'VALUES ' . join(', ', @rows);
}

# A field of COPY's text format.
sub copy_field
{
	my ($value) = @_;

	return '\N' unless defined $value;
	return $value =~ s/([\\\t\n\r])/sprintf('\\x%02x', ord($1))/egr;
}

# How often an element had the classes for which this is true.
sub sum_of
{
	my ($state, $is_wanted) = @_;

	return sum0(map { $state->{counts}{$_} } grep { $is_wanted->($_) } keys %{ $state->{counts} });
}

# An element that a stream was given, for COPY.
sub element_line
{
	my ($stream, $message, $number) = @_;
	my $element = $message->{elements}[$number];
	my $kafka   = $message->{origin} eq 'kafka';
	my $aborted = $message->{kind} eq 'aborted';
	my $state   = $aborted ? { counts => {} } : LedgerOutcome::final($stream, $message, $number);
	my $born    = $state->{born};
	my $payload = defined $message->{payload} ? '\x' . unpack('H*', $message->{payload}) : undef;

	return join("\t",
		map { copy_field($_) } ($element->{kind} // $message->{kind}) . ($message->{copy} ? ' (copy)' : ''),
		$message->{origin}, $kafka ? @$message{qw(topic partition offset)} : (undef) x 3,
		$element->{number} // $number, $payload, !$kafka || $born || $aborted ? $element->{json} : undef,
		(map { my $class = $_; sum_of($state, sub { $_[0] eq $class }) } qw(event filtered expired)),
		sum_of($state, \&LedgerOutcome::is_letter), $state->{letter},
		$born ? ($born->{generation}, $born->{shift}, $born->{has_plate} ? 't' : 'f') : (undef) x 3);
}

# All of them, as message and place in it.
sub elements
{
	my ($stream) = @_;
	my @elements;

	foreach my $message (@{ $stream->{messages} })
	{
		push @elements, map { [ $message, $_ ] } 0 .. $#{ $message->{elements} };
	}
	return @elements;
}

# Asks the database of a run, in a transaction in which the truth about a stream
# stands beside it; the lines that are printed.  The statement that comes first is
# undone: it is for those who want to see a difference.
sub ask
{
	my ($run, $stream, $questions, $first) = @_;
	my @elements   = elements($stream);
	my $path       = DetectTest::write_lines(map { element_line($stream, @{ $elements[$_] }) . "\t$_" } 0 .. $#elements);
	my $definition = $stream->{definition};
	my $ends       = ends_sql($run, $stream);
	my $sql        = "SET timezone = 'UTC'; BEGIN;\n" . ($first ? "$first;\n" : '') . $truth_sql . $questions;

	$sql =~ s/\bPATH\b/$path/g;
	$sql =~ s/location_namePLATE/$definition->{plate} ? 'location_name, plate' : 'location_name'/e;
	$sql =~ s/\bLOCATOR\b/$definition->{locator} ? 'true' : 'false'/e;
	$sql =~ s/\bENDS\b/$ends/g;
	$sql =~ s/\bSTREAM\b/$stream->{name}/g;
	$sql =~ s/\bEVENTS\b/$stream->{table}/g;
	$sql =~ s/\bACCEPTED\b/$stream->{accepted}/g;
	return split(/\n/, $run->{node}->safe_psql($run->{database}, $sql));
}

# All differences of a stream, one line for each message that one is about; none
# is the aim.
sub differences
{
	my ($run, $stream, $first) = @_;
	my $sql = '';

	foreach my $comparison (@comparisons, rollup_comparisons($stream))
	{
		$sql .= difference_sql($comparison, "missing: $comparison->{what}", @$comparison{qw(truth is)});
		$sql .= difference_sql($comparison, "should not be: $comparison->{what}", @$comparison{qw(is truth)});
	}
	return ask($run, $stream, $sql, $first);
}

# Groups of rollups that are as if one of their events were not counted, or counted
# twice: each row that is there, what is with the event, and its number.
sub miscounts
{
	my ($run, $stream, $first) = @_;
	my $event = '(e.detection_oid, e.timestamp_detected)';
	my %ways  = (
		'is not counted'   => "SELECT e.* FROM EVENTS e WHERE $event <> (m.detection_oid, m.timestamp_detected)",
		'is counted twice' => "TABLE EVENTS UNION ALL SELECT e.* FROM EVENTS e WHERE $event = (m.detection_oid, m.timestamp_detected)");
	my $sql = '';

	foreach my $comparison (rollup_comparisons($stream))
	{
		foreach my $way (sort keys %ways)
		{
			my $query = $comparison->{truth} =~ s/FROM EVENTS/FROM ($ways{$way}) events/r;

			$sql .= "SELECT d::text || E'\t$way\t' || min(m.number)
				FROM (($comparison->{is}) EXCEPT ALL ($comparison->{truth})) d JOIN valid m ON $comparison->{members},
					 LATERAL ($query) v
				WHERE v::text = d::text GROUP BY d, m.detection_oid, m.timestamp_detected;\n";
		}
	}
	return ask($run, $stream, $sql, $first);
}

# Until all that a stream was given is applied and its rollups are filled.  The
# mark that ends a transaction may come after the transaction is committed.
sub wait_until_applied
{
	my ($run, $stream) = @_;
	my ($node, $database) = @$run{qw(node database)};
	my %rollups = LedgerDefinition::rollups($stream);

	foreach my $turn (1 .. $run->{broker}->has_transactions ? 20 : 1)
	{
		wait_for($node, $database, $stream->{name});
		my $ends = ends_sql($run, $stream);
		last if $node->safe_psql($database,
			"SELECT NOT EXISTS (($ends) EXCEPT SELECT kafka_topic, kafka_partition, applied_offset
			 FROM detect.stat_partition WHERE stream = '$stream->{name}')") eq 't';
	}
	# one that has failed is tried again by itself
	$node->poll_query_until($database, "SELECT NOT EXISTS (SELECT FROM detect._rollup WHERE state IN ('failed', 'behind'))
		AND NOT EXISTS (SELECT FROM detect._repair WHERE error IS NOT NULL AND retry_at < 'infinity')");
	$node->safe_psql($database, "SELECT detect.wait_for_rollup('$_', '${PostgreSQL::Test::Utils::timeout_default}s')")
	  foreach sort keys %rollups;
	return;
}

# Every row of a stream's events table with its place: an update would show.
sub fingerprint
{
	my ($run, $stream) = @_;

	return $run->{node}->safe_psql($run->{database},
		"SELECT count(*), md5(string_agg(md5(d::text || tableoid || ctid || xmin), '' ORDER BY tableoid, ctid)) FROM $stream->{table} d");
}

1;
