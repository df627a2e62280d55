/* A VM's serial console: see console.h.
 *
 * Data: `ring` keeps the last RING_BYTES that the guest printed; `total` counts all of it. A viewer
 * has a position in that count. `input` holds what viewers typed and QEMU has not taken.
 * A guest may print without end and a viewer may read nothing: a viewer that is not writable waits,
 * and skips what has left the ring when it comes back. So nothing here grows.
 */
#include "console.h"
#include "sockets.h"

#include <errno.h>
#include <glib-unix.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define RING_BYTES (256u * 1024)
#define SEND_BYTES (32u * 1024)
#define MAX_INPUT_BYTES (1024u * 1024)

struct viewer {
	struct cop_console *console;
	SoupWebsocketConnection *ws;
	guint64 position;
	GSource *writable;
};

struct cop_console {
	gatomicrefcount refs;
	char *path;
	int fd;
	guint read_source, write_source;
	gboolean closed;
	GByteArray *input;
	GPtrArray *viewers; /* struct viewer *, owned */
	guint64 total;
	guint8 *ring;
};

struct cop_console *cop_console_ref(struct cop_console *console)
{
	g_atomic_ref_count_inc(&console->refs);
	return console;
}

void cop_console_unref(struct cop_console *console)
{
	if (!console || !g_atomic_ref_count_dec(&console->refs))
		return;
	if (console->fd >= 0)
		close(console->fd);
	g_free(console->path);
	g_byte_array_unref(console->input);
	g_ptr_array_unref(console->viewers);
	g_free(console->ring);
	g_free(console);
}

static gboolean on_viewer_writable(GObject *stream, gpointer user);

/* Sends what the viewer has not seen, as far as it takes it. */
static void feed(struct viewer *v)
{
	struct cop_console *c = v->console;
	GIOStream *io = soup_websocket_connection_get_io_stream(v->ws);
	GOutputStream *out = g_io_stream_get_output_stream(io);

	if (v->writable || soup_websocket_connection_get_state(v->ws) != SOUP_WEBSOCKET_STATE_OPEN)
		return;
	if (c->total - v->position > RING_BYTES)
		v->position = c->total - RING_BYTES;
	while (v->position < c->total) {
		gsize at = v->position % RING_BYTES;
		gsize len = MIN(c->total - v->position, RING_BYTES - at);

		if (G_IS_POLLABLE_OUTPUT_STREAM(out) &&
		    !g_pollable_output_stream_is_writable(G_POLLABLE_OUTPUT_STREAM(out))) {
			v->writable = g_pollable_output_stream_create_source(
				G_POLLABLE_OUTPUT_STREAM(out), NULL);
			g_source_set_callback(v->writable, G_SOURCE_FUNC(on_viewer_writable), v,
					      NULL);
			g_source_attach(v->writable, NULL);
			return;
		}
		len = MIN(len, SEND_BYTES);
		soup_websocket_connection_send_binary(v->ws, c->ring + at, len);
		v->position += len;
	}
}

static gboolean on_viewer_writable(GObject *stream, gpointer user)
{
	struct viewer *v = user;

	g_source_unref(v->writable);
	v->writable = NULL;
	feed(v);
	return G_SOURCE_REMOVE;
}

static void viewer_free(struct viewer *v)
{
	if (v->writable) {
		g_source_destroy(v->writable);
		g_source_unref(v->writable);
	}
	g_signal_handlers_disconnect_by_data(v->ws, v);
	g_object_unref(v->ws);
	g_free(v);
}

static gboolean on_writable(gint fd, GIOCondition condition, gpointer user)
{
	struct cop_console *c = user;
	ssize_t n = send(fd, c->input->data, c->input->len, MSG_DONTWAIT | MSG_NOSIGNAL);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return G_SOURCE_CONTINUE;
	if (n > 0)
		g_byte_array_remove_range(c->input, 0, (guint)n);
	if (n > 0 && c->input->len)
		return G_SOURCE_CONTINUE;
	c->write_source = 0;
	return G_SOURCE_REMOVE;
}

static void on_message(SoupWebsocketConnection *ws, gint type, GBytes *message, gpointer user)
{
	struct viewer *v = user;
	struct cop_console *c = v->console;
	gsize len;
	const guint8 *data = g_bytes_get_data(message, &len);

	if (c->fd < 0 || !len)
		return;
	if (c->input->len + len > MAX_INPUT_BYTES) {
		soup_websocket_connection_close(ws, SOUP_WEBSOCKET_CLOSE_POLICY_VIOLATION,
						"the guest does not read its console");
		return;
	}
	g_byte_array_append(c->input, data, (guint)len);
	if (!c->write_source)
		c->write_source = g_unix_fd_add_full(G_PRIORITY_DEFAULT, c->fd, G_IO_OUT,
						     on_writable, cop_console_ref(c),
						     (GDestroyNotify)cop_console_unref);
}

