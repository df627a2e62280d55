/* SPDX-License-Identifier: MIT */
/*
 * paging.c: see paging.h; what the pager does with it is in docs/ENGINE.md.
 *
 * System calls: userfaultfd or ioctl(USERFAULTFD_IOC_NEW), ioctl(UFFDIO_*), mmap, madvise, mremap,
 * msync, eventfd2, poll, recvmsg, sendmsg. QEMU's -sandbox lets all of them pass.
 *
 * mremap(MREMAP_FIXED | MREMAP_DONTUNMAP): the destination's old mapping goes and the new one,
 * registered and empty, comes under one hold of the kernel's mapping lock; the source stays mapped
 * and registered. Linux 5.7. Where vm.max_map_count would be exceeded it fails before it takes
 * anything away. It fails after that, with a gap, when the process is over a limit of its address
 * space (RLIMIT_AS, RLIMIT_DATA) that was lowered after the fact, or the kernel is out of memory:
 * the region is lost then.
 *
 * Memory that replaces parts of the region has the settings of the staging area: never in a child,
 * no huge pages (their pages would come and go together), in dumps as the region is.
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
	int conn;	      /* the thread's own */
	pthread_mutex_t lock; /* covers the rest */
	pthread_cond_t changed;
	int next_conn; /* of a pager that has just attached */
	bool has_next;
	uint32_t last_id;
	struct slot slots[COP_SHIM_MAX_DISCARDS];
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
	/* That a kernel does not know one of them is no failure. */
	(void)cop_raw_madvise(staging, COP_SHIM_STAGING_BYTES, MADV_DONTFORK);
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

