/*
 * engine.h - what all VMs share: the store, the images, and the one lock.
 *
 * Threads and locks: `lock` covers the store, its page tables, every image and every space. It is
 * held for a page's work at a time (tens of microseconds at most), never across a wait, a read from
 * disk or a message. The thread that serves faults takes it with cop_engine_lock_fault(), all others
 * with cop_engine_lock(), who let it go first.
 */
#ifndef COP_MEM_ENGINE_H
#define COP_MEM_ENGINE_H

#include "mem/store.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

struct cop_image;

struct cop_engine {
	pthread_mutex_t lock;
	atomic_int waiting; /* 1 while the fault thread wants the lock */
	struct cop_store *store;
	int store_fd;
	uint64_t store_bytes;
	uint8_t *store_mem;
	struct cop_model *model;
	struct cop_decoder *fault_decoder; /* the fault thread's, with the lock */
	struct cop_decoder *decoder;	   /* the worker's */
	struct cop_encoder *encoder;
	struct cop_image *images; /* a list */
	struct cop_image **by_domain; /* 65536 of them */
	uint64_t evicted, restored, faults, damaged; /* pages, pages, events, VMs; since start */
};

/*
 * Opens or makes the store in fd (a file on a tmpfs, taken), of store_bytes at most. *ret_found: it
 * was there. 0, -EBADMSG (what is there is damaged), -ENOMEM, -errno.
 */
int cop_engine_init(struct cop_engine *e, int fd, uint64_t store_bytes, bool *ret_found);
void cop_engine_done(struct cop_engine *e);

/* With the lock: struct cop_templates' function for this engine. */
int cop_engine_template_page(void *engine, unsigned int domain, uint32_t gfn,
			     const uint8_t **ret_page);

static inline void cop_engine_lock_fault(struct cop_engine *e)
{
	atomic_store(&e->waiting, 1);
	(void)pthread_mutex_lock(&e->lock); /* a normal mutex, not held: cannot fail */
	atomic_store(&e->waiting, 0);
}

static inline void cop_engine_lock(struct cop_engine *e)
{
	while (atomic_load(&e->waiting))
		sched_yield();
	(void)pthread_mutex_lock(&e->lock);
}

static inline void cop_engine_unlock(struct cop_engine *e)
{
	(void)pthread_mutex_unlock(&e->lock);
}

/* The page of a template that a decoder missed: set by the function that the store asks, when it
 * answered -EAGAIN to this thread. Load it and try again. */
struct cop_missing {
	struct cop_image *image;
	uint32_t gfn;
};
extern _Thread_local struct cop_missing cop_missing;

#endif
