/* SPDX-License-Identifier: MIT */
/* cmd-vnc.c: coppice vnc VM: where its screen is, and a TCP port for viewers that need one. */
#include "cli/answer.h"
#include "cli/client.h"
#include "cli/commands.h"
#include "cli/failure.h"
#include "cli/options.h"
#include "cli/output.h"
#include "cli/proxy.h"

#include <glib-unix.h>
#include <stdio.h>
#include <string.h>

struct vnc_options {
	char *proxy;
};

static const GOptionEntry entries[] = {
	{"proxy", 'p', 0, G_OPTION_ARG_STRING, COP_OPTION(vnc_options, proxy),
	 "Serve it at a TCP port of 127.0.0.1 (or ADDR) until Ctrl-C; 0 finds a free port",
	 "[ADDR:]PORT"},
	{NULL},
};

/* "5901", "127.0.0.1:5901" or "[::1]:0". Caller frees *@ret_address. */
static gboolean parse_proxy(const char *text, char **ret_address, guint16 *ret_port, GError **error)
{
	const char *colon = strrchr(text, ':');
	g_autofree char *address =
		colon ? g_strndup(text, (gsize)(colon - text)) : g_strdup("127.0.0.1");
	size_t len = strlen(address);
	g_autoptr(GInetAddress) inet = NULL;
	uint64_t port;

	if (!cop_options_number("--proxy", colon ? colon + 1 : text, 0, 65535, &port, error))
		return FALSE;
	if (len > 2 && address[0] == '[' && address[len - 1] == ']') {
		address[len - 1] = '\0';
		memmove(address, address + 1, len - 1);
	}
	inet = g_inet_address_new_from_string(address);
	if (!inet)
		return cop_failure_usage(error, "--proxy: '%s' is no IP address", address);
	if (!g_inet_address_get_is_loopback(inet))
		fprintf(stderr,
			"coppice: whoever can reach %s may see and use the screen: VNC has no "
			"password here\n",
			address);
	*ret_address = g_steal_pointer(&address);
	*ret_port = (guint16)port;
	return TRUE;
}

static gboolean on_signal(gpointer user)
{
	g_main_loop_quit(user);
	return G_SOURCE_CONTINUE;
}

static int serve(struct cop_cli *cli, const char *vm, const char *address, guint16 wanted,
		 GError **error)
{
	g_autofree char *path = cop_client_path("/v1/vms/", vm, "/vnc");
	g_autoptr(GMainLoop) loop = g_main_loop_new(NULL, FALSE);
	gboolean v6 = strchr(address, ':') != NULL;
	guint16 port;
	struct cop_proxy *proxy = cop_proxy_new(cli->dir, path, address, wanted, &port, error);

	if (!proxy)
		return COP_EXIT_FAILED;
	g_unix_signal_add(SIGINT, on_signal, loop);
	g_unix_signal_add(SIGTERM, on_signal, loop);
	g_unix_signal_add(SIGHUP, on_signal, loop);
	if (cli->json) {
		g_autoptr(JsonObject) document = json_object_new();

		json_object_set_string_member(document, "address", address);
		json_object_set_int_member(document, "port", port);
		cop_output_json(document);
		fflush(stdout);
	} else {
		cop_output_line("%s%s%s:%u\n", v6 ? "[" : "", address, v6 ? "]" : "", port);
	}
	g_main_loop_run(loop);
	cop_proxy_free(proxy);
	return COP_EXIT_OK;
}

static int run(struct cop_cli *cli, const void *options, char **args, GError **error)
{
	const struct vnc_options *o = options;
	g_autofree char *path = NULL, *address = NULL;
	g_autoptr(JsonObject) vm = NULL;
	struct cop_client *client;
	const char *socket;
	guint16 port = 0;

	if (!cop_options_name("VM", args[0], error) ||
	    (o->proxy && !parse_proxy(o->proxy, &address, &port, error)))
		return COP_EXIT_USAGE;
	client = cop_cli_client(cli, error);
	path = cop_client_path("/v1/vms/", args[0], "");
	vm = client ? cop_client_call(client, "GET", path, NULL, error) : NULL;
	if (!vm)
		return COP_EXIT_FAILED;
	socket = cop_answer_string(vm, "vnc_socket");
	if (!*socket) {
		gboolean none = strcmp(cop_answer_string(vm, "display"), "none") == 0;

		cop_failure_set(
			error, COP_FAILURE_WRONG_STATE,
			none ? "run it with --display vga" : "is it running? see coppice ps",
			none ? "VM '%s' has no display" : "VM '%s' has no screen now", args[0]);
		return COP_EXIT_FAILED;
	}
	if (o->proxy)
		return serve(cli, args[0], address, port, error);
	if (cli->json) {
		g_autoptr(JsonObject) document = json_object_new();

		json_object_set_string_member(document, "vnc_socket", socket);
		cop_output_json(document);
	} else {
		cop_output_line("%s\n", socket);
	}
	return COP_EXIT_OK;
}

const struct cop_command cop_cmd_vnc = {
	.name = "vnc",
	.arguments = "VM",
	.summary = "Show where a VM's screen is, or serve it at a TCP port",
	.details = "Prints the path of the VM's VNC socket. With --proxy: prints the address, and "
		   "joins every connection to the screen.",
	.min_args = 1,
	.max_args = 1,
	.options = entries,
	.options_bytes = sizeof(struct vnc_options),
	.run = run,
};
