/*-------------------------------------------------------------------------
 *
 * coarser.c
 *	  The same rollup at more widths: minutes, hours, days.
 *
 * A coarser rollup has the query of the finer one with another bucket in the
 * place of its own.  From there on it is a rollup like any other, with its own
 * name, states, retention and error: it is filled, set aside and dropped apart
 * from the others, and stays when the finer groups have gone.
 *
 * A width that is a unit of the calendar (a day, a week, a month, a quarter, a
 * year) gives the days of the session's time zone at creation, with 23 and 25
 * hours where these have them.  Other widths are multiples of seconds, counted
 * from where the finer bucket counts from, else from 2000-01-03 in UTC.
 *
 *-------------------------------------------------------------------------
 */
#include "rollup/rollup.h"

#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "parser/parse_relation.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"

/* Where buckets are counted from, unless the finer bucket says: a Monday. */
#define ORIGIN (INT64CONST(2) * USECS_PER_DAY)

/* A width that is a unit of date_trunc. */
typedef struct Unit
{
	const char *name;
	Interval width;
} Unit;

static const Unit units[] = {
	{"second", {USECS_PER_SEC, 0, 0}},
	{"minute", {USECS_PER_MINUTE, 0, 0}},
	{"hour", {USECS_PER_HOUR, 0, 0}},
	{"day", {0, 1, 0}},
	{"week", {0, 7, 0}},
	{"month", {0, 0, 1}},
	{"quarter", {0, 0, 3}},
	{"year", {0, 0, 12}},
};

/* The bucket of a query, taken apart. */
typedef struct Bucket
{
	const Expr *expr;	/* as it is in the query */
	Expr *time;			/* that is put into buckets */
	Expr *zone;			/* of date_trunc, or NULL */
	Expr *origin;		/* of date_bin, or NULL */
	Expr *coarser_expr; /* what takes its place */
} Bucket;

/* The unit that a width is, or NULL. */
static const char *
unit_of(const Interval *width)
{
	for (int i = 0; i < lengthof(units); i++)
	{
		if (memcmp(&units[i].width, width, sizeof(Interval)) == 0)
			return units[i].name;
	}
	return NULL;
}

/* Whether an interval is longer than zero, zero, or less. */
static int
interval_sign(const Interval *interval)
{
	Interval zero = {0};

	return DatumGetInt32(
		DirectFunctionCall2(interval_cmp, IntervalPGetDatum(interval), IntervalPGetDatum(&zero)));
}

/* Take the bucket of a query apart, or raise an error. */
static Bucket
find_bucket(const RollupShape *shape, const Stream *stream)
{
	int key = bucket_key(shape, stream);
	Bucket bucket = {0};
	FuncExpr *call = NULL;

	if (key >= 0)
	{
		bucket.expr = shape->keys[key].expr;
		if (IsA(bucket.expr, FuncExpr))
			call = (FuncExpr *) bucket.expr;
	}
	switch (call != NULL ? call->funcid : InvalidOid)
	{
		case F_DATE_BIN_INTERVAL_TIMESTAMP_TIMESTAMP:
		case F_DATE_BIN_INTERVAL_TIMESTAMPTZ_TIMESTAMPTZ:
			bucket.origin = lthird(call->args);
			break;
		case F_DATE_TRUNC_TEXT_TIMESTAMPTZ_TEXT:
			bucket.zone = lthird(call->args);
			break;
		case F_DATE_TRUNC_TEXT_TIMESTAMP:
		case F_DATE_TRUNC_TEXT_TIMESTAMPTZ:
			break;
		default:
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("coarser needs a group column that is a bucket of the event time"),
					 errhint("Group by date_bin or date_trunc of the event time.")));
	}
	bucket.time = lsecond(call->args);
	return bucket;
}

/* Where the buckets of a fixed width are counted from. */
static Expr *
bucket_origin(const Bucket *bucket)
{
	if (bucket->origin != NULL)
		return copyObject(bucket->origin);
	return (Expr *) makeConst(exprType((Node *) bucket->time), -1, InvalidOid, sizeof(Timestamp),
							  TimestampGetDatum(ORIGIN), false, FLOAT8PASSBYVAL);
}

/* The expression of a coarser bucket. */
static Expr *
coarser_expr(const Bucket *bucket, const Interval *width)
{
	Oid type = exprType((Node *) bucket->time);
	const char *unit = unit_of(width);
	bool has_zone = type == TIMESTAMPTZOID;
	List *args;

	/* Hours and less are the same everywhere, but for where they begin. */
	if (unit != NULL && (bucket->origin == NULL || width->time == 0))
	{
		args = list_make2(makeConst(TEXTOID, -1, DEFAULT_COLLATION_OID, -1,
									CStringGetTextDatum(unit), false, false),
						  copyObject(bucket->time));
		if (bucket->zone != NULL)
			args = lappend(args, copyObject(bucket->zone));
		return (Expr *) makeFuncExpr(bucket->zone ? F_DATE_TRUNC_TEXT_TIMESTAMPTZ_TEXT
									 : has_zone	  ? F_DATE_TRUNC_TEXT_TIMESTAMPTZ
												  : F_DATE_TRUNC_TEXT_TIMESTAMP,
									 type, args, InvalidOid, DEFAULT_COLLATION_OID,
									 COERCE_EXPLICIT_CALL);
	}
	if (width->month != 0)
		ereport(
			ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("width \"%s\" of a coarser rollup cannot be counted",
					DatumGetCString(DirectFunctionCall1(interval_out, IntervalPGetDatum(width)))),
			 errhint("Widths of months are 1 month, 3 months and 1 year.")));
	args = list_make3(makeConst(INTERVALOID, -1, InvalidOid, sizeof(Interval),
								IntervalPGetDatum(width), false, false),
					  copyObject(bucket->time), bucket_origin(bucket));
	return (Expr *) makeFuncExpr(has_zone ? F_DATE_BIN_INTERVAL_TIMESTAMPTZ_TIMESTAMPTZ
										  : F_DATE_BIN_INTERVAL_TIMESTAMP_TIMESTAMP,
								 type, args, InvalidOid, InvalidOid, COERCE_EXPLICIT_CALL);
}

