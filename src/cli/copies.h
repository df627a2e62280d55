/* SPDX-License-Identifier: MIT */
/* copies.h: "count" and "names" of clone and fork requests. */
#ifndef COP_CLI_COPIES_H
#define COP_CLI_COPIES_H

#include "cli/cli.h"

/*
 * Set "count" and "names" in @request from the options --count @count and --name @names (both may
 * be NULL). Without --count there is a VM for each name, or one. Sets *@ret_nr to the number of
 * VMs. Returns FALSE with a usage error of @command.
 */
gboolean cop_copies_set(JsonObject *request, const char *command, const char *count,
			char *const *names, unsigned *ret_nr, GError **error);

#endif
