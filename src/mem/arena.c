/* arena.c - which blocks of the arena are in use: see arena.h. */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "mem/arena.h"

int cop_arena_init(struct cop_arena *a, void *mem, size_t len_bytes)
{
	size_t nr = len_bytes / COP_SEGMENT_BYTES * COP_GROUP_BLOCKS;

	if (nr < 4 * COP_GROUP_BLOCKS || nr >= 1u << 25 || (uintptr_t)mem % COP_BLOCK_BYTES)
		return -EINVAL;
	*a = (struct cop_arena){.mem = mem, .nr_blocks = nr};
	a->kind = calloc(nr, 1);
	if (!a->kind)
		return -ENOMEM;
	a->nr_kind[COP_BLOCK_FREE] = nr;
	a->free_groups = nr / COP_GROUP_BLOCKS;
	return 0;
}

void cop_arena_done(struct cop_arena *a)
{
	free(a->kind);
	a->kind = NULL;
}

static bool group_is_free(const struct cop_arena *a, uint32_t block)
{
	static const uint8_t none[COP_GROUP_BLOCKS];

	block -= block % COP_GROUP_BLOCKS;
	return memcmp(a->kind + block, none, COP_GROUP_BLOCKS) == 0;
}

/* Moves blocks between kinds and keeps all counts. */
static void set_kind(struct cop_arena *a, uint32_t block, uint32_t nr, enum cop_block kind)
{
	for (uint32_t b = block; b < block + nr; b++) {
		bool was_free = group_is_free(a, b);

		a->nr_kind[a->kind[b]]--;
		a->nr_kind[kind]++;
		a->kind[b] = kind;
		a->free_groups += group_is_free(a, b) - was_free;
	}
	if (kind == COP_BLOCK_FREE && block < a->first_free)
		a->first_free = block;
	if (kind != COP_BLOCK_FREE && block + nr > a->high_block)
		a->high_block = block + nr;
}

uint32_t cop_arena_alloc(struct cop_arena *a, uint32_t nr, enum cop_block kind, bool reserve)
{
	uint32_t step = nr == COP_GROUP_BLOCKS ? COP_GROUP_BLOCKS : 1, keep = reserve ? 0 : 1;

	while (a->first_free < a->nr_blocks && a->kind[a->first_free] != COP_BLOCK_FREE)
		a->first_free++;
	for (uint32_t at = (a->first_free + step - 1) / step * step; at + nr <= a->nr_blocks;
	     at += step) {
		uint32_t n = 0, groups = 0;

		while (n < nr && a->kind[at + n] == COP_BLOCK_FREE)
			n++;
		if (n < nr) {
			if (step == 1)
				at += n;
			continue;
		}
		for (uint32_t b = at; b < at + nr; b += COP_GROUP_BLOCKS - b % COP_GROUP_BLOCKS)
			groups += group_is_free(a, b);
		if (groups && a->free_groups < groups + keep)
			continue;
		set_kind(a, at, nr, kind);
		return at;
	}
	return 0;
}

void cop_arena_free(struct cop_arena *a, uint32_t block, uint32_t nr)
{
	assert(block && block + nr <= a->nr_blocks);
	set_kind(a, block, nr, COP_BLOCK_FREE);
}

int cop_arena_claim(struct cop_arena *a, uint32_t block, uint32_t nr, enum cop_block kind)
{
	if (block >= a->nr_blocks || nr > a->nr_blocks - block)
		return -EBADMSG;
	for (uint32_t b = block; b < block + nr; b++) {
		if (a->kind[b] != COP_BLOCK_FREE)
			return -EBADMSG;
	}
	set_kind(a, block, nr, kind);
	return 0;
}
