/* A WebSocket joined to a command in a guest: see agent-exec.h.
 *
 * States: waiting for the request · (run-in: cloning, on a thread of its own) · running · ended. The
 * result is the last message; the client's going away kills the command, and a run-in's clone is
 * discarded on a thread whatever happens.
 *
 * Flow: the client sends only input that the guest gave credit for, and the guest only output that the
 * client gave credit for, so that no queue here or in libsoup outgrows a window.
 */
#include "agent-exec.h"
#include "agent.h"
#include "gerror.h"
#include "json.h"
#include "ops.h"

#include <string.h>

#define MAX_REQUEST_BYTES (1024u * 1024)
#define MAX_SIGNAL 64

enum kind {
	KIND_STDIN = 0,
	KIND_STDOUT = 1,
	KIND_STDERR = 2,
	KIND_SIGNAL = 3,
	KIND_SIZE = 4,
	KIND_CREDIT = 5,
};

struct session {
	gatomicrefcount refs;
	SoupWebsocketConnection *ws;
	struct cop_state *state;
	struct cop_vm *vm;	 /* NULL until a run-in has its clone */
	struct cop_agent *agent; /* while a command runs */
	guint32 id;
	char *template;		 /* of run-in; else NULL */
	JsonObject *request;
	gboolean no_input, gone; /* gone: the client has closed */
	guint64 input_credit;	 /* bytes that the client may send */
	guint timeout_source;
	gboolean timed_out;
	gint64 begun_us, ready_us;
};

static struct session *session_ref(struct session *s)
{
	g_atomic_ref_count_inc(&s->refs);
	return s;
}

static void session_unref(struct session *s)
{
	if (!g_atomic_ref_count_dec(&s->refs))
		return;
	g_object_unref(s->ws);
	cop_vm_unref(s->vm);
	cop_agent_unref(s->agent);
	if (s->request)
		json_object_unref(s->request);
	g_free(s->template);
	g_free(s);
}

static gboolean check_env(JsonObject *env, GError **error)
{
	g_autoptr(GList) keys = env ? json_object_get_members(env) : NULL;
	GError *why = NULL;

	for (GList *l = keys; l && !why; l = l->next) {
		if (!*(const char *)l->data || strchr(l->data, '='))
			cop_gerror_set(&why, COP_ERR_BAD_REQUEST,
				       "env: '%s' is no name of a variable", (char *)l->data);
		else
			(void)cop_json_str(env, l->data, NULL, &why);
	}
	if (why)
		g_propagate_error(error, why);
	return why == NULL;
}

static gboolean only(JsonObject *request, const char *const *more, GError **error)
{
	static const char *const known[] = {"argv", "env", "user", "workdir", "stdin", "tty",
					    "timeout_ms", "cpus", "memory_max_bytes", NULL};
	g_autoptr(GStrvBuilder) all = g_strv_builder_new();
	g_auto(GStrv) names = NULL;

	g_strv_builder_addv(all, (const char **)known);
	if (more)
		g_strv_builder_addv(all, (const char **)more);
	names = g_strv_builder_end(all);
	return cop_json_only(request, (const char *const *)names, error);
}

