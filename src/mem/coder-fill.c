/* coder-fill.c - a page that repeats one 8-byte word: allocator poison, a cleared screen, all ones.
 * 8 bytes: the word. */
#include <errno.h>

#include "mem/coder.h"

size_t cop_fill_encode(struct cop_encoder *e, const uint8_t *page, const uint8_t *dict, int level,
		       uint8_t *dst)
{
	if (memcmp(page, page + 8, COP_PAGE_BYTES - 8))
		return 0;
	memcpy(dst, page, 8);
	return 8;
}

int cop_fill_decode(struct cop_decoder *d, const uint8_t *payload, size_t len_bytes,
		    const uint8_t *dict)
{
	uint8_t *page = cop_decoder_page(d);

	if (len_bytes != 8)
		return -EBADMSG;
	for (unsigned int i = 0; i < COP_PAGE_BYTES; i += 8)
		memcpy(page + i, payload, 8);
	return 0;
}
