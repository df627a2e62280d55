/* SPDX-License-Identifier: MIT */
/* test-machine.c: a machine's JSON form, there and back, and what is refused; names. */
#include "unit.h"

#include "daemon/machine.h"

static char *random_text(GRand *rand)
{
	static const char chars[] = "abcXYZ019 -_.,=/\"\\'{}[]:\n\t%$";
	GString *s = g_string_new(NULL);
	int len = g_rand_int_range(rand, 0, 40);

	for (int i = 0; i < len; i++) {
		if (g_rand_int_range(rand, 0, 12) == 0)
			g_string_append_unichar(s, (gunichar)g_rand_int_range(rand, 0xa0, 0xd000));
		else
			g_string_append_c(s, chars[g_rand_int_range(rand, 0, sizeof(chars) - 1)]);
	}
	return g_string_free(s, FALSE);
}

/* A name that is none of a folder's own. */
static char *random_name(GRand *rand)
{
	g_autofree char *text = random_text(rand);

	return g_strconcat("f", g_strdelimit(text, "/", '_'), NULL);
}

static uint64_t random_figure(GRand *rand)
{
	uint64_t all = (uint64_t)g_rand_int(rand) << 32 | g_rand_int(rand);

	return all >> g_rand_int_range(rand, 1, 64); /* every magnitude that JSON's numbers hold */
}

static struct cop_disk *random_disk(GRand *rand)
{
	struct cop_disk *disk = cop_disk_new(random_figure(rand));
	int nr = g_rand_int_range(rand, 1, 6);

	for (int i = 0; i < nr; i++) {
		gboolean external = g_rand_boolean(rand);
		g_autofree char *text = external ? random_text(rand) : random_name(rand);
		g_autofree char *path = external ? g_strconcat("/", text, NULL) : g_strdup(text);
		struct cop_layer *layer = cop_layer_new(path, external, g_rand_boolean(rand));

		if (external) {
			layer->id.size_bytes = random_figure(rand);
			layer->id.inode = random_figure(rand);
			layer->id.mtime_ns = (int64_t)random_figure(rand);
			layer->id.ctime_ns = -(int64_t)random_figure(rand);
		}
		g_ptr_array_add(disk->layers, layer);
	}
	return disk;
}

static struct cop_machine *random_machine(GRand *rand)
{
	struct cop_machine *m = cop_machine_new();
	g_autoptr(GStrvBuilder) extra = g_strv_builder_new();
	g_autofree char *type = random_text(rand);

	m->type = g_strconcat("pc", type, NULL);
	g_strdelimit(m->type, ",", ';'); /* refused: it would add options */
	m->accel = g_strdup(g_rand_boolean(rand) ? "tcg" : "kvm");
	m->memory_bytes = random_figure(rand) | 1;
	m->cpus = (unsigned)g_rand_int_range(rand, 1, 65);
	m->display = g_strdup(g_rand_boolean(rand) ? "vga" : "none");
	m->network = random_text(rand);
	m->agent = g_rand_boolean(rand);
	m->kernel = g_rand_boolean(rand) ? random_name(rand) : NULL;
	m->initrd = g_rand_boolean(rand) ? random_name(rand) : NULL;
	m->append = g_rand_boolean(rand) ? random_text(rand) : NULL;
	for (int i = g_rand_int_range(rand, 0, 4); i > 0; i--) {
		g_autofree char *arg = random_text(rand);

		g_strv_builder_add(extra, arg);
	}
	g_strfreev(m->extra_args);
	m->extra_args = g_strv_builder_end(extra);
	for (int i = g_rand_int_range(rand, 0, 4); i > 0; i--)
		g_ptr_array_add(m->disks, random_disk(rand));
	return m;
}

static void expect_same(const struct cop_machine *a, const struct cop_machine *b)
{
	assert_string_equal(a->type, b->type);
	assert_string_equal(a->accel, b->accel);
	assert_true(a->memory_bytes == b->memory_bytes);
	assert_int_equal(a->cpus, b->cpus);
	assert_int_equal(a->agent, b->agent);
	assert_string_equal(a->display, b->display);
	assert_string_equal(a->network, b->network);
	assert_int_equal(g_strcmp0(a->kernel, b->kernel), 0);
	assert_int_equal(g_strcmp0(a->initrd, b->initrd), 0);
	assert_int_equal(g_strcmp0(a->append, b->append), 0);
	assert_true(g_strv_equal((const char *const *)a->extra_args,
				 (const char *const *)b->extra_args));
	assert_int_equal(a->disks->len, b->disks->len);
	for (guint i = 0; i < a->disks->len; i++) {
		const struct cop_disk *x = a->disks->pdata[i], *y = b->disks->pdata[i];

		assert_true(x->size_bytes == y->size_bytes);
		assert_int_equal(x->layers->len, y->layers->len);
		assert_ptr_equal(cop_disk_top(x), x->layers->pdata[x->layers->len - 1]);
		for (guint j = 0; j < x->layers->len; j++) {
			const struct cop_layer *p = x->layers->pdata[j], *q = y->layers->pdata[j];

			assert_string_equal(p->path, q->path);
			assert_int_equal(p->external, q->external);
			assert_int_equal(p->raw, q->raw);
			assert_true(cop_file_id_equal(&p->id, &q->id));
		}
	}
}

