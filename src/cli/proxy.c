/* SPDX-License-Identifier: MIT */
/*
 * proxy.c: TCP connections bridged to a WebSocket: see proxy.h.
 *
 * A join copies bytes both ways on the main context's thread. TCP is read one piece at a
 * time. What the WebSocket brings waits in `output` until TCP takes it; a viewer that does not
 * read is cut off at MAX_OUTPUT_BYTES (RFB sends pictures only on request, so a good one never is).
 * A join has a reference for each callback under way; `ended` is set first, the last one frees it.
 */
#include "cli/proxy.h"
#include "cli/client.h"
#include "cli/failure.h"

#include <string.h>

#define MAX_OUTPUT_BYTES (64u * 1024 * 1024)
#define READ_BYTES	 32768

struct cop_proxy {
	GSocketService *service;
	char *dir, *path;
	GPtrArray *joins; /* struct join *, a reference each */
};

struct join {
	gatomicrefcount refs;
	struct cop_proxy *proxy;
	struct cop_client *client;
	GSocketConnection *tcp;
	SoupWebsocketConnection *ws;
	GByteArray *output;
	GBytes *writing;
	GCancellable *cancel;
	gboolean ended;
	guint8 input[READ_BYTES];
};

static void unref(struct join *j)
{
	if (!g_atomic_ref_count_dec(&j->refs))
		return;
	if (j->ws)
		g_object_unref(j->ws);
	cop_client_free(j->client);
	g_object_unref(j->tcp);
	g_object_unref(j->cancel);
	g_byte_array_unref(j->output);
	if (j->writing)
		g_bytes_unref(j->writing);
	g_free(j);
}

static struct join *ref(struct join *j)
{
	g_atomic_ref_count_inc(&j->refs);
	return j;
}

static void end(struct join *j)
{
	if (j->ended)
		return;
	j->ended = TRUE;
	g_cancellable_cancel(j->cancel);
	if (j->ws) {
		g_signal_handlers_disconnect_by_data(j->ws, j);
		if (soup_websocket_connection_get_state(j->ws) == SOUP_WEBSOCKET_STATE_OPEN)
			soup_websocket_connection_close(j->ws, SOUP_WEBSOCKET_CLOSE_NORMAL, NULL);
	}
	(void)g_io_stream_close(G_IO_STREAM(j->tcp), NULL, NULL); /* it is given up either way */
	if (j->proxy)
		g_ptr_array_remove_fast(j->proxy->joins, j);
}

static void read_on(struct join *j);
static void write_on(struct join *j);

static void on_read(GObject *stream, GAsyncResult *result, gpointer user)
{
	struct join *j = user;
	gssize n = g_input_stream_read_finish(G_INPUT_STREAM(stream), result, NULL);

	if (!j->ended && n > 0 &&
	    soup_websocket_connection_get_state(j->ws) == SOUP_WEBSOCKET_STATE_OPEN) {
		soup_websocket_connection_send_binary(j->ws, j->input, (gsize)n);
		read_on(j);
	} else {
		end(j);
	}
	unref(j);
}

static void read_on(struct join *j)
{
	g_input_stream_read_async(g_io_stream_get_input_stream(G_IO_STREAM(j->tcp)), j->input,
				  sizeof(j->input), G_PRIORITY_DEFAULT, j->cancel, on_read, ref(j));
}

static void on_written(GObject *stream, GAsyncResult *result, gpointer user)
{
	struct join *j = user;

	g_clear_pointer(&j->writing, g_bytes_unref);
	if (!g_output_stream_write_all_finish(G_OUTPUT_STREAM(stream), result, NULL, NULL))
		end(j);
	if (!j->ended)
		write_on(j);
	unref(j);
}

static void write_on(struct join *j)
{
	GOutputStream *out = g_io_stream_get_output_stream(G_IO_STREAM(j->tcp));
	gsize len;
	const void *data;

	if (j->writing || !j->output->len)
		return;
	j->writing = g_byte_array_free_to_bytes(j->output);
	j->output = g_byte_array_new();
	data = g_bytes_get_data(j->writing, &len);
	g_output_stream_write_all_async(out, data, len, G_PRIORITY_DEFAULT, j->cancel, on_written,
					ref(j));
}

