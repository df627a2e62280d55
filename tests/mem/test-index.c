/* test-index.c - the indexes against the simplest models. */
#include "mem/index.h"
#include "mem-test.h"

#define NR 4000

static uint64_t hashes[NR];

static uint64_t hash_of(const void *ctx, uint32_t record)
{
	return hashes[record];
}

static bool finds(const struct cop_index *x, uint32_t record)
{
	uint32_t cursor = 0, got;

	while ((got = cop_index_find(x, hashes[record], &cursor))) {
		if (got == record)
			return true;
	}
	return false;
}

/* Catches: an entry lost when another of its chain is removed or the index grows; one that stays
 * after removal. */
static void test_index_against_a_set(void **state)
{
	struct cop_index x = {0};
	bool in[NR] = {false};
	uint64_t r = 1;

	for (unsigned int i = 0; i < NR; i++)
		hashes[i] = cop_random(&r) >> (i % 3 ? 0 : 24); /* a third collide */
	for (unsigned int op = 0; op < 200000; op++) {
		uint32_t record = 1 + cop_random_below(&r, op < 20000 ? 50 : NR - 1);

		if (in[record]) {
			cop_index_remove(&x, hashes[record], record, hash_of, NULL);
		} else {
			assert_int_equal(cop_index_prepare(&x, hash_of, NULL), 0);
			cop_index_add(&x, hashes[record], record);
		}
		in[record] = !in[record];
		record = 1 + cop_random_below(&r, NR - 1);
		assert_int_equal(finds(&x, record), in[record]);
	}
	for (uint32_t i = 1; i < NR; i++)
		assert_int_equal(finds(&x, i), in[i]);
	cop_index_done(&x);
}

/* Catches: a sketch that keeps other than the smallest distinct hashes, or depends on where words
 * stand. */
static void test_sketch_ignores_order(void **state)
{
	static uint8_t page[COP_PAGE_BYTES], other[COP_PAGE_BYTES], tmpl[COP_PAGE_BYTES];
	uint64_t r = 2;

	for (unsigned int nr = 0; nr < 200; nr++) {
		struct cop_sketch a, b;

		cop_pagegen(COP_PAGES_HEAP, 4, nr, page, tmpl);
		memcpy(other, page, sizeof(other));
		for (unsigned int i = 511; i > 0; i--) {
			unsigned int j = cop_random_below(&r, i + 1);
			uint64_t x = cop_load64(other + 8 * i), y = cop_load64(other + 8 * j);

			cop_store64(other + 8 * i, y);
			cop_store64(other + 8 * j, x);
		}
		cop_sketch_make(page, &a);
		cop_sketch_make(other, &b);
		assert_int_equal(a.nr, b.nr);
		assert_memory_equal(a.feature, b.feature, a.nr * sizeof(a.feature[0]));
		for (unsigned int i = 1; i < a.nr; i++)
			assert_true(a.feature[i] < a.feature[i - 1]);
	}
}

/* Catches: similar pages that aren't found, and pages with nothing in common that usually are. */
static void test_sketches_find_what_is_alike(void **state)
{
	static uint8_t page[COP_PAGE_BYTES], tmpl[COP_PAGE_BYTES];
	struct cop_sketches x = {0};
	struct cop_sketch k;
	unsigned int right = 0, wrong = 0;

	for (unsigned int nr = 0; nr < 200; nr++) {
		cop_pagegen(COP_PAGES_RELOCATED, 9, nr * 2 + 1, page, tmpl);
		cop_sketch_make(page, &k);
		cop_sketches_add(&x, &k, nr + 1, nr);
	}
	for (unsigned int nr = 0; nr < 200; nr++) {
		uint32_t got;

		cop_pagegen(COP_PAGES_RELOCATED, 9, nr * 2 + 1 + 512, page, tmpl);
		cop_sketch_make(page, &k);
		got = cop_sketches_find(&x, &k, 2);
		right += got == nr + 1;
		/* Nothing is like random bytes, but by chance: the index remembers no features,
		 * only places. */
		cop_pagegen(COP_PAGES_RANDOM, 9, nr, page, tmpl);
		cop_sketch_make(page, &k);
		wrong += cop_sketches_find(&x, &k, 2) != 0;
	}
	assert_true(right > 150);
	assert_true(wrong < 60);
	cop_sketches_done(&x);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_index_against_a_set),
		cmocka_unit_test(test_sketch_ignores_order),
		cmocka_unit_test(test_sketches_find_what_is_alike),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
