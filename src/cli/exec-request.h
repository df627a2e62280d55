/* SPDX-License-Identifier: MIT */
/* exec-request.h: the options that exec and run-in share, made into a request. */
#ifndef COP_CLI_EXEC_REQUEST_H
#define COP_CLI_EXEC_REQUEST_H

#include "cli/cli.h"

struct cop_exec_options {
	char *user, *workdir, *timeout, *cpus, *memory_max;
	char **env;
};

/* Fills @request (ExecRequest) from @words, the command with or without "--" before it, and the
 * options. Returns FALSE with a usage error of @command. */
gboolean cop_exec_request(JsonObject *request, const char *command, char *const *words,
			  const struct cop_exec_options *options, GError **error);

#endif
