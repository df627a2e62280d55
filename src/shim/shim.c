/* SPDX-License-Identifier: MIT */
/*
 * shim.c: libcoppice-shim.so, preloaded into QEMU: give it other memory than the file that it maps.
 *
 * Purpose: QEMU is told to keep guest RAM in a file, the dummy, which is private, empty and sparse.
 * When it maps that file the shim maps another descriptor in its place: shared for a VM that boots,
 * private for a clone. QEMU's own uses of the file (holes punched for ballooning) then hit the
 * dummy and harm nobody.
 *
 * Data: one struct; the constructor fills it in before any other thread exists.
 *
 * Threads: mmap, munmap and madvise are called by any thread of QEMU at any time, even before the
 * constructor ran, when they must be plain system calls. The control thread (control.c) starts when
 * the dummy is mapped, so QEMU may fork and change its user before that.
 *
 * Invariants:
 * 1. Without COPPICE_SHIM nothing is changed, read or opened.
 * 2. Calls that are not about the dummy or the region behave like libc's, errno included. dlsym()
 * is not used: it may allocate, and mmap may be called by an allocator.
 * 3. Never exits, prints, changes signals, or leaves a descriptor to a child of QEMU.
 *
 * On failure: a wrong COPPICE_SHIM replaces nothing; the control socket, if it can be made out,
 * answers HELLO with the reason, otherwise HELLO times out: the daemon must say HELLO before it
 * trusts a VM. A region that can't be mapped is an error of mmap() that QEMU reports, and HELLO
 * too.
 *
 * This file is compiled with -U_FILE_OFFSET_BITS, or the compiler would turn mmap into a second
 * mmap64.
 */
#include "base/cleanup.h"
#include "base/fd.h"
#include "shim/config.h"
#include "shim/control.h"
#include "shim/paging.h"
#include "shim/region.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>

#ifdef _FILE_OFFSET_BITS
#error "compile with -U_FILE_OFFSET_BITS: mmap and mmap64 must both be defined under their own names"
#endif
#ifndef MAP_TYPE
#define MAP_TYPE 0x0f
#endif

#define EXPORT __attribute__((visibility("default")))

static struct {
	bool armed; /* the variable was right; set before threads exist */
	struct cop_shim_config config;
	struct cop_shim_region region;
	struct cop_shim_control control;
	atomic_bool started; /* the control thread */
} shim = {.region = COP_SHIM_REGION_INIT};

__attribute__((constructor)) static void shim_init(void)
{
	const char *text = getenv(COP_SHIM_ENV);
	int saved = errno;
	int r;

	if (!text)
		return;
	r = cop_shim_config_parse(text, &shim.config);
	/* Children of QEMU must neither be preloaded nor find descriptors. Unsetting cannot fail.
	 */
	(void)unsetenv(COP_SHIM_ENV);
	(void)unsetenv("LD_PRELOAD");
	if (r == 0)
		r = cop_fd_set_cloexec(shim.config.ram_fd);
	if (r == 0 && shim.config.uffd_dev_fd > 0)
		r = cop_fd_set_cloexec(shim.config.uffd_dev_fd);
	if (shim.config.listen_fd >= 0 && cop_fd_set_cloexec(shim.config.listen_fd) < 0)
		shim.config.listen_fd = -1;
	shim.control.listen_fd = shim.config.listen_fd;
	shim.control.uid = shim.config.uid;
	shim.control.region = &shim.region;
	if (r == 0 && shim.config.listen_fd >= 0) {
		shim.armed = true;
	} else if (shim.config.listen_fd >= 0) {
		cop_shim_region_refuse(&shim.region, r);
		(void)cop_shim_control_start(&shim.control); /* nobody is left to tell */
	}
	errno = saved;
}

static bool is_dummy(size_t len_bytes, int flags, int fd, off_t offset)
{
	int saved = errno;
	struct stat st;
	bool same;

	if (fd < 0 || (flags & MAP_TYPE) != MAP_SHARED || (flags & MAP_ANONYMOUS) || offset != 0 ||
	    len_bytes < shim.config.size_bytes)
		return false;
	same = fstat(fd, &st) == 0 && st.st_dev == shim.config.dev && st.st_ino == shim.config.ino;
	errno = saved;
	return same;
}

