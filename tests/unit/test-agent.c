/* SPDX-License-Identifier: MIT */
/* test-agent.c: the host's side of the agent's protocol, against a peer that plays QEMU and guest. */
#include "unit.h"

#include "daemon/agent-impl.h"
#include "daemon/identity.h"
#include "daemon/sockets.h"

#include <errno.h>
#include <poll.h>
#include <sys/socket.h>

static struct cop_config config;
static struct cop_state *st;
static struct cop_vm *vm;
static struct cop_agent *agent;
static char *dir, *path;
static int listen_fd = -1, peer = -1;
static struct cop_agent_rx rx; /* of the peer, as an agent has it */
static uint32_t session;
static uint8_t out[COP_AGENT_OPENING_MAX + COP_AGENT_FRAME_MAX];

static int setup(void **state)
{
	char *names[] = {(char *)"m", NULL};
	g_autoptr(GPtrArray) vms = NULL;
	g_autofree char *folder = NULL;
	GError *error = NULL;

	dir = scratch_new();
	config.dir = dir;
	config.ram_dir = dir;
	config.max_vms = 5;
	config.max_memory_bytes = config.max_disk_bytes = 1ull << 40;
	st = cop_state_new(&config);
	vms = cop_state_reserve_vms(st, names, NULL, 1, 1 << 20, &error);
	expect_no_error(error);
	vm = cop_vm_ref(vms->pdata[0]);
	vm->run = COP_VM_RUNNING;
	vm->machine = cop_machine_new();
	vm->machine->type = g_strdup("pc");
	vm->machine->accel = g_strdup("tcg");
	vm->machine->display = g_strdup("none");
	vm->machine->network = g_strdup("user");
	vm->machine->memory_bytes = 1 << 20;
	vm->machine->cpus = 1;
	folder = g_build_filename(dir, "vms", NULL);
	assert_int_equal(mkdir(folder, 0700), 0);
	g_free(folder);
	folder = cop_state_vm_dir(st, vm->id);
	assert_int_equal(mkdir(folder, 0700), 0);
	path = g_build_filename(dir, "agent.sock", NULL);
	listen_fd = cop_socket_listen(path, SOCK_STREAM, &error);
	expect_no_error(error);
	return 0;
}

static void turn(void)
{
	while (g_main_context_iteration(NULL, FALSE))
		;
	g_usleep(500);
}

static int teardown(void **state)
{
	cop_agent_close(agent);
	for (int i = 0; i < 10; i++)
		turn();
	cop_agent_unref(g_steal_pointer(&agent));
	if (peer >= 0)
		close(peer);
	close(listen_fd);
	peer = -1;
	cop_vm_unref(vm);
	cop_state_free(st);
	g_free(path);
	scratch_free(dir);
	return 0;
}

/* Turns the loop until there is something at fd. */
static void wait_readable(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};

	for (int i = 0; i < PATIENCE_MS; i++) {
		turn();
		if (poll(&p, 1, 0) == 1)
			return;
	}
	fail_msg("nothing came");
}

static void accept_peer(void)
{
	if (peer >= 0)
		close(peer);
	wait_readable(listen_fd);
	peer = accept(listen_fd, NULL, NULL);
	assert_true(peer >= 0);
	cop_agent_rx_init(&rx, TRUE);
}

/* The next frame from the host; its payload is valid until the next call. */
static struct cop_agent_frame next(void)
{
	static uint8_t buf[1 << 20];
	static size_t have, at;
	struct cop_agent_frame frame;
	size_t used;
	ssize_t n;

	for (;;) {
		while (at < have) {
			int got = cop_agent_rx_feed(&rx, buf + at, have - at, &used, &frame);

			at += used;
			if (got == 1)
				return frame;
		}
		wait_readable(peer);
		n = recv(peer, buf, sizeof(buf), MSG_DONTWAIT);
		if (n <= 0)
			fail_msg("the host has closed");
		have = (size_t)n;
		at = 0;
	}
}

