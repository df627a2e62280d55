/* File systems at rest, for a while. See agent.h; docs/formats/agent.md, "Quiesce".
 *
 * States: none -> asked (a child syncs and freezes, as that may take long) -> frozen -> none. The time
 * limit, THAW, a new session and the agent's end lead back from each. Who thaws sets `cancelled`
 * first and then thaws all; the child looks at it after each freezing and thaws what it has just
 * frozen: whichever was later, nothing stays frozen.
 */
#include "agent.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

/* From the kernel's linux/fs.h, which musl does not bring. */
#define FIFREEZE _IOWR('X', 119, int)
#define FITHAW	 _IOWR('X', 120, int)

#define MAX_MOUNTS 64
#define MAX_PATH 240

struct mount_point {
	char path[MAX_PATH];
	dev_t dev;
	int fd;
};

struct shared {
	_Atomic bool cancelled;
	_Atomic bool frozen[MAX_MOUNTS];
	_Atomic int error, error_at;
};

static enum { NONE, ASKED, FROZEN } state;
static struct mount_point mounts[MAX_MOUNTS];
static unsigned nr_mounts;
static struct shared *shared;
static int64_t deadline_us;
static uint32_t asked_id;
static pid_t worker;

bool agent_quiesced(void)
{
	return state != NONE;
}

/* \040 and the like. */
static void unescape(char *text)
{
	char *to = text;

	for (char *p = text; *p; p++) {
		if (p[0] == '\\' && p[1] >= '0' && p[1] <= '3' && p[2] && p[3]) {
			*to++ = (char)((p[1] - '0') << 6 | (p[2] - '0') << 3 | (p[3] - '0'));
			p += 3;
		} else {
			*to++ = *p;
		}
	}
	*to = 0;
}

static bool writable(const char *options)
{
	return !strncmp(options, "rw", 2) && (options[2] == ',' || !options[2]);
}

static void add_mount(const char *path, dev_t dev)
{
	size_t root = strlen(agent.root);

	if (root && (strncmp(path, agent.root, root) || (path[root] && path[root] != '/')))
		return;
	if (nr_mounts == MAX_MOUNTS || strlen(path) >= MAX_PATH)
		return;
	for (unsigned i = 0; i < nr_mounts; i++)
		if (mounts[i].dev == dev)
			return;
	strcpy(mounts[nr_mounts].path, path);
	mounts[nr_mounts].dev = dev;
	mounts[nr_mounts].fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (mounts[nr_mounts].fd >= 0)
		nr_mounts++;
}

/* Writable mounts with a device behind them, in the order in which they were made. */
static void find_mounts(void)
{
	static char line[8192];
	FILE *f = fopen("/proc/self/mountinfo", "re");

	nr_mounts = 0;
	while (f && fgets(line, sizeof(line), f)) {
		unsigned major, minor;
		char path[4096], options[1024], source[1024], super[1024];
		char *dash = strstr(line, " - ");

		if (!dash || sscanf(line, "%*d %*d %u:%u %*s %4095s %1023s", &major, &minor, path,
				    options) != 4 ||
		    sscanf(dash + 3, "%*s %1023s %1023s", source, super) != 2)
			continue;
		if ((!major && strncmp(source, "/dev/", 5)) || !writable(options) ||
		    !writable(super))
			continue;
		unescape(path);
		add_mount(path, makedev(major, minor));
	}
	if (f)
		fclose(f);
}

static void close_mounts(void)
{
	for (unsigned i = 0; i < nr_mounts; i++)
		close(mounts[i].fd);
	nr_mounts = 0;
}

/* In the child. The last made first: it may lie on an earlier one. */
static void freeze(void)
{
	sync();
	for (unsigned i = nr_mounts; i-- > 0 && !shared->cancelled;) {
		if (ioctl(mounts[i].fd, FIFREEZE, 0) < 0) {
			if (errno == EOPNOTSUPP || errno == ENOTTY)
				continue; /* it can't be; it was synced */
			shared->error_at = (int)i;
			shared->error = errno;
			_exit(1);
		}
		shared->frozen[i] = true;
		if (shared->cancelled)
			(void)ioctl(mounts[i].fd, FITHAW, 0); /* it may have been */
	}
	_exit(0);
}

unsigned agent_thaw(void)
{
	unsigned nr = 0;

	if (state == NONE)
		return 0;
	shared->cancelled = true;
	for (unsigned i = 0; i < nr_mounts; i++)
		if (ioctl(mounts[i].fd, FITHAW, 0) == 0)
			nr++;
	close_mounts();
	/* A child that is still at it keeps its own page, and ends. */
	munmap(shared, sizeof(*shared));
	shared = NULL;
	state = NONE;
	worker = 0;
	return nr;
}

void agent_thaw_left(void)
{
	find_mounts();
	for (unsigned i = 0; i < nr_mounts; i++)
		if (ioctl(mounts[i].fd, FITHAW, 0) == 0)
			agent_log("coppice-agent: %s was frozen", mounts[i].path);
	close_mounts();
}

void agent_quiesce(uint32_t id, uint32_t timeout_ms)
{
	if (state != NONE) {
		agent_send_error(id, EBUSY, "file systems are at rest already");
		return;
	}
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
		      0);
	if (shared == MAP_FAILED) {
		agent_send_error(id, errno, "mmap: %s", strerror(errno));
		return;
	}
	find_mounts();
	asked_id = id;
	deadline_us = agent_now_us() + timeout_ms * 1000LL;
	worker = fork();
	if (worker == 0) {
		agent_become_child();
		freeze();
	}
	state = ASKED;
	if (worker < 0) {
		agent_send_error(id, errno, "fork: %s", strerror(errno));
		(void)agent_thaw();
	}
}

void agent_quiesce_reaped(pid_t pid)
{
	struct cop_agent_quiesced m = {0};
	char text[COP_AGENT_MAX_TEXT + 1] = "";
	size_t len = 0;

	if (state != ASKED || pid != worker)
		return;
	worker = 0;
	if (shared->error) {
		int error = shared->error;

		snprintf(text, sizeof(text), "%.200s: %s", mounts[shared->error_at].path,
			 strerror(error));
		(void)agent_thaw();
		agent_send_error(asked_id, error, "%s", text);
		return;
	}
	state = FROZEN;
	for (unsigned i = 0; i < nr_mounts; i++) {
		if (!shared->frozen[i])
			continue;
		m.nr_frozen++;
		if (len + strlen(mounts[i].path) + 2 < sizeof(text))
			len += (size_t)sprintf(text + len, "%s%s", len ? " " : "", mounts[i].path);
	}
	m.text = text;
	agent_send(cop_agent_put_quiesced(agent.frame, (uint32_t)agent.session, asked_id, &m));
}

int64_t agent_quiesce_tick(int64_t now_us)
{
	bool asked = state == ASKED;

	if (state == NONE)
		return -1;
	if (now_us < deadline_us)
		return deadline_us;
	(void)agent_thaw();
	if (asked)
		agent_send_error(asked_id, ETIMEDOUT, "file systems did not come to rest in time");
	return -1;
}
