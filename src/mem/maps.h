/*
 * maps.h - the mappings of a process, as /proc/PID/maps tells them.
 *
 * The kernel writes the file, but the paths in it are chosen by the process, which a guest may have
 * taken over: nothing in a path is ever taken for a mapping, however long it is.
 */
#ifndef COP_MEM_MAPS_H
#define COP_MEM_MAPS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

struct cop_mapping {
	uint64_t from, to; /* whole pages, from < to */
	uint64_t inode;	   /* 0: anonymous */
};

/* The next one of the file; lines that are none are passed over. False at its end. */
bool cop_maps_next(FILE *file, struct cop_mapping *ret_mapping);

#endif
