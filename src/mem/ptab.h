/*
 * ptab.h - page tables: what became of each page of a region that isn't in the VM's own memory.
 * Kept in the store's arena.
 *
 * Data: an open-addressed table of 8-byte entries, found by page number; only pages with something
 * to say have one. An entry is one 64-bit word: page number, state, a few bits of the record's
 * checksum, record. So one store changes a page's state, and a kill leaves it in the old one or the
 * new one. A table grows by copying; one store makes the copy the table.
 *
 * Threads: as the store. cop_ptab_get() only reads, in a few loads.
 */
#ifndef COP_MEM_PTAB_H
#define COP_MEM_PTAB_H

#include "mem/store.h"

/* A page without an entry is the VM's: template or private (the pager and the kernel know which).
 * Stored: never renumber. */
enum cop_page_state {
	COP_PAGE_NONE = 0,
	COP_PAGE_RECORD = 1,	/* the store has its bytes */
	COP_PAGE_ZERO = 2,	/* evicted, all bytes zero */
	COP_PAGE_SAME = 3,	/* evicted, equal to the template's page */
	COP_PAGE_DISCARDED = 4, /* given back by the guest */
};

#define COP_MAX_GFN ((1u << 28) - 1)

struct cop_ptab;

/*
 * Makes an empty table in the arena. key: the caller's name for it (VM and region), not 0, not used
 * by another. *ret_table is freed with cop_ptab_free(), or by cop_store_close()'s caller with
 * cop_ptab_close(). 0, -EEXIST, -ENOSPC, -ENOMEM.
 */
int cop_ptab_new(struct cop_store *s, uint64_t key, struct cop_ptab **ret_table);

/* Finds a table again after cop_store_open(). 0, -ENOENT, -ENOMEM. */
int cop_ptab_find(struct cop_store *s, uint64_t key, struct cop_ptab **ret_table);

/* The key of the nth table (0, 1, ...) in the arena, 0 when there are no more. */
uint64_t cop_ptab_key(const struct cop_store *s, uint32_t nth);

/* Lets go of the handle; the table stays in the arena. */
void cop_ptab_close(struct cop_ptab *t);

/* Removes the table and lets go of all its records. */
void cop_ptab_free(struct cop_ptab *t);

/* State of page gfn; *ret_record is its record if that is COP_PAGE_RECORD. -EBADMSG: the entry
 * names a record that isn't it. */
int cop_ptab_get(const struct cop_ptab *t, uint32_t gfn, enum cop_page_state *ret_state,
		 uint32_t *ret_record);

/*
 * Sets the state of page gfn. With COP_PAGE_RECORD the caller's hold on `record` becomes the
 * entry's; else record is COP_RECORD_NONE. What the entry held before is let go. 0, -ENOSPC,
 * -ENOMEM (nothing changed, the caller still holds). COP_PAGE_NONE never fails.
 */
int cop_ptab_set(struct cop_ptab *t, uint32_t gfn, enum cop_page_state state, uint32_t record);

/* Entries in the table. */
uint32_t cop_ptab_used(const struct cop_ptab *t);

/* Walks the entries, in no order: start with *cursor = 0; false when done. Nothing may be set
 * meanwhile. */
bool cop_ptab_next(const struct cop_ptab *t, uint32_t *cursor, uint32_t *ret_gfn,
		   enum cop_page_state *ret_state, uint32_t *ret_record);

/* For cop_store_open(): walks all tables, mends what a kill left half done, and counts holders.
 * -EBADMSG, -ENOMEM. */
int cop_ptab_recover_all(struct cop_store *s);

#endif
