/* Disks: see disk.h. */
#include "disk.h"
#include "gerror.h"
#include "json.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

char *cop_disk_run_program(char *const *argv, GError **error)
{
	g_autofree char *out = NULL, *err = NULL;
	int status;
	GError *why = NULL;

	if (!g_spawn_sync(NULL, (char **)argv, NULL, G_SPAWN_DEFAULT, NULL, NULL, &out, &err,
			  &status, &why)) {
		cop_gerror_set(error, COP_ERR_INTERNAL, "cannot run %s: %s", argv[0],
			       why->message);
		g_error_free(why);
		return NULL;
	}
	if (status != 0) {
		gboolean full = strstr(err, "No space left") != NULL;

		g_strdelimit(g_strstrip(err), "\n", ' ');
		cop_gerror_set(error, full ? COP_ERR_NO_SPACE : COP_ERR_BAD_REQUEST, "%s%s",
			       *err ? err : "qemu-img failed",
			       full ? "\nfree some space, or use another --dir" : "");
		return NULL;
	}
	return g_steal_pointer(&out);
}

struct cop_disk *cop_disk_open_image(struct cop_state *state, const char *path, const char *format,
				     GError **error)
{
	const char *argv[] = {state->config->qemu_img, "info", "--output=json", "-f", format, "--",
			      path, NULL};
	const char *no_format[] = {state->config->qemu_img, "info", "--output=json", "--", path,
				   NULL};
	g_autofree char *text = NULL;
	g_autoptr(JsonObject) info = NULL;
	struct cop_disk *disk;
	struct cop_layer *layer;
	const char *found;
	struct stat st;

	if (path[0] != '/') {
		cop_gerror_set(error, COP_ERR_BAD_REQUEST,
			       "the disk image's path must be absolute: '%s'", path);
		return NULL;
	}
	if (stat(path, &st) < 0) {
		cop_gerror_errno(error, errno, "cannot use the disk image %s", path);
		return NULL;
	}
	if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode)) {
		cop_gerror_set(error, COP_ERR_BAD_REQUEST, "%s is not a disk image", path);
		return NULL;
	}
	text = cop_disk_run_program((char *const *)(strcmp(format, "auto") ? argv : no_format),
				    error);
	info = text ? cop_json_parse(text, -1, error) : NULL;
	if (!info)
		return NULL;
	found = cop_json_str(info, "format", "", NULL);
	if (strcmp(found, "raw") != 0 && strcmp(found, "qcow2") != 0) {
		cop_gerror_set(error, COP_ERR_UNSUPPORTED,
			       "%s is a %s image; raw and qcow2 work\n"
			       "convert it: qemu-img convert -O qcow2 %s NEW.qcow2",
			       path, found, path);
		return NULL;
	}
	if (cop_json_str(info, "backing-filename", NULL, NULL) ||
	    strstr(text, "\"data-file\": \"") || cop_json_bool(info, "encrypted", FALSE, NULL)) {
		cop_gerror_set(error, COP_ERR_UNSUPPORTED,
			       "%s is encrypted or stands on another file, which a stranger's image "
			       "could choose\nflatten it: qemu-img convert -O qcow2 %s NEW.qcow2",
			       path, path);
		return NULL;
	}
	disk = cop_disk_new((uint64_t)cop_json_int(info, "virtual-size", 0, NULL));
	layer = cop_layer_new(path, TRUE, strcmp(found, "raw") == 0);
	g_ptr_array_add(disk->layers, layer);
	if (!cop_file_id(path, &layer->id, error)) {
		cop_disk_free(disk);
		return NULL;
	}
	return disk;
}

struct cop_layer *cop_disk_new_overlay(struct cop_state *state, const struct cop_disk *disk,
				       const char *seed, GError **error)
{
	g_autofree char *id = cop_file_random_id();
	g_autofree char *name = g_strconcat(id, ".qcow2", NULL);
	struct cop_layer *layer = cop_layer_new(name, FALSE, FALSE);
	const struct cop_layer *below = cop_disk_top(disk);
	g_autofree char *path = cop_state_layer_path(state, layer);
	g_autofree char *size = g_strdup_printf("%" G_GUINT64_FORMAT, disk->size_bytes);
	/* -u: the layer below may be in use; its name is only for people who look at the file. */
	const char *argv[] = {state->config->qemu_img, "create", "-q", "-u", "-f", "qcow2",
			      "-b", below->path, "-F", below->raw ? "raw" : "qcow2", "--", path,
			      size, NULL};
	gboolean ok;

	cop_state_pin(state, layer->path);
	if (seed) {
		ok = cop_file_copy(seed, path, 0600, error);
	} else {
		g_autofree char *out = cop_disk_run_program((char *const *)argv, error);

		ok = out != NULL;
		if (!ok)
			g_prefix_error(error, "cannot make a disk overlay: ");
		else if (chmod(path, 0600) < 0)
			ok = cop_gerror_errno(error, errno, "cannot protect %s", path);
	}
	if (!ok) {
		(void)unlink(path);
		cop_state_unpin(state, layer->path);
		cop_layer_free(layer);
		return NULL;
	}
	return layer;
}

