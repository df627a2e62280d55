/* SPDX-License-Identifier: MIT */
/* cmd-ps.c: coppice ps. */
#include "cli/answer.h"
#include "cli/client.h"
#include "cli/commands.h"
#include "cli/labels.h"
#include "cli/output.h"
#include "cli/text.h"

static const char *const headings[] = {"NAME",	   "STATE",   "TEMPLATE", ">MEMORY",
				       ">PRIVATE", ">SHARED", ">CPUS",	  "ACCEL",
				       ">SSH",	   ">AGE",    "AGENT",	  "LABELS",
				       "REASON",   NULL};
enum {
	LABELS_COLUMN = 11,
	REASON_COLUMN = 12,
};

static void add_number(struct cop_table *table, guint64 number)
{
	cop_table_add_take(table,
			   number ? g_strdup_printf("%" G_GUINT64_FORMAT, number) : g_strdup(""));
}

/* The VM's, else its agent's. */
static char *reason(JsonObject *vm)
{
	const char *agent = cop_answer_string(cop_answer_object(vm, "agent"), "reason");
	const char *own = cop_answer_string(vm, "reason");

	if (*own || !*agent)
		return g_strdup(own);
	return g_strdup_printf("agent: %s", agent);
}

static void add_row(struct cop_table *table, JsonObject *vm)
{
	JsonObject *memory = cop_answer_object(vm, "memory");
	const char *busy = cop_answer_string(vm, "busy");
	const char *state = cop_answer_string(vm, "state");

	cop_table_add(table, cop_answer_string(vm, "name"));
	cop_table_add_take(table,
			   *busy ? g_strdup_printf("%s (%s)", state, busy) : g_strdup(state));
	cop_table_add(table, cop_answer_string(vm, "template"));
	cop_table_add_size(table, vm, "memory_bytes");
	cop_table_add_size(table, memory, "private_bytes");
	cop_table_add_size(table, memory, "shared_bytes");
	add_number(table, cop_answer_uint(vm, "cpus"));
	cop_table_add(table, cop_answer_string(vm, "accel"));
	add_number(table, cop_answer_uint(vm, "ssh_port"));
	cop_table_add_take(table, cop_output_age(cop_answer_string(vm, "created")));
	cop_table_add(table, cop_answer_string(cop_answer_object(vm, "agent"), "state"));
	cop_table_add_take(table, cop_labels_text(cop_answer_object(vm, "labels")));
	cop_table_add_take(table, reason(vm));
}

static int run(struct cop_cli *cli, const void *options, char **args, GError **error)
{
	struct cop_client *client = cop_cli_client(cli, error);
	g_autoptr(JsonObject) answer = NULL;
	struct cop_table *table;
	gboolean reasons = FALSE, labels = FALSE;
	JsonArray *vms;

	if (client)
		answer = cop_client_call(client, "GET", "/v1/vms?memory=true", NULL, error);
	if (!answer)
		return COP_EXIT_FAILED;
	if (cli->json) {
		cop_output_json(answer);
		return COP_EXIT_OK;
	}
	vms = cop_answer_array(answer, "vms");
	table = cop_table_new(headings);
	for (guint i = 0; i < cop_answer_length(vms); i++) {
		JsonObject *vm = cop_answer_element(vms, i);

		g_autofree char *why = reason(vm), *tags = cop_labels_text(cop_answer_object(vm, "labels"));

		add_row(table, vm);
		reasons = reasons || *why;
		labels = labels || *tags;
	}
	if (!labels)
		cop_table_hide(table, LABELS_COLUMN);
	if (!reasons)
		cop_table_hide(table, REASON_COLUMN);
	cop_table_print(table);
	cop_table_free(table);
	return COP_EXIT_OK;
}

const struct cop_command cop_cmd_ps = {
	.name = "ps",
	.arguments = "",
	.summary = "List VMs and what each one costs",
	.details = "MEMORY is the guest RAM that a VM was given, PRIVATE what only it holds, "
		   "SHARED what it maps of its template's single copy. AGENT is 'ready' when the "
		   "agent in the guest answers, and a clone has become a machine of its own; a "
		   "clone with 'none' repeats its template's random numbers, names, addresses "
		   "and clock.",
	.run = run,
};
