/* What a guest asks for through its agent: to be frozen or forked, or who it is. See op-ask.c for what
 * it is allowed.
 *
 * A request is done on a thread of its own, as it takes long and needs this loop. Its answer goes to
 * the session in which it was asked, or nowhere.
 */
#include "agent-impl.h"
#include "gerror.h"
#include "json.h"
#include "ops.h"

#include <string.h>

#define MAX_ASKING 16
#define MAX_COUNT 1024

struct asked {
	struct cop_agent *agent;
	struct cop_vm *vm;
	guint64 session;
	guint32 id;
	int kind;
	guint32 count;
	char *name; /* of the template */
	JsonObject *params;
	char **clones; /* "clone.N=NAME" */
	GError *error;
};

static void asked_free(struct asked *q)
{
	cop_agent_unref(q->agent);
	cop_vm_unref(q->vm);
	g_free(q->name);
	if (q->params)
		json_object_unref(q->params);
	g_strfreev(q->clones);
	g_clear_error(&q->error);
	g_free(q);
}

static void respond(struct cop_agent *a, guint32 id, const struct cop_agent_response *m)
{
	g_autofree guint8 *buf = g_malloc(COP_AGENT_FRAME_MAX);
	ssize_t len = cop_agent_put_response(buf, (guint32)a->session, id, m);
	static const char *const none[] = {NULL};
	struct cop_agent_response plain = {.role = m->role, .index = m->index, .count = m->count,
					   .text = m->text, .name = m->name,
					   .template = m->template, .params = none};

	if (len < 0) /* too many names: without them */
		len = cop_agent_put_response(buf, (guint32)a->session, id, &plain);
	if (len > 0)
		(void)cop_link_write(a, buf, (gsize)len); /* a lost link is noticed */
}

static void respond_error(struct cop_agent *a, guint32 id, const char *text)
{
	static const char *const none[] = {NULL};
	struct cop_agent_response m = {.role = COP_AGENT_ROLE_ERROR, .text = text, .name = "",
				       .template = "", .params = none};

	respond(a, id, &m);
}

static gboolean finish(gpointer user)
{
	struct asked *q = user;
	struct cop_agent *a = q->agent;
	static const char *const none[] = {NULL};

	a->asking--;
	if (a->phase == COP_PHASE_OPEN && a->session == q->session) {
		if (q->error) {
			g_autofree char *message = cop_gerror_message(q->error);

			respond_error(a, q->id, message);
		} else {
			struct cop_agent_response m = {
				.role = COP_AGENT_ROLE_PARENT, .text = "", .count = q->count,
				.name = q->vm->name, .template = q->name ?: "",
				.params = q->clones ? (const char *const *)q->clones : none};

			respond(a, q->id, &m);
		}
	}
	asked_free(q);
	return G_SOURCE_REMOVE;
}

static gpointer work(gpointer user)
{
	struct asked *q = user;

	if (q->kind == COP_AGENT_REQUEST_FREEZE)
		(void)cop_op_ask_freeze(q->vm, q->name, &q->error); /* the error tells */
	else
		(void)cop_op_ask_fork(q->vm, q->count, q->params, &q->name, &q->clones, &q->error);
	g_idle_add_full(G_PRIORITY_DEFAULT, finish, q, NULL);
	return NULL;
}

static void info(struct cop_agent *a, guint32 id)
{
	g_autoptr(JsonObject) identity = NULL;
	g_autofree char *template = NULL;
	g_auto(GStrv) params = NULL;
	struct cop_agent_response m = {.text = "", .name = a->vm->name};

	g_mutex_lock(&a->vm->state->lock);
	m.role = a->vm->identity ? COP_AGENT_ROLE_CLONE : COP_AGENT_ROLE_PARENT;
	identity = cop_json_copy(a->vm->identity);
	template = g_strdup(a->vm->template ?: "");
	g_mutex_unlock(&a->vm->state->lock);
	m.template = template;
	m.index = (guint32)cop_json_int(identity, "index", 0, NULL);
	m.count = (guint32)cop_json_int(identity, "count", 0, NULL);
	params = cop_talk_params(cop_json_obj(identity, "params"));
	m.params = (const char *const *)params;
	respond(a, id, &m);
}

/* Text from a guest that goes into JSON. */
static gboolean take_params(struct asked *q, const char *const *params)
{
	q->params = json_object_new();
	for (; *params; params++) {
		const char *sign = strchr(*params, '=');
		g_autofree char *key = g_strndup(*params, (gsize)(sign - *params));

		if (!g_utf8_validate(*params, -1, NULL))
			return FALSE;
		json_object_set_string_member(q->params, key, sign + 1);
	}
	return TRUE;
}

gboolean cop_ask_frame(struct cop_agent *a, const struct cop_agent_frame *frame)
{
	g_autofree const char **store = g_new(const char *, COP_AGENT_MAX_STRINGS);
	struct cop_agent_request m;
	struct asked *q;

	if (cop_agent_get_request(frame, store, &m) < 0)
		return FALSE;
	if (m.kind == COP_AGENT_REQUEST_INFO) {
		info(a, frame->id);
		return TRUE;
	}
	if (a->phase != COP_PHASE_OPEN || a->asking >= MAX_ASKING) {
		respond_error(a, frame->id, "this VM is busy");
		return TRUE;
	}
	if ((m.kind == COP_AGENT_REQUEST_FREEZE && !cop_name_valid(m.name)) ||
	    (m.kind == COP_AGENT_REQUEST_FORK && m.count > MAX_COUNT)) {
		respond_error(a, frame->id,
			      m.kind == COP_AGENT_REQUEST_FREEZE
				      ? "that is not a template name: use a-z, 0-9, '.', '_' and "
					"'-', at most 63, the first a letter or digit"
				      : "that is more clones than any VM may have");
		return TRUE;
	}
	q = g_new0(struct asked, 1);
	q->agent = cop_agent_ref(a);
	q->vm = cop_vm_ref(a->vm);
	q->session = a->session;
	q->id = frame->id;
	q->kind = m.kind;
	q->count = m.count;
	q->name = m.kind == COP_AGENT_REQUEST_FREEZE ? g_strdup(m.name) : NULL;
	if (!take_params(q, m.params)) {
		respond_error(a, frame->id, "a parameter is not UTF-8");
		asked_free(q);
		return TRUE;
	}
	a->asking++;
	g_thread_unref(g_thread_new("asked", work, q));
	return TRUE;
}
