/* detect--1.0.sql */

-- complain if script is sourced in psql, rather than via CREATE EXTENSION
\echo Use "CREATE EXTENSION detect CASCADE" to load this file. \quit

SET LOCAL search_path = pg_catalog, pg_temp;

-- ---------------------------------------------------------------------
-- Schemas and roles
-- ---------------------------------------------------------------------

CREATE SCHEMA detect;
COMMENT ON SCHEMA detect IS 'Streams from Kafka, rollups, and what they tell of themselves';

CREATE SCHEMA detect_staging;
COMMENT ON SCHEMA detect_staging IS 'One table a stream: rows inserted here become events';

CREATE SCHEMA detect_query;
COMMENT ON SCHEMA detect_query IS 'The queries of streams, rollups and locators, kept as views';

CREATE SCHEMA detect_state;
COMMENT ON SCHEMA detect_state IS 'One table a rollup: the partial states of its aggregates';

-- default privileges may have given more
REVOKE ALL ON SCHEMA detect, detect_staging, detect_query, detect_state FROM PUBLIC;
GRANT USAGE ON SCHEMA detect, detect_staging, detect_query, detect_state TO PUBLIC;

-- The role that may name brokers and make streams.  Roles belong to the
-- cluster: another database may have made it already.
DO $$
BEGIN
	IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'detect_admin') THEN
		CREATE ROLE detect_admin NOLOGIN;
		COMMENT ON ROLE detect_admin IS 'may create servers of detect_kafka, streams and rollups';
	END IF;
END
$$;

-- ---------------------------------------------------------------------
-- Connection
-- ---------------------------------------------------------------------

CREATE FUNCTION detect.detect_kafka_validator(options text[], catalog oid) RETURNS void
	AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION detect.detect_kafka_validator(text[], oid) IS
	'checks the options of servers and user mappings of detect_kafka';

CREATE FOREIGN DATA WRAPPER detect_kafka VALIDATOR detect.detect_kafka_validator;
COMMENT ON FOREIGN DATA WRAPPER detect_kafka IS 'a Kafka cluster; secrets belong into its user mappings';

GRANT USAGE ON FOREIGN DATA WRAPPER detect_kafka TO detect_admin;

-- ---------------------------------------------------------------------
-- Types of columns
-- ---------------------------------------------------------------------

-- What a number in JSON counts, it does not tell: the type of the column does.
CREATE DOMAIN detect.epoch_s AS timestamptz;
COMMENT ON DOMAIN detect.epoch_s IS 'a time of which a message has the seconds since 1970, or the text';

CREATE DOMAIN detect.epoch_ms AS timestamptz;
COMMENT ON DOMAIN detect.epoch_ms IS 'a time of which a message has the milliseconds since 1970, or the text';

CREATE DOMAIN detect.epoch_us AS timestamptz;
COMMENT ON DOMAIN detect.epoch_us IS 'a time of which a message has the microseconds since 1970, or the text';

CREATE DOMAIN detect.epoch_ns AS timestamptz;
COMMENT ON DOMAIN detect.epoch_ns IS 'a time of which a message has the nanoseconds since 1970, or the text';

GRANT USAGE ON TYPE detect.epoch_s, detect.epoch_ms, detect.epoch_us, detect.epoch_ns TO PUBLIC;

-- ---------------------------------------------------------------------
-- Our own tables: written by C alone
-- ---------------------------------------------------------------------

CREATE SEQUENCE detect._id AS int;

-- A stream's columns are those of detect_staging.<name>, its query is the
-- view detect_query.<name>, and its owner is that view's owner.
CREATE TABLE detect._stream (
	stream_id int PRIMARY KEY,
	name text NOT NULL UNIQUE,
	server text,							-- NULL: fed by SQL alone
	topics text[] NOT NULL,					-- empty without a server
	events_table regclass NOT NULL UNIQUE,
	fields jsonb NOT NULL,					-- column to path
	"unnest" text,							-- path of an array of elements
	key text[] NOT NULL,
	event_time text,
	events_columns text[] NOT NULL,
	default_query boolean NOT NULL,			-- nobody wrote it: same-named columns
	start text NOT NULL,
	consumers int NOT NULL,
	partition_interval interval,
	retention interval,
	dead_letter_limit bigint,				-- NULL: no limit
	on_limit text NOT NULL,					-- pause, keep_offsets
	dead_letter_retention interval,			-- NULL: for ever
	paused boolean NOT NULL,
	paused_reason text,
	paused_remedy text,
	changed_by text NOT NULL,				-- by the last verb
	changed_at timestamptz NOT NULL,
	home_system bigint NOT NULL,			-- of the database it was made in
	home_database bigint NOT NULL,
	home_catalog bigint NOT NULL			-- this table: another one, once it was restored in place
);

-- Logged: commits with what the elements caused.
CREATE TABLE detect._applied_progress (
	stream_id int,
	kafka_topic text,
	kafka_partition int,
	last_offset bigint NOT NULL,			-- of the last applied message
	last_element int NOT NULL,				-- of that message; the rest may be missing
	next_offset bigint NOT NULL,			-- to read from Kafka; -1: as start says
	last_timestamp timestamptz,				-- kafka_timestamp of the last applied message
	last_fingerprint bigint,				-- of the message at last_offset; NULL: not known
	accepted bigint NOT NULL,
	duplicates bigint NOT NULL,
	filtered bigint NOT NULL,
	expired bigint NOT NULL,
	dead_letters bigint NOT NULL,
	PRIMARY KEY (stream_id, kafka_topic, kafka_partition)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);

-- Unlogged: vanishes together with the staged rows that it describes.
CREATE UNLOGGED TABLE detect._staged_progress (
	stream_id int,
	kafka_topic text,
	kafka_partition int,
	last_offset bigint NOT NULL,			-- of the last staged message
	next_offset bigint NOT NULL,			-- to read from Kafka
	end_offset bigint NOT NULL,				-- of the topic, when last heard of
	paused_reason text,						-- why this partition alone is not read
	paused_since timestamptz,
	is_missing boolean NOT NULL,			-- paused because it, or its topic, does not exist
	waits_since timestamptz,				-- for a transaction that is still open
	PRIMARY KEY (stream_id, kafka_topic, kafka_partition)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);

-- Logged: why partitions are paused, which a crash or a failover must not forget: where a topic
-- did end, and does not end any more, nothing else tells.
CREATE TABLE detect._paused_partition (
	stream_id int,
	kafka_topic text,
	kafka_partition int,
	end_offset bigint NOT NULL,
	paused_reason text NOT NULL,
	paused_since timestamptz NOT NULL,
	PRIMARY KEY (stream_id, kafka_topic, kafka_partition)
);

CREATE SEQUENCE detect._dead_letter_id;

CREATE TABLE detect._dead_letter (
	dead_letter_id bigint NOT NULL,			-- of a sequence; an index would cost, and none but that of retries is needed
	stream_id int NOT NULL,
	kafka_server text NOT NULL,				-- offsets of another one mean something else; '': staged by SQL
	kafka_topic text,						-- NULL: staged by SQL
	kafka_partition int,
	kafka_offset bigint,
	element int NOT NULL,					-- -1: the whole message
	kafka_timestamp timestamptz,
	kafka_key bytea,
	kafka_headers jsonb,
	payload bytea,
	payload_bytes bigint,					-- of the whole; NULL: there was none, or too much (54DM1)
	is_whole boolean NOT NULL,				-- else a retry reads Kafka again
	stage text NOT NULL,
	sqlstate text NOT NULL,
	reason text NOT NULL,
	attempts int NOT NULL,
	recorded_at timestamptz NOT NULL,
	last_attempt_at timestamptz NOT NULL,
	retry_asked_at timestamptz,				-- NULL: no retry is asked for
	retried_element int NOT NULL			-- of a whole message: its retry has come this far
);
-- a topic that is made again has other messages at the same offsets
CREATE UNIQUE INDEX _dead_letter_element ON detect._dead_letter
	(stream_id, kafka_server, kafka_topic, kafka_partition, kafka_offset, element, kafka_timestamp);
CREATE INDEX _dead_letter_time ON detect._dead_letter (stream_id, recorded_at);
CREATE UNIQUE INDEX _dead_letter_retry ON detect._dead_letter (stream_id, dead_letter_id)
	WHERE retry_asked_at IS NOT NULL;

-- Members of messages that no column takes, as consumers meet them.
CREATE TABLE detect._unknown_field (
	stream_id int,
	name text,								-- of an unnested item with @. before it
	elements bigint NOT NULL,				-- that had it
	last_seen timestamptz NOT NULL,
	PRIMARY KEY (stream_id, name)
);

-- What others do to the rows of an events table or a partition, until the
-- applier takes it.  Written in their transactions by triggers.
CREATE SEQUENCE detect._edit_id;

CREATE TABLE detect._edit (
	stream_id int,
	edit_id bigint,
	relation regclass NOT NULL,				-- as the statement named it
	old_row jsonb,							-- taken out; an update is two edits
	new_row jsonb,							-- put in; neither: too many to queue
	from_time timestamptz,					-- event times of those, if they are known
	until_time timestamptz,
	PRIMARY KEY (stream_id, edit_id)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);

-- What a DBA should know of, until it is over.
CREATE TABLE detect._problem (
	stream_id int,
	problem text,
	relation oid,
	severity text NOT NULL,
	detail text NOT NULL,
	remedy text,
	since timestamptz NOT NULL,
	PRIMARY KEY (stream_id, problem, relation)
);

-- A rollup's query is the view detect_query.<name>, its states are the table
-- detect_state.<name>, and its owner is that table's owner.  A new definition of
-- a rollup is a row of its own, named _new_<rollup_id>, until it is complete and
-- takes that rollup's place.
CREATE TABLE detect._rollup (
	rollup_id int PRIMARY KEY,
	name text NOT NULL UNIQUE,
	events_table regclass NOT NULL,			-- its stream is the one that fills this table
	view regclass NOT NULL,					-- what dashboards read
	time_zone text NOT NULL,
	state text NOT NULL,					-- new, filling, active, failed, behind
	filled_from timestamptz,				-- while filling: older events are not in yet
	rows_filled bigint NOT NULL,
	applied_until timestamptz,				-- when events were added last
	error text,
	created_at timestamptz NOT NULL,
	retention interval,						-- NULL: for ever
	aside_state text,						-- that it had; NULL: it is not aside
	retry_at timestamptz,					-- while failed
	attempts int NOT NULL,					-- since it failed first
	failed_event text,						-- without it the rollup would not have failed
	events_lost bigint NOT NULL,			-- that it missed, and that were gone when it caught up
	kept_from timestamptz,					-- older buckets are gone for good
	expiring boolean NOT NULL,				-- some of them may be left still
	server_major int,						-- of the PostgreSQL that serialized its states; NULL: none is
	filling_since timestamptz,				-- while filling
	replaces int UNIQUE,					-- the rollup whose new definition this is
	chunk_from timestamptz					-- while a worker reads events from here to filled_from
);

