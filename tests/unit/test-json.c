/* SPDX-License-Identifier: MIT */
/* test-json.c: strict reading of what users, files and a guest's QEMU say. */
#include "unit.h"

static char *dir;

static int setup(void **state)
{
	dir = scratch_new();
	return 0;
}

static int teardown(void **state)
{
	scratch_free(dir);
	return 0;
}

static JsonObject *parse(const char *text)
{
	GError *error = NULL;
	JsonObject *obj = cop_json_parse(text, -1, &error);

	expect_no_error(error);
	assert_non_null(obj);
	return obj;
}

/* One member of every type. */
#define ALL                                                                                        \
	"{\"s\":\"text\",\"i\":-7,\"d\":1.5,\"b\":true,\"n\":null,\"o\":{\"x\":1},\"a\":[\"p\","   \
	"\"q\"],\"m\":[\"p\",1],\"e\":[]}"

/* Catches: a number taken for a string or the other way, a default in place of an error. */
static void test_wrong_types(void **state)
{
	static const char *const keys[] = {"s", "i", "d", "b", "o", "a"};
	g_autoptr(JsonObject) obj = parse(ALL);

	for (size_t i = 0; i < G_N_ELEMENTS(keys); i++) {
		const char *key = keys[i];
		g_autofree char *named = g_strdup_printf("'%s'", key);
		GError *error = NULL;

		if (*key != 's') {
			assert_string_equal(cop_json_str(obj, key, "z", &error), "z");
			expect_error(&error, COP_ERR_BAD_REQUEST, named);
		}
		if (*key != 'i') {
			assert_int_equal(cop_json_int(obj, key, 5, &error), 5);
			expect_error(&error, COP_ERR_BAD_REQUEST, named);
		}
		if (*key != 'b') {
			assert_true(cop_json_bool(obj, key, TRUE, &error));
			expect_error(&error, COP_ERR_BAD_REQUEST, named);
		}
		if (*key != 'a') {
			assert_null(cop_json_strv(obj, key, &error));
			expect_error(&error, COP_ERR_BAD_REQUEST, named);
			assert_null(cop_json_arr(obj, key));
		}
		if (*key != 'o')
			assert_null(cop_json_obj(obj, key));
	}
}

/* Catches: a value that is there replaced by the default, null not counted as absent. */
static void test_right_types_and_defaults(void **state)
{
	static const char *const absent[] = {"nothing", "n"};
	g_autoptr(JsonObject) obj = parse(ALL);
	g_auto(GStrv) strv = NULL, empty = NULL;
	GError *error = NULL;

	assert_string_equal(cop_json_str(obj, "s", "z", &error), "text");
	assert_int_equal(cop_json_int(obj, "i", 5, &error), -7);
	assert_true(cop_json_bool(obj, "b", FALSE, &error));
	assert_true(cop_json_double(obj, "d", 0) == 1.5);
	assert_true(cop_json_double(obj, "i", 0) == -7);
	assert_true(cop_json_double(obj, "o", 3) == 3);
	assert_int_equal(cop_json_int(cop_json_obj(obj, "o"), "x", 0, &error), 1);
	assert_int_equal(json_array_get_length(cop_json_arr(obj, "a")), 2);
	strv = cop_json_strv(obj, "a", &error);
	assert_int_equal(g_strv_length(strv), 2);
	assert_string_equal(strv[1], "q");
	empty = cop_json_strv(obj, "e", &error);
	assert_non_null(empty); /* not the same as absent */
	assert_null(empty[0]);
	expect_no_error(error);
	assert_null(cop_json_strv(obj, "m", &error));
	expect_error(&error, COP_ERR_BAD_REQUEST, "'m'");
	for (size_t i = 0; i < G_N_ELEMENTS(absent); i++) {
		assert_string_equal(cop_json_str(obj, absent[i], "z", &error), "z");
		assert_null(cop_json_str(obj, absent[i], NULL, &error));
		assert_int_equal(cop_json_int(obj, absent[i], 5, &error), 5);
		assert_true(cop_json_bool(obj, absent[i], TRUE, &error));
		assert_true(cop_json_double(obj, absent[i], 2.5) == 2.5);
		assert_null(cop_json_strv(obj, absent[i], &error));
		assert_null(cop_json_obj(obj, absent[i]));
		assert_null(cop_json_arr(obj, absent[i]));
	}
	expect_no_error(error);
}

/* Catches: a crash when the object itself is missing, as in a damaged manifest. */
static void test_no_object(void **state)
{
	GError *error = NULL;

	assert_string_equal(cop_json_str(NULL, "k", "z", &error), "z");
	assert_int_equal(cop_json_int(NULL, "k", 5, &error), 5);
	assert_true(cop_json_bool(NULL, "k", TRUE, &error));
	assert_null(cop_json_strv(NULL, "k", &error));
	assert_null(cop_json_obj(NULL, "k"));
	assert_null(cop_json_arr(NULL, "k"));
	expect_no_error(error);
}

