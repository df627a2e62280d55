/* What pager.c (requests) and pager-watch.c (the process) share. */
#ifndef COP_DAEMON_PAGER_IMPL_H
#define COP_DAEMON_PAGER_IMPL_H

#include "pager.h"
#include "proto/pager-client.h"

#define COP_PAGER_MAX_VM 1024 /* numbers: the VM's id + 1 */
#define COP_PAGER_ASK_MS 30000

enum cop_pager_phase {
	COP_PAGER_OFF,	    /* not needed so far */
	COP_PAGER_STARTING, /* also: starting again */
	COP_PAGER_UP,
	COP_PAGER_BROKEN, /* `trouble` says why; tried again with pauses */
};

struct cop_pager {
	struct cop_state *state;
	char *socket_path, *lock_path, *log_path, *store_path;
	GThread *thread; /* pager-watch.c */
	int kick_fd;	 /* eventfd: the thread looks around */

	/* Taken by requests to read; by the thread to write, while it tells a new pager of all: so no
	 * request can come between and be undone. Before `lock`. */
	GRWLock gate;
	/* Covers what follows. After state->lock. */
	GMutex lock;
	GCond changed;
	enum cop_pager_phase phase;
	char *trouble;
	gboolean wanted, ending;
	pid_t pid;
	GHashTable *images; /* ids that the pager was told of, a set */
	gboolean gone[COP_PAGER_MAX_VM + 1]; /* VMs that have ended, which the pager is to be told */

	GMutex gone_lock; /* held while the pager is told that a VM is gone; before `lock` */
};

static inline uint64_t cop_pager_image(const char *ram_id)
{
	return g_ascii_strtoull(ram_id, NULL, 16);
}

void cop_pager_kick(struct cop_pager *p);

/* Requests on one connection, without waiting for a pager to start. 0 or -errno. */
int cop_pager_send_image(struct cop_pager *p, struct cop_pager_client *client, const char *ram_id,
			 uint64_t size_bytes, unsigned domain, struct cop_template *tpl,
			 gboolean whole, GError **error);

/* A VM as it is now, copied under the lock. */
struct cop_pager_vm {
	uint64_t number;
	pid_t pid;
	char *ram_id;
	gboolean shared, held;
	uint64_t size_bytes;
	unsigned domain;
	char *socket_path;
};
/* FALSE: it doesn't run, or not with the pager. With state->lock. */
gboolean cop_pager_vm_look(struct cop_vm *vm, struct cop_pager_vm *ret);
void cop_pager_vm_clear(struct cop_pager_vm *v);
int cop_pager_send_vm(struct cop_pager *p, struct cop_pager_client *client,
		      const struct cop_pager_vm *v, GError **error);
int cop_pager_send_release(struct cop_pager_client *client, const struct cop_pager_vm *v,
			   GError **error);
/* One that has a VM's number and nothing else. */
int cop_pager_send_simple(struct cop_pager_client *client, enum cop_pager_type type, uint64_t vm,
			  unsigned timeout_ms, struct cop_pager_answer *ret_answer, GError **error);

gpointer cop_pager_watch(gpointer pager); /* the thread */

#endif
