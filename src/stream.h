/*-------------------------------------------------------------------------
 *
 * stream.h
 *	  What the files that make streams share among themselves.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DETECT_STREAM_H
#define DETECT_STREAM_H

#include "detect.h"
#include "fmgr.h"
#include "nodes/parsenodes.h"
#include "utils/array.h"
#include "utils/jsonb.h"

/* The arguments of create_stream, in their order, which is that of
 * alter_stream too. */
enum
{
	ARG_NAME,
	ARG_SERVER,
	ARG_TOPIC,
	ARG_TOPICS,
	ARG_EVENTS_TABLE,
	ARG_COLUMNS,
	ARG_FIELDS,
	ARG_UNNEST,
	ARG_QUERY,
	ARG_KEY,
	ARG_EVENT_TIME,
	ARG_START,
	ARG_PARTITION_INTERVAL,
	ARG_RETENTION,
	ARG_CONSUMERS,
	ARG_DEAD_LETTER_LIMIT,
	ARG_ON_LIMIT,
	ARG_DEAD_LETTER_RETENTION,
	DEFINITION_ARGS,
	ARG_IF_NOT_EXISTS = DEFINITION_ARGS, /* of create_stream */
	ARG_RESET = DEFINITION_ARGS,		 /* of alter_stream */
	ARG_IF_EXISTS
};

/* A definition as its user writes it, with defaults filled in. */
typedef struct StreamDefinition
{
	Stream *stream; /* but for columns and views */
	List *columns;	/* of ColumnDef; NIL: those that the stream has */
	Jsonb *fields;
	char *query;		/* over batch; NULL: that which the stream has */
	bool default_query; /* the same-named columns */
	bool start_is_given;
} StreamDefinition;

/* Where the arguments come from. */
typedef struct ArgumentSource
{
	FunctionCallInfo fcinfo;
	const Stream *old; /* what is altered, NULL when one is created */
	bool reset[DEFINITION_ARGS];
} ArgumentSource;

/* in stream_arguments.c */
extern bool argument_is_given(const ArgumentSource *source, int arg);
extern bool argument_keeps(const ArgumentSource *source, int arg);
extern List *arg_text_array(FunctionCallInfo fcinfo, int arg);
extern const char *const stream_argument_names[DEFINITION_ARGS + 1];
extern char *arg_text(FunctionCallInfo fcinfo, int arg);
extern char *arguments_given(FunctionCallInfo fcinfo, const char *const *names, int count);
extern char *stream_arguments_given(FunctionCallInfo fcinfo);
extern void stream_check_caller(void);
extern StreamDefinition *
stream_definition_from_call(FunctionCallInfo fcinfo, const Stream *old, ArrayType *reset);

/* in stream_source.c */
extern Oid stream_check_server(const char *name, Oid user);
extern char *argument_server(const ArgumentSource *source, Oid owner);
extern List *argument_topics(const ArgumentSource *source, const Stream *stream);
extern char *argument_start(const ArgumentSource *source);
extern char *argument_unnest(const ArgumentSource *source);

/* in peek.c */
extern List *
peek_messages(Oid server, const char *topic, int count, bool newest, TimestampTz deadline);

/* in stream_table.c */
extern Oid argument_events_table(const ArgumentSource *source, const Stream *stream);
extern List *argument_key(const ArgumentSource *source, Oid events_table);
extern char *argument_event_time(const ArgumentSource *source, Oid events_table);

/* in stream_check.c */
extern void stream_check_fields(Jsonb *fields, const char *unnest, Oid staging_table);
extern void stream_check_definition(const Stream *stream);

/* in stream_columns.c */
extern List *stream_columns_parse(const char *columns);
extern List *stream_columns_default(Oid events_table);
extern void stream_check_staged_type(const Stream *stream, Form_pg_attribute attribute, Oid type);
extern Oid stream_columns_create_table(const char *name, List *column_defs, Oid owner);
extern void stream_column_set_staged_type(StreamColumn *column);
extern bool stream_columns_differ(Oid staging_table, List *column_defs);
extern void stream_columns_alter_table(const Stream *stream, List *column_defs);

/* in stream_query.c */
extern Query *stream_query_parse(const char *text, const char *stream_name, Oid staging_table,
								 AttrNumber ordinal_attnum);
extern char *stream_query_default(Oid staging_table, Oid events_table);
extern Oid query_view_create(const char *name, Query *query, Oid owner);

/* in stream_output.c */
extern List *stream_query_events_columns(Query *query, Oid events_table, Oid staging_table);
extern void stream_query_tell_unused(Oid events_table, Oid staging_table);
extern const char *closest_attribute(Oid relid, const char *name);

/* in stream_create.c */
extern Stream *stream_create(StreamDefinition *definition);
extern void stream_make_query(StreamDefinition *definition);
extern void stream_write(const StreamDefinition *definition);
extern void stream_record_dependencies(const Stream *stream);

/* in stream_definition.c */
extern char *stream_query_text(const Stream *stream);
extern char *stream_differences(const StreamDefinition *definition, const Stream *stream);

/* in seek.c */
extern List *
seek_topics(FunctionCallInfo fcinfo, const Stream *stream, int topic_arg, int partition_arg);
extern void seek_lock_stream(const Stream *stream, const char *verb);

/* in stream_drop.c */
extern void stream_drop_object(Oid classid, Oid objectid);
extern void stream_forget(int32 stream_id);

/* in events_trigger.c */
extern void stream_make_events_triggers(const Stream *stream);
extern void stream_drop_events_triggers(Oid events_table);

/* in name.c */
extern void definition_check_name(const char *kind, const char *name);

#endif /* DETECT_STREAM_H */
