/* Unix sockets in the state folder, for their owner only; free TCP ports. */
#ifndef COP_DAEMON_SOCKETS_H
#define COP_DAEMON_SOCKETS_H

#include <glib.h>

#include "state.h"

/* Listens at the path, in the place of whatever was there; mode 0600, close-on-exec. type:
 * SOCK_STREAM or SOCK_SEQPACKET, with SOCK_NONBLOCK or not. -1 with error set. */
int cop_socket_listen(const char *path, int type, GError **error);
/* Connects, close-on-exec; type as above. -1 with errno set. */
int cop_socket_connect(const char *path, int type);
/* A port of 127.0.0.1 that nobody listens at and no VM has; 0 with error set. Takes the lock. */
unsigned cop_socket_free_port(struct cop_state *state, GError **error);

#endif
