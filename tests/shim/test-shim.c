/* SPDX-License-Identifier: MIT */
/* test-shim.c: the real library in a small program: mapping and replacing memory. */
#include "harness.h"
#include "base/cleanup.h"
#include "base/fd.h"
#include "proto/shim-client.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static const struct rig_options shared = {.mode = "shared"};
static const struct rig_options private = {.mode = "private"};

/* Catches: an inert shim, whichever entry point the program imports; data from the dummy. */
static void map_shared_with(const char *program)
{
	struct cop_shim_info info;
	struct rig rig;
	intmax_t addr;

	rig_start_victim(&rig, &shared, program);
	addr = rig_do(&rig, "map");
	assert_true(addr > 0);
	assert_int_equal(rig_do(&rig, "get 100"), pattern(100));
	assert_int_equal(rig_do(&rig, "set 100 200"), 200);
	assert_int_equal(file_byte(rig.ram_fd, 100), 200);
	assert_int_equal(file_byte(rig.dummy_fd, 100), 0);
	info = hello(&rig);
	assert_true(info.seen);
	assert_false(info.lost);
	assert_int_equal(info.addr, addr);
	assert_int_equal(info.len_bytes, RAM_BYTES);
	assert_int_equal(info.mode, COP_SHIM_MODE_SHARED);
	assert_int_equal(info.generation, 0);
	assert_false(maps_line(rig.pid, rig.dummy, "", NULL));
	rig_done(&rig);
}

static void test_shared_mmap(void **state)
{
	map_shared_with("VICTIM32");
}

static void test_shared_mmap64(void **state)
{
	map_shared_with("VICTIM64");
}

/* Catches: a clone's write that reaches the template. */
static void map_private_with(const char *program)
{
	struct rig rig;

	rig_start_victim(&rig, &private, program);
	assert_true(rig_do(&rig, "map") > 0);
	assert_int_equal(rig_do(&rig, "get 100"), pattern(100));
	assert_int_equal(rig_do(&rig, "get %lu", RAM_BYTES - 1), pattern(RAM_BYTES - 1));
	assert_int_equal(rig_do(&rig, "set 100 200"), 200);
	assert_int_equal(rig_do(&rig, "get 100"), 200);
	assert_int_equal(file_byte(rig.ram_fd, 100), pattern(100));
	assert_int_equal(file_byte(rig.dummy_fd, 100), 0);
	assert_int_equal(hello(&rig).mode, COP_SHIM_MODE_PRIVATE);
	rig_done(&rig);
}

static void test_private_mmap(void **state)
{
	map_private_with("VICTIM32");
}

static void test_private_mmap64(void **state)
{
	map_private_with("VICTIM64");
}

/* Catches: errno or behaviour of other calls changed, before and after the region exists. */
static void test_passthrough(void **state)
{
	struct rig rig;

	rig_start_victim(&rig, &private, "VICTIM64");
	assert_int_equal(rig_do(&rig, "passthrough"), 0);
	assert_true(rig_do(&rig, "map") > 0);
	assert_int_equal(rig_do(&rig, "passthrough"), 0);
	rig_done(&rig);
}

/* Catches: a shim that does something where nobody asked for it. */
static void test_inert(void **state)
{
	struct rig_options options = {.mode = "private", .variable = ""};
	struct rig rig;

	rig_start_victim(&rig, &options, "VICTIM64");
	assert_int_equal(rig_do(&rig, "inheritable"), 2); /* left as they were */
	assert_int_equal(rig_do(&rig, "env"), 1);	  /* LD_PRELOAD too */
	assert_true(rig_do(&rig, "map") > 0);
	assert_int_equal(rig_do(&rig, "passthrough"), 0);
	assert_int_equal(rig_do(&rig, "get 100"), 0);
	assert_int_equal(rig_do(&rig, "set 100 9"), 9);
	assert_int_equal(file_byte(rig.dummy_fd, 100), 9);
	rig_done(&rig);
}

/* Catches: children of QEMU that are preloaded or hold the template. */
static void test_leaves_nothing_to_children(void **state)
{
	struct rig rig;

	rig_start_victim(&rig, &private, "VICTIM64");
	assert_int_equal(rig_do(&rig, "inheritable"), 0);
	assert_int_equal(rig_do(&rig, "env"), 0);
	assert_true(rig_do(&rig, "map") > 0);
	(void)hello(&rig);
	assert_int_equal(rig_do(&rig, "inheritable"), 0);
	rig_done(&rig);
}

