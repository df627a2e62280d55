/* SPDX-License-Identifier: MIT */
/* memory.h: what memory VMs cost, as stats and top print it. */
#ifndef COP_CLI_MEMORY_H
#define COP_CLI_MEMORY_H

#include <json-glib/json-glib.h>

/* A table of VMs, each an object with "name", "state" and "memory". Nothing when there are none. */
void cop_memory_print_vms(JsonArray *vms);
/* The table of one. */
void cop_memory_print_vm(JsonObject *vm);

/* @stats: the answer of /v1/stats. What was given and paid, and what that is made of. */
void cop_memory_print_total(JsonObject *stats);

#endif
