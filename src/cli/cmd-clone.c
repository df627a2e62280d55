/* SPDX-License-Identifier: MIT */
/* cmd-clone.c: coppice clone TEMPLATE. */
#include "cli/answer.h"
#include "cli/client.h"
#include "cli/clone-options.h"
#include "cli/commands.h"
#include "cli/copies.h"
#include "cli/options.h"
#include "cli/output.h"
#include "cli/progress.h"
#include "cli/vm-line.h"

struct clone_options {
	char *count, **names;
	gboolean ssh, paused;
	struct cop_clone_options told;
};

static const GOptionEntry entries[] = {
	{"count", 'n', 0, G_OPTION_ARG_STRING, COP_OPTION(clone_options, count),
	 "Number of clones (default 1, or one for each --name)", "N"},
	{"name", 0, 0, G_OPTION_ARG_STRING_ARRAY, COP_OPTION(clone_options, names),
	 "Name of a clone (may be repeated; default TEMPLATE-1, TEMPLATE-2, ...)", "NAME"},
	{"ssh", 0, 0, G_OPTION_ARG_NONE, COP_OPTION(clone_options, ssh),
	 "Lead a free port of 127.0.0.1 to each clone's port 22", NULL},
	{"paused", 0, 0, G_OPTION_ARG_NONE, COP_OPTION(clone_options, paused),
	 "Leave the clones paused at the template's instant", NULL},
	COP_CLONE_ENTRIES(clone_options),
	{NULL},
};

static int run(struct cop_cli *cli, const void *options, char **args, GError **error)
{
	const struct clone_options *o = options;
	g_autoptr(JsonObject) request = json_object_new(), answer = NULL;
	g_autofree char *path = NULL, *text = NULL;
	struct cop_progress *progress;
	struct cop_client *client;
	unsigned nr;

	if (!cop_options_name("template", args[0], error) ||
	    !cop_copies_set(request, "clone", o->count, o->names, &nr, error) ||
	    !cop_clone_options_set(request, &o->told, error))
		return COP_EXIT_USAGE;
	if (o->ssh)
		json_object_set_boolean_member(request, "ssh", TRUE);
	if (o->paused)
		json_object_set_boolean_member(request, "paused", TRUE);
	client = cop_cli_client(cli, error);
	if (!client)
		return COP_EXIT_FAILED;
	path = cop_client_path("/v1/templates/", args[0], "/clone");
	text = g_strdup_printf("cloning %s", args[0]);
	progress = cop_progress_begin(text, cli->dir, nr);
	answer = cop_client_call(client, "POST", path, request, error);
	cop_progress_end(progress);
	if (!answer)
		return COP_EXIT_FAILED;
	if (cli->json) {
		cop_output_json(answer);
	} else {
		cop_vm_line_clones(cop_answer_array(answer, "vms"),
				   cop_answer_double(answer, "all_ms"),
				   o->paused ? "paused" : "running");
		cop_vm_line_agents(answer);
	}
	return COP_EXIT_OK;
}

const struct cop_command cop_cmd_clone = {
	.name = "clone",
	.arguments = "TEMPLATE",
	.summary = "Start clones of a template",
	.min_args = 1,
	.max_args = 1,
	.options = entries,
	.options_bytes = sizeof(struct clone_options),
	.run = run,
};
