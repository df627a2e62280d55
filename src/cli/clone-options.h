/* SPDX-License-Identifier: MIT */
/* clone-options.h: the options of clone and fork about what a clone is told that it is. */
#ifndef COP_CLI_CLONE_OPTIONS_H
#define COP_CLI_CLONE_OPTIONS_H

#include "cli/cli.h"

struct cop_clone_options {
	char **labels, **params, *ready_timeout, *allow_fork;
	gboolean no_wait, ssh_host_keys;
};

/* Rows of a table of options whose structure @type has a struct cop_clone_options named told. */
#define COP_CLONE_ENTRIES(type)                                                                    \
	{"label", 'l', 0, G_OPTION_ARG_STRING_ARRAY, COP_OPTION(type, told.labels),                \
	 "Label of each clone (may be repeated)", "KEY=VALUE"},                                    \
	{"param", 'p', 0, G_OPTION_ARG_STRING_ARRAY, COP_OPTION(type, told.params),                \
	 "Parameter that each clone is told (may be repeated)", "KEY=VALUE"},                      \
	{"ssh-host-keys", 0, 0, G_OPTION_ARG_NONE, COP_OPTION(type, told.ssh_host_keys),           \
	 "Each clone makes ssh host keys of its own before it is ready", NULL},                    \
	{"allow-fork", 0, 0, G_OPTION_ARG_STRING, COP_OPTION(type, told.allow_fork),               \
	 "Each clone may ask for so many clones or freezes of itself", "N"},                       \
	{"no-wait", 0, 0, G_OPTION_ARG_NONE, COP_OPTION(type, told.no_wait),                       \
	 "Don't wait until the clones' agents are ready", NULL},                                   \
	{"ready-timeout", 0, 0, G_OPTION_ARG_STRING, COP_OPTION(type, told.ready_timeout),         \
	 "Time that the clones have to be ready (default 60)", "SECONDS"}

/* Sets what was given in a CloneRequest or ForkRequest. FALSE: a usage error. */
gboolean cop_clone_options_set(JsonObject *request, const struct cop_clone_options *options,
			       GError **error);

#endif
