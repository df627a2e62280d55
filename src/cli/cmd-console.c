/* SPDX-License-Identifier: MIT */
/*
 * cmd-console.c: coppice console VM: standard input and output joined to a VM's serial port.
 *
 * States: open (both ways), draining (standard input has ended and what it held was sent),
 * closing (our side said goodbye, what was queued is being sent), ended. The escape key, --until with
 * standard input at its end, and --timeout move to closing; the far side moves to ended.
 * All on one thread. Standard output blocks: a slow reader slows the guest's output, and
 * nothing piles up. Standard input is read only while what was read before has been taken.
 *
 * Output goes to the terminal as the guest wrote it, control characters and all: that is what a
 * console is for.
 */
#include "cli/client.h"
#include "cli/commands.h"
#include "cli/failure.h"
#include "cli/options.h"
#include "cli/output.h"
#include "cli/search.h"
#include "cli/terminal.h"
#include "cli/text.h"

#include <errno.h>
#include <glib-unix.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* The most output that --json returns: the last part of it. */
#define MAX_KEPT_BYTES (1024u * 1024)
#define MAX_TIMEOUT_S (7 * 24 * 3600)
#define DEFAULT_KEY 0x1d

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
	{NULL}};

struct console {
	struct cop_cli *cli;
	SoupWebsocketConnection *ws;
	GMainLoop *loop;
	GByteArray *kept; /* with --json */
	struct cop_search *search; /* or NULL */
	int key;		   /* -1: none */
	guint input_source, timeout_source;
	GSource *writable; /* of the WebSocket, while it is full */
	gboolean terminal, found, input_done, timed_out, left, output_failed;
};

static void stop_input(struct console *c)
{
	if (c->input_source)
		g_source_remove(c->input_source);
	c->input_source = 0;
	if (c->writable) {
		g_source_destroy(c->writable);
		g_clear_pointer(&c->writable, g_source_unref);
	}
}

static void leave(struct console *c)
{
	stop_input(c);
	c->left = TRUE;
	if (soup_websocket_connection_get_state(c->ws) == SOUP_WEBSOCKET_STATE_OPEN)
		soup_websocket_connection_close(c->ws, SOUP_WEBSOCKET_CLOSE_NORMAL, NULL);
}

static void write_all(struct console *c, const guint8 *data, gsize len)
{
	while (len && !c->output_failed) {
		ssize_t n = write(1, data, len);

		if (n < 0 && errno == EAGAIN) {
			GPollFD poll = {.fd = 1, .events = G_IO_OUT};

			(void)g_poll(&poll, 1, -1);
		} else if (n < 0 && errno != EINTR) {
			c->output_failed = TRUE;
		} else if (n > 0) {
			data += n;
			len -= (gsize)n;
		}
	}
}

static void keep(struct console *c, const guint8 *data, gsize len)
{
	g_byte_array_append(c->kept, data, (guint)len);
	if (c->kept->len > 2 * MAX_KEPT_BYTES)
		g_byte_array_remove_range(c->kept, 0, c->kept->len - MAX_KEPT_BYTES);
}

static void on_message(SoupWebsocketConnection *ws, gint type, GBytes *message, gpointer user)
{
	struct console *c = user;
	gsize len;
	const guint8 *data = g_bytes_get_data(message, &len);

	if (c->left)
		return;
	if (c->cli->json)
		keep(c, data, len);
	else
		write_all(c, data, len);
	if (c->search && cop_search_feed(c->search, data, len))
		c->found = TRUE;
	if (c->output_failed || (c->found && (c->input_done || c->terminal)))
		leave(c);
}

static void on_closed(SoupWebsocketConnection *ws, gpointer user)
{
	struct console *c = user;

	g_main_loop_quit(c->loop);
}

static gboolean on_input(gint fd, GIOCondition condition, gpointer user);

static gboolean on_writable(GObject *stream, gpointer user)
{
	struct console *c = user;

	g_clear_pointer(&c->writable, g_source_unref);
	c->input_source = g_unix_fd_add(0, G_IO_IN | G_IO_HUP | G_IO_ERR, on_input, c);
	return G_SOURCE_REMOVE;
}

