/* SPDX-License-Identifier: MIT */
/* cmd-stop.c: coppice stop VM... */
#include "cli/commands.h"
#include "cli/each.h"
#include "cli/options.h"

#define MAX_TIMEOUT_S 3600

struct stop_options {
	gboolean all, force;
	char *timeout;
};

static const GOptionEntry entries[] = {
	{"all", 'a', 0, G_OPTION_ARG_NONE, COP_OPTION(stop_options, all),
	 "All running and paused VMs", NULL},
	{"timeout", 't', 0, G_OPTION_ARG_STRING, COP_OPTION(stop_options, timeout),
	 "Time that the guest has to power off before it is ended by force", "SECONDS"},
	{"force", 'f', 0, G_OPTION_ARG_NONE, COP_OPTION(stop_options, force),
	 "End it at once, as by pulling the plug", NULL},
	{NULL},
};

static int run(struct cop_cli *cli, const void *options, char **args, GError **error)
{
	static const char *const states[] = {"starting", "running", "paused", NULL};
	const struct stop_options *o = options;
	g_autoptr(JsonObject) body = json_object_new();
	struct cop_each each = {.method = "POST",
				.before = "/v1/vms/",
				.after = "/stop",
				.body = body,
				.doing = "stopping",
				.done = "stopped",
				.result = "vms"};
	g_auto(GStrv) names = NULL;
	uint64_t timeout_s;

	if (!cop_options_number("--timeout", o->timeout, 0, MAX_TIMEOUT_S, &timeout_s, error))
		return COP_EXIT_USAGE;
	if (o->timeout)
		json_object_set_int_member(body, "timeout_s", (gint64)timeout_s);
	if (o->force)
		json_object_set_boolean_member(body, "force", TRUE);
	names = cop_each_vms(cli, "stop", args, o->all, states, error);
	return names ? cop_each_run(cli, &each, names, error) : COP_EXIT_FAILED;
}

const struct cop_command cop_cmd_stop = {
	.name = "stop",
	.arguments = "VM...",
	.summary = "Power VMs off: cleanly, then by force after a time",
	.max_args = COP_ANY_NUMBER,
	.options = entries,
	.options_bytes = sizeof(struct stop_options),
	.run = run,
};
