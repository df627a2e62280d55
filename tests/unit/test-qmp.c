/* SPDX-License-Identifier: MIT */
/*
 * test-qmp.c: the monitor's client against a make-believe QEMU.
 *
 * Threads: the main loop runs in one; a fake monitor, which follows the script of the test, in
 * another; the test calls as a worker of the daemon does.
 */
#include "unit.h"

#include "daemon/qmp.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

static char *dir, *path;
static GMainLoop *loop;
static GThread *loop_thread;

/* What the fake does with a connection, after the greeting and negotiation. */
typedef void (*script_fn)(int fd);

static struct {
	GThread *thread;
	int listen_fd;
	script_fn script;
	const char *greeting; /* NULL: none, and no negotiation */
} fake;

/* What the callback has seen. */
static struct {
	GMutex lock;
	GCond cond;
	GString *names; /* each followed by a blank; "END " for the end */
} seen;

static gpointer run_loop(gpointer user)
{
	g_main_loop_run(loop);
	return NULL;
}

static int setup(void **state)
{
	dir = scratch_new();
	path = g_build_filename(dir, "qmp.sock", NULL);
	loop = g_main_loop_new(NULL, FALSE);
	loop_thread = g_thread_new("loop", run_loop, NULL);
	return 0;
}

static gboolean quit(gpointer user)
{
	g_main_loop_quit(loop);
	return G_SOURCE_REMOVE;
}

static int teardown(void **state)
{
	g_idle_add(quit, NULL);
	g_thread_join(loop_thread);
	g_main_loop_unref(loop);
	g_free(path);
	scratch_free(dir);
	return 0;
}

/* The fake's side. */

static void say(int fd, const char *fmt, ...) G_GNUC_PRINTF(2, 3);
static void say(int fd, const char *fmt, ...)
{
	g_autofree char *text = NULL;
	va_list args;

	va_start(args, fmt);
	text = g_strdup_vprintf(fmt, args);
	va_end(args);
	for (size_t at = 0, len = strlen(text); at < len;) {
		ssize_t n = send(fd, text + at, len - at, MSG_NOSIGNAL);

		if (n <= 0)
			return; /* the client has left */
		at += (size_t)n;
	}
}

/* The next command, or NULL at the end. Its id is in *ret_id. */
static JsonObject *hear(int fd, gint64 *ret_id)
{
	g_autoptr(GString) text = g_string_new(NULL);
	char c;

	while (recv(fd, &c, 1, 0) == 1) {
		JsonObject *obj;

		g_string_append_c(text, c);
		if (c != '}')
			continue;
		obj = cop_json_parse(text->str, (gssize)text->len, NULL);
		if (obj) {
			if (ret_id)
				*ret_id = cop_json_int(obj, "id", 0, NULL);
			return obj;
		}
	}
	return NULL;
}

static gint64 hear_id(int fd)
{
	gint64 id = 0;
	g_autoptr(JsonObject) obj = hear(fd, &id);

	return id;
}

/* Blocks until the client has left. */
static void until_end(int fd)
{
	char buf[4096];

	while (recv(fd, buf, sizeof(buf), 0) > 0)
		;
}

#define GREETING "{\"QMP\": {\"version\": {}, \"capabilities\": [\"oob\"]}}\r\n"

static gpointer run_fake(gpointer user)
{
	int fd = accept(fake.listen_fd, NULL, NULL);

	if (fd < 0)
		return NULL;
	if (fake.greeting) {
		say(fd, "%s", fake.greeting);
		say(fd, "{\"return\": {}, \"id\": %" G_GINT64_FORMAT "}\r\n", hear_id(fd));
	}
	fake.script(fd);
	close(fd);
	return NULL;
}

static void fake_start(script_fn script, const char *greeting)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};

	(void)unlink(path);
	g_strlcpy(addr.sun_path, path, sizeof(addr.sun_path));
	fake.listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(fake.listen_fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	assert_int_equal(listen(fake.listen_fd, 1), 0);
	fake.script = script;
	fake.greeting = greeting;
	fake.thread = g_thread_new("fake", run_fake, NULL);
}

