/*
 * test-store-crash.c - a kill between any two stores to the arena.
 *
 * A hook sees each write before it happens. There the arena is copied, as the killed process would
 * leave it, and half of the pending bytes are written into every second copy if they are more than
 * one word (those need not arrive together). The copy is opened as a new process would: every page
 * of every table must then be in the state before the operation that was under way, or in the one
 * after it.
 */
#include "mem-test.h"

#define ARENA	  (COP_SEGMENT_BYTES * 10)
#define NR_TABLES 2
#define NR_GFNS	  700
#define DOMAIN	  1

struct page {
	uint8_t state;
	uint16_t content;
};

struct world {
	void *mem;
	uint8_t *copy;
	struct cop_store *s;
	struct cop_ptab *t[NR_TABLES];
	bool there[NR_TABLES];
	struct codec c, check;
	struct page want[NR_TABLES][NR_GFNS];
	uint64_t r;
	/* The operation under way: what page `gfn` of `table` becomes; or a whole table comes or
	 * goes. */
	unsigned int table;
	uint32_t gfn;
	struct page next;
	bool page_changes, table_changes;
	unsigned int writes, snapshots, old, new, every;
};

static bool page_is(struct cop_store *s, struct codec *c, const struct cop_ptab *t, uint32_t gfn,
		    const struct page *want, bool deep)
{
	static uint8_t page[COP_PAGE_BYTES];
	enum cop_page_state state;
	const uint8_t *got;
	uint32_t record;

	assert_int_equal(cop_ptab_get(t, gfn, &state, &record), 0);
	if (state != want->state)
		return false;
	if (state != COP_PAGE_RECORD || !deep)
		return true;
	assert_int_equal(cop_store_get(s, c->d, DOMAIN, record, &got), 0);
	test_page(DOMAIN, gfn, want->content, page);
	return cop_page_equal(got, page);
}

static void check_table(struct world *w, struct cop_store *s, unsigned int table, bool all)
{
	struct cop_ptab *t;
	int r = cop_ptab_find(s, table + 1, &t);
	uint32_t cursor = 0, gfn, record, entries = 0, want = 0;
	enum cop_page_state state;

	if (w->table_changes && w->table == table) {
		/* All of it or nothing. */
		assert_true(r == 0 || r == -ENOENT);
		if (r)
			return;
	} else {
		assert_int_equal(r, w->there[table] ? 0 : -ENOENT);
		if (r)
			return;
	}
	for (uint32_t g = 0; g < NR_GFNS; g++) {
		bool deep = all || (g + w->writes) % 50 == 0;

		if (w->page_changes && w->table == table && w->gfn == g) {
			if (page_is(s, &w->check, t, g, &w->next, true))
				w->new ++;
			else if (page_is(s, &w->check, t, g, &w->want[table][g], true))
				w->old++;
			else
				fail_msg("page %u is neither old nor new at write %u", g,
					 w->writes);
			continue;
		}
		assert_true(page_is(s, &w->check, t, g, &w->want[table][g], deep));
		want += w->want[table][g].state != COP_PAGE_NONE;
	}
	while (cop_ptab_next(t, &cursor, &gfn, &state, &record))
		entries += !(w->page_changes && w->table == table && w->gfn == gfn);
	assert_int_equal(entries, want);
	cop_ptab_close(t);
}

static void killed_here(void *ctx, size_t offset, const void *data, size_t len_bytes)
{
	struct world *w = ctx;
	struct cop_store *s;
	struct cop_store_stats st;

	if (w->writes++ % w->every)
		return;
	w->snapshots++;
	memcpy(w->copy, w->mem, ARENA);
	if (len_bytes > 8 && w->snapshots % 2)
		memcpy(w->copy + offset, data, len_bytes / 2);
	if (cop_store_open(w->copy, ARENA, 0, &test_templates, &s))
		fail_msg("the store doesn't open after a kill before write %u", w->writes);
	for (unsigned int i = 0; i < NR_TABLES; i++)
		check_table(w, s, i, w->snapshots % 64 == 0);
	/* And it works: what is left can be closed and opened again, with the same count. */
	if (w->snapshots % 16 == 0) {
		uint64_t records;

		cop_store_get_stats(s, &st);
		records = st.records;
		cop_store_close(s);
		assert_int_equal(cop_store_open(w->copy, ARENA, 0, &test_templates, &s), 0);
		cop_store_get_stats(s, &st);
		assert_int_equal(st.records, records);
	}
	cop_store_close(s);
}

