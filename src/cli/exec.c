/* SPDX-License-Identifier: MIT */
/*
 * exec.c: one command that runs in a VM: see exec.h.
 *
 * Messages: the request as text; then binary ones, whose first byte says what they are (enum kind);
 * at the end the result as text. Credit is counted in bytes: `may_send` is what the guest has room
 * for, and written output is given back to the daemon as credit.
 */
#include "cli/exec.h"
#include "cli/answer.h"
#include "cli/failure.h"

#include <errno.h>
#include <glib-unix.h>
#include <string.h>
#include <unistd.h>

#define READ_BYTES 16384u
#define CREDIT_BYTES (64u * 1024) /* given back in pieces of at least this */

enum kind {
	KIND_STDIN = 0,
	KIND_STDOUT = 1,
	KIND_STDERR = 2,
	KIND_SIGNAL = 3,
	KIND_SIZE = 4,
	KIND_CREDIT = 5,
};

struct cop_exec {
	SoupWebsocketConnection *ws;
	struct cop_exec_wish wish;
	guint input_source;
	guint64 may_send;    /* bytes */
	guint32 consumed[3]; /* bytes, by stream */
	gboolean input_done, ended, output_failed;
	JsonObject *result;
};

static gboolean is_open(const struct cop_exec *e)
{
	return soup_websocket_connection_get_state(e->ws) == SOUP_WEBSOCKET_STATE_OPEN;
}

static void send_kind(struct cop_exec *e, enum kind kind, const void *data, gsize len)
{
	guint8 buf[READ_BYTES + 1];

	g_assert(len < sizeof(buf));
	buf[0] = (guint8)kind;
	if (len)
		memcpy(buf + 1, data, len);
	if (is_open(e))
		soup_websocket_connection_send_binary(e->ws, buf, len + 1);
}

static gboolean on_input(gint fd, GIOCondition condition, gpointer user)
{
	struct cop_exec *e = user;
	guint8 buf[READ_BYTES];
	ssize_t n = read(fd, buf, MIN(sizeof(buf), e->may_send));

	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return G_SOURCE_CONTINUE;
	if (n <= 0) {
		e->input_source = 0;
		e->input_done = TRUE;
		send_kind(e, KIND_STDIN, NULL, 0);
		return G_SOURCE_REMOVE;
	}
	send_kind(e, KIND_STDIN, buf, (gsize)n);
	e->may_send -= (guint64)n;
	if (e->may_send)
		return G_SOURCE_CONTINUE;
	e->input_source = 0;
	return G_SOURCE_REMOVE;
}

static void stop_input(struct cop_exec *e)
{
	if (e->input_source)
		g_source_remove(e->input_source);
	e->input_source = 0;
	e->input_done = TRUE;
}

static void want_input(struct cop_exec *e)
{
	if (e->input_source || e->input_done || !e->may_send || e->ended)
		return;
	/* Below what comes from the daemon: a file at standard input is always readable. */
	e->input_source = g_unix_fd_add_full(G_PRIORITY_LOW, e->wish.in_fd,
					     G_IO_IN | G_IO_HUP | G_IO_ERR, on_input, e, NULL);
}

gboolean cop_exec_write(int fd, const guint8 *data, gsize len)
{
	while (len) {
		ssize_t n = write(fd, data, len);

		if (n < 0 && errno == EAGAIN) {
			GPollFD poll = {.fd = fd, .events = G_IO_OUT};

			(void)g_poll(&poll, 1, -1);
		} else if (n < 0 && errno != EINTR) {
			return FALSE;
		} else if (n > 0) {
			data += n;
			len -= (gsize)n;
		}
	}
	return TRUE;
}

static void on_output(struct cop_exec *e, int stream, const guint8 *data, gsize len)
{
	guint8 wire[5];

	if (!e->output_failed && !e->wish.output(stream, data, len, e->wish.user)) {
		/* As a broken pipe ends a command that runs here. */
		e->output_failed = TRUE;
		stop_input(e);
		if (is_open(e))
			soup_websocket_connection_close(e->ws, SOUP_WEBSOCKET_CLOSE_NORMAL, NULL);
		return;
	}
	e->consumed[stream] += (guint32)len;
	if (e->consumed[stream] < CREDIT_BYTES)
		return;
	wire[0] = (guint8)stream;
	for (int i = 0; i < 4; i++)
		wire[1 + i] = (guint8)(e->consumed[stream] >> (24 - 8 * i));
	e->consumed[stream] = 0;
	send_kind(e, KIND_CREDIT, wire, sizeof(wire));
}

