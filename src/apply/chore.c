/*-------------------------------------------------------------------------
 *
 * chore.c
 *	  What maintenance the partitions of an events table need.
 *
 * Nothing is kept about chores: what is to be done is read off the
 * partitions.  An interrupted index is there as an invalid one, an interrupted
 * detach is pending, and a partition that was detached and not yet dropped
 * carries a comment.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/table.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_description.h"
#include "commands/comment.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/hsearch.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "apply/chore.h"
#include "apply/partition.h"

/* A partition is past when its own width has gone by since its end, or this
 * much: late events are known from memory, faster than from an index. */
#define GRACE_US USECS_PER_HOUR

#define FIRST_RETRY_MS (60 * 1000)
#define LAST_RETRY_MS  (60 * 60 * 1000)

/* When the applier asks for a partition's chore again. */
typedef struct Retry
{
	Oid partition; /* hash key */
	bool seen;	   /* is still a chore */
	TimestampTz due_at;
	int delay_ms;
} Retry;

/*
 * Tells whether a relation carries the comment that marks partitions whose end has begun.
 */
bool
chore_is_marked(Oid relation)
{
	char *comment = GetComment(relation, RelationRelationId, 0);

	return comment != NULL && strcmp(comment, PARTITION_RETIRED_COMMENT) == 0;
}

/* Tells whether a partition's time is over, so that few rows come any more. */
static bool
is_past(const PartitionRange *range, TimestampTz now)
{
	int64 grace = GRACE_US;

	if (range->to > now)
		return false;
	if (range->from != DT_NOBEGIN)
		grace = Min(grace, range->to - range->from);
	return range->to <= now - grace;
}

/*
 * Tells whether a partition lacks its unique index.  One that somebody has
 * locked is left for the next time.
 */
bool
chore_lacks_index(Oid partition, const IdentityColumns *columns)
{
	Relation table;
	bool lacks = false;
	bool soon;

	if (columns->n == 0 || !ConditionalLockRelationOid(partition, AccessShareLock))
		return false;
	table = try_relation_open(partition, NoLock);
	if (table == NULL)
		return false;
	if (table->rd_rel->relkind == RELKIND_RELATION && !table->rd_rel->relhassubclass)
		lacks = !OidIsValid(identity_index_find(table, columns, &soon)) && !soon;
	relation_close(table, AccessShareLock);
	return lacks;
}

/* The time before which events are past the stream's retention. */
static TimestampTz
retention_limit(const Stream *stream, TimestampTz now)
{
	if (stream->retention == NULL)
		return DT_NOBEGIN;

	/* As a timestamp without time zone, since months are those of UTC. */
	return DatumGetTimestamp(DirectFunctionCall2(timestamp_mi_interval, TimestampGetDatum(now),
												 IntervalPGetDatum(stream->retention)));
}

static List *
add_chore(List *chores, ChoreKind kind, Oid partition)
{
	Chore *chore = palloc_object(Chore);

	chore->kind = kind;
	chore->partition = partition;
	return lappend(chores, chore);
}

/* Tells whether some partition is being detached: one at a time can be. */
static bool
any_detaching(const PartitionRanges *ranges)
{
	int i;

	for (i = 0; i < ranges->n; i++)
	{
		if (ranges->ranges[i].detaching)
			return true;
	}
	return false;
}

/* Lists the chores of a stream's partitions, oldest first.  Of those that are marked
 * (if they are given) the ones that are to be kept, since retention is longer now, are
 * unmarked. */
static List *
partition_chores(const Stream *stream, const List *marked)
{
	List *chores = NIL;
	IdentityColumns *columns = identity_columns(stream);
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz limit = retention_limit(stream, now);
	Relation table = table_open(stream->events_table, AccessShareLock);
	PartitionRanges *ranges = partition_ranges(table);
	int i;

	table_close(table, AccessShareLock);
	for (i = 0; i < ranges->n; i++)
	{
		const PartitionRange *range = &ranges->ranges[i];

		if (!range->detaching && range->to > limit && list_member_oid(marked, range->partition))
			chores = add_chore(chores, CHORE_UNMARK, range->partition);
		if (range->detaching)
		{
			/* What others detach is theirs. */
			if (chore_is_marked(range->partition))
				chores = add_chore(chores, CHORE_FINISH_DETACH, range->partition);
		}
		else if (range->to <= limit && !any_detaching(ranges))
			chores = add_chore(chores, CHORE_RETIRE, range->partition);
		else if (range->to > limit && is_past(range, now) &&
				 chore_lacks_index(range->partition, columns))
			chores = add_chore(chores, CHORE_INDEX, range->partition);
	}
	return chores;
}

/* Tells whether a table was detached for good, and would be dropped next. */
static bool
is_left_behind(const Stream *stream, Oid relation)
{
	HeapTuple tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relation));
	bool result;
	Form_pg_class form;

	if (!HeapTupleIsValid(tuple))
		return false;
	form = (Form_pg_class) GETSTRUCT(tuple);
	result = form->relkind == RELKIND_RELATION && !form->relispartition &&
			 form->relnamespace == get_rel_namespace(stream->events_table) &&
			 form->relowner == stream->owner;
	ReleaseSysCache(tuple);
	return result;
}

/* The relations that are marked, whosesoever they are. */
static List *
marked_relations(void)
{
	Relation descriptions = table_open(DescriptionRelationId, AccessShareLock);
	List *marked = NIL;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple tuple;

	ScanKeyInit(&key, Anum_pg_description_classoid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(RelationRelationId));
	scan = systable_beginscan(descriptions, InvalidOid, false, NULL, 1, &key);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_description form = (Form_pg_description) GETSTRUCT(tuple);
		bool isnull;
		Datum description = heap_getattr(tuple, Anum_pg_description_description,
										 RelationGetDescr(descriptions), &isnull);

		if (form->objsubid == 0 && !isnull &&
			strcmp(TextDatumGetCString(description), PARTITION_RETIRED_COMMENT) == 0)
			marked = lappend_oid(marked, form->objoid);
	}
	systable_endscan(scan);
	table_close(descriptions, AccessShareLock);
	return marked;
}

