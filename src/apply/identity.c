/*-------------------------------------------------------------------------
 *
 * identity.c
 *	  From the values of an event's identity to 96 bits.
 *
 * Two events are the same exactly if PostgreSQL calls their identity columns
 * equal, so equal values must have equal bytes: the canonical bytes.  Types
 * whose equal values can differ in bytes, such as numeric or text under a
 * nondeterministic collation, have none here.
 *
 * The hash takes the place of the values, so a collision would lose an event.
 * It is SipHash-2-4 with 128 bits of output (Jean-Philippe Aumasson and Daniel
 * J. Bernstein, "SipHash: a fast short-input PRF", 2012) under a random key of
 * this process: nobody who writes messages can aim for one.  96 of the bits are
 * kept, which takes a quarter less memory: that 10^10 events, each compared with
 * 10^7 in memory, meet one by chance has a probability of 10^-12.  The message is
 * a sequence of 64-bit words, with the length before each value that has one, so
 * that different values never give the same message.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/inet.h"
#include "utils/lsyscache.h"
#include "utils/uuid.h"

#include "apply/identity.h"

/* How the canonical bytes of a type are had from its values. */
typedef enum CanonicalForm
{
	FORM_WORD_1, /* the value itself, of so many bytes */
	FORM_WORD_2,
	FORM_WORD_4,
	FORM_WORD_8,
	FORM_FLOAT_4,
	FORM_FLOAT_8,
	FORM_FIXED, /* by reference, of a fixed length */
	FORM_NAME,
	FORM_VARLENA,
	FORM_BPCHAR
} CanonicalForm;

typedef struct HashedColumn
{
	CanonicalForm form;
	int bytes; /* of FORM_FIXED */
} HashedColumn;

struct IdentityHasher
{
	int ncolumns;
	HashedColumn columns[FLEXIBLE_ARRAY_MEMBER];
};

/* State of one hash: the four words of SipHash, and the length so far. */
typedef struct Sip
{
	uint64 v0;
	uint64 v1;
	uint64 v2;
	uint64 v3;
	uint64 bytes;
} Sip;

/* The random key of this process, made by the first hasher. */
static uint64 sip_key[2];
static bool sip_key_made = false;

static inline uint64
rotate_left(uint64 word, int bits)
{
	return (word << bits) | (word >> (64 - bits));
}

static inline void
sip_round(Sip *sip)
{
	sip->v0 += sip->v1;
	sip->v1 = rotate_left(sip->v1, 13) ^ sip->v0;
	sip->v0 = rotate_left(sip->v0, 32);
	sip->v2 += sip->v3;
	sip->v3 = rotate_left(sip->v3, 16) ^ sip->v2;
	sip->v0 += sip->v3;
	sip->v3 = rotate_left(sip->v3, 21) ^ sip->v0;
	sip->v2 += sip->v1;
	sip->v1 = rotate_left(sip->v1, 17) ^ sip->v2;
	sip->v2 = rotate_left(sip->v2, 32);
}

static inline void
sip_mix(Sip *sip, uint64 word)
{
	sip->v3 ^= word;
	sip_round(sip);
	sip_round(sip);
	sip->v0 ^= word;
}

static inline void
sip_word(Sip *sip, uint64 word)
{
	sip_mix(sip, word);
	sip->bytes += sizeof(uint64);
}

/* Adds so many bytes, the last word filled up with zeros. */
static inline void
sip_bytes(Sip *sip, const char *bytes, Size nbytes)
{
	uint64 word;

	for (; nbytes >= sizeof(word); bytes += sizeof(word), nbytes -= sizeof(word))
	{
		memcpy(&word, bytes, sizeof(word));
		sip_word(sip, word);
	}
	if (nbytes > 0)
	{
		word = 0;
		memcpy(&word, bytes, nbytes);
		sip_word(sip, word);
	}
}

static inline Sip
sip_begin(void)
{
	Sip sip;

	sip.v0 = sip_key[0] ^ UINT64CONST(0x736f6d6570736575);
	sip.v1 = sip_key[1] ^ UINT64CONST(0x646f72616e646f6d) ^ 0xee;
	sip.v2 = sip_key[0] ^ UINT64CONST(0x6c7967656e657261);
	sip.v3 = sip_key[1] ^ UINT64CONST(0x7465646279746573);
	sip.bytes = 0;
	return sip;
}

static inline Identity
sip_end(Sip *sip)
{
	uint64 low;
	uint64 high;
	int i;

	sip_mix(sip, sip->bytes << 56);
	sip->v2 ^= 0xee;
	for (i = 0; i < 4; i++)
		sip_round(sip);
	low = sip->v0 ^ sip->v1 ^ sip->v2 ^ sip->v3;
	sip->v1 ^= 0xdd;
	for (i = 0; i < 4; i++)
		sip_round(sip);
	high = sip->v0 ^ sip->v1 ^ sip->v2 ^ sip->v3;
	return (Identity){.words = {low >> 32, low, high}};
}

/* Finds how a type's canonical bytes are had; false if it has none.  Domains
 * are like the type below them. */
