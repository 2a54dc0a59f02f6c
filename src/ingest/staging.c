/*-------------------------------------------------------------------------
 *
 * staging.c
 *	  The consumers' staging tables: made, and emptied in place.
 *
 * Each writer has a table of its own, so that rows stand in the order in which
 * it staged them.  A partition of a topic belongs to one writer for as long as
 * the definition is what it is; when that changes, all of them begin anew.
 *
 * detect._staged_<stream>_<writer> belongs to the extension, so that pg_dump neither
 * copies nor locks it, and depends on no object of a user: columns of types
 * that are not built in are text.  It is unlogged: a crash empties it, and
 * everything in it can be read from Kafka again.
 *
 * Only the applier empties the table, once everything in it is applied, by
 * truncating its file in place; one that also consumes has the same pages serve
 * again until then (staging_pages.c).  Truncation in place is not transactional;
 * that is right here, because it happens only after the commit that applied
 * the rows, and under a lock that keeps the consumer out.
 *
 *-------------------------------------------------------------------------
 */
#include "detect.h"

#include "access/table.h"
#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/heap.h"
#include "catalog/objectaddress.h"
#include "catalog/pg_class.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "fault_point.h"
#include "fmgr.h"
#include "ingest/staging.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/rel.h"

PG_FUNCTION_INFO_V1(detect_staged);

/*
 * How many processes stage messages of a stream: its consumers, or its applier
 * if that consumes too.
 */
int
staging_writers(const Stream *stream)
{
	if (stream->server == NULL)
		return 0;
	return Max(stream->consumers, 1);
}

/*
 * Who stages the messages of a partition.
 */
int
staging_writer_of(const Stream *stream, const char *topic, int32 partition)
{
	return (stream_topic_index(stream, topic) + partition) % staging_writers(stream);
}

/* Name of a writer's staging table in schema detect. */
static char *
staging_table_name(int32 stream_id, int writer)
{
	return psprintf("_staged_%d_%d", stream_id, writer);
}

/*
 * The staging table of a writer; InvalidOid when it is missing.
 */
Oid
staging_table_oid(int32 stream_id, int writer)
{
	return catalog_relation(staging_table_name(stream_id, writer), true);
}

/* CREATE TABLE for the columns of a stream. */
static char *
staging_table_sql(const Stream *stream, int writer)
{
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfo(
		&sql,
		"CREATE UNLOGGED TABLE detect.%s ("
		"kafka_offset int8 NOT NULL, previous_offset int8 NOT NULL, kafka_timestamp timestamptz, "
		"kafka_partition int4 NOT NULL, element int4 NOT NULL, sqlstate int4 NOT NULL, "
		"topic int2 NOT NULL, reason text, payload bytea, kafka_key bytea, kafka_headers text",
		staging_table_name(stream->id, writer));
	for (int i = 0; i < stream->ncolumns; i++)
	{
		const StreamColumn *column = &stream->columns[i];

		if (column->source == COLUMN_FIELD)
			appendStringInfo(&sql, ", column_%d %s", column->attnum,
							 format_type_with_typemod(column->staged_type, column->staged_typmod));
	}
	appendStringInfoString(&sql,
						   ") WITH (autovacuum_enabled = off, toast.autovacuum_enabled = off)");
	return sql.data;
}

/* Whether the staging table has the columns that the stream has now. */
static bool
staging_table_fits(const Stream *stream, Oid relid)
{
	Relation rel = table_open(relid, AccessShareLock);
	TupleDesc desc = RelationGetDescr(rel);
	int at = STAGED_FIXED_COLUMNS;
	bool fits = true;

	for (int i = 0; i < stream->ncolumns && fits; i++)
	{
		const StreamColumn *column = &stream->columns[i];
		Form_pg_attribute attribute;

		if (column->source != COLUMN_FIELD)
			continue;
		fits = at < desc->natts;
		if (!fits)
			break;
		attribute = TupleDescAttr(desc, at++);
		fits = strcmp(NameStr(attribute->attname), psprintf("column_%d", column->attnum)) == 0 &&
			   attribute->atttypid == column->staged_type &&
			   attribute->atttypmod == column->staged_typmod;
	}
	fits = fits && at == desc->natts;
	table_close(rel, NoLock);
	return fits;
}

static void
drop_staging_table(Oid relid)
{
	ObjectAddress table;

	ObjectAddressSet(table, RelationRelationId, relid);
	performDeletion(&table, DROP_RESTRICT,
					PERFORM_DELETION_SKIP_EXTENSIONS | PERFORM_DELETION_INTERNAL);
	CommandCounterIncrement();
}

/* Take back what default privileges have given to others; the caller is connected to
 * SPI. */
static void
revoke_defaults(const char *name)
{
	Oid types[1] = {TEXTOID};
	Datum values[1] = {CStringGetTextDatum(psprintf("detect.%s", name))};

	if (catalog_execute("SELECT string_agg(DISTINCT CASE grantee WHEN 0 THEN 'PUBLIC' "
						"ELSE quote_ident(pg_get_userbyid(grantee)) END, ', ') "
						"FROM pg_class, aclexplode(relacl) "
						"WHERE pg_class.oid = $1::regclass AND grantee <> relowner",
						1, types, values, NULL) > 0)
	{
		char *others = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);

		if (others != NULL)
			catalog_execute(psprintf("REVOKE ALL ON detect.%s FROM %s", name, others), 0, NULL,
							NULL, NULL);
	}
}

