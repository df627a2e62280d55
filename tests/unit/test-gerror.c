/* SPDX-License-Identifier: MIT */
/* test-gerror.c: codes, their words in the API, messages and hints. */
#include "unit.h"

#include <errno.h>

/* Catches: a code without a word or status, or two codes that clients can't tell apart. */
static void test_every_code_has_a_word(void **state)
{
	g_autoptr(GHashTable) seen = g_hash_table_new(g_str_hash, g_str_equal);

	for (int code = COP_ERR_BAD_REQUEST; code <= COP_ERR_INTERNAL; code++) {
		g_autoptr(GError) error = g_error_new_literal(COP_ERROR, code, "x");
		unsigned status = cop_gerror_http_status(error);

		assert_non_null(cop_gerror_word(error));
		assert_true(g_hash_table_add(seen, (char *)cop_gerror_word(error)));
		assert_true(status >= 400 && status < 600);
	}
}

/* Catches: an index past the table for errors of other libraries, or from a damaged value. */
static void test_foreign_errors_are_internal(void **state)
{
	static const int codes[] = {-1, COP_ERR_INTERNAL + 1, 1000000};
	g_autoptr(GError) foreign = g_error_new_literal(G_FILE_ERROR, G_FILE_ERROR_NOENT, "x");

	assert_string_equal(cop_gerror_word(foreign), "internal");
	assert_int_equal(cop_gerror_http_status(foreign), 500);
	for (size_t i = 0; i < G_N_ELEMENTS(codes); i++) {
		g_autoptr(GError) error = g_error_new_literal(COP_ERROR, codes[i], "x");

		assert_string_equal(cop_gerror_word(error), "internal");
	}
}

/* Catches: a hint that is lost, cut at a later line break, or left in the message. */
static void test_message_and_hint(void **state)
{
	static const struct {
		const char *all, *message, *hint;
	} cases[] = {
		{"it failed", "it failed", ""},
		{"it failed\ntry this", "it failed", "try this"},
		{"it failed\ntry this\nor that", "it failed", "try this\nor that"},
		{"it failed\n", "it failed", ""},
		{"\nhint", "", "hint"},
		{"", "", ""},
	};

	for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
		g_autoptr(GError) error = g_error_new_literal(COP_ERROR, 0, cases[i].all);
		g_autofree char *message = cop_gerror_message(error);
		g_autofree char *hint = cop_gerror_hint(error);

		assert_string_equal(message, cases[i].message);
		assert_string_equal(hint, cases[i].hint);
	}
}

/* Catches: the cause overwritten by what went wrong while cleaning up; a crash without a GError. */
static void test_first_error_wins(void **state)
{
	GError *error = NULL;

	assert_false(cop_gerror_set(&error, COP_ERR_BUSY, "first %d", 1));
	assert_false(cop_gerror_set(&error, COP_ERR_LIMIT, "second"));
	expect_error(&error, COP_ERR_BUSY, "first 1");
	assert_false(cop_gerror_set(NULL, COP_ERR_BUSY, "nobody listens"));
	assert_false(cop_gerror_errno(NULL, ENOENT, "nobody listens"));
}

/* Catches: a full disk reported as a bug of ours, a missing file as an internal error. */
static void test_errno(void **state)
{
	static const struct {
		int errnum;
		enum cop_error_code code;
		gboolean hint;
	} cases[] = {
		{ENOSPC, COP_ERR_NO_SPACE, TRUE},   {EDQUOT, COP_ERR_NO_SPACE, TRUE},
		{ENOENT, COP_ERR_NOT_FOUND, FALSE}, {EACCES, COP_ERR_INTERNAL, FALSE},
		{EIO, COP_ERR_INTERNAL, FALSE},
	};

	for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
		GError *error = NULL;
		g_autofree char *hint = NULL;

		assert_false(cop_gerror_errno(&error, cases[i].errnum, "cannot open %s", "/x"));
		assert_true(g_str_has_prefix(error->message, "cannot open /x: "));
		assert_non_null(strstr(error->message, g_strerror(cases[i].errnum)));
		hint = cop_gerror_hint(error);
		assert_int_equal(*hint != '\0', cases[i].hint);
		expect_error(&error, cases[i].code, "/x");
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_every_code_has_a_word),
		cmocka_unit_test(test_foreign_errors_are_internal),
		cmocka_unit_test(test_message_and_hint),
		cmocka_unit_test(test_first_error_wins),
		cmocka_unit_test(test_errno),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
