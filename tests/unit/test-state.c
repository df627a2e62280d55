/* SPDX-License-Identifier: MIT */
/* test-state.c: names, limits and claims of VMs; which files are removed; templates' manifests. */
#include "unit.h"

#include "daemon/state.h"
#include "daemon/template.h"

#define MIB (1ull << 20)

static struct cop_config config;
static struct cop_state *st;
static char *dir;

static int setup(void **state)
{
	static const char *const folders[] = {"disks", "blobs", "templates", "vms", "ram"};

	dir = scratch_new();
	for (size_t i = 0; i < G_N_ELEMENTS(folders); i++) {
		g_autofree char *path = g_build_filename(dir, folders[i], NULL);

		if (mkdir(path, 0700) < 0)
			return -1;
	}
	config.dir = dir;
	config.ram_dir = g_build_filename(dir, "ram", NULL);
	config.max_vms = 5;
	config.max_memory_bytes = 1000 * MIB;
	config.max_disk_bytes = 1000 * MIB;
	st = cop_state_new(&config);
	return 0;
}

static int teardown(void **state)
{
	cop_state_free(st);
	cop_state_free(NULL);
	g_free(config.ram_dir);
	scratch_free(dir);
	return 0;
}

static char *at(const char *name)
{
	return g_build_filename(dir, name, NULL);
}

static void touch(const char *name)
{
	g_autofree char *path = at(name);

	write_file(path, "x");
}

static gboolean exists(const char *name)
{
	g_autofree char *path = at(name);

	return access(path, F_OK) == 0;
}

static struct cop_machine *machine_new(const char *base, const char *top)
{
	struct cop_machine *m = cop_machine_new();
	struct cop_disk *disk = cop_disk_new(MIB);

	m->type = g_strdup("pc");
	m->accel = g_strdup("tcg");
	m->display = g_strdup("none");
	m->network = g_strdup("none");
	m->memory_bytes = 100 * MIB;
	m->cpus = 1;
	if (base)
		g_ptr_array_add(disk->layers, cop_layer_new(base, base[0] == '/', FALSE));
	g_ptr_array_add(disk->layers, cop_layer_new(top, FALSE, FALSE));
	g_ptr_array_add(m->disks, disk);
	return m;
}

static GPtrArray *reserve(unsigned count, uint64_t memory_bytes, GError **error, ...)
{
	char *names[8] = {NULL};
	va_list args;

	va_start(args, error);
	for (unsigned i = 0; i < 7 && (names[i] = va_arg(args, char *)); i++)
		;
	va_end(args);
	return cop_state_reserve_vms(st, names[0] ? names : NULL, "pre", count, memory_bytes,
				     error);
}

static struct cop_vm *one(const char *name)
{
	GError *error = NULL;
	g_autoptr(GPtrArray) vms = reserve(1, MIB, &error, name, NULL);

	expect_no_error(error);
	return g_hash_table_lookup(st->vms, name);
}

/* Catches: a name given twice, an id given twice (two VMs would share folder and user). */
static void test_reserve_names(void **state)
{
	GError *error = NULL;
	g_autoptr(GPtrArray) ab = reserve(2, MIB, &error, "a", "pre-2", NULL), more = NULL;
	unsigned ids = 0;

	expect_no_error(error);
	assert_null(reserve(1, MIB, &error, "a", NULL));
	expect_error(&error, COP_ERR_NAME_TAKEN, "'a' already");
	assert_null(reserve(2, MIB, &error, "c", "c", NULL));
	expect_error(&error, COP_ERR_NAME_TAKEN, "'c' is given twice");
	assert_null(reserve(2, MIB, &error, "d", "../e", NULL));
	expect_error(&error, COP_ERR_BAD_REQUEST, "'../e' is not a VM name");
	assert_int_equal(cop_state_nr_vms(st), 2); /* all or none */
	more = reserve(2, MIB, &error, NULL);
	expect_no_error(error);
	assert_string_equal(((struct cop_vm *)more->pdata[0])->name, "pre-1");
	assert_string_equal(((struct cop_vm *)more->pdata[1])->name, "pre-3");
	for (guint i = 0; i < 4; i++) {
		struct cop_vm *vm = (i < 2 ? ab : more)->pdata[i % 2];

		ids |= 1u << vm->id;
		assert_int_equal(vm->run, COP_VM_STARTING);
		assert_true(*vm->busy != '\0');
	}
	assert_int_equal(ids, 0xf);
}

