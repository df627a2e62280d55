/* Start-up: see recover.h.
 *
 * What a killed daemon can leave, and what becomes of it:
 * - templates/.NAME.new, .NAME.gone: a freeze or removal that did not end; removed
 * - vms/ID without a readable vm.json: a VM that never started; removed, unless vm.json is there but
 *   damaged: then it stays, and no file is collected, as it may name some
 * - a clone in state "starting": its QEMU is ended, the clone is removed; a VM that boots is taken up
 * - a VM with an intent: cop_freeze_recover()
 */
#include "recover.h"
#include "gerror.h"
#include "ops.h"
#include "pager.h"
#include "ram.h"
#include "template.h"
#include "vm.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* The kernel shows mapped files by their real path, which is compared with this one. */
static gboolean make_ram_dir(struct cop_state *state, GError **error)
{
	struct cop_config *config = state->config;
	char *real = realpath(config->ram_dir, NULL);

	if (!real) {
		if (!cop_file_mkdir(config->ram_dir, 0700, error))
			return FALSE;
		real = realpath(config->ram_dir, NULL);
	}
	if (!real)
		return cop_gerror_errno(error, errno, "cannot use %s", config->ram_dir);
	g_free(config->ram_dir);
	config->ram_dir = g_strdup(real);
	free(real);
	return TRUE;
}

static gboolean make_folders(struct cop_state *state, GError **error)
{
	static const char *const folders[] = {"disks", "blobs", "templates", "vms"};

	for (size_t i = 0; i < G_N_ELEMENTS(folders); i++) {
		g_autofree char *path = g_build_filename(state->config->dir, folders[i], NULL);

		/* A VM's user reaches its own folder only, which is its working directory. */
		if (!cop_file_mkdir(path, 0700, error))
			return FALSE;
	}
	return make_ram_dir(state, error);
}

/* The folder on /dev/shm has a name that others can guess: it must be ours. */
static gboolean check_ram_dir(struct cop_state *state, GError **error)
{
	struct stat st;

	if (lstat(state->config->ram_dir, &st) < 0)
		return cop_gerror_errno(error, errno, "cannot use %s", state->config->ram_dir);
	if (!S_ISDIR(st.st_mode) || st.st_uid != geteuid() || (st.st_mode & 077))
		return cop_gerror_set(error, COP_ERR_INTERNAL,
				      "%s belongs to somebody else or is open to others\n"
				      "remove it, or choose another --ram-dir",
				      state->config->ram_dir);
	return TRUE;
}

/* A folder that was copied has another template's. */
static gboolean domain_taken(struct cop_state *state, unsigned domain)
{
	struct cop_template *tpl;
	GHashTableIter iter;

	g_hash_table_iter_init(&iter, state->templates);
	while (g_hash_table_iter_next(&iter, NULL, (void **)&tpl)) {
		if (tpl->domain == domain)
			return TRUE;
	}
	return FALSE;
}

static void read_templates(struct cop_state *state)
{
	g_autofree char *folder = g_build_filename(state->config->dir, "templates", NULL);
	g_autoptr(GDir) dir = g_dir_open(folder, 0, NULL);
	struct cop_template *child;
	GHashTableIter iter;
	const char *name;

	while (dir && (name = g_dir_read_name(dir))) {
		g_autofree char *path = g_build_filename(folder, name, NULL);
		struct cop_template *tpl;

		if (!cop_name_valid(name)) {
			cop_file_remove_tree(path);
			continue;
		}
		tpl = cop_template_read(state, name);
		if (!tpl->domain || domain_taken(state, tpl->domain))
			tpl->domain = cop_pager_new_domain(state);
		g_hash_table_insert(state->templates, tpl->name, tpl);
	}
	/* A parent that was removed is not noted in its children's manifests. */
	g_hash_table_iter_init(&iter, state->templates);
	while (g_hash_table_iter_next(&iter, NULL, (void **)&child)) {
		if (child->parent && !g_hash_table_contains(state->templates, child->parent))
			g_clear_pointer(&child->parent, g_free);
	}
}

static void read_vms(struct cop_state *state)
{
	g_autofree char *folder = g_build_filename(state->config->dir, "vms", NULL);
	g_autoptr(GDir) dir = g_dir_open(folder, 0, NULL);
	const char *name;

	while (dir && (name = g_dir_read_name(dir))) {
		g_autofree char *path = g_build_filename(folder, name, NULL);
		g_autofree char *manifest = g_build_filename(path, "vm.json", NULL);
		g_autoptr(GError) why = NULL;
		guint64 id;

		if (!g_ascii_string_to_unsigned(name, 10, 0, 1023, &id, NULL) ||
		    !g_file_test(manifest, G_FILE_TEST_EXISTS)) {
			cop_file_remove_tree(path);
		} else if (!cop_vm_read(state, (unsigned)id, &why)) {
			g_warning("VM in %s can't be used, and stays as it is: %s", path,
				  why->message);
			state->keep_files = TRUE;
		}
	}
}

gboolean cop_recover_read(struct cop_state *state, GError **error)
{
	if (!make_folders(state, error) || !check_ram_dir(state, error))
		return FALSE;
	read_templates(state);
	read_vms(state);
	return TRUE;
}

void cop_recover_adopt(struct cop_state *state)
{
	g_autoptr(GPtrArray) vms = NULL;

	g_mutex_lock(&state->lock);
	vms = cop_state_all_vms(state);
	g_mutex_unlock(&state->lock);
	/* First of all: a QEMU that waits for a page does not answer its monitor. */
	for (guint i = 0; i < vms->len; i++) {
		struct cop_vm *vm = vms->pdata[i];

		if (vm->pid && cop_vm_pid_start(vm->pid) == vm->pid_start)
			cop_ram_note_mapping(vm);
	}
	cop_pager_take_up(state);
	for (guint i = 0; i < vms->len; i++) {
		struct cop_vm *vm = vms->pdata[i];
		gboolean was_starting = vm->run == COP_VM_STARTING;

		cop_vm_adopt(vm);
		if (was_starting && vm->template) {
			g_info("removing clone '%s', whose start was cut short", vm->name);
			cop_op_discard(vm);
			continue;
		}
		if (vm->intent)
			cop_freeze_recover(vm);
		g_info("VM '%s' is %s", vm->name, cop_vm_state_word(vm->run));
	}
	cop_state_collect(state);
}