/* Mutator: put the coarser bucket where the bucket is. */
static Node *
replace_bucket(Node *node, Bucket *bucket)
{
	if (node == NULL)
		return NULL;
	if (equal(node, bucket->expr))
		return (Node *) copyObject(bucket->coarser_expr);
	return expression_tree_mutator(node, replace_bucket, bucket);
}

/* The name of a coarser bucket that was given none: that of its unit, or NULL
 * where there is no such unit or another column is called so. */
static const char *
default_column(const Query *query, const Interval *width)
{
	const char *unit = unit_of(width);
	ListCell *cell;

	foreach(cell, query->targetList)
	{
		TargetEntry *entry = lfirst_node(TargetEntry, cell);

		if (unit != NULL && !entry->resjunk && strcmp(entry->resname, unit) == 0)
			return NULL;
	}
	return unit;
}

/* The query of a coarser rollup. */
static Query *
coarser_query(const RollupShape *shape, const Stream *stream, const Interval *width,
			  const char *column)
{
	Query *query = copyObject(shape->query);
	Bucket bucket = find_bucket(shape, stream);
	ListCell *cell;

	bucket.coarser_expr = coarser_expr(&bucket, width);
	if (column == NULL)
		column = default_column(query, width);
	foreach(cell, query->targetList)
	{
		TargetEntry *entry = lfirst_node(TargetEntry, cell);

		if (column != NULL && !entry->resjunk && equal(entry->expr, bucket.expr))
			entry->resname = pstrdup(column);
		entry->expr = (Expr *) replace_bucket((Node *) entry->expr, &bucket);
	}
	query->havingQual = replace_bucket(query->havingQual, &bucket);
	return query;
}

/* An interval of the definition, or NULL. */
static Interval *
parse_interval(const char *text)
{
	if (text == NULL)
		return NULL;
	return DatumGetIntervalP(DirectFunctionCall3(interval_in, CStringGetDatum(text),
												 ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1)));
}

/* A coarser rollup from the row that SPI holds. */
static CoarserRollup *
make_coarser(const RollupShape *shape, const Stream *stream, HeapTuple row, TupleDesc tupdesc)
{
	CoarserRollup *coarser = palloc0(sizeof(CoarserRollup));
	char *unknown = SPI_getvalue(row, tupdesc, 5);
	Interval *width = parse_interval(SPI_getvalue(row, tupdesc, 2));

	coarser->name = SPI_getvalue(row, tupdesc, 1);
	if (unknown != NULL)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("coarser rollup \"%s\" has an unknown member \"%s\"", coarser->name,
							   unknown),
						errhint("Its members are width, column and retention.")));
	if (width == NULL)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("coarser rollup \"%s\" has no width", coarser->name),
						errhint("For example: {\"items_per_hour\": \"1 hour\"}.")));
	if (interval_sign(width) <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("width of coarser rollup \"%s\" must be longer than zero", coarser->name)));
	coarser->retention = parse_interval(SPI_getvalue(row, tupdesc, 4));
	coarser->query = coarser_query(shape, stream, width, SPI_getvalue(row, tupdesc, 3));
	return coarser;
}

/*
 * The coarser rollups that a definition asks for, as a list of CoarserRollup
 * in the current context.
 */
List *
coarser_list(Jsonb *definition, const RollupShape *shape, const Stream *stream)
{
	MemoryContext context = CurrentMemoryContext;
	MemoryContext spi_context;
	Oid types[1] = {JSONBOID};
	Datum values[1] = {JsonbPGetDatum(definition)};
	List *coarser = NIL;
	int rows;

	SPI_connect();
	rows = catalog_execute(
		"SELECT key, CASE jsonb_typeof(value) WHEN 'string' THEN value #>> '{}' ELSE value ->> 'width' END, "
		"value ->> 'column', value ->> 'retention', "
		"(SELECT min(k) FROM jsonb_object_keys(CASE jsonb_typeof(value) WHEN 'object' THEN value ELSE '{}' END) k "
		"WHERE k NOT IN ('width', 'column', 'retention')) FROM jsonb_each($1)",
		1, types, values, NULL);
	spi_context = MemoryContextSwitchTo(context);
	for (int i = 0; i < rows; i++)
		coarser = lappend(
			coarser, make_coarser(shape, stream, SPI_tuptable->vals[i], SPI_tuptable->tupdesc));
	MemoryContextSwitchTo(spi_context);
	SPI_finish();
	return coarser;
}
