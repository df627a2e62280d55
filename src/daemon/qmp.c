/* QMP client: see qmp.h.
 *
 * Data: `in` collects bytes until a newline; `replies` maps a command's id to its waiter's slot;
 * `ring` keeps the newest events.
 * Threads and locks: `lock` guards all fields; `cond` is signalled on every message and at the end.
 * The main loop's source reads; cop_qmp_connect() reads before the source exists. Writers hold
 * `write_lock` over one whole command, so that commands never mix.
 * Invariants: 1. A reply without a waiter (it timed out) is dropped. 2. A line longer than
 * MAX_LINE_BYTES ends the connection: QEMU may be in a guest's hands.
 */
#include "qmp.h"
#include "gerror.h"
#include "json.h"
#include "sockets.h"

#include <errno.h>
#include <gio/gio.h>
#include <glib-unix.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define MAX_LINE_BYTES (4 * 1024 * 1024)
#define RING 64

struct event {
	guint64 seq;
	char *name;
	JsonObject *data;
	gint64 time_us;
};

struct reply {
	gboolean done;
	JsonNode *value;
	char *error;
};

struct cop_qmp {
	gatomicrefcount refs;
	GMutex lock, write_lock;
	GCond cond;
	int fd;
	gboolean closed;
	GSource *source; /* while it is attached */
	GString *in;
	guint64 next_id, seq;
	GHashTable *replies;
	struct event ring[RING];
	cop_qmp_event_fn fn;
	void *user;
};

struct cop_qmp *cop_qmp_ref(struct cop_qmp *qmp)
{
	g_atomic_ref_count_inc(&qmp->refs);
	return qmp;
}

void cop_qmp_unref(struct cop_qmp *qmp)
{
	if (!qmp || !g_atomic_ref_count_dec(&qmp->refs))
		return;
	close(qmp->fd);
	g_string_free(qmp->in, TRUE);
	g_hash_table_unref(qmp->replies);
	for (int i = 0; i < RING; i++) {
		g_free(qmp->ring[i].name);
		if (qmp->ring[i].data)
			json_object_unref(qmp->ring[i].data);
	}
	g_mutex_clear(&qmp->lock);
	g_mutex_clear(&qmp->write_lock);
	g_cond_clear(&qmp->cond);
	g_free(qmp);
}

static void take_reply(struct cop_qmp *qmp, JsonObject *msg)
{
	guint64 id = (guint64)cop_json_int(msg, "id", 0, NULL);
	struct reply *reply = g_hash_table_lookup(qmp->replies, &id);
	JsonObject *err = cop_json_obj(msg, "error");

	if (!reply || reply->done)
		return;
	if (err)
		reply->error = g_strdup(cop_json_str(err, "desc", "unknown error", NULL));
	else
		reply->value = json_object_dup_member(msg, "return");
	reply->done = TRUE;
}

static void take_event(struct cop_qmp *qmp, const char *name, JsonObject *msg)
{
	JsonObject *stamp = cop_json_obj(msg, "timestamp");
	JsonObject *data = cop_json_obj(msg, "data");
	struct event *ev = &qmp->ring[++qmp->seq % RING];

	g_free(ev->name);
	if (ev->data)
		json_object_unref(ev->data);
	ev->seq = qmp->seq;
	ev->name = g_strdup(name);
	ev->data = data ? json_object_ref(data) : NULL;
	/* Unsigned, as a QEMU that a guest has taken over may send any number. */
	ev->time_us = (gint64)((guint64)cop_json_int(stamp, "seconds", 0, NULL) * G_USEC_PER_SEC +
			       (guint64)cop_json_int(stamp, "microseconds", 0, NULL));
}

