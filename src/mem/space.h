/*
 * space.h - one VM's guest RAM: its pages leave and come back through a userfaultfd.
 *
 * docs/ENGINE.md has the page states and the protocol; this is the code of it, without processes,
 * sockets and threads, so that it can be raced against the real kernel in tests.
 *
 * Threads and locks: faults are served by one thread, cop_space_fault(), with the engine's lock. All
 * that makes pages leave, or brings all back, is done by one other thread, the worker, without the
 * lock, which these functions take for short sections. The thread that serves faults must never
 * wait for the worker: what the worker waits for (an answer of the shim) needs it.
 *
 * Invariants:
 *  1. Present wins: an entry for a page that is present means nothing.
 *  2. A page is never absent without either an entry, or a template page or hole that says what it
 *     is: entries are written before the pages go.
 *  3. From the write-protection of a window until its pages are gone or unprotected nobody writes
 *     to them unseen: a writer makes its page stay (spoiled), or waits for the end.
 *  4. While a window is in flight (entries written, pages perhaps still there) no fault in it is
 *     resolved and no entry of it dropped, except by the worker.
 */
#ifndef COP_MEM_SPACE_H
#define COP_MEM_SPACE_H

#include "mem/engine.h"
#include "mem/ptab.h"

#include <stdatomic.h>
#include <sys/types.h>

#define COP_WINDOW_PAGES 256u /* evicted at a time at most */

struct window;

struct cop_space_range {
	uint32_t first, nr;   /* pages */
	bool to_template;     /* drop private pages; else replace by empty registered memory */
};

/* Does this in the VM's process, in order; *ret_done: ranges done, also on failure. Waits; but
 * -ETIMEDOUT: there is no answer yet, cop_space_late_answer() will say. */
typedef int (*cop_space_replace)(void *ctx, const struct cop_space_range *ranges, unsigned int nr,
				 unsigned int *ret_done);

/* For tests: called at each point where a kill leaves things half done. NULL: nobody looks. */
enum cop_space_point {
	COP_POINT_PROTECTED,
	COP_POINT_READ,
	COP_POINT_PUT,
	COP_POINT_ENTERED,
	COP_POINT_REPLACED,
	COP_POINT_FINISHED,
	COP_POINT_COPIED,
	COP_NR_POINTS,
};
extern void (*cop_space_hook)(enum cop_space_point point);

enum cop_space_state { COP_SPACE_RUNNING, COP_SPACE_DAMAGED, COP_SPACE_GONE };

struct cop_space {
	struct cop_engine *engine;
	uint64_t key;
	pid_t pid;
	int uffd;	 /* nonblocking */
	int pagemap;	 /* /proc/PID/pagemap */
	uint64_t addr;	 /* of the region in the VM's process */
	uint32_t nr_pages;
	bool shared;		 /* the image is its own, mapped shared */
	bool registered;	 /* for write-protection, the whole region */
	bool held;		 /* evict nothing */
	int own_fd;		 /* shared: its image; else -1 */
	struct cop_image *image; /* else: the template's */
	struct cop_ptab *table;
	unsigned int domain;
	uint64_t *replaced; /* a bit a page: it lies in empty memory that replaced the template's */
	cop_space_replace replace;
	void *replace_ctx;

	/* The worker reads or writes the VM's memory, since then (0: it doesn't), and where. */
	_Atomic int64_t remote_since_ms;
	_Atomic uint32_t remote_first, remote_nr;
	int64_t watched_since_ms; /* whoever cuts it off: the access that it has seen last, ... */
	unsigned int looks;	  /* ... and how often */

	uint32_t window_first, window_nr; /* being evicted; nr 0: none */
	bool in_flight;
	struct window *stuck; /* in flight still: its answer is late */
	uint64_t spoiled[COP_WINDOW_PAGES / 64]; /* written to meanwhile: stay */

	uint32_t hand;	     /* where the next eviction starts */
	uint32_t ahead_next; /* the page after those last brought back */
	uint32_t ahead_nr;   /* how many to bring back with the next */
	uint64_t zero_pfn;   /* of the kernel's page of zeros, 0: unknown */
	uint32_t budget;     /* ranges that may be replaced: each can cost two mappings */
	uint32_t mappings;   /* replaced ranges */

	uint32_t entries[COP_PAGE_DISCARDED + 1]; /* in the table, by state */
	uint64_t coded_bytes;			  /* of the records that entries name */

	enum cop_space_state state;
	char why[160]; /* DAMAGED */
	uint64_t evicted, restored, faults;
};

/*
 * A space for a VM whose region is mapped: shared with its own image (own_fd, taken), or private
 * with template image. uffd is taken. A table that a former pager left is found and mended: entries
 * of present pages are dropped, protection removed and all who wait woken, so that they fault again.
 * 0, -ENOMEM, -ENOSPC, -EBADMSG (table), -errno. On failure descriptors are the caller's.
 */
int cop_space_new(struct cop_engine *e, uint64_t key, pid_t pid, int uffd, uint64_t addr,
		  uint64_t size_bytes, struct cop_image *image, int own_fd, unsigned int domain,
		  cop_space_replace replace, void *replace_ctx, struct cop_space **ret_space);
/* Lets go of everything. forget: the VM has ended, its table goes too. */
void cop_space_free(struct cop_space *space, bool forget);

/* After the region was mapped anew, private from this template, with nothing evicted. */
int cop_space_rebase(struct cop_space *space, struct cop_image *image, unsigned int domain);

/*
 * With the lock. Serves a fault. 0: done, or nothing to do now. -EAGAIN: load the page named by
 * cop_missing, then wake the address. -ENOMEM: wake it later. Damage sets the state and leaves the
 * VM's thread waiting: it must be killed.
 */
int cop_space_fault(struct cop_space *space, uint64_t addr, bool write_protect);

/* With the lock: its memory can't be given back to it, because: (the first reason stays). */
void cop_space_damage(struct cop_space *space, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

/*
 * With the lock, from one thread, now and then. When the worker's access to the VM's memory is the same
 * one at so many looks in a row, it waits for a page that never comes: QEMU has something else mapped
 * there than it should. Not even the end of QEMU would end that. So the pages it waits for are no longer
 * the userfaultfd's, and the VM is damaged. Looks and not time: a process that was stopped, or a host
 * that was, has done nothing meanwhile. False when there is no such access.
 */
bool cop_space_cut_off(struct cop_space *space, unsigned int looks);

/* Worker. Evicts until `pages` are gone or one round is over. *ret_pages: gone. 0, -ENOSPC (store
 * full), -errno; the VM is whole in any case. load: see below. */
int cop_space_evict(struct cop_space *space, uint64_t pages, uint64_t *ret_pages);
/* Worker. Brings all back. */
int cop_space_restore_all(struct cop_space *space);
/* Worker. The guest gave these back; they read as zeros from now on. */
int cop_space_discard(struct cop_space *space, uint64_t addr, uint64_t len_bytes);

/* Worker. What the answer to a replacement says that came too late: ranges done. */
void cop_space_late_answer(struct cop_space *space, unsigned int done);

/* Loads a chunk of an image now, from the worker. */
int cop_space_load(struct cop_engine *e, struct cop_image *image, uint32_t gfn);

#endif
