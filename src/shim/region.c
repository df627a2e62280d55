/* SPDX-License-Identifier: MIT */
/*
 * region.c: guest RAM inside QEMU. States, locks and invariants in region.h.
 *
 * System calls: mmap, munmap, madvise, msync, fstat, fcntl(F_GETFL).
 *
 * One mmap(MAP_FIXED) replaces the region: the kernel takes the old mapping away and puts the new
 * one in under its own write lock, so that other threads that touch the region meanwhile wait in
 * their page fault and never see nothing. Unmapping first, or moving a mapping there in pieces, has
 * a moment in which they would be killed.
 *
 * What QEMU 7.2 sets on guest RAM: MADV_HUGEPAGE, MADV_DONTFORK, MADV_MERGEABLE (not with
 * -machine mem-merge=off), MADV_DONTDUMP with -machine dump-guest-core=off.
 */
#include "shim/region.h"
#include "shim/paging.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PAGE_BYTES 4096

void *cop_raw_mmap(void *addr, size_t len_bytes, int prot, int flags, int fd, off_t offset)
{
	return (void *)syscall(SYS_mmap, addr, len_bytes, prot, flags, fd, offset);
}

int cop_raw_munmap(void *addr, size_t len_bytes)
{
	return (int)syscall(SYS_munmap, addr, len_bytes);
}

int cop_raw_madvise(void *addr, size_t len_bytes, int advice)
{
	return (int)syscall(SYS_madvise, addr, len_bytes, advice);
}

/* May @fd be mapped as @mode for @len_bytes? Invariants 1 and 3. */
static int check_file(int fd, size_t len_bytes, enum cop_shim_mode mode)
{
	struct stat st;
	int flags;

	if (fstat(fd, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode))
		return -EINVAL;
	if (st.st_size < 0 || (uint64_t)st.st_size < len_bytes)
		return -EFBIG;
	flags = fcntl(fd, F_GETFL);
	if (flags < 0)
		return -errno;
	if (mode == COP_SHIM_MODE_PRIVATE && (flags & O_ACCMODE) != O_RDONLY)
		return -EPERM;
	return 0;
}

void *cop_shim_region_map(struct cop_shim_region *region, void *addr, size_t len_bytes, int prot,
			  int flags, int ram_fd, enum cop_shim_mode mode)
{
	int kept = flags & (MAP_FIXED | MAP_FIXED_NOREPLACE | MAP_NORESERVE);
	void *mapped = MAP_FAILED;
	int r = 0;

	(void)pthread_mutex_lock(&region->lock); /* a normal mutex, not held: cannot fail */
	if (region->seen)
		r = -EBUSY;
	else if (region->error)
		r = region->error;
	if (r == 0)
		r = check_file(ram_fd, len_bytes, mode);
	if (r == 0) {
		/* A clone is promised no memory of its own: that is what the budget is for. */
		mapped = cop_raw_mmap(addr, len_bytes, prot,
				      kept | (mode == COP_SHIM_MODE_SHARED
						      ? MAP_SHARED
						      : MAP_PRIVATE | MAP_NORESERVE),
				      ram_fd, 0);
		if (mapped == MAP_FAILED)
			r = -errno;
	}
	if (r == 0 && mode == COP_SHIM_MODE_PRIVATE && cop_shim_paging_active()) {
		r = cop_shim_paging_register(mapped, len_bytes);
		if (r < 0) {
			(void)cop_raw_munmap(mapped, len_bytes);
			mapped = MAP_FAILED;
		}
	}
	if (r == 0) {
		region->addr = mapped;
		region->len_bytes = (len_bytes + PAGE_BYTES - 1) & ~(size_t)(PAGE_BYTES - 1);
		region->mode = mode;
		region->seen = true;
	} else if (!region->seen) {
		region->error = r;
	}
	(void)pthread_mutex_unlock(&region->lock);
	if (r < 0)
		errno = -r;
	return mapped;
}

