/*
 * fuzz-client.c - answers to the daemon, from a shim that a guest has taken over and from a pager:
 * a call returns 0, or an error that can be printed; after nonsense the client is closed for good;
 * an answer that is taken is one; no descriptor that comes with it is left.
 *
 * The clients are the real ones, over a listening socket; a thread here answers.
 *
 * Input: u8 which calls, then answers, each: u8 how (see answer()), and what that needs.
 */
#include "fuzz.h"

#include "base/cleanup.h"
#include "base/fd.h"
#include "proto/pager-client.h"
#include "proto/shim-client.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define SILENCE_MS 5
#define CALLS	   4

static char path[64];
static int listen_fd = -1;

union packet {
	struct cop_pager_request pager_request;
	struct cop_pager_answer pager;
	struct cop_shim_msg shim;
	uint8_t bytes[sizeof(struct cop_pager_answer) + 8];
};

/* One answer. Returns false to hang up. */
static bool answer(struct input *in, int fd, const union packet *asked, bool of_pager)
{
	union packet p = {0};
	unsigned int how = take(in), at;
	size_t len = of_pager ? sizeof(p.pager) : sizeof(p.shim);
	int fds[2], nr = how >> 6 & 1 ? 1 + (how >> 7) : 0;

	if ((how & 7) == 7 || !in->left)
		return false;
	if ((how & 7) == 6)
		return true; /* says nothing */
	p.shim = (struct cop_shim_msg){.magic = asked->shim.magic, .version = asked->shim.version,
				       .type = asked->shim.type, .id = asked->shim.id};
	if (how & 8) { /* a status; it is at the same place in both */
		p.shim.status = -(int32_t)take(in);
		if (how & 16)
			take_bytes(in, &p.shim.status, sizeof(p.shim.status));
	}
	if ((how & 7) >= 1)
		take_bytes(in, p.bytes + 16, len - 16);
	if ((how & 7) == 2)
		take_bytes(in, p.bytes, len);
	at = how & 32 ? take(in) : 0;
	if (how & 32)
		p.bytes[at % 16] ^= take(in);
	if ((how & 7) == 3)
		len = take(in) % (len + 1);
	else if ((how & 7) == 4)
		len += 1 + take(in) % 8;
	for (int i = 0; i < nr; i++)
		fds[i] = open("/dev/null", O_RDONLY | O_CLOEXEC);
	if (len)
		(void)cop_fd_send(fd, p.bytes, len, fds, (size_t)nr, MSG_DONTWAIT);
	while (nr)
		close(fds[--nr]);
	return true;
}

struct server {
	struct input in;
	bool of_pager;
};

static void *serve(void *arg)
{
	struct server *s = arg;
	cop_auto_close int fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC);
	union packet asked;
	cop_auto_close int with = -1;
	ssize_t n;

	while (fd >= 0) {
		size_t nr_fds = 0;

		memset(&asked, 0, sizeof(asked));
		n = cop_fd_recv(fd, &asked, sizeof(asked), &with, 1, &nr_fds, 0);
		if (n <= 0 || !answer(&s->in, fd, &asked, s->of_pager))
			break;
		cop_close(&with);
	}
	return NULL;
}

static void remove_socket(void)
{
	(void)unlink(path);
}

static void check(int r, const struct cop_error *err, bool broken)
{
	must(r <= 0 && r > -4096, "a result that isn't an error");
	must(r == 0 || (err->text[0] && memchr(err->text, 0, sizeof(err->text))), "an error without text");
	must(!broken || r < 0, "success over a closed connection");
}

static void call_shim(unsigned int calls)
{
	struct cop_shim_client *c = NULL;
	struct cop_error err = {0};
	cop_auto_close int file = make_file("x", 1, 4096);
	bool closed = false;
	int r = cop_shim_client_new(path, PATIENCE_MS, &c, &err);

	must(r == 0, "no connection");
	for (int i = 0; i < CALLS; i++) {
		struct cop_shim_info info = {.mode = 77};

		memset(&err, 0, sizeof(err));
		r = calls >> i & 1 ? cop_shim_client_map_private(c, file, SILENCE_MS, &info, &err)
				   : cop_shim_client_hello(c, SILENCE_MS, &info, &err);
		check(r, &err, false);
		must((r == 0) == (info.mode != 77), "outputs are touched on failure");
		must(r || info.mode <= COP_SHIM_MODE_PRIVATE, "a mode that isn't one");
		must(!closed || r == -ENOTCONN, "a client that was closed, and isn't");
		closed = closed || strstr(err.text, "nonsense");
	}
	cop_shim_client_free(c);
}

static void call_pager(unsigned int calls)
{
	struct cop_pager_client *c = NULL;
	struct cop_error err = {0};
	int pid, r = cop_pager_client_new(path, SILENCE_MS, &c, &pid, &err);

	check(r, &err, false);
	for (int i = 0; i < CALLS && r == 0; i++) {
		struct cop_pager_request q = {.type = (uint16_t)(calls >> i)};
		struct cop_pager_answer a = {.type = 77};
		bool was_broken = cop_pager_client_is_broken(c);
		int s;

		memset(&err, 0, sizeof(err));
		s = cop_pager_client_call(c, &q, &listen_fd, calls >> i & 1, SILENCE_MS, &a, &err);
		check(s, &err, cop_pager_client_is_broken(c));
		must(!was_broken || (s == -ENOTCONN && cop_pager_client_is_broken(c)),
		     "a client that was closed, and isn't");
		must(s || (a.magic == COP_PAGER_MAGIC && a.status == 0 && memchr(a.text, 0, sizeof(a.text))),
		     "an answer that isn't one");
		must((cop_pager_client_fd(c) < 0) == cop_pager_client_is_broken(c), "half closed");
	}
	cop_pager_client_free(c);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	struct server s = {.in = {data, len}};
	unsigned int calls = take(&s.in), fds_then;
	pthread_t thread;

	if (listen_fd < 0) {
		(void)snprintf(path, sizeof(path), "/tmp/coppice-fuzz-client-%d", getpid());
		memcpy(address.sun_path, path, sizeof(path));
		listen_fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
		must(listen_fd >= 0 && bind(listen_fd, (struct sockaddr *)&address, sizeof(address)) == 0 &&
			     listen(listen_fd, 4) == 0 && atexit(remove_socket) == 0,
		     "a socket");
	}
	fds_then = count_fds();
	s.of_pager = calls & 0x80;
	must(pthread_create(&thread, NULL, serve, &s) == 0, "a thread");
	if (s.of_pager)
		call_pager(calls);
	else
		call_shim(calls);
	(void)pthread_join(thread, NULL);
	must(count_fds() == fds_then, "descriptors are left open");
	return 0;
}
