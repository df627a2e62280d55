/* VNC: the daemon hands connections to QEMU over its monitor; no VNC server listens in QEMU. */
#ifndef COP_DAEMON_BRIDGE_H
#define COP_DAEMON_BRIDGE_H

#include <libsoup/soup.h>

#include "state.h"

/* Gives a connected socket to the VM's VNC server, in the background. fd is taken. */
void cop_bridge_vnc(struct cop_vm *vm, int fd);
/* Joins a WebSocket with a new connection to the VM's VNC server. Main loop's thread. */
void cop_bridge_vnc_websocket(struct cop_vm *vm, SoupWebsocketConnection *ws);

#endif
