/* huf.c - Huffman codes with ready-made tables: see huf.h. */
#include <assert.h>
#include <errno.h>
#include <stdbool.h>

#include "mem/huf.h"
#include "mem/page.h"

int cop_huf_build(struct cop_huf *h, const uint8_t *bits, unsigned int nr_symbols)
{
	unsigned int count[COP_HUF_MAX_BITS + 1] = {0}, next[COP_HUF_MAX_BITS + 2] = {0};
	unsigned int code = 0, kraft = 0;

	if (nr_symbols > COP_HUF_SYMBOLS)
		return -EINVAL;
	for (unsigned int s = 0; s < nr_symbols; s++) {
		if (bits[s] > COP_HUF_MAX_BITS)
			return -EINVAL;
		if (bits[s]) {
			count[bits[s]]++;
			kraft += COP_HUF_ENTRIES >> bits[s];
		}
	}
	if (kraft != COP_HUF_ENTRIES)
		return -EINVAL;
	for (unsigned int n = 1; n <= COP_HUF_MAX_BITS; n++) {
		next[n] = code;
		code = (code + count[n]) << 1;
	}
	memset(h->bits, 0, sizeof(h->bits));
	memset(h->code, 0, sizeof(h->code));
	for (unsigned int s = 0; s < nr_symbols; s++) {
		unsigned int n = bits[s];

		if (!n)
			continue;
		h->bits[s] = n;
		h->code[s] = next[n]++;
		for (unsigned int i = 0; i < COP_HUF_ENTRIES >> n; i++)
			h->dec[(h->code[s] << (COP_HUF_MAX_BITS - n)) + i] = s << 8 | n;
	}
	return 0;
}

void cop_huf_lengths(const uint32_t *count, unsigned int nr_symbols, uint8_t *ret_bits)
{
	/* Twice the occurrences plus one, so that what never occurs is still codable; two-queue
	 * Huffman by selection. */
	uint64_t weight[2 * COP_HUF_SYMBOLS];
	uint16_t parent[2 * COP_HUF_SYMBOLS] = {0};
	bool used[2 * COP_HUF_SYMBOLS] = {false};
	unsigned int n = nr_symbols, kraft = 0;

	for (unsigned int s = 0; s < n; s++)
		weight[s] = 2 * (uint64_t)count[s] + 1;
	for (unsigned int m = n; m < 2 * nr_symbols - 1; m++) {
		unsigned int low[2];

		for (unsigned int k = 0; k < 2; k++) {
			unsigned int best = UINT32_MAX;

			for (unsigned int i = 0; i < m; i++) {
				if (!used[i] && (best == UINT32_MAX || weight[i] < weight[best]))
					best = i;
			}
			used[best] = true;
			low[k] = best;
			parent[best] = m;
		}
		weight[m] = weight[low[0]] + weight[low[1]];
	}
	for (unsigned int s = 0; s < n; s++) {
		unsigned int depth = 0;

		for (unsigned int i = s; i != 2 * nr_symbols - 2; i = parent[i])
			depth++;
		ret_bits[s] = depth > COP_HUF_MAX_BITS ? COP_HUF_MAX_BITS : depth;
		kraft += COP_HUF_ENTRIES >> ret_bits[s];
	}
	/* Too full after clipping: lengthen, each time, the code where it costs least per unit of
	 * room it frees. */
	while (kraft > COP_HUF_ENTRIES) {
		unsigned int best = UINT32_MAX;
		double best_cost = 0;

		for (unsigned int s = 0; s < n; s++) {
			double cost;

			if (ret_bits[s] >= COP_HUF_MAX_BITS)
				continue;
			cost = (double)weight[s] / (COP_HUF_ENTRIES >> (ret_bits[s] + 1));
			if (best == UINT32_MAX || cost < best_cost) {
				best = s;
				best_cost = cost;
			}
		}
		ret_bits[best]++;
		kraft -= COP_HUF_ENTRIES >> ret_bits[best];
	}
	/* Room left: shorten where it gains most, until complete. A unit of room always fits a
	 * longest code. */
	while (kraft < COP_HUF_ENTRIES) {
		unsigned int best = UINT32_MAX;

		for (unsigned int s = 0; s < n; s++) {
			if (COP_HUF_ENTRIES >> ret_bits[s] > COP_HUF_ENTRIES - kraft)
				continue;
			if (best == UINT32_MAX || weight[s] > weight[best])
				best = s;
		}
		kraft += COP_HUF_ENTRIES >> ret_bits[best];
		ret_bits[best]--;
	}
}