/* Catches: the second wrong member reported, or an error set over an error. */
static void test_first_wrong_member_wins(void **state)
{
	g_autoptr(JsonObject) obj = parse(ALL);
	GError *error = NULL;

	cop_json_int(obj, "s", 0, &error);
	cop_json_str(obj, "i", NULL, &error);
	expect_error(&error, COP_ERR_BAD_REQUEST, "'s'");
	cop_json_int(obj, "s", 0, NULL); /* nobody listens */
}

/* Catches: a misspelt member of a request that is silently ignored. */
static void test_unknown_members(void **state)
{
	static const char *const all[] = {"s", "i", "d", "b", "n", "o", "a", "m", "e", NULL};
	static const char *const some[] = {"s", "i", "d", "b", "n", "o", "a", "m", NULL};
	static const char *const none[] = {NULL};
	g_autoptr(JsonObject) obj = parse(ALL), empty = parse("{}");
	GError *error = NULL;

	assert_true(cop_json_only(obj, all, &error));
	assert_true(cop_json_only(empty, none, &error));
	expect_no_error(error);
	assert_false(cop_json_only(obj, some, &error));
	expect_error(&error, COP_ERR_BAD_REQUEST, "'e'");
}

/* `{"a":` and brackets: 1 + nr levels. */
static char *nested(unsigned nr, gboolean closed)
{
	GString *s = g_string_new("{\"a\":");

	for (unsigned i = 0; i < nr; i++)
		g_string_append_c(s, '[');
	for (unsigned i = 0; closed && i < nr; i++)
		g_string_append_c(s, ']');
	if (closed)
		g_string_append_c(s, '}');
	return g_string_free(s, FALSE);
}

/* Catches: a stack overflow in the parser from a deep text; an off-by-one that refuses 64. */
static void test_depth(void **state)
{
	g_autofree char *ok = nested(63, TRUE);
	g_autoptr(JsonObject) obj = parse(ok);

	for (unsigned nr = 64; nr <= 100000; nr = nr == 64 ? 100000 : nr + 1) {
		for (int closed = 0; closed < 2; closed++) {
			g_autofree char *text = nested(nr, closed);
			GError *error = NULL;

			assert_null(cop_json_parse(text, -1, &error));
			expect_error(&error, COP_ERR_BAD_REQUEST, "nested deeper than 64");
		}
	}
}

/* Catches: brackets in strings counted as levels, or quotes behind a backslash ending a string. */
static void test_depth_in_strings(void **state)
{
	g_autoptr(GString) text = g_string_new("{\"a\":\"\\\"\\\\\\\"");
	g_autoptr(JsonObject) obj = NULL;

	for (int i = 0; i < 1000; i++)
		g_string_append(text, "[{");
	g_string_append(text, "\\\"\"}");
	obj = parse(text->str);
	assert_int_equal(strlen(cop_json_str(obj, "a", "", NULL)), 2004);
	{
		g_autoptr(GString) hidden = g_string_new("{\"a\\\\\":");
		GError *error = NULL;

		for (int i = 0; i < 1000; i++)
			g_string_append_c(hidden, '[');
		assert_null(cop_json_parse(hidden->str, -1, &error));
		expect_error(&error, COP_ERR_BAD_REQUEST, "nested");
	}
}

/* Catches: levels hidden from the count behind what json-glib takes beyond JSON: a quote in a
 * comment or in a string with single quotes. */
static void test_depth_behind_a_lone_quote(void **state)
{
	static const char *const starts[] = {
		"{/*\"*/\"a\":", "{'\"':", "{//\"\n\"a\":", "{\"a\":\"'\",'\"':"};


	for (size_t i = 0; i < G_N_ELEMENTS(starts); i++) {
		g_autoptr(GString) text = g_string_new(starts[i]);
		GError *error = NULL;

		for (int j = 0; j < 100; j++)
			g_string_append_c(text, '[');
		for (int j = 0; j < 100; j++)
			g_string_append_c(text, ']');
		g_string_append_c(text, '}');
		assert_null(cop_json_parse(text->str, -1, &error));
		g_clear_error(&error);
	}
}

/* Catches: a half-written file or a cut line taken for a whole object. */
static void test_truncated(void **state)
{
	for (size_t len = 0; len < strlen(ALL); len++) {
		GError *error = NULL;

		assert_null(cop_json_parse(ALL, (gssize)len, &error));
		assert_true(error && error->code == COP_ERR_BAD_REQUEST);
		g_clear_error(&error);
	}
}

