/* Sessions with an agent: greeting, identity, quiesce. See agent-impl.h; docs/formats/agent.md is the
 * protocol.
 *
 * Phases and who moves them: off -> hello (cop_talk_begin) -> identify (its answer, in a clone that has
 * not confirmed yet) or open (in any other) -> open (it confirms). A wrong frame, a lost connection or
 * a silence that is too long: off, and a new session after a while. The port closed, or READY: hello.
 */
#include "agent-impl.h"
#include "gerror.h"
#include "json.h"
#include "vm.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#define HELLO_MIN_MS 1000 /* between greetings of an agent that should be there */
#define HELLO_MAX_MS 30000
#define HOOK_MS 10000
#define NETWORK_MS 10000
#define IDENTIFY_MS 300000
#define PING_S 5
#define MAX_PINGS 4		/* unanswered: it is stuck */
#define QUIESCE_GRACE_MS 30000 /* for the window; then the agent thaws by itself */
#define HOLD_MS 900	       /* less than the kernel lets real-time programs have of a second */

enum {
	ID_IDENTIFY = 1, /* of what is no command */
	ID_PING = 2,
	ID_REST = 16, /* and up, below those of commands */
};

static guint32 half(const struct cop_agent *a)
{
	return (guint32)a->session;
}

static gboolean send_frame(struct cop_agent *a, const guint8 *buf, ssize_t len)
{
	if (len < 0) {
		g_warning("agent of VM '%s': a message can't be sent: %s", a->vm->name,
			  g_strerror((int)-len));
		return FALSE;
	}
	return cop_link_write(a, buf, (gsize)len);
}

/* A worker is told how it went: without a reason, well. */
static void set_rest(struct cop_agent *a, enum cop_rest_kind kind, const char *reason)
{
	struct cop_rest *r = &a->rests[kind];

	g_mutex_lock(&a->lock);
	if (r->state == COP_REST_ASKED) {
		r->state = reason ? COP_REST_FAILED : COP_REST_DONE;
		g_free(r->reason);
		r->reason = g_strdup(reason);
	}
	g_cond_broadcast(&a->changed);
	g_mutex_unlock(&a->lock);
}

/* Which one the guest speaks of; COP_NR_RESTS: none. */
static enum cop_rest_kind find_rest(const struct cop_agent *a, guint32 id)
{
	enum cop_rest_kind kind = COP_REST_FILES;

	while (kind < COP_NR_RESTS && (!a->rests[kind].id || a->rests[kind].id != id))
		kind++;
	return kind;
}

static void stop_timer(struct cop_agent *a)
{
	if (a->talk_source)
		g_source_remove(a->talk_source);
	a->talk_source = 0;
}

static void start_timer(struct cop_agent *a, guint ms, GSourceFunc fn)
{
	stop_timer(a);
	a->talk_source = g_timeout_add_full(G_PRIORITY_DEFAULT, ms, fn, cop_agent_ref(a),
					    (GDestroyNotify)cop_agent_unref);
}

void cop_talk_end(struct cop_agent *a, const char *why)
{
	stop_timer(a);
	a->phase = COP_PHASE_OFF;
	a->pings = 0;
	for (enum cop_rest_kind kind = 0; kind < COP_NR_RESTS; kind++) {
		a->rests[kind].id = 0;
		set_rest(a, kind, why);
	}
	cop_run_end_all(a, why);
}

static gboolean identity_pending(struct cop_agent *a)
{
	gboolean pending;

	g_mutex_lock(&a->vm->state->lock);
	pending = a->vm->identity && !cop_json_bool(a->vm->identity, "confirmed", FALSE, NULL);
	g_mutex_unlock(&a->vm->state->lock);
	return pending;
}

static gboolean vm_runs(struct cop_agent *a)
{
	gboolean runs;

	g_mutex_lock(&a->vm->state->lock);
	runs = a->vm->run == COP_VM_RUNNING;
	g_mutex_unlock(&a->vm->state->lock);
	return runs;
}

