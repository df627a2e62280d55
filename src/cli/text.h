/* SPDX-License-Identifier: MIT */
/* text.h: sizes, times and names as text, and text made safe for a terminal. No I/O. */
#ifndef COP_CLI_TEXT_H
#define COP_CLI_TEXT_H

#include <glib.h>
#include <stdint.h>

/* The longest name of a VM or template. */
#define COP_NAME_MAX 63

/*
 * Read a size such as 512M, 1G, 1GiB, 64kb or 1073741824 (units are powers of 1024, in any case;
 * a bare number is bytes; no sign, no space, no fraction).
 * Returns FALSE and leaves *@ret_bytes alone when @text is none or exceeds INT64_MAX.
 */
gboolean cop_text_parse_size(const char *text, uint64_t *ret_bytes);

/*
 * Read a decimal number of @min to @max without sign or spaces around it.
 * Returns FALSE and leaves *@ret alone when @text is none.
 */
gboolean cop_text_parse_number(const char *text, uint64_t min, uint64_t max, uint64_t *ret);

/*
 * Read an escape key: "^X" is Ctrl-X, one printable ASCII character is itself, "none" is no key.
 * Sets *@ret_key to the byte, or to -1 for none. Returns FALSE and leaves *@ret_key alone
 * otherwise.
 */
gboolean cop_text_parse_key(const char *text, int *ret_key);

/* Is @text a name that the daemon accepts: [a-z0-9][a-z0-9._-]{0,62}? NULL is none. */
gboolean cop_text_is_name(const char *text);

/* @bytes for people: "0", "812 B", "49.2 MiB", "1.0 GiB", "215 MiB". Caller frees. */
char *cop_text_size(uint64_t bytes);

/* Milliseconds for people: "0.4 ms", "61 ms", "0.31 s", "2.9 s", "130 s". Caller frees. */
char *cop_text_duration(double ms);

/* Seconds as a short age: "12s", "5m", "3h", "2d". Negative counts as 0. Caller frees. */
char *cop_text_age(int64_t seconds);

/*
 * May @c be shown? Not: control characters (C0, DEL, C1), line and paragraph separators, and
 * the invisible characters that reorder or hide text.
 */
gboolean cop_text_is_safe_char(gunichar c);

/*
 * A copy of @text, which may come from a guest, that can't move a cursor, start an escape sequence
 * or break a line: newlines and tabs become spaces, other unsafe characters and bytes that are not
 * UTF-8 become '?'. NULL gives "". Caller frees.
 */
char *cop_text_clean(const char *text);

/* Columns that the clean @text takes on a terminal. */
size_t cop_text_width(const char *text);

#endif
