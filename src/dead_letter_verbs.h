/*-------------------------------------------------------------------------
 *
 * dead_letter_verbs.h
 *	  The dead letters that a verb is about.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DETECT_DEAD_LETTER_VERBS_H
#define DETECT_DEAD_LETTER_VERBS_H

#include "detect.h"

/* The condition that chooses them; its parameters are those of LetterChoice. */
#define LETTERS_CHOSEN                                               \
	"stream_id = $1 AND recorded_at >= $2 AND recorded_at < $3 AND " \
	"($4 IS NULL OR sqlstate = $4)"

typedef struct LetterChoice
{
	Stream *stream;
	Oid types[4];
	Datum values[4];
	char nulls[4];
} LetterChoice;

/* in dead_letter_verbs.c */
extern int64 letter_choice_execute(const LetterChoice *choice, const char *sql);

/* in dead_letter_refill.c */
extern void letters_refill(const LetterChoice *choice);

#endif /* DETECT_DEAD_LETTER_VERBS_H */
