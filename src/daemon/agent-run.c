/* Commands in a guest. See agent-impl.h.
 *
 * Credit: what a command may print is what its client has given; what it may be sent is what the guest
 * has given, at most a window, and nothing while much waits to be read by the guest. So what the daemon
 * holds for a command is a window at most, each way.
 */
#include "agent-impl.h"
#include "gerror.h"
#include "json.h"

#include <errno.h>
#include <string.h>

#define FIRST_ID 4096u	       /* smaller ids are agent-talk.c's */
#define BACKLOG_BYTES (256u * 1024)

struct cop_agent_run *cop_run_find(struct cop_agent *a, guint32 id)
{
	return g_hash_table_lookup(a->runs, GUINT_TO_POINTER(id));
}

static void end_run(struct cop_agent *a, struct cop_agent_run *run, int status, int signal,
		    const GError *error)
{
	const struct cop_agent_exec_events *events = run->events;
	void *user = run->user;

	g_hash_table_remove(a->runs, GUINT_TO_POINTER(run->id));
	if (events)
		events->ended(status, signal, error, user);
}

void cop_run_end_all(struct cop_agent *a, const char *why)
{
	g_autoptr(GError) error = NULL;
	GHashTableIter iter;
	struct cop_agent_run *run;

	cop_gerror_set(&error, COP_ERR_INTERNAL,
		       "the agent was lost: %s\nwhat became of the command is not known", why);
	for (;;) {
		g_hash_table_iter_init(&iter, a->runs);
		if (!g_hash_table_iter_next(&iter, NULL, (void **)&run))
			break;
		end_run(a, run, -1, -1, error);
	}
}

/* Tells the client of the guest's credit. */
static void pass_credit(struct cop_agent *a, struct cop_agent_run *run)
{
	guint32 n = run->input_credit;

	if (!n || !run->events || run->input_done || cop_link_backlog(a) > BACKLOG_BYTES)
		return;
	run->input_credit = 0;
	run->input_room += n;
	run->events->credit(n, run->user);
}

void cop_run_written(struct cop_agent *a)
{
	GHashTableIter iter;
	struct cop_agent_run *run;

	if (cop_link_backlog(a) > BACKLOG_BYTES)
		return;
	/* Telling a client only queues a message: no run comes or goes by it. */
	g_hash_table_iter_init(&iter, a->runs);
	while (g_hash_table_iter_next(&iter, NULL, (void **)&run))
		pass_credit(a, run);
}

static gboolean send_frame(struct cop_agent *a, const guint8 *buf, ssize_t len)
{
	return len > 0 && cop_link_write(a, buf, (gsize)len);
}

static gboolean on_data(struct cop_agent *a, struct cop_agent_run *run,
			const struct cop_agent_frame *frame)
{
	const uint8_t *data;
	uint8_t stream;
	size_t len;

	if (cop_agent_get_data(frame, &stream, &data, &len) < 0 || stream == COP_AGENT_STDIN)
		return FALSE;
	if (!run)
		return TRUE; /* it crossed the end */
	if (len > run->output_credit[stream])
		return FALSE;
	run->output_credit[stream] -= (guint32)len;
	a->cheap_bytes -= MIN(a->cheap_bytes, len + COP_AGENT_HEAD_BYTES + 1);
	if (run->events)
		run->events->output(stream, data, len, run->user);
	else
		cop_agent_exec_credit(a, run->id, stream, (guint32)len);
	return TRUE;
}

static gboolean on_credit(struct cop_agent *a, struct cop_agent_run *run,
			  const struct cop_agent_frame *frame)
{
	uint32_t bytes;
	uint8_t stream;

	if (cop_agent_get_credit(frame, &stream, &bytes) < 0 || stream != COP_AGENT_STDIN)
		return FALSE;
	if (!run)
		return TRUE;
	if (bytes > COP_AGENT_WINDOW - MIN(run->input_credit + run->input_room, COP_AGENT_WINDOW))
		return FALSE; /* more than it was ever given */
	run->input_credit += bytes;
	pass_credit(a, run);
	return TRUE;
}

static gboolean on_exit_frame(struct cop_agent *a, struct cop_agent_run *run,
			      const struct cop_agent_frame *frame)
{
	struct cop_agent_exit m;

	if (cop_agent_get_exit(frame, &m) < 0)
		return FALSE;
	if (run)
		end_run(a, run, m.status, m.signal, NULL);
	return TRUE;
}

