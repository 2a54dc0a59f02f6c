/*-------------------------------------------------------------------------
 *
 * gone_follow.c
 *	  What is lost of the events of a table is written down.
 *
 * The applier writes down which partitions there are in the transaction in which
 * rollups get events of theirs, before it merges them, and moves the ones that
 * have vanished to detect._gone.  Whoever writes down one that others have attached
 * has the groups of its events computed again.
 *
 *-------------------------------------------------------------------------
 */
#include "rollup/gone.h"

#include "access/xact.h"
#include "apply/edit.h"
#include "apply/partition.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

/* Columns of detect._partition and of detect._gone. */
#define PARTITION_COLUMNS 5
#define GONE_COLUMNS	  3

/* What an applier remembers of the one events table that it follows: whether
 * detect._partition is as the table is, and whether it became so in the
 * transaction that is open. */
static Oid followed_table = InvalidOid;
static bool is_followed = false;
static bool followed_now = false;

static void
write_gone(Oid events_table, const List *ranges)
{
	ListCell *cell;

	foreach(cell, ranges)
	{
		const TimeRange *range = lfirst(cell);
		Datum values[GONE_COLUMNS] = {ObjectIdGetDatum(events_table),
									  TimestampTzGetDatum(range->from),
									  TimestampTzGetDatum(range->until)};
		bool nulls[GONE_COLUMNS] = {false};

		catalog_insert("_gone", lengthof(values), values, nulls);
	}
	CommandCounterIncrement();
}

/* Add ranges to detect._gone, and make one of those that touch.  Only what is
 * deleted is written again: others may add ranges meanwhile. */
static void
add_gone(Oid events_table, List *ranges)
{
	MemoryContext context = CurrentMemoryContext;
	Oid types[1] = {OIDOID};
	Datum values[1] = {ObjectIdGetDatum(events_table)};

	SPI_connect();
	catalog_execute("DELETE FROM detect._gone WHERE events_table = $1 "
					"RETURNING from_time, until_time",
					1, types, values, NULL);
	ranges = list_concat(ranges, gone_ranges_of_rows(context));
	SPI_finish();
	write_gone(events_table, gone_merge_ranges(ranges));
}

static void
delete_partition(Oid events_table, Oid relation)
{
	Oid types[2] = {OIDOID, OIDOID};
	Datum values[2] = {ObjectIdGetDatum(events_table), ObjectIdGetDatum(relation)};

	SPI_connect();
	catalog_execute("DELETE FROM detect._partition WHERE events_table = $1 AND relation = $2", 2,
					types, values, NULL);
	SPI_finish();
}

static void
insert_partition(Oid events_table, const KnownPartition *partition)
{
	Datum values[PARTITION_COLUMNS] = {
		ObjectIdGetDatum(events_table), ObjectIdGetDatum(partition->relation),
		BoolGetDatum(partition->is_default), TimestampTzGetDatum(partition->range.from),
		TimestampTzGetDatum(partition->range.until)};
	bool nulls[PARTITION_COLUMNS] = {false};

	catalog_insert("_partition", lengthof(values), values, nulls);
}

/* ---------------------------------------------------------------------
 * The applier
 * ---------------------------------------------------------------------
 */

/* Relcache callback: InvalidOid stands for every relation. */
static void
relation_changed(Datum arg, Oid relid)
{
	if (relid == InvalidOid || relid == followed_table)
		is_followed = false;
}

/* What was written is taken back. */
static void
transaction_ended(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_ABORT && followed_now)
		is_followed = false;
	if (event == XACT_EVENT_ABORT || event == XACT_EVENT_COMMIT)
		followed_now = false;
}

static void
subtransaction_ended(SubXactEvent event, SubTransactionId id, SubTransactionId parent, void *arg)
{
	if (event == SUBXACT_EVENT_ABORT_SUB && followed_now)
		is_followed = false;
}

static void
register_callbacks(void)
{
	static bool registered = false;

	if (registered)
		return;
	relation_change_listen(relation_changed);
	RegisterXactCallback(transaction_ended, NULL);
	RegisterSubXactCallback(subtransaction_ended, NULL);
	registered = true;
}

