/* SPDX-License-Identifier: MIT */
/*
 * test-shim-paging.c: what the shim does for a pager, with a fake one in this process and the real
 * library in a small program.
 */
#include "fake-pager.h"
#include "base/cleanup.h"
#include "base/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

static const struct rig_options private = {.mode = "private", .uffd = UFFD_DEVICE, .holes = true};
static const struct rig_options shared = {.mode = "shared", .uffd = UFFD_DEVICE, .holes = true};

/* Not on a test's stack: a failed test jumps out while their readers run. */
static struct fake_pager pagers[2];

static int teardown(void **state)
{
	rig_teardown(state);
	for (int i = 0; i < 2; i++)
		fake_pager_done(&pagers[i]);
	return 0;
}

/* Starts the victim, maps its memory. Returns the address. */
static uintmax_t start(struct rig *rig, const struct rig_options *options)
{
	intmax_t addr;

	need_uffd(options->uffd);
	rig_start_victim(rig, options, "VICTIM64");
	addr = rig_do(rig, "map");
	assert_true(addr > 0);
	return (uintmax_t)addr;
}

static struct fake_pager *attach(struct rig *rig)
{
	fake_pager_attach(&pagers[0], rig, -1);
	fake_pager_read_events(&pagers[0]);
	return &pagers[0];
}

static void finish(struct rig *rig)
{
	for (int i = 0; i < 2; i++)
		fake_pager_done(&pagers[i]);
	rig_done(rig);
}

static void expect_eof(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};
	char byte;

	assert_int_equal(poll(&p, 1, PATIENCE_MS), 1);
	assert_int_equal(recv(fd, &byte, 1, 0), 0);
}

static void expect_hello(struct cop_shim_client *client)
{
	struct cop_error err = {0};

	assert_done(cop_shim_client_hello(client, PATIENCE_MS, NULL, &err), err);
}

/* Catches: a hole of the image that the kernel fills with zeros, for the program or for itself;
 * pager and daemon that end each other's connections. */
static void holes_fault(enum uffd kind)
{
	const struct cop_shim_msg say_hello = {
		.magic = COP_SHIM_MAGIC, .version = COP_SHIM_VERSION, .type = COP_SHIM_HELLO};
	struct rig_options options = private;
	struct cop_shim_client *client, *newer;
	struct fake_pager *pager;
	struct rig rig;
	uintmax_t addr;

	options.uffd = kind;
	addr = start(&rig, &options);
	client = connect_client(&rig);
	expect_hello(client);
	assert_true(has_vm_flag(rig.pid, addr, "um"));
	pager = attach(&rig);
	assert_int_equal(pager->addr, addr);
	expect_hello(client);

	assert_int_equal(rig_do(&rig, "get 100"), pattern(100));
	assert_int_equal(pager->nr_loaded, 1);
	assert_int_equal(rig_do(&rig, "kget %lu", 8 * PAGE + 200), pattern(8 * PAGE + 200));
	assert_int_equal(pager->nr_loaded, 2);
	assert_int_equal(rig_do(&rig, "get %lu", 9 * PAGE + 100), pattern(9 * PAGE + 100));
	assert_int_equal(rig_do(&rig, "set %lu 201", 16 * PAGE + 100), 201);
	assert_int_equal(rig_do(&rig, "get %lu", 16 * PAGE + 101), pattern(16 * PAGE + 101));
	assert_int_equal(pager->nr_loaded, 3);
	assert_int_equal(file_byte(rig.ram_fd, 16 * PAGE + 100), pattern(16 * PAGE + 100));

	newer = connect_client(&rig);
	expect_hello(newer);
	assert_int_equal(ask_raw(pager->conn, &say_hello, sizeof(say_hello), -1), 0);
	assert_true(cop_shim_client_hello(client, PATIENCE_MS, NULL, NULL) < 0);
	expect_hello(newer);
	cop_shim_client_free(client);
	cop_shim_client_free(newer);
	finish(&rig);
}

static void test_device(void **state)
{
	holes_fault(UFFD_DEVICE);
}

static void test_system_call(void **state)
{
	holes_fault(UFFD_SYSCALL);
}

