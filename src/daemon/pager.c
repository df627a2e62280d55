/* Requests to the pager: see pager.h. The process itself: pager-watch.c.
 *
 * Each request has a connection of its own, as some take long. When the connection breaks, the pager
 * has died: the request is made again once there is a new one that knows everything. The gate keeps
 * requests out until then.
 */
#include "pager-impl.h"
#include "gerror.h"
#include "proto/seqpacket.h"
#include "template.h"
#include "uffd.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define WAIT_US (30 * G_USEC_PER_SEC) /* for a pager that is being started */
#define HELLO_MS 10000
#define SHIM_MS 10000
#define QUICK_MS 2000
#define LONG_MS 600000

struct cop_pager *cop_pager_new(struct cop_state *state)
{
	struct cop_pager *p = g_new0(struct cop_pager, 1);
	const struct cop_config *c = state->config;

	p->state = state;
	p->socket_path = g_build_filename(c->dir, "pager.sock", NULL);
	p->lock_path = g_build_filename(c->dir, "pager.lock", NULL);
	p->log_path = g_build_filename(c->dir, "pager.log", NULL);
	p->store_path = g_build_filename(c->ram_dir, "store", NULL);
	p->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	g_assert(p->kick_fd >= 0);
	p->trouble = g_strdup("");
	p->images = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
	g_rw_lock_init(&p->gate);
	g_mutex_init(&p->lock);
	g_mutex_init(&p->gone_lock);
	g_cond_init(&p->changed);
	return p;
}

void cop_pager_free(struct cop_pager *p)
{
	if (!p)
		return;
	g_mutex_lock(&p->lock);
	p->ending = TRUE;
	g_cond_broadcast(&p->changed);
	g_mutex_unlock(&p->lock);
	cop_pager_kick(p);
	if (p->thread)
		g_thread_join(p->thread);
	close(p->kick_fd);
	g_hash_table_unref(p->images);
	g_rw_lock_clear(&p->gate);
	g_mutex_clear(&p->lock);
	g_mutex_clear(&p->gone_lock);
	g_cond_clear(&p->changed);
	g_free(p->socket_path);
	g_free(p->lock_path);
	g_free(p->log_path);
	g_free(p->store_path);
	g_free(p->trouble);
	g_free(p);
}

void cop_pager_kick(struct cop_pager *p)
{
	uint64_t one = 1;

	(void)!write(p->kick_fd, &one, sizeof(one)); /* full: it is awake anyway */
}

static gboolean can_work(struct cop_state *state, GError **error)
{
	const char *program = state->config->pager;

	if (!program || !g_file_test(program, G_FILE_TEST_IS_EXECUTABLE))
		return cop_gerror_set(error, COP_ERR_NOT_FOUND,
				      "cannot run %s\nreinstall coppice, or use --pager PROGRAM",
				      program ?: "coppice-pager");
	return cop_uffd_check(error);
}

const char *cop_pager_choose(struct cop_state *state, const char *engine, GError **error)
{
	static gint told;
	g_autoptr(GError) why = NULL;

	if (strcmp(engine, "auto") == 0)
		engine = state->config->engine;
	if (strcmp(engine, "kernel") == 0)
		return "kernel";
	if (can_work(state, &why))
		return "pager";
	if (strcmp(engine, "auto") == 0) {
		g_autofree char *text = cop_gerror_message(why), *hint = cop_gerror_hint(why);

		if (g_atomic_int_compare_and_exchange(&told, 0, 1))
			g_warning("VMs run on the engine 'kernel': %s (%s)", text, hint);
		return "kernel";
	}
	g_propagate_prefixed_error(error, g_steal_pointer(&why), "the engine 'pager' can't work: ");
	return NULL;
}