/* Takes one line; returns an event's message for the callback, or NULL. */
static JsonObject *take_line(struct cop_qmp *qmp, const char *line, gsize len)
{
	g_autoptr(GError) error = NULL;
	JsonObject *msg = cop_json_parse(line, (gssize)len, &error);
	const char *event;

	if (!msg) {
		g_warning("QEMU's monitor sent something odd: %s", error->message);
		return NULL;
	}
	event = cop_json_str(msg, "event", NULL, NULL);
	if (event) {
		take_event(qmp, event, msg);
		return msg;
	}
	take_reply(qmp, msg);
	json_object_unref(msg);
	return NULL;
}

/* Reads what is there; FALSE at the end of the connection. Events are appended to `events`. */
static gboolean read_some(struct cop_qmp *qmp, GPtrArray *events)
{
	char buf[65536];
	ssize_t n = recv(qmp->fd, buf, sizeof(buf), MSG_DONTWAIT);
	char *nl;

	if (n < 0)
		return errno == EAGAIN || errno == EINTR;
	if (n == 0)
		return FALSE;
	g_string_append_len(qmp->in, buf, n);
	while ((nl = memchr(qmp->in->str, '\n', qmp->in->len))) {
		gsize len = (gsize)(nl - qmp->in->str);
		JsonObject *msg = take_line(qmp, qmp->in->str, len);

		if (msg)
			g_ptr_array_add(events, msg);
		g_string_erase(qmp->in, 0, (gssize)len + 1);
	}
	return qmp->in->len <= MAX_LINE_BYTES;
}

static gboolean on_readable(gint fd, GIOCondition condition, gpointer user)
{
	struct cop_qmp *qmp = user;
	g_autoptr(GPtrArray) events =
		g_ptr_array_new_with_free_func((GDestroyNotify)json_object_unref);
	gboolean alive;

	cop_qmp_ref(qmp);
	g_mutex_lock(&qmp->lock);
	alive = !qmp->closed && read_some(qmp, events);
	if (!alive) {
		qmp->closed = TRUE;
		g_clear_pointer(&qmp->source, g_source_unref);
	}
	g_cond_broadcast(&qmp->cond);
	g_mutex_unlock(&qmp->lock);
	for (guint i = 0; qmp->fn && i < events->len; i++) {
		JsonObject *msg = events->pdata[i];

		qmp->fn(cop_json_str(msg, "event", "", NULL), cop_json_obj(msg, "data"), qmp->user);
	}
	if (!alive && qmp->fn)
		qmp->fn(NULL, NULL, qmp->user);
	cop_qmp_unref(qmp);
	return alive ? G_SOURCE_CONTINUE : G_SOURCE_REMOVE;
}

static gboolean wait_greeting(struct cop_qmp *qmp, gint64 deadline_us, GError **error)
{
	g_autoptr(GPtrArray) events =
		g_ptr_array_new_with_free_func((GDestroyNotify)json_object_unref);
	char c;

	for (;;) {
		struct pollfd pfd = {.fd = qmp->fd, .events = POLLIN};
		gint64 left_us = deadline_us - g_get_monotonic_time();

		if (left_us <= 0)
			return cop_gerror_set(error, COP_ERR_TIMEOUT,
					     "QEMU's monitor does not answer");
		if (poll(&pfd, 1, (int)(left_us / 1000) + 1) <= 0)
			continue;
		/* The greeting is a line of its own; it is skipped, byte by byte, as nothing
		 * follows it before a command is sent. */
		if (recv(qmp->fd, &c, 1, 0) != 1)
			return cop_gerror_set(error, COP_ERR_INTERNAL,
					     "QEMU ended before its monitor answered");
		if (c == '\n')
			return TRUE;
	}
}

static gboolean attach(gpointer user)
{
	struct cop_qmp *qmp = user;

	g_mutex_lock(&qmp->lock);
	if (!qmp->closed) {
		qmp->source = g_unix_fd_source_new(qmp->fd, G_IO_IN | G_IO_HUP | G_IO_ERR);
		g_source_set_priority(qmp->source, G_PRIORITY_HIGH);
		g_source_set_callback(qmp->source, G_SOURCE_FUNC(on_readable), cop_qmp_ref(qmp),
				      (GDestroyNotify)cop_qmp_unref);
		g_source_attach(qmp->source, NULL);
	}
	g_mutex_unlock(&qmp->lock);
	cop_qmp_unref(qmp);
	return G_SOURCE_REMOVE;
}

