/* SPDX-License-Identifier: MIT */
/* control.h: the thread that answers the daemon. */
#ifndef COP_SHIM_CONTROL_H
#define COP_SHIM_CONTROL_H

#include "shim/region.h"

#include <sys/types.h>

struct cop_shim_control {
	int listen_fd; /* owned by the thread once it runs */
	uid_t uid;     /* besides root, who may connect */
	struct cop_shim_region *region;
};

/*
 * Start the thread. @control must live for ever. Does not change the caller's signal mask. Returns
 * 0 or -errno: -ENOTSOCK and -EINVAL when the descriptor is no listening SOCK_SEQPACKET socket,
 * -EAGAIN when no thread can be made.
 */
int cop_shim_control_start(struct cop_shim_control *control);

#endif
