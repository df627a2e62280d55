/* The memory cgroup: see cgroup.h.
 *
 * v2: below the root of the hierarchy, as a group that has processes can't give controllers to groups
 * below it. v1: below the group that this process is in, so that an outer limit holds.
 */
#include "cgroup.h"
#include "gerror.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static gboolean write_value(const char *dir, const char *name, const char *value)
{
	g_autofree char *path = g_build_filename(dir, name, NULL);
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	gboolean ok = fd >= 0 && write(fd, value, strlen(value)) == (ssize_t)strlen(value);

	if (fd >= 0)
		close(fd);
	return ok;
}

static gboolean read_value(const char *dir, const char *name, uint64_t *ret)
{
	g_autofree char *path = g_build_filename(dir, name, NULL);
	g_autofree char *text = NULL;

	if (!g_file_get_contents(path, &text, NULL, NULL) || !g_ascii_isdigit(*text))
		return FALSE;
	*ret = g_ascii_strtoull(text, NULL, 10);
	return TRUE;
}

/* A line "key value" of memory.stat. */
static uint64_t stat_value(const char *text, const char *key)
{
	size_t len = strlen(key);

	for (const char *line = text; line && *line; line = strchr(line, '\n')) {
		line += *line == '\n';
		if (strncmp(line, key, len) == 0 && line[len] == ' ')
			return g_ascii_strtoull(line + len + 1, NULL, 10);
	}
	return 0;
}

/* This process's group in the v1 memory hierarchy, such as "/a/b". */
static char *own_v1_group(void)
{
	g_autofree char *text = NULL;
	g_auto(GStrv) lines = NULL;

	if (!g_file_get_contents("/proc/self/cgroup", &text, NULL, NULL))
		return NULL;
	lines = g_strsplit(text, "\n", -1);
	for (char **line = lines; *line; line++) {
		g_auto(GStrv) parts = g_strsplit(*line, ":", 3);

		if (g_strv_length(parts) == 3 && strcmp(parts[1], "memory") == 0)
			return g_strdup(parts[2]);
	}
	return NULL;
}

static char *make_v2(const char *name)
{
	static const char *const roots[] = {"/sys/fs/cgroup", "/sys/fs/cgroup/unified"};

	for (size_t i = 0; i < G_N_ELEMENTS(roots); i++) {
		g_autofree char *file = g_build_filename(roots[i], "cgroup.controllers", NULL);
		g_autofree char *text = NULL;
		char *path;

		if (!g_file_get_contents(file, &text, NULL, NULL) || !strstr(text, "memory"))
			continue;
		(void)write_value(roots[i], "cgroup.subtree_control", "+memory");
		path = g_build_filename(roots[i], name, NULL);
		if (mkdir(path, 0755) == 0 || errno == EEXIST) {
			g_autofree char *current = g_build_filename(path, "memory.current", NULL);

			if (g_file_test(current, G_FILE_TEST_EXISTS))
				return path;
			(void)rmdir(path);
		}
		g_free(path);
	}
	return NULL;
}

static char *make_v1(const char *name)
{
	g_autofree char *own = own_v1_group();
	char *path;

	if (!own)
		return NULL;
	/* A daemon that is started again by a process in its own group stays in it. */
	if (g_str_has_suffix(own, name) && own[strlen(own) - strlen(name) - 1] == '/')
		own[strlen(own) - strlen(name) - 1] = '\0';
	path = g_build_filename("/sys/fs/cgroup/memory", own, name, NULL);
	if (mkdir(path, 0755) == 0 || errno == EEXIST)
		return path;
	g_free(path);
	return NULL;
}

