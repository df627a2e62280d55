/*
 * paging-bench.c - pages leave a process and come back, by the pager's code and by the kernel's
 * swap to zram, in the same run.
 *
 * Usage: paging-bench [--pages FILE --template FILE] [--generate KIND] [--count N] [--rounds N]
 * [--zram ALGORITHM|none] [--spin US] [--json]
 *
 * FILEs as store-bench's. Without them pages are generated (pagegen.h). Pages of zeros and pages
 * equal to the template's are measured in any case, each alone; others without those.
 *
 * This process is the guest: a region mapped private over a template's image, in runs of RUN pages
 * with some untouched ones between them, a thread that does what the shim does, and one that
 * touches. A child is the pager: src/mem with the loop of src/pager/fault.c. A round: write all
 * pages, evict all; touch every run in order; write, evict; touch single pages far apart, in random
 * order. Each figure is the median of the rounds, with the smallest and largest.
 *
 * The same is then done with ordinary memory, MADV_PAGEOUT and a zram of its own, which needs root;
 * it is gone in the end. Other memory of the machine is not paged out by that, as long as some is
 * free. Without zram a reference takes its place: a fault on new memory plus LZ4's decoding.
 *
 * Where there is KVM a guest of a few instructions touches the pages too, and takes the time
 * itself.
 *
 * --spin: the pager looks for the next fault that long before it sleeps. An experiment.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/swap.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <lz4.h>
#include <zstd.h>

#include "mem/image.h"
#include "mem/page.h"
#include "mem/space.h"
#include "kvm-touch.h"
#include "pagegen.h"

#define RUN	    64u	    /* pages that are cold together */
#define BLOCK	    72u	    /* with the untouched ones that follow */
#define STEP	    16u	    /* single pages touched are that far apart at least */
#define PAUSE_NS    100000u /* of computing, between two touches: all sleep again */
#define MAX_ROUNDS  64
#define DOMAIN	    1
#define PAGE_RECORD 4104u
#define TMPL_RECORD 4100u
#define ZRAM_BYTES  (512ull << 20)

/* One region's worth of pages, and the template's below them. */
struct input {
	char name[16];
	uint8_t *pages, *tmpl; /* nr_runs * RUN of each */
	uint32_t nr_runs;
};

struct spread {
	double median, min, max;
};

struct single {
	uint64_t t0, t1;       /* the guest's: before the touch, after */
	uint64_t up, got, put; /* the pager's: awake, event read, page there */
};

struct side {
	bool there;
	struct spread out_core, out_wall; /* pages a second */
	struct spread run;		  /* ns a page */
	uint32_t one_p50, one_p99;	  /* ns */
	struct spread kvm_run;		  /* the same under KVM */
	uint32_t kvm_p50, kvm_p99;
	uint32_t parts[4]; /* ns, medians */
};

struct result {
	struct side own, zram;
	struct spread shim; /* ns of CPU a page, in the VM's process */
	uint32_t lz4_ns, fault_ns;
};

enum command { EVICT, QUIT };

struct answer {
	int status;
	uint64_t pages, wall_ns, cpu_ns;
};

struct replacement {
	uint32_t nr;
	struct cop_space_range ranges[COP_WINDOW_PAGES];
};

/* What the processes share. */
struct shared {
	_Atomic uint64_t up, got, put; /* of the last fault */
	_Atomic uint64_t shim_ns;
};

static struct shared *shared;
static unsigned int rounds = 7, spin_us;
static const char *algorithm = "lz4";
static char zram_reason[160];
static int zram_id = -1;
static char zram_dev[32];
static bool swapping;
static int kvm_error;
static double ticks_per_ns;
static pid_t pager_pid;

static void die(const char *what, const char *why)
{
	fprintf(stderr, "paging-bench: %s: %s\n", what, why);
	exit(1);
}

static void *must(void *p)
{
	if (!p || p == MAP_FAILED)
		die("memory", "exhausted");
	return p;
}

