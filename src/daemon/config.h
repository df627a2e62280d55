/* Where things are, and the limits; from the command line and /etc/coppice/coppiced.conf. */
#ifndef COP_DAEMON_CONFIG_H
#define COP_DAEMON_CONFIG_H

#include <glib.h>
#include <stdint.h>
#include <sys/types.h>

/* Folders under `dir` (0700, of the daemon's user):
 *   disks/  disk layers        blobs/  kernels and initrds    templates/NAME/
 *   vms/ID/ manifest, sockets, log of a VM, and the folder that its QEMU runs in
 * `ram_dir` is on a tmpfs and holds RAM images. */
struct cop_config {
	char *dir, *ram_dir;
	char *qemu, *qemu_img, *shim;
	char *pager;		   /* the program; NULL when it can't be found */
	char *engine;		   /* for VMs that don't say: "auto", "pager" or "kernel" */
	uint64_t memory_budget_bytes; /* the pager keeps what all cost below it; 0: the limit */
	char *cgroup;		   /* name of the memory cgroup; "" for none */
	uint64_t cgroup_limit_bytes; /* 0: none */
	unsigned max_vms;
	uint64_t max_memory_bytes; /* guest RAM given to all VMs together */
	uint64_t max_disk_bytes;   /* host disk used: layers, kernels, templates */
	unsigned clone_workers;	   /* clones started side by side */
	uid_t uid_base;		   /* VM number n runs as user uid_base + n when the daemon is root */
	gboolean autostarted;
	char *config_file;
};

/* Takes the options out of argv. Caller frees the result. *ret_ready_fd: the value of --ready-fd, or
 * -1, also on failure, for telling it. */
struct cop_config *cop_config_new(int *argc, char ***argv, int *ret_ready_fd, GError **error);
void cop_config_free(struct cop_config *config);

/* "512M", "1G", "1GiB", "4096": FALSE when it is none of these or too large. */
gboolean cop_config_parse_size(const char *text, uint64_t *ret_bytes);

#endif
