/*
 * arena.h - the memory that a store lives in: given by the caller, cut into blocks, written through
 * one door.
 *
 * Persistent is what is in the arena; which blocks are in use is not written down but found again
 * from what refers to them (store-open.c). Every change of the arena goes through cop_arena_write()
 * or cop_arena_set64(); a hook there sees each one, which is how tests stop the world between any
 * two of them.
 *
 * What a killed process had stored, the next one sees, in the order of the program: the memory is
 * shared, only the compiler could reorder. (Power failure is not meant: the memory is RAM.)
 */
#ifndef COP_MEM_ARENA_H
#define COP_MEM_ARENA_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define COP_BLOCK_BYTES	  4096u
#define COP_GROUP_BLOCKS  16u
#define COP_SEGMENT_BYTES (COP_BLOCK_BYTES * COP_GROUP_BLOCKS)

enum cop_block {
	COP_BLOCK_FREE,
	COP_BLOCK_SUPER,
	COP_BLOCK_DIR,
	COP_BLOCK_SLOTS,
	COP_BLOCK_PTAB,
	COP_BLOCK_LOG,
	COP_NR_BLOCK_KINDS
};

struct cop_arena {
	uint8_t *mem;
	uint32_t nr_blocks; /* whole groups only */
	uint8_t *kind;	    /* enum cop_block of each block; volatile */
	uint32_t nr_kind[COP_NR_BLOCK_KINDS];
	uint32_t free_groups; /* groups with all blocks free */
	uint32_t first_free;  /* no free block before this one */
	uint32_t high_block;  /* no block from here on was ever used */
	/* Called before each change of the arena, with what is about to be written. NULL: nobody
	 * looks. */
	void (*hook)(void *ctx, size_t offset, const void *data, size_t len_bytes);
	void *hook_ctx;
};

/* mem: len_bytes of memory, aligned to 4096, that outlives the arena. 0, -EINVAL (too small or too
 * large), -ENOMEM. */
int cop_arena_init(struct cop_arena *a, void *mem, size_t len_bytes);
void cop_arena_done(struct cop_arena *a);

/*
 * Takes nr consecutive blocks; nr == COP_GROUP_BLOCKS gives an aligned group. One group is kept
 * back for those who say reserve: the compactor, which frees more than it takes. Returns the first
 * block's number, 0 if there is no room.
 */
uint32_t cop_arena_alloc(struct cop_arena *a, uint32_t nr, enum cop_block kind, bool reserve);
void cop_arena_free(struct cop_arena *a, uint32_t block, uint32_t nr);
/* For reopening: -EBADMSG if a block is out of range or taken. */
int cop_arena_claim(struct cop_arena *a, uint32_t block, uint32_t nr, enum cop_block kind);

static inline void cop_arena_write(struct cop_arena *a, size_t offset, const void *data,
				   size_t len_bytes)
{
	if (a->hook)
		a->hook(a->hook_ctx, offset, data, len_bytes);
	memcpy(a->mem + offset, data, len_bytes);
}

/* Everything written before is seen before this by whoever opens the arena later. offset is a
 * multiple of 8. */
static inline void cop_arena_set64(struct cop_arena *a, size_t offset, uint64_t v)
{
	if (a->hook)
		a->hook(a->hook_ctx, offset, &v, sizeof(v));
	atomic_store_explicit((_Atomic uint64_t *)(void *)(a->mem + offset), v,
			      memory_order_release);
}

static inline uint64_t cop_arena_get64(const struct cop_arena *a, size_t offset)
{
	return atomic_load_explicit((_Atomic uint64_t *)(void *)(a->mem + offset),
				    memory_order_relaxed);
}

#endif