/* With p->lock: waits until it runs. */
static gboolean wait_up(struct cop_pager *p, gint64 deadline_us, GError **error)
{
	while (p->phase != COP_PAGER_UP && p->phase != COP_PAGER_BROKEN && !p->ending) {
		if (!g_cond_wait_until(&p->changed, &p->lock, deadline_us))
			return cop_gerror_set(error, COP_ERR_TIMEOUT,
					      "the pager does not start\nsee %s", p->log_path);
	}
	if (p->phase == COP_PAGER_UP)
		return TRUE;
	return cop_gerror_set(error, COP_ERR_INTERNAL, "the pager does not run: %s",
			      p->ending ? "the daemon is ending" : p->trouble);
}

static void want(struct cop_pager *p)
{
	g_mutex_lock(&p->lock);
	if (!p->wanted) {
		p->wanted = TRUE;
		p->phase = COP_PAGER_STARTING;
		p->thread = g_thread_new("pager", cop_pager_watch, p);
	}
	g_mutex_unlock(&p->lock);
}

gboolean cop_pager_start(struct cop_state *state, GError **error)
{
	struct cop_pager *p = state->pager;
	gboolean ok;

	if (!can_work(state, error))
		return FALSE;
	want(p);
	g_mutex_lock(&p->lock);
	ok = wait_up(p, g_get_monotonic_time() + WAIT_US, error);
	g_mutex_unlock(&p->lock);
	return ok;
}

void cop_pager_take_up(struct cop_state *state)
{
	g_autoptr(GPtrArray) vms = NULL;
	g_autoptr(GError) why = NULL;
	gboolean needed = g_file_test(state->pager->socket_path, G_FILE_TEST_EXISTS);

	g_mutex_lock(&state->lock);
	vms = cop_state_all_vms(state);
	for (guint i = 0; i < vms->len; i++) {
		struct cop_vm *vm = vms->pdata[i];

		needed = needed || (vm->pid && cop_machine_is_paged(vm->machine));
	}
	g_mutex_unlock(&state->lock);
	if (needed && !cop_pager_start(state, &why))
		g_warning("%s", why->message);
}

/* A connection to a pager that knows everything; the gate is held until leave(). */
static struct cop_pager_client *enter(struct cop_pager *p, gint64 deadline_us, GError **error)
{
	for (;;) {
		struct cop_pager_client *client = NULL;
		struct cop_error why = {0};
		gboolean up;

		g_mutex_lock(&p->lock);
		up = wait_up(p, deadline_us, error);
		g_mutex_unlock(&p->lock);
		if (!up)
			return NULL;
		g_rw_lock_reader_lock(&p->gate);
		if (cop_pager_client_new(p->socket_path, HELLO_MS, &client, NULL, &why) == 0)
			return client;
		g_rw_lock_reader_unlock(&p->gate);
		if (g_get_monotonic_time() >= deadline_us) {
			cop_gerror_set(error, COP_ERR_TIMEOUT, "%s\nsee %s", why.text, p->log_path);
			return NULL;
		}
		g_usleep(5000); /* the thread is about to see that it has died */
	}
}

static void leave(struct cop_pager *p, struct cop_pager_client *client)
{
	cop_pager_client_free(client);
	g_rw_lock_reader_unlock(&p->gate);
}

/* One request that needs no descriptor. */
static gboolean ask(struct cop_pager *p, const struct cop_pager_request *request,
		    unsigned timeout_ms, struct cop_pager_answer *ret_answer, GError **error)
{
	gint64 deadline_us = g_get_monotonic_time() + WAIT_US;

	for (;;) {
		struct cop_pager_client *client = enter(p, deadline_us, error);
		struct cop_error why = {0};
		gboolean again;
		int r;

		if (!client)
			return FALSE;
		r = cop_pager_client_call(client, request, NULL, 0, timeout_ms, ret_answer, &why);
		again = r < 0 && r != -ETIMEDOUT && cop_pager_client_is_broken(client) &&
			g_get_monotonic_time() < deadline_us;
		leave(p, client);
		if (r == 0)
			return TRUE;
		if (!again)
			return cop_gerror_set(error, r == -ETIMEDOUT ? COP_ERR_TIMEOUT
					      : r == -ENOSPC	     ? COP_ERR_NO_SPACE
								     : COP_ERR_INTERNAL,
					      "%s", why.text);
	}
}

