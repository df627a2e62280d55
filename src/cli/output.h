/* SPDX-License-Identifier: MIT */
/* output.h: what goes to standard output: tables for people, JSON for programs. */
#ifndef COP_CLI_OUTPUT_H
#define COP_CLI_OUTPUT_H

#include <json-glib/json-glib.h>
#include <stdint.h>
#include <stdio.h>

/*
 * A table: every cell is made safe for a terminal when it is added; columns are as wide as
 * their widest cell. A heading that begins with '>' makes a column right-aligned.
 */
struct cop_table;

/* @headings: NULL-terminated, and borrowed until cop_table_free(). */
struct cop_table *cop_table_new(const char *const *headings);
/* Put @text (copied; "" or NULL shows as "-") into the next cell, row after row. */
void cop_table_add(struct cop_table *table, const char *text);
/* The same, of a text that is freed. */
void cop_table_add_take(struct cop_table *table, char *text);
/* A size, or "-" when @object lacks @key. */
void cop_table_add_size(struct cop_table *table, JsonObject *object, const char *key);
/* Do not print column number @column. */
void cop_table_hide(struct cop_table *table, size_t column);
/* Print it on standard output, headings first. A last column is not padded. */
void cop_table_print(const struct cop_table *table);
void cop_table_free(struct cop_table *table);

/*
 * Print @object as one JSON document on standard output. Characters that could steer a terminal
 * are written as \uXXXX, which changes nothing for a JSON reader.
 */
void cop_output_json(JsonObject *object);

/* Print to standard output with every unsafe character replaced; @format may end in "\n". */
void cop_output_line(const char *format, ...) G_GNUC_PRINTF(1, 2);

/* The age of the ISO 8601 date @created, "-" when it is none. Caller frees. */
char *cop_output_age(const char *created);

#endif
