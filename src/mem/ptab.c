/*
 * ptab.c - page tables: see ptab.h.
 *
 * States of an entry's place: free (0) or taken. Linear probing from a home place; pages of a group
 * of 8 have homes side by side. An entry is removed by moving a later one of its chain into the
 * gap, so for the length of two stores that one stands twice: recovery removes the one that a
 * search doesn't reach.
 *
 * A directory entry is two words: root (first block | blocks << 32) and key. The root is written
 * first, the key makes the table exist; on removal the key goes first.
 */
#include <errno.h>
#include <stdlib.h>

#include "mem/ptab.h"
#include "mem/store-impl.h"

#define BLOCK_ENTRIES (COP_BLOCK_BYTES / 8)
#define MAX_BLOCKS    (1u << 20)

enum { SLOT_BITS = 28, TAG_BITS = 5, STATE_BITS = 3 };
static_assert(SLOT_BITS + TAG_BITS + STATE_BITS + 28 == 64, "an entry is one word");

struct cop_ptab {
	struct cop_store *store;
	size_t dir_at; /* offset of the directory entry */
	size_t base;   /* offset of the entries */
	uint32_t nr_blocks;
	uint32_t room; /* entries */
	uint32_t used;
};

static uint64_t entry_of(const struct cop_store *s, uint32_t gfn, enum cop_page_state state,
			 uint32_t record)
{
	uint64_t tag = record ? cop_store_tag(s, record) & ((1u << TAG_BITS) - 1) : 0;

	return record | tag << SLOT_BITS | (uint64_t)state << (SLOT_BITS + TAG_BITS) |
	       (uint64_t)gfn << (SLOT_BITS + TAG_BITS + STATE_BITS);
}

static uint32_t gfn_of(uint64_t entry)
{
	return entry >> (SLOT_BITS + TAG_BITS + STATE_BITS);
}

static enum cop_page_state state_of(uint64_t entry)
{
	return entry >> (SLOT_BITS + TAG_BITS) & ((1u << STATE_BITS) - 1);
}

static uint32_t record_of(uint64_t entry)
{
	return entry & ((1u << SLOT_BITS) - 1);
}

static uint64_t load(const struct cop_ptab *t, uint32_t at)
{
	return cop_arena_get64(&t->store->arena, t->base + 8 * (size_t)at);
}

static void store(struct cop_ptab *t, uint32_t at, uint64_t entry)
{
	cop_arena_set64(&t->store->arena, t->base + 8 * (size_t)at, entry);
}

static uint32_t home(uint32_t gfn, uint32_t room)
{
	uint32_t h = (gfn >> 3) * 0x9e3779b1u;

	h ^= h >> 15;
	h *= 0x85ebca6bu;
	return ((uint64_t)h * (room / 8) >> 32) * 8 + (gfn & 7);
}

static uint32_t after(const struct cop_ptab *t, uint32_t at)
{
	return at + 1 == t->room ? 0 : at + 1;
}

/* How far `at` is behind `from`, around the end. */
static uint32_t distance(const struct cop_ptab *t, uint32_t from, uint32_t at)
{
	return at >= from ? at - from : at + t->room - from;
}

/* The entry's place, or the free one where its search ends. */
static uint32_t find(const struct cop_ptab *t, uint32_t gfn)
{
	uint32_t at = home(gfn, t->room);
	uint64_t entry;

	while ((entry = load(t, at)) && gfn_of(entry) != gfn)
		at = after(t, at);
	return at;
}

static void attach(struct cop_ptab *t, uint64_t root)
{
	t->base = (size_t)(uint32_t)root * COP_BLOCK_BYTES;
	t->nr_blocks = root >> 32;
	t->room = t->nr_blocks * BLOCK_ENTRIES;
}

static size_t dir_entry_at(const struct cop_store *s, uint32_t nth)
{
	size_t super_at = offsetof(struct cop_super, ptab_dir) + nth / COP_DIR_PTABS * 8;

	return cop_arena_get64(&s->arena, super_at) * COP_BLOCK_BYTES + nth % COP_DIR_PTABS * 16;
}

uint64_t cop_ptab_key(const struct cop_store *s, uint32_t nth)
{
	for (uint32_t i = 0; i < s->nr_ptabs; i++) {
		uint64_t key = cop_arena_get64(&s->arena, dir_entry_at(s, i) + 8);

		if (key && !nth--)
			return key;
	}
	return 0;
}

/* Clears new blocks and copies t's entries there, if it has any. 0: no room. */
static uint32_t make_entries(struct cop_store *s, const struct cop_ptab *t, uint32_t nr_blocks)
{
	static const uint8_t zeros[COP_BLOCK_BYTES];
	uint32_t block = cop_arena_alloc(&s->arena, nr_blocks, COP_BLOCK_PTAB, false);
	struct cop_ptab to = {.store = s};

	if (!block)
		return 0;
	attach(&to, block | (uint64_t)nr_blocks << 32);
	for (uint32_t i = 0; i < nr_blocks; i++)
		cop_arena_write(&s->arena, to.base + (size_t)i * COP_BLOCK_BYTES, zeros,
				sizeof(zeros));
	for (uint32_t i = 0; t && i < t->room; i++) {
		uint64_t entry = load(t, i);

		if (entry)
			store(&to, find(&to, gfn_of(entry)), entry);
	}
	return block;
}

