/* No program of the guest runs, for a moment. See agent.h; docs/formats/agent.md, "Hold".
 *
 * A clone has its template's random state until the host's bytes are in the kernel: a program that
 * ran meanwhile would draw the numbers that its twins draw. So the template is frozen while the agent
 * holds all processors: a child of its own on each, in an endless loop under SCHED_FIFO, which lets
 * nothing run but interrupts and, one priority above, the agent. In the clone they are in that loop
 * still, until HELLO has come and its random bytes are in.
 *
 * Who ends it: HELLO (after its random bytes), THAW, the agent's end (its children die with it), and
 * the time limit, at which each child gives up by itself: shorter than what the kernel gives to
 * real-time programs out of each second, so that it never takes the processor from the agent, too.
 */
#include "agent.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define HOLD_MAX_MS 900
#define SPINS 200 /* between looks at the clock */

struct hold {
	_Atomic bool over;
	int64_t deadline_us;
};

static struct hold *hold; /* shared with the children; NULL: nothing is held */

/* By system call: this C library's own say that they are not implemented. */
static int set_scheduler(pid_t pid, int policy, int priority)
{
	struct {
		int priority;
	} param = {priority};

	return (int)syscall(SYS_sched_setscheduler, pid, policy, &param);
}

static void keep_busy(void)
{
	while (!hold->over && agent_now_us() < hold->deadline_us)
		for (int i = 0; i < SPINS && !hold->over; i++)
			__builtin_ia32_pause();
	_exit(0);
}

/* A child that has the processor whenever the agent has not. 0 or -errno. */
static int occupy(int processor)
{
	cpu_set_t one;
	pid_t pid;

	CPU_ZERO(&one);
	CPU_SET(processor, &one);
	pid = fork();
	if (pid < 0)
		return -errno;
	if (pid == 0) {
		agent_become_child();
		keep_busy();
	}
	/* From here, as it does not run before the agent sleeps. */
	if (sched_setaffinity(pid, sizeof(one), &one) < 0 || set_scheduler(pid, SCHED_FIFO, 1) < 0)
		return -errno;
	return 0;
}

int agent_hold(uint32_t limit_ms)
{
	cpu_set_t all;
	int error = 0;

	if (agent.tame)
		return -EOPNOTSUPP;
	agent_hold_end();
	if (sched_getaffinity(0, sizeof(all), &all) < 0)
		return -errno;
	hold = mmap(NULL, sizeof(*hold), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (hold == MAP_FAILED) {
		hold = NULL;
		return -errno;
	}
	if (limit_ms > HOLD_MAX_MS)
		limit_ms = HOLD_MAX_MS;
	hold->deadline_us = agent_now_us() + limit_ms * 1000LL;
	if (set_scheduler(0, SCHED_FIFO | SCHED_RESET_ON_FORK, 2) < 0)
		error = -errno;
	for (int i = 0; i < CPU_SETSIZE && !error; i++)
		if (CPU_ISSET(i, &all))
			error = occupy(i);
	if (error)
		agent_hold_end();
	return error;
}

void agent_hold_end(void)
{
	if (!hold)
		return;
	hold->over = true;
	munmap(hold, sizeof(*hold)); /* the children have theirs, and end */
	hold = NULL;
	(void)set_scheduler(0, SCHED_OTHER, 0); /* can't be refused; the nice value was kept */
}

int64_t agent_hold_tick(int64_t now_us)
{
	if (!hold)
		return -1;
	if (now_us < hold->deadline_us)
		return hold->deadline_us;
	agent_hold_end();
	return -1;
}
