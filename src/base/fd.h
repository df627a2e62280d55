/* SPDX-License-Identifier: MIT */
/* fd.h: descriptors: passing them over unix sockets, close-on-exec, reopening. */
#ifndef COP_BASE_FD_H
#define COP_BASE_FD_H

#include <stddef.h>
#include <sys/types.h>

/* The most descriptors that one message can carry here. */
#define COP_FD_MAX 8

/*
 * Send @len_bytes of @data as one message on the AF_UNIX socket @sock, with the @nr_fds descriptors
 * in @fds (0 to COP_FD_MAX; they stay the caller's). @flags: of sendmsg(2); MSG_NOSIGNAL is
 * added. @len_bytes must not be 0, as an empty message can't be told from end of file.
 * Returns 0 when all was sent; -EMSGSIZE when a stream socket took only a part; else -errno
 * (-EINVAL, -EAGAIN, -EPIPE, ...). Interrupted calls are repeated. Blocks unless MSG_DONTWAIT.
 */
int cop_fd_send(int sock, const void *data, size_t len_bytes, const int *fds, size_t nr_fds,
		int flags);

/*
 * Receive one message of at most @len_bytes from @sock and at most @max_fds descriptors
 * (0 to COP_FD_MAX), which are close-on-exec and belong to the caller. @flags: of recvmsg(2);
 * MSG_CMSG_CLOEXEC is added.
 * Returns the number of bytes (0: end of file) and sets *@ret_nr_fds. On every failure, and at end
 * of file, no descriptor is left open: -EMSGSIZE when the message was longer than @len_bytes,
 * -E2BIG when it came with more descriptors than @max_fds or the process could not take
 * them all, else -errno. In these two cases the message is consumed and @data holds its first
 * @len_bytes, so that a server can answer it.
 */
ssize_t cop_fd_recv(int sock, void *data, size_t len_bytes, int *fds, size_t max_fds,
		    size_t *ret_nr_fds, int flags);

/* Set close-on-exec on @fd. Returns 0 or -errno. */
int cop_fd_set_cloexec(int fd);

/*
 * Open the file behind @fd once more, with its own offset and with the access mode in @flags
 * (O_RDONLY, ...); O_CLOEXEC is added. Works for memfds and deleted files; needs /proc.
 * Returns the new descriptor, owned by the caller, or -errno.
 */
int cop_fd_reopen(int fd, int flags);

#endif
