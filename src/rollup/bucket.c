/*-------------------------------------------------------------------------
 *
 * bucket.c
 *	  The buckets of a rollup: which times fall into the same one.
 *
 * The bucket of a group is the first group column that is a time and made of
 * the event time alone.  Nothing says how wide it is: the expression is asked
 * for the bucket of a time, and the ends of a bucket are found by asking for
 * others.  That is right where later times never fall into earlier buckets,
 * so for date_trunc, date_bin and conversions between types and time zones.  A
 * conversion to local time goes back by an hour when summer ends: there a
 * bucket can have a second part, which lies no further away than
 * BUCKET_SLACK_USEC, and later times fall into earlier buckets.
 *
 * Everything here works under the rollup's time zone, which the caller has set
 * (partial_enter_time_zone).
 *
 *-------------------------------------------------------------------------
 */
#include "rollup/rollup.h"

#include "access/transam.h"
#include "apply/partition.h"
#include "catalog/pg_type.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "utils/builtins.h"
#include "utils/date.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"

/* How far apart the parts of a bucket of local time may be. */
#define BUCKET_SLACK_USEC USECS_PER_DAY

/* So far apart times are looked at to see whether local time goes back. */
#define PROBE_USEC (15 * USECS_PER_MINUTE)

/* The event time in an expression, and what stands for it. */
typedef struct EventTimeVar
{
	int events_rti;
	AttrNumber attnum;
	const Const *value;
	bool found;
	bool found_others;
} EventTimeVar;

/* Functions of PostgreSQL that keep times in order. */
static const char *const ordered_functions[] = {
	"date", "date_bin", "date_trunc", "timestamp", "timestamptz", "timezone",
};

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
 * The group column that is the bucket, as an index among the keys; -1 when
 * there is none.
 */
int
bucket_key(const RollupShape *shape, const Stream *stream)
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

/*
 * The bucket in which a time lies.
 */
Const *
bucket_of(const RollupShape *shape, const Stream *stream, int key, TimestampTz time)
{
	const RollupKey *bucket = &shape->keys[key];
	EventTimeVar var = event_time_var(shape, stream);
	Node *expr;

	var.value = event_time_const(stream, &var, time);
	expr = replace_event_time(copyObject((Node *) bucket->expr), &var);
	return castNode(Const,
					evaluate_expr((Expr *) expr, bucket->type, bucket->typmod, bucket->collation));
}

/* For check_functions_in_node: whether a function may put times out of order. */
static bool
is_unordered(Oid function, void *context)
{
	char *name = get_func_name(function);

	if (function >= FirstGenbkiObjectId || name == NULL)
		return true;
	for (int i = 0; i < lengthof(ordered_functions); i++)
	{
		if (strcmp(name, ordered_functions[i]) == 0)
			return false;
	}
	return true;
}

/* Walker: find what may put times out of order. */
static bool
find_unordered(Node *node, void *context)
{
	if (node == NULL)
		return false;
	switch (nodeTag(node))
	{
		case T_Var:
		case T_Const:
		case T_RelabelType:
		case T_List:
			break;
		case T_FuncExpr:
			if (check_functions_in_node(node, is_unordered, NULL))
				return true;
			break;
		default:
			return true;
	}
	return expression_tree_walker(node, find_unordered, context);
}

/*
 * Whether later times never fall into earlier buckets, so that ends of buckets
 * can be found.
 */
bool
bucket_is_ordered(const RollupShape *shape, int key)
{
	return !find_unordered((Node *) shape->keys[key].expr, NULL);
}

/* Walker: find a time that has a time zone, or one that has none. */
static bool
find_time(Node *node, bool *has_zone)
{
	if (node == NULL)
		return false;
	if (!IsA(node, List))
	{
		Oid type = exprType(node);

		if (*has_zone ? type == TIMESTAMPTZOID : type == TIMESTAMPOID || type == DATEOID)
			return true;
	}
	return expression_tree_walker(node, find_time, has_zone);
}

/* The last time in a direction, 1 or -1, that lies in the same bucket as one;
 * infinite when all do. */
