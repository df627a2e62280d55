/* SPDX-License-Identifier: MIT */
/*
 * vm.c: the table of VMs, and the connection to each one's shim (proto/shim.h).
 *
 * A request to the shim: the worker sends it and waits on pager.answered; the main thread reads the
 * answer. An answer after the worker has given up waiting becomes a job (JOB_LATE): until then what
 * the shim did is unknown, and the VM's window stays in flight.
 */
#include "pager/pager.h"
#include "base/cleanup.h"
#include "base/fd.h"
#include "mem/image.h"
#include "mem/uffd.h"

#include <errno.h>
#include <inttypes.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>

struct vm *vm_get(uint32_t slot, uint32_t serial)
{
	struct vm *vm = slot < MAX_VMS ? pager.vms[slot] : NULL;

	return vm && vm->serial == serial ? vm : NULL;
}

struct vm *vm_by_key(uint64_t key)
{
	for (uint32_t i = 0; i < MAX_VMS; i++) {
		if (pager.vms[i] && pager.vms[i]->key == key)
			return pager.vms[i];
	}
	return NULL;
}

static struct cop_shim_msg new_msg(struct vm *vm, enum cop_shim_type type)
{
	return (struct cop_shim_msg){
		.magic = COP_SHIM_MAGIC,
		.version = COP_SHIM_VERSION,
		.type = type,
		.id = ++vm->last_id,
	};
}

static bool wait_readable(int fd, int timeout_ms)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};

	return poll(&p, 1, timeout_ms) == 1;
}

/*
 * A status that a shim sent. What can't be one is -EPROTO: these go through the pager, up to the
 * daemon. -ETIMEDOUT means here that there is no answer yet.
 */
static int status_of(const struct cop_shim_msg *msg)
{
	return msg->status > 0 || msg->status <= -4096 || msg->status == -ETIMEDOUT ? -EPROTO
										    : msg->status;
}

static unsigned int done_of(const struct cop_shim_msg *msg)
{
	return msg->len <= COP_SHIM_MAX_RANGES ? (unsigned int)msg->len : 0;
}

void vm_look_at_loss(struct vm *vm)
{
	bool lost;

	(void)pthread_mutex_lock(&pager.lock);
	lost = vm->lost;
	(void)pthread_mutex_unlock(&pager.lock);
	if (!lost)
		return;
	cop_engine_lock(&pager.engine);
	cop_space_damage(vm->space, "QEMU lost a part of its memory: the kernel could not replace it");
	cop_engine_unlock(&pager.engine);
}

/* The worker's part of a replacement: cop_space_replace. */
static int replace(void *ctx, const struct cop_space_range *ranges, unsigned int nr,
		   unsigned int *ret_done)
{
	struct {
		struct cop_shim_msg msg;
		struct cop_shim_range ranges[COP_SHIM_MAX_RANGES];
	} packet;
	struct vm *vm = ctx;
	struct timespec until;
	int r;

	static_assert(COP_WINDOW_PAGES <= COP_SHIM_MAX_RANGES, "a window fits a packet");
	static_assert(COP_WINDOW_PAGES * COP_PAGE_BYTES <= COP_SHIM_STAGING_BYTES, "and its ranges");
	packet.msg = new_msg(vm, COP_SHIM_REPLACE);
	packet.msg.len = nr;
	for (unsigned int i = 0; i < nr; i++) {
		packet.ranges[i] = (struct cop_shim_range){
			.addr = vm->space->addr + (uint64_t)ranges[i].first * COP_PAGE_BYTES,
			.len = ranges[i].nr * COP_PAGE_BYTES,
			.op = ranges[i].to_template ? COP_SHIM_OP_TEMPLATE : COP_SHIM_OP_EMPTY,
		};
	}
	*ret_done = 0;
	(void)pthread_mutex_lock(&pager.lock);
	vm->awaited = packet.msg.id;
	vm->answered = false;
	r = vm->hung_up ? -EPIPE
			: cop_fd_send(vm->shim, &packet, sizeof(packet.msg) + nr * sizeof(packet.ranges[0]),
				      NULL, 0, MSG_DONTWAIT);
	(void)clock_gettime(CLOCK_REALTIME, &until); /* can't fail */
	until.tv_nsec += pager.replace_ms % 1000 * 1000000L;
	until.tv_sec += pager.replace_ms / 1000 + until.tv_nsec / 1000000000L;
	until.tv_nsec %= 1000000000L;
	while (r == 0 && !vm->answered && !vm->hung_up) {
		if (pthread_cond_timedwait(&pager.answered, &pager.lock, &until) == ETIMEDOUT)
			r = -ETIMEDOUT;
	}
	if (vm->answered) {
		*ret_done = vm->done <= nr ? vm->done : 0;
		r = vm->status;
		vm->awaited = 0;
	} else if (vm->hung_up) {
		r = -EPIPE;
		vm->awaited = 0;
	} else if (r == -ETIMEDOUT) {
		vm->late = true;
	} else {
		vm->awaited = 0; /* it was not sent */
	}
	(void)pthread_mutex_unlock(&pager.lock);
	vm_look_at_loss(vm);
	if (r == -ETIMEDOUT)
		pager_log(1, "VM %" PRIu64 ": its QEMU does not answer; its pages stay as they are",
			  vm->key - 1);
	return r;
}

