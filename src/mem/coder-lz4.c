/* coder-lz4.c - an LZ4 block with the template's page as dictionary. */
#include <errno.h>
#include <lz4.h>

#include "mem/coder.h"

size_t cop_lz4_encode(struct cop_encoder *e, const uint8_t *page, const uint8_t *dict, int level,
		      uint8_t *dst)
{
	int n;

	LZ4_resetStream_fast(e->lz4);
	LZ4_loadDict(e->lz4, (const char *)dict, COP_PAGE_BYTES);
	n = LZ4_compress_fast_continue(e->lz4, (const char *)page, (char *)dst, COP_PAGE_BYTES,
				       COP_PAYLOAD_MAX - 1, 1);
	return n > 0 ? n : 0;
}

int cop_lz4_decode(struct cop_decoder *d, const uint8_t *payload, size_t len_bytes,
		   const uint8_t *dict)
{
	int n = LZ4_decompress_safe_usingDict((const char *)payload, (char *)cop_decoder_page(d),
					      len_bytes, COP_PAGE_BYTES, (const char *)dict,
					      COP_PAGE_BYTES);

	return n == (int)COP_PAGE_BYTES ? 0 : -EBADMSG;
}
