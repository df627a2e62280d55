/* Can the memory engine work here? See uffd.h. */
#include "uffd.h"
#include "gerror.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define DEVICE "/dev/userfaultfd"
#define NEEDED (UFFD_FEATURE_EVENT_REMAP | UFFD_FEATURE_PAGEFAULT_FLAG_WP | \
		UFFD_FEATURE_WP_HUGETLBFS_SHMEM)

static struct {
	gsize once;
	char *why; /* it can't work; NULL: it can */
	const char *source;
} finding;

static char *look(void)
{
	struct uffdio_api api = {.api = UFFD_API, .features = NEEDED};
	int device = open(DEVICE, O_RDWR | O_CLOEXEC), fd, err = errno;
	gboolean by_device = device >= 0;

	if (by_device) {
		fd = ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC);
		err = errno;
		close(device);
	} else {
		fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
		if (err == ENOENT)
			err = errno;
	}
	finding.source = by_device ? DEVICE : "the system call";
	if (fd < 0)
		return g_strdup_printf("no userfaultfd: %s\n%s", g_strerror(err),
				       err == ENOSYS
					       ? "it needs a kernel with CONFIG_USERFAULTFD, 5.19 "
						 "or later"
					       : "run coppiced as root, or let its user open "
						 DEVICE ", or sysctl "
						 "vm.unprivileged_userfaultfd=1");
	if (ioctl(fd, UFFDIO_API, &api) < 0) {
		close(fd);
		return g_strdup("this kernel's userfaultfd can't write-protect memory of a tmpfs\n"
				"it needs Linux 5.19 or later");
	}
	close(fd);
	return NULL;
}

gboolean cop_uffd_check(GError **error)
{
	if (g_once_init_enter(&finding.once)) {
		finding.why = look();
		g_once_init_leave(&finding.once, 1);
	}
	if (!finding.why)
		return TRUE;
	return cop_gerror_set(error, COP_ERR_UNSUPPORTED, "%s", finding.why);
}

const char *cop_uffd_source(void)
{
	(void)cop_uffd_check(NULL);
	return finding.source;
}

int cop_uffd_open_device(GError **error)
{
	int fd = open(DEVICE, O_RDWR | O_CLOEXEC);

	/* Whoever may not open it may have the sysctl. */
	if (fd >= 0 || errno == ENOENT || errno == EACCES)
		return fd >= 0 ? fd : -1;
	cop_gerror_errno(error, errno, "cannot open " DEVICE);
	return -2;
}
