# One message a frame, with an array of boxes: each box is an element with an
# outcome of its own.  Large messages are torn apart by failing boxes, and
# workers die in the middle of them; each box is counted once nevertheless.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";

use DetectTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use constant FRAMES => 600;

my @classes = ('car', 'person', 'bus');
my $broker  = DetectTest::Broker->start();
my $node    = make_node('main');
my %expected = (elements => 0, boxes => {}, duplicates => 0, dead => 0, messages => 0);
my %elements;    # that a frame gives, by its text

# A frame as a detector publishes it; what must become of its boxes is noted.
sub frame
{
	my ($frame_id) = @_;
	my $items = rand() < 0.05 ? 1000 : rand() < 0.1 ? 0 : int(rand(12));
	my $kind  = rand();
	my @boxes;

	$expected{messages}++;
	my $head = qq({"frame": {"id": $frame_id, "at": "2026-11-26 10:00:00+00"}, "model": "m1");
	if ($kind < 0.03)
	{
		$expected{elements}++;
		$expected{dead}++;
		return $kind < 0.01 ? "$head, \"boxes\": [{\"n\": 1}" : $kind < 0.02 ? "$head, \"boxes\": \"none\"}" : '';
	}
	return "$head}"                   if $kind < 0.04;
	return qq($head, "boxes": null}) if $kind < 0.05;
	for my $n (0 .. $items - 1)
	{
		my $class = $classes[ rand @classes ];
		my $fate  = rand();

		$expected{elements}++;
		if ($fate < 0.01)
		{
			$expected{dead}++;
			push @boxes,
			  $fate < 0.003 ? '"no box"'
			  : $fate < 0.006 ? qq({"n": $n, "class": "$class", "confidence": "much"})
			  :                 qq({"n": $n, "class": "ghost", "confidence": 0.5});
			next;
		}
		push @boxes, qq({"n": $n, "class": "$class", "confidence": 0.5, "bbox": [1, 2, 3, 4]});
		$expected{boxes}{"$frame_id|$n|$class"}++;
		$expected{duplicates}++ if $expected{boxes}{"$frame_id|$n|$class"} > 1;
	}
	return "$head, \"boxes\": [" . join(', ', @boxes) . ']}';
}

# What the database holds is what the frames say.
sub is_exact
{
	my ($what) = @_;
	my $boxes = join("\n", sort keys %{ $expected{boxes} });

	wait_for($node, 'city', 'video');
	is( $node->safe_psql('city', q{SELECT box FROM city.video, concat_ws('|', frame_id, n, class) box ORDER BY box COLLATE "C"}),
		$boxes, "$what: events");
	is( $node->safe_psql('city', q{
			SELECT count(*) FROM (
				(TABLE city.boxes_per_class EXCEPT ALL SELECT class, count(*) FROM city.video GROUP BY 1) UNION ALL
				(SELECT class, count(*) FROM city.video GROUP BY 1 EXCEPT ALL TABLE city.boxes_per_class)) d}),
		'0', "$what: rollup");
	is( $node->safe_psql('city', q{
			SELECT accepted, duplicates, dead_letters, accepted + duplicates + filtered + expired + dead_letters
			FROM detect.stat_stream WHERE stream = 'video'}),
		join('|', scalar(keys %{ $expected{boxes} }),
			$expected{duplicates}, $expected{dead}, $expected{elements}),
		"$what: outcomes are the elements delivered");
	is( $node->safe_psql('city', q{SELECT count(*), count(DISTINCT (kafka_partition, kafka_offset, element))
			FROM detect._dead_letter}),
		"$expected{dead}|$expected{dead}", "$what: dead letters, each once");
	is( $node->safe_psql('city', q{SELECT sum(next_offset) FROM detect._applied_progress WHERE kafka_partition >= 0}),
		$expected{messages}, "$what: progress");
	return;
}

my @frames;

foreach my $frame_id (1 .. FRAMES)
{
	my $before = $expected{elements};

	push @frames, frame($frame_id);
	$elements{ $frames[-1] } = $expected{elements} - $before;
}

