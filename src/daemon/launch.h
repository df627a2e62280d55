/* Starting a QEMU: its arguments, the descriptors it inherits, and the process itself.
 *
 * QEMU opens nothing by path but its firmware, the dummy of its RAM and a kernel: every other file
 * reaches it as a descriptor, so that it can run as a user that may open nothing.
 */
#ifndef COP_DAEMON_LAUNCH_H
#define COP_DAEMON_LAUNCH_H

#include <glib.h>
#include <stdint.h>
#include <sys/types.h>

#include "machine.h"

struct cop_launch {
	GPtrArray *argv; /* char *, owned */
	GPtrArray *env;  /* char * "NAME=value", owned; added to a minimal environment */
	GHashTable *nodes; /* names of the block nodes that argv has, a set */
	GArray *fds;	 /* int, owned: number i becomes descriptor COP_LAUNCH_FIRST_FD + i */
};

#define COP_LAUNCH_FIRST_FD 3
#define COP_LAUNCH_AGENT_ID "agent0" /* of the agent's port, in QEMU's events */

struct cop_launch *cop_launch_new(const char *program);
void cop_launch_free(struct cop_launch *launch);
void cop_launch_arg(struct cop_launch *launch, const char *fmt, ...) G_GNUC_PRINTF(2, 3);
/* Takes the descriptor; returns its number in the new process. */
int cop_launch_fd(struct cop_launch *launch, int fd);

/* What one run of a machine adds to its description. Descriptor numbers are the new process's. */
struct cop_launch_run {
	const char *name;
	int qmp_fd, console_fd; /* listening sockets */
	int agent_fd;		/* the same; used when the machine has the agent's port */
	unsigned ssh_port;	/* 0: none */
	gboolean incoming;	/* a clone: wait for a state, stopped */
};

/* Appends all arguments but the disks' (cop_launch_disk). Pure. */
void cop_launch_machine(struct cop_launch *launch, const struct cop_machine *machine,
			const struct cop_launch_run *run);
/* Appends one disk. layer_fds: descriptor of every layer in the new process, base first. Pure. */
void cop_launch_disk(struct cop_launch *launch, const struct cop_disk *disk, unsigned index,
		     const int *layer_fds);
/* Node names in QEMU, from a layer's path; caller frees. "f" or "n" and 16 hexadecimal digits. */
char *cop_launch_node(const struct cop_layer *layer, char kind);

/* How the process is made. */
struct cop_launch_process {
	const char *dir;      /* its working folder */
	const char *log_path; /* stdout and stderr, appended */
	uid_t uid;	      /* (uid_t)-1: as the daemon */
	gid_t gid;
	gid_t extra_gid;      /* supplementary group, or (gid_t)-1 */
	int cgroup_procs_fd;  /* the process enters this cgroup first; -1 for none */
};

/* Forks. The child waits: nothing of QEMU runs before cop_launch_go(). When this process dies
 * before, the child ends. Returns the process id, or -1 with error set. */
pid_t cop_launch_fork(struct cop_launch *launch, const struct cop_launch_process *process,
		      int *ret_go_fd, GError **error);
/* Lets the child go on and waits for its exec. go_fd is closed. */
gboolean cop_launch_go(int go_fd, const char *program, GError **error);

#endif
