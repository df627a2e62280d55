/* SPDX-License-Identifier: MIT */
/*
 * paging.c: see paging.h; what the pager does with it is in docs/ENGINE.md.
 *
 * System calls: userfaultfd or ioctl(USERFAULTFD_IOC_NEW), ioctl(UFFDIO_*), mmap, madvise, mremap,
 * msync, eventfd2, poll, recvmsg, sendmsg. QEMU's -sandbox lets all of them pass.
 *
 * mremap(MREMAP_FIXED | MREMAP_DONTUNMAP): the destination's old mapping goes and the new one,
 * registered and empty, comes under one hold of the kernel's mapping lock; the source stays mapped
 * and registered. Linux 5.7. It looks at the number of mappings before it takes anything away; should
 * it fail later, with the destination gone already, the region is lost.
 */
#include "shim/paging.h"
#include "base/cleanup.h"
#include "base/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif
#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif

#define PAGE_BYTES  4096
#define STACK_BYTES (128 * 1024)
#define NR_SLOTS    16
#define FEATURES                                                                                   \
	(UFFD_FEATURE_EVENT_REMAP | UFFD_FEATURE_PAGEFAULT_FLAG_WP |                               \
	 UFFD_FEATURE_WP_HUGETLBFS_SHMEM)

enum slot_state { SLOT_FREE, SLOT_WANTED, SLOT_SENT, SLOT_DONE };

struct slot {
	enum slot_state state;
	uint32_t id;
	uint64_t addr, len;
	int status;
};

static struct {
	bool active;
	int uffd;
	int wake; /* an eventfd: something new for the thread */
	void *staging;
	struct cop_shim_region *region;
	atomic_bool busy;
	pthread_mutex_t lock; /* the rest */
	pthread_cond_t changed;
	int next_conn;	      /* of a pager that has just attached */
	bool has_next;
	uint32_t last_id;
	struct slot slots[NR_SLOTS];
	int conn; /* the thread's own */
} paging = {
	.uffd = -1,
	.wake = -1,
	.lock = PTHREAD_MUTEX_INITIALIZER,
	.changed = PTHREAD_COND_INITIALIZER,
	.next_conn = -1,
	.conn = -1,
};

static int register_range(void *addr, size_t len_bytes, uint64_t mode)
{
	struct uffdio_register r = {.range = {(uintptr_t)addr, len_bytes}, .mode = mode};

	return ioctl(paging.uffd, UFFDIO_REGISTER, &r) < 0 ? -errno : 0;
}

