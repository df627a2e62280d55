/* SPDX-License-Identifier: MIT */
/*
 * image.h: built images: directories with an image.json.
 *
 * image.json is an object: "format": 1, "name", "kind": "disk" (with "disk", "disk_format") or
 * "kernel" (with "kernel", and perhaps "initrd", "append"), and perhaps "memory_bytes", "cpus",
 * "display", "network". Other members are left alone. File names in it are plain names of files in
 * the directory.
 */
#ifndef COP_CLI_IMAGE_H
#define COP_CLI_IMAGE_H

#include "cli/cli.h"

/* --image-dir's @option, else COPPICE_IMAGES, else images/ in the state directory. Caller frees. */
char *cop_image_dir(const struct cop_cli *cli, const char *option);

/*
 * Read @image_path/image.json and check it, and that the files it names are there. The caller owns
 * the result; NULL with *@error set.
 */
JsonObject *cop_image_load(const char *image_path, GError **error);

/*
 * What `run` is to boot: @image is the name of an image in @image_dir, or the path of an image's
 * directory, or the path of a disk image. Sets the members of a RunRequest in @request that follow
 * from it (disks, kernel, ..., as absolute paths). Returns FALSE with *@error set.
 */
gboolean cop_image_to_request(const char *image, const char *image_dir, JsonObject *request,
			      GError **error);

/* An entry of a request's "disks"; the caller owns it. @format: "auto", "raw" or "qcow2". */
JsonObject *cop_image_disk_spec(const char *path, const char *format);

#endif
