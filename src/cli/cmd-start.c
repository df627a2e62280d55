/* SPDX-License-Identifier: MIT */
/* cmd-start.c: coppice start VM... */
#include "cli/cli.h"
#include "cli/commands.h"
#include "cli/each.h"

struct start_options {
	gboolean all;
};

static const GOptionEntry entries[] = {
	{"all", 'a', 0, G_OPTION_ARG_NONE, COP_OPTION(start_options, all),
	 "All stopped and failed VMs", NULL},
	{NULL},
};

static int run(struct cop_cli *cli, const void *options, char **args, GError **error)
{
	static const char *const states[] = {"stopped", "failed", NULL};
	static const struct cop_each each = {.method = "POST",
					     .before = "/v1/vms/",
					     .after = "/start",
					     .doing = "starting",
					     .done = "started",
					     .result = "vms"};
	const struct start_options *o = options;
	g_auto(GStrv) names = cop_each_vms(cli, "start", args, o->all, states, error);

	return names ? cop_each_run(cli, &each, names, error) : COP_EXIT_FAILED;
}

const struct cop_command cop_cmd_start = {
	.name = "start",
	.arguments = "VM...",
	.summary = "Boot stopped VMs again from their disks",
	.max_args = COP_ANY_NUMBER,
	.options = entries,
	.options_bytes = sizeof(struct start_options),
	.run = run,
};
