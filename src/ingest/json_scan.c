/*-------------------------------------------------------------------------
 *
 * json_scan.c
 *	  The bytes of JSON: strings, numbers, literals, and what is wrong there.
 *
 * The rule is that of jsonb: what jsonb_in() accepts is accepted, what it
 * refuses is refused.  Two of its refusals depend on more than the bytes at
 * hand: a number may be too large for numeric, and an escaped character may be
 * missing in the encoding of the database.  Both are so rare that the scanner
 * only notices where they could happen (needs_server_check); the caller then
 * shows the whole payload to jsonb_in() itself, and scans it again.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "port/pg_bitutils.h"
#include "port/pg_bswap.h"

#include "json_scan.h"

/* Error texts quote at most this much of the input. */
#define MAX_QUOTED_BYTES 24

/*
 * Shorter numbers can't leave the range of numeric: up to 131072 digits before
 * the decimal point, 16383 after it.
 */
#define MAX_SAFE_NUMBER_BYTES	 1000
#define MAX_SAFE_EXPONENT_DIGITS 3

#define IS_DIGIT(c) ((unsigned char) ((c) - '0') <= 9)

/* One byte in each of the eight bytes of a word. */
#define EACH_BYTE(b) (UINT64CONST(0x0101010101010101) * (b))

static const char *skip_plain(const char *p);
static const char *scan_escape(JsonScanner *scanner, const char *p);
static int read_hex4(const char *p);

/*
 * Start to read 'bytes' bytes, which JSON_PADDING_BYTES zero bytes follow.
 */
void
json_scan_begin(JsonScanner *scanner, const char *start, size_t bytes)
{
	scanner->start = start;
	scanner->cursor = start;
	scanner->end = start + bytes;
	scanner->depth = 0;
	scanner->needs_server_check = false;
	scanner->is_server_checked = false;
	scanner->sqlstate = 0;
}

/*
 * Read the string at the cursor, which stands on its opening quote.
 *
 * The value is what is between the quotes, escapes as they are (but valid).
 */
bool
json_scan_string(JsonScanner *scanner, JsonValue *value)
{
	const char *p = scanner->cursor + 1;

	value->kind = JSON_KIND_STRING;
	value->start = p;
	value->has_escapes = false;

	for (;;)
	{
		p = skip_plain(p);
		if (*p == '"')
			break;
		if (*p != '\\')
		{
			if (p == scanner->end)
			{
				scanner->cursor = p;
				return json_scan_expected(scanner, "the end of a string");
			}
			return json_scan_refuse(scanner, p, ERRCODE_INVALID_TEXT_REPRESENTATION,
									"control character must be escaped");
		}
		value->has_escapes = true;
		p = scan_escape(scanner, p);
		if (p == NULL)
			return false;
	}

	value->end = p;
	scanner->cursor = p + 1;
	return true;
}

/*
 * The first quote, backslash or control character at or after p.
 *
 * Eight bytes are tested at once.  A borrow can only mark bytes behind the
 * first true mark, so the first mark is always right.
 */
static const char *
skip_plain(const char *p)
{
	for (;;)
	{
		uint64 word;
		uint64 quote;
		uint64 backslash;
		uint64 marks;

		memcpy(&word, p, sizeof(word));
#ifdef WORDS_BIGENDIAN
		word = pg_bswap64(word);
#endif
		quote = word ^ EACH_BYTE('"');
		backslash = word ^ EACH_BYTE('\\');
		marks = ((quote - EACH_BYTE(1)) & ~quote) | ((backslash - EACH_BYTE(1)) & ~backslash) |
				((word - EACH_BYTE(' ')) & ~word);
		marks &= EACH_BYTE(0x80);
		if (marks != 0)
			return p + pg_rightmost_one_pos64(marks) / 8;
		p += sizeof(word);
	}
}

/*
 * Check the escape sequence at p, a surrogate pair as one.
 *
 * Returns the byte after it, or NULL when it is invalid.
 */
