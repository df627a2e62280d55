/* What all VMs were given, and what the host pays: see stats.h. */
#include "stats.h"
#include "cgroup.h"
#include "json.h"
#include "ram.h"
#include "vm.h"

#include <stdio.h>
#include <string.h>

/* A line "Key:   1234 kB" of a file in /proc. */
static uint64_t proc_kib(const char *path, const char *key)
{
	g_autofree char *text = NULL;
	const char *at;
	unsigned long long kib = 0;

	if (!g_file_get_contents(path, &text, NULL, NULL) || !(at = strstr(text, key)))
		return 0;
	(void)sscanf(at + strlen(key), ": %llu", &kib);
	return kib * 1024;
}

/* RAM images in memory, each once. With the lock held. */
static uint64_t images_bytes(struct cop_state *state)
{
	g_autoptr(GHashTable) seen = g_hash_table_new(g_str_hash, g_str_equal);
	GHashTableIter iter;
	struct cop_vm *vm;
	struct cop_template *tpl;
	uint64_t sum = 0;
	char *id;

	g_hash_table_iter_init(&iter, state->vms);
	while (g_hash_table_iter_next(&iter, NULL, (void **)&vm)) {
		if (vm->ram_id)
			g_hash_table_add(seen, vm->ram_id);
	}
	g_hash_table_iter_init(&iter, state->templates);
	while (g_hash_table_iter_next(&iter, NULL, (void **)&tpl)) {
		if (tpl->ram_id)
			g_hash_table_add(seen, tpl->ram_id);
	}
	g_hash_table_iter_init(&iter, seen);
	while (g_hash_table_iter_next(&iter, (void **)&id, NULL)) {
		g_autofree char *path = cop_state_ram_path(state, id);

		sum += cop_file_used_bytes(path);
	}
	return sum;
}

static JsonObject *limit(uint64_t used, uint64_t max)
{
	JsonObject *obj = json_object_new();

	json_object_set_int_member(obj, "used", (gint64)used);
	json_object_set_int_member(obj, "max", (gint64)max);
	return obj;
}

static JsonObject *limits_to_json(struct cop_state *state, unsigned nr_vms, uint64_t given)
{
	JsonObject *obj = json_object_new();

	json_object_set_object_member(obj, "vms", limit(nr_vms, state->config->max_vms));
	json_object_set_object_member(obj, "memory_bytes",
				      limit(given, state->config->max_memory_bytes));
	json_object_set_object_member(
		obj, "disk_bytes",
		limit(cop_state_disk_bytes(state), cop_state_max_disk_bytes(state)));
	return obj;
}

static JsonObject *host_to_json(struct cop_state *state, const struct cop_cgroup_use *use,
				gboolean have)
{
	JsonObject *obj = json_object_new();

	json_object_set_int_member(obj, "memory_bytes",
				   (gint64)proc_kib("/proc/meminfo", "MemTotal"));
	json_object_set_int_member(obj, "available_bytes",
				   (gint64)proc_kib("/proc/meminfo", "MemAvailable"));
	json_object_set_string_member(obj, "cgroup", have ? state->cgroup_path : "");
	if (use->limit_bytes)
		json_object_set_int_member(obj, "limit_bytes", (gint64)use->limit_bytes);
	else
		json_object_set_null_member(obj, "limit_bytes");
	if (have)
		json_object_set_int_member(obj, "peak_bytes", (gint64)use->peak_bytes);
	else
		json_object_set_null_member(obj, "peak_bytes");
	json_object_set_int_member(obj, "anon_bytes", (gint64)use->anon_bytes);
	json_object_set_int_member(obj, "shmem_bytes", (gint64)use->shmem_bytes);
	json_object_set_int_member(obj, "file_bytes", (gint64)use->file_bytes);
	json_object_set_int_member(obj, "other_bytes", (gint64)use->other_bytes);
	return obj;
}

JsonObject *cop_stats(struct cop_state *state)
{
	g_autoptr(GPtrArray) vms = NULL;
	JsonObject *obj = json_object_new(), *total = json_object_new();
	JsonArray *list = json_array_new();
	uint64_t given = 0, private = 0, vmm = 0, images, paid = 0, pss = 0, limit_given;
	struct cop_cgroup_use use = {0};
	unsigned alive = 0, nr_vms;
	gboolean have = cop_cgroup_read(state, &use);

	g_mutex_lock(&state->lock);
	vms = cop_state_all_vms(state);
	images = images_bytes(state);
	nr_vms = cop_state_nr_vms(state);
	limit_given = cop_state_given_bytes(state);
	g_mutex_unlock(&state->lock);

	for (guint i = 0; i < vms->len; i++) {
		g_autoptr(JsonObject) one = cop_vm_to_json(vms->pdata[i], TRUE);
		JsonObject *memory = cop_json_obj(one, "memory"), *entry;
		g_autofree char *rollup = NULL;

		if (!memory)
			continue; /* it is not running */
		entry = json_object_new();
		json_object_set_string_member(entry, "name", cop_json_str(one, "name", "", NULL));
		json_object_set_string_member(entry, "state", cop_json_str(one, "state", "", NULL));
		json_object_set_object_member(entry, "memory", json_object_ref(memory));
		json_array_add_object_element(list, entry);
		alive++;
		given += (uint64_t)cop_json_int(memory, "given_bytes", 0, NULL);
		private += (uint64_t)cop_json_int(memory, "private_bytes", 0, NULL);
		vmm += (uint64_t)cop_json_int(memory, "vmm_bytes", 0, NULL);
		rollup = g_strdup_printf("/proc/%d/smaps_rollup",
					 (int)cop_json_int(one, "pid", 0, NULL));
		if (!have)
			pss += proc_kib(rollup, "Pss");
	}
	paid = have ? use.usage_bytes : pss;
	json_object_set_int_member(total, "vms", alive);
	json_object_set_int_member(total, "given_bytes", (gint64)given);
	json_object_set_int_member(total, "private_bytes", (gint64)private);
	json_object_set_int_member(total, "shared_bytes", (gint64)images);
	json_object_set_int_member(total, "vmm_bytes", (gint64)vmm);
	json_object_set_int_member(total, "paid_bytes", (gint64)paid);
	json_object_set_double_member(total, "ratio", paid ? (double)given / (double)paid : 0);
	json_object_set_string_member(total, "source",
				      !have		 ? "sum of the processes' PSS"
				      : state->cgroup_v2 ? "cgroup v2 memory.current"
							 : "cgroup v1 memory.usage_in_bytes");
	json_object_set_array_member(obj, "vms", list);
	json_object_set_object_member(obj, "total", total);
	json_object_set_object_member(obj, "host", host_to_json(state, &use, have));
	json_object_set_object_member(obj, "limits", limits_to_json(state, nr_vms, limit_given));
	return obj;
}
