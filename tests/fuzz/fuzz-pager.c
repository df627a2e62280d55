/*
 * fuzz-pager.c - messages to coppice-pager, from the daemon and from shims that a guest has taken over:
 * whatever comes, every request gets one answer or a hang-up, the daemon is served meanwhile, and
 * when VMs, templates and connections are gone nothing is left: no descriptor, record or page table.
 *
 * All of the pager is the real one, with its threads; here are the other ends of its sockets, and
 * VMs whose memory is in guest.c's process. Time-outs of the pager are short, so that answers come
 * too late, too.
 *
 * Input: operations, each a byte and what it needs (the functions below say). Whole messages can be
 * made up, but most fields come from tables of values that mean something, as nobody guesses 64 bits.
 */
#include "fuzz.h"
#include "guest.h"

#include "base/cleanup.h"
#include "base/fd.h"
#include "mem/check.h"
#include "mem/image.h"
#include "mem/ptab.h"
#include "pager/pager.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

#define NR_CONNS   3u /* the last one is for cleaning up, and never closed by an input */
#define NR_SHIMS   3u
#define MAX_OPS	   48
#define MAX_NAMES  64
#define REPLACE_MS 15
#define ATTACH_MS  40

/* How a shim answers. What it may do at any time, unasked, is an operation. */
enum manner {
	HONEST,
	LIE, /* says it is done, and isn't; ATTACH: a descriptor that is something else */
	ERROR,
	MADE_UP, /* bytes of the input */
	LATE,	 /* by an operation */
	HUNG_UP,
	LOST,
	BLOCKING, /* ATTACH: a userfaultfd that blocks; REPLACE: another's id */
	NR_MANNERS,
};

struct shim {
	int fd; /* -1: none */
	unsigned int nth;
	bool shared, attached;
	enum manner attach, replace;
	int error;
	uint64_t addr;
	uint8_t made_up[sizeof(struct cop_shim_msg) + 4];
	uint8_t made_up_len;
	uint32_t late_id, late_nr; /* id 0: nothing */
	uint32_t discard_id;
};

static struct {
	int fd;
	unsigned int pending; /* requests that no answer was seen to */
	int last_status;
} conns[NR_CONNS];
static struct shim shims[NR_SHIMS];
static struct sockaddr_un address = {.sun_family = AF_UNIX};
static pid_t zombie;
static int images[4]; /* what was given as image, by index of its id; -1: none */
static const uint64_t ids[4] = {0x1111, 0x2222, 0, UINT64_MAX};
static uint64_t keys[MAX_NAMES], names[MAX_NAMES]; /* of VMs and templates, to be removed */
static unsigned int nr_keys, nr_names;
static bool flooded;

static const int errors[] = {0, -EAGAIN, -ETIMEDOUT, -EBUSY, -ESRCH, -ENOMEM, -EPIPE, INT32_MIN,
			     INT32_MAX, -4096, -4095, -ENOSPC, -EBADMSG, -EEXIST, -EINVAL, 1};

/* Descriptors. */

static void template_bytes(uint8_t *bytes)
{
	for (unsigned int i = 0; i < GUEST_BYTES; i++)
		bytes[i] = i / 4096 % 5 == 0 || i / COP_CHUNK_BYTES == 2 ? 0 : (uint8_t)(i * 7 ^ i >> 9);
}

enum file { IMAGE, DISK, SUMS, FIRST, EMPTY_IMAGE, SHORT, WRONG_SUMS, PIPE, NUMBER, NOTHING, NR_FILES };

