/*
 * store-open.c - makes a store, and finds one again that a killed process left.
 *
 * What is written down is little: the superblock names directories, these name slots and page
 * tables, slots name records. All else follows: a block that nothing names is free; a record's
 * holders are the table entries and the records coded against it; a record without holders was put
 * by someone who had not yet written its table entry, or had already taken it back: it goes.
 * Recovery writes only holder counts and free slots, which it would find again: it may itself be
 * killed at any instant.
 */
#include <errno.h>
#include <stdlib.h>

#include "mem/ptab.h"
#include "mem/store-impl.h"

static int new_store(void *mem, size_t len_bytes, unsigned int flags,
		     const struct cop_templates *templates, struct cop_store **ret)
{
	struct cop_store *s = calloc(1, sizeof(*s));
	int r;

	if (!s)
		return -ENOMEM;
	r = cop_arena_init(&s->arena, mem, len_bytes);
	if (r) {
		free(s);
		return r;
	}
	s->flags = flags;
	if (templates)
		s->templates = *templates;
	s->segments = calloc(s->arena.nr_blocks / COP_GROUP_BLOCKS, sizeof(*s->segments));
	if (!s->segments || cop_slot_reserve_chunks(s, 1) ||
	    cop_arena_claim(&s->arena, 0, 1, COP_BLOCK_SUPER)) {
		cop_store_close(s);
		return -ENOMEM;
	}
	*ret = s;
	return 0;
}

void cop_store_close(struct cop_store *s)
{
	if (!s)
		return;
	cop_index_done(&s->hashes);
	cop_sketches_done(&s->sketches);
	free(s->slot_chunk);
	free(s->segments);
	cop_arena_done(&s->arena);
	free(s);
}

int cop_store_create(void *mem, size_t len_bytes, unsigned int flags,
		     const struct cop_templates *templates, struct cop_store **ret_store)
{
	struct cop_super super = {
		.version = COP_STORE_VERSION,
		.block_bytes = COP_BLOCK_BYTES,
	};
	struct cop_store *s;
	int r = new_store(mem, len_bytes, flags, templates, &s);

	if (r)
		return r;
	super.nr_blocks = s->arena.nr_blocks;
	cop_arena_set64(&s->arena, 0, 0);
	cop_arena_write(&s->arena, 0, &super, sizeof(super));
	cop_arena_set64(&s->arena, 0, COP_STORE_MAGIC);
	*ret_store = s;
	return 0;
}

static int find_slots(struct cop_store *s)
{
	for (uint32_t i = 0; i < COP_SLOT_DIRS; i++) {
		uint64_t dir =
			cop_arena_get64(&s->arena, offsetof(struct cop_super, slot_dir) + 8 * i);

		if (!dir)
			return 0;
		if (dir >= s->arena.nr_blocks || cop_arena_claim(&s->arena, dir, 1, COP_BLOCK_DIR))
			return -EBADMSG;
		for (uint32_t k = 0; k < COP_DIR_ENTRIES; k++) {
			uint64_t chunk = cop_arena_get64(&s->arena, dir * COP_BLOCK_BYTES + 8 * k);
			uint32_t nr = s->nr_slots / COP_CHUNK_SLOTS;

			if (!chunk)
				return 0;
			if (chunk >= s->arena.nr_blocks ||
			    cop_arena_claim(&s->arena, chunk, 1, COP_BLOCK_SLOTS))
				return -EBADMSG;
			if (cop_slot_reserve_chunks(s, nr + 1))
				return -ENOMEM;
			s->slot_chunk[nr] = chunk;
			s->nr_slots += COP_CHUNK_SLOTS;
		}
	}
	return 0;
}

