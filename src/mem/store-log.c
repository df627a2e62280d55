/*
 * store-log.c - records side by side in segments of 64 KiB; moving them together again.
 *
 * A segment is filled once, from its start, and then only loses records. When none is left it is
 * free. The compactor takes the segment with the fewest live bytes and appends what lives to the
 * open one: copy, then the one store to the slot. A segment that was open when the process ended
 * isn't continued; what was its free tail counts as dead.
 */
#include <errno.h>

#include "mem/store-impl.h"

#define NO_SEGMENT 0u

static bool is_open(const struct cop_store *s, uint32_t nr)
{
	for (unsigned int i = 0; i < COP_OPEN_SEGMENTS; i++) {
		if (s->open_segments[i] == nr)
			return true;
	}
	return false;
}

/* Puts a new segment in the place of the open one with the least room. */
static int open_segment(struct cop_store *s, bool reserve, uint32_t *ret_nr)
{
	uint32_t block = cop_arena_alloc(&s->arena, COP_GROUP_BLOCKS, COP_BLOCK_LOG, reserve), old;
	unsigned int fullest = 0;

	if (!block)
		return -ENOSPC;
	for (unsigned int i = 1; i < COP_OPEN_SEGMENTS; i++) {
		if (!s->open_segments[fullest])
			break;
		if (!s->open_segments[i] ||
		    s->segments[s->open_segments[i]].fill_bytes >
			    s->segments[s->open_segments[fullest]].fill_bytes)
			fullest = i;
	}
	old = s->open_segments[fullest];
	*ret_nr = s->open_segments[fullest] = block / COP_GROUP_BLOCKS;
	s->segments[*ret_nr] = (struct cop_segment){0};
	if (old && !s->segments[old].live_bytes)
		cop_arena_free(&s->arena, old * COP_GROUP_BLOCKS, COP_GROUP_BLOCKS);
	return 0;
}

int cop_log_append(struct cop_store *s, const void *record, uint32_t size_bytes, bool reserve,
		   size_t *ret_offset)
{
	uint32_t nr = NO_SEGMENT;
	struct cop_segment *g;

	assert(size_bytes % COP_UNIT_BYTES == 0);
	/* The fullest that has room. */
	for (unsigned int i = 0; i < COP_OPEN_SEGMENTS; i++) {
		uint32_t candidate = s->open_segments[i];

		if (candidate &&
		    s->segments[candidate].fill_bytes + size_bytes <= COP_SEGMENT_BYTES &&
		    (!nr || s->segments[candidate].fill_bytes > s->segments[nr].fill_bytes))
			nr = candidate;
	}
	if (!nr) {
		int r = open_segment(s, reserve, &nr);

		if (r)
			return r;
	}
	g = &s->segments[nr];
	*ret_offset = (size_t)nr * COP_SEGMENT_BYTES + g->fill_bytes;
	cop_arena_write(&s->arena, *ret_offset, record, size_bytes);
	g->fill_bytes += size_bytes;
	g->live_bytes += size_bytes;
	return 0;
}

void cop_log_dead(struct cop_store *s, size_t offset, uint32_t size_bytes)
{
	uint32_t nr = offset / COP_SEGMENT_BYTES;

	assert(s->segments[nr].live_bytes >= size_bytes);
	s->segments[nr].live_bytes -= size_bytes;
	if (s->segments[nr].live_bytes)
		return;
	if (is_open(s, nr)) {
		s->segments[nr].fill_bytes = 0;
		return;
	}
	cop_arena_free(&s->arena, nr * COP_GROUP_BLOCKS, COP_GROUP_BLOCKS);
}

/* Moves what lives in a segment. -ENOSPC; -EBADMSG where headers don't lead from record to record:
 * then the rest stays. */
static int empty_segment(struct cop_store *s, uint32_t nr, size_t *moved_bytes)
{
	size_t at = (size_t)nr * COP_SEGMENT_BYTES, end = at + s->segments[nr].fill_bytes;

	while (s->segments[nr].live_bytes && at < end) {
		struct cop_record_view v;
		size_t to;
		uint64_t word;
		int r = cop_record_view(s, at, &v);

		if (r)
			return r;
		word = v.slot < s->nr_slots ? cop_slot_get(s, v.slot) : 0;
		if (v.slot && cop_slot_offset(word) == at) {
			r = cop_log_append(s, s->arena.mem + at, v.size_bytes, true, &to);
			if (r)
				return r;
			cop_arena_set64(&s->arena, cop_slot_at(s, v.slot),
					cop_slot_word(to, cop_slot_holders(word)));
			*moved_bytes += v.size_bytes;
			cop_log_dead(s, at, v.size_bytes);
		}
		at += v.size_bytes;
	}
	return s->segments[nr].live_bytes ? -EBADMSG : 0;
}

size_t cop_store_compact(struct cop_store *s, size_t max_bytes)
{
	uint32_t before = s->arena.nr_kind[COP_BLOCK_FREE], after;
	size_t moved = 0;

	while (moved < max_bytes) {
		uint32_t best = NO_SEGMENT, nr_groups = s->arena.high_block / COP_GROUP_BLOCKS;
		int r;

		for (uint32_t i = 1; i < nr_groups; i++) {
			if (s->arena.kind[i * COP_GROUP_BLOCKS] != COP_BLOCK_LOG || is_open(s, i) ||
			    s->segments[i].damaged)
				continue;
			if (s->segments[i].live_bytes >= COP_SEGMENT_BYTES / 8 * 7)
				continue;
			if (!best || s->segments[i].live_bytes < s->segments[best].live_bytes)
				best = i;
		}
		if (!best)
			break;
		r = empty_segment(s, best, &moved);
		if (r == -EBADMSG)
			s->segments[best].damaged = true;
		else if (r)
			break;
	}
	s->stats.moved_bytes += moved;
	after = s->arena.nr_kind[COP_BLOCK_FREE];
	return after > before ? (size_t)(after - before) * COP_BLOCK_BYTES : 0;
}