static const char *
scan_escape(JsonScanner *scanner, const char *p)
{
	const int syntax = ERRCODE_INVALID_TEXT_REPRESENTATION;
	int unit;

	switch (p[1])
	{
		case '"':
		case '\\':
		case '/':
		case 'b':
		case 'f':
		case 'n':
		case 'r':
		case 't':
			return p + 2;
		case 'u':
			break;
		default:
			json_scan_refuse(scanner, p, syntax, "unknown escape sequence");
			return NULL;
	}

	unit = read_hex4(p + 2);
	if (unit < 0)
		json_scan_refuse(scanner, p, syntax, "\"\\u\" must be followed by four hexadecimal digits");
	else if (unit == 0)
		json_scan_refuse(scanner, p, ERRCODE_UNTRANSLATABLE_CHARACTER,
						 "\\u0000 cannot be converted to text");
	else if (is_utf16_surrogate_second(unit))
		json_scan_refuse(scanner, p, syntax, "low surrogate without a high surrogate before it");
	else if (!is_utf16_surrogate_first(unit))
	{
		if (unit > 0x7f && GetDatabaseEncoding() != PG_UTF8)
			scanner->needs_server_check = true;
		return p + 6;
	}
	else if (p[6] != '\\' || p[7] != 'u' || read_hex4(p + 8) < 0 ||
			 !is_utf16_surrogate_second(read_hex4(p + 8)))
		json_scan_refuse(scanner, p, syntax, "high surrogate without a low surrogate after it");
	else
	{
		if (GetDatabaseEncoding() != PG_UTF8)
			scanner->needs_server_check = true;
		return p + 12;
	}
	return NULL;
}

/*
 * The number that four hexadecimal digits stand for, or -1.
 *
 * Stops at the first byte that is none, so it never passes a zero byte.
 */
static int
read_hex4(const char *p)
{
	int result = 0;

	for (int i = 0; i < 4; i++)
	{
		int digit;

		if (IS_DIGIT(p[i]))
			digit = p[i] - '0';
		else if (p[i] >= 'a' && p[i] <= 'f')
			digit = p[i] - 'a' + 10;
		else if (p[i] >= 'A' && p[i] <= 'F')
			digit = p[i] - 'A' + 10;
		else
			return -1;
		result = result * 16 + digit;
	}
	return result;
}

/*
 * Read the number at the cursor, which stands on a digit or a minus sign.
 */
bool
json_scan_number(JsonScanner *scanner, JsonValue *value)
{
	const char *p = scanner->cursor;
	const char *exponent;
	bool valid;

	value->kind = JSON_KIND_NUMBER;
	value->start = p;
	value->has_escapes = false;

	if (*p == '-')
		p++;
	valid = IS_DIGIT(*p);
	if (*p == '0')
		p++;
	else
		while (IS_DIGIT(*p))
			p++;
	if (valid && *p == '.')
	{
		p++;
		valid = IS_DIGIT(*p);
		while (IS_DIGIT(*p))
			p++;
	}
	if (valid && (*p == 'e' || *p == 'E'))
	{
		p++;
		if (*p == '+' || *p == '-')
			p++;
		exponent = p;
		valid = IS_DIGIT(*p);
		while (IS_DIGIT(*p))
			p++;
		if (p - exponent > MAX_SAFE_EXPONENT_DIGITS)
			scanner->needs_server_check = true;
	}

	scanner->cursor = p;
	if (!valid)
		return json_scan_expected(scanner, "a digit");
	if (p - value->start > MAX_SAFE_NUMBER_BYTES)
		scanner->needs_server_check = true;
	value->end = p;
	return true;
}

/*
 * Read true, false or null at the cursor.
 */
bool
json_scan_literal(JsonScanner *scanner, JsonValue *value)
{
	const char *p = scanner->cursor;
	int bytes = 4;

	if (strncmp(p, "true", 4) == 0)
		value->kind = JSON_KIND_TRUE;
	else if (strncmp(p, "null", 4) == 0)
		value->kind = JSON_KIND_NULL;
	else if (strncmp(p, "false", 5) == 0)
	{
		value->kind = JSON_KIND_FALSE;
		bytes = 5;
	}
	else
		return json_scan_expected(scanner, "a JSON value");

	value->start = p;
	value->end = scanner->cursor = p + bytes;
	value->has_escapes = false;
	return true;
}

