# The ledger of camera events: what a database must hold, computed from the lines
# that were produced alone.
package DetectTest::Ledger;

use strict;
use warnings;
no warnings 'once';    # what is DetectTest's is in DetectTest.pm, which loads this

use Exporter 'import';
use List::Util;
use Test::More;

our @EXPORT = qw(ledger_is_exact);

# Lines that a test knows to be events, as a table; what is not of this form,
# or has a value that the table refuses, is broken.
sub expected_sql
{
	return <<"SQL";
	CREATE TEMP TABLE produced (line text);
	COPY_LINES
	CREATE TEMP TABLE valid AS
	SELECT (j->>'detection_oid')::bigint AS detection_oid,
		   (j->>'video_camera_oid')::int AS video_camera_oid,
		   (j->>'geographical_location_oid')::int AS geographical_location_oid,
		   j->>'item_name' AS item_name, (j->>'confidence')::real AS confidence,
		   (j->>'timestamp_detected')::timestamptz AS timestamp_detected
	FROM (SELECT line::jsonb AS j FROM produced
		  WHERE CASE WHEN line ~ '^\\{"detection_oid": \\d+, "video_camera_oid": \\d+, ' THEN line LIKE '%}' END
		  OFFSET 0) p			-- parsed once
	WHERE (j->>'confidence')::real <= 1 AND (j->>'timestamp_detected')::timestamptz < now() + interval '1 day';
	CREATE TEMP TABLE expected AS
	SELECT DISTINCT v.*, l.location_name
	FROM valid v LEFT JOIN location l USING (geographical_location_oid);
	CREATE TEMP TABLE recomputed AS
	$DetectTest::per_minute;
SQL
}

# What the database must be able to say, as name => SQL => value.
sub ledger_questions
{
	my ($stream, $ends, $replayed, $again) = @_;
	my @delivered = map { $ends->[$_] + $again->[$_] } 0 .. $#$ends;
	my $repeated = List::Util::sum0(@$again);
	my $progress =
	  "FROM detect._applied_progress a JOIN detect._stream s USING (stream_id) "
	  . "WHERE s.name = '$stream' AND a.kafka_partition >= 0";

	return (
		['events that are missing', 'SELECT count(*) FROM (TABLE expected EXCEPT ALL TABLE EVENTS) x', 0],
		['events that should not be', 'SELECT count(*) FROM (TABLE EVENTS EXCEPT ALL TABLE expected) x', 0],
		['rollup rows that are missing', 'SELECT count(*) FROM (TABLE recomputed EXCEPT ALL TABLE ROLLUP) x', 0],
		['rollup rows that should not be', 'SELECT count(*) FROM (TABLE ROLLUP EXCEPT ALL TABLE recomputed) x', 0],
		[
			'applied offsets are the ends of the topic',
			"SELECT string_agg(a.next_offset::text, ',' ORDER BY a.kafka_topic COLLATE \"C\", a.kafka_partition) $progress",
			join(',', @$ends)
		],
		[
			'outcomes of each partition are the elements delivered',
			"SELECT string_agg((accepted + duplicates + filtered + expired + dead_letters)::text, ',' "
			  . "ORDER BY a.kafka_topic COLLATE \"C\", a.kafka_partition) $progress",
			join(',', @delivered)
		],
		# a stream that was made again found some of its events in the table
		$replayed
		? [
			'accepted or duplicate',
			"SELECT sum(accepted) + sum(duplicates) - (SELECT count(*) FROM valid) $progress",
			$repeated
		  ]
		: (
			['accepted', "SELECT sum(accepted) - (SELECT count(*) FROM expected) $progress", 0],
			[
				'duplicates',
				"SELECT sum(duplicates) - (SELECT count(*) FROM valid) + (SELECT count(*) FROM expected) $progress",
				$repeated
			]),
		[
			'dead letters counted',
			"SELECT sum(dead_letters) - (SELECT count(*) FROM produced) + (SELECT count(*) FROM valid) $progress",
			0
		],
		[
			'dead letters kept',
			"SELECT count(*) - (SELECT count(*) FROM produced) + (SELECT count(*) FROM valid) "
			  . "FROM detect.dead_letter WHERE stream = '$stream'",
			0
		]);
}

# Waits until a stream has applied its topic, then compares what the database
# holds with what the broker was given.  One test, which tells all differences.
# Options: name, table and topic, or topics, of the stream; replayed, if the
# table had events when the stream was made; again, how many messages of each
# partition were delivered more than once, none of them broken.
sub ledger_is_exact
{
	my ($node, $database, $broker, $what, %options) = @_;
	my $stream = $options{name} // 'camera';
	my @topics = sort @{ $options{topics} // [ $options{topic} // $stream ] };
	my $table  = $options{table} // 'detection';
	my $path   = DetectTest::write_lines(map { $broker->lines($_) } @topics);
	my @ends = map { $broker->ends($_) } @topics;
	my @questions =
	  ledger_questions($stream, \@ends, $options{replayed}, $options{again} // [ (0) x @ends ]);
	my @wrong;

	DetectTest::wait_for($node, $database, $stream);

	my $sql = expected_sql()
	  . join('', map { "SELECT ($_->[1]);\n" } @questions);
	# a line is one column: control characters do not occur in it
	$sql =~ s/COPY_LINES/COPY produced FROM '$path' (FORMAT csv, DELIMITER E'\\x01', QUOTE E'\\x02');/;
	$sql =~ s/\bEVENTS\b/$table/g;
	$sql =~ s/\bROLLUP\b/${stream}_per_minute/g;
	my @answers = split(/\n/, $node->safe_psql($database, $sql), -1);

	foreach my $i (0 .. $#questions)
	{
		my ($name, undef, $value) = @{ $questions[$i] };

		push @wrong, "$name: $answers[$i], not $value" if ($answers[$i] // '') ne $value;
	}
	return ok(!@wrong, $what) || diag(join("\n", @wrong)) && 0;
}

1;
