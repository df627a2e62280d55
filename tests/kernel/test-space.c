/*
 * Spaces against the real kernel: a process with a region, whose threads read and write all the
 * time; another that evicts, restores and discards its pages, and gets killed.
 *
 * The guest checks every page before each write against what it wrote last, so a lost, torn or
 * invented byte ends it with a message. The test's process keeps the userfaultfd, as a shim would.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "kvm-guest.h"
#include "mem/check.h"
#include "mem/image.h"
#include "mem/page.h"
#include "mem/space.h"

#define NR_PAGES    1024u
#define REGION	    ((size_t)NR_PAGES * COP_PAGE_BYTES)
#define NR_WRITERS  3
#define KEY	    7
#define DOMAIN	    3

/* What guest, pager and test share. */
struct shared {
	_Atomic uint64_t turns, discards;
	atomic_bool stop;
	_Atomic uint32_t points[COP_NR_POINTS], late;
	_Atomic uint64_t evicted, restored, rounds;
	uint8_t *region;
	char complaint[200];
	atomic_flag complained;
	atomic_flag busy[NR_PAGES];
	uint32_t gen[NR_PAGES]; /* of a page's bytes */
};

struct request {
	uint32_t id, nr;
	struct cop_space_range ranges[COP_WINDOW_PAGES];
};

static struct shared *shared;
static int control[2]; /* 0: pager's end, 1: guest's */
static int discards[2];
static int uffd_pair[2];
static int image_fd, store_fd, disk_fd, sums_fd;
static bool mode_shared, with_file;
static uint64_t store_bytes;
static bool at_points; /* the pager kills itself, at one point after the other */
static bool under_kvm;
static bool short_of_memory; /* the pager */
static bool slow_guest; /* its answers come late now and then */

static uint64_t mix(uint64_t x)
{
	x ^= x >> 31;
	x *= 0x9e3779b97f4a7c15ull;
	return x ^ x >> 29;
}

static void template_bytes(uint32_t gfn, uint64_t *page)
{
	for (unsigned int i = 0; i < 512; i++)
		page[i] = gfn % 5 == 0 ? 0 : mix(gfn * 77 + i / 3);
}

/* Every eighth content is zeros, another the template's: all page states come up. */
static void page_bytes(uint32_t gfn, uint32_t gen, uint64_t *page)
{
	template_bytes(gfn, page);
	if (gen == 0)
		return;
	if (gen % 8 == 3) {
		memset(page, 0, COP_PAGE_BYTES);
	} else if (gen % 8 != 5) {
		for (unsigned int i = gen % 13; i < 512; i += 1 + gen % 29)
			page[i] = mix((uint64_t)gfn << 32 | gen);
	}
}

static void __attribute__((noreturn, format(printf, 1, 2))) complain(const char *format, ...)
{
	static char text[sizeof(shared->complaint)];
	va_list args;

	va_start(args, format);
	(void)vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	if (!atomic_flag_test_and_set(&shared->complained)) /* the first counts */
		strcpy(shared->complaint, text);
	_exit(1);
}

/* The guest. */

static void check_page(uint32_t gfn, const uint64_t *wanted)
{
	const uint64_t *page = (const uint64_t *)(shared->region + (size_t)gfn * COP_PAGE_BYTES);

	for (unsigned int i = 0; i < 512; i++) {
		if (page[i] != wanted[i])
			complain("page %u, generation %u, word %u: %#lx, not %#lx", gfn,
				 shared->gen[gfn], i, page[i], wanted[i]);
	}
}

static void *writer(void *arg)
{
	uint64_t random = (uintptr_t)arg, bytes[512];

	while (!atomic_load(&shared->stop)) {
		uint32_t gfn;

		random = mix(random + 0x1234567);
		gfn = (uint32_t)(random >> 20) % NR_PAGES;
		if (atomic_flag_test_and_set(&shared->busy[gfn]))
			continue;
		page_bytes(gfn, shared->gen[gfn], bytes);
		check_page(gfn, bytes);
		if (random & 1) {
			shared->gen[gfn]++;
			page_bytes(gfn, shared->gen[gfn], bytes);
			memcpy(shared->region + (size_t)gfn * COP_PAGE_BYTES, bytes, COP_PAGE_BYTES);
		}
		atomic_flag_clear(&shared->busy[gfn]);
		atomic_fetch_add(&shared->turns, 1);
		if (random % 64 == 0)
			(void)usleep(100);
	}
	return NULL;
}