static int open_file(enum file file)
{
	static uint8_t bytes[GUEST_BYTES], first[1] = {0xff};
	static uint64_t sums[4];
	int pair[2];

	if (!sums[0]) {
		template_bytes(bytes);
		for (unsigned int i = 0; i < 4; i++)
			sums[i] = i == 2 ? 0
				  : cop_check(bytes + i * COP_CHUNK_BYTES,
					      i == 3 ? GUEST_BYTES - 3 * COP_CHUNK_BYTES
						     : COP_CHUNK_BYTES);
	}
	switch (file) {
	case IMAGE:
		return make_file(bytes, sizeof(bytes), sizeof(bytes));
	case DISK:
		return make_file(bytes, sizeof(bytes), sizeof(bytes));
	case SUMS:
		return make_file(sums, sizeof(sums), sizeof(sums));
	case FIRST:
		return make_file(first, sizeof(first), sizeof(first));
	case EMPTY_IMAGE:
		return make_file(NULL, 0, sizeof(bytes));
	case SHORT:
		return make_file(bytes, 5, 5);
	case WRONG_SUMS:
		return make_file(bytes + 99, sizeof(sums), sizeof(sums));
	case NUMBER:
		return make_file("4000000000\n", 11, 11);
	case PIPE:
		must(pipe2(pair, O_CLOEXEC) == 0, "a pipe");
		close(pair[1]);
		return pair[0];
	default:
		return open("/dev/null", O_RDWR | O_CLOEXEC);
	}
}

/* A new end of a shim's connection, for the pager; the other one is here. */
static int new_shim(unsigned int which, bool shared)
{
	struct shim *s = &shims[which];
	int pair[2];

	cop_close(&s->fd);
	must(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0, "sockets");
	s->fd = pair[0];
	s->nth = which % GUEST_REGIONS;
	s->shared = shared;
	s->attached = false;
	s->late_id = 0;
	return pair[1];
}

/* Shims. */

static void say(struct shim *s, const void *bytes, size_t len, int fd)
{
	if (s->fd >= 0) /* a pager that has hung up, or doesn't read, is no matter */
		(void)cop_fd_send(s->fd, bytes, len, &fd, fd >= 0, MSG_DONTWAIT);
}

static struct cop_shim_msg message(enum cop_shim_type type, uint32_t id)
{
	return (struct cop_shim_msg){
		.magic = COP_SHIM_MAGIC, .version = COP_SHIM_VERSION, .type = type, .id = id};
}

static int vm_image(const struct shim *s)
{
	for (unsigned int i = 0; i < 4 && !s->shared; i++) {
		if (images[i] >= 0)
			return images[i];
	}
	return images[2]; /* see send_request() */
}

static void answer_attach(struct shim *s, uint32_t id)
{
	struct cop_shim_msg m = message(COP_SHIM_ATTACH, id);
	cop_auto_close int fd = -1;

	m.mode = s->shared ? COP_SHIM_MODE_SHARED : COP_SHIM_MODE_PRIVATE;
	m.len = GUEST_BYTES;
	m.flags = COP_SHIM_SEEN;
	switch (s->attach) {
	case LATE:
		return;
	case HUNG_UP:
		cop_close(&s->fd);
		return;
	case MADE_UP:
		memcpy(&m, s->made_up, sizeof(m) < s->made_up_len ? sizeof(m) : s->made_up_len);
		fd = open_file(PIPE);
		break;
	case LIE:
		fd = open_file((enum file)((unsigned int)s->error % NR_FILES));
		m.addr = s->addr;
		break;
	case ERROR:
		m.status = s->error;
		break;
	default:
		if (!guest_map(s->nth, vm_image(s), s->shared, s->attach == BLOCKING, &fd, &s->addr))
			m.status = -EPERM;
		m.addr = s->addr;
		m.flags |= s->attach == LOST ? COP_SHIM_LOST : 0;
	}
	say(s, &m, sizeof(m), fd);
	s->attached = true;
}

