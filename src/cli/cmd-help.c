/* SPDX-License-Identifier: MIT */
/* cmd-help.c: coppice help [COMMAND]: the same as --help. */
#include "cli/answer.h"
#include "cli/commands.h"
#include "cli/failure.h"
#include "cli/options.h"
#include "cli/output.h"

static JsonArray *options_to_json(const GOptionEntry *entries)
{
	JsonArray *array = json_array_new();

	for (; entries && entries->long_name; entries++) {
		JsonObject *option = json_object_new();
		char short_name[2] = {entries->short_name, '\0'};

		json_object_set_string_member(option, "name", entries->long_name);
		json_object_set_string_member(option, "short", short_name);
		json_object_set_string_member(option, "argument",
					      entries->arg_description ? entries->arg_description
								       : "");
		json_object_set_string_member(option, "description", entries->description);
		json_array_add_object_element(array, option);
	}
	return array;
}

/* The whole table, for programs. */
static void print_json(void)
{
	g_autoptr(JsonObject) document = json_object_new();
	JsonArray *rows = json_array_new();

	for (size_t i = 0; cop_commands[i]; i++) {
		JsonObject *row = json_object_new();

		json_object_set_string_member(row, "name", cop_commands[i]->name);
		json_object_set_string_member(row, "arguments", cop_commands[i]->arguments);
		json_object_set_string_member(row, "summary", cop_commands[i]->summary);
		json_object_set_array_member(row, "options",
					     options_to_json(cop_commands[i]->options));
		json_array_add_object_element(rows, row);
	}
	json_object_set_array_member(document, "commands", rows);
	json_object_set_array_member(document, "options", options_to_json(cop_common_entries));
	cop_output_json(document);
}

static int help(struct cop_cli *cli, const void *options, char **args, GError **error)
{
	const struct cop_command *command;
	unsigned nr_words = 0;

	if (cli->json) {
		print_json();
		return COP_EXIT_OK;
	}
	if (!args[0]) {
		cop_commands_help(stdout);
		return COP_EXIT_OK;
	}
	command = cop_commands_find(args, &nr_words);
	if (command && !args[nr_words])
		cop_commands_help_one(stdout, command);
	else if (cop_commands_is_group(args[0]) && !args[1])
		cop_commands_help_group(stdout, args[0]);
	else
		cop_failure_usage(error, "help: there is no command '%s%s%s'", args[0],
				  args[1] ? " " : "", args[1] ? args[1] : "");
	return COP_EXIT_OK;
}

const struct cop_command cop_cmd_help = {
	.name = "help",
	.arguments = "[COMMAND]",
	.summary = "Explain a command, or list them all",
	.details = "With --json: all commands and their options.",
	.max_args = 2,
	.run = help,
};