/* Finds room for a directory entry, making a directory if need be. */
static int dir_room(struct cop_store *s, size_t *ret_at)
{
	static const uint8_t zeros[COP_BLOCK_BYTES];
	uint32_t block;

	for (uint32_t i = 0; i < s->nr_ptabs; i++) {
		*ret_at = dir_entry_at(s, i);
		if (!cop_arena_get64(&s->arena, *ret_at + 8))
			return 0;
	}
	if (s->nr_ptabs >= COP_MAX_PTABS)
		return -ENOSPC;
	block = cop_arena_alloc(&s->arena, 1, COP_BLOCK_DIR, false);
	if (!block)
		return -ENOSPC;
	cop_arena_write(&s->arena, (size_t)block * COP_BLOCK_BYTES, zeros, sizeof(zeros));
	cop_arena_set64(&s->arena,
			offsetof(struct cop_super, ptab_dir) + s->nr_ptabs / COP_DIR_PTABS * 8,
			block);
	*ret_at = (size_t)block * COP_BLOCK_BYTES;
	s->nr_ptabs += COP_DIR_PTABS;
	return 0;
}

int cop_ptab_find(struct cop_store *s, uint64_t key, struct cop_ptab **ret_table)
{
	for (uint32_t i = 0; key && i < s->nr_ptabs; i++) {
		size_t at = dir_entry_at(s, i);
		struct cop_ptab *t;

		if (cop_arena_get64(&s->arena, at + 8) != key)
			continue;
		t = calloc(1, sizeof(*t));
		if (!t)
			return -ENOMEM;
		t->store = s;
		t->dir_at = at;
		attach(t, cop_arena_get64(&s->arena, at));
		for (uint32_t k = 0; k < t->room; k++)
			t->used += load(t, k) != 0;
		*ret_table = t;
		return 0;
	}
	return -ENOENT;
}

int cop_ptab_new(struct cop_store *s, uint64_t key, struct cop_ptab **ret_table)
{
	struct cop_ptab *t;
	uint32_t block;
	size_t at;
	int r;

	assert(key);
	for (uint32_t i = 0; i < s->nr_ptabs; i++) {
		if (cop_arena_get64(&s->arena, dir_entry_at(s, i) + 8) == key)
			return -EEXIST;
	}
	t = calloc(1, sizeof(*t));
	if (!t)
		return -ENOMEM;
	r = dir_room(s, &at);
	block = r ? 0 : make_entries(s, NULL, 1);
	if (!block) {
		free(t);
		return r ? r : -ENOSPC;
	}
	t->store = s;
	t->dir_at = at;
	attach(t, block | 1ull << 32);
	cop_arena_set64(&s->arena, at, block | 1ull << 32);
	cop_arena_set64(&s->arena, at + 8, key);
	*ret_table = t;
	return 0;
}

void cop_ptab_close(struct cop_ptab *t)
{
	free(t);
}

void cop_ptab_free(struct cop_ptab *t)
{
	if (!t)
		return;
	cop_arena_set64(&t->store->arena, t->dir_at + 8, 0);
	for (uint32_t i = 0; i < t->room; i++) {
		uint64_t entry = load(t, i);

		if (record_of(entry))
			cop_store_unref(t->store, record_of(entry));
	}
	cop_arena_free(&t->store->arena, t->base / COP_BLOCK_BYTES, t->nr_blocks);
	free(t);
}

int cop_ptab_get(const struct cop_ptab *t, uint32_t gfn, enum cop_page_state *ret_state,
		 uint32_t *ret_record)
{
	uint64_t entry = load(t, find(t, gfn));

	if (entry && record_of(entry) &&
	    entry != entry_of(t->store, gfn, state_of(entry), record_of(entry)))
		return -EBADMSG;
	*ret_state = state_of(entry);
	*ret_record = record_of(entry);
	return 0;
}

/* Makes room for one more entry: at most 7/8 full, 3/4 after growing. */
static int prepare(struct cop_ptab *t)
{
	struct cop_arena *a = &t->store->arena;
	uint32_t nr_blocks, block, old = t->base / COP_BLOCK_BYTES, old_nr = t->nr_blocks;

	if ((uint64_t)(t->used + 1) * 8 <= (uint64_t)t->room * 7)
		return 0;
	nr_blocks = (uint64_t)(t->used + 1) * 4 / 3 / BLOCK_ENTRIES + 1;
	if (nr_blocks > MAX_BLOCKS)
		return -ENOSPC;
	block = make_entries(t->store, t, nr_blocks);
	if (!block)
		return -ENOSPC;
	cop_arena_set64(a, t->dir_at, block | (uint64_t)nr_blocks << 32);
	attach(t, block | (uint64_t)nr_blocks << 32);
	cop_arena_free(a, old, old_nr);
	return 0;
}

