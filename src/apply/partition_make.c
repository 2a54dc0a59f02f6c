/*-------------------------------------------------------------------------
 *
 * partition_make.c
 *	  Partitions are made before they are needed.
 *
 * A partition is made standalone and then attached: CREATE TABLE … PARTITION
 * OF would wait for every reader of the events table and hold up all that
 * come after.  ATTACH still locks what foreign keys refer to, and a default
 * partition, so it waits for a second only, and the caller tries again.
 *
 * Bounds are multiples of partition_interval, and cut short where partitions
 * lie, be they the user's or narrower ones: making one never fails because of
 * one that is there.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/pg_class.h"
#include "commands/defrem.h"
#include "commands/tablespace.h"
#include "compat.h"
#include "fault_point.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "sql.h"
#include "storage/bufmgr.h"
#include "storage/proc.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "apply/identity.h"
#include "apply/partition.h"
#include "rollup/rollup.h"

#define PARTITIONS_PER_CALL	 50
#define LEAD_PARTITIONS		 3 /* of now, and of two intervals to come */
#define LEAD_FIRST_RETRY_MS	 (30 * 1000)
#define LEAD_LAST_RETRY_MS	 (10 * 60 * 1000)
#define LEAD_LOCK_TIMEOUT_MS 200
#define LOCK_TIMEOUT_MS		 1000

/* Attaching scans the default partition under an exclusive lock: beside one
 * of more than 8 MB none are made ahead. */
#define SMALL_DEFAULT_BLOCKS 1024

/* When to try again what failed ahead; 0: nothing did.  Of this process, for its one
 * stream. */
static TimestampTz lead_retry_at = 0;

/* What the statements that make a partition need to know. */
typedef struct PartitionMaker
{
	Oid table;
	Oid schema;
	const char *schema_name;
	const char *table_name;
	Oid event_time_type;
	const Interval *interval;
	char *options;		  /* access method and tablespace */
	char *unique_columns; /* NULL: no index from the start */
} PartitionMaker;

/*
 * Chooses a name: the table's, when the partition starts, as finely as the
 * interval asks for, and of how many intervals it is if of more than one.
 */
static char *
partition_name(const PartitionMaker *maker, const PartitionRange *range)
{
	struct pg_tm fields;
	fsec_t microseconds;
	StringInfoData start;
	char *name;
	int attempt;

	partition_time_fields(range->from, &fields, &microseconds);
	initStringInfo(&start);
	if (fields.tm_year <= 0)
		appendStringInfo(&start, "bc%04d", 1 - fields.tm_year);
	else
		appendStringInfo(&start, "%04d", fields.tm_year);
	if (maker->interval->month % 12 != 0 || maker->interval->month == 0)
		appendStringInfo(&start, "%02d", fields.tm_mon);
	if (maker->interval->month == 0)
		appendStringInfo(&start, "%02d", fields.tm_mday);
	if (partition_interval_us(maker->interval) % USECS_PER_DAY != 0)
		appendStringInfo(&start, "_%02d%02d", fields.tm_hour, fields.tm_min);
	if (partition_interval_us(maker->interval) % USECS_PER_MINUTE != 0)
		appendStringInfo(&start, "%02d", fields.tm_sec);
	if (range->intervals > 1)
		appendStringInfo(&start, "_x" INT64_FORMAT, range->intervals);

	name = makeObjectName(maker->table_name, start.data, NULL);
	for (attempt = 2; OidIsValid(get_relname_relid(name, maker->schema)); attempt++)
		name = makeObjectName(maker->table_name, psprintf("%s_%d", start.data, attempt), NULL);
	return name;
}

/*
 * How long statements on partitions wait for a lock, while others queue
 * behind them: a second, but long enough for a running autovacuum to be
 * cancelled, which happens after deadlock_timeout.
 */
