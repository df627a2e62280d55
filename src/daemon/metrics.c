/* Prometheus' text format: see metrics.h.
 *
 * One table says which member of the figures is which metric. All are gauges in bytes or counters;
 * names end as Prometheus' conventions want it.
 */
#include "metrics.h"
#include "json.h"

struct metric {
	const char *name, *type, *help;
	const char *object, *member; /* of one VM, template, or of all; object may be NULL */
};

static const struct metric of_vm[] = {
	{"coppice_vm_given_bytes", "gauge", "Guest RAM that the VM was given.", "memory",
	 "given_bytes"},
	{"coppice_vm_private_bytes", "gauge", "Guest RAM in host memory that only this VM holds.",
	 "memory", "private_bytes"},
	{"coppice_vm_shared_bytes", "gauge", "Guest RAM mapped from the template's single copy.",
	 "memory", "shared_bytes"},
	{"coppice_vm_stored_raw_bytes", "gauge", "Evicted pages in the store, 4096 bytes each.",
	 "memory", "stored_raw_bytes"},
	{"coppice_vm_stored_bytes", "gauge", "Their records, shared ones counted in full.", "memory",
	 "stored_bytes"},
	{"coppice_vm_zero_bytes", "gauge", "Evicted pages that are zero and need no record.",
	 "memory", "zero_bytes"},
	{"coppice_vm_same_bytes", "gauge", "Evicted pages that are the template's.", "memory",
	 "same_bytes"},
	{"coppice_vm_discarded_bytes", "gauge", "Pages that the guest gave back.", "memory",
	 "discarded_bytes"},
	{"coppice_vm_vmm_bytes", "gauge", "Memory of the QEMU process, guest RAM left out.",
	 "memory", "vmm_bytes"},
	{"coppice_vm_page_table_bytes", "gauge", "Page tables of the QEMU process.", "memory",
	 "page_table_bytes"},
};

static const struct metric of_template[] = {
	{"coppice_template_nonzero_bytes", "gauge", "RAM image without its pages of zeros.", NULL,
	 "ram_bytes"},
	{"coppice_template_resident_bytes", "gauge", "RAM image in host memory.", NULL,
	 "resident_bytes"},
	{"coppice_template_loaded_bytes_total", "counter", "Read from the template's file.", NULL,
	 "loaded_bytes"},
	{"coppice_template_dropped_bytes_total", "counter", "Cold pages that left host memory.",
	 NULL, "dropped_bytes"},
};

static const struct metric of_all[] = {
	{"coppice_vms", "gauge", "VMs that run or are paused.", "total", "vms"},
	{"coppice_given_bytes", "gauge", "Guest RAM given to all of them.", "total", "given_bytes"},
	{"coppice_paid_bytes", "gauge", "Host memory in use, by the host's own accounting.", "total",
	 "paid_bytes"},
	{"coppice_part_private_bytes", "gauge", "Of it: private guest RAM of clones.", "parts",
	 "private_bytes"},
	{"coppice_part_images_bytes", "gauge", "Of it: RAM images.", "parts", "images_bytes"},
	{"coppice_part_store_bytes", "gauge", "Of it: the store of evicted pages.", "parts",
	 "store_bytes"},
	{"coppice_part_vmm_bytes", "gauge", "Of it: QEMU processes.", "parts", "vmm_bytes"},
	{"coppice_part_pager_bytes", "gauge", "Of it: the pager's ordinary memory.", "parts",
	 "pager_bytes"},
	{"coppice_part_daemon_bytes", "gauge", "Of it: the daemon's ordinary memory.", "parts",
	 "daemon_bytes"},
	{"coppice_part_helpers_bytes", "gauge", "Of it: other processes in the cgroup.", "parts",
	 "helpers_bytes"},
	{"coppice_part_kernel_bytes", "gauge", "Of it: kernel memory, such as page tables.", "parts",
	 "kernel_bytes"},
	{"coppice_part_cache_bytes", "gauge", "Of it: page cache of disks and programs.", "parts",
	 "cache_bytes"},
	{"coppice_parts_sum_bytes", "gauge", "The parts added up.", "parts", "sum_bytes"},
	{"coppice_store_bytes", "gauge", "Host memory of the store's file.", "engine",
	 "store_bytes"},
	{"coppice_store_limit_bytes", "gauge", "What it may grow to.", "engine",
	 "store_limit_bytes"},
	{"coppice_store_metadata_bytes", "gauge", "Of the store: tables and dead space.", "engine",
	 "metadata_bytes"},
	{"coppice_store_index_bytes", "gauge", "The pager's memory for indexes.", "engine",
	 "index_bytes"},
	{"coppice_store_records", "gauge", "Distinct records.", "engine", "records"},
	{"coppice_store_raw_bytes", "gauge", "Pages in the store, 4096 bytes each.", "engine",
	 "raw_bytes"},
	{"coppice_store_duplicate_pages_total", "counter", "Pages that found their record there.",
	 "engine", "duplicate_pages"},
	{"coppice_evicted_pages_total", "counter", "Pages evicted since the pager's start.",
	 "engine", "evicted_pages"},
	{"coppice_restored_pages_total", "counter", "Pages restored since the pager's start.",
	 "engine", "restored_pages"},
	{"coppice_faults_total", "counter", "Faults served since the pager's start.", "engine",
	 "faults"},
	{"coppice_damaged_vms_total", "counter", "VMs ended for a damaged page.", "engine",
	 "damaged_vms"},
	{"coppice_limit_bytes", "gauge", "What all may cost; 0: no limit.", "engine",
	 "limit_bytes"},
};

static void head(GString *out, const struct metric *m)
{
	g_string_append_printf(out, "# HELP %s %s\n# TYPE %s %s\n", m->name, m->help, m->name,
			       m->type);
}

static gint64 value(JsonObject *of, const struct metric *m)
{
	return cop_json_int(m->object ? cop_json_obj(of, m->object) : of, m->member, 0, NULL);
}

/* Names are [a-z0-9._-]: nothing needs escaping. */
static void each(GString *out, JsonArray *list, const char *label, const struct metric *metrics,
		 size_t nr)
{
	for (size_t i = 0; i < nr; i++) {
		head(out, &metrics[i]);
		for (guint j = 0; list && j < json_array_get_length(list); j++) {
			JsonObject *of = json_array_get_object_element(list, j);

			g_string_append_printf(out, "%s{%s=\"%s\"} %" G_GINT64_FORMAT "\n",
					       metrics[i].name, label,
					       cop_json_str(of, "name", "", NULL),
					       value(of, &metrics[i]));
		}
	}
}

char *cop_metrics_text(JsonObject *stats)
{
	GString *out = g_string_new("");

	for (size_t i = 0; i < G_N_ELEMENTS(of_all); i++) {
		if (!cop_json_obj(stats, of_all[i].object))
			continue; /* no pager runs */
		head(out, &of_all[i]);
		g_string_append_printf(out, "%s %" G_GINT64_FORMAT "\n", of_all[i].name,
				       value(stats, &of_all[i]));
	}
	each(out, cop_json_arr(stats, "vms"), "vm", of_vm, G_N_ELEMENTS(of_vm));
	each(out, cop_json_arr(stats, "templates"), "template", of_template,
	     G_N_ELEMENTS(of_template));
	return g_string_free(out, FALSE);
}