#define MAX_EARLY COP_SHIM_MAX_DISCARDS

/*
 * Asks the shim for the region and the userfaultfd; the only reader of the socket so far. What a
 * former pager asked the shim to replace may be under way still, held up by an event that nobody has
 * read: events are read here until a replacement of nothing is answered, which is when it is over.
 * Who waits for a page is woken later. Discards that come meanwhile are kept.
 */
static int attach(struct vm *vm, struct cop_shim_msg *ret_answer, int *ret_uffd,
		  struct cop_shim_msg *ret_early, unsigned int *ret_nr_early)
{
	struct cop_shim_msg msg = new_msg(vm, COP_SHIM_ATTACH);
	int64_t until_ms = pager_now_ms() + pager.attach_ms;
	size_t nr_fds = 0;
	ssize_t n;
	int r = cop_fd_send(vm->shim, &msg, sizeof(msg), NULL, 0, MSG_DONTWAIT);

	if (r)
		return r;
	if (!wait_readable(vm->shim, (int)pager.attach_ms))
		return -ETIMEDOUT;
	n = cop_fd_recv(vm->shim, ret_answer, sizeof(*ret_answer), ret_uffd, 1, &nr_fds, MSG_DONTWAIT);
	if (n != sizeof(*ret_answer))
		return n < 0 ? (int)n : -EPROTO;
	if (ret_answer->status)
		return status_of(ret_answer);
	if (ret_answer->magic != COP_SHIM_MAGIC || ret_answer->id != msg.id || nr_fds != 1 ||
	    !(ret_answer->flags & COP_SHIM_SEEN) || cop_uffd_check(*ret_uffd) < 0)
		return -EPROTO;
	msg = new_msg(vm, COP_SHIM_REPLACE);
	r = cop_fd_send(vm->shim, &msg, sizeof(msg), NULL, 0, MSG_DONTWAIT);
	while (r == 0) {
		struct pollfd p[2] = {{.fd = vm->shim, .events = POLLIN},
				      {.fd = *ret_uffd, .events = POLLIN}};
		struct uffd_msg event;
		struct cop_shim_msg answer;

		int64_t left_ms = until_ms - pager_now_ms();

		if (left_ms <= 0)
			return -ETIMEDOUT;
		(void)poll(p, 2, (int)left_ms);
		if (p[1].revents & POLLIN)
			(void)cop_uffd_read(*ret_uffd, &event, 1);
		else if (p[1].revents)
			return -EPROTO;
		if (!p[0].revents)
			continue;
		n = cop_fd_recv(vm->shim, &answer, sizeof(answer), NULL, 0, &nr_fds, MSG_DONTWAIT);
		if (n != sizeof(answer) || answer.magic != COP_SHIM_MAGIC)
			return n < 0 ? (int)n : -EPROTO;
		if (answer.type == COP_SHIM_DISCARD && *ret_nr_early < MAX_EARLY)
			ret_early[(*ret_nr_early)++] = answer;
		if (answer.type == COP_SHIM_REPLACE && answer.id == msg.id)
			return 0;
	}
	return r;
}

static void hang_up(struct vm *vm)
{
	if (vm->hung_up)
		return;
	(void)epoll_ctl(pager.epoll, EPOLL_CTL_DEL, vm->shim, NULL);
	vm->hung_up = true;
	(void)pthread_cond_broadcast(&pager.answered);
}