/* Catches: a shim that maps something else when its orders are garbled; a silent failure. */
static void test_malformed_variable(void **state)
{
	static const char *const variables[] = {
		"1:listen=5",
		"1:listen=5:ram=6:mode=other:dev=1:ino=1:size=4096",
		"2:listen=5:ram=6:mode=private:dev=1:ino=1:size=4096",
		"nonsense:listen=5",
		"1:ram=99:listen=5:mode=private:dev=1:ino=1:size=4096", /* not open */
	};

	for (size_t i = 0; i < sizeof(variables) / sizeof(variables[0]); i++) {
		struct rig_options options = {.mode = "private", .variable = variables[i]};
		struct cop_shim_client *client;
		struct cop_error err = {0};
		struct rig rig;
		int r;

		rig_start_victim(&rig, &options, "VICTIM64");
		client = connect_client(&rig);
		r = cop_shim_client_hello(client, PATIENCE_MS, NULL, &err);
		assert_int_equal(r, i == 4 ? -EBADF : -EINVAL);
		assert_true(rig_do(&rig, "map") > 0);
		assert_int_equal(rig_do(&rig, "get 100"), 0);
		r = cop_shim_client_map_private(client, rig.ram_fd, PATIENCE_MS, NULL, &err);
		assert_int_equal(r, i == 4 ? -EBADF : -EINVAL);
		assert_int_equal(rig_do(&rig, "get 100"), 0);
		assert_int_equal(rig_do(&rig, "env"), 0);
		cop_shim_client_free(client);
		rig_done(&rig);
	}
}

/* Catches: a VM that runs although its socket can't be found: HELLO must fail then. */
static void test_unreadable_listen(void **state)
{
	struct rig_options options = {.mode = "private", .variable = "1:listen=x:ram=6"};
	struct cop_shim_client *client;
	struct cop_error err = {0};
	struct rig rig;

	rig_start_victim(&rig, &options, "VICTIM64");
	client = connect_client(&rig);
	assert_true(rig_do(&rig, "map") > 0);
	assert_int_equal(cop_shim_client_hello(client, 50, NULL, &err), -ETIMEDOUT);
	assert_int_equal(cop_shim_client_hello(client, 50, NULL, &err), -ENOTCONN);
	cop_shim_client_free(client);
	rig_done(&rig);
}

/* The mapping fails in QEMU with @expected, and HELLO says so. */
static void expect_refused_mapping(const struct rig_options *options, int expected)
{
	struct cop_shim_client *client;
	struct cop_error err = {0};
	struct rig rig;

	rig_start_victim(&rig, options, "VICTIM64");
	assert_int_equal(rig_do(&rig, "map"), expected);
	client = connect_client(&rig);
	assert_int_equal(cop_shim_client_hello(client, PATIENCE_MS, NULL, &err), expected);
	cop_shim_client_free(client);
	rig_done(&rig);
}

/* Catches: a guest that can raise SIGBUS; a clone that holds a key to its template. */
static void test_bad_first_descriptor(void **state)
{
	struct rig_options options = {.mode = "private", .file_bytes = RAM_BYTES - PAGE};

	expect_refused_mapping(&options, -EFBIG);
	options.mode = "shared";
	expect_refused_mapping(&options, -EFBIG);
	options = (struct rig_options){.mode = "private", .writable = true};
	expect_refused_mapping(&options, -EPERM);
}

/* Catches: a VM that starts although it can never be frozen. */
static void test_no_socket(void **state)
{
	struct rig_options options = {.mode = "private", .deaf = true};
	struct rig rig;

	rig_start_victim(&rig, &options, "VICTIM64");
	assert_int_equal(rig_do(&rig, "map"), -ENOTSOCK);
	assert_false(maps_line(rig.pid, "coppice-test-ram", "", NULL));
	assert_false(maps_line(rig.pid, rig.dummy, "", NULL));
	assert_int_equal(rig_do(&rig, "map"), -ENOTSOCK);
	rig_done(&rig);
}

/* The unsigned number after @key in the status of @pid's thread called @name. */
static unsigned long long thread_status(pid_t pid, const char *name, const char *key)
{
	char path[512], line[256];
	unsigned long long value = 0;
	struct dirent *entry;
	DIR *tasks;

	snprintf(path, sizeof(path), "/proc/%d/task", pid);
	tasks = opendir(path);
	assert_non_null(tasks);
	while ((entry = readdir(tasks))) {
		bool right = false;
		FILE *f;

		snprintf(path, sizeof(path), "/proc/%d/task/%s/status", pid, entry->d_name);
		f = fopen(path, "r");
		while (f && fgets(line, sizeof(line), f)) {
			line[strcspn(line, "\n")] = '\0';
			if (!strncmp(line, "Name:\t", 6))
				right = !strcmp(line + 6, name);
			else if (right && !strncmp(line, key, strlen(key)))
				value = strtoull(line + strlen(key), NULL, 16);
		}
		if (f)
			fclose(f);
	}
	closedir(tasks);
	return value;
}

