/*
 * fuzz-roundtrip.c - any bytes as a page: what a coder accepts, it gives back.
 *
 * Input: up to 4096 bytes of page, then up to 4096 bytes of dictionary; both are padded by
 * repeating themselves.
 */
#include <stdint.h>
#include <stdlib.h>

#include "mem/coder.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void fill(uint8_t *page, const uint8_t *data, size_t len)
{
	for (size_t i = 0; i < COP_PAGE_BYTES; i++)
		page[i] = len ? data[i % len] : 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	static struct cop_model *model;
	static struct cop_encoder *e;
	static struct cop_decoder *d;
	static uint8_t page[COP_PAGE_BYTES], dict[COP_PAGE_BYTES], payload[COP_PAYLOAD_MAX];
	size_t cut = len > COP_PAGE_BYTES ? COP_PAGE_BYTES : len - len / 3;

	if (!model) {
		model = cop_model_new();
		e = cop_encoder_new(model);
		d = cop_decoder_new(model);
	}
	fill(page, data, cut);
	fill(dict, data + cut, len - cut > COP_PAGE_BYTES ? COP_PAGE_BYTES : len - cut);
	for (unsigned int k = 0; k < COP_NR_CODERS; k++) {
		const struct cop_coder *c = &cop_coders[k];
		const uint8_t *with = c->dict == COP_DICT_NONE ? NULL : dict;
		size_t n = c->encode(e, page, with, len % 3, payload);

		if (n > COP_PAYLOAD_MAX)
			abort();
		if (n &&
		    (c->decode(d, payload, n, with) || !cop_page_equal(cop_decoder_page(d), page)))
			abort();
	}
	return 0;
}
