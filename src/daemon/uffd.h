/* Can the memory engine work here? It needs a userfaultfd that serves the kernel's faults too. */
#ifndef COP_DAEMON_UFFD_H
#define COP_DAEMON_UFFD_H

#include <glib.h>

/* Tries it, once. FALSE with COP_ERR_UNSUPPORTED, what is missing and what to do. */
gboolean cop_uffd_check(GError **error);
/* How it is made: "/dev/userfaultfd" or "the system call". */
const char *cop_uffd_source(void);
/* A descriptor of /dev/userfaultfd for a QEMU that may not open it itself; -1 without an error: there
 * is no such file, and the system call must do. -2 with error set. */
int cop_uffd_open_device(GError **error);

#endif
