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
/* For run-in: one clone whose agent is ready, marked to be collected when no daemon is left that
 * discards it. A new reference. */
struct cop_vm *cop_op_clone_ephemeral(struct cop_state *state, struct cop_template *tpl,
				      gboolean no_network, GError **error);
JsonObject *cop_op_patch(struct cop_state *state, const char *vm, JsonObject *request,
			 GError **error);
JsonObject *cop_op_fork(struct cop_state *state, const char *vm, JsonObject *request,
			GError **error);
/* What a guest asks for itself, within what its owner has allowed. */
gboolean cop_op_ask_fork(struct cop_vm *vm, guint count, JsonObject *params, char **ret_template,
			 char ***ret_clones, GError **error);
gboolean cop_op_ask_freeze(struct cop_vm *vm, const char *template, GError **error);
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

/* The guest's part in a freeze: its file systems are synced and frozen around the window, if its agent
 * can do that in time; the freeze goes on without it. */
#define COP_FREEZE_QUIESCE_MS 10000
struct cop_freeze_guest {
	int timeout_ms; /* 0: leave the guest alone */
	/* Results; the caller frees reason. */
	gboolean done; /* its file systems were at rest */
	double ms;
	char *reason;  /* why not */
	gboolean held; /* no program of it ran until a clone's random state is its own */
};

/* Freezing a claimed VM, for freeze and fork; a new reference. */
struct cop_template *cop_freeze_vm(struct cop_vm *vm, const char *name, gboolean stop,
				   gboolean ephemeral, struct cop_freeze_guest *guest,
				   GError **error);
/* Finishes or undoes what a freeze had begun when a daemon was killed. The VM is adopted. */
void cop_freeze_recover(struct cop_vm *vm);
#endif
