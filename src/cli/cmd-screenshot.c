/* SPDX-License-Identifier: MIT */
/* cmd-screenshot.c: coppice screenshot VM [FILE], or --all DIR. */
#include "cli/answer.h"
#include "cli/client.h"
#include "cli/commands.h"
#include "cli/failure.h"
#include "cli/options.h"
#include "cli/output.h"
#include "cli/text.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

struct screenshot_options {
	char *all;
};

static const GOptionEntry entries[] = {
	{"all", 0, 0, G_OPTION_ARG_FILENAME, COP_OPTION(screenshot_options, all),
	 "The screens of all VMs that run and have one, as DIR/VM.png", "DIR"},
	{NULL},
};

static GBytes *take(struct cop_client *client, const char *vm, GError **error)
{
	g_autofree char *path = cop_client_path("/v1/vms/", vm, "/screenshot");

	return cop_client_get_bytes(client, path, "image/png", error);
}

/* Save the screen of @vm to @file; adds a row to the array @files. */
static gboolean save(struct cop_cli *cli, struct cop_client *client, const char *vm,
		     const char *file, JsonArray *files, GError **error)
{
	g_autoptr(GBytes) png = take(client, vm, error);
	g_autoptr(GError) why = NULL;
	JsonObject *row;
	const char *data;
	gsize len;

	if (!png)
		return FALSE;
	data = g_bytes_get_data(png, &len);
	if (!g_file_set_contents_full(file, data, (gssize)len, G_FILE_SET_CONTENTS_CONSISTENT, 0644,
				      &why))
		return cop_failure_set(error, COP_FAILURE_INTERNAL, NULL, "cannot write %s: %s",
				       file, why->message);
	row = json_object_new();
	json_object_set_string_member(row, "name", vm);
	json_object_set_string_member(row, "file", file);
	json_object_set_int_member(row, "bytes", (gint64)len);
	json_array_add_object_element(files, row);
	if (!cli->json) {
		g_autofree char *size = cop_text_size(len);

		cop_output_line("%s: %s\n", file, size);
	}
	return TRUE;
}

static int to_stdout(struct cop_cli *cli, const char *vm, GError **error)
{
	struct cop_client *client;
	g_autoptr(GBytes) png = NULL;
	const char *data;
	gsize len;

	if (cli->json || isatty(1)) {
		cop_failure_usage(error, "screenshot: '-' does not go with %s",
				  cli->json ? "--json" : "a terminal as standard output");
		return COP_EXIT_USAGE;
	}
	client = cop_cli_client(cli, error);
	png = client ? take(client, vm, error) : NULL;
	if (!png)
		return COP_EXIT_FAILED;
	data = g_bytes_get_data(png, &len);
	fwrite(data, 1, len, stdout);
	return COP_EXIT_OK;
}

/* Every VM is tried; the first error is returned, after the others were printed. */
static int all(struct cop_cli *cli, struct cop_client *client, const char *dir, JsonArray *files,
	       GError **error)
{
	g_autoptr(JsonObject) answer = cop_client_call(client, "GET", "/v1/vms", NULL, error);
	JsonArray *vms = cop_answer_array(answer, "vms");
	int status = COP_EXIT_OK;

	if (!answer)
		return COP_EXIT_FAILED;
	if (g_mkdir_with_parents(dir, 0755) < 0) {
		cop_failure_set(error, COP_FAILURE_INTERNAL, NULL, "cannot make %s: %s", dir,
				g_strerror(errno));
		return COP_EXIT_FAILED;
	}
	for (guint i = 0; i < cop_answer_length(vms); i++) {
		JsonObject *vm = cop_answer_element(vms, i);
		const char *name = cop_answer_string(vm, "name");
		const char *state = cop_answer_string(vm, "state");
		g_autofree char *base = g_strconcat(name, ".png", NULL);
		g_autofree char *file = g_build_filename(dir, base, NULL);
		g_autoptr(GError) why = NULL;

		if (!cop_text_is_name(name) ||
		    strcmp(cop_answer_string(vm, "display"), "vga") != 0 ||
		    (strcmp(state, "running") != 0 && strcmp(state, "paused") != 0))
			continue;
		if (!save(cli, client, name, file, files, &why)) {
			cop_failure_print(why, "");
			status = COP_EXIT_FAILED;
		}
	}
	return status;
}

static int run(struct cop_cli *cli, const void *options, char **args, GError **error)
{
	const struct screenshot_options *o = options;
	g_autoptr(JsonObject) document = json_object_new();
	JsonArray *files = json_array_new();
	struct cop_client *client;
	int status = COP_EXIT_FAILED;

	json_object_set_array_member(document, "files", files);
	if (o->all ? args[0] != NULL : args[0] == NULL) {
		cop_failure_usage(error,
				  o->all ? "screenshot: a VM and --all exclude each other"
					 : "screenshot: too few arguments, needs VM or --all DIR");
		return COP_EXIT_USAGE;
	}
	if (!cop_options_name("VM", args[0], error))
		return COP_EXIT_USAGE;
	if (args[0] && args[1] && strcmp(args[1], "-") == 0)
		return to_stdout(cli, args[0], error);
	client = cop_cli_client(cli, error);
	if (!client)
		return COP_EXIT_FAILED;
	if (o->all) {
		status = all(cli, client, o->all, files, error);
	} else {
		g_autofree char *file =
			args[1] ? g_strdup(args[1]) : g_strconcat(args[0], ".png", NULL);

		if (save(cli, client, args[0], file, files, error))
			status = COP_EXIT_OK;
	}
	if (cli->json && (!error || !*error))
		cop_output_json(document);
	return status;
}

const struct cop_command cop_cmd_screenshot = {
	.name = "screenshot",
	.arguments = "VM [FILE]",
	.summary = "Save a VM's screen as a PNG file",
	.details = "FILE is VM.png in the current folder when it is not given, and standard output "
		   "when it is '-'.",
	.max_args = 2,
	.options = entries,
	.options_bytes = sizeof(struct screenshot_options),
	.run = run,
};
