/* A template on disk: see template.h. */
#include "template.h"
#include "disk.h"
#include "gerror.h"
#include "json.h"
#include "pager.h"
#include "ram.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#define FORMAT 2 /* 1: checksums of 2 MiB each in the manifest */

/* XXH3 128-bit of a whole file, in hexadecimal. */
static gboolean hash_file(const char *path, char text[33], GError **error)
{
	enum { BUF = 1 << 20 };
	g_autofree char *buf = g_malloc(BUF);
	XXH3_state_t *xxh = XXH3_createState();
	int fd = cop_file_open(path, O_RDONLY, 0, error);
	ssize_t n = -1;
	XXH128_hash_t sum;

	if (fd >= 0 && XXH3_128bits_reset(xxh) == XXH_OK) {
		while ((n = read(fd, buf, BUF)) > 0)
			(void)XXH3_128bits_update(xxh, buf, (size_t)n); /* fails for NULL only */
		if (n < 0)
			cop_gerror_errno(error, errno, "cannot read %s", path);
	}
	if (fd >= 0)
		close(fd);
	sum = XXH3_128bits_digest(xxh);
	XXH3_freeState(xxh);
	g_snprintf(text, 33, "%016" PRIx64 "%016" PRIx64, (uint64_t)sum.high64,
		   (uint64_t)sum.low64);
	return n == 0;
}

static void set_id(JsonObject *entry, const struct cop_file_id *id)
{
	json_object_set_int_member(entry, "size_bytes", (gint64)id->size_bytes);
	json_object_set_int_member(entry, "inode", (gint64)id->inode);
	json_object_set_int_member(entry, "mtime_ns", id->mtime_ns);
	json_object_set_int_member(entry, "ctime_ns", id->ctime_ns);
}

static JsonObject *files_of(JsonObject *sums)
{
	if (!cop_json_obj(sums, "files"))
		json_object_set_object_member(sums, "files", json_object_new());
	return cop_json_obj(sums, "files");
}

gboolean cop_template_sum_file(JsonObject *sums, const char *key, const char *path, GError **error)
{
	struct cop_file_id id;
	char text[33] = "";
	JsonObject *entry;

	/* The RAM image has checksums of its own, a chunk each. */
	if (strcmp(key, "ram") != 0 && !hash_file(path, text, error))
		return FALSE;
	if (!cop_file_id(path, &id, error))
		return FALSE;
	entry = json_object_new();
	json_object_set_string_member(entry, "xxh3_128", text);
	set_id(entry, &id);
	json_object_set_object_member(files_of(sums), key, entry);
	return TRUE;
}

JsonObject *cop_template_times_to_json(const struct cop_freeze_times *t)
{
	JsonObject *obj = json_object_new();

	json_object_set_double_member(obj, "window_ms", t->window_ms);
	json_object_set_double_member(obj, "disks_ms", t->disks_ms);
	json_object_set_double_member(obj, "state_ms", t->state_ms);
	json_object_set_double_member(obj, "ram_ms", t->ram_ms);
	json_object_set_double_member(obj, "total_ms", t->total_ms);
	return obj;
}

gboolean cop_template_save(const struct cop_template *tpl, const char *dir, GError **error)
{
	g_autofree char *path = g_build_filename(dir, "template.json", NULL);
	g_autoptr(JsonObject) obj = json_object_new();

	json_object_set_int_member(obj, "format", FORMAT);
	json_object_set_string_member(obj, "name", tpl->name);
	cop_json_set_str(obj, "parent", tpl->parent);
	json_object_set_string_member(obj, "from_vm", tpl->from_vm);
	json_object_set_boolean_member(obj, "ephemeral", tpl->ephemeral);
	json_object_set_int_member(obj, "created_s", tpl->created_s);
	json_object_set_int_member(obj, "domain", tpl->domain);
	/* Not a promise: after a restart of the host the image is loaded from the file. */
	cop_json_set_str(obj, "ram_id", tpl->ram_id);
	json_object_set_object_member(obj, "times", cop_template_times_to_json(&tpl->times));
	json_object_set_object_member(obj, "machine", cop_machine_to_json(tpl->machine));
	json_object_set_object_member(obj, "sums", json_object_ref(tpl->sums));
	return cop_json_save(path, obj, TRUE, error);
}

