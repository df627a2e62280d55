/* SPDX-License-Identifier: MIT */
/* cmd-stats.c: coppice stats [VM]. */
#include "cli/answer.h"
#include "cli/client.h"
#include "cli/commands.h"
#include "cli/memory.h"
#include "cli/options.h"
#include "cli/output.h"
#include "cli/text.h"

static void print_host(JsonObject *host)
{
	g_autofree char *memory = cop_text_size(cop_answer_uint(host, "memory_bytes"));
	g_autofree char *available = cop_text_size(cop_answer_uint(host, "available_bytes"));
	const char *cgroup = cop_answer_string(host, "cgroup");

	cop_output_line("host: %s, %s available\n", memory, available);
	if (*cgroup) {
		g_autofree char *limit =
			cop_answer_is_null(host, "limit_bytes")
				? g_strdup("none")
				: cop_text_size(cop_answer_uint(host, "limit_bytes"));
		g_autofree char *peak =
			cop_answer_is_null(host, "peak_bytes")
				? g_strdup("unknown")
				: cop_text_size(cop_answer_uint(host, "peak_bytes"));

		cop_output_line("cgroup %s: limit %s, peak %s\n", cgroup, limit, peak);
	}
}

static void print_limits(JsonObject *limits)
{
	static const char *const keys[] = {"memory_bytes", "disk_bytes"};
	static const char *const labels[] = {"memory given", "disk"};
	JsonObject *vms = cop_answer_object(limits, "vms");

	cop_output_line("limits: VMs %" G_GUINT64_FORMAT " of %" G_GUINT64_FORMAT,
			(guint64)cop_answer_uint(vms, "used"),
			(guint64)cop_answer_uint(vms, "max"));
	for (size_t i = 0; i < G_N_ELEMENTS(keys); i++) {
		JsonObject *limit = cop_answer_object(limits, keys[i]);
		g_autofree char *used = cop_text_size(cop_answer_uint(limit, "used"));
		g_autofree char *max = cop_text_size(cop_answer_uint(limit, "max"));

		cop_output_line(", %s %s of %s%s", labels[i], used, max,
				i + 1 == G_N_ELEMENTS(keys) ? "\n" : "");
	}
}

static void print_all(JsonObject *answer)
{
	JsonArray *vms = cop_answer_array(answer, "vms");
	JsonObject *total = cop_answer_object(answer, "total");

	cop_memory_print_vms(vms);
	if (cop_answer_length(vms))
		cop_output_line("\n");
	cop_memory_print_total(answer);
	cop_output_line("paid is read from %s\n", cop_answer_string(total, "source"));
	print_host(cop_answer_object(answer, "host"));
	print_limits(cop_answer_object(answer, "limits"));
}

static void print_one(JsonObject *vm)
{
	JsonObject *start = cop_answer_object(vm, "start");
	g_autofree char *disk = cop_text_size(cop_answer_uint(vm, "disk_bytes"));

	cop_memory_print_vm(vm);
	cop_output_line("\n");
	cop_output_line("disk layers of its own: %s\n", disk);
	if (start) {
		g_autofree char *total = cop_text_duration(cop_answer_double(start, "total_ms"));
		g_autofree char *spawn = cop_text_duration(cop_answer_double(start, "spawn_ms"));
		g_autofree char *qmp = cop_text_duration(cop_answer_double(start, "qmp_ms"));
		g_autofree char *load = cop_text_duration(cop_answer_double(start, "load_ms"));

		cop_output_line("started in %s (QEMU started %s, its monitor answers %s, state "
				"loaded %s)\n",
				total, spawn, qmp, load);
	}
}

static int run(struct cop_cli *cli, const void *options, char **args, GError **error)
{
	g_autofree char *path = NULL;
	g_autoptr(JsonObject) answer = NULL;
	struct cop_client *client;

	if (!cop_options_name("VM", args[0], error))
		return COP_EXIT_USAGE;
	client = cop_cli_client(cli, error);
	path = args[0] ? cop_client_path("/v1/vms/", args[0], "") : g_strdup("/v1/stats");
	if (client)
		answer = cop_client_call(client, "GET", path, NULL, error);
	if (!answer)
		return COP_EXIT_FAILED;
	if (cli->json)
		cop_output_json(answer);
	else if (args[0])
		print_one(answer);
	else
		print_all(answer);
	return COP_EXIT_OK;
}

const struct cop_command cop_cmd_stats = {
	.name = "stats",
	.arguments = "[VM]",
	.summary = "Show what VMs were given and what the host pays",
	.details = "GIVEN is guest RAM as the guest sees it, PRIVATE what only this VM holds, "
		   "SHARED what it maps of its template's single copy, STORED what was evicted to the "
		   "store and ENCODED the bytes it takes there, ZERO and SAME (as the template's) what "
		   "was evicted and takes none, FREE what the guest gave back, VMM what its QEMU "
		   "process holds besides. The total is the host's own accounting, and the place where it "
		   "was read is named.",
	.max_args = 1,
	.run = run,
};
