/* SPDX-License-Identifier: MIT */
/* cmd-console.c: coppice console VM: the terminal, or a pipe, at a VM's serial port. */
#include "cli/client.h"
#include "cli/commands.h"
#include "cli/console.h"
#include "cli/failure.h"
#include "cli/options.h"
#include "cli/output.h"
#include "cli/text.h"

#include <stdio.h>

#define MAX_TIMEOUT_S (7 * 24 * 3600)
#define DEFAULT_KEY   0x1d /* Ctrl-] */

struct console_options {
	char *escape, *until, *timeout;
};

static const GOptionEntry entries[] = {
	{"escape", 'e', 0, G_OPTION_ARG_STRING, COP_OPTION(console_options, escape),
	 "Key that leaves: a character, ^X for Ctrl-X (default ^]), or none", "CHAR"},
	{"until", 'u', 0, G_OPTION_ARG_STRING, COP_OPTION(console_options, until),
	 "Leave when this was printed and all input was sent", "TEXT"},
	{"timeout", 't', 0, G_OPTION_ARG_STRING, COP_OPTION(console_options, timeout),
	 "With --until: give up, with exit status 1, after this time", "SECONDS"},
	{NULL},
};

static gboolean check(const struct console_options *o, const char *vm, int *ret_key,
		      uint64_t *ret_timeout_s, GError **error)
{
	if (!cop_options_name("VM", vm, error) ||
	    !cop_options_number("--timeout", o->timeout, 1, MAX_TIMEOUT_S, ret_timeout_s, error))
		return FALSE;
	if (o->timeout && !o->until)
		return cop_failure_usage(error, "console: --timeout goes with --until");
	if (o->until && !*o->until)
		return cop_failure_usage(error, "console: --until needs a text");
	if (o->escape && !cop_text_parse_key(o->escape, ret_key))
		return cop_failure_usage(error,
					 "--escape: '%s' is no key; write a character, ^X, or "
					 "none",
					 o->escape);
	return TRUE;
}

static void print_json(const struct cop_console_wish *wish, const struct cop_console_end *end)
{
	g_autoptr(JsonObject) document = json_object_new();

	json_object_set_string_member(document, "name", wish->vm);
	json_object_set_boolean_member(document, "found", end->found);
	json_object_set_string_member(document, "output", end->output);
	cop_output_json(document);
}

/* Says how it ended; returns the exit status. */
static int report(const struct cop_console_wish *wish, const struct cop_console_end *end)
{
	gboolean failed = end->output_failed || end->lost;

	if (end->terminal)
		fputc('\n', stderr); /* the guest is rarely at the beginning of a line */
	if (end->terminal && end->left)
		fprintf(stderr, "left the console of '%s'\n", wish->vm);
	if (end->output_failed)
		fputs("coppice: cannot write to standard output\n", stderr);
	if (end->lost) {
		fputs("coppice: the connection to coppiced was lost\n", stderr);
	} else if (end->reason) {
		g_autofree char *clean = cop_text_clean(end->reason);

		fprintf(stderr, "coppice: %s\n", clean);
	}
	if (!wish->until || end->found || end->output_failed)
		return failed ? COP_EXIT_FAILED : COP_EXIT_OK;
	fprintf(stderr, "coppice: '%s' did not print '%s'", wish->vm, wish->until);
	if (end->timed_out)
		fprintf(stderr, " within %u s", wish->timeout_s);
	fputc('\n', stderr);
	return COP_EXIT_FAILED;
}

static int run(struct cop_cli *cli, const void *options, char **args, GError **error)
{
	const struct console_options *o = options;
	struct cop_console_wish wish = {
		.vm = args[0], .until = o->until, .key = DEFAULT_KEY, .collect = cli->json};
	struct cop_console_end end;
	g_autoptr(SoupWebsocketConnection) ws = NULL;
	g_autofree char *path = NULL;
	struct cop_client *client;
	uint64_t timeout_s = 0;
	int status;

	if (!check(o, args[0], &wish.key, &timeout_s, error))
		return COP_EXIT_USAGE;
	wish.timeout_s = (guint)timeout_s;
	client = cop_cli_client(cli, error);
	path = cop_client_path("/v1/vms/", args[0], "/console");
	ws = client ? cop_client_websocket(client, path, error) : NULL;
	if (!ws)
		return COP_EXIT_FAILED;
	status = cop_console_join(ws, &wish, &end);
	if (status < 0) {
		cop_failure_set(error, COP_FAILURE_INTERNAL, NULL, "cannot set the terminal: %s",
				g_strerror(-status));
		return COP_EXIT_FAILED;
	}
	if (cli->json)
		print_json(&wish, &end);
	status = report(&wish, &end);
	cop_console_end_clear(&end);
	return status;
}

const struct cop_command cop_cmd_console = {
	.name = "console",
	.arguments = "VM",
	.summary = "Join the terminal to a VM's serial console",
	.details = "What the VM printed last comes first. When standard input is no terminal, all "
		   "of it is sent; printing then goes on until the VM ends or --until was seen, in "
		   "old output too. The output is not made safe: the guest may steer the terminal.",
	.min_args = 1,
	.max_args = 1,
	.options = entries,
	.options_bytes = sizeof(struct console_options),
	.run = run,
};
