/* All that the daemon knows: see state.h. */
#include "state.h"
#include "console.h"
#include "gerror.h"
#include "json.h"
#include "pager.h"
#include "qmp.h"
#include "template.h"

#include <dirent.h>
#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define MAX_ID 1023
/* Most operations take less: two at once then wait for each other instead of failing. */
#define CLAIM_WAIT_US (10 * G_USEC_PER_SEC)

struct cop_state *cop_state_new(struct cop_config *config)
{
	struct cop_state *state = g_new0(struct cop_state, 1);

	state->config = config;
	g_mutex_init(&state->lock);
	g_mutex_init(&state->probe_lock);
	g_cond_init(&state->changed);
	state->vms = g_hash_table_new_full(g_str_hash, g_str_equal, NULL,
					   (GDestroyNotify)cop_vm_unref);
	state->templates = g_hash_table_new_full(g_str_hash, g_str_equal, NULL,
						 (GDestroyNotify)cop_template_unref);
	state->pinned = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
	state->cgroup_procs_fd = -1;
	return state;
}

void cop_state_free(struct cop_state *state)
{
	if (!state)
		return;
	g_hash_table_unref(state->vms);
	g_hash_table_unref(state->templates);
	g_hash_table_unref(state->pinned);
	g_free(state->cgroup_path);
	if (state->cgroup_procs_fd >= 0)
		close(state->cgroup_procs_fd);
	g_free(state->machine_type);
	if (state->accel_report)
		json_object_unref(state->accel_report);
	g_mutex_clear(&state->lock);
	g_mutex_clear(&state->probe_lock);
	g_cond_clear(&state->changed);
	g_free(state);
}

char *cop_state_vm_dir(struct cop_state *state, unsigned id)
{
	return g_strdup_printf("%s/vms/%u", state->config->dir, id);
}

char *cop_state_template_dir(struct cop_state *state, const char *name)
{
	return g_build_filename(state->config->dir, "templates", name, NULL);
}

char *cop_state_layer_path(struct cop_state *state, const struct cop_layer *layer)
{
	if (layer->external)
		return g_strdup(layer->path);
	return g_build_filename(state->config->dir, "disks", layer->path, NULL);
}

char *cop_state_blob_path(struct cop_state *state, const char *name)
{
	return g_build_filename(state->config->dir, "blobs", name, NULL);
}

char *cop_state_ram_path(struct cop_state *state, const char *ram_id)
{
	return g_build_filename(state->config->ram_dir, ram_id, NULL);
}

struct cop_vm *cop_vm_ref(struct cop_vm *vm)
{
	g_atomic_ref_count_inc(&vm->refs);
	return vm;
}

void cop_vm_unref(struct cop_vm *vm)
{
	if (!vm || !g_atomic_ref_count_dec(&vm->refs))
		return;
	g_free(vm->name);
	g_free(vm->reason);
	g_free(vm->template);
	cop_machine_free(vm->machine);
	g_free(vm->ram_id);
	g_free(vm->doom);
	cop_qmp_unref(vm->qmp);
	cop_console_unref(vm->console);
	if (vm->pidfd >= 0)
		close(vm->pidfd);
	if (vm->intent)
		json_object_unref(vm->intent);
	g_free(vm);
}

struct cop_template *cop_template_new(const char *name)
{
	struct cop_template *tpl = g_new0(struct cop_template, 1);

	g_atomic_ref_count_init(&tpl->refs);
	g_mutex_init(&tpl->load_lock);
	tpl->name = g_strdup(name);
	return tpl;
}

struct cop_template *cop_template_ref(struct cop_template *tpl)
{
	g_atomic_ref_count_inc(&tpl->refs);
	return tpl;
}

void cop_template_unref(struct cop_template *tpl)
{
	if (!tpl || !g_atomic_ref_count_dec(&tpl->refs))
		return;
	g_free(tpl->name);
	g_free(tpl->broken);
	g_free(tpl->parent);
	g_free(tpl->from_vm);
	cop_machine_free(tpl->machine);
	g_free(tpl->ram_id);
	g_free(tpl->lost_ram_id);
	if (tpl->sums)
		json_object_unref(tpl->sums);
	g_mutex_clear(&tpl->load_lock);
	g_free(tpl);
}