gboolean cop_disk_add_overlays(struct cop_state *state, struct cop_machine *machine,
			       const char *seed_dir, GError **error)
{
	for (guint i = 0; i < machine->disks->len; i++) {
		struct cop_disk *disk = machine->disks->pdata[i];
		g_autofree char *seed =
			seed_dir ? g_strdup_printf("%s/seed-%u.qcow2", seed_dir, i) : NULL;
		struct cop_layer *layer = cop_disk_new_overlay(state, disk, seed, error);

		if (!layer)
			return FALSE;
		g_ptr_array_add(disk->layers, layer);
	}
	return TRUE;
}

void cop_disk_unpin(struct cop_state *state, const struct cop_machine *machine)
{
	for (guint i = 0; i < machine->disks->len; i++) {
		const struct cop_disk *disk = machine->disks->pdata[i];

		for (guint j = 0; j < disk->layers->len; j++)
			cop_state_unpin(state,
					((struct cop_layer *)disk->layers->pdata[j])->path);
	}
}

gboolean cop_disk_check_external(const struct cop_machine *machine, GError **error)
{
	for (guint i = 0; i < machine->disks->len; i++) {
		const struct cop_disk *disk = machine->disks->pdata[i];
		const struct cop_layer *base = disk->layers->pdata[0];
		struct cop_file_id now;

		if (!base->external)
			continue;
		if (!cop_file_id(base->path, &now, error))
			return FALSE;
		if (now.size_bytes != base->id.size_bytes || now.mtime_ns != base->id.mtime_ns ||
		    now.inode != base->id.inode)
			return cop_gerror_set(error, COP_ERR_DAMAGED,
					      "the disk image %s was changed since VMs stand on it\n"
					      "restore the file; what stands on it can't be used "
					      "with another",
					      base->path);
	}
	return TRUE;
}

gboolean cop_disk_launch(struct cop_state *state, struct cop_launch *launch,
			 const struct cop_machine *machine, GError **error)
{
	if (!cop_disk_check_external(machine, error))
		return FALSE;
	for (guint i = 0; i < machine->disks->len; i++) {
		const struct cop_disk *disk = machine->disks->pdata[i];
		g_autofree int *numbers = g_new(int, disk->layers->len);

		for (guint j = 0; j < disk->layers->len; j++) {
			const struct cop_layer *layer = disk->layers->pdata[j];
			g_autofree char *path = cop_state_layer_path(state, layer);
			gboolean top = j + 1 == disk->layers->len;
			struct stat st;
			/* A user may name his image by a link; our own files are none. */
			int fd = open(path, (top ? O_RDWR : O_RDONLY) | O_CLOEXEC |
						    (layer->external ? 0 : O_NOFOLLOW));

			if (fd < 0)
				return cop_gerror_errno(error, errno, "cannot open the disk %s",
							path);
			if (top && (fstat(fd, &st) < 0 || !(st.st_mode & S_IWUSR))) {
				close(fd);
				return cop_gerror_set(error, COP_ERR_INTERNAL,
						      "the layer %s belongs to a template, it must "
						      "not be written",
						      path);
			}
			numbers[j] = cop_launch_fd(launch, fd);
		}
		cop_launch_disk(launch, disk, i, numbers);
	}
	return TRUE;
}

uint64_t cop_disk_top_bytes(struct cop_state *state, const struct cop_machine *machine)
{
	uint64_t sum = 0;

	for (guint i = 0; machine && i < machine->disks->len; i++) {
		g_autofree char *path =
			cop_state_layer_path(state, cop_disk_top(machine->disks->pdata[i]));

		sum += cop_file_used_bytes(path);
	}
	return sum;
}
