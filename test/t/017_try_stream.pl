# What try_stream says of a sample is what the stream then does with it; and
# trying leaves nothing behind.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";

use DetectTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $broker = DetectTest::Broker->start();
my $node   = make_node('main');

# As the owner of the stream.
sub ask
{
	my ($sql) = @_;

	return $node->safe_psql('city', "SET ROLE ops; SET search_path = city, public; $sql");
}

# What a statement of the owner complains of.
sub complaint
{
	my ($sql) = @_;
	my ($rc, $stdout, $stderr) = $node->psql('city', "SET ROLE ops; SET search_path = city, public; $sql");

	return $stderr;
}

# All relations, triggers, functions, constraints and rows that there are.
sub everything
{
	return ask(q{
		SELECT (SELECT string_agg(oid || relname || relfilenode || relhastriggers, ',' ORDER BY oid) FROM pg_class WHERE relname !~ '^pg_toast'),
			   (SELECT string_agg(oid || tgname, ',' ORDER BY oid) FROM pg_trigger),
			   (SELECT count(*) FROM pg_depend), (SELECT count(*) FROM pg_inherits),
			   (SELECT count(*) FROM detect.stream), (SELECT count(*) FROM detect.history),
			   (SELECT count(*) FROM detection), (SELECT md5(string_agg(c::text, ',' ORDER BY c::text)) FROM counted c)});
}

$node->start;
install_detect($node, 'city');

# ---------------------------------------------------------------------
# All that can become of a message: two topics, of which one brings arrays
# ---------------------------------------------------------------------
$broker->create_topic('camera', 3);
$broker->produce('camera', camera_lines(900, broken => 0.1, duplicates => 0.1));
my $tables = q{
	CREATE TABLE location (geographical_location_oid int PRIMARY KEY, location_name text NOT NULL);
	INSERT INTO location SELECT i, 'Street ' || i FROM generate_series(1, 100) i;
	CREATE TABLE detection (
		detection_oid bigint NOT NULL, video_camera_oid int NOT NULL REFERENCES camera DEFERRABLE INITIALLY DEFERRED,
		geographical_location_oid int NOT NULL, item_name text NOT NULL,
		confidence real CHECK (confidence BETWEEN 0 AND 1),
		timestamp_detected timestamptz NOT NULL, location_name text, name_length int GENERATED ALWAYS AS (length(item_name)) STORED
	) PARTITION BY RANGE (timestamp_detected);
	-- what it has seen is kept nowhere, and yet it is asked
	CREATE TABLE counted (item_name text PRIMARY KEY, items int);
	CREATE FUNCTION count_item() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		IF NEW.item_name = 'van' THEN RETURN NULL; END IF;
		IF NEW.video_camera_oid % 17 = 3 THEN RAISE EXCEPTION 'camera % is broken', NEW.video_camera_oid; END IF;
		INSERT INTO city.counted VALUES (NEW.item_name, 1) ON CONFLICT (item_name) DO UPDATE SET items = counted.items + 1;
		NEW.location_name := upper(NEW.location_name);
		RETURN NEW;
	END $$;
	CREATE TRIGGER count_item BEFORE INSERT ON detection FOR EACH ROW EXECUTE FUNCTION count_item()};
my $arguments = q{server => 'city', topic => 'camera', events_table => 'detection',
	columns => 'detection_oid bigint, video_camera_oid int, geographical_location_oid int, item_name text,
		confidence real, timestamp_detected timestamptz',
	query => $q$ SELECT b.*, l.location_name, CASE WHEN b.video_camera_oid % 19 = 1 THEN 'not ours' END AS reject_reason
		FROM batch b LEFT JOIN location l USING (geographical_location_oid) WHERE b.video_camera_oid % 23 <> 2 $q$,
	key => '{detection_oid}', event_time => 'timestamp_detected', partition_interval => '1 hour'};
ask('CREATE TABLE camera (video_camera_oid int PRIMARY KEY); INSERT INTO camera SELECT * FROM generate_series(0, 1000000) WHERE generate_series % 29 <> 5;' . $tables);
create_server($node, 'city', $broker);

ask('CREATE TABLE kept (kafka_topic text, kafka_partition int, kafka_offset bigint, element int,
	outcome text, stage text, sqlstate text, reason text, event jsonb)');