static void greet(struct cop_agent *a)
{
	struct cop_agent_hello hello = {
		.proto_min = COP_AGENT_PROTO_MIN,
		.proto_max = COP_AGENT_PROTO_MAX,
		.flags = identity_pending(a) ? COP_AGENT_HELLO_CLONE : 0,
	};
	guint8 buf[COP_AGENT_OPENING_MAX];
	ssize_t len;

	do {
		ssize_t n = getrandom(&hello.session, sizeof(hello.session), 0) +
			    getrandom(hello.random, sizeof(hello.random), 0);

		g_assert(n == sizeof(hello.session) + sizeof(hello.random));
		len = cop_agent_put_hello(buf, &hello);
	} while (!(guint32)hello.session || len == -EINVAL); /* once in an eternity */
	a->session = hello.session;
	a->phase = COP_PHASE_HELLO;
	cop_agent_rx_hunt(a->rx);
	(void)send_frame(a, buf, len); /* a lost link is noticed */
	explicit_bzero(&hello, sizeof(hello));
	explicit_bzero(buf, sizeof(buf));
}

/* Nobody has answered. A guest that is not reading has the last greeting before it still. */
static gboolean on_silence(gpointer user)
{
	struct cop_agent *a = user;

	a->talk_source = 0;
	if (vm_runs(a) && cop_link_backlog(a) == 0) {
		greet(a);
		a->hello_ms = MIN(2 * a->hello_ms, HELLO_MAX_MS);
	}
	if (a->fd >= 0)
		start_timer(a, a->hello_ms, on_silence);
	return G_SOURCE_REMOVE;
}

void cop_talk_begin(struct cop_agent *a)
{
	a->hello_ms = HELLO_MIN_MS;
	greet(a);
	/* Else it will say READY when it comes. */
	if (a->expected && a->fd >= 0)
		start_timer(a, a->hello_ms, on_silence);
}

void cop_talk_port_closed(struct cop_agent *a)
{
	if (a->fd < 0 || a->phase < COP_PHASE_IDENTIFY)
		return;
	cop_talk_end(a, "the agent has ended");
	cop_agent_show(a, COP_AGENT_IS_FAILED, "the agent has ended");
	a->phase = COP_PHASE_HELLO; /* READY begins a session again */
	cop_agent_rx_hunt(a->rx);
}

/* The agent hangs, or the guest does: commands must not wait for it without end. */
static gboolean on_ping(gpointer user)
{
	struct cop_agent *a = user;
	guint8 buf[COP_AGENT_HEAD_BYTES];

	if (!vm_runs(a)) {
		a->pings = 0;
		return G_SOURCE_CONTINUE;
	}
	if (a->pings >= MAX_PINGS) {
		a->talk_source = 0;
		cop_link_fail(a, "the agent does not answer");
		return G_SOURCE_REMOVE;
	}
	if (g_hash_table_size(a->runs)) {
		a->pings++;
		(void)send_frame(a, buf, cop_agent_put_empty(buf, half(a), COP_AGENT_PING, ID_PING));
	}
	return G_SOURCE_CONTINUE;
}

static void become_open(struct cop_agent *a)
{
	struct cop_vm *vm = a->vm;
	gboolean changed;

	a->phase = COP_PHASE_OPEN;
	a->expected = TRUE;
	a->failures = 0;
	a->pings = 0;
	start_timer(a, PING_S * 1000, on_ping);
	g_mutex_lock(&vm->state->lock);
	changed = !vm->agent_expected;
	vm->agent_expected = TRUE;
	if (vm->identity && !cop_json_bool(vm->identity, "confirmed", FALSE, NULL)) {
		json_object_set_boolean_member(vm->identity, "confirmed", TRUE);
		changed = TRUE;
	}
	g_mutex_unlock(&vm->state->lock);
	cop_agent_show(a, COP_AGENT_IS_READY, "");
	if (changed)
		(void)cop_vm_save(vm, NULL); /* else it is told again by the next daemon */
}