/* Behind the sending, at low priority: read on as soon as the WebSocket takes more. */
static gboolean on_taken(gpointer user)
{
	struct console *c = user;
	GIOStream *io = soup_websocket_connection_get_io_stream(c->ws);
	GOutputStream *out = io ? g_io_stream_get_output_stream(io) : NULL;

	c->input_source = 0;
	if (!out || !G_IS_POLLABLE_OUTPUT_STREAM(out))
		return G_SOURCE_REMOVE; /* it is closed */
	c->writable = g_pollable_output_stream_create_source(G_POLLABLE_OUTPUT_STREAM(out), NULL);
	g_source_set_callback(c->writable, G_SOURCE_FUNC(on_writable), c, NULL);
	g_source_attach(c->writable, NULL);
	return G_SOURCE_REMOVE;
}

static void input_ended(struct console *c)
{
	c->input_done = TRUE;
	/* The terminal is gone, or has been closed: nobody is there to go on for. */
	if (c->terminal || c->found)
		leave(c);
}

static gboolean on_input(gint fd, GIOCondition condition, gpointer user)
{
	struct console *c = user;
	guint8 buf[4096], *key = NULL;
	ssize_t n = read(0, buf, sizeof(buf));

	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return G_SOURCE_CONTINUE;
	c->input_source = 0;
	if (n <= 0) {
		input_ended(c);
		return G_SOURCE_REMOVE;
	}
	if (c->terminal && c->key >= 0)
		key = memchr(buf, c->key, (size_t)n);
	if (key)
		n = key - buf;
	if (n > 0 && soup_websocket_connection_get_state(c->ws) == SOUP_WEBSOCKET_STATE_OPEN)
		soup_websocket_connection_send_binary(c->ws, buf, (gsize)n);
	if (key)
		leave(c);
	else
		c->input_source = g_idle_add_full(G_PRIORITY_LOW, on_taken, c, NULL);
	return G_SOURCE_REMOVE;
}

static gboolean on_timeout(gpointer user)
{
	struct console *c = user;

	c->timeout_source = 0;
	c->timed_out = TRUE;
	leave(c);
	return G_SOURCE_REMOVE;
}

/* "Ctrl-]" for 0x1d; caller frees. */
static char *key_name(int key)
{
	if (key < 0x20)
		return g_strdup_printf("Ctrl-%c", key + '@');
	return g_strdup_printf("'%c'", key);
}

static void greet(const struct console *c, const char *vm)
{
	g_autofree char *key = c->key >= 0 ? key_name(c->key) : NULL;

	if (key)
		fprintf(stderr, "console of '%s'; %s leaves it\n", vm, key);
	else
		fprintf(stderr, "console of '%s'; no key leaves it\n", vm);
}

static void print_json(const struct console *c, const char *vm)
{
	g_autoptr(JsonObject) document = json_object_new();
	guint skip = c->kept->len > MAX_KEPT_BYTES ? c->kept->len - MAX_KEPT_BYTES : 0;
	g_autofree char *text = g_utf8_make_valid((char *)c->kept->data + skip,
						  (gssize)(c->kept->len - skip));

	json_object_set_string_member(document, "name", vm);
	json_object_set_boolean_member(document, "found", c->found);
	json_object_set_string_member(document, "output", text);
	cop_output_json(document);
}

static int end(const struct console *c, const char *vm, const struct console_options *o,
	       GError **error)
{
	const char *why = soup_websocket_connection_get_close_data(c->ws);
	gushort code = soup_websocket_connection_get_close_code(c->ws);
	int status = COP_EXIT_OK;

	if (c->cli->json)
		print_json(c, vm);
	else if (c->terminal)
		fputc('\n', stderr); /* the guest's line is rarely at its end */
	if (c->terminal && c->left)
		fprintf(stderr, "left the console of '%s'\n", vm);
	if (c->output_failed) {
		fputs("coppice: cannot write to standard output\n", stderr);
		return COP_EXIT_FAILED;
	}
	if (!c->left && (code == 0 || code == SOUP_WEBSOCKET_CLOSE_ABNORMAL)) {
		fputs("coppice: the connection to coppiced was lost\n", stderr);
		status = COP_EXIT_FAILED;
	} else if (!c->left && why && *why) {
		g_autofree char *clean = cop_text_clean(why);

		fprintf(stderr, "coppice: %s\n", clean);
	}
	if (!o->until || c->found)
		return status;
	if (c->timed_out)
		fprintf(stderr, "coppice: '%s' did not print '%s' within %s s\n", vm, o->until,
			o->timeout);
	else
		fprintf(stderr, "coppice: '%s' did not print '%s'\n", vm, o->until);
	return COP_EXIT_FAILED;
}

