/* SPDX-License-Identifier: MIT */
/* memory.c: what memory VMs cost, as stats and top print it: see memory.h. */
#include "cli/memory.h"
#include "cli/answer.h"
#include "cli/output.h"
#include "cli/text.h"

static const char *const headings[] = {"NAME",	  "STATE",    ">GIVEN", ">PRIVATE", ">SHARED",
				       ">STORED", ">ENCODED", ">ZERO",	">SAME",    ">FREE",
				       ">VMM",	  NULL};
static const char *const keys[] = {"given_bytes",     "private_bytes", "shared_bytes",
				   "stored_raw_bytes", "stored_bytes",	"zero_bytes",
				   "same_bytes",      "discarded_bytes", "vmm_bytes"};

static void add_row(struct cop_table *table, JsonObject *vm)
{
	JsonObject *memory = cop_answer_object(vm, "memory");

	cop_table_add(table, cop_answer_string(vm, "name"));
	cop_table_add(table, cop_answer_string(vm, "state"));
	for (size_t i = 0; i < G_N_ELEMENTS(keys); i++)
		cop_table_add_size(table, memory, keys[i]);
}

void cop_memory_print_vms(JsonArray *vms)
{
	struct cop_table *table = cop_table_new(headings);

	for (guint i = 0; i < cop_answer_length(vms); i++)
		add_row(table, cop_answer_element(vms, i));
	if (cop_answer_length(vms))
		cop_table_print(table);
	cop_table_free(table);
}

void cop_memory_print_vm(JsonObject *vm)
{
	struct cop_table *table = cop_table_new(headings);

	add_row(table, vm);
	cop_table_print(table);
	cop_table_free(table);
}

static void print_parts(JsonObject *parts)
{
	static const struct {
		const char *key, *label;
	} lines[] = {
		{"private_bytes", "private"}, {"images_bytes", "RAM images"},
		{"store_bytes", "store"},     {"vmm_bytes", "QEMU"},
		{"pager_bytes", "pager"},     {"daemon_bytes", "daemon"},
		{"kernel_bytes", "kernel"},   {"cache_bytes", "page cache"},
	};

	cop_output_line("  ");
	for (size_t i = 0; i < G_N_ELEMENTS(lines); i++) {
		g_autofree char *size = cop_text_size(cop_answer_uint(parts, lines[i].key));

		cop_output_line("%s%s %s", i ? ", " : "", lines[i].label, size);
	}
	cop_output_line("\n");
}

static void print_engine(JsonObject *engine)
{
	g_autofree char *raw = NULL, *store = NULL;

	if (!engine)
		return;
	raw = cop_text_size(cop_answer_uint(engine, "raw_bytes"));
	store = cop_text_size(cop_answer_uint(engine, "store_bytes"));
	cop_output_line("store: pages of %s in %s, %" G_GUINT64_FORMAT
			" records; evicted %" G_GUINT64_FORMAT
			" pages, restored %" G_GUINT64_FORMAT "\n",
			raw, store, (guint64)cop_answer_uint(engine, "records"),
			(guint64)cop_answer_uint(engine, "evicted_pages"),
			(guint64)cop_answer_uint(engine, "restored_pages"));
}

void cop_memory_print_total(JsonObject *stats)
{
	JsonObject *total = cop_answer_object(stats, "total");
	g_autofree char *given = cop_text_size(cop_answer_uint(total, "given_bytes"));
	g_autofree char *paid = cop_text_size(cop_answer_uint(total, "paid_bytes"));

	cop_output_line("%" G_GUINT64_FORMAT " VMs were given %s; the host pays %s: ratio %.1f\n",
			(guint64)cop_answer_uint(total, "vms"), given, paid,
			cop_answer_double(total, "ratio"));
	print_parts(cop_answer_object(stats, "parts"));
	print_engine(cop_answer_object(stats, "engine"));
}
