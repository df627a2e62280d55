/* QMP client: one connection to one QEMU's monitor.
 *
 * The connection's bytes are read on the main loop's thread; commands are called from worker
 * threads, which block until the reply or their deadline. Events are kept in a ring of the last 64
 * and can be waited for; each also goes to the owner's callback, on the main loop's thread.
 */
#ifndef COP_DAEMON_QMP_H
#define COP_DAEMON_QMP_H

#include <json-glib/json-glib.h>

struct cop_qmp;

/* Called on the main loop's thread for every event, and once with NULL when the connection ends. */
typedef void (*cop_qmp_event_fn)(const char *event, JsonObject *data, void *user);

struct cop_qmp *cop_qmp_ref(struct cop_qmp *qmp);
void cop_qmp_unref(struct cop_qmp *qmp);
typedef struct cop_qmp cop_qmp; /* for g_autoptr() only */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(cop_qmp, cop_qmp_unref)

/* Connects to the socket, reads the greeting and leaves negotiation mode. Blocks up to timeout_ms.
 * fn may be NULL. Caller owns the result. */
struct cop_qmp *cop_qmp_connect(const char *path, int timeout_ms, cop_qmp_event_fn fn, void *user,
				GError **error);
/* Ends the connection; waiting calls fail. The callback is not called any more after this when it
 * runs on the main loop's thread. */
void cop_qmp_close(struct cop_qmp *qmp);

/* Runs a command. args (may be NULL) is consumed; fd >= 0 is sent along (SCM_RIGHTS), not closed.
 * ret, when not NULL, receives the reply's "return" value (caller frees with json_node_unref).
 * A monitor's error reply becomes COP_ERR_INTERNAL with its text. */
gboolean cop_qmp_call(struct cop_qmp *qmp, const char *command, JsonObject *args, int fd,
		      int timeout_ms, JsonNode **ret, GError **error);

/* Number of the newest event so far, to wait for later ones. */
guint64 cop_qmp_mark(struct cop_qmp *qmp);
/* Waits for an event newer than mark with the name and, when key is not NULL, whose data has the
 * string value under key. ret_time_us: the event's own time stamp. FALSE on timeout or end. */
gboolean cop_qmp_wait(struct cop_qmp *qmp, guint64 mark, const char *event, const char *key,
		      const char *const *values, int timeout_ms, char **ret_value,
		      gint64 *ret_time_us, GError **error);

#endif
