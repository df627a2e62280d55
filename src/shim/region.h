/* SPDX-License-Identifier: MIT */
/*
 * region.h: guest RAM inside QEMU: map it once, replace it on request.
 *
 * States and who moves them:
 *
 *	unseen --map()--> shared or private --map_private()--> private --map_private()--> ...
 *	   \--map() fails, withdraw()--> refused \--munmap of it--> unseen, error ENXIO, for ever
 *	                                         \--replacement fails half-way--> lost
 *
 * Threads and locks: QEMU's threads call map, advise and unmap, the control thread calls
 * map_private and describe, the paging thread begin, end and lose. @lock covers everything and is
 * held for short sections only; @addr and @len_bytes are set once, before @seen, and never change,
 * so "is this call about the region at all" needs no lock. The paging thread replaces parts of the
 * region without the lock, since that may last until there is a pager; @replacing keeps map_private
 * and unmap out meanwhile.
 *
 * Invariants:
 * 1. No file shorter than the region is ever mapped, so no guest access can raise SIGBUS (as long
 * as nobody truncates the file later: seal memfds with F_SEAL_SHRINK).
 * 2. Nothing is mapped over memory that stopped being the region.
 * 3. A private region never comes from a descriptor that may write.
 * 4. A region that is lost is never touched again.
 */
#ifndef COP_SHIM_REGION_H
#define COP_SHIM_REGION_H

#include "proto/shim.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

/* Settings of madvise(2) that a new mapping does not inherit; of each group the last one counts. */
enum cop_shim_advice_group {
	COP_SHIM_ADVICE_FORK,
	COP_SHIM_ADVICE_DUMP,
	COP_SHIM_ADVICE_MERGE,
	COP_SHIM_ADVICE_HUGE,
	COP_SHIM_NR_ADVICE_GROUPS,
};

struct cop_shim_region {
	pthread_mutex_t lock;
	atomic_bool seen;
	void *addr;
	size_t len_bytes;
	enum cop_shim_mode mode;
	uint32_t generation;
	int error; /* -errno that HELLO answers, or 0 */
	atomic_bool lost;
	bool replacing;			       /* parts of it, by the paging thread */
	pthread_cond_t idle;		       /* it no longer is */
	int advice[COP_SHIM_NR_ADVICE_GROUPS]; /* MADV_*, or -1 */
};

#define COP_SHIM_REGION_INIT                                                                       \
	{                                                                                          \
		.lock = PTHREAD_MUTEX_INITIALIZER, .idle = PTHREAD_COND_INITIALIZER, .advice = {   \
			[0 ... COP_SHIM_NR_ADVICE_GROUPS - 1] = -1                                 \
		}                                                                                  \
	}

/* The system calls, without libc's or our own wrappers. Set errno like those. */
void *cop_raw_mmap(void *addr, size_t len_bytes, int prot, int flags, int fd, off_t offset);
int cop_raw_munmap(void *addr, size_t len_bytes);
int cop_raw_madvise(void *addr, size_t len_bytes, int advice);

/*
 * QEMU's mapping of the dummy, with its own arguments: map @ram_fd as @mode instead. Returns the
 * address, or MAP_FAILED with errno set, after which HELLO answers that error: EBUSY when there is
 * a region already, EFBIG for a short file, EPERM for a private mapping of a writable descriptor,
 * EINVAL for something that is no regular file. Takes no descriptor.
 */
void *cop_shim_region_map(struct cop_shim_region *region, void *addr, size_t len_bytes, int prot,
			  int flags, int ram_fd, enum cop_shim_mode mode);

/*
 * Undo a map() just made: nothing can be accessed there again, but the address range stays
 * reserved, and HELLO answers @error (-errno).
 */
void cop_shim_region_withdraw(struct cop_shim_region *region, int error);

/* QEMU's munmap and madvise when they touch the region; results as of the system calls. */
__attribute__((nonnull)) bool cop_shim_region_overlaps(struct cop_shim_region *region,
						       const void *addr, size_t len_bytes);
__attribute__((nonnull(1))) int cop_shim_region_unmap(struct cop_shim_region *region, void *addr,
						      size_t len_bytes);
__attribute__((nonnull(1))) int cop_shim_region_advise(struct cop_shim_region *region, void *addr,
						       size_t len_bytes, int advice);

/*
 * Replace the whole region, which must be the @len_bytes at @addr, by a private mapping of @fd,
 * which stays the caller's. Returns 0 or -errno as in docs/formats/shim.md: -EBUSY while parts of
 * it are replaced, which is not waited for. On failure the old mapping is in place unless the
 * region is lost.
 */
int cop_shim_region_map_private(struct cop_shim_region *region, uint64_t addr, uint64_t len_bytes,
				int fd);

/*
 * Parts of a private region are going to be replaced: until end it is neither mapped anew nor
 * unmapped. Unmapping waits for end, so stop at the next part when @seen or @lost have changed.
 * Returns 0 or -errno: -ENXIO, -ENOTRECOVERABLE, -EINVAL for a region that is shared.
 */
int cop_shim_region_begin(struct cop_shim_region *region);
void cop_shim_region_end(struct cop_shim_region *region);

/* A replacement of a part failed half-way: there is a gap. */
void cop_shim_region_lose(struct cop_shim_region *region);

/* Note @error (-errno) as the reason why there will be no region. */
void cop_shim_region_refuse(struct cop_shim_region *region, int error);

/* Fill in the part of @answer that describes the region. Returns the region's error. */
int cop_shim_region_describe(struct cop_shim_region *region, struct cop_shim_msg *answer);

#endif
