# Fault points of a server that tests let fail: see test/README.md, whose table
# of points is read here.
#
# A server whose worker kills itself is away for a moment: nobody may talk to
# it between arm() and disarm(), unless he bears a lost connection.
package FaultPoint;

use strict;
use warnings;

use Exporter 'import';
use Fcntl ':flock';
use FindBin;
use PostgreSQL::Test::Utils;

our @EXPORT = qw(arm disarm fault_points wait_until_fired);

use constant README => "$FindBin::RealBin/../README.md";

# Items that every server has beside those that are armed.
our @always;

my $labels = 0;

# All points of the table: name, process, and whether an error can be raised.
sub fault_points
{
	return map {
		my ($name, $process, $failures) = /^\| `(\w+)` \| (launcher|worker|consumer|applier|maintenance|filling) \| (.*?) \|/;
		$name ? { name => $name, process => $process, has_errors => scalar($failures =~ /error/) } : ();
	} split(/\n/, slurp_file(README));
}

# Has the server take these items, point:action:nth:times, each with a label of
# its own.  Returns what disarm() and others want.
sub arm
{
	my ($node, @items) = @_;
	my $log_end = -s $node->logfile;
	my @armed;

	foreach my $item (@items)
	{
		my ($point, $action, $nth, $times) = split(/:/, $item);

		$nth   //= 1;
		$times //= 1;
		push @armed, {
			item  => join(':', $point, $action, $nth, $times, ++$labels),
			times => $times,
			kills => $action eq 'kill' };
	}
	configure($node, map { $_->{item} } @armed);
	return { faults => \@armed, log_end => $log_end };
}

# Writes the setting, which takes no session, and waits until the postmaster has
# it: then its children have been told, too.
sub configure
{
	my ($node, @items) = @_;
	my $path    = $node->data_dir . '/fault_point.conf';
	my $log_end = -s $node->logfile;

	$node->append_conf('postgresql.conf', "include 'fault_point.conf'") unless -e $path;
	open(my $file, '>', $path) or die "could not open \"$path\": $!";
	print $file "detect.fault_point = '" . join(',', @always, @items) . "'\n";
	close($file) or die "could not write \"$path\": $!";
	system_log('pg_ctl', '-D', $node->data_dir, 'reload');
	$node->wait_for_log(qr/parameter "detect.fault_point" changed to/, $log_end);
	return;
}

# Opens the record of what has fired, and keeps others off it.
sub open_record
{
	my ($node) = @_;
	my $path = $node->data_dir . '/detect_fault_points';

	open(my $record, '+>>', $path) or die "could not open \"$path\": $!";
	flock($record, LOCK_EX) or die "could not lock \"$path\": $!";
	return $record;
}

# How often a fault has fired.
sub count_in
{
	my ($record, $fault) = @_;

	seek($record, 0, 0);
	return scalar grep { $_ eq "$fault->{item}\n" } <$record>;
}

# Waits until each armed item has fired as often as it may.
sub wait_until_fired
{
	my ($node, $armed) = @_;

	foreach my $fault (@{ $armed->{faults} })
	{
		$node->wait_for_log(qr/(fault point fires: \Q$fault->{item}\E\n.*?){$fault->{times}}/s, $armed->{log_end});
	}
	return;
}

# Lets nothing fire any more, and waits until the server serves again if one of
# its processes has killed itself.  Returns how often each item has fired.
sub disarm
{
	my ($node, $armed) = @_;
	my $record = open_record($node);
	my @fired;

	foreach my $fault (@{ $armed->{faults} })
	{
		push @fired, count_in($record, $fault);
		print $record "$fault->{item}\n" foreach $fired[-1] + 1 .. $fault->{times};
	}
	close($record) or die "could not write the record of faults: $!";
	configure($node);
	# whoever killed himself is the last to have done so
	$node->wait_for_log(qr/.*terminated by signal 9.*?ready to accept connections/s, $armed->{log_end})
	  if grep { $armed->{faults}[$_]{kills} && $fired[$_] } 0 .. $#fired;
	return @fired;
}

1;