static gboolean on_identify_late(gpointer user)
{
	struct cop_agent *a = user;

	if (!vm_runs(a))
		return G_SOURCE_CONTINUE;
	a->talk_source = 0;
	cop_link_fail(a, "the agent does not finish its clone's identity");
	return G_SOURCE_REMOVE;
}

static gboolean read_mac(const char *text, guint8 *ret)
{
	unsigned b[6];

	if (!text || sscanf(text, "%02x:%02x:%02x:%02x:%02x:%02x", &b[0], &b[1], &b[2], &b[3],
			    &b[4], &b[5]) != 6)
		return FALSE;
	for (int i = 0; i < 6; i++)
		ret[i] = (guint8)b[i];
	return TRUE;
}

char **cop_talk_params(JsonObject *params)
{
	g_autoptr(GStrvBuilder) pairs = g_strv_builder_new();
	g_autoptr(GList) keys = params ? json_object_get_members(params) : NULL;

	for (GList *l = keys; l; l = l->next) {
		g_autofree char *pair = g_strdup_printf("%s=%s", (char *)l->data,
							cop_json_str(params, l->data, "", NULL));

		g_strv_builder_add(pairs, pair);
	}
	return g_strv_builder_end(pairs);
}

static void identify(struct cop_agent *a)
{
	g_autofree guint8 *buf = g_malloc(COP_AGENT_FRAME_MAX);
	g_autoptr(JsonObject) identity = NULL;
	g_autofree char *template = NULL;
	g_auto(GStrv) params = NULL;
	struct cop_agent_identify m = {
		.hook_timeout_ms = HOOK_MS, .net_timeout_ms = NETWORK_MS, .name = a->vm->name,
		.hostname = a->vm->name};
	JsonArray *macs;
	ssize_t len = -EINVAL;

	g_mutex_lock(&a->vm->state->lock);
	identity = cop_json_copy(a->vm->identity);
	template = g_strdup(a->vm->template ?: "");
	g_mutex_unlock(&a->vm->state->lock);
	params = cop_talk_params(cop_json_obj(identity, "params"));
	macs = cop_json_arr(identity, "macs");
	m.flags = cop_json_bool(identity, "ssh_host_keys", FALSE, NULL) ? COP_AGENT_IDENTIFY_SSH_KEYS
									 : 0;
	m.index = (guint32)cop_json_int(identity, "index", 0, NULL);
	m.count = (guint32)cop_json_int(identity, "count", 1, NULL);
	m.template = template;
	m.machine_id = cop_json_str(identity, "machine_id", "", NULL);
	m.params = (const char *const *)params;
	for (guint i = 0; macs && i < json_array_get_length(macs) && i < COP_AGENT_MAX_NICS; i++) {
		struct cop_agent_nic *nic = &m.nics[m.nr_nics];

		nic->index = (guint8)i;
		if (read_mac(json_array_get_string_element(macs, i), nic->new))
			m.nr_nics++;
	}
	/* Random bytes that make the frame impossible come once in an eternity: others then. */
	for (int tries = 0; len == -EINVAL && tries < 2; tries++) {
		ssize_t n = getrandom(m.random, sizeof(m.random), 0);

		g_assert(n == sizeof(m.random));
		m.wall_ns = (guint64)g_get_real_time() * 1000;
		len = cop_agent_put_identify(buf, half(a), ID_IDENTIFY, &m);
	}
	a->phase = COP_PHASE_IDENTIFY;
	cop_agent_show(a, COP_AGENT_IS_CONNECTING, "it is being made a machine of its own");
	start_timer(a, IDENTIFY_MS, on_identify_late);
	if (len < 0)
		cop_link_fail(a, "the clone's identity can't be expressed: %s",
			      g_strerror((int)-len));
	else
		(void)send_frame(a, buf, len); /* a lost link is noticed */
	explicit_bzero(m.random, sizeof(m.random));
	explicit_bzero(buf, COP_AGENT_FRAME_MAX);
}

static char *text_of(const char *text)
{
	return g_utf8_make_valid(text, -1);
}

