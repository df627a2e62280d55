/* SPDX-License-Identifier: MIT */
/*
 * progress.h: a status line on standard error while the main thread waits for a long answer.
 *
 * Only on a terminal; otherwise nothing is ever written. The line is gone before cop_progress_end()
 * returns.
 */
#ifndef COP_CLI_PROGRESS_H
#define COP_CLI_PROGRESS_H

#include <glib.h>

struct cop_progress;

/*
 * Begin to show "TEXT 1.4 s", from 0.3 s on. @dir, when not NULL: also ask that directory's daemon
 * now and then, on a connection of its own, how many of @nr_expected VMs that did not exist at the
 * call are running, and show "3/16 running".
 */
struct cop_progress *cop_progress_begin(const char *text, const char *dir, unsigned nr_expected);
/* Show @nr_done of @nr_expected as done. Any thread. @progress may be NULL. */
void cop_progress_set(struct cop_progress *progress, unsigned nr_done, unsigned nr_expected);
/* Take the line away and free. NULL is allowed. */
void cop_progress_end(struct cop_progress *progress);

#endif
