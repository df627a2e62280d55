/* SPDX-License-Identifier: MIT */
/* test-pager-client.c: the client of the pager against peers that behave well and badly. */
#include "unit.h"

#include "base/fd.h"
#include "proto/pager-client.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/un.h>

#define LONG_MS	 60000
#define SHORT_MS 50

enum how {
	GOOD,
	HANG_UP,	/* instead of an answer */
	SILENT,		/* for ever */
	OTHER_ID,
	OTHER_TYPE,
	OTHER_MAGIC,
	TOO_SHORT,
	NO_END,		/* text without a terminating zero */
	BAD_STATUS,	/* a positive one */
	OTHER_VERSION,	/* as an older pager refuses HELLO */
	REFUSE,		/* -EBUSY, with a text */
};

/* A peer that answers HELLO well and the next request as `how` says, of one connection. */
struct peer {
	int listen_fd;
	enum how how;
	gboolean hello_too; /* ill-behaved from the first request on */
	struct cop_pager_request last;
	size_t nr_fds;
	pthread_t thread;
	char *path;
};

static char *dir;

static void answer(int conn, const struct cop_pager_request *request, enum how how)
{
	struct cop_pager_answer a = {.magic = COP_PAGER_MAGIC, .version = COP_PAGER_VERSION,
				     .type = request->type, .id = request->id,
				     .value = {4711, 42}};
	size_t len = sizeof(a);

	switch (how) {
	case OTHER_ID:
		a.id++;
		break;
	case OTHER_TYPE:
		a.type++;
		break;
	case OTHER_MAGIC:
		a.magic++;
		break;
	case TOO_SHORT:
		len--;
		break;
	case NO_END:
		memset(a.text, 'x', sizeof(a.text));
		break;
	case BAD_STATUS:
		a.status = 1;
		break;
	case OTHER_VERSION:
		a.version++;
		a.type = 0;
		a.status = -EPROTONOSUPPORT;
		break;
	case REFUSE:
		a.status = -EBUSY;
		g_strlcpy(a.text, "a VM is on it", sizeof(a.text));
		break;
	default:
		break;
	}
	(void)cop_fd_send(conn, &a, len, NULL, 0, 0);
}

static void *serve(void *user)
{
	struct peer *p = user;
	int conn = accept4(p->listen_fd, NULL, NULL, SOCK_CLOEXEC);
	struct cop_pager_request request;
	int fds[COP_PAGER_MAX_FDS];
	gboolean first = TRUE;
	size_t nr = 0;

	while (cop_fd_recv(conn, &request, sizeof(request), fds, COP_PAGER_MAX_FDS, &nr, 0) ==
	       sizeof(request)) {
		enum how how = first && !p->hello_too ? GOOD : p->how;

		first = FALSE;
		p->last = request;
		p->nr_fds = nr;
		while (nr)
			close(fds[--nr]);
		if (how == HANG_UP)
			break;
		if (how != SILENT)
			answer(conn, &request, how);
	}
	close(conn);
	return NULL;
}

static void start(struct peer *p, enum how how, gboolean hello_too)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};

	memset(p, 0, sizeof(*p));
	p->how = how;
	p->hello_too = hello_too;
	p->path = g_build_filename(dir, "pager.sock", NULL);
	(void)unlink(p->path);
	g_strlcpy(sa.sun_path, p->path, sizeof(sa.sun_path));
	p->listen_fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(p->listen_fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
	assert_int_equal(listen(p->listen_fd, 4), 0);
	assert_int_equal(pthread_create(&p->thread, NULL, serve, p), 0);
}

static void stop(struct peer *p)
{
	assert_int_equal(pthread_join(p->thread, NULL), 0);
	close(p->listen_fd);
	g_free(p->path);
}

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

/* Catches: a field or descriptor that does not arrive, values that do not come back. */
static void test_call(void **state)
{
	struct cop_pager_request request = {.type = COP_PAGER_VM_ADD, .flags = COP_PAGER_SHARED,
					    .vm = 7, .image = 0x1234, .size = 4096, .pid = 99,
					    .domain = 65535};
	struct cop_pager_client *client = NULL;
	struct cop_pager_answer a;
	struct cop_error err = {0};
	int fds[2] = {0, 1}, pid = 0;
	struct peer p;

	start(&p, GOOD, FALSE);
	assert_int_equal(cop_pager_client_new(p.path, LONG_MS, &client, &pid, &err), 0);
	assert_int_equal(pid, 4711);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(
			cop_pager_client_call(client, &request, fds, 2, LONG_MS, &a, &err), 0);
		assert_int_equal(a.value[1], 42);
		assert_int_equal(p.nr_fds, 2);
		assert_int_equal(p.last.magic, COP_PAGER_MAGIC);
		assert_int_equal(p.last.version, COP_PAGER_VERSION);
		assert_int_equal(p.last.id, a.id);
		assert_memory_equal(&p.last.flags, &request.flags,
				    sizeof(request) - offsetof(struct cop_pager_request, flags));
	}
	cop_pager_client_free(client);
	stop(&p);
}