static void set(struct world *w, struct page next)
{
	static uint8_t page[COP_PAGE_BYTES];
	uint32_t record = COP_RECORD_NONE;
	int r = 0;

	w->next = next;
	w->page_changes = true;
	if (next.state == COP_PAGE_RECORD) {
		test_page(DOMAIN, w->gfn, next.content, page);
		r = cop_store_put(w->s, w->c.e, w->c.d, DOMAIN, w->gfn, page, 1, &record);
	}
	if (!r) {
		r = cop_ptab_set(w->t[w->table], w->gfn, next.state, record);
		if (r && record)
			cop_store_unref(w->s, record);
	}
	assert_true(r == 0 || r == -ENOSPC);
	w->page_changes = false;
	if (!r)
		w->want[w->table][w->gfn] = next;
}

static void step(struct world *w)
{
	unsigned int op = cop_random_below(&w->r, 100);
	enum cop_page_state state;
	uint32_t record;

	w->table = cop_random_below(&w->r, NR_TABLES);
	w->gfn = cop_random_below(&w->r, NR_GFNS);
	if (op < 2 && (!w->there[w->table] || cop_random_below(&w->r, 20) == 0)) {
		w->table_changes = true;
		if (w->there[w->table]) {
			cop_ptab_free(w->t[w->table]);
			w->there[w->table] = false;
			memset(w->want[w->table], 0, sizeof(w->want[w->table]));
		} else {
			w->there[w->table] = !cop_ptab_new(w->s, w->table + 1, &w->t[w->table]);
		}
		w->table_changes = false;
	} else if (op < 6) {
		(void)cop_store_compact(w->s, 100000);
	} else if (!w->there[w->table]) {
		return;
	} else if (op < 10) {
		assert_int_equal(cop_ptab_get(w->t[w->table], w->gfn, &state, &record), 0);
		if (state == COP_PAGE_RECORD)
			assert_true(cop_store_recode(w->s, w->c.e, w->c.d, record, 2) <= 0);
	} else if (op < 30) {
		set(w, (struct page){COP_PAGE_NONE});
	} else if (op < 45) {
		set(w, (struct page){COP_PAGE_ZERO + op % 3});
	} else {
		set(w, (struct page){COP_PAGE_RECORD, cop_random_below(&w->r, 400)});
	}
}

/*
 * Catches: any order of stores in which a kill loses a page, shows a wrong one, leaves a table
 * unreadable, or keeps records that nobody names. First every write from an empty store on, then
 * one in 13 of a longer life; the arena is full at times, and compacted.
 */
static void test_kill_before_every_write(void **state)
{
	static struct world w;
	const char *steps = getenv("CRASH_STEPS");
	unsigned int nr = steps ? strtoul(steps, NULL, 0) : 30000;

	w.r = 7;
	w.every = 1;
	w.mem = aligned_alloc(COP_BLOCK_BYTES, ARENA);
	w.copy = aligned_alloc(COP_BLOCK_BYTES, ARENA);
	w.c = codec_new();
	w.check = codec_new();
	assert_int_equal(cop_store_create(w.mem, ARENA, 0, &test_templates, &w.s), 0);
	cop_store_set_hook(w.s, killed_here, &w);
	for (unsigned int i = 0; i < nr; i++) {
		if (i == 6000)
			w.every = 13;
		step(&w);
	}
	/* Both sides of the decisive store were seen, often. */
	print_message("%u writes, %u kills, %u pages in the old state, %u in the new\n", w.writes,
		      w.snapshots, w.old, w.new);
	assert_true(w.old > 200);
	assert_true(w.new > 100);
	for (unsigned int i = 0; i < NR_TABLES; i++) {
		if (w.there[i])
			cop_ptab_close(w.t[i]);
	}
	cop_store_close(w.s);
	codec_free(&w.c);
	codec_free(&w.check);
	free(w.mem);
	free(w.copy);
}

/* Catches: a store half made that opens, or one that a kill while it was made leaves unable to be
 * made again. */
static void test_kill_while_creating(void **state)
{
	void *mem = aligned_alloc(COP_BLOCK_BYTES, ARENA);
	struct cop_store *s;

	memset(mem, 0xa5, ARENA);
	assert_int_equal(cop_store_open(mem, ARENA, 0, NULL, &s), -EINVAL);
	assert_int_equal(cop_store_create(mem, ARENA, 0, NULL, &s), 0);
	cop_store_close(s);
	assert_int_equal(cop_store_open(mem, ARENA, 0, NULL, &s), 0);
	cop_store_close(s);
	free(mem);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_kill_before_every_write),
		cmocka_unit_test(test_kill_while_creating),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
