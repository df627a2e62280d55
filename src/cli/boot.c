/* SPDX-License-Identifier: MIT */
/* boot.c: see boot.h. */
#include "cli/boot.h"
#include "cli/answer.h"
#include "cli/failure.h"

#include <string.h>

#define LOOK_US (50 * 1000)

gboolean cop_boot_wait(struct cop_client *client, const char *name, uint64_t limit_s, GError **error)
{
	g_autofree char *path = cop_client_path("/v1/vms/", name, "");
	gint64 deadline_us = g_get_monotonic_time() + (gint64)limit_s * G_USEC_PER_SEC;

	for (;;) {
		g_autoptr(JsonObject) vm = cop_client_call(client, "GET", path, NULL, error);
		JsonObject *agent = cop_answer_object(vm, "agent");
		const char *state = cop_answer_string(agent, "state");

		if (!vm)
			return FALSE;
		if (strcmp(state, "ready") == 0)
			return TRUE;
		if (strcmp(cop_answer_string(vm, "state"), "running") != 0 ||
		    strcmp(state, "failed") == 0)
			return cop_failure_set(error, COP_FAILURE_INTERNAL, NULL,
					       "VM '%s' did not come up: %s %s", name,
					       cop_answer_string(vm, "reason"),
					       cop_answer_string(agent, "reason"));
		if (g_get_monotonic_time() > deadline_us)
			return cop_failure_set(error, COP_FAILURE_TIMEOUT,
					       "'coppice console' shows what it does; an image of an "
					       "older coppice, or of yours, may have no agent",
					       "no agent has answered in VM '%s' in %" G_GUINT64_FORMAT
					       " s",
					       name, limit_s);
		g_usleep(LOOK_US);
	}
}
