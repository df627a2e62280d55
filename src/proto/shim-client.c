/* SPDX-License-Identifier: MIT */
/*
 * shim-client.c: the daemon's side of the shim's control socket.
 *
 * States: open (fd >= 0) -> closed (fd == -1) on anything but a well-formed answer. Never back.
 */
#include "proto/shim-client.h"
#include "base/cleanup.h"
#include "base/fd.h"

#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>

struct cop_shim_client {
	int fd;
	uint32_t last_id;
};

static int64_t now_ms(void)
{
	struct timespec ts;

	/* Cannot fail: the clock exists and the pointer is good. */
	(void)clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

/* Wait for @events on @fd. Returns 0, -ETIMEDOUT or -errno. */
static int wait_for(int fd, short events, int64_t deadline_ms)
{
	for (;;) {
		struct pollfd p = {.fd = fd, .events = events};
		int64_t left = deadline_ms - now_ms();
		int n = poll(&p, 1, left < 0 ? 0 : left > INT_MAX ? INT_MAX : (int)left);

		if (n > 0)
			return 0;
		if (n < 0 && errno != EINTR)
			return -errno;
		if (now_ms() >= deadline_ms)
			return -ETIMEDOUT;
	}
}

int cop_shim_client_new(const char *path, unsigned int timeout_ms,
			struct cop_shim_client **ret_client, struct cop_error *err)
{
	int64_t deadline_ms = now_ms() + timeout_ms;
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	cop_auto_close int fd = -1;
	struct cop_shim_client *client;

	if (strlen(path) >= sizeof(sa.sun_path))
		return cop_error_set(err, -ENAMETOOLONG, "shim socket path is too long: %s", path);
	strcpy(sa.sun_path, path);
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return cop_error_set(err, -errno, "cannot make a socket: %s", strerror(errno));
	for (;;) {
		int64_t left = deadline_ms - now_ms();
		struct timeval tv;

		if (left < 1)
			left = 1; /* zero would mean for ever */
		tv.tv_sec = left / 1000;
		tv.tv_usec = left % 1000 * 1000;
		/* A full backlog makes connect() wait; this is what bounds it. */
		if (setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof(tv)) < 0)
			return cop_error_set(err, -errno, "cannot set a time-out: %s",
					     strerror(errno));
		if (connect(fd, (struct sockaddr *)&sa, sizeof(sa)) == 0)
			break;
		if (errno == EINTR && now_ms() < deadline_ms)
			continue;
		if (errno == EAGAIN || errno == EINTR)
			return cop_error_set(err, -ETIMEDOUT,
					     "the shim at %s took no connection within %u ms", path,
					     timeout_ms);
		return cop_error_set(err, -errno, "cannot connect to the shim at %s: %s", path,
				     strerror(errno));
	}
	client = calloc(1, sizeof(*client));
	if (!client)
		return cop_error_set(err, -ENOMEM, "out of memory");
	client->fd = cop_steal_fd(&fd);
	*ret_client = client;
	return 0;
}

void cop_shim_client_free(struct cop_shim_client *client)
{
	if (!client)
		return;
	cop_close(&client->fd);
	free(client);
}

/* Does @answer belong to @request, and is it well-formed? */
static bool answer_is_valid(const struct cop_shim_msg *answer, const struct cop_shim_msg *request)
{
	return answer->magic == COP_SHIM_MAGIC && answer->version == COP_SHIM_VERSION &&
	       answer->type == request->type && answer->id == request->id && answer->status <= 0 &&
	       answer->status > -4096 && answer->mode <= COP_SHIM_MODE_PRIVATE &&
	       answer->reserved == 0;
}

/*
 * Send @request (type, addr and len filled in) with @fd (or -1) and wait for its answer. Returns 0
 * when there is one, whatever its status; otherwise -errno, and the client is closed.
 */
static int ask(struct cop_shim_client *client, struct cop_shim_msg *request, int fd,
	       const char *verb, unsigned int timeout_ms, struct cop_shim_msg *ret_answer,
	       struct cop_error *err)
{
	int64_t deadline_ms = now_ms() + timeout_ms;
	ssize_t n;
	int r;

