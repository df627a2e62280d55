/* SPDX-License-Identifier: MIT */
/* test-shim-config.c: the grammar of COPPICE_SHIM, strictly. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "shim/config.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define GOOD "1:listen=5:ram=6:mode=private:dev=64:ino=1234:size=1073741824"

/* Catches: a value that ends up in the wrong field. */
static void test_good(void **state)
{
	struct cop_shim_config c;

	assert_int_equal(cop_shim_config_parse(GOOD, &c), 0);
	assert_int_equal(c.listen_fd, 5);
	assert_int_equal(c.ram_fd, 6);
	assert_int_equal(c.mode, COP_SHIM_MODE_PRIVATE);
	assert_int_equal(c.uid, 0);
	assert_int_equal(c.dev, 64);
	assert_int_equal(c.ino, 1234);
	assert_int_equal(c.size_bytes, 1 << 30);
	assert_int_equal(c.uffd_dev_fd, -1);
	assert_int_equal(cop_shim_config_parse(GOOD ":uffd=0", &c), 0);
	assert_int_equal(c.uffd_dev_fd, 0);
	assert_int_equal(cop_shim_config_parse(GOOD ":uffd=7", &c), 0);
	assert_int_equal(c.uffd_dev_fd, 7);
	assert_int_equal(
		cop_shim_config_parse("1:size=4096:uid=65534:mode=shared:ino=18446744073709551615"
				      ":dev=0:ram=2147483647:listen=3",
				      &c),
		0);
	assert_int_equal(c.mode, COP_SHIM_MODE_SHARED);
	assert_int_equal(c.uid, 65534);
	assert_true(c.ino == UINT64_MAX);
	assert_int_equal(c.ram_fd, 2147483647);
	assert_int_equal(c.listen_fd, 3);
}

/* Catches: any leniency; and a listen descriptor that is lost or made up. */
static void test_malformed(void **state)
{
	static const struct {
		const char *text;
		int listen_fd;
	} cases[] = {
		{"", -1},
		{"1", -1},
		{"1:", -1},
		{"2" GOOD, 5},
		{"01:listen=5:ram=6:mode=private:dev=64:ino=1234:size=4096", 5},
		{"2:listen=5:ram=6:mode=private:dev=64:ino=1234:size=4096", 5},
		{GOOD ":", 5},
		{"1::listen=5:ram=6:mode=private:dev=64:ino=1234:size=4096", 5},
		{GOOD ":extra=1", 5},
		{GOOD ":uffd=1", 5},
		{GOOD ":uffd=2", 5},
		{GOOD ":uffd=5", 5}, /* listen */
		{GOOD ":uffd=6", 5}, /* ram */
		{GOOD ":uffd=-1", 5},
		{GOOD ":uffd=", 5},
		{GOOD ":uffd=2147483648", 5},
		{GOOD ":uffd=7:uffd=7", 5},
		{GOOD ":listen=7", 5},
		{GOOD ":size=1073741824", 5},
		{GOOD " ", 5},
		{" " GOOD, 5},
		{"1:listen=5:ram=5:mode=private:dev=64:ino=1234:size=4096", 5},
		{"1:listen=2:ram=6:mode=private:dev=64:ino=1234:size=4096", -1},
		{"1:listen=5:ram=0:mode=private:dev=64:ino=1234:size=4096", 5},
		{"1:listen=-5:ram=6:mode=private:dev=64:ino=1234:size=4096", -1},
		{"1:listen=+5:ram=6:mode=private:dev=64:ino=1234:size=4096", -1},
		{"1:listen=05:ram=6:mode=private:dev=64:ino=1234:size=4096", -1},
		{"1:listen=0x5:ram=6:mode=private:dev=64:ino=1234:size=4096", -1},
		{"1:listen=2147483648:ram=6:mode=private:dev=64:ino=1234:size=4096", -1},
		{"1:listen=4294967301:ram=6:mode=private:dev=64:ino=1234:size=4096", -1},
		{"1:listen=18446744073709551621:ram=6:mode=private:dev=64:ino=1:size=4096", -1},
		{"1:listen=:ram=6:mode=private:dev=64:ino=1234:size=4096", -1},
		{"1:listen=5:ram=6:mode=Private:dev=64:ino=1234:size=4096", 5},
		{"1:listen=5:ram=6:mode=:dev=64:ino=1234:size=4096", 5},
		{"1:listen=5:ram=6:mode=privat:dev=64:ino=1234:size=4096", 5},
		{"1:listen=5:ram=6:mode=private:dev=64:ino=0:size=4096", 5},
		{"1:listen=5:ram=6:mode=private:dev=64:ino=1234:size=0", 5},
		{"1:listen=5:ram=6:mode=private:dev=64:ino=1234:size=4097", 5},
		{"1:listen=5:ram=6:mode=private:dev=64:ino=1234:size=9223372036854775808", 5},
		{"1:listen=5:ram=6:mode=private:dev=64:ino=1234:size=4096:uid=4294967295", 5},
		{"1:listen=5:ram=6:mode=private:dev=64:ino=1234", 5},
		{"1:listen=5:ram=6:mode=private:dev=64:size=4096", 5},
		{"1:listen=5:ram=6:mode=private:ino=1234:size=4096", 5},
		{"1:listen=5:ram=6:dev=64:ino=1234:size=4096", 5},
		{"1:listen=5:mode=private:dev=64:ino=1234:size=4096", 5},
		{"1:ram=6:mode=private:dev=64:ino=1234:size=4096", -1},
		{"1,listen=5,ram=6,mode=private,dev=64,ino=1234,size=4096", -1},
		{"1:xlisten=5:ram=6", -1},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct cop_shim_config c;

		if (cop_shim_config_parse(cases[i].text, &c) != -EINVAL)
			fail_msg("accepted: %s", cases[i].text);
		if (c.listen_fd != cases[i].listen_fd)
			fail_msg("listen=%d from %s", c.listen_fd, cases[i].text);
		assert_int_equal(c.ram_fd, -1);
		assert_int_equal(c.uffd_dev_fd, -1);
		assert_int_equal(c.size_bytes, 0);
	}
}

/* Catches (with the sanitizers): reads beyond the end. What is accepted must come out the same
 * again. */
static void test_mutations(void **state)
{
	uint64_t random = 88172645463325252ull;

	for (int round = 0; round < 200000; round++) {
		char text[sizeof(GOOD)] = GOOD, again[256], *exact;
		struct cop_shim_config a, b;

		for (int i = 0; i < 1 + round % 3; i++) {
			random ^= random << 13;
			random ^= random >> 7;
			random ^= random << 17;
			text[random % (sizeof(GOOD) - 1)] = ":=0123456789lrmdis"[random / 64 % 19];
		}
		exact = strdup(text); /* so that the sanitizer sees its end */
		if (cop_shim_config_parse(exact, &a) == 0) {
			snprintf(again, sizeof(again),
				 "1:listen=%d:ram=%d:mode=%s:dev=%ju:ino=%ju:size=%zu", a.listen_fd,
				 a.ram_fd, a.mode == COP_SHIM_MODE_SHARED ? "shared" : "private",
				 (uintmax_t)a.dev, (uintmax_t)a.ino, a.size_bytes);
			assert_string_equal(again, text);
			assert_int_equal(cop_shim_config_parse(again, &b), 0);
		}
		free(exact);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_good),
		cmocka_unit_test(test_malformed),
		cmocka_unit_test(test_mutations),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