/* Catches: a shared region that faults for each page while it boots; a freeze after which the holes
 * of the image are zeros. */
static void test_shared_then_private(void **state)
{
	struct cop_shim_client *client;
	struct cop_error err = {0};
	struct fake_pager *pager;
	struct rig rig;
	uintmax_t addr = start(&rig, &shared);

	assert_false(has_vm_flag(rig.pid, addr, "um"));
	assert_int_equal(rig_do(&rig, "get 100"), 0); /* there is no pager */
	pager = attach(&rig);
	punch_page(rig.ram_fd, 0);
	client = connect_client(&rig);
	for (int i = 0; i < 2; i++) {
		size_t at = i * 8 * PAGE + 100;

		assert_done(
			cop_shim_client_map_private(client, rig.ram_fd, PATIENCE_MS, NULL, &err),
			err);
		assert_true(has_vm_flag(rig.pid, addr, "um"));
		assert_int_equal(rig_do(&rig, "get %zu", at), pattern(at));
		assert_int_equal(pager->nr_loaded, i + 1);
		/* The next time it must not matter what was there. */
		fake_pager_register(pager);
		assert_int_equal(fake_pager_evict(pager, 41, 4), 1);
		memset(pager->stored, 0, pager->nr_pages);
		assert_int_equal(nr_mappings(rig.pid, addr, RAM_BYTES), 3);
	}
	assert_int_equal(ask_raw(pager->conn,
				 &(struct cop_shim_msg){.magic = COP_SHIM_MAGIC,
							.version = COP_SHIM_VERSION,
							.type = COP_SHIM_MAP_PRIVATE},
				 sizeof(struct cop_shim_msg), -1),
			 -EOPNOTSUPP);
	cop_shim_client_free(client);
	finish(&rig);
}

/* Catches: pieces that are not registered, or don't merge, or lose QEMU's settings, or come with
 * dangerous ones; staging used up; TEMPLATE that does not show the template. */
static void test_replace(void **state)
{
	const struct cop_shim_range left = {8, 2, COP_SHIM_OP_EMPTY}, right = {10, 2, left.op};
	const struct cop_shim_range two[] = {{32, 1, left.op}, {20, 3, COP_SHIM_OP_TEMPLATE}};
	struct fake_pager *pager;
	struct rig rig;
	uintmax_t addr = start(&rig, &private), piece = addr + 8 * PAGE;

	assert_int_equal(rig_do(&rig, "advise %d", MADV_DONTFORK), 0);
	assert_int_equal(rig_do(&rig, "advise %d", MADV_DONTDUMP), 0);
	assert_int_equal(rig_do(&rig, "advise %d", MADV_MERGEABLE), 0);
	pager = attach(&rig);
	fake_pager_register(pager);
	for (int i = 0; i < 100; i++) {
		assert_int_equal(fake_pager_replace(pager, &left, 1).status, 0);
		assert_int_equal(fake_pager_replace(pager, &right, 1).len, 1);
	}
	assert_int_equal(pager->nr_remaps, 200);
	assert_int_equal(nr_mappings(rig.pid, addr, RAM_BYTES), 3);
	assert_true(has_vm_flag(rig.pid, piece, "um"));
	assert_true(has_vm_flag(rig.pid, piece, "uw"));
	assert_true(has_vm_flag(rig.pid, piece, "dc"));
	assert_true(has_vm_flag(rig.pid, piece, "dd"));
	assert_true(has_vm_flag(rig.pid, piece, "nh"));
	assert_false(has_vm_flag(rig.pid, piece, "hg"));
	assert_false(has_vm_flag(rig.pid, piece, "mg"));
	assert_false(has_vm_flag(rig.pid, addr, "mg"));

	for (size_t at = 20 * PAGE; at < 33 * PAGE; at += PAGE)
		rig_do(&rig, "set %zu 203", at + 100);
	assert_int_equal(fake_pager_evict(pager, 40, 4), 1);
	assert_int_equal(fake_pager_replace(pager, two, 2).len, 2);
	assert_int_equal(rig_do(&rig, "get %lu", 22 * PAGE + 100), pattern(22 * PAGE + 100));
	assert_int_equal(rig_do(&rig, "get %lu", 23 * PAGE + 100), 203);
	assert_int_equal(rig_do(&rig, "get %lu", 41 * PAGE + 100), pattern(41 * PAGE + 100));
	assert_true(pager->nr_missing > 0);
	finish(&rig);
}