int cop_shim_paging_init(struct cop_shim_region *region, int dev_fd)
{
	struct uffdio_api api = {.api = UFFD_API, .features = FEATURES};
	void *staging;
	int r = 0;

	paging.active = true; /* whatever fails: nothing must be done in the plain way */
	paging.region = region;
	if (dev_fd > 0) {
		paging.uffd = ioctl(dev_fd, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
		r = paging.uffd < 0 ? -errno : 0;
		cop_close(&dev_fd);
	} else {
		paging.uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
		r = paging.uffd < 0 ? -errno : 0;
	}
	if (r == 0 && ioctl(paging.uffd, UFFDIO_API, &api) < 0)
		r = errno == EINVAL ? -ENODEV : -errno;
	if (r == 0) {
		paging.wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		r = paging.wake < 0 ? -errno : 0;
	}
	if (r < 0)
		return r;
	staging = cop_raw_mmap(NULL, COP_SHIM_STAGING_BYTES, PROT_READ | PROT_WRITE,
			       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (staging == MAP_FAILED)
		return -errno;
	/* What comes from here has these settings, whatever QEMU sets on its RAM as a whole. That a
	 * kernel knows them not is no failure. */
	(void)cop_raw_madvise(staging, COP_SHIM_STAGING_BYTES, MADV_DONTFORK);
	(void)cop_raw_madvise(staging, COP_SHIM_STAGING_BYTES, MADV_DONTDUMP);
	(void)cop_raw_madvise(staging, COP_SHIM_STAGING_BYTES, MADV_NOHUGEPAGE);
	paging.staging = staging;
	return register_range(staging, COP_SHIM_STAGING_BYTES,
			      UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP);
}

bool cop_shim_paging_active(void)
{
	return paging.active;
}

int cop_shim_paging_register(void *addr, size_t len_bytes)
{
	return register_range(addr, len_bytes, UFFDIO_REGISTER_MODE_MISSING);
}

int cop_shim_paging_fd(void)
{
	return paging.uffd;
}

static void poke(void)
{
	uint64_t one = 1;

	(void)!write(paging.wake, &one, sizeof(one)); /* full: it is awake */
}

void cop_shim_paging_attach(int conn)
{
	int older;

	(void)pthread_mutex_lock(&paging.lock);
	older = paging.has_next ? paging.next_conn : -1;
	paging.next_conn = conn;
	paging.has_next = true;
	(void)pthread_mutex_unlock(&paging.lock);
	cop_close(&older);
	poke();
}

bool cop_shim_paging_busy(void)
{
	return atomic_load(&paging.busy);
}

int cop_shim_paging_discard(void *addr, size_t len_bytes)
{
	struct slot *slot = NULL;
	int status;

	(void)pthread_mutex_lock(&paging.lock);
	while (!slot) {
		for (int i = 0; i < NR_SLOTS && !slot; i++) {
			if (paging.slots[i].state == SLOT_FREE)
				slot = &paging.slots[i];
		}
		if (!slot)
			(void)pthread_cond_wait(&paging.changed, &paging.lock);
	}
	*slot = (struct slot){SLOT_WANTED, ++paging.last_id, (uintptr_t)addr, len_bytes, 0};
	poke();
	while (slot->state != SLOT_DONE)
		(void)pthread_cond_wait(&paging.changed, &paging.lock);
	status = slot->status;
	slot->state = SLOT_FREE;
	(void)pthread_cond_broadcast(&paging.changed);
	(void)pthread_mutex_unlock(&paging.lock);
	return status;
}

/* A new pager's connection takes the place of the old one; it hears of all discards again. */
static void swap_connection(void)
{
	(void)pthread_mutex_lock(&paging.lock);
	if (paging.has_next) {
		cop_close(&paging.conn);
		paging.conn = paging.next_conn;
		paging.has_next = false;
		for (int i = 0; i < NR_SLOTS; i++) {
			if (paging.slots[i].state == SLOT_SENT)
				paging.slots[i].state = SLOT_WANTED;
		}
	}
	(void)pthread_mutex_unlock(&paging.lock);
}

/* Returns true when something is left to be sent. */
static bool send_discards(void)
{
	bool left = false;

	(void)pthread_mutex_lock(&paging.lock);
	for (int i = 0; i < NR_SLOTS && paging.conn >= 0 && !left; i++) {
		struct slot *slot = &paging.slots[i];
		struct cop_shim_msg msg = {
			.magic = COP_SHIM_MAGIC,
			.version = COP_SHIM_VERSION,
			.type = COP_SHIM_DISCARD,
			.id = slot->id,
			.addr = slot->addr,
			.len = slot->len,
		};

		if (slot->state != SLOT_WANTED)
			continue;
		if (cop_fd_send(paging.conn, &msg, sizeof(msg), NULL, 0, MSG_DONTWAIT) == 0)
			slot->state = SLOT_SENT;
		else
			left = true;
	}
	(void)pthread_mutex_unlock(&paging.lock);
	return left;
}

static void take_answer(const struct cop_shim_msg *msg)
{
	(void)pthread_mutex_lock(&paging.lock);
	for (int i = 0; i < NR_SLOTS; i++) {
		struct slot *slot = &paging.slots[i];

		if (slot->state == SLOT_SENT && slot->id == msg->id) {
			slot->status = msg->status > 0 ? -EPROTO : msg->status;
			slot->state = SLOT_DONE;
			(void)pthread_cond_broadcast(&paging.changed);
		}
	}
	(void)pthread_mutex_unlock(&paging.lock);
}

static bool another_pager(void)
{
	bool yes;

	(void)pthread_mutex_lock(&paging.lock);
	yes = paging.has_next;
	(void)pthread_mutex_unlock(&paging.lock);
	return yes;
}

static int replace_range(const struct cop_shim_range *range)
{
	struct cop_shim_region *region = paging.region;
	void *addr = (void *)(uintptr_t)range->addr;
	int r;

	/* Waits without a lock: see paging.h. QEMU never unmaps its RAM; this is for the case that it
	 * has been done long ago. */
	if (range->addr % PAGE_BYTES || range->len % PAGE_BYTES || range->len == 0 ||
	    !region->seen || range->addr < (uintptr_t)region->addr ||
	    range->addr - (uintptr_t)region->addr > region->len_bytes ||
	    range->len > region->len_bytes - (range->addr - (uintptr_t)region->addr))
		return -EINVAL;
	switch (range->op) {
	case COP_SHIM_OP_TEMPLATE:
		return cop_raw_madvise(addr, range->len, MADV_DONTNEED) < 0 ? -errno : 0;
	case COP_SHIM_OP_EMPTY:
		if (range->len > COP_SHIM_STAGING_BYTES)
			return -EINVAL;
		if (syscall(SYS_mremap, paging.staging, range->len, range->len,
			    MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP,
			    addr) == (long)range->addr)
			return 0;
		r = -errno;
		if (msync(addr, range->len, MS_ASYNC) < 0) /* a gap */
			cop_shim_region_lose(region);
		return r;
	default:
		return -EINVAL;
	}
}

/* Receives and answers one message. Returns false when the connection is to be closed. */
static bool serve(void)
{
	struct {
		struct cop_shim_msg msg;
		struct cop_shim_range ranges[COP_SHIM_MAX_RANGES];
	} packet;
	struct cop_shim_msg answer = {.magic = COP_SHIM_MAGIC, .version = COP_SHIM_VERSION};
	size_t nr_fds = 0;
	ssize_t n = cop_fd_recv(paging.conn, &packet, sizeof(packet), NULL, 0, &nr_fds, MSG_DONTWAIT);
	uint64_t nr = packet.msg.len;

	if (n == -EAGAIN)
		return true;
	if (n < (ssize_t)sizeof(packet.msg) || packet.msg.magic != COP_SHIM_MAGIC ||
	    packet.msg.version != COP_SHIM_VERSION)
		return false;
	if (packet.msg.type == COP_SHIM_DISCARD && n == sizeof(packet.msg)) {
		take_answer(&packet.msg);
		return true;
	}
	answer.type = packet.msg.type;
	answer.id = packet.msg.id;
	if (packet.msg.type == COP_SHIM_HELLO && n == sizeof(packet.msg)) {
		answer.status = cop_shim_region_describe(paging.region, &answer);
	} else if (packet.msg.type != COP_SHIM_REPLACE) {
		answer.status = -EOPNOTSUPP;
	} else if (nr > COP_SHIM_MAX_RANGES ||
		   (size_t)n != sizeof(packet.msg) + nr * sizeof(packet.ranges[0])) {
		answer.status = -EMSGSIZE;
	} else {
		atomic_store(&paging.busy, true);
		while (answer.len < nr && answer.status == 0) {
			answer.status = another_pager() ? -ECANCELED
							: replace_range(&packet.ranges[answer.len]);
			answer.len += answer.status == 0;
		}
		atomic_store(&paging.busy, false);
	}
	return cop_fd_send(paging.conn, &answer, sizeof(answer), NULL, 0, MSG_DONTWAIT) == 0;
}

static void *paging_thread(void *unused)
{
	(void)pthread_setname_np(pthread_self(), "coppice-paging"); /* only for people who look */
	for (;;) {
		struct pollfd p[2] = {{.fd = paging.wake, .events = POLLIN}};
		uint64_t pokes;

		swap_connection();
		p[1].fd = paging.conn; /* a negative one is skipped */
		p[1].events = (short)(POLLIN | (send_discards() ? POLLOUT : 0));
		if (poll(p, 2, -1) < 0)
			continue; /* EINTR; ENOMEM passes */
		(void)!read(paging.wake, &pokes, sizeof(pokes));
		if (p[1].revents && !serve())
			cop_close(&paging.conn);
	}
	return NULL;
}

int cop_shim_paging_start(void)
{
	pthread_attr_t attr;
	pthread_t thread;
	sigset_t all;
	int r = pthread_attr_init(&attr);

	if (r)
		return -r;
	(void)sigfillset(&all); /* cannot fail; libc's own signals stay open, setuid() needs them */
	r = pthread_attr_setsigmask_np(&attr, &all);
	if (r == 0)
		r = pthread_attr_setstacksize(&attr, STACK_BYTES);
	if (r == 0)
		r = pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	if (r == 0)
		r = pthread_create(&thread, &attr, paging_thread, NULL);
	(void)pthread_attr_destroy(&attr); /* frees the copy of the mask */
	return -r;
}
