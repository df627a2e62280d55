/* SPDX-License-Identifier: MIT */
/* exec-one.h: one command in one VM, joined to this program's own input, output and signals. */
#ifndef COP_CLI_EXEC_ONE_H
#define COP_CLI_EXEC_ONE_H

#include "cli/cli.h"

/*
 * Open the WebSocket at @path, send @request and be the command until it ends. With @terminal the
 * terminal at standard input is raw meanwhile, and "tty" is set in the request to its size; the
 * caller has checked that there is one. SIGINT, SIGTERM and SIGHUP go to the command; at the third
 * SIGINT this side leaves. With --json output is collected and printed as one document.
 * Returns an exit status (exec.h), with *@error set when the command did not run to its end.
 */
int cop_exec_one(struct cop_cli *cli, const char *name, const char *path, JsonObject *request,
		 gboolean terminal, GError **error);

#endif