gboolean cop_exec_check(JsonObject *request, const char *const *more, GError **error)
{
	GError *why = NULL;
	g_auto(GStrv) argv = cop_json_strv(request, "argv", &why);
	gint64 timeout_ms = cop_json_int(request, "timeout_ms", 1, &why);
	JsonObject *tty = cop_json_obj(request, "tty");
	gint64 rows = tty ? cop_json_int(tty, "rows", -1, &why) : 0;
	gint64 columns = tty ? cop_json_int(tty, "columns", -1, &why) : 0;
	gint64 memory_max = cop_json_int(request, "memory_max_bytes", 1, &why);
	double cpus = cop_json_double(request, "cpus", json_object_has_member(request, "cpus") ? 0 : 1);

	(void)cop_json_str(request, "user", NULL, &why);
	(void)cop_json_str(request, "workdir", NULL, &why);
	(void)cop_json_bool(request, "stdin", FALSE, &why);
	if (!why && (!argv || !argv[0] || !*argv[0]))
		cop_gerror_set(&why, COP_ERR_BAD_REQUEST, "argv: there is no command");
	if (!why && (timeout_ms < 1 || timeout_ms > 604800000))
		cop_gerror_set(&why, COP_ERR_BAD_REQUEST, "timeout_ms must be from 1 to 604800000");
	if (!why && (rows < 0 || rows > 65535 || columns < 0 || columns > 65535))
		cop_gerror_set(&why, COP_ERR_BAD_REQUEST, "tty: rows and columns are from 0 to 65535");
	if (!why && !(cpus >= 0.01 && cpus <= 1024))
		cop_gerror_set(&why, COP_ERR_BAD_REQUEST, "cpus must be a number from 0.01 to 1024");
	if (!why && memory_max < 1)
		cop_gerror_set(&why, COP_ERR_BAD_REQUEST, "memory_max_bytes must be positive");
	if (!why && check_env(cop_json_obj(request, "env"), &why))
		(void)only(request, more, &why); /* in why */
	if (why)
		g_propagate_error(error, why);
	return why == NULL;
}

static gboolean is_open(struct session *s)
{
	return soup_websocket_connection_get_state(s->ws) == SOUP_WEBSOCKET_STATE_OPEN;
}

static void send_kind(struct session *s, enum kind kind, const void *data, gsize len)
{
	g_autofree guint8 *buf = g_malloc(len + 1);

	buf[0] = (guint8)kind;
	if (len)
		memcpy(buf + 1, data, len);
	if (is_open(s))
		soup_websocket_connection_send_binary(s->ws, buf, len + 1);
}

static void set_number(JsonObject *obj, const char *key, int value)
{
	if (value >= 0)
		json_object_set_int_member(obj, key, value);
	else
		json_object_set_null_member(obj, key);
}

/* The last word; the client closes, or we do. */
static void send_result(struct session *s, int status, int signal, const GError *error)
{
	g_autoptr(JsonObject) obj = json_object_new();
	g_autofree char *text = NULL;
	gint64 now_us = g_get_monotonic_time();

	set_number(obj, "exit", status);
	set_number(obj, "signal", signal);
	if (error) {
		JsonObject *inner = json_object_new();
		g_autofree char *message = cop_gerror_message(error);
		g_autofree char *hint = cop_gerror_hint(error);

		json_object_set_string_member(inner, "code", cop_gerror_word(error));
		json_object_set_string_member(inner, "message", message);
		json_object_set_string_member(inner, "hint", hint);
		json_object_set_object_member(obj, "error", inner);
	} else {
		json_object_set_null_member(obj, "error");
	}
	if (s->ready_us) {
		json_object_set_double_member(obj, "run_ms",
					      (double)(now_us - s->ready_us) / 1000.0);
		if (s->template)
			json_object_set_double_member(
				obj, "ready_ms", (double)(s->ready_us - s->begun_us) / 1000.0);
	}
	text = cop_json_print(obj, FALSE);
	if (is_open(s)) {
		soup_websocket_connection_send_text(s->ws, text);
		soup_websocket_connection_close(s->ws, SOUP_WEBSOCKET_CLOSE_NORMAL, NULL);
	}
}

static gpointer discard_thread(gpointer user)
{
	struct cop_vm *vm = user;
	GError *error = NULL;

	while (!cop_op_remove(vm->state, vm->name, TRUE, &error) &&
	       g_error_matches(error, COP_ERROR, COP_ERR_BUSY))
		g_clear_error(&error); /* it waits ten seconds itself */
	g_clear_error(&error); /* somebody was faster */
	cop_vm_unref(vm);
	return NULL;
}

/* The end of a session, whatever has happened: called once, when the connection has closed. */
static void end(struct session *s)
{
	if (s->timeout_source)
		g_source_remove(s->timeout_source);
	s->timeout_source = 0;
	if (s->id)
		cop_agent_exec_abandon(s->agent, s->id);
	s->id = 0;
	if (s->template && s->vm) {
		g_thread_unref(g_thread_new("discard", discard_thread,
					    g_steal_pointer(&s->vm)));
	}
}