my $before = everything();
ask("INSERT INTO kept SELECT * FROM detect.try_stream('camera', $arguments, sample => 100000)");
is(everything(), $before, 'nothing is kept');
is(ask('SELECT count(*), count(DISTINCT (kafka_topic, kafka_partition, kafka_offset, element)) FROM kept'),
	'900|900', 'each element has one row');
note(ask('SELECT outcome, stage, count(*) FROM kept GROUP BY 1, 2 ORDER BY 1, 2'));
is(ask(q{SELECT string_agg(DISTINCT outcome, ',' ORDER BY outcome) FROM kept}), 'accepted,dead_letter,duplicate,filtered', 'of all kinds');

# The stream itself says the same.
ask("SELECT detect.create_stream('camera', $arguments); SELECT detect.wait_for('camera')");
is(ask(q{SELECT string_agg(x, ',') FROM (
	SELECT (e.n || '=' || t.n) AS x FROM
		(SELECT accepted, duplicates, filtered, dead_letters FROM detect.stat_stream) s,
		LATERAL (VALUES ('accepted', accepted), ('duplicate', duplicates), ('filtered', filtered), ('dead_letter', dead_letters)) e (o, n)
		JOIN LATERAL (SELECT count(*) AS n FROM kept WHERE outcome = o) t ON true
	WHERE e.n <> t.n) y}), '', 'as many of each outcome');
is(ask(q{SELECT count(*) FROM (
	(SELECT event FROM kept WHERE outcome = 'accepted' EXCEPT ALL SELECT to_jsonb(d) FROM detection d) UNION ALL
	(SELECT to_jsonb(d) FROM detection d EXCEPT ALL SELECT event FROM kept WHERE outcome = 'accepted')) x}), '0', 'the same events')
  or diag(ask(q{(SELECT event FROM kept WHERE outcome = 'accepted' LIMIT 2) UNION ALL (SELECT to_jsonb(d) FROM detection d LIMIT 2)}));
# A deferred constraint fails with the commit, but is tried at once.
my $letters = q{kafka_topic, kafka_partition, kafka_offset, element, CASE sqlstate WHEN '23503' THEN 'apply' ELSE stage END, sqlstate, reason};
is(ask(qq{SELECT count(*) FROM (
	(SELECT $letters FROM kept WHERE outcome = 'dead_letter' EXCEPT ALL SELECT $letters FROM detect.dead_letter) UNION ALL
	(SELECT $letters FROM detect.dead_letter EXCEPT ALL SELECT $letters FROM kept WHERE outcome = 'dead_letter')) x}), '0',
	'the same dead letters, for the same reasons')
  or diag(ask(qq{SELECT 'tried', $letters FROM kept WHERE outcome = 'dead_letter' EXCEPT ALL SELECT 'tried', $letters FROM detect.dead_letter LIMIT 5}),
	ask(qq{SELECT 'kept', $letters FROM detect.dead_letter EXCEPT ALL SELECT 'kept', $letters FROM kept WHERE outcome = 'dead_letter' LIMIT 5}));
is(ask(q{SELECT count(DISTINCT stage) FROM kept WHERE outcome = 'dead_letter'}), '4', 'refused by decoder, dedup, query and table');

# A stream that is made again over its table finds its events there.
ask("SELECT detect.drop_stream('camera')");
is( ask("SELECT string_agg(DISTINCT outcome, ',' ORDER BY outcome) FROM detect.try_stream('camera', $arguments, retention => '10 minutes', sample => 100000)"),
	'dead_letter,duplicate,expired,filtered', 'events that are there are known, old ones expired');
is(ask("SELECT count(*), max(kafka_offset), count(DISTINCT kafka_partition) FROM detect.try_stream('camera', $arguments, sample => 30)"),
	'30|299|3', 'a sample is the newest messages of all partitions');

# ---------------------------------------------------------------------
# Arrays, several topics, types of the user, no name
# ---------------------------------------------------------------------
$broker->create_topic($_, 2) foreach ('boxes', 'more_boxes');
$broker->produce('boxes', '{"c": 1, "boxes": [{"id": 1, "d": 5}, {"id": 2, "d": 50}, {"id": 3}]}', '{"c": 2, "boxes": []}',
	'not json', '{"c": 1, "boxes": [{"id": 1, "d": 1}, {"id": "x"}]}');