static gboolean read_manifest(struct cop_state *state, struct cop_template *tpl, GError **error)
{
	g_autofree char *dir = cop_state_template_dir(state, tpl->name);
	g_autofree char *path = g_build_filename(dir, "template.json", NULL);
	g_autoptr(JsonObject) obj = cop_json_load(path, error);
	g_autofree char *ram_path = NULL;
	JsonObject *times, *sums;
	const char *ram_id;

	if (!obj)
		return FALSE;
	if (cop_json_int(obj, "format", 0, NULL) == 1)
		return cop_gerror_set(error, COP_ERR_UNSUPPORTED,
				      "%s is of format 1, which an older coppice wrote\n"
				      "freeze the template again, or use it with that version",
				      path);
	if (cop_json_int(obj, "format", 0, NULL) != FORMAT ||
	    strcmp(cop_json_str(obj, "name", "", NULL), tpl->name) != 0)
		return cop_gerror_set(error, COP_ERR_DAMAGED,
				      "%s is of another format or another template", path);
	tpl->machine = cop_machine_from_json(cop_json_obj(obj, "machine"), error);
	if (!tpl->machine)
		return FALSE;
	sums = cop_json_obj(obj, "sums");
	times = cop_json_obj(obj, "times");
	if (!sums || !times || !cop_json_obj(sums, "ram") || !cop_json_obj(sums, "files"))
		return cop_gerror_set(error, COP_ERR_DAMAGED, "%s has no checksums", path);
	tpl->sums = json_object_ref(sums);
	tpl->parent = g_strdup(cop_json_str(obj, "parent", NULL, NULL));
	tpl->from_vm = g_strdup(cop_json_str(obj, "from_vm", "", NULL));
	tpl->ephemeral = cop_json_bool(obj, "ephemeral", FALSE, NULL);
	tpl->created_s = cop_json_int(obj, "created_s", 0, NULL);
	tpl->domain = (unsigned)cop_json_int(obj, "domain", 0, NULL) & 0xffff;
	tpl->ram_bytes =
		(uint64_t)cop_json_int(cop_json_obj(sums, "ram"), "data_bytes", 0, NULL);
	tpl->times.window_ms = cop_json_double(times, "window_ms", 0);
	tpl->times.disks_ms = cop_json_double(times, "disks_ms", 0);
	tpl->times.state_ms = cop_json_double(times, "state_ms", 0);
	tpl->times.ram_ms = cop_json_double(times, "ram_ms", 0);
	tpl->times.total_ms = cop_json_double(times, "total_ms", 0);
	ram_id = cop_json_str(obj, "ram_id", NULL, NULL);
	if (ram_id && !strchr(ram_id, '/') && *ram_id != '.') {
		ram_path = cop_state_ram_path(state, ram_id);
		if (g_file_test(ram_path, G_FILE_TEST_IS_REGULAR))
			tpl->ram_id = g_strdup(ram_id);
		else
			tpl->lost_ram_id = g_strdup(ram_id);
	}
	return TRUE;
}

struct cop_template *cop_template_read(struct cop_state *state, const char *name)
{
	struct cop_template *tpl = cop_template_new(name);
	g_autoptr(GError) error = NULL;

	if (read_manifest(state, tpl, &error)) {
		tpl->ready = TRUE;
	} else {
		tpl->broken = cop_gerror_message(error);
		g_warning("template '%s' can't be used: %s", name, tpl->broken);
	}
	return tpl;
}

/* Path of the file that a key in sums["files"] stands for. */
static char *part_path(struct cop_state *state, struct cop_template *tpl, const char *key)
{
	g_autofree char *dir = cop_state_template_dir(state, tpl->name);

	if (g_str_has_prefix(key, "disks/"))
		return g_build_filename(state->config->dir, key, NULL);
	return g_build_filename(dir, key, NULL);
}