static void on_output(int stream, const guint8 *data, gsize len, void *user)
{
	struct session *s = user;

	send_kind(s, (enum kind)stream, data, len);
}

static void on_credit(guint32 bytes, void *user)
{
	struct session *s = user;
	guint8 wire[5] = {KIND_STDIN, (guint8)(bytes >> 24), (guint8)(bytes >> 16),
			  (guint8)(bytes >> 8), (guint8)bytes};

	if (s->no_input)
		return;
	s->input_credit += bytes;
	send_kind(s, KIND_CREDIT, wire, sizeof(wire));
}

static void on_ended(int status, int signal, const GError *error, void *user)
{
	struct session *s = user;
	g_autoptr(GError) late = NULL;

	s->id = 0;
	if (s->timed_out) {
		cop_gerror_set(&late, COP_ERR_TIMEOUT, "the command's time was over: it was killed");
		send_result(s, -1, -1, late);
	} else {
		send_result(s, status, signal, error);
	}
}

static const struct cop_agent_exec_events events = {
	.output = on_output, .credit = on_credit, .ended = on_ended};

static gboolean on_timeout(gpointer user)
{
	struct session *s = user;

	s->timeout_source = 0;
	if (s->id) {
		cop_agent_exec_abandon(s->agent, s->id);
		s->timed_out = TRUE;
		on_ended(-1, -1, NULL, s);
	}
	return G_SOURCE_REMOVE;
}

static void begin(struct session *s)
{
	gint64 timeout_ms = cop_json_int(s->request, "timeout_ms", 0, NULL);
	g_autoptr(GError) error = NULL;
	struct cop_agent *agent;

	g_mutex_lock(&s->state->lock);
	agent = s->vm->agent ? cop_agent_ref(s->vm->agent) : NULL;
	g_mutex_unlock(&s->state->lock);
	s->ready_us = g_get_monotonic_time();
	s->agent = agent;
	s->no_input = !cop_json_bool(s->request, "stdin", FALSE, NULL);
	if (agent)
		s->id = cop_agent_exec(agent, s->request, &events, s, &error);
	else
		cop_gerror_set(&error, COP_ERR_WRONG_STATE, "VM '%s' has no port for an agent",
			       s->vm->name);
	if (!s->id) {
		send_result(s, -1, -1, error);
		return;
	}
	if (s->no_input)
		cop_agent_exec_input(agent, s->id, NULL, 0);
	if (timeout_ms)
		s->timeout_source = g_timeout_add((guint)timeout_ms, on_timeout, s);
}

static void violation(struct session *s, const char *what)
{
	if (is_open(s))
		soup_websocket_connection_close(s->ws, SOUP_WEBSOCKET_CLOSE_POLICY_VIOLATION, what);
}

static void on_binary(struct session *s, const guint8 *data, gsize len)
{
	guint16 size[2];
	guint32 credit;

	if (!s->id)
		return; /* it crossed the result */
	if (len >= 1 && data[0] == KIND_STDIN && !s->no_input) {
		if (len - 1 > s->input_credit) {
			violation(s, "more input than there was credit for");
			return;
		}
		s->input_credit -= len - 1;
		s->no_input = len == 1;
		cop_agent_exec_input(s->agent, s->id, data + 1, len - 1);
	} else if (len == 2 && data[0] == KIND_SIGNAL && data[1] >= 1 && data[1] <= MAX_SIGNAL) {
		cop_agent_exec_signal(s->agent, s->id, data[1]);
	} else if (len == 5 && data[0] == KIND_SIZE) {
		memcpy(size, data + 1, 4);
		cop_agent_exec_resize(s->agent, s->id, GUINT16_FROM_BE(size[0]),
				      GUINT16_FROM_BE(size[1]));
	} else if (len == 6 && data[0] == KIND_CREDIT &&
		   (data[1] == KIND_STDOUT || data[1] == KIND_STDERR)) {
		memcpy(&credit, data + 2, 4);
		cop_agent_exec_credit(s->agent, s->id, data[1], GUINT32_FROM_BE(credit));
	} else {
		violation(s, "a message that is none of exec's");
	}
}

