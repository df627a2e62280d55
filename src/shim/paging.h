/* SPDX-License-Identifier: MIT */
/*
 * paging.h: what the pager needs of QEMU: a userfaultfd, ranges replaced, discards told.
 *
 * Threads: one of its own, the only one that reads and writes the pager's connection, makes
 * replacements, and may wait in them: an mremap() of registered memory lasts until the pager has
 * read the event of it, for ever if there is no pager. So it holds no lock that others need, and
 * the control thread takes the next pager's connection meanwhile; a replacement that the former
 * pager asked for is then cut short after the range in hand.
 *
 * Discards: a thread of QEMU waits in cop_shim_paging_discard() until a pager has answered.
 *
 *	free --discard()--> wanted --sent--> sent --answer--> done --discard() returns--> free
 *	                      ^-----another pager------/
 *
 * Locks: one of its own, for slots and the next connection, held for short sections. The region's
 * is taken apart from it, never in it.
 */
#ifndef COP_SHIM_PAGING_H
#define COP_SHIM_PAGING_H

#include "shim/region.h"

/*
 * Makes the userfaultfd, from @dev_fd, an open /dev/userfaultfd that is closed, or with the system
 * call if it is 0; and the staging area. Once, before any other thread exists. Returns 0 or -errno:
 * -ENODEV when the kernel's userfaultfd lacks a feature.
 */
int cop_shim_paging_init(struct cop_shim_region *region, int dev_fd);

/* Was init called? */
bool cop_shim_paging_active(void);

/* Registers a private region for missing pages. Returns 0 or -errno. */
int cop_shim_paging_register(void *addr, size_t len_bytes);

/* What replaces parts of the region gets the setting @advice, MADV_DONTDUMP or MADV_DODUMP, too. */
void cop_shim_paging_advise(int advice);

/* Starts the thread. Returns 0 or -errno. */
int cop_shim_paging_start(void);

/* The userfaultfd, to be passed to a pager. -1: there is none. */
int cop_shim_paging_fd(void);

/* Takes the connection of a new pager, which ends the older. */
void cop_shim_paging_attach(int conn);

/* Whole pages of the region are given back: they read as zeros when this returns 0. Waits for the
 * pager, for ever if there is none. Hold no lock. Keeps errno. Returns 0 or -errno. */
int cop_shim_paging_discard(void *addr, size_t len_bytes);

#endif
