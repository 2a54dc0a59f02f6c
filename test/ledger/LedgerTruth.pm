# What the database must hold, computed from the messages alone, and all in
# which it differs.
#
# Every difference names the messages that it is about, where there are any.
# Which partition has the accepted one of several equal elements is not
# determined: accepted and duplicates are compared together for each partition,
# and accepted in sum.  Counters of a stream that was dropped are gone: what it
# had accepted is taken from the driver's notes.
package LedgerTruth;

use strict;
use warnings;

use DetectTest;
use LedgerDefinition;
use LedgerPlan;
use PostgreSQL::Test::Utils;

use constant SHOWN => 20;    # messages of each difference, at most

# Elements by message, and the truth that follows from them.
my $truth_sql = <<'SQL';
	CREATE TEMP TABLE element (kind text, origin text, deliveries int, kafka_topic text, kafka_partition int,
		kafka_offset bigint, element int, payload bytea, json text, class text);
	COPY element FROM 'PATH';
	CREATE TEMP TABLE valid AS
	SELECT e.*, r.detection_oid, r.video_camera_oid, r.geographical_location_oid, r.item_name, r.confidence,
		   r.timestamp_detected
	FROM element e, LATERAL jsonb_to_record(e.json::jsonb) r (detection_oid bigint, video_camera_oid int,
		geographical_location_oid int, item_name text, confidence real, timestamp_detected timestamptz)
	WHERE class IN ('event', 'aborted');
	CREATE TEMP VIEW expected AS
	SELECT DISTINCT detection_oid, video_camera_oid, geographical_location_oid, item_name, confidence,
		   timestamp_detected, location_name
	FROM valid LEFT JOIN location USING (geographical_location_oid) WHERE class = 'event';
	CREATE TEMP VIEW expected_letters AS
	SELECT kafka_topic, kafka_partition, kafka_offset, CASE origin WHEN 'kafka' THEN element END AS element, class AS sqlstate,
		   CASE origin WHEN 'kafka' THEN encode(payload, 'escape') ELSE (json::jsonb)->>'detection_oid' END AS content
	FROM element WHERE deliveries > 0 AND length(class) = 5 AND class <> 'event';
	CREATE TEMP VIEW letters AS
	SELECT kafka_topic, kafka_partition, kafka_offset, CASE WHEN kafka_topic IS NOT NULL THEN element END AS element, sqlstate,
		   CASE WHEN kafka_topic IS NOT NULL THEN encode(payload, 'escape')
				ELSE convert_from(payload, 'UTF8')::jsonb->>'detection_oid' END AS content
	FROM detect.dead_letter WHERE stream = 'STREAM';
	CREATE TEMP VIEW expected_outcomes AS
	SELECT COALESCE(kafka_topic, '') AS kafka_topic, COALESCE(kafka_partition, -1) AS kafka_partition,
		   COALESCE(sum(deliveries) FILTER (WHERE class = 'event'), 0)::bigint AS accepted_or_duplicate,
		   COALESCE(sum(deliveries) FILTER (WHERE class = 'filtered'), 0)::bigint AS filtered,
		   COALESCE(sum(deliveries) FILTER (WHERE class = 'expired'), 0)::bigint AS expired,
		   COALESCE(sum(deliveries) FILTER (WHERE length(class) = 5 AND class <> 'event'), 0)::bigint AS dead_letters
	FROM element WHERE deliveries > 0 GROUP BY 1, 2;
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
			members => "m.class = 'event' AND $rollups{$_}{members}" }
	} sort keys %rollups;
}

# A difference, in one direction, as SQL that prints it and its messages.
sub difference_sql
{
	my ($comparison, $what, $left, $right) = @_;

	return "
		SELECT E'$what\\t' || d::text || CASE WHEN m.kind IS NULL THEN '' ELSE
			   format(E'\\t%s %s/%s/%s/%s %s', m.kind, m.kafka_topic, m.kafka_partition,
			   m.kafka_offset, m.element, COALESCE(encode(m.payload, 'escape'), 'null')) END
		FROM (($left) EXCEPT ALL ($right)) d LEFT JOIN $comparison->{table} m ON $comparison->{members}
		ORDER BY m.kafka_topic, m.kafka_partition, m.kafka_offset LIMIT " . SHOWN . ";\n";
}

# Where the partitions of a stream's topics end, as a query.
sub ends_sql
{
	my ($run, $stream) = @_;
	my @rows;

	foreach my $topic (@{ $stream->{topics} })
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

# All elements that a stream was given, for COPY.
sub element_lines
{
	my ($stream) = @_;
	my @lines;

	foreach my $message (@{ $stream->{messages} })
	{
		my $kafka      = $message->{origin} eq 'kafka';
		my $deliveries = LedgerPlan::deliveries($stream, $message);

		foreach my $number (0 .. $#{ $message->{elements} })
		{
			my $element = $message->{elements}[$number];
			my $row     = $element->{class} !~ /^(event|aborted)$/ && $kafka ? undef : $element->{json};

			push @lines, join("\t",
				map { copy_field($_) } ($element->{kind} // $message->{kind}) . ($message->{copy} ? ' (copy)' : ''),
				$message->{origin}, $deliveries, $kafka ? @$message{qw(topic partition offset)} : (undef) x 3,
				$element->{number} // $number, defined $message->{payload} ? '\x' . unpack('H*', $message->{payload}) : undef,
				$row, $element->{class});
		}
	}
	return @lines;
}

# All differences of a stream, one line each; none is the aim.  The statement
# that comes first is undone: it is for those who want to see a difference.
sub differences
{
	my ($run, $stream, $first) = @_;
	my $path = DetectTest::write_lines(element_lines($stream));
	my $ends = ends_sql($run, $stream);
	my $sql  = "SET timezone = 'UTC'; BEGIN;\n" . ($first ? "$first;\n" : '') . $truth_sql;

	foreach my $comparison (@comparisons, rollup_comparisons($stream))
	{
		$sql .= difference_sql($comparison, "missing: $comparison->{what}", @$comparison{qw(truth is)});
		$sql .= difference_sql($comparison, "should not be: $comparison->{what}", @$comparison{qw(is truth)});
	}
	$sql =~ s/\bPATH\b/$path/g;
	$sql =~ s/\bENDS\b/$ends/g;
	$sql =~ s/\bSTREAM\b/$stream->{name}/g;
	$sql =~ s/\bEVENTS\b/$stream->{table}/g;
	$sql =~ s/\bACCEPTED\b/$stream->{accepted}/g;
	return split(/\n/, $run->{node}->safe_psql($run->{database}, $sql));
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
