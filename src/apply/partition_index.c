/*-------------------------------------------------------------------------
 *
 * partition_index.c
 *	  A partition that is past gets its unique index.
 *
 * The index waits for others as long as it takes, unless they wait for it.  A build
 * that fails leaves an invalid index, which is dropped; repeated keys, on which it
 * fails most of all, are a problem that names them.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/indexing.h"
#include "catalog/pg_index.h"
#include "commands/defrem.h"
#include "executor/spi.h"
#include "fault_point.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "apply/chore.h"
#include "apply/partition.h"

/* How many of the keys that keep an index from being built are shown. */
#define SHOWN_KEYS 5

/* What the names of our indexes end with, and a number where there was one already. */
#define INDEX_SUFFIX "_" PARTITION_INDEX_LABEL

static bool
is_our_index(const char *name)
{
	const char *suffix = NULL;

	for (const char *next = name; (next = strstr(next, INDEX_SUFFIX)) != NULL; next++)
		suffix = next;
	if (suffix == NULL)
		return false;
	suffix += strlen(INDEX_SUFFIX);
	return suffix[strspn(suffix, "0123456789")] == '\0';
}

/* Our indexes on a partition that never became valid, or were to be dropped: names,
 * quoted.  The relation cache does not list the latter. */
static List *
invalid_indexes(Oid partition)
{
	Relation catalog = table_open(IndexRelationId, AccessShareLock);
	List *names = NIL;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple tuple;

	ScanKeyInit(&key, Anum_pg_index_indrelid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(partition));
	scan = systable_beginscan(catalog, IndexIndrelidIndexId, true, NULL, 1, &key);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_index index = (Form_pg_index) GETSTRUCT(tuple);
		char *name = get_rel_name(index->indexrelid);

		if (!index->indisvalid && name != NULL && is_our_index(name))
			names = lappend(names, chore_relation_name(index->indexrelid));
	}
	systable_endscan(scan);
	table_close(catalog, AccessShareLock);
	return names;
}

/* Drops what an index build that failed or was interrupted left behind; false when that
 * has given way to somebody. */
static bool
drop_invalid_indexes(Oid partition, const char *name)
{
	List *names;
	ListCell *cell;
	bool is_done = true;

	chore_begin_reading();
	names = invalid_indexes(partition);
	chore_end_reading();

	foreach(cell, names)
	{
		ErrorData *error = chore_run_command(
			psprintf("DROP INDEX CONCURRENTLY IF EXISTS %s", (char *) lfirst(cell)), 0);

		if (error != NULL)
			chore_failed("drop an invalid index of", name, error);
		is_done &= error == NULL || !chore_gave_way(error);
	}
	return is_done;
}

/* The command that makes a partition's index; NULL if it needs none. */
static char *
index_command(const Stream *stream, Oid partition)
{
	char *command = NULL;
	IdentityColumns *columns;

	chore_begin_reading();
	columns = identity_columns(stream);
	if (chore_lacks_index(partition, columns))
	{
		char *index = ChooseRelationName(get_rel_name(partition), NULL, PARTITION_INDEX_LABEL,
										 get_rel_namespace(partition), false);

		command =
			psprintf("CREATE UNIQUE INDEX CONCURRENTLY %s ON %s (%s)", quote_identifier(index),
					 chore_relation_name(partition), identity_columns_list(columns));
	}
	chore_end_reading();
	return command;
}

/* The first keys that stand more than once in a relation, with how often, as
 * text; NULL if there are none. */
static char *
repeated_keys(const Stream *stream, const char *name)
{
	char *list = identity_columns_list(identity_columns(stream));
	char *sql = psprintf("SELECT pg_catalog.string_agg(k, ', ') FROM ("
						 "SELECT pg_catalog.format('(%%s) %%s times', "
						 "pg_catalog.concat_ws(', ', %s), pg_catalog.count(*)) AS k "
						 "FROM %s GROUP BY %s HAVING pg_catalog.count(*) OPERATOR(pg_catalog.>) 1 "
						 "ORDER BY %s LIMIT %d) r",
						 list, name, list, list, SHOWN_KEYS);
	MemoryContext context = CurrentMemoryContext;
	char *keys = NULL;

	SPI_connect();
	if (SPI_execute(sql, true, 0) == SPI_OK_SELECT && SPI_processed == 1)
		keys = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
	if (keys != NULL)
		keys = MemoryContextStrdup(context, keys);
	SPI_finish();
	return keys;
}

/* Notes how the build of an index went, with the keys that it failed on: a
 * problem until it is built.  What could not be noted is in the log. */
static void
note_index(const Stream *stream, Oid partition, const char *name, const ErrorData *failure)
{
	MemoryContext context = CurrentMemoryContext;

	PG_TRY();
	{
		chore_begin_reading();
		PushActiveSnapshot(GetTransactionSnapshot());
		if (failure == NULL)
			problem_clear(stream->id, PROBLEM_INDEX, partition);
		else
		{
			char *detail =
				psprintf("the unique index of %s was not built: %s", name, failure->message);
			char *keys = failure->sqlerrcode == ERRCODE_UNIQUE_VIOLATION
							 ? repeated_keys(stream, name)
							 : NULL;
			const char *remedy = chore_remedy(name, failure);

			if (keys != NULL)
				detail = psprintf("%s: %s", detail, keys);
			problem_set(stream->id, PROBLEM_INDEX, partition, detail, remedy);
		}
		PopActiveSnapshot();
		chore_end_reading();
	}
	PG_CATCH();
	{
		HOLD_INTERRUPTS();
		MemoryContextSwitchTo(context);
		EmitErrorReport();
		AbortCurrentTransaction();
		FlushErrorState();
		RESUME_INTERRUPTS();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
}

/*
 * Gives a partition its unique index, under the name that it has; what keeps it
 * from being built is told.  Called outside any transaction.
 */
void
partition_build_index(const Stream *stream, Oid partition, const char *name)
{
	char *command;
	ErrorData *error;

	/* another one beside it would be dropped no sooner */
	if (!drop_invalid_indexes(partition, name))
		return;
	command = index_command(stream, partition);
	if (command == NULL)
		return;

	FAULT_POINT("before_index_build");
	error = chore_run_command(command, 0);
	FAULT_POINT("after_index_build");
	if (error != NULL)
	{
		chore_failed("build the unique index of", name, error);
		(void) drop_invalid_indexes(partition, name);
	}
	if (error == NULL || !chore_gave_way(error))
		note_index(stream, partition, name, error);
}
