/* What users ask for, from the request to the answer. All of these block, and run on workers.
 *
 * A request is a JSON object as in docs/openapi.json; so is the result, which the caller owns. NULL
 * with error set: nothing of what was begun is left.
 */
#ifndef COP_DAEMON_OPS_H
#define COP_DAEMON_OPS_H

#include "state.h"

JsonObject *cop_op_run(struct cop_state *state, JsonObject *request, GError **error);
JsonObject *cop_op_freeze(struct cop_state *state, const char *vm, JsonObject *request,
			  GError **error);
JsonObject *cop_op_clone(struct cop_state *state, const char *tpl, JsonObject *request,
			 GError **error);
JsonObject *cop_op_fork(struct cop_state *state, const char *vm, JsonObject *request,
			GError **error);
JsonObject *cop_op_pause(struct cop_state *state, const char *vm, GError **error);
JsonObject *cop_op_resume(struct cop_state *state, const char *vm, GError **error);
JsonObject *cop_op_stop(struct cop_state *state, const char *vm, JsonObject *request,
			GError **error);
JsonObject *cop_op_start(struct cop_state *state, const char *vm, GError **error);
gboolean cop_op_remove(struct cop_state *state, const char *vm, gboolean force, GError **error);
JsonObject *cop_op_evict(struct cop_state *state, const char *vm, JsonObject *request,
			 GError **error);
/* PNG; caller frees. */
GBytes *cop_op_screenshot(struct cop_state *state, const char *vm, GError **error);

/* Parts that several operations share. */

/* Ends the VM's process, if any, takes it out of the table, removes its files. The claim (or
 * reservation) ends; the reference stays the caller's. */
void cop_op_discard(struct cop_vm *vm);

/* Freezing a claimed VM, for freeze and fork; a new reference. */
struct cop_template *cop_freeze_vm(struct cop_vm *vm, const char *name, gboolean stop,
				   gboolean ephemeral, GError **error);
/* Finishes or undoes what a freeze had begun when a daemon was killed. The VM is adopted. */
void cop_freeze_recover(struct cop_vm *vm);
#endif
