/* test-store.c - the store's promises, one by one. */
#include "mem-test.h"

#define ARENA (COP_SEGMENT_BYTES * 48)

struct fixture {
	void *mem;
	struct cop_store *s;
	struct codec c;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	f->mem = aligned_alloc(COP_BLOCK_BYTES, ARENA);
	f->c = codec_new();
	assert_int_equal(cop_store_create(f->mem, ARENA, 0, &test_templates, &f->s), 0);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	cop_store_close(f->s);
	codec_free(&f->c);
	free(f->mem);
	free(f);
	return 0;
}

static uint32_t put(struct fixture *f, unsigned int domain, uint32_t gfn, const uint8_t *page)
{
	uint32_t record;

	assert_int_equal(cop_store_put(f->s, f->c.e, f->c.d, domain, gfn, page, 1, &record), 0);
	return record;
}

static void expect(struct fixture *f, unsigned int domain, uint32_t record, const uint8_t *page)
{
	const uint8_t *got;

	assert_int_equal(cop_store_get(f->s, f->c.d, domain, record, &got), 0);
	assert_memory_equal(got, page, COP_PAGE_BYTES);
}

/* Catches: pages that come back changed, from any coder the store picks; statistics that don't add
 * up. */
static void test_put_get_free(void **state)
{
	struct fixture *f = *state;
	static uint8_t page[COP_PAGE_BYTES];
	struct cop_store_stats st;
	uint32_t record[600];

	for (uint32_t i = 0; i < 600; i++) {
		test_page(1, i, i, page);
		record[i] = put(f, 1, i, page);
	}
	for (uint32_t i = 0; i < 600; i++) {
		test_page(1, i, i, page);
		expect(f, 1, record[i], page);
	}
	cop_store_get_stats(f->s, &st);
	assert_int_equal(st.verify_failures, 0);
	assert_true(st.live_bytes + st.dead_bytes + st.slot_bytes + st.ptab_bytes + st.dir_bytes ==
		    st.arena_bytes);
	for (uint32_t i = 0; i < 600; i++)
		cop_store_unref(f->s, record[i]);
	cop_store_get_stats(f->s, &st);
	assert_int_equal(st.records, 0);
	assert_int_equal(st.holders, 0);
	assert_int_equal(st.live_bytes, 0);
	for (unsigned int i = 0; i < COP_NR_CODERS; i++)
		assert_int_equal(st.coder_records[i], 0);
}

/* Catches: duplicates stored twice; a record freed while another holds it. */
static void test_duplicates_share(void **state)
{
	struct fixture *f = *state;
	static uint8_t page[COP_PAGE_BYTES];
	struct cop_store_stats st;
	uint32_t a, b;

	test_page(1, 3, 4, page);
	a = put(f, 1, 3, page);
	b = put(f, 1, 900, page);
	assert_int_equal(a, b);
	cop_store_get_stats(f->s, &st);
	assert_int_equal(st.records, 1);
	assert_int_equal(st.duplicates, 1);
	cop_store_unref(f->s, a);
	expect(f, 1, b, page);
	cop_store_unref(f->s, b);
	assert_int_equal(cop_store_get(f->s, f->c.d, 1, b, &(const uint8_t *){NULL}), -ENOENT);
}

/* Catches: sharing across trust domains, by hash or by likeness, and restoring another domain's
 * record. */
static void test_domains_share_nothing(void **state)
{
	struct fixture *f = *state;
	static uint8_t page[COP_PAGE_BYTES], like[COP_PAGE_BYTES];
	const uint8_t *got;
	uint32_t a, b, c, d;

	test_page(1, 3, 8, page);
	memcpy(like, page, sizeof(like));
	cop_store64(like + 800, 12345);
	a = put(f, 1, COP_NO_TEMPLATE, page);
	b = put(f, 2, COP_NO_TEMPLATE, page);
	assert_int_not_equal(a, b);
	assert_int_equal(cop_store_get(f->s, f->c.d, 2, a, &got), -EBADMSG);
	assert_int_equal(cop_store_get(f->s, f->c.d, 1, b, &got), -EBADMSG);
	c = put(f, 3, COP_NO_TEMPLATE, like);
	assert_int_not_equal(cop_store_coder(f->s, c), COP_CODER_PLZ_LIKE);
	d = put(f, 1, COP_NO_TEMPLATE, like);
	assert_int_equal(cop_store_coder(f->s, d), COP_CODER_PLZ_LIKE);
	expect(f, 1, a, page);
	expect(f, 2, b, page);
	expect(f, 3, c, like);
	expect(f, 1, d, like);
}