static void fake_end(void)
{
	g_thread_join(fake.thread);
	close(fake.listen_fd);
}

/* The client's side. */

static void on_event(const char *event, JsonObject *data, void *user)
{
	g_mutex_lock(&seen.lock);
	g_string_append_printf(seen.names, "%s ", event ?: "END");
	g_cond_broadcast(&seen.cond);
	g_mutex_unlock(&seen.lock);
}

static struct cop_qmp *start(script_fn script)
{
	GError *error = NULL;
	struct cop_qmp *qmp;

	if (seen.names)
		g_string_free(seen.names, TRUE);
	seen.names = g_string_new(NULL);
	fake_start(script, GREETING);
	qmp = cop_qmp_connect(path, PATIENCE_MS, on_event, NULL, &error);
	expect_no_error(error);
	return qmp;
}

/* Runs everything that the main loop's thread has begun: nothing of the client's is in it after. */
static gboolean pass(gpointer user)
{
	g_mutex_lock(&seen.lock);
	*(gboolean *)user = TRUE;
	g_cond_broadcast(&seen.cond);
	g_mutex_unlock(&seen.lock);
	return G_SOURCE_REMOVE;
}

static void settle(void)
{
	gboolean passed = FALSE;

	g_idle_add(pass, &passed);
	g_mutex_lock(&seen.lock);
	while (!passed)
		g_cond_wait(&seen.cond, &seen.lock);
	g_mutex_unlock(&seen.lock);
}

static void end(struct cop_qmp *qmp)
{
	cop_qmp_close(qmp);
	fake_end();
	settle();
	cop_qmp_unref(qmp);
}

static void expect_seen(const char *names)
{
	gint64 deadline_us = g_get_monotonic_time() + PATIENCE_MS * 1000ll;

	g_mutex_lock(&seen.lock);
	while (strcmp(seen.names->str, names) != 0 &&
	       g_cond_wait_until(&seen.cond, &seen.lock, deadline_us))
		;
	g_mutex_unlock(&seen.lock);
	assert_string_equal(seen.names->str, names);
}

static void call_ok(struct cop_qmp *qmp, const char *command)
{
	GError *error = NULL;

	cop_qmp_call(qmp, command, NULL, -1, PATIENCE_MS, NULL, &error);
	expect_no_error(error);
}

static gint64 call_int(struct cop_qmp *qmp, const char *command, JsonObject *args)
{
	g_autoptr(JsonNode) node = NULL;
	GError *error = NULL;

	assert_true(cop_qmp_call(qmp, command, args, -1, PATIENCE_MS, &node, &error));
	expect_no_error(error);
	assert_non_null(node);
	return json_node_get_int(node);
}

/* Answers every command with its own argument "n". */
static void echo(int fd)
{
	JsonObject *obj;
	gint64 id;

	while ((obj = hear(fd, &id))) {
		say(fd, "{\"return\": %" G_GINT64_FORMAT ", \"id\": %" G_GINT64_FORMAT "}\r\n",
		    cop_json_int(cop_json_obj(obj, "arguments"), "n", -1, NULL), id);
		json_object_unref(obj);
	}
}

static JsonObject *number(gint64 n)
{
	JsonObject *args = json_object_new();

	json_object_set_int_member(args, "n", n);
	return args;
}

/* Catches: arguments or results that don't arrive. */
static void test_calls(void **state)
{
	struct cop_qmp *qmp = start(echo);

	for (gint64 n = 0; n < 100; n++)
		assert_true(call_int(qmp, "x", number(n)) == n);
	assert_true(call_int(qmp, "no arguments", NULL) == -1);
	call_ok(qmp, "result ignored");
	end(qmp);
	cop_qmp_close(NULL);
	cop_qmp_unref(NULL);
}

