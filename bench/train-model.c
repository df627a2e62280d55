/*
 * train-model.c - makes src/mem/model-default.c: clusters pages by their histograms and gives each
 * cluster a code.
 *
 * Usage: train-model FILE... > model-default.c. Every 4096 bytes of the files are a page; zero
 * pages are skipped. Feed it memory of all kinds, and never the pages that the result will be
 * measured on. Source: k-means with code length as distance (S. Lloyd 1957).
 */
#include <stdio.h>
#include <stdlib.h>

#include "mem/coder.h"

#define MAX_PAGES 60000
#define ROUNDS	  12

struct histogram {
	uint16_t count[COP_NR_ALPHABETS][COP_HUF_SYMBOLS];
};

static struct histogram *pages;
static size_t nr_pages;
static uint8_t bits[COP_NR_ALPHABETS][COP_MODEL_TABLES][COP_HUF_SYMBOLS];
static uint8_t packed[COP_NR_ALPHABETS][COP_MODEL_TABLES][COP_HUF_SYMBOLS / 2];

static void pack(unsigned int a, unsigned int t)
{
	for (unsigned int s = 0; s < COP_HUF_SYMBOLS; s += 2)
		packed[a][t][s / 2] = bits[a][t][s] | bits[a][t][s + 1] << 4;
}

static void read_pages(struct cop_encoder *e, const char *name)
{
	uint8_t page[COP_PAGE_BYTES], dst[COP_PAYLOAD_MAX];
	FILE *f = fopen(name, "rb");

	if (!f) {
		perror(name);
		exit(1);
	}
	while (nr_pages < MAX_PAGES && fread(page, sizeof(page), 1, f) == 1) {
		if (cop_page_is_zero(page))
			continue;
		(void)cop_plz_encode(e, page, NULL, 1, dst); /* only its counts are wanted */
		memcpy(pages[nr_pages++].count, e->count, sizeof(e->count));
	}
	fclose(f);
}

static void cluster(unsigned int a)
{
	unsigned int nr = cop_model_tables[a], symbols = cop_alphabet_symbols[a];
	uint8_t *member = malloc(nr_pages);

	for (size_t i = 0; i < nr_pages; i++)
		member[i] = rand() % nr;
	for (unsigned int round = 0; round < ROUNDS; round++) {
		static uint32_t sum[COP_MODEL_TABLES][COP_HUF_SYMBOLS];

		memset(sum, 0, sizeof(sum));
		for (size_t i = 0; i < nr_pages; i++) {
			for (unsigned int s = 0; s < symbols; s++)
				sum[member[i]][s] += pages[i].count[a][s];
		}
		for (unsigned int t = 0; t < nr; t++)
			cop_huf_lengths(sum[t], symbols, bits[a][t]);
		for (size_t i = 0; i < nr_pages; i++) {
			unsigned int best = UINT32_MAX;

			for (unsigned int t = 0; t < nr; t++) {
				unsigned int total = 0;

				for (unsigned int s = 0; s < symbols; s++)
					total += pages[i].count[a][s] * bits[a][t][s];
				if (total < best) {
					best = total;
					member[i] = t;
				}
			}
		}
	}
	for (unsigned int t = 0; t < nr; t++)
		pack(a, t);
	free(member);
}

int main(int argc, char **argv)
{
	struct cop_model *flat = malloc(sizeof(*flat));
	struct cop_encoder *e;

	for (unsigned int a = 0; a < COP_NR_ALPHABETS; a++) {
		for (unsigned int t = 0; t < cop_model_tables[a]; t++) {
			memset(bits[a][t], cop_alphabet_symbols[a] == 256 ? 8 : 5,
			       cop_alphabet_symbols[a]);
			pack(a, t);
		}
	}
	pages = malloc(MAX_PAGES * sizeof(*pages));
	if (!flat || !pages || cop_model_build(flat, packed) || !(e = cop_encoder_new(flat)))
		return 1;
	for (int i = 1; i < argc; i++)
		read_pages(e, argv[i]);
	fprintf(stderr, "%zu pages\n", nr_pages);
	for (unsigned int a = 0; a < COP_NR_ALPHABETS && nr_pages; a++)
		cluster(a);
	puts("/* model-default.c - code lengths of the bank; made by bench/train-model: don't "
	     "edit. */\n"
	     "#include \"mem/model.h\"\n\n"
	     "const uint8_t cop_model_default[COP_NR_ALPHABETS][COP_MODEL_TABLES][COP_HUF_SYMBOLS "
	     "/ 2] = {");
	for (unsigned int a = 0; a < COP_NR_ALPHABETS; a++) {
		puts("\t{");
		for (unsigned int t = 0; t < cop_model_tables[a]; t++) {
			printf("\t\t{");
			for (unsigned int s = 0; s < cop_alphabet_symbols[a] / 2u; s++)
				printf("%s0x%02x,", s % 16 ? " " : "\n\t\t\t", packed[a][t][s]);
			puts("\n\t\t},");
		}
		puts("\t},");
	}
	puts("};");
	cop_encoder_free(e);
	free(flat);
	free(pages);
	return 0;
}