-- Events that a rollup misses while it is aside, or while a worker reads their times.
CREATE SEQUENCE detect._missed_batch;
CREATE TABLE detect._missed (
	rollup_id int,
	batch bigint,
	part int,								-- a day of event time
	since timestamptz,						-- event times, NULL where there are none
	until timestamptz,
	events int NOT NULL,
	columns text[] NOT NULL,				-- that tell events apart
	identities text[] NOT NULL,				-- rows of these columns, as text
	bytes bigint NOT NULL,					-- of the events, as rows
	PRIMARY KEY (rollup_id, batch, part)
);

-- Times whose groups are to be computed again from the events.
CREATE SEQUENCE detect._repair_id;
CREATE TABLE detect._repair (
	rollup_id int,
	repair_id bigint,
	from_time timestamptz NOT NULL,			-- event times
	until_time timestamptz NOT NULL,
	asked boolean NOT NULL,					-- by detect.rebuild_rollup, not by an edit
	allow_loss boolean NOT NULL,
	attempts int NOT NULL,
	retry_at timestamptz NOT NULL,			-- infinity: it is not done, and error says why
	error text,
	PRIMARY KEY (rollup_id, repair_id)
);

-- The partitions of an events table that rollups may have events of, as its
-- applier knew them last.  One that is gone by then is a mere number in a dump.
CREATE TABLE detect._partition (
	events_table regclass,
	relation regclass,
	is_default boolean NOT NULL,
	from_time timestamptz NOT NULL,
	until_time timestamptz NOT NULL,
	PRIMARY KEY (events_table, relation)
);

-- Event times of which events are lost with partitions that were dropped or detached, for
-- as long as a rollup reads the table.
CREATE TABLE detect._gone (
	events_table regclass NOT NULL,
	from_time timestamptz NOT NULL,
	until_time timestamptz NOT NULL
);

CREATE SEQUENCE detect._history_id;

-- What callers have done, for a year.
CREATE TABLE detect._history (
	history_id bigint PRIMARY KEY,
	at timestamptz NOT NULL,
	caller text NOT NULL,					-- the session's user
	acting_as text,							-- as whom, if as another
	verb text NOT NULL,
	object text NOT NULL,					-- name of a stream, rollup or locator
	definition_id int,						-- its number: names come again
	detail text
);

CREATE SEQUENCE detect._gap_id;

-- What Kafka had lost when somebody accepted it, for ever.
CREATE TABLE detect._gap (
	gap_id bigint PRIMARY KEY,
	stream_id int NOT NULL,
	stream text NOT NULL,					-- its name then
	kafka_topic text NOT NULL,
	kafka_partition int NOT NULL,
	from_offset bigint NOT NULL,			-- would have been read next
	to_offset bigint NOT NULL,				-- the first one behind what was not read
	resume_offset bigint,					-- that was read instead; NULL: the partition was forgotten
	reason text NOT NULL,
	detected_at timestamptz NOT NULL,
	accepted_at timestamptz NOT NULL,
	accepted_by text NOT NULL,				-- the session's user
	acting_as text							-- as whom, if as another
);

-- What gives keys and places is the view detect_query.<name>; a locator's owner
-- is that view's owner.
CREATE TABLE detect._locator (
	locator_id int PRIMARY KEY,
	name text NOT NULL UNIQUE,
	place_table regclass NOT NULL,
	key text NOT NULL,						-- as they were given: the view knows
	geometry text NOT NULL,
	mode text NOT NULL,						-- contains, covers, within
	within double precision,
	priority text,
	filter text,
	all_name text NOT NULL,					-- of the functions for all places
	srid int NOT NULL,
	max_age interval,						-- of what no trigger watches
	created_at timestamptz NOT NULL
);

REVOKE ALL ON ALL TABLES IN SCHEMA detect FROM PUBLIC;
REVOKE ALL ON ALL SEQUENCES IN SCHEMA detect FROM PUBLIC;

-- pg_dump carries definitions, progress and dead letters.  A stream that is
-- restored elsewhere is paused: it is a copy.
SELECT pg_extension_config_dump('detect._id', '');
SELECT pg_extension_config_dump('detect._stream', '');
SELECT pg_extension_config_dump('detect._applied_progress', '');
SELECT pg_extension_config_dump('detect._paused_partition', '');
SELECT pg_extension_config_dump('detect._dead_letter_id', '');
SELECT pg_extension_config_dump('detect._dead_letter', '');
SELECT pg_extension_config_dump('detect._rollup', '');
SELECT pg_extension_config_dump('detect._missed_batch', '');
SELECT pg_extension_config_dump('detect._missed', '');
SELECT pg_extension_config_dump('detect._edit_id', '');
SELECT pg_extension_config_dump('detect._edit', '');
SELECT pg_extension_config_dump('detect._repair_id', '');
SELECT pg_extension_config_dump('detect._repair', '');
SELECT pg_extension_config_dump('detect._partition', '');
SELECT pg_extension_config_dump('detect._gone', '');
SELECT pg_extension_config_dump('detect._history_id', '');
SELECT pg_extension_config_dump('detect._history', '');
SELECT pg_extension_config_dump('detect._gap_id', '');
SELECT pg_extension_config_dump('detect._gap', '');
SELECT pg_extension_config_dump('detect._locator', '');

-- Rows that nothing else names to subscribers of a publication of all tables,
-- which would let no row of theirs be deleted.
ALTER TABLE detect._dead_letter REPLICA IDENTITY FULL;
ALTER TABLE detect._gone REPLICA IDENTITY FULL;

-- ---------------------------------------------------------------------
-- Streams
-- ---------------------------------------------------------------------

CREATE FUNCTION detect.create_stream(
	name text,
	server text DEFAULT NULL,
	topic text DEFAULT NULL,
	topics text[] DEFAULT NULL,
	events_table regclass DEFAULT NULL,
	columns text DEFAULT NULL,
	fields jsonb DEFAULT NULL,
	"unnest" text DEFAULT NULL,
	query text DEFAULT NULL,
	key text[] DEFAULT NULL,
	event_time text DEFAULT NULL,
	start text DEFAULT NULL,
	partition_interval interval DEFAULT NULL,
	retention interval DEFAULT NULL,
	consumers int DEFAULT NULL,
	dead_letter_limit bigint DEFAULT NULL,
	on_limit text DEFAULT NULL,
	dead_letter_retention interval DEFAULT NULL,
	if_not_exists boolean DEFAULT false) RETURNS void
	AS 'MODULE_PATHNAME', 'detect_create_stream' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION detect.create_stream IS
	'makes a stream: messages of topics become rows of an events table, each exactly once';

CREATE FUNCTION detect.alter_stream(
	stream text,
	server text DEFAULT NULL,
	topic text DEFAULT NULL,
	topics text[] DEFAULT NULL,
	events_table regclass DEFAULT NULL,
	columns text DEFAULT NULL,
	fields jsonb DEFAULT NULL,
	"unnest" text DEFAULT NULL,
	query text DEFAULT NULL,
	key text[] DEFAULT NULL,
	event_time text DEFAULT NULL,
	start text DEFAULT NULL,
	partition_interval interval DEFAULT NULL,
	retention interval DEFAULT NULL,
	consumers int DEFAULT NULL,
	dead_letter_limit bigint DEFAULT NULL,
	on_limit text DEFAULT NULL,
	dead_letter_retention interval DEFAULT NULL,
	reset text[] DEFAULT NULL,
	if_exists boolean DEFAULT false) RETURNS void
	AS 'MODULE_PATHNAME', 'detect_alter_stream' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION detect.alter_stream IS
	'changes a stream between two commits, its progress kept: what is omitted stays, what reset names becomes the default';

CREATE FUNCTION detect.peek(
	server text, topic text, count int DEFAULT 10, newest boolean DEFAULT true,
	timeout interval DEFAULT '10 seconds',
	OUT kafka_topic text, OUT kafka_partition int, OUT kafka_offset bigint,
	OUT kafka_timestamp timestamptz, OUT kafka_key bytea, OUT kafka_headers jsonb,
	OUT kafka_value bytea, OUT payload text) RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'detect_peek' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE ROWS 10;
COMMENT ON FUNCTION detect.peek(text, text, int, boolean, interval) IS
	'shows messages of a topic, the newest or the first ones of its partitions, and leaves no trace';

CREATE FUNCTION detect.try_stream(
	name text DEFAULT NULL,
	server text DEFAULT NULL,
	topic text DEFAULT NULL,
	topics text[] DEFAULT NULL,
	events_table regclass DEFAULT NULL,
	columns text DEFAULT NULL,
	fields jsonb DEFAULT NULL,
	"unnest" text DEFAULT NULL,
	query text DEFAULT NULL,
	key text[] DEFAULT NULL,
	event_time text DEFAULT NULL,
	start text DEFAULT NULL,
	partition_interval interval DEFAULT NULL,
	retention interval DEFAULT NULL,
	consumers int DEFAULT NULL,
	dead_letter_limit bigint DEFAULT NULL,
	on_limit text DEFAULT NULL,
	dead_letter_retention interval DEFAULT NULL,
	sample int DEFAULT 1000,
	OUT kafka_topic text, OUT kafka_partition int, OUT kafka_offset bigint, OUT element int,
	OUT outcome text, OUT stage text, OUT sqlstate text, OUT reason text, OUT event jsonb)
	RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'detect_try_stream' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION detect.try_stream IS
	'shows what the newest messages would become in such a stream, with reasons; nothing is kept';

CREATE FUNCTION detect.get_definition(name text) RETURNS text
	AS 'MODULE_PATHNAME', 'detect_get_definition' LANGUAGE C STABLE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION detect.get_definition(text) IS 'the SQL that makes a stream, a rollup or a locator again';

CREATE FUNCTION detect.drop_stream(stream text, if_exists boolean DEFAULT false) RETURNS void
	AS 'MODULE_PATHNAME', 'detect_drop_stream' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION detect.drop_stream(text, boolean) IS
	'drops a stream; its events table, the rows in it and its rollups stay';

CREATE FUNCTION detect.pause(stream text) RETURNS void
	AS 'MODULE_PATHNAME', 'detect_pause' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION detect.pause(text) IS
	'stops a stream: when it returns no batch is open, and none begins before detect.resume';

