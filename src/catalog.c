/*-------------------------------------------------------------------------
 *
 * catalog.c
 *	  Our own tables, read and written on behalf of users without rights.
 *
 * Nobody but the extension's owner may touch the tables of schema detect.
 * Definitions change seldom and go through SPI under the identity of that
 * owner, with a search_path in which nothing of a user can be found.  What a
 * batch writes goes through the executor's simple insert and update, which
 * check no privileges and, because our tables carry no triggers, defaults or
 * expressions, run nobody's code.
 *
 *-------------------------------------------------------------------------
 */
#include "detect.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "commands/extension.h"
#include "commands/sequence.h"
#include "compat.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "index_key.h"
#include "miscadmin.h"
#include "sql.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#define MAX_KEYS 3

/* How a writer finds rows by the primary key. */
typedef struct CatalogLookup
{
	IndexScanDesc scan;
	Snapshot snapshot;
	ScanKeyData keys[MAX_KEYS];
	TupleTableSlot *found;
} CatalogLookup;

/*
 * The OID of a table or sequence in schema detect; InvalidOid when it is
 * missing and missing_ok.
 */
Oid
catalog_relation(const char *name, bool missing_ok)
{
	Oid schema = get_namespace_oid(DETECT_SCHEMA, true);
	Oid relid = InvalidOid;

	if (OidIsValid(schema))
		relid = get_relname_relid(name, schema);
	if (!OidIsValid(relid) && !missing_ok)
		ereport(
			ERROR,
			(errcode(ERRCODE_UNDEFINED_TABLE),
			 errmsg("table \"%s.%s\" does not exist", DETECT_SCHEMA, name),
			 errhint(
				 "Create the extension again: DROP EXTENSION detect CASCADE; CREATE EXTENSION detect.")));
	return relid;
}

/*
 * Whether the extension is in this database.
 */
bool
catalog_installed(void)
{
	return OidIsValid(get_extension_oid("detect", true)) &&
		   OidIsValid(catalog_relation("_stream", true));
}

/*
 * Raise an error unless the library and the objects in this database are of one
 * version: a library is replaced by a restart, objects by ALTER EXTENSION.  The
 * caller has found the extension installed, and says how the error is sorted.
 */
void
catalog_check_version(int sqlstate)
{
	char *version;

	SPI_connect();
	catalog_read("SELECT extversion FROM pg_extension WHERE extname = 'detect'", 0, NULL, NULL);
	if (SPI_processed != 1)
		elog(ERROR, "extension \"detect\" is missing");
	version = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
	if (strcmp(version, DETECT_VERSION) != 0)
		ereport(
			ERROR,
			(errcode(sqlstate),
			 errmsg("the library of detect is of version %s, the extension in this database of %s",
					DETECT_VERSION, version),
			 strverscmp(version, DETECT_VERSION) > 0 ? errhint("Restart the server.")
													 : errhint("ALTER EXTENSION detect UPDATE;")));
	SPI_finish();
}

/*
 * The owner of a relation; InvalidOid when it is missing and missing_ok.
 */
Oid
relation_owner(Oid relid, bool missing_ok)
{
	HeapTuple tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	Oid owner;

	if (!HeapTupleIsValid(tuple))
	{
		if (missing_ok)
			return InvalidOid;
		elog(ERROR, "cache lookup failed for relation %u", relid);
	}
	owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	ReleaseSysCache(tuple);
	return owner;
}

/*
 * The owner of our tables, under whose identity they are read and written.
 */
Oid
catalog_owner(void)
{
	return relation_owner(catalog_relation("_stream", false), false);
}

/* Run SQL, once or by a plan that is kept. */
static int
run_sql(SPIPlanPtr *plan, const char *sql, int nargs, Oid *argtypes, Datum *values,
		const char *nulls, bool read_only)
{
	if (plan == NULL)
		return SPI_execute_with_args(sql, nargs, argtypes, values, nulls, read_only, 0);
	if (*plan == NULL)
	{
		SPIPlanPtr prepared = SPI_prepare(sql, nargs, argtypes);

		if (prepared == NULL)
			return SPI_result;
		SPI_keepplan(prepared);
		*plan = prepared;
	}
	return SPI_execute_plan(*plan, values, nulls, read_only, 0);
}

/* Run SQL of ours as the owner of our tables; if it only reads, under the
 * active snapshot. */
static int
execute(SPIPlanPtr *plan, const char *sql, int nargs, Oid *argtypes, Datum *values,
		const char *nulls, bool read_only)
{
	ActingUser caller = sql_act_as(catalog_owner(), SECURITY_LOCAL_USERID_CHANGE);
	int result;

	sql_set("search_path", "pg_catalog, pg_temp");

	result = run_sql(plan, sql, nargs, argtypes, values, nulls, read_only);
	if (result < 0)
		elog(ERROR, "could not execute \"%s\": %s", sql, SPI_result_code_string(result));

	sql_act_as_before(&caller);
	return (int) SPI_processed;
}

/*
 * Run SQL of ours as the owner of our tables.  Every value travels as a
 * parameter.  The caller is connected to SPI and finds rows, if any, in
 * SPI_tuptable; the result is the number of rows.
 */
int
catalog_execute(const char *sql, int nargs, Oid *argtypes, Datum *values, const char *nulls)
{
	return execute(NULL, sql, nargs, argtypes, values, nulls, false);
}

/*
 * The same for what is run again and again: its plan stays in *plan, which begins as
 * NULL and is this statement's for the life of the process.
 */
int
catalog_execute_often(SPIPlanPtr *plan, const char *sql, int nargs, Oid *argtypes, Datum *values)
{
	return execute(plan, sql, nargs, argtypes, values, NULL, false);
}