static bool
canonical_form(Oid type, Oid collation, HashedColumn *column)
{
	Oid base = getBaseType(type);

	column->bytes = 0;
	switch (base)
	{
		case BOOLOID:
		case CHAROID:
			column->form = FORM_WORD_1;
			return true;
		case INT2OID:
			column->form = FORM_WORD_2;
			return true;
		case INT4OID:
		case OIDOID:
		case DATEOID:
			column->form = FORM_WORD_4;
			return true;
		case INT8OID:
		case TIMEOID:
		case TIMESTAMPOID:
		case TIMESTAMPTZOID:
			column->form = FORM_WORD_8;
			return true;
		case FLOAT4OID:
			column->form = FORM_FLOAT_4;
			return true;
		case FLOAT8OID:
			column->form = FORM_FLOAT_8;
			return true;
		case UUIDOID:
			column->form = FORM_FIXED;
			column->bytes = UUID_LEN;
			return true;
		case MACADDROID:
			column->form = FORM_FIXED;
			column->bytes = sizeof(macaddr);
			return true;
		case BYTEAOID:
			column->form = FORM_VARLENA;
			return true;
		case NAMEOID:
			column->form = FORM_NAME;
			return get_collation_isdeterministic(collation);
		case TEXTOID:
		case VARCHAROID:
			column->form = FORM_VARLENA;
			return get_collation_isdeterministic(collation);
		case BPCHAROID:
			column->form = FORM_BPCHAR;
			return get_collation_isdeterministic(collation);
		default:
			column->form = FORM_WORD_4;
			return get_typtype(base) == TYPTYPE_ENUM;
	}
}

/*
 * Tells whether equal values of a type have equal canonical bytes.  Reads the
 * catalogs: the caller is in a transaction.
 */
bool
identity_type_is_canonical(Oid type, Oid collation)
{
	HashedColumn column;

	return canonical_form(type, collation, &column);
}

/*
 * Prepares hashing of values of these types, all of them canonical.  Result
 * is allocated in the context.
 */
IdentityHasher *
identity_hasher_create(int ncolumns, const Oid *types, const Oid *collations, MemoryContext context)
{
	IdentityHasher *hasher;
	int i;

	if (!sip_key_made)
	{
		if (!pg_strong_random(sip_key, sizeof(sip_key)))
			ereport(ERROR, (errcode(ERRCODE_INTERNAL_ERROR),
							errmsg("could not generate a random key for identities")));
		sip_key_made = true;
	}

	hasher = MemoryContextAlloc(context, offsetof(IdentityHasher, columns) +
											 ncolumns * sizeof(HashedColumn));
	hasher->ncolumns = ncolumns;
	for (i = 0; i < ncolumns; i++)
	{
		if (!canonical_form(types[i], collations[i], &hasher->columns[i]))
			elog(ERROR, "type %u has no canonical bytes", types[i]);
	}
	return hasher;
}

/* PostgreSQL calls 0 and -0 equal, and every NaN equal to every other. */
static inline uint64
float_word(float8 value)
{
	uint64 word;

	if (isnan(value))
		return UINT64CONST(0x7ff8000000000000);
	if (value == 0)
		value = 0;
	memcpy(&word, &value, sizeof(word));
	return word;
}

/* Adds a value of variable length, its length first. */
static void
hash_varlena(Sip *sip, Datum value, bool strip_spaces)
{
	struct varlena *packed = PG_DETOAST_DATUM_PACKED(value);
	char *bytes = VARDATA_ANY(packed);
	int nbytes = VARSIZE_ANY_EXHDR(packed);

	if (strip_spaces)
		nbytes = bpchartruelen(bytes, nbytes);
	sip_word(sip, nbytes);
	sip_bytes(sip, bytes, nbytes);
	if ((Pointer) packed != DatumGetPointer(value))
		pfree(packed);
}

/* Adds one value. */
static inline void
hash_value(Sip *sip, const HashedColumn *column, Datum value)
{
	switch (column->form)
	{
		case FORM_WORD_1:
			sip_word(sip, (uint8) DatumGetChar(value));
			break;
		case FORM_WORD_2:
			sip_word(sip, DatumGetUInt16(value));
			break;
		case FORM_WORD_4:
			sip_word(sip, DatumGetUInt32(value));
			break;
		case FORM_WORD_8:
			sip_word(sip, (uint64) DatumGetInt64(value));
			break;
		case FORM_FLOAT_4:
			sip_word(sip, float_word(DatumGetFloat4(value)));
			break;
		case FORM_FLOAT_8:
			sip_word(sip, float_word(DatumGetFloat8(value)));
			break;
		case FORM_FIXED:
			sip_bytes(sip, DatumGetPointer(value), column->bytes);
			break;
		case FORM_NAME:
			sip_word(sip, strlen(NameStr(*DatumGetName(value))));
			sip_bytes(sip, NameStr(*DatumGetName(value)), strlen(NameStr(*DatumGetName(value))));
			break;
		case FORM_VARLENA:
			hash_varlena(sip, value, false);
			break;
		case FORM_BPCHAR:
			hash_varlena(sip, value, true);
			break;
	}
}

/*
 * Hashes the values, none of them NULL.  Result is never all zeros: that
 * marks an empty place in IdentitySet.
 */
Identity
identity_hash(const IdentityHasher *hasher, const Datum *values)
{
	Sip sip = sip_begin();
	Identity identity;
	int i;

	for (i = 0; i < hasher->ncolumns; i++)
		hash_value(&sip, &hasher->columns[i], values[i]);

	identity = sip_end(&sip);
	if (identity_is_empty(&identity))
		identity.words[0] = 1;
	return identity;
}
