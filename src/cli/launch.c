/* SPDX-License-Identifier: MIT */
/*
 * launch.c: a daemon for a state directory: see launch.h.
 *
 * Starting: fork; the child gets its own session, "/" as folder, no terminal, coppiced.log as
 * stderr and no descriptor but the write end of a pipe (--ready-fd). The daemon writes "ready\n" to
 * it, or a reason and end of file. The daemon's lock decides between two that start at once: the
 * loser says that another one serves, and its client waits for the winner's socket.
 */
#include "cli/launch.h"
#include "base/cleanup.h"
#include "cli/client.h"
#include "cli/failure.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

/* How long the winner of a race may take to serve. */
#define RACE_MS	     15000
#define RACE_STEP_MS 20
/* The most that is shown of what a failed daemon said. */
#define MAX_REASON_BYTES 2000

/* Returns 0 when somebody listens, else -errno. */
static int try_connect(const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	cop_auto_close int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -errno;
	if (strlen(path) >= sizeof(address.sun_path))
		return -ENAMETOOLONG;
	g_strlcpy(address.sun_path, path, sizeof(address.sun_path));
	return connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0 ? -errno : 0;
}

char *cop_launch_find(const char *const *places)
{
	g_autofree char *self = g_file_read_link("/proc/self/exe", NULL);
	g_autofree char *here = self ? g_path_get_dirname(self) : g_strdup("/");

	for (; *places; places++) {
		g_autofree char *path = g_canonicalize_filename(*places, here);

		if (g_file_test(path, G_FILE_TEST_IS_REGULAR) &&
		    g_file_test(path, G_FILE_TEST_IS_EXECUTABLE))
			return g_steal_pointer(&path);
	}
	return NULL;
}

static char *find_daemon(void)
{
	static const char *const places[] = {"coppiced", "../daemon/coppiced", NULL};
	char *path = cop_launch_find(places);

	return path ? path : g_find_program_in_path("coppiced");
}

/* The child's side. Nothing here may allocate. */
G_NORETURN static void become_daemon(char *const *argv, int log_fd, int ready_fd)
{
	int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	sigset_t none;

	(void)setsid(); /* a fresh child leads no group: it can't fail */
	sigemptyset(&none);
	(void)sigprocmask(SIG_SETMASK, &none, NULL);
	(void)signal(SIGPIPE, SIG_DFL);
	if (null_fd < 0 || dup2(null_fd, 0) < 0 || dup2(null_fd, 1) < 0 || dup2(log_fd, 2) < 0 ||
	    chdir("/") < 0 || close_range(3, ~0u, CLOSE_RANGE_CLOEXEC) < 0 ||
	    fcntl(ready_fd, F_SETFD, 0) < 0)
		_exit(126);
	execv(argv[0], argv);
	dprintf(ready_fd, "cannot run %s: %s\n", argv[0], strerror(errno));
	_exit(127);
}

/* Everything until end of file, or until "ready\n". */
static char *read_reason(int fd)
{
	GString *text = g_string_new(NULL);
	char buf[512];
	ssize_t n;

	while (text->len < MAX_REASON_BYTES && strcmp(text->str, "ready\n") != 0) {
		n = read(fd, buf, sizeof(buf));
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			break;
		g_string_append_len(text, buf, n);
	}
	return g_string_free(text, FALSE);
}

/* What was added to the log behind @from_bytes: a daemon that could say nothing on the pipe. */
static char *read_log(int log_fd, off_t from_bytes)
{
	char *text = g_malloc0(MAX_REASON_BYTES + 1);

	if (pread(log_fd, text, MAX_REASON_BYTES, from_bytes) < 0)
		text[0] = '\0';
	return text;
}

/* Turn "coppiced: MESSAGE\n  hint: HINT\n" (or anything else) into an error. */
static void explain(const char *reason, const char *dir, GError **error)
{
	g_autofree char *log = g_strdup_printf("see %s/coppiced.log", dir);
	g_autofree char *message = g_strdup(reason);
	char *hint = strstr(message, "\n  hint: ");

	if (hint) {
		*hint = '\0';
		hint += strlen("\n  hint: ");
	}
	g_strstrip(message);
	cop_failure_set(error, COP_FAILURE_UNREACHABLE, hint ? g_strstrip(hint) : log,
			"coppiced did not start: %s",
			g_str_has_prefix(message, "coppiced: ") ? message + strlen("coppiced: ")
			: *message				? message
								: "it ended without a reason");
}

