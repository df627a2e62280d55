/* store-slot.c - slots: one 8-byte word a record, so that a record can move and keep its number. */
#include <errno.h>
#include <stdlib.h>

#include "mem/store-impl.h"

static uint32_t next_free(uint64_t word)
{
	return word >> COP_SLOT_OFFSET_BITS;
}

int cop_slot_reserve_chunks(struct cop_store *s, uint32_t nr_chunks)
{
	uint32_t room = s->slot_chunk_room ? s->slot_chunk_room : 16;
	uint32_t *more;

	if (nr_chunks <= s->slot_chunk_room)
		return 0;
	while (room < nr_chunks)
		room *= 2;
	more = realloc(s->slot_chunk, room * sizeof(*more));
	if (!more)
		return -ENOMEM;
	s->slot_chunk = more;
	s->slot_chunk_room = room;
	return 0;
}

/* Adds a chunk. It is cleared before a directory names it, the directory before the superblock
 * names that. */
static int add_chunk(struct cop_store *s)
{
	static const uint8_t zeros[COP_BLOCK_BYTES];
	uint32_t nr = s->nr_slots / COP_CHUNK_SLOTS, chunk, dir;
	size_t dir_at = offsetof(struct cop_super, slot_dir) + nr / COP_DIR_ENTRIES * 8;
	int r;

	if (s->nr_slots >= COP_MAX_SLOTS)
		return -ENOSPC;
	r = cop_slot_reserve_chunks(s, nr + 1);
	if (r)
		return r;
	chunk = cop_arena_alloc(&s->arena, 1, COP_BLOCK_SLOTS, false);
	if (!chunk)
		return -ENOSPC;
	cop_arena_write(&s->arena, (size_t)chunk * COP_BLOCK_BYTES, zeros, sizeof(zeros));
	dir = cop_arena_get64(&s->arena, dir_at);
	if (!dir) {
		dir = cop_arena_alloc(&s->arena, 1, COP_BLOCK_DIR, false);
		if (!dir) {
			cop_arena_free(&s->arena, chunk, 1);
			return -ENOSPC;
		}
		cop_arena_write(&s->arena, (size_t)dir * COP_BLOCK_BYTES, zeros, sizeof(zeros));
		cop_arena_set64(&s->arena, dir_at, dir);
	}
	cop_arena_set64(&s->arena, (size_t)dir * COP_BLOCK_BYTES + nr % COP_DIR_ENTRIES * 8, chunk);
	s->slot_chunk[nr] = chunk;
	s->nr_slots += COP_CHUNK_SLOTS;
	for (uint32_t i = s->nr_slots - 1; i >= s->nr_slots - COP_CHUNK_SLOTS && i; i--)
		cop_slot_give(s, i);
	return 0;
}

int cop_slot_prepare(struct cop_store *s)
{
	return s->free_slot ? 0 : add_chunk(s);
}

uint32_t cop_slot_take(struct cop_store *s, size_t record_offset, uint32_t holders)
{
	uint32_t slot = s->free_slot;

	s->free_slot = next_free(cop_slot_get(s, slot));
	s->nr_free_slots--;
	cop_arena_set64(&s->arena, cop_slot_at(s, slot), cop_slot_word(record_offset, holders));
	return slot;
}

void cop_slot_give(struct cop_store *s, uint32_t slot)
{
	cop_arena_set64(&s->arena, cop_slot_at(s, slot), cop_slot_word(0, s->free_slot));
	s->free_slot = slot;
	s->nr_free_slots++;
}
