/* uffd.c - see uffd.h. */
#include "mem/uffd.h"

#include <errno.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>

static int call(int fd, unsigned long request, void *arg)
{
	if (ioctl(fd, request, arg) == 0)
		return 0;
	return errno == EAGAIN ? -EBUSY : -errno;
}

int cop_uffd_register(int fd, uint64_t addr, uint64_t len)
{
	struct uffdio_register r = {
		.range = {addr, len},
		.mode = UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP,
	};

	return call(fd, UFFDIO_REGISTER, &r);
}

int cop_uffd_protect(int fd, uint64_t addr, uint64_t len, bool on)
{
	struct uffdio_writeprotect w = {
		.range = {addr, len},
		.mode = on ? UFFDIO_WRITEPROTECT_MODE_WP : 0,
	};

	return call(fd, UFFDIO_WRITEPROTECT, &w);
}

int cop_uffd_wake(int fd, uint64_t addr, uint64_t len)
{
	struct uffdio_range range = {addr, len};

	return call(fd, UFFDIO_WAKE, &range);
}

int cop_uffd_copy(int fd, uint64_t addr, const void *from, uint64_t len, bool wake,
		  uint64_t *ret_done)
{
	struct uffdio_copy c = {
		.dst = addr,
		.src = (uint64_t)(uintptr_t)from,
		.len = len,
		.mode = wake ? 0 : UFFDIO_COPY_MODE_DONTWAKE,
	};
	int r = call(fd, UFFDIO_COPY, &c);

	*ret_done = c.copy > 0 ? (uint64_t)c.copy : 0;
	return r;
}

int cop_uffd_zero(int fd, uint64_t addr, uint64_t len, bool wake, uint64_t *ret_done)
{
	struct uffdio_zeropage z = {
		.range = {addr, len},
		.mode = wake ? 0 : UFFDIO_ZEROPAGE_MODE_DONTWAKE,
	};
	int r = call(fd, UFFDIO_ZEROPAGE, &z);

	*ret_done = z.zeropage > 0 ? (uint64_t)z.zeropage : 0;
	return r;
}