#define PER_WRITE ((64 - 7) / COP_HUF_MAX_BITS)

size_t cop_huf_encode(const struct cop_huf *h, const uint8_t *src, size_t n, bool backward,
		      uint8_t *dst)
{
	uint64_t acc = 0; /* the lowest `fill` bits are yet unwritten */
	unsigned int fill = 0;
	uint8_t *p = dst;
	size_t i = 0;

	/* Bytes are written after so many symbols as surely fit, whether there are more or less of
	 * them: a question after each would be guessed wrong too often. */
	for (; i + PER_WRITE <= n; i += PER_WRITE) {
		for (size_t k = i; k < i + PER_WRITE; k++) {
			acc = acc << h->bits[src[k]] | h->code[src[k]];
			fill += h->bits[src[k]];
		}
		cop_store64(p, __builtin_bswap64(acc << (64 - fill)));
		p += fill >> 3;
		fill &= 7;
	}
	for (; i < n; i++) {
		acc = acc << h->bits[src[i]] | h->code[src[i]];
		fill += h->bits[src[i]];
	}
	if (fill) {
		cop_store64(p, __builtin_bswap64(acc << (64 - fill)));
		p += (fill + 7) / 8;
	}
	if (backward) {
		for (uint8_t *a = dst, *b = p - 1; a < b; a++, b--) {
			uint8_t t = *a;

			*a = *b;
			*b = t;
		}
	}
	return p - dst;
}

/*
 * The next bits, from the highest, and behind the last of them a 1: so that nothing but shifting is
 * to be done for a symbol, and the place of that 1 says how many bits were used. After a refill
 * there are 56 at least. p: the section's bytes that `acc` starts in. Reading on past the section's
 * end is harmless (COP_HUF_SLACK) and found afterwards, because what was used is known exactly.
 */
struct reader {
	uint64_t acc;
	const uint8_t *p;
};

static inline void refill_forward(struct reader *r)
{
	unsigned int used = __builtin_ctzll(r->acc);

	r->p += used >> 3;
	r->acc = (__builtin_bswap64(cop_load64(r->p)) | 1) << (used & 7);
}

static inline void refill_backward(struct reader *r)
{
	unsigned int used = __builtin_ctzll(r->acc);

	r->p -= used >> 3;
	r->acc = (cop_load64(r->p - 8) | 1) << (used & 7);
}

static inline uint8_t take(struct reader *r, const struct cop_huf *h)
{
	unsigned int e = h->dec[r->acc >> (64 - COP_HUF_MAX_BITS)];

	r->acc <<= e & 63;
	return e >> 8;
}

static inline size_t used_forward(const struct reader *r, const uint8_t *start)
{
	return r->p - start + (__builtin_ctzll(r->acc) + 7) / 8;
}

static inline size_t used_backward(const struct reader *r, const uint8_t *end)
{
	return end - r->p + (__builtin_ctzll(r->acc) + 7) / 8;
}

#define PER_REFILL (56 / COP_HUF_MAX_BITS)

size_t cop_huf_encode_pair(const struct cop_huf *h, const uint8_t *src, size_t n, uint8_t *dst)
{
	size_t half = (n + 1) / 2, bytes = cop_huf_encode(h, src, half, false, dst);

	return bytes + cop_huf_encode(h, src + half, n - half, true, dst + bytes);
}

/* A pair's readers, and how far its halves are: both are at symbol i, the first has na, the second
 * nb, nb <= na <= nb + 1. */
struct pair {
	struct reader a, b;
	uint8_t *da, *db;
	size_t i, na, nb;
};

static inline struct pair pair_begin(uint8_t *dst, size_t n, const uint8_t *section,
				     size_t len_bytes)
{
	size_t na = (n + 1) / 2;

	return (struct pair){
		.a = {1, section},
		.b = {1, section + len_bytes},
		.da = dst,
		.db = dst + na,
		.na = na,
		.nb = n - na,
	};
}

static inline bool pair_more(const struct pair *p)
{
	return p->i + PER_REFILL <= p->nb;
}

static inline void pair_refill(struct pair *p)
{
	refill_forward(&p->a);
	refill_backward(&p->b);
}

static inline void pair_take(struct pair *p, const struct cop_huf *h)
{
	p->da[p->i] = take(&p->a, h);
	p->db[p->i] = take(&p->b, h);
	p->i++;
}

