/* The agent's socket: bytes in, bytes out, connecting again. See agent-impl.h.
 *
 * Nothing here grows with what a guest does: `rx` holds one frame, `out` is bounded, and a guest
 * that sends without being asked is read with pauses, so that it slows only itself.
 */
#include "agent-impl.h"
#include "sockets.h"

#include <errno.h>
#include <glib-unix.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define READ_BYTES 65536u
/* More is never credited: COP_AGENT_MAX_RUNS windows of input, and small things. */
#define MAX_OUT_BYTES (80u << 20)
#define MAX_CHEAP_BYTES (256u * 1024)
#define REST_MS 100
#define RETRY_MIN_MS 200
#define RETRY_MAX_MS 10000

static gboolean on_readable(gint fd, GIOCondition condition, gpointer user);

static void want_read(struct cop_agent *a)
{
	if (!a->read_source && a->fd >= 0)
		a->read_source = g_unix_fd_add_full(G_PRIORITY_DEFAULT, a->fd,
						    G_IO_IN | G_IO_HUP | G_IO_ERR, on_readable,
						    cop_agent_ref(a),
						    (GDestroyNotify)cop_agent_unref);
}

static gboolean on_rested(gpointer user)
{
	struct cop_agent *a = user;

	a->rest_source = 0;
	a->cheap_bytes = 0;
	want_read(a);
	return G_SOURCE_REMOVE;
}

static gboolean on_readable(gint fd, GIOCondition condition, gpointer user)
{
	struct cop_agent *a = user;
	guint8 buf[READ_BYTES];
	ssize_t n = recv(fd, buf, sizeof(buf), MSG_DONTWAIT);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return G_SOURCE_CONTINUE;
	if (n <= 0) {
		cop_link_fail(a, "the connection to QEMU was lost");
		return G_SOURCE_REMOVE;
	}
	a->cheap_bytes += (gsize)n;
	if (!cop_talk_feed(a, buf, (gsize)n))
		return G_SOURCE_REMOVE;
	if (a->cheap_bytes <= MAX_CHEAP_BYTES)
		return G_SOURCE_CONTINUE;
	a->read_source = 0;
	a->rest_source = g_timeout_add_full(G_PRIORITY_DEFAULT, REST_MS, on_rested,
					    cop_agent_ref(a), (GDestroyNotify)cop_agent_unref);
	return G_SOURCE_REMOVE;
}

static gboolean on_writable(gint fd, GIOCondition condition, gpointer user)
{
	struct cop_agent *a = user;
	ssize_t n = send(fd, a->out->data + a->out_at, a->out->len - a->out_at,
			 MSG_DONTWAIT | MSG_NOSIGNAL);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return G_SOURCE_CONTINUE;
	if (n < 0) {
		a->write_source = 0; /* the read side tells */
		return G_SOURCE_REMOVE;
	}
	a->out_at += (gsize)n;
	if (a->out_at == a->out->len) {
		g_byte_array_set_size(a->out, 0);
		a->out_at = 0;
	} else if (a->out_at > a->out->len / 2) {
		g_byte_array_remove_range(a->out, 0, (guint)a->out_at);
		a->out_at = 0;
	}
	cop_talk_written(a);
	if (a->fd != fd)
		return G_SOURCE_REMOVE;
	if (a->out->len)
		return G_SOURCE_CONTINUE;
	a->write_source = 0;
	return G_SOURCE_REMOVE;
}

gsize cop_link_backlog(const struct cop_agent *a)
{
	return a->out->len - a->out_at;
}

gboolean cop_link_write(struct cop_agent *a, const void *data, gsize len)
{
	if (a->fd < 0)
		return FALSE;
	if (a->out->len + len > MAX_OUT_BYTES) {
		cop_link_fail(a, "the guest does not read what it is sent");
		return FALSE;
	}
	g_byte_array_append(a->out, data, (guint)len);
	if (!a->write_source)
		a->write_source = g_unix_fd_add_full(G_PRIORITY_DEFAULT, a->fd, G_IO_OUT,
						     on_writable, cop_agent_ref(a),
						     (GDestroyNotify)cop_agent_unref);
	return TRUE;
}

static gboolean on_retry(gpointer user)
{
	struct cop_agent *a = user;

	a->timer_source = 0;
	cop_link_open(a);
	return G_SOURCE_REMOVE;
}

static void retry_later(struct cop_agent *a)
{
	guint ms = RETRY_MIN_MS << MIN(a->failures, 6);

	a->failures++;
	if (!a->closed && !a->timer_source)
		a->timer_source = g_timeout_add_full(G_PRIORITY_DEFAULT, MIN(ms, RETRY_MAX_MS),
						     on_retry, cop_agent_ref(a),
						     (GDestroyNotify)cop_agent_unref);
}

void cop_link_open(struct cop_agent *a)
{
	if (a->closed || a->fd >= 0)
		return;
	a->fd = cop_socket_connect(a->path, SOCK_STREAM | SOCK_NONBLOCK);
	if (a->fd < 0) {
		retry_later(a);
		return;
	}
	if (!a->rx)
		a->rx = g_new(struct cop_agent_rx, 1);
	cop_agent_rx_init(a->rx, FALSE);
	a->cheap_bytes = 0;
	want_read(a);
	if (!a->held)
		cop_talk_begin(a);
}

static void stop_source(guint *source)
{
	if (*source)
		g_source_remove(*source);
	*source = 0;
}

void cop_link_close(struct cop_agent *a)
{
	stop_source(&a->read_source);
	stop_source(&a->write_source);
	stop_source(&a->rest_source);
	stop_source(&a->timer_source);
	if (a->fd >= 0)
		close(a->fd);
	a->fd = -1;
	g_byte_array_set_size(a->out, 0);
	a->out_at = 0;
}

void cop_link_fail(struct cop_agent *a, const char *fmt, ...)
{
	g_autofree char *why = NULL;
	va_list args;

	va_start(args, fmt);
	why = g_strdup_vprintf(fmt, args);
	va_end(args);
	cop_link_close(a);
	cop_talk_end(a, why);
	if (a->closed)
		return;
	g_info("agent of VM '%s': %s", a->vm->name, why);
	cop_agent_show(a, COP_AGENT_IS_FAILED, why);
	retry_later(a);
}