/* Gives pages back now and then, as a balloon would. */
static void *discarder(void *arg)
{
	uint64_t random = 99, zeros[512] = {0};

	while (!atomic_load(&shared->stop)) {
		uint32_t first, nr, got;
		uint32_t ask[2];

		random = mix(random + 1);
		nr = 1 + (uint32_t)(random >> 40) % 20;
		first = (uint32_t)(random >> 10) % (NR_PAGES - nr);
		for (got = 0; got < nr; got++) {
			if (atomic_flag_test_and_set(&shared->busy[first + got]))
				break;
		}
		ask[0] = first;
		ask[1] = got;
		if (got) {
			int status;

			if (send(discards[1], ask, sizeof(ask), 0) < 0 ||
			    recv(discards[1], &status, sizeof(status), 0) != sizeof(status) || status)
				complain("a discard failed");
			atomic_fetch_add(&shared->discards, 1);
		}
		for (uint32_t i = 0; i < got; i++) {
			/* On to a generation whose bytes are zeros. */
			while (shared->gen[first + i] % 8 != 3)
				shared->gen[first + i]++;
			check_page(first + i, zeros);
			atomic_flag_clear(&shared->busy[first + i]);
		}
		(void)usleep(2000);
	}
	return NULL;
}

static void *obey(void *staging)
{
	struct request q;

	while (recv(control[1], &q, sizeof(q), 0) == sizeof(q)) {
		uint32_t answer[2] = {q.id, 0};

		if (slow_guest && mix(q.id) % 8 == 0)
			(void)usleep(20000);
		for (; answer[1] < q.nr; answer[1]++) {
			struct cop_space_range *range = &q.ranges[answer[1]];
			uint8_t *at = shared->region + (size_t)range->first * COP_PAGE_BYTES;
			size_t len = (size_t)range->nr * COP_PAGE_BYTES;

			if (range->to_template ? madvise(at, len, MADV_DONTNEED) < 0
					       : mremap(staging, len, len,
							MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP,
							at) != at)
				complain("cannot replace: %s", strerror(errno));
		}
		if (send(control[1], answer, sizeof(answer), 0) < 0)
			break;
	}
	return NULL;
}

static void send_fd(int socket, int fd)
{
	char space[CMSG_SPACE(sizeof(int))] = {0}, byte = 0;
	struct iovec iov = {&byte, 1};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = space,
			     .msg_controllen = sizeof(space)};
	struct cmsghdr *c = CMSG_FIRSTHDR(&msg);

	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(c), &fd, sizeof(fd));
	if (sendmsg(socket, &msg, 0) < 0)
		complain("cannot pass the userfaultfd");
}

static int recv_fd(int socket)
{
	char space[CMSG_SPACE(sizeof(int))], byte;
	struct iovec iov = {&byte, 1};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = space,
			     .msg_controllen = sizeof(space)};
	int fd = -1;

	if (recvmsg(socket, &msg, MSG_CMSG_CLOEXEC) == 1 && CMSG_FIRSTHDR(&msg))
		memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&msg)), sizeof(fd));
	return fd;
}

/* A processor under KVM in place of the writers. */
static void *processor(void *unused)
{
	static const unsigned int at[] = KVM_GUEST_WORDS;
	static uint64_t words[NR_PAGES * 4];
	uint64_t page[512];
	uint32_t gfn = 0;
	int r;

	for (uint32_t i = 0; i < NR_PAGES; i++) {
		template_bytes(i, page);
		for (unsigned int j = 0; j < 4; j++)
			words[i * 4 + j] = page[at[j]];
	}
	r = kvm_guest_run(shared->region, NR_PAGES, words, &shared->turns, &shared->stop, &gfn);
	if (r == 1)
		complain("KVM: page %u: a wrong word", gfn);
	if (r)
		complain("KVM: %s", strerror(-r));
	for (uint32_t i = 0; i < NR_PAGES; i++) {
		const uint64_t *now = (const uint64_t *)(shared->region + (size_t)i * COP_PAGE_BYTES);

		for (unsigned int j = 0; j < 4; j++) {
			if (now[at[j]] != words[i * 4 + j])
				complain("KVM: page %u, word %u: %#lx, not %#lx", i, at[j], now[at[j]],
					 words[i * 4 + j]);
		}
	}
	return NULL;
}

