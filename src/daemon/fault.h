/* Faults on demand, for tests: COPPICE_FAULT=NAME in the environment kills the daemon when it
 * reaches the point NAME, as kill -9 would. Without the variable nothing happens. */
#ifndef COP_DAEMON_FAULT_H
#define COP_DAEMON_FAULT_H

void cop_fault_point(const char *name);

#endif
