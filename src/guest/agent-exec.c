/* Commands in the guest. See agent.h; docs/formats/agent.md, "Commands".
 *
 * States: starting (start.fd is open: until execve closes it) -> running -> ended (reaped) -> gone (its
 * output is at its end, or nothing came for a while: EXIT). ABANDON and the time limit kill it
 * and let the rest take its course. In a clone a command goes on as an orphan, as all programs do:
 * its input is at its end, its output goes nowhere, its id is free. A terminal's is hung up instead.
 * Invariant: input that is held for a command is at most a window: credit is given back only for what
 * has been written on or dropped. Output is read only with credit and room in the queue.
 */
#include "agent.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#define LINGER_US 200000
#define UNHELD_US 100000
#define READ_BYTES 32768
#define CREDIT_STEP (COP_AGENT_WINDOW / 8) /* given back in no smaller pieces, but at rest */

struct exec {
	struct exec *next;
	uint32_t id;
	pid_t pid;
	bool tty, abandoned, timed_out, reaped, started, failed, in_eof, orphan;
	int status;
	int64_t deadline_us, linger_us; /* 0: none */
	int64_t unheld_us; /* a terminal that nobody holds open now: when to read it again */
	struct agent_watch start, in, out[2];
	uint32_t credit[2];   /* bytes that may be sent of each output */
	uint32_t in_credit;   /* bytes that the host may send */
	uint32_t in_owed;     /* written on, credit not yet given back */
	uint8_t *in_buf;
	uint32_t in_at, in_len, in_size;
	struct agent_limit limit;
};

static struct exec *execs;
static unsigned nr_execs;

#define of(watch, member) ((struct exec *)((char *)(watch)-offsetof(struct exec, member)))

static struct exec *find(uint32_t id)
{
	struct exec *e = execs;

	while (e && (e->id != id || e->orphan))
		e = e->next;
	return e;
}

static void drop_input(struct exec *e)
{
	free(e->in_buf);
	e->in_buf = NULL;
	e->in_at = e->in_len = e->in_size = 0;
}

static void discard(struct exec *e)
{
	struct exec **at = &execs;

	while (*at != e)
		at = &(*at)->next;
	*at = e->next;
	nr_execs--;
	agent_watch_close(&e->start);
	if (e->in.fd >= 0 && e->tty)
		e->in.fd = -1; /* the terminal is out[0]'s */
	agent_watch_close(&e->in);
	agent_watch_close(&e->out[0]);
	agent_watch_close(&e->out[1]);
	drop_input(e);
	agent_limit_remove(&e->limit);
	agent_free_later(e);
}

static void kill_all_of(struct exec *e, int number)
{
	if (e->reaped)
		return; /* its number may be another's by now */
	if (kill(-e->pid, number) < 0)
		(void)kill(e->pid, number); /* it has not come to setsid() yet, or is gone */
}

/* May more of its output be read now? */
static bool room(const struct exec *e, int i)
{
	return e->orphan || (e->credit[i] && agent_port_room());
}

static bool output_open(const struct exec *e)
{
	return e->out[0].fd >= 0 || e->out[1].fd >= 0;
}

static void watch_output(struct exec *e)
{
	uint32_t in = e->tty && e->in_len > e->in_at ? EPOLLOUT : 0;

	if (e->unheld_us)
		return;
	for (int i = 0; i < 2; i++)
		agent_watch_set(&e->out[i],
				(room(e, i) ? EPOLLIN : 0) | (i ? 0 : in));
}

static void give_credit(struct exec *e, bool all)
{
	if (!e->in_owed || e->orphan || (!all && e->in_owed < CREDIT_STEP))
		return;
	agent_send(cop_agent_put_credit(agent.frame, (uint32_t)agent.session, e->id,
					COP_AGENT_STDIN, e->in_owed));
	e->in_credit += e->in_owed;
	e->in_owed = 0;
}

static void finish(struct exec *e)
{
	struct cop_agent_exit m = {.status = -1, .signal = -1,
				   .flags = e->timed_out ? COP_AGENT_EXIT_TIMEOUT : 0};

	if (WIFSIGNALED(e->status))
		m.signal = WTERMSIG(e->status);
	else
		m.status = WEXITSTATUS(e->status);
	if (!e->orphan)
		agent_send(cop_agent_put_exit(agent.frame, (uint32_t)agent.session, e->id, &m));
	discard(e);
}