/* Catches: a field that is not written, not read, or mixed up; a text that JSON's quoting changes.
 */
static void test_round_trip(void **state)
{
	for (guint32 seed = 1; seed <= 500; seed++) {
		GRand *rand = g_rand_new_with_seed(seed);
		struct cop_machine *m = random_machine(rand), *copy = cop_machine_copy(m), *back;
		g_autoptr(JsonObject) obj = cop_machine_to_json(m);
		g_autofree char *text = cop_json_print(obj, seed & 1);
		g_autoptr(JsonObject) parsed = NULL;
		GError *error = NULL;

		parsed = cop_json_parse(text, -1, &error);
		expect_no_error(error);
		back = cop_machine_from_json(parsed, &error);
		if (error)
			fail_msg("seed %u: %s: %s", seed, error->message, text);
		expect_same(m, back);
		assert_non_null(copy);
		expect_same(m, copy);
		cop_machine_free(m);
		cop_machine_free(copy);
		cop_machine_free(back);
		g_rand_free(rand);
	}
}

#define LAYERS "[{\"path\":\"/base.img\",\"external\":true,\"raw\":true},{\"path\":\"a.qcow2\"}]"

static JsonObject *good(void)
{
	JsonObject *obj = cop_json_parse(
		"{\"type\":\"pc-i440fx-7.2\",\"accel\":\"tcg\",\"memory_bytes\":1048576,\"cpus\":2,"
		"\"display\":\"vga\",\"network\":\"user\",\"kernel\":\"0123\",\"initrd\":\"4567\","
		"\"append\":\"quiet\",\"extra_args\":[\"-s\"],"
		"\"disks\":[{\"size_bytes\":4096,\"layers\":" LAYERS "}]}",
		-1, NULL);

	assert_non_null(obj);
	return obj;
}

static JsonNode *value(const char *text)
{
	JsonNode *node = json_from_string(text, NULL);

	assert_non_null(node);
	return node;
}

/* TRUE when it is refused, with an error. */
static gboolean refused(JsonObject *obj)
{
	GError *error = NULL;
	struct cop_machine *m = cop_machine_from_json(obj, &error);
	gboolean was_refused = m == NULL;

	assert_int_equal(was_refused, error != NULL);
	cop_machine_free(m);
	g_clear_error(&error);
	return was_refused;
}

/* Catches: a machine made up from a manifest that lost a part without which no VM can be the same.
 */
static void test_missing_members(void **state)
{
	static const char *const needed[] = {"type", "memory_bytes"};
	g_autoptr(JsonObject) whole = good(), empty = json_object_new();

	assert_false(refused(whole));
	assert_true(refused(empty));
	assert_true(refused(NULL));
	for (size_t i = 0; i < G_N_ELEMENTS(needed); i++) {
		g_autoptr(JsonObject) obj = good();

		json_object_remove_member(obj, needed[i]);
		if (!refused(obj))
			fail_msg("accepted without %s", needed[i]);
	}
}

/* Catches: a member of another type that counts as absent, so that a device silently goes. */
static void test_wrong_members(void **state)
{
	static const struct {
		const char *key, *values[8];
	} cases[] = {
		{"type", {"1", "true", "[]", "{}", "\"\"", "null"}},
		{"accel", {"1", "true", "[]", "{}"}},
		{"memory_bytes", {"\"1\"", "1.5", "true", "0", "null", "[]"}},
		{"cpus", {"\"1\"", "1.5", "true", "0", "[]"}},
		{"display", {"1", "[]"}},
		{"network", {"1", "[]"}},
		{"kernel",
		 {"1", "\"\"", "\"..\"", "\".\"", "\"../x\"", "\"/etc/passwd\"", "\"a/b\""}},
		{"initrd",
		 {"1", "\"\"", "\"..\"", "\".\"", "\"../x\"", "\"/etc/passwd\"", "\"a/b\""}},
		{"append", {"1", "[]"}},
		{"extra_args", {"1", "\"-s\"", "[1]", "[null]", "[[\"-s\"]]", "{}"}},
		{"disks",
		 {"[1]", "[{}]", "[null]", "[[]]", "[{\"layers\":[]}]", "[{\"layers\":\"a\"}]",
		  "[{\"layers\":[1]}]", "[{\"layers\":[null]}]"}},
		{"disks",
		 {"[{\"layers\":" LAYERS ",\"size_bytes\":\"1\"}]",
		  "[{\"layers\":" LAYERS "},{}]"}},
	};

	for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
		for (size_t j = 0; j < G_N_ELEMENTS(cases[i].values) && cases[i].values[j]; j++) {
			g_autoptr(JsonObject) obj = good();

			json_object_set_member(obj, cases[i].key, value(cases[i].values[j]));
			if (!refused(obj))
				fail_msg("accepted: %s %s", cases[i].key, cases[i].values[j]);
		}
	}
}

