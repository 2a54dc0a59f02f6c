/*-------------------------------------------------------------------------
 *
 * retention.c
 *	  Groups of a rollup that are older than its retention.
 *
 * The age of a group is told by its bucket, the first group column that is a
 * time and made of the event time alone.  A bucket is old when the time from
 * which on groups are kept lies in a later one; so no width need be known, and
 * the bucket of now minus retention stays whole.
 *
 * That time is kept_from in detect._rollup.  It only moves forward, in the
 * transaction that deletes the first of the groups that have become old, and
 * events of older buckets are passed over from the next batch on: a group that
 * went never comes back in part.  The applier does it between two batches, a
 * bounded number of groups at a time.  What becomes of the events is another
 * matter, the stream's retention.
 *
 *-------------------------------------------------------------------------
 */
#include "rollup/rollup.h"

#include "access/stratnum.h"
#include "access/table.h"
#include "catalog/pg_type.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "rewrite/rewriteHandler.h"
#include "utils/builtins.h"
#include "utils/date.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"

/* Groups that one transaction deletes at most. */
#define CHUNK_GROUPS 10000

/* The event time in an expression, and what stands for it. */
typedef struct EventTimeVar
{
	int events_rti;
	AttrNumber attnum;
	const Const *value;
	bool found;
	bool found_others;
} EventTimeVar;

/* What one step deletes. */
typedef struct ExpireStep
{
	RollupSet *set;
	Rollup *rollup;
	bool are_more;
} ExpireStep;

static EventTimeVar
event_time_var(const RollupShape *shape, const Stream *stream)
{
	EventTimeVar var = {.events_rti = shape->events_rti};

	if (stream->event_time != NULL)
		var.attnum = get_attnum(stream->events_table, stream->event_time);
	return var;
}

static bool
is_event_time(const Node *node, const EventTimeVar *var)
{
	return IsA(node, Var) && ((Var *) node)->varno == var->events_rti &&
		   ((Var *) node)->varattno == var->attnum && ((Var *) node)->varlevelsup == 0;
}

/* Walker: whether an expression reads the event time, or anything else. */
static bool
find_event_time(Node *node, EventTimeVar *var)
{
	if (node == NULL)
		return false;
	if (is_event_time(node, var))
		var->found = true;
	else if (IsA(node, Var) || IsA(node, SubLink))
		var->found_others = true;
	return expression_tree_walker(node, find_event_time, var);
}

/* Mutator: put a time in the place of the event time. */
static Node *
replace_event_time(Node *node, EventTimeVar *var)
{
	if (node != NULL && is_event_time(node, var))
		return copyObject((Node *) unconstify(Const *, var->value));
	return expression_tree_mutator(node, replace_event_time, var);
}

/*
 * The group column that tells how old a group is, as an index among the keys;
 * -1 when there is none.
 */
int
retention_bucket(const RollupShape *shape, const Stream *stream)
{
	for (int i = 0; i < shape->ngroups; i++)
	{
		EventTimeVar var = event_time_var(shape, stream);
		Oid type = getBaseType(shape->keys[i].type);

		if (var.attnum == InvalidAttrNumber)
			return -1;
		find_event_time((Node *) shape->keys[i].expr, &var);
		if (var.found && !var.found_others &&
			(type == TIMESTAMPTZOID || type == TIMESTAMPOID || type == DATEOID))
			return i;
	}
	return -1;
}

/* A time as a constant of the event time's type. */
static Const *
event_time_const(const Stream *stream, const EventTimeVar *var, TimestampTz time)
{
	Oid type;
	int32 typmod;
	Oid collation;

	get_atttypetypmodcoll(stream->events_table, var->attnum, &type, &typmod, &collation);
	/* Event times without a zone are in UTC, as the partitions' bounds are. */
	if (getBaseType(type) != DATEOID)
		return makeConst(type, typmod, InvalidOid, sizeof(Timestamp), TimestampGetDatum(time),
						 false, FLOAT8PASSBYVAL);
	return makeConst(type, typmod, InvalidOid, sizeof(DateADT),
					 DirectFunctionCall1(timestamp_date, TimestampGetDatum(time)), false, true);
}

