/* run and start: VMs that boot. */
#include "accel-choice.h"
#include "gerror.h"
#include "disk.h"
#include "json.h"
#include "ops.h"
#include "pager.h"
#include "ram.h"
#include "sockets.h"
#include "vm.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MIN_MEMORY_BYTES (16ull << 20)
#define MAX_MEMORY_BYTES (1ull << 40)
#define DEFAULT_MEMORY_BYTES (1ull << 30)
#define MAX_BLOB_BYTES (1ull << 30)
#define PAGE_BYTES 4096u
#define MAX_DISKS 8
#define MAX_EXTRA_ARGS 64

static gboolean one_of(const char *what, const char *value, const char *const *allowed,
		       GError **error)
{
	g_autofree char *list = NULL;

	if (g_strv_contains(allowed, value))
		return TRUE;
	list = g_strjoinv(", ", (char **)allowed);
	return cop_gerror_set(error, COP_ERR_BAD_REQUEST, "%s can't be '%s'\nuse one of: %s", what,
			      value, list);
}

/* Copies a user's kernel or initrd to blobs/, so that clones and restarts find it unchanged. */
static char *keep_blob(struct cop_state *state, const char *path, const char *what, GError **error)
{
	g_autofree char *id = cop_file_random_id();
	g_autofree char *to = cop_state_blob_path(state, id);
	struct stat st;

	if (path[0] != '/') {
		cop_gerror_set(error, COP_ERR_BAD_REQUEST, "the %s's path must be absolute: '%s'",
			       what, path);
		return NULL;
	}
	if (stat(path, &st) < 0) {
		cop_gerror_errno(error, errno, "cannot use the %s %s", what, path);
		return NULL;
	}
	if (!S_ISREG(st.st_mode) || (uint64_t)st.st_size > MAX_BLOB_BYTES) {
		cop_gerror_set(error, COP_ERR_BAD_REQUEST, "%s is not a %s", path, what);
		return NULL;
	}
	cop_state_pin(state, id);
	{
		g_autofree char *real = realpath(path, NULL);

		/* Readable for the VM's user, who reaches it through its own folder only. */
		if (!real || !cop_file_copy(real, to, 0444, error)) {
			cop_state_unpin(state, id);
			return NULL;
		}
	}
	return g_steal_pointer(&id);
}

static gboolean read_disks(struct cop_state *state, struct cop_machine *machine, JsonArray *disks,
			   GError **error)
{
	static const char *const formats[] = {"auto", "raw", "qcow2", NULL};

	if (disks && json_array_get_length(disks) > MAX_DISKS)
		return cop_gerror_set(error, COP_ERR_BAD_REQUEST, "a VM has at most %d disks",
				      MAX_DISKS);
	for (guint i = 0; disks && i < json_array_get_length(disks); i++) {
		JsonNode *node = json_array_get_element(disks, i);
		JsonObject *spec = JSON_NODE_HOLDS_OBJECT(node) ? json_node_get_object(node) : NULL;
		const char *path = cop_json_str(spec, "path", NULL, NULL);
		const char *format = cop_json_str(spec, "format", "auto", NULL);
		struct cop_disk *disk;

		if (!path)
			return cop_gerror_set(error, COP_ERR_BAD_REQUEST, "a disk without a path");
		if (!one_of("a disk's format", format, formats, error))
			return FALSE;
		disk = cop_disk_open_image(state, path, format, error);
		if (!disk)
			return FALSE;
		g_ptr_array_add(machine->disks, disk);
	}
	return TRUE;
}

