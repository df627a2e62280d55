/* SPDX-License-Identifier: MIT */
/* search.h: a text in a stream that arrives in pieces. */
#ifndef COP_CLI_SEARCH_H
#define COP_CLI_SEARCH_H

#include <glib.h>

struct cop_search;

/* A search for @text (not empty; copied). */
struct cop_search *cop_search_new(const char *text);
/* Take @len_bytes more; TRUE once the text was in what was fed so far, and from then on. */
gboolean cop_search_feed(struct cop_search *search, const guint8 *data, gsize len_bytes);
void cop_search_free(struct cop_search *search);

#endif