static void on_message(SoupWebsocketConnection *ws, gint type, GBytes *message, gpointer user)
{
	struct cop_exec *e = user;
	gsize len;
	const guint8 *data = g_bytes_get_data(message, &len);
	guint32 credit;

	if (type == SOUP_WEBSOCKET_DATA_TEXT) {
		g_clear_pointer(&e->result, json_object_unref);
		e->result = cop_answer_parse((const char *)data, (gssize)len, NULL);
		stop_input(e);
		return;
	}
	if (len < 1)
		return;
	if (data[0] == KIND_STDOUT || data[0] == KIND_STDERR) {
		on_output(e, data[0], data + 1, len - 1);
	} else if (data[0] == KIND_CREDIT && len == 6 && data[1] == KIND_STDIN) {
		memcpy(&credit, data + 2, 4);
		e->may_send += GUINT32_FROM_BE(credit);
		want_input(e);
	}
}

static void on_closed(SoupWebsocketConnection *ws, gpointer user)
{
	struct cop_exec *e = user;

	if (e->ended)
		return;
	stop_input(e);
	e->ended = TRUE;
	if (e->wish.ended)
		e->wish.ended(e->wish.user);
}

struct cop_exec *cop_exec_new(SoupWebsocketConnection *ws, const struct cop_exec_wish *wish)
{
	struct cop_exec *e = g_new0(struct cop_exec, 1);
	g_autoptr(JsonNode) node = json_node_new(JSON_NODE_OBJECT);
	g_autofree char *text = NULL;

	e->ws = ws;
	e->wish = *wish;
	e->input_done = wish->in_fd < 0;
	g_signal_connect(ws, "message", G_CALLBACK(on_message), e);
	g_signal_connect(ws, "closed", G_CALLBACK(on_closed), e);
	json_object_set_boolean_member(wish->request, "stdin", wish->in_fd >= 0);
	json_node_set_object(node, wish->request);
	text = json_to_string(node, FALSE);
	if (is_open(e))
		soup_websocket_connection_send_text(ws, text);
	else if (soup_websocket_connection_get_state(ws) == SOUP_WEBSOCKET_STATE_CLOSED)
		on_closed(ws, e);
	return e;
}

void cop_exec_free(struct cop_exec *e)
{
	if (!e)
		return;
	stop_input(e);
	g_signal_handlers_disconnect_by_data(e->ws, e);
	g_object_unref(e->ws);
	if (e->result)
		json_object_unref(e->result);
	g_free(e);
}

void cop_exec_signal(struct cop_exec *e, int number)
{
	guint8 byte = (guint8)number;

	send_kind(e, KIND_SIGNAL, &byte, 1);
}

void cop_exec_resize(struct cop_exec *e, unsigned rows, unsigned columns)
{
	guint16 size[2] = {GUINT16_TO_BE((guint16)rows), GUINT16_TO_BE((guint16)columns)};

	send_kind(e, KIND_SIZE, size, sizeof(size));
}

gboolean cop_exec_done(const struct cop_exec *e)
{
	return e->ended;
}

JsonObject *cop_exec_result(const struct cop_exec *e)
{
	return e->result;
}

int cop_exec_status(const struct cop_exec *e, GError **error)
{
	const char *why = soup_websocket_connection_get_close_data(e->ws);

	if (e->output_failed)
		return COP_EXEC_SIGNALLED + SIGPIPE;
	if (e->result && cop_answer_object(e->result, "error")) {
		gboolean late = strcmp(cop_answer_string(cop_answer_object(e->result, "error"),
							 "code"),
				       "timeout") == 0;

		cop_failure_from_json(error, e->result, 0);
		return late ? COP_EXEC_TIMED_OUT : COP_EXEC_FAILED;
	}
	if (e->result && !cop_answer_is_null(e->result, "signal"))
		return COP_EXEC_SIGNALLED + (int)MIN(cop_answer_uint(e->result, "signal"), 127);
	if (e->result && !cop_answer_is_null(e->result, "exit"))
		return (int)(cop_answer_uint(e->result, "exit") & 255);
	cop_failure_set(error, COP_FAILURE_UNREACHABLE, NULL,
			"the connection to coppiced was lost%s%s: what became of the command is not "
			"known",
			why && *why ? ": " : "", why ?: "");
	return COP_EXEC_FAILED;
}

gboolean cop_exec_add_pair(JsonObject *object, const char *option, const char *text,
			   gboolean environment, GError **error)
{
	const char *sign = strchr(text, '=');
	g_autofree char *key = g_strndup(text, sign ? (gsize)(sign - text) : strlen(text));

	if (!*key || (!sign && !environment))
		return cop_failure_usage(error, "%s: '%s' is not KEY=VALUE", option, text);
	if (!g_utf8_validate(text, -1, NULL))
		return cop_failure_usage(error, "%s: '%s' is not UTF-8", option, key);
	if (sign)
		json_object_set_string_member(object, key, sign + 1);
	else if (g_getenv(key) && g_utf8_validate(g_getenv(key), -1, NULL))
		json_object_set_string_member(object, key, g_getenv(key));
	return TRUE;
}
