/* Errors of the daemon: see gerror.h. */
#include "gerror.h"

#include <errno.h>
#include <string.h>

static const struct {
	const char *word;
	unsigned http_status;
} codes[] = {
	[COP_ERR_BAD_REQUEST] = {"bad-request", 400},
	[COP_ERR_NOT_FOUND] = {"not-found", 404},
	[COP_ERR_NAME_TAKEN] = {"name-taken", 409},
	[COP_ERR_BUSY] = {"busy", 409},
	[COP_ERR_IN_USE] = {"in-use", 409},
	[COP_ERR_WRONG_STATE] = {"wrong-state", 409},
	[COP_ERR_LIMIT] = {"limit", 403},
	[COP_ERR_DAMAGED] = {"damaged", 422},
	[COP_ERR_UNSUPPORTED] = {"unsupported", 422},
	[COP_ERR_NO_SPACE] = {"no-space", 507},
	[COP_ERR_TIMEOUT] = {"timeout", 504},
	[COP_ERR_INTERNAL] = {"internal", 500},
};

G_DEFINE_QUARK(cop-gerror-quark, cop_gerror)

static enum cop_error_code code_of(const GError *error)
{
	if (error->domain != COP_ERROR || error->code < 0 ||
	    error->code >= (int)G_N_ELEMENTS(codes))
		return COP_ERR_INTERNAL;
	return (enum cop_error_code)error->code;
}

const char *cop_gerror_word(const GError *error)
{
	return codes[code_of(error)].word;
}

unsigned cop_gerror_http_status(const GError *error)
{
	return codes[code_of(error)].http_status;
}

char *cop_gerror_message(const GError *error)
{
	const char *nl = strchr(error->message, '\n');

	return nl ? g_strndup(error->message, (gsize)(nl - error->message))
		  : g_strdup(error->message);
}

char *cop_gerror_hint(const GError *error)
{
	const char *nl = strchr(error->message, '\n');

	return g_strdup(nl ? nl + 1 : "");
}

gboolean cop_gerror_errno(GError **error, int errnum, const char *fmt, ...)
{
	g_autofree char *what = NULL;
	va_list args;

	va_start(args, fmt);
	what = g_strdup_vprintf(fmt, args);
	va_end(args);
	if (errnum == ENOSPC || errnum == EDQUOT)
		g_set_error(error, COP_ERROR, COP_ERR_NO_SPACE,
			    "%s: %s\nfree some space, or use another --dir", what,
			    g_strerror(errnum));
	else
		g_set_error(error, COP_ERROR,
			    errnum == ENOENT ? COP_ERR_NOT_FOUND : COP_ERR_INTERNAL, "%s: %s", what,
			    g_strerror(errnum));
	return FALSE;
}

gboolean cop_gerror_set(GError **error, enum cop_error_code code, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	if (error && !*error)
		*error = g_error_new_valist(COP_ERROR, (int)code, fmt, args);
	va_end(args);
	return FALSE;
}
