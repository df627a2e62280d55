/* store-impl.h - what the files of the store share. Layout: docs/formats/store.md. */
#ifndef COP_MEM_STORE_IMPL_H
#define COP_MEM_STORE_IMPL_H

#include <assert.h>

#include "mem/check.h"
#include "mem/index.h"
#include "mem/store.h"

#define COP_STORE_MAGIC	  0x31304d454d504f43ull /* "COPMEM01" */
#define COP_STORE_VERSION 2u

/* All references to blocks are 8 bytes wide, so that one store makes or breaks them. 0: none. */
#define COP_DIR_ENTRIES (COP_BLOCK_BYTES / 8)
#define COP_CHUNK_SLOTS (COP_BLOCK_BYTES / 8)
#define COP_SLOT_DIRS	256u /* x 512 chunks x 512 slots = 2^26 records */
#define COP_PTAB_DIRS	128u /* x 256 tables */
#define COP_DIR_PTABS	(COP_BLOCK_BYTES / 16)
#define COP_MAX_SLOTS	(COP_SLOT_DIRS * COP_DIR_ENTRIES * COP_CHUNK_SLOTS)
#define COP_MAX_PTABS	(COP_PTAB_DIRS * COP_DIR_PTABS)
static_assert(COP_MAX_SLOTS <= COP_MAX_RECORDS, "a record's number fits its field");

struct cop_super {
	uint64_t magic; /* written last */
	uint32_t version;
	uint32_t block_bytes;
	uint64_t nr_blocks;
	uint8_t reserved0[1000];
	uint64_t slot_dir[COP_SLOT_DIRS]; /* block of a directory of slot chunks */
	uint64_t ptab_dir[COP_PTAB_DIRS]; /* block of a directory of page tables */
};
static_assert(sizeof(struct cop_super) == COP_BLOCK_BYTES, "one block");
static_assert(offsetof(struct cop_super, slot_dir) == 1024, "as documented");

/* A slot: offset of its record in units of 4 bytes, then holders; or, free: 0, then the next free
 * one (volatile). */
#define COP_UNIT_BYTES	     4u
#define COP_SLOT_OFFSET_BITS 35
#define COP_SLOT_OFFSET_MASK ((1ull << COP_SLOT_OFFSET_BITS) - 1)
#define COP_SLOT_MAX_HOLDERS ((1u << (64 - COP_SLOT_OFFSET_BITS)) - 1)

/* A record's header. The payload follows, after `dict` (4 bytes) if the coder has a dictionary.
 * Padded to COP_UNIT_BYTES. */
struct cop_record {
	uint64_t check;	     /* cop_page_check(page, domain) */
	uint32_t slot_coder; /* slot 0..27, coder 28..31 */
	uint32_t len_domain; /* payload bytes - 1: 0..11, domain 12..27, 0: 28..31 */
};
static_assert(sizeof(struct cop_record) == 16, "stored");
#define COP_RECORD_MAX_BYTES (sizeof(struct cop_record) + 4 + COP_PAYLOAD_MAX)

struct cop_record_view {
	uint64_t check;
	uint32_t slot, domain, dict;
	unsigned int coder;
	const uint8_t *payload;
	uint32_t len_bytes;  /* of the payload */
	uint32_t size_bytes; /* of all */
};

#define COP_OPEN_SEGMENTS 4 /* so that small records fill what large ones leave over */

struct cop_segment {
	uint32_t fill_bytes : 31;
	uint32_t damaged : 1; /* can't be walked: its records stay where they are */
	uint32_t live_bytes;
};

struct cop_store {
	struct cop_arena arena;
	struct cop_templates templates;
	unsigned int flags;
	uint32_t nr_slots;  /* that exist, free or not; the first is never used */
	uint32_t free_slot; /* head of the list, 0: none */
	uint32_t nr_free_slots;
	uint32_t nr_ptabs;
	uint32_t *slot_chunk; /* blocks, by slot / COP_CHUNK_SLOTS: the directories' copy */
	uint32_t slot_chunk_room;
	struct cop_segment *segments;		   /* by block / COP_GROUP_BLOCKS */
	uint32_t open_segments[COP_OPEN_SEGMENTS]; /* group numbers, 0: none */
	struct cop_index hashes;
	struct cop_sketches sketches;
	uint32_t trimmed_blocks; /* that were free at the last trim */
	struct cop_store_stats stats;
};

static inline size_t cop_slot_at(const struct cop_store *s, uint32_t slot)
{
	return (size_t)s->slot_chunk[slot / COP_CHUNK_SLOTS] * COP_BLOCK_BYTES +
	       slot % COP_CHUNK_SLOTS * 8;
}

static inline uint64_t cop_slot_get(const struct cop_store *s, uint32_t slot)
{
	return cop_arena_get64(&s->arena, cop_slot_at(s, slot));
}

static inline size_t cop_slot_offset(uint64_t word)
{
	return (word & COP_SLOT_OFFSET_MASK) * COP_UNIT_BYTES;
}

static inline uint32_t cop_slot_holders(uint64_t word)
{
	return word >> COP_SLOT_OFFSET_BITS;
}

static inline uint64_t cop_slot_word(size_t offset, uint32_t holders)
{
	return offset / COP_UNIT_BYTES | (uint64_t)holders << COP_SLOT_OFFSET_BITS;
}

/*
 * Reads the record at offset. 0, or -EBADMSG unless its header is consistent and it ends within its
 * segment.
 */
int cop_record_view(const struct cop_store *s, size_t offset, struct cop_record_view *ret);

/* The record that a slot names: -ENOENT if it is free or doesn't exist. */
int cop_record_of(const struct cop_store *s, uint32_t slot, struct cop_record_view *ret);

/* store-log.c */
/* Appends a record's bytes, yet unnamed. -ENOSPC. */
int cop_log_append(struct cop_store *s, const void *record, uint32_t size_bytes, bool reserve,
		   size_t *ret_offset);
void cop_log_dead(struct cop_store *s, size_t offset, uint32_t size_bytes);

/* store-slot.c */
/* Makes sure that a slot is free: -ENOSPC, -ENOMEM. */
int cop_slot_prepare(struct cop_store *s);
uint32_t cop_slot_take(struct cop_store *s, size_t record_offset, uint32_t holders);
void cop_slot_give(struct cop_store *s, uint32_t slot);
/* Makes the volatile copy of the directories have room. -ENOMEM. */
int cop_slot_reserve_chunks(struct cop_store *s, uint32_t nr_chunks);

#endif
