/* SPDX-License-Identifier: MIT */
/* seqpacket.h: connecting to a unix socket, and waiting for one, with a deadline. */
#ifndef COP_PROTO_SEQPACKET_H
#define COP_PROTO_SEQPACKET_H

#include <stdint.h>

/* The monotonic clock. */
int64_t cop_seqpacket_now_ms(void);

/* Waits for @events (of poll(2)) on @fd. 0, -ETIMEDOUT or -errno. */
int cop_seqpacket_wait(int fd, short events, int64_t deadline_ms);

/*
 * Connects to the SOCK_SEQPACKET socket at @path (at most 107 bytes). Works as soon as it listens;
 * a full backlog makes it wait. Returns the descriptor, close-on-exec and the caller's, or -errno:
 * -ENOENT and -ECONNREFUSED when nobody is there, -ETIMEDOUT.
 */
int cop_seqpacket_connect(const char *path, unsigned int timeout_ms);

#endif