static gboolean check_part(struct cop_state *state, struct cop_template *tpl, const char *key,
			   JsonObject *entry, gboolean full, GError **error)
{
	g_autofree char *path = part_path(state, tpl, key);
	struct cop_file_id now, then = {
		.size_bytes = (uint64_t)cop_json_int(entry, "size_bytes", 0, NULL),
		.inode = (uint64_t)cop_json_int(entry, "inode", 0, NULL),
		.mtime_ns = cop_json_int(entry, "mtime_ns", 0, NULL),
		.ctime_ns = cop_json_int(entry, "ctime_ns", 0, NULL),
	};
	char text[33];

	if (!cop_file_id(path, &now, error))
		return FALSE;
	if (!full && cop_file_id_equal(&now, &then))
		return TRUE;
	if (strcmp(key, "ram") == 0) {
		if (!cop_ram_load(state, path, cop_json_obj(tpl->sums, "ram"), NULL, error))
			return FALSE;
	} else {
		if (!hash_file(path, text, error))
			return FALSE;
		if (strcmp(text, cop_json_str(entry, "xxh3_128", "", NULL)) != 0)
			return cop_gerror_set(error, COP_ERR_DAMAGED,
					      "%s was altered: it has %" PRIu64 " bytes, had %" PRIu64
					      ", and its checksum differs\n"
					      "restore the file, or remove the template",
					      path, now.size_bytes, then.size_bytes);
	}
	set_id(entry, &now); /* so that it is not read again next time */
	return TRUE;
}

gboolean cop_template_check(struct cop_state *state, struct cop_template *tpl, gboolean full,
			    JsonArray *report, GError **error)
{
	JsonObject *files = files_of(tpl->sums);
	g_autoptr(GList) keys = json_object_get_members(files);
	gboolean all = TRUE;
	GError *why = NULL;

	g_mutex_lock(&tpl->load_lock);
	for (GList *l = keys; l && (all || report); l = l->next) {
		JsonObject *part;
		gboolean ok = check_part(state, tpl, l->data,
					 json_object_get_object_member(files, l->data), full, &why);

		if (report) {
			g_autofree char *detail = why ? cop_gerror_message(why) : g_strdup("");

			part = json_object_new();
			json_object_set_string_member(part, "part", l->data);
			json_object_set_boolean_member(part, "ok", ok);
			json_object_set_string_member(part, "detail", detail);
			json_array_add_object_element(report, part);
		}
		if (!ok && all && error)
			g_propagate_error(error, why);
		else
			g_clear_error(&why);
		why = NULL;
		all = all && ok;
	}
	if (all)
		all = cop_disk_check_external(tpl->machine, error);
	g_mutex_unlock(&tpl->load_lock);
	if (!all && error && *error)
		g_prefix_error(error, "template '%s' is damaged: ", tpl->name);
	return all;
}

/* The file where the pager notes which chunks clones touch first; it makes sense of any content. */
static int open_first(const char *ram, uint64_t size_bytes, GError **error)
{
	g_autofree char *path = g_strconcat(ram, ".first", NULL);
	uint64_t nr_chunks = (size_bytes + COP_PAGER_CHUNK_BYTES - 1) / COP_PAGER_CHUNK_BYTES;
	int fd = cop_file_open(path, O_RDWR | O_CREAT, 0600, error);

	if (fd >= 0 && ftruncate(fd, (off_t)((nr_chunks + 7) / 8)) < 0) {
		cop_gerror_errno(error, errno, "cannot write %s", path);
		close(fd);
		fd = -1;
	}
	return fd;
}

