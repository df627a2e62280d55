/* A clone learns that it is one. See agent.h; docs/formats/agent.md, "IDENTIFY".
 *
 * A child of the agent takes the steps, one after the other, and sends the whole IDENTIFIED frame through
 * a pipe: the agent itself goes on. A new session kills the child; the steps can be repeated.
 */
#include "agent.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static struct cop_agent_frame told; /* the last IDENTIFY */
static uint8_t told_payload[COP_AGENT_PAYLOAD_MAX];
static uint8_t answer[COP_AGENT_FRAME_MAX];
static uint32_t answer_len;
static void on_answer(struct agent_watch *w, uint32_t events);
static struct agent_watch result = {.fd = -1, .fn = on_answer};
static pid_t worker;

void agent_report(struct agent_report *r, const char *name, enum cop_agent_result res,
		  const char *fmt, ...)
{
	uint32_t i = r->m.nr_steps;
	int64_t now_us = agent_now_us();
	va_list args;

	if (i == COP_AGENT_MAX_STEPS)
		return;
	va_start(args, fmt);
	vsnprintf(r->texts[i], sizeof(r->texts[i]), fmt, args);
	va_end(args);
	snprintf(r->names[i], sizeof(r->names[i]), "%s", name);
	r->m.steps[i] = (struct cop_agent_step){.name = r->names[i],
						.text = r->texts[i],
						.result = (uint8_t)res,
						.took_us = (uint32_t)(now_us - r->step_us)};
	r->m.nr_steps++;
	r->step_us = now_us;
}

bool agent_identity_get(struct cop_agent_identify *ret)
{
	return told.payload && cop_agent_get_identify(&told, agent.store, ret) == 0;
}

static void take_steps(int fd, int64_t came_us, unsigned thawed)
{
	static struct agent_report r;
	struct cop_agent_identify m;
	ssize_t len;

	r.step_us = came_us;
	if (!agent_identity_get(&m))
		_exit(1);
	agent_report(&r, "thaw", thawed ? COP_AGENT_DONE : COP_AGENT_SKIPPED, "%u file systems",
		     thawed);
	agent_step_clock(&r, &m, came_us);
	agent_step_random(&r, &m);
	agent_step_hostname(&r, &m);
	agent_step_machine_id(&r, &m);
	agent_step_network(&r, &m);
	agent_step_ssh_keys(&r, &m);
	agent_step_generation(&r, &m);
	agent_step_hooks(&r, &m);
	len = cop_agent_put_identified(agent.frame, (uint32_t)agent.session, told.id, &r.m);
	for (ssize_t at = 0, n; at < len; at += n) {
		n = write(fd, agent.frame + at, (size_t)(len - at));
		if (n <= 0)
			_exit(1);
	}
	_exit(len < 0);
}

static void on_answer(struct agent_watch *w, uint32_t events)
{
	ssize_t n = read(w->fd, answer + answer_len, sizeof(answer) - answer_len);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n > 0) {
		answer_len += (uint32_t)n;
		return;
	}
	agent_watch_close(w);
	worker = 0;
	if (answer_len < COP_AGENT_HEAD_BYTES) {
		agent_send_error(told.id, EIO, "the agent could not take a clone's steps");
		return;
	}
	agent_send_bytes(answer, answer_len);
	agent_local_identified();
}

void agent_identity_reset(void)
{
	if (result.fd < 0)
		return;
	agent_watch_close(&result);
	kill(worker, SIGKILL);
	if (agent_running && agent_running->pid > 0)
		kill(-agent_running->pid, SIGKILL);
	worker = 0;
}

void agent_identify(const struct cop_agent_frame *f)
{
	int64_t came_us = agent_now_us();
	unsigned thawed;
	int pair[2];

	agent_identity_reset();
	memcpy(told_payload, f->payload, f->len);
	told = *f;
	told.payload = told_payload;
	thawed = agent_thaw();
	if (!agent_running) {
		agent_running = mmap(NULL, sizeof(*agent_running), PROT_READ | PROT_WRITE,
				     MAP_SHARED | MAP_ANONYMOUS, -1, 0);
		if (agent_running == MAP_FAILED)
			agent_running = NULL;
	}
	if (agent_running)
		agent_running->pid = 0;
	if (pipe2(pair, O_CLOEXEC) < 0) {
		agent_send_error(f->id, errno, "pipe: %s", strerror(errno));
		return;
	}
	answer_len = 0;
	worker = fork();
	if (worker == 0) {
		agent_become_child();
		take_steps(pair[1], came_us, thawed);
	}
	close(pair[1]);
	if (worker < 0) {
		agent_send_error(f->id, errno, "fork: %s", strerror(errno));
		close(pair[0]);
		return;
	}
	fcntl(pair[0], F_SETFL, O_NONBLOCK);
	result.fd = pair[0];
	agent_watch_set(&result, EPOLLIN);
}
