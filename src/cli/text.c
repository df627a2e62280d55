/* SPDX-License-Identifier: MIT */
/* text.c: sizes, times and names as text: see text.h. */
#include "cli/text.h"

#include <string.h>

gboolean cop_text_parse_size(const char *text, uint64_t *ret_bytes)
{
	static const char units[] = "KMGT";
	const char *end = text, *unit;
	uint64_t value = 0;
	unsigned shift = 0;

	if (!text || !g_ascii_isdigit(*text))
		return FALSE;
	for (; g_ascii_isdigit(*end); end++) {
		uint64_t digit = (uint64_t)(*end - '0');

		if (value > (INT64_MAX - digit) / 10)
			return FALSE;
		value = value * 10 + digit;
	}
	unit = *end ? strchr(units, g_ascii_toupper(*end)) : NULL;
	if (unit) {
		shift = 10 * (unsigned)(unit - units + 1);
		end++;
		if (g_ascii_strcasecmp(end, "iB") == 0 || g_ascii_strcasecmp(end, "B") == 0)
			end = "";
	} else if (g_ascii_strcasecmp(end, "B") == 0) {
		end = "";
	}
	if (*end || value > ((uint64_t)INT64_MAX >> shift))
		return FALSE;
	*ret_bytes = value << shift;
	return TRUE;
}

gboolean cop_text_parse_number(const char *text, uint64_t min, uint64_t max, uint64_t *ret)
{
	guint64 value;

	if (!text || !g_ascii_isdigit(*text) ||
	    !g_ascii_string_to_unsigned(text, 10, min, max, &value, NULL))
		return FALSE;
	*ret = value;
	return TRUE;
}

gboolean cop_text_parse_key(const char *text, int *ret_key)
{
	if (!text)
		return FALSE;
	if (strcmp(text, "none") == 0) {
		*ret_key = -1;
		return TRUE;
	}
	if (g_ascii_isgraph(text[0]) && !text[1]) {
		*ret_key = text[0];
		return TRUE;
	}
	if (text[0] == '^' && text[1] && !text[2]) {
		int upper = g_ascii_toupper(text[1]);

		if (upper < '@' || upper > '_')
			return FALSE;
		*ret_key = upper - '@';
		return TRUE;
	}
	return FALSE;
}

gboolean cop_text_is_name(const char *text)
{
	size_t len = text ? strspn(text, "abcdefghijklmnopqrstuvwxyz0123456789._-") : 0;

	return len > 0 && len <= COP_NAME_MAX && !text[len] && g_ascii_isalnum(text[0]);
}

char *cop_text_size(uint64_t bytes)
{
	static const char units[] = "KMGTPE";
	double value = (double)bytes / 1024;
	size_t unit = 0;

	if (bytes == 0)
		return g_strdup("0");
	if (bytes < 1024)
		return g_strdup_printf("%u B", (unsigned)bytes);
	/* 1023.5 would print as 1024. */
	for (; value >= 1023.5; unit++)
		value /= 1024;
	return g_strdup_printf("%.*f %ciB", value < 99.95 ? 1 : 0, value, units[unit]);
}

char *cop_text_duration(double ms)
{
	if (!(ms > 0))
		return g_strdup("0 ms");
	if (ms < 10)
		return g_strdup_printf("%.1f ms", ms);
	if (ms < 299.5)
		return g_strdup_printf("%.0f ms", ms);
	if (ms < 995)
		return g_strdup_printf("%.2f s", ms / 1000);
	if (ms < 99950)
		return g_strdup_printf("%.1f s", ms / 1000);
	return g_strdup_printf("%.0f s", ms / 1000);
}

char *cop_text_age(int64_t seconds)
{
	if (seconds < 0)
		seconds = 0;
	if (seconds < 120)
		return g_strdup_printf("%us", (unsigned)seconds);
	if (seconds < 120 * 60)
		return g_strdup_printf("%um", (unsigned)(seconds / 60));
	if (seconds < 48 * 3600)
		return g_strdup_printf("%uh", (unsigned)(seconds / 3600));
	return g_strdup_printf("%" G_GINT64_FORMAT "d", (gint64)(seconds / 86400));
}

gboolean cop_text_is_safe_char(gunichar c)
{
	switch (g_unichar_type(c)) {
	case G_UNICODE_CONTROL:
	case G_UNICODE_FORMAT: /* among them those that turn the direction of text */
	case G_UNICODE_LINE_SEPARATOR:
	case G_UNICODE_PARAGRAPH_SEPARATOR:
	case G_UNICODE_SURROGATE:
	case G_UNICODE_UNASSIGNED:
	case G_UNICODE_PRIVATE_USE:
		return FALSE;
	default:
		return TRUE;
	}
}

char *cop_text_clean(const char *text)
{
	GString *out = g_string_new(NULL);

	for (const char *p = text ? text : ""; *p;) {
		gunichar c = g_utf8_get_char_validated(p, -1);

		if (c == (gunichar)-1 || c == (gunichar)-2) {
			g_string_append_c(out, '?');
			p++;
			continue;
		}
		if (c == '\n' || c == '\t')
			g_string_append_c(out, ' ');
		else if (cop_text_is_safe_char(c))
			g_string_append_unichar(out, c);
		else
			g_string_append_c(out, '?');
		p = g_utf8_next_char(p);
	}
	return g_string_free(out, FALSE);
}

size_t cop_text_width(const char *text)
{
	size_t columns = 0;

	for (const char *p = text; *p; p = g_utf8_next_char(p)) {
		gunichar c = g_utf8_get_char(p);

		columns += g_unichar_iszerowidth(c) ? 0 : g_unichar_iswide(c) ? 2 : 1;
	}
	return columns;
}
