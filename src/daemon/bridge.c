/* VNC connections: see bridge.h.
 *
 * A joined pair copies bytes both ways on the main loop's thread. Neither side may outgrow memory:
 * QEMU is read only while the WebSocket is writable, and a viewer that sends faster than QEMU reads
 * is cut off.
 */
#include "bridge.h"
#include "qmp.h"
#include "vm.h"

#include <errno.h>
#include <glib-unix.h>
#include <sys/socket.h>
#include <unistd.h>

#define MAX_INPUT_BYTES (1024u * 1024)

struct handover {
	struct cop_qmp *qmp;
	int fd;
};

static gpointer handover_thread(gpointer user)
{
	static gint counter;
	struct handover *h = user;
	g_autofree char *name = g_strdup_printf("vnc%d", g_atomic_int_add(&counter, 1));
	JsonObject *get = json_object_new(), *add = json_object_new();
	g_autoptr(GError) error = NULL;

	json_object_set_string_member(get, "fdname", name);
	json_object_set_string_member(add, "protocol", "vnc");
	json_object_set_string_member(add, "fdname", name);
	json_object_set_boolean_member(add, "skipauth", TRUE);
	if (!cop_qmp_call(h->qmp, "getfd", get, h->fd, COP_VM_QMP_MS, NULL, &error))
		json_object_unref(add);
	else
		(void)cop_qmp_call(h->qmp, "add_client", add, -1, COP_VM_QMP_MS, NULL, &error);
	if (error)
		g_info("VNC connection refused: %s", error->message);
	close(h->fd);
	cop_qmp_unref(h->qmp);
	g_free(h);
	return NULL;
}

void cop_bridge_vnc(struct cop_vm *vm, int fd)
{
	struct handover *h = g_new0(struct handover, 1);
	GThread *thread;

	g_mutex_lock(&vm->state->lock);
	if (vm->pid && vm->qmp && vm->vnc_fd >= 0)
		h->qmp = cop_qmp_ref(vm->qmp);
	g_mutex_unlock(&vm->state->lock);
	if (!h->qmp) {
		close(fd);
		g_free(h);
		return;
	}
	h->fd = fd;
	/* The monitor's answers arrive on this thread, so it must not wait for them. */
	thread = g_thread_try_new("vnc", handover_thread, h, NULL);
	if (thread) {
		g_thread_unref(thread);
	} else {
		close(fd);
		cop_qmp_unref(h->qmp);
		g_free(h);
	}
}

struct join {
	SoupWebsocketConnection *ws;
	int fd;
	guint read_source, write_source;
	GSource *writable; /* of the WebSocket, when it was full */
	GByteArray *input; /* for QEMU */
};

static void join_free(struct join *j)
{
	if (j->read_source)
		g_source_remove(j->read_source);
	if (j->write_source)
		g_source_remove(j->write_source);
	if (j->writable) {
		g_source_destroy(j->writable);
		g_source_unref(j->writable);
	}
	g_signal_handlers_disconnect_by_data(j->ws, j);
	g_object_unref(j->ws);
	g_byte_array_unref(j->input);
	close(j->fd);
	g_free(j);
}

static void join_end(struct join *j, const char *why)
{
	if (soup_websocket_connection_get_state(j->ws) == SOUP_WEBSOCKET_STATE_OPEN)
		soup_websocket_connection_close(j->ws, SOUP_WEBSOCKET_CLOSE_NORMAL, why);
	join_free(j);
}

static gboolean on_readable(gint fd, GIOCondition condition, gpointer user);

static gboolean on_ws_writable(GObject *stream, gpointer user)
{
	struct join *j = user;

	g_source_unref(j->writable);
	j->writable = NULL;
	j->read_source = g_unix_fd_add(j->fd, G_IO_IN | G_IO_HUP | G_IO_ERR, on_readable, j);
	return G_SOURCE_REMOVE;
}

static gboolean on_readable(gint fd, GIOCondition condition, gpointer user)
{
	struct join *j = user;
	GIOStream *io = soup_websocket_connection_get_io_stream(j->ws);
	GOutputStream *out = g_io_stream_get_output_stream(io);
	guint8 buf[32768];
	ssize_t n;

	if (G_IS_POLLABLE_OUTPUT_STREAM(out) &&
	    !g_pollable_output_stream_is_writable(G_POLLABLE_OUTPUT_STREAM(out))) {
		j->read_source = 0;
		j->writable = g_pollable_output_stream_create_source(
			G_POLLABLE_OUTPUT_STREAM(out), NULL);
		g_source_set_callback(j->writable, G_SOURCE_FUNC(on_ws_writable), j, NULL);
		g_source_attach(j->writable, NULL);
		return G_SOURCE_REMOVE;
	}
	n = recv(fd, buf, sizeof(buf), MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return G_SOURCE_CONTINUE;
	if (n <= 0) {
		j->read_source = 0;
		join_end(j, "the VM closed the connection");
		return G_SOURCE_REMOVE;
	}
	soup_websocket_connection_send_binary(j->ws, buf, (gsize)n);
	return G_SOURCE_CONTINUE;
}

static gboolean on_writable(gint fd, GIOCondition condition, gpointer user)
{
	struct join *j = user;
	ssize_t n = send(fd, j->input->data, j->input->len, MSG_DONTWAIT | MSG_NOSIGNAL);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return G_SOURCE_CONTINUE;
	if (n > 0)
		g_byte_array_remove_range(j->input, 0, (guint)n);
	if (n > 0 && j->input->len)
		return G_SOURCE_CONTINUE;
	j->write_source = 0;
	return G_SOURCE_REMOVE;
}

static void on_message(SoupWebsocketConnection *ws, gint type, GBytes *message, gpointer user)
{
	struct join *j = user;
	gsize len;
	const guint8 *data = g_bytes_get_data(message, &len);

	if (j->input->len + len > MAX_INPUT_BYTES) {
		join_end(j, "the VM does not read");
		return;
	}
	g_byte_array_append(j->input, data, (guint)len);
	if (!j->write_source && len)
		j->write_source = g_unix_fd_add(j->fd, G_IO_OUT, on_writable, j);
}

static void on_closed(SoupWebsocketConnection *ws, gpointer user)
{
	join_free(user);
}

void cop_bridge_vnc_websocket(struct cop_vm *vm, SoupWebsocketConnection *ws)
{
	int pair[2];
	struct join *j;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0) {
		soup_websocket_connection_close(ws, SOUP_WEBSOCKET_CLOSE_SERVER_ERROR,
						g_strerror(errno));
		return;
	}
	cop_bridge_vnc(vm, pair[1]);
	j = g_new0(struct join, 1);
	j->ws = g_object_ref(ws);
	j->fd = pair[0];
	j->input = g_byte_array_new();
	j->read_source = g_unix_fd_add(j->fd, G_IO_IN | G_IO_HUP | G_IO_ERR, on_readable, j);
	g_signal_connect(ws, "message", G_CALLBACK(on_message), j);
	g_signal_connect(ws, "closed", G_CALLBACK(on_closed), j);
}
