/* test-coders.c - every coder gives every page back, and no payload makes a decoder misbehave. */
#include "mem-test.h"

/* Pages that coders find hard: what they special-case, and its neighbours. */
static void adversarial(unsigned int nr, uint64_t *r, uint8_t *page, uint8_t *dict)
{
	unsigned int period = nr % 70 + 1;

	for (unsigned int i = 0; i < COP_PAGE_BYTES; i++)
		dict[i] = cop_random(r) >> 33;
	switch (nr / 70 % 8) {
	case 0: /* every short period */
		for (unsigned int i = 0; i < COP_PAGE_BYTES; i++)
			page[i] = i < period ? cop_random(r) >> 9 : page[i - period];
		break;
	case 1: /* the dictionary, shifted */
		for (unsigned int i = 0; i < COP_PAGE_BYTES; i++)
			page[i] = dict[(i + period) % COP_PAGE_BYTES];
		break;
	case 2: /* the dictionary but for one byte, first and last included */
		memcpy(page, dict, COP_PAGE_BYTES);
		page[period == 1   ? 0
		     : period == 2 ? 4095
				   : cop_random_below(r, 4096)] ^= 1 + period;
		break;
	case 3: /* matches of every length, separated */
		memcpy(page, dict, COP_PAGE_BYTES);
		for (unsigned int i = period; i < COP_PAGE_BYTES; i += period + 1)
			page[i] ^= 0x55;
		break;
	case 4: /* all one value, then one long literal run */
		memset(page, period, COP_PAGE_BYTES);
		memcpy(page + 4096 - period * 50, dict, period * 50);
		break;
	case 5: /* few symbols, no repetition worth it */
		for (unsigned int i = 0; i < COP_PAGE_BYTES; i++)
			page[i] = cop_random_below(r, 1 + period / 4);
		break;
	case 6: /* every distance: a mark far back */
		memset(page, 0, COP_PAGE_BYTES);
		for (unsigned int i = 0; i + 8 <= COP_PAGE_BYTES; i += 16 + period)
			cop_store64(page + i, 0x1122334455667788ull + i * period % 5);
		break;
	default: /* a zstd dictionary's magic as the template */
		cop_store32(dict, 0xec30a437);
		memcpy(page, dict, COP_PAGE_BYTES);
		memset(page + period * 30, 7, 100);
	}
}

static void make(unsigned int nr, uint64_t *r, uint8_t *page, uint8_t *dict)
{
	if (nr < 560) {
		adversarial(nr, r, page, dict);
		return;
	}
	cop_pagegen(nr % COP_NR_PAGE_KINDS, 11, nr, page, dict);
	if (nr & 8) /* something like it as the dictionary */
		cop_pagegen(nr % COP_NR_PAGE_KINDS, 11, nr + 512, dict,
			    (uint8_t[COP_PAGE_BYTES]){0});
}

static int decode(struct codec *c, unsigned int coder, const uint8_t *payload, size_t n,
		  const uint8_t *dict)
{
	return cop_coders[coder].decode(c->d, payload, n,
					cop_coders[coder].dict == COP_DICT_NONE ? NULL : dict);
}

static size_t encode(struct codec *c, unsigned int coder, const uint8_t *page, const uint8_t *dict,
		     int level, uint8_t *payload)
{
	return cop_coders[coder].encode(
		c->e, page, cop_coders[coder].dict == COP_DICT_NONE ? NULL : dict, level, payload);
}

/* Catches: any page that a coder accepts and doesn't give back byte for byte. */
static void test_round_trip(void **state)
{
	struct codec c = codec_new();
	unsigned int used[COP_NR_CODERS] = {0};
	uint64_t r = 5;

	for (unsigned int nr = 0; nr < 3000; nr++) {
		static uint8_t page[COP_PAGE_BYTES], dict[COP_PAGE_BYTES], payload[COP_PAYLOAD_MAX];

		make(nr, &r, page, dict);
		for (unsigned int k = 0; k < COP_NR_CODERS; k++) {
			int level =
				k == COP_CODER_ZSTD_TEMPLATE ? nr % 16 == 0 ? 2 : 0 : (int)nr % 3;
			size_t n = encode(&c, k, page, dict, level, payload);

			assert_true(n <= COP_PAYLOAD_MAX);
			if (!n)
				continue;
			used[k]++;
			assert_int_equal(decode(&c, k, payload, n, dict), 0);
			assert_memory_equal(cop_decoder_page(c.d), page, COP_PAGE_BYTES);
		}
	}
	for (unsigned int k = 0; k < COP_NR_CODERS; k++)
		assert_true(used[k] > 10);
	codec_free(&c);
}

/*
 * Catches: decoders that trust a payload. Truncated, lengthened or altered ones give 0 or -EBADMSG;
 * with the address sanitizer this also finds reads and writes out of bounds, for the payload ends
 * where its allocation ends.
 */