static uint64_t ns_of(clockid_t clock)
{
	struct timespec t;

	(void)clock_gettime(clock, &t); /* can't fail */
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint64_t now_ns(void)
{
	return ns_of(CLOCK_MONOTONIC);
}

static void compute(uint64_t ns)
{
	uint64_t end = now_ns() + ns;

	while (now_ns() < end)
		;
}

static void measure_ticks(void)
{
	uint64_t ns = now_ns(), ticks = __builtin_ia32_rdtsc();

	compute(50000000);
	ticks = __builtin_ia32_rdtsc() - ticks;
	ticks_per_ns = (double)ticks / (double)(now_ns() - ns);
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double quantile(double *v, size_t n, unsigned int percent)
{
	qsort(v, n, sizeof(*v), by_value);
	return n ? v[(n - 1) * percent / 100] : 0;
}

static struct spread spread_of(double *v, size_t n)
{
	double median = quantile(v, n, 50);

	return n ? (struct spread){median, v[0], v[n - 1]} : (struct spread){0};
}

/* Pages. */

static uint8_t *read_zstd(const char *name, size_t *ret_len)
{
	static uint8_t buf[1 << 16];
	size_t room = 1 << 20, len = 0, n;
	uint8_t *out = must(malloc(room));
	ZSTD_DStream *z = must(ZSTD_createDStream());
	FILE *f = fopen(name, "rb");

	if (!f)
		die(name, strerror(errno));
	while ((n = fread(buf, 1, sizeof(buf), f)) > 0) {
		ZSTD_inBuffer ib = {buf, n, 0};

		while (ib.pos < ib.size) {
			ZSTD_outBuffer ob = {out, room, len};
			size_t r = ZSTD_decompressStream(z, &ob, &ib);

			if (ZSTD_isError(r))
				die(name, ZSTD_getErrorName(r));
			len = ob.pos;
			if (len == room)
				out = must(realloc(out, room *= 2));
		}
	}
	fclose(f);
	ZSTD_freeDStream(z);
	*ret_len = len;
	return out;
}

static void input_new(struct input *in, const char *name, uint32_t room)
{
	(void)snprintf(in->name, sizeof(in->name), "%s", name);
	in->pages = must(calloc(room, COP_PAGE_BYTES));
	in->tmpl = must(calloc(room, COP_PAGE_BYTES));
	in->nr_runs = room / RUN;
}

/* Those that are neither zeros nor the template's, in the file's order. */
static void read_corpus(struct input *in, const char *pages, const char *tmpl)
{
	size_t len, tmpl_len, n = 0;
	uint8_t *p = read_zstd(pages, &len), *t = read_zstd(tmpl, &tmpl_len);

	input_new(in, "corpus", (uint32_t)(len / PAGE_RECORD));
	for (size_t i = 0; i < len / PAGE_RECORD; i++) {
		const uint8_t *page = p + i * PAGE_RECORD + 8;
		uint8_t *below = in->tmpl + n * COP_PAGE_BYTES;

		memset(below, 0, COP_PAGE_BYTES);
		for (size_t k = 0; k < tmpl_len / TMPL_RECORD; k++) {
			if (cop_load32(t + k * TMPL_RECORD) == cop_load32(page - 4))
				memcpy(below, t + k * TMPL_RECORD + 4, COP_PAGE_BYTES);
		}
		if (cop_page_is_zero(page) || cop_page_equal(page, below))
			continue;
		memcpy(in->pages + n++ * COP_PAGE_BYTES, page, COP_PAGE_BYTES);
	}
	in->nr_runs = (uint32_t)n / RUN;
	free(p);
	free(t);
	if (!in->nr_runs)
		die(pages, "too few pages");
}

static void generate(struct input *in, const char *name, uint32_t count)
{
	uint32_t kind = 0, nr = 0, n = 0;

	input_new(in, name, count);
	while (kind < COP_NR_PAGE_KINDS && strcmp(name, cop_page_kind_names[kind]))
		kind++;
	if (kind == COP_NR_PAGE_KINDS && strcmp(name, "zero") && strcmp(name, "same"))
		die(name, "no such kind of pages");
	while (n < in->nr_runs * RUN) {
		uint8_t *page = in->pages + (size_t)n * COP_PAGE_BYTES;
		uint8_t *tmpl = in->tmpl + (size_t)n * COP_PAGE_BYTES;

		if (kind < COP_NR_PAGE_KINDS) {
			cop_pagegen(kind, 1, nr++, page, tmpl);
			n += !cop_page_is_zero(page) && !cop_page_equal(page, tmpl);
			continue;
		}
		cop_pagegen(COP_PAGES_HEAP, 1, nr++, tmpl, page);
		if (!strcmp(name, "same"))
			memcpy(page, tmpl, COP_PAGE_BYTES);
		else
			memset(page, 0, COP_PAGE_BYTES);
		n++;
	}
}

static uint32_t place(uint32_t i)
{
	return i / RUN * BLOCK + i % RUN;
}

/* The pager. */

static struct cop_engine engine;
static struct cop_space *space;
static bool first_copy; /* of the fault being served */

static void copied(enum cop_space_point point)
{
	if (point == COP_POINT_COPIED && first_copy) {
		first_copy = false;
		atomic_store(&shared->put, now_ns());
	}
}

static void serve(uint64_t up)
{
	struct uffd_msg msgs[16];
	ssize_t n;

	cop_engine_lock_fault(&engine);
	n = read(space->uffd, msgs, sizeof(msgs));
	for (ssize_t i = 0; i < n / (ssize_t)sizeof(msgs[0]); i++) {
		if (msgs[i].event != UFFD_EVENT_PAGEFAULT)
			continue;
		atomic_store(&shared->up, up);
		atomic_store(&shared->got, now_ns());
		first_copy = true;
		if (cop_space_fault(space, msgs[i].arg.pagefault.address,
				    msgs[i].arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WP) ||
		    space->state != COP_SPACE_RUNNING)
			die("fault", *space->why ? space->why : "not served");
	}
	cop_engine_unlock(&engine);
}

static void *fault_thread(void *unused)
{
	struct epoll_event event = {.events = EPOLLIN};
	int epoll = epoll_create1(EPOLL_CLOEXEC);

	if (epoll < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, space->uffd, &event) < 0)
		die("epoll", strerror(errno));
	for (;;) {
		uint64_t until = now_ns() + spin_us * 1000u;
		int n;

		do {
			n = epoll_wait(epoll, &event, 1, 0);
		} while (spin_us && n == 0 && now_ns() < until);
		if (n == 0)
			n = epoll_wait(epoll, &event, 1, -1);
		if (n > 0)
			serve(now_ns());
	}
	return NULL;
}

static int replace(void *ctx, const struct cop_space_range *ranges, unsigned int nr,
		   unsigned int *ret_done)
{
	int socket = *(int *)ctx;
	struct replacement r = {.nr = nr};

	memcpy(r.ranges, ranges, nr * sizeof(*ranges));
	if (send(socket, &r, sizeof(r), 0) < 0 ||
	    recv(socket, ret_done, sizeof(*ret_done), 0) != sizeof(*ret_done))
		return -EPIPE;
	return 0;
}

static void __attribute__((noreturn))
pager(int commands, int shim, pid_t guest, int uffd, int image_fd, uint8_t *region, size_t len)
{
	struct cop_image *image;
	enum command command;
	pthread_t thread;
	bool found;

	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (cop_engine_init(&engine, memfd_create("store", MFD_CLOEXEC), 256u << 20, &found) ||
	    cop_image_new(&engine, 1, DOMAIN, len, image_fd, &image) ||
	    cop_space_new(&engine, 1, guest, uffd, (uintptr_t)region, len, image, -1, DOMAIN,
			  replace, &shim, &space))
		die("pager", "cannot start");
	cop_space_hook = copied;
	if (pthread_create(&thread, NULL, fault_thread, NULL))
		die("pager", "no thread");
	while (recv(commands, &command, sizeof(command), 0) == sizeof(command) &&
	       command == EVICT) {
		uint64_t wall = now_ns(), cpu = ns_of(CLOCK_PROCESS_CPUTIME_ID);
		struct answer a = {0};

		a.status = cop_space_evict(space, space->nr_pages, &a.pages);
		a.wall_ns = now_ns() - wall;
		a.cpu_ns = ns_of(CLOCK_PROCESS_CPUTIME_ID) - cpu;
		if (send(commands, &a, sizeof(a), 0) < 0)
			break;
	}
	_exit(0);
}

/* The guest. */

struct guest {
	const struct input *in;
	uint8_t *region;
	size_t len;
	int shim[2], commands[2]; /* 0: the pager's end */
	void *staging;
	uint32_t *order; /* of the touches */
	uint64_t random;
};

static void *shim_thread(void *arg)
{
	struct guest *g = arg;
	struct replacement r;

	while (recv(g->shim[1], &r, sizeof(r), 0) > 0) {
		unsigned int done = 0;

		for (; done < r.nr; done++) {
			struct cop_space_range *range = &r.ranges[done];
			uint8_t *at = g->region + (size_t)range->first * COP_PAGE_BYTES;
			size_t len = (size_t)range->nr * COP_PAGE_BYTES;

			if (range->to_template
				    ? madvise(at, len, MADV_DONTNEED) < 0
				    : mremap(g->staging, len, len,
					     MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP,
					     at) != at)
				die("replace", strerror(errno));
		}
		atomic_store(&shared->shim_ns, ns_of(CLOCK_THREAD_CPUTIME_ID));
		if (send(g->shim[1], &done, sizeof(done), 0) < 0)
			break;
	}
	return NULL;
}

static void fill(struct guest *g)
{
	for (uint32_t i = 0; i < g->in->nr_runs * RUN; i++)
		memcpy(g->region + (size_t)place(i) * COP_PAGE_BYTES,
		       g->in->pages + (size_t)i * COP_PAGE_BYTES, COP_PAGE_BYTES);
}

static void verify(struct guest *g)
{
	for (uint32_t i = 0; i < g->in->nr_runs * RUN; i++) {
		if (memcmp(g->region + (size_t)place(i) * COP_PAGE_BYTES,
			   g->in->pages + (size_t)i * COP_PAGE_BYTES, COP_PAGE_BYTES))
			die(g->in->name, "WRONG BYTES");
	}
}

static void shuffle(struct guest *g, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		g->order[i] = i;
	for (uint32_t i = n; i > 1; i--) {
		uint32_t j = cop_random_below(&g->random, i), x = g->order[i - 1];

		g->order[i - 1] = g->order[j];
		g->order[j] = x;
	}
}

static void touch(const uint8_t *at)
{
	(void)*(const volatile uint8_t *)at;
}

/* The median over all runs, ns a page. */
static double touch_runs(struct guest *g)
{
	uint32_t nr = g->in->nr_runs;
	double *t = must(malloc(nr * sizeof(*t))), median;

	shuffle(g, nr);
	for (uint32_t i = 0; i < nr; i++) {
		const uint8_t *run = g->region + (size_t)g->order[i] * BLOCK * COP_PAGE_BYTES;
		uint64_t start;

		compute(PAUSE_NS);
		start = now_ns();
		for (uint32_t k = 0; k < RUN; k++)
			touch(run + (size_t)k * COP_PAGE_BYTES);
		t[i] = (double)(now_ns() - start) / RUN;
	}
	median = quantile(t, nr, 50);
	free(t);
	return median;
}

/* Returns how many. */
static uint32_t touch_singles(struct guest *g, struct single *ret)
{
	uint32_t nr = g->in->nr_runs * (RUN / STEP);

	shuffle(g, nr);
	for (uint32_t i = 0; i < nr; i++) {
		const uint8_t *at = g->region + (size_t)place(g->order[i] * STEP) * COP_PAGE_BYTES;

		compute(PAUSE_NS);
		ret[i].t0 = now_ns();
		touch(at);
		ret[i].t1 = now_ns();
		compute(PAUSE_NS); /* the pager brings more */
		ret[i].up = atomic_load(&shared->up);
		ret[i].got = atomic_load(&shared->got);
		ret[i].put = atomic_load(&shared->put);
	}
	return nr;
}

/* Under KVM: the region evicted, then its runs or single pages touched by a guest. ns a page. */
static uint32_t touch_kvm(struct guest *g, bool singles, double *ret_ns)
{
	uint32_t n = 0, nr = singles ? g->in->nr_runs * (RUN / STEP) : g->in->nr_runs;
	struct kvm_touch *kvm;
	uint64_t ticks;

	if (!kvm_error)
		kvm_error = kvm_touch_new(g->region, g->len, &kvm);
	if (kvm_error)
		return 0;
	/* A first entry costs more; this page is never evicted. */
	kvm_error = kvm_touch_pages(kvm, (uint64_t)RUN * COP_PAGE_BYTES, 1, &ticks);
	shuffle(g, nr);
	while (n < nr && !kvm_error) {
		uint32_t gfn = singles ? place(g->order[n] * STEP) : g->order[n] * BLOCK;

		compute(PAUSE_NS);
		kvm_error = kvm_touch_pages(kvm, (uint64_t)gfn * COP_PAGE_BYTES, singles ? 1 : RUN,
					    &ticks);
		ret_ns[n++] = (double)ticks / ticks_per_ns / (singles ? 1 : RUN);
		if (singles)
			compute(PAUSE_NS); /* the pager brings more */
	}
	kvm_touch_free(kvm);
	return kvm_error ? 0 : n;
}

/* All of it anew: out(g) has everything leave. */
static void run_kvm(struct guest *g, void (*out)(struct guest *), struct side *ret)
{
	uint32_t nr = g->in->nr_runs * (RUN / STEP);
	double *ones = must(calloc((size_t)rounds * nr, sizeof(*ones))), run[MAX_ROUNDS];
	size_t n = 0;

	for (unsigned int i = 0; i < 2 * rounds && !kvm_error; i++) {
		fill(g);
		out(g);
		if (i % 2) {
			n += touch_kvm(g, true, ones + n);
		} else {
			uint32_t k = touch_kvm(g, false, ones + n);

			run[i / 2] = quantile(ones + n, k, 50);
		}
		verify(g);
	}
	if (!kvm_error) {
		ret->kvm_run = spread_of(run, rounds);
		ret->kvm_p50 = (uint32_t)quantile(ones, n, 50);
		ret->kvm_p99 = (uint32_t)quantile(ones, n, 99);
	}
	free(ones);
}

static void sum_up_singles(struct side *side, const struct single *s, size_t nr)
{
	double *v = must(malloc(nr * sizeof(*v)));

	for (size_t i = 0; i < nr; i++)
		v[i] = (double)(s[i].t1 - s[i].t0);
	side->one_p50 = (uint32_t)quantile(v, nr, 50);
	side->one_p99 = (uint32_t)quantile(v, nr, 99);
	for (unsigned int part = 0; part < 4; part++) {
		size_t n = 0;

		for (size_t i = 0; i < nr; i++) {
			const uint64_t at[5] = {s[i].t0, s[i].up, s[i].got, s[i].put, s[i].t1};

			if (s[i].up < s[i].t0 || s[i].put < s[i].got)
				continue; /* the pager had nothing to do with it */
			v[n++] = (double)(int64_t)(at[part + 1] - at[part]);
		}
		side->parts[part] = quantile(v, n, 50) > 0 ? (uint32_t)quantile(v, n, 50) : 0;
	}
	free(v);
}

static struct answer evict(struct guest *g)
{
	enum command command = EVICT;
	struct answer a;

	if (send(g->commands[1], &command, sizeof(command), 0) < 0 ||
	    recv(g->commands[1], &a, sizeof(a), 0) != sizeof(a))
		die("pager", "it ended");
	if (a.status || a.pages < g->in->nr_runs * RUN)
		die("evict", a.status ? strerror(-a.status) : "too few pages");
	return a;
}

static void evict_all(struct guest *g)
{
	(void)evict(g);
}

static int make_uffd(struct guest *g)
{
	struct uffdio_api api = {.api = UFFD_API,
				 .features = UFFD_FEATURE_EVENT_REMAP |
					     UFFD_FEATURE_PAGEFAULT_FLAG_WP |
					     UFFD_FEATURE_WP_HUGETLBFS_SHMEM};
	size_t staging_len = COP_WINDOW_PAGES * COP_PAGE_BYTES;
	struct uffdio_register staging, region;
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

	g->staging = must(mmap(NULL, staging_len, PROT_READ | PROT_WRITE,
			       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
	staging = (struct uffdio_register){.range = {(uintptr_t)g->staging, staging_len},
					   .mode = UFFDIO_REGISTER_MODE_MISSING |
						   UFFDIO_REGISTER_MODE_WP};
	region = (struct uffdio_register){.range = {(uintptr_t)g->region, g->len},
					  .mode = UFFDIO_REGISTER_MODE_MISSING};
	if (fd < 0 || ioctl(fd, UFFDIO_API, &api) < 0 || ioctl(fd, UFFDIO_REGISTER, &staging) < 0 ||
	    ioctl(fd, UFFDIO_REGISTER, &region) < 0)
		die("userfaultfd", strerror(errno));
	return fd;
}

static void run_own(struct guest *g, struct result *ret)
{
	double core[2 * MAX_ROUNDS], wall[2 * MAX_ROUNDS], shim[2 * MAX_ROUNDS], run[MAX_ROUNDS];
	struct single *singles =
		must(calloc((size_t)rounds * g->in->nr_runs * (RUN / STEP), sizeof(*singles)));
	int image_fd = memfd_create("image", MFD_CLOEXEC), uffd;
	enum command quit = QUIT;
	pthread_t thread;
	size_t n = 0;

	atomic_store(&shared->shim_ns, 0);
	if (image_fd < 0 || ftruncate(image_fd, (off_t)g->len) < 0)
		die("image", strerror(errno));
	for (uint32_t i = 0; i < g->in->nr_runs * RUN; i++) {
		if (pwrite(image_fd, g->in->tmpl + (size_t)i * COP_PAGE_BYTES, COP_PAGE_BYTES,
			   (off_t)place(i) * COP_PAGE_BYTES) != COP_PAGE_BYTES)
			die("image", strerror(errno));
	}
	g->region = must(mmap(NULL, g->len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE,
			      image_fd, 0));
	if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, g->shim) < 0 ||
	    socketpair(AF_UNIX, SOCK_SEQPACKET, 0, g->commands) < 0)
		die("sockets", strerror(errno));
	uffd = make_uffd(g);
	pager_pid = fork();
	if (pager_pid < 0)
		die("pager", strerror(errno));
	if (pager_pid == 0)
		pager(g->commands[0], g->shim[0], getppid(), uffd, image_fd, g->region, g->len);
	(void)prctl(PR_SET_PTRACER,
		    pager_pid); /* it reads this memory; fails where nothing hinders it */
	close(uffd);
	close(image_fd);
	close(g->shim[0]);
	close(g->commands[0]);
	if (pthread_create(&thread, NULL, shim_thread, g))
		die("shim", "no thread");
	for (unsigned int i = 0; i < rounds; i++) {
		for (int second = 0; second < 2; second++) {
			uint64_t before = atomic_load(&shared->shim_ns), shim_ns;
			struct answer a;

			fill(g);
			a = evict(g);
			shim_ns = atomic_load(&shared->shim_ns) - before;
			/* The first one registers, and makes the mappings. */
			core[2 * i + second] = (double)a.pages * 1e9 / (double)(a.cpu_ns + shim_ns);
			wall[2 * i + second] = (double)a.pages * 1e9 / (double)a.wall_ns;
			shim[2 * i + second] = (double)shim_ns / (double)a.pages;
			if (second)
				n += touch_singles(g, singles + n);
			else
				run[i] = touch_runs(g);
			verify(g);
		}
	}
	ret->own.there = true;
	ret->own.out_core = spread_of(core, 2 * rounds);
	ret->own.out_wall = spread_of(wall, 2 * rounds);
	ret->own.run = spread_of(run, rounds);
	ret->shim = spread_of(shim, 2 * rounds);
	sum_up_singles(&ret->own, singles, n);
	run_kvm(g, evict_all, &ret->own);
	free(singles);
	munmap(g->region, g->len);
	(void)send(g->commands[1], &quit, sizeof(quit), 0);
	(void)waitpid(pager_pid, NULL, 0);
	close(g->commands[1]);
	(void)pthread_join(thread, NULL); /* its peer is gone */
	close(g->shim[1]);
	munmap(g->staging, COP_WINDOW_PAGES * COP_PAGE_BYTES);
}

/* zram. */

static bool write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	bool ok = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);

	if (fd >= 0)
		close(fd);
	return ok;
}