struct cop_qmp *cop_qmp_connect(const char *path, int timeout_ms, cop_qmp_event_fn fn, void *user,
				GError **error)
{
	gint64 deadline_us = g_get_monotonic_time() + timeout_ms * 1000LL;
	g_autoptr(cop_qmp) qmp = NULL;
	int fd = cop_socket_connect(path, SOCK_STREAM);

	if (fd < 0) {
		cop_gerror_errno(error, errno, "cannot connect to QEMU's monitor at %s", path);
		return NULL;
	}
	qmp = g_new0(struct cop_qmp, 1);
	g_atomic_ref_count_init(&qmp->refs);
	g_mutex_init(&qmp->lock);
	g_mutex_init(&qmp->write_lock);
	g_cond_init(&qmp->cond);
	qmp->fd = fd;
	qmp->in = g_string_new(NULL);
	qmp->replies = g_hash_table_new(g_int64_hash, g_int64_equal);
	qmp->fn = fn;
	qmp->user = user;
	if (!wait_greeting(qmp, deadline_us, error))
		return NULL;
	g_main_context_invoke_full(NULL, G_PRIORITY_HIGH, attach, cop_qmp_ref(qmp), NULL);
	if (!cop_qmp_call(qmp, "qmp_capabilities", NULL, -1, timeout_ms, NULL, error)) {
		cop_qmp_close(qmp);
		return NULL;
	}
	return g_steal_pointer(&qmp);
}

void cop_qmp_close(struct cop_qmp *qmp)
{
	GSource *source;

	if (!qmp)
		return;
	g_mutex_lock(&qmp->lock);
	source = g_steal_pointer(&qmp->source);
	qmp->closed = TRUE;
	shutdown(qmp->fd, SHUT_RDWR);
	g_cond_broadcast(&qmp->cond);
	g_mutex_unlock(&qmp->lock);
	if (source) {
		g_source_destroy(source); /* by any thread, unlike g_source_remove() */
		g_source_unref(source);
	}
}

/* A QEMU that does not read must not hold its caller longer than the caller waits. */
static gboolean send_all(struct cop_qmp *qmp, const char *text, gsize len, int fd,
			 gint64 deadline_us)
{
	union {
		struct cmsghdr hdr;
		char space[CMSG_SPACE(sizeof(int))];
	} control = {0};

	while (len) {
		struct iovec iov = {.iov_base = (char *)text, .iov_len = len};
		struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
		ssize_t n;

		if (fd >= 0) {
			struct cmsghdr *c = &control.hdr;

			msg.msg_control = &control;
			msg.msg_controllen = sizeof(control);
			c->cmsg_level = SOL_SOCKET;
			c->cmsg_type = SCM_RIGHTS;
			c->cmsg_len = CMSG_LEN(sizeof(int));
			memcpy(CMSG_DATA(c), &fd, sizeof(int));
		}
		n = sendmsg(qmp->fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n < 0 && errno == EAGAIN) {
			struct pollfd pfd = {.fd = qmp->fd, .events = POLLOUT};
			gint64 left_us = deadline_us - g_get_monotonic_time();

			if (left_us <= 0)
				return FALSE;
			(void)poll(&pfd, 1, (int)(left_us / 1000) + 1); /* looked at above */
			continue;
		}
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return FALSE;
		fd = -1;
		text += n;
		len -= (gsize)n;
	}
	return TRUE;
}

