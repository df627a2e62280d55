/* SPDX-License-Identifier: MIT */
/*
 * commands.h: the table of commands, from which help, completion and dispatch are made.
 *
 * To add a command: a file cmd-NAME.c with its options and its function, one line of declaration
 * below, one row in commands.c, one section in the manual page.
 */
#ifndef COP_CLI_COMMANDS_H
#define COP_CLI_COMMANDS_H

#include "cli/cli.h"

#include <stdio.h>

/* In the order of the help text; ends with a row without a name. */
extern const struct cop_command *const cop_commands[];

/*
 * The command that the first one or two of @words (NULL-terminated) name, or NULL. Sets
 * *@ret_nr_words to the number of words that its name has.
 */
const struct cop_command *cop_commands_find(char *const *words, unsigned *ret_nr_words);

/* Is @word the first word of commands of two words, such as "template"? */
gboolean cop_commands_is_group(const char *word);

/* The command whose name is most like @word, or NULL when none is much like it. */
const char *cop_commands_guess(const char *word);

/* Print the help of everything, of the commands that begin with the word @group, of one. */
void cop_commands_help(FILE *out);
void cop_commands_help_group(FILE *out, const char *group);
void cop_commands_help_one(FILE *out, const struct cop_command *command);

extern const struct cop_command cop_cmd_run, cop_cmd_freeze, cop_cmd_clone, cop_cmd_fork,
	cop_cmd_ps, cop_cmd_stats, cop_cmd_screenshot, cop_cmd_vnc, cop_cmd_console, cop_cmd_pause,
	cop_cmd_resume, cop_cmd_stop, cop_cmd_start, cop_cmd_rm, cop_cmd_templates,
	cop_cmd_template_rm, cop_cmd_template_inspect, cop_cmd_image_build, cop_cmd_image_ls,
	cop_cmd_doctor, cop_cmd_evict, cop_cmd_top, cop_cmd_version, cop_cmd_completion, cop_cmd_help;

#endif
