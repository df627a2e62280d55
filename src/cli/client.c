/* SPDX-License-Identifier: MIT */
/* client.c: HTTP and WebSockets over the daemon's unix socket: see client.h. */
#include "cli/client.h"
#include "cli/answer.h"
#include "cli/failure.h"

#include <gio/gunixsocketaddress.h>
#include <string.h>

/* Far above what the daemon sends in one WebSocket message (32 KiB). */
#define MAX_MESSAGE_BYTES (16u * 1024 * 1024)

struct cop_client {
	SoupSession *session;
	char *dir;
};

char *cop_client_socket_path(const char *dir)
{
	return g_build_filename(dir, "coppiced.sock", NULL);
}

char *cop_client_path(const char *before, const char *name, const char *after)
{
	g_autofree char *escaped = g_uri_escape_string(name, NULL, FALSE);

	return g_strconcat(before, escaped, after, NULL);
}

struct cop_client *cop_client_new(const char *dir)
{
	struct cop_client *client = g_new0(struct cop_client, 1);
	g_autofree char *path = cop_client_socket_path(dir);
	g_autoptr(GSocketAddress) address = g_unix_socket_address_new(path);

	client->dir = g_strdup(dir);
	client->session = soup_session_new_with_options("remote-connectable", address, "timeout", 0,
							"idle-timeout", 0, "proxy-resolver", NULL,
							"user-agent", "coppice", NULL);
	return client;
}

void cop_client_free(struct cop_client *client)
{
	if (!client)
		return;
	g_object_unref(client->session);
	g_free(client->dir);
	g_free(client);
}

static SoupMessage *new_message(const char *method, const char *path)
{
	g_autofree char *uri = g_strconcat("http://coppiced", path, NULL);

	return soup_message_new(method, uri);
}

/* The request did not get an answer. */
static void no_answer(struct cop_client *client, const GError *why, GError **error)
{
	g_autofree char *hint = g_strdup_printf("see %s/coppiced.log", client->dir);

	cop_failure_set(error, COP_FAILURE_UNREACHABLE, hint, "coppiced did not answer: %s",
			why->message);
}

/* Send @message; returns the body of a 2xx answer, or NULL with *@error set from any other. */
static GBytes *send(struct cop_client *client, SoupMessage *message, GError **error)
{
	g_autoptr(GError) why = NULL;
	g_autoptr(GBytes) bytes = soup_session_send_and_read(client->session, message, NULL, &why);
	g_autoptr(JsonObject) object = NULL;
	SoupStatus status = soup_message_get_status(message);
	const char *text;
	gsize len;

	if (!bytes) {
		no_answer(client, why, error);
		return NULL;
	}
	if (SOUP_STATUS_IS_SUCCESSFUL(status))
		return g_steal_pointer(&bytes);
	text = g_bytes_get_data(bytes, &len);
	object = len ? cop_answer_parse(text, (gssize)len, NULL) : NULL;
	cop_failure_from_json(error, object, status);
	return NULL;
}

JsonObject *cop_client_call(struct cop_client *client, const char *method, const char *path,
			    JsonObject *body, GError **error)
{
	g_autoptr(SoupMessage) message = new_message(method, path);
	g_autoptr(GBytes) bytes = NULL;
	g_autoptr(GError) why = NULL;
	JsonObject *object;
	const char *text;
	gsize len;

	if (body) {
		g_autoptr(JsonNode) node = json_node_new(JSON_NODE_OBJECT);
		g_autoptr(GBytes) out = NULL;
		char *json;

		json_node_set_object(node, body);
		json = json_to_string(node, FALSE);
		out = g_bytes_new_take(json, strlen(json));
		soup_message_set_request_body_from_bytes(message, "application/json", out);
	}
	bytes = send(client, message, error);
	if (!bytes)
		return NULL;
	text = g_bytes_get_data(bytes, &len);
	if (len == 0)
		return json_object_new();
	object = cop_answer_parse(text, (gssize)len, &why);
	if (!object) {
		char *reason = why->message;

		reason[strcspn(reason, "\n")] = '\0';
		cop_failure_set(error, COP_FAILURE_INTERNAL,
				"are coppice and coppiced of the same version?",
				"coppiced's answer to %s %s makes no sense: %s", method, path,
				reason);
	}
	return object;
}

GBytes *cop_client_get_bytes(struct cop_client *client, const char *path, const char *type,
			     GError **error)
{
	g_autoptr(SoupMessage) message = new_message("GET", path);
	g_autoptr(GBytes) bytes = send(client, message, error);
	const char *got;

	if (!bytes)
		return NULL;
	got = soup_message_headers_get_content_type(soup_message_get_response_headers(message),
						    NULL);
	if (g_strcmp0(got, type) != 0) {
		cop_failure_set(error, COP_FAILURE_INTERNAL, NULL,
				"coppiced answered GET %s with %s instead of %s", path,
				got ? got : "nothing", type);
		return NULL;
	}
	return g_steal_pointer(&bytes);
}

struct upgrade {
	SoupWebsocketConnection *connection;
	GError *error;
	gboolean done;
};

static void on_connected(GObject *source, GAsyncResult *result, gpointer user)
{
	struct upgrade *up = user;

	up->connection =
		soup_session_websocket_connect_finish(SOUP_SESSION(source), result, &up->error);
	up->done = TRUE;
}

SoupWebsocketConnection *cop_client_websocket(struct cop_client *client, const char *path,
					      GError **error)
{
	g_autoptr(SoupMessage) message = new_message("GET", path);
	struct upgrade up = {0};
	GError *refusal = NULL;

	soup_session_websocket_connect_async(client->session, message, NULL, NULL,
					     G_PRIORITY_DEFAULT, NULL, on_connected, &up);
	while (!up.done)
		g_main_context_iteration(NULL, TRUE);
	if (up.connection) {
		soup_websocket_connection_set_max_incoming_payload_size(up.connection,
									MAX_MESSAGE_BYTES);
		return up.connection;
	}
	if (soup_message_get_status(message) == SOUP_STATUS_NONE) {
		no_answer(client, up.error, error);
	} else {
		/* libsoup drops the body of a refusal: ask again, without an upgrade. */
		g_autoptr(SoupMessage) plain = new_message("GET", path);
		g_autoptr(GBytes) bytes = send(client, plain, &refusal);

		if (!refusal)
			cop_failure_set(&refusal, COP_FAILURE_INTERNAL, NULL,
					"coppiced refused the connection: %s", up.error->message);
		g_propagate_error(error, refusal);
	}
	g_error_free(up.error);
	return NULL;
}
