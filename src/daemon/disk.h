/* Disks: layers, overlays, and what QEMU is told about them.
 *
 * A disk is a chain of image files. Only the last is ever written, by one VM; all others are
 * read-only for good and shared. Freezing a VM puts a new overlay on top, so that the layer below
 * becomes the template's.
 */
#ifndef COP_DAEMON_DISK_H
#define COP_DAEMON_DISK_H

#include "launch.h"
#include "state.h"

/* A user's image as the base of a new disk: looked at with qemu-img. format: "auto", "raw" or
 * "qcow2". Refuses images that are damaged, encrypted, or stand on another file. */
struct cop_disk *cop_disk_open_image(struct cop_state *state, const char *path, const char *format,
				     GError **error);
/* Makes an empty overlay over the disk's newest layer, and returns it without adding it. Its name
 * is pinned (cop_state_unpin with layer->path). seed: file to copy, an overlay made for the same
 * layer before; NULL to ask qemu-img. */
struct cop_layer *cop_disk_new_overlay(struct cop_state *state, const struct cop_disk *disk,
				       const char *seed, GError **error);
/* Adds a fresh overlay to every disk of the machine. seed_dir: folder with seed-N.qcow2, or NULL.
 * On failure the machine may have some; they go with the next cop_state_collect(). */
gboolean cop_disk_add_overlays(struct cop_state *state, struct cop_machine *machine,
			       const char *seed_dir, GError **error);
void cop_disk_unpin(struct cop_state *state, const struct cop_machine *machine);
/* Opens every layer and appends QEMU's arguments. Says which image of the user's has changed. */
gboolean cop_disk_launch(struct cop_state *state, struct cop_launch *launch,
			 const struct cop_machine *machine, GError **error);
/* Are the user's images those that were first used? */
gboolean cop_disk_check_external(const struct cop_machine *machine, GError **error);
/* Host disk that the newest layers use. */
uint64_t cop_disk_top_bytes(struct cop_state *state, const struct cop_machine *machine);
/* Runs a program without a shell; its standard output, or an error with its message. */
char *cop_disk_run_program(char *const *argv, GError **error);

#endif
