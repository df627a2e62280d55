/* The memory engine's process, coppice-pager: kept running, and asked (proto/pager.h).
 *
 * One pager a state folder. It outlives the daemon, as VMs do: without it a VM stands still at its
 * next fault. When it dies it is started again, and told all templates and VMs anew.
 *
 * Requests wait while the pager is being started, some seconds at most. All functions block unless
 * they say otherwise, take the lock, and may be called by any thread, with the lock not held.
 */
#ifndef COP_DAEMON_PAGER_H
#define COP_DAEMON_PAGER_H

#include "state.h"
#include "proto/pager.h"

struct cop_pager_client;

/* No process yet: cop_pager_start() does that. */
struct cop_pager *cop_pager_new(struct cop_state *state);
/* Lets the pager end if no VM needs it, else lets it be. */
void cop_pager_free(struct cop_pager *pager);

/* What "auto", "pager" or "kernel" means here, a constant; NULL with error: "pager" can't work. */
const char *cop_pager_choose(struct cop_state *state, const char *engine, GError **error);
/* Takes up the running pager or starts one, with all templates and VMs. Quick when it runs. */
gboolean cop_pager_start(struct cop_state *state, GError **error);
/* At the daemon's start, before VMs are taken up: when something needs it. */
void cop_pager_take_up(struct cop_state *state);

/* The pager serves a VM whose shim has its memory. fresh: the process is new. */
gboolean cop_pager_add_vm(struct cop_vm *vm, gboolean fresh, GError **error);
/* The process has ended. Doesn't block. With the lock held or not. */
void cop_pager_vm_gone(struct cop_vm *vm);
gboolean cop_pager_evict(struct cop_vm *vm, uint64_t size_bytes, uint64_t *ret_bytes,
			 GError **error);

/* A freeze: all pages back, and none leaves until cop_pager_release(), which tells what the VM maps
 * then (vm->ram_id and ram_shared). */
gboolean cop_pager_hold(struct cop_vm *vm, GError **error);
gboolean cop_pager_release(struct cop_vm *vm, GError **error);
/* All of an image in RAM, as long as the result lives and cop_pager_is_loaded(). */
struct cop_pager_client *cop_pager_load(struct cop_state *state, const char *ram_id,
					GError **error);
gboolean cop_pager_is_loaded(struct cop_pager_client *client);

/* Tells the pager of an image in ram_dir. tpl: the template that has it, with its files; NULL: one
 * of no template (yet), whole, with its trust domain. whole: nothing needs loading. */
gboolean cop_pager_add_image(struct cop_state *state, const char *ram_id, uint64_t size_bytes,
			     unsigned domain, struct cop_template *tpl, gboolean whole,
			     GError **error);
/* Images that nothing names any more are forgotten soon. Doesn't block. */
void cop_pager_collect(struct cop_state *state);

/* A trust domain that nothing has. With the lock held. */
unsigned cop_pager_new_domain(struct cop_state *state);

/* Figures by enum cop_pager_stat and so on; FALSE when the pager doesn't answer at once. */
gboolean cop_pager_stats(struct cop_state *state, uint64_t values[COP_PAGER_NR_VALUES]);
gboolean cop_pager_vm_stats(struct cop_vm *vm, uint64_t values[COP_PAGER_NR_VALUES]);
gboolean cop_pager_template_stats(struct cop_state *state, const char *ram_id,
				  uint64_t values[COP_PAGER_NR_VALUES]);
/* The pager's process, 0: none. "" or why it does not run. */
pid_t cop_pager_pid(struct cop_state *state);
char *cop_pager_trouble(struct cop_state *state);

#endif