gboolean cop_template_open_ram(struct cop_state *state, struct cop_template *tpl, int ret_fds[3],
			       GError **error)
{
	g_autofree char *dir = cop_state_template_dir(state, tpl->name);
	g_autofree char *ram = g_build_filename(dir, "ram", NULL);
	g_autofree char *sums = g_strconcat(ram, ".sums", NULL);
	JsonObject *obj = cop_json_obj(tpl->sums, "ram");
	int fds[3] = {-1, -1, -1};

	fds[0] = cop_ram_open_saved(ram, obj, error);
	if (fds[0] >= 0 && cop_ram_check_sums(ram, obj, NULL, error))
		fds[1] = cop_file_open(sums, O_RDONLY, 0, error);
	if (fds[1] >= 0)
		fds[2] = open_first(ram, tpl->machine->memory_bytes, error);
	if (fds[2] < 0) {
		for (int i = 0; i < 2; i++) {
			if (fds[i] >= 0)
				close(fds[i]);
		}
		return FALSE;
	}
	memcpy(ret_fds, fds, sizeof(fds));
	return TRUE;
}

/* An empty image: the pager fills it as clones touch it. */
static char *empty_image(struct cop_state *state, struct cop_template *tpl, const char *path,
			 GError **error)
{
	JsonObject *sums = cop_json_obj(tpl->sums, "ram");
	int fd = cop_ram_open_saved(path, sums, error);

	if (fd < 0 || !cop_ram_check_sums(path, sums, NULL, error)) {
		if (fd >= 0)
			close(fd);
		return NULL;
	}
	close(fd);
	return cop_ram_new(state, tpl->machine->memory_bytes, error);
}

gboolean cop_template_load(struct cop_state *state, struct cop_template *tpl, GError **error)
{
	g_autofree char *dir = cop_state_template_dir(state, tpl->name);
	g_autofree char *path = g_build_filename(dir, "ram", NULL);
	gboolean paged = cop_machine_is_paged(tpl->machine);
	gboolean ok = !paged || cop_pager_start(state, error);
	char *id = NULL;

	if (!ok)
		return FALSE;
	g_mutex_lock(&tpl->load_lock);
	if (!tpl->ram_id) {
		if (paged)
			ok = (id = empty_image(state, tpl, path, error)) != NULL;
		else
			ok = cop_ram_load(state, path, cop_json_obj(tpl->sums, "ram"), &id, error);
		if (ok) {
			g_mutex_lock(&state->lock);
			tpl->ram_id = id;
			/* No record is left of clones of the old image, which a pager may know. */
			tpl->domain = cop_pager_new_domain(state);
			g_mutex_unlock(&state->lock);
			cop_state_unpin(state, id);
			ok = cop_template_save(tpl, dir, error);
		}
	}
	if (ok && paged)
		ok = cop_pager_add_image(state, tpl->ram_id, tpl->machine->memory_bytes,
					 tpl->domain, tpl, FALSE, error);
	g_mutex_unlock(&tpl->load_lock);
	return ok;
}

/* With the lock held: names of VMs or templates that refer to the template. */
static char **users(struct cop_state *state, const char *name)
{
	g_autoptr(GStrvBuilder) names = g_strv_builder_new();
	g_autoptr(GPtrArray) vms = cop_state_all_vms(state);

	for (guint i = 0; i < vms->len; i++) {
		const struct cop_vm *vm = vms->pdata[i];

		if (g_strcmp0(vm->template, name) == 0)
			g_strv_builder_add(names, vm->name);
	}
	return g_strv_builder_end(names);
}

static char **children(struct cop_state *state, const char *name)
{
	g_autoptr(GStrvBuilder) names = g_strv_builder_new();
	GHashTableIter iter;
	struct cop_template *tpl;

	g_hash_table_iter_init(&iter, state->templates);
	while (g_hash_table_iter_next(&iter, NULL, (void **)&tpl)) {
		if (g_strcmp0(tpl->parent, name) == 0)
			g_strv_builder_add(names, tpl->name);
	}
	return g_strv_builder_end(names);
}

void cop_template_remove_folder(struct cop_state *state, const char *name)
{
	g_autofree char *dir = cop_state_template_dir(state, name);
	g_autofree char *gone = g_strdup_printf("%s/templates/.%s.gone", state->config->dir, name);

	cop_file_remove_tree(gone); /* a left-over, or nothing */
	if (rename(dir, gone) < 0)
		g_warning("cannot rename %s: %s", dir, g_strerror(errno));
	cop_file_remove_tree(gone);
}

