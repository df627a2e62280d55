/*
 * coder-patch.c - the words in which a page differs from the template's.
 *
 * Data: for each 8-byte word that differs, in order: gap (u8: words that are equal before it; 255 =
 * 255 equal words and no changed one, another gap follows), mask (u8: bit i = byte i differs; not
 * 0), then the bytes that the mask names. Words after the last changed one are equal. Only offered
 * while it is short: then it is both small and fast, as on the pages of an idle clone.
 */
#include <errno.h>

#include "mem/coder.h"

#define PATCH_MAX_BYTES 512

size_t cop_patch_encode(struct cop_encoder *e, const uint8_t *page, const uint8_t *dict, int level,
			uint8_t *dst)
{
	size_t n = 0, len_bytes = 0;
	unsigned int gap = 0;

	for (unsigned int i = 0; i < COP_PAGE_WORDS; i++) {
		uint64_t diff = cop_load64(page + 8 * i) ^ cop_load64(dict + 8 * i);
		unsigned int mask = 0;
		size_t at;

		if (!diff) {
			if (++gap == 255) {
				dst[n++] = 255;
				gap = 0;
			}
			continue;
		}
		if (n > PATCH_MAX_BYTES - 10)
			return 0;
		dst[n++] = gap;
		gap = 0;
		at = n++;
		for (unsigned int b = 0; b < 8; b++) {
			if (diff >> 8 * b & 255) {
				mask |= 1u << b;
				dst[n++] = page[8 * i + b];
			}
		}
		dst[at] = mask;
		len_bytes = n;
	}
	return len_bytes;
}

int cop_patch_decode(struct cop_decoder *d, const uint8_t *payload, size_t len_bytes,
		     const uint8_t *dict)
{
	uint8_t *page = cop_decoder_page(d);
	const uint8_t *p = payload, *end = payload + len_bytes;
	unsigned int word = 0;

	memcpy(page, dict, COP_PAGE_BYTES);
	while (p < end) {
		unsigned int gap = *p++, mask;

		word += gap;
		if (gap == 255)
			continue;
		if (p == end || word >= COP_PAGE_WORDS)
			return -EBADMSG;
		mask = *p++;
		if (!mask || end - p < __builtin_popcount(mask))
			return -EBADMSG;
		for (; mask; mask &= mask - 1)
			page[8 * word + __builtin_ctz(mask)] = *p++;
		word++;
	}
	return 0;
}
