/* A VM's process: started, loaded, watched, ended. */
#ifndef COP_DAEMON_VM_H
#define COP_DAEMON_VM_H

#include "state.h"

#define COP_VM_MAX_FORKS 1024 /* that a guest may be allowed */
#define COP_VM_QMP_MS 60000 /* for anything that QEMU does at once on a machine that isn't stuck */

/* Starts QEMU for a claimed VM whose machine, ram_id and ram_shared are set; incoming: stopped, to
 * load a state. On success the VM has a process, a monitor and a console, and is in its table as
 * "starting". On failure no process is left. Fills vm->start. */
gboolean cop_vm_spawn(struct cop_vm *vm, gboolean incoming, GError **error);
/* Loads a device state into a VM that was spawned with incoming. */
gboolean cop_vm_load_state(struct cop_vm *vm, const char *state_path, GError **error);
/* The two halves of moving a state, for freezing too: a descriptor is handed to QEMU, then `command`
 * ("migrate" or "migrate-incoming") runs on it until it has completed. */
gboolean cop_vm_send_state_fd(struct cop_vm *vm, int fd, GError **error);
gboolean cop_vm_move_state(struct cop_vm *vm, const char *command, GError **error);
/* Starts or stops the processors, and notes it. */
gboolean cop_vm_cont(struct cop_vm *vm, GError **error);
gboolean cop_vm_halt(struct cop_vm *vm, GError **error);
/* Ends the process by force and waits until it is gone. */
void cop_vm_kill(struct cop_vm *vm);
/* Waits until the process is gone; FALSE after timeout_ms. */
gboolean cop_vm_wait_gone(struct cop_vm *vm, int timeout_ms);

/* Reads DIR/vms/ID/vm.json into a new VM that is put into the table, without touching a process. */
struct cop_vm *cop_vm_read(struct cop_state *state, unsigned id, GError **error);
/* Takes up a VM of an earlier daemon: watches its process and connects to its monitor, or notes that
 * it is gone. */
void cop_vm_adopt(struct cop_vm *vm);

/* JSON for the API; measure reads the process's memory. Takes the lock. */
JsonObject *cop_vm_to_json(struct cop_vm *vm, gboolean measure);

/* Start time of a process, 0 when there is none. */
uint64_t cop_vm_pid_start(pid_t pid);

#endif
