/*-------------------------------------------------------------------------
 *
 * rollup.c
 *	  The rollups of a stream, as its applier knows them.
 *
 * Each batch is aggregated once for each rollup and merged into its states, in
 * the transaction that inserts the events.  How far a rollup is filled decides
 * which events of a batch are its own: none of a new one, those from
 * filled_from on of one that is being filled, all of an active one.  One that
 * is aside misses the batch, and has that written down (aside.c).  The phase
 * must be the committed one.  The applier is the only one to move it, but such
 * a transaction may fail; so as long as a rollup is not active its phase is
 * read again in each transaction, and memory is never ahead of the catalog.
 *
 *-------------------------------------------------------------------------
 */
#include "rollup/rollup.h"

#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "compat.h"
#include "fault_point.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

/* How often the catalog is told until when events are in. */
#define APPLIED_UNTIL_INTERVAL_MS 1000

const char *const rollup_phase_names[ROLLUP_PHASES] = {"new", "filling", "active", "failed",
													   "behind"};

/* Column of the rows that SPI holds. */
static Datum
row_datum(uint64 row, int column, bool *isnull)
{
	return SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column, isnull);
}

/*
 * The view detect_query.<name>, or InvalidOid.
 */
Oid
rollup_query_view(const char *name)
{
	return get_relname_relid(name, get_namespace_oid(DETECT_QUERY_SCHEMA, false));
}

/*
 * The table detect_state.<name>, or InvalidOid.
 */
Oid
rollup_state_table(const char *name)
{
	return get_relname_relid(name, get_namespace_oid(DETECT_STATE_SCHEMA, false));
}

/*
 * Raise an error if somebody has made a view of a state table, as a rule can while it is
 * empty.
 */
void
rollup_check_state_table(Oid state_table)
{
	if (get_rel_relkind(state_table) != RELKIND_RELATION)
		ereport(ERROR, (errcode(ERRCODE_WRONG_OBJECT_TYPE),
						errmsg("\"%s.%s\" is not a table any more", DETECT_STATE_SCHEMA,
							   get_rel_name(state_table)),
						errhint("Drop the rollup with detect.drop_rollup and create it again.")));
}

/*
 * The owner of a rollup's query, or InvalidOid.
 */
Oid
rollup_owner(const char *name)
{
	return relation_owner(rollup_query_view(name), true);
}

/*
 * Be a rollup's owner from here on, as far as he has one: a superuser who calls a verb
 * shall not run triggers and functions of the owner as himself.  sql_act_as_before() ends it.
 */
ActingUser
rollup_act_as_owner(const char *name)
{
	return sql_act_as(rollup_owner(name), SECURITY_RESTRICTED_OPERATION);
}

/* What detect._rollup.state and aside_state say. */
static RollupPhase
phase_from_text(const char *state)
{
	for (int phase = 0; phase < lengthof(rollup_phase_names); phase++)
	{
		if (strcmp(state, rollup_phase_names[phase]) == 0)
			return (RollupPhase) phase;
	}
	elog(ERROR, "unexpected state of a rollup: %s", state);
}

/* A time in the row that SPI holds, 0 for NULL. */
static TimestampTz
row_time(uint64 row, int column)
{
	bool isnull;
	Datum value = row_datum(row, column, &isnull);

	return isnull ? 0 : DatumGetTimestampTz(value);
}

/* The columns that read_phase reads, first to last. */
#define PHASE_COLUMNS \
	"state, filled_from, aside_state, retry_at, attempts, kept_from, server_major, chunk_from"

/* Read phase and frontier of a rollup from the row that SPI holds. */
static void
read_phase(Rollup *rollup, uint64 row, int column)
{
	bool isnull;
	Datum aside_phase;
	Datum chunk_from;

	rollup->phase = phase_from_text(TextDatumGetCString(row_datum(row, column, &isnull)));
	rollup->filled_from = row_time(row, column + 1);
	aside_phase = row_datum(row, column + 2, &isnull);
	rollup->aside_phase =
		isnull ? rollup->phase : phase_from_text(TextDatumGetCString(aside_phase));
	rollup->retry_at = row_time(row, column + 3);
	rollup->attempts = DatumGetInt32(row_datum(row, column + 4, &isnull));
	rollup->kept_from = row_time(row, column + 5);
	rollup->server_major = DatumGetInt32(row_datum(row, column + 6, &isnull));
	chunk_from = row_datum(row, column + 7, &isnull);
	rollup->has_chunk = !isnull;
	if (rollup->has_chunk)
		rollup->chunk_from = DatumGetTimestampTz(chunk_from);
	if (rollup->phase != ROLLUP_ACTIVE)
		rollup->seen_from = InvalidTransactionId;
}

/*
 * Whether a rollup is aside: it misses the batches that are applied.
 */
bool
rollup_is_aside(const Rollup *rollup)
{
	return rollup->phase == ROLLUP_FAILED || rollup->phase == ROLLUP_BEHIND;
}

