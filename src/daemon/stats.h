/* What all VMs were given, and what the host pays. */
#ifndef COP_DAEMON_STATS_H
#define COP_DAEMON_STATS_H

#include "state.h"

/* As in docs/openapi.json. Blocks; caller owns it. */
JsonObject *cop_stats(struct cop_state *state);

#endif
