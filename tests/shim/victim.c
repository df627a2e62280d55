/* SPDX-License-Identifier: MIT */
/*
 * victim.c: a small program that maps its memory like QEMU does, and does as told on standard
 * input.
 *
 *	victim DUMMY SIZE
 *
 * It is built twice: with 64-bit file offsets, when it imports mmap64 like Debian's QEMU, and
 * without, when it imports mmap. One command a line; every command is answered by one line,
 * "ok ..." or "err ERRNO".
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <signal.h>
#include <unistd.h>

#define PAGE	   4096
#define NR_HAMMERS 3

static unsigned char *ram;
static size_t size;
static int dummy_fd;

struct hammer {
	pthread_t thread;
	unsigned int slot; /* own 8 bytes in every page */
	atomic_ulong rounds;
	bool wrong;
};
static struct hammer hammers[NR_HAMMERS];
static atomic_bool stop;
static bool counting; /* write changing values, not the ones that are there */

/* What the tests put in every page from its 64th byte on. */
static unsigned char pattern(size_t at)
{
	return (unsigned char)(at / PAGE * 7 + at * 13 + 1);
}

/*
 * Touch one word of every page again and again. What was written must be read back in the next
 * round, and the pattern must be there, whatever is mapped underneath meanwhile.
 */
static void *hammer_main(void *argument)
{
	struct hammer *h = argument;
	uint64_t expected = 0;

	while (!stop) {
		uint64_t next = counting ? expected + 1 : 0;

		for (size_t at = 0; at < size; at += PAGE) {
			volatile uint64_t *word = (volatile uint64_t *)(ram + at) + h->slot;
			size_t probe = at + 64 + (h->rounds * 31 + h->slot) % (PAGE - 64);

			if (*word != expected ||
			    ((volatile unsigned char *)ram)[probe] != pattern(probe))
				h->wrong = true;
			*word = next;
		}
		expected = next;
		h->rounds++;
	}
	return NULL;
}

static void *map_like_qemu(void)
{
	/* The reservation is larger than the file, and the file comes on top of it. */
	unsigned char *reserved =
		mmap(NULL, size + 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (reserved == MAP_FAILED)
		return MAP_FAILED;
	return mmap(reserved + PAGE, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, dummy_fd,
		    0);
}

/* Calls that are none of the shim's business must do what libc's do. */
static const char *check_passthrough(void)
{
	unsigned char *p;
	char byte;

	errno = 4711;
	p = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED || errno != 4711)
		return "anonymous mapping";
	p[0] = 1;
	if (madvise(p, PAGE, MADV_DONTNEED) != 0 || p[0] != 0 || errno != 4711)
		return "discard";
	if (munmap(p, PAGE) != 0 || errno != 4711)
		return "munmap";
	if (munmap(p + 1, PAGE) != -1 || errno != EINVAL)
		return "errno of munmap";
	if (madvise(p, PAGE, 12345) != -1 || errno != EINVAL)
		return "errno of madvise";
	errno = 4711;
	if (mmap(NULL, PAGE, PROT_READ, MAP_SHARED, 12345, 0) != MAP_FAILED || errno != EBADF)
		return "errno of a bad descriptor";
	/* As large as the dummy, so that the shim does look at it. */
	if (mmap(NULL, size, PROT_READ, MAP_SHARED, 12345, 0) != MAP_FAILED || errno != EBADF)
		return "errno of a bad descriptor of full size";
	errno = 4711;
	p = mmap(NULL, size, PROT_READ, MAP_PRIVATE, dummy_fd, 0);
	if (p == MAP_FAILED || p[64] != 0 || errno != 4711 || munmap(p, size) != 0)
		return "private mapping of the dummy";
	p = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, dummy_fd, PAGE);
	if (p == MAP_FAILED)
		return "mapping of a part of the dummy";
	p[0] = 'd';
	if (pread(dummy_fd, &byte, 1, PAGE) != 1 || byte != 'd' || munmap(p, PAGE) != 0)
		return "write to a part of the dummy";
	return NULL;
}

static pthread_t discarders[64];

static void *discard_main(void *page)
{
	return madvise(page, PAGE, MADV_DONTNEED) < 0 ? page : NULL;
}

/* As many mappings as the kernel allows. */
static bool fill_mappings(void)
{
	const size_t nr = 200000;
	char *p = mmap(NULL, nr * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1,
		       0);

	if (p == MAP_FAILED)
		return false;
	for (size_t i = 0; i < nr; i += 2) {
		if (mprotect(p + i * PAGE, PAGE, PROT_READ) < 0)
			return errno == ENOMEM;
	}
	return false;
}

static int count_inheritable(void)
{
	int nr = 0;

	for (int fd = 3; fd < 256; fd++) {
		int flags = fcntl(fd, F_GETFD);

		if (flags >= 0 && !(flags & FD_CLOEXEC))
			nr++;
	}
	return nr;
}

