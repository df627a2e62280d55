/* SPDX-License-Identifier: MIT */
/* labels.h: -l KEY=VALUE, for giving labels to VMs and for choosing VMs by them. */
#ifndef COP_CLI_LABELS_H
#define COP_CLI_LABELS_H

#include "cli/cli.h"

/* Sets @member of @request to an object of the KEY=VALUE pairs in @pairs, which may be NULL. Returns
 * FALSE with a usage error of @option. */
gboolean cop_labels_set(JsonObject *request, const char *member, const char *option, char *const *pairs,
			GError **error);

/* Names of the running VMs that have all labels of @wanted (KEY=VALUE or KEY; NULL: any). Caller
 * frees; NULL with *@error set, also when there is none. */
char **cop_labels_find(struct cop_cli *cli, char *const *wanted, GError **error);

/* "a=1,b=2" out of a VM's labels; caller frees. */
char *cop_labels_text(JsonObject *labels);

#endif