/* Catches: a made-up name that is no valid name, from the longest name there is. */
static void test_made_up_names_are_valid(void **state)
{
	g_autofree char *longest = g_strnfill(63, 'a');
	g_autoptr(GPtrArray) vms = cop_state_reserve_vms(st, NULL, longest, 5, MIB, NULL);

	for (guint i = 0; i < 5; i++)
		assert_true(cop_name_valid(((struct cop_vm *)vms->pdata[i])->name));
}

/* Catches: one VM too many or too few; figures left out of the message; a sum that wraps. */
static void test_limits(void **state)
{
	GError *error = NULL;
	g_autoptr(GPtrArray) vms = NULL;
	struct cop_vm *vm;

	assert_null(reserve(6, MIB, &error, NULL));
	expect_error(&error, COP_ERR_LIMIT, "6 more would make 6 VMs, the limit is 5\n");
	assert_null(reserve(UINT32_MAX, MIB, &error, NULL));
	expect_error(&error, COP_ERR_LIMIT, "limit is 5\n");
	assert_null(reserve(4, 251 * MIB, &error, NULL));
	expect_error(&error, COP_ERR_LIMIT, "4 more of 251.0 MiB each");
	assert_null(reserve(5, UINT64_MAX / 4, &error, NULL));
	expect_error(&error, COP_ERR_LIMIT, "0 bytes of 1000.0 MiB are given\n");
	vms = reserve(4, 250 * MIB, &error, NULL);
	expect_no_error(error);
	for (guint i = 0; i < 4; i++) {
		vm = vms->pdata[i];
		vm->machine = machine_new(NULL, "x");
		vm->machine->memory_bytes = 250 * MIB;
	}
	assert_null(reserve(1, 1, &error, NULL));
	expect_error(&error, COP_ERR_LIMIT, "1000.0 MiB of 1000.0 MiB");
	vm->run = COP_VM_STOPPED; /* gives its memory back, and needs it again to start */
	assert_true(cop_state_check_start(vm, &error));
	g_ptr_array_unref(reserve(1, 1, &error, NULL));
	expect_no_error(error);
	assert_null(reserve(1, 1, &error, NULL));
	expect_error(&error, COP_ERR_LIMIT, "1 more would make 6 VMs");
	vm->machine->memory_bytes++;
	assert_false(cop_state_check_start(vm, &error));
	expect_error(&error, COP_ERR_LIMIT, "1 more of");
}

/* Catches: a disk limit that is never reached; links or folders counted as used. */
static void test_disk_limit(void **state)
{
	g_autofree char *file = at("disks/f"), *link = at("blobs/l");
	g_autofree char *zeros = g_malloc0(MIB);
	GError *error = NULL;

	assert_true(cop_state_disk_bytes(st) == 0);
	assert_true(cop_state_check_disk(st, &error));
	assert_true(g_file_set_contents(file, zeros, MIB, NULL));
	assert_int_equal(symlink(file, link), 0);
	assert_true(cop_state_disk_bytes(st) >= MIB && cop_state_disk_bytes(st) < MIB + 65536);
	config.max_disk_bytes = cop_state_disk_bytes(st) + 1;
	assert_true(cop_state_check_disk(st, &error));
	config.max_disk_bytes--;
	assert_false(cop_state_check_disk(st, &error));
	expect_error(&error, COP_ERR_LIMIT, "--max-disk");
	config.max_disk_bytes = 0; /* of the file system */
	assert_true(cop_state_max_disk_bytes(st) > MIB);
}

/* Catches: an operation on a VM that is none, that has no process, or leaves it claimed. */
static void test_claims(void **state)
{
	struct cop_vm *vm = one("a"), *found;
	GError *error = NULL;

	assert_null(cop_state_claim_vm(st, "b", "stop", FALSE, &error));
	expect_error(&error, COP_ERR_NOT_FOUND, "no VM 'b'");
	assert_null(cop_state_find_vm(st, "b", &error));
	expect_error(&error, COP_ERR_NOT_FOUND, "no VM 'b'");
	cop_state_release_vm(cop_vm_ref(vm));
	vm->run = COP_VM_STOPPED;
	assert_null(cop_state_claim_vm(st, "a", "freeze", TRUE, &error));
	expect_error(&error, COP_ERR_WRONG_STATE, "'a' is stopped, freeze needs");
	assert_string_equal(vm->busy, "");
	found = cop_state_claim_vm(st, "a", "start", FALSE, &error);
	assert_ptr_equal(found, vm);
	assert_string_equal(vm->busy, "start");
	cop_state_release_vm(found);
	assert_string_equal(vm->busy, "");
	vm->run = COP_VM_RUNNING;
	vm->pid = 1;
	found = cop_state_claim_vm(st, "a", "freeze", TRUE, &error);
	assert_ptr_equal(found, vm);
	cop_state_release_vm(found);
	cop_state_release_vm(NULL);
	vm->pid = 0; /* it has ended, and that was not noted yet */
	assert_null(cop_state_claim_vm(st, "a", "freeze", TRUE, &error));
	expect_error(&error, COP_ERR_WRONG_STATE, "'a'");
}

