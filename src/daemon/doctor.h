/* What this host can and cannot do, and how to change it. */
#ifndef COP_DAEMON_DOCTOR_H
#define COP_DAEMON_DOCTOR_H

#include "state.h"

/* As in docs/openapi.json. Blocks (a probe guest runs on the first call); caller owns it. */
JsonObject *cop_doctor(struct cop_state *state);

#endif