CREATE FUNCTION detect.resume(stream text, reject boolean DEFAULT false) RETURNS void
	AS 'MODULE_PATHNAME', 'detect_resume' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION detect.resume(text, boolean) IS
	'lets a paused stream go on where it stopped; an element that has crashed the server becomes a dead letter if reject';

CREATE FUNCTION detect.seek(
	stream text, to_time timestamptz DEFAULT NULL, to_offset bigint DEFAULT NULL,
	topic text DEFAULT NULL, partition int DEFAULT NULL) RETURNS bigint
	AS 'MODULE_PATHNAME', 'detect_seek' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION detect.seek(text, timestamptz, bigint, text, int) IS
	'has a stream read on from a time or an offset, one partition or all; how many partitions move';

CREATE FUNCTION detect.accept_gap(
	stream text, topic text DEFAULT NULL, partition int DEFAULT NULL, at_offset bigint DEFAULT NULL) RETURNS bigint
	AS 'MODULE_PATHNAME', 'detect_accept_gap' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION detect.accept_gap(text, text, int, bigint) IS
	'has partitions read on that are paused because Kafka has lost what comes next; how many, and detect.gap keeps it';

CREATE FUNCTION detect.wait_for(stream text, timeout interval DEFAULT '1 minute') RETURNS void
	AS 'MODULE_PATHNAME', 'detect_wait_for' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION detect.wait_for(text, interval) IS
	'returns when everything that was in the topic, staged by SQL, edited or to be retried at the call is applied';

CREATE FUNCTION detect.retry_dead_letters(
	stream text,
	from_time timestamptz DEFAULT '-infinity',
	to_time timestamptz DEFAULT 'infinity',
	sqlstate text DEFAULT NULL) RETURNS bigint
	AS 'MODULE_PATHNAME', 'detect_retry_dead_letters' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION detect.retry_dead_letters(text, timestamptz, timestamptz, text) IS
	'has dead letters tried again with the current definition; how many are asked for';

CREATE FUNCTION detect.purge_dead_letters(
	stream text,
	from_time timestamptz DEFAULT '-infinity',
	to_time timestamptz DEFAULT 'infinity',
	sqlstate text DEFAULT NULL) RETURNS bigint
	AS 'MODULE_PATHNAME', 'detect_purge_dead_letters' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION detect.purge_dead_letters(text, timestamptz, timestamptz, text) IS
	'deletes dead letters; how many';

CREATE FUNCTION detect.decode(payload bytea, columns text, fields jsonb DEFAULT NULL, "unnest" text DEFAULT NULL)
	RETURNS jsonb
	AS 'MODULE_PATHNAME', 'detect_decode' LANGUAGE C STABLE PARALLEL UNSAFE;
COMMENT ON FUNCTION detect.decode(bytea, text, jsonb, text) IS
	'shows what a stream with these columns and fields would take from a payload; with unnest, an array of its elements';

CREATE FUNCTION detect._unknown_fields(payloads bytea[], columns text, fields jsonb DEFAULT NULL, "unnest" text DEFAULT NULL)
	RETURNS TABLE (of_item boolean, name text, count bigint)
	AS 'MODULE_PATHNAME', 'detect_unknown_fields' LANGUAGE C STABLE PARALLEL UNSAFE;
COMMENT ON FUNCTION detect._unknown_fields(bytea[], text, jsonb, text) IS
	'members of these payloads that no column takes, counted as a stream would';

CREATE FUNCTION detect._staged() RETURNS trigger
	AS 'MODULE_PATHNAME', 'detect_staged' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION detect._staged() IS 'wakes the applier when rows staged by SQL commit';

CREATE FUNCTION detect._accepted() RETURNS trigger
	AS 'MODULE_PATHNAME', 'detect_accepted' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION detect._accepted() IS 'hands the rows that an events table accepted to its rollups, and queues those that others insert';

CREATE FUNCTION detect._edited() RETURNS trigger
	AS 'MODULE_PATHNAME', 'detect_edited' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION detect._edited() IS 'queues the rows of an events table that others update and delete';
CREATE FUNCTION detect._truncated() RETURNS trigger
	AS 'MODULE_PATHNAME', 'detect_truncated' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION detect._truncated() IS 'notes that an events table or a partition was truncated';

-- ---------------------------------------------------------------------
-- Rollups
-- ---------------------------------------------------------------------

CREATE FUNCTION detect.create_rollup(name text, query text, retention interval DEFAULT NULL, coarser jsonb DEFAULT NULL)
	RETURNS void
	AS 'MODULE_PATHNAME', 'detect_create_rollup' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION detect.create_rollup(text, text, interval, jsonb) IS
	'makes a view of a GROUP BY over an events table that is kept up to date';

CREATE FUNCTION detect.alter_rollup(
	rollup text, query text DEFAULT NULL, retention interval DEFAULT NULL, reset text[] DEFAULT NULL) RETURNS void
	AS 'MODULE_PATHNAME', 'detect_alter_rollup' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION detect.alter_rollup(text, text, interval, text[]) IS
	'another query of a rollup, built beside the old one until it is complete, and how long groups are kept: what is omitted stays, what reset names becomes the default';

CREATE FUNCTION detect.create_rollup_view(name text, rollup text, columns text[]) RETURNS void
	AS 'MODULE_PATHNAME', 'detect_create_rollup_view' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION detect.create_rollup_view(text, text, text[]) IS
	'makes a view of a rollup by fewer of its group columns; nothing is stored twice';

CREATE FUNCTION detect.drop_rollup(rollup text, if_exists boolean DEFAULT false) RETURNS void
	AS 'MODULE_PATHNAME', 'detect_drop_rollup' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION detect.drop_rollup(text, boolean) IS 'drops a rollup, its view and its states';

CREATE FUNCTION detect.wait_for_rollup(rollup text, timeout interval DEFAULT '1 minute') RETURNS void
	AS 'MODULE_PATHNAME', 'detect_wait_for_rollup' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION detect.wait_for_rollup(text, interval) IS
	'returns when the rollup is filled from the events that were there before it, what was to be rebuilt is, or a new query has taken over';

CREATE FUNCTION detect.retry_rollup(rollup text) RETURNS void
	AS 'MODULE_PATHNAME', 'detect_retry_rollup' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION detect.retry_rollup(text) IS
	'lets a rollup that failed try again at once; it catches up with what it has missed';

CREATE FUNCTION detect.rebuild_rollup(
	rollup text, from_time timestamptz DEFAULT NULL, to_time timestamptz DEFAULT NULL, allow_loss boolean DEFAULT false)
	RETURNS void
	AS 'MODULE_PATHNAME', 'detect_rebuild_rollup' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION detect.rebuild_rollup(text, timestamptz, timestamptz, boolean) IS
	'has groups of a rollup computed again from the events, a bounded number of them at a time';

CREATE FUNCTION detect.verify_rollup(rollup text, from_time timestamptz DEFAULT NULL, to_time timestamptz DEFAULT NULL)
	RETURNS TABLE (problem text, group_columns jsonb, kept jsonb, recomputed jsonb)
	AS 'MODULE_PATHNAME', 'detect_verify_rollup' LANGUAGE C STABLE PARALLEL UNSAFE;
COMMENT ON FUNCTION detect.verify_rollup(text, timestamptz, timestamptz) IS
	'compares a rollup with what its query gives over the events: the groups that differ, none as a rule';

CREATE FUNCTION detect._alike(kept double precision, recomputed double precision) RETURNS boolean
	AS 'MODULE_PATHNAME', 'detect_alike_float8' LANGUAGE C IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION detect._alike(double precision, double precision) IS
	'whether two results differ by no more than the order of adding makes of them';

CREATE FUNCTION detect._alike(kept real, recomputed real) RETURNS boolean
	AS 'MODULE_PATHNAME', 'detect_alike_float4' LANGUAGE C IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION detect._alike(real, real) IS
	'whether two results differ by no more than the order of adding makes of them';

-- States that only their own aggregate reads: made by C, and put in by superusers.
CREATE TYPE detect.aggregate_state;

CREATE FUNCTION detect._aggregate_state_in(cstring) RETURNS detect.aggregate_state
	AS 'MODULE_PATHNAME', 'detect_aggregate_state_in' LANGUAGE C STABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION detect._aggregate_state_in(cstring) IS 'input of the type aggregate_state, for superusers alone';

CREATE FUNCTION detect._aggregate_state_out(detect.aggregate_state) RETURNS cstring
	AS 'MODULE_PATHNAME', 'detect_aggregate_state_out' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION detect._aggregate_state_out(detect.aggregate_state) IS 'output of the type aggregate_state';

CREATE TYPE detect.aggregate_state (
	INPUT = detect._aggregate_state_in, OUTPUT = detect._aggregate_state_out,
	INTERNALLENGTH = VARIABLE, ALIGNMENT = int4, STORAGE = extended);
COMMENT ON TYPE detect.aggregate_state IS 'the partial state of an aggregate, as its own functions serialized it';

CREATE FUNCTION detect._combine(aggregate regprocedure, state anyelement, other anyelement) RETURNS anyelement
	AS 'MODULE_PATHNAME', 'detect_combine' LANGUAGE C STABLE PARALLEL SAFE;
COMMENT ON FUNCTION detect._combine(regprocedure, anyelement, anyelement) IS
	'merges two partial states of an aggregate';

CREATE FUNCTION detect._finalize(result anyelement, aggregate regprocedure, state "any") RETURNS anyelement
	AS 'MODULE_PATHNAME', 'detect_finalize' LANGUAGE C STABLE PARALLEL SAFE;
COMMENT ON FUNCTION detect._finalize(anyelement, regprocedure, "any") IS
	'the result of an aggregate from its partial state; the first argument only names the type';

CREATE FUNCTION detect._merge_step(merged internal, aggregate regprocedure, state anyelement) RETURNS internal
	AS 'MODULE_PATHNAME', 'detect_merge_step' LANGUAGE C STABLE PARALLEL SAFE;
COMMENT ON FUNCTION detect._merge_step(internal, regprocedure, anyelement) IS 'transition of the aggregate _merge';

CREATE FUNCTION detect._merged(merged internal, aggregate regprocedure, state anyelement) RETURNS anyelement
	AS 'MODULE_PATHNAME', 'detect_merged' LANGUAGE C STABLE PARALLEL SAFE;
COMMENT ON FUNCTION detect._merged(internal, regprocedure, anyelement) IS 'result of the aggregate _merge';

CREATE AGGREGATE detect._merge(aggregate regprocedure, state anyelement) (
	SFUNC = detect._merge_step, STYPE = internal, SSPACE = 200,
	FINALFUNC = detect._merged, FINALFUNC_EXTRA, PARALLEL = SAFE);