static gpointer claim(gpointer user)
{
	return cop_state_claim_vm(st, "a", "stop", FALSE, NULL);
}

/* Catches: a second operation that fails at once, or begins before the first has ended. */
static void test_claim_waits(void **state)
{
	struct cop_vm *vm = one("a");
	GThread *thread = g_thread_new("claim", claim, NULL); /* busy with its start */

	assert_string_equal(vm->busy, "start");
	cop_state_release_vm(cop_vm_ref(vm));
	assert_ptr_equal(g_thread_join(thread), vm);
	assert_string_equal(vm->busy, "stop");
	cop_state_release_vm(vm);
}

static struct cop_template *add_template(const char *name, struct cop_machine *machine)
{
	struct cop_template *tpl = cop_template_new(name);

	tpl->machine = machine;
	tpl->from_vm = g_strdup("vm");
	tpl->ready = TRUE;
	g_hash_table_insert(st->templates, tpl->name, tpl);
	return tpl;
}

/* What test_collect() names, in the order of the reason why it stays. */
static const char *const kept[] = {"disks/base", "disks/00000000000000ae.qcow2",  "disks/00000000000000ad.qcow2", "disks/00000000000000af",
				   "blobs/kern", "blobs/init", "ram/vmram", "ram/tplram"};
static const char *const unnamed[] = {"disks/00000000000000aa", "disks/00000000000000ab.qcow2", "blobs/00000000000000aa", "ram/00000000000000aa"};

static void lay_out(void)
{
	struct cop_vm *vm = one("a");
	struct cop_template *tpl = add_template("t", machine_new(NULL, "00000000000000ad.qcow2"));

	vm->machine = machine_new("base", "00000000000000ae.qcow2");
	vm->machine->kernel = g_strdup("kern");
	vm->machine->initrd = g_strdup("init");
	vm->ram_id = g_strdup("vmram");
	tpl->ram_id = g_strdup("tplram");
	cop_state_pin(st, "00000000000000af");
	for (size_t i = 0; i < G_N_ELEMENTS(kept); i++)
		touch(kept[i]);
	for (size_t i = 0; i < G_N_ELEMENTS(unnamed); i++)
		touch(unnamed[i]);
}

static void expect_files(gboolean unnamed_too)
{
	for (size_t i = 0; i < G_N_ELEMENTS(kept); i++) {
		if (!exists(kept[i]))
			fail_msg("%s is lost", kept[i]);
	}
	for (size_t i = 0; i < G_N_ELEMENTS(unnamed); i++) {
		if (exists(unnamed[i]) != unnamed_too)
			fail_msg("%s %s", unnamed[i], unnamed_too ? "is lost" : "stays");
	}
}

/* Catches: a layer or RAM image in use removed; one that nothing uses kept for ever. */
static void test_collect(void **state)
{
	lay_out();
	cop_state_collect(st);
	expect_files(FALSE);
	cop_state_unpin(st, "00000000000000af");
	cop_state_collect(st);
	assert_false(exists("disks/00000000000000af"));
	assert_true(exists("disks/00000000000000ae.qcow2"));
}

/* Catches: files removed that a manifest names which could not be read. */
static void test_collect_keeps_in_doubt(void **state)
{
	lay_out();
	st->keep_files = TRUE;
	cop_state_collect(st);
	expect_files(TRUE);
	st->keep_files = FALSE;
	add_template("broken", NULL)->broken = g_strdup("no manifest");
	cop_state_collect(st);
	expect_files(TRUE);
}

/* Catches: a VM's files left when it goes, or shared ones removed with it; a user's image removed.
 */
