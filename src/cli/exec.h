/* SPDX-License-Identifier: MIT */
/*
 * exec.h: one command that runs in a VM, over a WebSocket of the daemon (docs/openapi.json: exec).
 *
 * Any number of sessions share the default main context; nothing blocks but writing to a file
 * descriptor. Neither side holds more than a window: input is read only while the guest has room for
 * it, and output that was not written yet keeps the guest from sending more.
 */
#ifndef COP_CLI_EXEC_H
#define COP_CLI_EXEC_H

#include <json-glib/json-glib.h>
#include <libsoup/soup.h>

/* Statuses of coppice exec and run-in, besides the command's own; as of docker(1) and timeout(1). */
enum {
	COP_EXEC_TIMED_OUT = 124,
	COP_EXEC_FAILED = 125, /* coppice, the daemon or the agent failed */
	COP_EXEC_SIGNALLED = 128, /* plus the signal's number */
};

/* Gets output: stream 1 or 2. FALSE: nothing takes it any more; the session ends. */
typedef gboolean (*cop_exec_output_fn)(int stream, const guint8 *data, gsize len_bytes, void *user);

struct cop_exec_wish {
	JsonObject *request; /* ExecRequest or RunInRequest; sent as it is; "stdin" is set from in_fd */
	int in_fd;	     /* -1: no input */
	cop_exec_output_fn output;
	void (*ended)(void *user); /* once; the session may be freed from the next iteration on */
	void *user;
};

struct cop_exec;

/* Begins to talk on @ws, which is taken. */
struct cop_exec *cop_exec_new(SoupWebsocketConnection *ws, const struct cop_exec_wish *wish);
void cop_exec_free(struct cop_exec *exec);

/* Forwards a signal to the command, and the terminal's new size. */
void cop_exec_signal(struct cop_exec *exec, int number);
void cop_exec_resize(struct cop_exec *exec, unsigned rows, unsigned columns);

/* Input stays unread until it is let go on: for a caller whose own buffer is full. */
gboolean cop_exec_done(const struct cop_exec *exec);

/* What became of it, once it has ended: an exit status as above; *@ret_error (when it is not NULL) is
 * set when the command did not run to its end. */
int cop_exec_status(const struct cop_exec *exec, GError **error);
/* The daemon's last word (ExecResult), borrowed; NULL when there was none. */
JsonObject *cop_exec_result(const struct cop_exec *exec);

/* Writes all of it to a descriptor, waiting where it must. FALSE: it takes no more. */
gboolean cop_exec_write(int fd, const guint8 *data, gsize len_bytes);

/* Adds "K=V" or "K" (from this program's environment) to the object; FALSE: a usage error. */
gboolean cop_exec_add_pair(JsonObject *object, const char *option, const char *text, gboolean environment,
			   GError **error);

#endif