static void test_damaged_payloads(void **state)
{
	struct codec c = codec_new();
	uint64_t r = 6;
	unsigned int refused = 0, tried = 0;

	for (unsigned int nr = 0; nr < 1200; nr++) {
		static uint8_t page[COP_PAGE_BYTES], dict[COP_PAGE_BYTES], payload[COP_PAYLOAD_MAX];

		make(nr % 2 ? nr : nr + 600, &r, page, dict);
		for (unsigned int k = 0; k < COP_NR_CODERS; k++) {
			size_t n = encode(&c, k, page, dict, 0, payload);

			for (unsigned int i = 0; n && i < 12; i++) {
				size_t len = i < 4 ? cop_random_below(&r, n) : n;
				uint8_t *copy = malloc(len + !len);
				int e;

				memcpy(copy, payload, len);
				for (unsigned int j = 0; len && i >= 4 && j < i / 3; j++)
					copy[cop_random_below(&r, i & 1	     ? len
								  : len < 16 ? len
									     : 16)] =
						cop_random(&r) >> 17;
				e = decode(&c, k, copy, len, dict);
				assert_true(e == 0 || e == -EBADMSG);
				refused += e != 0;
				tried++;
				free(copy);
			}
		}
	}
	assert_true(refused > tried / 3);
	codec_free(&c);
}

/* Catches: a truncated plz or raw payload taken for a page: every length but the right one is
 * refused. */
static void test_every_truncation_is_refused(void **state)
{
	struct codec c = codec_new();
	static uint8_t page[COP_PAGE_BYTES], dict[COP_PAGE_BYTES], payload[COP_PAYLOAD_MAX];
	const unsigned int coders[] = {COP_CODER_RAW, COP_CODER_PLZ, COP_CODER_PLZ_TEMPLATE};

	for (unsigned int kind = 0; kind < COP_NR_PAGE_KINDS; kind++) {
		cop_pagegen(kind, 3, 17, page, dict);
		for (unsigned int i = 0; i < 3; i++) {
			size_t n = encode(&c, coders[i], page, dict, 1, payload);

			for (size_t len = 0; len < n; len++)
				assert_int_equal(decode(&c, coders[i], payload, len, dict),
						 -EBADMSG);
		}
	}
	codec_free(&c);
}

/* Catches: lengths at the edges of what a token, one symbol and two symbols can say; all of them.
 */
static void test_every_length(void **state)
{
	struct cop_model *m = cop_model_new();
	struct cop_encoder *e = cop_encoder_new(m);
	struct cop_decoder *d = cop_decoder_new(m);
	static uint8_t page[COP_PAGE_BYTES], dict[COP_PAGE_BYTES], payload[COP_PAYLOAD_MAX];
	uint64_t r = 9;

	assert_non_null(d);
	for (unsigned int i = 0; i < COP_PAGE_BYTES; i++) {
		dict[i] = cop_random(&r) >> 33;
		page[i] = cop_random(&r) >> 33;
	}
	/* i literals, then a copy of all the rest. */
	for (unsigned int i = 0; i <= COP_PAGE_BYTES - 8; i++) {
		size_t n;

		memcpy(page + i, dict + i, COP_PAGE_BYTES - i);
		n = cop_plz_encode(e, page, dict, i & 1, payload);
		if (i < COP_PAGE_BYTES - 64) {
			assert_true(n);
			assert_in_range(e->lz.nr_seqs, 1, 16);
		}
		if (n) {
			assert_int_equal(cop_plz_decode(d, payload, n, dict), 0);
			assert_memory_equal(cop_decoder_page(d), page, COP_PAGE_BYTES);
		}
		page[i] = ~dict[i];
	}
	cop_decoder_free(d);
	cop_encoder_free(e);
	cop_model_free(m);
}

/* Catches: a decoder whose result depends on what it decoded before (stale symbols, stale window).
 */
static void test_decoding_has_no_memory(void **state)
{
	struct codec c = codec_new(), fresh = codec_new();
	static uint8_t page[COP_PAGE_BYTES], dict[COP_PAGE_BYTES], payload[COP_PAYLOAD_MAX];
	uint64_t r = 8;

	for (unsigned int nr = 600; nr < 900; nr++) {
		size_t n;

		make(nr, &r, page, dict);
		n = encode(&c, COP_CODER_PLZ_TEMPLATE, page, dict, 1, payload);
		if (!n)
			continue;
		assert_int_equal(decode(&c, COP_CODER_PLZ_TEMPLATE, payload, n, dict), 0);
		assert_int_equal(decode(&fresh, COP_CODER_PLZ_TEMPLATE, payload, n, dict), 0);
		assert_memory_equal(cop_decoder_page(c.d), cop_decoder_page(fresh.d),
				    COP_PAGE_BYTES);
	}
	codec_free(&c);
	codec_free(&fresh);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_round_trip),
		cmocka_unit_test(test_damaged_payloads),
		cmocka_unit_test(test_every_truncation_is_refused),
		cmocka_unit_test(test_every_length),
		cmocka_unit_test(test_decoding_has_no_memory),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
