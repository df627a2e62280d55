/* A WebSocket joined to a command in a guest: docs/openapi.json describes the messages.
 *
 * All on the main loop's thread.
 */
#ifndef COP_DAEMON_AGENT_EXEC_H
#define COP_DAEMON_AGENT_EXEC_H

#include <libsoup/soup.h>

#include "state.h"

/* Is it an ExecRequest? more: further members that are allowed, NULL-terminated, or NULL. */
gboolean cop_exec_check(JsonObject *request, const char *const *more, GError **error);

/* Serves /v1/vms/NAME/exec: reads the request from the first message, runs the command in the VM. */
void cop_exec_serve(struct cop_vm *vm, SoupWebsocketConnection *ws);
/* Serves /v1/templates/NAME/run-in: the same in a clone that goes with the connection. */
void cop_exec_serve_run_in(struct cop_state *state, const char *template,
			   SoupWebsocketConnection *ws);

#endif
