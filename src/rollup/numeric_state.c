/*-------------------------------------------------------------------------
 *
 * numeric_state.c
 *	  Whether bytes can be the state of an aggregate that sums numbers.
 *
 * The deserial functions of sum(numeric) and its kin check how many bytes there are,
 * and believe the numbers in them: a weight that no number has makes the next addition
 * write where it likes.  Such states are kept as bytea, which anybody can write, so what
 * a number must be like is looked at here, before they read it.  A state is the count of
 * its values, one sum or two of them (numericvar_serialize in PostgreSQL's numeric.c),
 * and counters that nothing is looked up by.
 *
 *-------------------------------------------------------------------------
 */
#include "rollup/state.h"

#include "detect.h"
#include "lib/stringinfo.h"
#include "libpq/pqformat.h"
#include "utils/fmgroids.h"

#define COUNT_BYTES	 sizeof(int64)
#define NUMBER_BYTES (4 * sizeof(int32)) /* in front of the digits */
#define DIGIT_END	 10000
#define SIGN_PLUS	 0x0000
#define SIGN_MINUS	 0x4000

/* Far beyond those of a sum of squares, for which the greatest numeric has 2^16. */
#define MOST_WEIGHT (1 << 18)

/* How many sums a state begins with that this function reads. */
static int
number_of_sums(Oid deserial_function)
{
	switch (deserial_function)
	{
		case F_INT8_AVG_DESERIALIZE:
		case F_NUMERIC_AVG_DESERIALIZE:
			return 1;
		case F_NUMERIC_DESERIALIZE:
		case F_NUMERIC_POLY_DESERIALIZE:
			return 2;
		default:
			return 0;
	}
}

static bool
is_within(int32 value, int32 least, int32 most)
{
	return value >= least && value <= most;
}

/* Pass over a number; false when it can't be one. */
static bool
take_number(StringInfo bytes)
{
	int32 ndigits;
	int32 weight;
	int32 sign;
	int32 scale;

	if (bytes->len - bytes->cursor < NUMBER_BYTES)
		return false;
	ndigits = pq_getmsgint(bytes, sizeof(int32));
	weight = pq_getmsgint(bytes, sizeof(int32));
	sign = pq_getmsgint(bytes, sizeof(int32));
	scale = pq_getmsgint(bytes, sizeof(int32));
	if (!is_within(ndigits, 0, (bytes->len - bytes->cursor) / sizeof(int16)) ||
		!is_within(weight, -MOST_WEIGHT, MOST_WEIGHT) || !is_within(scale, 0, MOST_WEIGHT) ||
		(sign != SIGN_PLUS && sign != SIGN_MINUS))
		return false;
	while (ndigits-- > 0)
	{
		if (pq_getmsgint(bytes, sizeof(int16)) >= DIGIT_END)
			return false;
	}
	return true;
}

/*
 * Raise an error unless the bytes may be handed to a deserial function.
 */
void
numeric_state_check(Oid deserial_function, Datum state)
{
	bytea *value = DatumGetByteaPP(state);
	StringInfoData bytes = {.data = VARDATA_ANY(value),
							.len = VARSIZE_ANY_EXHDR(value),
							.cursor = Min(COUNT_BYTES, VARSIZE_ANY_EXHDR(value))};

	for (int i = number_of_sums(deserial_function); i > 0; i--)
	{
		if (!take_number(&bytes))
			ereport(ERROR, (errcode(ERRCODE_INVALID_BINARY_REPRESENTATION),
							errmsg("invalid state of a sum"),
							errhint("If it is in a rollup, make its states again from the events: "
									"SELECT detect.rebuild_rollup(…).")));
	}
}
