/*
 * fuzz-decode.c - any bytes as a payload: a decoder says 0 or -EBADMSG, stays in bounds, and says
 * the same again.
 *
 * Input: u8 coder, u8 dictionary (its page repeats this byte and counts), payload.
 */
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>

#include "mem/coder.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	static struct cop_model *model;
	static struct cop_decoder *d;
	static uint8_t dict[COP_PAGE_BYTES], first[COP_PAGE_BYTES];
	const struct cop_coder *c;
	int r, again;

	if (!model) {
		model = cop_model_new();
		d = cop_decoder_new(model);
	}
	if (len < 2 || len > 2 + COP_PAYLOAD_MAX)
		return 0;
	c = &cop_coders[data[0] % COP_NR_CODERS];
	for (unsigned int i = 0; i < COP_PAGE_BYTES; i++)
		dict[i] = data[1] + (i & 8 ? i >> 4 : 0);
	r = c->decode(d, data + 2, len - 2, c->dict == COP_DICT_NONE ? NULL : dict);
	if (r != 0 && r != -EBADMSG)
		abort();
	memcpy(first, cop_decoder_page(d), sizeof(first));
	memset(cop_decoder_page(d), 0x5a, COP_PAGE_BYTES);
	again = c->decode(d, data + 2, len - 2, c->dict == COP_DICT_NONE ? NULL : dict);
	if (again != r || (!r && memcmp(first, cop_decoder_page(d), sizeof(first))))
		abort();
	return 0;
}
