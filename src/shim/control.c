/* SPDX-License-Identifier: MIT */
/*
 * control.c: the thread that answers the daemon. Protocol in proto/shim.h and docs/formats/shim.md.
 *
 * Purpose: take one connection at a time from a listening socket that the daemon made, answer its
 * requests until it hangs up, take the next. A newer connection from an allowed user ends the
 * older: a daemon that was killed may have left a copy of its end in some child, and must not lock
 * its successor out.
 *
 * Threads: one, started once, never joined; it dies with QEMU. All signals are blocked in it, so
 * QEMU's handlers never run there. It waits only in poll(), and never for a peer that does not
 * read.
 *
 * System calls: poll, accept4, getsockopt, recvmsg, sendmsg, close, prctl(PR_SET_NAME), and those
 * of region.c. QEMU's -sandbox lets all of them pass.
 *
 * On failure: the worst that happens is that this thread ends or a request gets no answer; QEMU
 * goes on.
 */
#include "shim/control.h"
#include "base/cleanup.h"
#include "base/fd.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/socket.h>

#define STACK_BYTES (128 * 1024)
#define BREATHER_MS 100

/* Accept one connection; the descriptor if its user is allowed, else -1. *@ret_error: why accept
 * failed. */
static int accept_allowed(const struct cop_shim_control *control, int *ret_error)
{
	cop_auto_close int fd = accept4(control->listen_fd, NULL, NULL, SOCK_CLOEXEC);
	struct ucred peer;
	socklen_t len = sizeof(peer);

	*ret_error = fd < 0 ? errno : 0;
	if (fd < 0)
		return -1;
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0 || len != sizeof(peer))
		return -1;
	if (peer.uid != 0 && peer.uid != control->uid)
		return -1;
	return cop_steal_fd(&fd);
}

/* Carry out @request. Returns the status of the answer. */
static int perform(struct cop_shim_region *region, const struct cop_shim_msg *request, int fd)
{
	if (request->magic != COP_SHIM_MAGIC)
		return -EBADMSG;
	if (request->version != COP_SHIM_VERSION)
		return -EPROTONOSUPPORT;
	if (request->status || request->mode || request->flags || request->generation ||
	    request->reserved)
		return -EINVAL;
	switch (request->type) {
	case COP_SHIM_HELLO:
		return fd >= 0 || request->addr || request->len ? -EINVAL : 0;
	case COP_SHIM_MAP_PRIVATE:
		if (fd < 0)
			return -EBADF;
		return cop_shim_region_map_private(region, request->addr, request->len, fd);
	default:
		return -EOPNOTSUPP;
	}
}

/* Receive and answer one message. Returns false when the connection is to be closed. */
static bool serve(const struct cop_shim_control *control, int conn)
{
	struct cop_shim_msg request = {0}, answer = {0};
	cop_auto_close int fd = -1;
	size_t nr_fds = 0;
	ssize_t n = cop_fd_recv(conn, &request, sizeof(request), &fd, 1, &nr_fds, MSG_DONTWAIT);
	int status, error;

	if (n == -EAGAIN)
		return true;
	if (n == -E2BIG || n == -EMSGSIZE)
		status = (int)n;
	else if (n <= 0)
		return false;
	else if (n != sizeof(request))
		status = -EMSGSIZE;
	else
		status = perform(control->region, &request, fd);

	answer.magic = COP_SHIM_MAGIC;
	answer.version = COP_SHIM_VERSION;
	answer.type = request.type;
	answer.id = request.id;
	error = cop_shim_region_describe(control->region, &answer);
	answer.status = status ? status : error;
	cop_close(&fd); /* whoever reads the answer may count on it */
	/* A peer that lets its answers pile up is hung up on. */
	return cop_fd_send(conn, &answer, sizeof(answer), NULL, 0, MSG_DONTWAIT) == 0;
}

static void *control_thread(void *argument)
{
	struct cop_shim_control *control = argument;
	int conn = -1;

	(void)pthread_setname_np(pthread_self(), "coppice-shim"); /* only for people who look */
	for (;;) {
		struct pollfd p[2] = {
			{.fd = control->listen_fd, .events = POLLIN},
			{.fd = conn, .events = POLLIN}, /* a negative one is skipped */
		};

		if (poll(p, 2, -1) < 0) {
			if (errno != EINTR && errno != ENOMEM)
				break;
			continue;
		}
		if (p[1].revents && !serve(control, conn))
			cop_close(&conn);
		if (p[0].revents) {
			int error;
			int newer = accept_allowed(control, &error);

			if (newer >= 0) {
				cop_close(&conn);
				conn = newer;
			} else if (error == EMFILE || error == ENFILE || error == ENOMEM ||
				   error == ENOBUFS) {
				(void)poll(NULL, 0, BREATHER_MS); /* do not spin */
			} else if (error == EBADF || error == EINVAL || error == ENOTSOCK ||
				   error == EOPNOTSUPP) {
				break; /* no longer a listening socket */
			}
		}
	}
	cop_close(&conn);
	return NULL;
}

static int socket_option(int fd, int option, int *ret_value)
{
	socklen_t len = sizeof(*ret_value);

	return getsockopt(fd, SOL_SOCKET, option, ret_value, &len) < 0 ? -errno : 0;
}

int cop_shim_control_start(struct cop_shim_control *control)
{
	int domain, type, listening, r;
	pthread_attr_t attr;
	pthread_t thread;
	sigset_t all;

	r = socket_option(control->listen_fd, SO_DOMAIN, &domain);
	if (r == 0)
		r = socket_option(control->listen_fd, SO_TYPE, &type);
	if (r == 0)
		r = socket_option(control->listen_fd, SO_ACCEPTCONN, &listening);
	if (r < 0)
		return r;
	if (domain != AF_UNIX || type != SOCK_SEQPACKET || !listening)
		return -EINVAL;

	r = pthread_attr_init(&attr);
	if (r)
		return -r;
	(void)sigfillset(&all); /* cannot fail; libc's own signals stay open, setuid() needs them */
	r = pthread_attr_setsigmask_np(&attr, &all);
	if (r == 0)
		r = pthread_attr_setstacksize(&attr, STACK_BYTES);
	if (r == 0)
		r = pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	if (r == 0)
		r = pthread_create(&thread, &attr, control_thread, control);
	(void)pthread_attr_destroy(&attr); /* frees the copy of the mask */
	return -r;
}