/* Make a writer's staging table, a member of the extension. */
static Oid
create_staging_table(const Stream *stream, int writer)
{
	ObjectAddress table;
	ObjectAddress extension;
	int nest_level;
	Oid relid;

	nest_level = NewGUCNestLevel();
	catalog_use_default_storage();
	SPI_connect();
	catalog_execute(staging_table_sql(stream, writer), 0, NULL, NULL, NULL);
	catalog_execute(psprintf("ALTER TABLE detect.%s ALTER payload SET STORAGE EXTERNAL",
							 staging_table_name(stream->id, writer)),
					0, NULL, NULL, NULL);
	revoke_defaults(staging_table_name(stream->id, writer));
	SPI_finish();
	AtEOXact_GUC(true, nest_level);

	relid = staging_table_oid(stream->id, writer);
	ObjectAddressSet(table, RelationRelationId, relid);
	ObjectAddressSet(extension, ExtensionRelationId, get_extension_oid("detect", false));
	recordDependencyOn(&table, &extension, DEPENDENCY_EXTENSION);
	return relid;
}

/*
 * The OID of a writer's staging table.  It is made if it is missing, for a
 * dump does not carry it; several workers may find that at once.  If the
 * stream's columns have changed, all tables of the stream are dropped, with
 * what was staged, and this one is made anew.
 */
Oid
staging_table_ensure(const Stream *stream, int writer)
{
	Oid relid = staging_table_oid(stream->id, writer);

	if (OidIsValid(relid) && staging_table_fits(stream, relid))
		return relid;
	if (OidIsValid(relid))
	{
		progress_forget_staged(stream);
		staging_tables_drop(stream->id);
	}
	LockDatabaseObject(catalog_relation("_stream", false), (Oid) stream->id, 1 + writer,
					   AccessExclusiveLock);
	relid = staging_table_oid(stream->id, writer);
	return OidIsValid(relid) ? relid : create_staging_table(stream, writer);
}

/*
 * Drop the staging tables that a stream has, of whatever definition.
 */
void
staging_tables_drop(int32 stream_id)
{
	for (int writer = 0; writer < MAX_CONSUMERS; writer++)
	{
		Oid relid = staging_table_oid(stream_id, writer);

		if (OidIsValid(relid))
			drop_staging_table(relid);
	}
}

/*
 * Blocks of a staging table, with those that its large payloads take.
 */
BlockNumber
staging_blocks(Relation rel)
{
	BlockNumber blocks = RelationGetNumberOfBlocks(rel);

	if (OidIsValid(rel->rd_rel->reltoastrelid))
	{
		Relation toast = table_open(rel->rd_rel->reltoastrelid, AccessShareLock);

		blocks += RelationGetNumberOfBlocks(toast);
		table_close(toast, AccessShareLock);
	}
	return blocks;
}

/*
 * Whether all that a writer has staged is applied, by staged and applied progress.
 */
bool
staging_is_drained(const Stream *stream, int writer, List *staged, List *applied)
{
	ListCell *cell;

	foreach(cell, staged)
	{
		Progress *progress = lfirst(cell);
		Progress *effect = progress_find(applied, progress->topic, progress->partition);

		if (staging_writer_of(stream, progress->topic, progress->partition) != writer)
			continue;
		if (effect && progress->next_offset <= effect->next_offset)
			continue; /* a message of which a part is applied was staged before a crash */
		if (effect == NULL || effect->last_offset < progress->last_offset ||
			!progress_is_whole(effect))
			return false;
	}
	return true;
}

/*
 * Empty a writer's staging table if it has at least so many blocks and nobody
 * is using it.  That every row in it is applied is checked under the lock, by
 * the progress that was committed with the rows.  True if the table is empty
 * now.
 */
bool
staging_truncate(const Stream *stream, int writer, BlockNumber at_least)
{
	Oid relid = staging_table_oid(stream->id, writer);
	Relation rel;
	bool drained;

	if (!OidIsValid(relid) || !ConditionalLockRelationOid(relid, AccessExclusiveLock))
		return false;
	rel = table_open(relid, NoLock);
	drained = staging_blocks(rel) >= at_least &&
			  staging_is_drained(stream, writer, progress_read_staged(stream),
								 progress_read_applied(stream));
	if (drained)
	{
		FAULT_POINT("before_staging_truncation");
		heap_truncate_one_rel(rel);
		FAULT_POINT("after_staging_truncation");
	}
	table_close(rel, NoLock);
	return drained;
}

/*
 * Throw away what is staged, and have the consumers begin again from applied
 * progress, once this transaction has committed.  The caller holds the
 * stream's lock.
 */
void
staging_discard(const Stream *stream)
{
	progress_forget_staged(stream);
	for (int writer = 0; writer < staging_writers(stream); writer++)
	{
		(void) staging_table_ensure(stream, writer);
		SPI_connect();
		catalog_execute(psprintf("TRUNCATE detect.%s", staging_table_name(stream->id, writer)), 0,
						NULL, NULL, NULL);
		SPI_finish();
	}
	CacheInvalidateRelcacheByRelid(catalog_relation("_stream", false));
}

/*
 * AFTER INSERT statement trigger of detect_staging.<stream>: wakes the applier
 * once what SQL staged has committed.
 */
Datum
detect_staged(PG_FUNCTION_ARGS)
{
	TriggerData *trigdata = (TriggerData *) fcinfo->context;
	Stream *stream;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_AFTER(trigdata->tg_event) ||
		!TRIGGER_FIRED_FOR_STATEMENT(trigdata->tg_event))
		ereport(ERROR, (errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
						errmsg("detect._staged() must be an AFTER statement trigger"),
						errhint("detect.create_stream makes it.")));
	stream = stream_load(RelationGetRelationName(trigdata->tg_relation), true);
	if (stream)
		slot_wake_at_commit(stream->id);
	return PointerGetDatum(NULL);
}
