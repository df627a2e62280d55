/* SPDX-License-Identifier: MIT */
/* cmd-resume.c: coppice resume VM... */
#include "cli/cli.h"
#include "cli/commands.h"
#include "cli/each.h"

struct resume_options {
	gboolean all;
};

static const GOptionEntry entries[] = {
	{"all", 'a', 0, G_OPTION_ARG_NONE, COP_OPTION(resume_options, all), "All paused VMs", NULL},
	{NULL},
};

static int run(struct cop_cli *cli, const void *options, char **args, GError **error)
{
	static const char *const states[] = {"paused", NULL};
	static const struct cop_each each = {.method = "POST",
					     .before = "/v1/vms/",
					     .after = "/resume",
					     .doing = "resuming",
					     .done = "resumed",
					     .result = "vms"};
	const struct resume_options *o = options;
	g_auto(GStrv) names = cop_each_vms(cli, "resume", args, o->all, states, error);

	return names ? cop_each_run(cli, &each, names, error) : COP_EXIT_FAILED;
}

const struct cop_command cop_cmd_resume = {
	.name = "resume",
	.arguments = "VM...",
	.summary = "Let paused VMs go on",
	.max_args = COP_ANY_NUMBER,
	.options = entries,
	.options_bytes = sizeof(struct resume_options),
	.run = run,
};
