/*-------------------------------------------------------------------------
 *
 * decode_walk.c
 *	  One pass over a payload: validate all of it, note the wanted values.
 *
 * The tree of paths and the payload are walked together; where no path leads,
 * the tree ends (node is NULL) and values are only validated.  Values are
 * noted as places in the payload and converted when the whole of it has turned
 * out to be valid.  Members mostly come in the order of the message before, so
 * the expected one is compared first, quotes included: a hit needs no search
 * for the end of the name.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "mb/pg_wchar.h"

#include "decode_internal.h"

typedef struct DecodeWalk
{
	JsonScanner *scanner;
	JsonValue *targets;
	char *scratch; /* for names with escapes */
} DecodeWalk;

static bool walk_value(DecodeWalk *walk, DecodeNode *node, JsonValue *value);
static bool walk_object(DecodeWalk *walk, DecodeNode *node, JsonValue *value);
static bool walk_name(DecodeWalk *walk, DecodeNode *node, DecodeNode ***guess, DecodeNode **member);
static bool walk_array(DecodeWalk *walk, DecodeNode *node, JsonValue *value);
static bool walk_member(DecodeWalk *walk, DecodeNode *node);
static DecodeNode *find_item(const DecodeNode *node, int index);
static bool enter(JsonScanner *scanner, JsonValue *value, JsonKind kind);
static void leave(JsonScanner *scanner, JsonValue *value);

/*
 * Validate a payload from its first to its last byte.
 *
 * Fills the targets of the tree, all of them JSON_KIND_ABSENT before, and
 * tells in *top what the payload is.  Scratch has room for the payload.
 * Returns false, with the reason in the scanner, when it is no valid JSON.
 * When the scanner then needs a server check, the targets hold nothing yet:
 * the caller makes it and walks again.
 */
bool
decode_walk(JsonScanner *scanner, DecodeNode *root, JsonValue *targets, char *scratch,
			JsonValue *top)
{
	DecodeWalk walk = {scanner, targets, scratch};

	json_skip_space(scanner);
	if (!walk_value(&walk, root, top))
		return false;
	json_skip_space(scanner);
	if (scanner->cursor != scanner->end)
		return json_scan_expected(scanner, "the end of the payload");
	if (root->target >= 0)
		targets[root->target] = *top;
	return true;
}

/*
 * Read any value at the cursor; no white space is before it.
 */
static bool
walk_value(DecodeWalk *walk, DecodeNode *node, JsonValue *value)
{
	switch (*walk->scanner->cursor)
	{
		case '"':
			return json_scan_string(walk->scanner, value);
		case '{':
			return walk_object(walk, node && node->buckets ? node : NULL, value);
		case '[':
			return walk_array(walk, node && node->has_items ? node : NULL, value);
		case '-':
		case '0':
		case '1':
		case '2':
		case '3':
		case '4':
		case '5':
		case '6':
		case '7':
		case '8':
		case '9':
			return json_scan_number(walk->scanner, value);
		default:
			return json_scan_literal(walk->scanner, value);
	}
}

/*
 * Read the object at the cursor.
 */
static bool
walk_object(DecodeWalk *walk, DecodeNode *node, JsonValue *value)
{
	JsonScanner *scanner = walk->scanner;
	DecodeNode **guess = node ? &node->first_member : NULL;

	if (!enter(scanner, value, JSON_KIND_OBJECT))
		return false;
	if (*scanner->cursor != '}')
	{
		for (;;)
		{
			DecodeNode *member = NULL;

			if (*scanner->cursor != '"')
				return json_scan_expected(scanner, "a member's name");
			if (!walk_name(walk, node, &guess, &member))
				return false;
			json_skip_space(scanner);
			if (*scanner->cursor != ':')
				return json_scan_expected(scanner, "\":\"");
			scanner->cursor++;
			json_skip_space(scanner);
			if (!walk_member(walk, member))
				return false;
			json_skip_space(scanner);
			if (*scanner->cursor != ',')
				break;
			scanner->cursor++;
			json_skip_space(scanner);
		}
	}
	if (*scanner->cursor != '}')
		return json_scan_expected(scanner, "\",\" or \"}\"");
	leave(scanner, value);
	return true;
}

