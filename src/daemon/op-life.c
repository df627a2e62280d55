/* pause, resume, stop, remove, screenshot. */
#include "gerror.h"
#include "identity.h"
#include "json.h"
#include "ops.h"
#include "qmp.h"
#include "vm.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define DEFAULT_STOP_S 30
#define QUIT_MS 5000
#define PRESS_AGAIN_MS 5000
#define MAX_SCREEN_BYTES (64u << 20)

static JsonObject *release_with_json(struct cop_vm *vm, gboolean ok)
{
	JsonObject *result;

	cop_vm_ref(vm);
	cop_state_release_vm(vm);
	result = ok ? cop_vm_to_json(vm, FALSE) : NULL;
	cop_vm_unref(vm);
	return result;
}

JsonObject *cop_op_pause(struct cop_state *state, const char *name, GError **error)
{
	struct cop_vm *vm = cop_state_claim_vm(state, name, "pause", TRUE, error);

	return vm ? release_with_json(vm, cop_vm_halt(vm, error)) : NULL;
}

JsonObject *cop_op_resume(struct cop_state *state, const char *name, GError **error)
{
	struct cop_vm *vm = cop_state_claim_vm(state, name, "resume", TRUE, error);

	return vm ? release_with_json(vm, cop_vm_cont(vm, error)) : NULL;
}

JsonObject *cop_op_patch(struct cop_state *state, const char *name, JsonObject *request,
			 GError **error)
{
	static const char *const known[] = {"labels", "allow_fork", NULL};
	struct cop_identity_wish told;
	struct cop_vm *vm;

	if (!cop_identity_read(request, &told, error) || !cop_json_only(request, known, error))
		return NULL;
	vm = cop_state_claim_vm(state, name, "change", FALSE, error);
	if (!vm)
		return NULL;
	g_mutex_lock(&state->lock);
	if (told.labels) {
		if (vm->labels)
			json_object_unref(vm->labels);
		vm->labels = cop_json_copy(told.labels);
	}
	if (json_object_has_member(request, "allow_fork"))
		vm->forks_left = told.allow_fork;
	g_mutex_unlock(&state->lock);
	return release_with_json(vm, cop_vm_save(vm, error));
}

static void set_reason(struct cop_vm *vm, const char *reason)
{
	g_mutex_lock(&vm->state->lock);
	if (vm->run != COP_VM_FAILED) {
		g_free(vm->reason);
		vm->reason = g_strdup(reason);
	}
	g_mutex_unlock(&vm->state->lock);
}

/* QEMU writes out what it holds when it is asked to quit; only when it does not is it killed. */
static void end_process(struct cop_vm *vm)
{
	if (vm->qmp)
		(void)cop_qmp_call(vm->qmp, "quit", NULL, -1, QUIT_MS, NULL, NULL);
	if (!cop_vm_wait_gone(vm, QUIT_MS))
		cop_vm_kill(vm);
}

/* Until the guest has powered off. More than once: a guest that is still booting misses the first. */
static gboolean press_power_button(struct cop_vm *vm, int timeout_ms)
{
	gint64 deadline_us = g_get_monotonic_time() + timeout_ms * 1000LL;
	gint64 left_us = timeout_ms * 1000LL;

	while (left_us > 0 && cop_qmp_call(vm->qmp, "system_powerdown", NULL, -1, COP_VM_QMP_MS,
					   NULL, NULL)) {
		if (cop_vm_wait_gone(vm, (int)MIN(left_us / 1000 + 1, PRESS_AGAIN_MS)))
			return TRUE;
		left_us = deadline_us - g_get_monotonic_time();
	}
	return cop_vm_wait_gone(vm, 0);
}

static void stop_vm(struct cop_vm *vm, gboolean force, int timeout_ms)
{
	gboolean alive;

	g_mutex_lock(&vm->state->lock);
	alive = cop_vm_alive(vm);
	g_mutex_unlock(&vm->state->lock);
	if (alive && !force) {
		/* A paused guest would not see the power button. */
		(void)cop_vm_cont(vm, NULL);
		if (press_power_button(vm, timeout_ms))
			return;
		end_process(vm);
		set_reason(vm, "stopped by force: the guest did not power off in time");
	} else if (vm->pid) {
		end_process(vm);
		set_reason(vm, "stopped by force");
	}
}