COMMENT ON AGGREGATE detect._merge(regprocedure, anyelement) IS
	'the partial state of an aggregate for all rows that went into these states';

-- Kept in rollups as it is: the value is text, so that no OID is kept.
CREATE TYPE detect._timed AS (at timestamptz, value text);
COMMENT ON TYPE detect._timed IS 'state of the aggregates first and last';

CREATE FUNCTION detect._first_step(state detect._timed, value anyelement, at timestamptz) RETURNS detect._timed
	AS 'MODULE_PATHNAME', 'detect_first_step' LANGUAGE C STABLE PARALLEL SAFE;
COMMENT ON FUNCTION detect._first_step(detect._timed, anyelement, timestamptz) IS 'transition of the aggregate first';

CREATE FUNCTION detect._first_combine(state detect._timed, other detect._timed) RETURNS detect._timed
	AS 'MODULE_PATHNAME', 'detect_first_combine' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION detect._first_combine(detect._timed, detect._timed) IS 'merges states of the aggregate first';

CREATE FUNCTION detect._last_step(state detect._timed, value anyelement, at timestamptz) RETURNS detect._timed
	AS 'MODULE_PATHNAME', 'detect_last_step' LANGUAGE C STABLE PARALLEL SAFE;
COMMENT ON FUNCTION detect._last_step(detect._timed, anyelement, timestamptz) IS 'transition of the aggregate last';

CREATE FUNCTION detect._last_combine(state detect._timed, other detect._timed) RETURNS detect._timed
	AS 'MODULE_PATHNAME', 'detect_last_combine' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION detect._last_combine(detect._timed, detect._timed) IS 'merges states of the aggregate last';

CREATE FUNCTION detect._timed_value(state detect._timed, value anyelement, at timestamptz) RETURNS anyelement
	AS 'MODULE_PATHNAME', 'detect_timed_value' LANGUAGE C STABLE PARALLEL SAFE;
COMMENT ON FUNCTION detect._timed_value(detect._timed, anyelement, timestamptz) IS 'result of the aggregates first and last';

CREATE AGGREGATE detect.first(value anyelement, at timestamptz) (
	SFUNC = detect._first_step, STYPE = detect._timed, COMBINEFUNC = detect._first_combine,
	FINALFUNC = detect._timed_value, FINALFUNC_EXTRA, PARALLEL = SAFE);
COMMENT ON AGGREGATE detect.first(anyelement, timestamptz) IS 'the value at the earliest time';

CREATE AGGREGATE detect.last(value anyelement, at timestamptz) (
	SFUNC = detect._last_step, STYPE = detect._timed, COMBINEFUNC = detect._last_combine,
	FINALFUNC = detect._timed_value, FINALFUNC_EXTRA, PARALLEL = SAFE);
COMMENT ON AGGREGATE detect.last(anyelement, timestamptz) IS 'the value at the latest time';

-- ---------------------------------------------------------------------
-- Locators
-- ---------------------------------------------------------------------

CREATE FUNCTION detect.create_locator(
	name text,
	place_table regclass,
	key text DEFAULT NULL,
	geometry text DEFAULT NULL,
	mode text DEFAULT NULL,
	within double precision DEFAULT NULL,
	priority text DEFAULT NULL,
	filter text DEFAULT NULL,
	all_name text DEFAULT NULL,
	max_age interval DEFAULT NULL) RETURNS void
	AS 'MODULE_PATHNAME', 'detect_create_locator' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION detect.create_locator IS
	'makes typed functions from a point to the key of a place, which answer from memory';

CREATE FUNCTION detect.drop_locator(locator text, if_exists boolean DEFAULT false) RETURNS void
	AS 'MODULE_PATHNAME', 'detect_drop_locator' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION detect.drop_locator(text, boolean) IS 'drops a locator and its functions';

CREATE FUNCTION detect.refresh_locator(locator text) RETURNS void
	AS 'MODULE_PATHNAME', 'detect_refresh_locator' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION detect.refresh_locator(text) IS
	'has all places of a locator read again';

-- The typed functions call these.  "any" is a geometry or a geography, whose
-- schema only the user knows.
CREATE FUNCTION detect._locate(locator regclass, key anyelement, place "any") RETURNS anyelement
	AS 'MODULE_PATHNAME', 'detect_locate' LANGUAGE C STABLE PARALLEL RESTRICTED COST 10;
COMMENT ON FUNCTION detect._locate(regclass, anyelement, "any") IS
	'the key of the place that has a point; the second argument only names the type';

CREATE FUNCTION detect._locate(locator regclass, key anyelement, x double precision, y double precision)
	RETURNS anyelement
	AS 'MODULE_PATHNAME', 'detect_locate_xy' LANGUAGE C STABLE PARALLEL RESTRICTED COST 10;
COMMENT ON FUNCTION detect._locate(regclass, anyelement, double precision, double precision) IS
	'the key of the place that has a point; the second argument only names the type';

CREATE FUNCTION detect._locate_all(locator regclass, keys anyarray, place "any") RETURNS anyarray
	AS 'MODULE_PATHNAME', 'detect_locate_all' LANGUAGE C STABLE PARALLEL RESTRICTED COST 10;
COMMENT ON FUNCTION detect._locate_all(regclass, anyarray, "any") IS
	'the keys of all places that have a point; the second argument only names the type';

CREATE FUNCTION detect._locate_all(locator regclass, keys anyarray, x double precision, y double precision)
	RETURNS anyarray
	AS 'MODULE_PATHNAME', 'detect_locate_all_xy' LANGUAGE C STABLE PARALLEL RESTRICTED COST 10;
COMMENT ON FUNCTION detect._locate_all(regclass, anyarray, double precision, double precision) IS
	'the keys of all places that have a point; the second argument only names the type';

CREATE FUNCTION detect._nearest(
	locator regclass, type anyelement, place "any", k int,
	OUT key anyelement, OUT distance double precision) RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'detect_nearest' LANGUAGE C STABLE PARALLEL RESTRICTED COST 10 ROWS 5;
COMMENT ON FUNCTION detect._nearest(regclass, anyelement, "any", int) IS
	'the k nearest places; the second argument only names the type of their keys';

CREATE FUNCTION detect._nearest(
	locator regclass, type anyelement, x double precision, y double precision, k int,
	OUT key anyelement, OUT distance double precision) RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'detect_nearest_xy' LANGUAGE C STABLE PARALLEL RESTRICTED COST 10 ROWS 5;
COMMENT ON FUNCTION detect._nearest(regclass, anyelement, double precision, double precision, int) IS
	'the k nearest places; the second argument only names the type of their keys';

CREATE FUNCTION detect._place_changed() RETURNS trigger
	AS 'MODULE_PATHNAME', 'detect_place_changed' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION detect._place_changed() IS 'tells every process that places of locators change at commit';

-- ---------------------------------------------------------------------
-- Objects that go away take their definitions along
-- ---------------------------------------------------------------------

CREATE FUNCTION detect._dropped() RETURNS event_trigger
	AS 'MODULE_PATHNAME', 'detect_dropped' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION detect._dropped() IS 'clears the definitions of streams, rollups and locators whose objects were dropped';

CREATE FUNCTION detect._dropping() RETURNS event_trigger
	AS 'MODULE_PATHNAME', 'detect_dropping' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION detect._dropping() IS 'lets workers finish their batches before the extension is dropped or altered, and has its schemas keep their names';

CREATE EVENT TRIGGER detect_dropping ON ddl_command_start WHEN TAG IN ('DROP EXTENSION', 'ALTER EXTENSION', 'ALTER SCHEMA')
	EXECUTE FUNCTION detect._dropping();
COMMENT ON EVENT TRIGGER detect_dropping IS 'lets workers finish their batches before the extension is dropped or altered, and has its schemas keep their names';

CREATE EVENT TRIGGER detect_dropped ON sql_drop EXECUTE FUNCTION detect._dropped();
COMMENT ON EVENT TRIGGER detect_dropped IS 'clears the definitions of streams and rollups whose objects were dropped';

-- ---------------------------------------------------------------------
-- What they tell of themselves
-- ---------------------------------------------------------------------

CREATE FUNCTION detect._stream_owner(name text) RETURNS oid
	LANGUAGE sql STABLE STRICT PARALLEL SAFE
	RETURN (SELECT c.relowner FROM pg_class c
			WHERE c.relnamespace = 'detect_query'::regnamespace
			AND c.relname = CAST(_stream_owner.name AS pg_catalog.name));
COMMENT ON FUNCTION detect._stream_owner(text) IS 'the owner of a stream, rollup or locator';

CREATE FUNCTION detect._may_see(owner oid) RETURNS boolean
	LANGUAGE sql STABLE PARALLEL SAFE
	RETURN COALESCE(pg_has_role(owner, 'USAGE'), false)
		OR pg_has_role('pg_read_all_stats', 'USAGE');
COMMENT ON FUNCTION detect._may_see(oid) IS 'whether the caller may see what belongs to this owner';

CREATE FUNCTION detect._is_copy(home_system bigint, home_database bigint, home_catalog bigint) RETURNS boolean
	LANGUAGE sql STABLE PARALLEL SAFE
	RETURN home_system <> (SELECT system_identifier FROM pg_control_system())
		OR home_database <> (SELECT oid::bigint FROM pg_database WHERE datname = current_database())
		OR home_catalog <> 'detect._stream'::regclass::oid::bigint;
COMMENT ON FUNCTION detect._is_copy(bigint, bigint, bigint) IS 'whether what was made there has been copied to here';

CREATE FUNCTION detect._slots(
	OUT stream_id int, OUT state text, OUT state_since timestamptz, OUT reason text,
	OUT sqlstate text, OUT last_error_at timestamptz, OUT retries bigint,
	OUT batches bigint, OUT elements bigint, OUT identities bigint, OUT identity_bytes bigint,
	OUT last_batch_at timestamptz, OUT events_per_second double precision,
	OUT freshness_p50_ms double precision, OUT freshness_p99_ms double precision)
	RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'detect_slots' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION detect._slots() IS 'what the workers of this database''s streams say in shared memory';

CREATE FUNCTION detect._workers(
	OUT stream_id int, OUT duty text, OUT number int, OUT pid int, OUT state text, OUT step_us bigint[])
	RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'detect_workers' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION detect._workers() IS 'the workers of this database''s streams that run, or ran last';

