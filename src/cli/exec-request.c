/* SPDX-License-Identifier: MIT */
/* exec-request.c: the options that exec and run-in share: see exec-request.h. */
#include "cli/exec-request.h"
#include "cli/exec.h"
#include "cli/failure.h"
#include "cli/options.h"

#include <string.h>

#define MAX_TIMEOUT_S (7u * 24 * 3600)

static gboolean read_cpus(const char *text, double *ret, GError **error)
{
	char *end;

	if (!text)
		return TRUE;
	*ret = g_ascii_strtod(text, &end);
	if (end == text || *end || !(*ret >= 0.01 && *ret <= 1024))
		return cop_failure_usage(error, "--cpus: '%s' is not a number from 0.01 to 1024",
					 text);
	return TRUE;
}

gboolean cop_exec_request(JsonObject *request, const char *command, char *const *words,
			  const struct cop_exec_options *o, GError **error)
{
	JsonArray *argv;
	JsonObject *env;
	uint64_t timeout_s = 0, memory_max = 0;
	double cpus = 0;

	if (!cop_options_number("--timeout", o->timeout, 1, MAX_TIMEOUT_S, &timeout_s, error) ||
	    !read_cpus(o->cpus, &cpus, error) ||
	    !cop_options_size("--memory-max", o->memory_max, &memory_max, error))
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
	if (o->cpus)
		json_object_set_double_member(request, "cpus", cpus);
	if (o->memory_max)
		json_object_set_int_member(request, "memory_max_bytes", (gint64)memory_max);
	if (timeout_s)
		json_object_set_int_member(request, "timeout_ms", (gint64)timeout_s * 1000);
	return TRUE;
}