static gboolean cloned(gpointer user);

struct cloning {
	struct session *session;
	gboolean no_network;
	struct cop_vm *vm;
	GError *error;
};

/* The clone of a run-in; on a thread of its own, as many may be waited for. */
static gpointer clone_thread(gpointer user)
{
	struct cloning *c = user;
	struct cop_state *state = c->session->state;
	struct cop_template *tpl =
		cop_state_find_template(state, c->session->template, &c->error);

	if (tpl)
		c->vm = cop_op_clone_ephemeral(state, tpl, c->no_network, &c->error);
	cop_template_unref(tpl);
	g_main_context_invoke(NULL, cloned, c);
	return NULL;
}

static gboolean cloned(gpointer user)
{
	struct cloning *c = user;
	struct session *s = c->session;

	s->vm = c->vm;
	if (!c->vm) {
		send_result(s, -1, -1, c->error);
	} else if (s->gone) {
		end(s);
	} else {
		begin(s);
	}
	g_clear_error(&c->error);
	g_free(c);
	session_unref(s);
	return G_SOURCE_REMOVE;
}

static void on_request(struct session *s, GBytes *message)
{
	static const char *const more[] = {"network", NULL};
	g_autoptr(GError) error = NULL;
	struct cloning *c;
	gsize len;
	const char *text = g_bytes_get_data(message, &len);

	s->request = cop_json_parse(text, (gssize)len, &error);
	if (!s->request || !cop_exec_check(s->request, s->template ? more : NULL, &error)) {
		if (!s->request)
			s->request = json_object_new();
		send_result(s, -1, -1, error);
		return;
	}
	if (!s->template) {
		begin(s);
		return;
	}
	c = g_new0(struct cloning, 1);
	c->session = session_ref(s);
	c->no_network = !cop_json_bool(s->request, "network", TRUE, NULL);
	g_thread_unref(g_thread_new("run-in", clone_thread, c));
}

static void on_message(SoupWebsocketConnection *ws, gint type, GBytes *message, gpointer user)
{
	struct session *s = user;
	gsize len;
	const guint8 *data = g_bytes_get_data(message, &len);

	if (!s->request && type == SOUP_WEBSOCKET_DATA_TEXT)
		on_request(s, message);
	else if (s->request && type == SOUP_WEBSOCKET_DATA_BINARY)
		on_binary(s, data, len);
	else
		violation(s, "the request comes first, as text; all else is binary");
}

static void on_closed(SoupWebsocketConnection *ws, gpointer user)
{
	struct session *s = user;

	if (s->gone)
		return;
	s->gone = TRUE;
	g_signal_handlers_disconnect_by_data(ws, s);
	end(s);
	session_unref(s);
}

static void serve(struct session *s, SoupWebsocketConnection *ws)
{
	g_atomic_ref_count_init(&s->refs);
	s->begun_us = g_get_monotonic_time();
	s->ws = g_object_ref(ws);
	soup_websocket_connection_set_max_incoming_payload_size(ws, MAX_REQUEST_BYTES);
	g_signal_connect(ws, "message", G_CALLBACK(on_message), s);
	g_signal_connect(ws, "closed", G_CALLBACK(on_closed), s);
}

void cop_exec_serve(struct cop_vm *vm, SoupWebsocketConnection *ws)
{
	struct session *s = g_new0(struct session, 1);

	s->state = vm->state;
	s->vm = cop_vm_ref(vm);
	serve(s, ws);
}

void cop_exec_serve_run_in(struct cop_state *state, const char *template,
			   SoupWebsocketConnection *ws)
{
	struct session *s = g_new0(struct session, 1);

	s->state = state;
	s->template = g_strdup(template);
	serve(s, ws);
}
