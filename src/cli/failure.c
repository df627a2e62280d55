/* SPDX-License-Identifier: MIT */
/* failure.c: the errors of the client: see failure.h. */
#include "cli/failure.h"
#include "cli/answer.h"
#include "cli/text.h"

#include <stdio.h>
#include <string.h>

G_DEFINE_QUARK(cop - cli - failure - quark, cop_failure)

static const char *const words[] = {
	[COP_FAILURE_USAGE] = "usage",
	[COP_FAILURE_INTERNAL] = "internal",
	[COP_FAILURE_BAD_REQUEST] = "bad-request",
	[COP_FAILURE_NOT_FOUND] = "not-found",
	[COP_FAILURE_NAME_TAKEN] = "name-taken",
	[COP_FAILURE_BUSY] = "busy",
	[COP_FAILURE_IN_USE] = "in-use",
	[COP_FAILURE_WRONG_STATE] = "wrong-state",
	[COP_FAILURE_LIMIT] = "limit",
	[COP_FAILURE_DAMAGED] = "damaged",
	[COP_FAILURE_UNSUPPORTED] = "unsupported",
	[COP_FAILURE_NO_SPACE] = "no-space",
	[COP_FAILURE_TIMEOUT] = "timeout",
	[COP_FAILURE_UNREACHABLE] = "unreachable",
};

static void set(GError **error, enum cop_failure code, const char *message, const char *hint)
{
	g_autofree char *clean = cop_text_clean(message), *clean_hint = cop_text_clean(hint);

	g_set_error(error, COP_FAILURE, (int)code, "%s\n%s", clean, clean_hint);
}

gboolean cop_failure_set(GError **error, enum cop_failure code, const char *hint,
			 const char *format, ...)
{
	g_autofree char *message = NULL;
	va_list args;

	va_start(args, format);
	message = g_strdup_vprintf(format, args);
	va_end(args);
	set(error, code, message, hint);
	return FALSE;
}

gboolean cop_failure_usage(GError **error, const char *format, ...)
{
	g_autofree char *message = NULL;
	va_list args;

	va_start(args, format);
	message = g_strdup_vprintf(format, args);
	va_end(args);
	set(error, COP_FAILURE_USAGE, message, NULL);
	return FALSE;
}

gboolean cop_failure_from_json(GError **error, JsonObject *answer, unsigned http_status)
{
	JsonObject *inner = cop_answer_object(answer, "error");
	const char *word = cop_answer_string(inner, "code");
	const char *message = cop_answer_string(inner, "message");
	enum cop_failure code = COP_FAILURE_INTERNAL;

	for (size_t i = COP_FAILURE_INTERNAL; i < COP_FAILURE_UNREACHABLE; i++) {
		if (strcmp(words[i], word) == 0)
			code = (enum cop_failure)i;
	}
	if (!*message)
		return cop_failure_set(error, code, NULL,
				       "coppiced answered with HTTP status %u and no reason",
				       http_status);
	set(error, code, message, cop_answer_string(inner, "hint"));
	return FALSE;
}

void cop_failure_take_apart(const GError *error, char **ret_message, char **ret_hint)
{
	const char *newline = strchr(error->message, '\n');
	g_autofree char *message =
		newline ? g_strndup(error->message, (gsize)(newline - error->message))
			: g_strdup(error->message);

	*ret_message = cop_text_clean(message);
	*ret_hint = cop_text_clean(newline ? newline + 1 : "");
}

JsonObject *cop_failure_to_json(const GError *error)
{
	g_autofree char *message = NULL, *hint = NULL;
	JsonObject *object = json_object_new();
	int code = error->domain == COP_FAILURE ? error->code : COP_FAILURE_INTERNAL;

	cop_failure_take_apart(error, &message, &hint);
	json_object_set_string_member(object, "code", words[code]);
	json_object_set_string_member(object, "message", message);
	json_object_set_string_member(object, "hint", hint);
	return object;
}

void cop_failure_print(const GError *error, const char *command)
{
	g_autofree char *message = NULL, *hint = NULL;

	cop_failure_take_apart(error, &message, &hint);
	fprintf(stderr, "coppice: %s\n", message);
	if (*hint)
		fprintf(stderr, "  hint: %s\n", hint);
	if (g_error_matches(error, COP_FAILURE, COP_FAILURE_USAGE))
		fprintf(stderr, "try 'coppice %s%s--help'\n", command, *command ? " " : "");
}
