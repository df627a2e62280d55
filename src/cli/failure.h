/* SPDX-License-Identifier: MIT */
/*
 * failure.h: the errors of the client: GErrors of one domain, each with a code and perhaps a hint.
 *
 * An error says what was tried and why it failed. The hint, what to do about it, follows after a
 * newline in the GError's message; cop_failure_take_apart() separates the two.
 */
#ifndef COP_CLI_FAILURE_H
#define COP_CLI_FAILURE_H

#include <glib.h>
#include <json-glib/json-glib.h>

#define COP_FAILURE (cop_failure_quark())

enum cop_failure {
	COP_FAILURE_USAGE,    /* wrong option or argument: exit status 2; all others: 1 */
	COP_FAILURE_INTERNAL, /* "internal", and whatever word this client does not know */
	COP_FAILURE_BAD_REQUEST,
	COP_FAILURE_NOT_FOUND,
	COP_FAILURE_NAME_TAKEN,
	COP_FAILURE_BUSY,
	COP_FAILURE_IN_USE,
	COP_FAILURE_WRONG_STATE,
	COP_FAILURE_LIMIT,
	COP_FAILURE_DAMAGED,
	COP_FAILURE_UNSUPPORTED,
	COP_FAILURE_NO_SPACE,
	COP_FAILURE_TIMEOUT,
	COP_FAILURE_UNREACHABLE, /* no daemon; never said by one */
};

GQuark cop_failure_quark(void);

/* Set *@error; @hint may be NULL or "". Returns FALSE, so that a caller can return it. */
gboolean cop_failure_set(GError **error, enum cop_failure code, const char *hint,
			 const char *format, ...) G_GNUC_PRINTF(4, 5);

/* Set *@error to a usage error. Returns FALSE. */
gboolean cop_failure_usage(GError **error, const char *format, ...) G_GNUC_PRINTF(2, 3);

/* Set *@error from the daemon's Error object, which may have any shape. Returns FALSE. */
gboolean cop_failure_from_json(GError **error, JsonObject *answer, unsigned http_status);

/* Message and hint ("" when there is none) of any GError, made safe to print. Caller frees both. */
void cop_failure_take_apart(const GError *error, char **ret_message, char **ret_hint);

/* {"code":…,"message":…,"hint":…}; the caller owns it. */
JsonObject *cop_failure_to_json(const GError *error);

/*
 * Print @error on stderr: "coppice: MESSAGE" and "  hint: HINT", or for a usage error of @command
 * (words of the command, "" for none) "coppice: MESSAGE" and "try 'coppice COMMAND --help'".
 */
void cop_failure_print(const GError *error, const char *command);

#endif