/* Everything about the machine that the request says; files are looked at later. */
static gboolean read_machine(struct cop_machine *machine, JsonObject *request, GError **error)
{
	static const char *const displays[] = {"vga", "none", NULL};
	static const char *const networks[] = {"user", "isolated", "none", NULL};
	GError *why = NULL;
	gint64 memory = cop_json_int(request, "memory_bytes", DEFAULT_MEMORY_BYTES, &why);
	gint64 cpus = cop_json_int(request, "cpus", 1, &why);
	char **extra = cop_json_strv(request, "extra_args", &why);

	machine->memory_bytes = (uint64_t)memory & ~(uint64_t)(PAGE_BYTES - 1);
	machine->cpus = (unsigned)cpus;
	machine->display = g_strdup(cop_json_str(request, "display", "vga", &why));
	machine->network = g_strdup(cop_json_str(request, "network", "user", &why));
	machine->append = g_strdup(cop_json_str(request, "append", NULL, &why));
	if (extra) {
		g_strfreev(machine->extra_args);
		machine->extra_args = extra;
	}
	if (why) {
		g_propagate_error(error, why);
		return FALSE;
	}
	if (memory < (gint64)MIN_MEMORY_BYTES || (uint64_t)memory > MAX_MEMORY_BYTES)
		return cop_gerror_set(error, COP_ERR_BAD_REQUEST,
				      "memory must be from 16 MiB to 1 TiB");
	if (cpus < 1 || cpus > 64)
		return cop_gerror_set(error, COP_ERR_BAD_REQUEST, "cpus must be from 1 to 64");
	if (g_strv_length(machine->extra_args) > MAX_EXTRA_ARGS)
		return cop_gerror_set(error, COP_ERR_BAD_REQUEST,
				      "at most %d further QEMU arguments", MAX_EXTRA_ARGS);
	return one_of("display", machine->display, displays, error) &&
	       one_of("network", machine->network, networks, error);
}

static gboolean read_boot(struct cop_state *state, struct cop_machine *machine,
			  JsonObject *request, GError **error)
{
	GError *why = NULL;
	const char *kernel = cop_json_str(request, "kernel", NULL, &why);
	const char *initrd = cop_json_str(request, "initrd", NULL, &why);
	JsonArray *disks = cop_json_arr(request, "disks");

	if (why) {
		g_propagate_error(error, why);
		return FALSE;
	}
	if (!kernel && (!disks || !json_array_get_length(disks)))
		return cop_gerror_set(error, COP_ERR_BAD_REQUEST,
				      "nothing to boot from\ngive a disk image or a kernel");
	if (!kernel && (initrd || machine->append))
		return cop_gerror_set(error, COP_ERR_BAD_REQUEST,
				      "an initrd or a kernel command line needs a kernel");
	if (kernel && !(machine->kernel = keep_blob(state, kernel, "kernel", error)))
		return FALSE;
	if (initrd && !(machine->initrd = keep_blob(state, initrd, "initrd", error)))
		return FALSE;
	return read_disks(state, machine, disks, error);
}

static void unpin_machine(struct cop_state *state, const struct cop_machine *machine)
{
	if (machine->kernel)
		cop_state_unpin(state, machine->kernel);
	if (machine->initrd)
		cop_state_unpin(state, machine->initrd);
	cop_disk_unpin(state, machine);
}

/* Boots a reserved or claimed VM whose machine is set. */
static gboolean boot(struct cop_vm *vm, GError **error)
{
	struct cop_state *state = vm->state;
	gint64 t0 = g_get_monotonic_time();
	char *ram_id;
	gboolean ok;

	/* Before the image: its store takes part of the tmpfs. */
	if (cop_machine_is_paged(vm->machine) && !cop_pager_start(state, error))
		return FALSE;
	ram_id = cop_ram_new(state, vm->machine->memory_bytes, error);
	if (!ram_id)
		return FALSE;
	g_mutex_lock(&state->lock);
	vm->domain = cop_pager_new_domain(state);
	g_free(vm->ram_id); /* of a start that a killed daemon never finished */
	vm->ram_id = ram_id;
	vm->ram_shared = TRUE;
	g_mutex_unlock(&state->lock);
	cop_state_unpin(state, ram_id);
	ok = cop_vm_spawn(vm, FALSE, error);
	g_mutex_lock(&state->lock);
	if (ok && vm->pid)
		vm->run = COP_VM_RUNNING;
	else
		g_free(g_steal_pointer(&vm->ram_id));
	g_mutex_unlock(&state->lock);
	vm->start.load_ms = 0;
	vm->start.total_ms = (double)(g_get_monotonic_time() - t0) / 1000.0;
	vm->started_once = TRUE;
	return ok && cop_vm_save(vm, error);
}