/* Have the groups computed again that get events with partitions that others have made,
 * or attached. */
static void
repair_added(const Stream *stream, const List *added)
{
	EditTimes *times = edit_times_create(stream);
	ListCell *cell;

	foreach(cell, added)
	{
		Edit edit = {.relation = ((KnownPartition *) lfirst(cell))->relation};

		if (partition_may_have_rows(edit.relation))
			edit_times_add(times, &edit);
	}
	rollup_queue_repairs(stream, times);
}

/* Have detect._partition and detect._gone follow the partitions. */
static void
follow_partitions(const Stream *stream)
{
	Oid events_table = stream->events_table;
	List *attached = gone_attached_partitions(events_table);
	List *recorded = gone_read_partitions(events_table);
	List *vanished = gone_partitions_without(recorded, attached);
	List *added = gone_partitions_without(attached, recorded);
	ListCell *cell;

	if (vanished == NIL && added == NIL)
		return;
	if (vanished != NIL)
		add_gone(events_table, gone_lost_ranges(stream, recorded, vanished));
	foreach(cell, vanished)
		delete_partition(events_table, ((KnownPartition *) lfirst(cell))->relation);
	foreach(cell, added)
		insert_partition(events_table, lfirst(cell));
	if (recorded != NIL)
		repair_added(stream, added);
	CommandCounterIncrement();
}

/* Whether any partition of a table is written down: some rollup has got events. */
static bool
has_records(Oid events_table)
{
	Oid types[1] = {OIDOID};
	Datum values[1] = {ObjectIdGetDatum(events_table)};
	bool result;

	SPI_connect();
	result = catalog_execute("SELECT FROM detect._partition WHERE events_table = $1 LIMIT 1", 1,
							 types, values, NULL) > 0;
	SPI_finish();
	return result;
}

/*
 * Write down a partition that a stream has just made, in the same transaction: one that
 * is found otherwise came with events that no rollup has.
 */
void
gone_note_made(Oid events_table, Oid relation)
{
	KnownPartition partition = {.relation = relation};

	if (!has_records(events_table) ||
		!partition_bounds(relation, &partition.range.from, &partition.range.until))
		return;
	insert_partition(events_table, &partition);
	CommandCounterIncrement();
}

/*
 * Write down which partitions there are, unless nothing has changed.  Called
 * by the applier before rollups get events, in the same transaction.
 */
void
gone_follow(const Stream *stream)
{
	MemoryContext context;
	MemoryContext saved_context;

	if (is_followed && followed_table == stream->events_table)
		return;
	register_callbacks();
	/* first, since it may change while they are read */
	followed_table = stream->events_table;
	is_followed = followed_now = true;
	if (get_rel_relkind(stream->events_table) != RELKIND_PARTITIONED_TABLE)
		return;

	context =
		AllocSetContextCreate(CurrentMemoryContext, "detect gone events", ALLOCSET_DEFAULT_SIZES);
	saved_context = MemoryContextSwitchTo(context);
	PushActiveSnapshot(GetLatestSnapshot());
	follow_partitions(stream);
	PopActiveSnapshot();
	MemoryContextSwitchTo(saved_context);
	MemoryContextDelete(context);
}

/*
 * Look again, whatever has changed: rollups are made and dropped.
 */
void
gone_reload(void)
{
	is_followed = false;
}

/*
 * Forget events tables that no rollup reads any more: one that is made later
 * begins with the events that are there.  Called after rollups were dropped.
 */
void
gone_forget_unused(void)
{
	SPI_connect();
	catalog_execute("DELETE FROM detect._gone WHERE events_table NOT IN "
					"(SELECT events_table FROM detect._rollup)",
					0, NULL, NULL, NULL);
	catalog_execute("DELETE FROM detect._partition WHERE events_table NOT IN "
					"(SELECT events_table FROM detect._rollup)",
					0, NULL, NULL, NULL);
	SPI_finish();
}
