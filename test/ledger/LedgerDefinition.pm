# The definitions of the ledger driver: what a stream, its events table and its
# rollups can be, by tables of choices.
package LedgerDefinition;

use strict;
use warnings;

use DetectTest;

# What is drawn for each stream, in this order.
my @choices = (
	[ layout       => qw(hourly hourly daily plain timeless) ],
	[ retention    => '', '3 days' ],
	[ query        => qw(join filter reject filter_reject) ],
	[ rollups      => 1, 2 ],
	[ consumers    => 0, 0, 1, 2 ],
	[ topics       => 1, 1, 2 ],
	[ partitions   => 1, 3, 4 ],
	[ unnest       => 0, 0, 1 ],
	[ locator      => 0, 1 ],
);

# Layout of the table, and the arguments of create_stream that go with it.
my %layouts = (
	hourly   => ['PARTITION BY RANGE (timestamp_detected)', 'timestamp_detected', '1 hour'],
	daily    => ['PARTITION BY RANGE (timestamp_detected)', 'timestamp_detected', '1 day'],
	plain    => ['', 'timestamp_detected', ''],
	timeless => ['', '', '']);

# Rollups, and which events are in a group of theirs.
my %rollups = (
	minute => {
		query   => $DetectTest::per_minute,
		members => q{m.item_name = d.item_name AND date_bin('1 minute', m.timestamp_detected, 'epoch') = d.minute}
	},
	place => {
		query => q{
			SELECT geographical_location_oid AS place, count(*) AS detections,
				   count(*) FILTER (WHERE confidence > 0.5) AS sure, max(timestamp_detected) AS last_seen,
				   sum(video_camera_oid) + min(detection_oid) AS mixed
			FROM EVENTS GROUP BY 1},
		members => 'm.geographical_location_oid = d.place'
	});

# A stream that is drawn: its definition, and what it is given, nothing yet.
sub draw
{
	my ($name) = @_;
	my %definition;

	foreach my $choice (@choices)
	{
		my ($what, @values) = @$choice;
		$definition{$what} = $values[ rand @values ];
	}
	$definition{retention} = '' if $definition{layout} eq 'timeless';
	# what changes of the plan make another
	$definition{interval} = $layouts{ $definition{layout} }[2];
	$definition{plate} = $definition{mended} = 0;
	return {
		name         => $name,
		table        => "${name}_detection",
		definition   => \%definition,
		drawn_topics => $definition{topics},
		given        => [],
		serial       => 0,
		messages     => [],
		incarnation  => 0,
		generation   => 0,
		shift        => 0,
		accepted     => 0 };
}

# In words.
sub describe
{
	my ($stream) = @_;
	my $definition = $stream->{definition};

	return join(' ', $stream->{name}, map { "$_->[0]=$definition->{$_->[0]}" } @choices);
}

# The rollups of a stream, name to rollup.
sub rollups
{
	my ($stream) = @_;
	my @names = ('minute', 'place')[ 0 .. $stream->{definition}{rollups} - 1 ];

	return map { ("$stream->{name}_per_$_" => $rollups{$_}) } @names;
}