CREATE FUNCTION detect._staged_offsets(
	OUT stream_id int, OUT kafka_topic text, OUT kafka_partition int, OUT next_offset bigint, OUT end_offset bigint,
	OUT paused_reason text, OUT paused_since timestamptz, OUT waits_since timestamptz)
	RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'detect_staged_offsets' LANGUAGE C STABLE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION detect._staged_offsets() IS 'staged progress of this database''s streams; nothing on a standby';

CREATE VIEW detect.stream WITH (security_barrier) AS
	SELECT s.name AS stream, pg_get_userbyid(detect._stream_owner(s.name)) AS owner,
		   s.server, s.topics, s.events_table, s.fields, s."unnest", s.key, s.event_time, s.start,
		   s.partition_interval, s.retention, s.consumers,
		   s.dead_letter_limit, s.on_limit, s.dead_letter_retention, s.paused,
		   pg_get_viewdef(to_regclass(
			   format('detect_query.%I', s.name))::oid) AS query,
		   s.changed_by, s.changed_at
	FROM detect._stream s
	WHERE detect._may_see(detect._stream_owner(s.name));
COMMENT ON VIEW detect.stream IS 'definitions of streams';

CREATE VIEW detect.rollup WITH (security_barrier) AS
	SELECT r.name AS rollup, s.name AS stream,
		   pg_get_userbyid(detect._stream_owner(r.name)) AS owner,
		   r.view, r.time_zone, r.retention,
		   pg_get_viewdef(to_regclass(
			   format('detect_query.%I', r.name))::oid) AS query,
		   r.created_at,
		   CASE WHEN n.name IS NOT NULL
				THEN pg_get_viewdef(to_regclass(format('detect_query.%I', n.name))::oid) END AS new_query
	FROM detect._rollup r
	LEFT JOIN detect._stream s USING (events_table)
	LEFT JOIN detect._rollup n ON n.replaces = r.rollup_id
	WHERE r.replaces IS NULL AND detect._may_see(detect._stream_owner(r.name));
COMMENT ON VIEW detect.rollup IS 'definitions of rollups, and the new ones that are being built';

CREATE FUNCTION detect._locators(
	OUT pid int, OUT stream_id int, OUT duty text, OUT locator text, OUT places bigint, OUT vertices bigint,
	OUT bytes bigint, OUT builds bigint, OUT partial_builds bigint, OUT places_built bigint, OUT build_ms double precision, OUT built_at timestamptz,
	OUT from_memory bigint, OUT from_table bigint, OUT reason text)
	RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'detect_locators' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION detect._locators() IS 'what this session and the workers have of locators in memory';

CREATE VIEW detect.locator WITH (security_barrier) AS
	SELECT l.name AS locator, pg_get_userbyid(detect._stream_owner(l.name)) AS owner,
		   l.place_table, l.key, l.geometry, l.mode, l.within, l.priority, l.filter, l.all_name,
		   l.srid, l.max_age,
		   pg_get_viewdef(to_regclass(
			   format('detect_query.%I', l.name))::oid) AS query,
		   l.created_at
	FROM detect._locator l
	WHERE detect._may_see(detect._stream_owner(l.name));
COMMENT ON VIEW detect.locator IS 'definitions of locators';

CREATE VIEW detect.stat_locator WITH (security_barrier) AS
	SELECT l.pid, l.duty, s.name AS stream, l.locator, l.places, l.vertices, l.bytes, l.builds, l.partial_builds,
		   l.places_built, l.build_ms,
		   l.built_at, l.from_memory, l.from_table, l.reason
	FROM detect._locators() l LEFT JOIN detect._stream s USING (stream_id);
COMMENT ON VIEW detect.stat_locator IS
	'the locators that this session and the workers of streams have used: what they hold in memory, and how they answer';

CREATE FUNCTION detect._server(OUT library_version text, OUT launcher_pid int, OUT workers_wanted int,
	OUT no_worker_slot boolean)
	AS 'MODULE_PATHNAME', 'detect_server' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION detect._server() IS 'the library, the launcher, how many workers all databases want, and whether there are none to be had';

-- What holds for all partitions of a stream: whether it runs, and why not.
CREATE VIEW detect._stream_state WITH (security_barrier) AS
	SELECT s.stream_id, s.name, s.server, s.consumers,
		   -- a copy that was just made is not paused yet, and does not run either
		   CASE WHEN s.paused OR c.is_copy THEN 'paused'
				-- nor has the probe a worker that would find it
				WHEN w.stream_id IS NULL AND v.no_worker_slot THEN 'waiting for a worker'
				WHEN w.stream_id IS NULL THEN 'stopped'
				ELSE w.state END AS state,
		   CASE WHEN c.is_copy THEN 'this is a copy of another database'
				WHEN s.paused THEN s.paused_reason
				WHEN pg_is_in_recovery() THEN 'this server is a standby'
				ELSE NULLIF(w.reason, '') END AS reason,
		   CASE WHEN c.is_copy THEN format('SELECT detect.resume(%L) -- if this database is to take over', s.name)
				WHEN s.paused THEN s.paused_remedy
				WHEN pg_is_in_recovery() THEN 'nothing: it runs once the server is promoted'
				WHEN w.stream_id IS NULL AND current_setting('detect.max_streams', true) IS NULL
				THEN 'add detect to shared_preload_libraries and restart the server'
				WHEN w.stream_id IS NULL AND NOT v.no_worker_slot
				THEN format('if it stays so, raise detect.max_streams, now %s, and restart the server',
							current_setting('detect.max_streams', true))
				WHEN w.stream_id IS NULL OR w.state = 'waiting for a worker'
				THEN format('if it stays so, raise max_worker_processes, now %s, and restart the server',
							current_setting('max_worker_processes'))
				WHEN w.reason ~ '^topic ".*" does not exist'
				THEN format('create the topic, which is then read by itself, or name others: SELECT detect.alter_stream(%L, topics => ...)', s.name)
				WHEN w.state = 'connecting' AND s.server IS NOT NULL
				THEN format('have the brokers answer, or correct their address: ALTER SERVER %I OPTIONS (SET bootstrap_servers ...)', s.server)
				WHEN NULLIF(w.reason, '') IS NOT NULL
				THEN 'mend what the reason names; it is tried again by itself' END AS remedy
	FROM detect._stream s
	CROSS JOIN LATERAL (SELECT detect._is_copy(s.home_system, s.home_database, s.home_catalog) AS is_copy) c
	CROSS JOIN detect._server() v
	LEFT JOIN detect._slots() w USING (stream_id);

COMMENT ON VIEW detect._stream_state IS
	'state, reason and remedy of each stream, as far as its partitions do not matter';

CREATE VIEW detect.stat_partition WITH (security_barrier) AS
	SELECT s.name AS stream, a.kafka_topic, a.kafka_partition,
		   q.state, q.reason,
		   CASE WHEN q.state <> 'paused' AND q.state = s.state OR s.state = 'paused' THEN s.remedy
				WHEN q.state = 'paused'
				THEN format('SELECT detect.accept_gap(%L, %L, %s)', s.name, a.kafka_topic, a.kafka_partition)
				WHEN q.state = 'waiting for an open transaction'
				THEN 'end the transaction, or wait until Kafka aborts it: kafka-transactions.sh find-hanging'
				WHEN q.state = 'catching up'
				THEN format('if it stays so, read with more workers: SELECT detect.alter_stream(%L, consumers => %s)',
							s.name, LEAST(s.consumers + 1, 16)) END AS remedy,
		   p.paused_since,
		   a.next_offset AS applied_offset, p.next_offset AS staged_offset,
		   p.end_offset, l.lag_messages, l.lag_seconds,
		   a.last_timestamp AS kafka_timestamp,
		   a.accepted, a.duplicates, a.filtered, a.expired, a.dead_letters
	FROM detect._stream_state s
	JOIN detect._applied_progress a USING (stream_id)
	LEFT JOIN detect._staged_offsets() p USING (stream_id, kafka_topic, kafka_partition)
	CROSS JOIN LATERAL (
		SELECT CASE WHEN NOT pg_is_in_recovery() THEN GREATEST(p.end_offset - a.next_offset, 0) END AS lag_messages,
			   CASE WHEN pg_is_in_recovery() THEN NULL
					WHEN p.end_offset <= a.next_offset THEN 0
					-- where the topic ends is not known at first
					WHEN p.end_offset IS NOT NULL
					THEN EXTRACT(epoch FROM clock_timestamp() - a.last_timestamp)::float8
			   END AS lag_seconds) l
	CROSS JOIN LATERAL (
		SELECT CASE WHEN s.state <> 'running' THEN s.state
					WHEN p.paused_reason IS NOT NULL THEN 'paused'
					WHEN p.waits_since IS NOT NULL AND p.next_offset = a.next_offset THEN 'waiting for an open transaction'
					WHEN l.lag_messages > 0 AND COALESCE(l.lag_seconds, 'infinity') > 10
					OR l.lag_messages > current_setting('detect.max_batch_rows', true)::bigint THEN 'catching up'
					ELSE 'running' END AS state,
			   CASE WHEN s.state <> 'running' THEN s.reason
					WHEN p.paused_reason IS NOT NULL THEN p.paused_reason
					WHEN p.waits_since IS NOT NULL AND p.next_offset = a.next_offset
					THEN format('offset %s belongs to a transaction that is open, seen first at %s', p.next_offset, p.waits_since::timestamptz(0))
					ELSE s.reason END AS reason) q
	WHERE detect._may_see(detect._stream_owner(s.name));
COMMENT ON VIEW detect.stat_partition IS
	'state, progress, lag and outcomes of each partition; what SQL staged is under partition -1';

