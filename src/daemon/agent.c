/* The agent in a VM: what others see of it, and what workers wait for. See agent.h, agent-impl.h. */
#include "agent-impl.h"
#include "gerror.h"
#include "json.h"
#include "vm.h"

#include <string.h>

static const char *const words[] = {
	[COP_AGENT_IS_NONE] = "none",
	[COP_AGENT_IS_CONNECTING] = "connecting",
	[COP_AGENT_IS_READY] = "ready",
	[COP_AGENT_IS_FAILED] = "failed",
};

struct cop_agent *cop_agent_ref(struct cop_agent *a)
{
	g_atomic_ref_count_inc(&a->refs);
	return a;
}

void cop_agent_unref(struct cop_agent *a)
{
	if (!a || !g_atomic_ref_count_dec(&a->refs))
		return;
	g_free(a->path);
	g_free(a->reason);
	g_free(a->version);
	for (int i = 0; i < COP_NR_RESTS; i++)
		g_free(a->rests[i].reason);
	if (a->steps)
		json_array_unref(a->steps);
	g_mutex_clear(&a->lock);
	g_cond_clear(&a->changed);
	g_byte_array_unref(a->out);
	g_hash_table_unref(a->runs);
	g_free(a->rx);
	g_free(a);
}

void cop_agent_show(struct cop_agent *a, enum cop_agent_state state, const char *reason)
{
	g_mutex_lock(&a->lock);
	a->state = state;
	g_free(a->reason);
	a->reason = g_strdup(reason);
	if (state == COP_AGENT_IS_READY && !a->ready_us)
		a->ready_us = g_get_monotonic_time();
	g_cond_broadcast(&a->changed);
	g_mutex_unlock(&a->lock);
}

/* To the main loop's thread; never at once, as the caller may hold the state's lock. */
static void queue(GSourceFunc fn, gpointer user)
{
	g_idle_add_full(G_PRIORITY_DEFAULT, fn, user, NULL);
}

static gboolean open_link(gpointer user)
{
	struct cop_agent *a = user;

	cop_link_open(a);
	cop_agent_unref(a);
	return G_SOURCE_REMOVE;
}

struct cop_agent *cop_agent_new(struct cop_vm *vm, const char *path, gboolean expected,
				gboolean hold)
{
	struct cop_agent *a = g_new0(struct cop_agent, 1);

	g_atomic_ref_count_init(&a->refs);
	g_mutex_init(&a->lock);
	g_cond_init(&a->changed);
	a->path = g_strdup(path);
	a->vm = cop_vm_ref(vm);
	a->fd = -1;
	a->expected = expected;
	a->held = hold;
	a->out = g_byte_array_new();
	a->runs = g_hash_table_new_full(g_direct_hash, g_direct_equal, NULL, g_free);
	cop_agent_show(a, expected ? COP_AGENT_IS_CONNECTING : COP_AGENT_IS_NONE, "");
	queue(open_link, cop_agent_ref(a));
	return a;
}

static gboolean close_link(gpointer user)
{
	struct cop_agent *a = user;

	if (!a->closed) {
		a->closed = TRUE;
		cop_link_close(a);
		cop_talk_end(a, "the VM has ended");
		cop_agent_show(a, COP_AGENT_IS_NONE, "");
		g_clear_pointer(&a->vm, cop_vm_unref);
	}
	cop_agent_unref(a);
	return G_SOURCE_REMOVE;
}

void cop_agent_close(struct cop_agent *a)
{
	if (a)
		queue(close_link, cop_agent_ref(a));
}

static gboolean let_go(gpointer user)
{
	struct cop_agent *a = user;

	if (a->held) {
		a->held = FALSE;
		if (a->fd >= 0)
			cop_talk_begin(a);
	}
	cop_agent_unref(a);
	return G_SOURCE_REMOVE;
}

void cop_agent_go(struct cop_agent *a, gint64 begun_us)
{
	if (!a)
		return;
	g_mutex_lock(&a->lock);
	a->begun_us = begun_us;
	g_mutex_unlock(&a->lock);
	queue(let_go, cop_agent_ref(a));
}

JsonObject *cop_agent_to_json(struct cop_agent *a)
{
	JsonObject *obj = json_object_new();

	if (!a) {
		json_object_set_string_member(obj, "state", "none");
		json_object_set_string_member(obj, "reason", "");
		json_object_set_null_member(obj, "version");
		json_object_set_null_member(obj, "ready_ms");
		json_object_set_array_member(obj, "steps", json_array_new());
		return obj;
	}
	g_mutex_lock(&a->lock);
	json_object_set_string_member(obj, "state", words[a->state]);
	json_object_set_string_member(obj, "reason", a->reason);
	cop_json_set_str(obj, "version", a->version);
	if (a->begun_us && a->ready_us)
		json_object_set_double_member(obj, "ready_ms",
					      (double)(a->ready_us - a->begun_us) / 1000.0);
	else
		json_object_set_null_member(obj, "ready_ms");
	if (a->steps) {
		g_autoptr(JsonObject) holder = json_object_new(), copy = NULL;

		json_object_set_array_member(holder, "steps", json_array_ref(a->steps));
		copy = cop_json_copy(holder);
		json_object_set_array_member(obj, "steps",
					     json_array_ref(cop_json_arr(copy, "steps")));
	} else {
		json_object_set_array_member(obj, "steps", json_array_new());
	}
	g_mutex_unlock(&a->lock);
	return obj;
}

