/* memtool: fill memory with a known pattern, keep it, verify it later.
 *
 *   memtool fill MIB SEED   a background process maps MIB MiB and fills it; returns when it is full
 *   memtool check           "ok MIB SEED", or "BAD page N" and exit 1 (N counts 4 KiB pages from 0)
 *   memtool drop            ends the background process
 *
 * Data:    word w of page p is mix(seed, p * 512 + w): no page is like another, none compresses.
 * States:  absent -> resident (fill) -> absent (drop, or the next fill). The resident process owns SOCKET and
 *          answers one request byte a connection ('c' check, 'q' quit) with one line.
 * On failure: a message on standard error, exit 1; 2 for wrong usage.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <fcntl.h>
#include <unistd.h>

#define SOCKET "/run/memtool.sock"
#define PAGE_WORDS 512
#define MIB_PAGES 256

static const struct sockaddr_un address = { .sun_family = AF_UNIX, .sun_path = SOCKET };

static int fail(const char *what)
{
	fprintf(stderr, "memtool: %s: %s\n", what, strerror(errno));
	return 1;
}

/* splitmix64's output function (Steele, Lea, Flood 2014) over a counter that starts at the seed. */
static uint64_t mix(uint64_t seed, uint64_t i)
{
	uint64_t z = seed + (i + 1) * 0x9e3779b97f4a7c15u;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
	return z ^ (z >> 31);
}

static void fill(uint64_t *words, uint64_t nr_pages, uint64_t seed)
{
	for (uint64_t i = 0; i < nr_pages * PAGE_WORDS; i++)
		words[i] = mix(seed, i);
}

/* First page that differs, or nr_pages. */
static uint64_t first_bad(const uint64_t *words, uint64_t nr_pages, uint64_t seed)
{
	for (uint64_t i = 0; i < nr_pages * PAGE_WORDS; i++)
		if (words[i] != mix(seed, i))
			return i / PAGE_WORDS;
	return nr_pages;
}

/* Sends one request to the resident process and copies its answer to `out`. Returns 0 or -errno. */
static int ask(char request, FILE *out, char *ret_first)
{
	char buf[128];
	ssize_t n;
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -errno;
	if (connect(fd, (const struct sockaddr *)&address, sizeof(address)) < 0 || write(fd, &request, 1) != 1) {
		int error = errno;

		close(fd);
		return -error;
	}
	*ret_first = 0;
	while ((n = read(fd, buf, sizeof(buf))) > 0) {
		if (!*ret_first)
			*ret_first = buf[0];
		if (out)
			fwrite(buf, 1, (size_t)n, out);
	}
	close(fd);
	return 0;
}

static void serve(int listener, const uint64_t *words, uint64_t nr_pages, uint64_t seed)
{
	for (;;) {
		char request = 0;
		uint64_t bad;
		int fd = accept(listener, NULL, NULL);

		if (fd < 0)
			continue;
		if (read(fd, &request, 1) == 1 && request == 'c') {
			bad = first_bad(words, nr_pages, seed);
			if (bad < nr_pages)
				dprintf(fd, "BAD page %" PRIu64 "\n", bad);
			else
				dprintf(fd, "ok %" PRIu64 " %" PRIu64 "\n", nr_pages / MIB_PAGES, seed);
		} else if (request == 'q') {
			unlink(SOCKET);
			_exit(0);
		}
		close(fd);
	}
}

/* In the background process; tells the parent over `done` by one byte when memory is full. */
static int resident(uint64_t mib, uint64_t seed, int done)
{
	uint64_t nr_pages = mib * MIB_PAGES;
	int null = open("/dev/null", O_RDWR), listener;
	uint64_t *words;

	words = mmap(NULL, nr_pages * PAGE_WORDS * 8, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (words == MAP_FAILED)
		return fail("map memory");
	fill(words, nr_pages, seed);
	unlink(SOCKET);
	listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (listener < 0 || bind(listener, (const struct sockaddr *)&address, sizeof(address)) < 0 || listen(listener, 8) < 0)
		return fail("listen on " SOCKET);
	if (write(done, "", 1) != 1)
		return fail("report");
	close(done);
	for (int fd = 0; fd < 3; fd++)
		dup2(null, fd);
	serve(listener, words, nr_pages, seed);
	return 0;
}

static int start(uint64_t mib, uint64_t seed)
{
	char first, byte;
	int done[2];
	pid_t pid;

	(void)ask('q', NULL, &first); /* none may be there */
	if (pipe2(done, O_CLOEXEC) < 0)
		return fail("pipe");
	pid = fork();
	if (pid < 0)
		return fail("fork");
	if (pid == 0) {
		close(done[0]);
		setsid();
		_exit(resident(mib, seed, done[1]));
	}
	close(done[1]);
	if (read(done[0], &byte, 1) != 1) {
		fprintf(stderr, "memtool: %" PRIu64 " MiB could not be filled: too little free memory?\n", mib);
		return 1;
	}
	printf("filled %" PRIu64 " %" PRIu64 "\n", mib, seed);
	return 0;
}

/* Parses a decimal number; returns 0 or -EINVAL. */
static int number(const char *text, uint64_t max, uint64_t *ret)
{
	char *end;
	uint64_t value;

	errno = 0;
	value = strtoull(text, &end, 10);
	if (errno || end == text || *end || *text == '-' || value > max)
		return -EINVAL;
	*ret = value;
	return 0;
}

int main(int argc, char **argv)
{
	uint64_t mib, seed;
	char first;

	if (argc == 4 && !strcmp(argv[1], "fill") && !number(argv[2], 1 << 20, &mib) && mib && !number(argv[3], UINT64_MAX, &seed))
		return start(mib, seed);
	if (argc == 2 && (!strcmp(argv[1], "check") || !strcmp(argv[1], "drop"))) {
		errno = -ask(argv[1][0] == 'c' ? 'c' : 'q', stdout, &first);
		if (errno)
			return fail("nothing is resident (memtool fill first)");
		return argv[1][0] == 'c' && first != 'o';
	}
	fputs("usage: memtool fill MIB SEED | check | drop\n", stderr);
	return 2;
}
