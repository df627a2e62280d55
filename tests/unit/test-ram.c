/* SPDX-License-Identifier: MIT */
/* test-ram.c: RAM images saved and loaded: nothing lost, nothing altered unnoticed. */
#include "unit.h"

#include "daemon/ram.h"

#include <errno.h>
#include <fcntl.h>

#define PAGE  4096ul
#define CHUNK (2ul << 20) /* read at once */
#define SUM   (64ul << 10) /* has a checksum */

static uint64_t *sums_of(const char *path, JsonObject *sums);

static struct cop_config config;
static struct cop_state *daemon_state;
static char *dir, *file, *sums_file;

static int setup(void **state)
{
	dir = scratch_new();
	config.dir = dir;
	config.ram_dir = g_build_filename(dir, "ram", NULL);
	file = g_build_filename(dir, "saved", NULL);
	sums_file = g_strconcat(file, ".sums", NULL);
	daemon_state = cop_state_new(&config);
	return mkdir(config.ram_dir, 0700);
}

static int teardown(void **state)
{
	cop_state_free(daemon_state);
	g_free(config.ram_dir);
	g_free(file);
	g_free(sums_file);
	scratch_free(dir);
	return 0;
}

/* Empty folders before each test. */
static int clean(void **state)
{
	(void)unlink(file);
	(void)unlink(sums_file);
	cop_file_remove_tree(config.ram_dir);
	g_hash_table_remove_all(daemon_state->pinned);
	return mkdir(config.ram_dir, 0700);
}

/* Where an image has bytes, and of which kind. */
struct patch {
	uint64_t pos, len;
	int fill; /* -1: pseudo-random, else this byte: 0 is a zero page with memory */
};

static void fill_image(const char *path, uint64_t size, const struct patch *patches, size_t nr)
{
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	g_autoptr(GRand) rand = g_rand_new_with_seed(7);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)size), 0);
	for (size_t i = 0; i < nr; i++) {
		g_autofree uint8_t *buf = g_malloc(patches[i].len);

		for (uint64_t j = 0; j < patches[i].len; j++)
			buf[j] = (uint8_t)(patches[i].fill < 0 ? (int)(g_rand_int(rand) >> 24)
							       : patches[i].fill);
		assert_int_equal(pwrite(fd, buf, patches[i].len, (off_t)patches[i].pos),
				 patches[i].len);
	}
	close(fd);
}

static void expect_same_bytes(const char *a, const char *b)
{
	g_autofree char *x = NULL, *y = NULL;
	gsize x_len, y_len;

	assert_true(g_file_get_contents(a, &x, &x_len, NULL));
	assert_true(g_file_get_contents(b, &y, &y_len, NULL));
	assert_int_equal(x_len, y_len);
	assert_true(memcmp(x, y, x_len) == 0);
}

/* The first byte at or after pos that is no hole, or size. */
static uint64_t next_data(const char *path, uint64_t pos, uint64_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	off_t data = lseek(fd, (off_t)pos, SEEK_DATA);

	if (data < 0)
		assert_int_equal(errno, ENXIO);
	close(fd);
	return data < 0 ? size : (uint64_t)data;
}

static JsonObject *save(const char *id)
{
	JsonObject *sums = json_object_new();
	GError *error = NULL;

	assert_true(cop_ram_save(daemon_state, id, file, sums, &error));
	expect_no_error(error);
	return sums;
}

#define SIZE (5 * CHUNK + 3 * PAGE)
/* Chunk 0: both ends; 1: a hole; 2: zero pages with memory; 3: every kind, up into 4; 5: the end.
 */
static const struct patch mixed[] = {
	{0, PAGE, -1},
	{CHUNK - PAGE, PAGE, 0xff},
	{2 * CHUNK, CHUNK, 0},
	{3 * CHUNK + 7 * PAGE, 3 * PAGE, 0x5a},
	{3 * CHUNK + 10 * PAGE, 4 * PAGE, 0},
	{3 * CHUNK + 14 * PAGE, 9 * PAGE, -1},
	{4 * CHUNK - PAGE, 2 * PAGE, -1},
	{4 * CHUNK + 5 * PAGE + 100, 1, 1},
	{SIZE - 1, 1, 0x80},
};

