/*
 * huf.h - Huffman codes with ready-made tables.
 *
 * A page is too small to carry its own code: building a decoding table costs more than decoding 4
 * KiB with it. So a page names one of a bank of tables that stand ready (model.h), and this file
 * only codes and decodes.
 *
 * Codes are canonical (shorter first, then by symbol), at most COP_HUF_MAX_BITS long, complete, and
 * written from each byte's highest bit on, so that a decoder indexes a table with the high bits of
 * its reservoir. Source: D. Huffman 1952; canonical form as in RFC 1951 3.2.2; the pairs of
 * streams that run towards each other, so that two are found without a length, as in F. Giesen's
 * description of Oodle.
 */
#ifndef COP_MEM_HUF_H
#define COP_MEM_HUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define COP_HUF_MAX_BITS 11
#define COP_HUF_SYMBOLS	 256
#define COP_HUF_ENTRIES	 (1u << COP_HUF_MAX_BITS)

#define COP_HUF_MAX_COUNT 4096u /* symbols of a section */

/* Bytes a decoder may read beyond either end of a section: no more than so many symbols of the
 * longest code, and a word. */
#define COP_HUF_SLACK (COP_HUF_MAX_COUNT * COP_HUF_MAX_BITS / 8 + 16)

struct cop_huf {
	uint16_t dec[COP_HUF_ENTRIES]; /* symbol << 8 | bits */
	uint16_t code[COP_HUF_SYMBOLS];
	uint8_t bits[COP_HUF_SYMBOLS]; /* 1..COP_HUF_MAX_BITS; 0 = symbol has no code */
};

/*
 * Builds the tables of the canonical code with the given lengths. nr_symbols <= 256.
 * 0, or -EINVAL if the lengths aren't a complete prefix code (h is then undefined).
 */
int cop_huf_build(struct cop_huf *h, const uint8_t *bits, unsigned int nr_symbols);

/*
 * Code lengths for symbols that occur count[i] times; every symbol gets a code, those that never
 * occur too. The result is complete and within COP_HUF_MAX_BITS. For training only: not fast.
 */
void cop_huf_lengths(const uint32_t *count, unsigned int nr_symbols, uint8_t *ret_bits);

/*
 * Codes src[0..n) as one stream. dst has room for n * COP_HUF_MAX_BITS / 8 + 8 bytes. Returns the
 * stream's bytes. With `backward` the bytes come out in reverse order, to be read from the end.
 */
size_t cop_huf_encode(const struct cop_huf *h, const uint8_t *src, size_t n, bool backward,
		      uint8_t *dst);

/* n symbols as two streams that run towards each other: the first half, rounded up, forward from
 * the start; the rest backward from the end. */
size_t cop_huf_encode_pair(const struct cop_huf *h, const uint8_t *src, size_t n, uint8_t *dst);

/*
 * Decodes such a section. COP_HUF_SLACK bytes before and after it must be readable; they may hold
 * anything. n <= COP_HUF_MAX_COUNT. 0, or -EBADMSG if the streams don't fill the section exactly.
 */
int cop_huf_decode_pair(const struct cop_huf *h, uint8_t *dst, size_t n, const uint8_t *section,
			size_t len_bytes);

/* One of cop_huf_decode_mixed()'s sections. */
struct cop_huf_part {
	const struct cop_huf *h;
	uint8_t *dst;
	size_t n;
	const uint8_t *section;
	size_t len_bytes;
};

/*
 * Decodes two pairs, and a single stream that runs backward from the end of `single`'s section, all
 * side by side: each alone would wait for its own bits. The single stream may be shorter than its
 * section: *ret_single_bytes is what it took, at most len_bytes.
 */
int cop_huf_decode_mixed(const struct cop_huf_part *p, const struct cop_huf_part *q,
			 const struct cop_huf_part *single, size_t *ret_single_bytes);

/* Symbols in the first of two pairs that hold n. */
static inline size_t cop_huf_half(size_t n)
{
	return (n + 3) / 4 * 2;
}

/* Two pairs that follow each other, all with one table, decoded at once. mid_bytes is the first
 * one's size. n >= 8. */
int cop_huf_decode4(const struct cop_huf *h, uint8_t *dst, size_t n, const uint8_t *section,
		    size_t mid_bytes, size_t len_bytes);

#endif
