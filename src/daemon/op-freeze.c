/* freeze: a template from a running VM.
 *
 * One paused window holds all that must be of one instant; all else is before or after it:
 *
 *   before   checksum-free preparation: folder templates/.NAME.new, empty overlays, a RAM image for
 *            a clone (ram.c), the descriptors in QEMU, disk caches written out; the guest's file
 *            systems frozen and, last, its programs held by its agent, if it has one, until after the
 *            window (and in clones until their agents have identified them)
 *   window   stop · switch disks to overlays (drains and flushes) · save device state · make RAM
 *            private · cont
 *   after    RAM image and device state to disk with checksums, template.json, rename to NAME
 *
 * Invariants:
 * 1. A template exists if and only if its folder has its final name. The rename comes last, so a kill
 *    at any point before leaves no template, and one after it leaves all of it.
 * 2. Nobody can change the template's RAM or disks once the VM runs again: RAM is mapped private and
 *    the disks' written layer is a new overlay before `cont`.
 * 3. The VM itself loses nothing by a freeze that fails: on new overlays and private RAM it goes on
 *    with the same bytes.
 *
 * A killed daemon: vm.json has the `intent` from before the window, with the overlays' names. The
 * next daemon asks the kernel which RAM image is mapped and QEMU which layers it has, notes them, lets the VM run again if it ran, and removes
 * templates/.NAME.new (cop_freeze_recover).
 */
#include "agent.h"
#include "gerror.h"
#include "disk.h"
#include "fault.h"
#include "json.h"
#include "ops.h"
#include "pager.h"
#include "qmp.h"
#include "ram.h"
#include "template.h"
#include "vm.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define HOLD_ANSWER_MS 1000

struct freeze {
	struct cop_state *state;
	struct cop_vm *vm;
	const char *name;
	gboolean stop, was_running;
	char *dir;		 /* templates/.NAME.new */
	GPtrArray *overlays;	 /* struct cop_layer *, one a disk; empty with stop */
	gboolean switched;	 /* the VM's disks are on the overlays */
	struct cop_ram_freeze *ram;
	int state_fd;
	struct cop_freeze_times times;
	struct cop_freeze_guest *guest;
	gboolean agent;		       /* one is connected */
	gint64 begun_us;
};

static double ms_between(gint64 from_us, gint64 to_us)
{
	return (double)(to_us - from_us) / 1000.0;
}

static gboolean call(struct freeze *f, const char *command, JsonObject *args, int fd,
		     GError **error)
{
	return cop_qmp_call(f->vm->qmp, command, args, fd, COP_VM_QMP_MS, NULL, error);
}

/* {"driver": ..., "node-name": ..., KEY: VALUE} */
static JsonObject *node_args(const char *driver, const char *node, const char *key,
			     const char *value)
{
	JsonObject *args = json_object_new();

	json_object_set_string_member(args, "driver", driver);
	json_object_set_string_member(args, "node-name", node);
	json_object_set_string_member(args, "discard", "unmap");
	json_object_set_string_member(args, key, value);
	return args;
}

/* Makes a new overlay known to QEMU, not yet in use. */
static gboolean hand_overlay(struct freeze *f, const struct cop_layer *layer, unsigned set,
			     GError **error)
{
	g_autofree char *path = cop_state_layer_path(f->state, layer);
	g_autofree char *file = cop_launch_node(layer, 'f');
	g_autofree char *node = cop_launch_node(layer, 'n');
	g_autofree char *set_path = g_strdup_printf("/dev/fdset/%u", set);
	int fd = cop_file_open(path, O_RDWR, 0, error);
	JsonObject *args, *overlay;
	gboolean ok;

	if (fd < 0)
		return FALSE;
	args = json_object_new();
	json_object_set_int_member(args, "fdset-id", set);
	ok = call(f, "add-fd", args, fd, error);
	close(fd);
	if (!ok || !call(f, "blockdev-add", node_args("file", file, "filename", set_path), -1,
			 error))
		return FALSE;
	overlay = node_args("qcow2", node, "file", file);
	json_object_set_null_member(overlay, "backing");
	return call(f, "blockdev-add", overlay, -1, error);
}

