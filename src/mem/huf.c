/* huf.c - Huffman codes with ready-made tables: see huf.h. */
#include <errno.h>
#include <stdbool.h>

#include "mem/huf.h"
#include "mem/page.h"

static unsigned int reverse_bits(unsigned int v, unsigned int n)
{
	unsigned int r = 0;

	for (unsigned int i = 0; i < n; i++)
		r |= (v >> i & 1) << (n - 1 - i);
	return r;
}

int cop_huf_build(struct cop_huf *h, const uint8_t *bits, unsigned int nr_symbols)
{
	unsigned int count[COP_HUF_MAX_BITS + 1] = { 0 }, next[COP_HUF_MAX_BITS + 2] = { 0 };
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
		h->code[s] = reverse_bits(next[n]++, n);
		for (unsigned int i = h->code[s]; i < COP_HUF_ENTRIES; i += 1u << n)
			h->dec[i] = s << 4 | n;
	}
	return 0;
}

void cop_huf_lengths(const uint32_t *count, unsigned int nr_symbols, uint8_t *ret_bits)
{
	/* Twice the occurrences plus one, so that what never occurs is still codable; two-queue Huffman by selection. */
	uint64_t weight[2 * COP_HUF_SYMBOLS];
	uint16_t parent[2 * COP_HUF_SYMBOLS] = { 0 };
	bool used[2 * COP_HUF_SYMBOLS] = { false };
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
	/* Too full after clipping: lengthen, each time, the code where it costs least per unit of room it frees. */
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
	/* Room left: shorten where it gains most, until complete. A unit of room always fits a longest code. */
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

size_t cop_huf_encode(const struct cop_huf *h, const uint8_t *src, size_t n, bool backward,
		      uint8_t *dst)
{
	uint64_t acc = 0;
	unsigned int fill = 0;
	uint8_t *p = dst;

	for (size_t i = 0; i < n; i++) {
		acc |= (uint64_t)h->code[src[i]] << fill;
		fill += h->bits[src[i]];
		if (fill >= 48) {
			cop_store64(p, acc);
			p += 6;
			acc >>= 48;
			fill -= 48;
		}
	}
	cop_store64(p, acc);
	p += (fill + 7) / 8;
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
 * A reservoir of 56..63 bits. Reading on past the section's end is harmless (COP_HUF_SLACK) and found afterwards, because
 * what was read is counted exactly: the bytes taken in, less the whole bytes still unused.
 */
struct reader {
	uint64_t acc;
	const uint8_t *p;
	unsigned int fill;
};

static inline void refill_forward(struct reader *r)
{
	r->acc |= cop_load64(r->p) << r->fill;
	r->p += (63 - r->fill) >> 3;
	r->fill |= 56;
}

static inline void refill_backward(struct reader *r)
{
	r->acc |= __builtin_bswap64(cop_load64(r->p - 8)) << r->fill;
	r->p -= (63 - r->fill) >> 3;
	r->fill |= 56;
}

static inline uint8_t take(struct reader *r, const struct cop_huf *h)
{
	unsigned int e = h->dec[r->acc & (COP_HUF_ENTRIES - 1)];

	r->acc >>= e & 15;
	r->fill -= e & 15;
	return e >> 4;
}

static inline size_t used_forward(const struct reader *r, const uint8_t *start)
{
	return r->p - start - (r->fill >> 3);
}

static inline size_t used_backward(const struct reader *r, const uint8_t *end)
{
	return end - r->p - (r->fill >> 3);
}

#define PER_REFILL (56 / COP_HUF_MAX_BITS)

int cop_huf_decode2(const struct cop_huf *ha, uint8_t *a, size_t na, const struct cop_huf *hb,
		    uint8_t *b, size_t nb, const uint8_t *section, size_t len_bytes)
{
	const uint8_t *end = section + len_bytes;
	struct reader ra = { .p = section }, rb = { .p = end };
	size_t both = na < nb ? na : nb, i = 0;

	for (; i + PER_REFILL <= both; i += PER_REFILL) {
		refill_forward(&ra);
		refill_backward(&rb);
		for (unsigned int k = 0; k < PER_REFILL; k++) {
			a[i + k] = take(&ra, ha);
			b[i + k] = take(&rb, hb);
		}
	}
	for (size_t j = i; j < na;) {
		refill_forward(&ra);
		for (unsigned int k = 0; k < PER_REFILL && j < na; k++)
			a[j++] = take(&ra, ha);
	}
	for (size_t j = i; j < nb;) {
		refill_backward(&rb);
		for (unsigned int k = 0; k < PER_REFILL && j < nb; k++)
			b[j++] = take(&rb, hb);
	}
	if (used_forward(&ra, section) + used_backward(&rb, end) != len_bytes)
		return -EBADMSG;
	return 0;
}

int cop_huf_decode4(const struct cop_huf *h, uint8_t *dst, size_t n, const uint8_t *section,
		    size_t mid_bytes, size_t len_bytes)
{
	const uint8_t *mid = section + mid_bytes, *end = section + len_bytes;
	struct reader r0 = { .p = section }, r1 = { .p = mid }, r2 = { .p = mid }, r3 = { .p = end };
	size_t q = (n + 3) / 4, last = n - 3 * q, i = 0;
	uint8_t *d0 = dst, *d1 = d0 + q, *d2 = d1 + q, *d3 = d2 + q;

	if (n < 16 || mid_bytes > len_bytes)
		return -EBADMSG;
	for (; i + PER_REFILL <= last; i += PER_REFILL) {
		refill_forward(&r0);
		refill_backward(&r1);
		refill_forward(&r2);
		refill_backward(&r3);
		for (unsigned int k = 0; k < PER_REFILL; k++) {
			d0[i + k] = take(&r0, h);
			d1[i + k] = take(&r1, h);
			d2[i + k] = take(&r2, h);
			d3[i + k] = take(&r3, h);
		}
	}
	for (; i < q; i++) {
		refill_forward(&r0);
		refill_backward(&r1);
		refill_forward(&r2);
		refill_backward(&r3);
		d0[i] = take(&r0, h);
		d1[i] = take(&r1, h);
		d2[i] = take(&r2, h);
		if (i < last)
			d3[i] = take(&r3, h);
	}
	if (used_forward(&r0, section) + used_backward(&r1, mid) != mid_bytes ||
	    used_forward(&r2, mid) + used_backward(&r3, end) != len_bytes - mid_bytes)
		return -EBADMSG;
	return 0;
}
