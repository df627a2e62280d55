/* SPDX-License-Identifier: MIT */
/*
 * cleanup.h: release on leaving the scope.
 *
 *	cop_auto_close int fd = open(...);
 *	cop_auto_free char *text = strdup(...);
 *	...
 *	return cop_steal_fd(&fd);	(the caller owns it now)
 *
 * All of them keep errno.
 */
#ifndef COP_BASE_CLEANUP_H
#define COP_BASE_CLEANUP_H

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

/* Close *@fd unless it is negative, and set it to -1. */
static inline void cop_close(int *fd)
{
	if (*fd >= 0) {
		int saved = errno;

		/* Linux releases the number even when close() reports an error. */
		(void)close(*fd);
		errno = saved;
	}
	*fd = -1;
}

/* Take the descriptor out of *@fd: returns it and leaves -1. */
static inline int cop_steal_fd(int *fd)
{
	int taken = *fd;

	*fd = -1;
	return taken;
}

static inline void cop_free_pointer(void *pointer_to_pointer)
{
	int saved = errno;

	free(*(void **)pointer_to_pointer);
	errno = saved;
}

#define cop_auto_close __attribute__((cleanup(cop_close)))
#define cop_auto_free  __attribute__((cleanup(cop_free_pointer)))

#endif
