/* SPDX-License-Identifier: MIT */
/* output.c: tables and JSON on standard output: see output.h. */
#include "cli/output.h"
#include "cli/answer.h"
#include "cli/text.h"

#include <string.h>

struct cop_table {
	const char *const *headings;
	size_t nr_columns;
	GPtrArray *cells; /* clean texts, row by row */
	guint64 hidden;	  /* bit i: column i */
};

struct cop_table *cop_table_new(const char *const *headings)
{
	struct cop_table *table = g_new0(struct cop_table, 1);

	table->headings = headings;
	table->nr_columns = g_strv_length((char **)headings);
	table->cells = g_ptr_array_new_with_free_func(g_free);
	return table;
}

void cop_table_add(struct cop_table *table, const char *text)
{
	g_ptr_array_add(table->cells, cop_text_clean(text && *text ? text : "-"));
}

void cop_table_add_take(struct cop_table *table, char *text)
{
	cop_table_add(table, text);
	g_free(text);
}

void cop_table_add_size(struct cop_table *table, JsonObject *object, const char *key)
{
	if (cop_answer_is_null(object, key))
		cop_table_add(table, NULL);
	else
		cop_table_add_take(table, cop_text_size(cop_answer_uint(object, key)));
}

void cop_table_hide(struct cop_table *table, size_t column)
{
	table->hidden |= G_GUINT64_CONSTANT(1) << column;
}

static void print_cell(GString *line, const char *text, size_t width, gboolean right)
{
	size_t pad = width - cop_text_width(text);

	if (line->len)
		g_string_append(line, "  ");
	if (!right)
		g_string_append(line, text);
	g_string_append_printf(line, "%*s", (int)pad, "");
	if (right)
		g_string_append(line, text);
}

/* The text of a cell; row -1 is the headings. */
static const char *cell(const struct cop_table *table, gssize row, size_t column)
{
	if (row >= 0)
		return table->cells->pdata[(size_t)row * table->nr_columns + column];
	return table->headings[column] + (table->headings[column][0] == '>');
}

void cop_table_print(const struct cop_table *table)
{
	gssize nr_rows = (gssize)(table->cells->len / table->nr_columns);
	g_autofree size_t *widths = g_new0(size_t, table->nr_columns);

	for (gssize row = -1; row < nr_rows; row++) {
		for (size_t i = 0; i < table->nr_columns; i++)
			widths[i] = MAX(widths[i], cop_text_width(cell(table, row, i)));
	}
	for (gssize row = -1; row < nr_rows; row++) {
		g_autoptr(GString) line = g_string_new(NULL);

		for (size_t i = 0; i < table->nr_columns; i++) {
			if (!(table->hidden >> i & 1))
				print_cell(line, cell(table, row, i), widths[i],
					   table->headings[i][0] == '>');
		}
		while (line->len && line->str[line->len - 1] == ' ')
			g_string_truncate(line, line->len - 1);
		puts(line->str);
	}
}

void cop_table_free(struct cop_table *table)
{
	if (!table)
		return;
	g_ptr_array_unref(table->cells);
	g_free(table);
}

void cop_output_json(JsonObject *object)
{
	g_autoptr(JsonNode) node = json_node_new(JSON_NODE_OBJECT);
	g_autofree char *raw = NULL, *text = NULL;

	json_node_set_object(node, object);
	raw = json_to_string(node, TRUE);
	text = g_utf8_make_valid(raw, -1);
	for (const char *p = text; *p; p = g_utf8_next_char(p)) {
		gunichar c = g_utf8_get_char(p);

		if (c == '\n' || cop_text_is_safe_char(c))
			fwrite(p, 1, (size_t)(g_utf8_next_char(p) - p), stdout);
		else if (c < 0x10000)
			printf("\\u%04x", c);
		else
			printf("\\u%04x\\u%04x", 0xd7c0 + (c >> 10), 0xdc00 + (c & 0x3ff));
	}
	putchar('\n');
}

void cop_output_line(const char *format, ...)
{
	g_autofree char *text = NULL, *clean = NULL;
	gboolean newline;
	va_list args;

	va_start(args, format);
	text = g_strdup_vprintf(format, args);
	va_end(args);
	newline = g_str_has_suffix(text, "\n");
	if (newline)
		text[strlen(text) - 1] = '\0';
	clean = cop_text_clean(text);
	printf("%s%s", clean, newline ? "\n" : "");
	fflush(stdout);
}

char *cop_output_age(const char *created)
{
	g_autoptr(GTimeZone) utc = g_time_zone_new_utc();
	g_autoptr(GDateTime) then = g_date_time_new_from_iso8601(created, utc);

	if (!then)
		return g_strdup("-");
	return cop_text_age(g_get_real_time() / G_USEC_PER_SEC - g_date_time_to_unix(then));
}