static void guest(bool discarding)
{
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	struct uffdio_api api = {.api = UFFD_API,
				 .features = UFFD_FEATURE_EVENT_REMAP | UFFD_FEATURE_PAGEFAULT_FLAG_WP |
					     UFFD_FEATURE_WP_HUGETLBFS_SHMEM};
	size_t staging_len = COP_WINDOW_PAGES * COP_PAGE_BYTES;
	void *staging = mmap(NULL, staging_len, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	struct uffdio_register reg = {.range = {(uintptr_t)staging, staging_len}, .mode = 3};
	pthread_t threads[NR_WRITERS + 2];
	unsigned int n = 0;

	shared->region = mmap(NULL, REGION, PROT_READ | PROT_WRITE,
			      (mode_shared ? MAP_SHARED : MAP_PRIVATE) | MAP_NORESERVE, image_fd, 0);
	if (fd < 0 || ioctl(fd, UFFDIO_API, &api) < 0 || ioctl(fd, UFFDIO_REGISTER, &reg) < 0)
		complain("userfaultfd: %s", strerror(errno));
	reg = (struct uffdio_register){.range = {(uintptr_t)shared->region, REGION}, .mode = 1};
	if (!mode_shared && ioctl(fd, UFFDIO_REGISTER, &reg) < 0)
		complain("userfaultfd: %s", strerror(errno));
	send_fd(uffd_pair[1], fd);
	(void)pthread_create(&threads[n++], NULL, obey, staging);
	if (discarding)
		(void)pthread_create(&threads[n++], NULL, discarder, NULL);
	if (under_kvm)
		(void)pthread_create(&threads[n++], NULL, processor, NULL);
	for (uintptr_t i = 0; i < NR_WRITERS && !under_kvm; i++)
		(void)pthread_create(&threads[n++], NULL, writer, (void *)(i + 1));
	for (unsigned int i = 1; i < n; i++)
		(void)pthread_join(threads[i], NULL);
	/* All of it once more, quietly. */
	for (uint32_t gfn = 0; gfn < NR_PAGES && !under_kvm; gfn++) {
		uint64_t bytes[512];

		page_bytes(gfn, shared->gen[gfn], bytes);
		check_page(gfn, bytes);
	}
	_exit(0);
}

/* The pager. Its allocations fail now and then, once it has started, if they are to. */

static _Atomic uint32_t alloc_random;

void *__real_malloc(size_t len);
void *__real_calloc(size_t nr, size_t len);
void *__wrap_malloc(size_t len);
void *__wrap_calloc(size_t nr, size_t len);

static bool alloc_fails(void)
{
	if (!atomic_load(&alloc_random) || mix(atomic_fetch_add(&alloc_random, 1)) % 8)
		return false;
	errno = ENOMEM;
	return true;
}

void *__wrap_malloc(size_t len)
{
	return alloc_fails() ? NULL : __real_malloc(len);
}

void *__wrap_calloc(size_t nr, size_t len)
{
	return alloc_fails() ? NULL : __real_calloc(nr, len);
}

static struct cop_engine engine;
static struct cop_space *space;
static uint32_t late_id;

/* Dies at the point whose turn it is, some times after it came by. */
static void die(enum cop_space_point point)
{
	static _Atomic uint32_t passed;
	uint32_t turn = 0;

	for (unsigned int i = 0; i < COP_NR_POINTS; i++)
		turn += shared->points[i];
	if (atomic_load(&shared->stop) || point != turn % COP_NR_POINTS || atomic_fetch_add(&passed, 1) < turn % 5)
		return;
	atomic_fetch_add(&shared->points[point], 1);
	(void)kill(getpid(), SIGKILL);
}

static int replace(void *ctx, const struct cop_space_range *ranges, unsigned int nr,
		   unsigned int *ret_done)
{
	static uint32_t id;
	struct request q = {.id = ++id << 8 | (getpid() & 0xff), .nr = nr};
	uint32_t answer[2];

	if (nr)
		memcpy(q.ranges, ranges, nr * sizeof(*ranges));
	if (send(control[0], &q, sizeof(q), 0) < 0)
		return -EPIPE;
	*ret_done = 0;
	do {
		struct pollfd p = {.fd = control[0], .events = POLLIN};

		if (slow_guest && nr && poll(&p, 1, 5) == 0) {
			late_id = q.id;
			return -ETIMEDOUT;
		}
		if (recv(control[0], answer, sizeof(answer), 0) != sizeof(answer))
			return -EPIPE;
	} while (answer[0] != q.id); /* one that a killed pager asked for */
	*ret_done = answer[1];
	return 0;
}

static void take_late_answer(void)
{
	uint32_t answer[2];

	do {
		if (recv(control[0], answer, sizeof(answer), 0) != sizeof(answer))
			return;
	} while (answer[0] != late_id);
	cop_space_late_answer(space, answer[1]);
	atomic_fetch_add(&shared->late, 1);
}

/* The guest's end, at the test's end, fails what the pager is just doing. */
static bool ending(void)
{
	return space->state == COP_SPACE_GONE && atomic_load(&shared->stop);
}

static void *serve(void *unused)
{
	struct uffd_msg msg;

	for (;;) {
		struct pollfd p = {.fd = space->uffd, .events = POLLIN};

		(void)poll(&p, 1, -1);
		cop_engine_lock_fault(&engine);
		while (read(space->uffd, &msg, sizeof(msg)) == sizeof(msg)) {
			int r;

			if (msg.event != UFFD_EVENT_PAGEFAULT)
				continue;
			r = cop_space_fault(space, msg.arg.pagefault.address,
					    msg.arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WP);
			if (space->state == COP_SPACE_DAMAGED)
				complain("damaged: %s", space->why);
			if (r == -EAGAIN) {
				struct cop_missing missing = cop_missing;
				struct uffdio_range range = {msg.arg.pagefault.address & ~4095ull, 4096};

				cop_engine_unlock(&engine);
				r = cop_space_load(&engine, missing.image, missing.gfn);
				(void)ioctl(space->uffd, UFFDIO_WAKE, &range);
				cop_engine_lock_fault(&engine);
				if (r)
					complain("cannot load: %s", strerror(-r));
			} else if (r) {
				complain("fault: %s", strerror(-r));
			}
		}
		cop_engine_unlock(&engine);
	}
	return NULL;
}

/* A former pager's request may be in the guest's hands still: once ours, with nothing to do, is
 * answered, it is not. Its REMAP events must be read for that. */
static void *barrier(void *done)
{
	unsigned int n;

	(void)replace(NULL, NULL, 0, &n);
	atomic_store((atomic_bool *)done, true);
	return NULL;
}

static void pager(int uffd, pid_t pid, bool discarding)
{
	struct cop_image *image = NULL;
	atomic_bool done = false;
	uint64_t random = (uint64_t)getpid();
	pthread_t thread;
	struct uffd_msg msg;
	bool found;
	int r;

	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	r = cop_engine_init(&engine, dup(store_fd), store_bytes, &found);
	if (r)
		complain("store: %s", strerror(-r));
	(void)pthread_create(&thread, NULL, barrier, &done);
	while (!atomic_load(&done))
		(void)!read(uffd, &msg, sizeof(msg));
	if (!mode_shared) {
		if (cop_image_new(&engine, 1, DOMAIN, REGION, dup(image_fd), &image))
			complain("image");
		if (with_file && cop_image_set_file(image, dup(disk_fd), dup(sums_fd), -1, false))
			complain("image's file");
	}
	r = cop_space_new(&engine, KEY, pid, dup(uffd), (uintptr_t)shared->region, REGION, image,
			  mode_shared ? dup(image_fd) : -1, DOMAIN, replace, NULL, &space);
	if (r)
		complain("space: %s", strerror(-r));
	if (at_points)
		cop_space_hook = die;
	(void)pthread_create(&thread, NULL, serve, NULL);
	atomic_store(&alloc_random, short_of_memory ? 1 : 0);
	for (;;) {
		uint64_t gone = 0;
		uint32_t ask[2];

		random = mix(random + 1);
		r = cop_space_evict(space, random % 4 ? 200 : NR_PAGES, &gone);
		if (r == -ETIMEDOUT) {
			take_late_answer();
			r = 0;
		}
		if (r && r != -ENOSPC && !(r == -ENOMEM && short_of_memory) && !ending())
			complain("evict: %s; state %d %s", strerror(-r), (int)space->state, space->why);
		if (random % 16 == 0) {
			r = cop_space_restore_all(space);
			if (r && r != -ESRCH && !(r == -ENOMEM && short_of_memory))
				complain("restore: %s", strerror(-r));
		}
		if (with_file && random % 8 == 0) {
			cop_engine_lock(&engine);
			(void)cop_image_trim(image, 1000000, 8, true);
			cop_engine_unlock(&engine);
		}
		while (discarding && recv(discards[0], ask, sizeof(ask), MSG_DONTWAIT) == sizeof(ask)) {
			space->held = random % 3 == 0;
again:
			r = cop_space_discard(space,
					      (uintptr_t)shared->region + (uint64_t)ask[0] * COP_PAGE_BYTES,
					      (uint64_t)ask[1] * COP_PAGE_BYTES);
			if (r == -ETIMEDOUT)
				take_late_answer();
			if (r == -ETIMEDOUT || (r == -ENOMEM && short_of_memory))
				goto again;
			space->held = false;
			(void)!send(discards[0], &r, sizeof(r), 0);
		}
		atomic_fetch_add(&shared->evicted, gone);
		atomic_fetch_add(&shared->rounds, 1);
		if (random % 32 == 0)
			(void)usleep(500);
	}
}

static void make_files(void)
{
	uint64_t page[512], sums[NR_PAGES / COP_CHUNK_PAGES];

	image_fd = memfd_create("image", MFD_CLOEXEC);
	store_fd = memfd_create("store", MFD_CLOEXEC);
	disk_fd = memfd_create("disk", MFD_CLOEXEC);
	sums_fd = memfd_create("sums", MFD_CLOEXEC);
	assert_true(ftruncate(image_fd, REGION) == 0 && ftruncate(disk_fd, REGION) == 0);
	for (uint32_t gfn = 0; gfn < NR_PAGES; gfn++) {
		template_bytes(gfn, page);
		if (gfn % 5 == 0)
			continue; /* holes */
		assert_int_equal(pwrite(disk_fd, page, 4096, (off_t)gfn * 4096), 4096);
		if (!with_file)
			assert_int_equal(pwrite(image_fd, page, 4096, (off_t)gfn * 4096), 4096);
	}
	for (uint32_t i = 0; i < NR_PAGES / COP_CHUNK_PAGES; i++) {
		uint8_t bytes[COP_CHUNK_BYTES];

		assert_int_equal(pread(disk_fd, bytes, sizeof(bytes), (off_t)i * COP_CHUNK_BYTES),
				 sizeof(bytes));
		sums[i] = cop_check(bytes, sizeof(bytes));
	}
	assert_int_equal(pwrite(sums_fd, sums, sizeof(sums), 0), sizeof(sums));
}

/* Has everything happened that is to be tested? */
static bool enough(bool discarding)
{
	bool all = shared->turns > (under_kvm ? 0 : 100) && shared->evicted > 100 &&
		   (!discarding || shared->discards > 3) && (!slow_guest || shared->late > 0);

	for (unsigned int i = 0; at_points && i < COP_NR_POINTS; i++)
		all = all && shared->points[i] > 0;
	return all;
}

enum { AT_POINTS = 1, SLOW_GUEST = 2, TINY_STORE = 4, UNDER_KVM = 8, SHORT_OF_MEMORY = 16 };

/* ThreadSanitizer is after what threads of one process share, and makes a pager's start so slow that none
 * lives to do anything: no kills then. */
#ifdef __SANITIZE_THREAD__
#define WITH_KILLS false
#else
#define WITH_KILLS true
#endif

static void race(bool shared_image, bool file, bool discarding, bool kills, unsigned int flags,
		 unsigned int seconds)
{
	struct timespec begin, now;
	time_t last;
	unsigned int killed = 0;
	pid_t guest_pid, pager_pid;
	bool ended = false;
	int status, uffd;
	uint64_t random = 5;

	at_points = flags & AT_POINTS;
	slow_guest = flags & SLOW_GUEST;
	under_kvm = flags & UNDER_KVM;
	short_of_memory = flags & SHORT_OF_MEMORY;
	store_bytes = flags & TINY_STORE ? 640u << 10 : 32u << 20;
	if (kills && !WITH_KILLS)
		return;
	mode_shared = shared_image;
	with_file = file;
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(shared, MAP_FAILED);
	make_files();
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, control), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, discards), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, uffd_pair), 0);
	guest_pid = fork();
	if (guest_pid == 0) {
		(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
		guest(discarding);
	}
	uffd = recv_fd(uffd_pair[0]);
	assert_true(uffd >= 0);
	pager_pid = fork();
	if (pager_pid == 0)
		pager(uffd, guest_pid, discarding);
	(void)clock_gettime(CLOCK_MONOTONIC, &begin);
	do {
		random = mix(random + 1);
		/* Longer lives, if short ones lead nowhere. */
		(void)usleep(at_points ? 1000
			     : kills   ? 500 + random % (60000 + 2000 * killed)
				       : 20000);
		if (kills) {
			if (!at_points)
				(void)kill(pager_pid, SIGKILL);
			else if (waitpid(pager_pid, NULL, WNOHANG) == 0)
				goto next;
			(void)waitpid(pager_pid, NULL, 0); /* it may have been waited for */
			killed++;
			pager_pid = fork();
			if (pager_pid == 0)
				pager(uffd, guest_pid, discarding);
		}
next:
		(void)clock_gettime(CLOCK_MONOTONIC, &now);
		ended = waitpid(guest_pid, &status, WNOHANG) != 0;
		/* On a slow machine, as under ThreadSanitizer, it takes what it takes. */
		last = begin.tv_sec + (enough(discarding) ? seconds : 20 * seconds + 20);
	} while (now.tv_sec < last && !ended &&
		 (kills || waitpid(pager_pid, NULL, WNOHANG) == 0));
	(void)usleep(50000);
	if (ended || waitpid(guest_pid, &status, WNOHANG) != 0)
		fail_msg("the guest ended, status %#x: %s", status, shared->complaint);
	if (*shared->complaint)
		fail_msg("%s", shared->complaint);
	atomic_store(&shared->stop, true);
	if (at_points) {
		(void)usleep(20000); /* who was about to die has died */
		if (waitpid(pager_pid, NULL, WNOHANG) != 0) {
			pager_pid = fork();
			if (pager_pid == 0)
				pager(uffd, guest_pid, discarding);
		}
	}
	for (int i = 0; i < 2000 && waitpid(guest_pid, &status, WNOHANG) == 0; i++) {
		(void)usleep(10000);
		if (i == 1999) {
			(void)kill(guest_pid, SIGKILL);
			fail_msg("the guest hangs");
		}
	}
	(void)kill(pager_pid, SIGKILL);
	(void)waitpid(pager_pid, NULL, 0);
	if (*shared->complaint)
		fail_msg("%s", shared->complaint);
	print_message("%lu turns, %lu pages evicted in %lu rounds, %lu discards, %u kills\n",
		      (unsigned long)shared->turns, (unsigned long)shared->evicted,
		      (unsigned long)shared->rounds, (unsigned long)shared->discards, killed);
	assert_true(enough(discarding));
	for (int i = 0; i < 2; i++) {
		close(control[i]);
		close(discards[i]);
		close(uffd_pair[i]);
	}
	close(uffd);
	close(image_fd);
	close(store_fd);
	close(disk_fd);
	close(sums_fd);
	munmap(shared, sizeof(*shared));
}