static void wrong_ids_first(int fd)
{
	gint64 id = hear_id(fd);

	say(fd, "{\"return\": 1}\n{\"return\": 2, \"id\": 0}\n{\"return\": 3, \"id\": %d}\n",
	    (int)id + 1);
	say(fd, "{\"return\": 4, \"id\": \"%d\"}\n{\"error\": {\"desc\": \"no\"}, \"id\": -1}\n",
	    (int)id);
	say(fd, "{\"return\": 5, \"id\": %d}\n", (int)id);
	until_end(fd);
}

/* Catches: the next reply taken, whoever it is for. */
static void test_reply_by_id(void **state)
{
	struct cop_qmp *qmp = start(wrong_ids_first);

	assert_true(call_int(qmp, "x", NULL) == 5);
	end(qmp);
}

static void refuse(int fd)
{
	say(fd, "{\"error\": {\"class\": \"GenericError\", \"desc\": \"the words\"}, \"id\": %d}\n",
	    (int)hear_id(fd));
	say(fd, "{\"error\": {}, \"id\": %d}\n", (int)hear_id(fd));
	say(fd, "{\"error\": {\"desc\": 7}, \"id\": %d}\n", (int)hear_id(fd));
	say(fd, "{\"id\": %d}\n", (int)hear_id(fd));
	until_end(fd);
}

/* Catches: a refusal taken for success, its text lost, a crash at one without text. */
static void test_error_replies(void **state)
{
	struct cop_qmp *qmp = start(refuse);
	g_autoptr(JsonNode) node = NULL;
	GError *error = NULL;

	assert_false(cop_qmp_call(qmp, "x", NULL, -1, PATIENCE_MS, &node, &error));
	expect_error(&error, COP_ERR_INTERNAL, "'x': the words");
	assert_null(node);
	for (int i = 0; i < 2; i++) {
		assert_false(cop_qmp_call(qmp, "x", NULL, -1, PATIENCE_MS, &node, &error));
		expect_error(&error, COP_ERR_INTERNAL, "'x'");
	}
	(void)cop_qmp_call(qmp, "x", NULL, -1, PATIENCE_MS, &node, NULL); /* just no crash */
	end(qmp);
}

#define STAMP "\"timestamp\": {\"seconds\": 3, \"microseconds\": 5}"

static void with_events(int fd)
{
	int first = (int)hear_id(fd), second;

	say(fd,
	    "{\"event\": \"A\", " STAMP "}\n{\"return\": {}, \"id\": %d}\n"
	    "{\"event\": \"B\", \"data\": {\"status\": \"x\"}, " STAMP "}\n",
	    first);
	second = (int)hear_id(fd);
	say(fd,
	    "{\"event\": \"B\", \"data\": {\"status\": \"y\"}, " STAMP "}\n"
	    "{\"event\": \"C\"}\n{\"return\": {}, \"id\": %d}\n",
	    second);
	until_end(fd);
}

/* Catches: events lost or out of order around replies; a wait that takes one from before its mark,
 * or one with another value. */
static void test_events_and_waits(void **state)
{
	static const char *const x[] = {"w", "x", NULL}, *const y[] = {"y", NULL};
	struct cop_qmp *qmp = start(with_events);
	g_autofree char *value = NULL;
	GError *error = NULL;
	gint64 time_us = 0;
	guint64 mark;

	assert_true(cop_qmp_mark(qmp) == 0);
	call_ok(qmp, "first");
	/* After the reply: a wait that blocks, or finds it there. */
	assert_true(cop_qmp_wait(qmp, 0, "B", NULL, NULL, PATIENCE_MS, NULL, &time_us, &error));
	assert_true(time_us == 3000005);
	mark = cop_qmp_mark(qmp);
	assert_true(mark == 2);
	assert_true(cop_qmp_wait(qmp, 0, "A", NULL, NULL, 0, NULL, NULL, &error));
	assert_false(cop_qmp_wait(qmp, mark, "B", NULL, NULL, 0, NULL, NULL, &error));
	expect_error(&error, COP_ERR_TIMEOUT, "no B");
	assert_true(cop_qmp_wait(qmp, 0, "B", "status", x, 0, &value, NULL, &error));
	assert_string_equal(value, "x");
	assert_false(cop_qmp_wait(qmp, 0, "B", "status", y, 0, NULL, NULL, &error));
	g_clear_error(&error);
	call_ok(qmp, "second");
	g_free(value);
	assert_true(cop_qmp_wait(qmp, 0, "B", "status", y, 0, &value, NULL, &error));
	assert_string_equal(value, "y");
	assert_false(cop_qmp_wait(qmp, 0, "C", "status", y, 0, NULL, NULL, &error)); /* no data */
	g_clear_error(&error);
	expect_seen("A B B C ");
	end(qmp);
}

