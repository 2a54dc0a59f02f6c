/*-------------------------------------------------------------------------
 *
 * identity_columns.c
 *	  Which columns make an event's identity, and whether they can.
 *
 * An identity is taken from a staged element before the stream's query, and
 * from the events table when memory is rebuilt: both must give the same
 * values, so the columns have the same name in both, and the same type, or in the
 * stream a domain over it, whose values are the same.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/typcache.h"

#include "apply/identity.h"
#include "apply/partition.h"

/* The stream's column of a name; raises an error if there is none. */
static const StreamColumn *
staged_column(const Stream *stream, const char *name)
{
	int i;

	for (i = 0; i < stream->ncolumns; i++)
	{
		if (strcmp(stream->columns[i].name, name) == 0)
			return &stream->columns[i];
	}
	ereport(ERROR, (errcode(ERRCODE_UNDEFINED_COLUMN),
					errmsg("stream \"%s\" has no column \"%s\", which identifies its events",
						   stream->name, name),
					errhint("Add the column to columns, or choose another key.")));
}

/* Whether a staged column has the values of this type, unaltered by its modifier. */
static bool
is_of_type(const StreamColumn *staged, Oid type, int32 typmod)
{
	Oid staged_type = staged->type;
	int32 staged_typmod = staged->typmod;

	if (staged_type != type)
		staged_type = getBaseTypeAndTypmod(staged_type, &staged_typmod);
	return staged_type == type && (typmod == staged_typmod || typmod == -1);
}

/*
 * Fills in one column.  A length or precision that the events table imposes
 * and the staging table does not could change the value on its way, so the
 * type modifier must be the same, or none.
 */
static void
fill_column(IdentityColumns *columns, int i, const Stream *stream, const char *name)
{
	const StreamColumn *staged = staged_column(stream, name);
	AttrNumber attnum = get_attnum(stream->events_table, name);
	int32 typmod;

	if (attnum == InvalidAttrNumber)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("events table \"%s\" has no column \"%s\", which identifies its events",
						get_rel_name(stream->events_table), name),
				 errhint("Add the column to the events table, or choose another key.")));
	if (attnum < 0)
		ereport(ERROR, (errcode(ERRCODE_INVALID_COLUMN_REFERENCE),
						errmsg("system column \"%s\" cannot identify events", name),
						errhint("Choose another key.")));

	columns->names[i] = pstrdup(name);
	columns->staging_attnums[i] = staged->attnum;
	get_atttypetypmodcoll(stream->events_table, attnum, &columns->types[i], &typmod,
						  &columns->collations[i]);

	if (!is_of_type(staged, columns->types[i], typmod))
		ereport(
			ERROR,
			(errcode(ERRCODE_DATATYPE_MISMATCH),
			 errmsg(
				 "column \"%s\" has type %s in stream \"%s\", but type %s in events table \"%s\"",
				 name, format_type_with_typemod(staged->type, staged->typmod), stream->name,
				 format_type_with_typemod(columns->types[i], typmod),
				 get_rel_name(stream->events_table)),
			 errdetail("Columns that identify an event have the same type in both, with the same "
					   "modifier, or in the stream a domain over it."),
			 errhint("Change the type in one of them.")));

	if (!identity_type_is_canonical(columns->types[i], columns->collations[i]))
		columns->canonical = false;
}

/* Raises an error if the identity's columns are too many, or twice the same. */
static void
check_key(const Stream *stream, const List *names)
{
	ListCell *cell;

	foreach(cell, names)
	{
		if (names_position(names, lfirst(cell)) != foreach_current_index(cell))
			ereport(ERROR, (errcode(ERRCODE_DUPLICATE_COLUMN),
							errmsg("column \"%s\" appears twice in the key of stream \"%s\"",
								   (char *) lfirst(cell), stream->name)));
	}
	if (list_length(names) > INDEX_MAX_KEYS)
		ereport(ERROR, (errcode(ERRCODE_TOO_MANY_COLUMNS),
						errmsg("more than %d columns identify an event of stream \"%s\"",
							   INDEX_MAX_KEYS, stream->name),
						errhint("Choose another key.")));
}

/*
 * Finds the columns of a stream's identity: its key, and the event time where
 * the events table is partitioned by it; none at all if the key is empty.
 * Result is allocated in the current context; raises an error if the columns
 * don't fit.  The caller is in a transaction.
 */
