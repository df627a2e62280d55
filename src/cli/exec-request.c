/* SPDX-License-Identifier: MIT */
/* exec-request.c: the options that exec and run-in share: see exec-request.h. */
#include "cli/exec-request.h"
#include "cli/exec.h"
#include "cli/failure.h"
#include "cli/options.h"

#include <string.h>

#define MAX_TIMEOUT_S (7u * 24 * 3600)

gboolean cop_exec_request(JsonObject *request, const char *command, char *const *words,
			  const struct cop_exec_options *o, GError **error)
{
	JsonArray *argv;
	JsonObject *env;
	uint64_t timeout_s = 0;

	if (!cop_options_number("--timeout", o->timeout, 1, MAX_TIMEOUT_S, &timeout_s, error))
		return FALSE;
	if (words[0] && strcmp(words[0], "--") == 0)
		words++;
	if (!words[0])
		return cop_failure_usage(error, "%s: no command: write it behind --", command);
	argv = json_array_new();
	json_object_set_array_member(request, "argv", argv);
	for (; *words; words++) {
		if (!g_utf8_validate(*words, -1, NULL))
			return cop_failure_usage(error, "%s: a word of the command is not UTF-8",
						 command);
		json_array_add_string_element(argv, *words);
	}
	if (o->env) {
		env = json_object_new();
		json_object_set_object_member(request, "env", env);
		for (char **pair = o->env; *pair; pair++) {
			if (!cop_exec_add_pair(env, "--env", *pair, TRUE, error))
				return FALSE;
		}
	}
	if (o->user)
		json_object_set_string_member(request, "user", o->user);
	if (o->workdir)
		json_object_set_string_member(request, "workdir", o->workdir);
	if (timeout_s)
		json_object_set_int_member(request, "timeout_ms", (gint64)timeout_s * 1000);
	return TRUE;
}