static gboolean prepare_disks(struct freeze *f, GError **error)
{
	struct cop_machine *machine = f->vm->machine;
	static gint set_counter = 100000; /* above the descriptors' numbers at the start */

	for (guint i = 0; i < machine->disks->len; i++) {
		struct cop_disk *disk = machine->disks->pdata[i];
		g_autofree char *seed = g_strdup_printf("%s/seed-%u.qcow2", f->dir, i);
		g_autofree char *overlay_path = NULL;
		struct cop_layer *overlay = cop_disk_new_overlay(f->state, disk, NULL, error);

		if (!overlay)
			return FALSE;
		g_ptr_array_add(f->overlays, overlay);
		overlay_path = cop_state_layer_path(f->state, overlay);
		if (!cop_file_copy(overlay_path, seed, 0600, error) ||
		    (!f->stop &&
		     !hand_overlay(f, overlay, (unsigned)g_atomic_int_add(&set_counter, 1), error)))
			return FALSE;
	}
	return TRUE;
}

/* What the host writes out now need not be written in the window, where QEMU flushes. */
static void flush_early(struct freeze *f)
{
	for (guint i = 0; i < f->vm->machine->disks->len; i++) {
		g_autofree char *path = cop_state_layer_path(
			f->state, cop_disk_top(f->vm->machine->disks->pdata[i]));
		int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);

		if (fd >= 0) {
			(void)fdatasync(fd); /* an error shows again in the window */
			close(fd);
		}
	}
}

static gboolean save_intent(struct freeze *f, GError **error)
{
	JsonObject *intent = json_object_new();
	JsonArray *overlays = json_array_new();

	for (guint i = 0; !f->stop && i < f->overlays->len; i++)
		json_array_add_string_element(overlays,
					      ((struct cop_layer *)f->overlays->pdata[i])->path);
	json_object_set_string_member(intent, "op", "freeze");
	json_object_set_string_member(intent, "template", f->name);
	json_object_set_boolean_member(intent, "was_running", f->was_running);
	json_object_set_boolean_member(intent, "stop", f->stop);
	json_object_set_array_member(intent, "overlays", overlays);
	g_mutex_lock(&f->state->lock);
	f->vm->intent = intent;
	g_mutex_unlock(&f->state->lock);
	return cop_vm_save(f->vm, error);
}

/* The VM's description catches up with QEMU: the overlays are the disks' newest layers. */
static void note_overlays(struct cop_vm *vm, GPtrArray *overlays)
{
	g_mutex_lock(&vm->state->lock);
	for (guint i = 0; i < overlays->len; i++) {
		struct cop_disk *disk = vm->machine->disks->pdata[i];
		struct cop_layer *layer = overlays->pdata[i];

		g_ptr_array_add(disk->layers, cop_layer_new(layer->path, FALSE, FALSE));
	}
	g_mutex_unlock(&vm->state->lock);
}

static gboolean switch_disks(struct freeze *f, GError **error)
{
	JsonObject *args = json_object_new();
	JsonArray *actions = json_array_new();
	gboolean ok;

	for (guint i = 0; i < f->overlays->len; i++) {
		struct cop_disk *disk = f->vm->machine->disks->pdata[i];
		g_autofree char *below = cop_launch_node(cop_disk_top(disk), 'n');
		g_autofree char *overlay = cop_launch_node(f->overlays->pdata[i], 'n');
		JsonObject *action = json_object_new(), *data = json_object_new();

		json_object_set_string_member(data, "node", below);
		json_object_set_string_member(data, "overlay", overlay);
		json_object_set_string_member(action, "type", "blockdev-snapshot");
		json_object_set_object_member(action, "data", data);
		json_array_add_object_element(actions, action);
	}
	json_object_set_array_member(args, "actions", actions);
	ok = call(f, "transaction", args, -1, error);
	if (!ok)
		return FALSE;
	f->switched = TRUE;
	cop_fault_point("freeze-switched");
	note_overlays(f->vm, f->overlays);
	/* Before the guest can write to them: no later reader of vm.json may miss the overlays. */
	return cop_vm_save(f->vm, error);
}

