/* A VM as JSON: its manifest DIR/vms/ID/vm.json, and what the API shows of it. See vm.h. */
#include "disk.h"
#include "gerror.h"
#include "json.h"
#include "pager.h"
#include "ram.h"
#include "vm.h"

#include <string.h>

static JsonObject *times_to_json(const struct cop_start_times *t)
{
	JsonObject *obj = json_object_new();

	json_object_set_double_member(obj, "spawn_ms", t->spawn_ms);
	json_object_set_double_member(obj, "qmp_ms", t->qmp_ms);
	json_object_set_double_member(obj, "load_ms", t->load_ms);
	json_object_set_double_member(obj, "total_ms", t->total_ms);
	return obj;
}

/* Process ids and start times count from the host's start, which this names. */
static const char *boot_id(void)
{
	static gsize once;
	static char *id;

	if (g_once_init_enter(&once)) {
		if (g_file_get_contents("/proc/sys/kernel/random/boot_id", &id, NULL, NULL))
			g_strstrip(id);
		g_once_init_leave(&once, 1);
	}
	return id ?: "";
}

static gboolean save(struct cop_vm *vm, gboolean durable, GError **error)
{
	g_autofree char *dir = cop_state_vm_dir(vm->state, vm->id);
	g_autofree char *path = g_build_filename(dir, "vm.json", NULL);
	g_autoptr(JsonObject) obj = json_object_new();

	g_mutex_lock(&vm->state->lock);
	json_object_set_int_member(obj, "format", 1);
	json_object_set_string_member(obj, "name", vm->name);
	json_object_set_string_member(obj, "state", cop_vm_state_word(vm->run));
	json_object_set_string_member(obj, "reason", vm->reason);
	cop_json_set_str(obj, "template", vm->template);
	json_object_set_string_member(obj, "boot_id", boot_id());
	json_object_set_int_member(obj, "pid", vm->pid);
	json_object_set_int_member(obj, "pid_start", (gint64)vm->pid_start);
	cop_json_set_str(obj, "ram_id", vm->ram_id);
	json_object_set_boolean_member(obj, "ram_shared", vm->ram_shared);
	json_object_set_int_member(obj, "domain", vm->domain);
	json_object_set_int_member(obj, "ssh_port", vm->ssh_port);
	json_object_set_int_member(obj, "created_s", vm->created_s);
	if (vm->started_once)
		json_object_set_object_member(obj, "start", times_to_json(&vm->start));
	json_object_set_object_member(obj, "machine", cop_machine_to_json(vm->machine));
	if (vm->intent)
		json_object_set_object_member(obj, "intent", json_object_ref(vm->intent));
	g_mutex_unlock(&vm->state->lock);
	return cop_json_save(path, obj, durable, error);
}

gboolean cop_vm_save(struct cop_vm *vm, GError **error)
{
	return save(vm, FALSE, error);
}

gboolean cop_vm_save_durable(struct cop_vm *vm, GError **error)
{
	return save(vm, TRUE, error);
}

/* After a restart of the host nothing runs, whatever has the process id now. */
static void forget_other_boot(struct cop_vm *vm, const char *booted)
{
	if (strcmp(booted, boot_id()) == 0 || !vm->pid)
		return;
	vm->pid = 0;
	vm->run = COP_VM_FAILED;
	g_free(vm->reason);
	vm->reason = g_strdup("the host was restarted");
	g_free(g_steal_pointer(&vm->ram_id));
}

struct cop_vm *cop_vm_read(struct cop_state *state, unsigned id, GError **error)
{
	g_autofree char *dir = cop_state_vm_dir(state, id);
	g_autofree char *path = g_build_filename(dir, "vm.json", NULL);
	g_autoptr(JsonObject) obj = cop_json_load(path, error);
	struct cop_machine *machine;
	const char *name, *word;
	JsonObject *start, *intent;
	struct cop_vm *vm;

	if (!obj)
		return NULL;
	name = cop_json_str(obj, "name", "", NULL);
	machine = cop_machine_from_json(cop_json_obj(obj, "machine"), error);
	if (!machine)
		return NULL;
	if (cop_json_int(obj, "format", 0, NULL) != 1 || !cop_name_valid(name) || g_hash_table_contains(state->vms, name)) {
		cop_gerror_set(error, COP_ERR_DAMAGED, "%s: another format, or no proper name",
			       path);
		cop_machine_free(machine);
		return NULL;
	}
	vm = g_new0(struct cop_vm, 1);
	g_atomic_ref_count_init(&vm->refs);
	vm->state = state;
	vm->name = g_strdup(name);
	vm->id = id;
	vm->busy = "";
	vm->machine = machine;
	vm->pidfd = vm->vnc_fd = -1;
	vm->reason = g_strdup(cop_json_str(obj, "reason", "", NULL));
	vm->template = g_strdup(cop_json_str(obj, "template", NULL, NULL));
	vm->pid = (pid_t)cop_json_int(obj, "pid", 0, NULL);
	vm->pid_start = (uint64_t)cop_json_int(obj, "pid_start", 0, NULL);
	vm->ram_id = g_strdup(cop_json_str(obj, "ram_id", NULL, NULL));
	vm->ram_shared = cop_json_bool(obj, "ram_shared", FALSE, NULL);
	vm->domain = (unsigned)cop_json_int(obj, "domain", 0, NULL) & 0xffff;
	vm->ssh_port = (unsigned)cop_json_int(obj, "ssh_port", 0, NULL);
	vm->created_s = cop_json_int(obj, "created_s", 0, NULL);
	word = cop_json_str(obj, "state", "failed", NULL);
	vm->run = COP_VM_FAILED;
	for (int s = COP_VM_STARTING; s <= COP_VM_FAILED; s++) {
		if (strcmp(word, cop_vm_state_word((enum cop_vm_state)s)) == 0)
			vm->run = (enum cop_vm_state)s;
	}
	start = cop_json_obj(obj, "start");
	if (start) {
		vm->started_once = TRUE;
		vm->start.spawn_ms = cop_json_double(start, "spawn_ms", 0);
		vm->start.qmp_ms = cop_json_double(start, "qmp_ms", 0);
		vm->start.load_ms = cop_json_double(start, "load_ms", 0);
		vm->start.total_ms = cop_json_double(start, "total_ms", 0);
	}
	forget_other_boot(vm, cop_json_str(obj, "boot_id", "", NULL));
	intent = cop_json_obj(obj, "intent");
	vm->intent = intent ? json_object_ref(intent) : NULL;
	g_hash_table_insert(state->vms, vm->name, vm);
	return vm;
}