/* What load_rollup reads. */
#define ROLLUP_SQL                                                                   \
	"SELECT rollup_id, name, COALESCE(replaces, 0), COALESCE((SELECT replaced.name " \
	"FROM detect._rollup replaced WHERE replaced.rollup_id = r.replaces), name), "   \
	"time_zone, " PHASE_COLUMNS " FROM detect._rollup r"

/* Fill in a rollup from the row that SPI holds; false if its relations are
 * gone, as while their owner drops them. */
static bool
load_rollup(RollupSet *set, Rollup *rollup, uint64 row)
{
	char *relation_name;
	bool isnull;

	rollup->stream = set->stream;
	rollup->id = DatumGetInt32(row_datum(row, 1, &isnull));
	relation_name = TextDatumGetCString(row_datum(row, 2, &isnull));
	rollup->replaces = DatumGetInt32(row_datum(row, 3, &isnull));
	rollup->name =
		MemoryContextStrdup(set->context, TextDatumGetCString(row_datum(row, 4, &isnull)));
	rollup->time_zone =
		MemoryContextStrdup(set->context, TextDatumGetCString(row_datum(row, 5, &isnull)));
	read_phase(rollup, row, 6);
	rollup->query_view = rollup_query_view(relation_name);
	rollup->state_table = rollup_state_table(relation_name);
	if (!OidIsValid(rollup->query_view) || !OidIsValid(rollup->state_table))
		return false;
	rollup_check_state_table(rollup->state_table);
	rollup->batch_plan = partial_plan_create(set->context);
	rollup->merge_plan = merge_plan_create(set->context);
	return true;
}

/*
 * Load the rollups of a stream into context; again after
 * worker_definition_changed, when the caller has reset that context.  stream
 * must live as long.
 */
RollupSet *
rollup_set_load(const Stream *stream, MemoryContext context)
{
	RollupSet *set = MemoryContextAllocZero(context, sizeof(RollupSet));
	Oid types[1] = {OIDOID};
	Datum values[1] = {ObjectIdGetDatum(stream->events_table)};
	int rows;

	set->stream = stream;
	set->context = context;
	set->fill_due = DT_NOEND;
	gone_reload();
	SPI_connect();
	rows = catalog_execute(ROLLUP_SQL " WHERE events_table = $1 ORDER BY rollup_id", 1, types,
						   values, NULL);
	set->rollups = MemoryContextAllocZero(context, (rows + 1) * sizeof(Rollup));
	for (int i = 0; i < rows; i++)
		set->nrollups += load_rollup(set, &set->rollups[set->nrollups], i);
	SPI_finish();
	return set;
}

/*
 * Load one rollup, as the active snapshot sees it, into the current context;
 * NULL when it has just been dropped.
 */
Rollup *
rollup_load(const Stream *stream, int32 id)
{
	RollupSet set = {.stream = stream, .context = CurrentMemoryContext};
	Rollup *rollup = palloc0(sizeof(Rollup));
	Oid types[1] = {INT4OID};
	Datum values[1] = {Int32GetDatum(id)};
	bool found;

	SPI_connect();
	found = catalog_read(ROLLUP_SQL " WHERE rollup_id = $1", 1, types, values) > 0 &&
			load_rollup(&set, rollup, 0);
	SPI_finish();
	return found ? rollup : NULL;
}

/* Whether what is known of a set's rollups may have changed: only of those that
 * are not active or are to replace another, unless it is said to be stale. */
static bool
may_have_changed(const RollupSet *set)
{
	for (int i = 0; i < set->nrollups; i++)
	{
		if (set->rollups[i].phase != ROLLUP_ACTIVE || set->rollups[i].replaces != 0)
			return true;
	}
	return set->is_stale;
}

/*
 * Bring what is known of the set's rollups up to what the transaction sees, and
 * keep the worker that fills some of them from changing it before its end.
 */
void
rollup_set_refresh(RollupSet *set)
{
	Oid types[1] = {OIDOID};
	Datum values[1] = {ObjectIdGetDatum(set->stream->events_table)};
	int rows;

	if (!may_have_changed(set))
		return;
	fill_lock(set->stream, AccessShareLock);
	SPI_connect();
	rows = catalog_execute("SELECT rollup_id, " PHASE_COLUMNS
						   " FROM detect._rollup WHERE events_table = $1",
						   1, types, values, NULL);
	for (int row = 0; row < rows; row++)
	{
		bool isnull;
		int32 id = DatumGetInt32(row_datum(row, 1, &isnull));

		for (int i = 0; i < set->nrollups; i++)
		{
			if (set->rollups[i].id == id)
				read_phase(&set->rollups[i], row, 2);
		}
	}
	SPI_finish();
	set->is_stale = false;
}

/*
 * When a rollup or a repair that has failed, or a rollup that could not replace
 * another, is to be tried again, or one that a worker fills to be looked at;
 * DT_NOEND if none is.
 */
TimestampTz
rollup_set_due(const RollupSet *set)
{
	TimestampTz due = Min(set->repair_due, set->fill_due);

	for (int i = 0; i < set->nrollups; i++)
	{
		const Rollup *rollup = &set->rollups[i];

		if (rollup->phase == ROLLUP_FAILED ||
			(rollup->phase == ROLLUP_ACTIVE && rollup->replaces != 0))
			due = Min(due, rollup->retry_at);
	}
	return due;
}

