/* SPDX-License-Identifier: MIT */
/*
 * client.h: HTTP and WebSockets over the daemon's unix socket.
 *
 * A client belongs to the thread that made it. Calls block for as long as the daemon works: there
 * is no time limit. Errors are those of failure.h, with the daemon's own words where it gave any.
 */
#ifndef COP_CLI_CLIENT_H
#define COP_CLI_CLIENT_H

#include <json-glib/json-glib.h>
#include <libsoup/soup.h>

struct cop_client;

/* A client of the daemon of state directory @dir. Does not connect yet. */
struct cop_client *cop_client_new(const char *dir);
void cop_client_free(struct cop_client *client);

/* The path of the daemon's socket in @dir; caller frees. */
char *cop_client_socket_path(const char *dir);

/* "/v1/vms/NAME/pause" out of ("/v1/vms/", NAME, "/pause"); NAME is escaped. Caller frees. */
char *cop_client_path(const char *before, const char *name, const char *after);

/*
 * Ask. @body may be NULL; it stays the caller's. Returns the answer's object, an empty one when the
 * daemon answers without content; the caller owns it. NULL with *@error set.
 */
JsonObject *cop_client_call(struct cop_client *client, const char *method, const char *path,
			    JsonObject *body, GError **error);

/* GET something of media type @type that is not JSON. Caller owns the result. */
GBytes *cop_client_get_bytes(struct cop_client *client, const char *path, const char *type,
			     GError **error);

/*
 * Open the WebSocket at @path. Runs the default main context meanwhile. The caller owns the result
 * and connects its signals before it runs the main context again. NULL with *@error set.
 */
SoupWebsocketConnection *cop_client_websocket(struct cop_client *client, const char *path,
					      GError **error);

#endif
