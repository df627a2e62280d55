/* SPDX-License-Identifier: MIT */
/* options.h: reading the command line of one command. */
#ifndef COP_CLI_OPTIONS_H
#define COP_CLI_OPTIONS_H

#include "cli/cli.h"

#include <stdint.h>

/* What every command takes besides its own options. */
struct cop_common_options {
	char *dir;
	gboolean json, help;
};

/* The common options as GOptionEntries whose arg_data is an offset into cop_common_options. */
extern const GOptionEntry cop_common_entries[];

/*
 * Read @argv (NULL-terminated, element 0 is not read) for @command. Fills *@ret_common,
 * *@ret_values (command->options_bytes long, NULL when that is 0) and *@ret_args, the words that
 * are no options; the caller frees them with cop_options_free() and g_strfreev(). The number of
 * words is checked, except with --help. On failure nothing is set and *@error is a usage error.
 */
gboolean cop_options_parse(const struct cop_command *command, char *const *argv,
			   struct cop_common_options *ret_common, void **ret_values,
			   char ***ret_args, GError **error);

/* Free the strings in a structure that @entries describe; cop_options_free() also the structure. */
void cop_options_clear(const GOptionEntry *entries, void *values);
void cop_options_free(const struct cop_command *command, void *values);

/*
 * Values that options hold as text. NULL @text (not given) leaves *@ret alone. Return FALSE with a
 * usage error that names @option.
 */
gboolean cop_options_size(const char *option, const char *text, uint64_t *ret, GError **error);
gboolean cop_options_number(const char *option, const char *text, uint64_t min, uint64_t max,
			    uint64_t *ret, GError **error);
/* @allowed: NULL-terminated. */
gboolean cop_options_one_of(const char *option, const char *text, const char *const *allowed,
			    GError **error);
/* Is @text, a @what ("VM" or "template"), a name? NULL passes. */
gboolean cop_options_name(const char *what, const char *text, GError **error);
/* The same of every element of @names, which may be NULL. */
gboolean cop_options_names(const char *what, char *const *names, GError **error);

#endif
