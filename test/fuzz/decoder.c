/*-------------------------------------------------------------------------
 *
 * decoder.c
 *	  The JSON decoder as a pure function, for libFuzzer; no server.
 *
 * The decoder's own files are built into this program with the sanitizers, and
 * what they need of the server is here in small: memory, each chunk a block of
 * malloc, so that the sanitizer sees where it ends; errors, which end the program
 * because none of them can be a payload's; and the input functions of types,
 * which only read what they are given.
 *
 * Besides, an outcome must be the same when a payload is decoded again, a
 * payload that is JSON with one set of columns must be it with another, and
 * text, json and bytes must lie within the payload's size.
 *
 * A payload may begin with lines of paths: then it is also decoded by columns of
 * these, and what follows "*" is unnested.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>
#include <setjmp.h>

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "pgtime.h"
#include "utils/memutils.h"

#include "ingest/decode_internal.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

/* ---------------------------------------------------------------------
 * Memory: what a run allocates is freed after it
 * ---------------------------------------------------------------------
 */

typedef struct Chunk
{
	struct Chunk *next;
	struct Chunk *previous;
} Chunk;

static MemoryContextData run_context;
static MemoryContextData decoder_context;
static Chunk run_chunks = {&run_chunks, &run_chunks};
static Chunk decoder_chunks = {&decoder_chunks, &decoder_chunks};

MemoryContext CurrentMemoryContext = &decoder_context;

void *
MemoryContextAlloc(MemoryContext context, Size bytes)
{
	Chunk *chunk = malloc(sizeof(Chunk) + bytes);
	Chunk *list = context == &run_context ? &run_chunks : &decoder_chunks;

	if (chunk == NULL)
		abort();
	chunk->next = list->next;
	chunk->previous = list;
	list->next->previous = chunk;
	list->next = chunk;
	return chunk + 1;
}

void *
palloc(Size bytes)
{
	return MemoryContextAlloc(CurrentMemoryContext, bytes);
}

void *
palloc0(Size bytes)
{
	return memset(palloc(bytes), 0, bytes);
}

void
pfree(void *pointer)
{
	Chunk *chunk = (Chunk *) pointer - 1;

	chunk->next->previous = chunk->previous;
	chunk->previous->next = chunk->next;
	free(chunk);
}

void *
repalloc(void *pointer, Size bytes)
{
	Chunk *chunk = realloc((Chunk *) pointer - 1, sizeof(Chunk) + bytes);

	if (chunk == NULL)
		abort();
	chunk->next->previous = chunk;
	chunk->previous->next = chunk;
	return chunk + 1;
}

char *
pnstrdup(const char *in, Size bytes)
{
	size_t length = strnlen(in, bytes);
	char *copy = palloc(length + 1);

	memcpy(copy, in, length);
	copy[length] = '\0';
	return copy;
}

char *
pstrdup(const char *in)
{
	return pnstrdup(in, strlen(in));
}

MemoryContext
AllocSetContextCreateInternal(MemoryContext parent, const char *name, Size min, Size initial,
							  Size max)
{
	return parent;
}

static void
free_run(void)
{
	while (run_chunks.next != &run_chunks)
		pfree(run_chunks.next + 1);
}

/* ---------------------------------------------------------------------
 * Errors: a path can be refused, and no other can be raised here
 * ---------------------------------------------------------------------
 */

static sigjmp_buf refusal;
static bool may_refuse = false;

bool
errstart(int elevel, const char *domain)
{
	return true;
}

bool
errstart_cold(int elevel, const char *domain)
{
	return true;
}

void
errfinish(const char *filename, int lineno, const char *funcname)
{
	if (may_refuse)
		siglongjmp(refusal, 1);
	fprintf(stderr, "error raised in %s:%d, %s\n", filename, lineno, funcname);
	abort();
}

int
errcode(int sqlerrcode)
{
	return 0;
}

#define TELLS(function)                   \
	int function(const char *fmt, ...)    \
	{                                     \
		if (!may_refuse)                  \
			fprintf(stderr, "%s\n", fmt); \
		return 0;                         \
	}
TELLS(errmsg)
TELLS(errmsg_internal)
TELLS(errdetail)
TELLS(errdetail_internal)
TELLS(errhint)

/* ---------------------------------------------------------------------
 * The rest of the server
 * ---------------------------------------------------------------------
 */

pg_tz *session_timezone = NULL;
const int day_tab[2][13] = {{31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31, 0},
							{31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31, 0}};

/* any strictly growing number does */
int
date2j(int year, int month, int day)
{
	return (year * 12 + month) * 31 + day;
}

int
DetermineTimeZoneOffset(struct pg_tm *tm, pg_tz *zone)
{
	return 3600;
}

int
GetDatabaseEncoding(void)
{
	return PG_UTF8;
}

