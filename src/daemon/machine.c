/* The machine description: see machine.h. */
#include "machine.h"
#include "gerror.h"
#include "json.h"

#include <string.h>

struct cop_layer *cop_layer_new(const char *path, gboolean external, gboolean raw)
{
	struct cop_layer *layer = g_new0(struct cop_layer, 1);

	layer->path = g_strdup(path);
	layer->external = external;
	layer->raw = raw;
	return layer;
}

void cop_layer_free(struct cop_layer *layer)
{
	if (!layer)
		return;
	g_free(layer->path);
	g_free(layer);
}

struct cop_disk *cop_disk_new(uint64_t size_bytes)
{
	struct cop_disk *disk = g_new0(struct cop_disk, 1);

	disk->size_bytes = size_bytes;
	disk->layers = g_ptr_array_new_with_free_func((GDestroyNotify)cop_layer_free);
	return disk;
}

void cop_disk_free(struct cop_disk *disk)
{
	if (!disk)
		return;
	g_ptr_array_unref(disk->layers);
	g_free(disk);
}

struct cop_layer *cop_disk_top(const struct cop_disk *disk)
{
	return disk->layers->pdata[disk->layers->len - 1];
}

struct cop_machine *cop_machine_new(void)
{
	struct cop_machine *machine = g_new0(struct cop_machine, 1);

	machine->disks = g_ptr_array_new_with_free_func((GDestroyNotify)cop_disk_free);
	machine->extra_args = g_new0(char *, 1);
	machine->engine = g_strdup("kernel");
	return machine;
}

void cop_machine_free(struct cop_machine *machine)
{
	if (!machine)
		return;
	g_free(machine->type);
	g_free(machine->accel);
	g_free(machine->engine);
	g_free(machine->display);
	g_free(machine->network);
	g_free(machine->kernel);
	g_free(machine->initrd);
	g_free(machine->append);
	g_strfreev(machine->extra_args);
	g_ptr_array_unref(machine->disks);
	g_free(machine);
}

gboolean cop_machine_is_paged(const struct cop_machine *machine)
{
	return strcmp(machine->engine, "pager") == 0;
}

struct cop_machine *cop_machine_copy(const struct cop_machine *machine)
{
	g_autoptr(JsonObject) obj = cop_machine_to_json(machine);

	return cop_machine_from_json(obj, NULL);
}

static JsonObject *layer_to_json(const struct cop_layer *layer)
{
	JsonObject *obj = json_object_new();

	json_object_set_string_member(obj, "path", layer->path);
	json_object_set_boolean_member(obj, "external", layer->external);
	json_object_set_boolean_member(obj, "raw", layer->raw);
	if (layer->external) {
		json_object_set_int_member(obj, "size_bytes", (gint64)layer->id.size_bytes);
		json_object_set_int_member(obj, "inode", (gint64)layer->id.inode);
		json_object_set_int_member(obj, "mtime_ns", layer->id.mtime_ns);
		json_object_set_int_member(obj, "ctime_ns", layer->id.ctime_ns);
	}
	return obj;
}

JsonObject *cop_machine_to_json(const struct cop_machine *machine)
{
	JsonObject *obj = json_object_new();
	JsonArray *disks = json_array_new();

	json_object_set_string_member(obj, "type", machine->type);
	json_object_set_string_member(obj, "accel", machine->accel);
	json_object_set_string_member(obj, "engine", machine->engine);
	json_object_set_int_member(obj, "memory_bytes", (gint64)machine->memory_bytes);
	json_object_set_int_member(obj, "cpus", machine->cpus);
	json_object_set_string_member(obj, "display", machine->display);
	json_object_set_string_member(obj, "network", machine->network);
	cop_json_set_str(obj, "kernel", machine->kernel);
	cop_json_set_str(obj, "initrd", machine->initrd);
	cop_json_set_str(obj, "append", machine->append);
	cop_json_set_strv(obj, "extra_args", machine->extra_args);
	for (guint i = 0; i < machine->disks->len; i++) {
		const struct cop_disk *disk = machine->disks->pdata[i];
		JsonObject *d = json_object_new();
		JsonArray *layers = json_array_new();

		json_object_set_int_member(d, "size_bytes", (gint64)disk->size_bytes);
		for (guint j = 0; j < disk->layers->len; j++)
			json_array_add_object_element(layers,
						      layer_to_json(disk->layers->pdata[j]));
		json_object_set_array_member(d, "layers", layers);
		json_array_add_object_element(disks, d);
	}
	json_object_set_array_member(obj, "disks", disks);
	return obj;
}

static JsonObject *element(JsonArray *arr, guint i)
{
	JsonNode *node = json_array_get_element(arr, i);

	return JSON_NODE_HOLDS_OBJECT(node) ? json_node_get_object(node) : NULL;
}

