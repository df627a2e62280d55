/* page.h - what every part of the memory engine agrees on about a page, and unaligned loads. */
#ifndef COP_MEM_PAGE_H
#define COP_MEM_PAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define COP_PAGE_BYTES 4096u
#define COP_PAGE_WORDS (COP_PAGE_BYTES / 8)

static inline uint64_t cop_load64(const uint8_t *p)
{
	uint64_t v;

	memcpy(&v, p, sizeof(v));
	return v;
}

static inline uint32_t cop_load32(const uint8_t *p)
{
	uint32_t v;

	memcpy(&v, p, sizeof(v));
	return v;
}

static inline void cop_store64(uint8_t *p, uint64_t v)
{
	memcpy(p, &v, sizeof(v));
}

static inline void cop_store32(uint8_t *p, uint32_t v)
{
	memcpy(p, &v, sizeof(v));
}

/* True if all of the page's bytes are zero. Leaves at the first 64 bytes that are not. */
static inline bool cop_page_is_zero(const uint8_t *page)
{
	for (unsigned int i = 0; i < COP_PAGE_BYTES; i += 64) {
		uint64_t any = 0;

		for (unsigned int j = 0; j < 64; j += 8)
			any |= cop_load64(page + i + j);
		if (any)
			return false;
	}
	return true;
}

static inline bool cop_page_equal(const uint8_t *a, const uint8_t *b)
{
	return memcmp(a, b, COP_PAGE_BYTES) == 0;
}

#endif
