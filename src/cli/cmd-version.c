/* SPDX-License-Identifier: MIT */
/* cmd-version.c: coppice version. */
#include "cli/answer.h"
#include "cli/client.h"
#include "cli/commands.h"
#include "cli/output.h"

static int run(struct cop_cli *cli, const void *options, char **args, GError **error)
{
	g_autoptr(JsonObject) answer = NULL;
	struct cop_client *client;

	if (!cli->json)
		cop_output_line("coppice %s\n", COPPICE_VERSION);
	client = cop_cli_client(cli, error);
	if (client)
		answer = cop_client_call(client, "GET", "/v1/version", NULL, error);
	if (!answer)
		return COP_EXIT_FAILED;
	if (cli->json)
		cop_output_json(answer);
	else
		cop_output_line(
			"%s %s, process %u, looks after %s\n", cop_answer_string(answer, "name"),
			cop_answer_string(answer, "version"),
			(unsigned)cop_answer_uint(answer, "pid"), cop_answer_string(answer, "dir"));
	return COP_EXIT_OK;
}

const struct cop_command cop_cmd_version = {
	.name = "version",
	.arguments = "",
	.summary = "Print the versions of coppice and of the daemon",
	.details = "'coppice --version' prints that of coppice alone and asks no daemon.",
	.run = run,
};
