/* Which accelerator and machine type a new VM gets; found out once a daemon, on first use. */
#ifndef COP_DAEMON_ACCEL_CHOICE_H
#define COP_DAEMON_ACCEL_CHOICE_H

#include "state.h"

/* Sets machine->accel ("auto" becomes what the probe found) and machine->type. Blocks. */
gboolean cop_accel_choose(struct cop_state *state, const char *wanted, struct cop_machine *machine,
			  GError **error);
/* The probe's findings: "accel", "kvm_ok", "found", "advice". Blocks; borrowed, never NULL. */
JsonObject *cop_accel_findings(struct cop_state *state);

#endif
