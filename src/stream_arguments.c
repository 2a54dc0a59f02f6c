/*-------------------------------------------------------------------------
 *
 * stream_arguments.c
 *	  The arguments of detect.create_stream and alter_stream, checked one by one.
 *
 * Everything that can be judged without the columns and the query is judged
 * here, in the order in which a user thinks: who am I, which table, where do
 * messages come from, what makes two events the same.  Each refusal says what
 * to change.
 *
 * An argument of alter_stream that is omitted keeps what the stream has, and
 * one that reset names becomes what create_stream would have made of its
 * absence: find_…() asks argument_keeps() first.
 *
 *-------------------------------------------------------------------------
 */
#include "detect.h"

#include "access/htup_details.h"
#include "apply/dedup.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_type.h"
#include "compat.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "stream.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#define DEFAULT_DEAD_LETTER_LIMIT 100000

/* By number: what reset and error messages call them. */
const char *const stream_argument_names[DEFINITION_ARGS + 1] = {"name",
																"server",
																"topic",
																"topics",
																"events_table",
																"columns",
																"fields",
																"unnest",
																"query",
																"key",
																"event_time",
																"start",
																"partition_interval",
																"retention",
																"consumers",
																"dead_letter_limit",
																"on_limit",
																"dead_letter_retention",
																"reset"};

/*
 * A text argument as a string, NULL for NULL.
 */
char *
arg_text(FunctionCallInfo fcinfo, int arg)
{
	return PG_ARGISNULL(arg) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(arg));
}

/*
 * Whether an argument is not NULL.
 */
bool
argument_is_given(const ArgumentSource *source, int arg)
{
	FunctionCallInfo fcinfo = source->fcinfo;

	return !PG_ARGISNULL(arg);
}

/*
 * Whether what the stream has stays.
 */
bool
argument_keeps(const ArgumentSource *source, int arg)
{
	return source->old != NULL && !argument_is_given(source, arg) && !source->reset[arg];
}

/*
 * The strings of an array argument, which must not contain NULL.
 */
List *
arg_text_array(FunctionCallInfo fcinfo, int arg)
{
	Datum *elements;
	bool *nulls;
	int count;
	List *strings = NIL;

	deconstruct_array(PG_GETARG_ARRAYTYPE_P(arg), TEXTOID, -1, false, TYPALIGN_INT, &elements,
					  &nulls, &count);
	for (int i = 0; i < count; i++)
	{
		if (nulls[i])
			ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
							errmsg("%s must not contain NULL", stream_argument_names[arg])));
		strings = lappend(strings, TextDatumGetCString(elements[i]));
	}
	return strings;
}

/*
 * The arguments of a call but for the first, which is the name, as SQL: what the
 * history keeps of it.
 */
char *
arguments_given(FunctionCallInfo fcinfo, const char *const *names, int count)
{
	StringInfoData text;

	initStringInfo(&text);
	for (int arg = 1; arg < count; arg++)
	{
		Oid type = get_fn_expr_argtype(fcinfo->flinfo, arg);
		Oid output;
		bool is_varlena;

		if (PG_ARGISNULL(arg))
			continue;
		getTypeOutputInfo(type, &output, &is_varlena);
		appendStringInfo(&text, "%s%s => %s", text.len > 0 ? ", " : "", names[arg],
						 quote_literal_cstr(OidOutputFunctionCall(output, PG_GETARG_DATUM(arg))));
	}
	return text.data;
}

/*
 * The same of create_stream and alter_stream: what says what the stream is.
 */
char *
stream_arguments_given(FunctionCallInfo fcinfo)
{
	bool has_reset = get_fn_expr_argtype(fcinfo->flinfo, ARG_RESET) == TEXTARRAYOID;

	return arguments_given(fcinfo, stream_argument_names,
						   has_reset ? DEFINITION_ARGS + 1 : DEFINITION_ARGS);
}

/* Read which arguments of alter_stream are to become their defaults. */
static void
read_reset(ArgumentSource *source, ArrayType *reset)
{
	Datum *elements;
	bool *nulls;
	int count;

	deconstruct_array(reset, TEXTOID, -1, false, TYPALIGN_INT, &elements, &nulls, &count);
	for (int i = 0; i < count; i++)
	{
		const char *name = nulls[i] ? "" : TextDatumGetCString(elements[i]);
		int arg = ARG_SERVER;

		while (arg < DEFINITION_ARGS && strcmp(stream_argument_names[arg], name) != 0)
			arg++;
		if (arg == DEFINITION_ARGS)
			ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
							errmsg("reset names \"%s\", which is no argument of a stream", name),
							errhint("For example: reset => '{retention}'")));
		if (argument_is_given(source, arg))
			ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
							errmsg("\"%s\" is given, and reset names it too", name),
							errhint("Leave one of them out.")));
		source->reset[arg] = true;
	}
}