int cop_pager_send_simple(struct cop_pager_client *client, enum cop_pager_type type, uint64_t vm,
			  unsigned timeout_ms, struct cop_pager_answer *ret_answer, GError **error)
{
	struct cop_pager_request request = {.type = (uint16_t)type, .vm = vm};
	struct cop_error why = {0};
	int r = cop_pager_client_call(client, &request, NULL, 0, timeout_ms, ret_answer, &why);

	if (r < 0)
		cop_gerror_set(error, COP_ERR_INTERNAL, "%s", why.text);
	return r;
}

/* VMs */

/* With state->lock: the template whose image it is. */
static struct cop_template *owner(struct cop_state *state, const char *ram_id)
{
	GHashTableIter iter;
	struct cop_template *tpl;

	g_hash_table_iter_init(&iter, state->templates);
	while (g_hash_table_iter_next(&iter, NULL, (void **)&tpl)) {
		if (tpl->ready && g_strcmp0(tpl->ram_id, ram_id) == 0)
			return tpl;
	}
	return NULL;
}

gboolean cop_pager_vm_look(struct cop_vm *vm, struct cop_pager_vm *ret)
{
	struct cop_template *tpl;

	memset(ret, 0, sizeof(*ret));
	if (!vm->pid || !vm->ram_id || !vm->machine || !cop_machine_is_paged(vm->machine))
		return FALSE;
	tpl = vm->ram_shared ? NULL : owner(vm->state, vm->ram_id);
	if (!tpl && !vm->domain)
		vm->domain = cop_pager_new_domain(vm->state);
	ret->number = vm->id + 1;
	ret->pid = vm->pid;
	ret->ram_id = g_strdup(vm->ram_id);
	ret->shared = vm->ram_shared;
	ret->held = vm->held;
	ret->size_bytes = vm->machine->memory_bytes;
	ret->domain = tpl ? tpl->domain : vm->domain;
	ret->socket_path = g_strdup_printf("%s/vms/%u/shim.sock", vm->state->config->dir, vm->id);
	return TRUE;
}

void cop_pager_vm_clear(struct cop_pager_vm *v)
{
	g_free(v->ram_id);
	g_free(v->socket_path);
}

int cop_pager_send_vm(struct cop_pager *p, struct cop_pager_client *client,
		      const struct cop_pager_vm *v, GError **error)
{
	g_autofree char *path = cop_state_ram_path(p->state, v->ram_id);
	struct cop_pager_request request = {
		.type = COP_PAGER_VM_ADD,
		.flags = v->shared ? COP_PAGER_SHARED : 0,
		.vm = v->number,
		.image = cop_pager_image(v->ram_id),
		.size = v->size_bytes,
		.pid = (uint32_t)v->pid,
		.domain = v->domain,
	};
	int fds[2] = {-1, -1}, r;
	struct cop_error why = {0};

	fds[0] = cop_seqpacket_connect(v->socket_path, SHIM_MS);
	if (fds[0] < 0) {
		cop_gerror_errno(error, -fds[0], "cannot connect to the shim at %s",
				 v->socket_path);
		return fds[0];
	}
	if (v->shared) {
		fds[1] = cop_file_open(path, O_RDWR, 0, error);
		if (fds[1] < 0) {
			close(fds[0]);
			return -ENOENT;
		}
	}
	r = cop_pager_client_call(client, &request, fds, v->shared ? 2 : 1, COP_PAGER_ASK_MS, NULL,
				  &why);
	close(fds[0]);
	if (fds[1] >= 0)
		close(fds[1]);
	if (r < 0)
		cop_gerror_set(error, COP_ERR_INTERNAL, "%s", why.text);
	return r;
}

