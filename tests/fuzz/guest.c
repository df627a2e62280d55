/* guest.c - see guest.h. The process is this program again, which a constructor takes over. */
#include "guest.h"
#include "base/cleanup.h"
#include "base/fd.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define ENV	  "COPPICE_FUZZ_GUEST"
#define CONTROL	  3
#define ANSWER_MS 1000 /* it may wait for a pager that has forgotten it */
#define FEATURES                                                                                   \
	(UFFD_FEATURE_EVENT_REMAP | UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_HUGETLBFS_SHMEM)

struct command {
	enum { MAP, REPLACE, TOUCH } what;
	unsigned int nth, nr;
	bool flag, blocking; /* shared; write */
	struct cop_shim_range ranges[COP_SHIM_MAX_RANGES];
};

struct answer {
	uint64_t addr;
	unsigned int done;
	bool good;
};

/* In the guest. */

static struct {
	uint8_t *base, *staging;
	int uffd;
} regions[GUEST_REGIONS];

static void *toucher(void *arg)
{
	volatile uint8_t *at = (uint8_t *)((uintptr_t)arg & ~1ul);

	if ((uintptr_t)arg & 1)
		at[8]++;
	else
		(void)at[8];
	return NULL;
}

static void touch(const struct command *c)
{
	uintptr_t at = (uintptr_t)regions[c->nth].base + c->nr % GUEST_PAGES * 4096ul;
	pthread_attr_t attr;
	pthread_t thread;

	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	pthread_attr_setstacksize(&attr, 128 << 10);
	if (regions[c->nth].base)
		(void)pthread_create(&thread, &attr, toucher, (void *)(at | c->flag));
	pthread_attr_destroy(&attr);
}

static bool registered(int uffd, void *addr, size_t len, uint64_t mode)
{
	struct uffdio_register r = {.range = {(uintptr_t)addr, len}, .mode = mode};

	return ioctl(uffd, UFFDIO_REGISTER, &r) == 0;
}

static bool map_region(const struct command *c, int image, struct answer *ret_answer)
{
	struct uffdio_api api = {.api = UFFD_API, .features = FEATURES};
	uint8_t *base = regions[c->nth].base, *staging = regions[c->nth].staging;
	struct uffdio_range range = {(uintptr_t)base, GUEST_BYTES};
	int fixed = base ? MAP_FIXED : 0, *uffd = &regions[c->nth].uffd;

	if (base) { /* threads that still wait find the new memory */
		(void)ioctl(*uffd, UFFDIO_UNREGISTER, &range);
		cop_close(uffd);
	}
	base = mmap(base, GUEST_BYTES, PROT_READ | PROT_WRITE,
		    fixed | (c->flag ? MAP_SHARED : MAP_PRIVATE | MAP_NORESERVE), image, 0);
	staging = mmap(staging, COP_SHIM_STAGING_BYTES, PROT_READ | PROT_WRITE,
		       fixed | MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (base == MAP_FAILED || staging == MAP_FAILED)
		return false;
	regions[c->nth].base = base;
	regions[c->nth].staging = staging;
	for (unsigned int i = 0; i < GUEST_PAGES; i += i % 5 ? 1 : 3) {
		if (i % 7 == 0) /* zeros, and what the template has, go without records */
			memset(base + i * 4096ul, 0, 4096);
		else if (i % 7 == 1)
			*(volatile uint8_t *)(base + i * 4096ul) = base[i * 4096ul];
		else
			memset(base + i * 4096ul, (int)i, 2000 + i);
	}
	*uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | (c->blocking ? 0 : O_NONBLOCK));
	ret_answer->addr = (uintptr_t)base;
	return *uffd >= 0 && ioctl(*uffd, UFFDIO_API, &api) == 0 &&
	       registered(*uffd, staging, COP_SHIM_STAGING_BYTES,
			  UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP) &&
	       (c->flag || registered(*uffd, base, GUEST_BYTES, UFFDIO_REGISTER_MODE_MISSING));
}