static void answer_replace(struct shim *s, uint32_t id, const struct cop_shim_range *ranges,
			   unsigned int nr)
{
	struct cop_shim_msg m = message(COP_SHIM_REPLACE, id);
	unsigned int done = nr;

	m.len = nr;
	if (nr == 0) { /* a pager that has just attached asks for this: honest, or it goes no further */
		say(s, &m, sizeof(m), -1);
		return;
	}
	switch (s->replace) {
	case LATE:
		s->late_id = id;
		s->late_nr = nr;
		return;
	case HUNG_UP:
		cop_close(&s->fd);
		return;
	case MADE_UP:
		say(s, s->made_up, s->made_up_len, -1);
		return;
	case LIE:
		m.len = (uint64_t)s->error;
		break;
	case ERROR:
		m.status = s->error;
		break;
	case BLOCKING:
		m.id++;
		break;
	default:
		if (!guest_replace(s->nth, ranges, nr, &done))
			m.status = -ENOMEM;
		m.len = done;
		m.flags |= s->replace == LOST ? COP_SHIM_LOST : 0;
	}
	say(s, &m, sizeof(m), -1);
}

static void shim_readable_here(struct shim *s)
{
	struct {
		struct cop_shim_msg msg;
		struct cop_shim_range ranges[COP_SHIM_MAX_RANGES];
	} packet = {0};
	size_t nr_fds;
	ssize_t n = cop_fd_recv(s->fd, &packet, sizeof(packet), NULL, 0, &nr_fds, MSG_DONTWAIT);

	if (n == -EAGAIN)
		return;
	if (n <= 0) {
		cop_close(&s->fd);
		return;
	}
	must((size_t)n >= sizeof(packet.msg) && packet.msg.magic == COP_SHIM_MAGIC &&
		     packet.msg.version == COP_SHIM_VERSION,
	     "a malformed message to the shim");
	if (packet.msg.type == COP_SHIM_ATTACH) {
		answer_attach(s, packet.msg.id);
	} else if (packet.msg.type == COP_SHIM_REPLACE) {
		must(packet.msg.len <= COP_SHIM_MAX_RANGES &&
			     (size_t)n == sizeof(packet.msg) + packet.msg.len * sizeof(packet.ranges[0]),
		     "a REPLACE of wrong length");
		answer_replace(s, packet.msg.id, packet.ranges, (unsigned int)packet.msg.len);
	} else {
		must(packet.msg.type == COP_SHIM_DISCARD && packet.msg.status <= 0 &&
			     packet.msg.status > -4096,
		     "a message that no shim knows");
	}
}

/* The daemon's connections. */

static void conn_open(unsigned int i)
{
	if (conns[i].fd >= 0)
		return;
	conns[i].fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	must(conns[i].fd >= 0 && connect(conns[i].fd, (struct sockaddr *)&address, sizeof(address)) == 0,
	     "a connection");
	conns[i].pending = 0;
}

static void conn_close(unsigned int i)
{
	cop_close(&conns[i].fd);
	conns[i].pending = 0;
}

static void conn_readable_here(unsigned int i)
{
	struct cop_pager_answer a;
	size_t nr_fds;
	ssize_t n = cop_fd_recv(conns[i].fd, &a, sizeof(a), NULL, 0, &nr_fds, MSG_DONTWAIT);

	if (n == -EAGAIN)
		return;
	if (n <= 0) {
		must(i != NR_CONNS - 1, "the pager hung up on nonsense that wasn't said");
		conn_close(i);
		return;
	}
	must(n == sizeof(a) && a.magic == COP_PAGER_MAGIC && a.version == COP_PAGER_VERSION &&
		     a.status <= 0 && a.status > -4096 && memchr(a.text, 0, sizeof(a.text)),
	     "an answer that the daemon takes for nonsense");
	must(conns[i].pending, "an answer to no question");
	conns[i].pending--;
	conns[i].last_status = a.status;
}

/* Reads what there is, and has the shims answer. */
static void pump(int timeout_ms)
{
	struct pollfd p[NR_CONNS + NR_SHIMS];

	for (unsigned int i = 0; i < NR_CONNS; i++)
		p[i] = (struct pollfd){.fd = conns[i].fd, .events = POLLIN};
	for (unsigned int i = 0; i < NR_SHIMS; i++)
		p[NR_CONNS + i] = (struct pollfd){.fd = shims[i].fd, .events = POLLIN};
	if (poll(p, NR_CONNS + NR_SHIMS, timeout_ms) <= 0)
		return;
	for (unsigned int i = 0; i < NR_CONNS; i++) {
		if (p[i].revents)
			conn_readable_here(i);
	}
	for (unsigned int i = 0; i < NR_SHIMS; i++) {
		if (p[NR_CONNS + i].revents)
			shim_readable_here(&shims[i]);
	}
}

