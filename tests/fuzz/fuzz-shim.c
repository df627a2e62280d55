/*
 * fuzz-shim.c - messages to the shim, from a daemon and a pager: every request that can be received
 * gets one well-formed answer or a hang-up, nothing but the region is touched and all of it stays
 * mapped, a discard ends when a pager answers it, no descriptor is left.
 *
 * Both threads of the shim are the real ones, on a region of this process that nobody uses. A thread
 * reads the userfaultfd's events, for which replacements wait.
 *
 * Input: u8 (1: the region is private from the start), then operations, see operate().
 */
#include "fuzz.h"

#include "base/cleanup.h"
#include "base/fd.h"
#include "shim/control.h"
#include "shim/paging.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>

#define NR_CONNS     4u /* the last one is for cleaning up */
#define PAGES	     32u
#define REGION_BYTES (PAGES * 4096ul)
#define GUARD	     (8 * 4096ul) /* before and behind the region */
#define MAX_OPS	     40
#define MAX_DISCARDS 20u /* more than a shim may have outstanding */

struct packet {
	struct cop_shim_msg msg;
	struct cop_shim_range ranges[COP_SHIM_MAX_RANGES + 2];
};

static struct {
	int fd;
	bool pager;   /* its ATTACH was answered */
	bool pending; /* an answer is due */
	struct cop_shim_msg asked;
} conns[NR_CONNS];
static struct cop_shim_region region = COP_SHIM_REGION_INIT;
static struct cop_shim_control control = {.region = &region};
static struct sockaddr_un address = {.sun_family = AF_UNIX};
static uint8_t *memory; /* guard, region, guard */
static bool with_paging;
static uint32_t discard_id; /* the last that was asked for */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static unsigned int discarding; /* threads */

enum file { READ_ONLY, WRITABLE, SHORT, SOCKET, NR_FILES };

static int open_file(enum file file)
{
	int fd, reopened;

	if (file == SOCKET)
		return socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	fd = make_file("x", 1, file == SHORT ? REGION_BYTES - 4096 : REGION_BYTES);
	if (file == WRITABLE)
		return fd;
	reopened = cop_fd_reopen(fd, O_RDONLY);
	must(reopened >= 0, "a descriptor");
	close(fd);
	return reopened;
}

static void conn_close(unsigned int i)
{
	cop_close(&conns[i].fd);
	conns[i].pager = conns[i].pending = false;
}

static void answer_discard(unsigned int i, uint32_t id, int32_t status)
{
	struct cop_shim_msg m = {.magic = COP_SHIM_MAGIC, .version = COP_SHIM_VERSION,
				 .type = COP_SHIM_DISCARD, .id = id, .status = status};

	if (cop_fd_send(conns[i].fd, &m, sizeof(m), NULL, 0, MSG_DONTWAIT) < 0)
		conn_close(i);
}

static void readable(unsigned int i)
{
	struct cop_shim_msg m;
	cop_auto_close int fd = -1;
	size_t nr_fds = 0;
	ssize_t n = cop_fd_recv(conns[i].fd, &m, sizeof(m), &fd, 1, &nr_fds, MSG_DONTWAIT);

	if (n == -EAGAIN)
		return;
	if (n == 0 || n == -ECONNRESET) {
		conn_close(i);
		return;
	}
	must(n == sizeof(m) && m.magic == COP_SHIM_MAGIC && m.version == COP_SHIM_VERSION &&
		     m.reserved == 0 && m.status <= 0 && m.status > -4096,
	     "a malformed message");
	must(!(m.flags & COP_SHIM_LOST), "the region was lost");
	if (m.type == COP_SHIM_DISCARD && conns[i].pager && m.addr) {
		must(m.addr >= (uintptr_t)region.addr && m.len <= REGION_BYTES, "a discard elsewhere");
		discard_id = m.id;
		if (i == NR_CONNS - 1)
			answer_discard(i, m.id, 0);
		return;
	}
	must(conns[i].pending && m.id == conns[i].asked.id && m.type == conns[i].asked.type,
	     "an answer to no question");
	must((nr_fds == 1) == (m.type == COP_SHIM_ATTACH && m.status == 0 && !conns[i].pager),
	     "a descriptor with the wrong answer");
	conns[i].pending = false;
	if (nr_fds)
		conns[i].pager = true;
}

static void pump(int timeout_ms)
{
	struct pollfd p[NR_CONNS];

	for (unsigned int i = 0; i < NR_CONNS; i++)
		p[i] = (struct pollfd){.fd = conns[i].fd, .events = POLLIN};
	if (poll(p, NR_CONNS, timeout_ms) <= 0)
		return;
	for (unsigned int i = 0; i < NR_CONNS; i++) {
		if (p[i].revents)
			readable(i);
	}
}

