/* SPDX-License-Identifier: MIT */
/* search.c: a text in a stream, found with memmem() over the last bytes and each new piece. */
#include "cli/search.h"

#include <string.h>

struct cop_search {
	char *text;
	gsize len;
	GByteArray *window; /* the last len - 1 bytes, then the new ones */
	gboolean found;
};

struct cop_search *cop_search_new(const char *text)
{
	struct cop_search *search = g_new0(struct cop_search, 1);

	search->text = g_strdup(text);
	search->len = strlen(text);
	search->window = g_byte_array_new();
	return search;
}

gboolean cop_search_feed(struct cop_search *search, const guint8 *data, gsize len_bytes)
{
	GByteArray *window = search->window;

	if (search->found || !len_bytes)
		return search->found;
	g_byte_array_append(window, data, (guint)len_bytes);
	search->found = memmem(window->data, window->len, search->text, search->len) != NULL;
	if (window->len >= search->len)
		g_byte_array_remove_range(window, 0, window->len - (guint)(search->len - 1));
	return search->found;
}

void cop_search_free(struct cop_search *search)
{
	if (!search)
		return;
	g_byte_array_unref(search->window);
	g_free(search->text);
	g_free(search);
}
