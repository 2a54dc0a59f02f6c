/*-------------------------------------------------------------------------
 *
 * stream_table.c
 *	  The events table of a stream, and what makes two events in it the same.
 *
 *-------------------------------------------------------------------------
 */
#include "detect.h"

#include "access/relation.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "compat.h"
#include "ingest/decode.h"
#include "miscadmin.h"
#include "stream.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/partcache.h"
#include "utils/rel.h"
#include "utils/rls.h"
#include "utils/syscache.h"

static void
refuse_events_table(const char *table, const char *what, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_WRONG_OBJECT_TYPE),
			 errmsg("\"%s\" cannot be an events table: it %s", table, what), errhint("%s", hint)));
}

/* A column of a type of ours would go with the extension, and with it a table that it
 * partitions. */
static void
refuse_own_types(Relation table)
{
	TupleDesc desc = RelationGetDescr(table);

	for (int i = 0; i < desc->natts; i++)
	{
		const Form_pg_attribute attribute = TupleDescAttr(desc, i);

		if (attribute->attisdropped)
			continue;
		if (decode_epoch_unit(attribute->atttypid) != EPOCH_NONE ||
			decode_epoch_unit(get_element_type(getBaseType(attribute->atttypid))) != EPOCH_NONE)
			refuse_events_table(RelationGetRelationName(table),
								psprintf("has a column \"%s\" of type %s",
										 NameStr(attribute->attname),
										 format_type_be(attribute->atttypid)),
								"Make it of timestamptz, and name the type in columns: it says "
								"what numbers in messages count.");
	}
}

/* Whether another stream, or the wrong kind of relation, stands in the way. */
static void
check_events_table(const Stream *stream, Oid events_table)
{
	Relation rel = relation_open(events_table, AccessShareLock);
	const char *name = RelationGetRelationName(rel);
	char kind = rel->rd_rel->relkind;
	Stream *other;

	if (!compat_owns_relation(events_table, stream->owner))
		ereport(
			ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE), errmsg("must be owner of table \"%s\"", name),
			 errhint(
				 "The stream makes partitions and triggers on it. Create the stream as the table's owner.")));
	if (kind == RELKIND_VIEW)
		refuse_events_table(name, "is a view",
							"Name the table behind it; a view has no rows to count.");
	if (kind != RELKIND_RELATION && kind != RELKIND_PARTITIONED_TABLE)
		refuse_events_table(name, "is not a table", "Name an ordinary or a partitioned table.");
	if (citus_has_table(events_table))
		refuse_events_table(name, "belongs to Citus",
							"Its rows are in other tables. Name a table of this node alone.");
	if (rel->rd_rel->relispartition)
		refuse_events_table(name, "is a partition", "Name the partitioned table.");
	if (rel->rd_rel->relpersistence == RELPERSISTENCE_TEMP)
		refuse_events_table(name, "is temporary", "Name a table that other sessions see.");
	if (rel->rd_rel->relpersistence != RELPERSISTENCE_PERMANENT)
		refuse_events_table(
			name, "is not logged",
			"ALTER TABLE … SET LOGGED: a crash would empty it while the progress in Kafka stays.");
	if (rel->rd_rules != NULL) /* relhasrules stays when the last one goes */
		refuse_events_table(name, "has rules", "Use a trigger in place of the rule.");
	if (check_enable_rls(events_table, stream->owner, true) == RLS_ENABLED)
		refuse_events_table(name, "has row security that applies to its owner",
							"ALTER TABLE … NO FORCE ROW LEVEL SECURITY.");
	refuse_own_types(rel);
	other = stream_load_by_events_table(events_table);
	if (other && strcmp(other->name, stream->name) != 0)
		ereport(
			ERROR,
			(errcode(ERRCODE_DUPLICATE_OBJECT),
			 errmsg("table \"%s\" is already the events table of stream \"%s\"", name, other->name),
			 errhint(
				 "A table can have one stream: give the other a table of its own and read both through a view.")));
	relation_close(rel, NoLock);
}

/*
 * The events table: as named, else the table with the stream's name.
 */
Oid
argument_events_table(const ArgumentSource *source, const Stream *stream)
{
	FunctionCallInfo fcinfo = source->fcinfo;
	Oid relid;

	if (argument_keeps(source, ARG_EVENTS_TABLE))
		return source->old->events_table;
	if (argument_is_given(source, ARG_EVENTS_TABLE))
		relid = PG_GETARG_OID(ARG_EVENTS_TABLE);
	else
		relid = RelnameGetRelid(stream->name);
	if (!OidIsValid(relid) || !SearchSysCacheExists1(RELOID, ObjectIdGetDatum(relid)))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("there is no table for the events of stream \"%s\"", stream->name),
				 strchr(stream->name, '.')
					 ? errhint("Names of streams have no schema: name the table in events_table.")
					 : errhint("Create the table first, and name it in events_table unless it is "
							   "called \"%s\".",
							   stream->name)));
	check_events_table(stream, relid);
	return relid;
}

/* The columns of the events table's primary key; an error when it has none. */
static List *
primary_key_columns(Oid events_table)
{
	Relation rel = relation_open(events_table, AccessShareLock);
	Oid index_oid = compat_primary_key_index(rel);
	List *columns = NIL;

	if (OidIsValid(index_oid))
	{
		Relation index = relation_open(index_oid, AccessShareLock);

		for (int i = 0; i < index->rd_index->indnkeyatts; i++)
			columns = lappend(columns,
							  get_attname(events_table, index->rd_index->indkey.values[i], false));
		relation_close(index, AccessShareLock);
	}
	relation_close(rel, AccessShareLock);
	if (columns == NIL)
		ereport(
			ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("table \"%s\" has no primary key: what makes two events the same?",
					get_rel_name(events_table)),
			 errhint(
				 "Name the columns in key, for example key => '{event_id}'; key => '{}' keeps every message.")));
	return columns;
}

/*
 * The columns of the identity: as named, else the primary key.
 */
List *
argument_key(const ArgumentSource *source, Oid events_table)
{
	if (argument_keeps(source, ARG_KEY))
		return source->old->key;
	if (!argument_is_given(source, ARG_KEY))
		return primary_key_columns(events_table);
	return arg_text_array(source->fcinfo, ARG_KEY);
}

/*
 * The time of an event: as named, else the column that partitions the table.
 */
char *
argument_event_time(const ArgumentSource *source, Oid events_table)
{
	char *name = arg_text(source->fcinfo, ARG_EVENT_TIME);
	Relation rel;
	PartitionKey key;

	if (argument_keeps(source, ARG_EVENT_TIME))
		return source->old->event_time;
	if (name)
		return name;
	rel = relation_open(events_table, AccessShareLock);
	key = RelationGetPartitionKey(rel);
	if (key && key->strategy == PARTITION_STRATEGY_RANGE && key->partnatts == 1 &&
		key->partattrs[0] != 0)
		name = get_attname(events_table, key->partattrs[0], false);
	relation_close(rel, AccessShareLock);
	return name;
}
