/* What a guest asks for itself: to be forked or frozen at the point where it is.
 *
 * Only what the VM's owner has allowed (vm->forks_left): each child counts, and so does a template. The
 * permission is taken before anything is begun, and given back when nothing came of it. Children have
 * their parent's labels, and no permission of their own.
 */
#include "gerror.h"
#include "json.h"
#include "ops.h"
#include "vm.h"

static gboolean take(struct cop_vm *vm, guint count, GError **error)
{
	unsigned left;

	g_mutex_lock(&vm->state->lock);
	left = vm->forks_left;
	if (count && count <= left)
		vm->forks_left -= count;
	g_mutex_unlock(&vm->state->lock);
	if (!count)
		return cop_gerror_set(error, COP_ERR_BAD_REQUEST, "the number of clones is 0");
	if (!left)
		return cop_gerror_set(error, COP_ERR_LIMIT,
				      "the owner of this VM has not allowed it to fork or freeze itself");
	if (count > left)
		return cop_gerror_set(error, COP_ERR_LIMIT,
				      "the owner of this VM has allowed it %u more", left);
	return cop_vm_save(vm, error);
}

static void give_back(struct cop_vm *vm, guint count)
{
	g_mutex_lock(&vm->state->lock);
	vm->forks_left += count;
	g_mutex_unlock(&vm->state->lock);
	(void)cop_vm_save(vm, NULL); /* the next save will do */
}

/* "clone.0=NAME" and so on. */
static char **names_of(JsonArray *vms)
{
	g_autoptr(GStrvBuilder) names = g_strv_builder_new();

	for (guint i = 0; vms && i < json_array_get_length(vms); i++) {
		g_autofree char *pair = g_strdup_printf(
			"clone.%u=%s", i,
			cop_json_str(json_array_get_object_element(vms, i), "name", "", NULL));

		g_strv_builder_add(names, pair);
	}
	return g_strv_builder_end(names);
}

gboolean cop_op_ask_fork(struct cop_vm *vm, guint count, JsonObject *params, char **ret_template,
			 char ***ret_clones, GError **error)
{
	g_autoptr(JsonObject) request = json_object_new(), result = NULL;

	if (!take(vm, count, error))
		return FALSE;
	json_object_set_int_member(request, "count", count);
	json_object_set_boolean_member(request, "wait", FALSE);
	g_mutex_lock(&vm->state->lock);
	json_object_set_object_member(request, "labels", cop_json_copy(vm->labels));
	g_mutex_unlock(&vm->state->lock);
	json_object_set_object_member(request, "params", json_object_ref(params));
	result = cop_op_fork(vm->state, vm->name, request, error);
	if (!result) {
		give_back(vm, count);
		return FALSE;
	}
	*ret_template =
		g_strdup(cop_json_str(cop_json_obj(result, "template"), "name", "", NULL));
	*ret_clones = names_of(cop_json_arr(result, "vms"));
	return TRUE;
}

gboolean cop_op_ask_freeze(struct cop_vm *vm, const char *template, GError **error)
{
	g_autoptr(JsonObject) request = json_object_new(), result = NULL;

	if (!take(vm, 1, error))
		return FALSE;
	json_object_set_string_member(request, "template", template);
	result = cop_op_freeze(vm->state, vm->name, request, error);
	if (!result)
		give_back(vm, 1);
	return result != NULL;
}