static gboolean run_reserved(struct cop_vm *vm, struct cop_machine *machine, gboolean ssh,
			     GError **error)
{
	struct cop_state *state = vm->state;
	g_autofree char *dir = cop_state_vm_dir(state, vm->id);

	g_mutex_lock(&state->lock);
	vm->machine = machine;
	g_mutex_unlock(&state->lock);
	if (ssh && !(vm->ssh_port = cop_socket_free_port(state, error)))
		return FALSE;
	return cop_file_mkdir(dir, 0711, error) && boot(vm, error);
}

static gboolean choose_engine(struct cop_state *state, const char *engine,
			      struct cop_machine *machine, GError **error)
{
	const char *chosen = cop_pager_choose(state, engine, error);

	if (!chosen)
		return FALSE;
	g_free(machine->engine);
	machine->engine = g_strdup(chosen);
	return TRUE;
}

JsonObject *cop_op_run(struct cop_state *state, JsonObject *request, GError **error)
{
	static const char *const known[] = {"name", "disks", "kernel", "initrd", "append",
					    "memory_bytes", "cpus", "accel", "engine", "display",
					    "network", "ssh", "extra_args", NULL};
	static const char *const accels[] = {"auto", "tcg", "kvm", NULL};
	static const char *const engines[] = {"auto", "pager", "kernel", NULL};
	struct cop_machine *machine = cop_machine_new(), *made = machine;
	GError *why = NULL;
	const char *name = cop_json_str(request, "name", NULL, &why);
	const char *accel = cop_json_str(request, "accel", "auto", &why);
	const char *engine = cop_json_str(request, "engine", "auto", &why);
	gboolean ssh = cop_json_bool(request, "ssh", FALSE, &why);
	char *names[] = {(char *)name, NULL};
	g_autoptr(GPtrArray) vms = NULL;
	JsonObject *result = NULL;
	gboolean ok;

	ok = !why && cop_json_only(request, known, &why) && one_of("accel", accel, accels, &why) &&
	     one_of("engine", engine, engines, &why) &&
	     read_machine(machine, request, &why) &&
	     cop_accel_choose(state, accel, machine, &why) &&
	     choose_engine(state, engine, machine, &why) && cop_state_check_disk(state, &why);
	if (ok)
		vms = cop_state_reserve_vms(state, name ? names : NULL, "vm", 1,
					    machine->memory_bytes, &why);
	ok = vms && read_boot(state, machine, request, &why) &&
	     cop_disk_add_overlays(state, machine, NULL, &why);
	if (vms) {
		struct cop_vm *vm = vms->pdata[0];

		if (ok) {
			made = g_steal_pointer(&machine); /* the VM's from here on */
			ok = run_reserved(vm, made, ssh, &why);
		}
		/* Before a discarded VM's files are collected. */
		unpin_machine(state, made);
		if (ok) {
			cop_state_release_vm(cop_vm_ref(vm));
			result = cop_vm_to_json(vm, FALSE);
		} else {
			cop_op_discard(vm);
		}
	}
	cop_machine_free(machine);
	if (why)
		g_propagate_error(error, why);
	return result;
}

JsonObject *cop_op_start(struct cop_state *state, const char *name, GError **error)
{
	struct cop_vm *vm = cop_state_claim_vm(state, name, "start", FALSE, error);
	JsonObject *result = NULL;
	gboolean ok;

	if (!vm)
		return NULL;
	g_mutex_lock(&state->lock);
	ok = vm->pid == 0;
	g_mutex_unlock(&state->lock);
	if (!ok)
		cop_gerror_set(error, COP_ERR_WRONG_STATE, "VM '%s' is running already", name);
	else
		ok = cop_state_check_start(vm, error);
	if (ok) {
		/* It boots: nothing of the template's memory is in it. Before the start, as a
		 * starting VM with a template is taken for a clone that was cut short. */
		g_mutex_lock(&state->lock);
		g_free(g_steal_pointer(&vm->template));
		g_mutex_unlock(&state->lock);
		ok = boot(vm, error);
	}
	if (ok) {
		result = cop_vm_to_json(vm, FALSE);
		json_object_set_string_member(result, "busy", "");
	}
	cop_state_release_vm(vm);
	return result;
}