/* The last few symbols. */
static inline int pair_end(struct pair *p, const struct cop_huf *h, const uint8_t *section,
			   size_t len_bytes)
{
	pair_refill(p);
	while (p->i < p->nb)
		pair_take(p, h);
	if (p->i < p->na) {
		refill_forward(&p->a);
		p->da[p->i] = take(&p->a, h);
	}
	if (used_forward(&p->a, section) + used_backward(&p->b, section + len_bytes) != len_bytes)
		return -EBADMSG;
	return 0;
}

int cop_huf_decode_pair(const struct cop_huf *h, uint8_t *dst, size_t n, const uint8_t *section,
			size_t len_bytes)
{
	struct pair p = pair_begin(dst, n, section, len_bytes);

	assert(n <= COP_HUF_MAX_COUNT);
	while (pair_more(&p)) {
		pair_refill(&p);
		for (unsigned int k = 0; k < PER_REFILL; k++)
			pair_take(&p, h);
	}
	return pair_end(&p, h, section, len_bytes);
}

int cop_huf_decode_mixed(const struct cop_huf_part *p, const struct cop_huf_part *q,
			 const struct cop_huf_part *single, size_t *ret_single_bytes)
{
	const uint8_t *single_end = single->section + single->len_bytes;
	struct pair x = pair_begin(p->dst, p->n, p->section, p->len_bytes);
	struct pair y = pair_begin(q->dst, q->n, q->section, q->len_bytes);
	struct reader z = {1, single_end};
	/* In locals: a byte stored through dst might, for all the compiler knows, change what the
	 * parts point to. */
	const struct cop_huf *hx = p->h, *hy = q->h, *hz = single->h;
	uint8_t *dz = single->dst;
	size_t i = 0, nz = single->n;

	assert(p->n <= COP_HUF_MAX_COUNT && q->n <= COP_HUF_MAX_COUNT && nz <= COP_HUF_MAX_COUNT);
	while (pair_more(&x) && pair_more(&y)) {
		pair_refill(&x);
		pair_refill(&y);
		for (unsigned int k = 0; k < PER_REFILL; k++) {
			pair_take(&x, hx);
			pair_take(&y, hy);
		}
	}
	while (pair_more(&x) && i + PER_REFILL <= nz) {
		pair_refill(&x);
		refill_backward(&z);
		for (unsigned int k = 0; k < PER_REFILL; k++) {
			pair_take(&x, hx);
			dz[i++] = take(&z, hz);
		}
	}
	while (pair_more(&x)) {
		pair_refill(&x);
		for (unsigned int k = 0; k < PER_REFILL; k++)
			pair_take(&x, hx);
	}
	while (pair_more(&y)) {
		pair_refill(&y);
		for (unsigned int k = 0; k < PER_REFILL; k++)
			pair_take(&y, hy);
	}
	while (i < nz) {
		refill_backward(&z);
		for (unsigned int k = 0; k < PER_REFILL && i < nz; k++)
			dz[i++] = take(&z, hz);
	}
	*ret_single_bytes = used_backward(&z, single_end);
	if (pair_end(&x, hx, p->section, p->len_bytes) ||
	    pair_end(&y, hy, q->section, q->len_bytes) || *ret_single_bytes > single->len_bytes)
		return -EBADMSG;
	return 0;
}

int cop_huf_decode4(const struct cop_huf *h, uint8_t *dst, size_t n, const uint8_t *section,
		    size_t mid_bytes, size_t len_bytes)
{
	const uint8_t *mid = section + mid_bytes;
	size_t half = cop_huf_half(n);
	struct pair x, y;

	assert(n <= COP_HUF_MAX_COUNT);
	if (mid_bytes > len_bytes)
		return -EBADMSG;
	x = pair_begin(dst, half, section, mid_bytes);
	y = pair_begin(dst + half, n - half, mid, len_bytes - mid_bytes);
	while (pair_more(&x) && pair_more(&y)) {
		pair_refill(&x);
		pair_refill(&y);
		for (unsigned int k = 0; k < PER_REFILL; k++) {
			pair_take(&x, h);
			pair_take(&y, h);
		}
	}
	while (pair_more(&x)) {
		pair_refill(&x);
		for (unsigned int k = 0; k < PER_REFILL; k++)
			pair_take(&x, h);
	}
	if (pair_end(&x, h, section, mid_bytes) || pair_end(&y, h, mid, len_bytes - mid_bytes))
		return -EBADMSG;
	return 0;
}
