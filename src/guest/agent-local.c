/* Requests from inside: a socket in the guest, a packet a message. See agent.h.
 *
 * A client sends one REQUEST frame (session 0, id any) and gets one RESPONSE or ERROR frame. Waiters
 * outlive a session: in a clone its identity answers them, elsewhere a new session ends their wait.
 */
#include "agent.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define MAX_WAITERS 16

struct waiter {
	struct agent_watch watch;
	uint32_t id; /* 0: has not asked yet */
};

static struct waiter *waiters[MAX_WAITERS];
static uint32_t last_id;

static void finish(struct waiter *w)
{
	for (int i = 0; i < MAX_WAITERS; i++)
		if (waiters[i] == w)
			waiters[i] = NULL;
	agent_watch_close(&w->watch);
	agent_free_later(w);
}

static void answer(struct waiter *w, const struct cop_agent_response *m)
{
	ssize_t len = cop_agent_put_response(agent.frame, 0, w->id, m);

	if (len > 0)
		(void)!send(w->watch.fd, agent.frame, (size_t)len, MSG_NOSIGNAL); /* it has gone */
	finish(w);
}

static void refuse(struct waiter *w, const char *text)
{
	static const char *const none[] = {NULL};

	answer(w, &(struct cop_agent_response){
			  .text = text, .name = "", .template = "", .params = none});
}

static void on_waiter(struct agent_watch *watch, uint32_t events)
{
	struct waiter *w = (struct waiter *)watch;
	static uint8_t buf[COP_AGENT_FRAME_MAX];
	ssize_t n = recv(watch->fd, buf, sizeof(buf), MSG_DONTWAIT), len;
	struct cop_agent_request m;
	struct cop_agent_frame f;

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n < (ssize_t)COP_AGENT_HEAD_BYTES || w->id) {
		finish(w);
		return;
	}
	f = (struct cop_agent_frame){.id = 1,
				     .type = buf[14],
				     .payload = buf + COP_AGENT_HEAD_BYTES,
				     .len = (uint32_t)n - COP_AGENT_HEAD_BYTES};
	w->id = ++last_id ?: ++last_id;
	if (f.type != COP_AGENT_REQUEST || cop_agent_get_request(&f, agent.store, &m) < 0) {
		refuse(w, "this is no request");
		return;
	}
	if (!agent.session) {
		refuse(w, "the host is not connected");
		return;
	}
	len = cop_agent_put_request(agent.frame, (uint32_t)agent.session, w->id, &m);
	if (len < 0)
		refuse(w, "the request can't be sent");
	else
		agent_send(len);
}

static void on_client(struct agent_watch *watch, uint32_t events)
{
	int fd = accept4(watch->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	struct waiter *w = fd < 0 ? NULL : calloc(1, sizeof(*w));

	for (int i = 0; w && i < MAX_WAITERS; i++) {
		if (waiters[i])
			continue;
		waiters[i] = w;
		w->watch = (struct agent_watch){.fd = fd, .fn = on_waiter};
		agent_watch_set(&w->watch, EPOLLIN);
		return;
	}
	free(w);
	if (fd >= 0)
		close(fd); /* too many at once */
}

void agent_local_open(void)
{
	const char *path;
	struct sockaddr_un at = {.sun_family = AF_UNIX};
	int fd;

	(void)mkdir(agent_path("/run"), 0755);
	(void)mkdir(agent_path("/run/coppice"), 0755);
	path = agent_path("/run/coppice/agent.sock");
	if (strlen(path) >= sizeof(at.sun_path)) {
		agent_log("coppice-agent: %s is too long for a socket", path);
		return;
	}
	strcpy(at.sun_path, path);
	(void)unlink(path);
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	umask(0177);
	if (fd < 0 || bind(fd, (struct sockaddr *)&at, sizeof(at)) < 0 || listen(fd, 16) < 0) {
		agent_log("coppice-agent: %s: %s", path, strerror(errno));
		if (fd >= 0)
			close(fd);
		fd = -1;
	}
	umask(022);
	agent.local = (struct agent_watch){.fd = fd, .fn = on_client};
	agent_watch_set(&agent.local, EPOLLIN);
}

void agent_local_response(const struct cop_agent_frame *f)
{
	struct cop_agent_response m;

	if (cop_agent_get_response(f, agent.store, &m) < 0)
		return;
	for (int i = 0; i < MAX_WAITERS; i++)
		if (waiters[i] && waiters[i]->id == f->id && f->id) {
			answer(waiters[i], &m);
			return;
		}
}

void agent_local_session(bool is_clone)
{
	for (int i = 0; i < MAX_WAITERS; i++)
		if (waiters[i] && waiters[i]->id && !is_clone)
			refuse(waiters[i],
			       "the host's side has begun anew: whether it was done is not known");
}

void agent_local_identified(void)
{
	struct cop_agent_identify m;

	for (int i = 0; i < MAX_WAITERS; i++)
		if (waiters[i] && waiters[i]->id && agent_identity_get(&m))
			answer(waiters[i], &(struct cop_agent_response){
						   .role = COP_AGENT_ROLE_CLONE,
						   .index = m.index,
						   .count = m.count,
						   .text = "",
						   .name = m.name,
						   .template = m.template,
						   .params = m.params});
}
