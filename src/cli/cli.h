/* SPDX-License-Identifier: MIT */
/* cli.h: what every command is given, and what makes a command. */
#ifndef COP_CLI_CLI_H
#define COP_CLI_CLI_H

#include <glib.h>
#include <json-glib/json-glib.h>

struct cop_client;

/* One call of the program. */
struct cop_cli {
	char *dir;		   /* state directory, absolute */
	gboolean json;		   /* standard output is for a program */
	struct cop_client *client; /* of the main thread; see cop_cli_client() */
};

/* Exit statuses. */
enum {
	COP_EXIT_OK = 0,
	COP_EXIT_FAILED = 1,
	COP_EXIT_USAGE = 2,
};

/*
 * A row of the table of commands. Its options are described as for GOptionContext, except that
 * arg_data is an offset into the command's own option structure (COP_OPTION), of options_bytes
 * bytes, zero when the command line says nothing. Strings in it are freed after the call.
 */
struct cop_command {
	const char *name;      /* one word or two: "template rm" */
	const char *arguments; /* "VM TEMPLATE" */
	const char *summary;
	const char *details; /* paragraph below the summary in --help, or NULL */
	unsigned min_args, max_args;
	const GOptionEntry *options;
	size_t options_bytes;
	int failed_status; /* of all errors, usage too; 0: COP_EXIT_FAILED and COP_EXIT_USAGE */
	/*
	 * Do it. @options points to the filled structure; @args is NULL-terminated and has
	 * min_args to max_args elements. Returns the exit status, and may set *@error, which is
	 * then printed and decides between COP_EXIT_FAILED and COP_EXIT_USAGE.
	 */
	int (*run)(struct cop_cli *cli, const void *options, char **args, GError **error);
};

#define COP_OPTION(type, member) GSIZE_TO_POINTER(offsetof(struct type, member))
#define COP_ANY_NUMBER		 G_MAXUINT

/*
 * The connection to the daemon of cli->dir, which is started if nobody listens there. Borrowed;
 * NULL with *@error set. Blocks until the daemon serves.
 */
struct cop_client *cop_cli_client(struct cop_cli *cli, GError **error);

#endif