/* Until every request on a connection has its answer. */
static void await(unsigned int i, const char *what)
{
	int64_t until_ms = now_ms() + PATIENCE_MS;

	while (conns[i].fd >= 0 && conns[i].pending) {
		pump(1000);
		must(now_ms() < until_ms, what);
	}
}

static void note(uint64_t *list, unsigned int *nr, uint64_t value)
{
	for (unsigned int i = 0; i < *nr; i++) {
		if (list[i] == value)
			return;
	}
	if (*nr < MAX_NAMES)
		list[(*nr)++] = value;
}

/* Sends len bytes, and whether an answer is due. The process named must be one of ours: what is done
 * to its memory is real. */
static void send_packet(unsigned int i, void *bytes, size_t len, const int *fds, size_t nr_fds)
{
	struct cop_pager_request *q = bytes;

	if (conns[i].fd < 0 || !len)
		return;
	if (len == sizeof(*q) && q->magic == COP_PAGER_MAGIC) {
		if (q->pid && q->pid < 0x70000000)
			q->pid = (uint32_t)(q->pid & 1 ? guest_pid() : zombie);
		if (q->type == COP_PAGER_VM_ADD)
			note(keys, &nr_keys, q->vm);
		if (q->type == COP_PAGER_TEMPLATE_ADD)
			note(names, &nr_names, q->image);
	}
	if (cop_fd_send(conns[i].fd, bytes, len, fds, nr_fds, MSG_DONTWAIT) < 0) {
		conn_close(i); /* it has hung up */
		return;
	}
	if (len == sizeof(*q) && q->magic == COP_PAGER_MAGIC && nr_fds <= COP_PAGER_MAX_FDS)
		conns[i].pending++;
}

static const uint64_t sizes[] = {GUEST_BYTES, COP_PAGER_ALL, 65536, 4096, 0, 4097, COP_PAGER_ALL - 1,
				 1ull << 44 | 4096};

/*
 * type, flags, names (2 bits VM, 2 image, 3 size), more (2 bits pid, 2 domain, 1: wait), then
 * descriptors: 0 those it should have (2 bits more choose), else their number and the kind of each.
 */
static void send_request(struct input *in, unsigned int conn)
{
	static const uint32_t domains[] = {1, 2, 0, 70000};
	struct cop_pager_request q = {.magic = COP_PAGER_MAGIC, .version = COP_PAGER_VERSION};
	int fds[5];
	unsigned int nr = 0, flags, which, more, kinds;

	q.type = take(in) % 17;
	flags = take(in);
	q.flags = flags & 3;
	which = take(in);
	q.vm = which & 3;
	q.image = ids[which >> 2 & 3];
	q.size = sizes[which >> 4 & 7];
	more = take(in);
	q.pid = (more & 3) == 0 ? 1 : (more & 3) == 1 ? 2 : (more & 3) == 2 ? 0 : 0x7ffffff0;
	q.domain = domains[(more >> 2 & 3) ^ (which >> 2 & 1)];
	kinds = take(in);
	if (kinds & 0x80) {
		for (nr = 0; nr < (kinds & 7) && nr < 5; nr++) {
			unsigned int kind = take(in);

			fds[nr] = kind % 16 < NR_FILES ? open_file((enum file)(kind % 16))
						       : new_shim(kind % NR_SHIMS, q.flags & 1);
		}
	} else if (q.type == COP_PAGER_TEMPLATE_ADD) {
		fds[nr++] = open_file(kinds & 4 ? EMPTY_IMAGE : IMAGE);
		cop_close(&images[which >> 2 & 3]);
		images[which >> 2 & 3] = fcntl(fds[0], F_DUPFD_CLOEXEC, 3);
		if (kinds & 3) {
			fds[nr++] = open_file(DISK);
			fds[nr++] = open_file(kinds & 8 ? WRONG_SUMS : SUMS);
		}
		if (kinds & 2)
			fds[nr++] = open_file(FIRST);
	} else if (q.type == COP_PAGER_VM_ADD) {
		fds[nr++] = new_shim(which % NR_SHIMS, q.flags & COP_PAGER_SHARED);
		if (q.flags & COP_PAGER_SHARED) { /* images[2]: the shared one's */
			fds[nr++] = open_file(kinds & 4 ? EMPTY_IMAGE : IMAGE);
			cop_close(&images[2]);
			images[2] = fcntl(fds[1], F_DUPFD_CLOEXEC, 3);
		}
	} else if (q.type == COP_PAGER_LIMIT) {
		q.size = (kinds & 1) ? 4000000000 / 90 * 100 : kinds & 2 ? 1 : 0;
		if (kinds & 4)
			fds[nr++] = open_file(kinds & 8 ? SHORT : NUMBER);
	}
	if (q.type == COP_PAGER_VM_ADD && !(kinds & 0x40))
		q.size = GUEST_BYTES;
	send_packet(conn, &q, sizeof(q), fds, nr);
	while (nr)
		cop_close(&fds[--nr]);
	if (!(more & 0x80))
		await(conn, "a request that isn't answered");
}