static void many_events(int fd)
{
	int id = (int)hear_id(fd);

	for (int i = 1; i <= 100; i++)
		say(fd, "{\"event\": \"E%d\", \"data\": {\"i\": \"%d\"}}\n", i, i);
	say(fd, "{\"return\": {}, \"id\": %d}\n", id);
	until_end(fd);
}

/* Catches: an index past the ring, an event that was overwritten still found, one too few kept. */
static void test_ring_overflow(void **state)
{
	struct cop_qmp *qmp = start(many_events);
	g_autoptr(GString) all = g_string_new(NULL);

	call_ok(qmp, "x");
	assert_true(cop_qmp_mark(qmp) == 100);
	for (int i = 1; i <= 100; i++) {
		g_autofree char *name = g_strdup_printf("E%d", i);
		g_autofree char *wanted = g_strdup_printf("%d", i), *value = NULL;
		const char *const values[] = {wanted, NULL};

		g_string_append_printf(all, "%s ", name);
		assert_int_equal(cop_qmp_wait(qmp, 0, name, "i", values, 0, &value, NULL, NULL),
				 i > 100 - 64);
		assert_int_equal(g_strcmp0(value, i > 100 - 64 ? wanted : NULL), 0);
		assert_int_equal(cop_qmp_wait(qmp, 90, name, NULL, NULL, 0, NULL, NULL, NULL),
				 i > 90);
	}
	expect_seen(all->str); /* the callback misses none */
	end(qmp);
}

static void answer_late(int fd)
{
	int first = (int)hear_id(fd), second = (int)hear_id(fd);

	say(fd, "{\"return\": 1, \"id\": %d}\n{\"return\": 2, \"id\": %d}\n", first, second);
	until_end(fd);
}

/* Catches: a late reply written into a caller's stack that is gone, or given to the next caller. */
static void test_time_out(void **state)
{
	struct cop_qmp *qmp = start(answer_late);
	GError *error = NULL;

	assert_false(cop_qmp_call(qmp, "slow", NULL, -1, 1, NULL, &error));
	expect_error(&error, COP_ERR_TIMEOUT, "'slow' within 1 ms");
	assert_true(call_int(qmp, "next", NULL) == 2);
	assert_false(cop_qmp_wait(qmp, 0, "NEVER", NULL, NULL, 1, NULL, NULL, &error));
	expect_error(&error, COP_ERR_TIMEOUT, "NEVER");
	end(qmp);
}

static void garbage(int fd)
{
	int id = (int)hear_id(fd);

	say(fd, "\n\r\n{\n}\nnull\n[]\n\"x\"\n\xff\xfe\n{\"event\": 7}\n{\"event\": null}\n{}\n");
	say(fd, "{\"event\": \"ODD\", \"data\": 7, \"timestamp\": \"x\"}\n");
	say(fd, "{\"event\": \"ODD\", \"data\": {\"k\": 7}, \"timestamp\": {\"seconds\": {}}}\n");
	say(fd, "{\"return\": 8, \"id\": %d, \"event\": {}}\n", id);
	until_end(fd);
}

/* Catches: a QEMU in a guest's hands that ends the daemon, or stops its own replies being read. */
static void test_garbage_lines(void **state)
{
	static const char *const empty[] = {"", NULL};
	struct cop_qmp *qmp = start(garbage);

	assert_true(call_int(qmp, "x", NULL) == 8);
	assert_true(cop_qmp_mark(qmp) == 2);
	assert_true(cop_qmp_wait(qmp, 0, "ODD", "k", empty, 0, NULL, NULL, NULL));
	expect_seen("ODD ODD ");
	end(qmp);
}

