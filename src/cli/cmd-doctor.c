/* SPDX-License-Identifier: MIT */
/* cmd-doctor.c: coppice doctor. */
#include "cli/answer.h"
#include "cli/client.h"
#include "cli/commands.h"
#include "cli/output.h"

#include <string.h>

static const char *const headings[] = {"STATUS", "CHECK", "FOUND", NULL};

/* Returns the exit status. */
static int judge(JsonArray *checks)
{
	for (guint i = 0; i < cop_answer_length(checks); i++) {
		if (strcmp(cop_answer_string(cop_answer_element(checks, i), "status"), "fail") == 0)
			return COP_EXIT_FAILED;
	}
	return COP_EXIT_OK;
}

static void print(JsonObject *answer)
{
	JsonArray *checks = cop_answer_array(answer, "checks");
	struct cop_table *table = cop_table_new(headings);
	gboolean first = TRUE;

	for (guint i = 0; i < cop_answer_length(checks); i++) {
		JsonObject *check = cop_answer_element(checks, i);

		cop_table_add(table, cop_answer_string(check, "status"));
		cop_table_add(table, cop_answer_string(check, "name"));
		cop_table_add(table, cop_answer_string(check, "found"));
	}
	cop_table_print(table);
	cop_table_free(table);
	for (guint i = 0; i < cop_answer_length(checks); i++) {
		JsonObject *check = cop_answer_element(checks, i);
		const char *advice = cop_answer_string(check, "advice");

		if (!*advice)
			continue;
		if (first) {
			cop_output_line("\n");
			cop_output_line("What to do:\n");
		}
		first = FALSE;
		cop_output_line("  %s: %s\n", cop_answer_string(check, "name"), advice);
	}
	cop_output_line("\n");
	cop_output_line("'--accel auto' picks %s here, '--engine auto' %s.\n",
			cop_answer_string(answer, "accel"), cop_answer_string(answer, "engine"));
}

static int run(struct cop_cli *cli, const void *options, char **args, GError **error)
{
	struct cop_client *client = cop_cli_client(cli, error);
	g_autoptr(JsonObject) answer = NULL;

	if (client)
		answer = cop_client_call(client, "GET", "/v1/doctor", NULL, error);
	if (!answer)
		return COP_EXIT_FAILED;
	if (cli->json)
		cop_output_json(answer);
	else
		print(answer);
	return judge(cop_answer_array(answer, "checks"));
}

const struct cop_command cop_cmd_doctor = {
	.name = "doctor",
	.arguments = "",
	.summary = "Find out what this host can and cannot do",
	.details =
		"Prints what was found and what to do about it. Exit status 1 if a check failed.",
	.run = run,
};
