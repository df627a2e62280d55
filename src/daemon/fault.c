/* Faults on demand: see fault.h. */
#include "fault.h"

#include <glib.h>
#include <signal.h>

void cop_fault_point(const char *name)
{
	if (g_strcmp0(g_getenv("COPPICE_FAULT"), name) == 0)
		raise(SIGKILL);
}
