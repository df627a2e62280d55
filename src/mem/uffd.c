/* uffd.c - see uffd.h. */
#include "mem/uffd.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <unistd.h>

static int call(int fd, unsigned long request, void *arg)
{
	if (ioctl(fd, request, arg) == 0)
		return 0;
	return errno == EAGAIN ? -EBUSY : -errno;
}

int cop_uffd_check(int fd)
{
	static const char wanted[] = "anon_inode:[userfaultfd]";
	char path[40], target[sizeof(wanted)];
	int flags = fcntl(fd, F_GETFL);

	(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return flags >= 0 && (flags & O_NONBLOCK) &&
			       readlink(path, target, sizeof(target)) == sizeof(wanted) - 1 &&
			       memcmp(target, wanted, sizeof(wanted) - 1) == 0
		       ? 0
		       : -EINVAL;
}

int cop_uffd_read(int fd, struct uffd_msg *msgs, size_t max)
{
	struct iovec to = {msgs, max * sizeof(*msgs)};
	ssize_t n = preadv2(fd, &to, 1, -1, RWF_NOWAIT);

	if (n < 0 && errno == EOPNOTSUPP)
		n = read(fd, msgs, to.iov_len);
	return n < 0 ? -errno : (int)((size_t)n / sizeof(*msgs));
}

int cop_uffd_register(int fd, uint64_t addr, uint64_t len)
{
	struct uffdio_register r = {
		.range = {addr, len},
		.mode = UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP,
	};

	return call(fd, UFFDIO_REGISTER, &r);
}

int cop_uffd_unregister(int fd, uint64_t addr, uint64_t len)
{
	struct uffdio_range range = {addr, len};

	return call(fd, UFFDIO_UNREGISTER, &range);
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
