/* The agent's options and its loop. See agent.h. */
#include "agent.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MAX_EVENTS 64
#define MAX_DEAD 1024

struct agent agent; /* no initial values, or it would all lie in the file */

static void *dead[MAX_DEAD];
static unsigned nr_dead;
static struct epoll_event round_events[MAX_EVENTS];
static int nr_round;

int64_t agent_now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000LL + t.tv_nsec / 1000;
}

int64_t agent_sooner(int64_t a_us, int64_t b_us)
{
	return a_us < 0 || (b_us >= 0 && b_us < a_us) ? b_us : a_us;
}

void agent_log(const char *fmt, ...)
{
	char text[512];
	va_list args;
	int n;

	if (agent_quiesced())
		return; /* who reads the log may wait for a frozen disk */
	va_start(args, fmt);
	n = vsnprintf(text, sizeof(text) - 1, fmt, args);
	va_end(args);
	if (n > (int)sizeof(text) - 2)
		n = sizeof(text) - 2;
	text[n] = '\n';
	(void)!write(STDERR_FILENO, text, (size_t)n + 1); /* nobody to tell */
}

const char *agent_path(const char *path)
{
	static char bufs[4][4096];
	static unsigned next;
	char *buf = bufs[next++ % 4];

	snprintf(buf, sizeof(bufs[0]), "%s%s", agent.root, path);
	return buf;
}

void agent_watch_set(struct agent_watch *w, uint32_t events)
{
	struct epoll_event e = {.events = events, .data.ptr = w};

	if (w->fd < 0 || w->events == events)
		return;
	if (epoll_ctl(agent.epoll_fd,
		      !w->events ? EPOLL_CTL_ADD : events ? EPOLL_CTL_MOD : EPOLL_CTL_DEL, w->fd,
		      &e) < 0)
		agent_log("coppice-agent: epoll_ctl: %s", strerror(errno));
	w->events = events;
}

void agent_watch_close(struct agent_watch *w)
{
	agent_watch_set(w, 0);
	if (w->fd >= 0)
		close(w->fd);
	w->fd = -1;
	for (int i = 0; i < nr_round; i++)
		if (round_events[i].data.ptr == w)
			round_events[i].data.ptr = NULL;
}

void agent_free_later(void *memory)
{
	if (nr_dead == MAX_DEAD)
		return; /* a leak is better than a use after free */
	dead[nr_dead++] = memory;
}

void agent_become_child(void)
{
	sigset_t none;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	prctl(PR_SET_NAME, "coppice-agent-c");
	/* The port can be opened once only: a child must not keep it from the next agent. */
	if (agent.port.fd >= 0)
		close(agent.port.fd);
	if (agent.local.fd >= 0)
		close(agent.local.fd);
	close(agent.epoll_fd);
	close(agent.signals.fd);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
}

void agent_default_signals(void)
{
	static const unsigned long by_default[4]; /* the kernel's structure, all zero */

	for (int number = 1; number <= 64; number++)
		/* By system call, as the C library keeps some from its callers; two can't be changed,
		 * nor be ignored. */
		(void)syscall(SYS_rt_sigaction, number, &by_default, NULL, sizeof(uint64_t));
}

static void reap(void)
{
	pid_t pid;
	int status;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
		agent_quiesce_reaped(pid);
		agent_exec_reaped(pid, status);
	}
}

static void on_signal(struct agent_watch *w, uint32_t events)
{
	struct signalfd_siginfo info;

	while (read(w->fd, &info, sizeof(info)) == sizeof(info)) {
		if (info.ssi_signo == SIGCHLD)
			reap();
		else
			agent.stopping = true;
	}
}

static void open_signals(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
	agent.signals = (struct agent_watch){
		.fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK), .fn = on_signal};
	agent_watch_set(&agent.signals, EPOLLIN);
}

static void loop(void)
{
	while (!agent.stopping) {
		int64_t now_us = agent_now_us(), next_us;
		int wait_ms;

		next_us = agent_sooner(agent_exec_tick(now_us), agent_quiesce_tick(now_us));
		next_us = agent_sooner(next_us, agent_hold_tick(now_us));
		agent_port_tick(now_us); /* and send what the others had to say */
		next_us = agent_sooner(next_us, agent.port_retry_us);
		wait_ms = next_us <= now_us ? 0 : (int)((next_us - now_us + 999) / 1000);
		nr_round = epoll_wait(agent.epoll_fd, round_events, MAX_EVENTS, wait_ms);
		for (int i = 0; i < nr_round; i++) {
			struct agent_watch *w = round_events[i].data.ptr;

			if (w && w->fd >= 0)
				w->fn(w, round_events[i].events);
		}
		nr_round = 0;
		while (nr_dead)
			free(dead[--nr_dead]);
	}
}

static void set_oom_score(const char *text)
{
	int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);

	if (fd >= 0) {
		(void)!write(fd, text, strlen(text)); /* as well as it goes */
		close(fd);
	}
}

static int serve(void)
{
	umask(022);
	agent.epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (agent.epoll_fd < 0) {
		perror("coppice-agent: epoll_create1");
		return 1;
	}
	if (!agent.tame)
		set_oom_score("-900");
	/* What was used once stays: the agent must thaw also when memory is short. */
	(void)mlockall(MCL_CURRENT | MCL_ONFAULT); /* without it, it may only be slow */
	agent_thaw_left(); /* before anything that writes to a file */
	open_signals();
	agent_local_open();
	agent_port_open();
	loop();
	agent_hold_end();
	(void)agent_thaw();
	agent_exec_reset(false);
	agent_identity_reset();
	return 0;
}

static int usage(FILE *to)
{
	fputs("usage: coppice-agent [--port PATH] [--root DIR [--namespaced]]\n"
	      "       coppice-agent freeze NAME [--timeout SECONDS]\n"
	      "       coppice-agent fork N [-p KEY=VALUE]... [--timeout SECONDS]\n"
	      "       coppice-agent info [--json] [--timeout SECONDS]\n"
	      "       coppice-agent --version\n"
	      "Without a command: obeys the host through the port " COP_AGENT_PORT ".\n",
	      to);
	return to == stderr ? 2 : 0;
}

int main(int argc, char **argv)
{
	int i;

	agent.root = "";
	agent.epoll_fd = agent.port.fd = agent.signals.fd = agent.local.fd = -1;
	for (i = 1; i < argc && argv[i][0] == '-'; i++) {
		if (!strcmp(argv[i], "--version")) {
			puts("coppice-agent " AGENT_VERSION);
			return 0;
		} else if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) {
			return usage(stdout);
		} else if (!strcmp(argv[i], "--port") && i + 1 < argc) {
			agent.port_path = argv[++i];
		} else if (!strcmp(argv[i], "--root") && i + 1 < argc) {
			agent.root = argv[++i];
			agent.tame = true;
		} else if (!strcmp(argv[i], "--namespaced")) {
			agent.namespaced = true;
		} else {
			return usage(stderr);
		}
	}
	if (i < argc) {
		int status = agent_client(argc - i, argv + i,
					  agent_path("/run/coppice/agent.sock"));

		return status == 2 ? usage(stderr) : status;
	}
	return serve();
}