static void test_forget(void **state)
{
	g_autofree char *image = at("user.img");
	struct cop_vm *vm = one("a"), *other = one("b");
	g_autofree char *vm_dir = cop_state_vm_dir(st, vm->id);

	cop_vm_ref(vm);
	touch("user.img");
	touch("disks/shared");
	touch("disks/00000000000000ac.qcow2");
	assert_int_equal(mkdir(vm_dir, 0700), 0);
	vm->machine = machine_new(image, "00000000000000ac.qcow2");
	other->machine = machine_new(image, "shared");
	g_ptr_array_insert(((struct cop_disk *)vm->machine->disks->pdata[0])->layers, 1,
			   cop_layer_new("shared", FALSE, FALSE));
	cop_state_forget_vm(vm);
	assert_int_equal(access(vm_dir, F_OK), -1);
	assert_false(exists("disks/00000000000000ac.qcow2"));
	assert_true(exists("disks/shared") && exists("user.img"));
	assert_int_equal(cop_state_nr_vms(st), 1);
	cop_vm_unref(vm);
	one("a"); /* name and id are free again */
}

/* Catches: a fork's template that outlives its last VM, or goes while one is left. */
static void test_ephemeral_template(void **state)
{
	struct cop_template *tpl = add_template("t", machine_new(NULL, "00000000000000ad.qcow2"));
	struct cop_vm *a = one("a"), *b = one("b");

	tpl->ephemeral = TRUE;
	a->template = g_strdup("t");
	b->template = g_strdup("t");
	cop_state_forget_vm(a);
	assert_true(g_hash_table_contains(st->templates, "t"));
	tpl->busy_users = 1; /* a clone is being made */
	cop_state_forget_vm(b);
	assert_true(g_hash_table_contains(st->templates, "t"));
	tpl->busy_users = 0;
	cop_state_forget_vm(one("c"));
	assert_false(g_hash_table_contains(st->templates, "t"));
}

/* Catches: a template whose parent is one that went with its last VM, as nobody can look it up. */
static void test_children_of_an_ephemeral_template(void **state)
{
	struct cop_template *tpl, *child;

	tpl = add_template("t", machine_new(NULL, "00000000000000ad.qcow2"));
	child = add_template("child", machine_new("00000000000000ad.qcow2", "00000000000000ae.qcow2"));
	tpl->ephemeral = TRUE;
	tpl->parent = g_strdup("grandparent");
	child->parent = g_strdup("t");
	cop_state_forget_vm(one("a"));
	assert_false(g_hash_table_contains(st->templates, "t"));
	assert_string_equal(child->parent, "grandparent");
}

/* Catches: a template removed under its clones; children left with a parent that is gone. */
static void test_template_remove(void **state)
{
	struct cop_template *tpl = add_template("t", machine_new(NULL, "00000000000000ad.qcow2"));
	struct cop_template *child = add_template("child", machine_new("00000000000000ad.qcow2", "00000000000000ae.qcow2"));
	struct cop_vm *vm = one("a");
	GError *error = NULL;

	tpl->parent = g_strdup("grandparent");
	child->parent = g_strdup("t");
	touch("disks/00000000000000ad.qcow2");
	touch("disks/00000000000000ae.qcow2");
	assert_false(cop_template_remove(st, "none", &error));
	expect_error(&error, COP_ERR_NOT_FOUND, "'none'");
	vm->template = g_strdup("t");
	assert_false(cop_template_remove(st, "t", &error));
	expect_error(&error, COP_ERR_IN_USE, "in use by a\n");
	g_clear_pointer(&vm->template, g_free);
	tpl->busy_users = 1;
	assert_false(cop_template_remove(st, "t", &error));
	expect_error(&error, COP_ERR_IN_USE, "a clone that is starting");
	tpl->busy_users = 0;
	tpl->ready = FALSE;
	assert_false(cop_template_remove(st, "t", &error)); /* it is being made */
	expect_error(&error, COP_ERR_NOT_FOUND, "'t'");
	tpl->ready = TRUE;
	assert_true(cop_template_remove(st, "t", &error));
	expect_no_error(error);
	assert_string_equal(child->parent, "grandparent");
	assert_true(exists("disks/00000000000000ad.qcow2")); /* the child stands on it */
	assert_true(cop_template_remove(st, "child", &error));
	assert_false(exists("disks/00000000000000ad.qcow2") || exists("disks/00000000000000ae.qcow2"));
}

/* A template's folder with a manifest; caller owns the sums of the template. */
static struct cop_template *saved_template(void)
{
	struct cop_template *tpl = add_template("t", machine_new(NULL, "00000000000000ad.qcow2"));
	g_autofree char *folder = at("templates/t"), *state_file = at("templates/t/state");
	g_autofree char *disk = at("disks/00000000000000ad.qcow2");
	GError *error = NULL;