JsonObject *cop_op_stop(struct cop_state *state, const char *name, JsonObject *request,
			GError **error)
{
	static const char *const known[] = {"timeout_s", "force", NULL};
	GError *why = NULL;
	gint64 timeout_s = cop_json_int(request, "timeout_s", DEFAULT_STOP_S, &why);
	gboolean force = cop_json_bool(request, "force", FALSE, &why);
	struct cop_vm *vm;

	if (!why && cop_json_only(request, known, &why) && (timeout_s < 0 || timeout_s > 3600))
		cop_gerror_set(&why, COP_ERR_BAD_REQUEST, "timeout_s must be from 0 to 3600");
	if (why) {
		g_propagate_error(error, why);
		return NULL;
	}
	vm = cop_state_claim_vm(state, name, "stop", FALSE, error);
	if (!vm)
		return NULL;
	stop_vm(vm, force, (int)timeout_s * 1000);
	(void)cop_vm_save(vm, NULL); /* on_exit has saved the state; this adds the reason */
	return release_with_json(vm, TRUE);
}

void cop_op_discard(struct cop_vm *vm)
{
	gboolean running;

	g_mutex_lock(&vm->state->lock);
	running = vm->pid != 0;
	g_mutex_unlock(&vm->state->lock);
	if (running)
		cop_vm_kill(vm);
	cop_state_forget_vm(vm);
}

gboolean cop_op_remove(struct cop_state *state, const char *name, gboolean force, GError **error)
{
	struct cop_vm *vm = cop_state_claim_vm(state, name, "remove", FALSE, error);
	gboolean running;

	if (!vm)
		return FALSE;
	g_mutex_lock(&state->lock);
	running = vm->pid != 0;
	g_mutex_unlock(&state->lock);
	if (running && !force) {
		cop_state_release_vm(vm);
		return cop_gerror_set(error, COP_ERR_WRONG_STATE,
				      "VM '%s' is running\n'coppice stop %s' first, or "
				      "'coppice rm --force %s'",
				      name, name, name);
	}
	cop_op_discard(vm);
	cop_vm_unref(vm);
	return TRUE;
}

/* QEMU writes into a file that has no name; it gets a descriptor that may only write. */
static GBytes *take_picture(struct cop_vm *vm, int fd, GError **error)
{
	static gint counter = 200000; /* descriptor sets of freezes are below */
	g_autofree char *self = g_strdup_printf("/proc/self/fd/%d", fd);
	int set = g_atomic_int_add(&counter, 1), write_fd = open(self, O_WRONLY | O_CLOEXEC);
	g_autofree char *set_path = g_strdup_printf("/dev/fdset/%d", set);
	JsonObject *add = json_object_new(), *shot = json_object_new(), *drop = json_object_new();
	g_autofree char *png = NULL;
	gboolean ok;
	off_t len;

	json_object_set_int_member(add, "fdset-id", set);
	json_object_set_string_member(shot, "filename", set_path);
	json_object_set_string_member(shot, "format", "png");
	json_object_set_int_member(drop, "fdset-id", set);
	ok = cop_qmp_call(vm->qmp, "add-fd", add, write_fd, COP_VM_QMP_MS, NULL, error);
	if (write_fd >= 0)
		close(write_fd);
	ok = cop_qmp_call(vm->qmp, "screendump", shot, -1, COP_VM_QMP_MS, NULL,
			  ok ? error : NULL) && ok;
	(void)cop_qmp_call(vm->qmp, "remove-fd", drop, -1, COP_VM_QMP_MS, NULL, NULL);
	if (!ok)
		return NULL;
	len = lseek(fd, 0, SEEK_END);
	if (len <= 0 || len > MAX_SCREEN_BYTES) {
		cop_gerror_set(error, COP_ERR_INTERNAL, "QEMU made a picture of %lld bytes",
			       (long long)len);
		return NULL;
	}
	png = g_malloc((gsize)len);
	if (pread(fd, png, (size_t)len, 0) != len) {
		cop_gerror_errno(error, errno, "cannot read the picture");
		return NULL;
	}
	return g_bytes_new_take(g_steal_pointer(&png), (gsize)len);
}

GBytes *cop_op_screenshot(struct cop_state *state, const char *name, GError **error)
{
	struct cop_vm *vm = cop_state_claim_vm(state, name, "screenshot", TRUE, error);
	GBytes *png = NULL;
	int fd;

	if (!vm)
		return NULL;
	if (strcmp(vm->machine->display, "none") == 0) {
		cop_gerror_set(error, COP_ERR_WRONG_STATE,
			       "VM '%s' has no display\nrun it with --display vga", name);
	} else {
		fd = memfd_create("coppice-screen", MFD_CLOEXEC);
		if (fd < 0) {
			cop_gerror_errno(error, errno, "memfd_create");
		} else {
			png = take_picture(vm, fd, error);
			close(fd);
		}
	}
	cop_state_release_vm(vm);
	return png;
}
