/*-------------------------------------------------------------------------
 *
 * stream_check.c
 *	  Whether a definition can work, once its columns and its query are there.
 *
 * What is refused here would otherwise make every element a dead letter, or
 * pause the stream at its first batch.
 *
 *-------------------------------------------------------------------------
 */
#include "detect.h"

#include "access/relation.h"
#include "apply/batch.h"
#include "apply/dedup.h"
#include "ingest/decode.h"
#include "stream.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

/*
 * Raise an error unless each field names a column, and a path that the decoder
 * can walk.
 */
void
stream_check_fields(Jsonb *fields, const char *unnest, Oid staging_table)
{
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue value;

	if (!JB_ROOT_IS_OBJECT(fields))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("fields must be a JSON object"),
				 errhint("For example: fields => '{\"lon\": \"$.pos.lon\"}'")));
	it = JsonbIteratorInit(&fields->root);
	while ((token = JsonbIteratorNext(&it, &value, true)) != WJB_DONE)
	{
		char *name;
		Oid reserved_type;

		if (token != WJB_KEY)
			continue;
		name = pnstrdup(value.val.string.val, value.val.string.len);
		if (stream_column_source(name, &reserved_type) != COLUMN_FIELD)
			ereport(ERROR,
					(errcode(ERRCODE_RESERVED_NAME),
					 errmsg("fields names \"%s\", which is not filled from the payload", name),
					 errhint("Leave it out of fields.")));
		if (get_attnum(staging_table, name) == InvalidAttrNumber)
		{
			const char *closest = closest_attribute(staging_table, name);

			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("fields names \"%s\", which is no column of the stream", name),
					 closest ? errhint("Perhaps you meant the column \"%s\".", closest) : 0));
		}
		(void) JsonbIteratorNext(&it, &value, true);
		if (value.type != jbvString)
			ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
							errmsg("the path of column \"%s\" in fields is not a string", name)));
		decode_check_path(pnstrdup(value.val.string.val, value.val.string.len), unnest != NULL);
	}
}

/*
 * Raise an error if the events table has a NOT NULL column that nothing fills,
 * or if the column of this name is one: every element would be a dead letter.
 */
void
stream_check_not_null(const Stream *stream, const char *column)
{
	Relation rel = relation_open(stream->events_table, AccessShareLock);
	TupleDesc tupdesc = RelationGetDescr(rel);

	for (int i = 0; i < tupdesc->natts; i++)
	{
		Form_pg_attribute attribute = TupleDescAttr(tupdesc, i);

		if (attribute->attisdropped || !attribute->attnotnull || attribute->atthasdef ||
			attribute->attidentity || attribute->attgenerated ||
			(column && strcmp(column, NameStr(attribute->attname)) != 0))
			continue;
		if (names_position(stream->events_columns, NameStr(attribute->attname)) < 0)
			ereport(ERROR, (errcode(ERRCODE_INVALID_TABLE_DEFINITION),
							errmsg("nothing fills column \"%s\" of table \"%s\", which is NOT NULL",
								   NameStr(attribute->attname), RelationGetRelationName(rel)),
							errhint("Add it to columns or to the query, or give it a default.")));
	}
	relation_close(rel, AccessShareLock);
}

/* What tells events apart, and when they happened, is known before the query
 * runs: it must be in the stream and come through the query as it is. */
static void
check_handed_on(const Stream *stream)
{
	List *names = list_copy(stream->key);
	ListCell *cell;

	if (stream->event_time)
		names = lappend(names, stream->event_time);
	foreach(cell, names)
	{
		const char *name = lfirst(cell);
		AttrNumber staged = get_attnum(stream->staging_table, name);
		Oid type = get_atttype(stream->events_table, get_attnum(stream->events_table, name));
		Oid staged_type = get_atttype(stream->staging_table, staged);

		if (staged == InvalidAttrNumber)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("stream \"%s\" has no column \"%s\" for the event time", stream->name,
							name),
					 errhint("Add the column to columns: it is looked at before the query runs.")));
		if (staged_type != type && getBaseType(staged_type) != type)
			ereport(
				ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg(
					 "event time \"%s\" has type %s in stream \"%s\", but type %s in events table \"%s\"",
					 name, format_type_be(staged_type), stream->name, format_type_be(type),
					 get_rel_name(stream->events_table)),
				 errhint("Change the type in one of them.")));
		if (names_position(stream->events_columns, name) < 0)
			ereport(
				ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the query of stream \"%s\" does not hand on column \"%s\"", stream->name,
						name),
				 errhint("Let the query output the columns of key and event_time as they are.")));
	}
}

/* Whether a column of an identity is of the item that an element is, and not of its
 * message. */
static bool
is_of_item(const Stream *stream, const char *name)
{
	for (int i = 0; i < stream->ncolumns; i++)
	{
		const StreamColumn *column = &stream->columns[i];

		if (strcmp(column->name, name) == 0)
			return column->source == COLUMN_FIELD && column->path[0] == '@';
	}
	return true;
}

/* Items of one message that nothing tells apart would all be duplicates of the first. */
static void
check_tells_items(const Stream *stream)
{
	bool has_any = stream->unnest == NULL || stream->key == NIL ||
				   (stream->event_time && is_of_item(stream, stream->event_time));
	ListCell *cell;

	foreach(cell, stream->key)
		has_any |= is_of_item(stream, lfirst(cell));
	if (!has_any)
		ereport(
			ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("the key of stream \"%s\" is the same for all items of a message",
					stream->name),
			 errhint("Name a column of the item in key, too, or keep every item: key => '{}'.")));
}

/*
 * Raise an error unless a stream, as it was just loaded, can run.
 */
void
stream_check_definition(const Stream *stream)
{
	stream_check_not_null(stream, NULL);
	dedup_check_definition(stream);
	query_check_text(stream);
	check_handed_on(stream);
	check_tells_items(stream);
}
