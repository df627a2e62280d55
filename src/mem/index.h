/*
 * index.h - finds records by their page: equal ones by hash, similar ones by sketch. In ordinary
 * memory, rebuilt at open.
 *
 * Both give candidates only: whoever asks compares. Neither knows records: hashes are handed in,
 * with a function to look one up again.
 */
#ifndef COP_MEM_INDEX_H
#define COP_MEM_INDEX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Open addressing, linear probing; an entry is record | 4 bits of its hash << 28. At most 3/4 full.
 */
struct cop_index {
	uint32_t *entries;
	uint32_t mask; /* room - 1; 0 with entries NULL */
	uint32_t used;
};

typedef uint64_t cop_index_hash_fn(const void *ctx, uint32_t record);

void cop_index_done(struct cop_index *x);
/* Makes room for one more. 0 or -ENOMEM. hash gives the hash of a record already in the index. */
int cop_index_prepare(struct cop_index *x, cop_index_hash_fn *hash, const void *ctx);
/* After cop_index_prepare(). */
void cop_index_add(struct cop_index *x, uint64_t hash, uint32_t record);
void cop_index_remove(struct cop_index *x, uint64_t hash, uint32_t record,
		      cop_index_hash_fn *hash_of, const void *ctx);
/* Next record that may have this hash: start with *cursor = 0; 0 when there is none. */
uint32_t cop_index_find(const struct cop_index *x, uint64_t hash, uint32_t *cursor);

/*
 * A sketch of a page: the smallest hashes of its distinct 8-byte words at aligned places. Pages
 * that share words share some of these, wherever the words stand. Source: A. Broder 1997 (min-wise
 * sampling); Gupta et al. 2008 (Difference Engine).
 */
#define COP_SKETCH_FEATURES 8

struct cop_sketch {
	uint32_t feature[COP_SKETCH_FEATURES];
	unsigned int nr;
};

void cop_sketch_make(const uint8_t *page, struct cop_sketch *ret);

/* Direct-mapped: the newest record with a feature wins its place; entries may be stale. */
struct cop_sketches {
	uint32_t *entries;
	uint32_t mask;
};

void cop_sketches_done(struct cop_sketches *x);
/* nr_records: that the index is to serve, decides its room. Never fails: without memory it doesn't
 * grow. */
void cop_sketches_add(struct cop_sketches *x, const struct cop_sketch *k, uint32_t record,
		      uint64_t nr_records);
/* The record that shares most features, at least `least`; 0: none. */
uint32_t cop_sketches_find(const struct cop_sketches *x, const struct cop_sketch *k,
			   unsigned int least);

#endif