static void on_ws_closed(SoupWebsocketConnection *ws, gpointer user)
{
	struct viewer *v = user;

	g_ptr_array_remove_fast(v->console->viewers, v);
}

void cop_console_add(struct cop_console *c, SoupWebsocketConnection *ws)
{
	struct viewer *v = g_new0(struct viewer, 1);

	v->console = c;
	v->ws = g_object_ref(ws);
	v->position = c->total > RING_BYTES ? c->total - RING_BYTES : 0;
	g_ptr_array_add(c->viewers, v);
	g_signal_connect(ws, "message", G_CALLBACK(on_message), v);
	g_signal_connect(ws, "closed", G_CALLBACK(on_ws_closed), v);
	feed(v);
	if (c->closed)
		soup_websocket_connection_close(ws, SOUP_WEBSOCKET_CLOSE_GOING_AWAY,
						"the VM has ended");
}

static void keep(struct cop_console *c, const guint8 *data, gsize len)
{
	while (len) {
		gsize at = c->total % RING_BYTES, n = MIN(len, RING_BYTES - at);

		memcpy(c->ring + at, data, n);
		c->total += n;
		data += n;
		len -= n;
	}
}

static void end(struct cop_console *c)
{
	g_autoptr(GPtrArray) viewers = g_ptr_array_copy(c->viewers, NULL, NULL);

	c->closed = TRUE;
	g_ptr_array_set_free_func(viewers, NULL);
	for (guint i = 0; i < viewers->len; i++) {
		struct viewer *v = viewers->pdata[i];

		if (soup_websocket_connection_get_state(v->ws) == SOUP_WEBSOCKET_STATE_OPEN)
			soup_websocket_connection_close(v->ws, SOUP_WEBSOCKET_CLOSE_GOING_AWAY,
							"the VM has ended");
	}
	if (c->write_source)
		g_source_remove(c->write_source);
	c->write_source = 0;
}

static gboolean on_readable(gint fd, GIOCondition condition, gpointer user)
{
	struct cop_console *c = user;
	guint8 buf[16384];
	ssize_t n = recv(fd, buf, sizeof(buf), MSG_DONTWAIT);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return G_SOURCE_CONTINUE;
	if (n <= 0) {
		c->read_source = 0;
		end(c);
		return G_SOURCE_REMOVE;
	}
	keep(c, buf, (gsize)n);
	for (guint i = 0; i < c->viewers->len; i++)
		feed(c->viewers->pdata[i]);
	return G_SOURCE_CONTINUE;
}

static gboolean attach(gpointer user)
{
	struct cop_console *c = user;

	if (!c->closed) {
		c->fd = cop_socket_connect(c->path, SOCK_STREAM | SOCK_NONBLOCK);
		if (c->fd < 0)
			g_warning("no console at %s: %s", c->path, g_strerror(errno));
	}
	if (c->fd >= 0)
		c->read_source = g_unix_fd_add_full(G_PRIORITY_DEFAULT, c->fd,
						    G_IO_IN | G_IO_HUP | G_IO_ERR, on_readable,
						    cop_console_ref(c),
						    (GDestroyNotify)cop_console_unref);
	cop_console_unref(c);
	return G_SOURCE_REMOVE;
}

struct cop_console *cop_console_new(const char *path)
{
	struct cop_console *c = g_new0(struct cop_console, 1);

	g_atomic_ref_count_init(&c->refs);
	c->path = g_strdup(path);
	c->fd = -1;
	c->input = g_byte_array_new();
	c->ring = g_malloc(RING_BYTES);
	c->viewers = g_ptr_array_new_with_free_func((GDestroyNotify)viewer_free);
	g_main_context_invoke(NULL, attach, cop_console_ref(c));
	return c;
}

static gboolean detach(gpointer user)
{
	struct cop_console *c = user;

	end(c);
	if (c->read_source)
		g_source_remove(c->read_source);
	c->read_source = 0;
	cop_console_unref(c);
	return G_SOURCE_REMOVE;
}

void cop_console_close(struct cop_console *c)
{
	if (c)
		g_main_context_invoke(NULL, detach, cop_console_ref(c));
}
