/*
 * space.c - see space.h; the protocol is in docs/ENGINE.md.
 *
 * Sources: userfaultfd(2), ioctl_userfaultfd(2), Documentation/admin-guide/mm/{userfaultfd,pagemap}.rst.
 */
#include "mem/space.h"
#include "mem/image.h"
#include "mem/maps.h"
#include "mem/page.h"
#include "mem/store-impl.h"
#include "mem/uffd.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/userfaultfd.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define PM_PRESENT    (1ull << 63)
#define PM_SWAPPED    (1ull << 62)
#define PM_FILE	      (1ull << 61)
#define PM_PFN	      ((1ull << 55) - 1)
#define MAX_AHEAD     64u
#define MIN_AHEAD     8u
#define NEAR_PAGES    4u /* a fault so soon after the last one's pages follows it */
#define BUSY_TRIES    100000 /* yields: seconds */
#define SHORT_SAME    4	     /* fewer equal pages between others go with them */
#define MANY_MAPPINGS 20000  /* of the 65,530 that a process may have by default */

void (*cop_space_hook)(enum cop_space_point point);

static void reached(enum cop_space_point point)
{
	if (cop_space_hook)
		cop_space_hook(point);
}

static bool bit(const uint64_t *map, uint32_t i)
{
	return map[i / 64] >> i % 64 & 1;
}

static uint64_t addr_of(const struct cop_space *sp, uint32_t gfn)
{
	return sp->addr + (uint64_t)gfn * COP_PAGE_BYTES;
}

static bool in_window(const struct cop_space *sp, uint32_t gfn)
{
	return gfn - sp->window_first < sp->window_nr;
}

void cop_space_damage(struct cop_space *sp, const char *format, ...)
{
	va_list args;

	if (sp->state != COP_SPACE_RUNNING)
		return;
	va_start(args, format);
	(void)vsnprintf(sp->why, sizeof(sp->why), format, args);
	va_end(args);
	sp->state = COP_SPACE_DAMAGED;
	sp->engine->damaged++;
}

/* Access to the VM's memory, which may last until somebody cuts it off. */