/* QEMU maps its RAM. It does so once, from its main thread. */
static void *map_region(void *addr, size_t len_bytes, int prot, int flags)
{
	int saved = errno, r = 0;
	void *mapped = MAP_FAILED;

	if (shim.config.uffd_dev_fd >= 0 && !cop_shim_paging_active()) {
		r = cop_shim_paging_init(&shim.region, shim.config.uffd_dev_fd);
		if (r < 0)
			cop_shim_region_refuse(&shim.region, r);
	}
	if (r == 0) {
		mapped = cop_shim_region_map(&shim.region, addr, len_bytes, prot, flags,
					     shim.config.ram_fd, shim.config.mode);
		r = mapped == MAP_FAILED ? -errno : 0;
	}

	/* The mapping keeps the file; a descriptor would pin the memory of a template long gone. */
	cop_close(&shim.config.ram_fd);
	/* Only now, so that the first HELLO waits in the socket and is never answered too early. */
	if (!atomic_exchange(&shim.started, true)) {
		int started = cop_shim_control_start(&shim.control);

		if (started == 0 && r == 0 && cop_shim_paging_active())
			started = cop_shim_paging_start();
		if (started < 0 && r == 0) { /* a VM that can't be frozen must not start */
			cop_shim_region_withdraw(&shim.region, started);
			r = started;
		}
	}
	errno = r < 0 ? -r : saved;
	return r < 0 ? MAP_FAILED : mapped;
}

static void *map(void *addr, size_t len_bytes, int prot, int flags, int fd, off_t offset)
{
	if (shim.armed && is_dummy(len_bytes, flags, fd, offset))
		return map_region(addr, len_bytes, prot, flags);
	return cop_raw_mmap(addr, len_bytes, prot, flags, fd, offset);
}

EXPORT void *mmap(void *addr, size_t length, int prot, int flags, int fd, off_t offset)
{
	return map(addr, length, prot, flags, fd, offset);
}

EXPORT void *mmap64(void *addr, size_t length, int prot, int flags, int fd, off64_t offset)
{
	return map(addr, length, prot, flags, fd, offset);
}

EXPORT int munmap(void *addr, size_t length)
{
	if (shim.armed && cop_shim_region_overlaps(&shim.region, addr, length))
		return cop_shim_region_unmap(&shim.region, addr, length);
	return cop_raw_munmap(addr, length);
}

/* The part in the region is the pager's to discard; what surrounds it, the kernel's. */
static int discard(void *addr, size_t length, int advice)
{
	uintptr_t from = (uintptr_t)addr, to, first = (uintptr_t)shim.region.addr,
		  last = first + shim.region.len_bytes;
	int saved = errno, r;

	/* What the kernel refuses, too. */
	if (from % 4096 || __builtin_add_overflow(length, 4095, &length) ||
	    __builtin_add_overflow(from, length &= ~(size_t)4095, &to)) {
		errno = EINVAL;
		return -1;
	}
	if (from < first && cop_raw_madvise(addr, first - from, advice) < 0)
		return -1;
	if (to > last && cop_raw_madvise((void *)last, to - last, advice) < 0)
		return -1;
	from = from < first ? first : from;
	to = to > last ? last : to;
	r = cop_shim_paging_discard((void *)from, to - from);
	errno = r < 0 ? -r : saved;
	return r < 0 ? -1 : 0;
}

EXPORT int madvise(void *addr, size_t length, int advice)
{
	if (shim.armed && cop_shim_region_overlaps(&shim.region, addr, length)) {
		if (cop_shim_paging_active() && (advice == MADV_DONTNEED || advice == MADV_REMOVE))
			return discard(addr, length, advice);
		return cop_shim_region_advise(&shim.region, addr, length, advice);
	}
	return cop_raw_madvise(addr, length, advice);
}
