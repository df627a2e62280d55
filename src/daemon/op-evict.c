/* evict: pages of a VM leave RAM. */
#include "gerror.h"
#include "json.h"
#include "ops.h"
#include "pager.h"

JsonObject *cop_op_evict(struct cop_state *state, const char *name, JsonObject *request,
			 GError **error)
{
	static const char *const known[] = {"bytes", NULL};
	GError *why = NULL;
	gboolean all = !json_object_has_member(request, "bytes");
	gint64 bytes = cop_json_int(request, "bytes", 0, &why);
	uint64_t evicted = 0;
	JsonObject *result = NULL;
	struct cop_vm *vm;
	gboolean ok;

	if (!why && cop_json_only(request, known, &why) && bytes < 0)
		cop_gerror_set(&why, COP_ERR_BAD_REQUEST, "bytes must not be negative");
	if (why) {
		g_propagate_error(error, why);
		return NULL;
	}
	vm = cop_state_claim_vm(state, name, "evict", TRUE, error);
	if (!vm)
		return NULL;
	if (cop_machine_is_paged(vm->machine))
		ok = cop_pager_evict(vm, all ? COP_PAGER_ALL : (uint64_t)bytes, &evicted, error);
	else
		ok = cop_gerror_set(error, COP_ERR_WRONG_STATE,
				    "VM '%s' runs on the engine 'kernel', where pages don't leave RAM\n"
				    "only VMs that were booted with the engine 'pager', and their "
				    "clones, can be evicted",
				    name);
	cop_state_release_vm(vm);
	if (ok) {
		result = json_object_new();
		json_object_set_int_member(result, "evicted_bytes", (gint64)evicted);
	}
	return result;
}