/* Goes on to its end where it can. e may be gone afterwards. */
static void check_end(struct exec *e)
{
	if (!e->reaped || e->start.fd >= 0)
		return;
	if (e->failed || !output_open(e)) {
		if (e->failed)
			discard(e);
		else
			finish(e);
		return;
	}
	if (!e->linger_us)
		e->linger_us = agent_now_us() + LINGER_US;
	if (e->unheld_us) {
		e->unheld_us = 0;
		watch_output(e);
	}
}

/* ------------------------------------------------------------------- input */

static void close_input(struct exec *e)
{
	e->in_owed += e->in_len - e->in_at;
	drop_input(e);
	if (e->in.fd >= 0 && !e->tty)
		agent_watch_close(&e->in);
	else
		e->in.fd = -1;
	give_credit(e, true);
}

static void write_input(struct exec *e)
{
	static const uint8_t end_of_file = 4; /* ^D; good while the terminal is in canonical mode */

	while (e->in.fd >= 0 && e->in_at < e->in_len) {
		ssize_t n = write(e->in.fd, e->in_buf + e->in_at, e->in_len - e->in_at);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			break;
		if (n < 0) {
			close_input(e);
			return;
		}
		e->in_at += (uint32_t)n;
		e->in_owed += (uint32_t)n;
	}
	if (e->in_at == e->in_len) {
		drop_input(e);
		if (e->in_eof && e->in.fd >= 0) {
			if (e->tty)
				(void)!write(e->in.fd, &end_of_file, 1); /* it may be full */
			close_input(e);
		}
	}
	give_credit(e, e->in_at == e->in_len);
	if (e->tty)
		watch_output(e);
	else
		agent_watch_set(&e->in, e->in_at < e->in_len ? EPOLLOUT : EPOLLERR);
}

static void on_in(struct agent_watch *w, uint32_t events)
{
	struct exec *e = of(w, in);

	if (events & EPOLLERR)
		close_input(e);
	else
		write_input(e);
}

bool agent_exec_input(uint32_t id, const uint8_t *data, size_t len)
{
	struct exec *e = find(id);
	uint8_t *more;

	if (!e)
		return true; /* it crossed EXIT */
	if (len > e->in_credit || e->in_eof)
		return false;
	e->in_credit -= (uint32_t)len;
	if (e->in.fd < 0) {
		e->in_owed += (uint32_t)len;
		give_credit(e, true);
		return true;
	}
	if (e->in_at) {
		memmove(e->in_buf, e->in_buf + e->in_at, e->in_len - e->in_at);
		e->in_len -= e->in_at;
		e->in_at = 0;
	}
	if (e->in_len + len > e->in_size) {
		e->in_size = (uint32_t)(e->in_len + len + 16383) & ~16383u;
		more = realloc(e->in_buf, e->in_size);
		if (!more) {
			close_input(e);
			kill_all_of(e, SIGKILL);
			return true;
		}
		e->in_buf = more;
	}
	memcpy(e->in_buf + e->in_len, data, len);
	e->in_len += (uint32_t)len;
	write_input(e);
	return true;
}

void agent_exec_eof(uint32_t id)
{
	struct exec *e = find(id);

	if (!e)
		return;
	e->in_eof = true;
	write_input(e);
}

/* ------------------------------------------------------------------ output */

static void end_output(struct exec *e, int i)
{
	if (i == 0 && e->tty)
		close_input(e);
	agent_watch_close(&e->out[i]);
	if (!e->abandoned && !e->orphan)
		agent_send(cop_agent_put_eof(agent.frame, (uint32_t)agent.session, e->id,
					     (uint8_t)(i + 1)));
	check_end(e);
}

static void read_output(struct exec *e, int i)
{
	static uint8_t buf[READ_BYTES];
	size_t most = e->credit[i] < sizeof(buf) && !e->orphan ? e->credit[i] : sizeof(buf);
	ssize_t n;

	if (!room(e, i)) {
		watch_output(e);
		return;
	}
	n = read(e->out[i].fd, buf, most);
	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return;
	if (n <= 0 && e->tty && !e->reaped) {
		/* Nobody holds the terminal open. Closing our end would send SIGHUP to a command that
		 * is just ending, and it may open it again. */
		agent_watch_set(&e->out[i], 0);
		e->unheld_us = agent_now_us() + UNHELD_US;
		return;
	}
	if (n <= 0) {
		end_output(e, i);
		return;
	}
	if (e->linger_us)
		e->linger_us = agent_now_us() + LINGER_US;
	if (e->orphan)
		return;
	e->credit[i] -= (uint32_t)n;
	agent_send(cop_agent_put_data(agent.frame, (uint32_t)agent.session, e->id, (uint8_t)(i + 1),
				      buf, (size_t)n));
	if (!room(e, i))
		watch_output(e);
}