int
partition_lock_timeout_ms(void)
{
	return Max(LOCK_TIMEOUT_MS, DeadlockTimeout + LOCK_TIMEOUT_MS / 4);
}

/*
 * Raises an error unless the stream's owner may make partitions of the events
 * table: they are made in its schema.
 */
void
partition_check_rights(Oid events_table, Oid owner)
{
	Oid schema = get_rel_namespace(events_table);

	if (compat_namespace_aclcheck(schema, owner, ACL_CREATE) == ACLCHECK_OK)
		return;
	ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
					errmsg("permission denied for schema %s", get_namespace_name(schema)),
					errdetail("The stream makes partitions of table \"%s\" there.",
							  get_rel_name(events_table)),
					errhint("GRANT CREATE ON SCHEMA %s TO %s.",
							quote_identifier(get_namespace_name(schema)),
							quote_identifier(GetUserNameFromId(owner, false)))));
}

/* Makes one partition; the events table must not be open here. */
static void
make_partition(const PartitionMaker *maker, const PartitionRange *range, int lock_timeout_ms)
{
	char *name = partition_name(maker, range);
	char *partition = quote_qualified_identifier(maker->schema_name, name);
	char *table = quote_qualified_identifier(maker->schema_name, maker->table_name);
	int settings = NewGUCNestLevel();

	partition_check_rights(maker->table, GetUserId());
	sql_set("lock_timeout", psprintf("%d", lock_timeout_ms));
	sql_set("search_path", "pg_catalog, pg_temp");

	sql_execute(psprintf("CREATE TABLE %s (LIKE %s INCLUDING DEFAULTS INCLUDING CONSTRAINTS "
						 "INCLUDING GENERATED INCLUDING STORAGE INCLUDING COMPRESSION)%s",
						 partition, table, maker->options));
	if (maker->unique_columns != NULL)
		sql_execute(psprintf("CREATE UNIQUE INDEX %s ON %s (%s)",
							 quote_identifier(ChooseRelationName(name, NULL, PARTITION_INDEX_LABEL,
																 maker->schema, false)),
							 partition, maker->unique_columns));
	events_triggers_make(get_relname_relid(name, maker->schema));
	FAULT_POINT("before_partition_attach");
	sql_execute(psprintf("ALTER TABLE %s ATTACH PARTITION %s FOR VALUES FROM (%s) TO (%s)", table,
						 partition, partition_bound_literal(range->from, maker->event_time_type),
						 partition_bound_literal(range->to, maker->event_time_type)));
	gone_note_made(maker->table, get_relname_relid(name, maker->schema));
	FAULT_POINT("after_partition_attach");

	AtEOXact_GUC(true, settings);
}

/* Tells of a partition that could not be made ahead.  Being kept waiting for a
 * lock is no failure. */
static void
report_ahead(const PartitionMaker *maker, const ErrorData *error)
{
	char *reason = psprintf("could not make a partition of \"%s\" ahead: %s", maker->table_name,
							error->message);
	int left_out;

	if (log_is_due(LOG_PARTITION_AHEAD, &left_out))
		ereport(LOG, (errcode(error->sqlerrcode), errmsg("%s", reason),
					  errdetail("It will be tried again."),
					  error->hint ? errhint("%s", error->hint) : 0));
	if (error->hint)
		reason = psprintf("%s. %s", reason, error->hint);
	if (my_slot != NULL && error->sqlerrcode != ERRCODE_LOCK_NOT_AVAILABLE)
		slot_note_error(my_slot, error->sqlerrcode, reason);
}

/* A partition that is made ahead. */
typedef struct AheadStep
{
	const PartitionMaker *maker;
	const PartitionRange *range;
} AheadStep;

/* For subtransaction_try(). */
static void
ahead_step(void *arg)
{
	const AheadStep *step = arg;

	make_partition(step->maker, step->range, LEAD_LOCK_TIMEOUT_MS);
}

/*
 * Makes one partition ahead.  An error is reported and undone: there is time,
 * and the present batch must not wait for the future.  Result is false then.
 */