/* A file name of ours never leads out of its folder. */
static gboolean plain_name(const char *name)
{
	return name && *name && *name != '.' && !strchr(name, '/');
}

static struct cop_layer *layer_from_json(JsonObject *obj, GError **error)
{
	const char *path = cop_json_str(obj, "path", NULL, error);
	gboolean external = cop_json_bool(obj, "external", FALSE, error);
	struct cop_layer *layer;

	if (!path || !(external ? path[0] == '/' : plain_name(path))) {
		cop_gerror_set(error, COP_ERR_DAMAGED, "a disk layer without a proper path");
		return NULL;
	}
	layer = cop_layer_new(path, external, cop_json_bool(obj, "raw", FALSE, error));
	layer->id.size_bytes = (uint64_t)cop_json_int(obj, "size_bytes", 0, error);
	layer->id.inode = (uint64_t)cop_json_int(obj, "inode", 0, error);
	layer->id.mtime_ns = cop_json_int(obj, "mtime_ns", 0, error);
	layer->id.ctime_ns = cop_json_int(obj, "ctime_ns", 0, error);
	return layer;
}

static gboolean disks_from_json(struct cop_machine *machine, JsonArray *disks, GError **error)
{
	for (guint i = 0; disks && i < json_array_get_length(disks); i++) {
		JsonObject *d = element(disks, i);
		JsonArray *layers = cop_json_arr(d, "layers");
		struct cop_disk *disk =
			cop_disk_new((uint64_t)cop_json_int(d, "size_bytes", 0, error));

		g_ptr_array_add(machine->disks, disk);
		for (guint j = 0; layers && j < json_array_get_length(layers); j++) {
			struct cop_layer *layer = layer_from_json(element(layers, j), error);

			if (!layer)
				return FALSE;
			g_ptr_array_add(disk->layers, layer);
		}
		if (!disk->layers->len)
			return cop_gerror_set(error, COP_ERR_DAMAGED, "a disk without layers");
	}
	return TRUE;
}

struct cop_machine *cop_machine_from_json(JsonObject *obj, GError **error)
{
	struct cop_machine *machine = cop_machine_new();
	gint64 memory, cpus;
	GError *why = NULL;
	char **extra;

	machine->type = g_strdup(cop_json_str(obj, "type", "", &why));
	machine->accel = g_strdup(cop_json_str(obj, "accel", "", &why));
	g_free(machine->engine);
	machine->engine = g_strdup(cop_json_str(obj, "engine", "kernel", &why));
	memory = cop_json_int(obj, "memory_bytes", 0, &why);
	cpus = cop_json_int(obj, "cpus", 1, &why);
	machine->memory_bytes = (uint64_t)memory;
	machine->cpus = (unsigned)cpus;
	machine->display = g_strdup(cop_json_str(obj, "display", "none", &why));
	machine->network = g_strdup(cop_json_str(obj, "network", "none", &why));
	machine->kernel = g_strdup(cop_json_str(obj, "kernel", NULL, &why));
	machine->initrd = g_strdup(cop_json_str(obj, "initrd", NULL, &why));
	machine->append = g_strdup(cop_json_str(obj, "append", NULL, &why));
	extra = cop_json_strv(obj, "extra_args", &why);
	if (extra) {
		g_strfreev(machine->extra_args);
		machine->extra_args = extra;
	}
	if (!why && !cop_json_arr(obj, "disks"))
		cop_gerror_set(&why, COP_ERR_DAMAGED, "a machine description without disks");
	if (!why)
		disks_from_json(machine, cop_json_arr(obj, "disks"), &why);
	if (!why && (!*machine->type || strchr(machine->type, ',') || memory <= 0 || cpus < 1 ||
		     cpus > 1024 ||
		     (strcmp(machine->accel, "tcg") != 0 && strcmp(machine->accel, "kvm") != 0) ||
		     (strcmp(machine->engine, "pager") != 0 &&
		      strcmp(machine->engine, "kernel") != 0) ||
		     (machine->kernel && !plain_name(machine->kernel)) ||
		     (machine->initrd && !plain_name(machine->initrd))))
		cop_gerror_set(&why, COP_ERR_DAMAGED, "an incomplete machine description");
	if (why) {
		g_propagate_error(error, why);
		cop_machine_free(machine);
		return NULL;
	}
	return machine;
}

gboolean cop_name_valid(const char *name)
{
	size_t len = name ? strlen(name) : 0;

	if (len < 1 || len > 63 || !(g_ascii_islower(name[0]) || g_ascii_isdigit(name[0])))
		return FALSE;
	for (size_t i = 1; i < len; i++) {
		char c = name[i];

		if (!g_ascii_islower(c) && !g_ascii_isdigit(c) && !strchr("._-", c))
			return FALSE;
	}
	return TRUE;
}
