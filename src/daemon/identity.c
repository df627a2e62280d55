/* What a clone is told that it is: see identity.h. */
#include "identity.h"
#include "gerror.h"
#include "json.h"
#include "vm.h"

#include <string.h>
#include <sys/random.h>

#define MAX_TEXTS 64
#define MAX_KEY_BYTES 63
#define MAX_TEXT_BYTES 1024
#define DEFAULT_READY_MS 60000

/* Goes into the environment of hooks, and is shown in tables. */
static gboolean key_valid(const char *key)
{
	size_t len = strlen(key);

	return len >= 1 && len <= MAX_KEY_BYTES &&
	       strspn(key, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-/") ==
		       len;
}

gboolean cop_identity_read_texts(JsonObject *request, const char *member, JsonObject **ret,
				 GError **error)
{
	JsonObject *texts = cop_json_obj(request, member);
	g_autoptr(GList) keys = texts ? json_object_get_members(texts) : NULL;
	GError *why = NULL;

	if (!texts && json_object_has_member(request, member))
		return cop_gerror_set(error, COP_ERR_BAD_REQUEST, "'%s' must be an object", member);
	if (g_list_length(keys) > MAX_TEXTS)
		return cop_gerror_set(error, COP_ERR_BAD_REQUEST, "'%s' has more than %d members",
				      member, MAX_TEXTS);
	for (GList *l = keys; l && !why; l = l->next) {
		const char *text = cop_json_str(texts, l->data, NULL, &why);

		if (!why && !text)
			cop_gerror_set(&why, COP_ERR_BAD_REQUEST, "%s: '%s' has no text", member,
				       (char *)l->data);
		if (!why && !key_valid(l->data))
			cop_gerror_set(&why, COP_ERR_BAD_REQUEST,
				       "%s: '%s' is no name\nuse letters, digits, '.', '_', '-' and "
				       "'/', at most %d",
				       member, (char *)l->data, MAX_KEY_BYTES);
		if (!why && strlen(text) > MAX_TEXT_BYTES)
			cop_gerror_set(&why, COP_ERR_BAD_REQUEST, "%s: '%s' is longer than %d bytes",
				       member, (char *)l->data, MAX_TEXT_BYTES);
	}
	if (why) {
		g_propagate_error(error, why);
		return FALSE;
	}
	*ret = texts;
	return TRUE;
}

gboolean cop_identity_read(JsonObject *request, struct cop_identity_wish *ret, GError **error)
{
	GError *why = NULL;
	struct cop_identity_wish wish = {
		.wait = cop_json_bool(request, "wait", TRUE, &why),
		.ssh_host_keys = cop_json_bool(request, "ssh_host_keys", FALSE, &why),
		.ready_timeout_ms =
			cop_json_int(request, "ready_timeout_ms", DEFAULT_READY_MS, &why),
	};
	gint64 forks = cop_json_int(request, "allow_fork", 0, &why);

	if (!why && (wish.ready_timeout_ms < 100 || wish.ready_timeout_ms > 3600000))
		cop_gerror_set(&why, COP_ERR_BAD_REQUEST,
			       "ready_timeout_ms must be from 100 to 3600000");
	if (!why && (forks < 0 || forks > COP_VM_MAX_FORKS))
		cop_gerror_set(&why, COP_ERR_BAD_REQUEST, "allow_fork must be from 0 to %d",
			       COP_VM_MAX_FORKS);
	if (!why && cop_identity_read_texts(request, "labels", &wish.labels, &why))
		(void)cop_identity_read_texts(request, "params", &wish.params, &why);
	if (why) {
		g_propagate_error(error, why);
		return FALSE;
	}
	wish.allow_fork = (unsigned)forks;
	*ret = wish;
	return TRUE;
}

static void random_bytes(guint8 *buf, gsize len)
{
	ssize_t n = getrandom(buf, len, 0);

	g_assert(n == (ssize_t)len); /* never short below 256 bytes once it is seeded */
}

static char *hex(const guint8 *data, gsize len, const char *between)
{
	GString *text = g_string_new(NULL);

	for (gsize i = 0; i < len; i++)
		g_string_append_printf(text, "%s%02x", i ? between : "", data[i]);
	return g_string_free(text, FALSE);
}

JsonObject *cop_identity_new(const struct cop_identity_wish *wish, const struct cop_machine *machine,
			     unsigned index, unsigned count)
{
	JsonObject *obj = json_object_new();
	JsonArray *macs = json_array_new();
	g_autofree char *machine_id = NULL;
	guint8 buf[16];

	random_bytes(buf, sizeof(buf));
	machine_id = hex(buf, sizeof(buf), "");
	json_object_set_int_member(obj, "index", index);
	json_object_set_int_member(obj, "count", count);
	json_object_set_object_member(obj, "params", cop_json_copy(wish->params));
	json_object_set_boolean_member(obj, "ssh_host_keys", wish->ssh_host_keys);
	json_object_set_string_member(obj, "machine_id", machine_id);
	if (strcmp(machine->network, "none") != 0) {
		g_autofree char *mac = NULL;

		random_bytes(buf, 6);
		buf[0] = (guint8)((buf[0] & 0xfc) | 0x02); /* locally administered, of one card */
		mac = hex(buf, 6, ":");
		json_array_add_string_element(macs, mac);
	}
	json_object_set_array_member(obj, "macs", macs);
	json_object_set_boolean_member(obj, "confirmed", FALSE);
	return obj;
}
