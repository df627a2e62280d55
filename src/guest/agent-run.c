/* A program with a time limit, its output bounded. Used by the child that makes a clone itself. */
#include "agent.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define LOOK_MS 20 /* where the kernel has no pidfd */

static const char *const folders[] = {"/usr/sbin", "/usr/bin", "/sbin", "/bin",
				      "/usr/local/sbin", "/usr/local/bin"};

struct agent_running *agent_running;

bool agent_have(const char *program)
{
	char path[256];

	for (unsigned i = 0; i < sizeof(folders) / sizeof(folders[0]); i++) {
		snprintf(path, sizeof(path), "%s/%s", folders[i], program);
		if (access(path, X_OK) == 0)
			return true;
	}
	return false;
}

static void child(const char *const *argv, const char *const *env, int out)
{
	int null = open("/dev/null", O_RDWR);

	setsid();
	agent_default_signals();
	if (null >= 0)
		dup2(null, 0);
	dup2(out, 1);
	dup2(out, 2);
	for (int fd = 3; fd < 1024; fd++)
		close(fd);
	clearenv();
	setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", 1);
	setenv("HOME", "/root", 1);
	for (size_t i = 0; env && env[i]; i++)
		putenv((char *)env[i]);
	if (chdir("/") == 0)
		execvp(argv[0], (char *const *)argv);
	dprintf(2, "%s: %s\n", argv[0], strerror(errno));
	_exit(127);
}

/* Keeps the beginning, and the last line. */
struct line {
	uint32_t len;
	bool ended;
};

static void keep(struct agent_ran *r, const char *data, size_t len, struct line *line)
{
	size_t head = sizeof(r->head) - r->head_len;

	if (head > len)
		head = len;
	memcpy(r->head + r->head_len, data, head);
	r->head_len += (uint32_t)head;
	for (size_t i = 0; i < len; i++) {
		if (data[i] == '\n') {
			line->ended = true;
			continue;
		}
		if (line->ended)
			*line = (struct line){0};
		if (line->len < sizeof(r->last) - 1) {
			r->last[line->len] = data[i] >= ' ' && data[i] < 127 ? data[i] : '?';
			r->last[++line->len] = 0;
		}
	}
}

static void drain(struct agent_ran *r, int *fd, struct line *line, int rounds)
{
	char buf[4096];

	while (*fd >= 0 && rounds-- > 0) {
		ssize_t n = read(*fd, buf, sizeof(buf));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return;
		if (n == 0) {
			close(*fd);
			*fd = -1;
			return;
		}
		keep(r, buf, (size_t)n, line);
	}
}

void agent_run(const char *const *argv, const char *const *env, int64_t timeout_ms,
	       struct agent_ran *ret)
{
	int64_t end_us = agent_now_us() + timeout_ms * 1000;
	struct line line = {0};
	int out[2], pidfd;
	pid_t pid;

	memset(ret, 0, sizeof(*ret));
	if (pipe2(out, O_CLOEXEC) < 0) {
		ret->error = errno;
		return;
	}
	fcntl(out[0], F_SETFL, O_NONBLOCK);
	pid = fork();
	if (pid == 0)
		child(argv, env, out[1]);
	close(out[1]);
	if (pid < 0) {
		ret->error = errno;
		close(out[0]);
		return;
	}
	if (agent_running)
		agent_running->pid = pid;
	pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	for (;;) {
		struct pollfd p[2] = {{.fd = out[0], .events = POLLIN},
				      {.fd = pidfd, .events = POLLIN}};
		int64_t left_ms = (end_us - agent_now_us() + 999) / 1000;
		pid_t done = waitpid(pid, &ret->status, WNOHANG);

		if (done == pid || (done < 0 && errno != EINTR))
			break;
		if (left_ms <= 0) {
			ret->timed_out = true;
			break;
		}
		if (pidfd < 0 && left_ms > LOOK_MS)
			left_ms = LOOK_MS;
		(void)poll(p, 2, (int)(left_ms > 60000 ? 60000 : left_ms)); /* then look */
		drain(ret, &out[0], &line, 16);
	}
	if (agent_running)
		agent_running->pid = 0;
	if (ret->timed_out) {
		(void)kill(-pid, SIGKILL); /* all of it, unless it made a session of its own */
		(void)kill(pid, SIGKILL);
		while (waitpid(pid, &ret->status, 0) < 0 && errno == EINTR)
			;
	}
	drain(ret, &out[0], &line, 64);
	if (out[0] >= 0)
		close(out[0]);
	if (pidfd >= 0)
		close(pidfd);
}

bool agent_run_ok(const struct agent_ran *ran)
{
	return !ran->error && !ran->timed_out && WIFEXITED(ran->status) &&
	       WEXITSTATUS(ran->status) == 0;
}
