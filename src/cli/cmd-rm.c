/* SPDX-License-Identifier: MIT */
/* cmd-rm.c: coppice rm VM... */
#include "cli/commands.h"
#include "cli/each.h"

struct rm_options {
	gboolean all, force;
};

static const GOptionEntry entries[] = {
	{"all", 'a', 0, G_OPTION_ARG_NONE, COP_OPTION(rm_options, all),
	 "All stopped and failed VMs; with --force all VMs", NULL},
	{"force", 'f', 0, G_OPTION_ARG_NONE, COP_OPTION(rm_options, force),
	 "End a running VM first, as by pulling the plug", NULL},
	{NULL},
};

static int run(struct cop_cli *cli, const void *options, char **args, GError **error)
{
	static const char *const ended[] = {"stopped", "failed", NULL};
	const struct rm_options *o = options;
	struct cop_each each = {.method = "DELETE",
				.before = "/v1/vms/",
				.after = o->force ? "?force=true" : "",
				.doing = "removing",
				.done = "removed",
				.result = "removed"};
	g_auto(GStrv) names = cop_each_vms(cli, "rm", args, o->all, o->force ? NULL : ended, error);

	return names ? cop_each_run(cli, &each, names, error) : COP_EXIT_FAILED;
}

const struct cop_command cop_cmd_rm = {
	.name = "rm",
	.arguments = "VM...",
	.summary = "Remove VMs and their disks",
	.max_args = COP_ANY_NUMBER,
	.options = entries,
	.options_bytes = sizeof(struct rm_options),
	.run = run,
};