static void huge_stamp(int fd)
{
	int id = (int)hear_id(fd);

	say(fd, "{\"event\": \"T\", \"timestamp\": {\"seconds\": 9223372036854775807}}\n");
	say(fd, "{\"return\": 8, \"id\": %d}\n", id);
	until_end(fd);
}

/* Catches (in the build with sanitizers): a time stamp that overflows. */
static void test_huge_time_stamp(void **state)
{
	struct cop_qmp *qmp = start(huge_stamp);

	assert_true(call_int(qmp, "x", NULL) == 8);
	end(qmp);
}

static void same_reply_twice(int fd)
{
	int id = (int)hear_id(fd);

	say(fd,
	    "{\"return\": {\"a\": 1}, \"id\": %d}\n{\"return\": {\"a\": 2}, \"id\": %d}\n"
	    "{\"error\": {\"desc\": \"x\"}, \"id\": %d}\n{\"error\": {\"desc\": \"y\"}, \"id\": "
	    "%d}\n",
	    id, id, id, id);
	until_end(fd);
}

/* Catches (in the build with sanitizers): memory lost when a QEMU answers one command twice. */
static void test_same_reply_twice(void **state)
{
	struct cop_qmp *qmp = start(same_reply_twice);

	(void)cop_qmp_call(qmp, "x", NULL, -1, PATIENCE_MS, NULL, NULL);
	end(qmp);
}

static void endless_line(int fd)
{
	g_autofree char *mib = g_strnfill(1 << 20, 'x');

	(void)hear_id(fd);
	for (int i = 0; i < 64; i++) /* stops at the first that the client does not take */
		say(fd, "%s", mib);
	until_end(fd);
}

/* Catches: a QEMU that fills the daemon's memory. */
static void test_endless_line(void **state)
{
	struct cop_qmp *qmp = start(endless_line);
	GError *error = NULL;

	assert_false(cop_qmp_call(qmp, "x", NULL, -1, PATIENCE_MS, NULL, &error));
	expect_error(&error, COP_ERR_INTERNAL, "ended during 'x'");
	expect_seen("END ");
	end(qmp);
	expect_seen("END ");
}

static void long_line(int fd)
{
	g_autofree char *text = g_strnfill(3 << 20, 'x');

	say(fd, "{\"return\": 9, \"more\": \"%s\", \"id\": %d}\n", text, (int)hear_id(fd));
	until_end(fd);
}

/* Catches: a long answer (a screen, a block graph) that ends the connection. */
static void test_long_line(void **state)
{
	struct cop_qmp *qmp = start(long_line);

	assert_true(call_int(qmp, "x", NULL) == 9);
	end(qmp);
}

static void hang_up(int fd)
{
	(void)hear_id(fd);
	say(fd, "{\"event\": \"LAST\"}\n{\"retu");
}

/* Catches: a call that waits for a QEMU that died; an end told twice or not at all. */
static void test_hang_up(void **state)
{
	struct cop_qmp *qmp = start(hang_up);
	GError *error = NULL;

	assert_false(cop_qmp_call(qmp, "x", NULL, -1, PATIENCE_MS, NULL, &error));
	expect_error(&error, COP_ERR_INTERNAL, "ended during 'x'");
	expect_seen("LAST END ");
	assert_false(cop_qmp_call(qmp, "y", NULL, -1, PATIENCE_MS, NULL, &error));
	expect_error(&error, COP_ERR_INTERNAL, "ended during 'y'");
	/* What came before the end is still there. */
	assert_true(cop_qmp_wait(qmp, 0, "LAST", NULL, NULL, PATIENCE_MS, NULL, NULL, &error));
	assert_false(cop_qmp_wait(qmp, 0, "NEVER", NULL, NULL, PATIENCE_MS, NULL, NULL, &error));
	expect_error(&error, COP_ERR_INTERNAL, "NEVER");
	end(qmp);
	expect_seen("LAST END ");
}

