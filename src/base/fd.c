/* SPDX-License-Identifier: MIT */
/*
 * fd.c: descriptors: passing them over unix sockets, close-on-exec, reopening.
 *
 * Invariants of cop_fd_recv():
 * 1. A descriptor that the kernel installed is either handed to the caller or closed.
 * 2. The control buffer has room for more descriptors than any caller may ask for. A buffer of
 *    CMSG_SPACE(sizeof(int)) takes *two* on 64-bit machines because of its padding, so the number
 * is counted, never concluded from the size of the buffer.
 */
#include "base/fd.h"
#include "base/cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

int cop_fd_send(int sock, const void *data, size_t len_bytes, const int *fds, size_t nr_fds,
		int flags)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int) * COP_FD_MAX)];
	} control = {0};
	struct iovec iov = {.iov_base = (void *)data, .iov_len = len_bytes};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
	ssize_t n;

	if (len_bytes == 0 || nr_fds > COP_FD_MAX)
		return -EINVAL;
	if (nr_fds > 0) {
		struct cmsghdr *cmsg;

		msg.msg_control = control.bytes;
		msg.msg_controllen = CMSG_SPACE(sizeof(int) * nr_fds);
		cmsg = CMSG_FIRSTHDR(&msg);
		cmsg->cmsg_level = SOL_SOCKET;
		cmsg->cmsg_type = SCM_RIGHTS;
		cmsg->cmsg_len = CMSG_LEN(sizeof(int) * nr_fds);
		memcpy(CMSG_DATA(cmsg), fds, sizeof(int) * nr_fds);
	}
	do {
		n = sendmsg(sock, &msg, flags | MSG_NOSIGNAL);
	} while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	return (size_t)n == len_bytes ? 0 : -EMSGSIZE;
}

ssize_t cop_fd_recv(int sock, void *data, size_t len_bytes, int *fds, size_t max_fds,
		    size_t *ret_nr_fds, int flags)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int) * (COP_FD_MAX + 1))];
	} control;
	struct iovec iov = {.iov_base = data, .iov_len = len_bytes};
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control.bytes,
		.msg_controllen = sizeof(control.bytes),
	};
	int taken[COP_FD_MAX];
	size_t nr_taken = 0;
	bool too_many;
	ssize_t n;

	if (len_bytes == 0 || max_fds > COP_FD_MAX)
		return -EINVAL;
	do {
		n = recvmsg(sock, &msg, (flags & ~MSG_TRUNC) | MSG_CMSG_CLOEXEC);
	} while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;

	too_many = msg.msg_flags & MSG_CTRUNC;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&msg); c; c = CMSG_NXTHDR(&msg, c)) {
		size_t nr;

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		nr = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (size_t i = 0; i < nr; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(fd));
			if (nr_taken < max_fds) {
				taken[nr_taken++] = fd;
			} else {
				too_many = true;
				cop_close(&fd);
			}
		}
	}
	if (too_many || (msg.msg_flags & MSG_TRUNC) || n == 0) {
		for (size_t i = 0; i < nr_taken; i++)
			cop_close(&taken[i]);
		if (too_many)
			return -E2BIG;
		if (msg.msg_flags & MSG_TRUNC)
			return -EMSGSIZE;
		nr_taken = 0;
	}
	if (nr_taken > 0)
		memcpy(fds, taken, nr_taken * sizeof(int));
	if (ret_nr_fds)
		*ret_nr_fds = nr_taken;
	return n;
}

int cop_fd_set_cloexec(int fd)
{
	int flags = fcntl(fd, F_GETFD);

	if (flags < 0 || fcntl(fd, F_SETFD, flags | FD_CLOEXEC) < 0)
		return -errno;
	return 0;
}

int cop_fd_reopen(int fd, int flags)
{
	char path[sizeof("/proc/self/fd/") + 3 * sizeof(int)];
	int opened;

	if (fd < 0)
		return -EBADF;
	(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd); /* cannot be cut */
	opened = open(path, flags | O_CLOEXEC | O_NOCTTY);
	return opened < 0 ? -errno : opened;
}
