/* SPDX-License-Identifier: MIT */
/* copies.c: "count" and "names" of clone and fork requests: see copies.h. */
#include "cli/copies.h"
#include "cli/failure.h"
#include "cli/options.h"

#include <string.h>

#define MAX_COPIES 1024

gboolean cop_copies_set(JsonObject *request, const char *command, const char *count,
			char *const *names, unsigned *ret_nr, GError **error)
{
	guint nr_names = names ? g_strv_length((char **)names) : 0;
	uint64_t nr = nr_names ? nr_names : 1;
	JsonArray *array;

	if (!cop_options_number("--count", count, 1, MAX_COPIES, &nr, error) ||
	    !cop_options_names("VM", names, error))
		return FALSE;
	if (nr_names && nr_names != nr)
		return cop_failure_usage(error, "%s: %u times --name does not fit --count %u",
					 command, nr_names, (unsigned)nr);
	json_object_set_int_member(request, "count", (gint64)nr);
	*ret_nr = (unsigned)nr;
	if (!nr_names)
		return TRUE;
	array = json_array_new();
	for (guint i = 0; i < nr_names; i++)
		json_array_add_string_element(array, names[i]);
	json_object_set_array_member(request, "names", array);
	return TRUE;
}
