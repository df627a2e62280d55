/* SPDX-License-Identifier: MIT */
/*
 * console.c: standard input and output joined to a VM's serial port: see console.h.
 *
 * States: open (both ways), draining (standard input has ended and what it held was sent),
 * closing (our side said goodbye, what was queued is being sent), ended. The escape key, the text
 * to wait for with standard input at its end, and the time limit move to closing; the far side
 * moves to ended. All on one thread. Standard output blocks: a slow reader slows the guest's
 * output, and nothing piles up. Standard input is read only while what was read before has been
 * taken.
 *
 * Output goes to the terminal as the guest wrote it, control characters and all: that is what a
 * console is for.
 */
#include "cli/console.h"
#include "cli/search.h"
#include "cli/terminal.h"

#include <errno.h>
#include <glib-unix.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define MAX_KEPT_BYTES (1024u * 1024)

struct console {
	const struct cop_console_wish *wish;
	struct cop_console_end end;
	SoupWebsocketConnection *ws;
	GMainLoop *loop;
	GByteArray *kept;	   /* with wish->collect */
	struct cop_search *search; /* or NULL */
	guint input_source, timeout_source;
	GSource *writable; /* of the WebSocket, while it is full */
	gboolean input_done;
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
	c->end.left = TRUE;
	if (soup_websocket_connection_get_state(c->ws) == SOUP_WEBSOCKET_STATE_OPEN)
		soup_websocket_connection_close(c->ws, SOUP_WEBSOCKET_CLOSE_NORMAL, NULL);
}

static void write_all(struct console *c, const guint8 *data, gsize len)
{
	while (len && !c->end.output_failed) {
		ssize_t n = write(1, data, len);

		if (n < 0 && errno == EAGAIN) {
			GPollFD poll = {.fd = 1, .events = G_IO_OUT};

			(void)g_poll(&poll, 1, -1);
		} else if (n < 0 && errno != EINTR) {
			c->end.output_failed = TRUE;
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

	if (c->end.left)
		return;
	if (c->wish->collect)
		keep(c, data, len);
	else
		write_all(c, data, len);
	if (c->search && cop_search_feed(c->search, data, len))
		c->end.found = TRUE;
	if (c->end.output_failed || (c->end.found && (c->input_done || c->end.terminal)))
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
	if (c->end.terminal || c->end.found)
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
	if (c->end.terminal && c->wish->key >= 0)
		key = memchr(buf, c->wish->key, (size_t)n);
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
	c->end.timed_out = TRUE;
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

static void greet(const struct cop_console_wish *wish)
{
	g_autofree char *key = wish->key >= 0 ? key_name(wish->key) : NULL;

	if (key)
		fprintf(stderr, "console of '%s'; %s leaves it\n", wish->vm, key);
	else
		fprintf(stderr, "console of '%s'; no key leaves it\n", wish->vm);
}

/* What is known at the end. */
static void conclude(struct console *c)
{
	const char *why = soup_websocket_connection_get_close_data(c->ws);
	gushort code = soup_websocket_connection_get_close_code(c->ws);
	guint skip = c->kept->len > MAX_KEPT_BYTES ? c->kept->len - MAX_KEPT_BYTES : 0;

	c->end.lost = !c->end.left && (code == 0 || code == SOUP_WEBSOCKET_CLOSE_ABNORMAL);
	c->end.reason = !c->end.left && why && *why ? g_strdup(why) : NULL;
	if (c->wish->collect)
		c->end.output = g_utf8_make_valid((char *)c->kept->data + skip,
						  (gssize)(c->kept->len - skip));
}

static void clear(struct console *c)
{
	stop_input(c);
	if (c->timeout_source)
		g_source_remove(c->timeout_source);
	g_signal_handlers_disconnect_by_data(c->ws, c);
	g_main_loop_unref(c->loop);
	g_byte_array_unref(c->kept);
	cop_search_free(c->search);
}

static int run(struct console *c)
{
	gboolean terminal = isatty(0);
	int status = 0;

	if (terminal && !c->wish->collect) {
		greet(c->wish);
		status = cop_terminal_make_raw();
		if (status < 0)
			return status;
		c->end.terminal = TRUE;
	}
	if (c->wish->timeout_s)
		c->timeout_source = g_timeout_add_seconds(c->wish->timeout_s, on_timeout, c);
	/* Who types wants to see something: without output, a terminal is not read. */
	if (c->end.terminal || !terminal)
		c->input_source = g_unix_fd_add(0, G_IO_IN | G_IO_HUP | G_IO_ERR, on_input, c);
	else
		c->input_done = TRUE;
	if (soup_websocket_connection_get_state(c->ws) != SOUP_WEBSOCKET_STATE_CLOSED)
		g_main_loop_run(c->loop);
	cop_terminal_restore();
	conclude(c);
	return 0;
}

int cop_console_join(SoupWebsocketConnection *ws, const struct cop_console_wish *wish,
		     struct cop_console_end *ret_end)
{
	struct console c = {.wish = wish, .ws = ws};
	int status;

	c.loop = g_main_loop_new(NULL, FALSE);
	c.kept = g_byte_array_new();
	c.search = wish->until ? cop_search_new(wish->until) : NULL;
	g_signal_connect(ws, "message", G_CALLBACK(on_message), &c);
	g_signal_connect(ws, "closed", G_CALLBACK(on_closed), &c);
	status = run(&c);
	clear(&c);
	if (status == 0)
		*ret_end = c.end;
	return status;
}

void cop_console_end_clear(struct cop_console_end *end)
{
	g_clear_pointer(&end->reason, g_free);
	g_clear_pointer(&end->output, g_free);
}