	if (client->fd < 0)
		return cop_error_set(err, -ENOTCONN, "the connection to the shim was closed");
	request->magic = COP_SHIM_MAGIC;
	request->version = COP_SHIM_VERSION;
	request->id = ++client->last_id;
	do {
		r = wait_for(client->fd, POLLOUT, deadline_ms);
		if (r == 0)
			r = cop_fd_send(client->fd, request, sizeof(*request), &fd, fd >= 0,
					MSG_DONTWAIT);
	} while (r == -EAGAIN);
	if (r < 0)
		goto broken;
	do {
		r = wait_for(client->fd, POLLIN, deadline_ms);
		if (r < 0)
			goto broken;
		n = cop_fd_recv(client->fd, ret_answer, sizeof(*ret_answer), NULL, 0, NULL,
				MSG_DONTWAIT);
	} while (n == -EAGAIN);
	if (n < 0) {
		r = (int)n;
		goto broken;
	}
	if (n == 0) {
		cop_close(&client->fd);
		return cop_error_set(err, -ECONNRESET,
				     "the shim hung up on %s: QEMU ended, a newer connection took "
				     "over, or this user is not allowed",
				     verb);
	}
	if (n != sizeof(*ret_answer) || !answer_is_valid(ret_answer, request)) {
		cop_close(&client->fd);
		return cop_error_set(err, -EPROTO, "the shim answered %s with nonsense", verb);
	}
	return 0;

broken:
	cop_close(&client->fd);
	if (r == -ETIMEDOUT)
		return cop_error_set(err, r, "the shim did not answer %s within %u ms", verb,
				     timeout_ms);
	return cop_error_set(err, r, "%s to the shim failed: %s", verb, strerror(-r));
}

static void info_from_answer(struct cop_shim_info *info, const struct cop_shim_msg *answer)
{
	if (!info)
		return;
	info->addr = answer->addr;
	info->len_bytes = answer->len;
	info->mode = (enum cop_shim_mode)answer->mode;
	info->generation = answer->generation;
	info->seen = answer->flags & COP_SHIM_SEEN;
	info->lost = answer->flags & COP_SHIM_LOST;
}

int cop_shim_client_hello(struct cop_shim_client *client, unsigned int timeout_ms,
			  struct cop_shim_info *ret_info, struct cop_error *err)
{
	struct cop_shim_msg request = {.type = COP_SHIM_HELLO}, answer;
	int r = ask(client, &request, -1, "HELLO", timeout_ms, &answer, err);

	if (r < 0)
		return r;
	if (answer.status < 0)
		return cop_error_set(
			err, answer.status,
			"the shim has no guest RAM to offer, because of its " COP_SHIM_ENV
			" variable or of QEMU's mapping: %s",
			strerror(-answer.status));
	info_from_answer(ret_info, &answer);
	return 0;
}

int cop_shim_client_map_private(struct cop_shim_client *client, int fd, unsigned int timeout_ms,
				struct cop_shim_info *ret_info, struct cop_error *err)
{
	int64_t deadline_ms = now_ms() + timeout_ms, left_ms;
	struct cop_shim_msg request = {.type = COP_SHIM_MAP_PRIVATE}, answer;
	struct cop_shim_info info;
	cop_auto_close int reopened = -1;
	int access, r;

	access = fcntl(fd, F_GETFL);
	if (access < 0)
		return cop_error_set(err, -errno, "bad descriptor %d for MAP_PRIVATE: %s", fd,
				     strerror(errno));
	if ((access & O_ACCMODE) != O_RDONLY) {
		reopened = cop_fd_reopen(fd, O_RDONLY);
		if (reopened < 0)
			return cop_error_set(err, reopened, "cannot reopen the file read-only: %s",
					     strerror(-reopened));
		fd = reopened;
	}
	r = cop_shim_client_hello(client, timeout_ms, &info, err);
	if (r < 0)
		return r;
	request.addr = info.addr;
	request.len = info.len_bytes;
	left_ms = deadline_ms - now_ms();
	r = ask(client, &request, fd, "MAP_PRIVATE", left_ms < 0 ? 0 : (unsigned int)left_ms,
		&answer, err);
	if (r < 0)
		return r;
	if (answer.flags & COP_SHIM_LOST)
		return cop_error_set(err, -ENOTRECOVERABLE,
				     "replacing guest RAM failed half-way (%s): the VM is lost",
				     strerror(-answer.status));
	if (answer.status == -EFBIG)
		return cop_error_set(err, answer.status,
				     "the file is shorter than guest RAM (%llu bytes)",
				     (unsigned long long)info.len_bytes);
	if (answer.status < 0)
		return cop_error_set(err, answer.status, "the shim refused MAP_PRIVATE: %s",
				     strerror(-answer.status));
	info_from_answer(ret_info, &answer);
	return 0;
}
