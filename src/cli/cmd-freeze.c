/* SPDX-License-Identifier: MIT */
/* cmd-freeze.c: coppice freeze VM TEMPLATE. */
#include "cli/answer.h"
#include "cli/client.h"
#include "cli/commands.h"
#include "cli/options.h"
#include "cli/output.h"
#include "cli/progress.h"
#include "cli/text.h"

struct freeze_options {
	gboolean stop;
};

static const GOptionEntry entries[] = {
	{"stop", 0, 0, G_OPTION_ARG_NONE, COP_OPTION(freeze_options, stop),
	 "End the VM with the freeze instead of letting it go on as a clone", NULL},
	{NULL},
};

static void print(const char *vm, JsonObject *answer, gboolean stop)
{
	double ms = cop_answer_double(cop_answer_object(answer, "freeze"), "window_ms");
	const char *template = cop_answer_string(cop_answer_object(answer, "template"), "name");
	g_autofree char *window = cop_text_duration(ms);
	JsonObject *quiesce = cop_answer_object(answer, "quiesce");

	if (stop)
		cop_output_line("frozen '%s' as '%s': the VM has ended\n", vm, template);
	else
		cop_output_line("frozen '%s' as '%s': the VM stood still for %s\n", vm, template,
				window);
	if (!cop_answer_bool(cop_answer_object(answer, "template"), "agent"))
		cop_output_line("  no agent has answered in it: clones will repeat its random "
				"numbers, names, addresses and clock\n");
	else if (!cop_answer_bool(quiesce, "done"))
		cop_output_line("  its file systems were not at rest: %s\n",
				cop_answer_string(quiesce, "reason"));
}

static int run(struct cop_cli *cli, const void *options, char **args, GError **error)
{
	const struct freeze_options *o = options;
	g_autoptr(JsonObject) request = json_object_new(), answer = NULL;
	g_autofree char *path = NULL, *text = NULL;
	struct cop_progress *progress;
	struct cop_client *client;

	if (!cop_options_name("VM", args[0], error) ||
	    !cop_options_name("template", args[1], error))
		return COP_EXIT_USAGE;
	client = cop_cli_client(cli, error);
	if (!client)
		return COP_EXIT_FAILED;
	json_object_set_string_member(request, "template", args[1]);
	if (o->stop)
		json_object_set_boolean_member(request, "stop", TRUE);
	path = cop_client_path("/v1/vms/", args[0], "/freeze");
	text = g_strdup_printf("freezing %s", args[0]);
	progress = cop_progress_begin(text, NULL, 1);
	answer = cop_client_call(client, "POST", path, request, error);
	cop_progress_end(progress);
	if (!answer)
		return COP_EXIT_FAILED;
	if (cli->json)
		cop_output_json(answer);
	else
		print(args[0], answer, o->stop);
	return COP_EXIT_OK;
}

const struct cop_command cop_cmd_freeze = {
	.name = "freeze",
	.arguments = "VM TEMPLATE",
	.summary = "Make a template of a running VM",
	.details = "The VM goes on as a clone of the template, from the same instant.",
	.min_args = 2,
	.max_args = 2,
	.options = entries,
	.options_bytes = sizeof(struct freeze_options),
	.run = run,
};