/* Catches: a write lost, a page torn or a moment without one, while threads use all pages all the
 * time. */
static void test_evict_under_load(void **state)
{
	struct rig_options options = private;
	uint64_t random = 88172645463325252ull, until;
	unsigned int nr_ranges = 0;
	struct fake_pager *pager;
	struct rig rig;

	options.ram_bytes = 256 * PAGE;
	start(&rig, &options);
	pager = attach(&rig);
	fake_pager_register(pager);
	rig_do(&rig, "hammer 1");
	for (int i = 0; i < 10000; i++) {
		size_t first, nr;

		random ^= random << 13;
		random ^= random >> 7;
		random ^= random << 17;
		nr = 1 + random % 24;
		first = (random >> 20) % (256 - nr + 1);
		nr_ranges += fake_pager_evict(pager, first, nr);
	}
	until = (uint64_t)rig_do(&rig, "rounds") + 2;
	while ((uint64_t)rig_do(&rig, "rounds") < until)
		;
	assert_int_equal(rig_do(&rig, "rest"), 0);
	assert_int_equal(pager->nr_remaps, nr_ranges);
	assert_true(pager->nr_protected > 0); /* there were races to lose */
	assert_true(pager->nr_missing > 1000);
	finish(&rig);
}

/* Catches: a pager that died in the worst moment and locks its successor out, or goes on replacing
 * under it; a new mapping made in the middle. */
static void test_takeover(void **state)
{
	const struct cop_shim_range two[] = {{1, 1, COP_SHIM_OP_EMPTY}, {3, 1, COP_SHIM_OP_EMPTY}};
	struct cop_shim_client *client;
	struct cop_shim_msg answer;
	struct cop_error err = {0};
	struct pollfd p = {.events = POLLIN};
	struct rig rig;

	start(&rig, &private);
	client = connect_client(&rig);
	fake_pager_attach(&pagers[0], &rig, -1);
	fake_pager_register(&pagers[0]);
	fake_pager_send_replace(&pagers[0], two, 2);
	p.fd = pagers[0].uffd; /* the event that nobody will read: the shim waits */
	assert_int_equal(poll(&p, 1, PATIENCE_MS), 1);
	assert_int_equal(cop_shim_client_map_private(client, rig.ram_fd, PATIENCE_MS, NULL, &err),
			 -EBUSY);
	fake_pager_attach(&pagers[1], &rig, -1);
	fake_pager_send_replace(&pagers[1], NULL, 0);
	fake_pager_read_events(&pagers[1]);
	answer = receive_raw(pagers[1].conn);
	assert_int_equal(answer.status, 0);
	assert_int_equal(answer.type, COP_SHIM_REPLACE);
	answer = receive_raw(pagers[0].conn);
	assert_int_equal(answer.status, -ECANCELED);
	assert_int_equal(answer.len, 1);
	expect_eof(pagers[0].conn);
	expect_hello(client);
	fake_pager_done(&pagers[0]);

	assert_int_equal(rig_do(&rig, "get 100"), pattern(100));
	assert_int_equal(fake_pager_evict(&pagers[1], 2, 20), 1);
	assert_int_equal(rig_do(&rig, "get %lu", 9 * PAGE + 100), pattern(9 * PAGE + 100));
	assert_done(cop_shim_client_map_private(client, rig.ram_fd, PATIENCE_MS, NULL, &err), err);
	cop_shim_client_free(client);
	finish(&rig);
}

/* Catches: descriptors that pile up with the pagers of a long life. */
static void test_keeps_no_connection(void **state)
{
	struct rig rig;
	intmax_t before;

	start(&rig, &private);
	for (int i = 0; i < 2; i++)
		fake_pager_attach(&pagers[i], &rig, -1);
	expect_eof(pagers[0].conn);
	before = rig_do(&rig, "open");
	for (int i = 0; i < 20; i++) {
		int older = i % 2, newer = !older;

		fake_pager_done(&pagers[older]);
		fake_pager_attach(&pagers[older], &rig, -1);
		expect_eof(pagers[newer].conn);
	}
	assert_int_equal(rig_do(&rig, "open"), before);
	finish(&rig);
}