static bool zram_set(const char *name, const char *text)
{
	char path[64];

	(void)snprintf(path, sizeof(path), "/sys/block/zram%d/%s", zram_id, name);
	return write_file(path, text);
}

static void zram_gone(void)
{
	char text[16];

	if (zram_id < 0)
		return;
	if (swapping)
		(void)swapoff(zram_dev);
	(void)zram_set("reset", "1");
	(void)snprintf(text, sizeof(text), "%d", zram_id);
	(void)write_file("/sys/class/zram-control/hot_remove", text);
	zram_id = -1;
}

static void ended(int sig)
{
	zram_gone();
	_exit(128 + sig);
}

static bool zram_lacks(const char *what)
{
	(void)snprintf(zram_reason, sizeof(zram_reason), "%s: %s", what, strerror(errno));
	zram_gone();
	return false;
}

/* The header of a swap area: mkswap(8), include/linux/swap.h. */
static bool write_swap_header(int fd)
{
	static uint8_t page[COP_PAGE_BYTES];

	cop_store32(page + 1024, 1);
	cop_store32(page + 1028, (uint32_t)(ZRAM_BYTES / COP_PAGE_BYTES) - 1);
	memcpy(page + COP_PAGE_BYTES - 10, "SWAPSPACE2", 10);
	return pwrite(fd, page, sizeof(page), 0) == sizeof(page) && fsync(fd) == 0;
}

