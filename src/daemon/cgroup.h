/* The memory cgroup of the daemon and its VMs: where the host's own figures come from.
 *
 * cgroup v2 first, v1 where the memory controller is mounted there. Without either (no root, no
 * controller) everything works, and figures are marked as sums of the processes' own.
 */
#ifndef COP_DAEMON_CGROUP_H
#define COP_DAEMON_CGROUP_H

#include "state.h"

/* Makes the cgroup, sets its limit, moves this process into it. Without one, state->cgroup_path
 * stays NULL: an error only when a limit was asked for. */
gboolean cop_cgroup_enter(struct cop_state *state, GError **error);
/* Leaves and removes it; while VMs are in it, it stays. */
void cop_cgroup_leave(struct cop_state *state);

/* The file that says what the group costs now, opened; -1 without a group. */
int cop_cgroup_open_usage(struct cop_state *state);

struct cop_cgroup_use {
	uint64_t usage_bytes, peak_bytes, limit_bytes; /* limit 0: none */
	uint64_t anon_bytes, shmem_bytes, file_bytes, other_bytes;
	uint64_t kernel_bytes; /* of other_bytes: page tables, slabs, sockets; 0: not known */
};
gboolean cop_cgroup_read(struct cop_state *state, struct cop_cgroup_use *ret);

#endif