/* As a shell has it; -1: it is no matter of the command. */
static int status_of(guint32 code)
{
	switch (code) {
	case ENOENT:
		return 127;
	case EACCES:
	case ENOEXEC:
	case EISDIR:
	case ENOTDIR:
	case ELOOP:
	case ETXTBSY:
	case E2BIG:
		return 126;
	default:
		return -1;
	}
}

/* The command could not be started. */
static gboolean on_error(struct cop_agent *a, struct cop_agent_run *run,
			 const struct cop_agent_frame *frame)
{
	g_autoptr(GError) error = NULL;
	g_autofree char *text = NULL;
	struct cop_agent_error m;
	int status;

	if (cop_agent_get_error(frame, &m) < 0)
		return FALSE;
	text = g_utf8_make_valid(*m.text ? m.text : g_strerror((int)m.code), -1);
	status = run->started ? -1 : status_of(m.code);
	if (status >= 0) {
		g_autofree char *line = g_strdup_printf("coppice-agent: %s\n", text);

		if (run->events)
			run->events->output(COP_AGENT_STDERR, (const guint8 *)line, strlen(line),
					    run->user);
	} else {
		cop_gerror_set(&error, COP_ERR_INTERNAL, "the agent could not run it: %s", text);
	}
	end_run(a, run, status, -1, error);
	return TRUE;
}

gboolean cop_run_frame(struct cop_agent *a, const struct cop_agent_frame *frame)
{
	struct cop_agent_run *run = cop_run_find(a, frame->id);
	uint8_t stream;

	switch (frame->type) {
	case COP_AGENT_STARTED:
		if (run)
			run->started = TRUE;
		return cop_agent_get_empty(frame) == 0;
	case COP_AGENT_DATA:
		return on_data(a, run, frame);
	case COP_AGENT_EOF:
		return cop_agent_get_eof(frame, &stream) == 0;
	case COP_AGENT_CREDIT:
		return on_credit(a, run, frame);
	case COP_AGENT_EXIT:
		return on_exit_frame(a, run, frame);
	default:
		return on_error(a, run, frame);
	}
}

static char **environment(JsonObject *env)
{
	g_autoptr(GStrvBuilder) pairs = g_strv_builder_new();
	g_autoptr(GList) keys = env ? json_object_get_members(env) : NULL;

	for (GList *l = keys; l; l = l->next) {
		g_autofree char *pair = g_strdup_printf("%s=%s", (char *)l->data,
							cop_json_str(env, l->data, "", NULL));

		g_strv_builder_add(pairs, pair);
	}
	return g_strv_builder_end(pairs);
}

static guint32 free_id(struct cop_agent *a)
{
	do {
		a->last_id = a->last_id < FIRST_ID || a->last_id == G_MAXUINT32 ? FIRST_ID
										 : a->last_id + 1;
	} while (cop_run_find(a, a->last_id));
	return a->last_id;
}

static gboolean usable(struct cop_agent *a, GError **error)
{
	gboolean ok;

	if (a->phase == COP_PHASE_OPEN && g_hash_table_size(a->runs) >= COP_AGENT_MAX_EXECS)
		return cop_gerror_set(error, COP_ERR_LIMIT,
				      "%u commands are running in this VM already",
				      COP_AGENT_MAX_EXECS);
	if (a->phase == COP_PHASE_OPEN)
		return TRUE;
	g_mutex_lock(&a->lock);
	ok = a->state == COP_AGENT_IS_NONE;
	cop_gerror_set(error, COP_ERR_WRONG_STATE, "%s%s%s\n%s",
		       ok ? "there is no agent in this VM" : "the VM's agent is not ready",
		       *a->reason ? ": " : "", a->reason,
		       ok ? "install coppice-agent in it, or wait until it has booted"
			  : "'coppice ps' shows when it is");
	g_mutex_unlock(&a->lock);
	return FALSE;
}