/* Standard input and output joined to c->ws, until one side ends it. */
static int join(struct console *c, const char *vm, uint64_t timeout_s)
{
	int status;

	c->loop = g_main_loop_new(NULL, FALSE);
	g_signal_connect(c->ws, "message", G_CALLBACK(on_message), c);
	g_signal_connect(c->ws, "closed", G_CALLBACK(on_closed), c);
	if (isatty(0) && !c->cli->json)
		greet(c, vm);
	status = c->cli->json && isatty(0) ? 1 : cop_terminal_make_raw();
	if (status < 0)
		return status;
	c->terminal = status == 0;
	if (timeout_s)
		c->timeout_source = g_timeout_add_seconds((guint)timeout_s, on_timeout, c);
	/* With --json a terminal is not read: there is nothing to see for who types. */
	if (c->terminal || !isatty(0))
		c->input_source = g_unix_fd_add(0, G_IO_IN | G_IO_HUP | G_IO_ERR, on_input, c);
	else
		c->input_done = TRUE;
	if (soup_websocket_connection_get_state(c->ws) != SOUP_WEBSOCKET_STATE_CLOSED)
		g_main_loop_run(c->loop);
	cop_terminal_restore();
	return 0;
}

static void clear(struct console *c)
{
	stop_input(c);
	if (c->timeout_source)
		g_source_remove(c->timeout_source);
	if (c->ws) {
		g_signal_handlers_disconnect_by_data(c->ws, c);
		g_object_unref(c->ws);
	}
	if (c->loop)
		g_main_loop_unref(c->loop);
	g_byte_array_unref(c->kept);
	cop_search_free(c->search);
}

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
		return cop_failure_usage(error, "--escape: '%s' is no key; write a character, ^X, or "
					 "none", o->escape);
	return TRUE;
}

static int run(struct cop_cli *cli, const void *options, char **args, GError **error)
{
	const struct console_options *o = options;
	struct console c = {.cli = cli, .key = DEFAULT_KEY};
	g_autofree char *path = NULL;
	struct cop_client *client;
	uint64_t timeout_s = 0;
	int status;

	if (!check(o, args[0], &c.key, &timeout_s, error))
		return COP_EXIT_USAGE;
	client = cop_cli_client(cli, error);
	if (!client)
		return COP_EXIT_FAILED;
	path = cop_client_path("/v1/vms/", args[0], "/console");
	c.ws = cop_client_websocket(client, path, error);
	if (!c.ws)
		return COP_EXIT_FAILED;
	c.kept = g_byte_array_new();
	c.search = o->until ? cop_search_new(o->until) : NULL;
	status = join(&c, args[0], timeout_s);
	if (status < 0) {
		cop_failure_set(error, COP_FAILURE_INTERNAL, NULL, "cannot set the terminal: %s",
				g_strerror(-status));
		status = COP_EXIT_FAILED;
	} else {
		status = end(&c, args[0], o, error);
	}
	clear(&c);
	return status;
}

const struct cop_command cop_cmd_console = {
	.name = "console",
	.arguments = "VM",
	.summary = "Join the terminal to a VM's serial console",
	.details = "What the VM printed last comes first. When standard input is no terminal, all of it is\n"
		   "sent; printing then goes on until the VM ends or --until was seen, in old output\n"
		   "too. The output is not made safe: the guest may steer the terminal.",
	.min_args = 1,
	.max_args = 1,
	.options = entries,
	.options_bytes = sizeof(struct console_options),
	.run = run,
};