static void on_output(struct agent_watch *w, uint32_t events)
{
	struct exec *e = of(w, out[0]);

	if (e->tty && (events & EPOLLOUT))
		write_input(e);
	if (w->fd >= 0 && (events & (EPOLLIN | EPOLLHUP | EPOLLERR))) {
		if (room(e, 0))
			read_output(e, 0);
		else if (events & EPOLLHUP)
			/* Can't be masked, and there may be output left: not watched until there is
			 * credit for it. */
			agent_watch_set(w, 0);
	}
}

static void on_error_output(struct agent_watch *w, uint32_t events)
{
	struct exec *e = of(w, out[1]);

	if (room(e, 1))
		read_output(e, 1);
	else
		agent_watch_set(w, 0);
}

void agent_exec_credit(uint32_t id, uint8_t stream, uint32_t bytes)
{
	struct exec *e = find(id);

	if (!e || stream == COP_AGENT_STDIN)
		return;
	e->credit[stream - 1] += bytes;
	if (e->credit[stream - 1] > COP_AGENT_WINDOW_MAX)
		e->credit[stream - 1] = COP_AGENT_WINDOW_MAX;
	watch_output(e);
}

void agent_exec_resume(void)
{
	for (struct exec *e = execs; e; e = e->next)
		watch_output(e);
}

/* ---------------------------------------------------------------- starting */

struct start_error {
	int error;
	char what[24];
};

struct who {
	uid_t uid;
	gid_t gid;
	char name[64], home[256], shell[256];
};

static int look_up(const char *user, struct who *ret)
{
	struct passwd *p;
	char *end;
	unsigned long uid = strtoul(user, &end, 10);

	*ret = (struct who){.name = "root", .home = "/root", .shell = "/bin/sh"};
	p = !*user ? getpwuid(0) : *end ? getpwnam(user) : getpwuid((uid_t)uid);
	if (p) {
		ret->uid = p->pw_uid;
		ret->gid = p->pw_gid;
		snprintf(ret->name, sizeof(ret->name), "%s", p->pw_name);
		snprintf(ret->home, sizeof(ret->home), "%s", p->pw_dir);
		if (*p->pw_shell)
			snprintf(ret->shell, sizeof(ret->shell), "%s", p->pw_shell);
		return 0;
	}
	return !*user || !strcmp(user, "root") ? 0 : -ENOENT;
}

static void set_environment(const struct cop_agent_exec *m, const struct who *who)
{
	clearenv();
	setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", 1);
	setenv("HOME", who->home, 1);
	setenv("USER", who->name, 1);
	setenv("LOGNAME", who->name, 1);
	setenv("SHELL", who->shell, 1);
	if (m->flags & COP_AGENT_EXEC_TTY)
		setenv("TERM", "linux", 1);
	for (size_t i = 0; m->env[i]; i++) {
		char *var = strdup(m->env[i]), *is = var ? strchr(var, '=') : NULL;

		if (is) {
			*is = 0;
			setenv(var, is + 1, 1);
		}
		free(var);
	}
}

static void stop_child(int fd, const char *what)
{
	struct start_error e = {.error = errno};

	snprintf(e.what, sizeof(e.what), "%s", what);
	(void)!write(fd, &e, sizeof(e)); /* then it is just an exit status */
	_exit(127);
}

/* In the child, with descriptors that all are closed on execve. */
static void child(const struct cop_agent_exec *m, const struct who *who,
		  const struct agent_limit *limit, int in, int out, int err, int error_fd)
{
	int fd;

	agent_become_child();
	agent_default_signals();
	setsid();
	if ((m->flags & COP_AGENT_EXEC_TTY) && ioctl(in, TIOCSCTTY, 0) < 0)
		stop_child(error_fd, "terminal");
	if (dup2(in, 0) < 0 || dup2(out, 1) < 0 || dup2(err, 2) < 0)
		stop_child(error_fd, "dup2");
	fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
	if (fd >= 0)
		(void)!write(fd, "0", 1); /* it is not as dear as the agent */
	errno = -agent_limit_enter(limit);
	if (errno)
		stop_child(error_fd, "limits");
	if (who->uid != getuid() || who->gid != getgid()) {
		if (initgroups(who->name, who->gid) < 0 || setgid(who->gid) < 0 ||
		    setuid(who->uid) < 0)
			stop_child(error_fd, "user");
	}
	set_environment(m, who);
	if (*m->cwd ? chdir(m->cwd) < 0 : chdir(who->home) < 0 && chdir("/") < 0)
		stop_child(error_fd, m->cwd);
	execvp(m->argv[0], (char *const *)m->argv);
	stop_child(error_fd, m->argv[0]);
}

