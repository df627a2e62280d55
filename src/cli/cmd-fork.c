/* SPDX-License-Identifier: MIT */
/* cmd-fork.c: coppice fork VM. */
#include "cli/answer.h"
#include "cli/client.h"
#include "cli/clone-options.h"
#include "cli/commands.h"
#include "cli/copies.h"
#include "cli/options.h"
#include "cli/output.h"
#include "cli/progress.h"
#include "cli/text.h"
#include "cli/vm-line.h"

struct fork_options {
	char *count, *template, **names;
	gboolean ssh;
	struct cop_clone_options told;
};

static const GOptionEntry entries[] = {
	{"count", 'n', 0, G_OPTION_ARG_STRING, COP_OPTION(fork_options, count),
	 "Number of clones besides VM (default 1, or one for each --name)", "N"},
	{"name", 0, 0, G_OPTION_ARG_STRING_ARRAY, COP_OPTION(fork_options, names),
	 "Name of a clone (may be repeated; default VM-1, VM-2, ...)", "NAME"},
	{"template", 0, 0, G_OPTION_ARG_STRING, COP_OPTION(fork_options, template),
	 "Keep the template under this name; else it goes when its last VM goes", "NAME"},
	{"ssh", 0, 0, G_OPTION_ARG_NONE, COP_OPTION(fork_options, ssh),
	 "Lead a free port of 127.0.0.1 to each clone's port 22", NULL},
	COP_CLONE_ENTRIES(fork_options),
	{NULL},
};

static void print(const char *vm, JsonObject *answer)
{
	double ms = cop_answer_double(cop_answer_object(answer, "freeze"), "window_ms");
	g_autofree char *window = cop_text_duration(ms);

	cop_output_line("forked '%s' by way of '%s': the VM stood still for %s\n", vm,
			cop_answer_string(cop_answer_object(answer, "template"), "name"), window);
	cop_vm_line_clones(cop_answer_array(answer, "vms"), cop_answer_double(answer, "all_ms"),
			   "running");
	cop_vm_line_agents(answer);
}

static int run(struct cop_cli *cli, const void *options, char **args, GError **error)
{
	const struct fork_options *o = options;
	g_autoptr(JsonObject) request = json_object_new(), answer = NULL;
	g_autofree char *path = NULL, *text = NULL;
	struct cop_progress *progress;
	struct cop_client *client;
	unsigned nr;

	if (!cop_options_name("VM", args[0], error) ||
	    !cop_options_name("template", o->template, error) ||
	    !cop_copies_set(request, "fork", o->count, o->names, &nr, error) ||
	    !cop_clone_options_set(request, &o->told, error))
		return COP_EXIT_USAGE;
	if (o->template)
		json_object_set_string_member(request, "template", o->template);
	if (o->ssh)
		json_object_set_boolean_member(request, "ssh", TRUE);
	client = cop_cli_client(cli, error);
	if (!client)
		return COP_EXIT_FAILED;
	path = cop_client_path("/v1/vms/", args[0], "/fork");
	text = g_strdup_printf("forking %s", args[0]);
	progress = cop_progress_begin(text, cli->dir, nr);
	answer = cop_client_call(client, "POST", path, request, error);
	cop_progress_end(progress);
	if (!answer)
		return COP_EXIT_FAILED;
	if (cli->json)
		cop_output_json(answer);
	else
		print(args[0], answer);
	return COP_EXIT_OK;
}

const struct cop_command cop_cmd_fork = {
	.name = "fork",
	.arguments = "VM",
	.summary = "Freeze a VM and clone it at once",
	.details = "VM itself goes on as one more clone of the same instant.",
	.min_args = 1,
	.max_args = 1,
	.options = entries,
	.options_bytes = sizeof(struct fork_options),
	.run = run,
};