const char *cop_vm_state_word(enum cop_vm_state run)
{
	static const char *const words[] = {
		[COP_VM_STARTING] = "starting", [COP_VM_RUNNING] = "running",
		[COP_VM_PAUSED] = "paused",	[COP_VM_STOPPED] = "stopped",
		[COP_VM_FAILED] = "failed",
	};

	return words[run];
}

static int compare_ids(gconstpointer a, gconstpointer b)
{
	const struct cop_vm *const *x = a, *const *y = b;

	return (*x)->id < (*y)->id ? -1 : (*x)->id > (*y)->id;
}

GPtrArray *cop_state_all_vms(struct cop_state *state)
{
	GPtrArray *vms = g_ptr_array_new_with_free_func((GDestroyNotify)cop_vm_unref);
	GHashTableIter iter;
	struct cop_vm *vm;

	g_hash_table_iter_init(&iter, state->vms);
	while (g_hash_table_iter_next(&iter, NULL, (void **)&vm))
		g_ptr_array_add(vms, cop_vm_ref(vm));
	g_ptr_array_sort(vms, compare_ids);
	return vms;
}

gboolean cop_vm_alive(const struct cop_vm *vm)
{
	return vm->pid != 0 && (vm->run == COP_VM_RUNNING || vm->run == COP_VM_PAUSED);
}

/* With the lock held. */
static struct cop_vm *lookup_vm(struct cop_state *state, const char *name, GError **error)
{
	struct cop_vm *vm = g_hash_table_lookup(state->vms, name);

	if (!vm)
		cop_gerror_set(error, COP_ERR_NOT_FOUND,
			       "there is no VM '%s'\n'coppice ps' lists the VMs", name);
	return vm;
}

struct cop_vm *cop_state_find_vm(struct cop_state *state, const char *name, GError **error)
{
	struct cop_vm *vm;

	g_mutex_lock(&state->lock);
	vm = lookup_vm(state, name, error);
	if (vm)
		cop_vm_ref(vm);
	g_mutex_unlock(&state->lock);
	return vm;
}

struct cop_vm *cop_state_claim_vm(struct cop_state *state, const char *name, const char *busy,
				  gboolean need_alive, GError **error)
{
	gint64 deadline_us = g_get_monotonic_time() + CLAIM_WAIT_US;
	struct cop_vm *vm;

	g_mutex_lock(&state->lock);
	do {
		vm = g_hash_table_lookup(state->vms, name);
	} while (vm && *vm->busy &&
		 g_cond_wait_until(&state->changed, &state->lock, deadline_us));
	vm = lookup_vm(state, name, error);
	if (vm && *vm->busy) {
		cop_gerror_set(error, COP_ERR_BUSY,
			       "VM '%s' is busy: %s in progress\ntry again when it is done", name,
			       vm->busy);
		vm = NULL;
	} else if (vm && need_alive && !cop_vm_alive(vm)) {
		cop_gerror_set(error, COP_ERR_WRONG_STATE,
			       "VM '%s' is %s, %s needs a running one\n'coppice start %s' boots it",
			       name, cop_vm_state_word(vm->run), busy, name);
		vm = NULL;
	}
	if (vm) {
		vm->busy = busy;
		cop_vm_ref(vm);
	}
	g_mutex_unlock(&state->lock);
	return vm;
}

void cop_state_release_vm(struct cop_vm *vm)
{
	if (!vm)
		return;
	g_mutex_lock(&vm->state->lock);
	vm->busy = "";
	g_cond_broadcast(&vm->state->changed);
	g_mutex_unlock(&vm->state->lock);
	cop_vm_unref(vm);
}

struct cop_template *cop_state_find_template(struct cop_state *state, const char *name,
					     GError **error)
{
	struct cop_template *tpl;

	g_mutex_lock(&state->lock);
	tpl = g_hash_table_lookup(state->templates, name);
	if (tpl && !tpl->ready && !tpl->broken)
		tpl = NULL;
	if (!tpl)
		cop_gerror_set(error, COP_ERR_NOT_FOUND,
			       "there is no template '%s'\n'coppice templates' lists the templates",
			       name);
	else if (tpl->broken)
		cop_gerror_set(error, COP_ERR_DAMAGED,
			       "template '%s' can't be used: %s\n'coppice template rm %s' removes it",
			       name, tpl->broken, name);
	tpl = tpl && !tpl->broken ? cop_template_ref(tpl) : NULL;
	g_mutex_unlock(&state->lock);
	return tpl;
}