/* After a freeze that failed before the switch: QEMU lets go of overlays that it was handed. */
static void take_back_overlays(struct freeze *f)
{
	for (guint i = 0; !f->stop && !f->switched && i < f->overlays->len; i++) {
		static const char kinds[] = "nf";

		for (int k = 0; k < 2; k++) {
			JsonObject *args = json_object_new();
			g_autofree char *node = cop_launch_node(f->overlays->pdata[i], kinds[k]);

			json_object_set_string_member(args, "node-name", node);
			(void)call(f, "blockdev-del", args, -1, NULL); /* it may not be there */
		}
	}
}

/* The window. On failure the caller lets the VM go on. */
static gboolean window(struct freeze *f, GError **error)
{
	guint64 mark = cop_qmp_mark(f->vm->qmp);
	gint64 stop_us = 0, resume_us = 0, t;

	if (f->was_running &&
	    (!cop_vm_halt(f->vm, error) ||
	     !cop_qmp_wait(f->vm->qmp, mark, "STOP", NULL, NULL, COP_VM_QMP_MS, NULL, &stop_us,
			   error)))
		return FALSE;
	cop_fault_point("freeze-stopped");
	t = g_get_monotonic_time();
	if (!f->stop && f->overlays->len && !switch_disks(f, error))
		return FALSE;
	f->times.disks_ms = ms_between(t, g_get_monotonic_time());
	t = g_get_monotonic_time();
	cop_fault_point("freeze-disks-noted");
	if (!cop_vm_move_state(f->vm, "migrate", error))
		return FALSE;
	cop_fault_point("freeze-state-saved");
	f->times.state_ms = ms_between(t, g_get_monotonic_time());
	t = g_get_monotonic_time();
	if (!cop_ram_freeze_mark(f->ram, error))
		return FALSE;
	f->times.ram_ms = ms_between(t, g_get_monotonic_time());
	cop_fault_point("freeze-ram-private");
	if (f->stop || !f->was_running)
		return TRUE;
	mark = cop_qmp_mark(f->vm->qmp);
	if (!cop_vm_cont(f->vm, error) ||
	    !cop_qmp_wait(f->vm->qmp, mark, "RESUME", NULL, NULL, COP_VM_QMP_MS, NULL, &resume_us,
			  error))
		return FALSE;
	f->times.window_ms = ms_between(stop_us, resume_us);
	return TRUE;
}

/* Checksums of all layers below the clones' overlays; those that the parent has are taken over. */
static gboolean sum_layers(struct freeze *f, struct cop_template *tpl, JsonObject *parent_sums,
			   GError **error)
{
	JsonObject *known = cop_json_obj(parent_sums, "files");

	for (guint i = 0; i < tpl->machine->disks->len; i++) {
		const struct cop_disk *disk = tpl->machine->disks->pdata[i];

		for (guint j = 0; j < disk->layers->len; j++) {
			const struct cop_layer *layer = disk->layers->pdata[j];
			g_autofree char *path = cop_state_layer_path(f->state, layer);
			g_autofree char *key = g_strconcat("disks/", layer->path, NULL);
			JsonObject *entry = cop_json_obj(known, key);

			if (layer->external)
				continue;
			/* Read-only for good, unless the VM still stands on it: see
			 * cop_disk_launch(). */
			if (f->switched && chmod(path, 0400) < 0)
				return cop_gerror_errno(error, errno, "cannot protect %s", path);
			if (entry)
				json_object_set_object_member(cop_json_obj(tpl->sums, "files"), key,
							      json_object_ref(entry));
			else if (!cop_template_sum_file(tpl->sums, key, path, error))
				return FALSE;
		}
	}
	return TRUE;
}

static struct cop_machine *frozen_machine(struct freeze *f)
{
	struct cop_machine *machine;