static gboolean make_dir(const char *dir, GError **error)
{
	if (g_mkdir_with_parents(dir, 0700) == 0)
		return TRUE;
	return cop_failure_set(error, COP_FAILURE_UNREACHABLE,
			       "choose a folder that you may write to with --dir DIR",
			       "cannot make the state directory %s: %s", dir, g_strerror(errno));
}

/* Start a daemon and wait until it serves: NULL, or its reason not to, which the caller frees. */
static char *start(const char *program, const char *dir, GError **error)
{
	g_autofree char *log_path = g_build_filename(dir, "coppiced.log", NULL);
	cop_auto_close int log_fd =
		open(log_path, O_RDWR | O_CREAT | O_APPEND | O_NOFOLLOW | O_CLOEXEC, 0600);
	g_autofree char *number = NULL, *reason = NULL;
	struct stat log;
	int ready[2];
	pid_t pid;

	if (log_fd < 0 || fstat(log_fd, &log) < 0) {
		cop_failure_set(error, COP_FAILURE_UNREACHABLE,
				"is it another user's? choose another one with --dir DIR",
				"cannot use the state directory: %s: %s", log_path,
				g_strerror(errno));
		return NULL;
	}
	if (pipe2(ready, O_CLOEXEC) < 0)
		g_error("pipe: %s", g_strerror(errno));
	number = g_strdup_printf("%d", ready[1]);
	{
		const char *const argv[] = {program,	  "--dir", dir, "--autostarted",
					    "--ready-fd", number,  NULL};

		pid = fork();
		if (pid == 0)
			become_daemon((char *const *)argv, log_fd, ready[1]);
	}
	close(ready[1]);
	if (pid < 0) {
		close(ready[0]);
		cop_failure_set(error, COP_FAILURE_UNREACHABLE, NULL, "cannot start coppiced: %s",
				g_strerror(errno));
		return NULL;
	}
	reason = read_reason(ready[0]);
	close(ready[0]);
	if (strcmp(reason, "ready\n") == 0)
		return NULL;
	return *reason ? g_steal_pointer(&reason) : read_log(log_fd, log.st_size);
}

gboolean cop_launch_daemon(const char *dir, GError **error)
{
	g_autofree char *path = cop_client_socket_path(dir);
	g_autofree char *program = NULL, *reason = NULL;
	GError *why = NULL;
	int status = try_connect(path);

	if (status == 0)
		return TRUE;
	if (status == -ENAMETOOLONG)
		return cop_failure_set(
			error, COP_FAILURE_UNREACHABLE, "choose a shorter --dir",
			"the path of the state directory is too long for a socket: %s", dir);
	if (status != -ENOENT && status != -ECONNREFUSED)
		return cop_failure_set(
			error, COP_FAILURE_UNREACHABLE,
			status == -EACCES ? "it belongs to another user: use sudo, or "
					    "your own --dir DIR"
					  : NULL,
			"cannot connect to coppiced at %s: %s", path, g_strerror(-status));
	program = find_daemon();
	if (!program)
		return cop_failure_set(
			error, COP_FAILURE_UNREACHABLE,
			"install coppiced beside coppice or in PATH, or start it "
			"yourself",
			"no daemon listens at %s, and there is no program 'coppiced' to "
			"start one",
			path);
	if (!make_dir(dir, error))
		return FALSE;
	reason = start(program, dir, &why);
	if (why) {
		g_propagate_error(error, why);
		return FALSE;
	}
	if (!reason)
		return TRUE;
	if (strstr(reason, "another coppiced")) {
		for (int waited_ms = 0; waited_ms < RACE_MS; waited_ms += RACE_STEP_MS) {
			if (try_connect(path) == 0)
				return TRUE;
			(void)poll(NULL, 0, RACE_STEP_MS);
		}
	}
	explain(reason, dir, error);
	return FALSE;
}