/* Claims the segment that a slot's record lies in, and forgets the record's holders. */
static int find_record(struct cop_store *s, uint32_t slot)
{
	size_t offset = cop_slot_offset(cop_slot_get(s, slot));
	uint32_t nr = offset / COP_SEGMENT_BYTES, block = nr * COP_GROUP_BLOCKS, end;
	struct cop_record_view v;

	if (!offset)
		return 0;
	if (block >= s->arena.nr_blocks || cop_record_of(s, slot, &v))
		return -EBADMSG;
	if (s->arena.kind[block] != COP_BLOCK_LOG &&
	    cop_arena_claim(&s->arena, block, COP_GROUP_BLOCKS, COP_BLOCK_LOG))
		return -EBADMSG;
	end = offset % COP_SEGMENT_BYTES + v.size_bytes;
	if (end > s->segments[nr].fill_bytes)
		s->segments[nr].fill_bytes = end;
	s->segments[nr].live_bytes += v.size_bytes;
	if (s->segments[nr].live_bytes > COP_SEGMENT_BYTES)
		return -EBADMSG;
	cop_arena_set64(&s->arena, cop_slot_at(s, slot), cop_slot_word(offset, 0));
	s->stats.records++;
	s->stats.live_bytes += v.size_bytes;
	s->stats.coder_records[v.coder]++;
	s->stats.coder_bytes[v.coder] += v.len_bytes;
	return 0;
}

/* A record with holders that is coded against another holds that one. */
static int count_bases(struct cop_store *s)
{
	for (uint32_t i = 1; i < s->nr_slots; i++) {
		struct cop_record_view v, base;
		uint64_t word;

		if (!cop_slot_offset(cop_slot_get(s, i)) || !cop_slot_holders(cop_slot_get(s, i)))
			continue;
		if (cop_record_of(s, i, &v))
			return -EBADMSG;
		if (cop_coders[v.coder].dict != COP_DICT_RECORD)
			continue;
		if (cop_record_of(s, v.dict, &base) || base.domain != v.domain ||
		    cop_coders[base.coder].dict == COP_DICT_RECORD)
			return -EBADMSG;
		word = cop_slot_get(s, v.dict);
		if (cop_slot_holders(word) == COP_SLOT_MAX_HOLDERS)
			return -EBADMSG;
		cop_arena_set64(&s->arena, cop_slot_at(s, v.dict), word + cop_slot_word(0, 1));
		s->stats.holders++;
	}
	return 0;
}

static uint64_t check_of(const void *ctx, uint32_t slot)
{
	struct cop_record_view v;

	return cop_record_of(ctx, slot, &v) ? 0 : v.check;
}

/* Frees what nobody holds, indexes the rest. Backwards, so that the list of free slots starts low.
 */
static int sweep(struct cop_store *s)
{
	for (uint32_t i = s->nr_slots; i-- > 1;) {
		uint64_t word = cop_slot_get(s, i);
		struct cop_record_view v;

		if (!cop_slot_offset(word)) {
			cop_slot_give(s, i);
			continue;
		}
		if (cop_record_of(s, i, &v))
			return -EBADMSG;
		if (cop_slot_holders(word)) {
			if (cop_index_prepare(&s->hashes, check_of, s))
				return -ENOMEM;
			cop_index_add(&s->hashes, v.check, i);
			continue;
		}
		s->stats.records--;
		s->stats.live_bytes -= v.size_bytes;
		s->stats.coder_records[v.coder]--;
		s->stats.coder_bytes[v.coder] -= v.len_bytes;
		cop_slot_give(s, i);
		cop_log_dead(s, cop_slot_offset(word), v.size_bytes);
	}
	return 0;
}

int cop_store_open(void *mem, size_t len_bytes, unsigned int flags,
		   const struct cop_templates *templates, struct cop_store **ret_store)
{
	struct cop_super super;
	struct cop_store *s;
	int r = new_store(mem, len_bytes, flags, templates, &s);

	if (r)
		return r;
	memcpy(&super, mem, sizeof(super));
	if (super.magic != COP_STORE_MAGIC || super.version != COP_STORE_VERSION ||
	    super.block_bytes != COP_BLOCK_BYTES || super.nr_blocks != s->arena.nr_blocks)
		r = -EINVAL;
	if (!r)
		r = find_slots(s);
	for (uint32_t i = 1; !r && i < s->nr_slots; i++)
		r = find_record(s, i);
	if (!r)
		r = cop_ptab_recover_all(s);
	if (!r)
		r = count_bases(s);
	if (!r)
		r = sweep(s);
	if (r) {
		cop_store_close(s);
		return r;
	}
	*ret_store = s;
	return 0;
}