gboolean cop_agent_ready(struct cop_agent *a)
{
	gboolean ready = FALSE;

	if (a) {
		g_mutex_lock(&a->lock);
		ready = a->state == COP_AGENT_IS_READY;
		g_mutex_unlock(&a->lock);
	}
	return ready;
}

gboolean cop_agent_wait_ready(struct cop_agent *a, gint64 deadline_us, GError **error)
{
	gboolean ok;

	if (!a)
		return cop_gerror_set(error, COP_ERR_WRONG_STATE, "the VM has no port for an agent");
	g_mutex_lock(&a->lock);
	while (a->state != COP_AGENT_IS_READY && a->state != COP_AGENT_IS_FAILED &&
	       g_cond_wait_until(&a->changed, &a->lock, deadline_us))
		;
	ok = a->state == COP_AGENT_IS_READY;
	if (!ok && a->state == COP_AGENT_IS_FAILED)
		cop_gerror_set(error, COP_ERR_INTERNAL, "%s", a->reason);
	else if (!ok)
		cop_gerror_set(error, COP_ERR_TIMEOUT, "its agent did not confirm in time%s%s",
			       *a->reason ? ": " : "", a->reason);
	if (!ok && a->state == COP_AGENT_IS_CONNECTING && !*a->reason) {
		g_free(a->reason);
		a->reason = g_strdup("it has not answered in time");
	}
	g_mutex_unlock(&a->lock);
	return ok;
}

struct ask {
	struct cop_agent *agent;
	enum cop_rest_kind kind;
	int timeout_ms;
};

static gboolean ask_rest(gpointer user)
{
	struct ask *ask = user;

	cop_talk_rest(ask->agent, ask->kind, ask->timeout_ms);
	cop_agent_unref(ask->agent);
	g_free(ask);
	return G_SOURCE_REMOVE;
}

static gboolean rest(struct cop_agent *a, enum cop_rest_kind kind, int timeout_ms, GError **error)
{
	static const char *const whats[] = {"file systems", "programs"};
	struct ask *ask = g_new0(struct ask, 1);
	struct cop_rest *r = &a->rests[kind];
	gint64 deadline_us = g_get_monotonic_time() + timeout_ms * 1000LL;
	gboolean ok;

	*ask = (struct ask){cop_agent_ref(a), kind, timeout_ms};
	g_mutex_lock(&a->lock);
	r->state = COP_REST_ASKED;
	g_free(g_steal_pointer(&r->reason));
	g_mutex_unlock(&a->lock);
	queue(ask_rest, ask);
	g_mutex_lock(&a->lock);
	while (r->state == COP_REST_ASKED &&
	       g_cond_wait_until(&a->changed, &a->lock, deadline_us))
		;
	ok = r->state == COP_REST_DONE;
	if (r->state == COP_REST_FAILED)
		cop_gerror_set(error, COP_ERR_INTERNAL, "%s", r->reason ?: "");
	else if (!ok)
		cop_gerror_set(error, COP_ERR_TIMEOUT,
			       "the guest's %s did not come to rest in %d ms", whats[kind],
			       timeout_ms);
	g_mutex_unlock(&a->lock);
	return ok;
}

gboolean cop_agent_quiesce(struct cop_agent *a, int timeout_ms, GError **error)
{
	return rest(a, COP_REST_FILES, timeout_ms, error);
}

gboolean cop_agent_hold(struct cop_agent *a, int timeout_ms, GError **error)
{
	return rest(a, COP_REST_PROGRAMS, timeout_ms, error);
}

static gboolean port_closed(gpointer user)
{
	struct cop_agent *a = user;

	cop_talk_port_closed(a);
	cop_agent_unref(a);
	return G_SOURCE_REMOVE;
}

void cop_agent_port_closed(struct cop_agent *a)
{
	if (a)
		queue(port_closed, cop_agent_ref(a));
}

static gboolean ask_thaw(gpointer user)
{
	struct cop_agent *a = user;

	cop_talk_thaw(a);
	cop_agent_unref(a);
	return G_SOURCE_REMOVE;
}

void cop_agent_thaw(struct cop_agent *a)
{
	if (a)
		queue(ask_thaw, cop_agent_ref(a));
}