/* Catches: memory mapped over what QEMU has given up. */
static void test_unmap_while_replacing(void **state)
{
	const struct cop_shim_range two[] = {{1, 1, COP_SHIM_OP_EMPTY}, {3, 1, COP_SHIM_OP_EMPTY}};
	struct cop_shim_msg answer;
	struct pollfd p = {.events = POLLIN};
	struct rig rig;
	uintmax_t addr = start(&rig, &private);

	fake_pager_attach(&pagers[0], &rig, -1);
	fake_pager_send_replace(&pagers[0], two, 2);
	p.fd = pagers[0].uffd;
	assert_int_equal(poll(&p, 1, PATIENCE_MS), 1);
	rig_tell(&rig, "unmap");
	fake_pager_read_events(&pagers[0]);
	answer = receive_raw(pagers[0].conn);
	assert_true(answer.status == 0 || (answer.status == -ENXIO && answer.len == 1));
	assert_int_equal(rig_answer(&rig), 0);
	assert_int_equal(fake_pager_replace(&pagers[0], two, 2).status, -ENXIO);
	assert_int_equal(nr_mappings(rig.pid, addr, RAM_BYTES), 0);
	finish(&rig);
}

static void answer_discard(struct fake_pager *pager, const struct cop_shim_msg *question,
			   int status)
{
	struct cop_shim_msg answer = *question;

	answer.addr = answer.len = 0;
	answer.status = status;
	assert_int_equal(cop_fd_send(pager->conn, &answer, sizeof(answer), NULL, 0, 0), 0);
}

static struct cop_shim_msg expect_discard(struct fake_pager *pager, uint64_t addr, uint64_t len)
{
	struct cop_shim_msg msg = receive_raw(pager->conn);

	assert_int_equal(msg.type, COP_SHIM_DISCARD);
	assert_int_equal(msg.status, 0);
	assert_int_equal(msg.addr, addr);
	assert_int_equal(msg.len, len);
	return msg;
}

/* Catches: a discard that shows the template's bytes, is forgotten when a pager dies, or takes more
 * or less than it should. */
static void test_discard(void **state)
{
	struct cop_shim_msg first, again;
	struct fake_pager *pager = &pagers[0];
	struct rig rig;
	uintmax_t addr = start(&rig, &private);

	rig_do(&rig, "set %lu 204", PAGE + 100);
	rig_tell(&rig, "discard 2 %lu", 2 * PAGE - 5); /* of two pages, from the second on */
	fake_pager_attach(&pagers[1], &rig, -1);
	first = expect_discard(&pagers[1], addr + PAGE, 2 * PAGE);
	fake_pager_done(&pagers[1]);
	fake_pager_attach(pager, &rig, -1);
	again = expect_discard(pager, addr + PAGE, 2 * PAGE);
	assert_int_equal(again.id, first.id);
	again.id++; /* not asked for: means nothing */
	answer_discard(pager, &again, 0);
	again.id--;
	answer_discard(pager, &again, -EIO);
	assert_int_equal(rig_answer(&rig), -EIO);
	fake_pager_read_events(pager);
	assert_int_equal(rig_do(&rig, "get %lu", PAGE + 100), 204); /* it is left to the pager */

	/* Around the region there is a page of QEMU's own at each end. */
	rig_tell(&rig, "discard 0 %lu", 2 * PAGE);
	again = expect_discard(pager, addr, PAGE);
	assert_int_not_equal(again.id, first.id);
	answer_discard(pager, &again, 0);
	assert_int_equal(rig_answer(&rig), 0);
	rig_tell(&rig, "remove 64 %lu", PAGE);
	again = expect_discard(pager, addr + 63 * PAGE, PAGE);
	answer_discard(pager, &again, 0);
	assert_int_equal(rig_answer(&rig), 0);
	rig_tell(&rig, "discard 63 %lu", 3 * PAGE);
	again = expect_discard(pager, addr + 62 * PAGE, 2 * PAGE);
	answer_discard(pager, &again, 1);
	assert_int_equal(rig_answer(&rig), -EPROTO);
	assert_int_equal(rig_do(&rig, "discard 0 %lu", PAGE), 0); /* none of it */
	assert_int_equal(rig_do(&rig, "discard 1 %zu", SIZE_MAX), -EINVAL);
	finish(&rig);
}

