/*
 * fuzz-maps.c - any bytes as /proc/PID/maps: what is taken for a mapping is one, and begins where a
 * line begins: paths, which a guest may choose, give none.
 */
#include "fuzz.h"

#include "mem/maps.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Does a line after *at begin with this address? Moves *at behind it. */
static bool line_begins(const char **at, const char *end, uint64_t from)
{
	while (*at < end) {
		const char *newline = memchr(*at, '\n', (size_t)(end - *at));
		const char *line = *at;

		*at = newline ? newline + 1 : end;
		if (strtoull(line, NULL, 16) == from)
			return true;
	}
	return false;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct cop_mapping m;
	char *text = malloc(len + 1);
	const char *at = text;
	FILE *file;

	must(text, "memory");
	memcpy(text, data, len);
	text[len] = '\0';
	if (!len || memchr(text, 0, len)) { /* fgets() ends at none, but the kernel writes none */
		free(text);
		return 0;
	}
	file = fmemopen(text, len, "r");
	must(file, "memory");
	while (cop_maps_next(file, &m)) {
		must(m.from < m.to && m.from % 4096 == 0 && m.to % 4096 == 0, "no mapping");
		must(line_begins(&at, text + len, m.from), "a mapping made of a path");
	}
	fclose(file);
	free(text);
	return 0;
}