/* Lists the chores of partitions with those that an interruption has left: detached and
 * not dropped, or marked and kept. */
static List *
all_partition_chores(const Stream *stream)
{
	List *marked = marked_relations();
	List *chores = partition_chores(stream, marked);
	ListCell *cell;

	foreach(cell, marked)
	{
		if (is_left_behind(stream, lfirst_oid(cell)))
			chores = add_chore(chores, CHORE_DROP, lfirst_oid(cell));
	}
	return chores;
}

/* Adds the indexes that the applier wants for want of memory, and the state tables
 * that it has moved the rows of. */
static List *
add_wanted(List *chores, const Stream *stream, const List *wanted)
{
	IdentityColumns *columns = wanted == NIL ? NULL : identity_columns(stream);
	Oid state_schema = get_namespace_oid(DETECT_STATE_SCHEMA, true);
	ListCell *cell;

	foreach(cell, wanted)
	{
		if (get_rel_namespace(lfirst_oid(cell)) == state_schema)
			chores = add_chore(chores, CHORE_VACUUM, lfirst_oid(cell));
		else if (chore_lacks_index(lfirst_oid(cell), columns))
			chores = add_chore(chores, CHORE_INDEX, lfirst_oid(cell));
	}
	return chores;
}

/*
 * Lists all chores of a stream in the current context, also for the relations
 * that the applier wants tended.  The caller is in a transaction.
 */
List *
chore_list(const Stream *stream, const List *wanted)
{
	List *chores = NIL;

	if (partition_is_by_event_time(stream))
		chores = all_partition_chores(stream);
	return add_wanted(chores, stream, wanted);
}

/* The retries of this process, made at first use. */
static HTAB *
retry_table(void)
{
	static HTAB *retries = NULL;

	if (retries == NULL)
	{
		HASHCTL control = {.keysize = sizeof(Oid), .entrysize = sizeof(Retry)};

		retries = hash_create("detect chores", 64, &control, HASH_ELEM | HASH_BLOBS);
	}
	return retries;
}

/* Forgets the retries of what is no chore any more, and unmarks the rest. */
static void
forget_done_retries(HTAB *retries)
{
	HASH_SEQ_STATUS scan;
	Retry *retry;

	hash_seq_init(&scan, retries);
	while ((retry = hash_seq_search(&scan)) != NULL)
	{
		if (!retry->seen)
			hash_search(retries, &retry->partition, HASH_REMOVE, NULL);
		else
			retry->seen = false;
	}
}

/* Tells whether a partition's chore is to be asked for now. */
static bool
is_due(HTAB *retries, Oid partition, TimestampTz now)
{
	bool found;
	Retry *retry = hash_search(retries, &partition, HASH_ENTER, &found);

	retry->seen = true;
	if (found && !time_is_over(retry->due_at, now, LAST_RETRY_MS))
		return false;
	retry->delay_ms = found ? Min(retry->delay_ms * 2, LAST_RETRY_MS) : FIRST_RETRY_MS;
	retry->due_at = TimestampTzPlusMilliseconds(now, retry->delay_ms);
	return true;
}

/*
 * Tells whether maintain_run has something to do.  A chore that fails again
 * and again is asked for ever more seldom: after a minute, at last every
 * hour.  Called by the stream's applier now and then, in a transaction.
 */
bool
maintain_is_due(const Stream *stream, const List *wanted)
{
	HTAB *retries = retry_table();
	TimestampTz now = GetCurrentTimestamp();
	bool due = false;
	List *chores = NIL;
	ListCell *cell;

	if (partition_is_by_event_time(stream))
		chores = all_partition_chores(stream);
	foreach(cell, chores)
		due |= is_due(retries, ((const Chore *) lfirst(cell))->partition, now);
	foreach(cell, wanted)
		due |= is_due(retries, lfirst_oid(cell), now);
	/* what failed may have gone without us */
	if (chores == NIL && wanted == NIL)
	{
		slot_clear_reason(my_slot, DUTY_MAINTAIN);
		problem_clear(stream->id, PROBLEM_INDEX, InvalidOid);
	}
	list_free_deep(chores);
	forget_done_retries(retries);
	return due;
}

/*
 * The same of the indexes alone that the applier wants, which costs little.
 */
bool
maintain_wants(const List *wanted)
{
	TimestampTz now = GetCurrentTimestamp();
	bool due = false;
	ListCell *cell;

	foreach(cell, wanted)
		due |= is_due(retry_table(), lfirst_oid(cell), now);
	return due;
}

/*
 * Forgets the tries of indexes that were wanted and are not any more, so that
 * they are built at once should they be wanted again.
 */
void
maintain_wants_no_more(const List *were_wanted, const List *wanted)
{
	ListCell *cell;

	foreach(cell, were_wanted)
	{
		Oid relation = lfirst_oid(cell);

		if (!list_member_oid(wanted, relation))
			(void) hash_search(retry_table(), &relation, HASH_REMOVE, NULL);
	}
}

/*
 * Has what failed tried again at once: its cause may be gone.
 */
void
maintain_retry(void)
{
	HASH_SEQ_STATUS scan;
	Retry *retry;

	hash_seq_init(&scan, retry_table());
	while ((retry = hash_seq_search(&scan)) != NULL)
		hash_search(retry_table(), &retry->partition, HASH_REMOVE, NULL);
}
