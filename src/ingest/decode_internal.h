/*-------------------------------------------------------------------------
 *
 * decode_internal.h
 *	  What the files of the decoder share: see decode.c for the whole.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DETECT_DECODE_INTERNAL_H
#define DETECT_DECODE_INTERNAL_H

#include "fmgr.h"
#include "utils/resowner.h"

#include "decode.h"
#include "decode_structure.h"
#include "json_scan.h"

/*
 * A step of one or more paths; the root stands for "$".  The values that the
 * steps below a node lead to are neighbours in the array of targets, so that
 * all of them are forgotten at once when a member occurs again.
 */
typedef struct DecodeNode
{
	const char *name; /* of a member; NULL: item of an array */
	size_t name_bytes;
	const char *quoted;	 /* name as it stands in most messages */
	size_t quoted_bytes; /* 0: the name can't stand there unescaped */
	int index;			 /* of an item, from 0 */

	int target;		  /* a path ends here: where its value goes */
	int first_target; /* of this node and all below it */
	int end_target;

	struct DecodeNode *children; /* linked by sibling */
	struct DecodeNode *sibling;
	struct DecodeNode **buckets; /* members by hash; NULL: none */
	struct DecodeNode *bucket_next;
	uint32 bucket_mask;
	bool has_items;	  /* some child is an item of an array */
	bool is_unnested; /* each item of it becomes an element */

	/* What the last message taught: the member to expect first, and next. */
	struct DecodeNode *first_member;
	struct DecodeNode *follower;

	struct UnknownMembers *unknown_members; /* of a root that counts them */
	struct UnknownMember *unknown;			/* set if this is one of them */
} DecodeNode;

/* Names counted at a root; all further ones count as "(others)". */
#define MAX_UNKNOWN_NAMES 100

/* A member of the root that no path leads into, with a node to be found by. */
typedef struct UnknownMember
{
	DecodeNode node;
	char name[NAMEDATALEN];
	uint64 count;
	bool is_seen; /* in the walk that is not counted yet */
	struct UnknownMember *next_seen;
} UnknownMember;

typedef struct UnknownMembers
{
	MemoryContext context;
	int count;
	UnknownMember *members[MAX_UNKNOWN_NAMES + 1]; /* the first is all others */

	/* What the last walk met; it counts once its outcome is known. */
	UnknownMember *seen;
	int new_count;
	JsonValue new_names[MAX_UNKNOWN_NAMES];
} UnknownMembers;

/* All paths from one place, "$" or "@", and what the last walk found there. */
typedef struct DecodeTree
{
	DecodeNode *root;
	int target_count;
	JsonValue *targets;
} DecodeTree;

/* More items of one message are not unnested. */
#define MAX_ITEMS 100000

/* Where the items of the unnested array begin in the payload. */
typedef struct DecodeItems
{
	MemoryContext context;
	int count; /* beyond MAX_ITEMS they are only counted */
	int capacity;
	const char **starts;
} DecodeItems;

/* Error texts of ours quote at most this much of the payload. */
#define MAX_QUOTED_BYTES 40

/* How to convert a value without the input function of its type. */
typedef enum FastKind
{
	FAST_NONE,
	FAST_BOOL,
	FAST_INT2,
	FAST_INT4,
	FAST_INT8,
	FAST_FLOAT4,
	FAST_FLOAT8,
	FAST_TEXT,
	FAST_JSON,
	FAST_DATE,
	FAST_TIMESTAMP,
	FAST_TIMESTAMPTZ,
	FAST_UUID
} FastKind;

typedef enum FastResult
{
	FAST_DONE,
	FAST_ERROR,	 /* no value of the type */
	FAST_UNKNOWN /* the input function has to judge */
} FastResult;

/* A decimal number: mantissa * 10 ^ exponent. */
typedef struct Decimal
{
	uint64 mantissa;
	int exponent;
	bool is_negative;
	bool is_whole; /* written without point and exponent */
	bool fits;	   /* mantissa and exponent are all of it */
} Decimal;

/* The slow path of a column. */
typedef struct DecodeInput
{
	const char *name;
	Oid type;
	int32 typmod;
	EpochUnit epoch;	  /* where the type has to see the time */
	bool takes_json;	  /* json and jsonb, and domains over them */
	bool takes_structure; /* arrays, composites, domains over them */
	bool is_time;		  /* of which numbers are no values */
	bool checks_null;	  /* a domain with constraints */
	bool reports_internally;

	/* What is looked up once a batch, and again after a call that failed. */
	MemoryContext context;
	bool is_ready;
	FmgrInfo input;
	Oid input_parameter;
	DecodeStructure structure;
} DecodeInput;

