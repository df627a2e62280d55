/* SPDX-License-Identifier: MIT */
/* commands.c: the table of commands and its help: see commands.h. */
#include "cli/commands.h"
#include "cli/options.h"

#include <string.h>

const struct cop_command *const cop_commands[] = {
	&cop_cmd_run,
	&cop_cmd_freeze,
	&cop_cmd_clone,
	&cop_cmd_fork,
	&cop_cmd_ps,
	&cop_cmd_stats,
	&cop_cmd_top,
	&cop_cmd_evict,
	&cop_cmd_console,
	&cop_cmd_screenshot,
	&cop_cmd_vnc,
	&cop_cmd_pause,
	&cop_cmd_resume,
	&cop_cmd_stop,
	&cop_cmd_start,
	&cop_cmd_rm,
	&cop_cmd_templates,
	&cop_cmd_template_rm,
	&cop_cmd_template_inspect,
	&cop_cmd_image_build,
	&cop_cmd_image_ls,
	&cop_cmd_doctor,
	&cop_cmd_version,
	&cop_cmd_completion,
	&cop_cmd_help,
	NULL,
};

const struct cop_command *cop_commands_find(char *const *words, unsigned *ret_nr_words)
{
	g_autofree char *two = NULL;

	if (!words[0])
		return NULL;
	two = g_strjoin(" ", words[0], words[1], NULL);
	for (size_t i = 0; cop_commands[i]; i++) {
		const char *name = cop_commands[i]->name;
		gboolean double_name = strchr(name, ' ') != NULL;

		if (strcmp(name, double_name ? two : words[0]) == 0) {
			*ret_nr_words = double_name ? 2 : 1;
			return cop_commands[i];
		}
	}
	return NULL;
}

static gboolean in_group(const struct cop_command *command, const char *group)
{
	size_t len = strlen(group);

	return strncmp(command->name, group, len) == 0 && command->name[len] == ' ';
}

gboolean cop_commands_is_group(const char *word)
{
	for (size_t i = 0; cop_commands[i]; i++) {
		if (in_group(cop_commands[i], word))
			return TRUE;
	}
	return FALSE;
}

/* Insertions, deletions and changes that turn @a into @b (Levenshtein), for words up to 31 long. */
static unsigned distance(const char *a, const char *b)
{
	unsigned row[32], len = (unsigned)strlen(b);

	if (len >= G_N_ELEMENTS(row))
		return G_MAXUINT;
	for (unsigned j = 0; j <= len; j++)
		row[j] = j;
	for (unsigned i = 1; *a; a++, i++) {
		unsigned diagonal = row[0];

		row[0] = i;
		for (unsigned j = 1; j <= len; j++) {
			unsigned best = diagonal + (*a != b[j - 1]);

			diagonal = row[j];
			row[j] = MIN(best, MIN(row[j], row[j - 1]) + 1);
		}
	}
	return row[len];
}

const char *cop_commands_guess(const char *word)
{
	const char *best = NULL;
	unsigned least = 3;

	for (size_t i = 0; cop_commands[i]; i++) {
		unsigned d = distance(word, cop_commands[i]->name);

		if (d < least && d < strlen(word)) {
			least = d;
			best = cop_commands[i]->name;
		}
	}
	return best;
}

static void print_options(FILE *out, const GOptionEntry *entries)
{
	for (; entries && entries->long_name; entries++) {
		g_autofree char *left =
			g_strdup_printf("%s%c%s--%s%s%s", entries->short_name ? "-" : " ",
					entries->short_name ? entries->short_name : ' ',
					entries->short_name ? ", " : "  ", entries->long_name,
					entries->arg_description ? " " : "",
					entries->arg_description ? entries->arg_description : "");

		fprintf(out, "  %-26s  %s\n", left, entries->description);
	}
}

/* @text in lines of up to 80 columns. */
static void print_wrapped(FILE *out, const char *text)
{
	g_auto(GStrv) words = g_strsplit(text, " ", -1);
	size_t column = 0;

	for (char **word = words; *word; word++) {
		size_t len = strlen(*word);
		gboolean fits = column + 1 + len <= 80;

		fprintf(out, "%s%s", column == 0 ? "" : fits ? " " : "\n", *word);
		column = column && fits ? column + 1 + len : len;
	}
	fputc('\n', out);
}

void cop_commands_help_one(FILE *out, const struct cop_command *command)
{
	fprintf(out, "Usage: coppice %s%s%s%s\n\n%s.\n", command->name,
		*command->arguments ? " " : "", command->arguments,
		command->options ? " [OPTION...]" : "", command->summary);
	if (command->details) {
		fputc('\n', out);
		print_wrapped(out, command->details);
	}
	if (command->options) {
		fputs("\nOptions:\n", out);
		print_options(out, command->options);
	}
	fputs("\nCommon options:\n", out);
	print_options(out, cop_common_entries);
}

static void print_rows(FILE *out, const char *group)
{
	for (size_t i = 0; cop_commands[i]; i++) {
		if (!group || in_group(cop_commands[i], group))
			fprintf(out, "  %-18s  %s\n", cop_commands[i]->name,
				cop_commands[i]->summary);
	}
}

void cop_commands_help_group(FILE *out, const char *group)
{
	fprintf(out, "Usage: coppice %s COMMAND [ARGUMENT...]\n\nCommands:\n", group);
	print_rows(out, group);
	fputs("\n'coppice COMMAND --help' tells more about one.\n", out);
}

void cop_commands_help(FILE *out)
{
	fputs("Usage: coppice [--dir DIR] [--json] COMMAND [ARGUMENT...]\n\n"
	      "fork() for virtual machines: boot one, freeze it as a template, start any number "
	      "of\n"
	      "clones in milliseconds, each costing only what it changes.\n\nCommands:\n",
	      out);
	print_rows(out, NULL);
	fputs("\nCommon options:\n", out);
	print_options(out, cop_common_entries);
	fputs("  -V, --version               Print the version of coppice (before a command only)\n"
	      "\nThe state directory is --dir, else $COPPICE_DIR, else /var/lib/coppice for root "
	      "and\n"
	      "~/.local/share/coppice for others. 'coppice COMMAND --help' tells more about one.\n",
	      out);
}