/* Catches: more discards at once than a pager is told to expect, one that never gets its turn, and
 * replacements that have to wait for them. */
static void test_many_discards(void **state)
{
	const struct cop_shim_range range = {40, 1, COP_SHIM_OP_EMPTY};
	struct cop_shim_msg asked[16];
	struct fake_pager *pager;
	struct rig rig;

	start(&rig, &private);
	pager = attach(&rig);
	rig_tell(&rig, "discards 24");
	for (int i = 0; i < 16; i++) {
		asked[i] = receive_raw(pager->conn);
		assert_int_equal(asked[i].type, COP_SHIM_DISCARD);
	}
	/* No seventeenth comes before this answer. */
	assert_int_equal(fake_pager_replace(pager, &range, 1).status, 0);
	for (int i = 0; i < 16; i++)
		answer_discard(pager, &asked[i], i % 4 ? 0 : -ENOMEM);
	for (int i = 16; i < 24; i++) {
		asked[0] = receive_raw(pager->conn);
		assert_int_equal(asked[0].type, COP_SHIM_DISCARD);
		answer_discard(pager, &asked[0], 0);
	}
	assert_int_equal(rig_answer(&rig), 4);
	finish(&rig);
}

/* Catches: requests half understood or half done; a connection that may do what it should not. */
static void test_bad_requests(void **state)
{
	static const struct {
		size_t offset;
		unsigned char value;
		int status;
	} changes[] = {
		{offsetof(struct cop_shim_msg, magic), 0, -EBADMSG},
		{offsetof(struct cop_shim_msg, version), 2, -EPROTONOSUPPORT},
		{offsetof(struct cop_shim_msg, type), 0, -EOPNOTSUPP},
		{offsetof(struct cop_shim_msg, type), COP_SHIM_ATTACH, -EOPNOTSUPP},
		{offsetof(struct cop_shim_msg, type), COP_SHIM_HELLO, -EMSGSIZE},
		{offsetof(struct cop_shim_msg, status), 1, -EINVAL},
		{offsetof(struct cop_shim_msg, addr), 1, -EINVAL},
		{offsetof(struct cop_shim_msg, len), 0, -EMSGSIZE},
		{offsetof(struct cop_shim_msg, len), 1, -EMSGSIZE},
		{offsetof(struct cop_shim_msg, len) + 1, 1, -EMSGSIZE},
		{offsetof(struct cop_shim_msg, len) + 7, 255, -EMSGSIZE},
		{offsetof(struct cop_shim_msg, mode), 1, -EINVAL},
		{offsetof(struct cop_shim_msg, flags), 1, -EINVAL},
		{offsetof(struct cop_shim_msg, generation), 1, -EINVAL},
		{offsetof(struct cop_shim_msg, reserved), 1, -EINVAL},
	};
	struct rig_options options = {
		.mode = "private", .uffd = UFFD_DEVICE, .ram_bytes = 1024 * PAGE};
	const uint32_t empty = COP_SHIM_OP_EMPTY;
	struct {
		struct cop_shim_msg msg;
		struct cop_shim_range ranges[COP_SHIM_MAX_RANGES + 1];
	} good = {.msg = {.magic = COP_SHIM_MAGIC,
			  .version = COP_SHIM_VERSION,
			  .type = COP_SHIM_REPLACE,
			  .len = 2}},
	  bad;
	const size_t len = sizeof(good.msg) + 2 * sizeof(good.ranges[0]);
	cop_auto_close int other = -1;
	struct fake_pager *pager;
	struct rig rig;
	uint64_t addr = start(&rig, &options), end = addr + options.ram_bytes;
	const struct cop_shim_range bad_ranges[] = {
		{addr + 1, PAGE, empty},
		{addr - PAGE, PAGE, empty},
		{addr - PAGE, 2 * PAGE, empty},
		{end, PAGE, empty},
		{end - PAGE, 2 * PAGE, empty},
		{0, PAGE, empty},
		{UINT64_MAX - PAGE + 1, PAGE, empty},
		{addr, 0, empty},
		{addr, PAGE + 1, empty},
		{addr, UINT32_MAX - PAGE + 1, COP_SHIM_OP_TEMPLATE},
		{addr, COP_SHIM_STAGING_BYTES + PAGE, empty},
		{addr, PAGE, 0},
		{addr, PAGE, 3},
	};

	pager = attach(&rig);
	rig_do(&rig, "set 100 205");
	good.ranges[0] = (struct cop_shim_range){addr, PAGE, COP_SHIM_OP_TEMPLATE};
	good.ranges[1] = (struct cop_shim_range){addr + PAGE, PAGE, COP_SHIM_OP_TEMPLATE};
	for (size_t i = 0; i < sizeof(changes) / sizeof(changes[0]); i++) {
		bad = good;
		((unsigned char *)&bad)[changes[i].offset] = changes[i].value;
		assert_int_equal(ask_raw(pager->conn, &bad, len, -1), changes[i].status);
	}
	bad = good;
	bad.msg.len = COP_SHIM_MAX_RANGES + 1;
	assert_int_equal(ask_raw(pager->conn, &bad, sizeof(bad), -1), -EMSGSIZE);
	assert_int_equal(ask_raw(pager->conn, &good, 1, -1), -EMSGSIZE);
	assert_int_equal(ask_raw(pager->conn, &good, len - 1, -1), -EMSGSIZE);
	assert_int_equal(ask_raw(pager->conn, &good, len, rig.ram_fd), -E2BIG);
	for (size_t i = 0; i < sizeof(bad_ranges) / sizeof(bad_ranges[0]); i++) {
		bad = good;
		bad.ranges[1] = bad_ranges[i];
		assert_int_equal(ask_raw(pager->conn, &bad, len, -1), -EINVAL);
	}
	bad = good; /* an answer to nothing is not answered */
	bad.msg.type = COP_SHIM_DISCARD;
	assert_int_equal(cop_fd_send(pager->conn, &bad, len, &rig.ram_fd, 1, 0), 0);
	/* Others may not, and a refused one does not become the daemon's. */
	other = connect_raw(&rig);
	assert_int_equal(ask_raw(other, &good, len, -1), -EMSGSIZE);
	assert_int_equal(ask_raw(other, &good, sizeof(good.msg), -1), -EOPNOTSUPP);
	assert_int_equal(rig_do(&rig, "get 100"), 205);
	assert_int_equal(ask_raw(pager->conn, &good, len, -1), 0);
	assert_int_equal(rig_do(&rig, "get 100"), pattern(100));
	assert_int_equal(nr_mappings(rig.pid, addr, options.ram_bytes), 1);
	finish(&rig);

	/* What is shared has no template to show, and its pages are the image's. */
	start(&rig, &shared);
	pager = attach(&rig);
	assert_int_equal(fake_pager_replace(pager, &(struct cop_shim_range){0, 1, empty}, 1).status,
			 -EINVAL);
	finish(&rig);
}

