/* check.c - the checksum of a page: see check.h. */
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "mem/check.h"
#include "mem/page.h"

uint64_t cop_check(const uint8_t *bytes, size_t len_bytes)
{
	return XXH3_64bits(bytes, len_bytes);
}

uint64_t cop_page_check(const uint8_t *page, unsigned int domain)
{
	uint64_t mix = domain * 0x9e3779b97f4a7c15ull;

#ifdef __x86_64__
	if (__builtin_cpu_supports("avx2"))
		return cop_page_hash_avx2(page) ^ mix;
#endif
	return XXH3_64bits(page, COP_PAGE_BYTES) ^ mix;
}
