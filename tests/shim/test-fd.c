/* SPDX-License-Identifier: MIT */
/* test-fd.c: descriptors in messages: all handed over or all closed. */
#include "harness.h"
#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

static int pair[2];

static int setup(void **state)
{
	return socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair);
}

static int teardown(void **state)
{
	close(pair[0]);
	close(pair[1]);
	return 0;
}

/* Catches: another file arriving, or one that children inherit. */
static void test_roundtrip(void **state)
{
	int sent[COP_FD_MAX], got[COP_FD_MAX];
	struct stat a, b;
	char data[8];
	size_t nr;

	for (int i = 0; i < COP_FD_MAX; i++)
		sent[i] = i % 2 ? pair[0] : pair[1];
	assert_int_equal(cop_fd_send(pair[0], "hello", 5, sent, COP_FD_MAX, 0), 0);
	assert_int_equal(cop_fd_recv(pair[1], data, sizeof(data), got, COP_FD_MAX, &nr, 0), 5);
	assert_int_equal(nr, COP_FD_MAX);
	assert_memory_equal(data, "hello", 5);
	for (int i = 0; i < COP_FD_MAX; i++) {
		assert_int_equal(fstat(sent[i], &a), 0);
		assert_int_equal(fstat(got[i], &b), 0);
		assert_int_equal(a.st_ino, b.st_ino);
		assert_int_equal(fcntl(got[i], F_GETFD), FD_CLOEXEC);
		close(got[i]);
	}
}

/* Catches: descriptors left open when a message has more of them, or more bytes, than wanted. */
static void test_nothing_leaks(void **state)
{
	int before = nr_open_fds();
	int sent[COP_FD_MAX] = {0}, got[COP_FD_MAX];
	char data[8] = {0};
	size_t nr;

	for (size_t wanted = 0; wanted < COP_FD_MAX; wanted++) {
		for (size_t given = wanted + 1; given <= COP_FD_MAX; given++) {
			assert_int_equal(cop_fd_send(pair[0], "hello", 5, sent, given, 0), 0);
			assert_int_equal(cop_fd_recv(pair[1], data, 8, got, wanted, &nr, 0),
					 -E2BIG);
			assert_memory_equal(data, "hello", 5);
			assert_int_equal(nr_open_fds(), before);
		}
	}
	assert_int_equal(cop_fd_send(pair[0], "hello, world", 12, sent, 1, 0), 0);
	assert_int_equal(cop_fd_recv(pair[1], data, 8, got, 1, &nr, 0), -EMSGSIZE);
	assert_memory_equal(data, "hello, w", 8);
	assert_int_equal(nr_open_fds(), before);
}

/* Catches: descriptors that the process has no room for taken for none at all. */
static void test_full_table(void **state)
{
	struct rlimit old, full = {0};
	int sent[2] = {0, 0}, got[2], filler, first = -1;
	char data[8];
	size_t nr;

	assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
	assert_int_equal(cop_fd_send(pair[0], "hello", 5, sent, 2, 0), 0);
	filler = dup(0);
	assert_true(filler >= 0);
	full.rlim_cur = (rlim_t)filler + 2; /* room for one more */
	full.rlim_max = old.rlim_max;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &full), 0);
	assert_int_equal(cop_fd_recv(pair[1], data, 8, got, 2, &nr, 0), -E2BIG);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
	first = dup(0);
	assert_int_equal(first, filler + 1); /* the one that fitted was closed again */
	close(first);
	close(filler);
}

/* Catches: end of file or errors mixed up with a message. */
static void test_ends(void **state)
{
	char data[8];
	size_t nr = 99;

	assert_int_equal(cop_fd_recv(pair[1], data, 8, NULL, 0, &nr, MSG_DONTWAIT), -EAGAIN);
	assert_int_equal(nr, 99); /* untouched on failure */
	assert_int_equal(cop_fd_send(pair[0], data, 0, NULL, 0, 0), -EINVAL);
	assert_int_equal(cop_fd_send(pair[0], data, 1, NULL, COP_FD_MAX + 1, 0), -EINVAL);
	assert_int_equal(cop_fd_recv(pair[1], data, 8, NULL, COP_FD_MAX + 1, &nr, 0), -EINVAL);
	shutdown(pair[0], SHUT_WR);
	assert_int_equal(cop_fd_recv(pair[1], data, 8, NULL, 0, &nr, 0), 0);
	assert_int_equal(nr, 0);
	assert_int_equal(cop_fd_send(pair[0], data, 1, NULL, 0, 0), -EPIPE); /* and no signal */
}

/* Catches: a "read-only" copy that can write. */
static void test_reopen(void **state)
{
	cop_auto_close int fd = make_ram(PAGE);
	cop_auto_close int copy = cop_fd_reopen(fd, O_RDONLY);

	assert_true(copy >= 0);
	assert_int_equal(fcntl(copy, F_GETFD), FD_CLOEXEC);
	assert_int_equal(fcntl(copy, F_GETFL) & O_ACCMODE, O_RDONLY);
	assert_int_equal(file_byte(copy, 100), pattern(100));
	assert_int_equal(cop_fd_reopen(-1, O_RDONLY), -EBADF);
	assert_int_equal(cop_fd_reopen(12345, O_RDONLY), -ENOENT);
	assert_int_equal(cop_fd_set_cloexec(12345), -EBADF);
}

/* Catches: an error text that overruns or a lost errno. */
static void test_error(void **state)
{
	struct cop_error err;

	errno = 4711;
	assert_int_equal(cop_error_set(&err, -EIO, "%0500d", 1), -EIO);
	assert_int_equal(err.code, -EIO);
	assert_int_equal(strlen(err.text), sizeof(err.text) - 1);
	assert_int_equal(cop_error_set(NULL, -EIO, "x"), -EIO);
	assert_int_equal(errno, 4711);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_roundtrip, setup, teardown),
		cmocka_unit_test_setup_teardown(test_nothing_leaks, setup, teardown),
		cmocka_unit_test_setup_teardown(test_full_table, setup, teardown),
		cmocka_unit_test_setup_teardown(test_ends, setup, teardown),
		cmocka_unit_test(test_reopen),
		cmocka_unit_test(test_error),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