	g_mutex_lock(&f->state->lock);
	machine = cop_machine_copy(f->vm->machine);
	g_mutex_unlock(&f->state->lock);
	for (guint i = 0; f->switched && i < machine->disks->len; i++) {
		struct cop_disk *disk = machine->disks->pdata[i];

		g_ptr_array_remove_index(disk->layers, disk->layers->len - 1);
	}
	return machine;
}

/* Writes all that the template needs into its folder. */
static gboolean write_template(struct freeze *f, struct cop_template *tpl, GError **error)
{
	g_autofree char *ram = g_build_filename(f->dir, "ram", NULL);
	g_autofree char *state_path = g_build_filename(f->dir, "state", NULL);
	g_autoptr(JsonObject) parent_sums = NULL;
	JsonObject *ram_sums = json_object_new();
	struct cop_template *parent;

	tpl->sums = json_object_new();
	json_object_set_object_member(tpl->sums, "ram", ram_sums);
	if (!cop_ram_save(f->state, cop_ram_freeze_id(f->ram), ram, ram_sums, error) ||
	    !cop_template_sum_file(tpl->sums, "ram", ram, error))
		return FALSE;
	if (fsync(f->state_fd) < 0)
		return cop_gerror_errno(error, errno, "cannot write %s", state_path);
	if (!cop_template_sum_file(tpl->sums, "state", state_path, error))
		return FALSE;
	g_mutex_lock(&f->state->lock);
	tpl->parent = g_strdup(f->vm->template);
	parent = tpl->parent ? g_hash_table_lookup(f->state->templates, tpl->parent) : NULL;
	if (parent && parent->sums)
		parent_sums = json_object_ref(parent->sums);
	g_mutex_unlock(&f->state->lock);
	tpl->agent = f->agent;
	tpl->from_vm = g_strdup(f->vm->name);
	tpl->machine = frozen_machine(f);
	tpl->ram_id = g_strdup(cop_ram_freeze_id(f->ram));
	tpl->ram_bytes = (uint64_t)cop_json_int(ram_sums, "data_bytes", 0, NULL);
	tpl->created_s = g_get_real_time() / G_USEC_PER_SEC;
	if (!sum_layers(f, tpl, parent_sums, error))
		return FALSE;
	for (guint i = 0; i < tpl->machine->disks->len; i++) {
		g_autofree char *seed = g_strdup_printf("%s/seed-%u.qcow2", f->dir, i);
		g_autofree char *key = g_strdup_printf("seed-%u.qcow2", i);

		if (!cop_file_sync(seed, error) ||
		    !cop_template_sum_file(tpl->sums, key, seed, error))
			return FALSE;
	}
	f->times.total_ms = ms_between(f->begun_us, g_get_monotonic_time());
	tpl->times = f->times;
	return cop_template_save(tpl, f->dir, error);
}

static gboolean commit(struct freeze *f, struct cop_template *tpl, GError **error)
{
	g_autofree char *final = cop_state_template_dir(f->state, f->name);
	g_autofree char *parent = g_path_get_dirname(final);

	if (rename(f->dir, final) < 0)
		return cop_gerror_errno(error, errno, "cannot rename %s to %s", f->dir, final);
	g_mutex_lock(&f->state->lock);
	tpl->ready = TRUE;
	if (!f->stop) {
		g_free(f->vm->template);
		f->vm->template = g_strdup(f->name);
	}
	g_cond_broadcast(&f->state->changed);
	g_mutex_unlock(&f->state->lock);
	return cop_file_sync_dir(parent, error);
}

/* From now on the image's cold pages may leave RAM, as they are in the file. Only now: a file in
 * .NAME.new would be gone if the freeze failed. */
static void tell_pager(struct freeze *f, struct cop_template *tpl)
{
	g_autoptr(GError) why = NULL;

	if (cop_machine_is_paged(tpl->machine) &&
	    !cop_pager_add_image(f->state, tpl->ram_id, tpl->machine->memory_bytes, tpl->domain, tpl,
				 TRUE, &why))
		g_warning("template '%s': %s", tpl->name, why->message); /* told again by a clone */
}

