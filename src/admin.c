/*-------------------------------------------------------------------------
 *
 * admin.c
 *	  Who may name brokers and make streams and rollups: detect_admin.
 *
 * PostgreSQL itself would refuse a function without a word on what to type.  So
 * everybody may execute those that are for members of that role, and they look
 * first of all who calls.
 *
 *-------------------------------------------------------------------------
 */
#include "detect.h"

#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"

/*
 * Raise an error unless the caller has the privileges of detect_admin; verb is
 * the function that he calls.
 */
void
admin_require(const char *verb)
{
	Oid admin = get_role_oid("detect_admin", true);

	if (superuser() || (OidIsValid(admin) && has_privs_of_role(GetUserId(), admin)))
		return;
	ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
					errmsg("permission denied for function %s", verb),
					errhint("Have a superuser say: GRANT detect_admin TO %s;",
							quote_identifier(GetUserNameFromId(GetUserId(), false)))));
}
