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
#include <unistd.h>

#define BATCH 16

/* With the engine's lock. Returns false when there was nothing to read. */
static bool serve(struct vm *vm)
{
	struct uffd_msg msgs[BATCH];
	ssize_t n = read(vm->space->uffd, msgs, sizeof(msgs));

	if (n <= 0)
		return false;
	for (size_t i = 0; i < (size_t)n / sizeof(msgs[0]); i++) {
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
	return true;
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
			if (vm)
				(void)serve(vm);
			cop_engine_unlock(&pager.engine);
		}
	}
	return NULL;
}
