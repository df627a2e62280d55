/* SPDX-License-Identifier: MIT */
/* cmd-completion.c: coppice completion bash: a script made from the table of commands. */
#include "cli/commands.h"
#include "cli/failure.h"
#include "cli/options.h"
#include "cli/output.h"

#include <string.h>

static void add_options(GString *out, const GOptionEntry *entries)
{
	for (; entries && entries->long_name; entries++) {
		g_string_append_printf(out, " --%s", entries->long_name);
		if (entries->short_name)
			g_string_append_printf(out, " -%c", entries->short_name);
	}
}

/* First words of all commands, or second words of those in @group, each once. */
static void add_words(GString *out, const char *group)
{
	g_autoptr(GHashTable) seen = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);

	for (size_t i = 0; cop_commands[i]; i++) {
		g_auto(GStrv) words = g_strsplit(cop_commands[i]->name, " ", 2);
		const char *word = group ? words[1] : words[0];

		if ((group && strcmp(words[0], group) != 0) ||
		    !g_hash_table_add(seen, g_strdup(word)))
			continue;
		g_string_append_printf(out, " %s", word);
	}
}

static char *make_script(void)
{
	GString *out =
		g_string_new("# bash completion of coppice, made by 'coppice completion bash'\n"
			     "_coppice()\n{\n"
			     "\tlocal cur=${COMP_WORDS[COMP_CWORD]} words=() word skip=0\n"
			     "\tfor word in \"${COMP_WORDS[@]:1:COMP_CWORD-1}\"; do\n"
			     "\t\tif ((skip)); then skip=0; continue; fi\n"
			     "\t\tcase $word in\n\t\t--dir) skip=1 ;;\n\t\t-*) ;;\n"
			     "\t\t*) words+=(\"$word\") ;;\n\t\tesac\n\tdone\n"
			     "\tlocal options=\"");

	add_options(out, cop_common_entries);
	g_string_append(out, "\" list=\n\tcase \"${words[0]} ${words[1]}\" in\n\t' ') list=\"");
	add_words(out, NULL);
	g_string_append(out, "\" options+=' --version' ;;\n");
	for (size_t i = 0; cop_commands[i]; i++) {
		const char *name = cop_commands[i]->name, *space = strchr(name, ' ');

		g_string_append_printf(out, "\t'%s%s) options+=\"", name, space ? "'" : " '*");
		add_options(out, cop_commands[i]->options);
		g_string_append(out, "\" ;;\n");
	}
	g_string_append(out, "\tesac\n");
	for (size_t i = 0; cop_commands[i]; i++) {
		const char *name = cop_commands[i]->name, *space = strchr(name, ' ');
		g_autofree char *group = space ? g_strndup(name, (gsize)(space - name)) : NULL;

		if (!group || (i > 0 && g_str_has_prefix(cop_commands[i - 1]->name, group) &&
			       cop_commands[i - 1]->name[space - name] == ' '))
			continue;
		g_string_append_printf(out, "\t[[ \"${words[*]}\" == '%s' ]] && list=\"", group);
		add_words(out, group);
		g_string_append(out, "\"\n");
	}
	g_string_append(out, "\tif [[ $cur == -* ]]; then\n\t\tlist=$options\n\tfi\n"
			     "\tmapfile -t COMPREPLY < <(compgen -W \"$list\" -- \"$cur\")\n}\n"
			     "complete -o default -F _coppice coppice\n");
	return g_string_free(out, FALSE);
}

static int run(struct cop_cli *cli, const void *options, char **args, GError **error)
{
	g_autofree char *script = NULL;

	if (strcmp(args[0], "bash") != 0) {
		cop_failure_usage(error, "completion: there is none for '%s'; only for bash",
				  args[0]);
		return COP_EXIT_USAGE;
	}
	script = make_script();
	if (cli->json) {
		g_autoptr(JsonObject) document = json_object_new();

		json_object_set_string_member(document, "shell", args[0]);
		json_object_set_string_member(document, "script", script);
		cop_output_json(document);
	} else {
		fputs(script, stdout);
	}
	return COP_EXIT_OK;
}

const struct cop_command cop_cmd_completion = {
	.name = "completion",
	.arguments = "bash",
	.summary = "Print a completion script for a shell",
	.details = "To use it: source <(coppice completion bash)",
	.min_args = 1,
	.max_args = 1,
	.run = run,
};
