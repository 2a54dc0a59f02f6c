/*-------------------------------------------------------------------------
 *
 * decode_path.c
 *	  The paths of all columns as one tree of steps.
 *
 * A path is "$" and any number of member and index steps of SQL/JSON paths:
 * .name, ."odd name", [0].  Each leads to at most one value; what could lead
 * to several (wildcards, ranges) or computes (filters, methods) is refused.
 * With unnest, "@" stands for the item and begins a tree of its own.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "compat.h"
#include "mb/pg_wchar.h"

#include "decode_internal.h"

#define IS_DIGIT(c) ((unsigned char) ((c) - '0') <= 9)

/* Longer indexes have no item in any message. */
#define MAX_INDEX_DIGITS 9

static void check_start(const char *path, bool has_unnest);
static const char *read_step(const char *path, const char *p, DecodeNode *step);
static const char *read_plain_name(const char *path, const char *p, DecodeNode *step);
static const char *read_quoted_name(const char *path, const char *p, DecodeNode *step);
static const char *read_index(const char *path, const char *p, DecodeNode *step);
pg_noreturn static void refuse_path(const char *path, const char *detail);
static DecodeNode *create_node(void);
static DecodeNode *find_step(const DecodeNode *node, const DecodeNode *step);
static DecodeNode *add_step(DecodeNode *node, const DecodeNode *step);
static int finish_node(DecodeNode *node, int next_target);
static inline uint32 hash_name(const char *name, size_t name_bytes);

/*
 * Raise an error unless 'path' is one that columns can have.
 *
 * With unnest they may begin with "@"; an unnest path itself may not.
 */
void
decode_check_path(const char *path, bool has_unnest)
{
	DecodeTree tree;

	decode_tree_init(&tree);
	(void) decode_tree_add(&tree, path, has_unnest);
}

/*
 * Make a tree without paths; its memory is of the current context.
 */
void
decode_tree_init(DecodeTree *tree)
{
	memset(tree, 0, sizeof(DecodeTree));
	tree->root = create_node();
}

/*
 * Add the steps of 'path' to the tree, in memory of the current context.
 *
 * Returns the node that the path ends at, whose target is set to 0 as a mark
 * that its value is wanted.  decode_tree_finish() must follow.
 */
DecodeNode *
decode_tree_add(DecodeTree *tree, const char *path, bool has_unnest)
{
	DecodeNode *node = tree->root;
	const char *p = path + 1;
	int depth = 0;

	check_start(path, has_unnest);
	while (*p != '\0')
	{
		DecodeNode step = {0};
		DecodeNode *next;

		if (++depth > JSON_MAX_DEPTH)
			refuse_path(path, psprintf("A path can't have more than %d steps.", JSON_MAX_DEPTH));
		p = read_step(path, p, &step);
		next = find_step(node, &step);
		node = next ? next : add_step(node, &step);
	}
	node->target = 0;
	return node;
}

/*
 * Number the targets of the tree and make its members searchable.
 *
 * Members that no path leads into are counted, unless a path takes the whole.
 */
void
decode_tree_finish(DecodeTree *tree)
{
	DecodeNode *root = tree->root;

	if (root->target < 0)
		root->unknown_members = palloc0(sizeof(UnknownMembers));
	tree->target_count = finish_node(root, 0);
	tree->targets = palloc0(tree->target_count * sizeof(JsonValue));
	if (root->unknown_members)
		unknown_init(root);
}

/*
 * Raise an error unless the path begins at a place that there is.
 */
static void
check_start(const char *path, bool has_unnest)
{
	if (*path == '$' || (*path == '@' && has_unnest))
		return;
	if (*path == '@')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("invalid path \"%s\"", path),
				 errdetail("\"@\" is the item of an unnested array, and here there is none."),
				 errhint("Begin the path with \"$\", the message, or name an array in unnest.")));
	refuse_path(path, has_unnest ? "A path must start with \"$\" or \"@\"."
								 : "A path must start with \"$\".");
}

/*
 * Read the step at p, and return the byte after it.
 */
static const char *
read_step(const char *path, const char *p, DecodeNode *step)
{
	if (*p == '[')
		return read_index(path, p + 1, step);
	if (*p != '.')
		refuse_path(path, psprintf("Expected \".\" or \"[\" at byte %d.", (int) (p - path) + 1));
	if (p[1] == '"')
		return read_quoted_name(path, p + 1, step);
	return read_plain_name(path, p + 1, step);
}

/*
 * Read a member's name of letters, digits and underscores.
 *
 * SQL/JSON lets more characters stand unquoted; those who use them can quote.
 */
