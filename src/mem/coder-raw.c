/* coder-raw.c - the page as it is: 4096 bytes. For what no other coder makes smaller. */
#include <errno.h>

#include "mem/coder.h"

size_t cop_raw_encode(struct cop_encoder *e, const uint8_t *page, const uint8_t *dict, int level,
		      uint8_t *dst)
{
	memcpy(dst, page, COP_PAGE_BYTES);
	return COP_PAGE_BYTES;
}

int cop_raw_decode(struct cop_decoder *d, const uint8_t *payload, size_t len_bytes,
		   const uint8_t *dict)
{
	if (len_bytes != COP_PAGE_BYTES)
		return -EBADMSG;
	memcpy(cop_decoder_page(d), payload, COP_PAGE_BYTES);
	return 0;
}