IdentityColumns *
identity_columns(const Stream *stream)
{
	IdentityColumns *columns = palloc0(sizeof(IdentityColumns));
	List *names = list_copy(stream->key);
	ListCell *cell;

	columns->event_time = -1;
	columns->canonical = true;
	if (names != NIL && partition_is_by_event_time(stream))
	{
		columns->event_time = names_position(names, stream->event_time);
		if (columns->event_time < 0)
		{
			columns->event_time = list_length(names);
			columns->event_time_added = true;
			names = lappend(names, stream->event_time);
		}
	}

	columns->n = list_length(names);
	check_key(stream, names);
	columns->names = palloc_array(char *, columns->n);
	columns->staging_attnums = palloc_array(AttrNumber, columns->n);
	columns->types = palloc_array(Oid, columns->n);
	columns->collations = palloc_array(Oid, columns->n);
	foreach(cell, names)
		fill_column(columns, foreach_current_index(cell), stream, lfirst(cell));

	list_free(names);
	return columns;
}

/*
 * Raises an error if the events table's columns are no longer those that the
 * identities in memory were made from.
 */
void
identity_columns_verify(const IdentityColumns *columns, Relation table)
{
	int i;

	for (i = 0; i < columns->n; i++)
	{
		AttrNumber attnum = get_attnum(RelationGetRelid(table), columns->names[i]);
		Oid type = InvalidOid;
		Oid collation = InvalidOid;
		int32 typmod;

		if (attnum != InvalidAttrNumber)
			get_atttypetypmodcoll(RelationGetRelid(table), attnum, &type, &typmod, &collation);
		if (type != columns->types[i] || collation != columns->collations[i])
			ereport(
				ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg(
					 "column \"%s\" of events table \"%s\" is gone, or of another type than before",
					 columns->names[i], RelationGetRelationName(table)),
				 errdetail("The column identifies the events of its stream."),
				 errhint("Change it back, or drop the stream and create it again.")));
	}
}

/* The columns' names for an index definition: quoted, with commas. */
char *
identity_columns_list(const IdentityColumns *columns)
{
	StringInfoData list;
	int i;

	initStringInfo(&list);
	for (i = 0; i < columns->n; i++)
		appendStringInfo(&list, "%s%s", i > 0 ? ", " : "", quote_identifier(columns->names[i]));
	return list.data;
}

/* Raises an error if values of a column can't even be compared by hash. */
static void
check_hashable(const IdentityColumns *columns, int i)
{
	Oid equality = lookup_type_cache(columns->types[i], TYPECACHE_EQ_OPR)->eq_opr;
	RegProcedure left;
	RegProcedure right;

	if (!OidIsValid(equality) || !get_op_hash_functions(equality, &left, &right))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("column \"%s\" of type %s cannot identify events", columns->names[i],
						format_type_be(columns->types[i])),
				 errdetail("The type has no hash function."), errhint("Choose another key.")));
}

/*
 * Raises an error if a table without partitions lacks the unique index that
 * identities without canonical bytes are looked up in.
 */
static void
check_has_index(const IdentityColumns *columns, Oid relation)
{
	Relation table = table_open(relation, AccessShareLock);
	bool soon;

	if (!OidIsValid(identity_index_find(table, columns, &soon)) && !soon)
		ereport(
			ERROR,
			(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
			 errmsg("table \"%s\" needs a unique index on (%s)", RelationGetRelationName(table),
					identity_columns_list(columns)),
			 errdetail(
				 "Identities of these types are not held in memory, but looked up in the index."),
			 errhint("CREATE UNIQUE INDEX CONCURRENTLY ON %s (%s);",
					 quote_qualified_identifier(get_namespace_name(RelationGetNamespace(table)),
												RelationGetRelationName(table)),
					 identity_columns_list(columns))));
	table_close(table, NoLock);
}

/*
 * Raises an error unless a stream's events can be told apart as its
 * definition says.  Called by create_stream with the definition filled in and
 * the staging table made.
 */
void
dedup_check_definition(const Stream *stream)
{
	IdentityColumns *columns;
	List *relations;
	ListCell *cell;
	int i;

	partition_check_definition(stream);
	columns = identity_columns(stream);
	if (columns->canonical)
		return;

	for (i = 0; i < columns->n; i++)
		check_hashable(columns, i);
	relations = find_all_inheritors(stream->events_table, AccessShareLock, NULL);
	foreach(cell, relations)
	{
		if (get_rel_relkind(lfirst_oid(cell)) == RELKIND_RELATION)
			check_has_index(columns, lfirst_oid(cell));
	}
}