	assert_int_equal(mkdir(folder, 0700), 0);
	write_file(state_file, "device state");
	write_file(disk, "layer");
	tpl->sums = json_object_new();
	json_object_set_object_member(tpl->sums, "ram", json_object_new());
	assert_true(cop_template_sum_file(tpl->sums, "state", state_file, &error));
	assert_true(cop_template_sum_file(tpl->sums, "disks/00000000000000ad.qcow2", disk, &error));
	tpl->parent = g_strdup("p");
	tpl->created_s = 123;
	tpl->times.window_ms = 1.25;
	assert_true(cop_template_save(tpl, folder, &error));
	expect_no_error(error);
	return tpl;
}

/* Catches: a field of the manifest that is lost over a restart of the daemon. */
static void test_template_round_trip(void **state)
{
	struct cop_template *tpl = saved_template(), *back = cop_template_read(st, "t");

	assert_true(back->ready && !back->broken);
	assert_string_equal(back->parent, tpl->parent);
	assert_string_equal(back->from_vm, tpl->from_vm);
	assert_true(back->created_s == 123 && back->times.window_ms == 1.25);
	assert_int_equal(back->ephemeral, FALSE);
	assert_null(back->ram_id);
	assert_true(back->machine->memory_bytes == tpl->machine->memory_bytes);
	cop_template_unref(back);
	cop_template_unref(NULL);
}

/* Catches: an altered, cut or missing part of a template that is used all the same. */
static void test_template_check(void **state)
{
	static const char *const parts[] = {"templates/t/state", "disks/00000000000000ad.qcow2"};
	struct cop_template *tpl = saved_template();
	GError *error = NULL;

	for (int full = 0; full < 2; full++) {
		assert_true(cop_template_check(st, tpl, full, NULL, &error));
		for (size_t i = 0; i < G_N_ELEMENTS(parts); i++) {
			g_autofree char *path = at(parts[i]), *text = NULL;
			JsonArray *report = json_array_new();

			assert_true(g_file_get_contents(path, &text, NULL, NULL));
			text[0] ^= 1;
			write_file(path, text);
			assert_false(cop_template_check(st, tpl, full, NULL, &error));
			expect_error(&error, COP_ERR_DAMAGED, path);
			assert_false(cop_template_check(st, tpl, full, report, NULL));
			assert_int_equal(json_array_get_length(report), 2);
			json_array_unref(report);
			assert_int_equal(unlink(path), 0);
			assert_false(cop_template_check(st, tpl, full, NULL, &error));
			expect_error(&error, COP_ERR_NOT_FOUND, path);
			text[0] ^= 1;
			write_file(path, text); /* another file with the right bytes will do */
			assert_true(cop_template_check(st, tpl, full, NULL, &error));
			expect_no_error(error);
		}
	}
}

/* Catches: a damaged manifest taken for a template, or one that ends the daemon at its start. */
static void test_template_damaged(void **state)
{
	static const char *const texts[] = {
		"",
		"{",
		"{}",
		"[]",
		"{\"format\":2,\"name\":\"t\"}",
		"{\"format\":1,\"name\":\"u\"}",
		"{\"format\":1,\"name\":\"t\"}",
		"{\"format\":1,\"name\":\"t\",\"machine\":{}}",
		"{\"format\":1,\"name\":\"t\",\"machine\":{\"type\":\"pc\",\"memory_bytes\":4096}}",
		"{\"format\":1,\"name\":\"t\",\"machine\":{\"type\":\"pc\",\"memory_bytes\":4096},"
		"\"times\":[],\"sums\":7}",
	};
	g_autofree char *folder = at("templates/t"), *path = at("templates/t/template.json");

	assert_int_equal(mkdir(folder, 0700), 0);
	for (int i = -1; i < (int)G_N_ELEMENTS(texts); i++) {
		struct cop_template *tpl;

		if (i >= 0)
			write_file(path, texts[i]);
		tpl = cop_template_read(st, "t");
		if (tpl->ready || !tpl->broken || !*tpl->broken)
			fail_msg("accepted: %s", i < 0 ? "no file" : texts[i]);
		cop_template_unref(tpl);
	}
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_reserve_names),
		TEST(test_made_up_names_are_valid),
		TEST(test_limits),
		TEST(test_disk_limit),
		TEST(test_claims),
		TEST(test_claim_waits),
		TEST(test_collect),
		TEST(test_collect_keeps_in_doubt),
		TEST(test_forget),
		TEST(test_ephemeral_template),
		TEST(test_children_of_an_ephemeral_template),
		TEST(test_template_remove),
		TEST(test_template_round_trip),
		TEST(test_template_check),
		TEST(test_template_damaged),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
