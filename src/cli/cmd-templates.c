/* SPDX-License-Identifier: MIT */
/* cmd-templates.c: coppice templates. */
#include "cli/answer.h"
#include "cli/client.h"
#include "cli/commands.h"
#include "cli/output.h"

static const char *const headings[] = {"NAME",	"PARENT",  ">MEMORY",  ">RAM",
				       ">DISK", ">CLONES", ">CREATED", NULL};

static void add_row(struct cop_table *table, JsonObject *template)
{
	guint nr_clones = cop_answer_length(cop_answer_array(template, "clones"));
	const char *created = cop_answer_string(template, "created");

	cop_table_add(table, cop_answer_string(template, "name"));
	cop_table_add(table, cop_answer_string(template, "parent"));
	cop_table_add_size(table, template, "memory_bytes");
	cop_table_add_size(table, template, "ram_bytes");
	cop_table_add_size(table, template, "disk_bytes");
	cop_table_add_take(table, g_strdup_printf("%u", nr_clones));
	cop_table_add_take(table, cop_output_age(created));
}

static int run(struct cop_cli *cli, const void *options, char **args, GError **error)
{
	struct cop_client *client = cop_cli_client(cli, error);
	g_autoptr(JsonObject) answer = NULL;
	struct cop_table *table;
	JsonArray *templates;

	if (client)
		answer = cop_client_call(client, "GET", "/v1/templates", NULL, error);
	if (!answer)
		return COP_EXIT_FAILED;
	if (cli->json) {
		cop_output_json(answer);
		return COP_EXIT_OK;
	}
	templates = cop_answer_array(answer, "templates");
	table = cop_table_new(headings);
	for (guint i = 0; i < cop_answer_length(templates); i++)
		add_row(table, cop_answer_element(templates, i));
	cop_table_print(table);
	cop_table_free(table);
	return COP_EXIT_OK;
}

const struct cop_command cop_cmd_templates = {
	.name = "templates",
	.arguments = "",
	.summary = "List templates",
	.details = "MEMORY is the guest RAM of a clone, RAM what of it the template holds, DISK "
		   "what its newest disk layers use, CREATED how long ago it was frozen.",
	.run = run,
};
