/* test-huf.c - Huffman tables and streams. */
#include "mem-test.h"

/* Catches: lengths that don't make a complete code, which would leave table entries unset. */
static void test_lengths_are_complete(void **state)
{
	static struct cop_huf h;
	uint64_t r = 1;

	for (unsigned int round = 0; round < 60; round++) {
		unsigned int n = 2 + cop_random_below(&r, 255);
		uint32_t count[256];
		uint8_t bits[256];

		for (unsigned int i = 0; i < n; i++) {
			count[i] = 1u << cop_random_below(&r, round % 31 + 1);
			if (cop_random_below(&r, 3) == 0)
				count[i] = 0;
		}
		cop_huf_lengths(count, n, bits);
		assert_int_equal(cop_huf_build(&h, bits, n), 0);
	}
}

/* Catches: a builder that accepts lengths from which a decoder would read undefined entries. */
static void test_incomplete_codes_are_refused(void **state)
{
	static struct cop_huf h;
	uint8_t bits[256];

	memset(bits, 8, sizeof(bits));
	assert_int_equal(cop_huf_build(&h, bits, 256), 0);
	bits[7] = 9;
	assert_int_equal(cop_huf_build(&h, bits, 256), -EINVAL);
	bits[7] = 7;
	assert_int_equal(cop_huf_build(&h, bits, 256), -EINVAL);
	bits[7] = 12;
	assert_int_equal(cop_huf_build(&h, bits, 256), -EINVAL);
}

/* Catches: a model whose tables changed, which would make old records unreadable. */
static void test_built_in_model_is_the_documented_one(void **state)
{
	uint64_t sum = 0;

	for (unsigned int a = 0; a < COP_NR_ALPHABETS; a++) {
		for (unsigned int t = 0; t < cop_model_tables[a]; t++) {
			for (unsigned int i = 0; i < COP_HUF_SYMBOLS / 2; i++)
				sum = sum * 31 + cop_model_default[a][t][i];
		}
	}
	assert_int_equal(sum, 0x35023171dbc82812ull);
}

struct room {
	uint8_t before[COP_HUF_SLACK], section[3 * 8192], after[COP_HUF_SLACK];
};

/* Catches: halves or quarters that encoder and decoder split differently (each count), lost last
 * symbols. */
static void test_every_count_comes_back(void **state)
{
	struct cop_model *m = cop_model_new();
	static struct room room;
	static uint8_t a[4096], b[4096], c[4096], ga[4096 + 8], gb[4096 + 8], gc[4096 + 8];
	uint64_t r = 3;

	assert_non_null(m);
	for (size_t n = 0; n < 700; n++) {
		const struct cop_huf *h = &m->table[COP_LITERALS][n % 16];
		const struct cop_huf *hb = &m->table[COP_DISTANCES][n % 8];
		size_t nb = n * 7 % 300, nc = n * 5 % 200, la, lb, lc, used;

		for (size_t i = 0; i < n; i++)
			a[i] = cop_random(&r) >> 20;
		for (size_t i = 0; i < nb; i++)
			b[i] = cop_random_below(&r, COP_NR_DISTANCE_SYMBOLS);
		for (size_t i = 0; i < nc; i++)
			c[i] = cop_random(&r) >> 20;
		la = cop_huf_encode_pair(h, a, n, room.section);
		assert_int_equal(cop_huf_decode_pair(h, ga, n, room.section, la), 0);
		assert_memory_equal(a, ga, n);
		/* One byte more or less is not the section. */
		assert_int_equal(cop_huf_decode_pair(h, ga, n, room.section, la + 1), -EBADMSG);

		lb = cop_huf_encode_pair(hb, b, nb, room.section + la);
		lc = 3 + cop_huf_encode(h, c, nc, true, room.section + la + lb + 3);
		memset(ga, 0, sizeof(ga));
		assert_int_equal(
			cop_huf_decode_mixed(
				&(struct cop_huf_part){h, ga, n, room.section, la},
				&(struct cop_huf_part){hb, gb, nb, room.section + la, lb},
				&(struct cop_huf_part){h, gc, nc, room.section + la + lb, lc},
				&used),
			0);
		assert_int_equal(used, lc - 3);
		assert_memory_equal(a, ga, n);
		assert_memory_equal(b, gb, nb);
		assert_memory_equal(c, gc, nc);
		if (n >= 256) {
			size_t half = cop_huf_half(n),
			       mid = cop_huf_encode_pair(h, a, half, room.section);

			la = mid + cop_huf_encode_pair(h, a + half, n - half, room.section + mid);
			memset(ga, 0, sizeof(ga));
			assert_int_equal(cop_huf_decode4(h, ga, n, room.section, mid, la), 0);
			assert_memory_equal(a, ga, n);
			assert_int_equal(cop_huf_decode4(h, ga, n, room.section, la + 1, la),
					 -EBADMSG);
		}
	}
	cop_model_free(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_lengths_are_complete),
		cmocka_unit_test(test_incomplete_codes_are_refused),
		cmocka_unit_test(test_built_in_model_is_the_documented_one),
		cmocka_unit_test(test_every_count_comes_back),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
