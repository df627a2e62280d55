/* SPDX-License-Identifier: MIT */
/*
 * main.c: coppice-pager: the memory engine's process. Started by the daemon, which it outlives; may
 * be killed at any instant (docs/ENGINE.md).
 *
 * This file: options and start; the main thread's loop is loop.c.
 */
#include "pager/pager.h"
#include "base/cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

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
	const char *store = NULL;
	uint64_t store_bytes = 0;
	int listen_fd = -1, store_fd, c, r;
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
	r = pager_start(listen_fd);
	if (r) {
		pager_log(0, "cannot start: %s", strerror(-r));
		return 1;
	}
	pager_log(1, "serving; the store %s", found ? "is the former pager's" : "is new");
	pager_loop();
	/* The kernel takes the rest; threads may be at work in it until then. */
	_exit(0);
}
