/* SPDX-License-Identifier: MIT */
/* image.c: built images: see image.h. */
#include "cli/image.h"
#include "cli/answer.h"
#include "cli/failure.h"

#include <string.h>

#define MAX_MANIFEST_BYTES (1024 * 1024)

char *cop_image_dir(const struct cop_cli *cli, const char *option)
{
	const char *env = g_getenv("COPPICE_IMAGES");

	if (option)
		return g_canonicalize_filename(option, NULL);
	if (env && *env)
		return g_canonicalize_filename(env, NULL);
	return g_build_filename(cli->dir, "images", NULL);
}

static gboolean damaged(const char *image_path, GError **error, const char *what, const char *value)
{
	g_autofree char *name = g_path_get_basename(image_path);
	g_autofree char *hint =
		g_strdup_printf("coppice image build %s --force --out %s", name, image_path);

	return cop_failure_set(error, COP_FAILURE_DAMAGED, hint, "%s is no usable image: %s%s%s%s",
			       image_path, what, value ? " '" : "", value ? value : "",
			       value ? "'" : "");
}

/* Does member @key name a file in the image? One that is missing passes unless @required. */
static gboolean check_file(const char *image_path, JsonObject *manifest, const char *key,
			   gboolean required, GError **error)
{
	const char *file = cop_answer_string(manifest, key);
	g_autofree char *path = g_build_filename(image_path, file, NULL);

	if (!*file && !required && !json_object_has_member(manifest, key))
		return TRUE;
	if (!*file)
		return damaged(image_path, error, "image.json has no text at", key);
	if (strchr(file, '/') || strcmp(file, ".") == 0 || strcmp(file, "..") == 0)
		return damaged(image_path, error, "image.json names a file outside of it:", file);
	if (!g_file_test(path, G_FILE_TEST_IS_REGULAR))
		return damaged(image_path, error, "there is no file", file);
	return TRUE;
}

static gboolean check(const char *image_path, JsonObject *manifest, GError **error)
{
	const char *kind = cop_answer_string(manifest, "kind");

	if (cop_answer_uint(manifest, "format") != 1)
		return damaged(image_path, error, "image.json is not of format 1", NULL);
	if (strcmp(kind, "disk") == 0)
		return check_file(image_path, manifest, "disk", TRUE, error);
	if (strcmp(kind, "kernel") == 0)
		return check_file(image_path, manifest, "kernel", TRUE, error) &&
		       check_file(image_path, manifest, "initrd", FALSE, error);
	return damaged(image_path, error, "image.json is of an unknown kind:", kind);
}

JsonObject *cop_image_load(const char *image_path, GError **error)
{
	g_autofree char *path = g_build_filename(image_path, "image.json", NULL);
	g_autofree char *text = NULL;
	g_autoptr(JsonObject) manifest = NULL;
	g_autoptr(GError) why = NULL;
	gsize len;

	if (!g_file_get_contents(path, &text, &len, &why)) {
		cop_failure_set(error, COP_FAILURE_NOT_FOUND, NULL, "cannot read %s: %s", path,
				why->message);
		return NULL;
	}
	manifest = len <= MAX_MANIFEST_BYTES ? cop_answer_parse(text, (gssize)len, NULL) : NULL;
	if (!manifest)
		damaged(image_path, error, "image.json is not a JSON object", NULL);
	else if (check(image_path, manifest, error))
		return g_steal_pointer(&manifest);
	return NULL;
}

JsonObject *cop_image_disk_spec(const char *path, const char *format)
{
	g_autofree char *absolute = g_canonicalize_filename(path, NULL);
	JsonObject *spec = json_object_new();

	json_object_set_string_member(spec, "path", absolute);
	json_object_set_string_member(spec, "format", format);
	return spec;
}

static void set_one_disk(JsonObject *request, const char *path, const char *format)
{
	JsonArray *disks = json_array_new();

	json_array_add_object_element(disks, cop_image_disk_spec(path, format));
	json_object_set_array_member(request, "disks", disks);
}

static void set_file(JsonObject *request, const char *image_path, JsonObject *manifest,
		     const char *key)
{
	g_autofree char *path =
		g_build_filename(image_path, cop_answer_string(manifest, key), NULL);

	if (*cop_answer_string(manifest, key))
		json_object_set_string_member(request, key, path);
}

static gboolean from_image(const char *image_path, JsonObject *request, GError **error)
{
	static const char *const texts[] = {"append", "display", "network"};
	static const char *const numbers[] = {"memory_bytes", "cpus"};
	g_autofree char *absolute = g_canonicalize_filename(image_path, NULL);
	g_autoptr(JsonObject) manifest = cop_image_load(absolute, error);

	if (!manifest)
		return FALSE;
	if (strcmp(cop_answer_string(manifest, "kind"), "disk") == 0) {
		g_autofree char *disk =
			g_build_filename(absolute, cop_answer_string(manifest, "disk"), NULL);
		const char *format = cop_answer_string(manifest, "disk_format");

		set_one_disk(request, disk, *format ? format : "auto");
	} else {
		set_file(request, absolute, manifest, "kernel");
		set_file(request, absolute, manifest, "initrd");
	}
	for (size_t i = 0; i < G_N_ELEMENTS(texts); i++) {
		const char *value = cop_answer_string(manifest, texts[i]);

		if (*value)
			json_object_set_string_member(request, texts[i], value);
	}
	for (size_t i = 0; i < G_N_ELEMENTS(numbers); i++) {
		guint64 value = cop_answer_uint(manifest, numbers[i]);

		if (value)
			json_object_set_int_member(request, numbers[i], (gint64)value);
	}
	return TRUE;
}

gboolean cop_image_to_request(const char *image, const char *image_dir, JsonObject *request,
			      GError **error)
{
	g_autofree char *path = g_build_filename(image_dir, image, NULL);
	g_autofree char *manifest = g_build_filename(path, "image.json", NULL);
	g_autofree char *build = NULL;

	if (!strchr(image, '/') && g_file_test(manifest, G_FILE_TEST_EXISTS))
		return from_image(path, request, error);
	if (g_file_test(image, G_FILE_TEST_IS_DIR))
		return from_image(image, request, error);
	if (g_file_test(image, G_FILE_TEST_EXISTS)) {
		set_one_disk(request, image, "auto");
		return TRUE;
	}
	if (strchr(image, '/'))
		return cop_failure_set(error, COP_FAILURE_NOT_FOUND, NULL,
				       "there is no image or disk image at %s", image);
	if (strcmp(image, "desktop") == 0 || strcmp(image, "minimal") == 0)
		build = g_strdup_printf("coppice image build %s", image);
	return cop_failure_set(error, COP_FAILURE_NOT_FOUND,
			       build ? build : "'coppice image ls' shows those that there are",
			       "there is no image '%s' in %s, and no file of that name", image,
			       image_dir);
}
