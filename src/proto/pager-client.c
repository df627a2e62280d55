/* SPDX-License-Identifier: MIT */
/*
 * pager-client.c: the daemon's side of the pager's socket.
 *
 * States: open (fd >= 0) -> closed (fd == -1) on anything but a well-formed answer. Never back.
 */
#include "proto/pager-client.h"
#include "base/cleanup.h"
#include "base/fd.h"
#include "proto/seqpacket.h"

#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

struct cop_pager_client {
	int fd;
	uint32_t last_id;
};

const char *cop_pager_client_word(unsigned int type)
{
	static const char *const words[] = {
		[COP_PAGER_HELLO] = "HELLO",
		[COP_PAGER_TEMPLATE_ADD] = "TEMPLATE_ADD",
		[COP_PAGER_TEMPLATE_REMOVE] = "TEMPLATE_REMOVE",
		[COP_PAGER_TEMPLATE_LOAD] = "TEMPLATE_LOAD",
		[COP_PAGER_VM_ADD] = "VM_ADD",
		[COP_PAGER_VM_REMOVE] = "VM_REMOVE",
		[COP_PAGER_EVICT] = "EVICT",
		[COP_PAGER_HOLD] = "HOLD",
		[COP_PAGER_RELEASE] = "RELEASE",
		[COP_PAGER_LIMIT] = "LIMIT",
		[COP_PAGER_STATS] = "STATS",
		[COP_PAGER_VM_STATS] = "VM_STATS",
		[COP_PAGER_TEMPLATE_STATS] = "TEMPLATE_STATS",
		[COP_PAGER_QUIT] = "QUIT",
	};

	if (type < sizeof(words) / sizeof(words[0]) && words[type])
		return words[type];
	return "a request";
}

int cop_pager_client_new(const char *path, unsigned int timeout_ms,
			 struct cop_pager_client **ret_client, int *ret_pid, struct cop_error *err)
{
	const struct cop_pager_request hello = {.type = COP_PAGER_HELLO};
	int64_t deadline_ms = cop_seqpacket_now_ms() + timeout_ms, left_ms;
	struct cop_pager_client *client;
	struct cop_pager_answer answer;
	int r;

	client = calloc(1, sizeof(*client));
	if (!client)
		return cop_error_set(err, -ENOMEM, "out of memory");
	client->fd = cop_seqpacket_connect(path, timeout_ms);
	if (client->fd < 0) {
		r = cop_error_set(err, client->fd, "cannot connect to the pager at %s: %s", path,
				  strerror(-client->fd));
		client->fd = -1;
		cop_pager_client_free(client);
		return r;
	}
	left_ms = deadline_ms - cop_seqpacket_now_ms();
	r = cop_pager_client_call(client, &hello, NULL, 0, left_ms < 0 ? 0 : (unsigned int)left_ms,
				  &answer, err);
	if (r < 0) {
		cop_pager_client_free(client);
		return r;
	}
	if (ret_pid)
		*ret_pid = (int)answer.value[0];
	*ret_client = client;
	return 0;
}

void cop_pager_client_free(struct cop_pager_client *client)
{
	if (!client)
		return;
	cop_close(&client->fd);
	free(client);
}

int cop_pager_client_fd(const struct cop_pager_client *client)
{
	return client->fd;
}

bool cop_pager_client_is_broken(const struct cop_pager_client *client)
{
	return client->fd < 0;
}

/* Is @answer well-formed, and one to @request? The version is looked at by the caller. */
static bool answer_is_valid(const struct cop_pager_answer *answer,
			    const struct cop_pager_request *request)
{
	return answer->magic == COP_PAGER_MAGIC &&
	       (answer->type == request->type || answer->status == -EPROTONOSUPPORT) &&
	       answer->id == request->id && answer->status <= 0 && answer->status > -4096 &&
	       memchr(answer->text, '\0', sizeof(answer->text));
}

/* Sends, and receives the one packet that comes. Returns its length, 0 at end of file, or -errno. */
static ssize_t exchange(int fd, const struct cop_pager_request *request, const int *fds,
			size_t nr_fds, int64_t deadline_ms, struct cop_pager_answer *ret_answer)
{
	ssize_t n;
	int r;

	do {
		r = cop_seqpacket_wait(fd, POLLOUT, deadline_ms);
		if (r == 0)
			r = cop_fd_send(fd, request, sizeof(*request), fds, nr_fds, MSG_DONTWAIT);
	} while (r == -EAGAIN);
	if (r < 0)
		return r;
	do {
		r = cop_seqpacket_wait(fd, POLLIN, deadline_ms);
		if (r < 0)
			return r;
		n = cop_fd_recv(fd, ret_answer, sizeof(*ret_answer), NULL, 0, NULL, MSG_DONTWAIT);
	} while (n == -EAGAIN);
	return n;
}

int cop_pager_client_call(struct cop_pager_client *client, const struct cop_pager_request *request,
			  const int *fds, size_t nr_fds, unsigned int timeout_ms,
			  struct cop_pager_answer *ret_answer, struct cop_error *err)
{
	const char *word = cop_pager_client_word(request->type);
	int64_t deadline_ms = cop_seqpacket_now_ms() + timeout_ms;
	struct cop_pager_request packet = *request;
	struct cop_pager_answer answer;
	ssize_t n;

	if (client->fd < 0)
		return cop_error_set(err, -ENOTCONN, "the connection to the pager was closed");
	packet.magic = COP_PAGER_MAGIC;
	packet.version = COP_PAGER_VERSION;
	packet.id = ++client->last_id;
	n = exchange(client->fd, &packet, fds, nr_fds, deadline_ms, &answer);
	if (n == -ETIMEDOUT) {
		cop_close(&client->fd);
		return cop_error_set(err, -ETIMEDOUT, "the pager did not answer %s within %u ms",
				     word, timeout_ms);
	}
	if (n == 0)
		n = -ECONNRESET;
	if (n < 0) {
		cop_close(&client->fd);
		return cop_error_set(err, (int)n, "%s to the pager failed: %s", word,
				     strerror((int)-n));
	}
	if (n != sizeof(answer) || !answer_is_valid(&answer, &packet)) {
		cop_close(&client->fd);
		return cop_error_set(err, -EPROTO, "the pager answered %s with nonsense", word);
	}
	if (answer.version != COP_PAGER_VERSION && answer.status != -EPROTONOSUPPORT) {
		cop_close(&client->fd);
		return cop_error_set(err, -EPROTONOSUPPORT, "the pager speaks version %u, not %u",
				     answer.version, COP_PAGER_VERSION);
	}
	if (ret_answer)
		*ret_answer = answer;
	if (answer.status < 0)
		return cop_error_set(err, answer.status, "the pager refused %s: %s", word,
				     *answer.text ? answer.text : strerror(-answer.status));
	return 0;
}
