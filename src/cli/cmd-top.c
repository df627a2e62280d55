/* SPDX-License-Identifier: MIT */
/* cmd-top.c: coppice top: what VMs cost, live. */
#include "cli/answer.h"
#include "cli/client.h"
#include "cli/commands.h"
#include "cli/memory.h"
#include "cli/output.h"

#include <unistd.h>

#define PERIOD_US (2 * G_USEC_PER_SEC)

struct top_options {
	gboolean once;
};

static const GOptionEntry entries[] = {
	{"once", '1', 0, G_OPTION_ARG_NONE, COP_OPTION(top_options, once),
	 "Print once and end", NULL},
	{NULL},
};

static int run(struct cop_cli *cli, const void *options, char **args, GError **error)
{
	const struct top_options *o = options;
	struct cop_client *client = cop_cli_client(cli, error);
	gboolean live = !o->once && !cli->json && isatty(STDOUT_FILENO);

	if (!client)
		return COP_EXIT_FAILED;
	for (;;) {
		g_autoptr(JsonObject) stats =
			cop_client_call(client, "GET", "/v1/stats", NULL, error);

		if (!stats)
			return COP_EXIT_FAILED;
		if (cli->json)
			cop_output_json(stats);
		if (live)
			fputs("\033[H\033[J", stdout); /* from the top, rest cleared */
		if (!cli->json) {
			cop_memory_print_total(stats);
			cop_output_line("\n");
			cop_memory_print_vms(cop_answer_array(stats, "vms"));
		}
		fflush(stdout);
		if (!live)
			return COP_EXIT_OK;
		g_usleep(PERIOD_US);
	}
}

const struct cop_command cop_cmd_top = {
	.name = "top",
	.arguments = "",
	.summary = "Watch what VMs cost, every two seconds",
	.details = "Columns as for 'coppice stats'. Ctrl-C ends it. When standard output is no terminal, "
		   "and with --json, it prints once.",
	.options = entries,
	.options_bytes = sizeof(struct top_options),
	.run = run,
};
