/* Small helpers over json-glib: see json.h. */
#include "json.h"
#include "gerror.h"
#include "files.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define MAX_FILE_BYTES (16 * 1024 * 1024)
#define MAX_DEPTH 64

/* json-glib recurses; the text may come from a QEMU that a guest has taken over. */
static gboolean depth_ok(const char *text, gsize len)
{
	int depth = 0;
	gboolean in_string = FALSE;

	for (gsize i = 0; i < len; i++) {
		char c = text[i];

		if (in_string) {
			if (c == '\\')
				i++;
			else if (c == '"')
				in_string = FALSE;
		} else if (c == '"') {
			in_string = TRUE;
		} else if (c == '{' || c == '[') {
			if (++depth > MAX_DEPTH)
				return FALSE;
		} else if (c == '}' || c == ']') {
			depth--;
		} else if (c == '\'' || c == '/') {
			/* json-glib takes comments and other strings too, in which brackets would be
			 * miscounted; JSON has neither. */
			return FALSE;
		}
	}
	return TRUE;
}

JsonObject *cop_json_parse(const char *text, gssize len_bytes, GError **error)
{
	g_autoptr(JsonParser) parser = json_parser_new();
	gsize len = len_bytes < 0 ? strlen(text) : (gsize)len_bytes;
	GError *why = NULL;
	JsonNode *root;

	if (!depth_ok(text, len)) {
		cop_gerror_set(error, COP_ERR_BAD_REQUEST, 
			       "not valid JSON, or nested deeper than %d levels", MAX_DEPTH);
		return NULL;
	}
	if (!json_parser_load_from_data(parser, text, (gssize)len, &why)) {
		cop_gerror_set(error, COP_ERR_BAD_REQUEST, "not valid JSON: %s", why->message);
		g_error_free(why);
		return NULL;
	}
	root = json_parser_get_root(parser);
	if (!root || !JSON_NODE_HOLDS_OBJECT(root)) {
		cop_gerror_set(error, COP_ERR_BAD_REQUEST, "the JSON text is not an object");
		return NULL;
	}
	return json_object_ref(json_node_get_object(root));
}

char *cop_json_print(JsonObject *obj, gboolean pretty)
{
	g_autoptr(JsonNode) node = json_node_new(JSON_NODE_OBJECT);

	json_node_set_object(node, obj);
	return json_to_string(node, pretty);
}

static JsonNode *member(JsonObject *obj, const char *key)
{
	JsonNode *node = obj ? json_object_get_member(obj, key) : NULL;

	return node && !JSON_NODE_HOLDS_NULL(node) ? node : NULL;
}

static void wrong_type(GError **error, const char *key, const char *wanted)
{
	if (error && !*error)
		cop_gerror_set(error, COP_ERR_BAD_REQUEST, "'%s' must be %s", key, wanted);
}

JsonObject *cop_json_copy(JsonObject *obj)
{
	g_autofree char *text = obj ? cop_json_print(obj, FALSE) : NULL;
	JsonObject *copy = text ? cop_json_parse(text, -1, NULL) : NULL;

	return copy ?: json_object_new();
}

const char *cop_json_str(JsonObject *obj, const char *key, const char *otherwise, GError **error)
{
	JsonNode *node = member(obj, key);

	if (!node)
		return otherwise;
	if (!JSON_NODE_HOLDS_VALUE(node) || json_node_get_value_type(node) != G_TYPE_STRING) {
		wrong_type(error, key, "a string");
		return otherwise;
	}
	return json_node_get_string(node);
}

gint64 cop_json_int(JsonObject *obj, const char *key, gint64 otherwise, GError **error)
{
	JsonNode *node = member(obj, key);

	if (!node)
		return otherwise;
	if (!JSON_NODE_HOLDS_VALUE(node) || json_node_get_value_type(node) != G_TYPE_INT64) {
		wrong_type(error, key, "a whole number");
		return otherwise;
	}
	return json_node_get_int(node);
}

gboolean cop_json_bool(JsonObject *obj, const char *key, gboolean otherwise, GError **error)
{
	JsonNode *node = member(obj, key);

	if (!node)
		return otherwise;
	if (!JSON_NODE_HOLDS_VALUE(node) || json_node_get_value_type(node) != G_TYPE_BOOLEAN) {
		wrong_type(error, key, "true or false");
		return otherwise;
	}
	return json_node_get_boolean(node);
}

double cop_json_double(JsonObject *obj, const char *key, double otherwise)
{
	JsonNode *node = member(obj, key);

	return node && JSON_NODE_HOLDS_VALUE(node) ? json_node_get_double(node) : otherwise;
}

char **cop_json_strv(JsonObject *obj, const char *key, GError **error)
{
	JsonNode *node = member(obj, key);
	g_autoptr(GStrvBuilder) out = g_strv_builder_new();
	JsonArray *arr;

	if (!node)
		return NULL;
	if (!JSON_NODE_HOLDS_ARRAY(node)) {
		wrong_type(error, key, "a list of strings");
		return NULL;
	}
	arr = json_node_get_array(node);
	for (guint i = 0; i < json_array_get_length(arr); i++) {
		JsonNode *item = json_array_get_element(arr, i);

		if (!JSON_NODE_HOLDS_VALUE(item) ||
		    json_node_get_value_type(item) != G_TYPE_STRING) {
			wrong_type(error, key, "a list of strings");
			return NULL;
		}
		g_strv_builder_add(out, json_node_get_string(item));
	}
	return g_strv_builder_end(out);
}

JsonObject *cop_json_obj(JsonObject *obj, const char *key)
{
	JsonNode *node = member(obj, key);

	return node && JSON_NODE_HOLDS_OBJECT(node) ? json_node_get_object(node) : NULL;
}

JsonArray *cop_json_arr(JsonObject *obj, const char *key)
{
	JsonNode *node = member(obj, key);

	return node && JSON_NODE_HOLDS_ARRAY(node) ? json_node_get_array(node) : NULL;
}

void cop_json_set_str(JsonObject *obj, const char *key, const char *value)
{
	if (value)
		json_object_set_string_member(obj, key, value);
	else
		json_object_set_null_member(obj, key);
}

void cop_json_set_strv(JsonObject *obj, const char *key, char *const *values)
{
	JsonArray *arr = json_array_new();

	for (; values && *values; values++)
		json_array_add_string_element(arr, *values);
	json_object_set_array_member(obj, key, arr);
}

gboolean cop_json_only(JsonObject *obj, const char *const *known, GError **error)
{
	g_autoptr(GList) names = json_object_get_members(obj);

	for (GList *l = names; l; l = l->next) {
		if (!g_strv_contains(known, l->data))
			return cop_gerror_set(error, COP_ERR_BAD_REQUEST,
					     "unknown member '%s' in the request", (char *)l->data);
	}
	return TRUE;
}

JsonObject *cop_json_load(const char *path, GError **error)
{
	g_autofree char *text = NULL;
	gsize len;
	JsonObject *obj;

	text = cop_file_read(path, MAX_FILE_BYTES, &len, error);
	if (!text)
		return NULL;
	obj = cop_json_parse(text, (gssize)len, error);
	if (!obj)
		g_prefix_error(error, "%s: ", path);
	return obj;
}

gboolean cop_json_save(const char *path, JsonObject *obj, gboolean durable, GError **error)
{
	g_autofree char *text = cop_json_print(obj, TRUE);

	return cop_file_replace(path, text, strlen(text), durable, error);
}