/* Catches: QEMU's signal handlers run in the shim's thread. */
static void test_signals_are_blocked(void **state)
{
	static const int signals[] = {SIGHUP, SIGINT, SIGUSR1, SIGALRM, SIGTERM, SIGCHLD, SIGIO};
	unsigned long long blocked;
	struct rig rig;

	rig_start_victim(&rig, &private, "VICTIM64");
	assert_true(rig_do(&rig, "map") > 0);
	(void)hello(&rig); /* by now it has its name */
	blocked = thread_status(rig.pid, "coppice-shim", "SigBlk:\t");
	for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
		assert_true(blocked & 1ull << (signals[i] - 1));
	rig_done(&rig);
}

/* Catches: a second region where the protocol knows one. */
static void test_second_mapping(void **state)
{
	struct rig rig;

	rig_start_victim(&rig, &private, "VICTIM64");
	assert_true(rig_do(&rig, "map") > 0);
	assert_int_equal(rig_do(&rig, "map"), -EBUSY);
	assert_int_equal(rig_do(&rig, "get 100"), pattern(100));
	assert_true(hello(&rig).seen);
	rig_done(&rig);
}

/* Catches: a replacement over memory that QEMU has since used for something else. */
static void test_unmapped_region(void **state)
{
	struct cop_shim_client *client;
	struct cop_error err = {0};
	struct rig rig;

	rig_start_victim(&rig, &private, "VICTIM64");
	assert_true(rig_do(&rig, "map") > 0);
	assert_true(hello(&rig).seen);
	assert_int_equal(rig_do(&rig, "unmap"), 0);
	client = connect_client(&rig);
	assert_int_equal(cop_shim_client_map_private(client, rig.ram_fd, PATIENCE_MS, NULL, &err),
			 -ENXIO);
	assert_false(maps_line(rig.pid, "coppice-test-ram", "", NULL));
	cop_shim_client_free(client);
	rig_done(&rig);
}

/* Catches: a freeze after which the VM still writes to the template; the wrong file mapped. */
static void test_freeze_and_freeze_again(void **state)
{
	struct cop_shim_client *client;
	struct cop_shim_info info;
	struct cop_error err = {0};
	cop_auto_close int layer = make_ram(RAM_BYTES);
	struct rig rig;
	intmax_t addr;

	rig_start_victim(&rig, &shared, "VICTIM64");
	addr = rig_do(&rig, "map");
	rig_do(&rig, "set 100 200");
	client = connect_client(&rig);
	/* The kernel refuses this seal as long as anybody can write through a mapping. */
	assert_int_equal(fcntl(rig.ram_fd, F_ADD_SEALS, F_SEAL_WRITE), -1);
	assert_done(cop_shim_client_map_private(client, rig.ram_fd, PATIENCE_MS, &info, &err), err);
	assert_int_equal(fcntl(rig.ram_fd, F_ADD_SEALS, F_SEAL_WRITE), 0);
	assert_int_equal(info.mode, COP_SHIM_MODE_PRIVATE);
	assert_int_equal(info.generation, 1);
	assert_int_equal(info.addr, addr);
	assert_int_equal(rig_do(&rig, "get 100"), 200);
	rig_do(&rig, "set 100 201");
	assert_int_equal(rig_do(&rig, "get 100"), 201);
	assert_int_equal(file_byte(rig.ram_fd, 100), 200);

	/* Its new layer holds what the VM has by now. */
	assert_int_equal(pwrite(layer, "\xc9", 1, 100), 1);
	assert_done(cop_shim_client_map_private(client, layer, PATIENCE_MS, &info, &err), err);
	assert_int_equal(info.generation, 2);
	assert_int_equal(rig_do(&rig, "get 100"), 201);
	rig_do(&rig, "set 100 202");
	assert_int_equal(file_byte(layer, 100), 201);
	assert_int_equal(file_byte(rig.ram_fd, 100), 200);

	cop_shim_client_free(client);
	rig_done(&rig);
}