static bool zram_there(void)
{
	char text[32] = "";
	int fd = open("/sys/class/zram-control/hot_add", O_RDONLY | O_CLOEXEC);
	bool ok = fd >= 0 && read(fd, text, sizeof(text) - 1) > 0;

	if (fd >= 0)
		close(fd);
	if (!ok)
		return zram_lacks("/sys/class/zram-control/hot_add");
	zram_id = atoi(text);
	(void)snprintf(zram_dev, sizeof(zram_dev), "/dev/zram%d", zram_id);
	if (!zram_set("comp_algorithm", algorithm))
		return zram_lacks(algorithm);
	(void)snprintf(text, sizeof(text), "%llu", ZRAM_BYTES);
	if (!zram_set("disksize", text))
		return zram_lacks("disksize");
	for (int i = 0; i < 200 && access(zram_dev, W_OK) < 0; i++)
		(void)usleep(10000);
	fd = open(zram_dev, O_RDWR | O_CLOEXEC);
	ok = fd >= 0 && write_swap_header(fd);
	if (fd >= 0)
		close(fd);
	if (!ok || swapon(zram_dev, 0) < 0)
		return zram_lacks(zram_dev);
	swapping = true;
	return true;
}

/* How many of the pages are in swap. */
static uint32_t swapped(const struct guest *g)
{
	uint64_t *entries = must(calloc(g->len / COP_PAGE_BYTES, sizeof(*entries)));
	size_t len = g->len / COP_PAGE_BYTES * sizeof(*entries);
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	uint32_t n = 0;

	if (fd < 0 || pread(fd, entries, len, (off_t)((uintptr_t)g->region / COP_PAGE_BYTES * 8)) !=
			      (ssize_t)len)
		die("pagemap", strerror(errno));
	for (size_t i = 0; i < g->len / COP_PAGE_BYTES; i++)
		n += entries[i] >> 62 & 1;
	close(fd);
	free(entries);
	return n;
}