$broker->produce('more_boxes', '{"c": 3, "boxes": [{"id": 4, "d": 7}]}');
ask(q{CREATE DOMAIN digit AS int CHECK (VALUE < 10); CREATE TABLE box (c int, id int, d digit, PRIMARY KEY (id))});
is( ask(q{SELECT kafka_topic, kafka_partition, kafka_offset, element, outcome, stage, sqlstate, reason, event
	FROM detect.try_stream(server => 'city', topics => '{boxes,more_boxes}', events_table => 'box', "unnest" => '$.boxes',
		fields => '{"c": "$.c"}') ORDER BY 1, 2, 3, 4}),
	join("\n",
		'boxes|0|0|0|accepted||||{"c": 1, "d": 5, "id": 1}',
		'boxes|0|0|1|dead_letter|decode|23514|value for domain city.digit violates check constraint "digit_check"|',
		'boxes|0|0|2|accepted||||{"c": 1, "d": null, "id": 3}',
		'boxes|0|1|-1|dead_letter|decode|22P02|invalid JSON at byte 1: expected a JSON value, but found "not json"|',
		'boxes|1|1|0|duplicate||||{"c": 1, "d": 1, "id": 1}',
		'boxes|1|1|1|dead_letter|decode|22P02|column "id": invalid input syntax for type integer: "x"|',
		'more_boxes|0|0|0|accepted||||{"c": 3, "d": 7, "id": 4}'),
	'items of arrays, one by one');
is(ask(q{SET timezone = 'Asia/Tokyo'; CREATE TABLE shown (id int PRIMARY KEY, at text);
	SELECT DISTINCT event->>'at' FROM detect.try_stream('shown', topic => 'more_boxes', "unnest" => '$.boxes',
		columns => 'id int', query => $$ SELECT id, '2026-01-01 00:00+00'::timestamptz::text AS at FROM batch $$)}),
	'2026-01-01 00:00:00+00', 'values are understood as a worker does');

# ---------------------------------------------------------------------
# Errors, after which nothing is left either
# ---------------------------------------------------------------------
$before = everything();
like(complaint(q{SELECT detect.try_stream('box', query => 'SELECT 1 AS nonsense FROM batch', topic => 'boxes')}), qr/ERROR:  .*nonsense/, 'a definition that create_stream refuses');
like(complaint(q{SELECT detect.try_stream('box', columns => 'c int, id int', query => 'SELECT b.c, b.id FROM batch b, generate_series(1, 2)', topic => 'more_boxes', fields => '{"c": "$.c", "id": "$.c"}')}),
	qr/gives more than one row for one element/, 'a query that can not work');
like(complaint(q{SELECT detect.try_stream('box', server => '')}), qr/needs a server, to read messages from/, 'no server');
like(complaint(q{SELECT detect.try_stream('box', sample => 0)}), qr/sample must be 1 to 100000, not 0/, 'no sample');
$broker->command('topic_error', 'ghost', 3);
like(complaint(q{SELECT detect.try_stream('box', topic => 'ghost')}), qr/topic "ghost" does not exist/, 'no topic');
is(ask(q{DO $$ BEGIN PERFORM detect.try_stream('box', topic => 'boxes', columns => 'x nonsense'); EXCEPTION WHEN OTHERS THEN RAISE NOTICE '%', SQLERRM; END $$;
	SELECT count(*) FROM detect.try_stream('box', topic => 'more_boxes', "unnest" => '$.boxes', fields => '{"c": "$.c"}')}), '1', 'an error that is caught');
ask(q{BEGIN; SELECT detect.create_stream('box', topic => 'boxes'); ROLLBACK});
is(everything(), $before, 'nothing is left');

# While a stream of the same table runs, it can't be another's.
ask(q{SELECT detect.create_stream('box', topic => 'boxes')});
like(complaint(q{SELECT detect.try_stream('box', topic => 'boxes')}), qr/already exists/, 'a name that is taken');
like(complaint(q{SELECT detect.try_stream(events_table => 'box', topic => 'boxes')}), qr/ERROR:  .*"box"/, 'a table that is taken');

log_is_clean($node);
$node->stop;
done_testing();