static const char *
read_plain_name(const char *path, const char *p, DecodeNode *step)
{
	const char *start = p;

	while ((*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z') || *p == '_' ||
		   IS_HIGHBIT_SET(*p) || (IS_DIGIT(*p) && p > start))
		p++;

	if (*p == '(')
		refuse_path(path, "Methods are not supported.");
	if (p == start && *p == '*')
		refuse_path(path, "Wildcards are not supported.");
	if (p == start)
		refuse_path(path,
					psprintf("Expected a member's name at byte %d.", (int) (start - path) + 1));
	step->name = pnstrdup(start, p - start);
	step->name_bytes = p - start;
	return p;
}

/*
 * Read a member's name in quotes, with the escapes of a JSON string.
 */
static const char *
read_quoted_name(const char *path, const char *p, DecodeNode *step)
{
	size_t bytes = strlen(p);
	char *padded = palloc0(bytes + JSON_PADDING_BYTES);
	char *name = palloc0(bytes + 1);
	JsonScanner scanner;
	JsonValue value;

	memcpy(padded, p, bytes);
	json_scan_begin(&scanner, padded, bytes);
	if (!json_scan_string(&scanner, &value))
		refuse_path(path, psprintf("The name in quotes at byte %d is not a valid JSON string.",
								   (int) (p - path) + 1));

	step->name = name;
	step->name_bytes = json_unescape(value.start, value.end, name);
	return p + (scanner.cursor - padded);
}

/*
 * Read the number of an item and its closing bracket.
 */
static const char *
read_index(const char *path, const char *p, DecodeNode *step)
{
	const char *start = p;

	while (IS_DIGIT(*p))
		p++;
	if (p == start || *p != ']')
		refuse_path(path, "Between brackets there must be a number, from 0.");
	if (p - start > MAX_INDEX_DIGITS)
		refuse_path(path, "An index can't be so large.");
	step->index = atoi(start);
	return p + 1;
}

/*
 * Raise the error about a path; 'detail' is a sentence.
 */
static void
refuse_path(const char *path, const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("invalid path \"%s\"", path),
			 errdetail_internal("%s", detail),
			 errhint("A path is \"$\" followed by steps like .name, .\"odd name\" or [0].")));
}

/*
 * A node without name, in the current context.
 */
static DecodeNode *
create_node(void)
{
	DecodeNode *node = palloc0(sizeof(DecodeNode));

	node->target = -1;
	return node;
}

/*
 * The child that 'step' leads to, or NULL.
 */
static DecodeNode *
find_step(const DecodeNode *node, const DecodeNode *step)
{
	for (DecodeNode *child = node->children; child; child = child->sibling)
	{
		if ((child->name == NULL) != (step->name == NULL))
			continue;
		if (step->name == NULL ? child->index == step->index
							   : child->name_bytes == step->name_bytes &&
									 memcmp(child->name, step->name, step->name_bytes) == 0)
			return child;
	}
	return NULL;
}

/*
 * Add a child that 'step' leads to.
 */
static DecodeNode *
add_step(DecodeNode *node, const DecodeNode *step)
{
	DecodeNode *child = create_node();

	child->index = step->index;
	child->sibling = node->children;
	node->children = child;
	if (step->name)
		decode_node_set_name(child, step->name, step->name_bytes);
	else
		node->has_items = true;
	return child;
}

/*
 * Give a node the name of a member.  'name' is a string that stays.
 */
void
decode_node_set_name(DecodeNode *node, const char *name, size_t name_bytes)
{
	node->name = name;
	node->name_bytes = name_bytes;

	/* Bytes compared with it skip validation: it must be valid itself. */
	for (size_t i = 0; i < name_bytes; i++)
	{
		if ((unsigned char) name[i] < ' ' || name[i] == '"' || name[i] == '\\')
			return;
	}
	node->quoted = psprintf("\"%s\"", name);
	node->quoted_bytes = name_bytes + 2;
}

/*
 * Number the targets of a node and those below it from 'next_target' on, fill
 * its hash table, and return the next free number.
 */
static int
finish_node(DecodeNode *node, int next_target)
{
	uint32 members = 0;
	uint32 size = 1;

	node->first_target = next_target;
	if (node->target >= 0)
		node->target = next_target++;

	for (DecodeNode *child = node->children; child; child = child->sibling)
	{
		next_target = finish_node(child, next_target);
		if (child->name)
			members++;
	}
	node->end_target = next_target;
	if (node->unknown_members)
		members += lengthof(node->unknown_members->members);
	if (members == 0)
		return next_target;

	while (size < 2 * members)
		size *= 2;
	node->bucket_mask = size - 1;
	node->buckets = palloc0(size * sizeof(DecodeNode *));
	for (DecodeNode *child = node->children; child; child = child->sibling)
	{
		if (child->name)
			decode_add_member(node, child);
	}
	return next_target;
}

/*
 * Let a member be found by its name.
 */
void
decode_add_member(DecodeNode *node, DecodeNode *member)
{
	uint32 hash = hash_name(member->name, member->name_bytes);
	DecodeNode **bucket = &node->buckets[hash & node->bucket_mask];

	member->bucket_next = *bucket;
	*bucket = member;
}

/*
 * The child of that member name, or NULL.  The node has members.
 */
DecodeNode *
decode_find_member(const DecodeNode *node, const char *name, size_t name_bytes)
{
	DecodeNode *child;

	child = node->buckets[hash_name(name, name_bytes) & node->bucket_mask];
	while (child && (child->name_bytes != name_bytes || memcmp(child->name, name, name_bytes) != 0))
		child = child->bucket_next;
	return child;
}

/*
 * Names of one message mostly differ in length or at one of their ends, so no
 * more is looked at.
 */
static inline uint32
hash_name(const char *name, size_t name_bytes)
{
	uint32 hash = name_bytes;

	if (name_bytes > 0)
		hash = hash * 31 + (unsigned char) name[0] * 7 + (unsigned char) name[name_bytes / 2] * 5 +
			   (unsigned char) name[name_bytes - 1] * 3;
	return hash;
}