int
pg_mbcliplen(const char *text, int length, int limit)
{
	int clipped = 0;

	while (clipped < length)
	{
		int bytes = pg_encoding_mblen(PG_UTF8, text + clipped);

		if (clipped + bytes > Min(limit, length))
			break;
		clipped += bytes;
	}
	return clipped;
}

void
pg_unicode_to_server(pg_wchar code, unsigned char *character)
{
	unicode_to_utf8(code, character);
	character[pg_utf_mblen(character)] = '\0';
}

char *
pg_any_to_server(const char *text, int bytes, int encoding)
{
	abort();
}

text *
cstring_to_text_with_len(const char *string, int bytes)
{
	text *result = palloc(bytes + VARHDRSZ);

	SET_VARSIZE(result, bytes + VARHDRSZ);
	memcpy(VARDATA(result), string, bytes);
	return result;
}

Datum
jsonb_in(PG_FUNCTION_ARGS)
{
	return (Datum) 0;
}

/* jsonb_in, where the scanner leaves the verdict to it */
Datum
DirectFunctionCall1Coll(PGFunction function, Oid collation, Datum argument)
{
	return PointerGetDatum(palloc(strlen(DatumGetCString(argument)) + VARHDRSZ));
}

void
guard_begin(DecodeGuard *guard)
{
}

void
guard_end(DecodeGuard *guard)
{
}

bool
guard_call(DecodeGuard *guard, GuardedCall call, void *argument, bool internal_is_data,
		   Datum *result, DecodeError *error)
{
	*result = call(argument);
	return true;
}

void
decode_input_init(DecodeInput *input, const DecodeColumn *column)
{
	input->name = column->name;
	input->type = column->type;
	input->typmod = column->typmod;
}

void
decode_input_begin(DecodeInput *input)
{
}

bool
decode_input_null(DecodeInput *input, DecodeGuard *guard, DecodeError *error)
{
	return true;
}

/* Read the value as an input function would. */
bool
decode_input_value(DecodeInput *input, DecodeGuard *guard, const JsonValue *value, char *scratch,
				   Datum *result, DecodeError *error)
{
	size_t bytes = value->end - value->start;

	if (value->kind == JSON_KIND_STRING && value->has_escapes)
		bytes = json_unescape(value->start, value->end, scratch);
	else
		memcpy(scratch, value->start, bytes);
	scratch[bytes] = '\0';
	*result = CStringGetDatum(scratch);
	return true;
}

/* ---------------------------------------------------------------------
 * What is tried
 * ---------------------------------------------------------------------
 */

static const DecodeColumn plain_columns[] = {
	{"b", "$.b", BOOLOID, -1},
	{"s", "$.s", INT2OID, -1},
	{"i", "$.i", INT4OID, -1},
	{"l", "$.l", INT8OID, -1},
	{"f", "$.f", FLOAT4OID, -1},
	{"d", "$.d", FLOAT8OID, -1},
	{"t", "$.t", TEXTOID, -1},
	{"v", "$.v", VARCHAROID, VARHDRSZ + 5},
	{"j", "$.j", JSONOID, -1},
	{"y", "$.y", DATEOID, -1},
	{"p", "$.p", TIMESTAMPOID, -1},
	{"z", "$.z", TIMESTAMPTZOID, -1},
	{"u", "$.u", UUIDOID, -1},
	{"n", "$.n", NUMERICOID, -1},
	{"o", "$.o.o", INT4OID, -1},
	{"a", "$.a[1]", TEXTOID, -1},
	{"q", "$.o.\"\\u00e9\"", TEXTOID, -1},
	{"oo", "$.o", JSONOID, -1},
	{"ms", "$.d", TIMESTAMPTZOID, -1, EPOCH_MS},
	{"ns", "$.l", TIMESTAMPTZOID, -1, EPOCH_NS},
	{"zs", "$.z", TIMESTAMPTZOID, -1, EPOCH_S},
};
static const DecodeColumn item_columns[] = {
	{"b", "$.b", TEXTOID, -1},	 {"i", "@.i", INT4OID, -1},		   {"d", "@.d", FLOAT8OID, -1},
	{"t", "@.t", TEXTOID, -1},	 {"z", "@.z", TIMESTAMPTZOID, -1}, {"n", "@[0]", TEXTOID, -1},
	{"j", "@.j.j", JSONOID, -1},
};

static Decoder *plain;
static Decoder *unnesting;