int cop_pager_send_release(struct cop_pager_client *client, const struct cop_pager_vm *v,
			   GError **error)
{
	struct cop_pager_request request = {
		.type = COP_PAGER_RELEASE,
		.flags = v->shared ? COP_PAGER_SHARED : 0,
		.vm = v->number,
		.image = cop_pager_image(v->ram_id),
		.size = v->size_bytes,
		.domain = v->domain,
	};
	struct cop_error why = {0};
	int r = cop_pager_client_call(client, &request, NULL, 0, COP_PAGER_ASK_MS, NULL, &why);

	if (r < 0)
		cop_gerror_set(error, COP_ERR_INTERNAL, "%s", why.text);
	return r;
}

/* Before a VM number is used anew, the pager has forgotten who had it. */
static int forget_number(struct cop_pager *p, struct cop_pager_client *client, uint64_t number,
			 GError **error)
{
	int r;

	g_mutex_lock(&p->gone_lock);
	r = cop_pager_send_simple(client, COP_PAGER_VM_REMOVE, number, COP_PAGER_ASK_MS, NULL,
				  error);
	if (r == 0 || r == -ENOENT) {
		g_mutex_lock(&p->lock);
		p->gone[number] = FALSE;
		g_mutex_unlock(&p->lock);
		g_clear_error(error);
		r = 0;
	}
	g_mutex_unlock(&p->gone_lock);
	return r;
}

gboolean cop_pager_add_vm(struct cop_vm *vm, gboolean fresh, GError **error)
{
	struct cop_pager *p = vm->state->pager;
	gint64 deadline_us = g_get_monotonic_time() + WAIT_US;

	for (;;) {
		struct cop_pager_client *client = enter(p, deadline_us, error);
		struct cop_pager_vm v;
		gboolean again, there;
		GError *why = NULL;
		int r = 0;

		if (!client)
			return FALSE;
		g_mutex_lock(&vm->state->lock);
		there = cop_pager_vm_look(vm, &v);
		g_mutex_unlock(&vm->state->lock);
		if (!there) {
			leave(p, client);
			return cop_gerror_set(error, COP_ERR_INTERNAL, "QEMU ended at once");
		}
		if (fresh)
			r = forget_number(p, client, v.number, &why);
		if (r == 0)
			r = cop_pager_send_vm(p, client, &v, &why);
		if (r == 0 && !fresh)
			r = cop_pager_send_release(client, &v, &why);
		cop_pager_vm_clear(&v);
		again = r < 0 && r != -ETIMEDOUT && cop_pager_client_is_broken(client) &&
			g_get_monotonic_time() < deadline_us;
		leave(p, client);
		if (r == 0)
			return TRUE;
		if (!again) {
			g_propagate_error(error, why);
			return FALSE;
		}
		g_clear_error(&why);
	}
}

void cop_pager_vm_gone(struct cop_vm *vm)
{
	struct cop_pager *p = vm->state->pager;

	if (!p || !vm->machine || !cop_machine_is_paged(vm->machine))
		return;
	g_mutex_lock(&p->lock);
	p->gone[vm->id + 1] = TRUE;
	g_mutex_unlock(&p->lock);
	cop_pager_kick(p);
}

gboolean cop_pager_evict(struct cop_vm *vm, uint64_t size_bytes, uint64_t *ret_bytes,
			 GError **error)
{
	struct cop_pager_request request = {
		.type = COP_PAGER_EVICT, .vm = vm->id + 1, .size = size_bytes};
	struct cop_pager_answer answer;

	if (!ask(vm->state->pager, &request, LONG_MS, &answer, error))
		return FALSE;
	*ret_bytes = answer.value[0];
	return TRUE;
}

static void set_held(struct cop_vm *vm, gboolean held)
{
	g_mutex_lock(&vm->state->lock);
	vm->held = held;
	g_mutex_unlock(&vm->state->lock);
}

gboolean cop_pager_hold(struct cop_vm *vm, GError **error)
{
	struct cop_pager_request request = {.type = COP_PAGER_HOLD, .vm = vm->id + 1};

	/* First noted: a pager that is started meanwhile holds it too. */
	set_held(vm, TRUE);
	return ask(vm->state->pager, &request, LONG_MS, NULL, error);
}