static int64_t now_ms(void)
{
	struct timespec now;

	(void)clock_gettime(CLOCK_MONOTONIC, &now); /* can't fail */
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static int remote(struct cop_space *sp, uint32_t first, uint32_t nr, const void *bytes, bool write)
{
	struct iovec here = {(void *)(uintptr_t)bytes, (size_t)nr * COP_PAGE_BYTES};
	struct iovec there = {(void *)(uintptr_t)addr_of(sp, first), here.iov_len};
	ssize_t n;

	if (sp->state != COP_SPACE_RUNNING)
		return -ESRCH;
	atomic_store(&sp->remote_first, first);
	atomic_store(&sp->remote_nr, nr);
	atomic_store(&sp->remote_since_ms, now_ms());
	n = write ? process_vm_writev(sp->pid, &here, 1, &there, 1, 0)
		  : process_vm_readv(sp->pid, &here, 1, &there, 1, 0);
	if (n < 0)
		n = -errno;
	atomic_store(&sp->remote_since_ms, 0);
	if (sp->state != COP_SPACE_RUNNING)
		return -ESRCH;
	return n == (ssize_t)here.iov_len ? 0 : n < 0 ? (int)n : -EFAULT;
}

bool cop_space_cut_off(struct cop_space *sp, unsigned int looks)
{
	int64_t began_ms = atomic_load(&sp->remote_since_ms);
	uint32_t first = atomic_load(&sp->remote_first), nr = atomic_load(&sp->remote_nr);

	if (began_ms != sp->watched_since_ms)
		sp->looks = 0;
	sp->watched_since_ms = began_ms;
	if (!began_ms || ++sp->looks < looks)
		return false;
	cop_space_damage(sp, "QEMU has its memory mapped in another way: page %" PRIu32
			 " or one behind it can't be had", first);
	/* One by one: one that can't be unregistered must not save the others. */
	for (uint32_t i = 0; i < nr; i++)
		(void)cop_uffd_unregister(sp->uffd, addr_of(sp, first + i), COP_PAGE_BYTES);
	return true;
}

/* Entries. */

static uint32_t record_cost(const struct cop_space *sp, uint32_t record)
{
	struct cop_record_view v;

	return cop_record_of(sp->engine->store, record, &v) ? 0 : v.size_bytes;
}

static int entry_of(struct cop_space *sp, uint32_t gfn, enum cop_page_state *ret_state,
		    uint32_t *ret_record)
{
	int r = cop_ptab_get(sp->table, gfn, ret_state, ret_record);

	if (r)
		cop_space_damage(sp, "the entry of page %" PRIu32 " names a record that isn't its own", gfn);
	return r;
}

/* Sets an entry and keeps the counts. */
static int enter(struct cop_space *sp, uint32_t gfn, enum cop_page_state state, uint32_t record)
{
	enum cop_page_state old = COP_PAGE_NONE;
	uint32_t old_record = 0;
	uint64_t old_cost = 0;
	int r;

	if (cop_ptab_get(sp->table, gfn, &old, &old_record) == 0 && old == COP_PAGE_RECORD)
		old_cost = record_cost(sp, old_record);
	r = cop_ptab_set(sp->table, gfn, state, record);
	if (r)
		return r;
	sp->entries[old]--;
	sp->entries[state]++;
	sp->coded_bytes -= old_cost;
	if (state == COP_PAGE_RECORD)
		sp->coded_bytes += record_cost(sp, record);
	return 0;
}

/* Mappings. */

static int pagemap_read(const struct cop_space *sp, uint32_t first, uint32_t nr, uint64_t *ret)
{
	size_t len = nr * sizeof(*ret);
	ssize_t n = pread(sp->pagemap, ret, len,
			  (off_t)(addr_of(sp, first) / COP_PAGE_BYTES * sizeof(*ret)));

	if (n == (ssize_t)len)
		return 0;
	return n < 0 ? -errno : -ESRCH; /* empty once the process has ended */
}

static bool is_present(const struct cop_space *sp, uint32_t gfn)
{
	uint64_t entry;

	if (sp->shared)
		return cop_image_has_data(sp->own_fd, gfn);
	return pagemap_read(sp, gfn, 1, &entry) == 0 && (entry & (PM_PRESENT | PM_SWAPPED));
}

/* Ranges of replaced pages that begin in [first, first + nr]. */
static uint32_t edges(const struct cop_space *sp, uint32_t first, uint32_t nr)
{
	uint32_t n = 0;

	for (uint32_t i = first; i <= first + nr && i < sp->nr_pages; i++)
		n += bit(sp->replaced, i) && (i == 0 || !bit(sp->replaced, i - 1));
	return n;
}

static void set_replaced(struct cop_space *sp, uint32_t first, uint32_t nr)
{
	uint32_t before = edges(sp, first, nr);

	for (uint32_t i = first; i < first + nr; i++)
		sp->replaced[i / 64] |= 1ull << i % 64;
	sp->mappings += edges(sp, first, nr) - before;
}

/* Which of the region's memory isn't the template's any more, from the mappings. */
static int find_replaced(struct cop_space *sp)
{
	char path[40];
	struct cop_mapping m;
	FILE *file;
	uint64_t end = addr_of(sp, sp->nr_pages);

	(void)snprintf(path, sizeof(path), "/proc/%d/maps", (int)sp->pid);
	file = fopen(path, "re");
	if (!file)
		return -errno;
	while (cop_maps_next(file, &m)) {
		if (m.inode || m.to <= sp->addr || m.from >= end)
			continue;
		m.from = m.from < sp->addr ? sp->addr : m.from;
		m.to = m.to > end ? end : m.to;
		set_replaced(sp, (uint32_t)((m.from - sp->addr) / COP_PAGE_BYTES),
			     (uint32_t)((m.to - m.from) / COP_PAGE_BYTES));
	}
	fclose(file);
	return 0;
}

/* Until mappings have stopped changing. */
static int protect(struct cop_space *sp, uint32_t first, uint32_t nr, bool on)
{
	int r, tries = 0;

	do {
		r = cop_uffd_protect(sp->uffd, addr_of(sp, first), (uint64_t)nr * COP_PAGE_BYTES,
				     on);
		if (r == -EBUSY)
			sched_yield();
	} while (r == -EBUSY && ++tries < BUSY_TRIES);
	return r;
}

static int register_all(struct cop_space *sp)
{
	int r = 0;

	if (!sp->registered)
		r = cop_uffd_register(sp->uffd, sp->addr, (uint64_t)sp->nr_pages * COP_PAGE_BYTES);
	sp->registered = r == 0;
	return r;
}

/* Events that a former pager has not read: one of them may be what holds up a change of mappings. Who
 * waits for a page is woken in the end, and asks again. */
static void drain(struct cop_space *sp)
{
	struct uffd_msg msgs[16];

	while (cop_uffd_read(sp->uffd, msgs, 16) > 0)
		;
}

/* What a former pager left. Nobody else reads events yet. */
static int mend(struct cop_space *sp)
{
	uint32_t cursor = 0, gfn, record, nr = 0, *stale;
	enum cop_page_state state;
	int r = sp->shared ? 0 : find_replaced(sp), tries = 0;

	if (r == 0)
		r = register_all(sp);
	if (r)
		return r;
	stale = malloc((cop_ptab_used(sp->table) + 1ul) * sizeof(*stale));
	if (!stale)
		return -ENOMEM;
	while (cop_ptab_next(sp->table, &cursor, &gfn, &state, &record)) {
		if (gfn >= sp->nr_pages || (!sp->shared && !bit(sp->replaced, gfn)) ||
		    is_present(sp, gfn)) {
			stale[nr++] = gfn;
			continue;
		}
		sp->entries[state]++;
		if (state == COP_PAGE_RECORD)
			sp->coded_bytes += record_cost(sp, record);
	}
	for (uint32_t i = 0; i < nr; i++)
		(void)cop_ptab_set(sp->table, stale[i], COP_PAGE_NONE, COP_RECORD_NONE);
	free(stale);
	do {
		drain(sp);
		r = cop_uffd_protect(sp->uffd, sp->addr, (uint64_t)sp->nr_pages * COP_PAGE_BYTES,
				     false); /* wakes all */
	} while (r == -EBUSY && ++tries < BUSY_TRIES && sched_yield() == 0);
	return r;
}

int cop_space_new(struct cop_engine *e, uint64_t key, pid_t pid, int uffd, uint64_t addr,
		  uint64_t size_bytes, struct cop_image *image, int own_fd, unsigned int domain,
		  cop_space_replace replace, void *replace_ctx, struct cop_space **ret_space)
{
	struct cop_space *sp = calloc(1, sizeof(*sp));
	uint64_t *zeros;
	char path[40];
	int r;

	if (!sp)
		return -ENOMEM;
	sp->engine = e;
	sp->key = key;
	sp->pid = pid;
	sp->uffd = uffd;
	sp->pagemap = -1;
	sp->addr = addr;
	sp->nr_pages = (uint32_t)(size_bytes / COP_PAGE_BYTES);
	sp->shared = image == NULL;
	sp->own_fd = own_fd;
	sp->image = image;
	sp->domain = domain;
	sp->replace = replace;
	sp->replace_ctx = replace_ctx;
	sp->budget = MANY_MAPPINGS;
	sp->replaced = calloc(sp->nr_pages / 64 + 1, sizeof(uint64_t));
	r = sp->replaced ? 0 : -ENOMEM;
	if (r == 0) {
		(void)snprintf(path, sizeof(path), "/proc/%d/pagemap", (int)pid);
		sp->pagemap = open(path, O_RDONLY | O_CLOEXEC);
		r = sp->pagemap < 0 ? -errno : 0;
	}
	/* The page of zeros costs nothing and need not leave: its number, if we may know it. */
	zeros = r ? MAP_FAILED
		  : mmap(NULL, COP_PAGE_BYTES, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (zeros != MAP_FAILED) {
		uint64_t touched = *(volatile uint64_t *)zeros, entry = touched;
		int own = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);

		if (own >= 0) {
			if (pread(own, &entry, 8, (off_t)((uintptr_t)zeros / COP_PAGE_BYTES * 8)) == 8)
				sp->zero_pfn = entry & PM_PFN;
			close(own);
		}
		munmap(zeros, COP_PAGE_BYTES);
	}
	cop_engine_lock(e);
	if (r == 0 && cop_ptab_find(e->store, key, &sp->table) == 0)
		r = mend(sp);
	else if (r == 0)
		r = cop_ptab_new(e->store, key, &sp->table);
	/* Whose events somebody has read before. */
	if (r == 0)
		r = cop_uffd_wake(uffd, addr, size_bytes);
	if (r == 0 && image)
		image->vms++;
	cop_engine_unlock(e);
	if (r) {
		if (sp->table)
			cop_ptab_close(sp->table);
		if (sp->pagemap >= 0)
			close(sp->pagemap);
		free(sp->replaced);
		free(sp);
		return r;
	}
	*ret_space = sp;
	return 0;
}

void cop_space_free(struct cop_space *sp, bool forget)
{
	cop_engine_lock(sp->engine);
	if (forget)
		cop_ptab_free(sp->table);
	else
		cop_ptab_close(sp->table);
	if (sp->image)
		sp->image->vms--;
	cop_engine_unlock(sp->engine);
	free(sp->stuck);
	close(sp->uffd);
	close(sp->pagemap);
	if (sp->own_fd >= 0)
		close(sp->own_fd);
	free(sp->replaced);
	free(sp);
}

int cop_space_rebase(struct cop_space *sp, struct cop_image *image, unsigned int domain)
{
	int r = 0;

	cop_engine_lock(sp->engine);
	if (cop_ptab_used(sp->table)) {
		r = -EBUSY;
	} else {
		if (sp->image)
			sp->image->vms--;
		image->vms++;
		sp->image = image;
		sp->domain = domain;
		sp->shared = false;
		if (sp->own_fd >= 0)
			close(sp->own_fd);
		sp->own_fd = -1;
		sp->registered = false;
		memset(sp->replaced, 0, (sp->nr_pages / 64 + 1) * sizeof(uint64_t));
		sp->mappings = 0;
	}
	cop_engine_unlock(sp->engine);
	return r;
}

/* Bringing back. */

/*
 * With the lock, outside of a window in flight. 0: the page is there, and its entry gone. *ret_more:
 * how many pages were brought, when a page of zeros came with its neighbours.
 */
static int restore(struct cop_space *sp, struct cop_decoder *d, uint32_t gfn, bool wake)
{
	enum cop_page_state state;
	uint32_t record;
	const uint8_t *page = NULL;
	static _Thread_local uint8_t same[COP_PAGE_BYTES];
	uint64_t done;
	int r = entry_of(sp, gfn, &state, &record);

	if (r)
		return r;
	if (state == COP_PAGE_RECORD) {
		r = cop_store_get(sp->engine->store, d, sp->domain, record, &page);
		if (r == -EBADMSG || r == -ENOENT)
			cop_space_damage(sp, "the record of page %" PRIu32 " is damaged: its checksum differs",
				gfn);
	} else if (state == COP_PAGE_SAME) {
		r = cop_image_page(sp->image, gfn, same);
		if (r == -EAGAIN)
			cop_missing = (struct cop_missing){sp->image, gfn};
		page = same;
	}
	if (r)
		return r;
	r = page ? cop_uffd_copy(sp->uffd, addr_of(sp, gfn), page, COP_PAGE_BYTES, wake, &done)
		 : cop_uffd_zero(sp->uffd, addr_of(sp, gfn), COP_PAGE_BYTES, wake, &done);
	reached(COP_POINT_COPIED);
	if (r == -EEXIST && wake)
		(void)cop_uffd_wake(sp->uffd, addr_of(sp, gfn), COP_PAGE_BYTES);
	if (r && r != -EEXIST)
		return r;
	if (state != COP_PAGE_NONE) {
		(void)enter(sp, gfn, COP_PAGE_NONE, COP_RECORD_NONE); /* can't fail */
		sp->restored++;
		sp->engine->restored++;
	}
	return 0;
}

/*
 * The pages after a restored one that followed the last: more of them while they are asked for in
 * order. All are woken together with it: a thread woken earlier would run on this processor only when
 * this one sleeps, and fault again meanwhile.
 */
static void bring_ahead(struct cop_space *sp, uint32_t gfn)
{
	uint32_t next = gfn + 1, nr = sp->ahead_nr * 2;

	nr = nr > MAX_AHEAD ? MAX_AHEAD : nr < MIN_AHEAD ? MIN_AHEAD : nr;
	sp->ahead_nr = nr;
	for (; nr && next < sp->nr_pages; nr--, next++) {
		enum cop_page_state state;
		uint32_t record;

		if ((sp->in_flight && in_window(sp, next)) ||
		    (!sp->shared && !bit(sp->replaced, next)) ||
		    cop_ptab_get(sp->table, next, &state, &record) || state == COP_PAGE_NONE ||
		    restore(sp, sp->engine->fault_decoder, next, false))
			break;
	}
	sp->ahead_next = next;
	(void)cop_uffd_wake(sp->uffd, addr_of(sp, gfn), (uint64_t)(next - gfn) * COP_PAGE_BYTES);
}

/* A page that lies in the template's mapping, or in a shared image, and has no entry. */
static int fault_unwritten(struct cop_space *sp, uint32_t gfn)
{
	uint32_t nr = 1, limit = gfn / COP_CHUNK_PAGES * COP_CHUNK_PAGES + COP_CHUNK_PAGES;
	int fd = sp->shared ? sp->own_fd : sp->image->fd;
	uint64_t done;
	int r;

	if (cop_image_has_data(fd, gfn))
		return cop_uffd_wake(sp->uffd, addr_of(sp, gfn), COP_PAGE_BYTES);
	if (!sp->shared && !cop_image_is_loaded(sp->image, gfn)) {
		cop_missing = (struct cop_missing){sp->image, gfn};
		return -EAGAIN;
	}
	/* Neighbours that are zero too: in a private mapping the page of zeros costs nothing. */
	while (!sp->shared && gfn + nr < limit && gfn + nr < sp->nr_pages &&
	       !bit(sp->replaced, gfn + nr) && !(sp->in_flight && in_window(sp, gfn + nr)) &&
	       !cop_image_has_data(fd, gfn + nr))
		nr++;
	r = cop_uffd_zero(sp->uffd, addr_of(sp, gfn), (uint64_t)nr * COP_PAGE_BYTES, true, &done);
	if (r == -EEXIST)
		r = cop_uffd_wake(sp->uffd, addr_of(sp, gfn), COP_PAGE_BYTES);
	return r;
}

int cop_space_fault(struct cop_space *sp, uint64_t addr, bool write_protect)
{
	uint32_t gfn = (uint32_t)((addr - sp->addr) / COP_PAGE_BYTES), record;
	enum cop_page_state state = COP_PAGE_NONE;
	int r;

	if (addr < sp->addr || gfn >= sp->nr_pages) /* staging, which nobody touches */
		return cop_uffd_wake(sp->uffd, addr / COP_PAGE_BYTES * COP_PAGE_BYTES, COP_PAGE_BYTES);
	sp->faults++;
	sp->engine->faults++;
	if (sp->in_flight && in_window(sp, gfn))
		return 0; /* woken at the end: invariant 4 */
	addr = addr_of(sp, gfn);
	if (write_protect) {
		if (in_window(sp, gfn)) {
			uint32_t i = gfn - sp->window_first;

			sp->spoiled[i / 64] |= 1ull << i % 64;
		}
		r = cop_uffd_protect(sp->uffd, addr, COP_PAGE_BYTES, false);
		goto out;
	}
	if (sp->shared || bit(sp->replaced, gfn)) {
		r = entry_of(sp, gfn, &state, &record);
		if (r)
			return 0;
	}
	if (state != COP_PAGE_NONE) {
		bool follows = gfn - sp->ahead_next < NEAR_PAGES;

		r = restore(sp, sp->engine->fault_decoder, gfn, !follows);
		if (r == 0 && follows) {
			bring_ahead(sp, gfn);
		} else if (r == 0) {
			sp->ahead_next = gfn + 1;
			sp->ahead_nr = 0;
		}
	} else if (sp->shared || !bit(sp->replaced, gfn)) {
		r = fault_unwritten(sp, gfn);
	} else if (is_present(sp, gfn)) {
		r = cop_uffd_wake(sp->uffd, addr, COP_PAGE_BYTES); /* an event that has aged */
	} else {
		cop_space_damage(sp, "page %" PRIu32 " is gone and nothing is known of it", gfn);
		return 0;
	}
out:
	switch (r) {
	case -EBUSY: /* after the REMAP event has been read */
		return cop_uffd_wake(sp->uffd, addr, COP_PAGE_BYTES) == -ESRCH ? -ESRCH : 0;
	case -ESRCH:
		sp->state = COP_SPACE_GONE;
		return 0;
	case -ENOENT: /* the region is being mapped anew */
		(void)cop_uffd_wake(sp->uffd, addr, COP_PAGE_BYTES);
		return 0;
	case 0:
	case -EAGAIN:
	case -ENOMEM:
		return r;
	default:
		cop_space_damage(sp, "page %" PRIu32 " can't be brought back: error %d", gfn, -r);
		return 0;
	}
}

int cop_space_load(struct cop_engine *e, struct cop_image *image, uint32_t gfn)
{
	static _Thread_local uint8_t bytes[COP_CHUNK_BYTES];
	uint32_t chunk = gfn / COP_CHUNK_PAGES;
	int r = cop_image_read_chunk(image, chunk, bytes);

	if (r)
		return r;
	cop_engine_lock(e);
	r = cop_image_fill_chunk(image, chunk, bytes, false, (uint32_t)(now_ms() / 1000));
	cop_engine_unlock(e);
	return r;
}

int cop_space_restore_all(struct cop_space *sp)
{
	uint32_t *gfns, cursor = 0, nr = 0, record;
	enum cop_page_state state;
	int r = 0, tries = 0;

	if (sp->stuck)
		return -EBUSY;
	cop_engine_lock(sp->engine);
	gfns = malloc((cop_ptab_used(sp->table) + 1ul) * sizeof(*gfns));
	while (gfns && cop_ptab_next(sp->table, &cursor, &gfns[nr], &state, &record))
		nr++;
	cop_engine_unlock(sp->engine);
	if (!gfns)
		return -ENOMEM;
	for (uint32_t i = 0; i < nr && r == 0;) {
		cop_engine_lock(sp->engine);
		r = restore(sp, sp->engine->decoder, gfns[i], true);
		cop_engine_unlock(sp->engine);
		if (r == -EAGAIN && ++tries < BUSY_TRIES) {
			r = cop_space_load(sp->engine, cop_missing.image, cop_missing.gfn);
		} else if (r == -EBUSY && ++tries < BUSY_TRIES) {
			sched_yield();
			r = 0;
		} else {
			tries = 0;
			i++;
		}
	}
	free(gfns);
	return sp->state == COP_SPACE_DAMAGED ? -EBADMSG : r;
}

/* Evicting. */

enum action { STAY, TO_TEMPLATE, EMPTY };

struct window {
	uint32_t first, nr;
	bool candidate[COP_WINDOW_PAGES];
	uint8_t action[COP_WINDOW_PAGES];
	uint8_t state[COP_WINDOW_PAGES]; /* enum cop_page_state of EMPTY pages */
	uint32_t record[COP_WINDOW_PAGES];
	uint32_t nr_ranges;
	struct cop_space_range ranges[COP_WINDOW_PAGES];
};

/* Which pages could go? Returns their number or -errno. */
static int candidates(struct cop_space *sp, struct window *w, uint32_t want)
{
	uint64_t entries[COP_WINDOW_PAGES];
	uint32_t nr = 0;
	int r;

	if (sp->shared) {
		off_t end = (off_t)(w->first + w->nr) * COP_PAGE_BYTES, at = (off_t)w->first * COP_PAGE_BYTES;

		while (at < end && nr < want) {
			off_t data = lseek(sp->own_fd, at, SEEK_DATA), hole;

			if (data < 0 || data >= end)
				break;
			hole = lseek(sp->own_fd, data, SEEK_HOLE);
			for (at = data; at < hole && at < end && nr < want; at += COP_PAGE_BYTES, nr++)
				w->candidate[at / COP_PAGE_BYTES - w->first] = true;
		}
		return (int)nr;
	}
	r = pagemap_read(sp, w->first, w->nr, entries);
	if (r)
		return r;
	for (uint32_t i = 0; i < w->nr && nr < want; i++) {
		w->candidate[i] = (entries[i] & PM_PRESENT) && !(entries[i] & PM_FILE) &&
				  !(sp->zero_pfn && (entries[i] & PM_PFN) == sp->zero_pfn);
		nr += w->candidate[i];
	}
	return (int)nr;
}

/* When mappings are scarce, runs that would need another stay, unless they are long. */
static void spare_mappings(struct cop_space *sp, struct window *w)
{
	if (sp->shared || sp->mappings < sp->budget)
		return;
	for (uint32_t i = 0, end; i < w->nr; i = end) {
		bool joins;

		end = i + 1;
		if (!w->candidate[i])
			continue;
		while (end < w->nr && w->candidate[end])
			end++;
		joins = bit(sp->replaced, w->first + i) ||
			(w->first + i > 0 && bit(sp->replaced, w->first + i - 1)) ||
			(w->first + end < sp->nr_pages && bit(sp->replaced, w->first + end));
		if (!joins && (end - i < 64 || sp->mappings >= sp->budget + sp->budget / 4))
			memset(w->candidate + i, 0, end - i);
	}
}

/* For each run of candidates. Returns 0 or the first error. */
static int each_run(struct cop_space *sp, struct window *w,
		    int (*f)(struct cop_space *, uint32_t first, uint32_t nr, void *ctx), void *ctx)
{
	int r = 0;

	for (uint32_t i = 0, end; i < w->nr && r == 0; i = end) {
		end = i + 1;
		if (!w->candidate[i])
			continue;
		while (end < w->nr && w->candidate[end])
			end++;
		r = f(sp, w->first + i, end - i, ctx);
	}
	return r;
}

static int protect_run(struct cop_space *sp, uint32_t first, uint32_t nr, void *ctx)
{
	return protect(sp, first, nr, true);
}

struct read_ctx {
	uint8_t *window;
	uint32_t first;
};

static int read_run(struct cop_space *sp, uint32_t first, uint32_t nr, void *ctx)
{
	struct read_ctx *c = ctx;
	uint8_t *to = c->window + (size_t)(first - c->first) * COP_PAGE_BYTES;
	size_t len = (size_t)nr * COP_PAGE_BYTES;
	ssize_t n;

	if (!sp->shared)
		return remote(sp, first, nr, to, false);
	n = pread(sp->own_fd, to, len, (off_t)first * COP_PAGE_BYTES);
	return n == (ssize_t)len ? 0 : n < 0 ? -errno : -EFAULT;
}

/* Decides on a page and, unless it needs no record, puts it. */
static int encode(struct cop_space *sp, struct window *w, uint32_t i, const uint8_t *page)
{
	struct cop_engine *e = sp->engine;
	uint32_t gfn = w->first + i;
	const uint8_t *template_page;
	bool zero = cop_page_is_zero(page);
	int r, tries = 0;

again:
	r = 0;
	cop_engine_lock(e);
	if (bit(sp->spoiled, i)) {
		cop_engine_unlock(e);
		return 0;
	}
	if (sp->shared && zero) {
		w->action[i] = EMPTY; /* a hole is zeros: needs no entry */
		w->state[i] = COP_PAGE_NONE;
	} else if (!sp->shared) {
		r = cop_engine_template_page(e, sp->domain, gfn, &template_page);
		if (r == 0 && cop_page_equal(page, template_page)) {
			w->action[i] = bit(sp->replaced, gfn) ? EMPTY : TO_TEMPLATE;
			w->state[i] = COP_PAGE_SAME;
		} else if (r == 0 && zero) {
			w->action[i] = EMPTY;
			w->state[i] = COP_PAGE_ZERO;
		}
	}
	if (r == 0 && w->action[i] == STAY) {
		r = cop_store_put(e->store, e->encoder, e->decoder, sp->domain,
				  sp->shared ? COP_NO_TEMPLATE : gfn, page, 0, &w->record[i]);
		if (r == 0) {
			w->action[i] = EMPTY;
			w->state[i] = COP_PAGE_RECORD;
		}
	}
	cop_engine_unlock(e);
	if (r == -EAGAIN && tries++ < 4) {
		r = cop_space_load(e, cop_missing.image, cop_missing.gfn);
		if (r == 0)
			goto again;
	}
	return r;
}

/* A few pages that equal the template's, between others that get replaced, go with them: less
 * mappings. */
static void join_same(struct window *w)
{
	for (uint32_t i = 0, end; i < w->nr; i = end) {
		end = i + 1;
		if (w->action[i] != TO_TEMPLATE)
			continue;
		while (end < w->nr && w->action[end] == TO_TEMPLATE)
			end++;
		if (end - i < SHORT_SAME && i > 0 && w->action[i - 1] == EMPTY && end < w->nr &&
		    w->action[end] == EMPTY)
			memset(w->action + i, EMPTY, end - i);
	}
}

/* With the lock: writes the entries and lists what is to go. */
static void enter_window(struct cop_space *sp, struct window *w)
{
	struct cop_space_range *last = NULL;

	for (uint32_t i = 0; i < w->nr; i++) {
		bool to_template = w->action[i] == TO_TEMPLATE;

		if (w->action[i] == STAY)
			continue;
		if (bit(sp->spoiled, i) ||
		    (!to_template && w->state[i] != COP_PAGE_NONE &&
		     enter(sp, w->first + i, w->state[i], w->record[i]))) {
			if (w->record[i])
				cop_store_unref(sp->engine->store, w->record[i]);
			w->action[i] = STAY;
			continue;
		}
		w->record[i] = COP_RECORD_NONE; /* the entry's now */
		if (last && last->first + last->nr == w->first + i && last->to_template == to_template) {
			last->nr++;
		} else {
			last = &w->ranges[w->nr_ranges++];
			*last = (struct cop_space_range){w->first + i, 1, to_template};
		}
	}
}

static int punch(struct cop_space *sp, struct window *w, unsigned int *ret_done)
{
	for (*ret_done = 0; *ret_done < w->nr_ranges; ++*ret_done) {
		const struct cop_space_range *range = &w->ranges[*ret_done];

		if (fallocate(sp->own_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			      (off_t)range->first * COP_PAGE_BYTES, (off_t)range->nr * COP_PAGE_BYTES) < 0)
			return -errno;
	}
	return 0;
}

/* The window's end: `done` of its ranges are gone, the others stay. Frees those who wait, and what
 * stays. Returns the number of pages gone. */
static uint32_t finish(struct cop_space *sp, const struct window *w, unsigned int done)
{
	uint32_t gone = 0;

	cop_engine_lock(sp->engine);
	for (uint32_t i = 0; i < w->nr_ranges; i++) {
		const struct cop_space_range *range = &w->ranges[i];

		if (i < done) {
			gone += range->nr;
			if (!range->to_template && !sp->shared)
				set_replaced(sp, range->first, range->nr);
			continue;
		}
		for (uint32_t gfn = range->first; gfn < range->first + range->nr; gfn++)
			(void)enter(sp, gfn, COP_PAGE_NONE, COP_RECORD_NONE);
	}
	sp->evicted += gone;
	sp->engine->evicted += gone;
	sp->in_flight = false;
	sp->window_nr = 0;
	cop_engine_unlock(sp->engine);
	reached(COP_POINT_FINISHED);
	if (sp->registered && protect(sp, w->first, w->nr, false) == -ESRCH)
		sp->state = COP_SPACE_GONE;
	return gone;
}

void cop_space_late_answer(struct cop_space *sp, unsigned int done)
{
	if (sp->stuck)
		(void)finish(sp, sp->stuck, done);
	free(sp->stuck);
	sp->stuck = NULL;
}

/* Has the pages go, with the entries written. w is kept if the answer is late. Returns the
 * number gone; *ret_error. */
static uint32_t leave(struct cop_space *sp, struct window *w, int *ret_error)
{
	unsigned int done = 0;
	int r = w->nr_ranges == 0 ? 0
		: sp->shared	  ? punch(sp, w, &done)
				  : sp->replace(sp->replace_ctx, w->ranges, w->nr_ranges, &done);

	reached(COP_POINT_REPLACED);
	*ret_error = r;
	if (r == -ETIMEDOUT) {
		/* It may still do it at any time: nothing is known of these pages until it says. */
		sp->stuck = w;
		return 0;
	}
	return finish(sp, w, done);
}

static int evict_window(struct cop_space *sp, struct window *w, uint8_t *bytes, uint32_t *ret_gone)
{
	struct read_ctx read_ctx = {bytes, w->first};
	int r, full = 0;

	cop_engine_lock(sp->engine);
	memset(sp->spoiled, 0, sizeof(sp->spoiled));
	sp->window_first = w->first;
	sp->window_nr = w->nr;
	cop_engine_unlock(sp->engine);

	r = each_run(sp, w, protect_run, NULL);
	reached(COP_POINT_PROTECTED);
	if (r == 0)
		r = each_run(sp, w, read_run, &read_ctx);
	reached(COP_POINT_READ);
	for (uint32_t i = 0; r == 0 && full == 0 && i < w->nr; i++) {
		if (w->candidate[i])
			full = encode(sp, w, i, bytes + (size_t)i * COP_PAGE_BYTES);
	}
	join_same(w);
	reached(COP_POINT_PUT);
	cop_engine_lock(sp->engine);
	if (r == 0) {
		enter_window(sp, w);
		sp->in_flight = true;
	}
	cop_engine_unlock(sp->engine);
	reached(COP_POINT_ENTERED);
	*ret_gone = leave(sp, w, r ? &(int){0} : &r);
	return r ? r : full;
}

int cop_space_evict(struct cop_space *sp, uint64_t pages, uint64_t *ret_pages)
{
	uint8_t *bytes;
	struct window *w;
	int r = 0;

	*ret_pages = 0;
	if (sp->held || sp->stuck)
		return -EBUSY;
	if (sp->state != COP_SPACE_RUNNING)
		return -ESRCH;
	r = register_all(sp);
	if (r)
		return r;
	w = NULL;
	bytes = malloc((size_t)COP_WINDOW_PAGES * COP_PAGE_BYTES);
	if (!bytes)
		r = -ENOMEM;
	for (uint64_t seen = 0; r == 0 && seen < sp->nr_pages && *ret_pages < pages;) {
		uint32_t gone = 0;
		uint64_t want = pages - *ret_pages;
		int nr;

		w = calloc(1, sizeof(*w));
		if (!w) {
			r = -ENOMEM;
			break;
		}
		w->first = sp->hand;
		w->nr = sp->nr_pages - sp->hand < COP_WINDOW_PAGES ? sp->nr_pages - sp->hand
								   : COP_WINDOW_PAGES;
		nr = candidates(sp, w, want < COP_WINDOW_PAGES ? (uint32_t)want : COP_WINDOW_PAGES);
		spare_mappings(sp, w);
		if (nr < 0)
			r = nr;
		else if (nr > 0)
			r = evict_window(sp, w, bytes, &gone);
		*ret_pages += gone;
		seen += w->nr;
		sp->hand = w->first + w->nr == sp->nr_pages ? 0 : w->first + w->nr;
		if (sp->stuck != w)
			free(w);
	}
	free(bytes);
	if (r == -ESRCH && sp->state == COP_SPACE_RUNNING)
		sp->state = COP_SPACE_GONE;
	return r;
}

/* While held the pages must stay where they are: they get zeros. */
static int write_zeros(struct cop_space *sp, uint32_t first, uint32_t nr)
{
	static const uint8_t zeros[COP_PAGE_BYTES];

	int r = 0;

	for (uint32_t i = 0; i < nr && r == 0; i++)
		r = remote(sp, first + i, 1, zeros, true);
	return r;
}

int cop_space_discard(struct cop_space *sp, uint64_t addr, uint64_t len_bytes)
{
	uint64_t end = addr_of(sp, sp->nr_pages);
	struct window *w = NULL;
	int r = 0;

	if (sp->stuck)
		return -EBUSY;
	if (sp->state != COP_SPACE_RUNNING)
		return -ESRCH;
	if (addr < sp->addr || addr >= end || len_bytes > end - addr ||
	    (addr - sp->addr) % COP_PAGE_BYTES || len_bytes % COP_PAGE_BYTES)
		return -EINVAL;
	for (uint64_t at = addr, next; r == 0 && at < addr + len_bytes; at = next) {
		uint64_t left = (addr + len_bytes - at) / COP_PAGE_BYTES;
		uint32_t first = (uint32_t)((at - sp->addr) / COP_PAGE_BYTES);

		free(w);
		w = calloc(1, sizeof(*w));
		if (!w)
			return -ENOMEM;
		w->first = first;
		w->nr = left < COP_WINDOW_PAGES ? (uint32_t)left : COP_WINDOW_PAGES;
		next = at + (uint64_t)w->nr * COP_PAGE_BYTES;
		/* Held: a shared image may be a template's already. Mappings: a guest must not use up
		 * what its process may have. */
		if (sp->held || (!sp->shared && sp->mappings >= sp->budget + sp->budget / 4)) {
			r = write_zeros(sp, first, w->nr);
			continue;
		}
		for (uint32_t i = 0; i < w->nr; i++) {
			w->action[i] = EMPTY;
			w->state[i] = sp->shared ? COP_PAGE_NONE : COP_PAGE_DISCARDED;
		}
		if (!sp->shared)
			r = register_all(sp);
		if (r)
			break;
		cop_engine_lock(sp->engine);
		memset(sp->spoiled, 0, sizeof(sp->spoiled));
		sp->window_first = w->first;
		sp->window_nr = w->nr;
		if (sp->shared) {
			for (uint32_t i = 0; i < w->nr; i++)
				(void)enter(sp, first + i, COP_PAGE_NONE, COP_RECORD_NONE);
		}
		enter_window(sp, w);
		sp->in_flight = true;
		cop_engine_unlock(sp->engine);
		(void)leave(sp, w, &r);
		for (uint32_t i = 0; r == 0 && i < w->nr; i++) {
			if (w->action[i] == STAY) /* no room for its entry */
				r = write_zeros(sp, first + i, 1);
		}
	}
	if (sp->stuck != w)
		free(w);
	return r;
}