static char *mixed_image(void)
{
	GError *error = NULL;
	char *id = cop_ram_new(daemon_state, SIZE, &error);
	g_autofree char *path = NULL;

	expect_no_error(error);
	path = cop_state_ram_path(daemon_state, id);
	fill_image(path, SIZE, mixed, G_N_ELEMENTS(mixed));
	return id;
}

/* Catches: bytes lost or moved at the edges of pages, runs and chunks; an image without a pin. */
static void test_round_trip(void **state)
{
	g_autofree char *id = mixed_image(), *image = cop_state_ram_path(daemon_state, id);
	g_autoptr(JsonObject) sums = save(id);
	g_autofree char *back_id = NULL, *back = NULL;
	GError *error = NULL;
	struct stat st;

	expect_same_bytes(image, file);
	assert_int_equal(stat(file, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
	assert_true(cop_json_int(sums, "size_bytes", 0, NULL) == SIZE);
	assert_int_equal(stat(sums_file, &st), 0);
	assert_int_equal(st.st_size, (5 * CHUNK / SUM + 1) * sizeof(uint64_t));
	assert_true(cop_ram_load(daemon_state, file, sums, NULL, &error)); /* only compared */
	assert_int_equal(nr_files(config.ram_dir), 1);
	assert_true(cop_ram_load(daemon_state, file, sums, &back_id, &error));
	expect_no_error(error);
	assert_string_not_equal(back_id, id);
	assert_true(g_hash_table_contains(daemon_state->pinned, back_id));
	back = cop_state_ram_path(daemon_state, back_id);
	expect_same_bytes(image, back);
}

/* Catches: zero pages written out, so that a template of 1 GiB takes 1 GiB of disk and memory. */
static void test_zero_runs_stay_holes(void **state)
{
	g_autofree char *id = mixed_image();
	g_autoptr(JsonObject) sums = save(id);
	g_autofree char *back_id = NULL, *back = NULL;
	const char *paths[2] = {file};

	assert_true(cop_ram_load(daemon_state, file, sums, &back_id, NULL));
	back = cop_state_ram_path(daemon_state, back_id);
	paths[1] = back;
	for (int i = 0; i < 2; i++) {
		assert_true(next_data(paths[i], PAGE, SIZE) == CHUNK - PAGE);
		assert_true(next_data(paths[i], CHUNK, SIZE) == 3 * CHUNK + 7 * PAGE);
		assert_true(next_data(paths[i], 3 * CHUNK + 10 * PAGE, SIZE) ==
			    3 * CHUNK + 14 * PAGE);
		assert_true(next_data(paths[i], 4 * CHUNK + 6 * PAGE, SIZE) == SIZE - PAGE);
	}
	/* Pages that aren't zero: 1 + 1, 3 + 9 + 1, 1 + 1, 1. */
	assert_true(cop_json_int(sums, "data_bytes", 0, NULL) == (gint64)(18 * PAGE));
	{
		g_autofree uint64_t *chunks = sums_of(file, sums);

		assert_true(chunks[0] && !chunks[1] && chunks[CHUNK / SUM - 1]);
		for (size_t i = CHUNK / SUM; i < 3 * CHUNK / SUM; i++)
			assert_true(chunks[i] == 0);
		assert_true(chunks[3 * CHUNK / SUM] && !chunks[3 * CHUNK / SUM + 2] &&
			    chunks[5 * CHUNK / SUM]);
	}
}

/* Catches: a size that is not a whole number of chunks, or 0, handled wrongly. */
static void test_sizes(void **state)
{
	static const uint64_t sizes[] = {0, PAGE, CHUNK - PAGE, CHUNK, CHUNK + PAGE};

	for (size_t i = 0; i < G_N_ELEMENTS(sizes); i++) {
		for (int full = 0; full < 2; full++) {
			struct patch all = {0, sizes[i], -1};
			g_autofree char *id = cop_ram_new(daemon_state, sizes[i], NULL);
			g_autofree char *image = cop_state_ram_path(daemon_state, id);
			g_autofree char *back_id = NULL, *back = NULL;
			g_autoptr(JsonObject) sums = NULL;
			GError *error = NULL;

			fill_image(image, sizes[i], &all, full);
			sums = save(id);
			assert_true(cop_json_int(sums, "data_bytes", -1, NULL) ==
				    (gint64)(full ? sizes[i] : 0));
			assert_true(cop_ram_load(daemon_state, file, sums, &back_id, &error));
			expect_no_error(error);
			back = cop_state_ram_path(daemon_state, back_id);
			expect_same_bytes(image, back);
			assert_int_equal(unlink(file), 0);
		}
	}
}

static void flip(uint64_t pos, uint8_t bits)
{
	int fd = open(file, O_RDWR | O_CLOEXEC);
	uint8_t byte;

	assert_int_equal(pread(fd, &byte, 1, (off_t)pos), 1);
	byte ^= bits;
	assert_int_equal(pwrite(fd, &byte, 1, (off_t)pos), 1);
	close(fd);
}

/* Catches: a place that no checksum covers: in data, in a zero page, in a hole. */
static void test_flipped_bytes(void **state)
{
	g_autofree char *id = mixed_image();
	g_autoptr(JsonObject) sums = save(id);
	g_autoptr(GRand) rand = g_rand_new_with_seed(42);
	GError *error = NULL;

	for (int i = 0; i < 50 + 2; i++) {
		uint64_t random = (uint64_t)g_rand_int(rand) << 8 | (g_rand_int(rand) & 0xff);
		uint64_t pos = i < 50 ? random % SIZE : i == 50 ? 0 : SIZE - 1;
		uint8_t bit = (uint8_t)(1 << g_rand_int_range(rand, 0, 8));
		g_autofree char *where =
			g_strdup_printf("at byte %" G_GUINT64_FORMAT "\n", pos / SUM * SUM);

		flip(pos, bit);
		assert_false(cop_ram_load(daemon_state, file, sums, NULL, &error));
		expect_error(&error, COP_ERR_DAMAGED, where);
		flip(pos, bit);
	}
	assert_true(cop_ram_load(daemon_state, file, sums, NULL, &error));
	expect_no_error(error);
}

/* Catches: a cut or longer file whose remaining checksums are all right. */
static void test_other_lengths(void **state)
{
	static const int64_t deltas[] = {-1,
					 1,
					 -(int64_t)PAGE,
					 (int64_t)PAGE,
					 -(int64_t)CHUNK,
					 (int64_t)CHUNK,
					 -(int64_t)SIZE};
	g_autofree char *id = mixed_image();
	g_autoptr(JsonObject) sums = save(id);

	for (size_t i = 0; i < G_N_ELEMENTS(deltas); i++) {
		GError *error = NULL;

		assert_int_equal(truncate(file, (off_t)((int64_t)SIZE + deltas[i])), 0);
		assert_false(cop_ram_load(daemon_state, file, sums, NULL, &error));
		expect_error(&error, COP_ERR_DAMAGED, "should have");
	}
}

static uint64_t *sums_of(const char *path, JsonObject *sums)
{
	uint64_t *chunks = NULL;
	GError *error = NULL;

	assert_true(cop_ram_check_sums(path, sums, &chunks, &error));
	expect_no_error(error);
	return chunks;
}

/* Catches: a manifest without checksums, or of another type, that leaves the image unchecked. */
static void test_other_manifests(void **state)
{
	static const char *const others[] = {
		"{}", "{\"size_bytes\": 327680}", "{\"size_bytes\": -1, \"sums_xxh3\": \"\"}",
		"{\"size_bytes\": \"x\", \"sums_xxh3\": 1}"};
	g_autofree char *id = mixed_image();
	g_autoptr(JsonObject) sums = save(id);
	GError *error = NULL;

	assert_false(cop_ram_load(daemon_state, file, NULL, NULL, &error));
	expect_error(&error, COP_ERR_DAMAGED, "");
	for (size_t i = 0; i < G_N_ELEMENTS(others); i++) {
		g_autoptr(JsonNode) node = json_from_string(others[i], NULL);

		assert_false(cop_ram_load(daemon_state, file, json_node_get_object(node), NULL,
					  &error));
		expect_error(&error, COP_ERR_DAMAGED, "");
	}
}

/* Catches: checksums that were altered with the image, or are those of another one. */
static void test_other_sums(void **state)
{
	g_autofree char *id = mixed_image();
	g_autoptr(JsonObject) sums = save(id);
	g_autofree char *text = NULL;
	GError *error = NULL;
	gsize len;

	assert_true(g_file_get_contents(sums_file, &text, &len, NULL));
	for (gsize i = 0; i < len; i += 5) {
		text[i] ^= 1;
		assert_true(g_file_set_contents(sums_file, text, (gssize)len, NULL));
		assert_false(cop_ram_load(daemon_state, file, sums, NULL, &error));
		expect_error(&error, COP_ERR_DAMAGED, "checksums");
		text[i] ^= 1;
	}
	for (gsize cut = 0; cut < len; cut += 8) {
		assert_true(g_file_set_contents(sums_file, text, (gssize)cut, NULL));
		assert_false(cop_ram_load(daemon_state, file, sums, NULL, &error));
		expect_error(&error, COP_ERR_DAMAGED, "checksums");
	}
	assert_int_equal(unlink(sums_file), 0);
	assert_false(cop_ram_load(daemon_state, file, sums, NULL, &error));
	expect_error(&error, COP_ERR_NOT_FOUND, sums_file);
}

/* Catches: a pin that keeps a useless image for ever after a failed load, or the image itself. */
static void test_failed_load_leaves_nothing(void **state)
{
	g_autofree char *id = mixed_image();
	g_autoptr(JsonObject) sums = save(id);
	char *back_id = (char *)"untouched";
	GError *error = NULL;

	cop_state_unpin(daemon_state, id);
	flip(SIZE - 1, 1); /* found last */
	assert_false(cop_ram_load(daemon_state, file, sums, &back_id, &error));
	expect_error(&error, COP_ERR_DAMAGED, "");
	assert_string_equal(back_id, "untouched");
	assert_int_equal(g_hash_table_size(daemon_state->pinned), 0);
	assert_int_equal(nr_files(config.ram_dir), 1);
}

/* Catches: an older image overwritten, or a missing one saved as nothing. */
static void test_save_failures(void **state)
{
	g_autofree char *id = mixed_image();
	g_autoptr(JsonObject) sums = json_object_new();
	GError *error = NULL;

	write_file(file, "precious");
	assert_false(cop_ram_save(daemon_state, id, file, sums, &error));
	expect_error(&error, COP_ERR_INTERNAL, file);
	assert_int_equal(unlink(file), 0);
	assert_false(cop_ram_save(daemon_state, "0123456789abcdef", file, sums, &error));
	expect_error(&error, COP_ERR_NOT_FOUND, "0123456789abcdef");
	assert_false(cop_ram_load(daemon_state, file, sums, NULL, &error));
	expect_error(&error, COP_ERR_NOT_FOUND, file);
}

/* Catches: an image that does not fit promised all the same: its QEMU would die with SIGBUS. */
static void test_no_room(void **state)
{
	GError *error = NULL;

	assert_null(cop_ram_new(daemon_state, 1ull << 60, &error));
	expect_error(&error, COP_ERR_NO_SPACE, "1048576.0 TiB");
	assert_int_equal(nr_files(config.ram_dir), 0);
	assert_int_equal(g_hash_table_size(daemon_state->pinned), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(test_round_trip, clean),
		cmocka_unit_test_setup(test_zero_runs_stay_holes, clean),
		cmocka_unit_test_setup(test_sizes, clean),
		cmocka_unit_test_setup(test_flipped_bytes, clean),
		cmocka_unit_test_setup(test_other_lengths, clean),
		cmocka_unit_test_setup(test_other_manifests, clean),
		cmocka_unit_test_setup(test_other_sums, clean),
		cmocka_unit_test_setup(test_failed_load_leaves_nothing, clean),
		cmocka_unit_test_setup(test_save_failures, clean),
		cmocka_unit_test_setup(test_no_room, clean),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
