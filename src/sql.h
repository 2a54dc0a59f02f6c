/*-------------------------------------------------------------------------
 *
 * sql.h
 *	  SQL in the name of the caller, or of another user, and settings while it runs
 *
 *-------------------------------------------------------------------------
 */
#ifndef DETECT_SQL_H
#define DETECT_SQL_H

/* A text of the caller that is parsed. */
typedef struct SqlText
{
	const char *what; /* "query of the stream" */
	const char *text;
	int offset;		  /* of the text in what the parser sees */
	const char *hint; /* what it should look like, or NULL */
} SqlText;

/* Who acted before, and with which settings. */
typedef struct ActingUser
{
	Oid user;
	int context;
	int nest_level;
} ActingUser;

extern ActingUser sql_act_as(Oid user, int restriction);
extern void sql_act_as_before(const ActingUser *before);
extern void sql_execute(const char *command);
extern void sql_text_error(void *arg);
extern void sql_set(const char *name, const char *value);
extern int sql_begin(const char *name, const char *value);
extern int sql_begin_qualified(void);
extern char *sql_dollar_quoted(const char *text);

#endif /* DETECT_SQL_H */