static void conn_open(unsigned int i)
{
	if (conns[i].fd >= 0)
		return;
	conns[i].fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	must(conns[i].fd >= 0 && connect(conns[i].fd, (struct sockaddr *)&address, sizeof(address)) == 0,
	     "a connection");
}

/* Sends it and waits for the answer, if one is due. */
static void ask(unsigned int i, const void *bytes, size_t len, const int *fds, size_t nr_fds)
{
	int64_t until_ms = now_ms() + PATIENCE_MS;

	conn_open(i);
	memset(&conns[i].asked, 0, sizeof(conns[i].asked));
	memcpy(&conns[i].asked, bytes, len < sizeof(struct cop_shim_msg) ? len : sizeof(struct cop_shim_msg));
	/* An answer to a discard has none; on another's connection it is an unknown request. */
	conns[i].pending = !conns[i].pager || conns[i].asked.type != COP_SHIM_DISCARD;
	if (cop_fd_send(conns[i].fd, bytes, len, fds, nr_fds, MSG_DONTWAIT) < 0)
		conn_close(i);
	while (conns[i].pending) {
		pump(1000);
		must(now_ms() < until_ms, "a request that isn't answered");
	}
}

/* type, then a choice: addr and len those of the region, something else, one other field, descriptors. */
static void send_message(struct input *in, unsigned int i)
{
	struct cop_shim_msg m = {.magic = COP_SHIM_MAGIC, .version = COP_SHIM_VERSION};
	unsigned int choice, field, nr = 0;
	int fds[3];

	m.type = take(in) % 8;
	choice = take(in);
	field = take(in);
	m.id = 100 + field;
	if (choice & 1) {
		m.addr = (uintptr_t)region.addr;
		m.len = REGION_BYTES;
	} else if (choice & 2) {
		take_bytes(in, &m.addr, 16);
	}
	if (choice & 4)
		((uint8_t *)&m)[field % sizeof(m)] ^= (uint8_t)(field | 1);
	for (nr = 0; nr < (choice >> 3 & 3); nr++)
		fds[nr] = open_file((enum file)((choice >> 5) + nr) % NR_FILES);
	ask(i, &m, sizeof(m), fds, nr);
	while (nr)
		cop_close(&fds[--nr]);
}

/* How many ranges (say so, or say another number), then page, pages, what of each. */
static void send_replace(struct input *in, unsigned int i)
{
	struct packet p = {.msg = {.magic = COP_SHIM_MAGIC, .version = COP_SHIM_VERSION,
				   .type = COP_SHIM_REPLACE, .id = 7}};
	unsigned int nr = take(in), said = take(in), sent;

	nr = nr < 250 ? nr % 12 : nr + 3; /* and around the most there may be */
	for (unsigned int k = 0; k < nr; k++) {
		unsigned int page = take(in), pages = take(in), what = take(in);

		p.ranges[k] = (struct cop_shim_range){
			.addr = (uintptr_t)region.addr + page % 40 * 4096ul,
			.len = (k >= 12 ? 1 : pages % 40) * 4096,
			.op = what % 4,
		};
		if (what & 0x80)
			take_bytes(in, &p.ranges[k], sizeof(p.ranges[k]));
	}
	p.msg.len = said & 0x80 ? said : nr;
	sent = said & 0x40 ? nr / 2 : nr;
	ask(i, &p, sizeof(p.msg) + sent * sizeof(p.ranges[0]), NULL, 0);
}

static void send_bytes(struct input *in, unsigned int i)
{
	uint8_t bytes[100];
	size_t len = take(in) % sizeof(bytes);

	take_bytes(in, bytes, len);
	if (len)
		ask(i, bytes, len, NULL, 0);
}

static void *discard_thread(void *page)
{
	int r = cop_shim_paging_discard((uint8_t *)region.addr + (uintptr_t)page * 4096, 4096);

	must(r <= 0 && r > -4096, "a discard's result");
	(void)pthread_mutex_lock(&lock);
	discarding--;
	(void)pthread_mutex_unlock(&lock);
	return NULL;
}

static unsigned int get_discarding(void)
{
	unsigned int nr;

	(void)pthread_mutex_lock(&lock);
	nr = discarding;
	(void)pthread_mutex_unlock(&lock);
	return nr;
}

static void discard(unsigned int page)
{
	pthread_t thread;

	if (!with_paging || get_discarding() == MAX_DISCARDS)
		return;
	(void)pthread_mutex_lock(&lock);
	discarding++;
	(void)pthread_mutex_unlock(&lock);
	must(pthread_create(&thread, NULL, discard_thread, (void *)(uintptr_t)(page % PAGES)) == 0, "a thread");
	(void)pthread_detach(thread);
}

enum op { MESSAGE, REPLACE, BYTES, DISCARD, ANSWER, CONN, ATTACH, NR_OPS };

