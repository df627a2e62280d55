/* coppiced: looks after VMs, templates and disks; serves the API.
 *
 * Start: one daemon a folder (flock), manifests read, the main loop runs, a worker takes up running
 * VMs, then the API serves and "ready" is written. End: SIGTERM or SIGINT; VMs go on.
 */
#include "api.h"
#include "cgroup.h"
#include "config.h"
#include "gerror.h"
#include "pager.h"
#include "recover.h"
#include "sockets.h"
#include "state.h"

#include <errno.h>
#include <fcntl.h>
#include <glib-unix.h>
#include <locale.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define IDLE_US (600 * G_USEC_PER_SEC)
#define TICK_S 10
#define MAX_LOG_BYTES (1 << 20)

struct daemon {
	struct cop_config *config;
	struct cop_state *state;
	struct cop_api *api;
	GMainLoop *loop;
	char *socket_path;
	int listen_fd, ready_fd;
	gboolean failed, ending;
};

static void tell(int fd, const char *text)
{
	if (fd >= 0) {
		(void)!write(fd, text, strlen(text)); /* nobody may be listening */
		close(fd);
	}
}

static int fail(int ready_fd, GError *error)
{
	g_autofree char *message = cop_gerror_message(error), *hint = cop_gerror_hint(error);
	g_autofree char *text = g_strdup_printf("coppiced: %s%s%s\n", message, *hint ? "\n  hint: " : "",
						hint);

	fputs(text, stderr);
	tell(ready_fd, text);
	g_error_free(error);
	return 1;
}

static int lock_folder(struct cop_config *config, GError **error)
{
	g_autofree char *path = g_build_filename(config->dir, "lock", NULL);
	struct stat st;
	int fd;

	if (g_mkdir_with_parents(config->dir, 0700) < 0) {
		cop_gerror_errno(error, errno, "cannot make the folder %s", config->dir);
		return -1;
	}
	if (stat(config->dir, &st) < 0 || st.st_uid != geteuid() || (st.st_mode & 077)) {
		cop_gerror_set(error, COP_ERR_INTERNAL,
			       "%s belongs to another user or is open to others\n"
			       "chmod 700 it, or choose another --dir", config->dir);
		return -1;
	}
	fd = cop_file_open(path, O_RDWR | O_CREAT, 0600, error);
	if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) < 0) {
		cop_gerror_set(error, COP_ERR_IN_USE, "another coppiced serves %s already",
			       config->dir);
		close(fd);
		return -1;
	}
	return fd;
}

static gboolean on_ending(gpointer user)
{
	struct daemon *d = user;

	if (cop_api_busy(d->api) > 0)
		return G_SOURCE_CONTINUE;
	g_main_loop_quit(d->loop);
	return G_SOURCE_REMOVE;
}

static gboolean on_signal(gpointer user)
{
	struct daemon *d = user;

	/* What is in progress needs the main loop, and ends first. A second signal, or one during
	 * start-up, doesn't wait: being killed is always safe. */
	if (d->ending || !d->api)
		_exit(0);
	d->ending = TRUE;
	g_message("ending; VMs go on");
	g_timeout_add(20, on_ending, d);
	return G_SOURCE_CONTINUE;
}

static void trim_log(const char *path)
{
	struct stat st;

	if (lstat(path, &st) == 0 && st.st_size > MAX_LOG_BYTES && truncate(path, 0) < 0)
		g_warning("cannot cut %s: %s", path, g_strerror(errno));
}

/* A guest can make its QEMU print without end; its log is kept small. */
static void trim_logs(struct cop_state *state)
{
	g_autofree char *pager = g_build_filename(state->config->dir, "pager.log", NULL);
	GHashTableIter iter;
	struct cop_vm *vm;

	trim_log(pager);
	g_mutex_lock(&state->lock);
	g_hash_table_iter_init(&iter, state->vms);
	while (g_hash_table_iter_next(&iter, NULL, (void **)&vm)) {
		g_autofree char *path =
			g_strdup_printf("%s/vms/%u/qemu.log", state->config->dir, vm->id);

		trim_log(path);
	}
	g_mutex_unlock(&state->lock);
}

