/*-------------------------------------------------------------------------
 *
 * staging.c
 *	  The consumer's staging table: made, and emptied in place.
 *
 * detect._staged_<stream> belongs to the extension, so that pg_dump neither
 * copies nor locks it, and depends on no object of a user: columns of types
 * that are not built in are text.  It is unlogged: a crash empties it, and
 * everything in it can be read from Kafka again.
 *
 * Only the applier empties the table, once everything in it is applied, by
 * truncating its file in place.  Truncation in place is not transactional;
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
#include "fmgr.h"
#include "ingest/staging.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/rel.h"

PG_FUNCTION_INFO_V1(detect_staged);

/* Name of a stream's staging table in schema detect. */
static char *
staging_table_name(int32 stream_id)
{
	return psprintf("_staged_%d", stream_id);
}

/*
 * The staging table of a stream's consumer; InvalidOid when it is missing.
 */
Oid
staging_table_oid(int32 stream_id)
{
	return catalog_relation(staging_table_name(stream_id), true);
}

/* CREATE TABLE for the columns of a stream. */
static char *
staging_table_sql(const Stream *stream)
{
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfo(
		&sql,
		"CREATE UNLOGGED TABLE detect.%s ("
		"kafka_offset int8 NOT NULL, previous_offset int8 NOT NULL, kafka_timestamp timestamptz, "
		"kafka_partition int4 NOT NULL, element int4 NOT NULL, sqlstate int4 NOT NULL, "
		"topic int2 NOT NULL, reason text, payload bytea, kafka_key bytea, kafka_headers text",
		staging_table_name(stream->id));
	for (int i = 0; i < stream->ncolumns; i++)
	{
		const StreamColumn *column = &stream->columns[i];

		if (column->source == COLUMN_FIELD)
			appendStringInfo(&sql, ", column_%d %s", column->attnum,
							 column->staged_as_text
								 ? "text"
								 : format_type_with_typemod(column->type, column->typmod));
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
			   attribute->atttypid == (column->staged_as_text ? TEXTOID : column->type) &&
			   (column->staged_as_text || attribute->atttypmod == column->typmod);
	}
	fits = fits && at == desc->natts;
	table_close(rel, NoLock);
	return fits;
}

/*
 * The OID of the stream's staging table.  It is made if it is missing, for a
 * dump does not carry it, and made anew, without what was staged, if the
 * stream's columns have changed.
 */
Oid
staging_table_ensure(const Stream *stream)
{
	Oid relid = staging_table_oid(stream->id);
	ObjectAddress table;
	ObjectAddress extension;
	int nest_level;

	if (OidIsValid(relid) && staging_table_fits(stream, relid))
		return relid;
	if (OidIsValid(relid))
	{
		progress_forget_staged(stream);
		staging_table_drop(stream->id);
	}

	nest_level = NewGUCNestLevel();
	catalog_use_default_storage();
	SPI_connect();
	catalog_execute(staging_table_sql(stream), 0, NULL, NULL, NULL);
	catalog_execute(psprintf("ALTER TABLE detect.%s ALTER payload SET STORAGE EXTERNAL",
							 staging_table_name(stream->id)),
					0, NULL, NULL, NULL);
	SPI_finish();
	AtEOXact_GUC(true, nest_level);

	relid = staging_table_oid(stream->id);
	ObjectAddressSet(table, RelationRelationId, relid);
	ObjectAddressSet(extension, ExtensionRelationId, get_extension_oid("detect", false));
	recordDependencyOn(&table, &extension, DEPENDENCY_EXTENSION);
	return relid;
}

/*
 * Drop a stream's staging table, if it has one.
 */
void
staging_table_drop(int32 stream_id)
{
	ObjectAddress table;
	Oid relid = staging_table_oid(stream_id);

	if (!OidIsValid(relid))
		return;
	ObjectAddressSet(table, RelationRelationId, relid);
	performDeletion(&table, DROP_RESTRICT,
					PERFORM_DELETION_SKIP_EXTENSIONS | PERFORM_DELETION_INTERNAL);
	CommandCounterIncrement();
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
 * Empty the staging table if it has at least so many blocks and nobody is
 * using it.  That every row in it is applied is checked under the lock, by the
 * progress that was committed with the rows.  True if the table is empty now.
 */
bool
staging_truncate(const Stream *stream, BlockNumber at_least)
{
	Oid relid = staging_table_oid(stream->id);
	Relation rel;
	List *staged;
	List *applied;
	ListCell *cell;
	bool drained = true;

	if (!OidIsValid(relid) || !ConditionalLockRelationOid(relid, AccessExclusiveLock))
		return false;
	rel = table_open(relid, NoLock);
	staged = progress_read_staged(stream);
	applied = progress_read_applied(stream);
	foreach(cell, staged)
	{
		Progress *progress = lfirst(cell);
		Progress *effect = progress_find(applied, progress->topic, progress->partition);

		if (effect == NULL || effect->last_offset < progress->last_offset)
			drained = false;
	}
	drained = drained && staging_blocks(rel) >= at_least;
	if (drained)
		heap_truncate_one_rel(rel);
	table_close(rel, NoLock);
	return drained;
}

/*
 * Throw away what is staged, progress first, and have the consumer begin again
 * from applied progress.  The caller holds the stream's lock.
 */
void
staging_discard(const Stream *stream)
{
	Relation rel = table_open(staging_table_ensure(stream), AccessExclusiveLock);

	progress_forget_staged(stream);
	heap_truncate_one_rel(rel);
	table_close(rel, NoLock);
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