/* The subtransaction in which calls may fail. */
typedef struct DecodeGuard
{
	bool is_open;
	int nest_level;
	ResourceOwner owner;
} DecodeGuard;

/* The payload that is being decoded. */
typedef struct DecodeBuffer
{
	MemoryContext context;
	char *text; /* in the server's encoding; then zero bytes */
	size_t bytes;
	char *scratch;		   /* room for it, two quotes and a zero byte */
	size_t capacity_bytes; /* of text, in either */
} DecodeBuffer;

typedef Datum (*GuardedCall)(void *argument);

/* in decode.c */
extern bool
decode_fail(DecodeError *error, int sqlstate, const char *format, ...) pg_attribute_printf(3, 4);

/* in decode_buffer.c */
extern void decode_buffer_init(DecodeBuffer *buffer, MemoryContext context);
extern void decode_buffer_begin(DecodeBuffer *buffer);
extern bool decode_buffer_load(DecodeBuffer *buffer, DecodeGuard *guard, const char *payload,
							   size_t payload_bytes, DecodeError *error);

/* in decode_path.c */
extern void decode_tree_init(DecodeTree *tree);
extern DecodeNode *decode_tree_add(DecodeTree *tree, const char *path, bool has_unnest);
extern void decode_tree_finish(DecodeTree *tree);
extern void decode_node_set_name(DecodeNode *node, const char *name, size_t name_bytes);
extern void decode_add_member(DecodeNode *node, DecodeNode *member);
extern DecodeNode *decode_find_member(const DecodeNode *node, const char *name, size_t name_bytes);

/* in decode_unknown.c */
extern void unknown_init(DecodeNode *root);
extern void unknown_begin_walk(DecodeNode *root);
extern void unknown_note_name(DecodeNode *root, const JsonValue *name, const char *unescaped,
							  size_t unescaped_bytes);
extern void unknown_count_walk(DecodeNode *root, char *scratch);
extern int unknown_list(const DecodeNode *root, bool of_item, UnknownField *fields);
extern void unknown_reset(DecodeNode *root);

/* in decode_walk.c */
extern bool decode_walk_payload(const DecodeBuffer *buffer, DecodeGuard *guard, DecodeTree *tree,
								DecodeItems *items, JsonValue *top, DecodeError *error);
extern void
decode_walk_item(const DecodeBuffer *buffer, const char *start, DecodeTree *tree, JsonValue *item);

/* in decode_input.c */
extern void guard_begin(DecodeGuard *guard);
extern bool guard_call(DecodeGuard *guard, GuardedCall call, void *argument, bool internal_is_data,
					   Datum *result, DecodeError *error);
extern void guard_end(DecodeGuard *guard);
extern void decode_input_init(DecodeInput *input, const DecodeColumn *column);
extern void decode_input_begin(DecodeInput *input);
extern bool decode_input_value(DecodeInput *input, DecodeGuard *guard, const JsonValue *value,
							   char *scratch, Datum *result, DecodeError *error);
extern bool decode_input_null(DecodeInput *input, DecodeGuard *guard, DecodeError *error);

/* in json_value.c */
extern FastKind json_fast_kind(Oid type, int32 typmod);
extern FastResult json_value_convert(FastKind kind, int32 typmod, const JsonValue *value,
									 Datum *result, DecodeError *error);

/* in json_number.c */
extern bool json_number_read(const JsonValue *value, Decimal *decimal);
extern FastResult
json_number_convert(FastKind kind, const JsonValue *value, Datum *result, DecodeError *error);

/* in json_epoch.c */
extern FastResult
json_epoch_convert(EpochUnit unit, const JsonValue *value, Datum *result, DecodeError *error);

/* in json_time.c */
extern FastResult json_time_convert(FastKind kind, const char *p, const char *end, Datum *result);

/*
 * Has the last walk met members that are not counted yet?
 */
static inline bool
unknown_was_met(const DecodeNode *root)
{
	const UnknownMembers *unknown = root->unknown_members;

	return unknown && (unknown->seen || unknown->new_count > 0);
}

/*
 * Note that the walk met a member that no path leads into.
 */
static inline void
unknown_note(UnknownMembers *unknown, UnknownMember *member)
{
	if (member->is_seen)
		return;
	member->is_seen = true;
	member->next_seen = unknown->seen;
	unknown->seen = member;
}

#endif /* DETECT_DECODE_INTERNAL_H */