static gboolean on_identified(struct cop_agent *a, const struct cop_agent_frame *frame)
{
	g_autofree struct cop_agent_identified *m = g_new(struct cop_agent_identified, 1);
	static const char *const words[] = {"", "skipped", "failed", "took too long"};
	JsonArray *steps;

	if (cop_agent_get_identified(frame, m) < 0)
		return FALSE;
	if (a->phase != COP_PHASE_IDENTIFY || frame->id != ID_IDENTIFY)
		return TRUE; /* an answer to nothing */
	steps = json_array_new();
	for (guint32 i = 0; i < m->nr_steps; i++) {
		JsonObject *step = json_object_new();
		g_autofree char *name = text_of(m->steps[i].name);
		g_autofree char *text = text_of(m->steps[i].text);

		json_object_set_string_member(step, "name", name);
		json_object_set_boolean_member(step, "ok", m->steps[i].result <= COP_AGENT_SKIPPED);
		json_object_set_double_member(step, "ms", m->steps[i].took_us / 1000.0);
		json_object_set_string_member(step, "detail",
					      *text ? text : words[m->steps[i].result]);
		json_array_add_object_element(steps, step);
	}
	g_mutex_lock(&a->lock);
	if (a->steps)
		json_array_unref(a->steps);
	a->steps = steps;
	g_mutex_unlock(&a->lock);
	become_open(a);
	return TRUE;
}

/* In answer to a greeting; bytes before it, and answers to others, count for nothing. */
static gboolean on_opening(struct cop_agent *a, const struct cop_agent_frame *frame)
{
	struct cop_agent_hello_ack ack;
	struct cop_agent_refused refused;

	if (frame->type == COP_AGENT_READY && frame->session == 0) {
		a->expected = TRUE;
		cop_talk_begin(a);
	} else if (frame->type == COP_AGENT_HELLO_ACK && a->phase == COP_PHASE_HELLO &&
		   cop_agent_get_hello_ack(frame, &ack) == 0 && ack.session == a->session) {
		if (ack.proto < COP_AGENT_PROTO_MIN || ack.proto > COP_AGENT_PROTO_MAX)
			return FALSE;
		cop_agent_rx_accept(a->rx);
		g_mutex_lock(&a->lock);
		g_free(a->version);
		a->version = text_of(ack.version);
		g_mutex_unlock(&a->lock);
		if (identity_pending(a))
			identify(a);
		else
			become_open(a);
	} else if (frame->type == COP_AGENT_REFUSED && a->phase == COP_PHASE_HELLO &&
		   cop_agent_get_refused(frame, &refused) == 0 && refused.session == a->session) {
		g_autofree char *text = text_of(refused.text);
		g_autofree char *why = g_strdup_printf(
			"the agent is too %s: it speaks versions %u to %u, this daemon %u to %u%s%s",
			refused.proto_min > COP_AGENT_PROTO_MAX ? "new" : "old",
			refused.proto_min, refused.proto_max, COP_AGENT_PROTO_MIN,
			COP_AGENT_PROTO_MAX, *text ? ": " : "", text);

		stop_timer(a);
		a->phase = COP_PHASE_REFUSED;
		cop_agent_show(a, COP_AGENT_IS_FAILED, why);
	}
	return TRUE;
}

static gboolean on_error(struct cop_agent *a, const struct cop_agent_frame *frame)
{
	struct cop_agent_error m;
	g_autofree char *text = NULL;

	if (cop_agent_get_error(frame, &m) < 0)
		return FALSE;
	text = text_of(*m.text ? m.text : g_strerror((int)m.code));
	if (find_rest(a, frame->id) < COP_NR_RESTS)
		set_rest(a, find_rest(a, frame->id), text);
	else if (frame->id == ID_IDENTIFY && a->phase == COP_PHASE_IDENTIFY)
		cop_link_fail(a, "the agent can't take its clone's identity: %s", text);
	return TRUE;
}

static gboolean on_quiesced(struct cop_agent *a, const struct cop_agent_frame *frame)
{
	struct cop_agent_quiesced m;

	if (cop_agent_get_quiesced(frame, &m) < 0)
		return FALSE;
	if (find_rest(a, frame->id) == COP_REST_FILES)
		set_rest(a, COP_REST_FILES, NULL);
	return TRUE;
}

