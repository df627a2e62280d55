/* uffd.h - the ioctls of a userfaultfd, each 0 or -errno. Ranges in bytes, aligned to pages. See
 * userfaultfd(2), ioctl_userfaultfd(2). -EBUSY: mappings are just changing (the call's EAGAIN), try
 * again once the REMAP event has been read. */
#ifndef COP_MEM_UFFD_H
#define COP_MEM_UFFD_H

#include <stdbool.h>
#include <stdint.h>

/* Registers for missing pages and write protection. */
int cop_uffd_register(int fd, uint64_t addr, uint64_t len);
/* Removing the protection wakes who waits for it. */
int cop_uffd_protect(int fd, uint64_t addr, uint64_t len, bool on);
int cop_uffd_wake(int fd, uint64_t addr, uint64_t len);
/* *ret_done: bytes done, also on failure. wake: those who wait for what was done. -EEXIST: there is
 * a page. */
int cop_uffd_copy(int fd, uint64_t addr, const void *from, uint64_t len, bool wake,
		  uint64_t *ret_done);
int cop_uffd_zero(int fd, uint64_t addr, uint64_t len, bool wake, uint64_t *ret_done);

#endif
