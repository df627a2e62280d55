/* The machine description: everything that a VM's QEMU must be started with, apart from what
 * belongs to one run of it (descriptors, ports). A template keeps it, so that clones have the same
 * devices at the same addresses as the VM that was frozen.
 *
 * Pure data: no I/O here.
 */
#ifndef COP_DAEMON_MACHINE_H
#define COP_DAEMON_MACHINE_H

#include <json-glib/json-glib.h>
#include <stdint.h>

#include "files.h"

/* One image file of a disk's chain. */
struct cop_layer {
	char *path;	   /* file name in DIR/disks, or absolute for a user's image */
	gboolean external; /* a user's image: never written, never removed, checked by id */
	gboolean raw;	   /* else qcow2 */
	struct cop_file_id id; /* of an external one, when it was first used */
};

/* A disk: its layers from the base (index 0) to the one that is written (last). */
struct cop_disk {
	uint64_t size_bytes;
	GPtrArray *layers; /* struct cop_layer *, owned */
};

struct cop_machine {
	char *type;  /* QEMU machine type with its version, such as pc-q35-7.2 */
	char *accel; /* "tcg" or "kvm" */
	/* "pager" or "kernel". A machine of the pager's has a balloon, so all that come of it are. */
	char *engine;
	uint64_t memory_bytes;
	unsigned cpus;
	char *display; /* "vga" or "none" */
	char *network; /* "user", "isolated" or "none" */
	char *kernel;  /* file name in DIR/blobs, or NULL */
	char *initrd;  /* the same */
	char *append;
	char **extra_args; /* further QEMU arguments; not NULL */
	GPtrArray *disks;  /* struct cop_disk *, owned */
};

struct cop_layer *cop_layer_new(const char *path, gboolean external, gboolean raw);
void cop_layer_free(struct cop_layer *layer);
struct cop_disk *cop_disk_new(uint64_t size_bytes);
void cop_disk_free(struct cop_disk *disk);
/* The layer that the VM writes; borrowed. */
struct cop_layer *cop_disk_top(const struct cop_disk *disk);

typedef struct cop_layer cop_layer_auto; /* for g_autoptr() only */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(cop_layer_auto, cop_layer_free)

struct cop_machine *cop_machine_new(void);
struct cop_machine *cop_machine_copy(const struct cop_machine *machine);
void cop_machine_free(struct cop_machine *machine);
gboolean cop_machine_is_paged(const struct cop_machine *machine);

/* JSON form, in VM and template manifests. Caller owns results. */
JsonObject *cop_machine_to_json(const struct cop_machine *machine);
struct cop_machine *cop_machine_from_json(JsonObject *obj, GError **error);

/* VM and template names: [a-z0-9][a-z0-9._-]{0,62}. */
gboolean cop_name_valid(const char *name);

#endif
