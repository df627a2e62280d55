/* SPDX-License-Identifier: MIT */
/* cmd-image.c: coppice image build NAME and image ls. The builder is a program of its own. */
#include "cli/answer.h"
#include "cli/commands.h"
#include "cli/failure.h"
#include "cli/image.h"
#include "cli/launch.h"
#include "cli/output.h"
#include "cli/text.h"

#include <errno.h>
#include <gio/gio.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

struct build_options {
	char *out, *image_dir;
	gboolean force;
};

static const GOptionEntry build_entries[] = {
	{"out", 'o', 0, G_OPTION_ARG_FILENAME, COP_OPTION(build_options, out),
	 "Directory to make (default: NAME in the directory of images)", "DIR"},
	{"force", 'f', 0, G_OPTION_ARG_NONE, COP_OPTION(build_options, force),
	 "Build even if it is up to date", NULL},
	{"image-dir", 0, 0, G_OPTION_ARG_FILENAME, COP_OPTION(build_options, image_dir),
	 "Directory of built images", "DIR"},
	{NULL},
};

struct ls_options {
	char *image_dir;
};

static const GOptionEntry ls_entries[] = {
	{"image-dir", 0, 0, G_OPTION_ARG_FILENAME, COP_OPTION(ls_options, image_dir),
	 "Directory of built images", "DIR"},
	{NULL},
};

static char *find_builder(GError **error)
{
	static const char *const places[] = {"../image/build",
					     "../../image/build",
					     "../../../image/build",
					     "../lib/coppice/image/build",
					     "/usr/lib/coppice/image/build",
					     "/usr/local/lib/coppice/image/build",
					     NULL};
	const char *env = g_getenv("COPPICE_IMAGE_BUILDER");
	char *path = env && *env ? g_strdup(env) : cop_launch_find(places);

	if (!path)
		cop_failure_set(error, COP_FAILURE_NOT_FOUND,
				"set COPPICE_IMAGE_BUILDER to the path of image/build",
				"cannot find the program that builds images");
	return path;
}

/* The child of build_for_json(): standard output is the caller's standard error. */
static void child_setup(gpointer user)
{
	(void)signal(SIGINT, SIG_DFL);
	(void)dup2(2, 1); /* its output would then be lost, no more */
}

/* Build, wait, print the new image.json. Ctrl-C is the builder's, which cleans up. */
static int build_for_json(char **argv, const char *out, GError **error)
{
	g_autoptr(JsonObject) manifest = NULL;
	g_autoptr(GError) why = NULL;
	int wait_status = 0;

	(void)signal(SIGINT, SIG_IGN);
	if (!g_spawn_sync(NULL, argv, NULL, G_SPAWN_CHILD_INHERITS_STDIN, child_setup, NULL, NULL,
			  NULL, &wait_status, &why) ||
	    !g_spawn_check_wait_status(wait_status, &why)) {
		cop_failure_set(error, COP_FAILURE_INTERNAL, NULL, "%s: %s", argv[0], why->message);
		return COP_EXIT_FAILED;
	}
	manifest = cop_image_load(out, error);
	if (!manifest)
		return COP_EXIT_FAILED;
	json_object_set_string_member(manifest, "path", out);
	cop_output_json(manifest);
	return COP_EXIT_OK;
}