static void remove_at(struct cop_ptab *t, uint32_t hole)
{
	uint64_t entry;

	for (uint32_t at = after(t, hole); (entry = load(t, at)); at = after(t, at)) {
		if (distance(t, home(gfn_of(entry), t->room), at) >= distance(t, hole, at)) {
			store(t, hole, entry);
			hole = at;
		}
	}
	store(t, hole, 0);
	t->used--;
}

int cop_ptab_set(struct cop_ptab *t, uint32_t gfn, enum cop_page_state state, uint32_t record)
{
	uint32_t at = find(t, gfn);
	uint64_t old = load(t, at);

	assert(gfn <= COP_MAX_GFN && (state == COP_PAGE_RECORD) == (record != COP_RECORD_NONE));
	if (state == COP_PAGE_NONE) {
		if (old)
			remove_at(t, at);
	} else if (old) {
		store(t, at, entry_of(t->store, gfn, state, record));
	} else {
		int r = prepare(t);

		if (r)
			return r;
		store(t, find(t, gfn), entry_of(t->store, gfn, state, record));
		t->used++;
	}
	if (record_of(old))
		cop_store_unref(t->store, record_of(old));
	return 0;
}

uint32_t cop_ptab_used(const struct cop_ptab *t)
{
	return t->used;
}

bool cop_ptab_next(const struct cop_ptab *t, uint32_t *cursor, uint32_t *ret_gfn,
		   enum cop_page_state *ret_state, uint32_t *ret_record)
{
	while (*cursor < t->room) {
		uint64_t entry = load(t, (*cursor)++);

		if (!entry)
			continue;
		*ret_gfn = gfn_of(entry);
		*ret_state = state_of(entry);
		*ret_record = record_of(entry);
		return true;
	}
	return false;
}

/* One table: claims its blocks, removes the entry that stands twice, checks and counts the rest. */
static int recover(struct cop_store *s, struct cop_ptab *t)
{
	int r = cop_arena_claim(&s->arena, t->base / COP_BLOCK_BYTES, t->nr_blocks, COP_BLOCK_PTAB);
	bool again = true;

	if (r || !t->nr_blocks)
		return -EBADMSG;
	for (uint32_t i = 0; i < t->room; i++)
		t->used += load(t, i) != 0;
	if (t->used >= t->room)
		return -EBADMSG;
	while (again) {
		again = false;
		for (uint32_t i = 0; i < t->room; i++) {
			uint64_t entry = load(t, i);

			if (entry && find(t, gfn_of(entry)) != i) {
				remove_at(t, i);
				again = true;
			}
		}
	}
	for (uint32_t i = 0; i < t->room; i++) {
		uint64_t entry = load(t, i);
		enum cop_page_state state = state_of(entry);
		struct cop_record_view v;
		uint64_t word;

		if (!entry)
			continue;
		if (state < COP_PAGE_RECORD || state > COP_PAGE_DISCARDED ||
		    (state == COP_PAGE_RECORD) != (record_of(entry) != 0))
			return -EBADMSG;
		if (state != COP_PAGE_RECORD)
			continue;
		if (cop_record_of(s, record_of(entry), &v))
			return -EBADMSG;
		word = cop_slot_get(s, record_of(entry));
		if (cop_slot_holders(word) == COP_SLOT_MAX_HOLDERS)
			return -EBADMSG;
		cop_arena_set64(&s->arena, cop_slot_at(s, record_of(entry)),
				word + cop_slot_word(0, 1));
		s->stats.holders++;
	}
	return 0;
}

int cop_ptab_recover_all(struct cop_store *s)
{
	for (uint32_t i = 0; i < COP_PTAB_DIRS; i++) {
		uint64_t dir =
			cop_arena_get64(&s->arena, offsetof(struct cop_super, ptab_dir) + 8 * i);

		if (!dir)
			break;
		if (dir >= s->arena.nr_blocks || cop_arena_claim(&s->arena, dir, 1, COP_BLOCK_DIR))
			return -EBADMSG;
		s->nr_ptabs += COP_DIR_PTABS;
	}
	for (uint32_t i = 0; i < s->nr_ptabs; i++) {
		size_t at = dir_entry_at(s, i);
		struct cop_ptab t = {.store = s, .dir_at = at};
		int r;

		if (!cop_arena_get64(&s->arena, at + 8))
			continue;
		attach(&t, cop_arena_get64(&s->arena, at));
		if (t.nr_blocks > MAX_BLOCKS)
			return -EBADMSG;
		r = recover(s, &t);
		if (r)
			return r;
	}
	return 0;
}
