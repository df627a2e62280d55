/* index.c - finds records by their page: see index.h. */
#include <errno.h>
#include <stdlib.h>

#include "mem/index.h"
#include "mem/page.h"

#define RECORD_MASK ((1u << 28) - 1)
#define FIRST_ROOM  256u

static uint32_t home(const struct cop_index *x, uint64_t hash)
{
	return hash >> 32 & x->mask;
}

static uint32_t tagged(uint64_t hash, uint32_t record)
{
	return record | (uint32_t)(hash & 15) << 28;
}

void cop_index_done(struct cop_index *x)
{
	free(x->entries);
	*x = (struct cop_index){0};
}

void cop_index_add(struct cop_index *x, uint64_t hash, uint32_t record)
{
	uint32_t at = home(x, hash);

	while (x->entries[at])
		at = (at + 1) & x->mask;
	x->entries[at] = tagged(hash, record);
	x->used++;
}

int cop_index_prepare(struct cop_index *x, cop_index_hash_fn *hash, const void *ctx)
{
	uint32_t room = x->entries ? x->mask + 1 : 0;
	struct cop_index bigger = {.mask = room ? 2 * room - 1 : FIRST_ROOM - 1};

	if ((uint64_t)(x->used + 1) * 4 <= (uint64_t)room * 3)
		return 0;
	bigger.entries = calloc((size_t)bigger.mask + 1, sizeof(*bigger.entries));
	if (!bigger.entries)
		return -ENOMEM;
	for (uint32_t i = 0; i < room; i++) {
		uint32_t record = x->entries[i] & RECORD_MASK;

		if (record)
			cop_index_add(&bigger, hash(ctx, record), record);
	}
	free(x->entries);
	*x = bigger;
	return 0;
}

uint32_t cop_index_find(const struct cop_index *x, uint64_t hash, uint32_t *cursor)
{
	if (!x->entries)
		return 0;
	for (;; ++*cursor) {
		uint32_t entry = x->entries[(home(x, hash) + *cursor) & x->mask];

		if (!entry)
			return 0;
		if (entry == tagged(hash, entry & RECORD_MASK)) {
			++*cursor;
			return entry & RECORD_MASK;
		}
	}
}

void cop_index_remove(struct cop_index *x, uint64_t hash, uint32_t record,
		      cop_index_hash_fn *hash_of, const void *ctx)
{
	uint32_t hole = home(x, hash);

	if (!x->entries)
		return;
	while (x->entries[hole] && x->entries[hole] != tagged(hash, record))
		hole = (hole + 1) & x->mask;
	if (!x->entries[hole])
		return;
	x->used--;
	/* Close the gap: move up what may not stand behind a hole. */
	for (uint32_t at = (hole + 1) & x->mask; x->entries[at]; at = (at + 1) & x->mask) {
		uint32_t want = home(x, hash_of(ctx, x->entries[at] & RECORD_MASK));

		if (((at - want) & x->mask) >= ((at - hole) & x->mask)) {
			x->entries[hole] = x->entries[at];
			hole = at;
		}
	}
	x->entries[hole] = 0;
}

void cop_sketch_make(const uint8_t *page, struct cop_sketch *ret)
{
	uint64_t last = 0;

	/* f[0] is the largest kept: most words lose against it in one comparison. */
	ret->nr = 0;
	for (unsigned int i = 0; i < COP_PAGE_WORDS; i++) {
		uint64_t word = cop_load64(page + 8 * i);
		uint32_t h, *f = ret->feature;
		unsigned int k;

		if (word + 1 <= 1 || word == last)
			continue;
		last = word;
		h = (word ^ word >> 32) * 0x9e3779b97f4a7c15ull >> 32;
		if (ret->nr == COP_SKETCH_FEATURES && h >= f[0])
			continue;
		for (k = 0; k < ret->nr && f[k] != h; k++)
			;
		if (k < ret->nr)
			continue;
		if (ret->nr < COP_SKETCH_FEATURES)
			k = ret->nr++;
		else
			k = 0;
		/* Insertion into descending order. */
		if (k) {
			for (; k && f[k - 1] < h; k--)
				f[k] = f[k - 1];
		} else {
			for (; k + 1 < ret->nr && f[k + 1] > h; k++)
				f[k] = f[k + 1];
		}
		f[k] = h;
	}
}

void cop_sketches_done(struct cop_sketches *x)
{
	free(x->entries);
	*x = (struct cop_sketches){0};
}

static uint32_t place(const struct cop_sketches *x, uint32_t feature)
{
	return feature * 0x9e3779b1u >> 4 & x->mask;
}

void cop_sketches_add(struct cop_sketches *x, const struct cop_sketch *k, uint32_t record,
		      uint64_t nr_records)
{
	uint32_t room = x->entries ? x->mask + 1 : 0;

	/* Two places a record. Growing forgets: the entries don't say their feature. So each
	 * doubling has four times the room. */
	if (!room || (nr_records * 2 > room && room < 1u << 28)) {
		uint32_t bigger = room ? room * 4 : 1024;
		uint32_t *entries = calloc(bigger, sizeof(*entries));

		if (entries) {
			free(x->entries);
			x->entries = entries;
			x->mask = bigger - 1;
		}
	}
	if (!x->entries)
		return;
	for (unsigned int i = 0; i < k->nr; i++)
		x->entries[place(x, k->feature[i])] = record;
}

uint32_t cop_sketches_find(const struct cop_sketches *x, const struct cop_sketch *k,
			   unsigned int least)
{
	uint32_t found[COP_SKETCH_FEATURES], best = 0;
	unsigned int nr = 0, best_votes = 0;

	if (!x->entries)
		return 0;
	for (unsigned int i = 0; i < k->nr; i++) {
		uint32_t record = x->entries[place(x, k->feature[i])];
		unsigned int votes = 1;

		if (!record)
			continue;
		for (unsigned int j = 0; j < nr; j++)
			votes += found[j] == record;
		found[nr++] = record;
		if (votes > best_votes) {
			best_votes = votes;
			best = record;
		}
	}
	return best_votes >= least ? best : 0;
}