static void drop_intent(struct cop_vm *vm)
{
	JsonObject *intent;

	g_mutex_lock(&vm->state->lock);
	intent = g_steal_pointer(&vm->intent);
	g_mutex_unlock(&vm->state->lock);
	if (intent)
		json_object_unref(intent);
	(void)cop_vm_save(vm, NULL); /* the next save will do; recovery copes with either */
}

/* Lets the guest sync and freeze its file systems; a guest that can't is frozen as it is. */
static void quiesce(struct freeze *f)
{
	g_autoptr(GError) why = NULL;
	gint64 begun_us = g_get_monotonic_time();

	f->agent = cop_agent_ready(f->vm->agent);
	if (f->guest->timeout_ms <= 0 || !f->was_running)
		return;
	f->guest->done = f->agent &&
			cop_agent_quiesce(f->vm->agent, f->guest->timeout_ms, &why);
	f->guest->ms = ms_between(begun_us, g_get_monotonic_time());
	g_free(f->guest->reason);
	f->guest->reason = f->guest->done ? g_strdup("")
			  : why		? cop_gerror_message(why)
					: g_strdup("there is no agent");
	cop_fault_point("freeze-quiesced");
}

/* Keeps the guest's programs from running, for less than a second: see cop_agent_hold(). */
static void hold(struct freeze *f)
{
	g_autoptr(GError) why = NULL;

	if (f->guest->timeout_ms <= 0 || !f->was_running || !f->agent)
		return;
	f->guest->held = cop_agent_hold(f->vm->agent, HOLD_ANSWER_MS, &why);
	if (!f->guest->held)
		g_info("VM '%s' is frozen with its programs running: %s", f->vm->name, why->message);
	cop_fault_point("freeze-held");
}

static gboolean freeze_steps(struct freeze *f, struct cop_template *tpl, GError **error)
{
	g_autofree char *state_path = g_build_filename(f->dir, "state", NULL);
	gboolean ok;

	cop_file_remove_tree(f->dir); /* a left-over, or nothing */
	if (!cop_state_check_disk(f->state, error) || !cop_file_mkdir(f->dir, 0700, error))
		return FALSE;
	f->state_fd = cop_file_open(state_path, O_RDWR | O_CREAT | O_EXCL, 0600, error);
	if (f->state_fd < 0 || !prepare_disks(f, error))
		return FALSE;
	f->ram = cop_ram_freeze_begin(f->vm, tpl->domain, error);
	if (!f->ram || !cop_vm_send_state_fd(f->vm, f->state_fd, error) || !save_intent(f, error))
		return FALSE;
	cop_fault_point("freeze-intent");
	quiesce(f);
	flush_early(f);
	hold(f);
	ok = window(f, error);
	/* Whatever has happened: the VM goes on, and its file systems with it. */
	cop_agent_thaw(f->vm->agent);
	cop_fault_point("freeze-window-over");
	/* The kernel knows what the VM maps now, also when a step failed. */
	cop_ram_note_mapping(f->vm);
	/* On disk before the template is: with an older vm.json, after a loss of power, the VM would
	 * be started on the template's layer and write to it. */
	ok = cop_vm_save_durable(f->vm, ok ? error : NULL) && ok;
	ok = ok && write_template(f, tpl, error);
	cop_fault_point("freeze-written");
	ok = ok && commit(f, tpl, error);
	cop_fault_point("freeze-committed");
	if (ok)
		tell_pager(f, tpl);
	/* A VM that stands still because something failed goes on. */
	if (!ok && f->was_running) {
		g_autoptr(GError) why = NULL;

		if (!cop_vm_cont(f->vm, &why))
			g_warning("VM '%s' could not go on: %s", f->vm->name, why->message);
	}
	return ok;
}