gboolean cop_cgroup_enter(struct cop_state *state, GError **error)
{
	const struct cop_config *c = state->config;
	g_autofree char *path = NULL, *procs = NULL, *limit = NULL;

	if (strchr(c->cgroup, '/') || c->cgroup[0] == '.')
		return cop_gerror_set(error, COP_ERR_BAD_REQUEST,
				      "'%s' is not a name for a cgroup\nwithout '/', and not "
				      "beginning with '.'", c->cgroup);
	if (*c->cgroup) {
		path = make_v2(c->cgroup);
		state->cgroup_v2 = path != NULL;
		if (!path)
			path = make_v1(c->cgroup);
	}
	/* A group that is there already may have an older limit. */
	limit = c->cgroup_limit_bytes ? g_strdup_printf("%" PRIu64, c->cgroup_limit_bytes)
				      : g_strdup(state->cgroup_v2 ? "max" : "-1");
	if (path && !write_value(path, state->cgroup_v2 ? "memory.max" : "memory.limit_in_bytes",
				 limit) && c->cgroup_limit_bytes) {
		(void)rmdir(path);
		g_clear_pointer(&path, g_free);
	}
	if (path) {
		procs = g_build_filename(path, "cgroup.procs", NULL);
		state->cgroup_procs_fd = open(procs, O_WRONLY | O_CLOEXEC);
		if (state->cgroup_procs_fd < 0 || write(state->cgroup_procs_fd, "0", 1) != 1)
			g_clear_pointer(&path, g_free);
	}
	if (!path && c->cgroup_limit_bytes)
		return cop_gerror_set(error, COP_ERR_UNSUPPORTED,
				      "cannot make a memory cgroup with a limit\n"
				      "this needs root, and the memory controller of cgroup v2 or v1; "
				      "or leave --memory-limit out");
	if (!path && state->cgroup_procs_fd >= 0) {
		close(state->cgroup_procs_fd);
		state->cgroup_procs_fd = -1;
	}
	state->cgroup_path = g_steal_pointer(&path);
	return TRUE;
}

void cop_cgroup_leave(struct cop_state *state)
{
	g_autofree char *parent = NULL;

	if (!state->cgroup_path)
		return;
	parent = g_path_get_dirname(state->cgroup_path);
	if (write_value(parent, "cgroup.procs", "0"))
		(void)rmdir(state->cgroup_path); /* fails while VMs are in it, as it should */
}

int cop_cgroup_open_usage(struct cop_state *state)
{
	g_autofree char *path = NULL;

	if (!state->cgroup_path)
		return -1;
	path = g_build_filename(state->cgroup_path,
				state->cgroup_v2 ? "memory.current" : "memory.usage_in_bytes",
				NULL);
	return open(path, O_RDONLY | O_CLOEXEC);
}

gboolean cop_cgroup_read(struct cop_state *state, struct cop_cgroup_use *ret)
{
	gboolean v2 = state->cgroup_v2;
	g_autofree char *path = NULL, *text = NULL;
	uint64_t known;

	memset(ret, 0, sizeof(*ret));
	if (!state->cgroup_path ||
	    !read_value(state->cgroup_path, v2 ? "memory.current" : "memory.usage_in_bytes",
			&ret->usage_bytes))
		return FALSE;
	(void)read_value(state->cgroup_path, v2 ? "memory.peak" : "memory.max_usage_in_bytes",
			 &ret->peak_bytes);
	if (!read_value(state->cgroup_path, v2 ? "memory.max" : "memory.limit_in_bytes",
			&ret->limit_bytes) ||
	    ret->limit_bytes > (1ull << 60))
		ret->limit_bytes = 0;
	path = g_build_filename(state->cgroup_path, "memory.stat", NULL);
	if (g_file_get_contents(path, &text, NULL, NULL)) {
		ret->anon_bytes = stat_value(text, v2 ? "anon" : "total_rss");
		ret->shmem_bytes = stat_value(text, v2 ? "shmem" : "total_shmem");
		ret->file_bytes = stat_value(text, v2 ? "file" : "total_cache");
		ret->file_bytes -= MIN(ret->file_bytes, ret->shmem_bytes);
	}
	if (v2)
		ret->kernel_bytes = stat_value(text, "kernel");
	else
		(void)read_value(state->cgroup_path, "memory.kmem.usage_in_bytes",
				 &ret->kernel_bytes);
	known = ret->anon_bytes + ret->shmem_bytes + ret->file_bytes;
	ret->other_bytes = ret->usage_bytes - MIN(ret->usage_bytes, known);
	return TRUE;
}