/* How many bytes, the bytes, and how many descriptors. */
static void send_bytes(struct input *in, unsigned int conn)
{
	union {
		struct cop_pager_request q;
		uint8_t bytes[80];
	} packet;
	size_t len = take(in) % sizeof(packet);
	unsigned int nr = take(in) % 7, i;
	int fds[6];

	take_bytes(in, packet.bytes, len);
	for (i = 0; i < nr; i++)
		fds[i] = open_file(NOTHING);
	send_packet(conn, packet.bytes, len, fds, nr);
	for (i = 0; i < nr; i++)
		close(fds[i]);
}

/* What the shim says unasked: type, id, error, page, number of pages. */
static void shim_says(struct input *in, struct shim *s)
{
	struct cop_shim_msg m = message(COP_SHIM_DISCARD, s->discard_id++);
	unsigned int type = take(in);
	cop_auto_close int fd = -1;

	if (type & 0x80) {
		m.type = type % 8;
		m.id = take(in);
	}
	m.status = errors[take(in) % 16];
	m.addr = s->addr + take(in) * 4096ul;
	m.len = take(in) * 4096ul;
	if (type & 0x40)
		take_bytes(in, &m.addr, 16);
	if (type & 0x20)
		fd = open_file(NOTHING);
	m.flags = type & 0x10 ? COP_SHIM_LOST : 0;
	say(s, &m, sizeof(m), fd);
}

static void shim_manner(struct input *in, struct shim *s)
{
	unsigned int b = take(in);

	s->attach = b % NR_MANNERS;
	s->replace = b / NR_MANNERS % NR_MANNERS;
	b = take(in);
	s->error = errors[b % 16];
	if (b & 0x80) {
		s->made_up_len = take(in) % sizeof(s->made_up);
		take_bytes(in, s->made_up, s->made_up_len);
	}
}

static void shim_late(struct shim *s, unsigned int how)
{
	struct cop_shim_msg m = message(COP_SHIM_REPLACE, s->late_id);

	if (!s->late_id)
		return;
	m.len = how & 1 ? s->late_nr : how & 2 ? UINT64_MAX : how & 4 ? s->late_nr / 2 : 0;
	m.flags = how & 8 ? COP_SHIM_LOST : 0;
	say(s, &m, sizeof(m), -1);
	s->late_id = 0;
}

