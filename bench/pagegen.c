/* pagegen.c - pages that no corpus holds: see pagegen.h. */
#include "mem/page.h"
#include "pagegen.h"

const char *const cop_page_kind_names[COP_NR_PAGE_KINDS] = {
	"text", "code", "heap", "relocated", "random", "idle", "mixed",
};

uint64_t cop_random(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15ull;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return z ^ z >> 31;
}

uint32_t cop_random_below(uint64_t *state, uint32_t n)
{
	return (cop_random(state) >> 32) * n >> 32;
}

/* Roughly 1/rank over 0..n-1. */
static uint32_t zipf(uint64_t *state, uint32_t n)
{
	uint32_t bits = 0;

	while ((1u << (bits + 1)) <= n)
		bits++;
	n = 1u << cop_random_below(state, bits + 1);
	return cop_random_below(state, n);
}

static void text(uint64_t *r, uint8_t *page)
{
	static const char syllables[32][4] = {
		"ta", "ren", "i",   "so", "men", "ko",	"ul",  "ver", "a",  "di", "est",
		"mo", "ni",  "par", "le", "o",	 "qua", "si",  "tri", "um", "vo", "xe",
		"zi", "ban", "cor", "du", "el",	 "fi",	"gra", "hu",  "in", "ja",
	};
	unsigned int n = 0;

	while (n < COP_PAGE_BYTES) {
		uint64_t word = 77 + zipf(r, 4096);
		unsigned int nr = 1 + cop_random_below(&word, 4);

		for (unsigned int i = 0; i < nr; i++) {
			const char *p = syllables[cop_random_below(&word, 32)];

			for (; *p && n < COP_PAGE_BYTES; p++)
				page[n++] = *p;
		}
		if (n < COP_PAGE_BYTES)
			page[n++] = cop_random_below(r, 12)  ? ' '
				    : cop_random_below(r, 3) ? ','
							     : '\n';
	}
}

static void code(uint64_t *r, uint8_t *page)
{
	static const uint8_t ops[][3] = {
		{0x48, 0x89, 0xc0}, {0x48, 0x8b, 0x40}, {0x48, 0x85, 0xc0}, {0x0f, 0x84, 0},
		{0xe8, 0, 0},	    {0x48, 0x8d, 0x05}, {0x31, 0xc0, 0},    {0x41, 0x54, 0x55},
		{0xc3, 0x66, 0x90}, {0x74, 0x10, 0},	{0x83, 0xf8, 0},    {0x48, 0x83, 0xc4},
	};
	static const uint8_t lens[] = {3, 4, 3, 6, 5, 7, 2, 3, 3, 2, 3, 4};
	unsigned int n = 0;

	while (n < COP_PAGE_BYTES) {
		unsigned int k = zipf(r, 12);
		uint8_t op[8] = {ops[k][0], ops[k][1], ops[k][2]};
		uint32_t target =
			cop_random_below(r, 4) ? zipf(r, 256) * 16 : cop_random(r) & 0x3ffff0;

		if (lens[k] >= 5)
			cop_store32(op + lens[k] - 4, target - n);
		else if (lens[k] >= 3)
			op[lens[k] - 1] ^= zipf(r, 8) * 8 | zipf(r, 8);
		for (unsigned int i = 0; i < lens[k] && n < COP_PAGE_BYTES; i++)
			page[n++] = op[i];
	}
}

static void heap(uint64_t *r, uint8_t *page)
{
	uint64_t base = 0x550000000000ull + (cop_random(r) & 0xfffffff000ull);
	uint64_t lib = 0x7f0000000000ull + (cop_random(r) & 0xffffff000ull);
	unsigned int n = 0;

	while (n < COP_PAGE_BYTES) {
		unsigned int words = 2 + 2 * zipf(r, 16), kind = cop_random_below(r, 4);

		for (unsigned int i = 0; i < words && n < COP_PAGE_BYTES; i++, n += 8) {
			uint64_t v = 0;

			if (i == 0)
				v = 0;
			else if (i == 1)
				v = words * 8 | 1;
			else if (kind == 0)
				v = base + zipf(r, 65536) * 16;
			else if (kind == 1)
				v = i == 2 ? lib + zipf(r, 64) * 8 : cop_random_below(r, 100);
			else if (kind == 2)
				v = 0x6161616161616161ull + (cop_random(r) & 0x0f1f0f1f0f1f0f0full);
			else
				v = cop_random_below(r, 3) ? 0 : zipf(r, 1 << 20);
			cop_store64(page + n, v);
		}
	}
}

static void relocated(uint64_t seed, uint32_t nr, uint8_t *page)
{
	uint64_t which = seed + nr % 512, base_state = seed * 7 + nr / 512;
	uint64_t base = 0x7f0000000000ull + (cop_random(&base_state) & 0xffffffff000ull);

	if (nr % 2)
		code(&which, page);
	for (unsigned int i = 0; i < COP_PAGE_BYTES; i += 8) {
		if (nr % 2 == 0)
			cop_store64(page + i, base + (cop_random(&which) & 0x1ffff8));
		else if (cop_random_below(&which, 16) == 0)
			cop_store64(page + i, base + (cop_random(&which) & 0x1ffff8));
	}
}

static void idle(uint64_t *r, uint8_t *page, uint8_t *tmpl)
{
	unsigned int changes;

	heap(r, tmpl);
	memcpy(page, tmpl, COP_PAGE_BYTES);
	if (cop_random_below(r, 100) < 41)
		return;
	/* Spots of one to four words; 84 bytes in the mean. */
	changes = 1 + cop_random_below(r, 13);
	for (unsigned int i = 0; i < changes; i++) {
		unsigned int at = cop_random_below(r, 509) * 8, words = 1 + cop_random_below(r, 4);

		for (unsigned int k = 0; k < words * 8; k++) {
			if (cop_random_below(r, 4))
				page[at + k] = cop_random_below(r, 2) ? cop_random(r) : 0;
		}
	}
}

void cop_pagegen(enum cop_page_kind kind, uint64_t seed, uint32_t nr, uint8_t *ret_page,
		 uint8_t *ret_template)
{
	uint64_t r = seed * 0x10001 + nr + ((uint64_t)kind << 40);

	memset(ret_template, 0, COP_PAGE_BYTES);
	switch (kind) {
	case COP_PAGES_TEXT:
		text(&r, ret_page);
		break;
	case COP_PAGES_CODE:
		code(&r, ret_page);
		break;
	case COP_PAGES_HEAP:
		heap(&r, ret_page);
		break;
	case COP_PAGES_RELOCATED:
		relocated(seed, nr, ret_page);
		break;
	case COP_PAGES_RANDOM:
		for (unsigned int i = 0; i < COP_PAGE_BYTES; i += 8)
			cop_store64(ret_page + i, cop_random(&r));
		break;
	case COP_PAGES_IDLE:
		idle(&r, ret_page, ret_template);
		break;
	default:
		if (cop_random_below(&r, 20) == 0)
			memset(ret_page, 0, COP_PAGE_BYTES);
		else if (nr && cop_random_below(&r, 10) == 0)
			cop_pagegen(COP_PAGES_MIXED, seed, cop_random_below(&r, nr), ret_page,
				    ret_template);
		else
			cop_pagegen(cop_random_below(&r, COP_PAGES_MIXED), seed, nr, ret_page,
				    ret_template);
	}
}