void cop_template_lift_children(struct cop_state *state, const struct cop_template *tpl)
{
	GHashTableIter iter;
	struct cop_template *child;

	g_hash_table_iter_init(&iter, state->templates);
	while (g_hash_table_iter_next(&iter, NULL, (void **)&child)) {
		if (g_strcmp0(child->parent, tpl->name) == 0) {
			g_free(child->parent);
			child->parent = g_strdup(tpl->parent);
		}
	}
}

gboolean cop_template_remove(struct cop_state *state, const char *name, GError **error)
{
	g_auto(GStrv) vms = NULL;
	struct cop_template *tpl;
	gboolean ok = TRUE;

	g_mutex_lock(&state->lock);
	tpl = g_hash_table_lookup(state->templates, name);
	vms = users(state, name);
	if (!tpl || (!tpl->ready && !tpl->broken)) {
		ok = cop_gerror_set(error, COP_ERR_NOT_FOUND,
				    "there is no template '%s'\n'coppice templates' lists them",
				    name);
	} else if (*vms || tpl->busy_users) {
		g_autofree char *list = g_strjoinv(", ", vms);

		ok = cop_gerror_set(error, COP_ERR_IN_USE,
				    "template '%s' is in use by %s\nremove these VMs first", name,
				    *vms ? list : "a clone that is starting");
	} else {
		cop_template_lift_children(state, tpl);
		cop_template_remove_folder(state, name);
		g_hash_table_remove(state->templates, name);
	}
	g_mutex_unlock(&state->lock);
	if (ok)
		cop_state_collect(state);
	return ok;
}

JsonObject *cop_template_to_json(struct cop_state *state, struct cop_template *tpl)
{
	JsonObject *obj = json_object_new();
	g_autoptr(GDateTime) when = g_date_time_new_from_unix_utc(tpl->created_s);
	g_autofree char *created = g_date_time_format_iso8601(when);
	g_autofree char *dir = cop_state_template_dir(state, tpl->name);
	g_autofree char *ram_file = g_build_filename(dir, "ram", NULL);
	g_autofree char *state_file = g_build_filename(dir, "state", NULL);
	g_auto(GStrv) clones = NULL, below = NULL;
	uint64_t resident = 0;

	g_mutex_lock(&state->lock);
	clones = users(state, tpl->name);
	below = children(state, tpl->name);
	if (tpl->ram_id) {
		g_autofree char *path = cop_state_ram_path(state, tpl->ram_id);

		resident = cop_file_used_bytes(path);
	}
	cop_json_set_str(obj, "parent", tpl->parent);
	g_mutex_unlock(&state->lock);
	json_object_set_string_member(obj, "name", tpl->name);
	json_object_set_string_member(obj, "created", created);
	json_object_set_string_member(obj, "from_vm", tpl->from_vm);
	json_object_set_boolean_member(obj, "ephemeral", tpl->ephemeral);
	json_object_set_string_member(obj, "accel", tpl->machine->accel);
	json_object_set_string_member(obj, "engine", tpl->machine->engine);
	json_object_set_int_member(obj, "memory_bytes", (gint64)tpl->machine->memory_bytes);
	json_object_set_int_member(obj, "cpus", tpl->machine->cpus);
	json_object_set_int_member(obj, "ram_bytes", (gint64)tpl->ram_bytes);
	json_object_set_int_member(obj, "resident_bytes", (gint64)resident);
	json_object_set_int_member(obj, "state_bytes", (gint64)cop_file_used_bytes(state_file));
	json_object_set_int_member(obj, "disk_bytes",
				   (gint64)cop_disk_top_bytes(state, tpl->machine));
	json_object_set_int_member(obj, "file_bytes",
				   (gint64)(cop_file_used_bytes(ram_file) +
					    cop_file_used_bytes(state_file)));
	cop_json_set_strv(obj, "clones", clones);
	cop_json_set_strv(obj, "templates", below);
	json_object_set_object_member(obj, "freeze", cop_template_times_to_json(&tpl->times));
	return obj;
}
