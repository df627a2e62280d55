/* SPDX-License-Identifier: MIT */
/*
 * control.c: the thread that answers the daemon. Protocol in proto/shim.h and docs/formats/shim.md.
 *
 * Purpose: take connections from a listening socket that the daemon made, answer the daemon's
 * requests, hand the pager's connection to paging.c. A connection shows what it is with a message;
 * the daemon's then ends the daemon's older one: a daemon that was killed may have left a copy of
 * its end in some child, and must not lock its successor out. Of connections that have not shown it
 * yet only the newest few are kept; more than one, as daemon and pager may connect together.
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
#include "shim/paging.h"
#include "base/cleanup.h"
#include "base/fd.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>

#define STACK_BYTES  (128 * 1024)
#define BREATHER_MS  100
#define NR_NEWCOMERS 4 /* connections that have not shown what they are */
#define NR_CONNS     (1 + NR_NEWCOMERS)

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
	case COP_SHIM_ATTACH:
		if (!cop_shim_paging_active())
			return -EOPNOTSUPP;
		/* fall through */
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

enum outcome { KEEP, CLOSE, IS_DAEMON, HANDED_OVER };

/* Receive and answer one message. A pager's connection is handed over; IS_DAEMON: the message was
 * one that only a daemon sends. */
static enum outcome serve(const struct cop_shim_control *control, int conn)
{
	struct cop_shim_msg request = {0}, answer = {0};
	cop_auto_close int fd = -1;
	size_t nr_fds = 0;
	ssize_t n = cop_fd_recv(conn, &request, sizeof(request), &fd, 1, &nr_fds, MSG_DONTWAIT);
	int status, error, uffd = cop_shim_paging_fd();
	bool attach;

	if (n == -EAGAIN)
		return KEEP;
	if (n == -E2BIG || n == -EMSGSIZE)
		status = (int)n;
	else if (n <= 0)
		return CLOSE;
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
	attach = request.type == COP_SHIM_ATTACH && answer.status == 0;
	/* A peer that lets its answers pile up is hung up on. */
	if (cop_fd_send(conn, &answer, sizeof(answer), &uffd, attach ? 1 : 0, MSG_DONTWAIT) < 0)
		return CLOSE;
	if (request.type == COP_SHIM_HELLO || request.type == COP_SHIM_MAP_PRIVATE)
		return IS_DAEMON;
	if (!attach)
		return KEEP;
	cop_shim_paging_attach(conn);
	return HANDED_OVER;
}

/* Put @newer last in @conns, one of NR_NEWCOMERS; if need be the oldest, the first, goes. */
static void keep_newcomer(int *conns, int newer)
{
	int nr = 0;

	for (int i = 0; i < NR_NEWCOMERS; i++) { /* close the ranks */
		int conn = cop_steal_fd(&conns[i]);

		if (conn >= 0)
			conns[nr++] = conn;
	}
	if (nr == NR_NEWCOMERS) {
		cop_close(&conns[0]);
		memmove(&conns[0], &conns[1], (NR_NEWCOMERS - 1) * sizeof(*conns));
		nr--;
	}
	conns[nr] = newer;
}

static void *control_thread(void *argument)
{
	struct cop_shim_control *control = argument;
	int conns[NR_CONNS] = {-1, -1, -1, -1, -1}; /* the daemon's; newcomers, the newest last */

	(void)pthread_setname_np(pthread_self(), "coppice-shim"); /* only for people who look */
	for (;;) {
		struct pollfd p[1 + NR_CONNS] = {{.fd = control->listen_fd, .events = POLLIN}};

		for (int i = 0; i < NR_CONNS; i++)
			p[i + 1] = (struct pollfd){.fd = conns[i], .events = POLLIN};
		if (poll(p, 1 + NR_CONNS, -1) < 0) { /* negative ones are skipped */
			if (errno != EINTR && errno != ENOMEM)
				break;
			continue;
		}
		for (int i = 0; i < NR_CONNS; i++) {
			enum outcome outcome = p[i + 1].revents ? serve(control, conns[i]) : KEEP;

			if (outcome == CLOSE)
				cop_close(&conns[i]);
			else if (outcome == HANDED_OVER)
				conns[i] = -1;
			else if (outcome == IS_DAEMON && i > 0) { /* the newer one counts */
				cop_close(&conns[0]);
				conns[0] = cop_steal_fd(&conns[i]);
			}
		}
		if (p[0].revents) {
			int error;
			int newer = accept_allowed(control, &error);

			if (newer >= 0)
				keep_newcomer(&conns[1], newer);
			else if (error == EMFILE || error == ENFILE || error == ENOMEM ||
				 error == ENOBUFS)
				(void)poll(NULL, 0, BREATHER_MS); /* do not spin */
			else if (error == EBADF || error == EINVAL || error == ENOTSOCK ||
				 error == EOPNOTSUPP)
				break; /* no longer a listening socket */
		}
	}
	for (int i = 0; i < NR_CONNS; i++)
		cop_close(&conns[i]);
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
