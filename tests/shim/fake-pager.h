/* SPDX-License-Identifier: MIT */
/*
 * fake-pager.h: the least that a pager is, for tests of the shim: a thread that reads the events of
 * the userfaultfd, a store of one copy a page, and eviction as in docs/ENGINE.md.
 */
#ifndef COP_TEST_SHIM_FAKE_PAGER_H
#define COP_TEST_SHIM_FAKE_PAGER_H

#include "harness.h"

#include <pthread.h>
#include <stdatomic.h>

struct fake_pager {
	int conn, uffd;
	int image_fd; /* holes in it are filled with the pattern when they fault */
	pid_t pid;
	uint64_t addr;
	size_t nr_pages;
	atomic_uint nr_missing, nr_protected, nr_remaps, nr_loaded; /* events, pages of the image */

	int stop; /* an eventfd, -1: the reader does not run */
	pthread_t reader;
	pthread_mutex_t lock; /* the rest */
	unsigned char (*store)[PAGE];
	bool *stored;
	size_t flight_first, flight_nr;
};

/* ATTACH on @conn, a connection that it owns then, or -1 for a new one; checks the answer. No
 * reader runs yet. */
void fake_pager_attach(struct fake_pager *pager, struct rig *rig, int conn);

/* Starts the reader. */
void fake_pager_read_events(struct fake_pager *pager);

/* Closes the connection and all. */
void fake_pager_done(struct fake_pager *pager);

/* What the pager does before the first eviction: registers for write protection too. */
void fake_pager_register(struct fake_pager *pager);

/* REPLACE, and its answer. @ranges: page numbers of the region, not addresses; pages, not bytes. */
struct cop_shim_msg fake_pager_replace(struct fake_pager *pager,
				       const struct cop_shim_range *ranges, size_t nr);
void fake_pager_send_replace(struct fake_pager *pager, const struct cop_shim_range *ranges,
			     size_t nr);

/* Evicts those of the pages [first, first + nr) that are there. Returns the number of ranges. */
size_t fake_pager_evict(struct fake_pager *pager, size_t first, size_t nr);

#endif
