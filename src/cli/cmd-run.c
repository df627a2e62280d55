/* SPDX-License-Identifier: MIT */
/* cmd-run.c: coppice run [IMAGE]: boot a VM. */
#include "cli/answer.h"
#include "cli/boot.h"
#include "cli/client.h"
#include "cli/commands.h"
#include "cli/failure.h"
#include "cli/image.h"
#include "cli/labels.h"
#include "cli/options.h"
#include "cli/output.h"
#include "cli/progress.h"
#include "cli/text.h"
#include "cli/vm-line.h"

#include <string.h>

struct run_options {
	char *name, *memory, *cpus, *kernel, *initrd, *append, *accel, *engine, *display, *network,
		*image_dir, *allow_fork, *ready_timeout;
	char **disks, **qemu_args, **labels;
	gboolean ssh, wait;
};

static const GOptionEntry entries[] = {
	{"name", 'n', 0, G_OPTION_ARG_STRING, COP_OPTION(run_options, name),
	 "Name of the VM (default: the daemon finds one)", "NAME"},
	{"memory", 'm', 0, G_OPTION_ARG_STRING, COP_OPTION(run_options, memory),
	 "Guest RAM, such as 512M or 1G", "SIZE"},
	{"cpus", 'c', 0, G_OPTION_ARG_STRING, COP_OPTION(run_options, cpus), "Processors", "N"},
	{"disk", 0, 0, G_OPTION_ARG_FILENAME_ARRAY, COP_OPTION(run_options, disks),
	 "One more disk, never written to (may be repeated)", "PATH"},
	{"kernel", 0, 0, G_OPTION_ARG_FILENAME, COP_OPTION(run_options, kernel),
	 "Boot this Linux kernel", "PATH"},
	{"initrd", 0, 0, G_OPTION_ARG_FILENAME, COP_OPTION(run_options, initrd),
	 "Initial RAM disk of the kernel", "PATH"},
	{"append", 0, 0, G_OPTION_ARG_STRING, COP_OPTION(run_options, append),
	 "Command line of the kernel", "TEXT"},
	{"accel", 0, 0, G_OPTION_ARG_STRING, COP_OPTION(run_options, accel),
	 "auto (default), tcg or kvm", "ACCEL"},
	{"engine", 0, 0, G_OPTION_ARG_STRING, COP_OPTION(run_options, engine),
	 "Memory engine: auto (default), pager or kernel", "ENGINE"},
	{"display", 0, 0, G_OPTION_ARG_STRING, COP_OPTION(run_options, display), "vga or none",
	 "DISPLAY"},
	{"network", 0, 0, G_OPTION_ARG_STRING, COP_OPTION(run_options, network),
	 "user, isolated (no way out) or none", "NETWORK"},
	{"ssh", 0, 0, G_OPTION_ARG_NONE, COP_OPTION(run_options, ssh),
	 "Lead a free port of 127.0.0.1 to the guest's port 22", NULL},
	{"qemu-arg", 0, 0, G_OPTION_ARG_STRING_ARRAY, COP_OPTION(run_options, qemu_args),
	 "One more argument for QEMU (may be repeated)", "ARG"},
	{"label", 'l', 0, G_OPTION_ARG_STRING_ARRAY, COP_OPTION(run_options, labels),
	 "Label of the VM (may be repeated)", "KEY=VALUE"},
	{"allow-fork", 0, 0, G_OPTION_ARG_STRING, COP_OPTION(run_options, allow_fork),
	 "The guest may ask for so many clones and freezes of itself", "N"},
	{"wait", 'w', 0, G_OPTION_ARG_NONE, COP_OPTION(run_options, wait),
	 "Wait until the guest has booted and its agent is ready", NULL},
	{"ready-timeout", 0, 0, G_OPTION_ARG_STRING, COP_OPTION(run_options, ready_timeout),
	 "Time that --wait gives it (default 300)", "SECONDS"},
	{"image-dir", 0, 0, G_OPTION_ARG_FILENAME, COP_OPTION(run_options, image_dir),
	 "Directory of built images", "DIR"},
	{NULL},
};

static gboolean check(const struct run_options *o, uint64_t *ret_memory, uint64_t *ret_cpus,
		      GError **error)
{
	static const char *const accels[] = {"auto", "tcg", "kvm", NULL};
	static const char *const engines[] = {"auto", "pager", "kernel", NULL};
	static const char *const displays[] = {"vga", "none", NULL};
	static const char *const networks[] = {"user", "isolated", "none", NULL};

	return cop_options_name("VM", o->name, error) &&
	       cop_options_size("--memory", o->memory, ret_memory, error) &&
	       cop_options_number("--cpus", o->cpus, 1, 1024, ret_cpus, error) &&
	       cop_options_one_of("--accel", o->accel, accels, error) &&
	       cop_options_one_of("--engine", o->engine, engines, error) &&
	       cop_options_one_of("--display", o->display, displays, error) &&
	       cop_options_one_of("--network", o->network, networks, error);
}

