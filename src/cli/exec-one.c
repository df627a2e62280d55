/* SPDX-License-Identifier: MIT */
/* exec-one.c: one command in one VM: see exec-one.h. */
#include "cli/exec-one.h"
#include "cli/answer.h"
#include "cli/client.h"
#include "cli/exec.h"
#include "cli/failure.h"
#include "cli/output.h"
#include "cli/terminal.h"

#include <errno.h>
#include <fcntl.h>
#include <glib-unix.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define MAX_KEPT_BYTES (1024u * 1024)
#define LEAVE_AFTER 3 /* times Ctrl-C */

struct one {
	struct cop_exec *exec;
	gboolean collect, left;
	GByteArray *kept[2];
	gboolean truncated;
	unsigned interrupts;
};

static gboolean on_output(int stream, const guint8 *data, gsize len, void *user)
{
	struct one *one = user;
	GByteArray *kept = one->kept[stream - 1];

	if (!one->collect)
		return cop_exec_write(stream, data, len);
	g_byte_array_append(kept, data, (guint)len);
	if (kept->len > 2 * MAX_KEPT_BYTES) {
		g_byte_array_remove_range(kept, 0, kept->len - MAX_KEPT_BYTES);
		one->truncated = TRUE;
	}
	return TRUE;
}

static gboolean on_int(gpointer user)
{
	struct one *one = user;

	one->left = ++one->interrupts >= LEAVE_AFTER;
	if (one->exec)
		cop_exec_signal(one->exec, SIGINT);
	return G_SOURCE_CONTINUE;
}

static gboolean on_term(gpointer user)
{
	struct one *one = user;

	if (one->exec)
		cop_exec_signal(one->exec, SIGTERM);
	return G_SOURCE_CONTINUE;
}

static gboolean on_hup(gpointer user)
{
	struct one *one = user;

	if (one->exec)
		cop_exec_signal(one->exec, SIGHUP);
	return G_SOURCE_CONTINUE;
}

static gboolean on_winch(gpointer user)
{
	struct one *one = user;
	struct winsize size;

	if (one->exec && ioctl(0, TIOCGWINSZ, &size) == 0)
		cop_exec_resize(one->exec, size.ws_row, size.ws_col);
	return G_SOURCE_CONTINUE;
}

static void set_tty(JsonObject *request)
{
	JsonObject *tty = json_object_new();
	struct winsize size = {.ws_row = 24, .ws_col = 80};

	(void)ioctl(0, TIOCGWINSZ, &size); /* the size above will do */
	json_object_set_int_member(tty, "rows", size.ws_row);
	json_object_set_int_member(tty, "columns", size.ws_col);
	json_object_set_object_member(request, "tty", tty);
}

static void print_json(struct one *one, const char *name, int status, const GError *error)
{
	g_autoptr(JsonObject) document = json_object_new();
	static const char *const keys[] = {"stdout", "stderr"};

	json_object_set_string_member(document, "name", name);
	json_object_set_int_member(document, "status", status);
	for (int i = 0; i < 2; i++) {
		guint len = MIN(one->kept[i]->len, MAX_KEPT_BYTES);
		g_autofree char *text =
			g_utf8_make_valid((char *)one->kept[i]->data + one->kept[i]->len - len,
					  (gssize)len);

		one->truncated = one->truncated || len < one->kept[i]->len;
		json_object_set_string_member(document, keys[i], text);
	}
	json_object_set_boolean_member(document, "truncated", one->truncated);
	if (one->exec && cop_exec_result(one->exec))
		json_object_set_object_member(document, "result",
					      json_object_ref(cop_exec_result(one->exec)));
	if (!error)
		cop_output_json(document);
}

/* Standard input may be closed: a descriptor that is opened later must not be taken for it. */
static int input(void)
{
	return fcntl(0, F_GETFD) < 0 ? -1 : 0;
}

static int talk(struct one *one, SoupWebsocketConnection *ws, JsonObject *request,
		gboolean terminal, GError **error)
{
	struct cop_exec_wish wish = {
		.request = request, .in_fd = input(), .output = on_output, .user = one};
	int status = terminal ? cop_terminal_make_raw() : 0;

	if (status < 0) {
		g_object_unref(ws);
		cop_failure_set(error, COP_FAILURE_INTERNAL, NULL, "cannot set the terminal: %s",
				g_strerror(-status));
		return COP_EXEC_FAILED;
	}
	one->exec = cop_exec_new(ws, &wish);
	while (!cop_exec_done(one->exec) && !one->left)
		g_main_context_iteration(NULL, TRUE);
	cop_terminal_restore();
	if (!cop_exec_done(one->exec))
		return COP_EXEC_SIGNALLED + SIGINT;
	return cop_exec_status(one->exec, error);
}

int cop_exec_one(struct cop_cli *cli, const char *name, const char *path, JsonObject *request,
		 gboolean terminal, GError **error)
{
	struct cop_client *client = cop_cli_client(cli, error);
	struct one one = {.collect = cli->json};
	SoupWebsocketConnection *ws;
	guint sources[4];
	GError *why = NULL;
	int status = COP_EXEC_FAILED;

	if (!client)
		return status;
	one.kept[0] = g_byte_array_new();
	one.kept[1] = g_byte_array_new();
	/* Before the command begins: none may be lost in between. */
	sources[0] = g_unix_signal_add(SIGINT, on_int, &one);
	sources[1] = g_unix_signal_add(SIGTERM, on_term, &one);
	sources[2] = g_unix_signal_add(SIGHUP, on_hup, &one);
	sources[3] = g_unix_signal_add(SIGWINCH, on_winch, &one);
	if (terminal)
		set_tty(request);
	ws = cop_client_websocket(client, path, &why);
	if (ws)
		status = talk(&one, ws, request, terminal, &why);
	for (size_t i = 0; i < G_N_ELEMENTS(sources); i++)
		g_source_remove(sources[i]);
	if (cli->json)
		print_json(&one, name, status, why);
	cop_exec_free(one.exec);
	g_byte_array_unref(one.kept[0]);
	g_byte_array_unref(one.kept[1]);
	if (why)
		g_propagate_error(error, why);
	return status;
}
