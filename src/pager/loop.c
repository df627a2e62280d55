/* SPDX-License-Identifier: MIT */
/* loop.c: the main thread's loop: which descriptor has something to say, and ticks; the log. */
#include "pager/pager.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define IDLE_EXIT_S 30 /* without VMs and connections */

struct pager pager = {
	.lock = PTHREAD_MUTEX_INITIALIZER,
	.work = PTHREAD_COND_INITIALIZER,
	.answered = PTHREAD_COND_INITIALIZER,
	.next_serial = 1,
	.jobs_end = &pager.jobs,
	.urgent_end = &pager.urgent,
	.usage_fd = -1,
	.tick_ms = 250,
	.attach_ms = 5000,
	.replace_ms = 3000,
	.access_ms = 30000,
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

int64_t pager_now_ms(void)
{
	struct timespec now;

	(void)clock_gettime(CLOCK_MONOTONIC, &now); /* can't fail */
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

uint32_t pager_now_s(void)
{
	return (uint32_t)(pager_now_ms() / 1000);
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

/* The worker can't help itself. */
static void cut_off(void)
{
	unsigned int looks = pager.access_ms / pager.tick_ms + 1;

	(void)pthread_mutex_lock(&pager.lock);
	cop_engine_lock(&pager.engine);
	for (uint32_t i = 0; i < MAX_VMS; i++) {
		struct vm *vm = pager.vms[i];

		if (vm && cop_space_cut_off(vm->space, looks))
			pager_log(0, "VM %" PRIu64 ": %s", vm->key - 1, vm->space->why);
	}
	cop_engine_unlock(&pager.engine);
	(void)pthread_mutex_unlock(&pager.lock);
}

static void tick(void)
{
	static uint32_t busy_s;
	uint64_t expirations;
	bool queued;

	(void)!read(pager.timer, &expirations, sizeof(expirations));
	cut_off();
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

void pager_loop(void)
{
	struct epoll_event events[32];

	while (!pager.quit) {
		int n = epoll_wait(pager.epoll, events, 32, -1);

		for (int i = 0; i < n; i++) {
			uint32_t slot = events[i].data.u64 >> 32 & 0x0fffffff;
			uint32_t serial = (uint32_t)events[i].data.u64;

			switch ((enum source)(events[i].data.u64 >> 60)) {
			case SOURCE_LISTEN:
				conn_accept(pager.listen_fd);
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
				tick();
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

int pager_start(int listen_fd)
{
	struct itimerspec every = {.it_value.tv_nsec = pager.tick_ms * 1000000L,
				   .it_interval.tv_nsec = pager.tick_ms * 1000000L};
	int r;

	pager.listen_fd = listen_fd;
	pager.epoll = epoll_create1(EPOLL_CLOEXEC);
	pager.fault_epoll = epoll_create1(EPOLL_CLOEXEC);
	pager.timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (pager.epoll < 0 || pager.fault_epoll < 0 || pager.timer < 0 ||
	    timerfd_settime(pager.timer, 0, &every, NULL) < 0)
		return -errno;
	r = pager_watch(SOURCE_LISTEN, 0, 0, listen_fd);
	if (r == 0)
		r = pager_watch(SOURCE_TICK, 0, 0, pager.timer);
	if (r == 0)
		r = start_thread(fault_thread);
	if (r == 0)
		r = start_thread(worker_thread);
	if (r == 0)
		r = start_thread(loader_thread);
	return r;
}