static void swap_pairs(int fd)
{
	for (;;) {
		gint64 ids[2] = {0}, n[2];

		for (int i = 0; i < 2; i++) {
			g_autoptr(JsonObject) obj = hear(fd, &ids[i]);

			if (!obj)
				return;
			n[i] = cop_json_int(cop_json_obj(obj, "arguments"), "n", -1, NULL);
		}
		for (int i = 1; i >= 0; i--)
			say(fd, "{\"return\": %d, \"id\": %d}\n", (int)n[i], (int)ids[i]);
	}
}

static gpointer caller(gpointer user)
{
	struct cop_qmp *qmp = user;
	gint64 sum = 0;

	for (int n = 0; n < 50; n++)
		sum += call_int(qmp, "x", number(n));
	return GINT_TO_POINTER((int)sum);
}

/* Catches: commands that mix on the wire, a reply that wakes the wrong thread. */
static void test_two_threads(void **state)
{
	struct cop_qmp *qmp = start(swap_pairs);
	GThread *a = g_thread_new("a", caller, qmp), *b = g_thread_new("b", caller, qmp);

	assert_int_equal(GPOINTER_TO_INT(g_thread_join(a)), 1225);
	assert_int_equal(GPOINTER_TO_INT(g_thread_join(b)), 1225);
	end(qmp);
}

static struct cop_qmp *to_close;

/* The command has arrived: then the call waits, or is about to. */
static void close_while_called(int fd)
{
	(void)hear_id(fd);
	cop_qmp_close(to_close);
	until_end(fd);
}

/* Catches: a call that goes on waiting after the VM was given up. */
static void test_close_while_called(void **state)
{
	struct cop_qmp *qmp = start(close_while_called);
	GError *error = NULL;

	to_close = qmp; /* before the command, which the script waits for */
	assert_false(cop_qmp_call(qmp, "x", NULL, -1, PATIENCE_MS, NULL, &error));
	expect_error(&error, COP_ERR_INTERNAL, "ended during 'x'");
	end(qmp);
}

static unsigned nr_critical;

static void count_critical(const char *domain, GLogLevelFlags level, const char *message,
			   gpointer user)
{
	if (level & G_LOG_LEVEL_CRITICAL)
		g_atomic_int_inc(&nr_critical);
}

/* Catches: the main loop's thread and the one that closes both remove the source. */
static void test_close_from_a_worker(void **state)
{
	GLogFunc old;

	old = g_log_set_default_handler(count_critical, NULL);
	nr_critical = 0;
	for (int i = 0; i < 200; i++)
		end(start(echo));
	g_log_set_default_handler(old, NULL);
	assert_int_equal(nr_critical, 0);
}

static void take_fd(int fd)
{
	union {
		struct cmsghdr hdr;
		char space[CMSG_SPACE(4 * sizeof(int))];
	} control;
	char buf[4096];
	struct iovec iov = {.iov_base = buf, .iov_len = sizeof(buf) - 1};
	struct msghdr msg = {.msg_iov = &iov,
			     .msg_iovlen = 1,
			     .msg_control = &control,
			     .msg_controllen = sizeof(control)};
	ssize_t n = recvmsg(fd, &msg, MSG_CMSG_CLOEXEC);
	struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
	g_autoptr(JsonObject) obj = NULL;
	int got;

	if (n <= 0 || !c || c->cmsg_type != SCM_RIGHTS || c->cmsg_len != CMSG_LEN(sizeof(int)))
		return; /* the call fails then */
	buf[n] = '\0';
	obj = cop_json_parse(buf, -1, NULL);
	memcpy(&got, CMSG_DATA(c), sizeof(int));
	n = read(got, buf, 5);
	close(got);
	say(fd, "{\"return\": %d, \"id\": %d}\n", n == 5 && memcmp(buf, "bytes", 5) == 0,
	    (int)cop_json_int(obj, "id", 0, NULL));
	until_end(fd);
}

