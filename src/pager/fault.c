/* SPDX-License-Identifier: MIT */
/*
 * fault.c: the thread that serves faults. It reads REMAP events too: what the worker has the shim do
 * waits for that, so this thread must never wait for the worker. It allocates nothing.
 */
#include "pager/pager.h"
#include "mem/uffd.h"

#include <errno.h>
#include <linux/userfaultfd.h>
#include <sys/epoll.h>

#define BATCH 16

/* With the engine's lock. */
static void serve(struct vm *vm)
{
	struct uffd_msg msgs[BATCH];
	int n = cop_uffd_read(vm->space->uffd, msgs, BATCH);

	for (int i = 0; i < n; i++) {
		uint64_t addr = msgs[i].arg.pagefault.address;
		bool wp = msgs[i].arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WP;
		int r;

		if (msgs[i].event != UFFD_EVENT_PAGEFAULT)
			continue;
		r = cop_space_fault(vm->space, addr, wp);
		if (r == -EAGAIN)
			loader_push(vm, addr, cop_missing.image, cop_missing.gfn);
		else if (r == -ENOMEM)
			loader_push(vm, addr, NULL, 0);
	}
}

/* With the engine's lock. A userfaultfd has an error when it would block: the shim made it so that it
 * doesn't, and somebody has changed that. */
static void give_up(struct vm *vm)
{
	(void)epoll_ctl(pager.fault_epoll, EPOLL_CTL_DEL, vm->space->uffd, NULL);
	cop_space_damage(vm->space, "QEMU has made its userfaultfd unusable");
}

void *fault_thread(void *unused)
{
	struct epoll_event events[BATCH];

	(void)pthread_setname_np(pthread_self(), "fault"); /* only for people who look */
	for (;;) {
		int n = epoll_wait(pager.fault_epoll, events, BATCH, -1);

		for (int i = 0; i < n; i++) {
			struct vm *vm;

			cop_engine_lock_fault(&pager.engine);
			vm = vm_get(events[i].data.u64 >> 32, (uint32_t)events[i].data.u64);
			if (vm && (events[i].events & EPOLLERR))
				give_up(vm);
			else if (vm)
				serve(vm);
			cop_engine_unlock(&pager.engine);
		}
	}
	return NULL;
}
