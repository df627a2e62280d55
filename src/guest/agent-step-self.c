/* A clone's steps within the machine: clock, random numbers, names, what others can watch.
 *
 * Each tries again what an earlier attempt left undone. Random bytes come before all that makes keys.
 */
#include "agent.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define HOSTS_MAX 65536

/* From the kernel's linux/random.h, which musl does not bring. */
struct pool_info {
	int entropy_count, buf_size;
	uint8_t buf[COP_AGENT_RANDOM];
};
#define RNDADDENTROPY _IOW('R', 0x03, int[2])
#define RNDRESEEDCRNG _IO('R', 0x07)

void agent_step_clock(struct agent_report *r, const struct cop_agent_identify *m, int64_t came_us)
{
	uint64_t now_ns = m->wall_ns + (uint64_t)(agent_now_us() - came_us) * 1000;
	struct timespec t = {.tv_sec = (time_t)(now_ns / 1000000000u),
			     .tv_nsec = (long)(now_ns % 1000000000u)}, was;
	int64_t step_ms;

	if (agent.tame) {
		agent_report(r, "clock", COP_AGENT_SKIPPED, "--root");
		return;
	}
	clock_gettime(CLOCK_REALTIME, &was);
	step_ms = (t.tv_sec - was.tv_sec) * 1000LL + (t.tv_nsec - was.tv_nsec) / 1000000;
	if (clock_settime(CLOCK_REALTIME, &t) < 0)
		agent_report(r, "clock", COP_AGENT_FAILED, "%s", strerror(errno));
	else
		agent_report(r, "clock", COP_AGENT_DONE, "by %lld ms", (long long)step_ms);
}

int agent_random_mix(const uint8_t *bytes)
{
	struct pool_info info = {.entropy_count = COP_AGENT_RANDOM * 8,
				 .buf_size = COP_AGENT_RANDOM};
	int fd, error = 0;

	if (agent.tame)
		return -EOPNOTSUPP;
	memcpy(info.buf, bytes, COP_AGENT_RANDOM);
	fd = open("/dev/urandom", O_RDWR | O_CLOEXEC);
	/* Without the second, what is in the pool would be used after up to a minute. */
	if (fd < 0 || ioctl(fd, RNDADDENTROPY, &info) < 0 || ioctl(fd, RNDRESEEDCRNG) < 0)
		error = -errno;
	explicit_bzero(&info, sizeof(info));
	if (fd >= 0)
		close(fd);
	return error;
}

void agent_step_random(struct agent_report *r, const struct cop_agent_identify *m)
{
	int error = agent_random_mix(m->random);

	if (agent.tame)
		agent_report(r, "random", COP_AGENT_SKIPPED, "--root");
	else if (error)
		agent_report(r, "random", COP_AGENT_FAILED, "/dev/urandom: %s", strerror(-error));
	else
		agent_report(r, "random", COP_AGENT_DONE, "%u bytes", COP_AGENT_RANDOM);
}

