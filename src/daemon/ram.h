/* Where guest RAM lives: the one place that knows.
 *
 * A RAM image is a sparse file on a tmpfs. A booting VM maps its own image shared; a clone maps its
 * template's image private, and the kernel makes the copies. With the engine "pager" pages leave and
 * come back besides (pager.h, docs/ENGINE.md); with the engine "kernel" nothing more happens.
 *
 * An image is named by an id (16 hexadecimal digits) in config->ram_dir. It never changes again once
 * a template has it.
 */
#ifndef COP_DAEMON_RAM_H
#define COP_DAEMON_RAM_H

#include "launch.h"
#include "state.h"

/* An empty image for a booting VM. The id is pinned (cop_state_unpin); caller frees it. */
char *cop_ram_new(struct cop_state *state, uint64_t size_bytes, GError **error);
/* Lets a QEMU that is about to start have its RAM: makes the dummy file in its folder and sets up
 * descriptors and the shim's environment. paged: the shim makes a userfaultfd for the pager.
 * listen_fd: the shim's socket, taken. */
gboolean cop_ram_launch(struct cop_state *state, struct cop_launch *launch, const char *vm_dir,
			uid_t uid, const char *ram_id, gboolean shared, uint64_t size_bytes,
			gboolean paged, int listen_fd, GError **error);

/* Has the QEMU that was started really got the image for its RAM? Otherwise it runs on the dummy, and
 * must not run at all. */
gboolean cop_ram_check(struct cop_vm *vm, GError **error);

/* Freezing. begin() does all that can be done while the guest runs; mark() is called with the VM
 * stopped: after it the new image holds the guest's RAM and nobody can change it, and the VM goes on
 * private on it. domain: the new image's. The result's id is pinned until end(). */
struct cop_ram_freeze;
struct cop_ram_freeze *cop_ram_freeze_begin(struct cop_vm *vm, unsigned domain, GError **error);
gboolean cop_ram_freeze_mark(struct cop_ram_freeze *freeze, GError **error);
const char *cop_ram_freeze_id(const struct cop_ram_freeze *freeze);
void cop_ram_freeze_end(struct cop_ram_freeze *freeze);

/* Writes an image to a file on disk, holes kept, synced, and the checksums of its chunks to PATH.sums
 * (docs/formats/template.md). sums receives "size_bytes", "data_bytes" and "sums_xxh3", the
 * checksum of the checksums. */
gboolean cop_ram_save(struct cop_state *state, const char *ram_id, const char *path,
		      JsonObject *sums, GError **error);
/* Compares a file with the checksums and, when ret_id is not NULL, brings it into ram_dir under a
 * new, pinned id. COP_ERR_DAMAGED names the first place that differs. */
gboolean cop_ram_load(struct cop_state *state, const char *path, JsonObject *sums, char **ret_id,
		      GError **error);
/* The file of checksums is what it was. ret_sums may be NULL; the caller frees it. */
gboolean cop_ram_check_sums(const char *path, JsonObject *sums, uint64_t **ret_sums,
			    GError **error);
/* The file, if it has the length that it should have; its bytes are not read. -1 with error. */
int cop_ram_open_saved(const char *path, JsonObject *sums, GError **error);

/* Sets vm->ram_id and vm->ram_shared to what the process has mapped, by /proc/PID/maps: the truth,
 * also after a daemon was killed in a freeze. Leaves them when nothing is found. Takes the lock. */
void cop_ram_note_mapping(struct cop_vm *vm);

/* Host memory of a running VM, from /proc/PID/smaps. */
struct cop_ram_use {
	uint64_t private_bytes, shared_bytes, vmm_bytes;
	uint64_t page_table_bytes; /* of the process; kernel memory */
};
gboolean cop_ram_measure(pid_t pid, const char *ram_path, gboolean ram_shared, uint64_t size_bytes,
			 struct cop_ram_use *ret);

#endif