gboolean cop_pager_release(struct cop_vm *vm, GError **error)
{
	struct cop_pager_request request = {.type = COP_PAGER_RELEASE, .vm = vm->id + 1};
	struct cop_pager_vm v;
	gboolean there;

	g_mutex_lock(&vm->state->lock);
	vm->held = FALSE;
	there = cop_pager_vm_look(vm, &v);
	g_mutex_unlock(&vm->state->lock);
	if (!there)
		return TRUE; /* it has ended: nothing is held */
	request.flags = v.shared ? COP_PAGER_SHARED : 0;
	request.image = cop_pager_image(v.ram_id);
	request.size = v.size_bytes;
	request.domain = v.domain;
	cop_pager_vm_clear(&v);
	return ask(vm->state->pager, &request, COP_PAGER_ASK_MS, NULL, error);
}

/* Images */

struct cop_pager_client *cop_pager_load(struct cop_state *state, const char *ram_id,
					GError **error)
{
	struct cop_pager_request request = {.type = COP_PAGER_TEMPLATE_LOAD,
					    .image = cop_pager_image(ram_id)};
	struct cop_pager *p = state->pager;
	gint64 deadline_us = g_get_monotonic_time() + WAIT_US;

	for (;;) {
		struct cop_pager_client *client = enter(p, deadline_us, error);
		struct cop_error why = {0};
		gboolean again;
		int r;

		if (!client)
			return NULL;
		r = cop_pager_client_call(client, &request, NULL, 0, LONG_MS, NULL, &why);
		if (r == 0) {
			g_rw_lock_reader_unlock(&p->gate);
			return client;
		}
		again = r != -ETIMEDOUT && cop_pager_client_is_broken(client) &&
			g_get_monotonic_time() < deadline_us;
		leave(p, client);
		if (!again) {
			cop_gerror_set(error, r == -EBADMSG ? COP_ERR_DAMAGED : COP_ERR_INTERNAL,
				       "%s", why.text);
			return NULL;
		}
	}
}

gboolean cop_pager_is_loaded(struct cop_pager_client *client)
{
	return cop_pager_send_simple(client, COP_PAGER_HELLO, 0, COP_PAGER_ASK_MS, NULL, NULL) == 0;
}

int cop_pager_send_image(struct cop_pager *p, struct cop_pager_client *client, const char *ram_id,
			 uint64_t size_bytes, unsigned domain, struct cop_template *tpl,
			 gboolean whole, GError **error)
{
	g_autofree char *path = cop_state_ram_path(p->state, ram_id);
	struct cop_pager_request request = {
		.type = COP_PAGER_TEMPLATE_ADD,
		.flags = whole ? COP_PAGER_WHOLE : 0,
		.image = cop_pager_image(ram_id),
		.size = size_bytes,
		.domain = domain,
	};
	int fds[4] = {-1, -1, -1, -1}, r = -ENOENT;
	struct cop_error why = {0};

	fds[0] = cop_file_open(path, O_RDWR, 0, error);
	if (fds[0] >= 0 && (!tpl || cop_template_open_ram(p->state, tpl, fds + 1, error))) {
		r = cop_pager_client_call(client, &request, fds, tpl ? 4 : 1, COP_PAGER_ASK_MS,
					  NULL, &why);
		if (r < 0)
			cop_gerror_set(error, COP_ERR_INTERNAL, "%s", why.text);
	}
	for (int i = 0; i < 4; i++) {
		if (fds[i] >= 0)
			close(fds[i]);
	}
	if (r == 0) {
		g_mutex_lock(&p->lock);
		g_hash_table_add(p->images, g_strdup(ram_id));
		g_mutex_unlock(&p->lock);
	}
	return r;
}

