/* lz.c - splits a page into literals and copies: see lz.h. */
#include "mem/lz.h"

#define HASHED_BYTES 4

/* Estimated bits: what a literal costs, and what a sequence costs besides its bytes. */
enum { LITERAL_BITS = 6, RECENT1_BITS = 8, RECENT_BITS = 12, ALIGNED_BITS = 17, FAR_BITS = 21 };

struct match {
	int score; /* > 0: worth it */
	unsigned int bytes;
	unsigned int distance;
	unsigned int recent;
};

struct effort {
	unsigned int depth;	  /* links of the chain followed */
	unsigned int dict_stride; /* of the dictionary's positions that are indexed */
	unsigned int lazy_bytes;  /* look one further if the match is shorter */
};

static inline unsigned int hash4(const uint8_t *p)
{
	return cop_load32(p) * 2654435761u >> (32 - COP_LZ_HASH_BITS);
}

static inline unsigned int common_bytes(const uint8_t *a, const uint8_t *b, const uint8_t *end)
{
	const uint8_t *start = b;

	while (b + 8 <= end) {
		uint64_t diff = cop_load64(a) ^ cop_load64(b);

		if (diff)
			return b - start + (__builtin_ctzll(diff) >> 3);
		a += 8;
		b += 8;
	}
	while (b < end && *a == *b) {
		a++;
		b++;
	}
	return b - start;
}

static inline void take_better(struct match *m, unsigned int bytes, unsigned int distance,
			       unsigned int recent, int cost_bits)
{
	int score = (int)bytes * LITERAL_BITS - cost_bits;

	if (score > m->score)
		*m = (struct match){score, bytes, distance, recent};
}

/*
 * The best match at pos, or a score of 0. Most positions have none: so first everything is compared
 * without a branch, and one branch leaves. The index needs no mark for "none": it starts with
 * position 0, which is as good a candidate as any.
 */
static inline __attribute__((always_inline)) struct match
find(const struct cop_lz *lz, const uint8_t *window, unsigned int pos, unsigned int end,
     const uint16_t recent[COP_LZ_NR_DISTANCES], unsigned int depth)
{
	struct match m = {0};
	uint32_t here = cop_load32(window + pos);
	unsigned int at[3], any = 0;

	at[0] = lz->head[hash4(window + pos)];
	at[1] = lz->chain[at[0]];
	at[2] = lz->chain[at[1]];
	for (unsigned int k = 0; k < COP_LZ_NR_DISTANCES; k++) {
		unsigned int back = recent[k] < pos ? recent[k] : pos;

		any |= !((cop_load32(window + pos - back) ^ here) << 8);
	}
	for (unsigned int k = 0; k < 3 && k < depth; k++)
		any |= cop_load32(window + at[k]) == here;
	if (!any && depth <= 3)
		return m;
	for (unsigned int k = 0; k < COP_LZ_NR_DISTANCES; k++) {
		unsigned int bytes;

		if (recent[k] > pos || (cop_load32(window + pos - recent[k]) ^ here) << 8)
			continue;
		bytes = common_bytes(window + pos - recent[k], window + pos, window + end);
		take_better(&m, bytes, recent[k], k + 1, k ? RECENT_BITS : RECENT1_BITS);
	}
	if (m.bytes >= 64)
		return m;
	for (unsigned int c = at[0], k = 0; k < depth; k++, c = lz->chain[c]) {
		unsigned int distance = pos - c, bytes;

		if (cop_load32(window + c) == here && distance) {
			bytes = common_bytes(window + c, window + pos, window + end);
			take_better(&m, bytes, distance, 0, distance & 7 ? FAR_BITS : ALIGNED_BITS);
		}
		if (!c)
			break;
	}
	return m;
}

/* chain: whether anybody will follow it. */
static inline __attribute__((always_inline)) void index_to(struct cop_lz *lz, const uint8_t *window,
							   unsigned int *next, unsigned int to,
							   unsigned int stride, bool chain)
{
	for (; *next < to; *next += stride) {
		unsigned int h = hash4(window + *next);

		if (chain)
			lz->chain[*next] = lz->head[h];
		lz->head[h] = *next;
	}
}

static inline __attribute__((always_inline)) void parse(struct cop_lz *lz, const uint8_t *window,
							unsigned int dict_bytes, struct effort e)
{
	unsigned int end = dict_bytes + COP_PAGE_BYTES, last = end - HASHED_BYTES;
	unsigned int pos = dict_bytes, anchor = pos, next = 0, misses = 0;
	uint16_t recent[COP_LZ_NR_DISTANCES];
	bool chain = e.depth > 1;

	memset(lz->head, 0, sizeof(lz->head));
	lz->chain[0] = 0;
	lz->nr_seqs = lz->dict_copy_bytes = 0;
	lz->nr_literals = COP_PAGE_BYTES;
	cop_lz_first_distances(dict_bytes, recent);
	if (dict_bytes)
		index_to(lz, window, &next, dict_bytes - HASHED_BYTES, e.dict_stride, chain);
	next = dict_bytes;
	while (pos <= last) {
		struct match m = find(lz, window, pos, end, recent, e.depth);

		if (m.score <= 0) {
			unsigned int step = 1 + (misses++ >> 5);

			index_to(lz, window, &next, pos + 1, 1, chain);
			pos += step;
			next = pos;
			continue;
		}
		misses = 0;
		while (m.bytes < e.lazy_bytes && pos < last) {
			struct match later;

			index_to(lz, window, &next, pos + 1, 1, chain);
			later = find(lz, window, pos + 1, end, recent, e.depth);
			if (later.score <= m.score + LITERAL_BITS / 2)
				break;
			m = later;
			pos++;
		}
		while (pos > anchor && pos > m.distance &&
		       window[pos - 1] == window[pos - 1 - m.distance]) {
			pos--;
			m.bytes++;
		}
		lz->seqs[lz->nr_seqs++] = (struct cop_lz_seq){
			.literal_bytes = pos - anchor,
			.copy_bytes = m.bytes,
			.distance = m.distance,
			.recent = m.recent,
		};
		lz->nr_literals -= m.bytes;
		if (m.distance > pos - dict_bytes)
			lz->dict_copy_bytes += m.bytes;
		cop_lz_used_distance(recent, m.distance, m.recent);
		anchor = pos += m.bytes;
		index_to(lz, window, &next, pos <= last ? pos : last + 1, 1, chain);
		next = pos;
	}
}

void cop_lz_parse(struct cop_lz *lz, const uint8_t *window, size_t dict_bytes, int level)
{
	if (level <= 0)
		parse(lz, window, dict_bytes, (struct effort){1, 4, 0});
	else if (level == 1)
		parse(lz, window, dict_bytes, (struct effort){2, 2, 24});
	else
		parse(lz, window, dict_bytes, (struct effort){64, 1, 64});
}