# A detector that died has sent some of its frames, and another sends them again.
foreach my $again (grep { /"car"/ } @frames[ 0 .. 40 ])
{
	push @frames, $again;
	$expected{messages}++;
	my ($frame_id) = $again =~ /"id": (\d+)/;
	while ($again =~ /"n": (\d+), "class": "(\w+)", "confidence": ("much"|0.5)/g)
	{
		$expected{elements}++;
		if ($2 eq 'ghost' || $3 ne '0.5') { $expected{dead}++ }
		else { $expected{duplicates}++ }
	}
	$expected{elements} += () = $again =~ /"no box"/g;
	$expected{dead}     += () = $again =~ /"no box"/g;
}

$node->append_conf('postgresql.conf', 'detect.max_batch_rows = 150');
$node->start;
install_detect($node, 'city');
create_server($node, 'city', $broker);
$broker->create_topic('video', 3);
$node->safe_psql('city', "
	SET ROLE ops;
	SET search_path = city, public;
	CREATE TABLE video (frame_id bigint NOT NULL, n int NOT NULL, class text CHECK (class <> 'ghost'),
		confidence real, at timestamptz, PRIMARY KEY (frame_id, n));
	BEGIN;
	SELECT detect.create_stream('video', \"unnest\" => '\$.boxes', consumers => 2,
		columns => 'frame_id bigint, n int, class text, confidence real, at timestamptz',
		fields => '{\"frame_id\": \"\$.frame.id\", \"at\": \"\$.frame.at\"}');
	SELECT detect.create_rollup('boxes_per_class', 'SELECT class, count(*) AS boxes FROM video GROUP BY class');
	COMMIT");

my @victims = ('apply', 'consume', 'immediate', 'postmaster', 'apply');
my $share   = int(@frames / @victims);
my $produced = 0;    # elements
while (my $victim = shift @victims)
{
	my @next    = splice(@frames, 0, @victims ? $share : scalar @frames);
	my $pending = 0;

	$pending += $elements{$_} foreach @next;
	$broker->produce('video', @next);
	wait_applied($node, 'city', 'video', $produced + 1 + int(rand($pending)), '');
	$produced += $pending;
	strike($node, $victim =~ /^(apply|consume)$/ ? worker_pid($node, 'city', 'video', $victim) : $victim);
}
is_exact('after all that');

# The payload of a dead letter is that of its message, whatever the element.
is( $node->safe_psql('city', q{
		SELECT count(*) FROM detect._dead_letter WHERE payload IS NULL
		OR (element >= 0 AND NOT convert_from(payload, 'UTF8') LIKE '%"frame": %')}),
	'0', 'dead letters have the payload of their message');
is( $node->safe_psql('city', q{
		SELECT count(*) FROM detect._dead_letter d WHERE element >= 0 AND stage = 'insert'
		AND convert_from(payload, 'UTF8')::jsonb -> 'boxes' -> element ->> 'class' <> 'ghost'}),
	'0', 'and their number leads to the box that failed');
is( $node->safe_psql('city', q{
		SELECT string_agg(DISTINCT sqlstate || ' ' || (element = -1), ', ' ORDER BY sqlstate || ' ' || (element = -1))
		FROM detect._dead_letter}),
	'22023 true, 22039 true, 2203C false, 22P02 false, 22P02 true, 23514 false',
	'why boxes and whole messages are bad');
is( $node->safe_psql('city', q{
		SELECT string_agg(name, ', ' ORDER BY name)
		FROM detect.stat_stream, jsonb_object_keys(unknown_fields) name WHERE stream = 'video'}),
	'@.bbox, model', 'what no column takes is told of');

# All of it once more: nothing but duplicates and dead letters.
$node->safe_psql('city', q{SET ROLE ops; SET search_path = city;
	SELECT detect.drop_stream('video');
	SELECT detect.create_stream('video', "unnest" => '$.boxes',
		columns => 'frame_id bigint, n int, class text, confidence real, at timestamptz',
		fields => '{"frame_id": "$.frame.id", "at": "$.frame.at"}')});
wait_for($node, 'city', 'video');
is( $node->safe_psql('city', q{
		SELECT accepted, duplicates, dead_letters FROM detect.stat_stream WHERE stream = 'video'}),
	join('|', 0, $expected{elements} - $expected{dead}, $expected{dead}),
	'a replay changes nothing');

log_is_clean($node);
$node->stop;
done_testing();