static bool replace(const struct command *c, unsigned int *ret_done)
{
	for (*ret_done = 0; *ret_done < c->nr; ++*ret_done) {
		const struct cop_shim_range *r = &c->ranges[*ret_done];
		uint64_t offset = r->addr - (uintptr_t)regions[c->nth].base;

		if (offset >= GUEST_BYTES || r->len > GUEST_BYTES - offset || offset % 4096 || r->len % 4096)
			return false; /* the real shim refuses them too */
		if (r->op == COP_SHIM_OP_TEMPLATE) {
			if (madvise((void *)r->addr, r->len, MADV_DONTNEED) < 0)
				return false;
		} else if (mremap(regions[c->nth].staging, r->len, r->len,
				  MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP,
				  (void *)r->addr) == MAP_FAILED) {
			return false;
		}
	}
	return true;
}

__attribute__((constructor)) static void guest_main(void)
{
	struct command c;
	int image;
	size_t nr_fds;

	if (!getenv(ENV))
		return;
	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	while (image = -1, cop_fd_recv(CONTROL, &c, sizeof(c), &image, 1, &nr_fds, 0) == sizeof(c)) {
		struct answer answer = {0};
		bool pass = false;

		if (c.what == MAP)
			pass = answer.good = map_region(&c, image, &answer);
		else if (c.what == REPLACE)
			answer.good = regions[c.nth].base && replace(&c, &answer.done);
		else
			touch(&c);
		cop_close(&image);
		if (c.what != TOUCH)
			(void)cop_fd_send(CONTROL, &answer, sizeof(answer), &regions[c.nth].uffd, pass, 0);
	}
	_exit(0);
}

/* In the fuzzer. */

static struct {
	pid_t pid;
	int control;
} guest = {.control = -1};

extern char **environ;

pid_t guest_pid(void)
{
	posix_spawn_file_actions_t actions;
	char *const argv[] = {(char *)"guest", NULL};
	int pair[2], r;

	if (guest.pid)
		return guest.pid;
	must(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0, "sockets");
	must(pair[1] != CONTROL, "too few descriptors are open"); /* or it would be closed on exec */
	must(posix_spawn_file_actions_init(&actions) == 0 &&
		     posix_spawn_file_actions_adddup2(&actions, pair[1], CONTROL) == 0,
	     "memory");
	(void)setenv(ENV, "1", 1);
	r = posix_spawn(&guest.pid, "/proc/self/exe", &actions, NULL, argv, environ);
	(void)unsetenv(ENV);
	must(r == 0, "a process");
	posix_spawn_file_actions_destroy(&actions);
	close(pair[1]);
	guest.control = pair[0];
	return guest.pid;
}

void guest_kill(void)
{
	if (!guest.pid)
		return;
	(void)kill(guest.pid, SIGKILL);
	(void)waitpid(guest.pid, NULL, 0);
	guest.pid = 0;
	cop_close(&guest.control);
}

static bool call(const struct command *c, int fd, struct answer *ret_answer, int *ret_fd)
{
	size_t nr_fds = 0;

	(void)guest_pid();
	if (cop_fd_send(guest.control, c, sizeof(*c), &fd, fd >= 0, 0) < 0) {
		guest_kill();
		return false;
	}
	if (!ret_answer)
		return true;
	if (!wait_readable(guest.control, ANSWER_MS) ||
	    cop_fd_recv(guest.control, ret_answer, sizeof(*ret_answer), ret_fd, ret_fd ? 1 : 0, &nr_fds,
			0) != sizeof(*ret_answer)) {
		guest_kill();
		return false;
	}
	return ret_answer->good;
}

bool guest_map(unsigned int nth, int image, bool shared, bool blocking, int *ret_uffd,
	       uint64_t *ret_addr)
{
	struct command c = {.what = MAP, .nth = nth, .flag = shared, .blocking = blocking};
	struct answer answer;

	*ret_uffd = -1;
	if (!call(&c, image, &answer, ret_uffd))
		return false;
	*ret_addr = answer.addr;
	return true;
}

bool guest_replace(unsigned int nth, const struct cop_shim_range *ranges, unsigned int nr,
		   unsigned int *ret_done)
{
	struct command c = {.what = REPLACE, .nth = nth, .nr = nr};
	struct answer answer = {0};
	bool good;

	memcpy(c.ranges, ranges, nr * sizeof(*ranges));
	good = call(&c, -1, &answer, NULL);
	*ret_done = answer.done;
	return good;
}

void guest_touch(unsigned int nth, unsigned int page, bool write)
{
	struct command c = {.what = TOUCH, .nth = nth, .nr = page, .flag = write};

	(void)call(&c, -1, NULL, NULL);
}
