/* SPDX-License-Identifier: MIT */
/* test-files.c: files opened safely, replaced whole, copied, removed. */
#include "unit.h"

#include <errno.h>
#include <fcntl.h>

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

static char *at(const char *name)
{
	return g_build_filename(dir, name, NULL);
}

static void expect_content(const char *path, const char *wanted)
{
	GError *error = NULL;
	gsize len = 0;
	g_autofree char *text = cop_file_read(path, 1 << 20, &len, &error);

	expect_no_error(error);
	assert_string_equal(text, wanted);
	assert_int_equal(len, strlen(wanted));
}

/* Catches: a file written in place (a reader would see half of it), a left-over, a wide mode. */
static void test_replace(void **state)
{
	g_autofree char *path = at("f"), *stale = at("f.new");
	GError *error = NULL;
	struct stat st;
	int old;

	write_file(path, "old");
	old = open(path, O_RDONLY | O_CLOEXEC);
	write_file(stale, "left by a killed daemon");
	for (int durable = 0; durable < 2; durable++) {
		assert_true(cop_file_replace(path, "new", 3, durable, &error));
		expect_no_error(error);
		expect_content(path, "new");
		assert_int_equal(access(stale, F_OK), -1);
		assert_int_equal(stat(path, &st), 0);
		assert_int_equal(st.st_mode & 07777, 0600);
	}
	{
		char buf[8] = "";

		assert_int_equal(read(old, buf, sizeof(buf)), 3); /* whoever has it open has it */
		assert_string_equal(buf, "old");
	}
	close(old);
	assert_int_equal(unlink(path), 0);
}

/* Catches: the old file lost, or a left-over, when the new one can't take its place. */
static void test_replace_fails(void **state)
{
	g_autofree char *folder = at("d"), *stale = at("d.new"), *nowhere = at("no/f");
	GError *error = NULL;

	assert_int_equal(mkdir(folder, 0700), 0);
	assert_false(cop_file_replace(folder, "x", 1, TRUE, &error));
	expect_error(&error, COP_ERR_INTERNAL, "d.new");
	assert_int_equal(access(stale, F_OK), -1);
	assert_int_equal(rmdir(folder), 0);
	assert_false(cop_file_replace(nowhere, "x", 1, FALSE, &error));
	expect_error(&error, COP_ERR_NOT_FOUND, nowhere);
}

/* Catches: a link planted where the new file is written, which would overwrite what it names. */
static void test_replace_ignores_links(void **state)
{
	g_autofree char *victim = at("victim"), *path = at("f"), *stale = at("f.new");
	GError *error = NULL;

	write_file(victim, "precious");
	assert_int_equal(symlink(victim, path), 0);
	assert_int_equal(symlink(victim, stale), 0);
	assert_true(cop_file_replace(path, "new", 3, FALSE, &error));
	expect_content(victim, "precious");
	expect_content(path, "new"); /* and is no link, or this would fail */
	assert_int_equal(unlink(victim) | unlink(path), 0);
}

/* Catches: files outside removed by way of a link; a folder left because it has folders. */
static void test_remove_tree(void **state)
{
	g_autofree char *outside = at("outside"), *kept = at("outside/kept"), *tree = at("tree");
	g_autofree char *link = at("tree/link"), *flink = at("tree/flink"), *deep = NULL;
	g_autofree char *root_link = at("root-link");
	GString *path = g_string_new(tree);

	assert_int_equal(mkdir(outside, 0700), 0);
	write_file(kept, "kept");
	assert_int_equal(mkdir(tree, 0700), 0);
	assert_int_equal(symlink(outside, link), 0);
	assert_int_equal(symlink(kept, flink), 0);
	for (int i = 0; i < 40; i++) { /* more levels than descriptors that nftw may use */
		g_autofree char *file = NULL;

		g_string_append(path, "/sub");
		assert_int_equal(mkdir(path->str, 0700), 0);
		file = g_strconcat(path->str, "/file", NULL);
		write_file(file, "x");
	}
	deep = g_string_free(path, FALSE);
	cop_file_remove_tree(tree);
	assert_int_equal(access(tree, F_OK), -1);
	expect_content(kept, "kept");
	assert_int_equal(symlink(outside, root_link), 0);
	cop_file_remove_tree(root_link);
	expect_content(kept, "kept");
	assert_int_equal(nr_files(dir), 1);
	cop_file_remove_tree(kept); /* a file */
	cop_file_remove_tree(kept); /* absence is fine */
	assert_int_equal(nr_files(outside), 0);
	assert_int_equal(rmdir(outside), 0);
}

