/* model.c - the bank of Huffman tables: see model.h. */
#include "mem/model.h"

const uint16_t cop_alphabet_symbols[COP_NR_ALPHABETS] = {256, 256, COP_NR_DISTANCE_SYMBOLS, 256};
const uint8_t cop_model_tables[COP_NR_ALPHABETS] = {16, 16, 8, 8};

int cop_model_build(struct cop_model *m,
		    const uint8_t packed[COP_NR_ALPHABETS][COP_MODEL_TABLES][COP_HUF_SYMBOLS / 2])
{
	for (unsigned int a = 0; a < COP_NR_ALPHABETS; a++) {
		for (unsigned int t = 0; t < cop_model_tables[a]; t++) {
			uint8_t bits[COP_HUF_SYMBOLS];
			int r;

			for (unsigned int s = 0; s < COP_HUF_SYMBOLS; s++)
				bits[s] = packed[a][t][s / 2] >> (s & 1) * 4 & 15;
			r = cop_huf_build(&m->table[a][t], bits, cop_alphabet_symbols[a]);
			if (r)
				return r;
		}
	}
	return 0;
}

unsigned int cop_model_choose(const struct cop_model *m, enum cop_alphabet a,
			      const uint16_t count[COP_HUF_SYMBOLS], unsigned int *ret_bits)
{
	unsigned int best = 0, best_bits = UINT32_MAX;

	for (unsigned int t = 0; t < cop_model_tables[a]; t++) {
		const uint8_t *bits = m->table[a][t].bits;
		unsigned int sum = 0;

		/* Signed and short (a count is at most 4096): that is one instruction for eight. */
		for (unsigned int s = 0; s < cop_alphabet_symbols[a]; s++)
			sum += (int16_t)count[s] * (int16_t)bits[s];
		if (sum < best_bits) {
			best_bits = sum;
			best = t;
		}
	}
	*ret_bits = best_bits;
	return best;
}