static TimestampTz
last_in_bucket(const RollupShape *shape, const Stream *stream, int key, TimestampTz time,
			   int direction)
{
	Const *bucket = bucket_of(shape, stream, key, time);
	TimestampTz inside = time;
	TimestampTz outside;
	int64 step = USECS_PER_SEC;

	for (;; step *= 2)
	{
		outside = inside + direction * step;
		if (!IS_VALID_TIMESTAMP(outside))
			return direction > 0 ? DT_NOEND : DT_NOBEGIN;
		if (!equal(bucket_of(shape, stream, key, outside), bucket))
			break;
		inside = outside;
	}
	while (outside - inside != direction)
	{
		TimestampTz middle = inside + (outside - inside) / 2;

		if (equal(bucket_of(shape, stream, key, middle), bucket))
			inside = middle;
		else
			outside = middle;
	}
	return inside;
}

/*
 * The first time of the bucket in which a time lies.
 */
TimestampTz
bucket_begin(const RollupShape *shape, const Stream *stream, int key, TimestampTz time)
{
	if (TIMESTAMP_NOT_FINITE(time))
		return time;
	return last_in_bucket(shape, stream, key, time, -1);
}

/*
 * The first time after the bucket in which a time lies.
 */
TimestampTz
bucket_end(const RollupShape *shape, const Stream *stream, int key, TimestampTz time)
{
	TimestampTz last;

	if (TIMESTAMP_NOT_FINITE(time))
		return time;
	last = last_in_bucket(shape, stream, key, time, 1);
	return TIMESTAMP_NOT_FINITE(last) ? last : last + 1;
}

/*
 * The whole buckets in which times of a range lie, without those that are older
 * than the rollup keeps.
 */
TimeRange
bucket_cover(const RollupShape *shape, const Rollup *rollup, int key, TimeRange times)
{
	const Stream *stream = rollup->stream;

	times.from = bucket_begin(shape, stream, key, times.from);
	if (!TIMESTAMP_NOT_FINITE(times.until))
		times.until = bucket_end(shape, stream, key, times.until - 1);
	if (rollup->kept_from != 0)
		times.from = Max(times.from, bucket_begin(shape, stream, key, rollup->kept_from));
	return times;
}

/*
 * How far outside of its ends events of a bucket may lie.
 */
int64
bucket_slack_usec(const RollupShape *shape, const Stream *stream, int key)
{
	Oid type = getBaseType(
		get_atttype(stream->events_table, get_attnum(stream->events_table, stream->event_time)));
	bool finds_zone = type == TIMESTAMPOID;

	/* what becomes a time of the other kind goes through local time */
	if ((type == TIMESTAMPTZOID || type == TIMESTAMPOID) &&
		find_time((Node *) shape->keys[key].expr, &finds_zone))
		return BUCKET_SLACK_USEC;
	return 0;
}

/*
 * The bucket of a time as a time.
 */
TimestampTz
bucket_time(const RollupShape *shape, const Stream *stream, int key, TimestampTz time)
{
	const Const *bucket = bucket_of(shape, stream, key, time);

	return partition_time(getBaseType(bucket->consttype), bucket->constvalue);
}

/* Whether later times of a range fall into earlier buckets somewhere. */
static bool
goes_back(const RollupShape *shape, const Stream *stream, int key, TimestampTz from,
		  TimestampTz until)
{
	TimestampTz before = bucket_time(shape, stream, key, from);

	for (TimestampTz time = from + PROBE_USEC; time <= until; time += PROBE_USEC)
	{
		TimestampTz after = bucket_time(shape, stream, key, time);

		if (after < before)
			return true;
		before = after;
	}
	return false;
}

/*
 * The time itself, or, where local time goes back near it, one in a direction (1 or -1)
 * that is so far away that the buckets of all times on the other side of the given one
 * are no later, or no earlier, than that of the result.
 */
TimestampTz
bucket_reach(const RollupShape *shape, const Stream *stream, int key, TimestampTz time,
			 int direction)
{
	int64 slack_usec = bucket_slack_usec(shape, stream, key);

	if (slack_usec == 0 || !IS_VALID_TIMESTAMP(time - slack_usec) ||
		!IS_VALID_TIMESTAMP(time + slack_usec) ||
		!goes_back(shape, stream, key, time - slack_usec, time + slack_usec))
		return time;
	return time + direction * slack_usec;
}