/* The name is taken from here on. */
static struct cop_template *reserve(struct cop_state *state, const char *name, gboolean ephemeral,
				    GError **error)
{
	struct cop_template *tpl = NULL;

	g_mutex_lock(&state->lock);
	if (!cop_name_valid(name)) {
		cop_gerror_set(error, COP_ERR_BAD_REQUEST,
			       "'%s' is not a template name\nuse a-z, 0-9, '.', '_' and '-', at most "
			       "63, the first a letter or digit",
			       name);
	} else if (g_hash_table_contains(state->templates, name)) {
		cop_gerror_set(error, COP_ERR_NAME_TAKEN,
			       "there is a template '%s' already\nchoose another name, or "
			       "'coppice template rm %s' first",
			       name, name);
	} else {
		tpl = cop_template_new(name);
		tpl->ephemeral = ephemeral;
		tpl->domain = cop_pager_new_domain(state);
		g_hash_table_insert(state->templates, tpl->name, tpl);
		cop_template_ref(tpl);
	}
	g_mutex_unlock(&state->lock);
	return tpl;
}

struct cop_template *cop_freeze_vm(struct cop_vm *vm, const char *name, gboolean stop,
				   gboolean ephemeral, struct cop_freeze_guest *guest,
				   GError **error)
{
	struct cop_state *state = vm->state;
	struct freeze f = {.state = state, .vm = vm, .name = name, .stop = stop, .state_fd = -1,
			   .guest = guest, .begun_us = g_get_monotonic_time()};
	struct cop_template *tpl = reserve(state, name, ephemeral, error);
	gboolean ok;

	if (!tpl)
		return NULL;
	f.dir = g_strdup_printf("%s/templates/.%s.new", state->config->dir, name);
	f.overlays = g_ptr_array_new_with_free_func((GDestroyNotify)cop_layer_free);
	g_mutex_lock(&state->lock);
	f.was_running = vm->run == COP_VM_RUNNING;
	g_mutex_unlock(&state->lock);

	ok = freeze_steps(&f, tpl, error);
	drop_intent(vm);
	if (!ok) {
		take_back_overlays(&f);
		cop_file_remove_tree(f.dir);
		g_mutex_lock(&state->lock);
		g_hash_table_remove(state->templates, name);
		g_mutex_unlock(&state->lock);
		cop_template_unref(tpl);
		tpl = NULL;
	}
	for (guint i = 0; i < f.overlays->len; i++)
		cop_state_unpin(state, ((struct cop_layer *)f.overlays->pdata[i])->path);
	g_ptr_array_unref(f.overlays);
	cop_ram_freeze_end(f.ram);
	if (f.state_fd >= 0)
		close(f.state_fd);
	g_free(f.dir);
	cop_state_collect(state);
	return tpl;
}

/* Does QEMU know a node in use with this name? */
static gboolean node_in_use(struct cop_vm *vm, const char *layer_path)
{
	g_autoptr(cop_layer_auto) layer = cop_layer_new(layer_path, FALSE, FALSE);
	g_autofree char *node = cop_launch_node(layer, 'n');
	g_autoptr(JsonNode) reply = NULL;
	JsonArray *blocks;

	if (!cop_qmp_call(vm->qmp, "query-block", NULL, -1, COP_VM_QMP_MS, &reply, NULL) ||
	    !JSON_NODE_HOLDS_ARRAY(reply))
		return FALSE;
	blocks = json_node_get_array(reply);
	for (guint i = 0; i < json_array_get_length(blocks); i++) {
		JsonNode *one = json_array_get_element(blocks, i);
		JsonObject *inserted = JSON_NODE_HOLDS_OBJECT(one)
					       ? cop_json_obj(json_node_get_object(one), "inserted")
					       : NULL;

		if (g_strcmp0(cop_json_str(inserted, "node-name", NULL, NULL), node) == 0)
			return TRUE;
	}
	return FALSE;
}