/*
 * Raise an error if no worker could run as the caller.
 */
void
stream_check_caller(void)
{
	HeapTuple tuple = SearchSysCache1(AUTHOID, ObjectIdGetDatum(GetUserId()));
	bool can_login;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for role %u", GetUserId());
	can_login = ((Form_pg_authid) GETSTRUCT(tuple))->rolcanlogin;
	ReleaseSysCache(tuple);

	if (COMPAT_WORKER_NEEDS_LOGIN && !can_login)
		ereport(
			ERROR,
			(errcode(ERRCODE_INVALID_ROLE_SPECIFICATION),
			 errmsg("role \"%s\" cannot own a stream: it cannot log in",
					GetUserNameFromId(GetUserId(), false)),
			 errdetail("The stream's worker connects as its owner."),
			 errhint(
				 "ALTER ROLE … LOGIN (without a password nobody else can use it), or create the stream as another role.")));
	if (superuser() && !detect_superuser_streams)
		ereport(
			ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE), errmsg("a superuser cannot own a stream"),
			 errdetail(
				 "The stream's worker runs the query and the triggers of its tables as its owner."),
			 errhint(
				 "Create it as a role that is a member of detect_admin, or set detect.superuser_streams = on.")));
	if (compat_database_aclcheck(MyDatabaseId, GetUserId(), ACL_CONNECT) != ACLCHECK_OK)
		ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
						errmsg("role \"%s\" may not connect to this database",
							   GetUserNameFromId(GetUserId(), false)),
						errhint("GRANT CONNECT ON DATABASE … TO it.")));
}

/* An interval: as given, else what the stream has, else NULL. */
static Interval *
find_interval(const ArgumentSource *source, int arg, Interval *old)
{
	FunctionCallInfo fcinfo = source->fcinfo;
	Interval zero = {0};
	Interval minute = {.time = USECS_PER_MINUTE};
	Interval *interval;

	if (argument_keeps(source, arg))
		return old;
	if (!argument_is_given(source, arg))
		return NULL;
	interval = PG_GETARG_INTERVAL_P(arg);
	if (!compat_interval_is_finite(interval))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("%s must not be infinite", stream_argument_names[arg]),
						errhint("Leave it out instead.")));
	if (DatumGetBool(DirectFunctionCall2(interval_le, IntervalPGetDatum(interval),
										 IntervalPGetDatum(&zero))))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("%s must be greater than zero", stream_argument_names[arg])));
	if ((arg == ARG_RETENTION || arg == ARG_DEAD_LETTER_RETENTION) &&
		DatumGetBool(DirectFunctionCall2(interval_lt, IntervalPGetDatum(interval),
										 IntervalPGetDatum(&minute))))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("%s must be at least a minute", stream_argument_names[arg]),
						errhint("A number without a unit means seconds; for example '30 days'.")));
	return interval;
}

static void
find_intervals(const ArgumentSource *source, Stream *stream)
{
	const Stream *old = source->old;

	stream->partition_interval =
		find_interval(source, ARG_PARTITION_INTERVAL, old ? old->partition_interval : NULL);
	stream->retention = find_interval(source, ARG_RETENTION, old ? old->retention : NULL);
	if (partition_is_by_event_time(stream))
	{
		partition_check_rights(stream->events_table, stream->owner);
		if (stream->partition_interval == NULL)
		{
			stream->partition_interval = palloc0(sizeof(Interval));
			stream->partition_interval->day = 1;
		}
	}
	if (stream->retention && !stream->event_time)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("retention needs event_time"),
				 errhint("Name the column that tells when an event happened.")));
}

/* How many consumers read beside the applier. */
static int
find_consumers(const ArgumentSource *source)
{
	FunctionCallInfo fcinfo = source->fcinfo;
	int consumers;

	if (argument_keeps(source, ARG_CONSUMERS))
		return source->old->consumers;
	consumers = argument_is_given(source, ARG_CONSUMERS) ? PG_GETARG_INT32(ARG_CONSUMERS) : 0;
	if (consumers < 0 || consumers > MAX_CONSUMERS)
		ereport(
			ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("consumers must be 0 to %d, not %d", MAX_CONSUMERS, consumers),
			 errhint(
				 "0: one worker reads Kafka and applies; more: so many workers beside it read Kafka.")));
	return consumers;
}

/* What is kept of elements that fail.  Without Kafka there is no position to
 * read them from again, so their payload is kept whatever the limit. */
