/* SPDX-License-Identifier: MIT */
/* vm-line.c: lines about VMs that several commands print: see vm-line.h. */
#include "cli/vm-line.h"
#include "cli/answer.h"
#include "cli/output.h"
#include "cli/text.h"

#include <string.h>

/* The most names that are printed one by one. */
#define MAX_NAMES 8

void cop_vm_line_ssh(JsonObject *vm)
{
	guint64 port = cop_answer_uint(vm, "ssh_port");

	if (port)
		cop_output_line("  %s: ssh at 127.0.0.1 port %" G_GUINT64_FORMAT "\n",
				cop_answer_string(vm, "name"), port);
}

static int compare(gconstpointer a, gconstpointer b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static void print_names(JsonArray *vms, guint nr)
{
	g_autoptr(GString) names = g_string_new(NULL);
	JsonObject *last = cop_answer_element(vms, nr - 1);

	for (guint i = 0; i < nr && (nr <= MAX_NAMES || i < 1); i++)
		g_string_append_printf(names, "%s%s", i ? " " : "",
				       cop_answer_string(cop_answer_element(vms, i), "name"));
	if (nr > MAX_NAMES)
		g_string_append_printf(names, " ... %s", cop_answer_string(last, "name"));
	cop_output_line("  %s\n", names->str);
}

void cop_vm_line_clones(JsonArray *vms, double all_ms, const char *state)
{
	g_autoptr(GArray) times = g_array_new(FALSE, FALSE, sizeof(double));
	g_autofree char *all = cop_text_duration(all_ms);
	guint nr = cop_answer_length(vms);
	gboolean ssh = FALSE;

	for (guint i = 0; i < nr; i++) {
		JsonObject *vm = cop_answer_element(vms, i);
		double ms = cop_answer_double(cop_answer_object(vm, "start"), "total_ms");

		g_array_append_val(times, ms);
		ssh = ssh || cop_answer_uint(vm, "ssh_port");
	}
	if (nr == 0)
		return;
	g_array_sort(times, compare);
	if (nr == 1) {
		cop_output_line("clone '%s' %s in %s\n",
				cop_answer_string(cop_answer_element(vms, 0), "name"), state, all);
	} else {
		g_autofree char *first = cop_text_duration(g_array_index(times, double, 0));
		double low = g_array_index(times, double, (nr - 1) / 2);
		double high = g_array_index(times, double, nr / 2);
		g_autofree char *median = cop_text_duration((low + high) / 2);

		cop_output_line("%u clones %s in %s (first %s, median %s)\n", nr, state, all, first,
				median);
		if (!ssh)
			print_names(vms, nr);
	}
	for (guint i = 0; ssh && i < nr; i++)
		cop_vm_line_ssh(cop_answer_element(vms, i));
}

/* "random hostname machine-id", or what failed; caller frees. */
static char *steps_text(JsonObject *agent, gboolean failed)
{
	JsonArray *steps = cop_answer_array(agent, "steps");
	g_autoptr(GString) text = g_string_new(NULL);

	for (guint i = 0; i < cop_answer_length(steps); i++) {
		JsonObject *step = cop_answer_element(steps, i);
		const char *detail = cop_answer_string(step, "detail");

		if (cop_answer_bool(step, "ok") == failed)
			continue;
		g_string_append_printf(text, "%s%s", text->len ? ", " : "",
				       cop_answer_string(step, "name"));
		if (failed && *detail)
			g_string_append_printf(text, " (%s)", detail);
	}
	return g_string_free(g_steal_pointer(&text), FALSE);
}

void cop_vm_line_agents(JsonObject *answer)
{
	JsonArray *vms = cop_answer_array(answer, "vms");
	gboolean waited = !cop_answer_is_null(answer, "ready_ms");
	g_autofree char *all = cop_text_duration(cop_answer_double(answer, "ready_ms"));
	g_autofree char *done = NULL;
	guint nr = cop_answer_length(vms), nr_ready = 0, nr_none = 0;

	for (guint i = 0; i < nr; i++) {
		JsonObject *vm = cop_answer_element(vms, i);
		JsonObject *agent = cop_answer_object(vm, "agent");
		const char *state = cop_answer_string(agent, "state");
		g_autofree char *failed = steps_text(agent, TRUE);

		if (strcmp(state, "none") == 0) {
			nr_none++;
			continue;
		}
		if (strcmp(state, "ready") == 0) {
			if (!nr_ready++)
				done = steps_text(agent, FALSE);
			if (*failed)
				cop_output_line("  %s: failed: %s\n",
						cop_answer_string(vm, "name"), failed);
		} else if (waited) {
			cop_output_line("  %s: not ready: %s\n", cop_answer_string(vm, "name"),
					cop_answer_string(agent, "reason"));
		}
	}
	if (nr_ready && waited)
		cop_output_line("  ready in %s: %s\n", all, *done ? done : "nothing to do");
	if (nr && nr_none == nr)
		cop_output_line("  no agent in the template: random numbers, names, addresses and "
				"clock are the template's\n");
}