/* Catches: a reference page freed under the records coded against it, or kept for ever. */
static void test_reference_outlives_its_holder(void **state)
{
	struct fixture *f = *state;
	static uint8_t page[COP_PAGE_BYTES], like[COP_PAGE_BYTES];
	struct cop_store_stats st;
	uint32_t a, b;

	test_page(1, 3, 8, page);
	memcpy(like, page, sizeof(like));
	cop_store64(like + 80, 12345);
	a = put(f, 1, COP_NO_TEMPLATE, page);
	b = put(f, 1, COP_NO_TEMPLATE, like);
	assert_int_equal(cop_store_coder(f->s, b), COP_CODER_PLZ_LIKE);
	cop_store_unref(f->s, a);
	expect(f, 1, b, like);
	assert_int_equal(put(f, 1, COP_NO_TEMPLATE, page), a); /* and may be found again */
	cop_store_unref(f->s, a);
	cop_store_unref(f->s, b);
	cop_store_get_stats(f->s, &st);
	assert_int_equal(st.records, 0);
}

/* Catches: any altered byte of the arena that reaches a guest. Each is found, or wasn't in what
 * makes the page. */
static void test_altered_arena_is_reported(void **state)
{
	struct fixture *f = *state;
	static uint8_t page[60][COP_PAGE_BYTES];
	uint8_t *mem = f->mem;
	uint32_t record[60], found = 0;
	uint64_t r = 4;
	size_t used;
	struct cop_store_stats st;

	for (uint32_t i = 0; i < 60; i++) {
		test_page(1, i, i, page[i]);
		record[i] = put(f, 1, i, page[i]);
	}
	cop_store_get_stats(f->s, &st);
	used = st.arena_bytes + COP_SEGMENT_BYTES;
	for (unsigned int round = 0; round < 3000; round++) {
		size_t at = cop_random_below(&r, used);
		uint8_t old = mem[at];

		mem[at] ^= 1u << cop_random_below(&r, 8);
		for (unsigned int k = 0; k < 4; k++) {
			uint32_t i = cop_random_below(&r, 60);
			const uint8_t *got;
			int e = cop_store_get(f->s, f->c.d, 1, record[i], &got);

			if (!e)
				assert_memory_equal(got, page[i], COP_PAGE_BYTES);
			else
				assert_true(e == -EBADMSG || e == -ENOENT);
			found += e != 0;
		}
		mem[at] = old;
	}
	assert_true(found > 20);
}

/* Catches: a full store that loses, changes or half-stores something, or doesn't recover. */
static void test_full_is_an_ordinary_error(void **state)
{
	struct fixture *f = *state;
	static uint8_t page[COP_PAGE_BYTES], unused[COP_PAGE_BYTES];
	uint32_t record[2000], nr = 0;
	struct cop_store_stats before, after;
	int r;

	for (;;) {
		cop_pagegen(COP_PAGES_RANDOM, 1, nr, page, unused);
		cop_store_get_stats(f->s, &before);
		r = cop_store_put(f->s, f->c.e, f->c.d, 1, COP_NO_TEMPLATE, page, 1, &record[nr]);
		if (r)
			break;
		nr++;
	}
	assert_int_equal(r, -ENOSPC);
	cop_store_get_stats(f->s, &after);
	assert_int_equal(before.live_bytes, after.live_bytes);
	assert_int_equal(before.holders, after.holders);
	assert_true(nr > ARENA / 4096 * 3 / 4);
	for (uint32_t i = 0; i < nr; i++) {
		cop_pagegen(COP_PAGES_RANDOM, 1, i, page, unused);
		expect(f, 1, record[i], page);
	}
	/* Every second one goes: no segment gets empty by itself, compaction must make room. */
	for (uint32_t i = 0; i < nr; i += 2)
		cop_store_unref(f->s, record[i]);
	for (uint32_t i = 0; i < nr / 2 - 40; i++) {
		cop_pagegen(COP_PAGES_RANDOM, 2, i, page, unused);
		assert_int_equal(cop_store_put(f->s, f->c.e, f->c.d, 1, COP_NO_TEMPLATE, page, 1,
					       &record[0]),
				 0);
	}
	for (uint32_t i = 1; i < nr; i += 2) {
		cop_pagegen(COP_PAGES_RANDOM, 1, i, page, unused);
		expect(f, 1, record[i], page);
	}
}

