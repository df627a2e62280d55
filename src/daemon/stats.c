/* What all VMs were given, and what the host pays: see stats.h. */
#include "stats.h"
#include "cgroup.h"
#include "json.h"
#include "pager.h"
#include "ram.h"
#include "vm.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

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

/* What the folder of RAM images takes: images, and the pager's store. */
static void folder_bytes(struct cop_state *state, uint64_t *ret_images, uint64_t *ret_store)
{
	g_autoptr(GDir) dir = g_dir_open(state->config->ram_dir, 0, NULL);
	const char *name;

	*ret_images = *ret_store = 0;
	while (dir && (name = g_dir_read_name(dir))) {
		g_autofree char *path = cop_state_ram_path(state, name);

		*(strcmp(name, "store") == 0 ? ret_store : ret_images) += cop_file_used_bytes(path);
	}
}

/* Ordinary memory of a process, exactly. */
static uint64_t anon_bytes(pid_t pid)
{
	g_autofree char *path = g_strdup_printf("/proc/%d/smaps_rollup", (int)pid);

	return pid ? proc_kib(path, "\nAnonymous") : 0;
}

/* Processes of the group that are neither the daemon, the pager nor a VM: helpers. */
static uint64_t helpers_bytes(struct cop_state *state, pid_t pager, GHashTable *vms)
{
	g_autofree char *path = NULL, *text = NULL;
	g_auto(GStrv) lines = NULL;
	uint64_t sum = 0;

	if (!state->cgroup_path)
		return 0;
	path = g_build_filename(state->cgroup_path, "cgroup.procs", NULL);
	if (!g_file_get_contents(path, &text, NULL, NULL))
		return 0;
	lines = g_strsplit(text, "\n", -1);
	for (char **line = lines; *line; line++) {
		pid_t pid = (pid_t)g_ascii_strtoll(*line, NULL, 10);

		if (pid > 0 && pid != getpid() && pid != pager &&
		    !g_hash_table_contains(vms, GINT_TO_POINTER(pid)))
			sum += anon_bytes(pid);
	}
	return sum;
}

/* What `paid` is made of, each measured by itself. private and vmm are of all VMs. */
static JsonObject *parts_to_json(struct cop_state *state, uint64_t private, uint64_t vmm,
				 GHashTable *vms, const struct cop_cgroup_use *use)
{
	pid_t pager = cop_pager_pid(state);
	uint64_t images, store;
	JsonObject *obj = json_object_new();

	folder_bytes(state, &images, &store);
	const struct {
		const char *name;
		uint64_t bytes;
	} parts[] = {
		{"private_bytes", private},
		{"images_bytes", images},
		{"store_bytes", store},
		{"vmm_bytes", vmm},
		{"pager_bytes", anon_bytes(pager)},
		{"daemon_bytes", anon_bytes(getpid())},
		{"helpers_bytes", helpers_bytes(state, pager, vms)},
		{"kernel_bytes", use->kernel_bytes},
		{"cache_bytes", use->file_bytes},
	};
	uint64_t sum = 0;

	for (size_t i = 0; i < G_N_ELEMENTS(parts); i++) {
		json_object_set_int_member(obj, parts[i].name, (gint64)parts[i].bytes);
		sum += parts[i].bytes;
	}
	json_object_set_int_member(obj, "sum_bytes", (gint64)sum);
	return obj;
}