gboolean cop_qmp_call(struct cop_qmp *qmp, const char *command, JsonObject *args, int fd,
		      int timeout_ms, JsonNode **ret, GError **error)
{
	gint64 deadline_us = g_get_monotonic_time() + timeout_ms * 1000LL;
	g_autoptr(JsonObject) msg = json_object_new();
	g_autofree char *text = NULL;
	struct reply reply = {0};
	gboolean sent, ok = FALSE;
	guint64 id;

	json_object_set_string_member(msg, "execute", command);
	if (args)
		json_object_set_object_member(msg, "arguments", args);
	g_mutex_lock(&qmp->lock);
	id = ++qmp->next_id;
	g_hash_table_insert(qmp->replies, &id, &reply);
	g_mutex_unlock(&qmp->lock);
	json_object_set_int_member(msg, "id", (gint64)id);
	text = cop_json_print(msg, FALSE);

	g_mutex_lock(&qmp->write_lock);
	sent = send_all(qmp, text, strlen(text), fd, deadline_us);
	if (!sent) /* half a command may be out: nothing sensible can follow it */
		shutdown(qmp->fd, SHUT_RDWR);
	g_mutex_unlock(&qmp->write_lock);

	g_mutex_lock(&qmp->lock);
	while (sent && !reply.done && !qmp->closed) {
		if (!g_cond_wait_until(&qmp->cond, &qmp->lock, deadline_us))
			break;
	}
	g_hash_table_remove(qmp->replies, &id);
	if (reply.done && reply.error)
		cop_gerror_set(error, COP_ERR_INTERNAL, "QEMU refused '%s': %s", command,
			      reply.error);
	else if (reply.done)
		ok = TRUE;
	else if ((!sent || qmp->closed) && g_get_monotonic_time() < deadline_us)
		cop_gerror_set(error, COP_ERR_INTERNAL, "QEMU ended during '%s'", command);
	else
		cop_gerror_set(error, COP_ERR_TIMEOUT, "QEMU did not answer '%s' within %d ms",
			      command, timeout_ms);
	g_mutex_unlock(&qmp->lock);
	g_free(reply.error);
	if (ret && ok)
		*ret = g_steal_pointer(&reply.value);
	if (reply.value)
		json_node_unref(reply.value);
	return ok;
}

guint64 cop_qmp_mark(struct cop_qmp *qmp)
{
	guint64 seq;

	g_mutex_lock(&qmp->lock);
	seq = qmp->seq;
	g_mutex_unlock(&qmp->lock);
	return seq;
}

static const struct event *find_event(struct cop_qmp *qmp, guint64 mark, const char *name,
				      const char *key, const char *const *values)
{
	guint64 first = qmp->seq > RING ? qmp->seq - RING + 1 : 1;

	for (guint64 seq = MAX(first, mark + 1); seq <= qmp->seq; seq++) {
		const struct event *ev = &qmp->ring[seq % RING];

		if (strcmp(ev->name, name) != 0)
			continue;
		if (!key || g_strv_contains(values, cop_json_str(ev->data, key, "", NULL)))
			return ev;
	}
	return NULL;
}

gboolean cop_qmp_wait(struct cop_qmp *qmp, guint64 mark, const char *event, const char *key,
		      const char *const *values, int timeout_ms, char **ret_value,
		      gint64 *ret_time_us, GError **error)
{
	gint64 deadline_us = g_get_monotonic_time() + timeout_ms * 1000LL;
	const struct event *ev;
	gboolean in_time = TRUE;

	g_mutex_lock(&qmp->lock);
	while (!(ev = find_event(qmp, mark, event, key, values)) && in_time && !qmp->closed)
		in_time = g_cond_wait_until(&qmp->cond, &qmp->lock, deadline_us);
	if (ev && ret_value)
		*ret_value = g_strdup(cop_json_str(ev->data, key, "", NULL));
	if (ev && ret_time_us)
		*ret_time_us = ev->time_us;
	if (!ev && qmp->closed)
		cop_gerror_set(error, COP_ERR_INTERNAL, "QEMU ended while waited for %s", event);
	else if (!ev)
		cop_gerror_set(error, COP_ERR_TIMEOUT, "QEMU sent no %s within %d ms", event,
			      timeout_ms);
	g_mutex_unlock(&qmp->lock);
	return ev != NULL;
}