uint64_t cop_state_given_bytes(struct cop_state *state)
{
	GHashTableIter iter;
	struct cop_vm *vm;
	uint64_t sum = 0;

	g_hash_table_iter_init(&iter, state->vms);
	while (g_hash_table_iter_next(&iter, NULL, (void **)&vm)) {
		if (vm->run <= COP_VM_PAUSED && vm->machine)
			sum += vm->machine->memory_bytes;
	}
	return sum;
}

unsigned cop_state_nr_vms(struct cop_state *state)
{
	return g_hash_table_size(state->vms);
}

static uint64_t used_below(const char *path, int depth)
{
	g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);
	const char *name;
	uint64_t sum = 0;

	while (dir && (name = g_dir_read_name(dir))) {
		g_autofree char *child = g_build_filename(path, name, NULL);
		struct stat st;

		if (lstat(child, &st) == 0 && S_ISREG(st.st_mode))
			sum += (uint64_t)st.st_blocks * 512;
		else if (depth > 0 && lstat(child, &st) == 0 && S_ISDIR(st.st_mode))
			sum += used_below(child, depth - 1);
	}
	return sum;
}

uint64_t cop_state_disk_bytes(struct cop_state *state)
{
	static const char *const folders[] = {"disks", "blobs", "templates"};
	uint64_t sum = 0;

	for (size_t i = 0; i < G_N_ELEMENTS(folders); i++) {
		g_autofree char *path = g_build_filename(state->config->dir, folders[i], NULL);

		sum += used_below(path, 1);
	}
	return sum;
}

uint64_t cop_state_max_disk_bytes(struct cop_state *state)
{
	struct statvfs fs;

	if (state->config->max_disk_bytes)
		return state->config->max_disk_bytes;
	if (statvfs(state->config->dir, &fs) < 0)
		return 0;
	return (uint64_t)fs.f_blocks * fs.f_frsize / 10 * 9;
}

gboolean cop_state_check_disk(struct cop_state *state, GError **error)
{
	uint64_t used = cop_state_disk_bytes(state), max = cop_state_max_disk_bytes(state);
	g_autofree char *used_text = cop_file_size_text(used);
	g_autofree char *max_text = cop_file_size_text(max);

	if (used < max)
		return TRUE;
	return cop_gerror_set(error, COP_ERR_LIMIT,
			      "the disk limit is reached: %s used of %s\n"
			      "remove VMs or templates, or start coppiced with a larger --max-disk",
			      used_text, max_text);
}

static gboolean id_used(struct cop_state *state, unsigned id)
{
	g_autofree char *dir = cop_state_vm_dir(state, id);
	GHashTableIter iter;
	struct cop_vm *vm;

	if (g_file_test(dir, G_FILE_TEST_EXISTS))
		return TRUE; /* of a VM whose manifest can't be read, too */
	g_hash_table_iter_init(&iter, state->vms);
	while (g_hash_table_iter_next(&iter, NULL, (void **)&vm)) {
		if (vm->id == id)
			return TRUE;
	}
	return FALSE;
}

/* With the lock held. */
static gboolean memory_allows(struct cop_state *state, unsigned count, uint64_t memory_bytes,
			      GError **error)
{
	uint64_t given = cop_state_given_bytes(state), max = state->config->max_memory_bytes;
	g_autofree char *ask = NULL, *now = NULL, *limit = NULL;

	if (given <= max && (max - given) / memory_bytes >= count)
		return TRUE;
	ask = cop_file_size_text(memory_bytes);
	now = cop_file_size_text(given);
	limit = cop_file_size_text(max);
	return cop_gerror_set(error, COP_ERR_LIMIT,
			      "%u more of %s each would pass the limit of memory given: %s of %s "
			      "are given\nstop VMs, or start coppiced with a larger --max-memory",
			      count, ask, now, limit);
}

