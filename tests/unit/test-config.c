/* SPDX-License-Identifier: MIT */
/* test-config.c: sizes, options, the configuration file. */
#include "unit.h"

#include "daemon/config.h"

static char *dir;

static int setup(void **state)
{
	dir = scratch_new();
	/* What is found in PATH must not decide here. */
	g_setenv("PATH", dir, TRUE);
	g_unsetenv("COPPICE_DIR");
	{
		g_autofree char *qemu = g_build_filename(dir, "qemu-system-x86_64", NULL);
		g_autofree char *img = g_build_filename(dir, "qemu-img", NULL);

		write_file(qemu, "");
		write_file(img, "");
		return chmod(qemu, 0755) | chmod(img, 0755);
	}
}

static int teardown(void **state)
{
	scratch_free(dir);
	return 0;
}

#define KIB 1024ull
#define GIB (1ull << 30)

/* Catches: a unit read as another, a wrong one ignored, a figure that wraps around. */
static void test_parse_size(void **state)
{
	static const struct {
		const char *text;
		gboolean ok;
		uint64_t bytes;
	} cases[] = {
		{"0", TRUE, 0},
		{"4096", TRUE, 4096},
		{"1K", TRUE, KIB},
		{"1k", TRUE, KIB},
		{"512M", TRUE, 512 * KIB * KIB},
		{"1G", TRUE, GIB},
		{"1GiB", TRUE, GIB},
		{"1gib", TRUE, GIB},
		{"1GB", TRUE, GIB},
		{"2T", TRUE, 2048 * GIB},
		{"0T", TRUE, 0},
		{"007M", TRUE, 7 * KIB * KIB},
		{"9223372036854775807", TRUE, INT64_MAX},
		{"8388607T", TRUE, 8388607ull << 40},
		{"8388608T", FALSE, 0},
		{"16777216T", FALSE, 0},
		{"16777217T", FALSE, 0},
		{"18014398509481984K", FALSE, 0},
		{"18446744073709551616", FALSE, 0},
		{"99999999999999999999999999", FALSE, 0},
		{"99999999999999999999999999K", FALSE, 0},
		{"", FALSE, 0},
		{" 1", FALSE, 0},
		{"1 ", FALSE, 0},
		{"1 G", FALSE, 0},
		{"-1", FALSE, 0},
		{"+1", FALSE, 0},
		{"-1G", FALSE, 0},
		{"G", FALSE, 0},
		{"B", FALSE, 0},
		{"1B", FALSE, 0},
		{"1i", FALSE, 0},
		{"1Gi", FALSE, 0},
		{"1GG", FALSE, 0},
		{"1GiBs", FALSE, 0},
		{"1P", FALSE, 0},
		{"1.5G", FALSE, 0},
		{"0x10", FALSE, 0},
		{"1e9", FALSE, 0},
		{"1,5G", FALSE, 0},
		{"1G\n", FALSE, 0},
		{"\xd9\xa1G", FALSE, 0}, /* another alphabet's 1 */
		{NULL, FALSE, 0},
	};

	for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
		uint64_t bytes = 12345;

		if (cop_config_parse_size(cases[i].text, &bytes) != cases[i].ok)
			fail_msg("'%s' %s", cases[i].text, cases[i].ok ? "refused" : "accepted");
		if (bytes != (cases[i].ok ? cases[i].bytes : 12345))
			fail_msg("'%s' is %" G_GUINT64_FORMAT, cases[i].text, bytes);
	}
}

/* Catches: a size that no unit can show but that wraps: every unit, one below and at its limit. */
static void test_parse_size_limits(void **state)
{
	static const char units[] = "KMGT";

	for (unsigned u = 0; u < 4; u++) {
		unsigned shift = 10 * (u + 1);
		uint64_t limit = 1ull << (63 - shift), bytes = 0;
		g_autofree char *below =
			g_strdup_printf("%" G_GUINT64_FORMAT "%c", limit - 1, units[u]);
		g_autofree char *over = g_strdup_printf("%" G_GUINT64_FORMAT "%c", limit, units[u]);

		assert_true(cop_config_parse_size(below, &bytes));
		assert_true(bytes == (limit - 1) << shift);
		assert_false(cop_config_parse_size(over, &bytes));
	}
}

static int ready_fd; /* what the newest call gave */

/* Runs cop_config_new() on the words, and checks that it takes the options out. */
static int ready_fd;

static struct cop_config *config_of(GError **error, ...)
{
	g_autoptr(GPtrArray) words = g_ptr_array_new();
	struct cop_config *config;
	char **argv;
	va_list args;
	int argc;