/* Catches: a refused pager that ends the daemon's connection; discards held up for nobody. */
static void test_without_paging(void **state)
{
	const struct rig_options options = {.mode = "private"};
	struct cop_shim_msg request = {
		.magic = COP_SHIM_MAGIC, .version = COP_SHIM_VERSION, .type = COP_SHIM_ATTACH};
	struct cop_shim_client *client;
	cop_auto_close int conn = -1;
	struct rig rig;
	intmax_t addr;

	rig_start_victim(&rig, &options, "VICTIM64");
	addr = rig_do(&rig, "map");
	client = connect_client(&rig);
	expect_hello(client);
	conn = connect_raw(&rig);
	assert_int_equal(ask_raw(conn, &request, sizeof(request), -1), -EOPNOTSUPP);
	expect_hello(client);
	assert_false(has_vm_flag(rig.pid, (uintmax_t)addr, "um"));
	assert_int_equal(rig_do(&rig, "advise %d", MADV_MERGEABLE), 0);
	rig_do(&rig, "set 100 206");
	assert_int_equal(rig_do(&rig, "discard 1 %lu", PAGE), 0);
	assert_int_equal(rig_do(&rig, "get 100"), pattern(100));
	cop_shim_client_free(client);
	rig_done(&rig);
}

/* Catches: a VM that runs on memory that no pager can serve. */
static void test_bad_device(void **state)
{
	static const enum uffd kinds[] = {UFFD_WRONG, UFFD_MISSING};
	static const int errors[] = {-ENOTTY, -EBADF};

	for (int i = 0; i < 2; i++) {
		struct rig_options options = {.mode = "private", .uffd = kinds[i]};
		struct cop_shim_client *client;
		struct cop_error err = {0};
		struct rig rig;

		rig_start_victim(&rig, &options, "VICTIM64");
		if (kinds[i] == UFFD_WRONG)
			assert_int_equal(rig_do(&rig, "map"), errors[i]);
		client = connect_client(&rig);
		assert_int_equal(cop_shim_client_hello(client, PATIENCE_MS, NULL, &err), errors[i]);
		cop_shim_client_free(client);
		rig_done(&rig);
	}
}

