/* SPDX-License-Identifier: MIT */
/*
 * test-shim-qemu.c: the real library in the real QEMU, with its sandbox, as root and as nobody.
 * QEMU: /usr/bin/qemu-system-x86_64 or $QEMU.
 */
#include "fake-pager.h"
#include "proto/shim-client.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define GUEST_BYTES (16ul << 20)

static void start_qemu(struct rig *rig, const char *mode, uid_t uid, enum uffd uffd,
		       const char *variable)
{
	struct rig_options options = {.mode = mode,
				      .uid = uid,
				      .ram_bytes = GUEST_BYTES,
				      .variable = variable,
				      .uffd = uffd,
				      .holes = uffd};
	const char *qemu = getenv("QEMU") ? getenv("QEMU") : "/usr/bin/qemu-system-x86_64";
	char object[256];
	char *argv[] = {
		(char *)qemu,
		"-nodefaults",
		"-no-user-config",
		"-display",
		"none",
		"-S",
		"-machine",
		"pc,memory-backend=ram0",
		"-accel",
		"tcg",
		"-m",
		"16M",
		"-sandbox",
		"on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
		"-qmp",
		"stdio",
		"-object",
		object,
		NULL,
	};

	if (access(qemu, X_OK) != 0) {
		print_message("no %s\n", qemu);
		skip();
	}
	if (uid && geteuid() != 0) {
		print_message("needs root\n");
		skip();
	}
	rig_init(rig, &options);
	snprintf(object, sizeof(object),
		 "memory-backend-file,id=ram0,share=on,prealloc=off,size=%lu,mem-path=%s",
		 GUEST_BYTES, rig->dummy);
	rig_start(rig, &options, argv);
}

/* Wait for QMP's answer to @command. Nothing else is ever sent by a VM that was never started. */
static void qmp(struct rig *rig, const char *command)
{
	char line[4096];

	if (command) {
		fprintf(rig->to, "%s\n", command);
		fflush(rig->to);
	}
	do {
		if (!fgets(line, sizeof(line), rig->from))
			fail_msg("QEMU ended with status %#x", rig_wait(rig));
		assert_null(strstr(line, "\"error\""));
	} while (!strstr(line, command ? "\"return\"" : "\"QMP\""));
}

/* The region's line in /proc/PID/maps is private ("rw-p") or shared, and no line is of the dummy.
 */
static void expect_mapped(struct rig *rig, const struct cop_shim_info *info, const char *rights)
{
	char range[64], line[256];

	snprintf(range, sizeof(range), "%jx-%jx %s", (uintmax_t)info->addr,
		 (uintmax_t)(info->addr + info->len_bytes), rights);
	if (!maps_line(rig->pid, range, "/memfd:coppice-test-ram", line))
		fail_msg("no line \"%s\" of the memfd in the maps of QEMU", range);
	assert_false(maps_line(rig->pid, rig->dummy, "", line));
	assert_true(has_vm_flag(rig->pid, info->addr, "dc")); /* QEMU's MADV_DONTFORK */
}

static struct cop_shim_info say_hello(struct rig *rig, struct cop_shim_client **ret_client)
{
	struct cop_shim_info info = {0};
	struct cop_error err = {0};

	if (cop_shim_client_new(rig->socket, PATIENCE_MS, ret_client, &err) < 0 ||
	    cop_shim_client_hello(*ret_client, PATIENCE_MS, &info, &err) < 0)
		fail_msg("%s", err.text);
	assert_true(info.seen);
	assert_int_equal(info.len_bytes, GUEST_BYTES);
	return info;
}

/* QEMU itself reads what was mapped, and what is in the file is what it reads. */
static void expect_byte(struct rig *rig, size_t at)
{
	char line[4096], wanted[32];

	rig_tell(rig,
		 "{\"execute\":\"human-monitor-command\",\"arguments\":{\"command-line\":"
		 "\"xp /1bx %#zx\"}}",
		 at);
	assert_non_null(fgets(line, sizeof(line), rig->from));
	snprintf(wanted, sizeof(wanted), ": 0x%02x", pattern(at));
	if (!strstr(line, wanted))
		fail_msg("%s does not have %s", line, wanted);
}

/* It ends as if nothing had been. */
static void quit(struct rig *rig)
{
	rig_tell(rig, "{\"execute\":\"quit\"}");
	assert_int_equal(rig_wait(rig), 0);
}

/* Catches: a shim that Debian's QEMU, or its seccomp filter, or a missing privilege makes useless.
 */
static void clone_and_freeze(uid_t uid)
{
	struct cop_shim_client *client;
	struct cop_shim_info info;
	struct cop_error err = {0};
	int layer = make_ram(GUEST_BYTES);
	struct rig rig;

	start_qemu(&rig, "private", uid, UFFD_NONE, NULL);
	info = say_hello(&rig, &client);
	qmp(&rig, NULL);
	qmp(&rig, "{\"execute\":\"qmp_capabilities\"}");
	assert_int_equal(info.mode, COP_SHIM_MODE_PRIVATE);
	expect_mapped(&rig, &info, "rw-p");

	if (cop_shim_client_map_private(client, layer, PATIENCE_MS, &info, &err) < 0)
		fail_msg("%s", err.text);
	assert_int_equal(info.generation, 1);
	expect_mapped(&rig, &info, "rw-p");

	expect_byte(&rig, 0x100064);
	quit(&rig);
	cop_shim_client_free(client);
	close(layer);
	rig_done(&rig);
}

