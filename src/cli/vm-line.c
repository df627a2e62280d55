/* SPDX-License-Identifier: MIT */
/* vm-line.c: lines about VMs that several commands print: see vm-line.h. */
#include "cli/vm-line.h"
#include "cli/answer.h"
#include "cli/output.h"
#include "cli/text.h"

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