/* With the lock held. */
static gboolean number_allows(struct cop_state *state, unsigned count, GError **error)
{
	unsigned nr = cop_state_nr_vms(state), max = state->config->max_vms;

	if (count <= max && nr <= max - count)
		return TRUE;
	return cop_gerror_set(error, COP_ERR_LIMIT,
			      "%u more would make %u VMs, the limit is %u\n"
			      "remove VMs, or start coppiced with a larger --max-vms",
			      count, nr + count, max);
}

gboolean cop_state_check_start(struct cop_vm *vm, GError **error)
{
	gboolean ok;

	g_mutex_lock(&vm->state->lock);
	ok = memory_allows(vm->state, 1, vm->machine->memory_bytes, error);
	g_mutex_unlock(&vm->state->lock);
	return ok && cop_state_check_disk(vm->state, error);
}

/* With the lock held. */
static char *free_name(struct cop_state *state, const char *prefix)
{
	for (unsigned i = 1;; i++) {
		char *name = g_strdup_printf("%.50s-%u", prefix, i);

		if (!g_hash_table_contains(state->vms, name))
			return name;
		g_free(name);
	}
}

static struct cop_vm *add_vm(struct cop_state *state, char *name)
{
	struct cop_vm *vm = g_new0(struct cop_vm, 1);
	unsigned id = 0;

	while (id_used(state, id))
		id++;
	g_assert(id <= MAX_ID);
	g_atomic_ref_count_init(&vm->refs);
	vm->state = state;
	vm->name = name;
	vm->id = id;
	vm->reason = g_strdup("");
	vm->busy = "start";
	vm->pidfd = -1;
	vm->vnc_fd = -1;
	vm->created_s = g_get_real_time() / G_USEC_PER_SEC;
	g_hash_table_insert(state->vms, vm->name, vm);
	return vm;
}

GPtrArray *cop_state_reserve_vms(struct cop_state *state, char *const *names, const char *prefix,
				 unsigned count, uint64_t memory_bytes, GError **error)
{
	g_autoptr(GPtrArray) vms = g_ptr_array_new_with_free_func((GDestroyNotify)cop_vm_unref);
	gboolean ok;

	g_mutex_lock(&state->lock);
	ok = number_allows(state, count, error) && memory_allows(state, count, memory_bytes, error);
	for (unsigned i = 0; ok && names && i < count; i++) {
		if (!cop_name_valid(names[i]))
			ok = cop_gerror_set(error, COP_ERR_BAD_REQUEST,
					    "'%s' is not a VM name\nuse a-z, 0-9, '.', '_' and '-', "
					    "at most 63, the first a letter or digit",
					    names[i]);
		else if (g_hash_table_contains(state->vms, names[i]))
			ok = cop_gerror_set(error, COP_ERR_NAME_TAKEN,
					    "there is a VM '%s' already\nchoose another name, or "
					    "'coppice rm %s' first",
					    names[i], names[i]);
		for (unsigned j = 0; ok && j < i; j++) {
			if (strcmp(names[i], names[j]) == 0)
				ok = cop_gerror_set(error, COP_ERR_NAME_TAKEN,
						    "the name '%s' is given twice", names[i]);
		}
	}
	for (unsigned i = 0; ok && i < count; i++) {
		struct cop_vm *vm =
			add_vm(state, names ? g_strdup(names[i]) : free_name(state, prefix));

		g_ptr_array_add(vms, cop_vm_ref(vm));
	}
	g_mutex_unlock(&state->lock);
	return ok ? g_steal_pointer(&vms) : NULL;
}

/* With the lock held: a fork's template that nothing needs any more. */
static void drop_ephemeral(struct cop_state *state)
{
	GHashTableIter iter, vms;
	struct cop_template *tpl;
	struct cop_vm *vm;

	g_hash_table_iter_init(&iter, state->templates);
	while (g_hash_table_iter_next(&iter, NULL, (void **)&tpl)) {
		gboolean used = !tpl->ready || !tpl->ephemeral || tpl->busy_users;

		g_hash_table_iter_init(&vms, state->vms);
		while (!used && g_hash_table_iter_next(&vms, NULL, (void **)&vm))
			used = g_strcmp0(vm->template, tpl->name) == 0;
		if (!used) {
			cop_template_remove_folder(state, tpl->name);
			cop_template_lift_children(state, tpl);
			g_hash_table_iter_remove(&iter);
		}
	}
}