	g_ptr_array_add(words, (char *)"coppiced");
	va_start(args, error);
	for (char *word; (word = va_arg(args, char *));)
		g_ptr_array_add(words, word);
	va_end(args);
	argc = (int)words->len;
	g_ptr_array_add(words, NULL);
	argv = (char **)words->pdata;
	ready_fd = 12345;
	config = cop_config_new(&argc, &argv, &ready_fd, error);
	if (config)
		assert_int_equal(argc, 1);
	return config;
}

/* What every call here has: paths that exist only for these tests. */
#define BASE "--shim", "/shim.so", "--config", conf, "--dir", "/state"

static char *conf_file(const char *text)
{
	char *path = g_build_filename(dir, "coppiced.conf", NULL);

	write_file(path, text);
	return path;
}

/* Catches: an option that lands in another field, or is not read at all. */
static void test_options(void **state)
{
	g_autofree char *conf = conf_file("");
	GError *error = NULL;
	struct cop_config *c =
		config_of(&error, BASE, "--ram-dir", "/ram", "--qemu", "/my/qemu", "--max-vms",
			  "17", "--max-memory", "3G", "--max-disk", "5M", "--cgroup", "grp",
			  "--memory-limit", "7K", "--clone-workers", "3", "--uid-base", "5000",
			  "--autostarted", "--ready-fd", "9", NULL);

	expect_no_error(error);
	assert_string_equal(c->dir, "/state");
	assert_string_equal(c->ram_dir, "/ram");
	assert_string_equal(c->qemu, "/my/qemu");
	assert_string_equal(c->shim, "/shim.so");
	assert_true(g_str_has_prefix(c->qemu_img, dir));
	assert_string_equal(c->cgroup, "grp");
	assert_int_equal(c->max_vms, 17);
	assert_true(c->max_memory_bytes == 3 * GIB);
	assert_true(c->max_disk_bytes == 5 * KIB * KIB);
	assert_true(c->cgroup_limit_bytes == 7 * KIB);
	assert_int_equal(c->clone_workers, 3);
	assert_int_equal(c->uid_base, 5000);
	assert_true(c->autostarted);
	assert_int_equal(ready_fd, 9);
	cop_config_free(c);
	cop_config_free(NULL);
}

/* Catches: a default of 0 that forbids everything; two daemons that share folder or cgroup. */
static void test_defaults(void **state)
{
	g_autofree char *conf = conf_file("");
	GError *error = NULL;
	struct cop_config *a = config_of(&error, BASE, NULL);
	struct cop_config *b = config_of(&error, BASE, "--dir", "/state2", NULL);
	struct cop_config *again = config_of(&error, BASE, "--dir", "/x/../state", NULL);

	expect_no_error(error);
	assert_int_equal(a->max_vms, 256);
	assert_true(a->max_memory_bytes > GIB);
	assert_true(a->max_disk_bytes == 0);
	assert_true(a->cgroup_limit_bytes == 0);
	assert_true(a->clone_workers >= 1);
	assert_int_equal(ready_fd, -1);
	assert_false(a->autostarted);
	assert_true(g_str_has_prefix(a->ram_dir, "/dev/shm/coppice-"));
	assert_string_not_equal(a->ram_dir, b->ram_dir);
	assert_string_not_equal(a->cgroup, b->cgroup);
	assert_string_equal(again->dir, "/state"); /* one folder has one name */
	assert_string_equal(a->ram_dir, again->ram_dir);
	cop_config_free(a);
	cop_config_free(b);
	cop_config_free(again);
}

/* Catches: a folder from the environment that wins over the command line, or is ignored. */
static void test_dir_from_environment(void **state)
{
	g_autofree char *conf = conf_file("");
	GError *error = NULL;
	struct cop_config *c;

	g_setenv("COPPICE_DIR", "/from/env", TRUE);
	c = config_of(&error, "--shim", "/s", "--config", conf, NULL);
	assert_string_equal(c->dir, "/from/env");
	cop_config_free(c);
	c = config_of(&error, BASE, NULL);
	assert_string_equal(c->dir, "/state");
	cop_config_free(c);
	g_unsetenv("COPPICE_DIR");
	expect_no_error(error);
}

/* Catches: a file's limits ignored, or winning over the command line. */
static void test_file(void **state)
{
	g_autofree char *conf = conf_file("[limits]\nmax_vms=5\nmax_memory=1G\nmax_disk=2G\n"
					  "memory_limit=3G\n");
	GError *error = NULL;
	struct cop_config *c = config_of(&error, BASE, NULL);

	expect_no_error(error);
	assert_int_equal(c->max_vms, 5);
	assert_true(c->max_memory_bytes == GIB);
	assert_true(c->max_disk_bytes == 2 * GIB);
	assert_true(c->cgroup_limit_bytes == 3 * GIB);
	cop_config_free(c);
	c = config_of(&error, BASE, "--max-vms", "6", "--max-memory", "4G", NULL);
	expect_no_error(error);
	assert_int_equal(c->max_vms, 6);
	assert_true(c->max_memory_bytes == 4 * GIB);
	assert_true(c->max_disk_bytes == 2 * GIB);
	cop_config_free(c);
}

