/*-------------------------------------------------------------------------
 *
 * edit_detached.c
 *	  That partitions were edited while they were detached.
 *
 * A partition keeps its triggers when it is detached, and then has no stream to tell of
 * edits.  It may be attached again before the applier has looked, and be the same to it.
 * So its triggers leave a note, one for each relation, which the applier takes when it
 * sees that the partitions of its table have changed.
 *
 *-------------------------------------------------------------------------
 */
#include "apply/edit.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/snapmgr.h"

/*
 * Note that a relation was edited which is no part of an events table.
 */
void
edit_note_detached(Oid relation)
{
	Oid types[1] = {OIDOID};
	Datum values[1] = {ObjectIdGetDatum(relation)};
	bool is_noted;

	/* an older snapshot may see one that was taken */
	PushActiveSnapshot(GetLatestSnapshot());
	SPI_connect();
	is_noted =
		catalog_read("SELECT FROM detect._edit WHERE stream_id = 0 AND relation = $1 LIMIT 1", 1,
					 types, values) > 0;
	SPI_finish();
	PopActiveSnapshot();
	if (!is_noted)
		edit_queue_relation(NO_STREAM, relation, NULL);
}

/*
 * Take the notes of relations that are partitions of a table now; the result are the OIDs
 * of those that had any.  Notes of relations that are gone are taken as well.
 */
List *
edit_take_detached(Oid events_table)
{
	MemoryContext context = CurrentMemoryContext;
	Oid types[1] = {OIDOID};
	Datum values[1] = {ObjectIdGetDatum(events_table)};
	List *edited = NIL;

	/* mostly there are none */
	if (!edit_is_queued(NO_STREAM))
		return NIL;
	SPI_connect();
	catalog_execute("DELETE FROM detect._edit WHERE stream_id = 0 AND "
					"(relation IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = $1) "
					"OR relation NOT IN (SELECT oid FROM pg_class)) RETURNING relation::oid",
					1, types, values, NULL);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		MemoryContext spi_context = MemoryContextSwitchTo(context);
		bool isnull;

		edited = list_append_unique_oid(
			edited, DatumGetObjectId(
						SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &isnull)));
		MemoryContextSwitchTo(spi_context);
	}
	SPI_finish();
	return edited;
}
