/* SPDX-License-Identifier: MIT */
/* seqpacket.c: connecting to a unix socket, and waiting for one, with a deadline. */
#include "proto/seqpacket.h"
#include "base/cleanup.h"

#include <limits.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>

int64_t cop_seqpacket_now_ms(void)
{
	struct timespec ts;

	/* Cannot fail: the clock exists and the pointer is good. */
	(void)clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

int cop_seqpacket_wait(int fd, short events, int64_t deadline_ms)
{
	for (;;) {
		struct pollfd p = {.fd = fd, .events = events};
		int64_t left = deadline_ms - cop_seqpacket_now_ms();
		int n = poll(&p, 1, left < 0 ? 0 : left > INT_MAX ? INT_MAX : (int)left);

		if (n > 0)
			return 0;
		if (n < 0 && errno != EINTR)
			return -errno;
		if (cop_seqpacket_now_ms() >= deadline_ms)
			return -ETIMEDOUT;
	}
}

int cop_seqpacket_connect(const char *path, unsigned int timeout_ms)
{
	int64_t deadline_ms = cop_seqpacket_now_ms() + timeout_ms;
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	cop_auto_close int fd = -1;

	if (strlen(path) >= sizeof(sa.sun_path))
		return -ENAMETOOLONG;
	strcpy(sa.sun_path, path);
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	for (;;) {
		int64_t left = deadline_ms - cop_seqpacket_now_ms();
		struct timeval tv;

		if (left < 1)
			left = 1; /* zero would mean for ever */
		tv.tv_sec = left / 1000;
		tv.tv_usec = left % 1000 * 1000;
		/* A full backlog makes connect() wait; this is what bounds it. */
		if (setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof(tv)) < 0)
			return -errno;
		if (connect(fd, (struct sockaddr *)&sa, sizeof(sa)) == 0)
			return cop_steal_fd(&fd);
		if (errno == EINTR && cop_seqpacket_now_ms() < deadline_ms)
			continue;
		return errno == EAGAIN || errno == EINTR ? -ETIMEDOUT : -errno;
	}
}
