/* Small helpers over json-glib: building, strict reading, files that are replaced whole. */
#ifndef COP_DAEMON_JSON_H
#define COP_DAEMON_JSON_H

#include <json-glib/json-glib.h>

/* Text (nul-terminated, len_bytes long or -1) to an object. Refuses more than 64 nested levels:
 * the text may come from a guest's QEMU. Caller owns the result; NULL with error set on failure. */
JsonObject *cop_json_parse(const char *text, gssize len_bytes, GError **error);

/* Object to text; caller frees. */
char *cop_json_print(JsonObject *obj, gboolean pretty);

/* A deep copy that shares nothing, as counting references is not safe between threads; NULL gives an
 * empty object. Caller owns it. */
JsonObject *cop_json_copy(JsonObject *obj);

/* Members with a default for absence; a member of the wrong type sets *error (first one wins). */
const char *cop_json_str(JsonObject *obj, const char *key, const char *otherwise, GError **error);
gint64 cop_json_int(JsonObject *obj, const char *key, gint64 otherwise, GError **error);
gboolean cop_json_bool(JsonObject *obj, const char *key, gboolean otherwise, GError **error);
double cop_json_double(JsonObject *obj, const char *key, double otherwise);
/* Array of strings as a strv, NULL when absent; caller frees. */
char **cop_json_strv(JsonObject *obj, const char *key, GError **error);
/* Borrowed object or array, NULL when absent or of another type. */
JsonObject *cop_json_obj(JsonObject *obj, const char *key);
JsonArray *cop_json_arr(JsonObject *obj, const char *key);

/* Sets a string member, or null for NULL. */
void cop_json_set_str(JsonObject *obj, const char *key, const char *value);
void cop_json_set_strv(JsonObject *obj, const char *key, char *const *values);

/* Refuses members that are not in the NULL-terminated list. */
gboolean cop_json_only(JsonObject *obj, const char *const *known, GError **error);

/* Reads a file of at most 16 MiB. */
JsonObject *cop_json_load(const char *path, GError **error);
/* Replaces the file at once: written beside it (mode 0600), renamed over it; with durable, synced
 * first, and the folder after. */
gboolean cop_json_save(const char *path, JsonObject *obj, gboolean durable, GError **error);

#endif
