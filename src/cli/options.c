/* SPDX-License-Identifier: MIT */
/* options.c: reading the command line of one command: see options.h. */
#include "cli/options.h"
#include "cli/failure.h"
#include "cli/text.h"

#include <string.h>

const GOptionEntry cop_common_entries[] = {
	{"dir", 0, 0, G_OPTION_ARG_FILENAME, COP_OPTION(cop_common_options, dir),
	 "State directory, whose daemon is asked", "DIR"},
	{"json", 0, 0, G_OPTION_ARG_NONE, COP_OPTION(cop_common_options, json),
	 "Print the answer as JSON", NULL},
	{"help", 'h', 0, G_OPTION_ARG_NONE, COP_OPTION(cop_common_options, help), "Print this help",
	 NULL},
	{NULL},
};

/* Add @entries to @context with their offsets turned into addresses inside @values. */
static GOptionEntry *add_entries(GOptionContext *context, const GOptionEntry *entries, void *values)
{
	size_t nr = 0;
	GOptionEntry *moved;

	while (entries && entries[nr].long_name)
		nr++;
	moved = g_new0(GOptionEntry, nr + 1);
	for (size_t i = 0; i < nr; i++) {
		moved[i] = entries[i];
		moved[i].arg_data = (char *)values + GPOINTER_TO_SIZE(entries[i].arg_data);
	}
	g_option_context_add_main_entries(context, moved, NULL);
	return moved;
}

/* "clone: unknown option --foo" out of GLib's "Unknown option --foo". */
static gboolean usage_from_glib(const struct cop_command *command, const GError *why,
				GError **error)
{
	g_autofree char *text = g_strdup(why->message);

	if (g_ascii_isupper(text[0]) && g_ascii_islower(text[1]))
		text[0] = g_ascii_tolower(text[0]);
	return cop_failure_usage(error, "%s: %s", command->name, text);
}

static gboolean check_count(const struct cop_command *command, char **args, GError **error)
{
	guint nr = g_strv_length(args);

	if (nr < command->min_args)
		return cop_failure_usage(error, "%s: too few arguments, needs %s", command->name,
					 command->arguments);
	if (nr > command->max_args)
		return cop_failure_usage(error, "%s: unexpected argument '%s'", command->name,
					 args[command->max_args]);
	return TRUE;
}

gboolean cop_options_parse(const struct cop_command *command, char *const *argv,
			   struct cop_common_options *ret_common, void **ret_values,
			   char ***ret_args, GError **error)
{
	g_autoptr(GOptionContext) context = g_option_context_new(NULL);
	struct cop_common_options common = {0};
	void *values = g_malloc0(MAX(command->options_bytes, 1));
	g_autofree GOptionEntry *own = NULL, *shared = NULL;
	g_auto(GStrv) words = g_strdupv((char **)argv);
	g_autoptr(GError) why = NULL;
	gboolean ok;
	guint from = 1;

	g_option_context_set_help_enabled(context, FALSE);
	own = add_entries(context, command->options, values);
	shared = add_entries(context, cop_common_entries, &common);
	ok = g_option_context_parse_strv(context, &words, &why);
	if (!ok)
		usage_from_glib(command, why, error);
	/* GLib leaves a "--" in when what follows looks like an option. */
	if (ok && words[0] && words[1] && strcmp(words[1], "--") == 0)
		from = 2;
	ok = ok && (common.help || check_count(command, words + (words[0] ? from : 0), error));
	if (!ok) {
		cop_options_clear(cop_common_entries, &common);
		cop_options_free(command, values);
		return FALSE;
	}
	*ret_common = common;
	*ret_values = values;
	*ret_args = g_strdupv(words + (words[0] ? from : 0));
	return TRUE;
}

void cop_options_clear(const GOptionEntry *entries, void *values)
{
	for (; entries && entries->long_name; entries++) {
		void *at = (char *)values + GPOINTER_TO_SIZE(entries->arg_data);

		switch (entries->arg) {
		case G_OPTION_ARG_STRING:
		case G_OPTION_ARG_FILENAME:
			g_free(*(char **)at);
			break;
		case G_OPTION_ARG_STRING_ARRAY:
		case G_OPTION_ARG_FILENAME_ARRAY:
			g_strfreev(*(char ***)at);
			break;
		default:
			break;
		}
	}
}

void cop_options_free(const struct cop_command *command, void *values)
{
	if (!values)
		return;
	cop_options_clear(command->options, values);
	g_free(values);
}

gboolean cop_options_size(const char *option, const char *text, uint64_t *ret, GError **error)
{
	if (!text || cop_text_parse_size(text, ret))
		return TRUE;
	return cop_failure_usage(error, "%s: '%s' is not a size; write it like 512M or 1G", option,
				 text);
}

gboolean cop_options_number(const char *option, const char *text, uint64_t min, uint64_t max,
			    uint64_t *ret, GError **error)
{
	if (!text || cop_text_parse_number(text, min, max, ret))
		return TRUE;
	return cop_failure_usage(
		error, "%s: '%s' is not a number from %" G_GUINT64_FORMAT " to %" G_GUINT64_FORMAT,
		option, text, (guint64)min, (guint64)max);
}

gboolean cop_options_one_of(const char *option, const char *text, const char *const *allowed,
			    GError **error)
{
	g_autofree char *list = NULL;

	if (!text || g_strv_contains(allowed, text))
		return TRUE;
	list = g_strjoinv(", ", (char **)allowed);
	return cop_failure_usage(error, "%s can't be '%s'; it is one of %s", option, text, list);
}

gboolean cop_options_name(const char *what, const char *text, GError **error)
{
	if (!text || cop_text_is_name(text))
		return TRUE;
	return cop_failure_usage(error,
				 "'%s' is not a name for a %s: up to %d small letters, digits, "
				 "'.', '_' and '-', a letter or digit first",
				 text, what, COP_NAME_MAX);
}

gboolean cop_options_names(const char *what, char *const *names, GError **error)
{
	for (; names && *names; names++) {
		if (!cop_options_name(what, *names, error))
			return FALSE;
	}
	return TRUE;
}