CREATE VIEW detect.stat_stream WITH (security_barrier) AS
	SELECT s.name AS stream,
		   CASE WHEN s.state = 'running' THEN COALESCE(p.busy_state, s.state) ELSE s.state END AS state,
		   COALESCE(s.reason, p.held_reason) AS reason,
		   CASE WHEN s.state = 'running' AND s.reason IS NULL THEN p.held_remedy ELSE s.remedy END AS remedy,
		   a.pid, w.state_since,
		   p.accepted, p.duplicates, p.filtered, p.expired, p.dead_letters,
		   p.lag_messages, p.lag_seconds,
		   CASE WHEN w.last_batch_at > clock_timestamp() - interval '10 seconds'
				THEN w.events_per_second ELSE 0 END AS events_per_second,
		   w.freshness_p50_ms, w.freshness_p99_ms,
		   w.batches, w.elements, w.last_batch_at, w.retries, w.sqlstate AS last_sqlstate, w.last_error_at,
		   w.identities, w.identity_bytes, u.unknown_fields
	FROM detect._stream_state s
	LEFT JOIN detect._slots() w USING (stream_id)
	LEFT JOIN detect._workers() a ON a.stream_id = s.stream_id AND a.duty = 'apply'
	LEFT JOIN LATERAL (
		SELECT sum(sp.accepted)::int8 AS accepted, sum(sp.duplicates)::int8 AS duplicates,
			   sum(sp.filtered)::int8 AS filtered, sum(sp.expired)::int8 AS expired,
			   sum(sp.dead_letters)::int8 AS dead_letters,
			   sum(sp.lag_messages)::int8 AS lag_messages, max(sp.lag_seconds) AS lag_seconds,
			   -- 'catching up' comes before 'waiting for an open transaction'
			   min(sp.state) FILTER (WHERE sp.state IN ('catching up', 'waiting for an open transaction')) AS busy_state,
			   -- a partition that is paused comes first, then one that waits, then one that is behind
			   (array_agg(format('partition %s of topic "%s": %s', sp.kafka_partition, sp.kafka_topic, sp.reason)
						  ORDER BY sp.state, sp.kafka_topic, sp.kafka_partition)
				FILTER (WHERE sp.state IN ('paused', 'waiting for an open transaction')))[1] AS held_reason,
			   (array_agg(sp.remedy
						  ORDER BY sp.state = 'catching up', sp.state, sp.kafka_topic, sp.kafka_partition)
				FILTER (WHERE sp.state <> 'running'))[1] AS held_remedy
		FROM detect.stat_partition sp WHERE sp.stream = s.name) p ON true
	LEFT JOIN LATERAL (
		SELECT jsonb_object_agg(f.name, f.elements) AS unknown_fields
		FROM detect._unknown_field f WHERE f.stream_id = s.stream_id) u ON true
	WHERE detect._may_see(detect._stream_owner(s.name));
COMMENT ON VIEW detect.stat_stream IS
	'how each stream does: state, reason and remedy, outcomes, lag, speed and freshness; a stream that should run and does not is a row too';

CREATE FUNCTION detect._share_filled(events_table regclass, filled_from timestamptz) RETURNS double precision
	AS 'MODULE_PATHNAME', 'detect_share_filled' LANGUAGE C STABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION detect._share_filled(regclass, timestamptz) IS
	'the share of an events table''s rows that are not older than a time, about; NULL when it cannot be told';

CREATE VIEW detect.stat_rollup WITH (security_barrier) AS
	SELECT r.name AS rollup, s.name AS stream, r.state, r.filled_from, r.rows_filled,
		   h.share_filled,
		   CASE WHEN r.state = 'active' THEN interval '0'
				-- less is too little to tell
				WHEN r.state = 'filling' AND h.share_filled > 0.000001
				THEN date_trunc('second', GREATEST(clock_timestamp() - r.filling_since, interval '0')
								* ((1 - h.share_filled) / h.share_filled)) END AS time_left,
		   r.applied_until,
		   COALESCE(r.error, CASE WHEN f.is_foreign THEN format(
			   'states of rollup "%s" were serialized by PostgreSQL %s', r.name, r.server_major) END) AS error,
		   CASE WHEN f.is_foreign THEN format('SELECT detect.rebuild_rollup(%L)', r.name)
				WHEN r.error LIKE 'the state table of rollup % is not logged'
				THEN format('ALTER TABLE detect_state.%I SET LOGGED; SELECT detect.retry_rollup(%L) -- rebuild_rollup if the server has crashed since', r.name, r.name)
				WHEN r.state = 'failed' OR p.repair_error IS NOT NULL AND p.refused_from IS NULL
				THEN format('SELECT detect.retry_rollup(%L) -- once the cause is removed', r.name)
				WHEN p.refused_from IS NOT NULL
				THEN format('SELECT detect.rebuild_rollup(%L) -- or a range of it; with allow_loss => true also what has lost events', r.name)
				END AS remedy,
		   r.failed_event, r.attempts, r.retry_at,
		   m.events_missed, r.events_lost, r.kept_from,
		   p.repairs, p.repair_from, p.repair_until, p.repair_error,
		   n.state AS new_state, n.filled_from AS new_filled_from, n.rows_filled AS new_rows_filled,
		   n.error AS new_error, n.retry_at AS new_retry_at
	FROM detect._rollup r
	LEFT JOIN detect._stream s USING (events_table)
	LEFT JOIN detect._rollup n ON n.replaces = r.rollup_id
	CROSS JOIN LATERAL (
		SELECT CASE COALESCE(r.aside_state, r.state) WHEN 'new' THEN 0::float8 WHEN 'active' THEN 1::float8
			   ELSE detect._share_filled(r.events_table, r.filled_from) END AS share_filled) h
	CROSS JOIN LATERAL (
		-- states that another major version has serialized, as after an upgrade,
		-- or an aggregate that has been replaced, as aggregate_state.c says it
		SELECT (r.server_major <> current_setting('server_version_num')::int / 10000
				OR r.error LIKE 'aggregate % cannot read a state made by %')
			   AND COALESCE(r.aside_state, r.state) <> 'new' AS is_foreign) f
	CROSS JOIN LATERAL (
		SELECT COALESCE(sum(events), 0)::int8 AS events_missed
		FROM detect._missed WHERE rollup_id = r.rollup_id) m
	CROSS JOIN LATERAL (
		SELECT count(*) AS repairs, min(from_time) AS repair_from, max(until_time) AS repair_until,
			   min(from_time) FILTER (WHERE retry_at = 'infinity') AS refused_from,
			   (array_agg(error ORDER BY repair_id DESC) FILTER (WHERE error IS NOT NULL))[1] AS repair_error
		FROM detect._repair WHERE rollup_id = r.rollup_id) p
	WHERE r.replaces IS NULL AND detect._may_see(detect._stream_owner(r.name));
COMMENT ON VIEW detect.stat_rollup IS 'how each rollup does, and the new definition of it that is being built';

CREATE VIEW detect.stat_worker WITH (security_barrier) AS
	SELECT s.name AS stream, d.duty, d.number, w.pid, w.state,
		   (w.step_us)[1] AS fetch_us, (w.step_us)[2] AS decode_us, (w.step_us)[3] AS stage_us,
		   (w.step_us)[4] AS read_us, (w.step_us)[5] AS dedup_us, (w.step_us)[6] AS query_us,
		   (w.step_us)[7] AS insert_us, (w.step_us)[8] AS rollup_us, (w.step_us)[9] AS commit_us
	FROM detect._stream s
	CROSS JOIN LATERAL (
		SELECT 'apply' AS duty, 0 AS number
		UNION ALL SELECT 'maintain', 0
		UNION ALL SELECT 'fill', 0
		UNION ALL SELECT 'consume', n FROM generate_series(0, s.consumers - 1) n) d
	LEFT JOIN detect._workers() w
		ON w.stream_id = s.stream_id AND w.duty = d.duty AND w.number = d.number
	WHERE (d.duty NOT IN ('maintain', 'fill') OR w.pid IS NOT NULL)
	AND detect._may_see(detect._stream_owner(s.name));
COMMENT ON VIEW detect.stat_worker IS
	'workers of each stream, and where their time goes; one that does not run has no pid';

CREATE VIEW detect.dead_letter WITH (security_barrier) AS
	SELECT d.dead_letter_id, s.name AS stream, NULLIF(d.kafka_server, '') AS kafka_server,
		   d.kafka_topic, d.kafka_partition, d.kafka_offset,
		   d.element, d.kafka_timestamp, d.kafka_key, d.kafka_headers, d.payload, d.payload_bytes,
		   d.is_whole, d.stage, d.sqlstate, d.reason, d.attempts, d.recorded_at, d.last_attempt_at,
		   d.retry_asked_at
	FROM detect._dead_letter d
	JOIN detect._stream s USING (stream_id)
	WHERE pg_has_role(detect._stream_owner(s.name), 'USAGE');
COMMENT ON VIEW detect.dead_letter IS
	'elements that could not become events, with their bytes and the reason; seen by the stream''s owner alone';

CREATE VIEW detect.problem WITH (security_barrier) AS
	SELECT s.name AS stream, p.problem, p.relation::regclass AS relation, p.severity, p.detail, p.remedy, p.since
	FROM detect._problem p
	JOIN detect._stream s USING (stream_id)
	WHERE detect._may_see(detect._stream_owner(s.name));
COMMENT ON VIEW detect.problem IS
	'what is wrong beside a stream that runs, and what to do; a row goes when its cause does';

CREATE VIEW detect.history WITH (security_barrier) AS
	SELECT h.history_id, h.at, h.caller, h.acting_as, h.verb, h.object, h.detail
	FROM detect._history h
	LEFT JOIN (
		SELECT s.stream_id AS definition_id, s.name FROM detect._stream s
		UNION ALL SELECT r.rollup_id, r.name FROM detect._rollup r
		UNION ALL SELECT l.locator_id, l.name FROM detect._locator l) d USING (definition_id)
	WHERE detect._may_see(detect._stream_owner(d.name))
	OR (d.name IS NULL AND current_user IN (h.caller, h.acting_as));
COMMENT ON VIEW detect.history IS
	'who called which verb, for a year; what was dropped since is seen by its caller and by pg_monitor';

CREATE VIEW detect.gap WITH (security_barrier) AS
	SELECT g.gap_id, g.stream, g.kafka_topic, g.kafka_partition, g.from_offset, g.to_offset, g.resume_offset, g.reason,
		   g.detected_at, g.accepted_at, g.accepted_by, g.acting_as
	FROM detect._gap g
	LEFT JOIN detect._stream s USING (stream_id)
	WHERE detect._may_see(detect._stream_owner(s.name))
	OR (s.name IS NULL AND current_user IN (g.accepted_by, g.acting_as));
COMMENT ON VIEW detect.gap IS
	'what Kafka had lost, and who accepted it, for ever; of a dropped stream it is seen by who accepted it and by pg_monitor';


-- ---------------------------------------------------------------------
-- Health: what a DBA must act on
-- ---------------------------------------------------------------------

CREATE FUNCTION detect._disks(OUT holds text, OUT free_bytes bigint, OUT total_bytes bigint) RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'detect_disks' LANGUAGE C VOLATILE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION detect._disks() IS 'room where the server writes, for members of pg_monitor';

