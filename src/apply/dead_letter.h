/*-------------------------------------------------------------------------
 *
 * dead_letter.h
 *	  The dead letters of a stream, as its applier writes and retries them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DETECT_DEAD_LETTER_H
#define DETECT_DEAD_LETTER_H

#include "apply/batch.h"

/* A stream has as many dead letters as it may keep, and then is to pause. */
#define ERRCODE_DEAD_LETTER_LIMIT MAKE_SQLSTATE('5', '3', 'D', 'L', '1')

/* Attributes of detect._dead_letter. */
enum
{
	LETTER_ID,
	LETTER_STREAM,
	LETTER_SERVER,
	LETTER_TOPIC,
	LETTER_PARTITION,
	LETTER_OFFSET,
	LETTER_ELEMENT,
	LETTER_TIMESTAMP,
	LETTER_KEY,
	LETTER_HEADERS,
	LETTER_PAYLOAD,
	LETTER_PAYLOAD_BYTES,
	LETTER_IS_WHOLE,
	LETTER_STAGE,
	LETTER_SQLSTATE,
	LETTER_REASON,
	LETTER_ATTEMPTS,
	LETTER_RECORDED_AT,
	LETTER_LAST_ATTEMPT_AT,
	LETTER_RETRY_ASKED_AT,
	LETTER_RETRIED_ELEMENT,
	LETTER_COLUMNS
};

/* A column of a letter that a staged row has as well: of the message. */
typedef struct LetterColumn
{
	int letter;
	int staged;
} LetterColumn;

#define LETTER_MESSAGE_COLUMNS 4

/* A dead letter that is tried again; lives as long as its batch. */
struct RetriedLetter
{
	Datum values[LETTER_COLUMNS];
	bool nulls[LETTER_COLUMNS];
	int32 element;		 /* ELEMENT_MESSAGE: the whole message */
	int32 done_element;	 /* of a whole message: committed so far */
	bool is_gone;		 /* somebody else deletes or changes it */
	ItemPointerData tid; /* of the row that this transaction has locked */
};

/* The letters of a stream, as its applier writes them. */
typedef struct DeadLetters
{
	const Stream *stream;
	int64 kept;		 /* with a payload, as committed; -1: not counted */
	int64 open_kept; /* the open transaction's share */

	/* Open in the transaction that needs them, else NULL. */
	CatalogWriter *writer;
	TupleTableSlot *found;
	Relation retry_index;
	Relation element_index;
	Oid sequence;
	List *new_ground;	/* of Progress: no letters from this transaction's elements on */
	TupleDesc row_desc; /* of a row that SQL staged, as JSON shows it */
} DeadLetters;

/* in apply/dead_letter.c */
extern DeadLetters *dead_letters_create(const Stream *stream, MemoryContext context);
extern void dead_letters_recount(DeadLetters *letters);
extern void dead_letters_write(DeadLetters *letters, const Element *element);
extern bool dead_letters_lock(DeadLetters *letters, RetriedLetter *letter);
extern void dead_letters_fail_again(DeadLetters *letters, const Element *element);
extern void dead_letters_note_done(DeadLetters *letters, const Element *element);
extern void dead_letters_delete(DeadLetters *letters, const RetriedLetter *letter);
extern bool dead_letters_expire(DeadLetters *letters);
extern void dead_letters_close(DeadLetters *letters);
extern void dead_letters_commit(DeadLetters *letters);
extern void dead_letters_abort(DeadLetters *letters);

/* in apply/dead_letter_row.c */
extern const LetterColumn letter_message[LETTER_MESSAGE_COLUMNS];
extern TupleDesc dead_letter_row_desc(const Stream *stream);
extern void
dead_letter_fill_source(DeadLetters *letters, const Element *element, Datum *values, bool *nulls);
extern void dead_letter_fill_failure(const Element *element, Datum *values, bool *nulls);
extern void dead_letter_cut_payload(Datum *values, const bool *nulls);
extern void dead_letter_drop_payload(Datum *values, bool *nulls);
extern bool dead_letter_is_kept(const Datum *values, const bool *nulls);

/* Reads the letters of which a retry is asked for. */
typedef struct RetryReader RetryReader;

/* in apply/retry.c */
extern RetryReader *retry_reader_create(const Stream *stream, MemoryContext context);
extern void retry_rewind(RetryReader *reader);
extern Batch *retry_read(RetryReader *reader, StagedReader *staged_reader, List *applied);
extern void retry_take(DeadLetters *letters, Batch *batch, int from, int to);
extern void retry_settle(DeadLetters *letters, Batch *batch, int i, int to);

#endif /* DETECT_DEAD_LETTER_H */
