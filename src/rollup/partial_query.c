/*-------------------------------------------------------------------------
 *
 * partial_query.c
 *	  From the query of a rollup to one that gives partial states.
 *
 * The query is taken from its view each time, so that renamed columns and
 * replaced functions are followed.  Its target list becomes the keys and the
 * bare aggregates, HAVING is left to the view that finalizes, and the events
 * table is replaced by the rows of a batch: a named tuplestore whose columns
 * are those of the events table, attribute by attribute.  Tables are read with
 * the rights of the view's owner, as any view reads them.
 *
 *-------------------------------------------------------------------------
 */
#include "rollup/rollup.h"

#include "access/htup_details.h"
#include "access/stratnum.h"
#include "access/table.h"
#include "catalog/pg_type.h"
#include "compat.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "parser/parsetree.h"
#include "rewrite/rewriteHandler.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/typcache.h"

/* Make the reference to the events table read a named tuplestore instead. */
static void
read_batch(Query *query, int events_rti, const PartialSource *source, const char *batch_name)
{
	RangeTblEntry *rte = rt_fetch(events_rti, query->rtable);
	Relation events = table_open(rte->relid, AccessShareLock);
	TupleDesc tupdesc = RelationGetDescr(events);

	rte->rtekind = RTE_NAMEDTUPLESTORE;
	rte->inh = false;
	rte->relkind = 0;
	rte->rellockmode = 0;
	rte->enrname = pstrdup(batch_name);
	rte->enrtuples = (double) tuplestore_tuple_count(source->batch);
	compat_clear_permissions(rte);
	for (int i = 0; i < tupdesc->natts; i++)
	{
		Form_pg_attribute attribute = TupleDescAttr(tupdesc, i);
		bool dropped = attribute->attisdropped;

		rte->coltypes = lappend_oid(rte->coltypes, dropped ? InvalidOid : attribute->atttypid);
		rte->coltypmods = lappend_int(rte->coltypmods, dropped ? 0 : attribute->atttypmod);
		rte->colcollations =
			lappend_oid(rte->colcollations, dropped ? InvalidOid : attribute->attcollation);
	}
	table_close(events, NoLock);
}

/*
 * A condition that compares a time with a constant of its type.
 */
Node *
partial_comparison(const Expr *time, int strategy, const Const *bound)
{
	TypeCacheEntry *type =
		lookup_type_cache(exprType((const Node *) time), TYPECACHE_BTREE_OPFAMILY);
	Oid operator=
		get_opfamily_member(type->btree_opf, type->btree_opintype, type->btree_opintype, strategy);
	Expr *comparison;

	if (!OidIsValid(operator))
		elog(ERROR, "could not find the comparison of type %u", type->type_id);
	comparison = make_opclause(operator, BOOLOID, false, (Expr *) copyObject(time),
							   (Expr *) copyObject(bound), InvalidOid, InvalidOid);
	set_opfuncid((OpExpr *) comparison);
	return (Node *) comparison;
}

/*
 * The condition that a time is NULL.
 */
Node *
partial_is_null(const Expr *time)
{
	NullTest *is_null = makeNode(NullTest);

	is_null->arg = copyObject(unconstify(Expr *, time));
	is_null->nulltesttype = IS_NULL;
	is_null->location = -1;
	return (Node *) is_null;
}

/* A condition that compares the event time with a time. */
static Node *
compare_event_time(const Var *event_time, int strategy, TimestampTz bound)
{
	/* Event times without a zone are in UTC, as the partitions' bounds are. */
	return partial_comparison((const Expr *) event_time, strategy,
							  makeConst(event_time->vartype, -1, InvalidOid, sizeof(TimestampTz),
										TimestampTzGetDatum(bound), false, FLOAT8PASSBYVAL));
}

/*
 * Read only the events of a range of time.  An event without a time belongs
 * to the oldest range, the one without a lower bound.
 */
