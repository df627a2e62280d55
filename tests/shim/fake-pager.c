/* SPDX-License-Identifier: MIT */
/* fake-pager.c: see fake-pager.h. */
#include "fake-pager.h"
#include "base/cleanup.h"
#include "base/fd.h"

#include <errno.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <unistd.h>

static struct uffdio_range range_of(const struct fake_pager *pager, size_t first, size_t nr)
{
	return (struct uffdio_range){pager->addr + first * PAGE, nr * PAGE};
}

static void wake(struct fake_pager *pager, size_t first, size_t nr)
{
	struct uffdio_range range = range_of(pager, first, nr);

	(void)ioctl(pager->uffd, UFFDIO_WAKE, &range);
}

/* Returns 0 or -errno; -EAGAIN until the reader has read a REMAP event. */
static int protect(struct fake_pager *pager, size_t first, size_t nr, bool on)
{
	struct uffdio_writeprotect wp = {
		.range = range_of(pager, first, nr),
		.mode = on ? UFFDIO_WRITEPROTECT_MODE_WP : 0,
	};

	return ioctl(pager->uffd, UFFDIO_WRITEPROTECT, &wp) < 0 ? -errno : 0;
}

static bool in_flight(const struct fake_pager *pager, size_t gfn)
{
	return gfn - pager->flight_first < pager->flight_nr;
}

static void on_missing(struct fake_pager *pager, size_t gfn)
{
	unsigned char page[PAGE];

	pager->nr_missing++;
	(void)pthread_mutex_lock(&pager->lock);
	if (pager->stored[gfn]) {
		struct uffdio_copy copy = {
			.dst = pager->addr + gfn * PAGE,
			.src = (uintptr_t)pager->store[gfn],
			.len = PAGE,
		};
		int r = ioctl(pager->uffd, UFFDIO_COPY, &copy) < 0 ? -errno : 0;

		/* EEXIST: an old event; in flight the page is about to go. EAGAIN: there is a REMAP
		 * event to read first; the thread faults again. */
		if (r == 0 || (r == -EEXIST && !in_flight(pager, gfn)))
			pager->stored[gfn] = false;
	} else if (is_hole(pager->image_fd, gfn)) {
		for (size_t i = 0; i < PAGE; i++)
			page[i] = pattern(gfn * PAGE + i);
		if (pwrite(pager->image_fd, page, PAGE, (off_t)(gfn * PAGE)) == PAGE)
			pager->nr_loaded++;
	}
	(void)pthread_mutex_unlock(&pager->lock);
	wake(pager, gfn, 1);
}

static void on_protected(struct fake_pager *pager, size_t gfn)
{
	pager->nr_protected++;
	(void)pthread_mutex_lock(&pager->lock);
	/* What is in flight is woken at its end. */
	if (!in_flight(pager, gfn) && protect(pager, gfn, 1, false) < 0)
		wake(pager, gfn, 1);
	(void)pthread_mutex_unlock(&pager->lock);
}

static void *reader_main(void *argument)
{
	struct fake_pager *pager = argument;
	struct pollfd p[2] = {{.fd = pager->uffd, .events = POLLIN},
			      {.fd = pager->stop, .events = POLLIN}};

	while (poll(p, 2, -1) > 0 && !p[1].revents) {
		struct uffd_msg event;
		size_t gfn;

		if (read(pager->uffd, &event, sizeof(event)) != sizeof(event))
			continue;
		if (event.event == UFFD_EVENT_REMAP)
			pager->nr_remaps++;
		if (event.event != UFFD_EVENT_PAGEFAULT)
			continue;
		gfn = (event.arg.pagefault.address - pager->addr) / PAGE;
		if (gfn >= pager->nr_pages)
			continue; /* in no test: the fault would wait, and the test fail */
		if (event.arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WP)
			on_protected(pager, gfn);
		else
			on_missing(pager, gfn);
	}
	return NULL;
}

void fake_pager_attach(struct fake_pager *pager, struct rig *rig, int conn)
{
	struct cop_shim_msg msg = {.magic = COP_SHIM_MAGIC,
				   .version = COP_SHIM_VERSION,
				   .type = COP_SHIM_ATTACH,
				   .id = 4711};
	struct pollfd p = {.events = POLLIN};
	size_t nr_fds = 0;

	*pager = (struct fake_pager){
		.conn = conn < 0 ? connect_raw(rig) : conn,
		.uffd = -1,
		.stop = -1,
		.image_fd = rig->ram_fd,
		.pid = rig->pid,
		.lock = PTHREAD_MUTEX_INITIALIZER,
		.nr_pages = rig->ram_bytes / PAGE,
	};
	p.fd = pager->conn;
	assert_int_equal(cop_fd_send(pager->conn, &msg, sizeof(msg), NULL, 0, 0), 0);
	assert_int_equal(poll(&p, 1, PATIENCE_MS), 1);
	assert_int_equal(cop_fd_recv(pager->conn, &msg, sizeof(msg), &pager->uffd, 1, &nr_fds, 0),
			 sizeof(msg));
	assert_int_equal(msg.status, 0);
	assert_int_equal(msg.type, COP_SHIM_ATTACH);
	assert_int_equal(msg.id, 4711);
	assert_true(msg.flags & COP_SHIM_SEEN);
	assert_int_equal(msg.len, rig->ram_bytes);
	assert_int_equal(nr_fds, 1);
	pager->addr = msg.addr;
	pager->store = calloc(pager->nr_pages, PAGE);
	pager->stored = calloc(pager->nr_pages, sizeof(bool));
	assert_true(pager->store && pager->stored);
}