static void set(JsonObject *request, const char *key, const char *value)
{
	if (value)
		json_object_set_string_member(request, key, value);
}

static void set_path(JsonObject *request, const char *key, const char *path)
{
	g_autofree char *absolute = path ? g_canonicalize_filename(path, NULL) : NULL;

	set(request, key, absolute);
}

static void add_disks(JsonObject *request, char **paths)
{
	JsonArray *old = cop_answer_array(request, "disks");
	JsonArray *disks = json_array_new();

	for (guint i = 0; i < cop_answer_length(old); i++)
		json_array_add_object_element(disks, json_object_ref(cop_answer_element(old, i)));
	for (; *paths; paths++)
		json_array_add_object_element(disks, cop_image_disk_spec(*paths, "auto"));
	json_object_set_array_member(request, "disks", disks);
}

static void add_options(JsonObject *request, const struct run_options *o, uint64_t memory_bytes,
			uint64_t cpus)
{
	set(request, "name", o->name);
	set_path(request, "kernel", o->kernel);
	set_path(request, "initrd", o->initrd);
	set(request, "append", o->append);
	set(request, "accel", o->accel);
	set(request, "engine", o->engine);
	set(request, "display", o->display);
	set(request, "network", o->network);
	if (o->memory)
		json_object_set_int_member(request, "memory_bytes", (gint64)memory_bytes);
	if (o->cpus)
		json_object_set_int_member(request, "cpus", (gint64)cpus);
	if (o->ssh)
		json_object_set_boolean_member(request, "ssh", TRUE);
	if (o->disks)
		add_disks(request, o->disks);
	if (o->qemu_args) {
		JsonArray *args = json_array_new();

		for (char **arg = o->qemu_args; *arg; arg++)
			json_array_add_string_element(args, *arg);
		json_object_set_array_member(request, "extra_args", args);
	}
}

static void print(JsonObject *vm)
{
	g_autofree char *memory = cop_text_size(cop_answer_uint(vm, "memory_bytes"));
	guint64 cpus = cop_answer_uint(vm, "cpus");

	cop_output_line("'%s' is running (%s, %s, %" G_GUINT64_FORMAT " processor%s)\n",
			cop_answer_string(vm, "name"), cop_answer_string(vm, "accel"), memory, cpus,
			cpus == 1 ? "" : "s");
	cop_vm_line_ssh(vm);
}

static int run(struct cop_cli *cli, const void *options, char **args, GError **error)
{
	const struct run_options *o = options;
	g_autoptr(JsonObject) request = json_object_new(), vm = NULL;
	g_autofree char *image_dir = cop_image_dir(cli, o->image_dir);
	uint64_t memory_bytes = 0, cpus = 0, forks = 0, limit_s = 300;
	struct cop_progress *progress;
	struct cop_client *client;
	gboolean ok;

	if (!check(o, &memory_bytes, &cpus, error) ||
	    !cop_labels_set(request, "labels", "--label", o->labels, error) ||
	    !cop_options_number("--ready-timeout", o->ready_timeout, 1, 3600, &limit_s, error) ||
	    !cop_options_number("--allow-fork", o->allow_fork, 1, 1024, &forks, error))
		return COP_EXIT_USAGE;
	if (!args[0] && !o->kernel && !o->disks) {
		cop_failure_usage(error, "run: nothing to boot: give an IMAGE, --disk or --kernel");
		return COP_EXIT_USAGE;
	}
	if (args[0] && !cop_image_to_request(args[0], image_dir, request, error))
		return COP_EXIT_FAILED;
	add_options(request, o, memory_bytes, cpus);
	if (forks)
		json_object_set_int_member(request, "allow_fork", (gint64)forks);
	client = cop_cli_client(cli, error);
	if (!client)
		return COP_EXIT_FAILED;
	progress = cop_progress_begin(o->wait ? "booting" : "starting", NULL, 1);
	vm = cop_client_call(client, "POST", "/v1/vms", request, error);
	ok = vm && (!o->wait || cop_boot_wait(client, cop_answer_string(vm, "name"), limit_s, error));
	cop_progress_end(progress);
	if (!ok)
		return COP_EXIT_FAILED;
	if (cli->json)
		cop_output_json(vm);
	else
		print(vm);
	return COP_EXIT_OK;
}

const struct cop_command cop_cmd_run = {
	.name = "run",
	.arguments = "[IMAGE]",
	.summary = "Boot a VM from a disk image or a kernel",
	.details = "IMAGE is the name of a built image ('coppice image ls' shows them), the path "
		   "of a built image's directory, or the path of a raw or qcow2 disk image. "
		   "Options go before what the image says. Disk images are never written to: a "
		   "VM's changes go to a layer of its own.",
	.max_args = 1,
	.options = entries,
	.options_bytes = sizeof(struct run_options),
	.run = run,
};