static JsonObject *use_to_json(struct cop_vm *vm, const struct cop_ram_use *use, uint64_t given,
			       gboolean paged)
{
	JsonObject *obj = json_object_new();
	uint64_t v[COP_PAGER_NR_VALUES] = {0};

	if (paged)
		(void)cop_pager_vm_stats(vm, v); /* zeros, then */

	json_object_set_int_member(obj, "given_bytes", (gint64)given);
	json_object_set_int_member(obj, "private_bytes", (gint64)use->private_bytes);
	json_object_set_int_member(obj, "shared_bytes", (gint64)use->shared_bytes);
	json_object_set_int_member(obj, "vmm_bytes", (gint64)use->vmm_bytes);
	json_object_set_int_member(obj, "page_table_bytes", (gint64)use->page_table_bytes);
	json_object_set_int_member(obj, "stored_raw_bytes",
				   (gint64)v[COP_PAGER_VM_STORED_RAW_BYTES]);
	json_object_set_int_member(obj, "stored_bytes", (gint64)v[COP_PAGER_VM_STORED_BYTES]);
	json_object_set_int_member(obj, "zero_bytes", (gint64)v[COP_PAGER_VM_ZERO_BYTES]);
	json_object_set_int_member(obj, "same_bytes", (gint64)v[COP_PAGER_VM_SAME_BYTES]);
	json_object_set_int_member(obj, "discarded_bytes",
				   (gint64)v[COP_PAGER_VM_DISCARDED_BYTES]);
	return obj;
}

JsonObject *cop_vm_to_json(struct cop_vm *vm, gboolean measure)
{
	JsonObject *obj = json_object_new();
	g_autoptr(GDateTime) when = g_date_time_new_from_unix_utc(vm->created_s);
	g_autofree char *created = g_date_time_format_iso8601(when);
	g_autofree char *ram_path = NULL;
	struct cop_machine *machine = NULL;
	gboolean alive, ram_shared;
	struct cop_ram_use use;
	pid_t pid;

	g_mutex_lock(&vm->state->lock);
	alive = cop_vm_alive(vm);
	pid = vm->pid;
	ram_shared = vm->ram_shared;
	if (vm->ram_id)
		ram_path = cop_state_ram_path(vm->state, vm->ram_id);
	if (vm->machine)
		machine = cop_machine_copy(vm->machine);
	json_object_set_string_member(obj, "name", vm->name);
	json_object_set_int_member(obj, "id", vm->id);
	json_object_set_string_member(obj, "state", cop_vm_state_word(vm->run));
	json_object_set_string_member(obj, "reason", vm->reason);
	json_object_set_string_member(obj, "busy", vm->busy);
	cop_json_set_str(obj, "template", vm->template);
	if (pid)
		json_object_set_int_member(obj, "pid", pid);
	else
		json_object_set_null_member(obj, "pid");
	if (vm->ssh_port)
		json_object_set_int_member(obj, "ssh_port", vm->ssh_port);
	else
		json_object_set_null_member(obj, "ssh_port");
	if (vm->vnc_fd >= 0) {
		g_autofree char *dir = cop_state_vm_dir(vm->state, vm->id);
		g_autofree char *path = g_build_filename(dir, "vnc.sock", NULL);

		json_object_set_string_member(obj, "vnc_socket", path);
	} else {
		json_object_set_null_member(obj, "vnc_socket");
	}
	if (vm->started_once)
		json_object_set_object_member(obj, "start", times_to_json(&vm->start));
	else
		json_object_set_null_member(obj, "start");
	g_mutex_unlock(&vm->state->lock);

	json_object_set_string_member(obj, "accel", machine ? machine->accel : "tcg");
	json_object_set_string_member(obj, "engine", machine ? machine->engine : "kernel");
	json_object_set_int_member(obj, "memory_bytes",
				   machine ? (gint64)machine->memory_bytes : 0);
	json_object_set_int_member(obj, "cpus", machine ? machine->cpus : 0);
	json_object_set_string_member(obj, "display", machine ? machine->display : "none");
	json_object_set_string_member(obj, "network", machine ? machine->network : "none");
	json_object_set_string_member(obj, "created", created);
	json_object_set_int_member(obj, "disk_bytes",
				   (gint64)cop_disk_top_bytes(vm->state, machine));
	if (measure && alive && ram_path && cop_ram_measure(pid, ram_path, ram_shared,
							 machine->memory_bytes, &use))
		json_object_set_object_member(obj, "memory",
					      use_to_json(vm, &use, machine->memory_bytes,
							  cop_machine_is_paged(machine)));
	else
		json_object_set_null_member(obj, "memory");
	cop_machine_free(machine);
	return obj;
}