/* The bucket in which a time lies; under the rollup's time zone. */
static Const *
bucket_of(const RollupShape *shape, const Stream *stream, int bucket, TimestampTz time)
{
	const RollupKey *key = &shape->keys[bucket];
	EventTimeVar var = event_time_var(shape, stream);
	Node *expr;

	var.value = event_time_const(stream, &var, time);
	expr = replace_event_time(copyObject((Node *) key->expr), &var);
	return castNode(Const, evaluate_expr((Expr *) expr, key->type, key->typmod, key->collation));
}

/*
 * The condition that an event's bucket is not older than kept_from.  A bucket
 * that is NULL has no age.
 */
Node *
retention_condition(const RollupShape *shape, const Stream *stream, TimestampTz kept_from)
{
	int bucket = retention_bucket(shape, stream);
	NullTest *is_null = makeNode(NullTest);
	Expr *expr;
	Node *is_kept;

	if (bucket < 0)
		return NULL;
	expr = shape->keys[bucket].expr;
	is_kept = partial_comparison(expr, BTGreaterEqualStrategyNumber,
								 bucket_of(shape, stream, bucket, kept_from));
	is_null->arg = copyObject(expr);
	is_null->nulltesttype = IS_NULL;
	is_null->location = -1;
	return (Node *) make_orclause(list_make2(is_kept, is_null));
}

/*
 * Raise an error unless the groups of a rollup have an age.
 */
void
retention_check(const RollupShape *shape, const Stream *stream)
{
	if (retention_bucket(shape, stream) < 0)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("retention needs a group column that tells how old a group is"),
						errdetail(stream->event_time == NULL
									  ? "Stream \"%s\" has no event time."
									  : "No group column is a time made of the event time of "
										"stream \"%s\" alone.",
								  stream->name),
						errhint("Group by date_bin or date_trunc of the event time.")));
}

/*
 * Whether a rollup has groups whose bucket is older than that of a time.
 */
bool
retention_has_older(const Rollup *rollup, TimestampTz time)
{
	Relation view = table_open(rollup->query_view, AccessShareLock);
	RollupShape *shape = shape_create(get_view_query(view), rollup->stream->events_table);
	int bucket = retention_bucket(shape, rollup->stream);
	int nest_level = partial_enter_time_zone(rollup);
	bool found = false;

	if (bucket >= 0)
	{
		const Const *oldest = bucket_of(shape, rollup->stream, bucket, time);
		Oid types[1] = {oldest->consttype};
		Datum values[1] = {oldest->constvalue};

		SPI_connect();
		if (SPI_execute_with_args(
				psprintf("SELECT FROM " DETECT_STATE_SCHEMA ".%s WHERE %s < $1 LIMIT 1",
						 quote_identifier(get_rel_name(rollup->state_table)),
						 quote_identifier(get_attname(rollup->state_table, bucket + 1, false))),
				1, types, values, NULL, true, 1) != SPI_OK_SELECT)
			elog(ERROR, "could not look for old groups of rollup \"%s\"", rollup->name);
		found = SPI_processed > 0;
		SPI_finish();
	}
	AtEOXact_GUC(true, nest_level);
	table_close(view, NoLock);
	return found;
}

/* Read from when on groups are to be kept, and whether old ones may be left;
 * false when all are kept. */
static bool
read_wanted(const Rollup *rollup, TimestampTz *wanted, bool *expiring)
{
	Oid types[1] = {INT4OID};
	Datum values[1] = {Int32GetDatum(rollup->id)};
	bool isnull = true;

	SPI_connect();
	/* As a timestamp without time zone, since months are those of UTC. */
	if (catalog_execute("SELECT GREATEST(kept_from, (now() AT TIME ZONE 'UTC' - retention) "
						"AT TIME ZONE 'UTC'), expiring FROM detect._rollup WHERE rollup_id = $1",
						1, types, values, NULL) > 0)
	{
		HeapTuple row = SPI_tuptable->vals[0];

		*expiring = DatumGetBool(SPI_getbinval(row, SPI_tuptable->tupdesc, 2, &isnull));
		*wanted = DatumGetTimestampTz(SPI_getbinval(row, SPI_tuptable->tupdesc, 1, &isnull));
	}
	SPI_finish();
	return !isnull;
}

/* Delete some of the groups whose bucket is older than one; the result tells
 * whether there may be more. */
