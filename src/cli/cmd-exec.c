/* SPDX-License-Identifier: MIT */
/* cmd-exec.c: coppice exec VM -- COMMAND. */
#include "cli/commands.h"
#include "cli/exec-many.h"
#include "cli/exec-one.h"
#include "cli/exec-request.h"
#include "cli/client.h"
#include "cli/exec.h"
#include "cli/failure.h"
#include "cli/labels.h"
#include "cli/options.h"

#include <unistd.h>

struct exec_options {
	struct cop_exec_options common;
	char **labels;
	gboolean terminal, all;
};

static const GOptionEntry entries[] = {
	{"tty", 't', 0, G_OPTION_ARG_NONE, COP_OPTION(exec_options, terminal),
	 "Give the command a terminal, joined to this one", NULL},
	{"all", 'a', 0, G_OPTION_ARG_NONE, COP_OPTION(exec_options, all),
	 "In all running VMs; lines of output get the VM's name", NULL},
	{"label", 'l', 0, G_OPTION_ARG_STRING_ARRAY, COP_OPTION(exec_options, labels),
	 "In all running VMs with this label (may be repeated: with each)", "KEY=VALUE"},
	{"env", 'e', 0, G_OPTION_ARG_STRING_ARRAY, COP_OPTION(exec_options, common.env),
	 "Set in the command's environment, or taken from here (may be repeated)", "KEY[=VALUE]"},
	{"user", 'u', 0, G_OPTION_ARG_STRING, COP_OPTION(exec_options, common.user),
	 "Run as this user of the guest (default root)", "USER"},
	{"workdir", 'w', 0, G_OPTION_ARG_STRING, COP_OPTION(exec_options, common.workdir),
	 "Run in this folder of the guest", "DIR"},
	{"timeout", 0, 0, G_OPTION_ARG_STRING, COP_OPTION(exec_options, common.timeout),
	 "End the command after this time, with exit status 124", "SECONDS"},
	{"cpus", 'c', 0, G_OPTION_ARG_STRING, COP_OPTION(exec_options, common.cpus),
	 "Give it at most so much of the processors, such as 0.5", "N"},
	{"memory-max", 'm', 0, G_OPTION_ARG_STRING, COP_OPTION(exec_options, common.memory_max),
	 "Kill it when it uses more of the guest's memory", "SIZE"},
	{NULL},
};

static int run_all(struct cop_cli *cli, const struct exec_options *o, char **args, GError **error)
{
	g_autoptr(JsonObject) request = json_object_new();
	g_auto(GStrv) names = NULL;

	if (o->terminal) {
		cop_failure_usage(error, "exec: --tty goes with one VM only");
		return COP_EXIT_USAGE;
	}
	if (!cop_exec_request(request, "exec", args, &o->common, error))
		return COP_EXIT_USAGE;
	names = cop_labels_find(cli, o->labels, error);
	return names ? cop_exec_many(cli, names, request, error) : COP_EXEC_FAILED;
}

static int run(struct cop_cli *cli, const void *options, char **args, GError **error)
{
	const struct exec_options *o = options;
	g_autoptr(JsonObject) request = json_object_new();
	g_autofree char *path = NULL;

	if (o->all || o->labels)
		return run_all(cli, o, args, error);
	if (!cop_options_name("VM", args[0], error) ||
	    !cop_exec_request(request, "exec", args + 1, &o->common, error))
		return COP_EXIT_USAGE;
	if (o->terminal && (!isatty(0) || cli->json)) {
		cop_failure_usage(error, cli->json ? "exec: --tty does not go with --json"
						   : "exec: --tty needs a terminal at standard "
						     "input");
		return COP_EXIT_USAGE;
	}
	path = cop_client_path("/v1/vms/", args[0], "/exec");
	return cop_exec_one(cli, args[0], path, request, o->terminal, error);
}

const struct cop_command cop_cmd_exec = {
	.name = "exec",
	.arguments = "VM -- COMMAND...",
	.summary = "Run a command in a VM, or in many",
	.details = "With --all or --label there is no VM, and the exit status is 1 if one of them "
		   "failed. Else it is the command's; 128 and the number of the signal that ended "
		   "it; 124 after --timeout; 126 or 127 when it can't be run or is not there; 125 "
		   "when coppice itself failed. Ctrl-C goes to the command; the third one leaves.",
	.min_args = 1,
	.max_args = COP_ANY_NUMBER,
	.options = entries,
	.options_bytes = sizeof(struct exec_options),
	.failed_status = COP_EXEC_FAILED,
	.run = run,
};