static bool
make_partition_ahead(const PartitionMaker *maker, const PartitionRange *range)
{
	AheadStep step = {maker, range};
	ErrorData *error = subtransaction_try(ahead_step, &step, true);

	if (error == NULL)
		return true;
	if (error->sqlerrcode == ERRCODE_QUERY_CANCELED)
		ReThrowError(error);
	report_ahead(maker, error);
	FreeErrorData(error);
	return false;
}

/*
 * Adds a range to be made for a time that none covers, cut short where others
 * lie.  Result is its place, or -1 if the time is covered, or is infinite.
 */
static int
plan_partition(PartitionRanges *ranges, const Interval *interval, TimestampTz time, TimestampTz now)
{
	PartitionRange range = {0};
	int at;

	if (!IS_VALID_TIMESTAMP(time) || partition_range_of(ranges, time) >= 0)
		return -1;

	at = partition_range_after(ranges, time);
	range.intervals = partition_interval_around(interval, time, now, &range.from, &range.to);
	if (at > 0)
		range.from = Max(range.from, ranges->ranges[at - 1].to);
	if (at < ranges->n)
		range.to = Min(range.to, ranges->ranges[at].from);

	ranges->ranges = repalloc(ranges->ranges, (ranges->n + 1) * sizeof(PartitionRange));
	memmove(&ranges->ranges[at + 1], &ranges->ranges[at],
			(ranges->n - at) * sizeof(PartitionRange));
	ranges->ranges[at] = range;
	ranges->n++;
	return at;
}

/*
 * Plans partitions for the batch's times; the number planned.  Raises an error
 * if one that is there, and would take some of them, is no ordinary table.
 */
static int
plan_needed(PartitionRanges *ranges, const Interval *interval, const TimestampTz *times, int ntimes,
			TimestampTz now)
{
	PartitionRange last = {0};
	int planned = 0;
	int i;

	for (i = 0; i < ntimes && planned < PARTITIONS_PER_CALL; i++)
	{
		int at;

		/* Times of a batch lie close together. */
		if (times[i] >= last.from && times[i] < last.to)
			continue;
		at = partition_range_of(ranges, times[i]);
		if (at >= 0)
		{
			if (ranges->ranges[at].detaching && !OidIsValid(ranges->default_partition))
				partition_report_detaching(ranges->ranges[at].partition);
			partition_check_kind(ranges->ranges[at].partition);
		}
		else if (OidIsValid(ranges->default_partition))
			partition_check_kind(ranges->default_partition);
		else
		{
			at = plan_partition(ranges, interval, times[i], now);
			planned += at >= 0;
		}
		if (at >= 0)
			last = ranges->ranges[at];
	}
	return planned;
}

/* Tells whether attaching beside this default partition takes little time. */
static bool
default_is_small(Oid default_partition)
{
	Relation table;
	bool small = false;

	if (!OidIsValid(default_partition))
		return true;
	table = table_open(default_partition, AccessShareLock);
	if (table->rd_rel->relkind == RELKIND_RELATION)
		small = RelationGetNumberOfBlocks(table) <= SMALL_DEFAULT_BLOCKS;
	table_close(table, AccessShareLock);
	return small;
}

/* Tells whether the partitions of now and of what comes next are there. */
static bool
has_lead(const PartitionRanges *ranges, const Interval *interval, TimestampTz now)
{
	TimestampTz time = now;
	int i;

	for (i = 0; i < LEAD_PARTITIONS; i++)
	{
		TimestampTz from;

		if (partition_range_of(ranges, time) < 0)
			return false;
		(void) partition_interval_around(interval, time, now, &from, &time);
	}
	return true;
}

