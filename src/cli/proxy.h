/* SPDX-License-Identifier: MIT */
/* proxy.h: TCP connections bridged to a WebSocket of the daemon. */
#ifndef COP_CLI_PROXY_H
#define COP_CLI_PROXY_H

#include <gio/gio.h>

struct cop_proxy;

/*
 * Listen at @address (IPv4 or IPv6), @port (0: a free one). From then on, each connection is joined
 * to a WebSocket at @path of the daemon of state directory @dir, while the default main context
 * runs. Sets *@ret_port. NULL with *@error set when the address can't be had.
 */
struct cop_proxy *cop_proxy_new(const char *dir, const char *path, const char *address,
				guint16 port, guint16 *ret_port, GError **error);
void cop_proxy_free(struct cop_proxy *proxy);

#endif
