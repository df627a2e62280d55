/* uffd.h - the ioctls of a userfaultfd, each 0 or -errno. Ranges in bytes, aligned to pages. See
 * userfaultfd(2), ioctl_userfaultfd(2). -EBUSY: mappings are just changing (the call's EAGAIN), try
 * again once the REMAP event has been read. */
#ifndef COP_MEM_UFFD_H
#define COP_MEM_UFFD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct uffd_msg;

/*
 * Is fd a userfaultfd, and one that doesn't block? 0 or -EINVAL. It comes from QEMU, which a guest may
 * have taken over: anything else could have a reader wait for ever, or make up events.
 */
int cop_uffd_check(int fd);
/*
 * Reads up to max events, without waiting even if QEMU, which shares the description, has made it
 * block since (before Linux 6.10 that can't be had: then it is read(2), and a race is left).
 * Returns their number, or -errno.
 */
int cop_uffd_read(int fd, struct uffd_msg *msgs, size_t max);

/* Registers for missing pages and write protection. */
int cop_uffd_register(int fd, uint64_t addr, uint64_t len);
/* Who waits for a page there is woken, and gets what the mapping gives. */
int cop_uffd_unregister(int fd, uint64_t addr, uint64_t len);
/* Removing the protection wakes who waits for it. */
int cop_uffd_protect(int fd, uint64_t addr, uint64_t len, bool on);
int cop_uffd_wake(int fd, uint64_t addr, uint64_t len);
/* *ret_done: bytes done, also on failure. wake: those who wait for what was done. -EEXIST: there is
 * a page. */
int cop_uffd_copy(int fd, uint64_t addr, const void *from, uint64_t len, bool wake,
		  uint64_t *ret_done);
int cop_uffd_zero(int fd, uint64_t addr, uint64_t len, bool wake, uint64_t *ret_done);

#endif
