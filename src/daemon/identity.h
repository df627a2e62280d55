/* What a clone is told that it is: made when it is started, kept in vm.json until it has confirmed.
 *
 * A JSON object: "index" (from 0), "count", "params" (text by name), "ssh_host_keys", "machine_id" (32
 * hexadecimal digits), "macs" (one a network card), "confirmed". Random bytes and the time are not in
 * it: they are fresh each time it is sent.
 */
#ifndef COP_DAEMON_IDENTITY_H
#define COP_DAEMON_IDENTITY_H

#include "machine.h"

/* What a request says about its clones. Labels and params are borrowed from the request. */
struct cop_identity_wish {
	JsonObject *labels, *params; /* or NULL */
	gboolean wait, ssh_host_keys;
	gint64 ready_timeout_ms;
	unsigned allow_fork;
};

/* Members that cop_identity_read() reads, for cop_json_only(). */
#define COP_IDENTITY_MEMBERS                                                                       \
	"labels", "params", "wait", "ready_timeout_ms", "ssh_host_keys", "allow_fork"

gboolean cop_identity_read(JsonObject *request, struct cop_identity_wish *ret, GError **error);
/* A member that holds text by name, checked, or NULL when it is absent; borrowed. */
gboolean cop_identity_read_texts(JsonObject *request, const char *member, JsonObject **ret,
				 GError **error);
/* The identity of clone `index` of `count`. Caller owns it. */
JsonObject *cop_identity_new(const struct cop_identity_wish *wish, const struct cop_machine *machine,
			     unsigned index, unsigned count);

#endif