static bool
delete_groups(const Rollup *rollup, int bucket, const Const *oldest)
{
	const char *table = quote_identifier(get_rel_name(rollup->state_table));
	const char *column = quote_identifier(get_attname(rollup->state_table, bucket + 1, false));
	Oid types[1] = {oldest->consttype};
	Datum values[1] = {oldest->constvalue};
	int64 deleted;

	SPI_connect();
	if (SPI_execute_with_args(
			psprintf("DELETE FROM " DETECT_STATE_SCHEMA ".%s WHERE ctid = ANY (ARRAY("
					 "SELECT ctid FROM " DETECT_STATE_SCHEMA ".%s WHERE %s < $1 LIMIT %d))",
					 table, table, column, CHUNK_GROUPS),
			1, types, values, NULL, false, 0) != SPI_OK_DELETE)
		elog(ERROR, "could not delete old groups of rollup \"%s\"", rollup->name);
	deleted = (int64) SPI_processed;
	SPI_finish();
	return deleted >= CHUNK_GROUPS;
}

/* Write from when on groups are kept, and whether old ones may be left. */
static void
write_kept(const Rollup *rollup, TimestampTz kept_from, bool expiring)
{
	Oid types[3] = {INT4OID, TIMESTAMPTZOID, BOOLOID};
	Datum values[3];

	values[0] = Int32GetDatum(rollup->id);
	values[1] = TimestampTzGetDatum(kept_from);
	values[2] = BoolGetDatum(expiring);
	SPI_connect();
	catalog_execute("UPDATE detect._rollup SET kept_from = $2, expiring = $3 WHERE rollup_id = $1",
					3, types, values, NULL);
	SPI_finish();
}

/* Delete the next of a rollup's old groups, if its oldest bucket has moved or
 * some are left. */
static void
expire_step(void *arg)
{
	ExpireStep *step = (ExpireStep *) arg;
	Rollup *rollup = step->rollup;
	const Stream *stream = rollup->stream;
	TimestampTz wanted = 0;
	bool expiring = false;
	Relation view;
	RollupShape *shape;
	int nest_level;
	int bucket;
	Const *oldest;

	if (!read_wanted(rollup, &wanted, &expiring))
		return;
	view = table_open(rollup->query_view, AccessShareLock);
	shape = shape_create(get_view_query(view), stream->events_table);
	bucket = retention_bucket(shape, stream);
	table_close(view, NoLock);
	if (bucket < 0)
		return;

	nest_level = partial_enter_time_zone(rollup);
	oldest = bucket_of(shape, stream, bucket, wanted);
	if (expiring || rollup->kept_from == 0 ||
		!equal(oldest, bucket_of(shape, stream, bucket, rollup->kept_from)))
	{
		step->are_more = delete_groups(rollup, bucket, oldest);
		write_kept(rollup, wanted, step->are_more);
		step->set->is_stale = true;
	}
	AtEOXact_GUC(true, nest_level);
}

/*
 * Delete some of the groups that are older than their rollup's retention, in a
 * transaction of the caller, under the stream's lock, between two batches.  The
 * result tells whether there may be more.  A rollup whose groups can't be
 * deleted now has them deleted another time.
 */
bool
rollup_set_expire(RollupSet *set)
{
	MemoryContext context =
		AllocSetContextCreate(CurrentMemoryContext, "detect rollup expire", ALLOCSET_DEFAULT_SIZES);
	MemoryContext saved_context = MemoryContextSwitchTo(context);
	bool are_more = false;

	rollup_set_refresh(set);
	for (int i = 0; i < set->nrollups; i++)
	{
		ExpireStep step = {set, &set->rollups[i], false};
		ErrorData *error = aside_try(expire_step, &step, true);

		if (error == NULL)
			are_more |= step.are_more;
		else
			ereport(LOG, (errcode(error->sqlerrcode),
						  errmsg("could not delete old groups of rollup \"%s\": %s",
								 set->rollups[i].name, error->message)));

		/*
		 * The stream's lock is not held while one rollup after the other is
		 * waited for: a command that holds them all and wants that lock would
		 * be the victim of a deadlock.
		 */
		if (error != NULL && error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE)
			break;
	}
	MemoryContextSwitchTo(saved_context);
	MemoryContextDelete(context);
	return are_more;
}
