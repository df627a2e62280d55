/* SPDX-License-Identifier: MIT */
/* test-shim-control.c: the control socket: bad requests, bad peers, users; and the client's side of
 * it. */
#include "harness.h"
#include "base/cleanup.h"
#include "base/fd.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static const struct rig_options private = {.mode = "private"};

static void expect_eof(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};
	char byte;

	assert_int_equal(poll(&p, 1, PATIENCE_MS), 1);
	assert_int_equal(recv(fd, &byte, 1, 0), 0);
}

/* Catches: requests that are half understood; descriptors left behind by them. */
static void test_garbage(void **state)
{
	static const struct {
		size_t offset;
		unsigned char value;
		int status;
	} changes[] = {
		{offsetof(struct cop_shim_msg, magic), 0, -EBADMSG},
		{offsetof(struct cop_shim_msg, version), 2, -EPROTONOSUPPORT},
		{offsetof(struct cop_shim_msg, type), 0, -EOPNOTSUPP},
		{offsetof(struct cop_shim_msg, type), 3, -EOPNOTSUPP},
		{offsetof(struct cop_shim_msg, status), 1, -EINVAL},
		{offsetof(struct cop_shim_msg, addr), 1, -EINVAL},
		{offsetof(struct cop_shim_msg, len), 1, -EINVAL},
		{offsetof(struct cop_shim_msg, mode), 1, -EINVAL},
		{offsetof(struct cop_shim_msg, flags), 1, -EINVAL},
		{offsetof(struct cop_shim_msg, generation), 1, -EINVAL},
		{offsetof(struct cop_shim_msg, reserved), 1, -EINVAL},
	};
	const struct cop_shim_msg good = {.magic = COP_SHIM_MAGIC,
					  .version = COP_SHIM_VERSION,
					  .type = COP_SHIM_HELLO,
					  .id = 77};
	unsigned char bytes[4096] = {0};
	int three[3];
	struct rig rig;
	intmax_t open_before;
	int conn;

	rig_start_victim(&rig, &private, "VICTIM64");
	assert_true(rig_do(&rig, "map") > 0);
	conn = connect_raw(&rig);
	assert_int_equal(ask_raw(conn, &good, sizeof(good), -1), 0);
	open_before = rig_do(&rig, "open");
	for (size_t i = 0; i < sizeof(changes) / sizeof(changes[0]); i++) {
		struct cop_shim_msg bad = good;

		((unsigned char *)&bad)[changes[i].offset] = changes[i].value;
		assert_int_equal(ask_raw(conn, &bad, sizeof(bad), -1), changes[i].status);
	}
	memcpy(bytes, &good, sizeof(good));
	assert_int_equal(ask_raw(conn, bytes, 1, -1), -EMSGSIZE);
	assert_int_equal(ask_raw(conn, bytes, sizeof(good) - 1, rig.ram_fd), -EMSGSIZE);
	assert_int_equal(ask_raw(conn, bytes, sizeof(good) + 1, rig.ram_fd), -EMSGSIZE);
	assert_int_equal(ask_raw(conn, bytes, sizeof(bytes), -1), -EMSGSIZE);
	/* HELLO takes no descriptor, and nothing takes two or more. */
	assert_int_equal(ask_raw(conn, &good, sizeof(good), rig.ram_fd), -EINVAL);
	for (size_t i = 0; i < 3; i++)
		three[i] = rig.ram_fd;
	for (size_t nr = 2; nr <= 3; nr++) {
		struct cop_shim_msg answer;

		assert_int_equal(cop_fd_send(conn, &good, sizeof(good), three, nr, 0), 0);
		assert_int_equal(recv(conn, &answer, sizeof(answer), 0), sizeof(answer));
		assert_int_equal(answer.status, -E2BIG);
		assert_int_equal(answer.id, 77);
	}
	assert_int_equal(rig_do(&rig, "open"), open_before);
	assert_int_equal(ask_raw(conn, &good, sizeof(good), -1), 0);
	close(conn);
	rig_done(&rig);
}

