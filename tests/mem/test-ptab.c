/* test-ptab.c - page tables against an array, through growth, removal and reopening. */
#include "mem-test.h"

#define ARENA	(COP_SEGMENT_BYTES * 64)
#define NR_GFNS 20000

struct fixture {
	void *mem;
	struct cop_store *s;
	struct cop_ptab *t;
};

static struct fixture fixture_new(void)
{
	struct fixture f = {.mem = aligned_alloc(COP_BLOCK_BYTES, ARENA)};

	assert_non_null(f.mem);
	assert_int_equal(cop_store_create(f.mem, ARENA, 0, &test_templates, &f.s), 0);
	assert_int_equal(cop_ptab_new(f.s, 7, &f.t), 0);
	return f;
}

static void fixture_free(struct fixture *f)
{
	cop_ptab_close(f->t);
	cop_store_close(f->s);
	free(f->mem);
}

static void expect(const struct fixture *f, uint32_t gfn, unsigned int state)
{
	enum cop_page_state got;
	uint32_t record;

	assert_int_equal(cop_ptab_get(f->t, gfn, &got, &record), 0);
	assert_int_equal(got, state);
	assert_int_equal(record, COP_RECORD_NONE);
}

/* Catches: entries lost or doubled by probing, growth, backward shifts or reopening. */
static void test_against_an_array(void **state)
{
	struct fixture f = fixture_new();
	static uint8_t want[NR_GFNS];
	uint32_t used = 0;
	uint64_t r = 1;

	memset(want, 0, sizeof(want));
	for (unsigned int op = 0; op < 600000; op++) {
		/* Runs of neighbours, as guests have them, and strays. */
		uint32_t limit = op < 100000 ? 400 : NR_GFNS;
		uint32_t gfn = cop_random_below(&r, limit);
		unsigned int st = cop_random_below(&r, 4), run = op % 8 ? 1 : 6;

		if (op / 50000 % 2 && st)
			st = 0; /* phases that empty the table */
		for (; run-- && gfn < limit; gfn++) {
			unsigned int to = st ? st + 1 : COP_PAGE_NONE;

			used += (to != 0) - (want[gfn] != 0);
			want[gfn] = to;
			assert_int_equal(cop_ptab_set(f.t, gfn, to, COP_RECORD_NONE), 0);
		}
		gfn = cop_random_below(&r, NR_GFNS);
		expect(&f, gfn, want[gfn]);
		assert_int_equal(cop_ptab_used(f.t), used);
		if (op % 60000 == 59999) {
			uint32_t cursor = 0, seen = 0, record;
			enum cop_page_state st2;

			cop_ptab_close(f.t);
			cop_store_close(f.s);
			assert_int_equal(cop_store_open(f.mem, ARENA, 0, &test_templates, &f.s), 0);
			assert_int_equal(cop_ptab_find(f.s, 7, &f.t), 0);
			assert_int_equal(cop_ptab_used(f.t), used);
			while (cop_ptab_next(f.t, &cursor, &gfn, &st2, &record)) {
				assert_int_equal(st2, want[gfn]);
				seen++;
			}
			assert_int_equal(seen, used);
		}
	}
	for (uint32_t gfn = 0; gfn < NR_GFNS; gfn++)
		expect(&f, gfn, want[gfn]);
	fixture_free(&f);
}

/* Catches: tables found under another's key, keys given twice, entries of a freed table that come
 * back. */
static void test_many_tables(void **state)
{
	struct fixture f = fixture_new();
	struct cop_ptab *t[600], *again;

	for (unsigned int i = 0; i < 600; i++) {
		assert_int_equal(cop_ptab_new(f.s, 1000 + i, &t[i]), 0);
		assert_int_equal(cop_ptab_set(t[i], i, COP_PAGE_ZERO, 0), 0);
	}
	assert_int_equal(cop_ptab_new(f.s, 1005, &again), -EEXIST);
	for (unsigned int i = 0; i < 600; i += 2)
		cop_ptab_free(t[i]);
	assert_int_equal(cop_ptab_find(f.s, 1000, &again), -ENOENT);
	assert_int_equal(cop_ptab_find(f.s, 1003, &again), 0);
	assert_int_equal(cop_ptab_used(again), 1);
	cop_ptab_close(again);
	assert_int_equal(cop_ptab_new(f.s, 1000, &t[0]), 0);
	assert_int_equal(cop_ptab_used(t[0]), 0);
	for (unsigned int i = 0; i < 600; i++) {
		if (i == 0 || i % 2)
			cop_ptab_close(t[i]);
	}
	fixture_free(&f);
}

/* Catches: a full arena that loses or half-writes an entry. */
static void test_full_changes_nothing(void **state)
{
	struct fixture f = fixture_new();
	uint32_t gfn = 0, used;

	while (!cop_ptab_set(f.t, gfn, COP_PAGE_ZERO, 0))
		gfn++;
	used = cop_ptab_used(f.t);
	assert_int_equal(used, gfn);
	assert_int_equal(cop_ptab_set(f.t, gfn, COP_PAGE_ZERO, 0), -ENOSPC);
	expect(&f, gfn, COP_PAGE_NONE);
	for (uint32_t i = 0; i < gfn; i += 97)
		expect(&f, i, COP_PAGE_ZERO);
	/* What is there can still change, and go. */
	assert_int_equal(cop_ptab_set(f.t, 5, COP_PAGE_DISCARDED, 0), 0);
	assert_int_equal(cop_ptab_set(f.t, 6, COP_PAGE_NONE, 0), 0);
	expect(&f, 5, COP_PAGE_DISCARDED);
	expect(&f, 6, COP_PAGE_NONE);
	fixture_free(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_against_an_array),
		cmocka_unit_test(test_many_tables),
		cmocka_unit_test(test_full_changes_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