/* Catches: a wrong file or limit that leaves the daemon without the limit that was meant. */
static void test_bad_files(void **state)
{
	static const char *const texts[] = {
		"[limits]\nmax_vms=0\n",      "[limits]\nmax_vms=1024\n",
		"[limits]\nmax_vms=-1\n",     "[limits]\nmax_vms=many\n",
		"[limits]\nmax_vms=\n",	      "[limits]\nmax_memory=lots\n",
		"[limits]\nmax_memory=1GG\n", "[limits]\nmax_disk=-1\n",
		"[limits]\nmemory_limit=x\n", "max_vms=3\n",
		"[limits\nmax_vms=3\n",	      "junk\n",
	};

	for (size_t i = 0; i < G_N_ELEMENTS(texts); i++) {
		g_autofree char *conf = conf_file(texts[i]);
		GError *error = NULL;

		if (config_of(&error, BASE, NULL))
			fail_msg("accepted: %s", texts[i]);
		assert_non_null(error);
		g_clear_error(&error);
	}
	{
		const char *conf = "/nonexistent/coppiced.conf";
		GError *error = NULL;

		assert_null(config_of(&error, BASE, NULL)); /* it was asked for */
		assert_non_null(error);
		g_clear_error(&error);
	}
}

/* Catches: a typing error that starts a daemon with something else than was meant. */
static void test_bad_arguments(void **state)
{
	g_autofree char *conf = conf_file("");
	GError *error = NULL;

	assert_null(config_of(&error, BASE, "surplus", NULL));
	expect_error(&error, COP_ERR_BAD_REQUEST, "'surplus'");
	assert_int_equal(ready_fd, -1);
	assert_null(config_of(&error, BASE, "--ready-fd", "9", "surplus", NULL));
	expect_error(&error, COP_ERR_BAD_REQUEST, "'surplus'");
	assert_int_equal(ready_fd, 9); /* whoever waits there is told */
	assert_null(config_of(&error, BASE, "--no-such-option", NULL));
	assert_non_null(error);
	g_clear_error(&error);
	assert_null(config_of(&error, BASE, "--max-memory", "12Q", NULL));
	expect_error(&error, COP_ERR_BAD_REQUEST, "'12Q'");
	assert_null(config_of(&error, BASE, "--max-vms", "1024", NULL));
	assert_non_null(error);
	g_clear_error(&error);
	assert_null(config_of(&error, BASE, "--clone-workers", "x", NULL));
	assert_non_null(error);
	g_clear_error(&error);
}

/* Catches: a folder whose sockets' paths would be cut at 107 bytes; an off-by-one there. */
static void test_long_dir(void **state)
{
	g_autofree char *conf = conf_file("");
	char path[87];
	GError *error = NULL;
	struct cop_config *c;

	memset(path, 'x', sizeof(path));
	path[0] = '/';
	path[86] = '\0';
	assert_null(config_of(&error, BASE, "--dir", path, NULL));
	expect_error(&error, COP_ERR_BAD_REQUEST, path);
	path[85] = '\0';
	c = config_of(&error, BASE, "--dir", path, NULL);
	expect_no_error(error);
	/* struct sockaddr_un has 108 bytes with the nul. */
	assert_true(strlen(c->dir) + strlen("/vms/1023/shim.sock") < 108);
	cop_config_free(c);
}

/* Catches: a start without QEMU that fails only when the first VM is started. */
static void test_missing_programs(void **state)
{
	g_autofree char *conf = conf_file("");
	GError *error = NULL;

	g_setenv("PATH", "/nonexistent", TRUE);
	assert_null(config_of(&error, BASE, NULL));
	expect_error(&error, COP_ERR_NOT_FOUND, "qemu-system-x86_64\napt-get");
	assert_null(config_of(&error, BASE, "--qemu", "/my/qemu", NULL));
	expect_error(&error, COP_ERR_NOT_FOUND, "qemu-img");
	g_setenv("PATH", dir, TRUE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_parse_size),
		cmocka_unit_test(test_parse_size_limits),
		cmocka_unit_test(test_options),
		cmocka_unit_test(test_defaults),
		cmocka_unit_test(test_dir_from_environment),
		cmocka_unit_test(test_file),
		cmocka_unit_test(test_bad_files),
		cmocka_unit_test(test_bad_arguments),
		cmocka_unit_test(test_long_dir),
		cmocka_unit_test(test_missing_programs),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
