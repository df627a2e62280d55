/*
 * fuzz-store.c - an arena with any bytes changed: opening it, restoring from it and taking it apart
 * stays in bounds, ends, and never gives a page whose checksum isn't its record's.
 *
 * Input: changes, 4 bytes each: u16 place (low bits choose superblock, slots, records or page
 * table; the rest an offset there), u8 operation, u8 value.
 */
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>

#include "mem/ptab.h"

#define ARENA (COP_SEGMENT_BYTES * 4)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static struct cop_model *model;
static struct cop_encoder *e;
static struct cop_decoder *d;
static uint8_t *fresh, *arena;
static uint32_t places[4]; /* blocks */

static void must(int r)
{
	if (r)
		abort();
}

static int template_page(void *ctx, unsigned int domain, uint32_t gfn, const uint8_t **ret_page)
{
	static uint8_t page[COP_PAGE_BYTES];

	memset(page, gfn, sizeof(page));
	*ret_page = page;
	return 0;
}

static const struct cop_templates templates = {.page = template_page};

/* A small store with records of several coders, a shared one and one coded against another. */
static void make_fresh(void)
{
	static uint8_t page[COP_PAGE_BYTES];
	struct cop_store *s;
	struct cop_ptab *t;
	uint32_t x = 1;

	fresh = aligned_alloc(COP_BLOCK_BYTES, ARENA);
	arena = aligned_alloc(COP_BLOCK_BYTES, ARENA);
	if (!fresh || !arena)
		abort();
	memset(fresh, 0, ARENA);
	must(cop_store_create(fresh, ARENA, 0, &templates, &s));
	must(cop_ptab_new(s, 1, &t));
	for (uint32_t gfn = 0; gfn < 40; gfn++) {
		uint32_t record;

		for (unsigned int i = 0; i < COP_PAGE_BYTES; i += 4) {
			x = x * 1664525 + 1013904223;
			cop_store32(page + i, gfn % 4 == 1   ? gfn
					      : gfn % 4 == 2 ? x >> 20
							     : i / 16 * 77);
		}
		cop_store32(page + gfn * 8, gfn);
		must(cop_store_put(s, e, d, 1, gfn, page, 1, &record));
		must(cop_ptab_set(t, gfn, COP_PAGE_RECORD, record));
	}
	for (uint32_t b = 0; b < ARENA / COP_BLOCK_BYTES; b++) {
		/* By what is there: records start a group, tables hold a state, slots an offset in
		 * a group. */
		uint64_t first = cop_load64(fresh + b * COP_BLOCK_BYTES),
			 second = cop_load64(fresh + b * COP_BLOCK_BYTES + 8);

		if (b && b % COP_GROUP_BLOCKS == 0 && first)
			places[2] = b;
		else if (b && !places[1] && !first && second >> 35)
			places[1] = b;
	}
	places[3] = 1;
	cop_ptab_close(t);
	cop_store_close(s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct cop_store *s;
	uint32_t bad;

	if (!model) {
		model = cop_model_new();
		e = cop_encoder_new(model);
		d = cop_decoder_new(model);
		make_fresh();
	}
	memcpy(arena, fresh, ARENA);
	for (; len >= 4; data += 4, len -= 4) {
		unsigned int where = data[0] & 3,
			     at = (data[0] >> 2 | data[1] << 6) % COP_BLOCK_BYTES;
		uint8_t *p;

		/* The first blocks hold superblock, tables, slots, directories. */
		if (where == 3)
			p = arena + (at % 8) * COP_BLOCK_BYTES + at / 8;
		else
			p = arena + places[where] * COP_BLOCK_BYTES + at;
		if (data[2] & 1)
			*p ^= data[3];
		else
			*p = data[3];
	}
	if (cop_store_open(arena, ARENA, 0, &templates, &s))
		return 0;
	(void)cop_store_verify(s, d, &bad); /* either answer is right */
	for (uint32_t i = 0; cop_ptab_key(s, i) && i < 600; i++) {
		struct cop_ptab *t;

		if (cop_ptab_find(s, cop_ptab_key(s, i), &t))
			continue;
		for (uint32_t gfn = 0; gfn < 64; gfn++) {
			enum cop_page_state state;
			const uint8_t *page;
			uint32_t record;

			if (!cop_ptab_get(t, gfn, &state, &record) && state == COP_PAGE_RECORD)
				(void)cop_store_get(s, d, 1, record,
						    &page); /* either answer is right */
		}
		cop_ptab_close(t);
	}
	(void)cop_store_compact(s, SIZE_MAX);
	for (uint64_t key; (key = cop_ptab_key(s, 0));) {
		struct cop_ptab *t;

		must(cop_ptab_find(s, key, &t));
		cop_ptab_free(t);
	}
	cop_store_close(s);
	return 0;
}
