/* SPDX-License-Identifier: MIT */
/*
 * shim-client.h: the daemon's side of the shim's control socket.
 *
 * Calls block until answered or @timeout_ms after they began, whichever is first. One thread at a
 * time may use a client. No call raises SIGPIPE. After any failure that is not an error answer of
 * the shim (time-out, broken connection, nonsense) the client is closed: later calls give
 * -ENOTCONN; make a new one. When map_private failed that way it is unknown whether the shim did
 * it: connect anew and compare the generation that hello gives.
 */
#ifndef COP_PROTO_SHIM_CLIENT_H
#define COP_PROTO_SHIM_CLIENT_H

#include "base/error.h"
#include "proto/shim.h"

#include <stdbool.h>
#include <stdint.h>

struct cop_shim_client;

/* What HELLO and MAP_PRIVATE answer. Any program that took over QEMU can lie here: do not use
 * addr and len to touch anything but that process. */
struct cop_shim_info {
	uint64_t addr; /* of guest RAM in QEMU */
	uint64_t len_bytes;
	enum cop_shim_mode mode; /* NONE until mapped */
	uint32_t generation;	 /* replacements made so far */
	bool seen;		 /* guest RAM is mapped by the shim: without this, stop the VM */
	bool lost;		 /* guest RAM is gone: kill the VM */
};

/*
 * Connect to the listening socket at @path (at most 107 bytes). It works as soon as the socket
 * listens, even before QEMU runs: the connection waits until the shim takes it. A later connection
 * takes the shim over from an earlier one. Returns 0 and *@ret_client, freed with
 * cop_shim_client_free(), or -errno: -ECONNREFUSED and -ENOENT when QEMU is gone, -ETIMEDOUT.
 */
int cop_shim_client_new(const char *path, unsigned int timeout_ms,
			struct cop_shim_client **ret_client, struct cop_error *err);

/* Close and free. @client may be NULL. The VM goes on, and so does the shim. */
void cop_shim_client_free(struct cop_shim_client *client);

/*
 * Ask what the region is. @ret_info may be NULL. Returns 0, -ETIMEDOUT when QEMU has not mapped its
 * RAM in time (it may have failed to start, or mapped another file), the shim's own error when
 * COPPICE_SHIM was wrong or the mapping was refused, else -errno.
 */
int cop_shim_client_hello(struct cop_shim_client *client, unsigned int timeout_ms,
			  struct cop_shim_info *ret_info, struct cop_error *err);

/*
 * Replace all guest RAM by a private mapping of @fd, which stays the caller's. THE VM MUST BE
 * STOPPED and the file must hold the bytes of guest RAM: all private pages are dropped. A
 * descriptor that may write is reopened read-only for the shim, which refuses any other. @ret_info
 * may be NULL. Returns 0 or -errno: -EFBIG when the file is shorter than the region, -ENXIO when no
 * region is mapped, -EPERM for a writable descriptor, -ENOTRECOVERABLE when the region was lost:
 * kill the VM.
 */
int cop_shim_client_map_private(struct cop_shim_client *client, int fd, unsigned int timeout_ms,
				struct cop_shim_info *ret_info, struct cop_error *err);

#endif
