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

/* The arguments of create_stream, in their order. */
enum
{
	ARG_NAME,
	ARG_SERVER,
	ARG_TOPIC,
	ARG_EVENTS_TABLE,
	ARG_COLUMNS,
	ARG_FIELDS,
	ARG_QUERY,
	ARG_KEY,
	ARG_EVENT_TIME,
	ARG_START,
	ARG_PARTITION_INTERVAL,
	ARG_RETENTION,
	ARG_CONSUMERS
};

/* in stream_arguments.c */
extern char *arg_text(FunctionCallInfo fcinfo, int arg);
extern void stream_check_caller(void);
extern Stream *stream_from_arguments(FunctionCallInfo fcinfo);

/* The text of an argument, for parsed_text_error. */
typedef struct ParsedText
{
	const char *what; /* "columns", "query" */
	const char *text;
	int offset; /* of the text in what the parser sees */
} ParsedText;

/* in stream_columns.c */
extern List *stream_columns_parse(const char *columns);
extern List *stream_columns_default(Oid events_table);
extern Oid stream_columns_create_table(const char *name, List *column_defs, Oid owner);

/* in stream_query.c */
extern void parsed_text_error(void *arg);
extern Query *stream_query_parse(const char *text, const char *stream_name, Oid staging_table,
								 AttrNumber ordinal_attnum);
extern char *stream_query_default(List *column_names);
extern List *stream_query_events_columns(Query *query, Oid events_table, Oid staging_table);
extern Oid query_view_create(const char *name, Query *query, Oid owner);
extern const char *closest_attribute(Oid relid, const char *name);

/* in stream_create.c */
extern void stream_drop_trigger(Oid events_table);
extern void stream_forget(int32 stream_id);
extern void stream_record_dependencies(const Stream *stream);

/* in name.c */
extern void definition_check_name(const char *kind, const char *name);

#endif /* DETECT_STREAM_H */
