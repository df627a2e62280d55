/* SPDX-License-Identifier: MIT */
/* cmd-template.c: coppice template rm NAME... and template inspect NAME. */
#include "cli/answer.h"
#include "cli/client.h"
#include "cli/commands.h"
#include "cli/each.h"
#include "cli/options.h"
#include "cli/output.h"
#include "cli/progress.h"
#include "cli/text.h"

struct inspect_options {
	gboolean verify;
};

static const GOptionEntry inspect_entries[] = {
	{"verify", 0, 0, G_OPTION_ARG_NONE, COP_OPTION(inspect_options, verify),
	 "Read every part of it and compare checksums; exit 1 if one is damaged", NULL},
	{NULL},
};

static int rm(struct cop_cli *cli, const void *options, char **args, GError **error)
{
	static const struct cop_each each = {.method = "DELETE",
					     .before = "/v1/templates/",
					     .after = "",
					     .doing = "removing",
					     .done = "removed",
					     .result = "removed"};

	if (!cop_options_names("template", args, error))
		return COP_EXIT_USAGE;
	return cop_each_run(cli, &each, args, error);
}

static void print_names(const char *label, JsonArray *names)
{
	if (!cop_answer_length(names))
		return;
	cop_output_line("%s", label);
	for (guint i = 0; i < cop_answer_length(names); i++)
		cop_output_line(" %s", cop_answer_element_string(names, i));
	cop_output_line("\n");
}

static void print_size(const char *label, JsonObject *object, const char *key)
{
	g_autofree char *size = cop_text_size(cop_answer_uint(object, key));

	cop_output_line("%-16s %s\n", label, size);
}

static void print_template(JsonObject *template)
{
	const char *parent = cop_answer_string(template, "parent");
	JsonObject *freeze = cop_answer_object(template, "freeze");
	g_autofree char *window = cop_text_duration(cop_answer_double(freeze, "window_ms"));
	g_autofree char *total = cop_text_duration(cop_answer_double(freeze, "total_ms"));

	cop_output_line("%-16s %s%s\n", "name:", cop_answer_string(template, "name"),
			cop_answer_bool(template, "ephemeral") ? " (goes with its last VM)" : "");
	cop_output_line("%-16s %s\n", "created:", cop_answer_string(template, "created"));
	cop_output_line("%-16s %s\n", "from VM:", cop_answer_string(template, "from_vm"));
	cop_output_line("%-16s %s\n", "parent:", *parent ? parent : "-");
	cop_output_line("%-16s %s, %u processors\n",
			"machine:", cop_answer_string(template, "accel"),
			(unsigned)cop_answer_uint(template, "cpus"));
	print_size("guest RAM:", template, "memory_bytes");
	print_size("RAM image:", template, "ram_bytes");
	print_size("  in memory:", template, "resident_bytes");
	print_size("device state:", template, "state_bytes");
	print_size("disk layers:", template, "disk_bytes");
	print_size("other files:", template, "file_bytes");
	cop_output_line("%-16s the VM stood still for %s; %s in all\n", "freeze:", window, total);
	print_names("clones:         ", cop_answer_array(template, "clones"));
	print_names("templates of it:", cop_answer_array(template, "templates"));
}

static int print_checks(JsonArray *checks, gboolean quiet)
{
	int status = COP_EXIT_OK;

	for (guint i = 0; i < cop_answer_length(checks); i++) {
		JsonObject *check = cop_answer_element(checks, i);
		gboolean ok = cop_answer_bool(check, "ok");
		const char *detail = cop_answer_string(check, "detail");

		if (!ok)
			status = COP_EXIT_FAILED;
		if (!quiet)
			cop_output_line("%-8s %s%s%s\n", ok ? "ok" : "DAMAGED",
					cop_answer_string(check, "part"), *detail ? ": " : "",
					detail);
	}
	return status;
}

static int inspect(struct cop_cli *cli, const void *options, char **args, GError **error)
{
	const struct inspect_options *o = options;
	g_autofree char *path = NULL, *text = NULL;
	g_autoptr(JsonObject) answer = NULL;
	struct cop_progress *progress;
	struct cop_client *client;

	if (!cop_options_name("template", args[0], error))
		return COP_EXIT_USAGE;
	client = cop_cli_client(cli, error);
	if (!client)
		return COP_EXIT_FAILED;
	path = cop_client_path("/v1/templates/", args[0], o->verify ? "?verify=true" : "");
	text = g_strdup_printf("verifying %s", args[0]);
	progress = o->verify ? cop_progress_begin(text, NULL, 1) : NULL;
	answer = cop_client_call(client, "GET", path, NULL, error);
	cop_progress_end(progress);
	if (!answer)
		return COP_EXIT_FAILED;
	if (cli->json)
		cop_output_json(answer);
	else
		print_template(cop_answer_object(answer, "template"));
	return print_checks(cop_answer_array(answer, "checks"), cli->json);
}

const struct cop_command cop_cmd_template_rm = {
	.name = "template rm",
	.arguments = "TEMPLATE...",
	.summary = "Remove templates that nothing needs",
	.min_args = 1,
	.max_args = COP_ANY_NUMBER,
	.run = rm,
};

const struct cop_command cop_cmd_template_inspect = {
	.name = "template inspect",
	.arguments = "TEMPLATE",
	.summary = "Show what a template holds, and check it",
	.min_args = 1,
	.max_args = 1,
	.options = inspect_entries,
	.options_bytes = sizeof(struct inspect_options),
	.run = inspect,
};