/* Catches: a page lost because there were too many mappings; a gap that nobody is told of. */
static __attribute__((unused)) void test_out_of_mappings(void **state)
{
	const struct cop_shim_range two[] = {{20, 1, COP_SHIM_OP_TEMPLATE},
					     {22, 1, COP_SHIM_OP_EMPTY}};
	struct cop_shim_msg answer;
	struct fake_pager *pager;
	struct rig rig;

	start(&rig, &private);
	pager = attach(&rig);
	rig_do(&rig, "set %lu 207", 22 * PAGE + 100);
	assert_int_equal(rig_do(&rig, "fill"), 0);
	answer = fake_pager_replace(pager, two, 2);
	assert_int_equal(answer.status, -ENOMEM);
	assert_int_equal(answer.len, 1);
	assert_int_equal(answer.flags & COP_SHIM_LOST, 0);
	assert_int_equal(rig_do(&rig, "get %lu", 22 * PAGE + 100), 207);
	finish(&rig);

	start(&rig, &private);
	pager = attach(&rig);
	assert_int_equal(rig_do(&rig, "limit"), 0);
	answer = fake_pager_replace(pager, two, 2);
	assert_int_equal(answer.status, -ENOMEM);
	assert_int_equal(answer.len, 1);
	/* A kernel that keeps the page would do as well. */
	if (!(answer.flags & COP_SHIM_LOST)) {
		assert_int_equal(rig_do(&rig, "get %lu", 22 * PAGE + 100),
				 pattern(22 * PAGE + 100));
	} else {
		assert_true(hello(&rig).lost);
		assert_int_equal(fake_pager_replace(pager, two, 1).status, -ENOTRECOVERABLE);
	}
	finish(&rig);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(test_device, teardown),
		cmocka_unit_test_teardown(test_system_call, teardown),
		cmocka_unit_test_teardown(test_shared_then_private, teardown),
		cmocka_unit_test_teardown(test_replace, teardown),
		cmocka_unit_test_teardown(test_evict_under_load, teardown),
		cmocka_unit_test_teardown(test_takeover, teardown),
		cmocka_unit_test_teardown(test_keeps_no_connection, teardown),
		cmocka_unit_test_teardown(test_unmap_while_replacing, teardown),
		cmocka_unit_test_teardown(test_discard, teardown),
		cmocka_unit_test_teardown(test_many_discards, teardown),
		cmocka_unit_test_teardown(test_bad_requests, teardown),
		cmocka_unit_test_teardown(test_without_paging, teardown),
		cmocka_unit_test_teardown(test_bad_device, teardown),
#ifndef __SANITIZE_ADDRESS__ /* which needs mappings of its own */
		cmocka_unit_test_teardown(test_out_of_mappings, teardown),
#endif
	};

	signal(SIGPIPE, SIG_IGN); /* a victim that died is noticed by what it does not answer */
	return cmocka_run_group_tests(tests, NULL, NULL);
}
