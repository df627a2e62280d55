/*
 * model.h - the bank of Huffman tables that plz records name.
 *
 * Four alphabets, each with a few tables to choose from. The bank is part of the record format: a
 * record coded with it can only be decoded with the same lengths (model-default.c), so a change of
 * a length is a change of format (docs/formats/store.md).
 */
#ifndef COP_MEM_MODEL_H
#define COP_MEM_MODEL_H

#include "mem/huf.h"
#include "mem/page.h"

enum cop_alphabet { COP_LITERALS, COP_TOKENS, COP_DISTANCES, COP_LENGTHS, COP_NR_ALPHABETS };

#define COP_MODEL_TABLES	16 /* of each alphabet at most; a record has 4 bits to name one */
#define COP_NR_DISTANCE_SYMBOLS 32

extern const uint16_t cop_alphabet_symbols[COP_NR_ALPHABETS];
extern const uint8_t cop_model_tables[COP_NR_ALPHABETS]; /* tables in the bank */

/* Code lengths, two to a byte, the even symbol in the low half; made by bench/train-model. */
extern const uint8_t cop_model_default[COP_NR_ALPHABETS][COP_MODEL_TABLES][COP_HUF_SYMBOLS / 2];

struct cop_model {
	struct cop_huf table[COP_NR_ALPHABETS][COP_MODEL_TABLES];
};

/* Builds the bank of the given packed lengths. 0, or -EINVAL if one isn't a complete code. */
int cop_model_build(struct cop_model *m,
		    const uint8_t packed[COP_NR_ALPHABETS][COP_MODEL_TABLES][COP_HUF_SYMBOLS / 2]);

/*
 * The bank's cheapest table for symbols that occur count[i] times, at most 32767; *ret_bits is
 * their size then.
 */
unsigned int cop_model_choose(const struct cop_model *m, enum cop_alphabet a,
			      const uint16_t count[COP_HUF_SYMBOLS], unsigned int *ret_bits);

#endif
