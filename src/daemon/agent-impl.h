/* What agent.c, agent-link.c and agent-talk.c share: the one structure of a VM's agent.
 *
 * agent.c: what others see, and what workers wait for. agent-link.c: the socket, bytes in and out.
 * agent-talk.c: frames, sessions, commands.
 */
#ifndef COP_DAEMON_AGENT_IMPL_H
#define COP_DAEMON_AGENT_IMPL_H

#include "agent.h"
#include "proto/agent.h"
#include "state.h"

enum cop_agent_state {
	COP_AGENT_IS_NONE,
	COP_AGENT_IS_CONNECTING,
	COP_AGENT_IS_READY,
	COP_AGENT_IS_FAILED,
};

enum cop_agent_phase {
	COP_PHASE_OFF,	    /* no socket, or held */
	COP_PHASE_HELLO,    /* greeted; all that comes before the answer is thrown away */
	COP_PHASE_REFUSED,  /* no version in common: until another agent says READY */
	COP_PHASE_IDENTIFY, /* a clone is being told what it is */
	COP_PHASE_OPEN,	    /* ready for anything */
};

/* What can be brought to rest in a guest for a freeze, until it is thawed. */
enum cop_rest_kind {
	COP_REST_FILES,
	COP_REST_PROGRAMS,
	COP_NR_RESTS,
};

struct cop_rest {
	/* under the agent's lock */
	enum {
		COP_REST_NOT,
		COP_REST_ASKED, /* by a worker, or sent */
		COP_REST_DONE,
		COP_REST_FAILED,
	} state;
	char *reason;
	/* main loop's thread */
	guint32 id; /* of what was sent and not thawed yet; 0: none */
};

/* A command in the guest. */
struct cop_agent_run {
	guint32 id;
	gboolean started;
	const struct cop_agent_exec_events *events; /* NULL once it is abandoned */
	void *user;
	guint32 output_credit[3]; /* by stream: bytes that the guest may send */
	guint32 input_credit;	  /* bytes that the guest has room for and the client was not told of */
	guint32 input_room;	  /* bytes that the client was told of and has not sent */
	gboolean input_done;
};

struct cop_agent {
	gatomicrefcount refs;
	char *path;

	/* Under `lock`: what is shown and waited for. */
	GMutex lock;
	GCond changed;
	enum cop_agent_state state;
	char *reason, *version;
	JsonArray *steps; /* of AgentStep; NULL: none */
	gint64 begun_us, ready_us;
	struct cop_rest rests[COP_NR_RESTS];

	/* Main loop's thread. */
	struct cop_vm *vm; /* a reference until it is closed */
	gboolean expected, held, closed;
	int fd;
	guint read_source, write_source, timer_source, rest_source, talk_source;
	struct cop_agent_rx *rx;
	gsize cheap_bytes; /* received lately without credit */
	GByteArray *out;
	gsize out_at; /* written of it */
	enum cop_agent_phase phase;
	guint64 session; /* its number */
	guint hello_ms;	 /* until the next greeting */
	unsigned pings;	 /* that were not answered */
	GHashTable *runs; /* id -> struct cop_agent_run, owned */
	guint32 last_id;
	unsigned asking; /* requests of the guest's that are being done */
	guint failures; /* in a row */
};

/* agent.c: any thread. Sets what is shown, and wakes who waits. reason is copied. */
void cop_agent_show(struct cop_agent *agent, enum cop_agent_state state, const char *reason);

/* agent-link.c; main loop's thread. */
void cop_link_open(struct cop_agent *agent);
void cop_link_close(struct cop_agent *agent);
/* Queues bytes for the guest. FALSE: it does not read, and the link is gone now. */
gboolean cop_link_write(struct cop_agent *agent, const void *data, gsize len);
/* Bytes that wait for the guest to read. */
gsize cop_link_backlog(const struct cop_agent *agent);
/* Ends the session with a reason that is shown, and tries again after a while. */
void cop_link_fail(struct cop_agent *agent, const char *fmt, ...) G_GNUC_PRINTF(2, 3);

/* agent-talk.c; main loop's thread. */
void cop_talk_begin(struct cop_agent *agent);
/* Takes bytes from the guest. FALSE: the link is gone. */
gboolean cop_talk_feed(struct cop_agent *agent, const guint8 *data, gsize len);
/* The session is over: whoever waits is told. */
void cop_talk_end(struct cop_agent *agent, const char *why);
/* Bytes have left the queue: more input may be asked for. */
void cop_talk_written(struct cop_agent *agent);
void cop_talk_rest(struct cop_agent *agent, enum cop_rest_kind kind, int timeout_ms);
void cop_talk_thaw(struct cop_agent *agent);
/* "key=value" of each member; caller frees. */
char **cop_talk_params(JsonObject *params);
/* The guest has closed the port. */
void cop_talk_port_closed(struct cop_agent *agent);

/* agent-run.c: commands; main loop's thread. */
struct cop_agent_run *cop_run_find(struct cop_agent *agent, guint32 id);
/* Frames of a command. FALSE: the link is gone. */
gboolean cop_run_frame(struct cop_agent *agent, const struct cop_agent_frame *frame);
void cop_run_end_all(struct cop_agent *agent, const char *why);
void cop_run_written(struct cop_agent *agent);

/* agent-ask.c: what the guest asks for; main loop's thread. */
gboolean cop_ask_frame(struct cop_agent *agent, const struct cop_agent_frame *frame);

#endif
