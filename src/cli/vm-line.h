/* SPDX-License-Identifier: MIT */
/* vm-line.h: lines about VMs that several commands print. */
#ifndef COP_CLI_VM_LINE_H
#define COP_CLI_VM_LINE_H

#include <json-glib/json-glib.h>

/* "  desk: ssh at 127.0.0.1 port 40022" when the Vm object @vm has such a port. */
void cop_vm_line_ssh(JsonObject *vm);

/*
 * "16 clones running in 2.9 s (first 0.31 s, median 1.4 s)" for the Vm objects @vms that were
 * started together in @all_ms, their names and ssh ports. @state: "running" or "paused".
 */
void cop_vm_line_clones(JsonArray *vms, double all_ms, const char *state);

/* What became of the agents of a CloneResult's or ForkResult's VMs: "ready in 0.4 s: random, ...". */
void cop_vm_line_agents(JsonObject *answer);

#endif