static void say(const void *data, ssize_t len)
{
	const uint8_t *p = data;

	assert_true(len > 0);
	while (len) {
		ssize_t n = send(peer, p, (size_t)len, MSG_DONTWAIT | MSG_NOSIGNAL);

		if (n < 0 && errno != EAGAIN)
			return; /* the host has closed: what follows tells */
		if (n > 0) {
			p += n;
			len -= n;
		}
		turn();
	}
}

static void ack(uint64_t number, const char *version)
{
	struct cop_agent_hello_ack m = {.session = number, .proto = 1, .proto_min = 1,
					.proto_max = 1, .version = version, .boot_id = "b"};

	say(out, cop_agent_put_hello_ack(out, &m));
}

static uint64_t expect_hello(uint32_t flags)
{
	struct cop_agent_frame f = next();
	struct cop_agent_hello hello;

	assert_int_equal(f.type, COP_AGENT_HELLO);
	assert_true(f.synced);
	assert_int_equal(cop_agent_get_hello(&f, &hello), 0);
	assert_int_equal(hello.flags, flags);
	session = (uint32_t)hello.session;
	return hello.session;
}

static char *word(const char *key)
{
	g_autoptr(JsonObject) obj = cop_agent_to_json(agent);

	return g_strdup(cop_json_str(obj, key, "", NULL));
}

static void wait_word(const char *key, const char *text)
{
	for (int i = 0; i < PATIENCE_MS; i++) {
		g_autofree char *is = word(key);

		if (strstr(is, text))
			return;
		turn();
	}
	fail_msg("%s is not '%s' but '%s'", key, text, word(key));
}

static void start(gboolean expected, gboolean hold)
{
	agent = cop_agent_new(vm, path, expected, hold);
	accept_peer();
}

static void become_ready(void)
{
	start(FALSE, FALSE);
	ack(expect_hello(0), "1.2");
	wait_word("state", "ready");
}

/* Catches: a session that an old answer, a stranger's or noise opens, or keeps from being opened. */
static void test_hello(void **state)
{
	static const uint8_t zeros[65536];
	uint64_t first, second;

	start(FALSE, FALSE);
	wait_word("state", "none");
	first = expect_hello(0);
	say(zeros, sizeof(zeros));
	say("COPACOPA noise, of a frame that the template had begun", 40);
	ack(first + 1, "stranger");
	say(out, cop_agent_put_ready(out)); /* an agent has begun: the greeting was lost with another */
	second = expect_hello(0);
	assert_true(first != second);
	ack(first, "late");
	wait_word("state", "none");
	ack(second, "1.2");
	wait_word("state", "ready");
	wait_word("version", "1.2");
	assert_true(vm->agent_expected);
	say(zeros, 64); /* a new agent, where a header should be */
	wait_word("state", "failed");
	accept_peer();
	ack(expect_hello(0), "1.3");
	wait_word("version", "1.3");
	wait_word("state", "ready");
}

/* Catches: an agent of another time whose words are taken for this protocol's. */
static void test_versions(void **state)
{
	struct cop_agent_refused m = {.proto_min = 7, .proto_max = 9, .text = "sorry\033[2J"};

	start(TRUE, FALSE);
	wait_word("state", "connecting");
	m.session = expect_hello(0);
	say(out, cop_agent_put_refused(out, &m));
	wait_word("reason", "too new: it speaks versions 7 to 9");
	wait_word("state", "failed");
	say(out, cop_agent_put_ready(out)); /* it was replaced */
	m.session = expect_hello(0);
	m.proto_min = m.proto_max = 0;
	say(out, cop_agent_put_refused(out, &m));
	wait_word("reason", "too old");
}

