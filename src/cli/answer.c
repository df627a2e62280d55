/* SPDX-License-Identifier: MIT */
/* answer.c: reading the daemon's JSON without trusting its shape: see answer.h. */
#include "cli/answer.h"
#include "cli/failure.h"

/* The member when it is there and a value of @type, or NULL. Integers pass as doubles. */
static JsonNode *member(JsonObject *object, const char *key, GType type)
{
	JsonNode *node = object ? json_object_get_member(object, key) : NULL;

	if (!node || !JSON_NODE_HOLDS_VALUE(node))
		return NULL;
	if (json_node_get_value_type(node) == type)
		return node;
	if (type == G_TYPE_DOUBLE && json_node_get_value_type(node) == G_TYPE_INT64)
		return node;
	return NULL;
}

const char *cop_answer_string(JsonObject *object, const char *key)
{
	JsonNode *node = member(object, key, G_TYPE_STRING);

	return node ? json_node_get_string(node) : "";
}

uint64_t cop_answer_uint(JsonObject *object, const char *key)
{
	JsonNode *node = member(object, key, G_TYPE_INT64);
	gint64 value = node ? json_node_get_int(node) : 0;

	return value > 0 ? (uint64_t)value : 0;
}

double cop_answer_double(JsonObject *object, const char *key)
{
	JsonNode *node = member(object, key, G_TYPE_DOUBLE);

	return node ? json_node_get_double(node) : 0;
}

gboolean cop_answer_bool(JsonObject *object, const char *key)
{
	JsonNode *node = member(object, key, G_TYPE_BOOLEAN);

	return node ? json_node_get_boolean(node) : FALSE;
}

gboolean cop_answer_is_null(JsonObject *object, const char *key)
{
	JsonNode *node = object ? json_object_get_member(object, key) : NULL;

	return !node || JSON_NODE_HOLDS_NULL(node);
}

JsonObject *cop_answer_object(JsonObject *object, const char *key)
{
	JsonNode *node = object ? json_object_get_member(object, key) : NULL;

	return node && JSON_NODE_HOLDS_OBJECT(node) ? json_node_get_object(node) : NULL;
}

JsonArray *cop_answer_array(JsonObject *object, const char *key)
{
	JsonNode *node = object ? json_object_get_member(object, key) : NULL;

	return node && JSON_NODE_HOLDS_ARRAY(node) ? json_node_get_array(node) : NULL;
}

guint cop_answer_length(JsonArray *array)
{
	return array ? json_array_get_length(array) : 0;
}

JsonObject *cop_answer_element(JsonArray *array, guint i)
{
	JsonNode *node = json_array_get_element(array, i);

	return JSON_NODE_HOLDS_OBJECT(node) ? json_node_get_object(node) : NULL;
}

const char *cop_answer_element_string(JsonArray *array, guint i)
{
	JsonNode *node = json_array_get_element(array, i);

	if (!JSON_NODE_HOLDS_VALUE(node) || json_node_get_value_type(node) != G_TYPE_STRING)
		return "";
	return json_node_get_string(node);
}

JsonObject *cop_answer_parse(const char *text, gssize len_bytes, GError **error)
{
	g_autoptr(JsonParser) parser = json_parser_new();
	g_autoptr(GError) why = NULL;
	JsonNode *root;

	if (!json_parser_load_from_data(parser, text, len_bytes, &why)) {
		cop_failure_set(error, COP_FAILURE_INTERNAL, NULL, "not JSON: %s", why->message);
		return NULL;
	}
	root = json_parser_get_root(parser);
	if (!root || !JSON_NODE_HOLDS_OBJECT(root)) {
		cop_failure_set(error, COP_FAILURE_INTERNAL, NULL, "not a JSON object");
		return NULL;
	}
	return json_object_ref(json_node_get_object(root));
}