/* Catches: a mode that the umask changes, a target overwritten, a cut copy of a large file. */
static void test_copy(void **state)
{
	enum { LEN = 200001 };
	g_autofree char *from = at("from"), *to = at("to"), *data = g_malloc(LEN + 1);
	g_autofree char *link = at("link");
	mode_t mask = umask(0077);
	GError *error = NULL;
	struct stat st;

	for (int i = 0; i < LEN; i++)
		data[i] = (char)('a' + i % 26);
	data[LEN] = '\0';
	write_file(from, data);
	assert_true(cop_file_copy(from, to, 0644, &error));
	umask(mask);
	expect_no_error(error);
	expect_content(to, data);
	assert_int_equal(stat(to, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0644);
	assert_false(cop_file_copy(from, to, 0600, &error));
	expect_error(&error, COP_ERR_INTERNAL, to);
	expect_content(to, data);
	assert_int_equal(unlink(to), 0);
	assert_int_equal(symlink(from, link), 0);
	assert_false(cop_file_copy(link, to, 0600, &error)); /* follows no link */
	expect_error(&error, COP_ERR_INTERNAL, link);
	assert_int_equal(access(to, F_OK), -1);
	assert_int_equal(unlink(from), 0);
	assert_false(cop_file_copy(from, to, 0600, &error));
	expect_error(&error, COP_ERR_NOT_FOUND, from);
	assert_false(cop_file_copy(dir, to, 0600, &error)); /* a folder can be opened, not read */
	expect_error(&error, COP_ERR_INTERNAL, to);
	assert_int_equal(access(to, F_OK), -1);
	assert_int_equal(unlink(link), 0);
}

/* Catches: an off-by-one at the limit; bytes after a nul that get lost. */
static void test_read(void **state)
{
	g_autofree char *path = at("f");
	g_autofree char *text = NULL;
	GError *error = NULL;
	gsize len = 0;

	assert_true(g_file_set_contents(path, "ab\0cd", 5, NULL));
	assert_null(cop_file_read(path, 4, &len, &error));
	expect_error(&error, COP_ERR_DAMAGED, path);
	text = cop_file_read(path, 5, &len, &error);
	assert_int_equal(len, 5);
	assert_memory_equal(text, "ab\0cd", 6); /* with a nul of its own behind */
	assert_int_equal(unlink(path), 0);
}

/* Catches: descriptors that QEMU inherits; links followed. */
static void test_open(void **state)
{
	g_autofree char *path = at("f"), *link = at("link");
	GError *error = NULL;
	int fd;

	fd = cop_file_open(path, O_RDWR | O_CREAT | O_EXCL, 0600, &error);
	assert_true(fd >= 0);
	assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
	close(fd);
	assert_int_equal(symlink(path, link), 0);
	assert_int_equal(cop_file_open(link, O_RDONLY, 0, &error), -1);
	expect_error(&error, COP_ERR_INTERNAL, link);
	assert_int_equal(unlink(path) | unlink(link), 0);
}

/* Catches: a folder with the umask's mode; a file or link taken for the folder. */
static void test_mkdir(void **state)
{
	g_autofree char *path = at("d"), *link = at("link");
	mode_t mask = umask(0077);
	GError *error = NULL;
	struct stat st;

	assert_true(cop_file_mkdir(path, 0711, &error));
	umask(mask);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0711);
	assert_true(cop_file_mkdir(path, 0711, &error));
	expect_no_error(error);
	assert_int_equal(symlink(path, link), 0);
	assert_false(cop_file_mkdir(link, 0711, &error));
	expect_error(&error, COP_ERR_INTERNAL, link);
	assert_int_equal(rmdir(path) | unlink(link), 0);
	assert_int_equal(symlink("nowhere", link), 0);
	assert_false(cop_file_mkdir(link, 0711, &error));
	g_clear_error(&error);
	assert_int_equal(unlink(link), 0);
	write_file(path, "a file");
	assert_false(cop_file_mkdir(path, 0711, &error));
	expect_error(&error, COP_ERR_INTERNAL, path);
	assert_int_equal(unlink(path), 0);
}

