/* Start-up: folders, manifests, VMs that outlived an earlier daemon. */
#ifndef COP_DAEMON_RECOVER_H
#define COP_DAEMON_RECOVER_H

#include "state.h"

/* Makes the folders and reads all manifests. Before the API serves. */
gboolean cop_recover_read(struct cop_state *state, GError **error);
/* Takes up running VMs, finishes what was cut short, removes what nothing uses. On a worker, with
 * the main loop running; before the API serves. */
void cop_recover_adopt(struct cop_state *state);

#endif