/* Catches: compaction that moves wrong bytes, forgets holders, or leaves a sparse store sparse. */
static void test_compaction_frees(void **state)
{
	struct fixture *f = *state;
	static uint8_t page[COP_PAGE_BYTES];
	struct cop_store_stats st;
	uint32_t record[1500];

	for (uint32_t i = 0; i < 1500; i++) {
		test_page(1, i, i, page);
		record[i] = put(f, 1, i, page);
	}
	for (uint32_t i = 0; i < 1500; i++) {
		if (i % 4)
			cop_store_unref(f->s, record[i]);
	}
	assert_true(cop_store_compact(f->s, SIZE_MAX) > 0);
	cop_store_get_stats(f->s, &st);
	/* What isn't live: at most 1/8 of full segments, and the open ones. */
	assert_true(st.dead_bytes < st.live_bytes / 4 + 4 * COP_SEGMENT_BYTES);
	for (uint32_t i = 0; i < 1500; i += 4) {
		test_page(1, i, i, page);
		expect(f, 1, record[i], page);
	}
}

/* Catches: recoding that changes the page, its number or its holders, or makes it larger. */
static void test_recode_keeps_the_page(void **state)
{
	struct fixture *f = *state;
	static uint8_t page[COP_PAGE_BYTES];
	struct cop_store_stats before, after;
	uint32_t record[300];

	for (uint32_t i = 0; i < 300; i++) {
		test_page(1, i, i, page);
		assert_int_equal(cop_store_put(f->s, f->c.e, f->c.d, 1, i, page, 0, &record[i]), 0);
	}
	cop_store_get_stats(f->s, &before);
	for (uint32_t i = 0; i < 300; i++)
		assert_int_equal(cop_store_recode(f->s, f->c.e, f->c.d, record[i], 2), 0);
	cop_store_get_stats(f->s, &after);
	assert_true(after.live_bytes < before.live_bytes);
	assert_int_equal(after.records, before.records);
	for (uint32_t i = 0; i < 300; i++) {
		test_page(1, i, i, page);
		expect(f, 1, record[i], page);
	}
}

/* Catches: an arena opened with another size, or something else opened as an arena. */
static void test_open_refuses_what_is_not_a_store(void **state)
{
	struct fixture *f = *state;
	struct cop_store *s;

	assert_int_equal(cop_store_open(f->mem, ARENA - COP_SEGMENT_BYTES, 0, NULL, &s), -EINVAL);
	assert_int_equal(cop_store_open(f->mem, COP_SEGMENT_BYTES, 0, NULL, &s), -EINVAL);
	memset(f->mem, 0, 8);
	assert_int_equal(cop_store_open(f->mem, ARENA, 0, NULL, &s), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_put_get_free, setup, teardown),
		cmocka_unit_test_setup_teardown(test_duplicates_share, setup, teardown),
		cmocka_unit_test_setup_teardown(test_domains_share_nothing, setup, teardown),
		cmocka_unit_test_setup_teardown(test_reference_outlives_its_holder, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_altered_arena_is_reported, setup, teardown),
		cmocka_unit_test_setup_teardown(test_full_is_an_ordinary_error, setup, teardown),
		cmocka_unit_test_setup_teardown(test_compaction_frees, setup, teardown),
		cmocka_unit_test_setup_teardown(test_recode_keeps_the_page, setup, teardown),
		cmocka_unit_test_setup_teardown(test_open_refuses_what_is_not_a_store, setup,
						teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
