/* SPDX-License-Identifier: MIT */
/*
 * answer.h: reading the daemon's JSON without trusting its shape.
 *
 * A member that is missing, null or of another type reads as "", 0, FALSE or NULL. @object may be
 * NULL. What is returned is borrowed from @object.
 */
#ifndef COP_CLI_ANSWER_H
#define COP_CLI_ANSWER_H

#include <json-glib/json-glib.h>
#include <stdint.h>

const char *cop_answer_string(JsonObject *object, const char *key);
uint64_t cop_answer_uint(JsonObject *object, const char *key); /* negative reads as 0 */
double cop_answer_double(JsonObject *object, const char *key);
gboolean cop_answer_bool(JsonObject *object, const char *key);
gboolean cop_answer_is_null(JsonObject *object, const char *key); /* or missing */
JsonObject *cop_answer_object(JsonObject *object, const char *key);
JsonArray *cop_answer_array(JsonObject *object, const char *key);

/* Number of elements; @array may be NULL. */
guint cop_answer_length(JsonArray *array);
/* Element number @i when it is an object, or NULL. */
JsonObject *cop_answer_element(JsonArray *array, guint i);
/* Element number @i when it is a string, or "". */
const char *cop_answer_element_string(JsonArray *array, guint i);

/* The object in @text, which is @len_bytes long (-1: until its NUL); the caller owns it. NULL with
 * *@error set when there is none. */
JsonObject *cop_answer_parse(const char *text, gssize len_bytes, GError **error);

#endif