static gboolean on_held(struct cop_agent *a, const struct cop_agent_frame *frame)
{
	if (cop_agent_get_empty(frame) < 0)
		return FALSE;
	if (find_rest(a, frame->id) == COP_REST_PROGRAMS)
		set_rest(a, COP_REST_PROGRAMS, NULL);
	return TRUE;
}

/* FALSE: it is wrong. */
static gboolean on_frame(struct cop_agent *a, const struct cop_agent_frame *frame)
{
	if (a->phase < COP_PHASE_IDENTIFY)
		return on_opening(a, frame);
	if (frame->session != half(a))
		return TRUE;
	switch (frame->type) {
	case COP_AGENT_STARTED:
	case COP_AGENT_DATA:
	case COP_AGENT_EOF:
	case COP_AGENT_CREDIT:
	case COP_AGENT_EXIT:
		return cop_run_frame(a, frame);
	case COP_AGENT_ERROR:
		return cop_run_find(a, frame->id) ? cop_run_frame(a, frame) : on_error(a, frame);
	case COP_AGENT_IDENTIFIED:
		return on_identified(a, frame);
	case COP_AGENT_QUIESCED:
		return on_quiesced(a, frame);
	case COP_AGENT_HELD:
		return on_held(a, frame);
	case COP_AGENT_THAWED:
		return cop_agent_get_empty(frame) == 0;
	case COP_AGENT_REQUEST:
		return cop_ask_frame(a, frame);
	case COP_AGENT_PONG:
		a->pings = 0;
		return cop_agent_get_empty(frame) == 0;
	default:
		return TRUE; /* of a later version */
	}
}

gboolean cop_talk_feed(struct cop_agent *a, const guint8 *data, gsize len)
{
	while (len) {
		struct cop_agent_frame frame;
		int fd = a->fd, got;
		size_t used;

		got = cop_agent_rx_feed(a->rx, data, len, &used, &frame);
		data += used;
		len -= used;
		if (got < 0 && a->phase >= COP_PHASE_IDENTIFY) {
			cop_link_fail(a, "it sent something that is no frame");
			return FALSE;
		}
		if (got == 1) {
			/* Closed by what the frame brought about? Then the rest is void, too. */
			if (!on_frame(a, &frame) && a->fd == fd)
				cop_link_fail(a, "it sent a wrong frame of type %u", frame.type);
			if (a->fd != fd || fd < 0)
				return FALSE;
		}
		if (got == 0)
			break;
	}
	return TRUE;
}

void cop_talk_written(struct cop_agent *a)
{
	cop_run_written(a);
}

void cop_talk_rest(struct cop_agent *a, enum cop_rest_kind kind, int timeout_ms)
{
	static guint32 counter;
	guint8 buf[COP_AGENT_HEAD_BYTES + 64];
	guint32 id = ID_REST + counter++ % 1024;

	if (a->phase != COP_PHASE_OPEN) {
		set_rest(a, kind, "the agent is not ready");
		return;
	}
	a->rests[kind].id = id;
	(void)send_frame(a, buf, /* a lost link is noticed */
			 kind == COP_REST_FILES
				 ? cop_agent_put_quiesce(buf, half(a), id,
							 (guint32)timeout_ms + QUIESCE_GRACE_MS)
				 : cop_agent_put_hold(buf, half(a), id, HOLD_MS));
}

void cop_talk_thaw(struct cop_agent *a)
{
	guint8 buf[COP_AGENT_HEAD_BYTES];
	guint32 id = 0;

	for (enum cop_rest_kind kind = 0; kind < COP_NR_RESTS; kind++) {
		if (a->rests[kind].id)
			id = a->rests[kind].id;
		a->rests[kind].id = 0;
	}
	if (id && a->phase == COP_PHASE_OPEN)
		(void)send_frame(a, buf, cop_agent_put_empty(buf, half(a), COP_AGENT_THAW, id));
}