/* Discards beyond what a shim may have outstanding: they must not pile up. */
static void shim_floods(struct shim *s)
{
	unsigned int queued = 0;

	for (unsigned int i = 0; i < 200; i++) {
		struct cop_shim_msg m = message(COP_SHIM_DISCARD, 1000 + i);
		struct pollfd p = {.fd = s->fd, .events = POLLOUT};

		if (poll(&p, 1, 10) != 1 || s->fd < 0)
			break;
		m.addr = s->addr;
		m.len = 4096;
		say(s, &m, sizeof(m), -1);
	}
	flooded = true;
	(void)pthread_mutex_lock(&pager.lock);
	for (const struct job *job = pager.urgent; job; job = job->next)
		queued++;
	(void)pthread_mutex_unlock(&pager.lock);
	must(queued <= 4 * COP_SHIM_MAX_DISCARDS, "a shim fills the pager's memory");
}

/* What a pager that was killed has left of a VM: number of entries, each a page and its state. */
static void former_pager(struct input *in, uint64_t key)
{
	static uint8_t page[COP_PAGE_BYTES];
	struct cop_ptab *table;
	unsigned int nr = take(in) % 64;

	note(keys, &nr_keys, key);
	cop_engine_lock(&pager.engine);
	if (vm_by_key(key) || cop_ptab_new(pager.engine.store, key, &table)) {
		cop_engine_unlock(&pager.engine);
		return;
	}
	while (nr--) {
		uint32_t gfn = take(in), record = COP_RECORD_NONE;
		enum cop_page_state state = 1 + take(in) % COP_PAGE_DISCARDED;

		memset(page, (int)gfn, 99);
		if ((state == COP_PAGE_RECORD && cop_store_put(pager.engine.store, pager.engine.encoder,
							       pager.engine.fault_decoder, 1, COP_NO_TEMPLATE,
							       page, 0, &record)) ||
		    cop_ptab_set(table, gfn, state, record))
			break;
	}
	cop_ptab_close(table);
	cop_engine_unlock(&pager.engine);
}

enum op { REQUEST, BYTES, SAYS, MANNER, LATE_ANSWER, FLOOD, SHIM_BYTES, SHIM_GONE, CONN, TOUCH, TICK, GUEST_GONE, FORMER, NR_OPS };

static void operate(struct input *in)
{
	unsigned int op = take(in), which = op / 16;
	struct shim *s = &shims[which % NR_SHIMS];
	uint8_t bytes[64];
	size_t len;

	switch ((enum op)(op % 16 % NR_OPS)) {
	case REQUEST:
		conn_open(which & 1);
		send_request(in, which & 1);
		break;
	case BYTES:
		conn_open(which & 1);
		send_bytes(in, which & 1);
		break;
	case SAYS:
		shim_says(in, s);
		break;
	case MANNER:
		shim_manner(in, s);
		break;
	case LATE_ANSWER:
		shim_late(s, take(in));
		break;
	case FLOOD:
		if (!flooded)
			shim_floods(s);
		break;
	case SHIM_BYTES:
		len = take(in) % sizeof(bytes);
		take_bytes(in, bytes, len);
		if (len)
			say(s, bytes, len, -1);
		break;
	case SHIM_GONE:
		cop_close(&s->fd);
		break;
	case CONN:
		conn_close(which & 1);
		break;
	case TOUCH:
		op = take(in);
		if (s->attached)
			guest_touch(s->nth, op & 63, op & 64);
		break;
	case TICK:
		worker_push(job_new(JOB_TICK, NULL));
		break;
	case FORMER:
		former_pager(in, which & 3 ? which & 3 : 1);
		break;
	default:
		guest_kill();
	}
	pump(0);
}

/* Start and end. */

static void *main_thread(void *unused)
{
	for (;;) {
		pager_loop();
		pager.quit = false; /* a QUIT: here there is always a next one */
	}
	return NULL;
}

static void request_of_ours(struct cop_pager_request q, const char *what)
{
	q.magic = COP_PAGER_MAGIC;
	q.version = COP_PAGER_VERSION;
	send_packet(NR_CONNS - 1, &q, sizeof(q), NULL, 0);
	await(NR_CONNS - 1, what);
}

