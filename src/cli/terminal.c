/* SPDX-License-Identifier: MIT */
/*
 * terminal.c: the terminal in raw mode: see terminal.h.
 *
 * The one place with global state, as signal handlers have no other way to it. `raw` says whether
 * `saved` is to be restored. The handlers call only async-signal-safe functions.
 */
#include "cli/terminal.h"

#include <errno.h>
#include <signal.h>
#include <termios.h>
#include <unistd.h>

static struct termios saved, wanted;
static volatile sig_atomic_t raw;

static const int deadly[] = {SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGPIPE, SIGABRT, SIGSEGV,
			     SIGBUS, SIGFPE, SIGILL,  SIGALRM, SIGUSR1, SIGUSR2};

static void restore(void)
{
	/* Nothing can be done about a terminal that is gone. */
	if (raw)
		(void)tcsetattr(0, TCSANOW, &saved);
}

/* The default action follows as soon as the handler returns: it is installed with SA_RESETHAND. */
static void on_deadly(int number)
{
	restore();
	(void)raise(number);
}

static void on_stop(int number)
{
	int saved_errno = errno;

	restore();
	(void)raise(SIGSTOP);
	if (raw)
		(void)tcsetattr(0, TCSANOW, &wanted); /* as above */
	errno = saved_errno;
}

static void install(void)
{
	struct sigaction action = {.sa_handler = on_deadly, .sa_flags = (int)SA_RESETHAND}, old;

	sigemptyset(&action.sa_mask);
	for (size_t i = 0; i < G_N_ELEMENTS(deadly); i++) {
		/* What is ignored stays ignored, as nohup(1) wants it. */
		if (sigaction(deadly[i], NULL, &old) == 0 && old.sa_handler == SIG_DFL)
			(void)sigaction(deadly[i], &action, NULL);
	}
	action.sa_handler = on_stop;
	action.sa_flags = SA_RESTART;
	(void)sigaction(SIGTSTP, &action, NULL);
}

int cop_terminal_make_raw(void)
{
	if (!isatty(0))
		return 1;
	if (tcgetattr(0, &saved) < 0)
		return -errno;
	wanted = saved;
	cfmakeraw(&wanted);
	install();
	raw = 1;
	if (tcsetattr(0, TCSADRAIN, &wanted) < 0) {
		raw = 0;
		return -errno;
	}
	return 0;
}

void cop_terminal_restore(void)
{
	restore();
	raw = 0;
}
