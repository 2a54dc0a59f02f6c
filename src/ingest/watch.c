/*-------------------------------------------------------------------------
 *
 * watch.c
 *	  Has the stream of this worker changed?
 *
 * A worker never follows a changed definition: it exits and a new one starts.
 * Invalidations say that something may have changed, and come for other
 * reasons too; so the worker then loads the definition again and compares its
 * fingerprint, a text of everything that a worker builds upon, with the one it
 * started with.  That includes the text of the stream's query as it reads
 * now: a renamed column of a place table changes it.
 *
 *-------------------------------------------------------------------------
 */
#include "detect.h"

#include "commands/defrem.h"
#include "fmgr.h"
#include "foreign/foreign.h"
#include "ingest/kafka.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

bool watch_stale = true;

/* What the worker's stream is made of; InvalidOid while it is not known. */
static Oid stream_catalog;
static Oid rollup_catalog;
static Oid query_view;
static Oid staging_table;
static Oid events_table;

static void
watch_mark_stale(void)
{
	watch_stale = true;
	worker_definition_changed = true;
}

/* Called for each relation that is altered, with InvalidOid for all. */
static void
watch_relation(Datum arg, Oid relid)
{
	if (!OidIsValid(relid) || !OidIsValid(query_view) || relid == stream_catalog ||
		relid == rollup_catalog || relid == query_view || relid == staging_table ||
		relid == events_table)
		watch_mark_stale();
}

/* Called for servers, user mappings, roles and databases. */
static void
watch_cache(Datum arg, int cache_id, uint32 hash_value)
{
	watch_mark_stale();
}

/*
 * Have watch_stale and worker_definition_changed set when the stream may have
 * changed.  Called before the first load with NULL, so that no change slips
 * through, and after it with the stream, in a transaction.
 */
void
watch_begin(const Stream *stream)
{
	if (stream == NULL)
	{
		relation_change_listen(watch_relation);
		CacheRegisterSyscacheCallback(FOREIGNSERVEROID, watch_cache, (Datum) 0);
		CacheRegisterSyscacheCallback(USERMAPPINGOID, watch_cache, (Datum) 0);
		CacheRegisterSyscacheCallback(AUTHOID, watch_cache, (Datum) 0);
		CacheRegisterSyscacheCallback(AUTHMEMROLEMEM, watch_cache, (Datum) 0);
		CacheRegisterSyscacheCallback(DATABASEOID, watch_cache, (Datum) 0);
		CacheRegisterSyscacheCallback(NAMESPACEOID, watch_cache, (Datum) 0);
		return;
	}
	stream_catalog = catalog_relation("_stream", false);
	rollup_catalog = catalog_relation("_rollup", false);
	query_view = stream->query_view;
	staging_table = stream->staging_table;
	events_table = stream->events_table;
}

/* Append a string so that no two lists of strings give the same text. */
static void
append_item(StringInfo out, const char *item)
{
	if (item)
		appendStringInfo(out, "%zu:%s,", strlen(item), item);
	else
		appendStringInfoString(out, "-,");
}

static void
append_items(StringInfo out, List *items)
{
	ListCell *lc;

	appendStringInfo(out, "%d[", list_length(items));
	foreach(lc, items)
		append_item(out, lfirst(lc));
}

static void
append_interval(StringInfo out, const Interval *interval)
{
	if (interval)
		appendStringInfo(out, "%d/%d/" INT64_FORMAT ",", interval->month, interval->day,
						 interval->time);
	else
		append_item(out, NULL);
}

/* How the stream's server is reached, with the secrets of the user mapping. */
static void
append_connection(StringInfo out, const char *server)
{
	ListCell *lc;

	foreach(lc, kafka_connection_properties(get_foreign_server_oid(server, false), GetUserId()))
	{
		KafkaProperty *property = lfirst(lc);

		append_item(out, property->name);
		append_item(out, property->value);
	}
}

/*
 * Everything that a worker of the stream builds upon, as a text to compare, in
 * the current memory context.  It holds secrets: never show it.  Needs an
 * active snapshot.
 */
char *
watch_fingerprint(const Stream *stream)
{
	StringInfoData out;

	initStringInfo(&out);
	appendStringInfo(&out, "%u,%u,%u,%u,%d,%d,%d,", stream->owner, stream->events_table,
					 stream->staging_table, stream->query_view, stream->consumers, stream->natts,
					 stream->ordinal_attnum);
	append_item(&out, stream->name);
	append_item(&out, get_rel_name(stream->events_table));
	append_item(&out, get_namespace_name(get_rel_namespace(stream->events_table)));
	append_item(&out, stream->server);
	append_items(&out, stream->topics);
	append_item(&out, stream->unnest);
	append_item(&out, stream->start);
	append_item(&out, stream->event_time);
	append_items(&out, stream->key);
	append_items(&out, stream->events_columns);
	append_interval(&out, stream->partition_interval);
	append_interval(&out, stream->retention);
	appendStringInfo(&out, INT64_FORMAT "%d,", stream->dead_letter_limit, stream->keep_offsets);
	append_interval(&out, stream->dead_letter_retention);
	for (int i = 0; i < stream->ncolumns; i++)
	{
		const StreamColumn *column = &stream->columns[i];

		appendStringInfo(&out, "%d,%u,%d,%u,%d,", column->attnum, column->type, column->typmod,
						 column->collation, (int) column->source);
		append_item(&out, column->name);
		append_item(&out, column->path);
	}
	append_item(&out, TextDatumGetCString(DirectFunctionCall1(
						  pg_get_viewdef, ObjectIdGetDatum(stream->query_view))));
	if (stream->server)
		append_connection(&out, stream->server);
	return out.data;
}
