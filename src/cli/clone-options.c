/* SPDX-License-Identifier: MIT */
/* clone-options.c: what clone and fork tell a clone: see clone-options.h. */
#include "cli/clone-options.h"
#include "cli/labels.h"
#include "cli/options.h"

gboolean cop_clone_options_set(JsonObject *request, const struct cop_clone_options *o,
			       GError **error)
{
	uint64_t timeout_s = 0, forks = 0;

	if (!cop_labels_set(request, "labels", "--label", o->labels, error) ||
	    !cop_labels_set(request, "params", "--param", o->params, error) ||
	    !cop_options_number("--ready-timeout", o->ready_timeout, 1, 3600, &timeout_s, error) ||
	    !cop_options_number("--allow-fork", o->allow_fork, 1, 1024, &forks, error))
		return FALSE;
	if (timeout_s)
		json_object_set_int_member(request, "ready_timeout_ms", (gint64)timeout_s * 1000);
	if (forks)
		json_object_set_int_member(request, "allow_fork", (gint64)forks);
	if (o->no_wait)
		json_object_set_boolean_member(request, "wait", FALSE);
	if (o->ssh_host_keys)
		json_object_set_boolean_member(request, "ssh_host_keys", TRUE);
	return TRUE;
}