/* Catches: a request cut off by a peer's death that blocks or kills the thread. */
static void test_peer_hangs_up(void **state)
{
	struct cop_shim_msg request = {
		.magic = COP_SHIM_MAGIC, .version = COP_SHIM_VERSION, .type = COP_SHIM_HELLO};
	struct rig rig;

	rig_start_victim(&rig, &private, "VICTIM64");
	assert_true(rig_do(&rig, "map") > 0);
	for (int i = 0; i < 50; i++) {
		int conn = connect_raw(&rig);

		if (i % 2)
			assert_int_equal(cop_fd_send(conn, &request, sizeof(request), &rig.ram_fd,
						     i % 4 == 3, 0),
					 0);
		close(conn); /* without reading the answer */
	}
	assert_true(hello(&rig).seen);
	rig_done(&rig);
}

/* Catches: an old connection, left open in some child, that locks the next daemon out. */
static void test_silent_peer(void **state)
{
	struct rig rig;
	int silent[6];

	rig_start_victim(&rig, &private, "VICTIM64");
	silent[0] = connect_raw(&rig); /* before the thread runs, even */
	assert_true(rig_do(&rig, "map") > 0);
	assert_true(hello(&rig).seen);
	for (int i = 1; i < 6; i++)
		silent[i] = connect_raw(&rig);
	assert_true(hello(&rig).seen);
	expect_eof(silent[0]); /* they don't pile up either */
	for (int i = 0; i < 6; i++)
		close(silent[i]);
	rig_done(&rig);
}

/* Catches: a thread that waits for a peer that never reads its answers. */
static void test_peer_that_does_not_read(void **state)
{
	struct cop_shim_msg request = {
		.magic = COP_SHIM_MAGIC, .version = COP_SHIM_VERSION, .type = COP_SHIM_HELLO};
	struct rig rig;
	int conn, r;

	rig_start_victim(&rig, &private, "VICTIM64");
	assert_true(rig_do(&rig, "map") > 0);
	conn = connect_raw(&rig);
	do {
		r = cop_fd_send(conn, &request, sizeof(request), NULL, 0, 0);
	} while (r == 0);
	assert_true(r == -EPIPE || r == -ECONNRESET);
	assert_true(hello(&rig).seen);
	close(conn);
	rig_done(&rig);
}

/* In a child with uid @uid: does HELLO get through? */
static bool hello_as(struct rig *rig, uid_t uid)
{
	int status;
	pid_t pid;

	fflush(NULL);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		struct cop_shim_client *client;

		if (setresuid(uid, uid, uid) < 0 ||
		    cop_shim_client_new(rig->socket, PATIENCE_MS, &client, NULL) < 0)
			_exit(2);
		_exit(cop_shim_client_hello(client, PATIENCE_MS, NULL, NULL) == 0 ? 0 : 1);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) < 2);
	return WEXITSTATUS(status) == 0;
}

/* Catches: any user of the machine who may replace a VM's memory; a refusal that disturbs the
 * daemon. */
static void test_wrong_uid(void **state)
{
	struct rig_options options = {.mode = "private", .allowed_uid = 4242};
	struct cop_shim_client *client;
	struct cop_error err = {0};
	struct rig rig;

	if (geteuid() != 0)
		skip();
	rig_start_victim(&rig, &private, "VICTIM64");
	assert_true(rig_do(&rig, "map") > 0);
	client = connect_client(&rig);
	assert_done(cop_shim_client_hello(client, PATIENCE_MS, NULL, &err), err);
	assert_false(hello_as(&rig, NOBODY));
	assert_done(cop_shim_client_hello(client, PATIENCE_MS, NULL, &err), err);
	cop_shim_client_free(client);
	rig_done(&rig);

	rig_start_victim(&rig, &options, "VICTIM64");
	assert_true(rig_do(&rig, "map") > 0);
	assert_true(hello_as(&rig, 0));
	assert_true(hello_as(&rig, 4242));
	assert_false(hello_as(&rig, NOBODY));
	rig_done(&rig);
}

