/* SPDX-License-Identifier: MIT */
/* labels.c: -l KEY=VALUE: see labels.h. */
#include "cli/labels.h"
#include "cli/answer.h"
#include "cli/client.h"
#include "cli/exec.h"
#include "cli/failure.h"

#include <string.h>

gboolean cop_labels_set(JsonObject *request, const char *member, const char *option,
			char *const *pairs, GError **error)
{
	g_autoptr(JsonObject) object = NULL;

	if (!pairs)
		return TRUE;
	object = json_object_new();
	for (; *pairs; pairs++) {
		if (!cop_exec_add_pair(object, option, *pairs, FALSE, error))
			return FALSE;
	}
	json_object_set_object_member(request, member, g_steal_pointer(&object));
	return TRUE;
}

static gboolean has(JsonObject *labels, const char *wanted)
{
	const char *sign = strchr(wanted, '=');
	g_autofree char *key = g_strndup(wanted, sign ? (gsize)(sign - wanted) : strlen(wanted));

	if (!labels || !json_object_has_member(labels, key))
		return FALSE;
	return !sign || strcmp(cop_answer_string(labels, key), sign + 1) == 0;
}

char **cop_labels_find(struct cop_cli *cli, char *const *wanted, GError **error)
{
	struct cop_client *client = cop_cli_client(cli, error);
	g_autoptr(JsonObject) answer =
		client ? cop_client_call(client, "GET", "/v1/vms", NULL, error) : NULL;
	JsonArray *vms = cop_answer_array(answer, "vms");
	g_autoptr(GStrvBuilder) names = g_strv_builder_new();
	g_auto(GStrv) found = NULL;

	if (!answer)
		return NULL;
	for (guint i = 0; i < cop_answer_length(vms); i++) {
		JsonObject *vm = cop_answer_element(vms, i);
		JsonObject *labels = cop_answer_object(vm, "labels");
		gboolean fits = strcmp(cop_answer_string(vm, "state"), "running") == 0;

		for (char *const *w = wanted; fits && w && *w; w++)
			fits = has(labels, *w);
		if (fits)
			g_strv_builder_add(names, cop_answer_string(vm, "name"));
	}
	found = g_strv_builder_end(names);
	if (!found[0]) {
		cop_failure_set(error, COP_FAILURE_NOT_FOUND, "'coppice ps' lists the VMs",
				"no running VM %s", wanted ? "has these labels" : "is there");
		return NULL;
	}
	return g_steal_pointer(&found);
}

char *cop_labels_text(JsonObject *labels)
{
	g_autoptr(GString) text = g_string_new(NULL);
	g_autoptr(GList) keys = labels ? json_object_get_members(labels) : NULL;

	keys = g_list_sort(keys, (GCompareFunc)strcmp);
	for (GList *l = keys; l; l = l->next)
		g_string_append_printf(text, "%s%s=%s", text->len ? "," : "", (char *)l->data,
				       cop_answer_string(labels, l->data));
	return g_string_free(g_steal_pointer(&text), FALSE);
}