/* Makes the partitions of now and of what comes next; the number made. */
static int
make_lead(const PartitionMaker *maker, PartitionRanges *ranges, TimestampTz now)
{
	static int retry_ms = LEAD_FIRST_RETRY_MS;
	TimestampTz time = now;
	int made = 0;
	int i;

	if (!time_is_over(lead_retry_at, now, LEAD_LAST_RETRY_MS))
		return 0;

	for (i = 0; i < LEAD_PARTITIONS; i++)
	{
		TimestampTz from;
		int at = -1;

		/* Asked only where something is to be made: it reads the file system. */
		if (partition_range_of(ranges, time) < 0 && default_is_small(ranges->default_partition))
			at = plan_partition(ranges, maker->interval, time, now);
		if (at >= 0 && !make_partition_ahead(maker, &ranges->ranges[at]))
		{
			lead_retry_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), retry_ms);
			retry_ms = Min(retry_ms * 2, LEAD_LAST_RETRY_MS);
			return made;
		}
		made += at >= 0;
		(void) partition_interval_around(maker->interval, time, now, &from, &time);
	}
	if (my_slot != NULL && lead_retry_at != 0)
		slot_clear_reason(my_slot, DUTY_APPLY);
	lead_retry_at = 0;
	retry_ms = LEAD_FIRST_RETRY_MS;
	return made;
}

/* Collects what making partitions needs to know of the open events table. */
static PartitionMaker
partition_maker(const Stream *stream, Relation table, bool indexed)
{
	PartitionMaker maker;
	IdentityColumns *columns = identity_columns(stream);
	StringInfoData options;
	AttrNumber attnum = get_attnum(stream->events_table, stream->event_time);

	initStringInfo(&options);
	if (OidIsValid(table->rd_rel->relam))
		appendStringInfo(&options, " USING %s",
						 quote_identifier(get_am_name(table->rd_rel->relam)));
	if (OidIsValid(table->rd_rel->reltablespace))
		appendStringInfo(&options, " TABLESPACE %s",
						 quote_identifier(get_tablespace_name(table->rd_rel->reltablespace)));

	maker.table = RelationGetRelid(table);
	maker.schema = RelationGetNamespace(table);
	maker.schema_name = get_namespace_name(maker.schema);
	maker.table_name = pstrdup(RelationGetRelationName(table));
	maker.event_time_type = getBaseType(get_atttype(stream->events_table, attnum));
	maker.interval = stream->partition_interval;
	maker.options = options.data;
	maker.unique_columns = NULL;
	if (columns->n > 0 && (indexed || !columns->canonical))
		maker.unique_columns = identity_columns_list(columns);
	return maker;
}

/*
 * Makes partitions for those event times that none covers, and for the time
 * to come, with a unique index if so asked.  Times are as partition_time gives
 * them; a default partition covers them all.  Result is the number made, at
 * most about 50: the caller commits and calls again until it is zero, outside
 * any batch.  The stream's owner is the current user.
 */
int
partition_ensure(const Stream *stream, const TimestampTz *times, int ntimes, bool indexed)
{
	Relation table;
	PartitionRanges *ranges;
	PartitionMaker maker;
	TimestampTz now = GetCurrentTimestamp();
	int needed;
	int i;

	if (stream->partition_interval == NULL || !partition_is_by_event_time(stream))
		return 0;

	table = table_open(stream->events_table, AccessShareLock);
	ranges = partition_ranges(table);
	needed = plan_needed(ranges, stream->partition_interval, times, ntimes, now);
	/* as before most batches */
	if (needed == 0 && lead_retry_at == 0 && has_lead(ranges, stream->partition_interval, now))
	{
		table_close(table, NoLock);
		return 0;
	}
	maker = partition_maker(stream, table, indexed);
	table_close(table, NoLock);
	for (i = 0; i < ranges->n && needed > 0; i++)
	{
		if (!OidIsValid(ranges->ranges[i].partition))
			make_partition(&maker, &ranges->ranges[i], partition_lock_timeout_ms());
	}
	return needed + make_lead(&maker, ranges, now);
}
