/* The agent in a VM, seen from the host: one connection to one virtio-serial port.
 *
 * Threads: the connection lives on the main loop's thread. What is named "worker" below blocks and is
 * called from workers; what is named "any" from any thread; all else on the main loop's thread. A
 * mutex of its own guards what ps shows; it is the innermost of all locks.
 *
 * Every byte from the guest may be a lie. A frame that is wrong in any way ends the session: whoever
 * waits is told, `ps` shows why, and a new session is tried after a while.
 */
#ifndef COP_DAEMON_AGENT_H
#define COP_DAEMON_AGENT_H

#include <json-glib/json-glib.h>

struct cop_vm;
struct cop_agent;

/* Any thread. Connects in the background to QEMU's chardev socket, and again when the connection was
 * lost. expected: an agent was there before, in the template or under an earlier daemon, so it is
 * "connecting" and not "none". hold: no session yet, as the guest does not run its own state. The VM
 * outlives the agent, which holds no reference to it until cop_agent_close(). */
struct cop_agent *cop_agent_new(struct cop_vm *vm, const char *path, gboolean expected,
				gboolean hold);
struct cop_agent *cop_agent_ref(struct cop_agent *agent);
void cop_agent_unref(struct cop_agent *agent);
/* Any thread; NULL is fine. Ends sessions and the connection for good. */
void cop_agent_close(struct cop_agent *agent);
/* Any thread; NULL is fine. Lets sessions begin: of a clone that has its state and is about to run, and
 * was asked for at begun_us (monotonic). What it is greeted with waits for it in the socket. */
void cop_agent_go(struct cop_agent *agent, gint64 begun_us);

/* Any thread; NULL is fine. QEMU says that nobody in the guest has the port open any more. */
void cop_agent_port_closed(struct cop_agent *agent);

/* Any thread. The Agent object of the API; NULL reads as nobody there. Caller owns it. */
JsonObject *cop_agent_to_json(struct cop_agent *agent);
/* Any thread. Did an agent answer in this VM, and was the session fine? NULL: no. */
gboolean cop_agent_ready(struct cop_agent *agent);

/* Worker. Waits until a clone's agent has confirmed the identity (vm->identity, which it is told at
 * its first session), or has failed, or deadline_us (monotonic) is over. FALSE: why it is not ready. */
gboolean cop_agent_wait_ready(struct cop_agent *agent, gint64 deadline_us, GError **error);

/* Worker. File systems are synced and frozen when it returns TRUE; whatever it returns,
 * cop_agent_thaw() must follow. */
gboolean cop_agent_quiesce(struct cop_agent *agent, int timeout_ms, GError **error);
/* Worker. No program of the guest but the agent runs from when it returns TRUE to the thaw, or, in a
 * clone of that instant, to when the clone's random state is its own; for less than a second of the
 * guest's time, whatever happens. cop_agent_thaw() must follow. */
gboolean cop_agent_hold(struct cop_agent *agent, int timeout_ms, GError **error);
/* Any thread; does not wait. NULL, and an agent that has nothing at rest, are fine. */
void cop_agent_thaw(struct cop_agent *agent);

/* A command in the guest. */
struct cop_agent_exec_events {
	/* stream 1 or 2. Never more than was given as credit. */
	void (*output)(int stream, const guint8 *data, gsize len_bytes, void *user);
	/* So many more bytes of input may be given. */
	void (*credit)(guint32 bytes, void *user);
	/* Once, the last event: an exit status or signal (the other is -1), or error, borrowed. After it
	 * the id is no command's any more. */
	void (*ended)(int exit_status, int signal, const GError *error, void *user);
};

/* Starts a command: request is an ExecRequest that was checked. Returns its id, which stays valid
 * until `ended`, or 0 with error set. Both streams of output begin with a credit of
 * COP_AGENT_WINDOW bytes (proto/agent.h). */
guint32 cop_agent_exec(struct cop_agent *agent, JsonObject *request,
		       const struct cop_agent_exec_events *events, void *user, GError **error);
/* Input within the credit; len 0: its end. */
void cop_agent_exec_input(struct cop_agent *agent, guint32 id, const guint8 *data, gsize len);
void cop_agent_exec_signal(struct cop_agent *agent, guint32 id, int number);
void cop_agent_exec_resize(struct cop_agent *agent, guint32 id, unsigned rows, unsigned columns);
void cop_agent_exec_credit(struct cop_agent *agent, guint32 id, int stream, guint32 bytes);
/* Nobody is interested any more: the command is killed, no event follows. */
void cop_agent_exec_abandon(struct cop_agent *agent, guint32 id);

#endif
