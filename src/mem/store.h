/*
 * store.h - the record store: pages that left RAM, in as few bytes as pay.
 *
 * Purpose: put() a page, get() the same bytes back or an error, never other bytes. Layout and crash
 * ordering: docs/formats/store.md.
 *
 * Data: an arena (arena.h) with a superblock; a log of records in segments of 64 KiB; slots, one
 * 8-byte word a record, which say where it is; page tables (ptab.h), one 8-byte word a page, which
 * name slots. A record's number, its slot's, stays the same while the record moves. In ordinary
 * memory, rebuilt at open: block map, free slots, index of page hashes, index of sketches.
 *
 * States of a record, and who moves it:
 *   (nothing) --put--> held by its caller --cop_ptab_set--> held by a table entry --cop_ptab_set,
 * _free--> (nothing) another holder comes by a put() of the same bytes in the same domain, or by a
 * record that is coded against this one. Held by a caller does not survive the process; held by a
 * table entry does.
 *
 * Threads and locks: none here. The caller lets one thread at a time change a store.
 * cop_store_get() only reads, allocates nothing, and may run in many threads, each with its own
 * decoder, but not beside a change.
 *
 * Invariants:
 *  1. A slot that isn't free names a record whose header names the slot.
 *  2. A record is never changed in place; its bytes are written before the one 64-bit store that
 * makes a slot name it.
 *  3. A table entry that names a record holds it; a record coded against another holds that one,
 * which is not so coded itself.
 *  4. Records are shared only within a trust domain.
 *  5. What put() stores has been decoded and compared before it is used.
 *
 * On failure: every function that fails leaves store and tables as they were. -EBADMSG from get():
 * the bytes are lost, stop the VM.
 */
#ifndef COP_MEM_STORE_H
#define COP_MEM_STORE_H

#include "mem/arena.h"
#include "mem/coder.h"

#define COP_RECORD_NONE 0u /* slot 0 is never used */
#define COP_MAX_RECORDS (1u << 28)
#define COP_MAX_DOMAIN	UINT16_MAX
#define COP_NO_TEMPLATE UINT32_MAX

/*
 * Where template pages come from: sets *ret_page to the 4096 bytes of page gfn of the domain's
 * template, valid until the next call from this thread, or returns -errno. May block; must always
 * give the same bytes.
 */
struct cop_templates {
	int (*page)(void *ctx, unsigned int domain, uint32_t gfn, const uint8_t **ret_page);
	void *ctx;
};

enum cop_store_flags {
	COP_STORE_NO_LIKE = 1 << 0,	  /* don't code against similar records */
	COP_STORE_NO_DUPLICATES = 1 << 1, /* don't share records */
};

struct cop_store_stats {
	uint64_t records;     /* distinct ones */
	uint64_t holders;     /* references to them */
	uint64_t live_bytes;  /* of records, headers included */
	uint64_t dead_bytes;  /* in segments, to be had by compaction; unused tails included */
	uint64_t arena_bytes; /* blocks in use, all kinds */
	uint64_t slot_bytes, ptab_bytes, dir_bytes; /* parts of arena_bytes */
	uint64_t memory_bytes; /* ordinary memory used: indexes and block maps */
	uint64_t raw_bytes;    /* 4096 x holders by table entries and callers */
	uint64_t coder_records[COP_NR_CODERS], coder_bytes[COP_NR_CODERS]; /* payload bytes */
	uint64_t duplicates;	  /* put() calls answered by an existing record, since open */
	uint64_t verify_failures; /* coders that did not give the page back, since open: a bug, but
				     harmless */
	uint64_t moved_bytes;	  /* by compaction, since open */
};

struct cop_store;

/*
 * Formats mem (len_bytes, 4096-aligned, zeroed or not, owned by the caller, outlives the store) and
 * opens it. 0, -EINVAL (size), -ENOMEM.
 */
int cop_store_create(void *mem, size_t len_bytes, unsigned int flags,
		     const struct cop_templates *templates, struct cop_store **ret_store);

/*
 * Opens a store that another process left, at whatever instant that was killed: checks every
 * structure, forgets records that no table names, and rebuilds the indexes. Page contents are
 * checked when they are restored, or by cop_store_verify(). 0, -EINVAL (no store of this version
 * and size), -EBADMSG (damaged), -ENOMEM.
 */
int cop_store_open(void *mem, size_t len_bytes, unsigned int flags,
		   const struct cop_templates *templates, struct cop_store **ret_store);

/* Frees ordinary memory only; the arena stays as it is. */
void cop_store_close(struct cop_store *s);

/*
 * Stores a page: page (4096 bytes) of trust domain `domain`, whose template's page there is gfn
 * (COP_NO_TEMPLATE: none). level: effort, 0..2, see coder.h. The caller holds *ret_record
 * afterwards. Zero and same-as-template pages should not come here: they need no record (ptab.h).
 * 0, -ENOSPC (store full: ordinary), -ENOMEM, or what templates->page said.
 */
int cop_store_put(struct cop_store *s, struct cop_encoder *e, struct cop_decoder *d,
		  unsigned int domain, uint32_t gfn, const uint8_t *page, int level,
		  uint32_t *ret_record);

/*
 * Restores a record: *ret_page points into d, valid until d is used again. The page's checksum has
 * been verified. domain must be the record's. 0; -ENOENT (no such record); -EBADMSG (damaged, or
 * another domain's); or what templates->page said.
 */
int cop_store_get(const struct cop_store *s, struct cop_decoder *d, unsigned int domain,
		  uint32_t record, const uint8_t **ret_page);

/* One more, one fewer holder. The last one's going frees the record. record must be held. */
void cop_store_ref(struct cop_store *s, uint32_t record);
void cop_store_unref(struct cop_store *s, uint32_t record);

/* Codes a record again, with more effort; keeps the smaller. 0 (smaller or not), or an error as of
 * get() and put(). */
int cop_store_recode(struct cop_store *s, struct cop_encoder *e, struct cop_decoder *d,
		     uint32_t record, int level);

/*
 * Moves records out of sparse segments, at most about max_bytes of them, while a segment is less
 * than 7/8 live. Returns the bytes of arena freed. put() does some of it by itself when the arena
 * is full.
 */
size_t cop_store_compact(struct cop_store *s, size_t max_bytes);

/* Gives host memory of blocks that are free back, by punching holes into fd, the file that mem is a
 * mapping of from offset 0. Returns the bytes of blocks freed since the last call. */
uint64_t cop_store_trim(struct cop_store *s, int fd);

/* Decodes every record. 0, or the first error with *ret_record set. */
int cop_store_verify(const struct cop_store *s, struct cop_decoder *d, uint32_t *ret_record);

void cop_store_get_stats(const struct cop_store *s, struct cop_store_stats *ret_stats);

/* A few bits of a record's checksum: who keeps a record's number keeps them too, and finds out if
 * it names another record. */
unsigned int cop_store_tag(const struct cop_store *s, uint32_t record);

/* Its coder, for statistics; COP_NR_CODERS if there is no such record. */
unsigned int cop_store_coder(const struct cop_store *s, uint32_t record);

/* For tests: see arena.h. */
void cop_store_set_hook(struct cop_store *s, void (*hook)(void *, size_t, const void *, size_t),
			void *ctx);

#endif