/* Catches: what is no frame, or a wrong one, that is overlooked, or ends more than the session. */
static void test_lies(void **state)
{
	static const struct {
		uint8_t type;
		const char *payload;
		size_t len;
	} lies[] = {
		{COP_AGENT_EXIT, "1234", 4}, {COP_AGENT_DATA, "\1", 1}, {COP_AGENT_CREDIT, "", 0},
		{COP_AGENT_IDENTIFIED, "\377", 1}, {COP_AGENT_REQUEST, "\1\0\0\0\0\377\377", 7},
		{COP_AGENT_QUIESCED, "xx", 2}, {COP_AGENT_STARTED, "x", 1}, {COP_AGENT_ERROR, "\0\0\0\0\0\0\0", 7},
		{COP_AGENT_PONG, "x", 1}, {0, "", 0},
	};

	become_ready();
	for (size_t i = 0; i < G_N_ELEMENTS(lies); i++) {
		ssize_t len = cop_agent_put_empty(out, session, COP_AGENT_PONG, 9);

		out[14] = lies[i].type;
		out[12] = (uint8_t)lies[i].len;
		memcpy(out + len, lies[i].payload, lies[i].len);
		say(out, len + (ssize_t)lies[i].len);
		wait_word("state", "failed");
		wait_word("reason", lies[i].type ? "wrong frame" : "no frame");
		accept_peer();
		ack(expect_hello(0), "1.2");
		wait_word("state", "ready");
	}
	/* What is of a later version, or of a session before, is nothing. */
	say(out, cop_agent_put_empty(out, session, COP_AGENT_PONG, 9));
	out[14] = 200;
	say(out, COP_AGENT_HEAD_BYTES);
	say(out, cop_agent_put_eof(out, session + 1, 1, 1));
	for (int i = 0; i < 50; i++)
		turn();
	wait_word("state", "ready");
}

struct seen {
	GByteArray *data[3];
	guint64 credit;
	int status, signal, ended;
	char *error;
};

static void on_output(int stream, const guint8 *data, gsize len, void *user)
{
	g_byte_array_append(((struct seen *)user)->data[stream], data, (guint)len);
}

static void on_credit(guint32 bytes, void *user)
{
	((struct seen *)user)->credit += bytes;
}

static void on_ended(int status, int signal, const GError *error, void *user)
{
	struct seen *seen = user;

	seen->ended++;
	seen->status = status;
	seen->signal = signal;
	seen->error = error ? g_strdup(error->message) : NULL;
}

static const struct cop_agent_exec_events events = {on_output, on_credit, on_ended};

static void seen_init(struct seen *seen)
{
	memset(seen, 0, sizeof(*seen));
	for (int i = 0; i < 3; i++)
		seen->data[i] = g_byte_array_new();
}

static void seen_done(struct seen *seen)
{
	for (int i = 0; i < 3; i++)
		g_byte_array_unref(seen->data[i]);
	g_free(seen->error);
}

static guint32 begin(struct seen *seen, const char *request)
{
	g_autoptr(JsonObject) obj = cop_json_parse(request, -1, NULL);
	GError *error = NULL;
	guint32 id = cop_agent_exec(agent, obj, &events, seen, &error);

	expect_no_error(error);
	assert_true(id != 0);
	return id;
}

static void wait_ended(struct seen *seen)
{
	for (int i = 0; i < PATIENCE_MS && !seen->ended; i++)
		turn();
	assert_int_equal(seen->ended, 1);
}