/* Catches: a client that hangs when QEMU is gone or never answers. */
static void test_client_deadlines(void **state)
{
	struct cop_shim_client *client = NULL;
	struct cop_error err = {0};
	struct rig rig;

	rig_init(&rig, &private);
	client = connect_client(&rig);
	assert_int_equal(cop_shim_client_hello(client, 20, NULL, &err), -ETIMEDOUT);
	assert_int_equal(cop_shim_client_map_private(client, rig.ram_fd, 20, NULL, &err),
			 -ENOTCONN);
	cop_shim_client_free(client);
	cop_shim_client_free(NULL);
	client = NULL;
	/* The backlog is 8; then connect() itself waits. */
	for (int i = 0, r = 0; r == 0; i++) {
		struct cop_shim_client *more = NULL;

		assert_true(i < 64);
		r = cop_shim_client_new(rig.socket, 20, &more, &err);
		assert_true(r == 0 || r == -ETIMEDOUT);
		if (r == 0)
			cop_shim_client_free(more); /* stays in the backlog */
	}
	close(rig.listen_fd);
	rig.listen_fd = 0;
	assert_int_equal(cop_shim_client_new(rig.socket, 20, &client, &err), -ECONNREFUSED);
	assert_null(client);
	rig_done(&rig);
	assert_int_equal(cop_shim_client_new(rig.socket, 20, &client, &err), -ENOENT);
}

/* Catches: answers that are believed without a look. */
static void test_client_checks_answers(void **state)
{
	static const size_t offsets[] = {
		offsetof(struct cop_shim_msg, magic), offsetof(struct cop_shim_msg, version),
		offsetof(struct cop_shim_msg, type),  offsetof(struct cop_shim_msg, id),
		offsetof(struct cop_shim_msg, mode),  offsetof(struct cop_shim_msg, reserved),
	};
	struct rig rig;
	int fds;

	rig_init(&rig, &private);
	fds = nr_open_fds();
	for (size_t i = 0; i <= sizeof(offsets) / sizeof(offsets[0]) + 1; i++) {
		struct cop_shim_client *client = connect_client(&rig);
		int conn = accept(rig.listen_fd, NULL, NULL);
		/* The answer can be there before the question. */
		struct cop_shim_msg answer = {.magic = COP_SHIM_MAGIC,
					      .version = COP_SHIM_VERSION,
					      .type = COP_SHIM_HELLO,
					      .id = 1};
		struct cop_error err = {0};
		size_t nr = sizeof(offsets) / sizeof(offsets[0]);
		int expected = -EPROTO;

		if (i < nr)
			((unsigned char *)&answer)[offsets[i]] += 3;
		assert_int_equal(
			cop_fd_send(conn, &answer, i == nr ? 47 : 48, &rig.ram_fd, i == nr + 1, 0),
			0);
		if (i == nr + 1)
			expected = -E2BIG; /* an uninvited descriptor, which must be closed */
		assert_int_equal(cop_shim_client_hello(client, PATIENCE_MS, NULL, &err), expected);
		cop_shim_client_free(client);
		close(conn);
	}
	assert_int_equal(nr_open_fds(), fds);
	rig_done(&rig);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(test_garbage, rig_teardown),
		cmocka_unit_test_teardown(test_peer_hangs_up, rig_teardown),
		cmocka_unit_test_teardown(test_silent_peer, rig_teardown),
		cmocka_unit_test_teardown(test_peer_that_does_not_read, rig_teardown),
		cmocka_unit_test_teardown(test_wrong_uid, rig_teardown),
		cmocka_unit_test_teardown(test_client_deadlines, rig_teardown),
		cmocka_unit_test_teardown(test_client_checks_answers, rig_teardown),
	};

	signal(SIGPIPE, SIG_IGN); /* a victim that died is noticed by what it does not answer */
	return cmocka_run_group_tests(tests, NULL, NULL);
}
