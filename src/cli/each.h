/* SPDX-License-Identifier: MIT */
/*
 * each.h: one request to each of several VMs or templates, side by side.
 *
 * A name that fails does not keep the others from being tried.
 */
#ifndef COP_CLI_EACH_H
#define COP_CLI_EACH_H

#include "cli/cli.h"

struct cop_each {
	const char *method, *before, *after; /* path: before NAME after */
	JsonObject *body;		     /* or NULL */
	const char *doing;		     /* status line: "stopping" */
	const char *done;		     /* line of each one: "stopped" */
	const char *result;		     /* member of the JSON answer: "vms", "removed" */
};

/*
 * Do @each to all of @names at once (at most 16 at a time), printing a line for each one, or with
 * --json one document at the end: {RESULT: [answer or name, ...], "errors": [{"name", "code",
 * "message", "hint"}, ...]}, both in the order of @names. Returns an exit status, and sets *@error
 * only when nothing could be tried.
 */
int cop_each_run(struct cop_cli *cli, const struct cop_each *each, char *const *names,
		 GError **error);

/*
 * The names to work on: @names (checked), or with @all those of all VMs in one of @states
 * (NULL-terminated; NULL for any). Giving both or neither is a usage error of @command.
 * Caller frees; NULL with *@error set.
 */
char **cop_each_vms(struct cop_cli *cli, const char *command, char *const *names, gboolean all,
		    const char *const *states, GError **error);

#endif