/*
 * The same for a SELECT, whose rows are those that the active snapshot sees.
 */
int
catalog_read(const char *sql, int nargs, Oid *argtypes, Datum *values)
{
	return execute(NULL, sql, nargs, argtypes, values, NULL, true);
}

/*
 * Have new tables made where the database keeps its own.  Whoever makes one
 * with the rights of the extension's owner must not follow the caller's
 * settings, which may name a tablespace that is closed to him.  The caller has
 * begun a nest level of settings, and ends it afterwards.
 */
void
catalog_use_default_storage(void)
{
	sql_set("default_tablespace", "");
	sql_set("default_table_access_method", "heap");
}

/*
 * The next value of one of our sequences.
 */
int64
catalog_next_id(const char *sequence)
{
	return nextval_internal(catalog_relation(sequence, false), false);
}

/*
 * Open a table of ours for writing; the caller closes it in the same
 * transaction, and gives values for so many columns.  There may be more behind
 * them, of another version of the extension, or dropped: those become null.
 */
CatalogWriter *
catalog_open(const char *table, int columns)
{
	CatalogWriter *writer = palloc(sizeof(CatalogWriter));

	writer->rel = table_open(catalog_relation(table, false), RowExclusiveLock);
	writer->estate = CreateExecutorState();
	writer->result = makeNode(ResultRelInfo);
	InitResultRelInfo(writer->result, writer->rel, 0, NULL, 0);
	ExecOpenIndices(writer->result, false);
	writer->slot = table_slot_create(writer->rel, &writer->estate->es_tupleTable);
	writer->columns = columns;
	writer->lookup = NULL;
	return writer;
}

/* Prepare to look rows up by the first columns of the primary key. */
static CatalogLookup *
begin_lookup(CatalogWriter *writer, int nkeys)
{
	CatalogLookup *lookup = palloc(sizeof(CatalogLookup));
	Relation index = NULL;

	for (int i = 0; i < writer->result->ri_NumIndices; i++)
	{
		if (writer->result->ri_IndexRelationDescs[i]->rd_index->indisprimary)
			index = writer->result->ri_IndexRelationDescs[i];
	}
	if (index == NULL || nkeys > MAX_KEYS)
		elog(ERROR, "no primary key to look up rows of \"%s\" by",
			 RelationGetRelationName(writer->rel));
	for (int i = 0; i < nkeys; i++)
		index_key_init(&lookup->keys[i], index, i);
	lookup->found = table_slot_create(writer->rel, &writer->estate->es_tupleTable);
	lookup->snapshot = RegisterSnapshot(GetLatestSnapshot());
	lookup->scan = compat_index_beginscan(writer->rel, index, lookup->snapshot, nkeys);
	return lookup;
}

static void
end_lookup(CatalogLookup *lookup)
{
	index_endscan(lookup->scan);
	UnregisterSnapshot(lookup->snapshot);
	pfree(lookup);
}

/*
 * The table stays locked until the transaction ends.
 */
void
catalog_close(CatalogWriter *writer)
{
	if (writer->lookup)
		end_lookup(writer->lookup);
	ExecCloseIndices(writer->result);
	ExecResetTupleTable(writer->estate->es_tupleTable, false);
	FreeExecutorState(writer->estate);
	table_close(writer->rel, NoLock);
	pfree(writer);
}

/* Put a row's values into the writer's slot. */
static void
catalog_fill_slot(const CatalogWriter *writer, const Datum *values, const bool *nulls)
{
	TupleTableSlot *slot = writer->slot;

	ExecStoreAllNullTuple(slot);
	memcpy(slot->tts_values, values, writer->columns * sizeof(Datum));
	memcpy(slot->tts_isnull, nulls, writer->columns * sizeof(bool));
}

/*
 * Insert one row; values in column order.
 */
void
catalog_write(CatalogWriter *writer, const Datum *values, const bool *nulls)
{
	catalog_fill_slot(writer, values, nulls);
	ExecSimpleRelationInsert(writer->result, writer->estate, writer->slot);
	ResetPerTupleExprContext(writer->estate);
}

/*
 * Put other values in the place of a row that was found.  The caller is the
 * only writer of that row.
 */
void
catalog_rewrite(CatalogWriter *writer, TupleTableSlot *found, const Datum *values,
				const bool *nulls)
{
	EPQState epq;

	catalog_fill_slot(writer, values, nulls);
	compat_eval_plan_qual_init(&epq, writer->estate);
	ExecSimpleRelationUpdate(writer->result, writer->estate, &epq, found, writer->slot);
	EvalPlanQualEnd(&epq);
	ResetPerTupleExprContext(writer->estate);
}

/*
 * Insert one row into a table of ours; values in column order.
 */
void
catalog_insert(const char *table, int columns, const Datum *values, const bool *nulls)
{
	CatalogWriter *writer = catalog_open(table, columns);

	catalog_write(writer, values, nulls);
	catalog_close(writer);
}

/*
 * Insert one row, or replace the row with the same primary key, which is the
 * first nkeys columns.  The caller is the only writer of that row, and writes it
 * once.
 */
void
catalog_upsert(CatalogWriter *writer, int nkeys, const Datum *values, const bool *nulls)
{
	CatalogLookup *lookup;

	if (writer->lookup == NULL)
		writer->lookup = begin_lookup(writer, nkeys);
	lookup = writer->lookup;
	for (int i = 0; i < nkeys; i++)
		lookup->keys[i].sk_argument = values[i];
	index_rescan(lookup->scan, lookup->keys, nkeys, NULL, 0);
	if (index_getnext_slot(lookup->scan, ForwardScanDirection, lookup->found))
		catalog_rewrite(writer, lookup->found, values, nulls);
	else
		catalog_write(writer, values, nulls);
}
