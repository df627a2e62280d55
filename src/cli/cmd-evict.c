/* SPDX-License-Identifier: MIT */
/* cmd-evict.c: coppice evict VM. */
#include "cli/answer.h"
#include "cli/client.h"
#include "cli/commands.h"
#include "cli/failure.h"
#include "cli/options.h"
#include "cli/output.h"
#include "cli/progress.h"
#include "cli/text.h"

struct evict_options {
	char *bytes;
	gboolean all;
};

static const GOptionEntry entries[] = {
	{"all", 'a', 0, G_OPTION_ARG_NONE, COP_OPTION(evict_options, all),
	 "All that the VM holds alone (the default)", NULL},
	{"bytes", 'b', 0, G_OPTION_ARG_STRING, COP_OPTION(evict_options, bytes),
	 "About this much, such as 64M", "SIZE"},
	{NULL},
};

static int run(struct cop_cli *cli, const void *options, char **args, GError **error)
{
	const struct evict_options *o = options;
	g_autofree char *path = cop_client_path("/v1/vms/", args[0], "/evict");
	g_autoptr(JsonObject) request = json_object_new(), answer = NULL;
	struct cop_progress *progress;
	struct cop_client *client;
	uint64_t bytes = 0;

	if (o->all && o->bytes) {
		cop_failure_usage(error, "evict: --all and --bytes contradict each other");
		return COP_EXIT_USAGE;
	}
	if (!cop_options_name("VM", args[0], error) ||
	    !cop_options_size("--bytes", o->bytes, &bytes, error))
		return COP_EXIT_USAGE;
	if (o->bytes)
		json_object_set_int_member(request, "bytes", (gint64)bytes);
	client = cop_cli_client(cli, error);
	if (!client)
		return COP_EXIT_FAILED;
	progress = cop_progress_begin("evicting", NULL, 1);
	answer = cop_client_call(client, "POST", path, request, error);
	cop_progress_end(progress);
	if (!answer)
		return COP_EXIT_FAILED;
	if (cli->json) {
		cop_output_json(answer);
	} else {
		g_autofree char *size = cop_text_size(cop_answer_uint(answer, "evicted_bytes"));

		cop_output_line("%s of '%s' left RAM\n", size, args[0]);
	}
	return COP_EXIT_OK;
}

const struct cop_command cop_cmd_evict = {
	.name = "evict",
	.arguments = "VM",
	.summary = "Let pages of a VM leave RAM",
	.details = "They go to the store, compressed, and come back when they are touched. The VM runs "
		   "on. It must run on the engine 'pager'.",
	.min_args = 1,
	.max_args = 1,
	.options = entries,
	.options_bytes = sizeof(struct evict_options),
	.run = run,
};