/* Catches: a changed image taken for the one that was checked: same size, same name. */
static void test_id(void **state)
{
	g_autofree char *path = at("f");
	struct cop_file_id a, b;
	GError *error = NULL;

	assert_false(cop_file_id(path, &a, &error));
	expect_error(&error, COP_ERR_NOT_FOUND, path);
	write_file(path, "aaaa");
	assert_true(cop_file_id(path, &a, &error) && cop_file_id(path, &b, &error));
	assert_int_equal(a.size_bytes, 4);
	assert_true(cop_file_id_equal(&a, &b));
	for (int field = 0; field < 4; field++) {
		b = a;
		b.size_bytes += field == 0;
		b.inode += field == 1;
		b.mtime_ns += field == 2;
		b.ctime_ns += field == 3;
		assert_false(cop_file_id_equal(&a, &b));
	}
	assert_true(cop_file_replace(path, "bbbb", 4, FALSE, &error));
	assert_true(cop_file_id(path, &b, &error));
	assert_false(cop_file_id_equal(&a, &b));
	assert_int_equal(unlink(path), 0);
}

/* Catches: a hole counted as used disk. */
static void test_used_bytes(void **state)
{
	g_autofree char *path = at("f");

	assert_int_equal(cop_file_used_bytes(path), 0);
	write_file(path, "x");
	assert_int_equal(truncate(path, 1 << 30), 0);
	assert_true(cop_file_used_bytes(path) < 1 << 20);
	assert_int_equal(unlink(path), 0);
}

/* Catches: the wrong unit, an index past the table for the largest number. */
static void test_size_text(void **state)
{
	static const struct {
		uint64_t bytes;
		const char *text;
	} cases[] = {
		{0, "0 bytes"},
		{1, "1 bytes"},
		{1023, "1023 bytes"},
		{1024, "1.0 KiB"},
		{1536, "1.5 KiB"},
		{1ull << 20, "1.0 MiB"},
		{3ull << 29, "1.5 GiB"},
		{1ull << 40, "1.0 TiB"},
		{1ull << 60, "1048576.0 TiB"},
		{UINT64_MAX, "16777216.0 TiB"},
	};

	for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
		g_autofree char *text = cop_file_size_text(cases[i].bytes);

		assert_string_equal(text, cases[i].text);
	}
}

/* Catches: ids of another length (RAM images are found by 16 digits), the same id twice. */
static void test_random_id(void **state)
{
	g_autoptr(GHashTable) seen = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);

	for (int i = 0; i < 1000; i++) {
		char *id = cop_file_random_id();

		assert_int_equal(strspn(id, "0123456789abcdef"), 16);
		assert_int_equal(strlen(id), 16);
		assert_true(g_hash_table_add(seen, id));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_replace),
		cmocka_unit_test(test_replace_fails),
		cmocka_unit_test(test_replace_ignores_links),
		cmocka_unit_test(test_remove_tree),
		cmocka_unit_test(test_copy),
		cmocka_unit_test(test_read),
		cmocka_unit_test(test_open),
		cmocka_unit_test(test_mkdir),
		cmocka_unit_test(test_id),
		cmocka_unit_test(test_used_bytes),
		cmocka_unit_test(test_size_text),
		cmocka_unit_test(test_random_id),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