/*
 * Read the name at the cursor, and find its member of the node, if it has one.
 *
 * *guess is where the expected member is remembered; it is corrected, and
 * moves on to the place for the next one.
 */
static bool
walk_name(DecodeWalk *walk, DecodeNode *node, DecodeNode ***guess, DecodeNode **member)
{
	JsonScanner *scanner = walk->scanner;
	DecodeNode *expected = node ? **guess : NULL;
	JsonValue name;

	if (expected && expected->quoted_bytes <= (size_t) (scanner->end - scanner->cursor) &&
		memcmp(scanner->cursor, expected->quoted, expected->quoted_bytes) == 0)
	{
		scanner->cursor += expected->quoted_bytes;
		*guess = &expected->follower;
		*member = expected;
		return true;
	}

	if (!json_scan_string(scanner, &name))
		return false;
	if (node == NULL)
		return true;
	if (name.has_escapes)
	{
		/* It may have a character that the server lacks: not to be tried. */
		if (GetDatabaseEncoding() != PG_UTF8 && !scanner->is_server_checked)
		{
			scanner->needs_server_check = true;
			return true;
		}
		name.end = walk->scratch + json_unescape(name.start, name.end, walk->scratch);
		name.start = walk->scratch;
	}
	*member = decode_find_member(node, name.start, name.end - name.start);
	if (*member && (*member)->quoted_bytes > 0)
	{
		**guess = *member;
		*guess = &(*member)->follower;
	}
	return true;
}

/*
 * Read the array at the cursor.
 */
static bool
walk_array(DecodeWalk *walk, DecodeNode *node, JsonValue *value)
{
	JsonScanner *scanner = walk->scanner;

	if (!enter(scanner, value, JSON_KIND_ARRAY))
		return false;
	if (*scanner->cursor != ']')
	{
		for (int index = 0;; index++)
		{
			if (!walk_member(walk, node ? find_item(node, index) : NULL))
				return false;
			json_skip_space(scanner);
			if (*scanner->cursor != ',')
				break;
			scanner->cursor++;
			json_skip_space(scanner);
		}
	}
	if (*scanner->cursor != ']')
		return json_scan_expected(scanner, "\",\" or \"]\"");
	leave(scanner, value);
	return true;
}

/*
 * Read the value of a member or item, and note it where a path ends there.
 */
static bool
walk_member(DecodeWalk *walk, DecodeNode *node)
{
	JsonValue ignored;

	if (node == NULL)
		return walk_value(walk, NULL, &ignored);

	/* The last of equal members counts, with nothing left of the first. */
	if (node->children)
		memset(&walk->targets[node->first_target], 0,
			   (node->end_target - node->first_target) * sizeof(JsonValue));
	return walk_value(walk, node, node->target >= 0 ? &walk->targets[node->target] : &ignored);
}

/*
 * The child for an item of an array, or NULL.
 */
static DecodeNode *
find_item(const DecodeNode *node, int index)
{
	for (DecodeNode *child = node->children; child; child = child->sibling)
	{
		if (child->name == NULL && child->index == index)
			return child;
	}
	return NULL;
}

/*
 * Step over an opening brace or bracket and the white space behind it.
 */
static bool
enter(JsonScanner *scanner, JsonValue *value, JsonKind kind)
{
	if (++scanner->depth > JSON_MAX_DEPTH)
		return json_scan_refuse(scanner, scanner->cursor, ERRCODE_INVALID_JSON_TEXT,
								"nested too deeply, limit is " CppAsString2(JSON_MAX_DEPTH));
	value->kind = kind;
	value->has_escapes = false;
	value->start = scanner->cursor++;
	json_skip_space(scanner);
	return true;
}

/*
 * Step over a closing brace or bracket.
 */
static void
leave(JsonScanner *scanner, JsonValue *value)
{
	value->end = ++scanner->cursor;
	scanner->depth--;
}