void vm_answer_discard(struct vm *vm, uint32_t id, int status)
{
	struct cop_shim_msg msg = {
		.magic = COP_SHIM_MAGIC,
		.version = COP_SHIM_VERSION,
		.type = COP_SHIM_DISCARD,
		.id = id,
		.status = status,
	};

	(void)pthread_mutex_lock(&pager.lock);
	vm->discards--; /* first: the answer lets it ask again */
	if (!vm->hung_up && cop_fd_send(vm->shim, &msg, sizeof(msg), NULL, 0, MSG_DONTWAIT) < 0) {
		pager_log(1, "VM %" PRIu64 ": a discard could not be answered", vm->key - 1);
		hang_up(vm);
	}
	(void)pthread_mutex_unlock(&pager.lock);
}

/* With pager.lock. Returns the job that follows from the message, or NULL. */
static struct job *take(struct vm *vm, const struct cop_shim_msg *msg)
{
	struct job *job = NULL;

	if (msg->type == COP_SHIM_DISCARD && vm->discards == COP_SHIM_MAX_DISCARDS) {
		pager_log(1, "VM %" PRIu64 ": its QEMU asks for more than it may", vm->key - 1);
		hang_up(vm);
	} else if (msg->type == COP_SHIM_DISCARD) {
		vm->discards++;
		job = job_new(JOB_DISCARD, vm);
		job->id = msg->id;
		job->addr = msg->addr;
		job->len = msg->len;
	} else if (msg->type == COP_SHIM_REPLACE && msg->id == vm->awaited && vm->awaited) {
		vm->lost = vm->lost || (msg->flags & COP_SHIM_LOST);
		if (vm->late) {
			job = job_new(JOB_LATE, vm);
			job->len = done_of(msg);
			vm->awaited = 0;
			vm->late = false;
		} else {
			vm->status = status_of(msg);
			vm->done = done_of(msg);
			vm->answered = true;
			(void)pthread_cond_broadcast(&pager.answered);
		}
	}
	return job;
}

static int say(char *why, size_t why_len, int r, const char *text)
{
	(void)snprintf(why, why_len, "%s: %s", text, strerror(-r));
	return r;
}