/* Catches: a descriptor that does not come with its command, or is closed by the client. */
static void test_descriptor(void **state)
{
	g_autofree char *file = g_build_filename(dir, "file", NULL);
	struct cop_qmp *qmp = start(take_fd);
	g_autoptr(JsonNode) node = NULL;
	GError *error = NULL;
	int fd;

	write_file(file, "bytes");
	fd = open(file, O_RDONLY | O_CLOEXEC);
	assert_true(cop_qmp_call(qmp, "getfd", NULL, fd, PATIENCE_MS, &node, &error));
	expect_no_error(error);
	assert_int_equal(json_node_get_int(node), 1);
	assert_int_equal(close(fd), 0);
	end(qmp);
}

static void silent(int fd)
{
	until_end(fd);
}

static void gone(int fd)
{
}

/* Catches: a start that hangs on a QEMU that does not come up, or blames something else. */
static void test_connect_failures(void **state)
{
	static const struct {
		script_fn script;
		const char *greeting;
		int timeout_ms;
		enum cop_error_code code;
		const char *text;
	} cases[] = {
		{silent, NULL, 1, COP_ERR_TIMEOUT, "does not answer"},
		{gone, NULL, PATIENCE_MS, COP_ERR_INTERNAL, "ended before"},
		{hang_up, "half a greeting", 1, COP_ERR_TIMEOUT, "does not answer"},
	};
	g_autofree char *long_path = g_strnfill(200, 'x');
	GError *error = NULL;

	for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
		fake_start(cases[i].script, cases[i].greeting);
		assert_null(cop_qmp_connect(path, cases[i].timeout_ms, NULL, NULL, &error));
		expect_error(&error, cases[i].code, cases[i].text);
		fake_end();
	}
	(void)unlink(path);
	assert_null(cop_qmp_connect(path, PATIENCE_MS, NULL, NULL, &error));
	expect_error(&error, COP_ERR_NOT_FOUND, path);
	assert_null(cop_qmp_connect(long_path, PATIENCE_MS, NULL, NULL, &error));
	expect_error(&error, COP_ERR_INTERNAL, "too long");
}

/* Reads nothing for longer than the call may take. */
static void deaf(int fd)
{
	struct pollfd hup = {.fd = fd, .events = POLLRDHUP};

	(void)poll(&hup, 1, 5000); /* so that the test ends when it fails */
}

/* Catches: a call that never ends, with its worker, when a QEMU stops reading. */
static void test_deaf_monitor(void **state)
{
	struct cop_qmp *qmp = start(deaf);
	JsonObject *args = json_object_new();
	g_autofree char *text = g_strnfill(8 << 20, 'x');
	GError *error = NULL;

	json_object_set_string_member(args, "x", text);
	assert_false(cop_qmp_call(qmp, "x", args, -1, 100, NULL, &error));
	expect_error(&error, COP_ERR_TIMEOUT, "'x'");
	end(qmp);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_calls),
		cmocka_unit_test(test_reply_by_id),
		cmocka_unit_test(test_error_replies),
		cmocka_unit_test(test_events_and_waits),
		cmocka_unit_test(test_ring_overflow),
		cmocka_unit_test(test_time_out),
		cmocka_unit_test(test_garbage_lines),
		cmocka_unit_test(test_huge_time_stamp),
		cmocka_unit_test(test_same_reply_twice),
		cmocka_unit_test(test_endless_line),
		cmocka_unit_test(test_long_line),
		cmocka_unit_test(test_hang_up),
		cmocka_unit_test(test_two_threads),
		cmocka_unit_test(test_close_while_called),
		cmocka_unit_test(test_close_from_a_worker),
		cmocka_unit_test(test_descriptor),
		cmocka_unit_test(test_connect_failures),
		cmocka_unit_test(test_deaf_monitor),
	};
	int failed = cmocka_run_group_tests(tests, setup, teardown);

	if (seen.names)
		g_string_free(seen.names, TRUE);
	return failed;
}