-- What waits or was refused, as far as it says whether somebody must act: counts stop at a bound.
CREATE VIEW detect._backlog WITH (security_barrier) AS
	SELECT s.name AS stream, pg_get_userbyid(o.owner) AS owner, o.owner AS owner_oid,
		   (SELECT count(*) FROM (SELECT FROM detect._edit e WHERE e.stream_id = s.stream_id LIMIT b.bound) e) AS edits,
		   -- what consumers stage is bounded by them
		   COALESCE(pg_stat_get_live_tuples(to_regclass(format('detect_staging.%I', s.name))), 0) AS staged_rows,
		   d.letters, d.sqlstates, b.bound
	FROM detect._stream s
	CROSS JOIN LATERAL (SELECT detect._stream_owner(s.name) AS owner) o
	CROSS JOIN LATERAL (SELECT COALESCE(current_setting('detect.max_batch_rows', true)::bigint, 100000) * 10 + 1 AS bound) b
	CROSS JOIN LATERAL (
		SELECT count(*) AS letters, string_agg(DISTINCT l.sqlstate, ', ') AS sqlstates
		FROM (SELECT l.sqlstate FROM detect._dead_letter l
			  WHERE l.stream_id = s.stream_id AND l.recorded_at > now() - interval '1 hour'
			  LIMIT 10000) l) d
	WHERE detect._may_see(o.owner);
COMMENT ON VIEW detect._backlog IS 'what waits for each stream, and what was refused within the last hour';

-- A finding is a check, its severity, a detail, and a remedy to type: what is
-- not SQL stands behind --.  What is over by itself counts once it has lasted
-- as long as patience.  To compile so large a query takes longer than to run it.
CREATE FUNCTION detect.health(patience interval DEFAULT '5 minutes')
	RETURNS TABLE ("check" text, severity text, detail text, remedy text)
	LANGUAGE sql VOLATILE STRICT PARALLEL RESTRICTED ROWS 30 SET jit = off
BEGIN ATOMIC
	WITH checks (place, name, good) AS (VALUES
		(1, 'library', 'it is loaded when the server starts'),
		(2, 'version', 'library and extension are of one version'),
		(3, 'launcher', 'it runs, or need not on a standby'),
		(4, 'worker processes', 'there are enough for all streams'),
		(5, 'owner', 'each stream''s owner may log in and connect'),
		(6, 'stream', 'each stream runs'),
		(7, 'partition', 'each partition is read'),
		(8, 'lag', 'each stream keeps up'),
		(9, 'dead letters', 'none within the last hour'),
		(10, 'staging', 'little waits for appliers'),
		(11, 'edits', 'few rows that others changed wait for appliers'),
		(12, 'rollup', 'each rollup is up to date'),
		(13, 'problem', 'detect.problem is empty'),
		(14, 'event trigger', 'those of the extension are enabled'),
		(15, 'autovacuum', 'it is on'),
		(16, 'wraparound', 'tables of detect are frozen in time'),
		(17, 'long transaction', 'none keeps rows from being cleaned, or indexes from being built'),
		(18, 'prepared transaction', 'none is left over'),
		(19, 'replication slot', 'none keeps WAL without being read'),
		(20, 'disk', 'there is room')),
	setting AS MATERIALIZED (
		SELECT COALESCE(current_setting('detect.max_streams', true) IS NOT NULL, false) AS is_preloaded,
			   current_setting('max_worker_processes')::int AS max_workers,
			   pg_is_in_recovery() AS is_standby,
			   pg_has_role('pg_read_all_settings', 'USAGE') AS sees_libraries,
			   (SELECT string_agg(quote_literal(trim(l)), ', ' ORDER BY n)
				FROM pg_settings p, string_to_table(p.setting, ',') WITH ORDINALITY t(l, n)
				WHERE p.name = 'shared_preload_libraries' AND trim(l) <> '') AS libraries),
	server AS MATERIALIZED (
		SELECT v.*, e.extversion FROM detect._server() v, pg_extension e WHERE e.extname = 'detect'),
	stream AS MATERIALIZED (SELECT * FROM detect.stat_stream),
	backlog AS MATERIALIZED (SELECT * FROM detect._backlog),
	rollup AS MATERIALIZED (SELECT * FROM detect.stat_rollup),
	findings (name, severity, detail, remedy) AS (
		SELECT 'library', 'critical', 'no stream runs: detect is not in shared_preload_libraries',
			   -- who may not see the others would have them dropped
			   CASE WHEN s.sees_libraries
					THEN format('ALTER SYSTEM SET shared_preload_libraries = %s; -- then restart the server',
								concat_ws(', ', s.libraries, quote_literal('detect')))
					ELSE '-- add detect to shared_preload_libraries and restart the server' END
		FROM setting s WHERE NOT s.is_preloaded

		UNION ALL
		SELECT 'version', 'critical',
			   format('the library is of version %s, the extension of %s', v.library_version, v.extversion),
			   CASE WHEN string_to_array(v.library_version, '.')::int[] > string_to_array(v.extversion, '.')::int[]
					THEN 'ALTER EXTENSION detect UPDATE;' ELSE '-- restart the server, which loads the library that is installed' END
		FROM server v WHERE v.library_version <> v.extversion

		UNION ALL
		SELECT 'launcher', 'critical', 'it does not run, so no worker is started',
			   '-- the server starts it again within seconds; if it does not, its log says why'
		FROM setting s, server v WHERE s.is_preloaded AND NOT s.is_standby AND v.launcher_pid IS NULL

		UNION ALL
		-- one for maintenance and probes, one for PostgreSQL's own launcher
		SELECT 'worker processes', CASE WHEN v.no_worker_slot THEN 'critical' ELSE 'warning' END,
			   format(CASE WHEN v.no_worker_slot THEN 'all are taken, here or by others: max_worker_processes is %2$s'
						   ELSE '%s are wanted by streams of all databases and the launcher, and 2 for a moment; max_worker_processes is %s' END,
					  v.workers_wanted, s.max_workers),
			   format('ALTER SYSTEM SET max_worker_processes = %s; -- then restart the server, a standby first',
					  GREATEST(v.workers_wanted, s.max_workers) + 8)
		FROM setting s, server v WHERE v.workers_wanted + 2 > s.max_workers OR v.no_worker_slot

		UNION ALL
		SELECT 'owner', 'critical', format('role "%s", which owns stream "%s", may not log in', b.owner, b.stream),
			   format('ALTER ROLE %I LOGIN; SELECT detect.resume(%L);', b.owner, b.stream)
		FROM backlog b JOIN pg_roles r ON r.oid = b.owner_oid
		WHERE NOT r.rolcanlogin AND current_setting('server_version_num')::int < 170000

		UNION ALL
		SELECT 'owner', 'critical',
			   format('role "%s", which owns stream "%s", may not connect to this database', b.owner, b.stream),
			   format('GRANT CONNECT ON DATABASE %I TO %I; SELECT detect.resume(%L);', current_database(), b.owner, b.stream)
		FROM backlog b JOIN pg_roles r ON r.oid = b.owner_oid
		WHERE NOT has_database_privilege(r.oid, current_database(), 'CONNECT')

		UNION ALL
		-- paused is somebody's wish or a definition that fails
		SELECT 'stream',
			   CASE WHEN t.reason LIKE 'paused by %' OR t.reason = 'this is a copy of another database' THEN 'warning' ELSE 'critical' END,
			   format('%s is %s: %s', t.stream, t.state, t.reason), t.remedy
		FROM stream t WHERE t.state = 'paused'

		UNION ALL
		SELECT 'stream', 'critical', format(CASE WHEN t.reason IS NULL THEN '%s is %s' ELSE '%s is %s: %s' END, t.stream, t.state, t.reason),
			   CASE WHEN t.state = 'waiting for a worker'
					THEN format('ALTER SYSTEM SET max_worker_processes = %s; -- then restart the server, a standby first', s.max_workers + 8)
					WHEN t.state = 'stopped' AND s.is_preloaded
					THEN format('ALTER SYSTEM SET detect.max_streams = %s; -- then restart the server',
								current_setting('detect.max_streams', true)::int * 2)
					ELSE t.remedy END
		FROM stream t, setting s
		WHERE t.state IN ('stopped', 'waiting for a worker') AND NOT s.is_standby
		AND COALESCE(t.state_since, '-infinity') <= clock_timestamp() - patience

		UNION ALL
		SELECT 'stream', CASE t.state WHEN 'starting' THEN 'warning' WHEN 'waiting for an open transaction' THEN 'warning' ELSE 'critical' END,
			   format('%s is %s since %s: %s', t.stream, t.state, t.state_since::timestamptz(0), COALESCE(t.reason, 'it reads what it needs')),
			   t.remedy
		FROM stream t
		WHERE t.state IN ('starting', 'connecting', 'retrying', 'waiting for an open transaction')
		AND t.state_since <= clock_timestamp() - patience

		UNION ALL
		SELECT 'stream', 'warning', format('%s runs, but: %s', t.stream, t.reason), t.remedy
		FROM stream t WHERE t.state IN ('running', 'catching up') AND t.reason NOT LIKE 'partition % of topic %'
		-- a row of detect.problem says that better
		AND NOT (t.reason LIKE 'could not build the unique index%' AND EXISTS (SELECT FROM detect.problem p WHERE p.stream = t.stream))

		UNION ALL
		SELECT 'partition', 'critical', format('%s: partition %s of topic "%s" is not read: %s', p.stream, p.kafka_partition, p.kafka_topic, p.reason),
			   p.remedy
		FROM detect.stat_partition p JOIN stream t USING (stream) WHERE p.state = 'paused' AND t.state <> 'paused'

		UNION ALL
		SELECT 'lag', 'warning', format('%s is behind: %s messages wait, the oldest for %s', t.stream, t.lag_messages,
										COALESCE(round(t.lag_seconds)::text || ' s', 'an unknown time')),
			   -- not that of a partition that is paused
			   (SELECT min(regexp_replace(p.remedy, '^if it stays so, read with more workers: (.*)$', '\1; -- reads with more workers'))
				FROM detect.stat_partition p WHERE p.stream = t.stream AND p.state = 'catching up')
		FROM stream t
		WHERE t.state = 'catching up'
		AND COALESCE(clock_timestamp() - make_interval(secs => t.lag_seconds), t.state_since) <= clock_timestamp() - patience

		UNION ALL
		SELECT 'dead letters', 'warning', format('%s: %s%s within the last hour, SQLSTATE %s', b.stream, b.letters,
												 CASE WHEN b.letters >= 10000 THEN ' or more' END, b.sqlstates),
			   format('SELECT detect.retry_dead_letters(%L); -- once the cause is mended: detect.dead_letter has reason and payload', b.stream)
		FROM backlog b WHERE b.letters > 0

		UNION ALL
		SELECT 'staging', 'warning', format('%s: about %s staged rows wait, more than ten batches', b.stream, b.staged_rows),
			   CASE t.state WHEN 'paused' THEN format('SELECT detect.resume(%L);', b.stream)
				ELSE '-- if it stays so, look at steps in detect.stat_worker: batches that take long' END
		FROM backlog b JOIN stream t USING (stream) WHERE b.staged_rows >= b.bound

		UNION ALL
		SELECT 'edits', 'warning', format('%s: rows that others changed wait, more than ten batches', b.stream),
			   CASE t.state WHEN 'paused' THEN format('SELECT detect.resume(%L);', b.stream)
				ELSE '-- if it stays so, look at steps in detect.stat_worker: batches that take long' END
		FROM backlog b JOIN stream t USING (stream) WHERE b.edits >= b.bound

		UNION ALL
		SELECT 'rollup', CASE r.state WHEN 'failed' THEN 'critical' ELSE 'warning' END,
			   format(CASE r.state WHEN 'failed' THEN '%s has failed: %s' ELSE '%s: %s' END, r.rollup, COALESCE(r.error, r.repair_error)),
			   COALESCE(r.remedy, '-- it catches up by itself')
		FROM rollup r WHERE COALESCE(r.error, r.repair_error) IS NOT NULL

		UNION ALL
		-- one that only waits for transactions takes over by itself
		SELECT 'rollup', 'warning', format('the new query of %s has failed: %s', r.rollup, r.new_error),
			   format('SELECT detect.retry_rollup(%L); -- once the cause is mended', r.rollup)
		FROM rollup r WHERE r.new_state = 'failed'

		UNION ALL
		SELECT 'problem', p.severity, format('%s: %s: %s', p.stream, p.problem, p.detail), p.remedy FROM detect.problem p
		WHERE p.since <= clock_timestamp() - patience

		UNION ALL
		SELECT 'event trigger', 'critical', format('%s is not enabled: what is dropped leaves definitions behind', e.evtname),
			   format('ALTER EVENT TRIGGER %I ENABLE;', e.evtname)
		FROM pg_event_trigger e WHERE e.evtname IN ('detect_dropping', 'detect_dropped') AND e.evtenabled NOT IN ('O', 'A')

		UNION ALL
		SELECT 'autovacuum', 'critical', format('setting %s is off: tables grow without bound', n.name),
			   format('ALTER SYSTEM SET %s = on;%s', n.name, E'\nSELECT pg_reload_conf();')
		FROM (VALUES ('autovacuum'), ('track_counts')) n(name) WHERE NOT current_setting(n.name)::boolean

		UNION ALL
		SELECT 'wraparound', CASE WHEN age(c.relfrozenxid) > 1500000000 THEN 'critical' ELSE 'warning' END,
			   format('table %s was frozen %s transactions ago', c.oid::regclass, age(c.relfrozenxid)),
			   format('VACUUM (FREEZE) %s;', c.oid::regclass)
		FROM pg_class c
		WHERE c.relkind = 'r' AND c.relnamespace IN (SELECT n.oid FROM pg_namespace n WHERE n.nspname IN ('detect', 'detect_staging', 'detect_state'))
		AND age(c.relfrozenxid) > current_setting('autovacuum_freeze_max_age')::bigint * 5 / 4

		UNION ALL
		-- of other databases only replication holds back our rows
		SELECT 'long transaction', 'warning',
			   format('process %s (%s, %s) holds back cleaning and index builds since %s', a.pid, COALESCE(a.usename, '?'),
					  COALESCE(NULLIF(a.application_name, ''), a.backend_type), a.xact_start::timestamptz(0)),
			   format('SELECT pg_terminate_backend(%s);', a.pid)
		FROM pg_stat_activity a
		WHERE (a.backend_xmin IS NOT NULL OR a.backend_xid IS NOT NULL) AND a.pid <> pg_backend_pid()
		AND a.backend_type IN ('client backend', 'walsender') AND a.datname = current_database()
		AND a.xact_start <= clock_timestamp() - patience

		UNION ALL
		SELECT 'prepared transaction', 'warning', format('"%s" of %s holds locks and rows since %s', x.gid, x.owner, x.prepared::timestamptz(0)),
			   format('ROLLBACK PREPARED %L; -- or COMMIT PREPARED, whichever its manager says', x.gid)
		FROM pg_prepared_xacts x WHERE x.database = current_database() AND x.prepared <= clock_timestamp() - patience

		UNION ALL
		SELECT 'replication slot', CASE r.wal_status WHEN 'extended' THEN 'warning' ELSE 'critical' END,
			   CASE r.wal_status WHEN 'lost' THEN format('slot "%s" is lost: its reader needs WAL that is not kept any more', r.slot_name)
				ELSE format('slot "%s" is not read and keeps more WAL than max_wal_size: %s', r.slot_name, r.wal_status) END,
			   format('SELECT pg_drop_replication_slot(%L); -- unless its reader comes back', r.slot_name)
		FROM pg_replication_slots r WHERE NOT r.active AND r.wal_status <> 'reserved'

		UNION ALL
		SELECT 'disk', CASE WHEN k.free_bytes < k.total_bytes / 100 THEN 'critical' ELSE 'warning' END,
			   format('where %s is, %s of %s are left', k.holds, pg_size_pretty(k.free_bytes), pg_size_pretty(k.total_bytes)),
			   '-- make room, or shorten retention: SELECT detect.alter_stream(..., retention => ...)'
		FROM detect._disks() k WHERE k.free_bytes < LEAST(k.total_bytes / 20, 10::bigint * 1024 * 1024 * 1024))
	SELECT c.name, COALESCE(f.severity, 'ok'), COALESCE(f.detail, c.good), f.remedy
	FROM checks c LEFT JOIN findings f USING (name)
	ORDER BY CASE f.severity WHEN 'critical' THEN 0 WHEN 'warning' THEN 1 ELSE 2 END, c.place, f.detail;