static void page_out(struct guest *g)
{
	for (int i = 0; i < 20 && swapped(g) < g->in->nr_runs * RUN; i++)
		(void)madvise(g->region, g->len,
			      MADV_PAGEOUT); /* what stays is not cold: it shows */
}

static void run_zram(struct guest *g, struct side *ret)
{
	double core[2 * MAX_ROUNDS], wall[2 * MAX_ROUNDS], run[MAX_ROUNDS];
	struct single *singles =
		must(calloc((size_t)rounds * g->in->nr_runs * (RUN / STEP), sizeof(*singles)));
	size_t n = 0;

	g->region = must(mmap(NULL, g->len, PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
	(void)madvise(g->region, g->len, MADV_NOHUGEPAGE);
	for (unsigned int i = 0; i < 2 * rounds; i++) {
		uint64_t start, cpu, wall_ns, cpu_ns;
		uint32_t gone;

		fill(g);
		start = now_ns();
		cpu = ns_of(CLOCK_THREAD_CPUTIME_ID);
		if (madvise(g->region, g->len, MADV_PAGEOUT) < 0)
			die("MADV_PAGEOUT", strerror(errno));
		wall_ns = now_ns() - start;
		cpu_ns = ns_of(CLOCK_THREAD_CPUTIME_ID) - cpu;
		gone = swapped(g);
		core[i] = gone * 1e9 / (double)cpu_ns;
		wall[i] = gone * 1e9 / (double)wall_ns;
		for (int k = 0; k < 20 && gone < g->in->nr_runs * RUN; k++) {
			(void)madvise(g->region, g->len, MADV_PAGEOUT);
			gone = swapped(g);
		}
		if (gone < g->in->nr_runs * RUN / 100 * 99) {
			(void)snprintf(zram_reason, sizeof(zram_reason),
				       "only %u of %u pages went out", gone, g->in->nr_runs * RUN);
			goto out;
		}
		if (i % 2)
			n += touch_singles(g, singles + n);
		else
			run[i / 2] = touch_runs(g);
		verify(g);
	}
	ret->there = true;
	ret->out_core = spread_of(core, 2 * rounds);
	ret->out_wall = spread_of(wall, 2 * rounds);
	ret->run = spread_of(run, rounds);
	sum_up_singles(ret, singles, n);
	run_kvm(g, page_out, ret);
out:
	free(singles);
	munmap(g->region, g->len);
}

/* LZ4 alone, and a fault on new memory: less than any swap can take. */
static void run_reference(struct guest *g, struct result *ret)
{
	static char coded[LZ4_COMPRESSBOUND(COP_PAGE_BYTES)], page[COP_PAGE_BYTES];
	uint32_t nr = g->in->nr_runs * RUN;
	double *decode = must(malloc(nr * sizeof(*decode))),
	       *fault = must(malloc(nr * sizeof(*fault)));

	g->region = must(mmap(NULL, g->len, PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
	(void)madvise(g->region, g->len, MADV_NOHUGEPAGE);
	for (uint32_t i = 0; i < nr; i++) {
		const char *from = (const char *)g->in->pages + (size_t)i * COP_PAGE_BYTES;
		int len = LZ4_compress_default(from, coded, COP_PAGE_BYTES, sizeof(coded));
		uint64_t start = now_ns();

		if (LZ4_decompress_safe(coded, page, len, sizeof(page)) != COP_PAGE_BYTES)
			die("LZ4", "WRONG BYTES");
		decode[i] = (double)(now_ns() - start);
		start = now_ns();
		*(volatile uint8_t *)(g->region + (size_t)place(i) * COP_PAGE_BYTES) = 1;
		fault[i] = (double)(now_ns() - start);
	}
	ret->lz4_ns = (uint32_t)quantile(decode, nr, 50);
	ret->fault_ns = (uint32_t)quantile(fault, nr, 50);
	munmap(g->region, g->len);
	free(decode);
	free(fault);
}

/* Output. */

static void json_spread(const char *name, struct spread s)
{
	printf("\"%s\": {\"median\": %.0f, \"min\": %.0f, \"max\": %.0f}", name, s.median, s.min,
	       s.max);
}

static void json_side(const char *name, const struct side *s)
{
	printf("    \"%s\": ", name);
	if (!s->there) {
		printf("null");
		return;
	}
	printf("{");
	json_spread("evict_pages_per_s_core", s->out_core);
	printf(", ");
	json_spread("evict_pages_per_s_wall", s->out_wall);
	printf(",\n      ");
	json_spread("run_ns_per_page", s->run);
	printf(", \"one_ns_p50\": %u, \"one_ns_p99\": %u,\n      \"kvm\": ", s->one_p50,
	       s->one_p99);
	if (kvm_error) {
		printf("null");
		return;
	}
	printf("{");
	json_spread("run_ns_per_page", s->kvm_run);
	printf(", \"one_ns_p50\": %u, \"one_ns_p99\": %u}", s->kvm_p50, s->kvm_p99);
}

static void print_json(const struct input *in, const struct result *r, size_t nr)
{
	printf("{\n  \"rounds\": %u, \"run_pages\": %u, \"spin_us\": %u,\n"
	       "  \"zram_algorithm\": \"%s\", \"zram_missing\": ",
	       rounds, RUN, spin_us, algorithm);
	printf(*zram_reason ? "\"%s\",\n" : "null,\n", zram_reason);
	printf("  \"kvm_missing\": ");
	printf(kvm_error ? "\"%s\",\n" : "null,\n", strerror(-kvm_error));
	printf("  \"kinds\": {");
	for (size_t i = 0; i < nr; i++) {
		const struct side *own = &r[i].own;

		printf("%s\n  \"%s\": {\"pages\": %u,\n", i ? "," : "", in[i].name,
		       in[i].nr_runs * RUN);
		json_side("coppice", own);
		printf(",\n      \"one_parts_ns\": {\"pager_awake\": %u, \"event_read\": %u,"
		       " \"page_there\": %u, \"guest_awake\": %u}, ",
		       own->parts[0], own->parts[1], own->parts[2], own->parts[3]);
		json_spread("shim_cpu_ns_per_page", r[i].shim);
		printf("},\n");
		json_side("zram", &r[i].zram);
		printf("%s,\n    \"run_to_zram\": ", r[i].zram.there ? "}" : "");
		if (r[i].zram.there)
			printf("%.2f", own->run.median / r[i].zram.run.median);
		else
			printf("null");
		printf(",\n    \"reference\": {\"lz4_decode_ns\": %u, \"new_page_fault_ns\": %u}}",
		       r[i].lz4_ns, r[i].fault_ns);
	}
	printf("\n  }\n}\n");
}

static void print_side(const char *name, const struct side *s)
{
	printf("  %-8s evict %8.0f/s a core (%.0f-%.0f), %8.0f/s by the clock\n"
	       "           run of %u: %6.0f ns a page (%.0f-%.0f); one alone %6u ns p50 %6u ns "
	       "p99\n",
	       name, s->out_core.median, s->out_core.min, s->out_core.max, s->out_wall.median, RUN,
	       s->run.median, s->run.min, s->run.max, s->one_p50, s->one_p99);
	if (!kvm_error)
		printf("           under KVM: run %6.0f ns a page (%.0f-%.0f); one alone %6u ns "
		       "p50 %6u ns "
		       "p99\n",
		       s->kvm_run.median, s->kvm_run.min, s->kvm_run.max, s->kvm_p50, s->kvm_p99);
}

static void print_text(const struct input *in, const struct result *r, size_t nr)
{
	for (size_t i = 0; i < nr; i++) {
		const uint32_t *parts = r[i].own.parts;

		printf("%s: %u pages, %u rounds\n", in[i].name, in[i].nr_runs * RUN, rounds);
		print_side("coppice", &r[i].own);
		if (parts[0])
			printf("           one: pager awake %u, event read %u, page there %u, "
			       "guest awake %u ns\n",
			       parts[0], parts[1], parts[2], parts[3]);
		if (r[i].zram.there) {
			print_side("zram", &r[i].zram);
			printf("           a run takes %.2f times zram's\n",
			       r[i].own.run.median / r[i].zram.run.median);
		}
		printf("  %-8s LZ4 decodes in %u ns, a fault on new memory takes %u ns\n", "beside",
		       r[i].lz4_ns, r[i].fault_ns);
	}
	if (*zram_reason)
		printf("no zram: %s\n", zram_reason);
	if (kvm_error)
		printf("no KVM: %s\n", strerror(-kvm_error));
}

int main(int argc, char **argv)
{
	const char *pages = NULL, *tmpl = NULL, *kind = NULL;
	static struct input in[3];
	static struct result results[3];
	uint32_t count = 4096;
	bool json = false, zram;

	for (int i = 1; i < argc; i++) {
		const char *v = i + 1 < argc ? argv[i + 1] : "";

		if (!strcmp(argv[i], "--json")) {
			json = true;
			continue;
		}
		if (!strcmp(argv[i], "--pages"))
			pages = v;
		else if (!strcmp(argv[i], "--template"))
			tmpl = v;
		else if (!strcmp(argv[i], "--generate"))
			kind = v;
		else if (!strcmp(argv[i], "--count"))
			count = (uint32_t)strtoul(v, NULL, 0);
		else if (!strcmp(argv[i], "--rounds"))
			rounds = (unsigned int)strtoul(v, NULL, 0);
		else if (!strcmp(argv[i], "--zram"))
			algorithm = v;
		else if (!strcmp(argv[i], "--spin"))
			spin_us = (unsigned int)strtoul(v, NULL, 0);
		else
			die(argv[i], "not an option; see the top of paging-bench.c");
		i++;
	}
	if (rounds < 1 || rounds > MAX_ROUNDS || count < RUN || count > 32768 || !pages != !tmpl ||
	    (pages && kind))
		die("usage",
		    "[--pages FILE --template FILE | --generate KIND] [--count N] [--rounds N]"
		    " [--zram ALGORITHM|none] [--spin US] [--json]");
	shared = must(mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE,
			   MAP_SHARED | MAP_ANONYMOUS, -1, 0));
	measure_ticks();
	generate(&in[0], "zero", count);
	generate(&in[1], "same", count);
	if (pages)
		read_corpus(&in[2], pages, tmpl);
	else
		generate(&in[2], kind ? kind : "mixed", count);
	for (int i = 0; i < 3; i++) {
		struct guest g = {.in = &in[i],
				  .len = (size_t)in[i].nr_runs * BLOCK * COP_PAGE_BYTES,
				  .random = 1};

		g.order = must(calloc((size_t)in[i].nr_runs * RUN, sizeof(*g.order)));
		run_own(&g, &results[i]);
		run_reference(&g, &results[i]);
		free(g.order);
	}
	/* No swap while the pager's side is measured. */
	(void)signal(SIGINT, ended);
	(void)signal(SIGTERM, ended);
	if (atexit(zram_gone))
		die("atexit", "no room");
	if (!strcmp(algorithm, "none"))
		strcpy(zram_reason, "not asked for");
	zram = strcmp(algorithm, "none") && zram_there();
	for (int i = 0; zram && i < 3; i++) {
		struct guest g = {.in = &in[i],
				  .len = (size_t)in[i].nr_runs * BLOCK * COP_PAGE_BYTES,
				  .random = 1};

		g.order = must(calloc((size_t)in[i].nr_runs * RUN, sizeof(*g.order)));
		run_zram(&g, &results[i].zram);
		free(g.order);
	}
	(json ? print_json : print_text)(in, results, 3);
	for (int i = 0; i < 3; i++) {
		free(in[i].pages);
		free(in[i].tmpl);
	}
	return 0;
}