int agent_write_all(int fd, const char *text, size_t len)
{
	while (len) {
		ssize_t n = write(fd, text, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		text += n;
		len -= (size_t)n;
	}
	return 0;
}

int agent_file_write(const char *path, const char *text, mode_t mode)
{
	char temp[4200];
	int fd, error;

	snprintf(temp, sizeof(temp), "%s.coppice-new", path);
	(void)unlink(temp); /* one that was left behind */
	fd = open(temp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, mode);
	if (fd >= 0) {
		error = agent_write_all(fd, text, strlen(text));
		close(fd);
		if (!error && rename(temp, path) == 0)
			return 0;
		(void)unlink(temp); /* nothing more can be done about it */
		if (error)
			return error;
	}
	fd = open(path, O_WRONLY | O_TRUNC | O_CLOEXEC); /* it is a mount point */
	if (fd < 0)
		return -errno;
	error = agent_write_all(fd, text, strlen(text));
	close(fd);
	return error;
}

/* A file's text, with a NUL; "" when there is none. */
static void read_text(const char *path, char *buf, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? 0 : read(fd, buf, size - 1);

	if (fd >= 0)
		close(fd);
	buf[n > 0 ? n : 0] = 0;
}

/* The lines of /etc/hosts with the old name's place taken by the new one's. */
static int change_hosts(const char *old, const char *new)
{
	static char text[HOSTS_MAX], out[HOSTS_MAX + 8192];
	const char *path = agent_path("/etc/hosts");
	size_t len = 0, old_len = strlen(old);
	bool there = false;

	read_text(path, text, sizeof(text));
	for (const char *p = text; *p && len < sizeof(out) - 512;) {
		size_t word = strcspn(p, " \t\n#"), skip;

		if (*p == '#') {
			skip = strcspn(p, "\n");
		} else if (!word) {
			skip = 1;
		} else {
			bool is_old = old_len && word == old_len && !memcmp(p, old, word);

			there |= is_old || (word == strlen(new) && !memcmp(p, new, word));
			if (is_old)
				len += (size_t)sprintf(out + len, "%s", new);
			skip = word;
			if (is_old) {
				p += skip;
				continue;
			}
		}
		if (skip > sizeof(out) - 512 - len)
			skip = sizeof(out) - 512 - len;
		memcpy(out + len, p, skip);
		len += skip;
		p += skip;
	}
	if (!there) {
		if (len && out[len - 1] != '\n')
			out[len++] = '\n';
		if (!len)
			len += (size_t)sprintf(out, "127.0.0.1\tlocalhost\n");
		len += (size_t)sprintf(out + len, "127.0.1.1\t%s\n", new);
	}
	out[len] = 0;
	return agent_file_write(path, out, 0644);
}

void agent_step_hostname(struct agent_report *r, const struct cop_agent_identify *m)
{
	char old[256] = "", line[80];
	int error = 0;

	if (!*m->hostname) {
		agent_report(r, "hostname", COP_AGENT_SKIPPED, "not asked for");
		return;
	}
	if (!agent.tame || agent.namespaced) {
		(void)gethostname(old, sizeof(old) - 1); /* "" then */
		if (sethostname(m->hostname, strlen(m->hostname)) < 0)
			error = -errno;
	} else {
		read_text(agent_path("/etc/hostname"), old, sizeof(old));
		old[strcspn(old, "\n")] = 0;
	}
	if (error) {
		agent_report(r, "hostname", COP_AGENT_FAILED, "%s", strerror(-error));
		return;
	}
	(void)mkdir(agent_path("/etc"), 0755);
	if (!strcmp(old, "localhost"))
		*old = 0; /* every machine's name */
	snprintf(line, sizeof(line), "%s\n", m->hostname);
	error = agent_file_write(agent_path("/etc/hostname"), line, 0644);
	if (!error)
		error = change_hosts(old, m->hostname);
	if (error)
		agent_report(r, "hostname", COP_AGENT_FAILED, "%s, but not in /etc: %s",
			     m->hostname, strerror(-error));
	else
		agent_report(r, "hostname", COP_AGENT_DONE, "%s", m->hostname);
}

void agent_step_machine_id(struct agent_report *r, const struct cop_agent_identify *m)
{
	const char *path = agent_path("/etc/machine-id");
	const char *dbus = agent_path("/var/lib/dbus/machine-id");
	const char *how = "";
	struct stat st;
	char line[40];
	int error;

	if (!*m->machine_id) {
		agent_report(r, "machine-id", COP_AGENT_SKIPPED, "not asked for");
		return;
	}
	snprintf(line, sizeof(line), "%s\n", m->machine_id);
	error = agent_file_write(path, line, 0444);
	if (error && !agent.tame) { /* on a disk that can't be written: over it */
		error = agent_file_write("/run/coppice/machine-id", line, 0444);
		if (!error && mount("/run/coppice/machine-id", path, NULL, MS_BIND, NULL) < 0)
			error = -errno;
		how = ", bound over";
	}
	if (!error && lstat(dbus, &st) == 0 && S_ISREG(st.st_mode))
		error = agent_file_write(dbus, line, 0444);
	if (error)
		agent_report(r, "machine-id", COP_AGENT_FAILED, "%s", strerror(-error));
	else
		agent_report(r, "machine-id", COP_AGENT_DONE, "%s%s", m->machine_id, how);
}

struct agent_vars *agent_clone_vars(const struct cop_agent_identify *m)
{
	static struct agent_vars v;
	static uint64_t generation;

	if (!generation && getrandom(&generation, sizeof(generation), 0) < 0)
		generation = (uint64_t)agent_now_us();
	v.nr = v.len = 0;
	agent_vars_add(&v, "COPPICE_ROLE", "clone");
	agent_vars_add(&v, "COPPICE_NAME", "%s", m->name);
	agent_vars_add(&v, "COPPICE_INDEX", "%u", m->index);
	agent_vars_add(&v, "COPPICE_COUNT", "%u", m->count);
	agent_vars_add(&v, "COPPICE_TEMPLATE", "%s", m->template);
	agent_vars_add(&v, "COPPICE_GENERATION", "%016llx", (unsigned long long)generation);
	agent_vars_add_params(&v, "COPPICE_PARAM_", m->params);
	return &v;
}

void agent_step_generation(struct agent_report *r, const struct cop_agent_identify *m)
{
	static char text[4 * COP_AGENT_FRAME_MAX];
	struct agent_vars *v = agent_clone_vars(m);
	const char *generation = "";
	size_t len = 0;
	char line[40];
	int error;

	for (uint32_t i = 0; i < v->nr; i++) {
		len += agent_var_quote(text + len, sizeof(text) - len, v->list[i]);
		if (!strncmp(v->list[i], "COPPICE_GENERATION=", 19))
			generation = v->list[i] + 19;
	}
	(void)mkdir(agent_path("/run"), 0755);
	(void)mkdir(agent_path("/run/coppice"), 0755);
	snprintf(line, sizeof(line), "%s\n", generation);
	error = agent_file_write(agent_path("/run/coppice/identity"), text, 0600);
	if (!error)
		error = agent_file_write(agent_path("/run/coppice/generation"), line, 0644);
	if (error)
		agent_report(r, "generation", COP_AGENT_FAILED, "%s", strerror(-error));
	else
		agent_report(r, "generation", COP_AGENT_DONE, "%s", generation);
}
