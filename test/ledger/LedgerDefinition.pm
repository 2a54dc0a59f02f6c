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
);

# Layout of the table, and the arguments of create_stream that go with it.
my %layouts = (
	hourly   => ['PARTITION BY RANGE (timestamp_detected)', "'timestamp_detected'", "'1 hour'"],
	daily    => ['PARTITION BY RANGE (timestamp_detected)', "'timestamp_detected'", "'1 day'"],
	plain    => ['', "'timestamp_detected'", 'NULL'],
	timeless => ['', 'NULL', 'NULL']);

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
	return {
		name        => $name,
		table       => "${name}_detection",
		definition  => \%definition,
		topics      => [ map { "$name.$_" } 1 .. $definition{topics} ],
		given       => [],
		serial      => 0,
		messages    => [],
		incarnation => 0,
		accepted    => 0 };
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

# Makes a stream, with rollups or over those that are there.
sub create
{
	my ($run, $stream, $with_rollups) = @_;
	my $definition = $stream->{definition};
	my ($layout, $event_time, $interval) = @{ $layouts{ $definition->{layout} } };
	my %rollups = $with_rollups ? rollups($stream) : ();
	my $rejects = $definition->{query} =~ /reject/ ? q{, CASE WHEN b.item_name = 'ghost' THEN 'no ghosts' END AS reject_reason} : '';
	my $filter = $definition->{query} =~ /filter/ ? 'WHERE b.video_camera_oid IS DISTINCT FROM 13' : '';

	create_camera(
		$run->{node}, $run->{database}, $run->{broker},
		name               => $stream->{name},
		table              => $stream->{table},
		topics             => "'{" . join(',', @{ $stream->{topics} }) . "}'",
		layout             => $layout,
		event_time         => $event_time,
		partition_interval => $interval,
		retention          => $definition->{retention} ? "'$definition->{retention}'" : 'NULL',
		consumers          => $definition->{consumers},
		$definition->{unnest} ? ('"unnest"' => "'\$.boxes'") : (),
		query              => "\$q\$SELECT b.*, l.location_name$rejects
			FROM batch b LEFT JOIN location l USING (geographical_location_oid) $filter\$q\$",
		# where time is no part of the identity, the key alone is
		key     => "'{detection_oid}'",
		rollups => { map { $_ => $rollups{$_}{query} } keys %rollups });
	return;
}

1;