/* Catches: a descriptor kept open in QEMU, which would pin a removed template's memory. */
static void test_keeps_no_descriptor(void **state)
{
	struct cop_shim_client *client;
	struct cop_error err = {0};
	struct rig rig;
	intmax_t before, after;

	rig_start_victim(&rig, &private, "VICTIM64");
	before = rig_do(&rig, "open");
	assert_true(rig_do(&rig, "map") > 0);
	client = connect_client(&rig);
	for (int i = 0; i < 20; i++) {
		assert_done(
			cop_shim_client_map_private(client, rig.ram_fd, PATIENCE_MS, NULL, &err),
			err);
	}
	after = rig_do(&rig, "open");
	/* ram= is closed, the connection is open. */
	assert_int_equal(after, before);
	cop_shim_client_free(client);
	rig_done(&rig);
}

/* Catches: settings of QEMU that are gone after a freeze, such as "not in a core dump". */
static void test_advice_is_repeated(void **state)
{
	struct cop_shim_client *client;
	struct cop_error err = {0};
	struct rig rig;
	intmax_t addr;

	rig_start_victim(&rig, &shared, "VICTIM64");
	addr = rig_do(&rig, "map");
	assert_int_equal(rig_do(&rig, "advise %d", MADV_DONTFORK), 0);
	assert_int_equal(rig_do(&rig, "advise %d", MADV_DONTDUMP), 0);
	client = connect_client(&rig);
	assert_done(cop_shim_client_map_private(client, rig.ram_fd, PATIENCE_MS, NULL, &err), err);
	assert_true(has_vm_flag(rig.pid, (uintmax_t)addr, "dc"));
	assert_true(has_vm_flag(rig.pid, (uintmax_t)addr, "dd"));
	assert_true(has_vm_flag(rig.pid, (uintmax_t)addr, "nr"));
	/* The last of a pair counts. */
	assert_int_equal(rig_do(&rig, "advise %d", MADV_DODUMP), 0);
	assert_done(cop_shim_client_map_private(client, rig.ram_fd, PATIENCE_MS, NULL, &err), err);
	assert_true(has_vm_flag(rig.pid, (uintmax_t)addr, "dc"));
	assert_false(has_vm_flag(rig.pid, (uintmax_t)addr, "dd"));
	cop_shim_client_free(client);
	rig_done(&rig);
}

static void await_rounds(struct rig *rig, intmax_t more)
{
	intmax_t until = rig_do(rig, "rounds") + more;

	while (rig_do(rig, "rounds") < until)
		;
}

/*
 * Catches: a moment without a mapping, or with other bytes, while threads touch the region: first
 * one shared to private, when what they wrote until then must stay; then again and again the same
 * file.
 */
static void test_replace_under_load(void **state)
{
	for (int counting = 1; counting >= 0; counting--) {
		struct rig_options options = {.mode = "shared", .ram_bytes = 2048 * PAGE};
		struct cop_shim_client *client;
		struct cop_error err = {0};
		struct rig rig;

		rig_start_victim(&rig, &options, "VICTIM64");
		assert_true(rig_do(&rig, "map") > 0);
		client = connect_client(&rig);
		/* Values that change can survive one replacement, ones that stay any number. */
		rig_do(&rig, "hammer %d", counting);
		await_rounds(&rig, 2);
		for (int i = 0; i < (counting ? 1 : 200); i++) {
			assert_done(cop_shim_client_map_private(client, rig.ram_fd, PATIENCE_MS,
								NULL, &err),
				    err);
		}
		await_rounds(&rig, 2);
		assert_int_equal(rig_do(&rig, "rest"), 0);
		cop_shim_client_free(client);
		rig_done(&rig);
	}
}

