/* Errors of the daemon: GErrors of one domain, each with a stable code and a hint.
 *
 * A message says what was tried and why it failed. A second line, after '\n', is the hint: what to
 * do about it. cop_gerror_hint() and cop_gerror_message() take the two apart.
 */
#ifndef COP_DAEMON_GERROR_H
#define COP_DAEMON_GERROR_H

#include <glib.h>

#define COP_ERROR (cop_gerror_quark())

enum cop_error_code {
	COP_ERR_BAD_REQUEST,
	COP_ERR_NOT_FOUND,
	COP_ERR_NAME_TAKEN,
	COP_ERR_BUSY,
	COP_ERR_IN_USE,
	COP_ERR_WRONG_STATE,
	COP_ERR_LIMIT,
	COP_ERR_DAMAGED,
	COP_ERR_UNSUPPORTED,
	COP_ERR_NO_SPACE,
	COP_ERR_TIMEOUT,
	COP_ERR_INTERNAL,
};

GQuark cop_gerror_quark(void);

/* The code's word in the API ("not-found") and its HTTP status; errors of other domains count as
 * "internal", 500. */
const char *cop_gerror_word(const GError *error);
unsigned cop_gerror_http_status(const GError *error);

/* Caller frees. The hint is "" when the error has none. */
char *cop_gerror_message(const GError *error);
char *cop_gerror_hint(const GError *error);

/* Sets an error from an errno value: "<what>: <strerror>", with a code that fits (ENOSPC becomes
 * COP_ERR_NO_SPACE with a hint). Returns FALSE, for `return cop_gerror_errno(...)`. */
gboolean cop_gerror_errno(GError **error, int errnum, const char *fmt, ...) G_GNUC_PRINTF(3, 4);

/* Sets an error; fmt may contain "\n" before the hint. Returns FALSE. */
gboolean cop_gerror_set(GError **error, enum cop_error_code code, const char *fmt, ...)
	G_GNUC_PRINTF(3, 4);

#endif