/*
 * Note that the cursor stands on something else than 'expectation', a constant
 * string.  Always returns false, so that callers can hand it on.
 */
bool
json_scan_expected(JsonScanner *scanner, const char *expectation)
{
	json_scan_refuse(scanner, scanner->cursor, ERRCODE_INVALID_TEXT_REPRESENTATION, expectation);
	scanner->is_expectation = true;
	return false;
}

/*
 * Note that what stands at 'at' is refused; 'problem' is a constant string.
 * Always returns false, so that callers can hand it on.
 */
bool
json_scan_refuse(JsonScanner *scanner, const char *at, int sqlstate, const char *problem)
{
	scanner->sqlstate = sqlstate;
	scanner->problem_at = at;
	scanner->problem = problem;
	scanner->is_expectation = false;
	return false;
}

/*
 * Say why the scan failed, in memory of the current context.
 *
 * Bytes are counted from 1, as characters are in SQL.
 */
char *
json_scan_reason(const JsonScanner *scanner, int *sqlstate)
{
	const char *at = scanner->problem_at;
	size_t position = at - scanner->start + 1;
	int quoted_bytes = 0;

	*sqlstate = scanner->sqlstate;

	if (*at == '\0' && at < scanner->end)
	{
		*sqlstate = ERRCODE_CHARACTER_NOT_IN_REPERTOIRE;
		return psprintf("payload contains a zero byte at byte %zu", position);
	}
	if (!scanner->is_expectation)
		return psprintf("invalid JSON at byte %zu: %s", position, scanner->problem);
	if (at == scanner->end)
		return psprintf("invalid JSON at byte %zu: expected %s, but the payload ends", position,
						scanner->problem);

	while (quoted_bytes < MAX_QUOTED_BYTES && (unsigned char) at[quoted_bytes] >= ' ')
		quoted_bytes++;
	quoted_bytes = pg_mbcliplen(at, quoted_bytes, quoted_bytes);
	if (quoted_bytes == 0)
		return psprintf("invalid JSON at byte %zu: expected %s, but found byte 0x%02x", position,
						scanner->problem, (unsigned char) *at);
	return psprintf("invalid JSON at byte %zu: expected %s, but found \"%.*s\"", position,
					scanner->problem, quoted_bytes, at);
}

/*
 * Write what a valid string stands for to 'target', and return its length.
 *
 * Target has room for as many bytes as the string: no escape sequence is
 * shorter than its character in any encoding of a server.
 */
size_t
json_unescape(const char *start, const char *end, char *target)
{
	const char *p = start;
	char *t = target;

	while (p < end)
	{
		unsigned char character[MAX_UNICODE_EQUIVALENT_STRING + 1];
		pg_wchar code;
		size_t bytes;

		if (*p != '\\')
		{
			*t++ = *p++;
			continue;
		}
		p += 2;
		switch (p[-1])
		{
			case 'b':
				*t++ = '\b';
				continue;
			case 'f':
				*t++ = '\f';
				continue;
			case 'n':
				*t++ = '\n';
				continue;
			case 'r':
				*t++ = '\r';
				continue;
			case 't':
				*t++ = '\t';
				continue;
			case 'u':
				break;
			default:
				*t++ = p[-1];
				continue;
		}

		code = read_hex4(p);
		p += 4;
		if (is_utf16_surrogate_first(code))
		{
			code = surrogate_pair_to_codepoint(code, read_hex4(p + 2));
			p += 6;
		}
		pg_unicode_to_server(code, character);
		bytes = strlen((char *) character);
		if (t - target + bytes > (size_t) (p - start))
			elog(ERROR, "escaped character is longer than its escape sequence");
		memcpy(t, character, bytes);
		t += bytes;
	}
	return t - target;
}
