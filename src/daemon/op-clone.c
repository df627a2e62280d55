/* clone and fork: VMs from a template.
 *
 * All clones of a request are reserved first, names and limits checked, then (for fork, after the
 * freeze) started side by side by a few workers. All or nothing: when one fails, those that started are
 * ended and removed; a template that a fork has made stays, as the VM stands on it.
 */
#include "agent.h"
#include "gerror.h"
#include "disk.h"
#include "identity.h"
#include "json.h"
#include "ops.h"
#include "qmp.h"
#include "template.h"
#include "sockets.h"
#include "vm.h"

#include <string.h>

/* What a request asks for. */
struct cop_clone_wish {
	unsigned count;
	char **names;	     /* or NULL */
	const char *prefix;
	gboolean ssh, paused;
	gboolean ephemeral, no_network; /* of run-in */
	struct cop_identity_wish told;
};

struct batch {
	struct cop_state *state;
	struct cop_template *tpl;
	const struct cop_clone_wish *wish;
	char *dir; /* the template's */
	gint64 begun_us;
	GMutex lock;
	GError *error; /* the first one */
};

/* As if the network card's cable was pulled; the guest can do nothing about it. */
static gboolean unplug(struct cop_vm *vm, GError **error)
{
	JsonObject *args;

	if (strcmp(vm->machine->network, "none") == 0)
		return TRUE;
	args = json_object_new();
	json_object_set_string_member(args, "name", "nic0");
	json_object_set_boolean_member(args, "up", FALSE);
	return cop_qmp_call(vm->qmp, "set_link", args, -1, COP_VM_QMP_MS, NULL, error);
}

static gboolean start_clone(struct batch *b, struct cop_vm *vm, GError **error)
{
	struct cop_state *state = b->state;
	g_autofree char *dir = cop_state_vm_dir(state, vm->id);
	g_autofree char *state_path = g_build_filename(b->dir, "state", NULL);
	struct cop_machine *machine = cop_machine_copy(b->tpl->machine);
	gboolean ok;

	if (!cop_file_mkdir(dir, 0711, error) ||
	    !cop_disk_add_overlays(state, machine, b->dir, error)) {
		cop_disk_unpin(state, machine);
		cop_machine_free(machine);
		return FALSE;
	}
	g_mutex_lock(&state->lock);
	cop_machine_free(vm->machine);
	vm->machine = machine;
	vm->ram_id = g_strdup(b->tpl->ram_id);
	vm->ram_shared = FALSE;
	g_mutex_unlock(&state->lock);
	cop_disk_unpin(state, machine);
	ok = cop_vm_spawn(vm, TRUE, error) && cop_vm_load_state(vm, state_path, error) &&
	     (!b->wish->no_network || unplug(vm, error));
	if (!ok)
		return FALSE;
	/* Before it runs: its first interrupt may be what makes its random state its own. */
	cop_agent_go(vm->agent, b->begun_us);
	if (!(b->wish->paused ? cop_vm_halt(vm, error) : cop_vm_cont(vm, error)))
		return FALSE;
	vm->start.total_ms = (double)(g_get_monotonic_time() - b->begun_us) / 1000.0;
	vm->started_once = TRUE;
	return cop_vm_save(vm, error);
}

static void worker(gpointer item, gpointer user)
{
	struct batch *b = user;
	GError *error = NULL;
	gboolean give_up;

	g_mutex_lock(&b->lock);
	give_up = b->error != NULL;
	g_mutex_unlock(&b->lock);
	if (give_up || start_clone(b, item, &error))
		return;
	g_prefix_error(&error, "cannot start clone '%s': ", ((struct cop_vm *)item)->name);
	g_mutex_lock(&b->lock);
	if (!b->error)
		b->error = g_steal_pointer(&error);
	g_mutex_unlock(&b->lock);
	g_clear_error(&error);
}

/* VMs for the clones, with names and limits checked; machine is what they will have, about. */
static GPtrArray *reserve(struct cop_state *state, const struct cop_machine *machine,
			  const struct cop_clone_wish *wish, GError **error)
{
	GPtrArray *vms = cop_state_reserve_vms(state, wish->names, wish->prefix, wish->count,
					       machine->memory_bytes, error);

	g_mutex_lock(&state->lock);
	for (guint i = 0; vms && i < vms->len; i++) {
		struct cop_vm *vm = vms->pdata[i];

		vm->machine = cop_machine_copy(machine); /* counts as memory given */
		vm->busy = "clone";
		vm->identity = cop_identity_new(&wish->told, machine, i, vms->len);
		vm->labels = wish->told.labels ? cop_json_copy(wish->told.labels) : NULL;
		vm->forks_left = wish->told.allow_fork;
		vm->ephemeral = wish->ephemeral;
	}
	g_mutex_unlock(&state->lock);
	return vms;
}