/* Catches: text that is no object, or junk, that gets through or crashes. */
static void test_bad_text(void **state)
{
	static const char *const texts[] = {
		"",
		" ",
		"null",
		"1",
		"\"x\"",
		"[]",
		"[{}]",
		"{",
		"}",
		"{}}",
		"{\"a\" 1}",
		"{\"a\":}",
		"{a:1}",
		"{\"a\":1,}",
		"{\"a\":tru}",
		"{\"a\":--1}",
		"{\"a\":[1 2]}",
		"{\"a\":NaN}",
		"\xff\xfe{}",
		"{\"a\":\"\xc3\x28\"}",
		"{\"a\":\"\\ud800\"}",
		"{} x",
	};

	for (size_t i = 0; i < G_N_ELEMENTS(texts); i++) {
		GError *error = NULL;

		if (cop_json_parse(texts[i], -1, &error))
			fail_msg("accepted: %s", texts[i]);
		expect_error(&error, COP_ERR_BAD_REQUEST, "");
	}
}

/* Catches: figures that change on their way through a manifest. */
static void test_print_and_parse(void **state)
{
	static const gint64 figures[] = {0, 1, -1, G_MAXINT64, G_MININT64, 1ll << 53};
	const char *odd = "\"\\\n\t\x01 \xc3\xa9 </x>";

	for (int pretty = 0; pretty < 2; pretty++) {
		for (size_t i = 0; i < G_N_ELEMENTS(figures); i++) {
			g_autoptr(JsonObject) obj = json_object_new(), back = NULL;
			g_autofree char *text = NULL;
			char *list[] = {"a", "", "b c", NULL};
			g_auto(GStrv) strv = NULL;

			json_object_set_int_member(obj, "i", figures[i]);
			cop_json_set_str(obj, odd, odd);
			cop_json_set_str(obj, "none", NULL);
			cop_json_set_strv(obj, "l", list);
			cop_json_set_strv(obj, "nothing", NULL);
			text = cop_json_print(obj, pretty);
			assert_int_equal(strchr(text, '\n') != NULL, pretty);
			back = parse(text);
			assert_true(cop_json_int(back, "i", 5, NULL) == figures[i]);
			assert_string_equal(cop_json_str(back, odd, "", NULL), odd);
			assert_null(cop_json_str(back, "none", NULL, NULL));
			strv = cop_json_strv(back, "l", NULL);
			assert_true(
				g_strv_equal((const char *const *)strv, (const char *const *)list));
			assert_int_equal(json_array_get_length(cop_json_arr(back, "nothing")), 0);
		}
	}
}

/* Catches: a file that is readable for others, a left-over beside it, an old version read back. */
static void test_save_and_load(void **state)
{
	g_autofree char *path = g_build_filename(dir, "x.json", NULL);
	GError *error = NULL;

	for (int round = 0; round < 4; round++) {
		g_autoptr(JsonObject) obj = json_object_new(), back = NULL;
		struct stat st;

		json_object_set_int_member(obj, "round", round);
		assert_true(cop_json_save(path, obj, round & 1, &error));
		expect_no_error(error);
		assert_int_equal(stat(path, &st), 0);
		assert_int_equal(st.st_mode & 07777, 0600);
		assert_int_equal(nr_files(dir), 1);
		back = cop_json_load(path, &error);
		expect_no_error(error);
		assert_int_equal(cop_json_int(back, "round", -1, NULL), round);
	}
	assert_int_equal(unlink(path), 0);
}

/* Catches: an error that does not say which file; memory filled from a file that grew. */
static void test_load_failures(void **state)
{
	g_autofree char *path = g_build_filename(dir, "x.json", NULL);
	g_autofree char *nowhere = g_build_filename(dir, "no", "x.json", NULL);
	g_autoptr(JsonObject) empty = json_object_new();
	GError *error = NULL;

	assert_null(cop_json_load(path, &error));
	expect_error(&error, COP_ERR_NOT_FOUND, path);
	write_file(path, "{\"a\":");
	assert_null(cop_json_load(path, &error));
	expect_error(&error, COP_ERR_BAD_REQUEST, path);
	write_file(path, "{}");
	assert_int_equal(truncate(path, 16 * 1024 * 1024 + 1), 0);
	assert_null(cop_json_load(path, &error));
	expect_error(&error, COP_ERR_DAMAGED, path);
	assert_int_equal(unlink(path), 0);
	assert_int_equal(symlink("/etc/hostname", path), 0);
	assert_null(cop_json_load(path, &error));
	expect_error(&error, COP_ERR_INTERNAL, path);
	assert_int_equal(unlink(path), 0);
	assert_false(cop_json_save(nowhere, empty, TRUE, &error));
	expect_error(&error, COP_ERR_NOT_FOUND, nowhere);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_wrong_types),
		cmocka_unit_test(test_right_types_and_defaults),
		cmocka_unit_test(test_no_object),
		cmocka_unit_test(test_first_wrong_member_wins),
		cmocka_unit_test(test_unknown_members),
		cmocka_unit_test(test_depth),
		cmocka_unit_test(test_depth_in_strings),
		cmocka_unit_test(test_depth_behind_a_lone_quote),
		cmocka_unit_test(test_truncated),
		cmocka_unit_test(test_bad_text),
		cmocka_unit_test(test_print_and_parse),
		cmocka_unit_test(test_save_and_load),
		cmocka_unit_test(test_load_failures),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