void cop_freeze_recover(struct cop_vm *vm)
{
	JsonObject *intent = vm->intent;
	JsonArray *names = cop_json_arr(intent, "overlays");
	const char *template = cop_json_str(intent, "template", "", NULL);
	g_autoptr(GPtrArray) overlays =
		g_ptr_array_new_with_free_func((GDestroyNotify)cop_layer_free);
	g_autoptr(GError) why = NULL;
	gboolean committed, alive;

	g_mutex_lock(&vm->state->lock);
	committed = g_hash_table_contains(vm->state->templates, template);
	alive = cop_vm_alive(vm);
	g_mutex_unlock(&vm->state->lock);
	for (guint i = 0; names && i < json_array_get_length(names); i++)
		g_ptr_array_add(overlays, cop_layer_new(json_array_get_string_element(names, i),
							FALSE, FALSE));
	/* All disks are switched in one transaction: the first tells for all. A vm.json saved after
	 * the switch has the overlays already; when QEMU died before that, the guest never wrote to
	 * them. */
	if (alive && overlays->len && overlays->len == vm->machine->disks->len &&
	    strcmp(cop_disk_top(vm->machine->disks->pdata[0])->path,
		   ((struct cop_layer *)overlays->pdata[0])->path) != 0 &&
	    node_in_use(vm, ((struct cop_layer *)overlays->pdata[0])->path))
		note_overlays(vm, overlays);
	if (committed && cop_json_bool(intent, "stop", FALSE, NULL)) {
		g_info("VM '%s' was frozen and should have ended", vm->name);
		drop_intent(vm);
		cop_op_discard(vm);
		return;
	}
	if (committed) {
		g_mutex_lock(&vm->state->lock);
		g_free(vm->template);
		vm->template = g_strdup(template);
		g_mutex_unlock(&vm->state->lock);
	}
	if (alive && cop_json_bool(intent, "was_running", FALSE, NULL) &&
	    !cop_vm_cont(vm, &why))
		g_warning("VM '%s' could not go on: %s", vm->name, why->message);
	drop_intent(vm);
}

JsonObject *cop_op_freeze(struct cop_state *state, const char *name, JsonObject *request,
			  GError **error)
{
	static const char *const known[] = {"template", "stop", "quiesce",
					    "quiesce_timeout_ms", NULL};
	GError *why = NULL;
	const char *template = cop_json_str(request, "template", NULL, &why);
	gboolean stop = cop_json_bool(request, "stop", FALSE, &why);
	gboolean quiet = cop_json_bool(request, "quiesce", TRUE, &why);
	gint64 quiet_ms = cop_json_int(request, "quiesce_timeout_ms", COP_FREEZE_QUIESCE_MS, &why);
	struct cop_freeze_guest guest = {.timeout_ms = quiet ? (int)CLAMP(quiet_ms, 0, 600000) : 0};
	struct cop_template *tpl;
	struct cop_vm *vm;
	JsonObject *result, *quiesce;

	if (!why && cop_json_only(request, known, &why) && !template)
		cop_gerror_set(&why, COP_ERR_BAD_REQUEST, "the template's name is missing");
	if (!why && (quiet_ms < 100 || quiet_ms > 600000))
		cop_gerror_set(&why, COP_ERR_BAD_REQUEST,
			       "quiesce_timeout_ms must be from 100 to 600000");
	if (why) {
		g_propagate_error(error, why);
		return NULL;
	}
	vm = cop_state_claim_vm(state, name, "freeze", TRUE, error);
	if (!vm)
		return NULL;
	tpl = cop_freeze_vm(vm, template, stop, FALSE, &guest, error);
	if (!tpl) {
		g_free(guest.reason);
		cop_state_release_vm(vm);
		return NULL;
	}
	result = json_object_new();
	if (stop) {
		cop_op_discard(vm);
		json_object_set_null_member(result, "vm");
		cop_vm_unref(vm);
	} else {
		cop_state_release_vm(cop_vm_ref(vm));
		json_object_set_object_member(result, "vm", cop_vm_to_json(vm, FALSE));
		cop_vm_unref(vm);
	}
	quiesce = json_object_new();
	json_object_set_boolean_member(quiesce, "done", guest.done);
	json_object_set_double_member(quiesce, "ms", guest.ms);
	json_object_set_string_member(quiesce, "reason", guest.reason ?: "");
	json_object_set_boolean_member(quiesce, "held", guest.held);
	g_free(guest.reason);
	json_object_set_object_member(result, "quiesce", quiesce);
	json_object_set_object_member(result, "template", cop_template_to_json(state, tpl));
	json_object_set_object_member(result, "freeze", cop_template_times_to_json(&tpl->times));
	cop_template_unref(tpl);
	return result;
}
