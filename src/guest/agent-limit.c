/* Bounds on what a command may use of the guest: a cgroup (v2) of its own. See agent.h.
 *
 * Source: the kernel's Documentation/admin-guide/cgroup-v2.rst. A group is removed when its command has
 * ended; one that descendants of the command still use is removed when the next group is made.
 */
#include "agent.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#define PREFIX	  "coppice-exec-"
#define PERIOD_US 100000u

/* Where the groups are: systemd's tree, or one of our own. NULL: errno. */
static const char *root(void)
{
	static const char system[] = "/sys/fs/cgroup", own[] = "/run/coppice/cgroup";

	if (access("/sys/fs/cgroup/cgroup.controllers", F_OK) == 0)
		return system;
	if (access("/run/coppice/cgroup/cgroup.controllers", F_OK) == 0)
		return own;
	if ((mkdir(own, 0755) < 0 && errno != EEXIST) ||
	    mount("none", own, "cgroup2", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0)
		return NULL;
	return own;
}

static int set(const char *dir, const char *name, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
static int set(const char *dir, const char *name, const char *fmt, ...)
{
	char path[256], text[64];
	va_list args;
	int fd, n, error = 0;

	va_start(args, fmt);
	n = vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	snprintf(path, sizeof(path), "%s/%s", dir, name);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, text, (size_t)n) < 0)
		error = -errno;
	if (fd >= 0)
		close(fd);
	return error;
}

static void remove_left(const char *in)
{
	DIR *d = opendir(in);
	struct dirent *e;

	while (d && (e = readdir(d))) {
		char path[512];

		if (strncmp(e->d_name, PREFIX, strlen(PREFIX)))
			continue;
		snprintf(path, sizeof(path), "%s/%s", in, e->d_name);
		(void)rmdir(path); /* one in use stays */
	}
	if (d)
		closedir(d);
}

static int make(const char *in, struct agent_limit *l, const struct cop_agent_exec *m)
{
	int error;

	/* Each by itself: a guest may have one of the two. */
	if (m->cpu_percent && (error = set(in, "cgroup.subtree_control", "+cpu")))
		return error;
	if (m->memory_max && (error = set(in, "cgroup.subtree_control", "+memory")))
		return error;
	remove_left(in);
	snprintf(l->path, sizeof(l->path), "%s/" PREFIX "%u", in, l->number);
	if (mkdir(l->path, 0755) < 0) {
		l->path[0] = 0;
		return -errno;
	}
	if (m->cpu_percent &&
	    (error = set(l->path, "cpu.max", "%llu %u",
			 (unsigned long long)m->cpu_percent * (PERIOD_US / 100), PERIOD_US)))
		return error;
	if (!m->memory_max)
		return 0;
	if ((error = set(l->path, "memory.max", "%llu", (unsigned long long)m->memory_max)))
		return error;
	/* Where there is swap and where not, a command is ended at once and as a whole. */
	(void)set(l->path, "memory.swap.max", "0");
	return set(l->path, "memory.oom.group", "1");
}

int agent_limit_make(struct agent_limit *l, const struct cop_agent_exec *m)
{
	static unsigned counter;
	const char *in;
	int error;

	*l = (struct agent_limit){.number = counter++};
	if (!m->cpu_percent && !m->memory_max)
		return 0;
	if (agent.tame)
		return -EOPNOTSUPP;
	in = root();
	if (!in)
		return -errno;
	error = make(in, l, m);
	if (error)
		agent_limit_remove(l);
	return error;
}

int agent_limit_enter(const struct agent_limit *l)
{
	return *l->path ? set(l->path, "cgroup.procs", "0") : 0;
}

void agent_limit_remove(struct agent_limit *l)
{
	if (*l->path)
		(void)rmdir(l->path); /* in use still: later */
	l->path[0] = 0;
}