void cop_shim_region_withdraw(struct cop_shim_region *region, int error)
{
	(void)pthread_mutex_lock(&region->lock);
	/* As QEMU's reservation was. If it fails, QEMU still hears of the error and stops. */
	(void)cop_raw_mmap(region->addr, region->len_bytes, PROT_NONE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
	region->seen = false;
	region->mode = COP_SHIM_MODE_NONE;
	region->error = error;
	(void)pthread_mutex_unlock(&region->lock);
}

bool cop_shim_region_overlaps(struct cop_shim_region *region, const void *addr, size_t len_bytes)
{
	uintptr_t a = (uintptr_t)addr, start;

	if (!region->seen)
		return false;
	start = (uintptr_t)region->addr;
	/* Written so that no sum can overflow, whatever QEMU passes. */
	return a < start ? len_bytes > start - a : a - start < region->len_bytes && len_bytes > 0;
}

int cop_shim_region_unmap(struct cop_shim_region *region, void *addr, size_t len_bytes)
{
	bool was_seen;
	int r;

	(void)pthread_mutex_lock(&region->lock);
	was_seen = region->seen;
	/* Whatever comes to lie there now is not ours: invariant 2. */
	region->seen = false;
	while (region->replacing)
		(void)pthread_cond_wait(&region->idle, &region->lock);
	r = cop_raw_munmap(addr, len_bytes);
	if (r == 0) {
		region->mode = COP_SHIM_MODE_NONE;
		region->error = -ENXIO;
	} else {
		region->seen = was_seen;
	}
	(void)pthread_mutex_unlock(&region->lock);
	return r;
}

/* The group that @advice belongs to, or -1 when it leaves no lasting setting. */
static int advice_group(int advice)
{
	switch (advice) {
	case MADV_DONTFORK:
	case MADV_DOFORK:
		return COP_SHIM_ADVICE_FORK;
	case MADV_DONTDUMP:
	case MADV_DODUMP:
		return COP_SHIM_ADVICE_DUMP;
	case MADV_MERGEABLE:
	case MADV_UNMERGEABLE:
		return COP_SHIM_ADVICE_MERGE;
	case MADV_HUGEPAGE:
	case MADV_NOHUGEPAGE:
		return COP_SHIM_ADVICE_HUGE;
	default:
		return -1;
	}
}

int cop_shim_region_advise(struct cop_shim_region *region, void *addr, size_t len_bytes, int advice)
{
	int group = advice_group(advice);
	int r;

	if (group < 0) /* a discard, for example: must not wait for a replacement */
		return cop_raw_madvise(addr, len_bytes, advice);
	/* The kernel's same-page merging forgets that a page was write-protected by the pager, and
	 * a write to it would be lost. It is advice: not taking it is no error. */
	if (advice == MADV_MERGEABLE && cop_shim_paging_active())
		return 0;
	(void)pthread_mutex_lock(&region->lock);
	r = cop_raw_madvise(addr, len_bytes, advice);
	/* QEMU sets these on whole blocks; a part of one would be lost by a replacement. */
	if (r == 0 && region->seen && addr == region->addr && len_bytes >= region->len_bytes) {
		region->advice[group] = advice;
		if (group == COP_SHIM_ADVICE_DUMP && cop_shim_paging_active())
			cop_shim_paging_advise(advice);
	}
	(void)pthread_mutex_unlock(&region->lock);
	return r;
}

/* Is there still a mapping behind every page of the region? */
static bool is_mapped(const struct cop_shim_region *region)
{
	/* Does nothing but look, and fails with ENOMEM at a gap. */
	return msync(region->addr, region->len_bytes, MS_ASYNC) == 0;
}

static int replace(struct cop_shim_region *region, int fd)
{
	const int prot = PROT_READ | PROT_WRITE, flags = MAP_PRIVATE | MAP_NORESERVE;
	void *trial;
	int r = check_file(fd, region->len_bytes, COP_SHIM_MODE_PRIVATE);

	if (r < 0)
		return r;
	/* Find out elsewhere whether this file can be mapped: a failure over the region can leave a
	 * gap. */
	trial = cop_raw_mmap(NULL, PAGE_BYTES, prot, flags, fd, 0);
	if (trial == MAP_FAILED)
		return -errno;
	(void)cop_raw_munmap(trial, PAGE_BYTES); /* mapped above; at worst a page stays behind */

	if (cop_raw_mmap(region->addr, region->len_bytes, prot, flags | MAP_FIXED, fd, 0) ==
	    MAP_FAILED) {
		r = -errno;
		region->lost = !is_mapped(region);
		return r;
	}
	region->mode = COP_SHIM_MODE_PRIVATE;
	region->generation++;
	if (cop_shim_paging_active()) {
		r = cop_shim_paging_register(region->addr, region->len_bytes);
		if (r < 0) { /* holes of the image would be zeros */
			region->lost = true;
			return r;
		}
	}
	for (int group = 0; group < COP_SHIM_NR_ADVICE_GROUPS; group++) {
		/* Advice: the VM is right without it, so a failure is no reason to fail. */
		if (region->advice[group] >= 0)
			(void)cop_raw_madvise(region->addr, region->len_bytes,
					      region->advice[group]);
	}
	return 0;
}

int cop_shim_region_map_private(struct cop_shim_region *region, uint64_t addr, uint64_t len_bytes,
				int fd)
{
	int r;

	(void)pthread_mutex_lock(&region->lock);
	if (region->lost)
		r = -ENOTRECOVERABLE;
	else if (!region->seen)
		r = region->error ? region->error : -ENXIO;
	else if (addr != (uintptr_t)region->addr || len_bytes != region->len_bytes)
		r = -EINVAL;
	else if (region->replacing)
		r = -EBUSY;
	else
		r = replace(region, fd);
	(void)pthread_mutex_unlock(&region->lock);
	return r;
}

int cop_shim_region_begin(struct cop_shim_region *region)
{
	int r = 0;

	(void)pthread_mutex_lock(&region->lock);
	if (region->lost)
		r = -ENOTRECOVERABLE;
	else if (!region->seen)
		r = region->error ? region->error : -ENXIO;
	else if (region->mode != COP_SHIM_MODE_PRIVATE)
		r = -EINVAL;
	else
		region->replacing = true;
	(void)pthread_mutex_unlock(&region->lock);
	return r;
}

void cop_shim_region_end(struct cop_shim_region *region)
{
	(void)pthread_mutex_lock(&region->lock);
	region->replacing = false;
	(void)pthread_cond_broadcast(&region->idle);
	(void)pthread_mutex_unlock(&region->lock);
}

void cop_shim_region_lose(struct cop_shim_region *region)
{
	(void)pthread_mutex_lock(&region->lock);
	region->lost = true;
	(void)pthread_mutex_unlock(&region->lock);
}

void cop_shim_region_refuse(struct cop_shim_region *region, int error)
{
	(void)pthread_mutex_lock(&region->lock);
	region->error = error;
	(void)pthread_mutex_unlock(&region->lock);
}

int cop_shim_region_describe(struct cop_shim_region *region, struct cop_shim_msg *answer)
{
	int error;

	(void)pthread_mutex_lock(&region->lock);
	if (region->seen) {
		answer->addr = (uintptr_t)region->addr;
		answer->len = region->len_bytes;
		answer->flags |= COP_SHIM_SEEN;
	}
	if (region->lost)
		answer->flags |= COP_SHIM_LOST;
	answer->mode = region->mode;
	answer->generation = region->generation;
	error = region->error;
	(void)pthread_mutex_unlock(&region->lock);
	return error;
}
