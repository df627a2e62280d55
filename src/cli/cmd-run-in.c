/* SPDX-License-Identifier: MIT */
/* cmd-run-in.c: coppice run-in TEMPLATE -- COMMAND: a machine that is there for one command. */
#include "cli/boot.h"
#include "cli/client.h"
#include "cli/commands.h"
#include "cli/exec-one.h"
#include "cli/exec-request.h"
#include "cli/exec.h"
#include "cli/failure.h"
#include "cli/image.h"
#include "cli/options.h"
#include "cli/progress.h"

#include <string.h>
#include <unistd.h>

#define BOOT_S 300
#define FIRST_TEMPLATE "minimal" /* made on first use */

struct run_in_options {
	struct cop_exec_options common;
	char *image_dir;
	gboolean terminal, no_network;
};

static const GOptionEntry entries[] = {
	{"tty", 't', 0, G_OPTION_ARG_NONE, COP_OPTION(run_in_options, terminal),
	 "Give the command a terminal, joined to this one", NULL},
	{"env", 'e', 0, G_OPTION_ARG_STRING_ARRAY, COP_OPTION(run_in_options, common.env),
	 "Set in the command's environment, or taken from here (may be repeated)", "KEY[=VALUE]"},
	{"user", 'u', 0, G_OPTION_ARG_STRING, COP_OPTION(run_in_options, common.user),
	 "Run as this user of the guest (default root)", "USER"},
	{"workdir", 'w', 0, G_OPTION_ARG_STRING, COP_OPTION(run_in_options, common.workdir),
	 "Run in this folder of the guest", "DIR"},
	{"timeout", 0, 0, G_OPTION_ARG_STRING, COP_OPTION(run_in_options, common.timeout),
	 "End the command after this time, with exit status 124", "SECONDS"},
	{"cpus", 'c', 0, G_OPTION_ARG_STRING, COP_OPTION(run_in_options, common.cpus),
	 "Give it at most so much of the processors, such as 0.5", "N"},
	{"memory-max", 'm', 0, G_OPTION_ARG_STRING, COP_OPTION(run_in_options, common.memory_max),
	 "Kill it when it uses more of the guest's memory", "SIZE"},
	{"no-network", 0, 0, G_OPTION_ARG_NONE, COP_OPTION(run_in_options, no_network),
	 "Without a cable in the network card", NULL},
	{"image-dir", 0, 0, G_OPTION_ARG_FILENAME, COP_OPTION(run_in_options, image_dir),
	 "Directory of built images, for the first use of 'minimal'", "DIR"},
	{NULL},
};

static void remove_vm(struct cop_client *client, const char *name)
{
	g_autofree char *path = cop_client_path("/v1/vms/", name, "?force=true");
	g_autoptr(JsonObject) answer = cop_client_call(client, "DELETE", path, NULL, NULL);

	(void)answer; /* a left-over VM shows in 'ps' */
}

/* Boots the image of that name and freezes it, once and for all. */
static gboolean make_template(struct cop_cli *cli, struct cop_client *client, const char *template,
			      const char *image_dir_option, GError **error)
{
	g_autofree char *image_dir = cop_image_dir(cli, image_dir_option);
	g_autofree char *vm = g_strdup_printf("%s-boot-%d", template, (int)getpid());
	g_autofree char *freeze = cop_client_path("/v1/vms/", vm, "/freeze");
	g_autoptr(JsonObject) run = json_object_new(), request = json_object_new();
	g_autoptr(JsonObject) booted = NULL, frozen = NULL;
	struct cop_progress *progress;
	GError *why = NULL;
	gboolean ok;

	if (!cop_image_to_request(template, image_dir, run, error))
		return FALSE;
	json_object_set_string_member(run, "name", vm);
	json_object_set_string_member(request, "template", template);
	json_object_set_boolean_member(request, "stop", TRUE);
	progress = cop_progress_begin("booting minimal, once and for all", NULL, 1);
	booted = cop_client_call(client, "POST", "/v1/vms", run, &why);
	ok = booted && cop_boot_wait(client, vm, BOOT_S, &why);
	if (ok)
		frozen = cop_client_call(client, "POST", freeze, request, &why);
	cop_progress_end(progress);
	if (frozen)
		return TRUE;
	if (booted)
		remove_vm(client, vm);
	/* Somebody else has made it meanwhile. */
	if (ok && g_error_matches(why, COP_FAILURE, COP_FAILURE_NAME_TAKEN)) {
		g_error_free(why);
		return TRUE;
	}
	g_propagate_error(error, why);
	return FALSE;
}

static gboolean need_template(struct cop_cli *cli, const char *name, const char *image_dir,
			      GError **error)
{
	struct cop_client *client = cop_cli_client(cli, error);
	g_autofree char *path = cop_client_path("/v1/templates/", name, "");
	g_autoptr(JsonObject) answer = NULL;
	GError *why = NULL;

	if (!client)
		return FALSE;
	if (strcmp(name, FIRST_TEMPLATE) != 0)
		return TRUE; /* the request itself will tell */
	answer = cop_client_call(client, "GET", path, NULL, &why);
	if (answer)
		return TRUE;
	if (!g_error_matches(why, COP_FAILURE, COP_FAILURE_NOT_FOUND)) {
		g_propagate_error(error, why);
		return FALSE;
	}
	g_error_free(why);
	return make_template(cli, client, name, image_dir, error);
}

static int run(struct cop_cli *cli, const void *options, char **args, GError **error)
{
	const struct run_in_options *o = options;
	g_autoptr(JsonObject) request = json_object_new();
	g_autofree char *path = NULL;

	if (!cop_options_name("template", args[0], error) ||
	    !cop_exec_request(request, "run-in", args + 1, &o->common, error))
		return COP_EXIT_USAGE;
	if (o->terminal && (!isatty(0) || cli->json)) {
		cop_failure_usage(error, cli->json ? "run-in: --tty does not go with --json"
						   : "run-in: --tty needs a terminal at standard "
						     "input");
		return COP_EXIT_USAGE;
	}
	if (o->no_network)
		json_object_set_boolean_member(request, "network", FALSE);
	if (!need_template(cli, args[0], o->image_dir, error))
		return COP_EXEC_FAILED;
	path = cop_client_path("/v1/templates/", args[0], "/run-in");
	return cop_exec_one(cli, args[0], path, request, o->terminal, error);
}

const struct cop_command cop_cmd_run_in = {
	.name = "run-in",
	.arguments = "TEMPLATE -- COMMAND...",
	.summary = "Run a command in a clone that is thrown away afterwards",
	.details = "The clone goes when the command ends, when coppice is interrupted, and when "
		   "the daemon dies. The template 'minimal' is made on first use, from the image of "
		   "that name. Exit statuses are those of exec. A clone has the processors and the "
		   "guest RAM of its template; --cpus and --memory-max let the command have less.",
	.min_args = 1,
	.max_args = COP_ANY_NUMBER,
	.options = entries,
	.options_bytes = sizeof(struct run_in_options),
	.failed_status = COP_EXEC_FAILED,
	.run = run,
};