static int build(struct cop_cli *cli, const void *options, char **args, GError **error)
{
	const struct build_options *o = options;
	g_autofree char *image_dir = cop_image_dir(cli, o->image_dir);
	g_autofree char *out = o->out ? g_canonicalize_filename(o->out, NULL)
				      : g_build_filename(image_dir, args[0], NULL);
	g_autofree char *cache = g_build_filename(cli->dir, "cache", NULL);
	g_autofree char *parent = g_path_get_dirname(out);
	g_autofree char *builder = NULL;
	char *argv[] = {NULL, args[0], "--out", out, "--cache", cache, o->force ? "--force" : NULL,
			NULL};

	if (strcmp(args[0], "desktop") != 0 && strcmp(args[0], "minimal") != 0) {
		cop_failure_usage(error,
				  "image build: there is no image '%s'; it is one of desktop, "
				  "minimal",
				  args[0]);
		return COP_EXIT_USAGE;
	}
	builder = find_builder(error);
	if (!builder)
		return COP_EXIT_FAILED;
	argv[0] = builder;
	if (g_mkdir_with_parents(cli->dir, 0700) < 0 || g_mkdir_with_parents(cache, 0700) < 0 ||
	    g_mkdir_with_parents(parent, 0755) < 0) {
		cop_failure_set(error, COP_FAILURE_INTERNAL, NULL, "cannot make %s or %s: %s",
				cache, parent, g_strerror(errno));
		return COP_EXIT_FAILED;
	}
	if (cli->json)
		return build_for_json(argv, out, error);
	fflush(stdout);
	execv(builder, argv);
	cop_failure_set(error, COP_FAILURE_INTERNAL, NULL, "cannot run %s: %s", builder,
			g_strerror(errno));
	return COP_EXIT_FAILED;
}

static int compare_names(gconstpointer a, gconstpointer b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Names of the directories in @image_dir that have an image.json, sorted. */
static GPtrArray *list(const char *image_dir)
{
	GPtrArray *names = g_ptr_array_new_with_free_func(g_free);
	g_autoptr(GDir) dir = g_dir_open(image_dir, 0, NULL);
	const char *name;

	while (dir && (name = g_dir_read_name(dir))) {
		g_autofree char *path = g_build_filename(image_dir, name, "image.json", NULL);

		if (name[0] != '.' && g_file_test(path, G_FILE_TEST_EXISTS))
			g_ptr_array_add(names, g_strdup(name));
	}
	g_ptr_array_sort(names, compare_names);
	return names;
}

static int ls(struct cop_cli *cli, const void *options, char **args, GError **error)
{
	static const char *const headings[] = {"NAME", "KIND", ">MEMORY", "DISPLAY", "PATH", NULL};
	const struct ls_options *o = options;
	g_autofree char *image_dir = cop_image_dir(cli, o->image_dir);
	g_autoptr(GPtrArray) names = list(image_dir);
	g_autoptr(JsonObject) document = json_object_new();
	JsonArray *images = json_array_new();
	struct cop_table *table = cop_table_new(headings);
	int status = COP_EXIT_OK;

	json_object_set_array_member(document, "images", images);
	for (guint i = 0; i < names->len; i++) {
		g_autofree char *path = g_build_filename(image_dir, names->pdata[i], NULL);
		g_autoptr(GError) why = NULL;
		JsonObject *manifest = cop_image_load(path, &why);

		if (!manifest) {
			cop_failure_print(why, "");
			status = COP_EXIT_FAILED;
			continue;
		}
		cop_table_add(table, names->pdata[i]);
		cop_table_add(table, cop_answer_string(manifest, "kind"));
		cop_table_add_size(table, manifest, "memory_bytes");
		cop_table_add(table, cop_answer_string(manifest, "display"));
		cop_table_add(table, path);
		json_object_set_string_member(manifest, "path", path);
		json_array_add_object_element(images, manifest);
	}
	if (cli->json)
		cop_output_json(document);
	else
		cop_table_print(table);
	cop_table_free(table);
	return status;
}

const struct cop_command cop_cmd_image_build = {
	.name = "image build",
	.arguments = "desktop|minimal",
	.summary = "Build a guest image from Debian packages",
	.details =
		"desktop: Debian with X, icewm and xterm on a disk. minimal: a kernel and a small "
		"RAM disk. Needs root and the network; does nothing when the image is up to date.",
	.min_args = 1,
	.max_args = 1,
	.options = build_entries,
	.options_bytes = sizeof(struct build_options),
	.run = build,
};

const struct cop_command cop_cmd_image_ls = {
	.name = "image ls",
	.arguments = "",
	.summary = "List built images",
	.options = ls_entries,
	.options_bytes = sizeof(struct ls_options),
	.run = ls,
};