/* Note that this server serializes the states of a rollup, which has none yet. */
static void
write_server_major(const Rollup *rollup)
{
	Oid types[2] = {INT4OID, INT4OID};
	Datum values[2] = {Int32GetDatum(rollup->id), Int32GetDatum(COMPAT_SERVER_MAJOR)};

	SPI_connect();
	catalog_execute("UPDATE detect._rollup SET server_major = $2 WHERE rollup_id = $1", 2, types,
					values, NULL);
	SPI_finish();
}

/*
 * Raise an error unless the states of a rollup are in this server's format,
 * as they may not be after an upgrade.
 */
void
rollup_check_server_major(const Rollup *rollup)
{
	if (rollup->server_major == 0 || rollup->server_major == COMPAT_SERVER_MAJOR)
		return;
	if (rollup->phase != ROLLUP_NEW)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("states of rollup \"%s\" were serialized by PostgreSQL %d", rollup->name,
						rollup->server_major),
				 errdetail("PostgreSQL %d may have another format for them.", COMPAT_SERVER_MAJOR),
				 errhint("Make them again from the events: SELECT detect.rebuild_rollup(%s)",
						 quote_literal_cstr(rollup->name))));
	write_server_major(rollup);
}

/*
 * Aggregate a source and merge it into the rollup's states.  The result is the
 * number of rows that were aggregated, counted only for the table itself.  The
 * caller resets the memory context that is current.
 */
int64
rollup_absorb(const Rollup *rollup, PartialPlan *plan, const PartialSource *source)
{
	Tuplestorestate *partial = tuplestore_begin_heap(false, false, work_mem);
	int64 rows;

	rollup_check_server_major(rollup);
	rows = partial_run(rollup, plan, source, partial);
	/* now that the partitions are locked */
	gone_follow(rollup->stream);
	FAULT_POINT("before_rollup_merge");
	merge_partial(rollup, partial, false);
	tuplestore_end(partial);
	return rows;
}

/* Tell the catalog, at most once a second, until when events are in. */
static void
write_applied_until(RollupSet *set)
{
	static SPIPlanPtr plan = NULL;
	TimestampTz now = GetCurrentTimestamp();
	Oid types[1] = {OIDOID};
	Datum values[1];

	if (set->nrollups == 0 || !time_has_passed(set->applied_until, now, APPLIED_UNTIL_INTERVAL_MS))
		return;
	values[0] = ObjectIdGetDatum(set->stream->events_table);
	SPI_connect();
	catalog_execute_often(&plan,
						  "UPDATE detect._rollup SET applied_until = now() "
						  "WHERE events_table = $1 AND state IN ('filling', 'active')",
						  1, types, values);
	SPI_finish();
	set->applied_until = now;
}

/* Whether the relations of a rollup are there.  When they have just been
 * dropped its row goes too, and the set is loaded again. */
static bool
has_relations(const Rollup *rollup)
{
	return SearchSysCacheExists1(RELOID, ObjectIdGetDatum(rollup->query_view)) &&
		   SearchSysCacheExists1(RELOID, ObjectIdGetDatum(rollup->state_table));
}

/* Let a rollup have a batch.  If it is guarded, it may fail and is aside then. */
static void
take_batch(Rollup *rollup, Tuplestorestate *events, bool is_guarded)
{
	PartialSource source = {.batch = events};
	ErrorData *error = NULL;

	source.has_from = rollup->phase == ROLLUP_FILLING;
	source.from = rollup->filled_from;
	if (is_guarded)
		error = aside_try_absorb(rollup, rollup->batch_plan, &source, true);
	else
		rollup_absorb(rollup, rollup->batch_plan, &source);
	if (error != NULL)
	{
		aside_write(rollup, error, blame_event(rollup, error, &source));
		missed_write(rollup, events);
	}
	else if (rollup->has_chunk)
		missed_write_chunk(rollup, events);
}

/*
 * Merge what the events table has accepted into the rollups, in the transaction
 * that inserted it: rows of the events table itself, not of a partition.  With
 * is_guarded, a rollup that fails is set aside, else its error is raised.
 */
void
rollup_set_apply(RollupSet *set, Tuplestorestate *events, bool is_guarded)
{
	MemoryContext context =
		AllocSetContextCreate(CurrentMemoryContext, "detect rollup batch", ALLOCSET_DEFAULT_SIZES);
	MemoryContext saved_context = MemoryContextSwitchTo(context);

	rollup_set_refresh(set);
	for (int i = 0; i < set->nrollups; i++)
	{
		Rollup *rollup = &set->rollups[i];

		if (rollup->phase == ROLLUP_NEW || !has_relations(rollup))
			continue;
		if (!rollup_is_aside(rollup))
			take_batch(rollup, events, is_guarded);
		else if (rollup->aside_phase != ROLLUP_NEW)
			missed_write(rollup, events);
		FAULT_POINT("after_rollup");
		MemoryContextReset(context);
	}
	write_applied_until(set);
	MemoryContextSwitchTo(saved_context);
	MemoryContextDelete(context);
}
