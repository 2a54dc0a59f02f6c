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
 * for the end of the name.  Members that no path leads into are nodes too, once
 * they have been counted (decode_unknown.c).
 *
 * Of an array that is unnested only the beginnings of its items are noted: each
 * item is walked again, along the tree of "@", when its turn comes.  So memory
 * does not grow with items times columns, and "$" can lead into the same array.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "mb/pg_wchar.h"
#include "utils/fmgrprotos.h"

#include "decode_internal.h"

typedef struct DecodeWalk
{
	JsonScanner *scanner;
	JsonValue *targets;
	char *scratch;		/* for names with escapes */
	DecodeItems *items; /* of the unnested array */
} DecodeWalk;

static bool walk_all(DecodeWalk *walk, DecodeTree *tree, JsonValue *top);
static bool check_by_server(const DecodeBuffer *buffer, DecodeGuard *guard, DecodeError *error);
static Datum run_jsonb_in(void *argument);
static void begin_walk(DecodeTree *tree);
static bool walk_value(DecodeWalk *walk, DecodeNode *node, JsonValue *value);
static bool walk_object(DecodeWalk *walk, DecodeNode *node, JsonValue *value);
static bool walk_name(DecodeWalk *walk, DecodeNode *node, DecodeNode ***guess, DecodeNode **member);
static bool walk_array(DecodeWalk *walk, DecodeNode *node, JsonValue *value);
static bool walk_member(DecodeWalk *walk, DecodeNode *node);
static void note_item(DecodeItems *items, int index, const char *start);
static DecodeNode *find_item(const DecodeNode *node, int index);
static bool enter(JsonScanner *scanner, JsonValue *value, JsonKind kind);
static void leave(JsonScanner *scanner, JsonValue *value);

/*
 * Validate the payload in the buffer from its first to its last byte.
 *
 * Fills the targets of the tree, and the items where one of its nodes is
 * unnested; tells in *top what the payload is.  Returns false and fills *error
 * when it is no valid JSON.
 */
bool
decode_walk_payload(const DecodeBuffer *buffer, DecodeGuard *guard, DecodeTree *tree,
					DecodeItems *items, JsonValue *top, DecodeError *error)
{
	JsonScanner scanner;
	DecodeWalk walk = {&scanner, tree->targets, buffer->scratch, items};
	bool is_checked = false;

	for (;;)
	{
		json_scan_begin(&scanner, buffer->text, buffer->bytes);
		scanner.is_server_checked = is_checked;
		if (!walk_all(&walk, tree, top))
		{
			error->reason = json_scan_reason(&scanner, &error->sqlstate);
			return false;
		}
		if (!scanner.needs_server_check || is_checked)
			return true;
		if (!check_by_server(buffer, guard, error))
			return false;
		is_checked = true;
	}
}

/*
 * Read the item that begins at 'start' of a payload that is valid.
 *
 * Fills the targets of the tree, and tells in *item what it is.
 */
void
decode_walk_item(const DecodeBuffer *buffer, const char *start, DecodeTree *tree, JsonValue *item)
{
	JsonScanner scanner;
	DecodeWalk walk = {&scanner, tree->targets, buffer->scratch, NULL};

	begin_walk(tree);
	json_scan_begin(&scanner, buffer->text, buffer->bytes);
	scanner.is_server_checked = true;
	scanner.cursor = start;
	if (!walk_value(&walk, tree->root, item))
		elog(ERROR, "item at byte %d of a valid payload is invalid", (int) (start - buffer->text));
	if (tree->root->target >= 0)
		tree->targets[tree->root->target] = *item;
}

/*
 * Read the payload from its first to its last byte.
 *
 * Returns false, with the reason in the scanner, when it is no valid JSON.  When
 * the scanner then needs a server check, the targets hold nothing yet.
 */
static bool
walk_all(DecodeWalk *walk, DecodeTree *tree, JsonValue *top)
{
	JsonScanner *scanner = walk->scanner;

	begin_walk(tree);
	json_skip_space(scanner);
	if (!walk_value(walk, tree->root, top))
		return false;
	json_skip_space(scanner);
	if (scanner->cursor != scanner->end)
		return json_scan_expected(scanner, "the end of the payload");
	if (tree->root->target >= 0)
		tree->targets[tree->root->target] = *top;
	return true;
}

/*
 * Let the server judge the payload in the buffer.
 */
static bool
check_by_server(const DecodeBuffer *buffer, DecodeGuard *guard, DecodeError *error)
{
	Datum result;

	/* of an array that is too long for its memory, jsonb says so as of a fault of its own */
	if (!guard_call(guard, run_jsonb_in, buffer->text, true, &result, error))
	{
		error->reason = psprintf("invalid JSON: %s", error->reason);
		return false;
	}
	pfree(DatumGetPointer(result));
	return true;
}

/*
 * The guarded call.
 */
static Datum
run_jsonb_in(void *argument)
{
	return DirectFunctionCall1(jsonb_in, CStringGetDatum((char *) argument));
}

/*
 * Forget what the last walk along the tree found.
 */
static void
begin_walk(DecodeTree *tree)
{
	memset(tree->targets, 0, tree->target_count * sizeof(JsonValue));
	if (unknown_was_met(tree->root))
		unknown_begin_walk(tree->root);
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
	const char *start;
	size_t bytes;

	if (expected && expected->quoted_bytes <= (size_t) (scanner->end - scanner->cursor) &&
		memcmp(scanner->cursor, expected->quoted, expected->quoted_bytes) == 0)
	{
		scanner->cursor += expected->quoted_bytes;
		*guess = &expected->follower;
		*member = expected;
		if (expected->unknown)
			unknown_note(node->unknown_members, expected->unknown);
		return true;
	}

	if (!json_scan_string(scanner, &name))
		return false;
	if (node == NULL)
		return true;
	start = name.start;
	bytes = name.end - name.start;
	if (name.has_escapes)
	{
		/* It may have a character that the server lacks: not to be tried. */
		if (GetDatabaseEncoding() != PG_UTF8 && !scanner->is_server_checked)
		{
			scanner->needs_server_check = true;
			return true;
		}
		bytes = json_unescape(name.start, name.end, walk->scratch);
		start = walk->scratch;
	}
	*member = decode_find_member(node, start, bytes);
	if (*member == NULL)
	{
		if (node->unknown_members)
			unknown_note_name(node, &name, start, bytes);
		return true;
	}
	if ((*member)->unknown)
		unknown_note(node->unknown_members, (*member)->unknown);
	if ((*member)->quoted_bytes > 0)
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
	DecodeItems *items = node && node->is_unnested ? walk->items : NULL;

	if (!enter(scanner, value, JSON_KIND_ARRAY))
		return false;
	if (items)
		items->count = 0;
	if (*scanner->cursor != ']')
	{
		for (int index = 0;; index++)
		{
			if (items)
				note_item(items, index, scanner->cursor);
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
 * Note where an item of the unnested array begins.
 */
static void
note_item(DecodeItems *items, int index, const char *start)
{
	items->count = index + 1;
	if (index >= MAX_ITEMS)
		return;
	if (index >= items->capacity)
	{
		int capacity = Max(2 * items->capacity, 64);

		if (items->starts == NULL)
			items->starts = MemoryContextAlloc(items->context, capacity * sizeof(char *));
		else
			items->starts = repalloc(items->starts, capacity * sizeof(char *));
		items->capacity = capacity;
	}
	items->starts[index] = start;
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