/* What a decoder says of a payload: 0, or the first SQLSTATE. */
static int
outcome(Decoder *decoder, const char *payload, size_t bytes, const DecodeColumn *columns,
		int ncolumns, bool *is_message)
{
	Datum values[lengthof(plain_columns)];
	bool nulls[lengthof(plain_columns)];
	DecodeError error = {0};
	int sqlstate = 0;

	decoder_begin_batch(decoder);
	*is_message = decoder_begin_message(decoder, payload, bytes, &error);
	if (!*is_message)
		sqlstate = error.sqlstate;
	for (int i = 0; *is_message && i < decoder_element_count(decoder); i++)
	{
		if (!decoder_next_element(decoder, values, nulls, &error))
		{
			if (error.sqlstate == 0 || error.reason == NULL)
				abort();
			sqlstate = sqlstate ? sqlstate : error.sqlstate;
			continue;
		}
		for (int c = 0; c < ncolumns; c++)
		{
			Oid type = columns[c].type;

			if (!nulls[c] && (type == TEXTOID || type == JSONOID) &&
				VARSIZE(DatumGetPointer(values[c])) > bytes + VARHDRSZ)
				abort();
		}
	}
	decoder_end_batch(decoder);
	return sqlstate;
}

/* Columns that the input itself names, and what is left of it: the payload. */
typedef struct Drawn
{
	DecodeColumn columns[lengthof(plain_columns)];
	int ncolumns;
	char *unnest;
	const char *payload;
	size_t bytes;
} Drawn;

/* Take the lines that are paths.  Their lengths choose the types. */
static Drawn
draw(const char *data, size_t bytes)
{
	Drawn drawn = {.payload = data, .bytes = bytes};

	while (drawn.ncolumns < lengthof(drawn.columns) && drawn.bytes > 0 &&
		   memchr("$@*", drawn.payload[0], 3) != NULL)
	{
		const char *line = drawn.payload;
		const char *end = memchr(line, '\n', drawn.bytes);
		size_t line_bytes = end ? end - line : drawn.bytes;
		DecodeColumn *column = &drawn.columns[drawn.ncolumns];

		drawn.payload += line_bytes + (end != NULL);
		drawn.bytes -= line_bytes + (end != NULL);
		if (line[0] == '*')
			drawn.unnest = pnstrdup(line + 1, line_bytes - 1);
		else
		{
			*column = plain_columns[(drawn.ncolumns * 5 + line_bytes) % lengthof(plain_columns)];
			column->path = pnstrdup(line, line_bytes);
			drawn.ncolumns++;
		}
	}
	return drawn;
}

/* A decoder for these columns, NULL if a path is refused. */
static Decoder *
drawn_decoder(const Drawn *drawn)
{
	Decoder *decoder = NULL;

	may_refuse = true;
	if (sigsetjmp(refusal, 0) == 0)
		decoder = decoder_create(drawn->columns, drawn->ncolumns, drawn->unnest, &run_context);
	may_refuse = false;
	CurrentMemoryContext = &run_context;
	return decoder;
}

/* Whether a payload was refused for what it is, not for what columns want. */
static bool
is_no_json(int sqlstate)
{
	return sqlstate == ERRCODE_INVALID_TEXT_REPRESENTATION ||
		   sqlstate == ERRCODE_CHARACTER_NOT_IN_REPERTOIRE ||
		   sqlstate == ERRCODE_UNTRANSLATABLE_CHARACTER;
}

int
LLVMFuzzerInitialize(int *argc, char ***argv)
{
	plain = decoder_create(plain_columns, lengthof(plain_columns), NULL, &decoder_context);
	unnesting = decoder_create(item_columns, lengthof(item_columns), "$.a", &decoder_context);
	return 0;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	bool is_message;
	bool is_unnested;
	bool is_message_again;
	bool is_drawn_message;
	Drawn drawn;
	Decoder *drawing;
	int first;
	int unnested;
	int again;

	CurrentMemoryContext = &run_context;
	drawn = draw((const char *) data, bytes);
	first = outcome(plain, drawn.payload, drawn.bytes, plain_columns, lengthof(plain_columns),
					&is_message);
	unnested = outcome(unnesting, drawn.payload, drawn.bytes, item_columns, lengthof(item_columns),
					   &is_unnested);
	again = outcome(plain, drawn.payload, drawn.bytes, plain_columns, lengthof(plain_columns),
					&is_message_again);
	if (first != again || is_message != is_message_again)
		abort();
	if (!is_message && is_no_json(first) && is_unnested)
		abort();
	if (!is_unnested && is_no_json(unnested) && is_message)
		abort();
	drawing = drawn.ncolumns > 0 || drawn.unnest ? drawn_decoder(&drawn) : NULL;
	if (drawing != NULL)
	{
		int sqlstate = outcome(drawing, drawn.payload, drawn.bytes, drawn.columns, drawn.ncolumns,
							   &is_drawn_message);

		/* of what is shared by items, a value can be why */
		if (!is_drawn_message && is_no_json(sqlstate) && drawn.unnest == NULL &&
			(is_message || is_unnested))
			abort();
		if (is_drawn_message && !is_message && is_no_json(first))
			abort();
	}
	free_run();
	CurrentMemoryContext = &decoder_context;
	return 0;
}