static unsigned int seconds(void)
{
	const char *text = getenv("COPPICE_TEST_SECONDS");

	return text ? (unsigned int)atoi(text) : 2;
}

static void test_private(void **state)
{
	race(false, false, false, false, 0, seconds());
}

static void test_private_loaded(void **state)
{
	race(false, true, true, false, 0, seconds());
}

static void test_shared(void **state)
{
	race(true, false, true, false, 0, seconds());
}

static void test_private_killed(void **state)
{
	race(false, true, false, true, 0, seconds() * 2);
}

static void test_shared_killed(void **state)
{
	race(true, false, false, true, 0, seconds() * 2);
}

static void test_points(void **state)
{
	for (int i = 0; i < 2; i++)
		race(i, !i, false, true, AT_POINTS, seconds());
}

static void test_store_full(void **state)
{
	race(false, true, true, false, TINY_STORE, seconds());
	race(true, false, false, true, TINY_STORE, seconds());
}

static void test_late_answers(void **state)
{
	race(false, true, true, false, SLOW_GUEST, seconds());
}

static void test_short_of_memory(void **state)
{
	race(false, true, true, false, SHORT_OF_MEMORY, seconds());
	race(true, false, true, false, SHORT_OF_MEMORY, seconds());
}

static void test_kvm(void **state)
{
	if (!kvm_guest_possible())
		skip();
	race(false, true, false, false, UNDER_KVM, seconds());
	race(false, true, false, true, UNDER_KVM, seconds());
	race(true, false, false, true, UNDER_KVM, seconds());
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_private),
		cmocka_unit_test(test_private_loaded),
		cmocka_unit_test(test_shared),
		cmocka_unit_test(test_private_killed),
		cmocka_unit_test(test_shared_killed),
		cmocka_unit_test(test_points),
		cmocka_unit_test(test_store_full),
		cmocka_unit_test(test_late_answers),
		cmocka_unit_test(test_short_of_memory),
		cmocka_unit_test(test_kvm),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
