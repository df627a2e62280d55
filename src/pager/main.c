/* SPDX-License-Identifier: MIT */
/*
 * main.c: coppice-pager: the memory engine's process. Started by the daemon, which it outlives; may
 * be killed at any instant (docs/ENGINE.md).
 *
 * This file: options, start, the main thread's loop.
 */
#include "pager/pager.h"
#include "base/cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <time.h>

#define TICK_MS	    250
#define IDLE_EXIT_S 30 /* without VMs and connections */

struct pager pager = {
	.lock = PTHREAD_MUTEX_INITIALIZER,
	.work = PTHREAD_COND_INITIALIZER,
	.answered = PTHREAD_COND_INITIALIZER,
	.next_serial = 1,
	.jobs_end = &pager.jobs,
	.urgent_end = &pager.urgent,
	.usage_fd = -1,
	.log_level = 1,
};

void pager_log(int level, const char *format, ...)
{
	static const char *const names[] = {"error", "notice", "info", "debug"};
	struct timespec now;
	struct tm tm;
	char text[512], stamp[16];
	va_list args;

	if (level > pager.log_level)
		return;
	(void)clock_gettime(CLOCK_REALTIME, &now); /* can't fail */
	(void)strftime(stamp, sizeof(stamp), "%H:%M:%S", localtime_r(&now.tv_sec, &tm));
	va_start(args, format);
	(void)vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	(void)fprintf(stderr, "%s.%03ld pager %s: %s\n", stamp, now.tv_nsec / 1000000, names[level],
		      text);
}

uint32_t pager_now_s(void)
{
	struct timespec now;

	(void)clock_gettime(CLOCK_MONOTONIC, &now); /* can't fail */
	return (uint32_t)now.tv_sec;
}

int pager_watch(enum source source, uint32_t slot, uint32_t serial, int fd)
{
	struct epoll_event event = {
		.events = EPOLLIN,
		.data.u64 = (uint64_t)source << 60 | (uint64_t)slot << 32 | serial,
	};

	return epoll_ctl(pager.epoll, EPOLL_CTL_ADD, fd, &event) < 0 ? -errno : 0;
}

static bool any_vms(void)
{
	bool any = false;

	(void)pthread_mutex_lock(&pager.lock);
	for (uint32_t i = 0; i < MAX_VMS && !any; i++)
		any = pager.vms[i] != NULL;
	(void)pthread_mutex_unlock(&pager.lock);
	return any;
}

static void tick(int timer)
{
	static uint32_t busy_s;
	uint64_t expirations;
	bool queued;

	(void)!read(timer, &expirations, sizeof(expirations));
	(void)pthread_mutex_lock(&pager.lock);
	queued = pager.tick_queued;
	pager.tick_queued = true;
	(void)pthread_mutex_unlock(&pager.lock);
	if (!queued)
		worker_push(job_new(JOB_TICK, NULL));
	if (!busy_s || any_vms() || conn_any())
		busy_s = pager_now_s();
	else if (pager_now_s() - busy_s > IDLE_EXIT_S) {
		pager_log(1, "nobody is left to serve");
		pager.quit = true;
	}
}

static void loop(int listen_fd, int timer)
{
	struct epoll_event events[32];

	while (!pager.quit) {
		int n = epoll_wait(pager.epoll, events, 32, -1);

		for (int i = 0; i < n; i++) {
			uint32_t slot = events[i].data.u64 >> 32 & 0x0fffffff;
			uint32_t serial = (uint32_t)events[i].data.u64;

			switch ((enum source)(events[i].data.u64 >> 60)) {
			case SOURCE_LISTEN:
				conn_accept(listen_fd);
				break;
			case SOURCE_CONN:
				conn_readable(slot, serial);
				break;
			case SOURCE_SHIM:
				shim_readable(slot, serial);
				break;
			case SOURCE_PID:
				pid_ended(slot, serial);
				break;
			case SOURCE_TICK:
				tick(timer);
				break;
			}
		}
	}
}

static int start_thread(void *(*f)(void *))
{
	pthread_t thread;
	int r = pthread_create(&thread, NULL, f, NULL);

	if (r == 0)
		(void)pthread_detach(thread);
	return -r;
}

static void set_oom_score(void)
{
	int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);

	/* Every VM needs it; root may ask for that, others can't. */
	if (fd >= 0) {
		(void)!write(fd, "-900", 4);
		close(fd);
	}
}

static int usage(const char *why)
{
	(void)fprintf(stderr,
		      "%s\nusage: coppice-pager --socket-fd N --store FILE --store-bytes N [--log-level 0..3]\n"
		      "The daemon starts it; see coppiced(8).\n",
		      why);
	return 2;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{"socket-fd", required_argument, NULL, 's'},
		{"store", required_argument, NULL, 'f'},
		{"store-bytes", required_argument, NULL, 'b'},
		{"log-level", required_argument, NULL, 'l'},
		{NULL, 0, NULL, 0},
	};
	struct itimerspec every = {{0, TICK_MS * 1000000L}, {0, TICK_MS * 1000000L}};
	const char *store = NULL;
	uint64_t store_bytes = 0;
	int listen_fd = -1, store_fd, timer, c, r;
	bool found;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		char *end = "";

		if (c == 's')
			listen_fd = (int)strtol(optarg, &end, 10);
		else if (c == 'f')
			store = optarg;
		else if (c == 'b')
			store_bytes = strtoull(optarg, &end, 10);
		else if (c == 'l')
			pager.log_level = (int)strtol(optarg, &end, 10);
		else
			return usage("unknown option");
		if (*end)
			return usage("not a number");
	}
	if (listen_fd < 0 || !store || store_bytes < (1u << 20) || optind != argc)
		return usage("options are missing, or too many");
	umask(077);
	(void)signal(SIGPIPE, SIG_IGN);
	store_fd = open(store, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (store_fd < 0) {
		pager_log(0, "cannot open the store %s: %s", store, strerror(errno));
		return 1;
	}
	r = cop_engine_init(&pager.engine, store_fd, store_bytes & ~4095ull, &found);
	if (r) {
		pager_log(0, "cannot use the store %s: %s%s", store, strerror(-r),
			  r == -EBADMSG ? ": it is damaged; VMs that have pages in it are lost" : "");
		return 1;
	}
	/* Its memory must not be paged out by somebody else: locked as it is touched. */
	if (mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) < 0)
		pager_log(1, "cannot lock memory: %s: a host that swaps will make faults slow",
			  strerror(errno));
	set_oom_score();
	pager.epoll = epoll_create1(EPOLL_CLOEXEC);
	pager.fault_epoll = epoll_create1(EPOLL_CLOEXEC);
	timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (pager.epoll < 0 || pager.fault_epoll < 0 || timer < 0 ||
	    timerfd_settime(timer, 0, &every, NULL) < 0 ||
	    pager_watch(SOURCE_LISTEN, 0, 0, listen_fd) < 0 ||
	    pager_watch(SOURCE_TICK, 0, 0, timer) < 0 || start_thread(fault_thread) < 0 ||
	    start_thread(worker_thread) < 0 || start_thread(loader_thread) < 0) {
		pager_log(0, "cannot start: %s", strerror(errno));
		return 1;
	}
	pager_log(1, "serving; the store %s", found ? "is the former pager's" : "is new");
	loop(listen_fd, timer);
	/* The kernel takes the rest; threads may be at work in it until then. */
	_exit(0);
}