static void
find_dead_letters(const ArgumentSource *source, Stream *stream)
{
	FunctionCallInfo fcinfo = source->fcinfo;
	const Stream *old = source->old;
	const char *on_limit = stream->server ? ON_LIMIT_KEEP_OFFSETS : ON_LIMIT_PAUSE;

	stream->dead_letter_retention =
		find_interval(source, ARG_DEAD_LETTER_RETENTION, old ? old->dead_letter_retention : NULL);

	stream->dead_letter_limit = DEFAULT_DEAD_LETTER_LIMIT;
	if (argument_keeps(source, ARG_DEAD_LETTER_LIMIT))
		stream->dead_letter_limit = old->dead_letter_limit;
	else if (argument_is_given(source, ARG_DEAD_LETTER_LIMIT))
		stream->dead_letter_limit = PG_GETARG_INT64(ARG_DEAD_LETTER_LIMIT);
	if (stream->dead_letter_limit < -1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("dead_letter_limit must not be negative"), errhint("-1 is no limit.")));

	if (argument_is_given(source, ARG_ON_LIMIT))
		on_limit = arg_text(fcinfo, ARG_ON_LIMIT);
	else if (argument_keeps(source, ARG_ON_LIMIT) && stream->server)
		on_limit = old->keep_offsets ? ON_LIMIT_KEEP_OFFSETS : ON_LIMIT_PAUSE;
	stream->keep_offsets = strcmp(on_limit, ON_LIMIT_KEEP_OFFSETS) == 0;
	if (!stream->keep_offsets && strcmp(on_limit, ON_LIMIT_PAUSE) != 0)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("on_limit cannot be \"%s\"", on_limit),
						errhint("Give \"" ON_LIMIT_PAUSE "\" or \"" ON_LIMIT_KEEP_OFFSETS "\".")));
	if (stream->keep_offsets && stream->server == NULL)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("on_limit => '" ON_LIMIT_KEEP_OFFSETS "' needs a server"),
						errhint("What SQL has staged cannot be read again.")));
}

/* Fill in what needs no columns and no query to be judged. */
static Stream *
find_stream(const ArgumentSource *source)
{
	const Stream *old = source->old;
	FunctionCallInfo fcinfo = source->fcinfo;
	Stream *stream = palloc0(sizeof(Stream));

	stream->id = old ? old->id : 0;
	stream->name = arg_text(fcinfo, ARG_NAME);
	stream->owner = old ? old->owner : GetUserId();
	if (old == NULL)
		definition_check_name("stream", stream->name);
	stream->events_table = argument_events_table(source, stream);
	stream->server = argument_server(source, stream->owner);
	stream->topics = argument_topics(source, stream);
	stream->start = argument_start(source);
	stream->unnest = argument_unnest(source);
	stream->consumers = find_consumers(source);
	stream->key = argument_key(source, stream->events_table);
	stream->event_time = argument_event_time(source, stream->events_table);
	find_intervals(source, stream);
	find_dead_letters(source, stream);
	return stream;
}

/* The fields of the stream that is altered. */
static Jsonb *
old_fields(const Stream *old)
{
	Oid types[1] = {INT4OID};
	Datum values[1] = {Int32GetDatum(old->id)};
	MemoryContext caller_context = CurrentMemoryContext;
	MemoryContext spi_context;
	bool isnull;
	Jsonb *fields;

	SPI_connect();
	if (catalog_execute("SELECT fields FROM detect._stream WHERE stream_id = $1", 1, types, values,
						NULL) == 0)
		stream_raise_changed(old->name);
	spi_context = MemoryContextSwitchTo(caller_context);
	fields =
		DatumGetJsonbPCopy(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	MemoryContextSwitchTo(spi_context);
	SPI_finish();
	return fields;
}

/*
 * The definition that the arguments of create_stream make (old NULL), or those
 * of alter_stream out of what the stream was; reset, which may be NULL, names
 * those that become their defaults.
 */
StreamDefinition *
stream_definition_from_call(FunctionCallInfo fcinfo, const Stream *old, ArrayType *reset)
{
	ArgumentSource source = {.fcinfo = fcinfo, .old = old};
	StreamDefinition *definition = palloc0(sizeof(StreamDefinition));

	if (PG_ARGISNULL(ARG_NAME))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("a stream needs a name")));
	if (reset)
		read_reset(&source, reset);
	definition->stream = find_stream(&source);
	definition->start_is_given = argument_is_given(&source, ARG_START);

	if (argument_is_given(&source, ARG_COLUMNS))
		definition->columns = stream_columns_parse(arg_text(fcinfo, ARG_COLUMNS));
	else if (!argument_keeps(&source, ARG_COLUMNS))
		definition->columns = stream_columns_default(definition->stream->events_table);

	if (argument_is_given(&source, ARG_FIELDS))
		definition->fields = PG_GETARG_JSONB_P(ARG_FIELDS);
	else if (argument_keeps(&source, ARG_FIELDS))
		definition->fields = old_fields(old);
	else
		definition->fields = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum("{}")));

	definition->query = arg_text(fcinfo, ARG_QUERY);
	definition->default_query = !argument_is_given(&source, ARG_QUERY) &&
								(old == NULL || source.reset[ARG_QUERY] || old->default_query);
	return definition;
}
