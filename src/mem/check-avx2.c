/* check-avx2.c - XXH3_64 compiled with AVX2; the build gives this file its own flag. */
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "mem/check.h"
#include "mem/page.h"

uint64_t cop_page_hash_avx2(const uint8_t *page)
{
	return XXH3_64bits(page, COP_PAGE_BYTES);
}