/* Catches: a replacement that is half done, or a VM that dies of a bad request. */
static void test_bad_descriptors_are_refused(void **state)
{
	cop_auto_close int small = make_ram(RAM_BYTES - 1);
	cop_auto_close int directory = open("/tmp", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	cop_auto_close int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
	cop_auto_close int path = open("/bin/true", O_PATH | O_CLOEXEC);
	cop_auto_close int conn = -1;
	struct cop_shim_client *client;
	struct cop_shim_info info;
	struct cop_shim_msg request;
	struct cop_error err = {0};
	struct rig rig;

	rig_start_victim(&rig, &private, "VICTIM64");
	assert_true(rig_do(&rig, "map") > 0);
	rig_do(&rig, "set 100 200");
	client = connect_client(&rig);
	assert_int_equal(cop_shim_client_map_private(client, small, PATIENCE_MS, NULL, &err),
			 -EFBIG);
	assert_non_null(strstr(err.text, "shorter"));
	assert_int_equal(cop_shim_client_map_private(client, directory, PATIENCE_MS, NULL, &err),
			 -EINVAL);
	assert_int_equal(cop_shim_client_map_private(client, null, PATIENCE_MS, NULL, &err),
			 -EINVAL);
	assert_true(cop_shim_client_map_private(client, path, PATIENCE_MS, NULL, &err) < 0);
	assert_int_equal(cop_shim_client_map_private(client, -1, PATIENCE_MS, NULL, &err), -EBADF);
	cop_shim_client_free(client);

	/* What the client library would not send. */
	info = hello(&rig);
	request = (struct cop_shim_msg){.magic = COP_SHIM_MAGIC,
					.version = COP_SHIM_VERSION,
					.type = COP_SHIM_MAP_PRIVATE,
					.addr = info.addr,
					.len = info.len_bytes};
	conn = connect_raw(&rig);
	assert_int_equal(ask_raw(conn, &request, sizeof(request), rig.ram_fd), -EPERM);
	assert_int_equal(ask_raw(conn, &request, sizeof(request), -1), -EBADF);
	request.addr += PAGE;
	assert_int_equal(ask_raw(conn, &request, sizeof(request), rig.ram_fd), -EINVAL);
	request.addr -= PAGE;
	request.len -= PAGE;
	assert_int_equal(ask_raw(conn, &request, sizeof(request), rig.ram_fd), -EINVAL);

	info = hello(&rig);
	assert_int_equal(info.generation, 0);
	assert_false(info.lost);
	assert_int_equal(rig_do(&rig, "get 100"), 200);
	rig_done(&rig);
}

/* Catches: a library that needs root, or whose blocked signals stop libc's setuid(). */
static void test_unprivileged(void **state)
{
	struct rig_options options = {.mode = "private", .uid = NOBODY};
	struct cop_shim_client *client;
	struct cop_error err = {0};
	struct rig rig;

	if (geteuid() != 0)
		skip();
	rig_start_victim(&rig, &options, "VICTIM64");
	assert_true(rig_do(&rig, "map") > 0);
	client = connect_client(&rig);
	assert_done(cop_shim_client_map_private(client, rig.ram_fd, PATIENCE_MS, NULL, &err), err);
	cop_shim_client_free(client);
	rig_done(&rig);

	rig_start_victim(&rig, &private, "VICTIM64");
	assert_true(rig_do(&rig, "map") > 0);
	assert_int_equal(rig_do(&rig, "setuid %d", NOBODY), 0);
	client = connect_client(&rig);
	assert_done(cop_shim_client_map_private(client, rig.ram_fd, PATIENCE_MS, NULL, &err), err);
	cop_shim_client_free(client);
	rig_done(&rig);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(test_shared_mmap, rig_teardown),
		cmocka_unit_test_teardown(test_shared_mmap64, rig_teardown),
		cmocka_unit_test_teardown(test_private_mmap, rig_teardown),
		cmocka_unit_test_teardown(test_private_mmap64, rig_teardown),
		cmocka_unit_test_teardown(test_passthrough, rig_teardown),
		cmocka_unit_test_teardown(test_inert, rig_teardown),
		cmocka_unit_test_teardown(test_leaves_nothing_to_children, rig_teardown),
		cmocka_unit_test_teardown(test_malformed_variable, rig_teardown),
		cmocka_unit_test_teardown(test_unreadable_listen, rig_teardown),
		cmocka_unit_test_teardown(test_bad_first_descriptor, rig_teardown),
		cmocka_unit_test_teardown(test_no_socket, rig_teardown),
		cmocka_unit_test_teardown(test_signals_are_blocked, rig_teardown),
		cmocka_unit_test_teardown(test_second_mapping, rig_teardown),
		cmocka_unit_test_teardown(test_unmapped_region, rig_teardown),
		cmocka_unit_test_teardown(test_freeze_and_freeze_again, rig_teardown),
		cmocka_unit_test_teardown(test_keeps_no_descriptor, rig_teardown),
		cmocka_unit_test_teardown(test_advice_is_repeated, rig_teardown),
		cmocka_unit_test_teardown(test_replace_under_load, rig_teardown),
		cmocka_unit_test_teardown(test_bad_descriptors_are_refused, rig_teardown),
		cmocka_unit_test_teardown(test_unprivileged, rig_teardown),
	};

	signal(SIGPIPE, SIG_IGN); /* a victim that died is noticed by what it does not answer */
	return cmocka_run_group_tests(tests, NULL, NULL);
}