/* Catches: a negative or huge figure that becomes another one when it is narrowed. */
static void test_figures_out_of_range(void **state)
{
	static const char *const cases[][2] = {
		{"cpus", "-1"},
		{"cpus", "4294967297"},
		{"memory_bytes", "-4096"},
	};

	for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
		g_autoptr(JsonObject) obj = good();

		json_object_set_member(obj, cases[i][0], value(cases[i][1]));
		if (!refused(obj))
			fail_msg("accepted: %s %s", cases[i][0], cases[i][1]);
	}
}

/* Catches: a VM that starts without its disks or with another accelerator after its manifest lost
 * them. */
static void test_lost_parts(void **state)
{
	static const char *const cases[][2] = {
		{"disks", "\"x\""},
		{"disks", "{}"},
		{"disks", "1"},
		{"accel", "null"},
	};

	for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
		g_autoptr(JsonObject) obj = good();

		json_object_set_member(obj, cases[i][0], value(cases[i][1]));
		if (!refused(obj))
			fail_msg("accepted: %s %s", cases[i][0], cases[i][1]);
	}
}

/* Catches: a manifest that makes the daemon open, write or remove a file outside its folder. */
static void test_layer_paths(void **state)
{
	static const struct {
		const char *layer;
		gboolean ok;
	} cases[] = {
		{"{\"path\":\"a\"}", TRUE},
		{"{\"path\":\"a..b\"}", TRUE},
		{"{\"path\":\"/a\",\"external\":true}", TRUE},
		{"{}", FALSE},
		{"{\"path\":null}", FALSE},
		{"{\"path\":7}", FALSE},
		{"{\"path\":\"\"}", FALSE},
		{"{\"path\":\".\"}", FALSE},
		{"{\"path\":\"..\"}", FALSE},
		{"{\"path\":\".hidden\"}", FALSE},
		{"{\"path\":\"../a\"}", FALSE},
		{"{\"path\":\"a/../../b\"}", FALSE},
		{"{\"path\":\"a/b\"}", FALSE},
		{"{\"path\":\"a/\"}", FALSE},
		{"{\"path\":\"/a\"}", FALSE},
		{"{\"path\":\"/a\",\"external\":false}", FALSE},
		{"{\"path\":\"a\",\"external\":true}", FALSE},
		{"{\"path\":\"../a\",\"external\":true}", FALSE},
		{"{\"path\":\"\",\"external\":true}", FALSE},
		{"{\"path\":\"/a\",\"external\":1}", FALSE},
		{"{\"path\":\"a\",\"raw\":\"yes\"}", FALSE},
		{"{\"path\":\"/a\",\"external\":true,\"inode\":\"1\"}", FALSE},
		{"{\"path\":\"/a\",\"external\":true,\"mtime_ns\":1.5}", FALSE},
	};

	for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
		g_autofree char *first = g_strdup_printf("[{\"layers\":[%s]}]", cases[i].layer);
		g_autofree char *last = g_strdup_printf("[{\"layers\":" LAYERS
							"},{\"layers\":[{\"path\":\"b\"},%s]}]",
							cases[i].layer);
		const char *disks[] = {first, last};

		for (int j = 0; j < 2; j++) {
			g_autoptr(JsonObject) obj = good();

			json_object_set_member(obj, "disks", value(disks[j]));
			if (refused(obj) == cases[i].ok)
				fail_msg("%s", disks[j]);
		}
	}
}

/* Catches: a crash on the way out after a half-made machine. */
static void test_null_is_fine(void **state)
{
	cop_machine_free(NULL);
	cop_disk_free(NULL);
	cop_layer_free(NULL);
}

/* Catches: a character that has a meaning in a path, an option or a terminal. */
static void test_names_of_one_byte(void **state)
{
	assert_false(cop_name_valid(NULL));
	assert_false(cop_name_valid(""));
	for (int c = 1; c < 256; c++) {
		char first[] = {(char)c, '\0'}, later[] = {'a', (char)c, '\0'};
		gboolean plain = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
		gboolean mark = c == '.' || c == '_' || c == '-';

		assert_int_equal(cop_name_valid(first), plain);
		assert_int_equal(cop_name_valid(later), plain || mark);
	}
}

/* Catches: an off-by-one at the longest name; a check that stops early. */
static void test_names_of_full_length(void **state)
{
	char name[65];

	memset(name, 'a', sizeof(name));
	name[64] = '\0';
	assert_false(cop_name_valid(name));
	name[63] = '\0';
	assert_true(cop_name_valid(name));
	for (int i = 0; i < 63; i++) {
		name[i] = '/';
		assert_false(cop_name_valid(name));
		name[i] = 'a';
	}
	assert_true(cop_name_valid("0.._--"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_round_trip),
		cmocka_unit_test(test_missing_members),
		cmocka_unit_test(test_wrong_members),
		cmocka_unit_test(test_figures_out_of_range),
		cmocka_unit_test(test_lost_parts),
		cmocka_unit_test(test_layer_paths),
		cmocka_unit_test(test_null_is_fine),
		cmocka_unit_test(test_names_of_one_byte),
		cmocka_unit_test(test_names_of_full_length),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