static void discard_all(GPtrArray *vms)
{
	for (guint i = 0; vms && i < vms->len; i++)
		cop_op_discard(vms->pdata[i]);
}

static gboolean name_template(struct batch *b, GPtrArray *vms, GError **error)
{
	for (guint i = 0; i < vms->len; i++) {
		struct cop_vm *vm = vms->pdata[i];

		g_mutex_lock(&b->state->lock);
		vm->template = g_strdup(b->tpl->name);
		vm->agent_expected = b->tpl->agent;
		g_mutex_unlock(&b->state->lock);
		if (b->wish->ssh && !(vm->ssh_port = cop_socket_free_port(b->state, error)))
			return FALSE;
	}
	return TRUE;
}

/* Starts reserved VMs as clones of the template; they are released, or discarded on failure. */
static gboolean start_clones(struct cop_state *state, struct cop_template *tpl,
			     const struct cop_clone_wish *wish, GPtrArray *vms,
			     double *ret_all_ms, GError **error)
{
	struct batch b = {.state = state, .tpl = tpl, .wish = wish,
			  .begun_us = g_get_monotonic_time()};
	GThreadPool *pool;

	g_mutex_lock(&state->lock);
	tpl->busy_users++;
	g_mutex_unlock(&state->lock);
	g_mutex_init(&b.lock);
	b.dir = cop_state_template_dir(state, tpl->name);
	if (name_template(&b, vms, &b.error) && cop_state_check_disk(state, &b.error) &&
	    cop_template_check(state, tpl, FALSE, NULL, &b.error) &&
	    cop_template_load(state, tpl, &b.error)) {
		pool = g_thread_pool_new(worker, &b, (gint)state->config->clone_workers, FALSE,
					 NULL);
		for (guint i = 0; i < vms->len; i++)
			g_thread_pool_push(pool, vms->pdata[i], NULL);
		g_thread_pool_free(pool, FALSE, TRUE);
		*ret_all_ms = (double)(g_get_monotonic_time() - b.begun_us) / 1000.0;
	}
	if (b.error)
		discard_all(vms);
	for (guint i = 0; !b.error && i < vms->len; i++)
		cop_state_release_vm(cop_vm_ref(vms->pdata[i]));
	g_mutex_lock(&state->lock);
	tpl->busy_users--;
	g_mutex_unlock(&state->lock);
	g_mutex_clear(&b.lock);
	g_free(b.dir);
	if (b.error)
		g_propagate_error(error, b.error);
	return b.error == NULL;
}

static JsonArray *vms_to_json(GPtrArray *vms)
{
	JsonArray *arr = json_array_new();

	for (guint i = 0; i < vms->len; i++)
		json_array_add_object_element(arr, cop_vm_to_json(vms->pdata[i], FALSE));
	return arr;
}

/* Waits until the clones' agents have confirmed. One that does not stays as it is, and shows why. */
static void wait_ready(const struct cop_clone_wish *wish, GPtrArray *vms, gint64 begun_us,
		       JsonObject *result)
{
	gint64 deadline_us = begun_us + wish->told.ready_timeout_ms * 1000;

	if (!wish->told.wait || wish->paused) {
		json_object_set_null_member(result, "ready_ms");
		return;
	}
	for (guint i = 0; i < vms->len; i++) {
		struct cop_vm *vm = vms->pdata[i];

		if (vm->agent_expected)
			(void)cop_agent_wait_ready(vm->agent, deadline_us, NULL); /* in its JSON */
	}
	json_object_set_double_member(result, "ready_ms",
				      (double)(g_get_monotonic_time() - begun_us) / 1000.0);
}

/* Fills a wish from a request; names are freed by the caller. */
static gboolean read_wish(JsonObject *request, struct cop_clone_wish *wish, GError **error)
{
	GError *why = NULL;
	gint64 count = cop_json_int(request, "count", 0, &why);

	if (!why)
		(void)cop_identity_read(request, &wish->told, &why); /* in why */
	wish->names = cop_json_strv(request, "names", &why);
	wish->ssh = cop_json_bool(request, "ssh", FALSE, &why);
	wish->paused = cop_json_bool(request, "paused", FALSE, &why);
	if (!why && !json_object_has_member(request, "count"))
		count = wish->names ? g_strv_length(wish->names) : 1;
	if (!why && (count < 1 || count > 1024))
		cop_gerror_set(&why, COP_ERR_BAD_REQUEST,
			       "the number of clones must be from 1 to 1024");
	if (!why && wish->names && g_strv_length(wish->names) != (guint)count)
		cop_gerror_set(&why, COP_ERR_BAD_REQUEST, "%d clones, but %u names", (int)count,
			       g_strv_length(wish->names));
	wish->count = (unsigned)count;
	if (why)
		g_propagate_error(error, why);
	return why == NULL;
}