# The topics of a stream, by its definition as it is, or another one.
sub topics
{
	my ($stream, $definition) = @_;

	return map { "$stream->{name}.$_" } 1 .. ($definition // $stream->{definition})->{topics};
}

# Names and types of the columns.  Before it is mended a stream takes cameras
# for numbers.
sub columns
{
	my ($definition) = @_;

	return (
		[ detection_oid             => 'bigint' ],
		[ video_camera_oid          => $definition->{mended} ? 'text' : 'int' ],
		[ geographical_location_oid => 'int' ],
		[ item_name                 => 'text' ],
		[ confidence                => 'real' ],
		[ timestamp_detected        => 'timestamptz' ],
		$definition->{plate} ? [ plate => 'text' ] : ());
}

# The query: with a locator a location is a position on a line of districts.
sub query
{
	my ($stream, $definition) = @_;
	my %mended = (
		video_camera_oid => q{substring(b.video_camera_oid FROM '\d+')::int},
		confidence       => 'LEAST(b.confidence, 1::real)');
	my $camera = $definition->{mended} ? $mended{video_camera_oid} : 'b.video_camera_oid';
	my @values = $definition->{mended} ? map { ($mended{$_} // "b.$_") . " AS $_" } map { $_->[0] } columns($definition) : 'b.*';
	my $from = 'batch b';

	if ($definition->{locator})
	{
		push @values, "$stream->{name}_district_of(b.geographical_location_oid, 0.5) AS location_name";
	}
	else
	{
		push @values, 'l.location_name';
		$from .= ' LEFT JOIN location l USING (geographical_location_oid)';
	}
	push @values, q{CASE WHEN b.item_name = 'ghost' THEN 'no ghosts' END AS reject_reason} if $definition->{query} =~ /reject/;
	$from .= " WHERE $camera IS DISTINCT FROM 13" if $definition->{query} =~ /filter/;
	return 'SELECT ' . join(', ', @values) . " FROM $from";
}

# The arguments of create_stream and alter_stream that a definition asks for.
sub arguments
{
	my ($stream, $definition) = @_;
	my $quoted = sub { $_[0] eq '' ? 'NULL' : "'$_[0]'" };

	return (
		topics             => "'{" . join(',', topics($stream, $definition)) . "}'",
		columns            => "'" . join(', ', map { "$_->[0] $_->[1]" } columns($definition)) . "'",
		query              => '$q$' . query($stream, $definition) . '$q$',
		partition_interval => $quoted->($definition->{interval}),
		retention          => $quoted->($definition->{retention}),
		consumers          => $definition->{consumers});
}

# The call of alter_stream after which a stream has this definition; what of it
# is another.
sub alter_sql
{
	my ($stream, $definition, @members) = @_;
	my %arguments = arguments($stream, $definition);
	my %named     = (
		plate    => [ 'columns', 'query' ],
		mended   => [ 'columns', 'query' ],
		interval => ['partition_interval']);
	my %changed = map { $_ => 1 } map { @{ $named{$_} // [$_] } } @members;

	return "SELECT detect.alter_stream('$stream->{name}', " . join(', ', map { "$_ => $arguments{$_}" } sort keys %changed) . ')';
}

# Makes a stream, with rollups or over those that are there.
sub create
{
	my ($run, $stream, $with_rollups) = @_;
	my $definition = $stream->{definition};
	my ($layout, $event_time) = @{ $layouts{ $definition->{layout} } };
	my %rollups = $with_rollups ? rollups($stream) : ();

	create_camera(
		$run->{node}, $run->{database}, $run->{broker},
		name       => $stream->{name},
		table      => $stream->{table},
		layout     => $layout,
		event_time => $event_time ? "'$event_time'" : 'NULL',
		arguments($stream, $definition),
		$definition->{unnest} ? ('"unnest"' => "'\$.boxes'") : (),
		# where time is no part of the identity, the key alone is
		key     => "'{detection_oid}'",
		rollups => { map { $_ => $rollups{$_}{query} } keys %rollups });
	return;
}

# Makes the places of a stream and their locator: districts, ten locations wide.
sub create_places
{
	my ($run, $stream) = @_;
	my $name = "$stream->{name}_district";

	return unless $stream->{definition}{locator};
	$run->{node}->safe_psql($run->{database}, "
		SET ROLE ops;
		CREATE TABLE $name (district text PRIMARY KEY, geom geometry(Polygon) NOT NULL);
		INSERT INTO $name SELECT 'District ' || i, ST_MakeEnvelope(10 * i - 0.5, 0, 10 * i + 9.5, 1) FROM generate_series(-1, 30) i;
		SELECT detect.create_locator('${name}_of', '$name')");
	return;
}

1;