static int count_open(void)
{
	int nr = 0;

	for (int fd = 0; fd < 256; fd++)
		nr += fcntl(fd, F_GETFD) >= 0;
	return nr;
}

static void answer(bool good, uintmax_t value)
{
	if (good)
		printf("ok %ju\n", value);
	else
		printf("err %d\n", errno);
	fflush(stdout);
}

int main(int argc, char **argv)
{
	char line[128], verb[32];
	uintmax_t a, b;
	int pair[2];

	if (argc != 3)
		return 2;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	size = strtoull(argv[2], NULL, 10);
	dummy_fd = open(argv[1], O_RDWR | O_CLOEXEC);
	if (dummy_fd < 0)
		return 2;
	while (fgets(line, sizeof(line), stdin)) {
		a = b = 0;
		if (sscanf(line, "%31s %ju %ju", verb, &a, &b) < 1)
			continue;
		errno = 4711;
		if (!strcmp(verb, "map")) {
			void *p = map_like_qemu();

			if (p != MAP_FAILED)
				ram = p;
			answer(p != MAP_FAILED && errno == 4711, (uintptr_t)p);
		} else if (!strcmp(verb, "get")) {
			answer(true, ram[a]);
		} else if (!strcmp(verb, "set")) {
			ram[a] = (unsigned char)b;
			answer(true, b);
		} else if (!strcmp(verb, "advise")) {
			answer(madvise(ram, size, (int)a) == 0 && errno == 4711, 0);
		} else if (!strcmp(verb, "discard")) { /* from page a - 1, b bytes: RAM is at 1 */
			answer(madvise(ram - PAGE + a * PAGE, b, MADV_DONTNEED) == 0 &&
				       errno == 4711,
			       0);
		} else if (!strcmp(verb, "remove")) {
			answer(madvise(ram - PAGE + a * PAGE, b, MADV_REMOVE) == 0 && errno == 4711,
			       0);
		} else if (!strcmp(verb, "discards")) { /* of the first a pages, at the same time */
			for (uintmax_t i = 0; i < a; i++) {
				if (pthread_create(&discarders[i], NULL, discard_main,
						   ram + i * PAGE))
					return 2;
			}
			for (uintmax_t i = 0; i < a; i++) {
				void *failed;

				pthread_join(discarders[i], &failed);
				b += failed != NULL;
			}
			answer(true, b);
		} else if (!strcmp(verb, "kget")) { /* the kernel reads, not this program */
			unsigned char byte = 0;

			if (pipe(pair) < 0 || write(pair[1], ram + a, 1) != 1 ||
			    read(pair[0], &byte, 1) != 1)
				return 2;
			close(pair[0]);
			close(pair[1]);
			answer(true, byte);
		} else if (!strcmp(verb, "fill")) {
			answer(fill_mappings(), 0);
		} else if (!strcmp(verb, "limit")) { /* no more address space */
			struct rlimit limit = {1 << 20, RLIM_INFINITY};

			answer(setrlimit(RLIMIT_AS, &limit) == 0, 0);
		} else if (!strcmp(verb, "unmap")) {
			answer(munmap(ram - PAGE, size + 2 * PAGE) == 0 && errno == 4711, 0);
		} else if (!strcmp(verb, "hammer")) {
			counting = a;
			for (unsigned int i = 0; i < NR_HAMMERS; i++) {
				hammers[i].slot = i;
				if (pthread_create(&hammers[i].thread, NULL, hammer_main,
						   &hammers[i]))
					return 2;
			}
			answer(true, 0);
		} else if (!strcmp(verb, "rounds")) {
			uintmax_t least = UINTMAX_MAX;

			for (unsigned int i = 0; i < NR_HAMMERS; i++)
				least = hammers[i].rounds < least ? hammers[i].rounds : least;
			answer(true, least);
		} else if (!strcmp(verb, "rest")) {
			uintmax_t wrong = 0;

			stop = true;
			for (unsigned int i = 0; i < NR_HAMMERS; i++) {
				pthread_join(hammers[i].thread, NULL);
				wrong += hammers[i].wrong;
			}
			answer(true, wrong);
		} else if (!strcmp(verb, "passthrough")) {
			const char *what = check_passthrough();

			if (what)
				printf("err passthrough: %s, errno %d\n", what, errno);
			else
				puts("ok 0");
			fflush(stdout);
		} else if (!strcmp(verb, "inheritable")) {
			answer(true, (uintmax_t)count_inheritable());
		} else if (!strcmp(verb, "open")) {
			answer(true, (uintmax_t)count_open());
		} else if (!strcmp(verb, "env")) {
			answer(true, getenv("COPPICE_SHIM") || getenv("LD_PRELOAD"));
		} else if (!strcmp(verb, "setuid")) {
			/* libc does this in all threads, by a signal that must not be blocked. */
			answer(setresuid((uid_t)a, (uid_t)a, (uid_t)a) == 0, 0);
		} else {
			return 2;
		}
	}
	return 0;
}