gboolean cop_pager_add_image(struct cop_state *state, const char *ram_id, uint64_t size_bytes,
			     unsigned domain, struct cop_template *tpl, gboolean whole,
			     GError **error)
{
	struct cop_pager *p = state->pager;
	gint64 deadline_us = g_get_monotonic_time() + WAIT_US;

	for (;;) {
		struct cop_pager_client *client = enter(p, deadline_us, error);
		GError *why = NULL;
		gboolean again;
		int r;

		if (!client)
			return FALSE;
		r = cop_pager_send_image(p, client, ram_id, size_bytes, domain, tpl, whole, &why);
		again = r < 0 && r != -ETIMEDOUT && cop_pager_client_is_broken(client) &&
			g_get_monotonic_time() < deadline_us;
		leave(p, client);
		if (r == 0)
			return TRUE;
		if (!again) {
			g_propagate_error(error, why);
			return FALSE;
		}
		g_clear_error(&why);
	}
}

void cop_pager_collect(struct cop_state *state)
{
	if (state->pager)
		cop_pager_kick(state->pager);
}

unsigned cop_pager_new_domain(struct cop_state *state)
{
	/* At random, so that one is not given again at once: the pager may still know it. */
	for (;;) {
		unsigned domain = (unsigned)g_random_int_range(1, 65536);
		gboolean taken = FALSE;
		struct cop_template *tpl;
		GHashTableIter iter;
		struct cop_vm *vm;

		g_hash_table_iter_init(&iter, state->vms);
		while (!taken && g_hash_table_iter_next(&iter, NULL, (void **)&vm))
			taken = vm->domain == domain;
		g_hash_table_iter_init(&iter, state->templates);
		while (!taken && g_hash_table_iter_next(&iter, NULL, (void **)&tpl))
			taken = tpl->domain == domain;
		if (!taken)
			return domain;
	}
}

/* Figures: no waiting for a pager that is being started. */
static gboolean look(struct cop_pager *p, const struct cop_pager_request *request,
		     uint64_t values[COP_PAGER_NR_VALUES])
{
	struct cop_pager_client *client = NULL;
	struct cop_pager_answer answer;
	gboolean up;
	int r = -1;

	memset(values, 0, sizeof(answer.value));
	g_mutex_lock(&p->lock);
	up = p->phase == COP_PAGER_UP;
	g_mutex_unlock(&p->lock);
	if (up && cop_pager_client_new(p->socket_path, QUICK_MS, &client, NULL, NULL) == 0)
		r = cop_pager_client_call(client, request, NULL, 0, QUICK_MS, &answer, NULL);
	cop_pager_client_free(client);
	if (r == 0)
		memcpy(values, answer.value, sizeof(answer.value));
	return r == 0;
}

gboolean cop_pager_stats(struct cop_state *state, uint64_t values[COP_PAGER_NR_VALUES])
{
	struct cop_pager_request request = {.type = COP_PAGER_STATS};

	return look(state->pager, &request, values);
}

gboolean cop_pager_vm_stats(struct cop_vm *vm, uint64_t values[COP_PAGER_NR_VALUES])
{
	struct cop_pager_request request = {.type = COP_PAGER_VM_STATS, .vm = vm->id + 1};

	return look(vm->state->pager, &request, values);
}

gboolean cop_pager_template_stats(struct cop_state *state, const char *ram_id,
				  uint64_t values[COP_PAGER_NR_VALUES])
{
	struct cop_pager_request request = {.type = COP_PAGER_TEMPLATE_STATS,
					    .image = cop_pager_image(ram_id)};

	return look(state->pager, &request, values);
}

pid_t cop_pager_pid(struct cop_state *state)
{
	struct cop_pager *p = state->pager;
	pid_t pid;

	g_mutex_lock(&p->lock);
	pid = p->phase == COP_PAGER_UP ? p->pid : 0;
	g_mutex_unlock(&p->lock);
	return pid;
}

char *cop_pager_trouble(struct cop_state *state)
{
	struct cop_pager *p = state->pager;
	char *text;

	g_mutex_lock(&p->lock);
	text = g_strdup(p->phase == COP_PAGER_BROKEN ? p->trouble : "");
	g_mutex_unlock(&p->lock);
	return text;
}