/* Catches: a refusal that breaks the connection, or loses its reason. */
static void test_refusal(void **state)
{
	struct cop_pager_request request = {.type = COP_PAGER_QUIT};
	struct cop_pager_client *client = NULL;
	struct cop_error err = {0};
	struct peer p;

	start(&p, REFUSE, FALSE);
	assert_int_equal(cop_pager_client_new(p.path, LONG_MS, &client, NULL, &err), 0);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(
			cop_pager_client_call(client, &request, NULL, 0, LONG_MS, NULL, &err),
			-EBUSY);
		assert_non_null(strstr(err.text, "QUIT: a VM is on it"));
		assert_false(cop_pager_client_is_broken(client));
	}
	cop_pager_client_free(client);
	stop(&p);
}

/* Catches: nonsense that is taken for an answer, a wait without end, a broken connection used on. */
static void test_bad_peers(void **state)
{
	static const struct {
		enum how how;
		int error;
	} cases[] = {
		{HANG_UP, -ECONNRESET}, {SILENT, -ETIMEDOUT},	{OTHER_ID, -EPROTO},
		{OTHER_TYPE, -EPROTO},	{OTHER_MAGIC, -EPROTO}, {TOO_SHORT, -EPROTO},
		{NO_END, -EPROTO},	{BAD_STATUS, -EPROTO},
	};
	struct cop_pager_request request = {.type = COP_PAGER_STATS};

	for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
		struct cop_pager_client *client = NULL;
		struct cop_error err = {0};
		unsigned timeout_ms = cases[i].how == SILENT ? SHORT_MS : LONG_MS;
		struct peer p;

		start(&p, cases[i].how, FALSE);
		assert_int_equal(cop_pager_client_new(p.path, LONG_MS, &client, NULL, &err), 0);
		assert_int_equal(
			cop_pager_client_call(client, &request, NULL, 0, timeout_ms, NULL, &err),
			cases[i].error);
		assert_true(cop_pager_client_is_broken(client));
		assert_int_equal(cop_pager_client_fd(client), -1);
		assert_int_equal(
			cop_pager_client_call(client, &request, NULL, 0, LONG_MS, NULL, &err),
			-ENOTCONN);
		cop_pager_client_free(client);
		stop(&p);
	}
}

/* Catches: a pager of another version that is taken for a broken one, and replaced under its VMs. */
static void test_hello(void **state)
{
	struct cop_pager_client *client = NULL;
	struct cop_error err = {0};
	g_autofree char *path = g_build_filename(dir, "nobody.sock", NULL);
	struct peer p;

	start(&p, OTHER_VERSION, TRUE);
	assert_int_equal(cop_pager_client_new(p.path, LONG_MS, &client, NULL, &err),
			 -EPROTONOSUPPORT);
	stop(&p);
	start(&p, SILENT, TRUE);
	assert_int_equal(cop_pager_client_new(p.path, SHORT_MS, &client, NULL, &err), -ETIMEDOUT);
	stop(&p);
	assert_int_equal(cop_pager_client_new(path, LONG_MS, &client, NULL, &err), -ENOENT);
	assert_null(client);
	start(&p, GOOD, FALSE);
	assert_int_equal(cop_pager_client_new(p.path, LONG_MS, &client, NULL, &err), 0);
	cop_pager_client_free(client);
	path = (g_free(path), g_strdup(p.path));
	stop(&p);
	assert_int_equal(cop_pager_client_new(path, LONG_MS, &client, NULL, &err), -ECONNREFUSED);
}

/* Catches: a pager's end that is only noticed at the next request. */
static void test_end_shows(void **state)
{
	struct cop_pager_request request = {.type = COP_PAGER_STATS};
	struct cop_pager_client *client = NULL;
	struct cop_error err = {0};
	struct pollfd ended;
	struct peer p;

	start(&p, HANG_UP, FALSE);
	assert_int_equal(cop_pager_client_new(p.path, LONG_MS, &client, NULL, &err), 0);
	ended = (struct pollfd){.fd = cop_pager_client_fd(client), .events = POLLIN};
	assert_int_equal(poll(&ended, 1, 0), 0);
	request.magic = COP_PAGER_MAGIC;
	assert_int_equal(send(ended.fd, &request, sizeof(request), MSG_NOSIGNAL), sizeof(request));
	assert_int_equal(poll(&ended, 1, LONG_MS), 1);
	cop_pager_client_free(client);
	stop(&p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_call),	 cmocka_unit_test(test_refusal),
		cmocka_unit_test(test_bad_peers), cmocka_unit_test(test_hello),
		cmocka_unit_test(test_end_shows),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
