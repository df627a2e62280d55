/* SPDX-License-Identifier: MIT */
/* test-cli-text.c: the client's text functions, without a program around them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "cli/search.h"
#include "cli/text.h"

#include <string.h>

/* Catches: a size that overflows, a unit or rest that is accepted by mistake. */
static void test_parse_size(void **state)
{
	static const struct {
		const char *text;
		uint64_t bytes;
	} good[] = {
		{"0", 0},
		{"1", 1},
		{"1K", 1024},
		{"512M", 512ull << 20},
		{"1G", 1ull << 30},
		{"1GiB", 1ull << 30},
		{"2gb", 2ull << 30},
		{"7b", 7},
		{"3tIb", 3ull << 40},
		{"9223372036854775807", INT64_MAX},
		{"8388607T", 8388607ull << 40},
	};
	static const char *const bad[] = {"",	      "M",
					  "-1",	      "+1",
					  " 1",	      "1 M",
					  "1.5G",     "1X",
					  "1GG",      "1iB",
					  "1Mi",      "0x10",
					  "1P",	      "9223372036854775808",
					  "8388608T", "99999999999999999999",
					  "1M\n",     NULL};
	uint64_t bytes;

	for (size_t i = 0; i < G_N_ELEMENTS(good); i++) {
		bytes = 42;
		assert_true(cop_text_parse_size(good[i].text, &bytes));
		assert_int_equal(bytes, good[i].bytes);
	}
	for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
		bytes = 42;
		assert_false(cop_text_parse_size(bad[i], &bytes));
		assert_int_equal(bytes, 42);
	}
}

/* Catches: signs, blanks and limits. */
static void test_parse_number(void **state)
{
	uint64_t n = 42;

	assert_true(cop_text_parse_number("0", 0, 5, &n));
	assert_int_equal(n, 0);
	assert_true(cop_text_parse_number("5", 1, 5, &n));
	assert_int_equal(n, 5);
	n = 42;
	assert_false(cop_text_parse_number("6", 1, 5, &n));
	assert_false(cop_text_parse_number("0", 1, 5, &n));
	assert_false(cop_text_parse_number("", 0, 5, &n));
	assert_false(cop_text_parse_number("-1", 0, 5, &n));
	assert_false(cop_text_parse_number(" 1", 0, 5, &n));
	assert_false(cop_text_parse_number("1x", 0, 5, &n));
	assert_false(cop_text_parse_number(NULL, 0, 5, &n));
	assert_int_equal(n, 42);
}

/* Catches: a key that is another one, or a text that counts as one. */
static void test_parse_key(void **state)
{
	int key = 7;

	assert_true(cop_text_parse_key("^]", &key));
	assert_int_equal(key, 0x1d);
	assert_true(cop_text_parse_key("^a", &key));
	assert_int_equal(key, 1);
	assert_true(cop_text_parse_key("^", &key));
	assert_int_equal(key, '^');
	assert_true(cop_text_parse_key("none", &key));
	assert_int_equal(key, -1);
	key = 7;
	assert_false(cop_text_parse_key("", &key));
	assert_false(cop_text_parse_key("ab", &key));
	assert_false(cop_text_parse_key("^1", &key));
	assert_false(cop_text_parse_key("^ab", &key));
	assert_false(cop_text_parse_key("\303\244", &key));
	assert_int_equal(key, 7);
}

/* Catches: names that would leave the path of a request. */
static void test_is_name(void **state)
{
	char longest[COP_NAME_MAX + 2];

	memset(longest, 'a', sizeof(longest));
	longest[COP_NAME_MAX + 1] = '\0';
	assert_false(cop_text_is_name(longest));
	longest[COP_NAME_MAX] = '\0';
	assert_true(cop_text_is_name(longest));
	assert_true(cop_text_is_name("0a.b_c-d"));
	assert_false(cop_text_is_name(""));
	assert_false(cop_text_is_name(NULL));
	assert_false(cop_text_is_name(".."));
	assert_false(cop_text_is_name("-a"));
	assert_false(cop_text_is_name("A"));
	assert_false(cop_text_is_name("a/b"));
	assert_false(cop_text_is_name("a b"));
}

static void check_size(uint64_t bytes, const char *want)
{
	g_autofree char *text = cop_text_size(bytes);

	assert_string_equal(text, want);
}

