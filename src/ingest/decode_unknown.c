/*-------------------------------------------------------------------------
 *
 * decode_unknown.c
 *	  Members that no path leads into, counted by name.
 *
 * Senders add fields without telling; what is not taken shall at least be seen.
 * Counted are the members of a root: of the message, and of the items when it
 * is unnested.  A name becomes a node that the walk finds, and expects, like
 * that of a column, so that the same unknown names in each message cost next to
 * nothing.
 *
 * A walk only notes what it meets.  It counts when the message or the item
 * turns out to be good: then, and only then, new names get a node.  So neither
 * a bad message nor one with a thousand names leaves more than a hundred behind.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "mb/pg_wchar.h"

#include "decode_internal.h"

#define OTHERS "(others)"

#define MAX_NAME_BYTES (NAMEDATALEN - 1)

static size_t clip_name(const char *name, size_t name_bytes);
static UnknownMember *add_member(DecodeNode *root, const char *name, size_t name_bytes);
static UnknownMember *find_new_member(DecodeNode *root, const JsonValue *name, char *scratch);

/*
 * Start to count at a root, with memory of the current context.
 */
void
unknown_init(DecodeNode *root)
{
	root->unknown_members->context = CurrentMemoryContext;
	(void) add_member(root, OTHERS, strlen(OTHERS));
}

/*
 * Forget what a walk has met that did not count.
 */
void
unknown_begin_walk(DecodeNode *root)
{
	UnknownMembers *unknown = root->unknown_members;

	for (UnknownMember *member = unknown->seen; member; member = member->next_seen)
		member->is_seen = false;
	unknown->seen = NULL;
	unknown->new_count = 0;
}

/*
 * Note a name that has no node, as it stands in the payload and unescaped.
 */
void
unknown_note_name(DecodeNode *root, const JsonValue *name, const char *unescaped,
				  size_t unescaped_bytes)
{
	UnknownMembers *unknown = root->unknown_members;
	DecodeNode *node = NULL;

	if (unescaped_bytes > MAX_NAME_BYTES)
		node = decode_find_member(root, unescaped, clip_name(unescaped, unescaped_bytes));

	if (node && node->unknown)
		unknown_note(unknown, node->unknown);
	else if (unknown->count + unknown->new_count < (int) lengthof(unknown->members))
		unknown->new_names[unknown->new_count++] = *name;
	else
		unknown_note(unknown, unknown->members[0]);
}

/*
 * Count what the walk has met.  The payload is still in its place; scratch has
 * room for it.
 */
void
unknown_count_walk(DecodeNode *root, char *scratch)
{
	UnknownMembers *unknown = root->unknown_members;

	for (int i = 0; i < unknown->new_count; i++)
		unknown_note(unknown, find_new_member(root, &unknown->new_names[i], scratch));
	for (UnknownMember *member = unknown->seen; member; member = member->next_seen)
		member->count++;
	unknown_begin_walk(root);
}

/*
 * The names met since the last reset.  Returns how many there are; 'fields' has
 * room for MAX_UNKNOWN_NAMES and one.
 */
int
unknown_list(const DecodeNode *root, bool of_item, UnknownField *fields)
{
	const UnknownMembers *unknown = root->unknown_members;
	int nfields = 0;

	for (int i = 0; unknown && i < unknown->count; i++)
	{
		const UnknownMember *member = unknown->members[i];

		if (member->count == 0)
			continue;
		fields[nfields].of_item = of_item;
		strlcpy(fields[nfields].name, member->name, NAMEDATALEN);
		fields[nfields].count = member->count;
		nfields++;
	}
	return nfields;
}

/*
 * Set all counts to zero.
 */
void
unknown_reset(DecodeNode *root)
{
	UnknownMembers *unknown = root->unknown_members;

	for (int i = 0; unknown && i < unknown->count; i++)
		unknown->members[i]->count = 0;
}

/*
 * How many bytes of a name are kept, in whole characters.
 */
static size_t
clip_name(const char *name, size_t name_bytes)
{
	return pg_mbcliplen(name, (int) name_bytes, MAX_NAME_BYTES);
}

/*
 * Give a name its node.
 */
static UnknownMember *
add_member(DecodeNode *root, const char *name, size_t name_bytes)
{
	UnknownMembers *unknown = root->unknown_members;
	MemoryContext caller_context = MemoryContextSwitchTo(unknown->context);
	UnknownMember *member = palloc0(sizeof(UnknownMember));

	memcpy(member->name, name, name_bytes);
	member->node.target = -1;
	member->node.unknown = member;
	decode_node_set_name(&member->node, member->name, name_bytes);
	decode_add_member(root, &member->node);
	unknown->members[unknown->count++] = member;
	MemoryContextSwitchTo(caller_context);
	return member;
}

/*
 * The member for a name that had no node when it was met: another one of the
 * same name may have got it meanwhile.
 */
static UnknownMember *
find_new_member(DecodeNode *root, const JsonValue *name, char *scratch)
{
	const char *start = name->start;
	size_t bytes = name->end - name->start;
	DecodeNode *node;

	if (name->has_escapes)
	{
		bytes = json_unescape(name->start, name->end, scratch);
		start = scratch;
	}
	bytes = clip_name(start, bytes);
	node = decode_find_member(root, start, bytes);
	if (node == NULL)
		return add_member(root, start, bytes);

	/* What is left of a long name can be the name of a column's member. */
	return node->unknown ? node->unknown : root->unknown_members->members[0];
}