static void on_start(struct agent_watch *w, uint32_t events)
{
	struct exec *e = of(w, start);
	struct start_error why;
	ssize_t n = read(w->fd, &why, sizeof(why));

	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return;
	agent_watch_close(w);
	if (n == sizeof(why)) {
		why.what[sizeof(why.what) - 1] = 0;
		if (!e->orphan)
			agent_send_error(e->id, why.error ?: EIO, "%s: %s", why.what,
					 strerror(why.error));
		e->failed = true;
	} else {
		e->started = true;
		if (!e->orphan)
			agent_send(cop_agent_put_empty(agent.frame, (uint32_t)agent.session,
						       COP_AGENT_STARTED, e->id));
		watch_output(e);
		if (!e->tty)
			agent_watch_set(&e->in, EPOLLERR);
		if (e->in_len || e->in_eof)
			write_input(e);
	}
	check_end(e);
}

/* fds: 0 to 2 the child's, 3 to 5 ours (5 may be -1). 0 or -errno. */
static int make_streams(bool tty, const struct cop_agent_exec *m, int fds[6])
{
	struct winsize size = {.ws_row = m->rows, .ws_col = m->columns};
	int pair[2], unlock = 0, number;
	char path[32];

	if (!tty) {
		for (int i = 0; i < 3; i++) {
			if (pipe2(pair, O_CLOEXEC) < 0)
				return -errno;
			fds[i] = pair[i != 0];
			fds[i + 3] = pair[i == 0];
			fcntl(fds[i + 3], F_SETFL, O_NONBLOCK);
		}
		return 0;
	}
	fds[3] = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
	if (fds[3] < 0 || ioctl(fds[3], TIOCSPTLCK, &unlock) < 0 ||
	    ioctl(fds[3], TIOCGPTN, &number) < 0)
		return -errno;
	snprintf(path, sizeof(path), "/dev/pts/%d", number);
	fds[0] = open(path, O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (fds[0] < 0)
		return -errno;
	(void)ioctl(fds[3], TIOCSWINSZ, &size); /* a terminal of no size then */
	return 0;
}

static void close_all(int *fds, int from, int to)
{
	for (int i = from; i < to; i++)
		if (fds[i] >= 0)
			close(fds[i]);
}

static struct exec *start(uint32_t id, const struct cop_agent_exec *m, const struct who *who,
			  const struct agent_limit *limit, int fds[6], int start_fds[2])
{
	bool tty = m->flags & COP_AGENT_EXEC_TTY;
	struct exec *e = calloc(1, sizeof(*e));

	if (!e)
		return NULL;
	e->pid = fork();
	if (e->pid == 0)
		child(m, who, limit, fds[0], tty ? fds[0] : fds[1], tty ? fds[0] : fds[2], start_fds[1]);
	if (e->pid < 0) {
		free(e);
		return NULL;
	}
	e->id = id;
	e->limit = *limit;
	e->tty = tty;
	e->start = (struct agent_watch){.fd = start_fds[0], .fn = on_start};
	e->in = (struct agent_watch){.fd = fds[3], .fn = on_in};
	e->out[0] = (struct agent_watch){.fd = tty ? fds[3] : fds[4], .fn = on_output};
	e->out[1] = (struct agent_watch){.fd = tty ? -1 : fds[5], .fn = on_error_output};
	e->credit[0] = e->credit[1] = e->in_credit = COP_AGENT_WINDOW;
	e->deadline_us = m->timeout_ms ? agent_now_us() + m->timeout_ms * 1000LL : 0;
	e->next = execs;
	execs = e;
	nr_execs++;
	agent_watch_set(&e->start, EPOLLIN);
	return e;
}

void agent_exec_start(uint32_t id, const struct cop_agent_exec *m)
{
	int fds[6] = {-1, -1, -1, -1, -1, -1}, start_fds[2] = {-1, -1}, r;
	struct agent_limit limit;
	struct who who;

	if (find(id) || nr_execs >= COP_AGENT_MAX_EXECS) {
		agent_send_error(id, find(id) ? EEXIST : EAGAIN, "%s",
				 find(id) ? "this id is in use" : "too many commands at once");
		return;
	}
	if (look_up(m->user, &who) < 0) {
		agent_send_error(id, ENOENT, "there is no user '%s'", m->user);
		return;
	}
	r = agent_limit_make(&limit, m);
	if (r < 0) {
		agent_send_error(id, EOPNOTSUPP, "this guest can't bound what a command uses: %s",
				 strerror(-r));
		return;
	}
	r = make_streams(m->flags & COP_AGENT_EXEC_TTY, m, fds);
	if (r == 0 && pipe2(start_fds, O_CLOEXEC | O_NONBLOCK) < 0)
		r = -errno;
	if (r == 0 && !start(id, m, &who, &limit, fds, start_fds))
		r = -errno ?: -ENOMEM;
	close_all(fds, 0, 3);
	if (start_fds[1] >= 0)
		close(start_fds[1]);
	if (r < 0) {
		agent_limit_remove(&limit);
		close_all(fds, 3, 6);
		if (start_fds[0] >= 0)
			close(start_fds[0]);
		agent_send_error(id, -r, "can't start a command: %s", strerror(-r));
	}
}

/* --------------------------------------------------------------- the others */

void agent_exec_signal(uint32_t id, int number)
{
	struct exec *e = find(id);

	if (e)
		kill_all_of(e, number);
}

void agent_exec_resize(uint32_t id, uint16_t rows, uint16_t columns)
{
	struct exec *e = find(id);
	struct winsize size = {.ws_row = rows, .ws_col = columns};

	if (e && e->tty && e->out[0].fd >= 0)
		(void)ioctl(e->out[0].fd, TIOCSWINSZ, &size); /* it stays as it was */
}

static void stop(struct exec *e)
{
	e->abandoned = true;
	kill_all_of(e, SIGKILL);
	close_input(e);
	agent_watch_close(&e->out[0]);
	agent_watch_close(&e->out[1]);
	check_end(e);
}

void agent_exec_abandon(uint32_t id)
{
	struct exec *e = find(id);

	if (e)
		stop(e);
}

void agent_exec_reaped(pid_t pid, int status)
{
	for (struct exec *e = execs; e; e = e->next) {
		if (e->pid != pid || e->reaped)
			continue;
		e->reaped = true;
		e->status = status;
		check_end(e);
		return;
	}
}

static void orphan(struct exec *e)
{
	e->orphan = true;
	close_input(e);
	if (e->tty)
		agent_watch_close(&e->out[0]); /* SIGHUP */
	watch_output(e);
	check_end(e);
}

void agent_exec_reset(bool is_clone)
{
	for (struct exec *e = execs, *next; e; e = next) {
		next = e->next;
		if (e->orphan)
			continue;
		if (is_clone && !e->abandoned) {
			orphan(e);
		} else {
			kill_all_of(e, SIGKILL);
			discard(e);
		}
	}
}

static bool more_to_read(const struct exec *e)
{
	for (int i = 0; i < 2; i++) {
		int n = 0;

		if (e->out[i].fd >= 0 && ioctl(e->out[i].fd, FIONREAD, &n) == 0 && n > 0)
			return true;
	}
	return false;
}

int64_t agent_exec_tick(int64_t now_us)
{
	int64_t next_us = -1;

	for (struct exec *e = execs, *next; e; e = next) {
		next = e->next;
		if (e->deadline_us && now_us >= e->deadline_us && !e->timed_out && !e->reaped) {
			e->timed_out = true;
			e->deadline_us = 0;
			kill_all_of(e, SIGKILL);
		}
		if (e->deadline_us && !e->reaped)
			next_us = agent_sooner(next_us, e->deadline_us);
		if (e->unheld_us && now_us >= e->unheld_us) {
			e->unheld_us = 0;
			watch_output(e);
		}
		if (e->unheld_us)
			next_us = agent_sooner(next_us, e->unheld_us);
		if (e->linger_us && now_us >= e->linger_us) {
			if (more_to_read(e)) {
				e->linger_us = now_us + LINGER_US;
			} else {
				finish(e);
				continue;
			}
		}
		if (e->linger_us)
			next_us = agent_sooner(next_us, e->linger_us);
	}
	return next_us;
}
