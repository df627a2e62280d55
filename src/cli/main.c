/* SPDX-License-Identifier: MIT */
/* main.c: coppice, the command line client of coppiced: finds the command and runs it. */
#include "cli/client.h"
#include "cli/commands.h"
#include "cli/failure.h"
#include "cli/launch.h"
#include "cli/options.h"
#include "cli/output.h"

#include <errno.h>
#include <locale.h>
#include <string.h>
#include <unistd.h>

struct cop_client *cop_cli_client(struct cop_cli *cli, GError **error)
{
	if (!cli->client && cop_launch_daemon(cli->dir, error))
		cli->client = cop_client_new(cli->dir);
	return cli->client;
}

static char *state_dir(const char *option)
{
	const char *env = g_getenv("COPPICE_DIR");

	if (option)
		return g_canonicalize_filename(option, NULL);
	if (env && *env)
		return g_canonicalize_filename(env, NULL);
	if (geteuid() == 0)
		return g_strdup("/var/lib/coppice");
	return g_build_filename(g_get_user_data_dir(), "coppice", NULL);
}

/* Options before the command: reads from argv[1] on; returns the index of the command's word. */
static int read_leading(char **argv, struct cop_common_options *common, gboolean *ret_version,
			GError **error)
{
	int i = 1;

	for (; argv[i] && argv[i][0] == '-'; i++) {
		const char *arg = argv[i];

		if (strcmp(arg, "--json") == 0) {
			common->json = TRUE;
		} else if (strcmp(arg, "--help") == 0 || strcmp(arg, "-h") == 0) {
			common->help = TRUE;
		} else if (strcmp(arg, "--version") == 0 || strcmp(arg, "-V") == 0) {
			*ret_version = TRUE;
		} else if (g_str_has_prefix(arg, "--dir=") ||
			   (strcmp(arg, "--dir") == 0 && argv[i + 1])) {
			g_free(common->dir);
			common->dir = g_strdup(arg[5] ? arg + 6 : argv[++i]);
		} else if (strcmp(arg, "--dir") == 0) {
			cop_failure_usage(error, "missing argument for --dir");
			break;
		} else {
			cop_failure_usage(error, "unknown option %s", arg);
			break;
		}
	}
	return i;
}

/* No row of the table fits @words: help for a group, or a usage error. */
static int no_command(char **words, gboolean help, GError **error)
{
	const char *guess;

	if (!words[0]) {
		cop_commands_help(help ? stdout : stderr);
		return help ? COP_EXIT_OK : COP_EXIT_USAGE;
	}
	if (cop_commands_is_group(words[0])) {
		if (help || g_strcmp0(words[1], "--help") == 0 || g_strcmp0(words[1], "-h") == 0) {
			cop_commands_help_group(stdout, words[0]);
			return COP_EXIT_OK;
		}
		if (words[1])
			cop_failure_usage(error, "unknown command '%s %s'", words[0], words[1]);
		else
			cop_failure_usage(error, "%s: needs one more word", words[0]);
		return COP_EXIT_USAGE;
	}
	guess = cop_commands_guess(words[0]);
	if (guess)
		cop_failure_usage(error, "unknown command '%s'; did you mean '%s'?", words[0],
				  guess);
	else
		cop_failure_usage(error, "unknown command '%s'", words[0]);
	return COP_EXIT_USAGE;
}

/* Run @command with @argv, whose element 0 is the command's last word. */
static int run(const struct cop_command *command, char **argv, struct cop_common_options *leading,
	       struct cop_cli *cli, GError **error)
{
	struct cop_common_options common;
	g_auto(GStrv) args = NULL;
	void *values = NULL;
	int status = COP_EXIT_OK;

	if (leading->help) {
		cop_commands_help_one(stdout, command);
		return COP_EXIT_OK;
	}
	if (!cop_options_parse(command, argv, &common, &values, &args, error))
		return COP_EXIT_USAGE;
	cli->json = common.json || leading->json;
	cli->dir = state_dir(common.dir ? common.dir : leading->dir);
	if (common.help)
		cop_commands_help_one(stdout, command);
	else
		status = command->run(cli, values, args, error);
	cop_options_free(command, values);
	cop_options_clear(cop_common_entries, &common);
	return status;
}

/* Standard output may be a full disk: what was not written must not count as done. */
static int flush(int status)
{
	if (fflush(stdout) == 0 && !ferror(stdout))
		return status;
	if (errno != EPIPE)
		fprintf(stderr, "coppice: cannot write to standard output: %s\n",
			g_strerror(errno));
	return status == COP_EXIT_OK ? COP_EXIT_FAILED : status;
}

static int report(GError *error, const char *command, gboolean json)
{
	gboolean usage = g_error_matches(error, COP_FAILURE, COP_FAILURE_USAGE);

	if (json && !usage) {
		g_autoptr(JsonObject) document = json_object_new();

		json_object_set_object_member(document, "error", cop_failure_to_json(error));
		cop_output_json(document);
	}
	cop_failure_print(error, command);
	g_error_free(error);
	return usage ? COP_EXIT_USAGE : COP_EXIT_FAILED;
}

/* Where to look for help when no command was found: the group that argv[first] names, or "". */
static const char *group(char **argv, int first)
{
	const char *word = first < (int)g_strv_length(argv) ? argv[first] : NULL;

	return word && cop_commands_is_group(word) ? word : "";
}

int main(int argc, char **argv)
{
	struct cop_common_options leading = {0};
	const struct cop_command *command = NULL;
	struct cop_cli cli = {0};
	gboolean version = FALSE;
	unsigned nr_words = 1;
	GError *error = NULL;
	int status, first;

	setlocale(LC_ALL, "");
	if (argc < 1)
		return COP_EXIT_USAGE;
	first = read_leading(argv, &leading, &version, &error);
	if (error) {
		status = COP_EXIT_USAGE;
	} else if (version) {
		puts("coppice " COPPICE_VERSION);
		status = COP_EXIT_OK;
	} else {
		command = cop_commands_find(argv + first, &nr_words);
		status = command ? run(command, argv + first + nr_words - 1, &leading, &cli, &error)
				 : no_command(argv + first, leading.help, &error);
	}
	if (error) {
		int told = report(error, command ? command->name : group(argv, first), cli.json);

		/* A command with statuses of its own has said which. */
		if (!command || !command->failed_status)
			status = told;
		else if (status <= COP_EXIT_USAGE)
			status = command->failed_status;
	}
	cop_client_free(cli.client);
	g_free(cli.dir);
	g_free(leading.dir);
	return flush(status);
}
