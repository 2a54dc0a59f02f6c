/*-------------------------------------------------------------------------
 *
 * failure.c
 *	  What an error asks for: a dead letter, another try, or a human.
 *
 *-------------------------------------------------------------------------
 */
#include "detect.h"

#include "apply/applier.h"
#include "apply/attempt.h"
#include "apply/dead_letter.h"
#include "utils/elog.h"

/*
 * Sort an error into the three kinds.  Whatever is not known for certain is
 * FAILURE_UNKNOWN: the applier finds out whether it fails for one element
 * alone, in which case that element is to blame.
 */
FailureKind
failure_kind(const ErrorData *error)
{
	int sqlstate = error->sqlerrcode;

	switch (sqlstate)
	{
		case ERRCODE_T_R_SERIALIZATION_FAILURE:
		case ERRCODE_T_R_DEADLOCK_DETECTED:
		case ERRCODE_LOCK_NOT_AVAILABLE:
		case ERRCODE_QUERY_CANCELED:
		case ERRCODE_READ_ONLY_SQL_TRANSACTION:
		case ERRCODE_DATA_CORRUPTED:
			return FAILURE_ENVIRONMENT;
		case ERRCODE_CHECK_VIOLATION:
			/* of a table and without a name it is no constraint: no partition */
			return error->constraint_name == NULL && error->table_name != NULL
					   ? FAILURE_CONFIGURATION
					   : FAILURE_DATA;
		case ERRCODE_RAISE_EXCEPTION:
			return FAILURE_DATA;
		case ERRCODE_DEAD_LETTER_LIMIT:
		case ERRCODE_ELEMENT_CRASHES_SERVER:
			return FAILURE_CONFIGURATION;
		default:
			break;
	}
	switch (ERRCODE_TO_CATEGORY(sqlstate))
	{
		case ERRCODE_DATA_EXCEPTION:
		case ERRCODE_INTEGRITY_CONSTRAINT_VIOLATION:
			return FAILURE_DATA;
		case ERRCODE_CONNECTION_EXCEPTION:
		case ERRCODE_INSUFFICIENT_RESOURCES:
		case ERRCODE_OPERATOR_INTERVENTION:
			return FAILURE_ENVIRONMENT;
		case ERRCODE_SYNTAX_ERROR_OR_ACCESS_RULE_VIOLATION:
		case ERRCODE_INVALID_SCHEMA_NAME:
		case ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION:
			return FAILURE_CONFIGURATION;
		default:
			return FAILURE_UNKNOWN;
	}
}

/*
 * Whether the input function of a type has refused a value in words that it has from a
 * grammar of its own.
 */
bool
failure_is_refused_value(const ErrorData *error)
{
	return strcmp(events_stage, "decode") == 0 &&
		   (error->sqlerrcode == ERRCODE_SYNTAX_ERROR || error->sqlerrcode == ERRCODE_INVALID_NAME);
}

/*
 * Raise another error if this one, of the insert of an element, is no fault of
 * the element: since its stream was made the events table has got a NOT NULL
 * column that nothing fills.  In a transaction.
 */
void
failure_check_definition(const Stream *stream, const ErrorData *error)
{
	if (error->sqlerrcode == ERRCODE_NOT_NULL_VIOLATION && error->column_name)
		stream_check_not_null(stream, error->column_name);
}

/*
 * Whether an error says that the event is there already; in a transaction.
 */
bool
failure_is_duplicate(Dedup *dedup, const ErrorData *error)
{
	return error->sqlerrcode == ERRCODE_UNIQUE_VIOLATION && error->constraint_name != NULL &&
		   dedup_owns_constraint(dedup, error->schema_name, error->table_name,
								 error->constraint_name);
}

/*
 * Whether the text of an error may show values of a row, which belong into no
 * log: who may see the stream finds it in its views.
 */
bool
failure_shows_rows(const ErrorData *error)
{
	return error->sqlerrcode == ERRCODE_RAISE_EXCEPTION ||
		   ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_DATA_EXCEPTION;
}

/*
 * What the log may say in place of an error's message.
 */
const char *
failure_message_for_log(const ErrorData *error)
{
	if (failure_shows_rows(error))
		return psprintf("SQLSTATE %s, whose message may show a row",
						unpack_sql_state(error->sqlerrcode));
	return error->message;
}
