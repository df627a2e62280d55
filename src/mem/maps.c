/* maps.c - see maps.h. Format: proc(5). */
#include "mem/maps.h"
#include "mem/page.h"

#include <inttypes.h>
#include <string.h>

bool cop_maps_next(FILE *file, struct cop_mapping *ret_mapping)
{
	char line[256], rest[256]; /* what counts is in the first 73 bytes or so */

	while (fgets(line, sizeof(line), file)) {
		bool whole = strchr(line, '\n');
		struct cop_mapping m;

		while (!whole && fgets(rest, sizeof(rest), file))
			whole = strchr(rest, '\n');
		if (sscanf(line, "%16" SCNx64 "-%16" SCNx64 " %*s %*s %*s %20" SCNu64, &m.from, &m.to,
			   &m.inode) != 3 ||
		    m.from >= m.to || m.from % COP_PAGE_BYTES || m.to % COP_PAGE_BYTES)
			continue;
		*ret_mapping = m;
		return true;
	}
	return false;
}