int vm_add(const struct cop_pager_request *request, int shim, int own_fd, char *why, size_t why_len)
{
	struct epoll_event event = {.events = EPOLLIN};
	struct cop_shim_msg answer = {0}, early[MAX_EARLY];
	unsigned int nr_early = 0;
	struct cop_image *image = NULL;
	bool shared = request->flags & COP_PAGER_SHARED;
	cop_auto_close int uffd = -1;
	struct vm *vm = calloc(1, sizeof(*vm));
	uint32_t slot = 0;
	int r;

	if (!vm)
		return -ENOMEM;
	vm->key = request->vm;
	vm->image_id = request->image;
	vm->shim = shim;
	if (request->size == 0 || request->size % COP_PAGE_BYTES ||
	    request->size / COP_PAGE_BYTES > COP_MAX_GFN ||
	    (shared && (request->domain == 0 || request->domain > COP_MAX_DOMAIN))) {
		free(vm);
		return -EINVAL;
	}
	vm->pidfd = (int)syscall(SYS_pidfd_open, (pid_t)request->pid, 0);
	if (vm->pidfd < 0) {
		r = say(why, why_len, -errno, "no such process");
		goto fail;
	}
	if (!shared) {
		cop_engine_lock(&pager.engine);
		image = cop_image_find(&pager.engine, request->image);
		cop_engine_unlock(&pager.engine);
		if (!image) {
			r = say(why, why_len, -ENOENT, "its template was not added");
			goto fail;
		}
	}
	r = attach(vm, &answer, &uffd, early, &nr_early);
	if (r) {
		say(why, why_len, r, "the shim in QEMU does not hand over the memory");
		goto fail;
	}
	if (answer.len != request->size || answer.addr % COP_PAGE_BYTES ||
	    answer.addr > UINT64_MAX - answer.len ||
	    answer.mode != (shared ? COP_SHIM_MODE_SHARED : COP_SHIM_MODE_PRIVATE) ||
	    (image && image->size_bytes != request->size)) {
		r = say(why, why_len, -EINVAL, "QEMU has its memory mapped in another way");
		goto fail;
	}
	r = cop_space_new(&pager.engine, vm->key, (pid_t)request->pid, uffd, answer.addr, answer.len,
			  image, own_fd, image ? image->domain : request->domain, replace, vm,
			  &vm->space);
	if (r) {
		say(why, why_len, r, "cannot set up its memory");
		goto fail;
	}
	uffd = -1; /* the space's */

	(void)pthread_mutex_lock(&pager.lock);
	cop_engine_lock(&pager.engine);
	while (slot < MAX_VMS && pager.vms[slot])
		slot++;
	if (slot < MAX_VMS) {
		vm->slot = slot;
		vm->serial = pager.next_serial++;
		pager.vms[slot] = vm;
	}
	cop_engine_unlock(&pager.engine);
	(void)pthread_mutex_unlock(&pager.lock);
	if (slot == MAX_VMS) {
		r = say(why, why_len, -ENOSPC, "too many VMs");
	} else {
		event.data.u64 = (uint64_t)slot << 32 | vm->serial;
		r = epoll_ctl(pager.fault_epoll, EPOLL_CTL_ADD, vm->space->uffd, &event) < 0 ? -errno : 0;
		if (r == 0)
			r = pager_watch(SOURCE_PID, slot, vm->serial, vm->pidfd);
		if (r == 0)
			r = pager_watch(SOURCE_SHIM, slot, vm->serial, shim);
		if (r == 0) {
			pager_log(2, "VM %" PRIu64 ": added, %s", vm->key - 1, shared ? "shared" : "private");
			for (unsigned int i = 0; i < nr_early; i++)
				worker_push(take(vm, &early[i]));
			return 0;
		}
		say(why, why_len, r, "cannot watch it");
		(void)pthread_mutex_lock(&pager.lock);
		cop_engine_lock(&pager.engine);
		pager.vms[slot] = NULL;
		cop_engine_unlock(&pager.engine);
		(void)pthread_mutex_unlock(&pager.lock);
	}
	/* The caller keeps the descriptors it gave; its table stays for a next try. */
	vm->space->own_fd = -1;
	cop_space_free(vm->space, false);
fail:
	if (vm->pidfd >= 0)
		close(vm->pidfd);
	free(vm);
	return r;
}

void vm_remove(struct vm *vm)
{
	pager_log(2, "VM %" PRIu64 ": removed", vm->key - 1);
	(void)pthread_mutex_lock(&pager.lock);
	cop_engine_lock(&pager.engine);
	pager.vms[vm->slot] = NULL;
	cop_engine_unlock(&pager.engine);
	(void)pthread_mutex_unlock(&pager.lock);
	/* Closing takes them out of the epoll sets; a last event finds no VM. */
	close(vm->shim);
	close(vm->pidfd);
	cop_space_free(vm->space, true);
	while (vm->parked) {
		struct job *job = vm->parked;

		vm->parked = job->next;
		free(job);
	}
	free(vm);
}

void shim_readable(uint32_t slot, uint32_t serial)
{
	struct cop_shim_msg msg;
	struct job *job = NULL;
	struct vm *vm;
	ssize_t n;

	(void)pthread_mutex_lock(&pager.lock);
	vm = vm_get(slot, serial);
	if (vm) {
		size_t nr_fds = 0;

		n = cop_fd_recv(vm->shim, &msg, sizeof(msg), NULL, 0, &nr_fds, MSG_DONTWAIT);
		if (n == sizeof(msg) && msg.magic == COP_SHIM_MAGIC)
			job = take(vm, &msg);
		else if (n != -EAGAIN)
			hang_up(vm);
	}
	(void)pthread_mutex_unlock(&pager.lock);
	if (job)
		worker_push(job);
}

void pid_ended(uint32_t slot, uint32_t serial)
{
	struct job *job = NULL;
	struct vm *vm;

	(void)pthread_mutex_lock(&pager.lock);
	vm = vm_get(slot, serial);
	if (vm) {
		(void)epoll_ctl(pager.epoll, EPOLL_CTL_DEL, vm->pidfd, NULL);
		hang_up(vm);
		job = job_new(JOB_END, vm);
	}
	(void)pthread_mutex_unlock(&pager.lock);
	if (job)
		worker_push(job);
}