static void on_message(SoupWebsocketConnection *ws, gint type, GBytes *message, gpointer user)
{
	struct join *j = user;
	gsize len;
	const guint8 *data = g_bytes_get_data(message, &len);

	if (j->output->len + len > MAX_OUTPUT_BYTES) {
		end(j);
		return;
	}
	g_byte_array_append(j->output, data, (guint)len);
	write_on(j);
}

static void on_closed(SoupWebsocketConnection *ws, gpointer user)
{
	struct join *j = ref(user);

	end(j);
	unref(j);
}

static gboolean on_incoming(GSocketService *service, GSocketConnection *tcp, GObject *source,
			    gpointer user)
{
	struct cop_proxy *proxy = user;
	struct join *j = g_new0(struct join, 1);
	g_autoptr(GError) error = NULL;

	g_atomic_ref_count_init(&j->refs);
	j->proxy = proxy;
	j->client = cop_client_new(proxy->dir);
	j->tcp = g_object_ref(tcp);
	j->cancel = g_cancellable_new();
	j->output = g_byte_array_new();
	g_ptr_array_add(proxy->joins, j);
	ref(j);
	j->ws = cop_client_websocket(j->client, proxy->path, &error);
	if (!j->ws) {
		cop_failure_print(error, "");
		end(j);
	} else if (j->ended) {
		soup_websocket_connection_close(j->ws, SOUP_WEBSOCKET_CLOSE_NORMAL, NULL);
	} else {
		g_signal_connect(j->ws, "message", G_CALLBACK(on_message), j);
		g_signal_connect(j->ws, "closed", G_CALLBACK(on_closed), j);
		read_on(j);
	}
	unref(j);
	return TRUE;
}

struct cop_proxy *cop_proxy_new(const char *dir, const char *path, const char *address,
				guint16 port, guint16 *ret_port, GError **error)
{
	struct cop_proxy *proxy = g_new0(struct cop_proxy, 1);
	g_autoptr(GSocketAddress) wanted = g_inet_socket_address_new_from_string(address, port);
	g_autoptr(GSocketAddress) effective = NULL;
	g_autoptr(GError) why = NULL;

	proxy->service = g_socket_service_new();
	proxy->dir = g_strdup(dir);
	proxy->path = g_strdup(path);
	proxy->joins = g_ptr_array_new_with_free_func((GDestroyNotify)unref);
	if (!wanted || !g_socket_listener_add_address(G_SOCKET_LISTENER(proxy->service), wanted,
						      G_SOCKET_TYPE_STREAM, G_SOCKET_PROTOCOL_TCP,
						      NULL, &effective, &why)) {
		cop_failure_set(error, COP_FAILURE_INTERNAL, NULL,
				"cannot listen at %s port %u: %s", address, port,
				why ? why->message : "no such address");
		cop_proxy_free(proxy);
		return NULL;
	}
	*ret_port = g_inet_socket_address_get_port(G_INET_SOCKET_ADDRESS(effective));
	g_signal_connect(proxy->service, "incoming", G_CALLBACK(on_incoming), proxy);
	g_socket_service_start(proxy->service);
	return proxy;
}

void cop_proxy_free(struct cop_proxy *proxy)
{
	if (!proxy)
		return;
	g_socket_service_stop(proxy->service);
	g_socket_listener_close(G_SOCKET_LISTENER(proxy->service));
	while (proxy->joins->len) {
		struct join *j = ref(proxy->joins->pdata[proxy->joins->len - 1]);

		end(j);
		j->proxy = NULL;
		unref(j);
	}
	/* Callbacks that were cancelled give their references back. */
	while (g_main_context_iteration(NULL, FALSE))
		;
	g_ptr_array_unref(proxy->joins);
	g_object_unref(proxy->service);
	g_free(proxy->dir);
	g_free(proxy->path);
	g_free(proxy);
}
