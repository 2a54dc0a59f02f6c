/*-------------------------------------------------------------------------
 *
 * json_scan.h
 *	  The bytes of JSON: strings, numbers, literals, and what is wrong there.
 *
 * The scanner reads memory that goes on after its end with
 * JSON_PADDING_BYTES zero bytes.  No zero byte is valid anywhere in JSON, so
 * no step has to ask whether the input ends here: it finds a byte that it
 * does not expect.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DETECT_JSON_SCAN_H
#define DETECT_JSON_SCAN_H

#define JSON_PADDING_BYTES 8

/*
 * Objects and arrays may be nested this deeply.  PostgreSQL's own limit is the
 * depth of its stack, which differs by platform and setting; ours is fixed,
 * and always below it.
 */
#define JSON_MAX_DEPTH 1000

typedef enum JsonKind
{
	JSON_KIND_ABSENT, /* no such member: must be zero */
	JSON_KIND_NULL,
	JSON_KIND_FALSE,
	JSON_KIND_TRUE,
	JSON_KIND_NUMBER,
	JSON_KIND_STRING,
	JSON_KIND_OBJECT,
	JSON_KIND_ARRAY
} JsonKind;

/* A value found in the input; of a string, what is between the quotes. */
typedef struct JsonValue
{
	const char *start;
	const char *end; /* the byte after the last one */
	JsonKind kind;
	bool has_escapes; /* a string with backslashes */
} JsonValue;

typedef struct JsonScanner
{
	const char *start;
	const char *cursor; /* next byte to read */
	const char *end;	/* zero bytes from here on */
	int depth;

	/* Met what only PostgreSQL's own parser can judge: see json_scan.c. */
	bool needs_server_check;
	bool is_server_checked; /* it has, and found nothing */

	/* Why the scan failed, once it did. */
	int sqlstate;
	const char *problem_at;
	const char *problem;
	bool is_expectation; /* "expected" goes before problem */
} JsonScanner;

/* in json_scan.c */
extern void json_scan_begin(JsonScanner *scanner, const char *start, size_t bytes);
extern bool json_scan_string(JsonScanner *scanner, JsonValue *value);
extern bool json_scan_number(JsonScanner *scanner, JsonValue *value);
extern bool json_scan_literal(JsonScanner *scanner, JsonValue *value);
extern bool json_scan_expected(JsonScanner *scanner, const char *expectation);
extern bool
json_scan_refuse(JsonScanner *scanner, const char *at, int sqlstate, const char *problem);
extern char *json_scan_reason(const JsonScanner *scanner, int *sqlstate);
extern size_t json_unescape(const char *start, const char *end, char *target);

/*
 * Advance over white space.
 */
static inline void
json_skip_space(JsonScanner *scanner)
{
	const char *p = scanner->cursor;

	while (*p == ' ' || *p == '\n' || *p == '\t' || *p == '\r')
		p++;
	scanner->cursor = p;
}

#endif /* DETECT_JSON_SCAN_H */
