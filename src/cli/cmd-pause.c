/* SPDX-License-Identifier: MIT */
/* cmd-pause.c: coppice pause VM... */
#include "cli/cli.h"
#include "cli/commands.h"
#include "cli/each.h"

struct pause_options {
	gboolean all;
};

static const GOptionEntry entries[] = {
	{"all", 'a', 0, G_OPTION_ARG_NONE, COP_OPTION(pause_options, all), "All running VMs", NULL},
	{NULL},
};

static int run(struct cop_cli *cli, const void *options, char **args, GError **error)
{
	static const char *const states[] = {"running", NULL};
	static const struct cop_each each = {.method = "POST",
					     .before = "/v1/vms/",
					     .after = "/pause",
					     .doing = "pausing",
					     .done = "paused",
					     .result = "vms"};
	const struct pause_options *o = options;
	g_auto(GStrv) names = cop_each_vms(cli, "pause", args, o->all, states, error);

	return names ? cop_each_run(cli, &each, names, error) : COP_EXIT_FAILED;
}

const struct cop_command cop_cmd_pause = {
	.name = "pause",
	.arguments = "VM...",
	.summary = "Stop the processors of VMs",
	.max_args = COP_ANY_NUMBER,
	.options = entries,
	.options_bytes = sizeof(struct pause_options),
	.run = run,
};