/* Catches: a request, a stream, a credit or a status that changes on its way. */
static void test_exec(void **state)
{
	static const char *store[COP_AGENT_MAX_STRINGS];
	struct cop_agent_exit gone = {.status = 5, .signal = -1};
	g_autofree guint8 *input = g_malloc(COP_AGENT_WINDOW);
	struct cop_agent_exec m;
	struct cop_agent_frame f;
	struct seen seen;
	const uint8_t *data;
	uint8_t stream;
	uint32_t bytes;
	size_t len, got = 0;
	guint32 id;

	become_ready();
	seen_init(&seen);
	id = begin(&seen, "{\"argv\":[\"a\",\"b c\"],\"env\":{\"K\":\"v=w\"},\"user\":\"u\",\"workdir\":\"/d\","
			  "\"tty\":{\"rows\":3,\"columns\":4}}");
	f = next();
	assert_int_equal(f.type, COP_AGENT_EXEC);
	assert_int_equal(f.id, id);
	assert_int_equal(f.session, session);
	assert_int_equal(cop_agent_get_exec(&f, store, &m), 0);
	assert_string_equal(m.argv[1], "b c");
	assert_string_equal(m.env[0], "K=v=w");
	assert_string_equal(m.user, "u");
	assert_string_equal(m.cwd, "/d");
	assert_int_equal(m.rows, 3);
	assert_int_equal(seen.credit, COP_AGENT_WINDOW);
	memset(input, 0xf5, COP_AGENT_WINDOW);
	cop_agent_exec_input(agent, id, input, COP_AGENT_WINDOW);
	while (got < COP_AGENT_WINDOW) {
		f = next();
		assert_int_equal(cop_agent_get_data(&f, &stream, &data, &len), 0);
		got += len;
	}
	cop_agent_exec_input(agent, id, NULL, 0);
	assert_int_equal(next().type, COP_AGENT_EOF);
	cop_agent_exec_signal(agent, id, 15);
	assert_int_equal(next().type, COP_AGENT_SIGNAL);
	say(out, cop_agent_put_data(out, session, id, 1, "one", 3));
	say(out, cop_agent_put_data(out, session, id, 2, "two", 3));
	say(out, cop_agent_put_exit(out, session, id, &gone));
	wait_ended(&seen);
	assert_int_equal(seen.status, 5);
	assert_memory_equal(seen.data[1]->data, "one", 3);
	assert_memory_equal(seen.data[2]->data, "two", 3);
	/* Crossed the end: no matter. */
	say(out, cop_agent_put_credit(out, session, id, 0, 5));
	say(out, cop_agent_put_data(out, session, id, 1, "late", 4));
	seen_done(&seen);
	/* Abandoned: nothing is told, and output is taken all the same. */
	seen_init(&seen);
	id = begin(&seen, "{\"argv\":[\"x\"]}");
	assert_int_equal(next().type, COP_AGENT_EXEC);
	cop_agent_exec_abandon(agent, id);
	assert_int_equal(next().type, COP_AGENT_ABANDON);
	say(out, cop_agent_put_data(out, session, id, 1, "lost", 4));
	f = next();
	assert_int_equal(cop_agent_get_credit(&f, &stream, &bytes), 0);
	assert_int_equal(bytes, 4);
	say(out, cop_agent_put_exit(out, session, id, &gone));
	wait_word("state", "ready");
	assert_int_equal(seen.ended, 0);
	seen_done(&seen);
	/* Not found is a status, as of a shell. */
	seen_init(&seen);
	id = begin(&seen, "{\"argv\":[\"x\"]}");
	say(out, cop_agent_put_error(out, session, id, ENOENT, "no x"));
	wait_ended(&seen);
	assert_int_equal(seen.status, 127);
	assert_string_equal(seen.error ?: "", "");
	seen_done(&seen);
}

/* Catches: a guest that sends, or lets be sent, more than there is room for. */
static void test_credit(void **state)
{
	static uint8_t block[32768];
	struct seen seen;
	guint32 id;

	become_ready();
	for (int way = 0; way < 2; way++) {
		seen_init(&seen);
		id = begin(&seen, "{\"argv\":[\"x\"]}");
		if (way) {
			say(out, cop_agent_put_credit(out, session, id, 0, 1));
		} else {
			for (size_t i = 0; i < COP_AGENT_WINDOW / sizeof(block); i++)
				say(out, cop_agent_put_data(out, session, id, 1, block,
							    sizeof(block)));
			assert_int_equal(seen.ended, 0);
			cop_agent_exec_credit(agent, id, 1, 10);
			say(out, cop_agent_put_data(out, session, id, 1, block, 10));
			say(out, cop_agent_put_data(out, session, id, 1, block, 1));
		}
		wait_ended(&seen);
		assert_non_null(strstr(seen.error, "agent was lost"));
		assert_int_equal(seen.data[1]->len, way ? 0 : COP_AGENT_WINDOW + 10);
		seen_done(&seen);
		accept_peer();
		ack(expect_hello(0), "1.2");
		wait_word("state", "ready");
	}
}