static void
add_time_range(Query *query, int events_rti, const Stream *stream, const PartialSource *source)
{
	RangeTblEntry *rte = rt_fetch(events_rti, query->rtable);
	AttrNumber attnum;
	Oid type;
	int32 typmod;
	Oid collation;
	Var *event_time;
	Node *condition = NULL;

	if (!source->has_from && !source->has_until)
		return;
	attnum = get_attnum(stream->events_table, stream->event_time);
	if (attnum == InvalidAttrNumber)
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_COLUMN),
						errmsg("column \"%s\" of the events table \"%s\" does not exist",
							   stream->event_time, get_rel_name(stream->events_table)),
						errhint("It was the event time of stream \"%s\".", stream->name)));
	get_atttypetypmodcoll(stream->events_table, attnum, &type, &typmod, &collation);
	event_time = makeVar(events_rti, attnum, type, typmod, collation, 0);
	compat_select_column(query, rte, attnum);

	if (source->has_from)
		condition = compare_event_time(event_time, BTGreaterEqualStrategyNumber, source->from);
	if (source->has_until)
	{
		Node *older = compare_event_time(event_time, BTLessStrategyNumber, source->until);

		if (!source->has_from)
			older = (Node *) make_orclause(
				list_make2(older, partial_is_null((const Expr *) event_time)));
		condition = make_and_qual(condition, older);
	}
	query->jointree->quals = make_and_qual(query->jointree->quals, condition);
}

/* Read only the events of a range of buckets. */
static void
add_bucket_range(Query *query, const RollupShape *shape, const PartialSource *source)
{
	const Expr *bucket = shape->keys[source->bucket_key].expr;
	Node *condition = NULL;

	if (source->first_bucket != NULL)
		condition = partial_comparison(bucket, BTGreaterEqualStrategyNumber, source->first_bucket);
	if (source->last_bucket != NULL)
	{
		Node *older = partial_comparison(bucket, BTLessEqualStrategyNumber, source->last_bucket);

		if (source->first_bucket == NULL)
			older = (Node *) make_orclause(list_make2(older, partial_is_null(bucket)));
		condition = make_and_qual(condition, older);
	}
	query->jointree->quals = make_and_qual(query->jointree->quals, condition);
}

/*
 * Replace what the query selects by keys and partial states.
 */
static void
select_states(Query *query, const RollupShape *shape)
{
	List *targets = NIL;

	for (int i = 0; i < shape->nkeys; i++)
	{
		const RollupKey *key = &shape->keys[i];
		TargetEntry *entry =
			makeTargetEntry(key->expr, list_length(targets) + 1, pstrdup(key->name), false);

		entry->ressortgroupref = key->sortgroupref;
		targets = lappend(targets, entry);
	}
	for (int i = 0; i < shape->nstates; i++)
	{
		Aggref *aggref = shape->states[i].aggref;

		/* Otherwise min(x) and max(x) alone may become lookups in an index on
		 * x, a plan without any states. */
		if (shape->ngroups == 0 && i == 0 && aggref->aggfilter == NULL)
			aggref->aggfilter = (Expr *) makeBoolConst(true, false);
		targets = lappend(targets, makeTargetEntry((Expr *) aggref, list_length(targets) + 1,
												   pstrdup(shape->states[i].name), false));
	}
	query->targetList = targets;
	query->havingQual = NULL;
	query->hasAggs = shape->nstates > 0;
}

/*
 * The query that gives the partial states of a source, rewritten and ready to
 * be planned: keys first, then bare aggregates.  batch_name names the
 * tuplestore, if the source is a batch.
 */
Query *
partial_query(const Rollup *rollup, const PartialSource *source, const char *batch_name)
{
	Relation view = table_open(rollup->query_view, AccessShareLock);
	Query *query = copyObject(get_view_query(view));
	RollupShape *shape;
	List *rewritten;

	AcquireRewriteLocks(query, true, false);
	shape = shape_create(query, rollup->stream->events_table);
	query = shape->query;
	select_states(query, shape);
	add_time_range(query, shape->events_rti, rollup->stream, source);
	if (source->first_bucket != NULL || source->last_bucket != NULL)
		add_bucket_range(query, shape, source);
	if (rollup->kept_from != 0)
		query->jointree->quals = make_and_qual(
			query->jointree->quals, retention_condition(shape, rollup->stream, rollup->kept_from));
	if (source->batch != NULL)
		read_batch(query, shape->events_rti, source, batch_name);
	table_close(view, NoLock);

	rewritten = QueryRewrite(query);
	if (list_length(rewritten) != 1)
		elog(ERROR, "the query of rollup \"%s\" was rewritten to %d queries", rollup->name,
			 list_length(rewritten));
	return linitial_node(Query, rewritten);
}
