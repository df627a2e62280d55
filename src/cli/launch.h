/* SPDX-License-Identifier: MIT */
/* launch.h: a daemon for a state directory: found, or started. */
#ifndef COP_CLI_LAUNCH_H
#define COP_CLI_LAUNCH_H

#include <glib.h>

/*
 * Make sure that a daemon serves state directory @dir (absolute): connect to its socket, and when
 * nobody listens there, make the directory (mode 0700) and start a private coppiced, detached from
 * this process, that ends when it has had nothing to do for a while. Blocks until it serves.
 * Returns FALSE with *@error set (failure.h), with what the daemon said when it could not start.
 */
gboolean cop_launch_daemon(const char *dir, GError **error);

/*
 * A file that belongs to coppice, found from the place of this binary: the first of @places
 * (NULL-terminated; relative ones start at the binary's own folder) that is an executable file, or
 * NULL. Caller frees.
 */
char *cop_launch_find(const char *const *places);

#endif