void cop_state_forget_vm(struct cop_vm *vm)
{
	struct cop_state *state = vm->state;
	g_autofree char *dir = cop_state_vm_dir(state, vm->id);

	cop_file_remove_tree(dir);
	g_mutex_lock(&state->lock);
	g_hash_table_remove(state->vms, vm->name);
	drop_ephemeral(state);
	g_cond_broadcast(&state->changed);
	g_mutex_unlock(&state->lock);
	cop_state_collect(state);
}

void cop_state_pin(struct cop_state *state, const char *file)
{
	g_mutex_lock(&state->lock);
	g_hash_table_add(state->pinned, g_strdup(file));
	g_mutex_unlock(&state->lock);
}

void cop_state_unpin(struct cop_state *state, const char *file)
{
	g_mutex_lock(&state->lock);
	g_hash_table_remove(state->pinned, file);
	g_mutex_unlock(&state->lock);
}

static void mark(GHashTable *used, const char *file)
{
	if (file)
		g_hash_table_add(used, (char *)file);
}

static void mark_machine(GHashTable *used, const struct cop_machine *machine)
{
	if (!machine)
		return;
	mark(used, machine->kernel);
	mark(used, machine->initrd);
	for (guint i = 0; i < machine->disks->len; i++) {
		const struct cop_disk *disk = machine->disks->pdata[i];

		for (guint j = 0; j < disk->layers->len; j++) {
			const struct cop_layer *layer = disk->layers->pdata[j];

			if (!layer->external)
				mark(used, layer->path);
		}
	}
}

/* As cop_file_random_id() makes them, with or without an ending. */
static gboolean own_name(const char *name)
{
	return strspn(name, "0123456789abcdef") == 16 &&
	       (name[16] == '\0' || strcmp(name + 16, ".qcow2") == 0);
}

static void sweep(const char *folder, GHashTable *used)
{
	g_autoptr(GDir) dir = g_dir_open(folder, 0, NULL);
	const char *name;

	while (dir && (name = g_dir_read_name(dir))) {
		/* A stranger's file in a folder that was given is left alone. */
		if (own_name(name) && !g_hash_table_contains(used, name)) {
			g_autofree char *path = g_build_filename(folder, name, NULL);

			g_info("removing %s, which nothing uses", path);
			cop_file_remove_tree(path);
		}
	}
}

void cop_state_collect(struct cop_state *state)
{
	g_autoptr(GHashTable) used = g_hash_table_new(g_str_hash, g_str_equal);
	g_autofree char *disks = g_build_filename(state->config->dir, "disks", NULL);
	g_autofree char *blobs = g_build_filename(state->config->dir, "blobs", NULL);
	GHashTableIter iter;
	struct cop_vm *vm;
	struct cop_template *tpl;
	gboolean broken = FALSE;
	void *file;

	g_mutex_lock(&state->lock);
	if (!state->keep_files) {
		g_hash_table_iter_init(&iter, state->pinned);
		while (g_hash_table_iter_next(&iter, &file, NULL))
			mark(used, file);
		g_hash_table_iter_init(&iter, state->vms);
		while (g_hash_table_iter_next(&iter, NULL, (void **)&vm)) {
			mark(used, vm->ram_id);
			mark_machine(used, vm->machine);
		}
		g_hash_table_iter_init(&iter, state->templates);
		while (g_hash_table_iter_next(&iter, NULL, (void **)&tpl)) {
			mark(used, tpl->ram_id);
			mark_machine(used, tpl->machine);
			broken = broken || tpl->broken;
		}
		/* What a broken template needs is unknown. */
		if (!broken) {
			sweep(disks, used);
			sweep(blobs, used);
			sweep(state->config->ram_dir, used);
		}
	}
	g_mutex_unlock(&state->lock);
	cop_pager_collect(state);
}