static void test_clone(void **state)
{
	clone_and_freeze(0);
}

static void test_clone_as_nobody(void **state)
{
	clone_and_freeze(NOBODY);
}

static struct fake_pager pager;

static int teardown(void **state)
{
	rig_teardown(state);
	fake_pager_done(&pager);
	return 0;
}

/* Catches: paging that the seccomp filter, a missing privilege or another thread of QEMU stops. */
static void page_out_and_in(uid_t uid)
{
	const size_t first = GUEST_BYTES / PAGE / 2, hole = first + 8;
	struct cop_shim_client *client;
	struct cop_shim_info info;
	struct cop_error err = {0};
	struct rig rig;

	need_uffd(UFFD_DEVICE);
	start_qemu(&rig, "private", uid, UFFD_DEVICE, NULL);
	info = say_hello(&rig, &client);
	fake_pager_attach(&pager, &rig, -1);
	fake_pager_read_events(&pager);
	qmp(&rig, NULL);
	qmp(&rig, "{\"execute\":\"qmp_capabilities\"}");
	assert_true(is_hole(rig.ram_fd, hole));
	expect_byte(&rig, hole * PAGE + 100);
	assert_false(is_hole(rig.ram_fd, hole));

	fake_pager_register(&pager);
	for (int i = 0; i < 20; i++) {
		pager.nr_missing = 0;
		assert_true(fake_pager_evict(&pager, first + 1, 200) > 0);
		assert_true(has_vm_flag(rig.pid, info.addr + (first + 1) * PAGE, "dc"));
		expect_byte(&rig, (first + 7) * PAGE + 100);
		expect_byte(&rig, (first + 190) * PAGE + 100);
		assert_true(pager.nr_missing > 0);
	}
	assert_done(cop_shim_client_map_private(client, rig.ram_fd, PATIENCE_MS, &info, &err), err);
	memset(pager.stored, 0, pager.nr_pages);
	expect_byte(&rig, (first + 7) * PAGE + 100);
	expect_mapped(&rig, &info, "rw-p");
	quit(&rig);
	cop_shim_client_free(client);
	fake_pager_done(&pager);
	rig_done(&rig);
}

static void test_paging(void **state)
{
	page_out_and_in(0);
}

static void test_paging_as_nobody(void **state)
{
	page_out_and_in(NOBODY);
}

/* Catches: a boot whose RAM is the dummy, and a freeze that leaves it shared. */
static void test_boot_and_freeze(void **state)
{
	struct cop_shim_client *client;
	struct cop_shim_info info;
	struct cop_error err = {0};
	struct rig rig;

	start_qemu(&rig, "shared", 0, UFFD_NONE, NULL);
	info = say_hello(&rig, &client);
	qmp(&rig, NULL);
	qmp(&rig, "{\"execute\":\"qmp_capabilities\"}");
	assert_int_equal(info.mode, COP_SHIM_MODE_SHARED);
	expect_mapped(&rig, &info, "rw-s");
	if (cop_shim_client_map_private(client, rig.ram_fd, PATIENCE_MS, &info, &err) < 0)
		fail_msg("%s", err.text);
	expect_mapped(&rig, &info, "rw-p");
	cop_shim_client_free(client);
	rig_done(&rig);
}

/* Catches: a thread that is older than QEMU's seccomp filter and is killed by it. */
static void test_thread_before_the_filter(void **state)
{
	struct cop_shim_client *client = NULL;
	struct cop_error err = {0};
	struct rig rig;

	start_qemu(&rig, "private", 0, UFFD_NONE,
		   "1:listen=5"); /* malformed: it is started at once */
	qmp(&rig, NULL);
	qmp(&rig, "{\"execute\":\"qmp_capabilities\"}");
	assert_int_equal(cop_shim_client_new(rig.socket, PATIENCE_MS, &client, &err), 0);
	assert_int_equal(cop_shim_client_hello(client, PATIENCE_MS, NULL, &err), -EINVAL);
	assert_int_equal(cop_shim_client_map_private(client, rig.ram_fd, PATIENCE_MS, NULL, &err),
			 -EINVAL);
	assert_false(maps_line(rig.pid, "coppice-test-ram", "", NULL));
	qmp(&rig, "{\"execute\":\"query-status\"}");
	cop_shim_client_free(client);
	rig_done(&rig);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(test_clone, rig_teardown),
		cmocka_unit_test_teardown(test_clone_as_nobody, rig_teardown),
		cmocka_unit_test_teardown(test_paging, teardown),
		cmocka_unit_test_teardown(test_paging_as_nobody, teardown),
		cmocka_unit_test_teardown(test_boot_and_freeze, rig_teardown),
		cmocka_unit_test_teardown(test_thread_before_the_filter, rig_teardown),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