guint32 cop_agent_exec(struct cop_agent *a, JsonObject *request,
		       const struct cop_agent_exec_events *events, void *user, GError **error)
{
	g_autofree guint8 *buf = g_malloc(COP_AGENT_FRAME_MAX);
	g_auto(GStrv) argv = cop_json_strv(request, "argv", NULL);
	g_auto(GStrv) env = environment(cop_json_obj(request, "env"));
	JsonObject *tty = cop_json_obj(request, "tty");
	struct cop_agent_exec m = {
		.flags = tty ? COP_AGENT_EXEC_TTY : 0,
		.rows = (uint16_t)(tty ? cop_json_int(tty, "rows", 24, NULL) : 0),
		.columns = (uint16_t)(tty ? cop_json_int(tty, "columns", 80, NULL) : 0),
		.cpu_percent = (guint32)(cop_json_double(request, "cpus", 0) * 100 + 0.5),
		.memory_max = (guint64)cop_json_int(request, "memory_max_bytes", 0, NULL),
		.user = cop_json_str(request, "user", "", NULL),
		.cwd = cop_json_str(request, "workdir", "", NULL),
		.argv = (const char *const *)argv,
		.env = (const char *const *)env,
	};
	struct cop_agent_run *run;
	guint32 id;
	ssize_t len;

	if (!usable(a, error))
		return 0;
	id = free_id(a);
	len = cop_agent_put_exec(buf, (guint32)a->session, id, &m);
	if (len < 0) {
		cop_gerror_set(error, COP_ERR_BAD_REQUEST, "the command can't be sent: %s",
			       len == -E2BIG ? "it is longer than 60 KiB" : g_strerror((int)-len));
		return 0;
	}
	if (!cop_link_write(a, buf, (gsize)len)) {
		cop_gerror_set(error, COP_ERR_INTERNAL, "the connection to the guest was lost");
		return 0;
	}
	run = g_new0(struct cop_agent_run, 1);
	run->id = id;
	run->events = events;
	run->user = user;
	run->output_credit[1] = run->output_credit[2] = COP_AGENT_WINDOW;
	run->input_credit = COP_AGENT_WINDOW;
	g_hash_table_insert(a->runs, GUINT_TO_POINTER(id), run);
	pass_credit(a, run);
	return id;
}

void cop_agent_exec_input(struct cop_agent *a, guint32 id, const guint8 *data, gsize len)
{
	g_autofree guint8 *buf = g_malloc(COP_AGENT_FRAME_MAX);
	struct cop_agent_run *run = cop_run_find(a, id);
	guint32 session = (guint32)a->session;

	if (!run || run->input_done)
		return;
	if (!len) {
		run->input_done = TRUE;
		(void)send_frame(a, buf, cop_agent_put_eof(buf, session, id, COP_AGENT_STDIN));
		return;
	}
	run->input_room -= (guint32)MIN(run->input_room, len);
	while (len) {
		size_t n = cop_agent_data_fit(data, len);

		/* When the link is lost all runs end: this one may be gone now. */
		if (!send_frame(a, buf,
				cop_agent_put_data(buf, session, id, COP_AGENT_STDIN, data, n)))
			return;
		data += n;
		len -= n;
	}
}

void cop_agent_exec_signal(struct cop_agent *a, guint32 id, int number)
{
	guint8 buf[COP_AGENT_HEAD_BYTES + 8];

	if (cop_run_find(a, id))
		(void)send_frame(a, buf,
				 cop_agent_put_signal(buf, (guint32)a->session, id,
						      (uint8_t)number));
}

void cop_agent_exec_resize(struct cop_agent *a, guint32 id, unsigned rows, unsigned columns)
{
	guint8 buf[COP_AGENT_HEAD_BYTES + 8];

	if (cop_run_find(a, id))
		(void)send_frame(a, buf,
				 cop_agent_put_resize(buf, (guint32)a->session, id, (uint16_t)rows,
						      (uint16_t)columns));
}

void cop_agent_exec_credit(struct cop_agent *a, guint32 id, int stream, guint32 bytes)
{
	struct cop_agent_run *run = cop_run_find(a, id);
	guint8 buf[COP_AGENT_HEAD_BYTES + 8];

	if (!run || (stream != COP_AGENT_STDOUT && stream != COP_AGENT_STDERR))
		return;
	/* Who gives more than a window has none to give. */
	bytes = MIN(bytes, COP_AGENT_WINDOW - run->output_credit[stream]);
	if (!bytes)
		return;
	run->output_credit[stream] += bytes;
	(void)send_frame(a, buf,
			 cop_agent_put_credit(buf, (guint32)a->session, id, (uint8_t)stream, bytes));
}

void cop_agent_exec_abandon(struct cop_agent *a, guint32 id)
{
	struct cop_agent_run *run = cop_run_find(a, id);
	guint8 buf[COP_AGENT_HEAD_BYTES];

	if (!run)
		return;
	run->events = NULL;
	if (!send_frame(a, buf, cop_agent_put_empty(buf, (guint32)a->session, COP_AGENT_ABANDON, id)))
		return;
	/* What it still has to say is thrown away, but must not wait for a client that is gone. */
	for (int stream = COP_AGENT_STDOUT; stream <= COP_AGENT_STDERR; stream++)
		cop_agent_exec_credit(a, id, stream, COP_AGENT_WINDOW);
}