static void operate(struct input *in)
{
	struct cop_shim_msg attach = {.magic = COP_SHIM_MAGIC, .version = COP_SHIM_VERSION,
				      .type = COP_SHIM_ATTACH, .id = 1};
	unsigned int op = take(in), i = op / 16 % (NR_CONNS - 1);
	int32_t status;

	switch ((enum op)(op % 16 % NR_OPS)) {
	case MESSAGE:
		send_message(in, i);
		break;
	case REPLACE:
		send_replace(in, i);
		break;
	case BYTES:
		send_bytes(in, i);
		break;
	case DISCARD:
		discard(take(in));
		break;
	case ANSWER:
		op = take(in);
		take_bytes(in, &status, sizeof(status));
		pump(1);
		if (conns[i].fd >= 0 && conns[i].pager)
			answer_discard(i, discard_id + op % 4, op & 4 ? status : -(int32_t)(op >> 3));
		break;
	case CONN:
		conn_close(i);
		break;
	default:
		conn_open(i);
		ask(i, &attach, sizeof(attach), NULL, 0);
	}
}

static void *event_thread(void *unused)
{
	struct pollfd p = {.fd = cop_shim_paging_fd(), .events = POLLIN};
	struct uffd_msg event;

	while (poll(&p, 1, -1) > 0 || errno == EINTR)
		(void)!read(p.fd, &event, sizeof(event));
	return NULL;
}

static void start(void)
{
	pthread_t thread;
	int r;

	(void)snprintf(address.sun_path + 1, sizeof(address.sun_path) - 1, "coppice-fuzz-shim-%d", getpid());
	control.listen_fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	must(control.listen_fd >= 0 &&
		     bind(control.listen_fd, (struct sockaddr *)&address, sizeof(address)) == 0 &&
		     listen(control.listen_fd, 8) == 0,
	     "a socket");
	control.uid = getuid();
	memory = mmap(NULL, REGION_BYTES + 2 * GUARD, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	must(memory != MAP_FAILED, "memory");
	memset(memory, 0xa5, REGION_BYTES + 2 * GUARD);
	r = cop_shim_paging_init(&region, 0);
	with_paging = r == 0;
	if (r) { /* as in a QEMU that may not have one */
		cop_shim_region_refuse(&region, r);
		(void)fprintf(stderr, "no userfaultfd (%s): there is no region here\n", strerror(-r));
	}
	must(cop_shim_control_start(&control) == 0, "a thread");
	if (with_paging)
		must(cop_shim_paging_start() == 0 && pthread_create(&thread, NULL, event_thread, NULL) == 0,
		     "threads");
	for (unsigned int i = 0; i < NR_CONNS; i++)
		conns[i].fd = -1;
}

/* QEMU maps its memory, as in a process that has just begun. */
static void map_region(bool private)
{
	cop_auto_close int fd = open_file(private ? READ_ONLY : WRITABLE);

	if (!with_paging)
		return;
	(void)pthread_mutex_lock(&region.lock);
	region.seen = false;
	region.error = 0;
	region.generation = 0;
	(void)pthread_mutex_unlock(&region.lock);
	must(cop_shim_region_map(&region, memory + GUARD, REGION_BYTES, PROT_READ | PROT_WRITE, MAP_FIXED, fd,
				 private ? COP_SHIM_MODE_PRIVATE : COP_SHIM_MODE_SHARED) == memory + GUARD,
	     "the region");
}

static void check_memory(void)
{
	for (size_t i = 0; i < GUARD; i++)
		must(memory[i] == 0xa5 && memory[GUARD + REGION_BYTES + i] == 0xa5,
		     "memory beside the region was touched");
	must(msync(memory, REGION_BYTES + 2 * GUARD, MS_ASYNC) == 0, "a gap in the region");
}

static void clean_up(unsigned int fds_then)
{
	struct cop_shim_msg attach = {.magic = COP_SHIM_MAGIC, .version = COP_SHIM_VERSION,
				      .type = COP_SHIM_ATTACH, .id = 1};
	int64_t until_ms = now_ms() + PATIENCE_MS;
	bool left = true;

	if (get_discarding()) { /* a pager that does as it should */
		conn_open(NR_CONNS - 1);
		ask(NR_CONNS - 1, &attach, sizeof(attach), NULL, 0);
	}
	while (get_discarding()) {
		pump(1);
		must(now_ms() < until_ms, "a discard that doesn't end");
	}
	for (unsigned int i = 0; i < NR_CONNS; i++)
		conn_close(i);
	while (left) {
		left = count_fds() != fds_then;
		must(!left || now_ms() < until_ms, "descriptors are left open, or too many closed");
		if (left)
			(void)poll(NULL, 0, 1);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct input in = {data, len};
	unsigned int fds_then;

	if (!memory)
		start();
	fds_then = count_fds();
	map_region(take(&in) & 1);
	for (int i = 0; i < MAX_OPS && in.left; i++)
		operate(&in);
	clean_up(fds_then);
	check_memory();
	return 0;
}
