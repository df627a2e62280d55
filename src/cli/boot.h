/* SPDX-License-Identifier: MIT */
/* boot.h: waiting for a guest that boots. */
#ifndef COP_CLI_BOOT_H
#define COP_CLI_BOOT_H

#include "cli/client.h"

#include <stdint.h>

/* Until the agent in VM @name has answered; FALSE: it has not within @limit_s, or the VM has ended. */
gboolean cop_boot_wait(struct cop_client *client, const char *name, uint64_t limit_s, GError **error);

#endif
