/*
 * coder-zstd.c - a zstd frame without magic number or content size, with the template's page as
 * dictionary.
 *
 * ZSTD_DCtx_refPrefix() allocates, so decoding uses ZSTD_decompress_usingDict(), which takes the
 * page as plain content unless it starts with zstd's dictionary magic: such a template page isn't
 * used.
 */
#define ZSTD_STATIC_LINKING_ONLY
#include <errno.h>
#include <zstd.h>

#include "mem/coder.h"

size_t cop_zstd_encode(struct cop_encoder *e, const uint8_t *page, const uint8_t *dict, int level,
		       uint8_t *dst)
{
	size_t n;

	if (cop_load32(dict) == ZSTD_MAGIC_DICTIONARY)
		return 0;
	(void)ZSTD_CCtx_reset(e->zstd,
			      ZSTD_reset_session_and_parameters); /* can't fail: no frame is open */
	if (ZSTD_isError(
		    ZSTD_CCtx_setParameter(e->zstd, ZSTD_c_compressionLevel, level >= 2 ? 9 : 1)) ||
	    ZSTD_isError(ZSTD_CCtx_setParameter(e->zstd, ZSTD_c_format, ZSTD_f_zstd1_magicless)) ||
	    ZSTD_isError(ZSTD_CCtx_setParameter(e->zstd, ZSTD_c_contentSizeFlag, 0)) ||
	    ZSTD_isError(ZSTD_CCtx_refPrefix(e->zstd, dict, COP_PAGE_BYTES)))
		return 0;
	n = ZSTD_compress2(e->zstd, dst, COP_PAYLOAD_MAX - 1, page, COP_PAGE_BYTES);
	return ZSTD_isError(n) ? 0 : n;
}

int cop_zstd_decode(struct cop_decoder *d, const uint8_t *payload, size_t len_bytes,
		    const uint8_t *dict)
{
	size_t n = ZSTD_decompress_usingDict(d->zstd, cop_decoder_page(d), COP_PAGE_BYTES, payload,
					     len_bytes, dict, COP_PAGE_BYTES);

	return n == COP_PAGE_BYTES ? 0 : -EBADMSG;
}