/* Catches: rounding up to "1024 MiB", and figures that lose their unit. */
static void test_size(void **state)
{
	check_size(0, "0");
	check_size(1023, "1023 B");
	check_size(1024, "1.0 KiB");
	check_size(51590000, "49.2 MiB");
	check_size(100ull << 20, "100 MiB");
	check_size((1ull << 30) - 1, "1.0 GiB");
	check_size(1ull << 30, "1.0 GiB");
	check_size(1023ull << 20, "1023 MiB");
	check_size(UINT64_MAX, "16.0 EiB");
}

static void check_duration(double ms, const char *want)
{
	g_autofree char *text = cop_text_duration(ms);

	assert_string_equal(text, want);
}

/* Catches: a wrong unit, and nonsense from numbers that are none. */
static void test_duration(void **state)
{
	check_duration(0, "0 ms");
	check_duration(-5, "0 ms");
	check_duration(__builtin_nan(""), "0 ms");
	check_duration(0.44, "0.4 ms");
	check_duration(61.3, "61 ms");
	check_duration(310, "0.31 s");
	check_duration(2900, "2.9 s");
	check_duration(130000, "130 s");
}

static void check_age(int64_t seconds, const char *want)
{
	g_autofree char *text = cop_text_age(seconds);

	assert_string_equal(text, want);
}

static void test_age(void **state)
{
	check_age(-3, "0s");
	check_age(119, "119s");
	check_age(120, "2m");
	check_age(7199, "119m");
	check_age(7200, "2h");
	check_age(3 * 86400, "3d");
}

static void check_clean(const char *text, const char *want)
{
	g_autofree char *clean = cop_text_clean(text);

	assert_string_equal(clean, want);
}

/* Catches: anything that could steer a terminal and is let through. */
static void test_clean(void **state)
{
	check_clean(NULL, "");
	check_clean("plain", "plain");
	check_clean("a\tb\nc\rd", "a b c?d");
	check_clean("\033[31mred\007", "?[31mred?");
	check_clean("\177", "?");
	check_clean("\302\233"
		    "2J",
		    "?2J"); /* U+009B, a one-byte escape sequence */
	check_clean("\342\200\256"
		    "abc",
		    "?abc");		      /* U+202E turns the text around */
	check_clean("\342\200\250", "?");     /* U+2028, a line separator */
	check_clean("\377x\300\200", "?x??"); /* not UTF-8, and an overlong NUL */
	check_clean("\303\251\344\270\255", "\303\251\344\270\255");
	check_clean("a\342\200", "a??"); /* cut in the middle */
}

static void test_width(void **state)
{
	assert_int_equal(cop_text_width(""), 0);
	assert_int_equal(cop_text_width("abc"), 3);
	assert_int_equal(cop_text_width("\303\251"), 1);
	assert_int_equal(cop_text_width("\344\270\255"), 2);
	assert_int_equal(cop_text_width("e\314\201"), 1);
}

static gboolean feed(struct cop_search *search, const char *text)
{
	return cop_search_feed(search, (const guint8 *)text, strlen(text));
}

/* Catches: a text that is missed where two pieces meet, or found in what was never said. */
static void test_search(void **state)
{
	struct cop_search *search = cop_search_new("abab");

	assert_false(feed(search, ""));
	assert_false(feed(search, "ab"));
	assert_false(feed(search, "aab"));
	assert_false(feed(search, "xabxab"));
	assert_false(feed(search, "a"));
	assert_false(feed(search, "a"));
	assert_false(feed(search, "b"));
	assert_false(feed(search, "a"));
	assert_true(feed(search, "b"));
	assert_true(feed(search, "z"));
	cop_search_free(search);
	search = cop_search_new("x");
	assert_false(feed(search, "abc"));
	assert_true(feed(search, "x"));
	cop_search_free(search);
	cop_search_free(NULL);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_parse_size), cmocka_unit_test(test_parse_number),
		cmocka_unit_test(test_parse_key),  cmocka_unit_test(test_is_name),
		cmocka_unit_test(test_size),	   cmocka_unit_test(test_duration),
		cmocka_unit_test(test_age),	   cmocka_unit_test(test_clean),
		cmocka_unit_test(test_width),	   cmocka_unit_test(test_search),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