JsonObject *cop_op_clone(struct cop_state *state, const char *name, JsonObject *request,
			 GError **error)
{
	static const char *const known[] = {"count", "names", "ssh", "paused",
					    COP_IDENTITY_MEMBERS, NULL};
	struct cop_clone_wish wish = {.prefix = name};
	struct cop_template *tpl = NULL;
	JsonObject *result = NULL;
	gint64 begun_us = g_get_monotonic_time();
	g_autoptr(GPtrArray) vms = NULL;
	double all_ms = 0;

	if (read_wish(request, &wish, error) && cop_json_only(request, known, error))
		tpl = cop_state_find_template(state, name, error);
	if (tpl)
		vms = reserve(state, tpl->machine, &wish, error);
	if (vms && start_clones(state, tpl, &wish, vms, &all_ms, error)) {
		result = json_object_new();
		wait_ready(&wish, vms, begun_us, result);
		json_object_set_array_member(result, "vms", vms_to_json(vms));
		json_object_set_double_member(result, "all_ms", all_ms);
	}
	cop_template_unref(tpl);
	g_strfreev(wish.names);
	return result;
}

struct cop_vm *cop_op_clone_ephemeral(struct cop_state *state, struct cop_template *tpl,
				      gboolean no_network, GError **error)
{
	struct cop_clone_wish wish = {.count = 1, .prefix = tpl->name, .ephemeral = TRUE,
				      .no_network = no_network};
	gint64 begun_us = g_get_monotonic_time();
	g_autoptr(JsonObject) none = json_object_new();
	g_autoptr(GPtrArray) vms = NULL;
	struct cop_vm *vm;
	double all_ms = 0;

	if (!tpl->agent) {
		cop_gerror_set(error, COP_ERR_WRONG_STATE,
			       "there was no agent in '%s' when it was frozen, and without one no "
			       "command can be run\nmake a template of a VM that 'coppice ps' shows "
			       "with a ready agent",
			       tpl->name);
		return NULL;
	}
	if (!cop_identity_read(none, &wish.told, error))
		return NULL;
	vms = reserve(state, tpl->machine, &wish, error);
	if (!vms || !start_clones(state, tpl, &wish, vms, &all_ms, error))
		return NULL;
	vm = vms->pdata[0];
	if (!cop_agent_wait_ready(vm->agent, begun_us + wish.told.ready_timeout_ms * 1000, error)) {
		g_prefix_error(error, "clone '%s' is not ready: ", vm->name);
		(void)cop_op_remove(state, vm->name, TRUE, NULL); /* the error says enough */
		return NULL;
	}
	return cop_vm_ref(vm);
}

/* VM-fork-N, whatever is free. */
static char *fork_name(struct cop_state *state, const char *vm)
{
	char *name = NULL;

	g_mutex_lock(&state->lock);
	for (unsigned i = 1; !name; i++) {
		name = g_strdup_printf("%.50s-fork-%u", vm, i);
		if (g_hash_table_contains(state->templates, name))
			g_clear_pointer(&name, g_free);
	}
	g_mutex_unlock(&state->lock);
	return name;
}

JsonObject *cop_op_fork(struct cop_state *state, const char *name, JsonObject *request,
			GError **error)
{
	static const char *const known[] = {"count", "names", "ssh", "template",
					    COP_IDENTITY_MEMBERS, NULL};
	struct cop_clone_wish wish = {.prefix = name};
	g_autofree char *made_up = fork_name(state, name);
	struct cop_freeze_guest guest = {.timeout_ms = COP_FREEZE_QUIESCE_MS};
	const char *template = NULL;
	struct cop_template *tpl = NULL;
	struct cop_vm *vm = NULL;
	g_autoptr(GPtrArray) vms = NULL;
	gint64 begun_us = g_get_monotonic_time();
	JsonObject *result = NULL;
	double all_ms = 0;

	if (read_wish(request, &wish, error) && cop_json_only(request, known, error)) {
		template = cop_json_str(request, "template", NULL, NULL);
		vm = cop_state_claim_vm(state, name, "fork", TRUE, error);
	}
	/* The children's names and the limits first: a fork that can't be must not freeze. */
	if (vm)
		vms = reserve(state, vm->machine, &wish, error);
	if (vms)
		tpl = cop_freeze_vm(vm, template ?: made_up, FALSE, !template, &guest, error);
	g_free(guest.reason);
	if (!tpl)
		discard_all(vms);
	cop_state_release_vm(vm);
	if (tpl && start_clones(state, tpl, &wish, vms, &all_ms, error)) {
		result = json_object_new();
		wait_ready(&wish, vms, begun_us, result);
		json_object_set_object_member(result, "template",
					      cop_template_to_json(state, tpl));
		json_object_set_array_member(result, "vms", vms_to_json(vms));
		json_object_set_object_member(result, "freeze",
					      cop_template_times_to_json(&tpl->times));
		json_object_set_double_member(result, "all_ms", all_ms);
	}
	cop_template_unref(tpl);
	g_strfreev(wish.names);
	return result;
}