void cop_shim_paging_advise(int advice)
{
	(void)cop_raw_madvise(paging.staging, COP_SHIM_STAGING_BYTES, advice); /* advice */
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

int cop_shim_paging_discard(void *addr, size_t len_bytes)
{
	struct slot *slot = NULL;
	int saved = errno, status;

	(void)pthread_mutex_lock(&paging.lock);
	while (!slot) {
		for (int i = 0; i < COP_SHIM_MAX_DISCARDS && !slot; i++) {
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
	errno = saved;
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
		for (int i = 0; i < COP_SHIM_MAX_DISCARDS; i++) {
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
	for (int i = 0; i < COP_SHIM_MAX_DISCARDS && paging.conn >= 0 && !left; i++) {
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

/* A pager's answer to a discard. One that nobody asked for means nothing. */
static void take_answer(const struct cop_shim_msg *msg)
{
	(void)pthread_mutex_lock(&paging.lock);
	for (int i = 0; i < COP_SHIM_MAX_DISCARDS; i++) {
		struct slot *slot = &paging.slots[i];

		if (slot->state == SLOT_SENT && slot->id == msg->id) {
			slot->status =
				msg->status > 0 || msg->status < -4095 ? -EPROTO : msg->status;
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

/* Is @range whole pages of the region, and its op known? */
static bool range_is_valid(const struct cop_shim_range *range)
{
	const struct cop_shim_region *region = paging.region;
	uint64_t offset = range->addr - (uintptr_t)region->addr; /* huge when below */

	if (range->addr % PAGE_BYTES || range->len % PAGE_BYTES || range->len == 0 ||
	    offset >= region->len_bytes || range->len > region->len_bytes - offset)
		return false;
	return range->op == COP_SHIM_OP_TEMPLATE ||
	       (range->op == COP_SHIM_OP_EMPTY && range->len <= COP_SHIM_STAGING_BYTES);
}

/* May last until there is a pager. Holds no lock. */
static int replace_range(const struct cop_shim_range *range)
{
	void *addr = (void *)(uintptr_t)range->addr;
	int r;

	if (range->op == COP_SHIM_OP_TEMPLATE)
		return cop_raw_madvise(addr, range->len, MADV_DONTNEED) < 0 ? -errno : 0;
	if (syscall(SYS_mremap, paging.staging, range->len, range->len,
		    MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP, addr) == (long)range->addr)
		return 0;
	r = -errno;
	if (msync(addr, range->len, MS_ASYNC) < 0) /* does nothing but look: a gap */
		cop_shim_region_lose(paging.region);
	return r;
}

/* One after the other until one fails. *@ret_done: how many were done, also on failure. */
static int replace(const struct cop_shim_range *ranges, uint64_t nr, uint64_t *ret_done)
{
	struct cop_shim_region *region = paging.region;
	int r = 0;

	*ret_done = 0;
	if (nr == 0)
		return 0; /* over is what came before */
	r = cop_shim_region_begin(region);
	if (r < 0)
		return r;
	for (uint64_t i = 0; i < nr && r == 0; i++)
		r = range_is_valid(&ranges[i]) ? 0 : -EINVAL;
	while (r == 0 && *ret_done < nr) {
		if (!region->seen) /* QEMU waits to unmap it */
			r = -ENXIO;
		else if (another_pager())
			r = -ECANCELED;
		else
			r = replace_range(&ranges[*ret_done]);
		*ret_done += r == 0;
	}
	cop_shim_region_end(region);
	return r;
}

struct packet {
	struct cop_shim_msg msg;
	struct cop_shim_range ranges[COP_SHIM_MAX_RANGES];
};

static_assert(offsetof(struct packet, ranges) == sizeof(struct cop_shim_msg), "sent as is");

/* Carry out the request of @len_bytes. Returns the status of the answer. */
static int perform(const struct packet *packet, size_t len_bytes, struct cop_shim_msg *answer)
{
	const struct cop_shim_msg *msg = &packet->msg;
	size_t ranges_bytes = len_bytes - sizeof(*msg);
	int r;

	if (msg->magic != COP_SHIM_MAGIC)
		return -EBADMSG;
	if (msg->version != COP_SHIM_VERSION)
		return -EPROTONOSUPPORT;
	if (msg->status || msg->mode || msg->flags || msg->generation || msg->reserved || msg->addr)
		return -EINVAL;
	switch (msg->type) {
	case COP_SHIM_HELLO:
		r = cop_shim_region_describe(paging.region, answer);
		return ranges_bytes ? -EMSGSIZE : msg->len ? -EINVAL : r;
	case COP_SHIM_REPLACE:
		if (msg->len > COP_SHIM_MAX_RANGES ||
		    ranges_bytes != msg->len * sizeof(struct cop_shim_range))
			return -EMSGSIZE;
		r = replace(packet->ranges, msg->len, &answer->len);
		if (paging.region->lost)
			answer->flags |= COP_SHIM_LOST;
		return r;
	default:
		return -EOPNOTSUPP;
	}
}

/* Receives and answers one message. Returns false when the connection is to be closed. */
static bool serve(void)
{
	struct packet packet = {0};
	struct cop_shim_msg answer = {.magic = COP_SHIM_MAGIC, .version = COP_SHIM_VERSION};
	size_t nr_fds = 0;
	ssize_t n =
		cop_fd_recv(paging.conn, &packet, sizeof(packet), NULL, 0, &nr_fds, MSG_DONTWAIT);

	if (n == -EAGAIN)
		return true;
	if (n <= 0 && n != -E2BIG && n != -EMSGSIZE)
		return false;
	if (packet.msg.type ==
	    COP_SHIM_DISCARD) { /* never answered: it would look like a question */
		if (n == sizeof(packet.msg) && packet.msg.magic == COP_SHIM_MAGIC &&
		    packet.msg.version == COP_SHIM_VERSION)
			take_answer(&packet.msg);
		return true;
	}
	answer.type = packet.msg.type;
	answer.id = packet.msg.id;
	if (n < 0)
		answer.status = (int)n;
	else if (n < (ssize_t)sizeof(packet.msg))
		answer.status = -EMSGSIZE;
	else
		answer.status = perform(&packet, (size_t)n, &answer);
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