END;
COMMENT ON FUNCTION detect.health(interval) IS
	'each thing that a DBA must act on, with what to type, and each check that found nothing';

CREATE FUNCTION detect.status(patience interval DEFAULT '5 minutes') RETURNS text
	LANGUAGE sql VOLATILE STRICT PARALLEL RESTRICTED
	RETURN (SELECT h.severity FROM detect.health(patience) h LIMIT 1);
COMMENT ON FUNCTION detect.status(interval) IS 'the worst severity that detect.health tells of: ok, warning or critical';

REVOKE ALL ON ALL TABLES IN SCHEMA detect FROM PUBLIC;
GRANT SELECT ON detect._backlog, detect.gap, detect.history, detect.problem, detect.stream, detect.rollup, detect.locator, detect.stat_stream, detect.stat_partition,
	detect.stat_rollup, detect.stat_locator, detect.stat_worker, detect.dead_letter TO PUBLIC;

-- ---------------------------------------------------------------------
-- Who may call what
-- ---------------------------------------------------------------------

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA detect FROM PUBLIC;

-- Definitions are made by detect_admin, which is checked by the functions, to say
-- what to type; the verbs check ownership.
GRANT EXECUTE ON FUNCTION
	detect.create_stream, detect.try_stream, detect.create_rollup, detect.peek(text, text, int, boolean, interval),
	detect.alter_stream, detect.get_definition(text), detect.drop_stream(text, boolean), detect.pause(text), detect.resume(text, boolean),
	detect.create_locator, detect.drop_locator(text, boolean), detect.refresh_locator(text),
	detect.seek(text, timestamptz, bigint, text, int), detect.accept_gap(text, text, int, bigint),
	detect.wait_for(text, interval), detect.retry_dead_letters(text, timestamptz, timestamptz, text),
	detect.purge_dead_letters(text, timestamptz, timestamptz, text), detect.drop_rollup(text, boolean),
	detect.wait_for_rollup(text, interval), detect.retry_rollup(text),
	detect.rebuild_rollup(text, timestamptz, timestamptz, boolean), detect.create_rollup_view(text, text, text[]), detect.verify_rollup(text, timestamptz, timestamptz),
	detect.alter_rollup(text, text, interval, text[]), detect.decode(bytea, text, jsonb, text)
	TO PUBLIC;
-- Views call these as their reader; _slots leaves out what belongs to others.
GRANT EXECUTE ON FUNCTION
	detect._stream_owner(text), detect._may_see(oid), detect._is_copy(bigint, bigint, bigint), detect._slots(), detect._workers(),
	detect._staged_offsets(), detect._server(), detect._disks(), detect.health(interval), detect.status(interval),
	detect._share_filled(regclass, timestamptz),
	detect._alike(double precision, double precision), detect._alike(real, real),
	detect._combine(regprocedure, anyelement, anyelement),
	detect._finalize(anyelement, regprocedure, "any"), detect._merge(regprocedure, anyelement),
	detect.first(anyelement, timestamptz), detect.last(anyelement, timestamptz),
	detect._first_step(detect._timed, anyelement, timestamptz), detect._first_combine(detect._timed, detect._timed),
	detect._last_step(detect._timed, anyelement, timestamptz), detect._last_combine(detect._timed, detect._timed),
	detect._timed_value(detect._timed, anyelement, timestamptz),
	detect._staged(), detect._accepted(), detect._edited(), detect._truncated(), detect._place_changed(), detect._locators(),
	detect._locate(regclass, anyelement, "any"),
	detect._locate(regclass, anyelement, double precision, double precision),
	detect._locate_all(regclass, anyarray, "any"),
	detect._locate_all(regclass, anyarray, double precision, double precision),
	detect._nearest(regclass, anyelement, "any", int),
	detect._nearest(regclass, anyelement, double precision, double precision, int)
	TO PUBLIC;

-- What default privileges have given to others is taken back: whoever can put a trigger on our
-- tables, or read dead letters, is a superuser or a thief.
DO $$
DECLARE
	role name;
BEGIN
	FOR role IN
		SELECT DISTINCT pg_get_userbyid(a.grantee)
		FROM (SELECT relacl, relowner FROM pg_class WHERE relnamespace = 'detect'::regnamespace
			  UNION ALL SELECT proacl, proowner FROM pg_proc WHERE pronamespace = 'detect'::regnamespace
			  UNION ALL SELECT nspacl, nspowner FROM pg_namespace
			  WHERE nspname IN ('detect', 'detect_staging', 'detect_query', 'detect_state')) o (acl, owner),
			 aclexplode(o.acl) a
		WHERE a.grantee NOT IN (0, o.owner)
	LOOP
		EXECUTE format('REVOKE ALL ON ALL TABLES IN SCHEMA detect FROM %I', role);
		EXECUTE format('REVOKE ALL ON ALL SEQUENCES IN SCHEMA detect FROM %I', role);
		EXECUTE format('REVOKE ALL ON ALL ROUTINES IN SCHEMA detect FROM %I', role);
		EXECUTE format('REVOKE ALL ON SCHEMA detect, detect_staging, detect_query, detect_state FROM %I', role);
	END LOOP;
END
$$;