static void set_engine(struct cop_state *state, JsonObject *obj)
{
	static const struct {
		const char *name;
		enum cop_pager_stat stat;
	} members[] = {
		{"store_bytes", COP_PAGER_STAT_STORE_BYTES},
		{"metadata_bytes", COP_PAGER_STAT_METADATA_BYTES},
		{"index_bytes", COP_PAGER_STAT_INDEX_BYTES},
		{"records", COP_PAGER_STAT_RECORDS},
		{"raw_bytes", COP_PAGER_STAT_RAW_BYTES},
		{"duplicate_pages", COP_PAGER_STAT_DUPLICATES},
		{"evicted_pages", COP_PAGER_STAT_EVICTED},
		{"restored_pages", COP_PAGER_STAT_RESTORED},
		{"faults", COP_PAGER_STAT_FAULTS},
		{"damaged_vms", COP_PAGER_STAT_DAMAGED},
		{"store_limit_bytes", COP_PAGER_STAT_STORE_LIMIT},
		{"used_bytes", COP_PAGER_STAT_USED},
		{"limit_bytes", COP_PAGER_STAT_LIMIT},
	};
	uint64_t values[COP_PAGER_NR_VALUES];
	JsonObject *engine;

	if (!cop_pager_stats(state, values)) {
		json_object_set_null_member(obj, "engine");
		return;
	}
	engine = json_object_new();
	json_object_set_int_member(engine, "pid", cop_pager_pid(state));
	for (size_t i = 0; i < G_N_ELEMENTS(members); i++)
		json_object_set_int_member(engine, members[i].name,
					   (gint64)values[members[i].stat]);
	json_object_set_object_member(obj, "engine", engine);
}

static int by_name(gconstpointer a, gconstpointer b)
{
	const struct cop_template *const *x = a, *const *y = b;

	return strcmp((*x)->name, (*y)->name);
}

static JsonArray *templates_to_json(struct cop_state *state)
{
	g_autoptr(GPtrArray) tpls =
		g_ptr_array_new_with_free_func((GDestroyNotify)cop_template_unref);
	JsonArray *list = json_array_new();
	GHashTableIter iter;
	struct cop_template *tpl;

	g_mutex_lock(&state->lock);
	g_hash_table_iter_init(&iter, state->templates);
	while (g_hash_table_iter_next(&iter, NULL, (void **)&tpl)) {
		if (tpl->ready)
			g_ptr_array_add(tpls, cop_template_ref(tpl));
	}
	g_mutex_unlock(&state->lock);
	g_ptr_array_sort(tpls, by_name);
	for (guint i = 0; i < tpls->len; i++) {
		uint64_t values[COP_PAGER_NR_VALUES] = {0};
		JsonObject *obj = json_object_new();
		g_autofree char *id = NULL, *path = NULL;

		tpl = tpls->pdata[i];
		g_mutex_lock(&state->lock);
		id = g_strdup(tpl->ram_id);
		g_mutex_unlock(&state->lock);
		if (id) {
			path = cop_state_ram_path(state, id);
			if (cop_machine_is_paged(tpl->machine))
				(void)cop_pager_template_stats(state, id, values); /* zeros, then */
		}
		json_object_set_string_member(obj, "name", tpl->name);
		json_object_set_int_member(obj, "ram_bytes", (gint64)tpl->ram_bytes);
		json_object_set_int_member(obj, "resident_bytes",
					   path ? (gint64)cop_file_used_bytes(path) : 0);
		json_object_set_int_member(obj, "loaded_bytes",
					   (gint64)values[COP_PAGER_TEMPLATE_LOADED_BYTES]);
		json_object_set_int_member(obj, "dropped_bytes",
					   (gint64)values[COP_PAGER_TEMPLATE_DROPPED_BYTES]);
		json_array_add_object_element(list, obj);
	}
	return list;
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
	uint64_t given = 0, private = 0, own = 0, vmm = 0, images, paid = 0, pss = 0, limit_given;
	g_autoptr(GHashTable) pids = g_hash_table_new(NULL, NULL);
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
		/* What a VM has mapped shared is in its image. */
		if (!((struct cop_vm *)vms->pdata[i])->ram_shared)
			own += (uint64_t)cop_json_int(memory, "private_bytes", 0, NULL);
		g_hash_table_add(pids, GINT_TO_POINTER((gint)cop_json_int(one, "pid", 0, NULL)));
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
	json_object_set_array_member(obj, "templates", templates_to_json(state));
	set_engine(state, obj);
	json_object_set_object_member(obj, "parts", parts_to_json(state, own, vmm, pids, &use));
	json_object_set_object_member(obj, "total", total);
	json_object_set_object_member(obj, "host", host_to_json(state, &use, have));
	json_object_set_object_member(obj, "limits", limits_to_json(state, nr_vms, limit_given));
	return obj;
}