static void start(void)
{
	pthread_t thread;
	int listen_fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	bool there;

	(void)guest_pid();
	zombie = fork();
	if (zombie == 0)
		_exit(0);
	must(zombie > 0, "a process");
	(void)snprintf(address.sun_path + 1, sizeof(address.sun_path) - 1, "coppice-fuzz-%d", getpid());
	must(listen_fd >= 0 && bind(listen_fd, (struct sockaddr *)&address, sizeof(address)) == 0 &&
		     listen(listen_fd, 8) == 0,
	     "a socket");
	pager.log_level = -1;
	pager.tick_ms = 50;
	pager.access_ms = 100;
	pager.attach_ms = ATTACH_MS;
	pager.replace_ms = REPLACE_MS;
	pager.usage_fd = open_file(NUMBER); /* always one: it has no end */
	must(cop_engine_init(&pager.engine, memfd_create("store", MFD_CLOEXEC), 4 << 20, &there) == 0,
	     "a store");
	must(pager_start(listen_fd) == 0 && pthread_create(&thread, NULL, main_thread, NULL) == 0,
	     "threads");
	for (unsigned int i = 0; i < NR_CONNS; i++)
		conns[i].fd = -1;
	for (unsigned int i = 0; i < NR_SHIMS; i++)
		shims[i].fd = -1;
	for (unsigned int i = 0; i < 4; i++)
		images[i] = -1;
	conn_open(NR_CONNS - 1);
	request_of_ours((struct cop_pager_request){.type = COP_PAGER_HELLO}, "HELLO");
}

/* Whatever was said: the daemon is served. */
static void check_alive(void)
{
	request_of_ours((struct cop_pager_request){.type = COP_PAGER_STATS}, "STATS: the engine's lock is held");
	request_of_ours((struct cop_pager_request){.type = COP_PAGER_TEMPLATE_REMOVE, .image = 99},
			"the worker does nothing else any more");
}

static void clean_up(unsigned int fds_then)
{
	int64_t until_ms = now_ms() + PATIENCE_MS;
	bool left = true;

	for (unsigned int i = 0; i < NR_CONNS - 1; i++) {
		await(i, "a request that isn't answered");
		conn_close(i);
	}
	for (unsigned int i = 0; i < NR_SHIMS; i++)
		cop_close(&shims[i].fd);
	for (unsigned int i = 0; i < nr_keys; i++)
		request_of_ours((struct cop_pager_request){.type = COP_PAGER_VM_REMOVE, .vm = keys[i]},
				"VM_REMOVE");
	for (unsigned int i = 0; i < nr_names;) {
		request_of_ours((struct cop_pager_request){.type = COP_PAGER_TEMPLATE_REMOVE,
							   .image = names[i]},
				"TEMPLATE_REMOVE");
		if (conns[NR_CONNS - 1].last_status == 0)
			i++;
		else
			pump(1); /* the loader has it, or a connection that closes */
		must(now_ms() < until_ms, "a template can't be removed");
	}
	request_of_ours((struct cop_pager_request){.type = COP_PAGER_LIMIT}, "LIMIT");
	for (unsigned int i = 0; i < 4; i++)
		cop_close(&images[i]);
	while (left) {
		left = count_fds() != fds_then;
		must(!left || now_ms() < until_ms, "descriptors are left open, or too many closed");
		if (left)
			pump(1);
	}
	cop_engine_lock(&pager.engine);
	must(!pager.engine.images && !cop_ptab_key(pager.engine.store, 0), "a template or table is left");
	cop_engine_unlock(&pager.engine);
	for (unsigned int i = 0; i < MAX_VMS; i++)
		must(!pager.vms[i], "a VM is left");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct input in = {data, len};
	unsigned int fds_then;

	if (!address.sun_path[1])
		start();
	(void)guest_pid();
	fds_then = count_fds();
	nr_keys = nr_names = 0;
	flooded = false;
	for (unsigned int i = 0; i < NR_SHIMS; i++)
		shims[i] = (struct shim){.fd = -1, .nth = i % GUEST_REGIONS};
	for (int i = 0; i < MAX_OPS && in.left; i++)
		operate(&in);
	check_alive();
	(void)guest_pid();
	clean_up(fds_then);
	return 0;
}