/* Catches: a flood that the daemon's loop spends itself on. */
static void test_flood(void **state)
{
	gint64 end_us;
	size_t sent = 0;

	become_ready();
	end_us = g_get_monotonic_time() + G_USEC_PER_SEC;
	(void)cop_agent_put_empty(out, session, COP_AGENT_PONG, 1);
	while (g_get_monotonic_time() < end_us) {
		ssize_t n = send(peer, out, COP_AGENT_HEAD_BYTES, MSG_DONTWAIT | MSG_NOSIGNAL);

		if (n > 0)
			sent += (size_t)n;
		g_main_context_iteration(NULL, FALSE);
	}
	assert_true(sent < 12u << 20);
	wait_word("state", "ready");
}

/* Catches: an identity that is not told, told wrongly, told before the clone runs, or not again. */
static void test_identity(void **state)
{
	static const char *store[COP_AGENT_MAX_STRINGS];
	struct cop_identity_wish wish = {.params = cop_json_parse("{\"k\":\"v\"}", -1, NULL)};
	struct cop_agent_identified done = {.nr_steps = 2, .steps = {
		{.name = "random", .text = "", .took_us = 1500},
		{.name = "hook x", .result = COP_AGENT_FAILED, .text = "no\xff", .took_us = 2}}};
	struct pollfd p = {.events = POLLIN};
	struct cop_agent_identify m, again;
	g_autoptr(JsonObject) obj = NULL;
	struct cop_agent_frame f;
	JsonArray *steps;

	vm->identity = cop_identity_new(&wish, vm->machine, 3, 5);
	vm->template = g_strdup("tpl");
	start(TRUE, TRUE);
	for (int i = 0; i < 50; i++)
		turn();
	p.fd = peer;
	assert_int_equal(poll(&p, 1, 0), 0);
	cop_agent_go(agent, g_get_monotonic_time());
	ack(expect_hello(COP_AGENT_HELLO_CLONE), "1.2");
	f = next();
	assert_int_equal(f.type, COP_AGENT_IDENTIFY);
	assert_int_equal(cop_agent_get_identify(&f, store, &m), 0);
	assert_int_equal(m.index, 3);
	assert_int_equal(m.count, 5);
	assert_string_equal(m.name, "m");
	assert_string_equal(m.template, "tpl");
	assert_string_equal(m.params[0], "k=v");
	assert_int_equal(m.nr_nics, 1);
	assert_int_equal(m.nics[0].new[0] & 3, 2);
	assert_int_equal(strlen(m.machine_id), 32);
	wait_word("state", "connecting");
	close(peer); /* in the middle of it */
	peer = -1;
	accept_peer();
	ack(expect_hello(COP_AGENT_HELLO_CLONE), "1.2");
	f = next();
	memset(&again, 0, sizeof(again));
	assert_int_equal(cop_agent_get_identify(&f, store, &again), 0);
	assert_memory_equal(again.nics, m.nics, sizeof(m.nics[0]));
	assert_memory_not_equal(again.random, m.random, sizeof(m.random));
	say(out, cop_agent_put_identified(out, session, f.id, &done));
	wait_word("state", "ready");
	obj = cop_agent_to_json(agent);
	steps = cop_json_arr(obj, "steps");
	assert_int_equal(json_array_get_length(steps), 2);
	assert_false(cop_json_bool(json_array_get_object_element(steps, 1), "ok", TRUE, NULL));
	assert_true(cop_json_bool(vm->identity, "confirmed", FALSE, NULL));
	say(out, 16); /* the session ends; the next is no clone's any more */
	accept_peer();
	(void)expect_hello(0);
	json_object_unref(wish.params);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_hello, setup, teardown),
		cmocka_unit_test_setup_teardown(test_versions, setup, teardown),
		cmocka_unit_test_setup_teardown(test_lies, setup, teardown),
		cmocka_unit_test_setup_teardown(test_exec, setup, teardown),
		cmocka_unit_test_setup_teardown(test_credit, setup, teardown),
		cmocka_unit_test_setup_teardown(test_flood, setup, teardown),
		cmocka_unit_test_setup_teardown(test_identity, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