void fake_pager_read_events(struct fake_pager *pager)
{
	pager->stop = eventfd(0, EFD_CLOEXEC);
	assert_true(pager->stop >= 0);
	assert_int_equal(pthread_create(&pager->reader, NULL, reader_main, pager), 0);
}

void fake_pager_done(struct fake_pager *pager)
{
	uint64_t one = 1;

	if (!pager->store)
		return;
	if (pager->stop >= 0) {
		assert_int_equal(write(pager->stop, &one, sizeof(one)), sizeof(one));
		(void)pthread_join(pager->reader, NULL);
	}
	cop_close(&pager->stop);
	cop_close(&pager->conn);
	cop_close(&pager->uffd);
	free(pager->store);
	free(pager->stored);
	pager->store = NULL;
}

void fake_pager_register(struct fake_pager *pager)
{
	struct uffdio_register r = {
		.range = range_of(pager, 0, pager->nr_pages),
		.mode = UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP,
	};

	assert_int_equal(ioctl(pager->uffd, UFFDIO_REGISTER, &r), 0);
}

void fake_pager_send_replace(struct fake_pager *pager, const struct cop_shim_range *ranges,
			     size_t nr)
{
	struct {
		struct cop_shim_msg msg;
		struct cop_shim_range ranges[COP_SHIM_MAX_RANGES];
	} packet = {.msg = {.magic = COP_SHIM_MAGIC,
			    .version = COP_SHIM_VERSION,
			    .type = COP_SHIM_REPLACE,
			    .len = nr,
			    .id = 99}};

	for (size_t i = 0; i < nr; i++) {
		packet.ranges[i] = ranges[i];
		packet.ranges[i].addr = pager->addr + ranges[i].addr * PAGE;
		packet.ranges[i].len = ranges[i].len * PAGE;
	}
	assert_int_equal(cop_fd_send(pager->conn, &packet,
				     sizeof(packet.msg) + nr * sizeof(*ranges), NULL, 0, 0),
			 0);
}

struct cop_shim_msg fake_pager_replace(struct fake_pager *pager,
				       const struct cop_shim_range *ranges, size_t nr)
{
	struct cop_shim_msg answer;

	fake_pager_send_replace(pager, ranges, nr);
	answer = receive_raw(pager->conn);
	assert_int_equal(answer.type, COP_SHIM_REPLACE);
	assert_int_equal(answer.id, 99);
	return answer;
}

size_t fake_pager_evict(struct fake_pager *pager, size_t first, size_t nr)
{
	struct cop_shim_range ranges[COP_SHIM_MAX_RANGES];
	struct cop_shim_msg answer;
	size_t nr_ranges = 0;

	(void)pthread_mutex_lock(&pager->lock);
	pager->flight_first = first;
	pager->flight_nr = nr;
	for (size_t gfn = first; gfn < first + nr; gfn++) {
		struct cop_shim_range *last = nr_ranges ? &ranges[nr_ranges - 1] : NULL;

		if (pager->stored[gfn])
			continue;
		if (last && last->addr + last->len == gfn)
			last->len++;
		else
			ranges[nr_ranges++] = (struct cop_shim_range){gfn, 1, COP_SHIM_OP_EMPTY};
	}
	(void)pthread_mutex_unlock(&pager->lock);

	for (size_t i = 0; i < nr_ranges; i++) {
		struct iovec to = {pager->store[ranges[i].addr], ranges[i].len * PAGE};
		struct iovec from = {(char *)(uintptr_t)pager->addr + ranges[i].addr * PAGE,
				     ranges[i].len * PAGE};
		int r;

		while ((r = protect(pager, ranges[i].addr, ranges[i].len, true)) == -EAGAIN)
			(void)sched_yield();
		assert_int_equal(r, 0);
		assert_int_equal(process_vm_readv(pager->pid, &to, 1, &from, 1, 0), to.iov_len);
	}
	(void)pthread_mutex_lock(&pager->lock);
	for (size_t i = 0; i < nr_ranges; i++)
		memset(&pager->stored[ranges[i].addr], true, ranges[i].len);
	(void)pthread_mutex_unlock(&pager->lock);
	answer = fake_pager_replace(pager, ranges, nr_ranges);
	assert_int_equal(answer.status, 0);
	assert_int_equal(answer.len, nr_ranges);
	(void)pthread_mutex_lock(&pager->lock);
	pager->flight_nr = 0;
	(void)pthread_mutex_unlock(&pager->lock);
	for (size_t i = 0; i < nr_ranges; i++)
		wake(pager, ranges[i].addr, ranges[i].len);
	return nr_ranges;
}
