/*-------------------------------------------------------------------------
 *
 * sql.c
 *	  SQL in the name of the caller: commands, errors in texts he gave, and texts
 *	  that he could have given.
 *
 * A verb is called within a statement of the caller, while the error is in a
 * text that the statement hands over: errors point into that text, which is
 * sent as the internal query, and the position in the statement is withdrawn.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "executor/spi.h"
#include "miscadmin.h"
#include "sql.h"
#include "utils/guc.h"

/*
 * Run a command as the current user, with the rights and settings of now.
 */
void
sql_execute(const char *command)
{
	int result;

	SPI_connect();
	result = SPI_execute(command, false, 0);
	if (result < 0)
		elog(ERROR, "could not execute \"%s\": %s", command, SPI_result_code_string(result));
	SPI_finish();
}

/*
 * Error context callback of a parser; arg is an SqlText.
 */
void
sql_text_error(void *arg)
{
	const SqlText *sql = arg;
	int position = geterrposition();

	if (position > 0)
	{
		errposition(0);
		internalerrposition(position - sql->offset);
		internalerrquery(sql->text);
	}
	if (sql->hint)
		errhint("%s", sql->hint);
	errcontext("%s", sql->what);
}

/*
 * Be another user from here on, and nobody else if that is InvalidOid.  What is set
 * meanwhile, by functions of that user perhaps, ends with it.  An error ends it, too;
 * else the caller does, by sql_act_as_before().
 */
ActingUser
sql_act_as(Oid user, int restriction)
{
	ActingUser before = {.nest_level = NewGUCNestLevel()};

	GetUserIdAndSecContext(&before.user, &before.context);
	if (OidIsValid(user))
		SetUserIdAndSecContext(user, before.context | restriction);
	return before;
}

/*
 * Be again who acted before.
 */
void
sql_act_as_before(const ActingUser *before)
{
	AtEOXact_GUC(false, before->nest_level);
	SetUserIdAndSecContext(before->user, before->context);
}

/*
 * Set a setting until the innermost nest level of settings ends (NewGUCNestLevel,
 * AtEOXact_GUC).
 */
void
sql_set(const char *name, const char *value)
{
	(void) set_config_option(name, value, PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0,
							 false);
}

/*
 * Set a setting until the nest level of settings that is returned ends (AtEOXact_GUC).
 */
int
sql_begin(const char *name, const char *value)
{
	int nest_level = NewGUCNestLevel();

	sql_set(name, value);
	return nest_level;
}

/*
 * The same, to have every name that is not PostgreSQL's own written with its schema.
 */
int
sql_begin_qualified(void)
{
	return sql_begin("search_path", "pg_catalog");
}

/*
 * A literal between dollars, whose tag does not end within the text.
 */
char *
sql_dollar_quoted(const char *text)
{
	char *tag = pstrdup("$$");

	for (int i = 1;; i++)
	{
		char *quoted = psprintf("%s%s", text, tag);

		if (strstr(quoted, tag) == quoted + strlen(text))
			return psprintf("%s%s", tag, quoted);
		tag = psprintf("$q%d$", i);
	}
}