static gboolean on_tick(gpointer user)
{
	struct daemon *d = user;
	unsigned nr_vms;

	trim_logs(d->state);
	g_mutex_lock(&d->state->lock);
	nr_vms = cop_state_nr_vms(d->state);
	g_mutex_unlock(&d->state->lock);
	if (d->config->autostarted && nr_vms == 0 && cop_api_busy(d->api) == 0 &&
	    g_get_monotonic_time() - d->state->active_us > IDLE_US) {
		g_message("nothing to look after for ten minutes: ending");
		g_main_loop_quit(d->loop);
	}
	return G_SOURCE_CONTINUE;
}

static gboolean serve(gpointer user)
{
	struct daemon *d = user;
	GError *error = NULL;

	d->state->active_us = g_get_monotonic_time();
	d->listen_fd = cop_socket_listen(d->socket_path, SOCK_STREAM | SOCK_NONBLOCK, &error);
	if (d->listen_fd >= 0)
		d->api = cop_api_new(d->state, d->listen_fd, &error);
	if (!d->api) {
		d->failed = fail(d->ready_fd, error) != 0;
		g_main_loop_quit(d->loop);
		return G_SOURCE_REMOVE;
	}
	g_timeout_add_seconds(TICK_S, on_tick, d);
	g_message("serving at %s", d->socket_path);
	tell(d->ready_fd, "ready\n");
	return G_SOURCE_REMOVE;
}

static gpointer adopt_thread(gpointer user)
{
	struct daemon *d = user;

	cop_recover_adopt(d->state);
	g_main_context_invoke(NULL, serve, d);
	return NULL;
}

int main(int argc, char **argv)
{
	struct daemon d = {.listen_fd = -1};
	struct rlimit files;
	GError *error = NULL;
	GThread *adopt;
	int lock_fd;

	setlocale(LC_ALL, "");
	umask(077);
	(void)signal(SIGPIPE, SIG_IGN);
	if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
		files.rlim_cur = files.rlim_max;
		(void)setrlimit(RLIMIT_NOFILE, &files); /* the limit it has will do for some VMs */
	}
	d.config = cop_config_new(&argc, &argv, &d.ready_fd, &error);
	if (!d.config) {
		fail(d.ready_fd, error);
		return 2;
	}
	d.state = cop_state_new(d.config);
	lock_fd = lock_folder(d.config, &error);
	if (lock_fd < 0 || !cop_cgroup_enter(d.state, &error) ||
	    !cop_recover_read(d.state, &error)) {
		int status = fail(d.ready_fd, error);

		cop_cgroup_leave(d.state);
		cop_state_free(d.state);
		cop_config_free(d.config);
		return status;
	}
	d.state->pager = cop_pager_new(d.state);
	d.socket_path = g_build_filename(d.config->dir, "coppiced.sock", NULL);
	d.loop = g_main_loop_new(NULL, FALSE);
	g_unix_signal_add(SIGTERM, on_signal, &d);
	g_unix_signal_add(SIGINT, on_signal, &d);
	adopt = g_thread_new("adopt", adopt_thread, &d);
	g_main_loop_run(d.loop);

	g_thread_join(adopt);
	cop_api_free(d.api);
	(void)unlink(d.socket_path);
	cop_pager_free(g_steal_pointer(&d.state->pager));
	(void)rmdir(d.config->ram_dir); /* stays while there are images in it */
	cop_cgroup_leave(d.state);
	g_main_loop_unref(d.loop);
	cop_state_free(d.state);
	cop_config_free(d.config);
	g_free(d.socket_path);
	close(lock_fd);
	return d.failed ? 1 : 0;
}
