/*
 * lz.h - splits a page into literals and copies from what came before it (LZ77), for the plz coder.
 *
 * The window is the dictionary (nothing, the template's page, or a page like this one), followed by
 * the page. Memory is made of words and records: so the distance used last (the page's stride, or
 * "the same place in the dictionary") is tried first everywhere and cheap to code, and distances
 * divisible by 8 are cheaper than others. Scores are estimates in bits. Source: Ziv & Lempel 1977;
 * repeated distances as in LZX/LZMA; lazy choice and hash chains as in zlib.
 */
#ifndef COP_MEM_LZ_H
#define COP_MEM_LZ_H

#include <stddef.h>
#include <stdint.h>

#include "mem/page.h"

#define COP_LZ_MIN_MATCH    3
#define COP_LZ_MAX_SEQS	    (COP_PAGE_BYTES / COP_LZ_MIN_MATCH + 1)
#define COP_LZ_MAX_DICT	    COP_PAGE_BYTES
#define COP_LZ_WINDOW	    (COP_LZ_MAX_DICT + COP_PAGE_BYTES)
#define COP_LZ_HASH_BITS    12
#define COP_LZ_NR_DISTANCES 3

/* Copy `copy_bytes` from `distance` bytes back, after `literal_bytes` literals. */
struct cop_lz_seq {
	uint16_t literal_bytes;
	uint16_t copy_bytes; /* >= COP_LZ_MIN_MATCH */
	uint16_t distance;   /* 1..bytes before this point, dictionary included */
	uint8_t recent; /* 0: a new distance; k: the k-th most recent one, 1..COP_LZ_NR_DISTANCES */
};

struct cop_lz {
	uint16_t head[1u << COP_LZ_HASH_BITS];
	uint16_t chain[COP_LZ_WINDOW];
	struct cop_lz_seq seqs[COP_LZ_MAX_SEQS];
	unsigned int nr_seqs;
	unsigned int nr_literals;     /* those after the last copy too */
	unsigned int dict_copy_bytes; /* copied from the dictionary */
};

/* The distances that both sides start with. */
static inline void cop_lz_first_distances(size_t dict_bytes, uint16_t d[COP_LZ_NR_DISTANCES])
{
	d[0] = dict_bytes ? dict_bytes : 8;
	d[1] = dict_bytes ? 8 : 16;
	d[2] = dict_bytes ? 16 : 32;
}

/* Moves the distance used to the front. `recent` as in struct cop_lz_seq. */
static inline void cop_lz_used_distance(uint16_t d[COP_LZ_NR_DISTANCES], uint16_t distance,
					unsigned int recent)
{
	if (recent == 1)
		return;
	if (recent != 2)
		d[2] = d[1];
	d[1] = d[0];
	d[0] = distance;
}

/*
 * Fills lz with the split of window[dict_bytes .. dict_bytes + 4096). dict_bytes is 0 or 4096.
 * level: 0 fast, 1 usual, 2 thorough. Never fails; a page without repetitions gives no sequence.
 */
void cop_lz_parse(struct cop_lz *lz, const uint8_t *window, size_t dict_bytes, int level);

#endif
