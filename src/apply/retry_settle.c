/*-------------------------------------------------------------------------
 *
 * retry_settle.c
 *	  What becomes of a dead letter when its element is tried again.
 *
 * The transaction that gives an element its outcome also deletes its letter, or
 * counts an attempt.  So a letter is locked before its element is tried, and one
 * that somebody else deletes or marks meanwhile is left for a later look.
 *
 *-------------------------------------------------------------------------
 */
#include "detect.h"

#include "apply/dead_letter.h"

/*
 * Lock the letters of the elements from .. to - 1; elements whose letter is not
 * to be had are gone, with all that follow of the same letter.
 */
void
retry_take(DeadLetters *letters, Batch *batch, int from, int to)
{
	for (int i = from; i < to; i++)
	{
		Element *element = &batch->elements[i];
		RetriedLetter *letter = element->letter;

		if ((i == from || element[-1].letter != letter) && !letter->is_gone)
		{
			letter->is_gone = !dead_letters_lock(letters, letter);
			batch->has_locked_rows |= letter->is_gone;
			batch->taken += !letter->is_gone;
		}
		element->is_gone = letter->is_gone;
	}
}

/*
 * Do with the letter of element i what its outcome asks for; the piece ends
 * before element "to".
 */
void
retry_settle(DeadLetters *letters, Batch *batch, int i, int to)
{
	const Element *element = &batch->elements[i];
	bool has_failed = !element->is_void && element->outcome == OUTCOME_DEAD_LETTER;
	bool is_last = i + 1 == batch->count || element[1].letter != element->letter;

	if (has_failed && element->element == element->letter->element)
	{
		dead_letters_fail_again(letters, element);
		return;
	}
	if (has_failed)
		dead_letters_write(letters, element);
	if (is_last)
		dead_letters_delete(letters, element->letter);
	else if (i + 1 == to)
		dead_letters_note_done(letters, element);
}
