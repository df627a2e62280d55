/* A VM's process: see vm.h.
 *
 * States and who moves them: spawn: starting; cont: running; halt: paused; the events STOP and RESUME
 * the same (the guest's disk may fill up); the process's end (on_exit): stopped when it was asked to
 * end or the guest powered off, else failed.
 * Threads: on_exit and on_event run on the main loop's thread, all else on workers that have claimed
 * the VM. Both take the lock.
 * On failure of cop_vm_spawn() the process is killed and reaped before it returns.
 */
#include "vm.h"
#include "bridge.h"
#include "console.h"
#include "gerror.h"
#include "disk.h"
#include "fault.h"
#include "json.h"
#include "launch.h"
#include "pager.h"
#include "qmp.h"
#include "ram.h"
#include "sockets.h"

#include <errno.h>
#include <fcntl.h>
#include <glib-unix.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define LOAD_MS 120000

static double ms_since(gint64 start_us)
{
	return (double)(g_get_monotonic_time() - start_us) / 1000.0;
}

uint64_t cop_vm_pid_start(pid_t pid)
{
	g_autofree char *path = g_strdup_printf("/proc/%d/stat", (int)pid);
	g_autofree char *text = NULL;
	uint64_t start = 0;
	const char *p;

	if (!g_file_get_contents(path, &text, NULL, NULL) || !(p = strrchr(text, ')')))
		return 0;
	if (strncmp(p, ") Z", 3) == 0 || strncmp(p, ") X", 3) == 0)
		return 0; /* dead, and not waited for yet */
	for (int field = 2; p && field < 22; field++)
		p = strchr(p + 1, ' ');
	if (p)
		(void)sscanf(p, " %" G_GUINT64_FORMAT, &start);
	return start;
}

static int listen_in(const char *dir, const char *name, int type, GError **error)
{
	g_autofree char *path = g_build_filename(dir, name, NULL);

	return cop_socket_listen(path, type, error);
}

/* Last lines of QEMU's output, for an error message. */
static char *log_tail(struct cop_vm *vm)
{
	g_autofree char *dir = cop_state_vm_dir(vm->state, vm->id);
	g_autofree char *path = g_build_filename(dir, "qemu.log", NULL);
	char buf[512];
	ssize_t n = 0;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	struct stat st;

	if (fd >= 0 && fstat(fd, &st) == 0)
		n = pread(fd, buf, sizeof(buf), MAX(0, st.st_size - (off_t)sizeof(buf)));
	if (fd >= 0)
		close(fd);
	for (ssize_t i = 0; i < n; i++) {
		if (buf[i] < ' ' || buf[i] > '~')
			buf[i] = ' ';
	}
	return g_strstrip(g_strndup(buf, n > 0 ? (gsize)n : 0));
}

/* Main loop's thread. */
static void on_event(const char *event, JsonObject *data, void *user)
{
	struct cop_vm *vm = user;
	const char *reason = NULL;

	if (!event)
		return; /* on_exit tells more */
	g_mutex_lock(&vm->state->lock);
	if (strcmp(event, "STOP") == 0 && vm->run == COP_VM_RUNNING) {
		vm->run = COP_VM_PAUSED;
	} else if (strcmp(event, "RESUME") == 0 && vm->run == COP_VM_PAUSED) {
		vm->run = COP_VM_RUNNING;
		reason = "";
	} else if (strcmp(event, "BLOCK_IO_ERROR") == 0) {
		reason = cop_json_bool(data, "nospace", FALSE, NULL)
				 ? "the host's disk is full: free some space, then resume it"
				 : "a disk of the VM could not be read or written";
	} else if (strcmp(event, "GUEST_PANICKED") == 0) {
		reason = "the guest's kernel panicked";
	} else if (strcmp(event, "SHUTDOWN") == 0) {
		const char *why = cop_json_str(data, "reason", "", NULL);

		if (strcmp(why, "guest-reset") == 0)
			reason = "the guest rebooted, and a clone of a --kernel VM has no kernel "
				 "to boot: start it again";
		else if (cop_json_bool(data, "guest", FALSE, NULL))
			reason = "the guest powered off";
		else
			reason = "stopped";
	}
	if (reason) {
		g_free(vm->reason);
		vm->reason = g_strdup(reason);
	}
	g_cond_broadcast(&vm->state->changed);
	g_mutex_unlock(&vm->state->lock);
}

static gboolean on_vnc_client(gint fd, GIOCondition condition, gpointer user)
{
	struct cop_vm *vm = user;
	int client = accept4(fd, NULL, NULL, SOCK_CLOEXEC);

	if (client >= 0) {
		cop_bridge_vnc(vm, client);
	}
	return G_SOURCE_CONTINUE;
}

/* With the lock held, once the process is gone. */
static void forget_process(struct cop_vm *vm)
{
	if (vm->pid_source)
		g_source_remove(vm->pid_source);
	if (vm->vnc_source)
		g_source_remove(vm->vnc_source);
	vm->pid_source = vm->vnc_source = 0;
	if (vm->vnc_fd >= 0)
		close(vm->vnc_fd);
	if (vm->pidfd >= 0)
		close(vm->pidfd);
	vm->pidfd = vm->vnc_fd = -1;
	vm->pid = 0;
	/* Ended, but not freed: an operation may be using them. The next start replaces them. */
	cop_qmp_close(vm->qmp);
	cop_console_close(vm->console);
	g_free(g_steal_pointer(&vm->ram_id));
	vm->held = FALSE;
	cop_pager_vm_gone(vm);
}

static gboolean on_exit_readable(gint fd, GIOCondition condition, gpointer user)
{
	struct cop_vm *vm = user;
	struct cop_state *state = vm->state;
	g_autofree char *tail = log_tail(vm);
	siginfo_t info = {0};
	gboolean ours = waitid(P_PIDFD, (id_t)fd, &info, WEXITED) == 0;
	gboolean clean;

	cop_vm_ref(vm);
	g_mutex_lock(&state->lock);
	/* Another daemon's child tells us no status; its SHUTDOWN event has left a reason. */
	clean = ours ? info.si_code == CLD_EXITED && info.si_status == 0 : *vm->reason != '\0';
	clean = clean && !vm->doom;
	vm->run = clean ? COP_VM_STOPPED : COP_VM_FAILED;
	if (!clean || !*vm->reason) {
		g_free(vm->reason);
		if (vm->doom)
			vm->reason = g_strdup(vm->doom);
		else if (clean)
			vm->reason = g_strdup("QEMU ended");
		else if (ours && info.si_code == CLD_EXITED)
			vm->reason = g_strdup_printf("QEMU failed: %s", tail);
		else if (ours)
			vm->reason = g_strdup_printf("QEMU was ended by signal %d", info.si_status);
		else
			vm->reason = g_strdup("QEMU ended unexpectedly");
	}
	vm->pid_source = 0;
	forget_process(vm);
	vm->saving = TRUE; /* who waits for the end may remove the folder */
	g_mutex_unlock(&state->lock);
	(void)cop_vm_save(vm, NULL); /* nothing to do about it here; the next save will tell */
	g_mutex_lock(&state->lock);
	vm->saving = FALSE;
	g_cond_broadcast(&state->changed);
	g_mutex_unlock(&state->lock);
	cop_state_collect(state);
	cop_vm_unref(vm);
	return G_SOURCE_REMOVE;
}

/* Watches the process; with the lock held. Sources keep the VM alive. */
static gboolean watch(struct cop_vm *vm, GError **error)
{
	vm->pidfd = (int)syscall(SYS_pidfd_open, vm->pid, 0);
	if (vm->pidfd < 0)
		return cop_gerror_errno(error, errno, "cannot watch QEMU, process %d",
					(int)vm->pid);
	vm->pid_source = g_unix_fd_add_full(G_PRIORITY_DEFAULT, vm->pidfd, G_IO_IN,
					    on_exit_readable, cop_vm_ref(vm),
					    (GDestroyNotify)cop_vm_unref);
	return TRUE;
}

static void fill_process(struct cop_vm *vm, const char *dir, const char *log,
			 struct cop_launch_process *process)
{
	struct stat st;

	memset(process, 0, sizeof(*process));
	process->dir = dir;
	process->log_path = log;
	process->uid = process->gid = process->extra_gid = (gid_t)-1;
	process->cgroup_procs_fd = vm->state->cgroup_procs_fd;
	if (geteuid() != 0)
		return;
	process->uid = process->gid = vm->state->config->uid_base + vm->id;
	if (strcmp(vm->machine->accel, "kvm") == 0 && stat("/dev/kvm", &st) == 0 &&
	    st.st_gid != 0)
		process->extra_gid = st.st_gid;
}

/* QEMU reads a kernel by path, in its own folder. */
static gboolean link_blob(struct cop_vm *vm, const char *dir, const char *blob, const char *as,
			  GError **error)
{
	g_autofree char *to = g_build_filename(dir, as, NULL);
	g_autofree char *from = NULL;

	if (!blob)
		return TRUE;
	from = cop_state_blob_path(vm->state, blob);
	(void)unlink(to); /* of an earlier run, or nothing */
	if (link(from, to) < 0)
		return cop_gerror_errno(error, errno, "cannot link %s", from);
	return TRUE;
}

static gboolean prepare(struct cop_vm *vm, struct cop_launch *launch, const char *dir, uid_t uid,
			gboolean incoming, GError **error)
{
	struct cop_launch_run run = {.name = vm->name, .ssh_port = vm->ssh_port,
				     .incoming = incoming};
	int fd;

	fd = listen_in(dir, "qmp.sock", SOCK_STREAM, error);
	if (fd < 0)
		return FALSE;
	run.qmp_fd = cop_launch_fd(launch, fd);
	fd = listen_in(dir, "con.sock", SOCK_STREAM, error);
	if (fd < 0)
		return FALSE;
	run.console_fd = cop_launch_fd(launch, fd);
	fd = listen_in(dir, "shim.sock", SOCK_SEQPACKET, error);
	if (fd < 0 || !cop_ram_launch(vm->state, launch, dir, uid, vm->ram_id, vm->ram_shared,
				      vm->machine->memory_bytes,
				      cop_machine_is_paged(vm->machine), fd, error))
		return FALSE;
	if (!incoming && (!link_blob(vm, dir, vm->machine->kernel, "kernel", error) ||
			  !link_blob(vm, dir, vm->machine->initrd, "initrd", error)))
		return FALSE;
	cop_launch_machine(launch, vm->machine, &run);
	return cop_disk_launch(vm->state, launch, vm->machine, error);
}

/* Connects to monitor and console of a process that runs. */
static gboolean connect_all(struct cop_vm *vm, const char *dir, int timeout_ms, GError **error)
{
	g_autofree char *qmp_path = g_build_filename(dir, "qmp.sock", NULL);
	g_autofree char *con_path = g_build_filename(dir, "con.sock", NULL);
	g_autoptr(cop_qmp) qmp = cop_qmp_connect(qmp_path, timeout_ms, on_event, vm, error);
	struct cop_console *console;
	gboolean vga = strcmp(vm->machine->display, "vga") == 0;
	int vnc_fd = -1;

	if (!qmp)
		return FALSE;
	if (vga) {
		vnc_fd = listen_in(dir, "vnc.sock", SOCK_STREAM, error);
		if (vnc_fd < 0) {
			cop_qmp_close(qmp);
			return FALSE;
		}
	}
	console = cop_console_new(con_path);
	g_mutex_lock(&vm->state->lock);
	if (!vm->pid) { /* it ended meanwhile */
		g_mutex_unlock(&vm->state->lock);
		cop_qmp_close(qmp);
		cop_console_close(console);
		cop_console_unref(console);
		if (vnc_fd >= 0)
			close(vnc_fd);
		return cop_gerror_set(error, COP_ERR_INTERNAL, "QEMU ended at once");
	}
	cop_qmp_unref(vm->qmp);
	cop_console_unref(vm->console);
	vm->qmp = g_steal_pointer(&qmp);
	vm->console = console;
	vm->vnc_fd = vnc_fd;
	if (vga)
		vm->vnc_source = g_unix_fd_add_full(G_PRIORITY_DEFAULT, vnc_fd, G_IO_IN,
						    on_vnc_client, cop_vm_ref(vm),
						    (GDestroyNotify)cop_vm_unref);
	g_mutex_unlock(&vm->state->lock);
	return TRUE;
}

/* Kills a child that is not watched yet. */
static void reap(pid_t pid)
{
	(void)kill(pid, SIGKILL);
	while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
}

gboolean cop_vm_spawn(struct cop_vm *vm, gboolean incoming, GError **error)
{
	struct cop_state *state = vm->state;
	g_autofree char *dir = cop_state_vm_dir(state, vm->id);
	g_autofree char *log = g_build_filename(dir, "qemu.log", NULL);
	struct cop_launch *launch = cop_launch_new(state->config->qemu);
	struct cop_launch_process process;
	gint64 t0 = g_get_monotonic_time();
	GError *why = NULL;
	gboolean ok;
	int go_fd = -1;
	pid_t pid = -1;

	fill_process(vm, dir, log, &process);
	ok = (!cop_machine_is_paged(vm->machine) || cop_pager_start(state, error)) &&
	     prepare(vm, launch, dir, process.uid, incoming, error);
	if (ok)
		pid = cop_launch_fork(launch, &process, &go_fd, error);
	cop_launch_free(launch);
	if (pid < 0)
		return FALSE;

	g_mutex_lock(&state->lock);
	vm->pid = pid;
	vm->pid_start = cop_vm_pid_start(pid);
	vm->run = COP_VM_STARTING;
	g_free(vm->reason);
	vm->reason = g_strdup("");
	g_free(g_steal_pointer(&vm->doom));
	g_mutex_unlock(&state->lock);
	cop_fault_point("spawn-forked");
	ok = cop_vm_save(vm, error);
	cop_fault_point("spawn-noted");
	if (!ok)
		close(go_fd);
	else
		ok = cop_launch_go(go_fd, state->config->qemu, error);
	if (ok) {
		g_mutex_lock(&state->lock);
		ok = watch(vm, error);
		g_mutex_unlock(&state->lock);
	}
	if (!ok) {
		reap(pid);
		g_mutex_lock(&state->lock);
		vm->pid = 0;
		vm->run = COP_VM_FAILED;
		g_free(vm->reason);
		vm->reason = g_strdup("QEMU could not be started");
		g_mutex_unlock(&state->lock);
		(void)cop_vm_save(vm, NULL); /* the caller has an error to report already */
		return FALSE;
	}
	cop_fault_point("spawn-running");
	vm->start.spawn_ms = ms_since(t0);
	t0 = g_get_monotonic_time();
	if (!connect_all(vm, dir, COP_VM_QMP_MS, &why)) {
		g_autofree char *tail = NULL;

		cop_vm_kill(vm);
		tail = log_tail(vm);
		if (*tail)
			cop_gerror_set(error, COP_ERR_INTERNAL, "QEMU did not start: %s", tail);
		else
			g_propagate_error(error, g_steal_pointer(&why));
		g_clear_error(&why);
		return FALSE;
	}
	vm->start.qmp_ms = ms_since(t0);
	/* Nothing has touched guest RAM so far: a fault would have to wait for the pager. */
	if (!cop_ram_check(vm, error) ||
	    (cop_machine_is_paged(vm->machine) && !cop_pager_add_vm(vm, TRUE, error))) {
		cop_vm_kill(vm);
		return FALSE;
	}
	return TRUE;
}

static JsonObject *capabilities(void)
{
	static const char *const names[] = {"x-ignore-shared", "events"};
	JsonObject *args = json_object_new();
	JsonArray *list = json_array_new();

	for (size_t i = 0; i < G_N_ELEMENTS(names); i++) {
		JsonObject *one = json_object_new();

		json_object_set_string_member(one, "capability", names[i]);
		json_object_set_boolean_member(one, "state", TRUE);
		json_array_add_object_element(list, one);
	}
	json_object_set_array_member(args, "capabilities", list);
	return args;
}

gboolean cop_vm_send_state_fd(struct cop_vm *vm, int fd, GError **error)
{
	JsonObject *args = json_object_new();

	json_object_set_string_member(args, "fdname", "state");
	return cop_qmp_call(vm->qmp, "migrate-set-capabilities", capabilities(), -1, COP_VM_QMP_MS,
			    NULL, error) &&
	       cop_qmp_call(vm->qmp, "getfd", args, fd, COP_VM_QMP_MS, NULL, error);
}

gboolean cop_vm_move_state(struct cop_vm *vm, const char *command, GError **error)
{
	static const char *const ends[] = {"completed", "failed", "cancelled", NULL};
	guint64 mark = cop_qmp_mark(vm->qmp);
	JsonObject *args = json_object_new();
	g_autofree char *end = NULL;

	json_object_set_string_member(args, "uri", "fd:state");
	if (!cop_qmp_call(vm->qmp, command, args, -1, COP_VM_QMP_MS, NULL, error) ||
	    !cop_qmp_wait(vm->qmp, mark, "MIGRATION", "status", ends, LOAD_MS, &end, NULL, error))
		return FALSE;
	if (strcmp(end, "completed") != 0)
		return cop_gerror_set(error, COP_ERR_INTERNAL, "QEMU says that '%s' %s", command,
				      end);
	return TRUE;
}

gboolean cop_vm_load_state(struct cop_vm *vm, const char *state_path, GError **error)
{
	gint64 t0 = g_get_monotonic_time();
	int fd = cop_file_open(state_path, O_RDONLY, 0, error);
	gboolean ok;

	if (fd < 0)
		return FALSE;
	ok = cop_vm_send_state_fd(vm, fd, error) &&
	     cop_vm_move_state(vm, "migrate-incoming", error);
	cop_fault_point("clone-loaded");
	close(fd);
	vm->start.load_ms = ms_since(t0);
	return ok;
}

static gboolean set_running(struct cop_vm *vm, const char *command, enum cop_vm_state run,
			    GError **error)
{
	if (!cop_qmp_call(vm->qmp, command, NULL, -1, COP_VM_QMP_MS, NULL, error))
		return FALSE;
	g_mutex_lock(&vm->state->lock);
	if (vm->pid)
		vm->run = run;
	g_cond_broadcast(&vm->state->changed);
	g_mutex_unlock(&vm->state->lock);
	return TRUE;
}

gboolean cop_vm_cont(struct cop_vm *vm, GError **error)
{
	return set_running(vm, "cont", COP_VM_RUNNING, error);
}

gboolean cop_vm_halt(struct cop_vm *vm, GError **error)
{
	return set_running(vm, "stop", COP_VM_PAUSED, error);
}

gboolean cop_vm_wait_gone(struct cop_vm *vm, int timeout_ms)
{
	gint64 deadline = g_get_monotonic_time() + timeout_ms * 1000LL;
	gboolean gone;

	g_mutex_lock(&vm->state->lock);
	while ((vm->pid || vm->saving) &&
	       g_cond_wait_until(&vm->state->changed, &vm->state->lock, deadline))
		;
	gone = vm->pid == 0;
	g_mutex_unlock(&vm->state->lock);
	return gone;
}

void cop_vm_kill(struct cop_vm *vm)
{
	g_mutex_lock(&vm->state->lock);
	if (vm->pidfd >= 0)
		(void)syscall(SYS_pidfd_send_signal, vm->pidfd, SIGKILL, NULL, 0);
	g_mutex_unlock(&vm->state->lock);
	if (!cop_vm_wait_gone(vm, 30000))
		g_warning("QEMU of VM '%s' does not go", vm->name);
}

static gboolean query_running(struct cop_vm *vm, gboolean *ret_running, char **ret_status,
			      GError **error)
{
	g_autoptr(JsonNode) node = NULL;

	if (!cop_qmp_call(vm->qmp, "query-status", NULL, -1, COP_VM_QMP_MS, &node, error))
		return FALSE;
	if (!JSON_NODE_HOLDS_OBJECT(node))
		return cop_gerror_set(error, COP_ERR_INTERNAL, "odd answer to query-status");
	*ret_running = cop_json_bool(json_node_get_object(node), "running", FALSE, NULL);
	*ret_status = g_strdup(cop_json_str(json_node_get_object(node), "status", "", NULL));
	return TRUE;
}

void cop_vm_adopt(struct cop_vm *vm)
{
	g_autofree char *dir = cop_state_vm_dir(vm->state, vm->id);
	g_autofree char *status = NULL;
	g_autoptr(GError) why = NULL;
	gboolean running = FALSE, ok;

	if (!vm->pid)
		return;
	g_mutex_lock(&vm->state->lock);
	if (cop_vm_pid_start(vm->pid) != vm->pid_start || !watch(vm, NULL)) {
		vm->run = COP_VM_FAILED;
		g_free(vm->reason);
		vm->reason = g_strdup("QEMU ended while no daemon was running");
		forget_process(vm);
		g_mutex_unlock(&vm->state->lock);
		(void)cop_vm_save(vm, NULL); /* tried again at the next change */
		return;
	}
	g_mutex_unlock(&vm->state->lock);
	cop_ram_note_mapping(vm);
	ok = connect_all(vm, dir, COP_VM_QMP_MS, &why) &&
	     query_running(vm, &running, &status, &why);
	if (!ok || strcmp(status, "inmigrate") == 0) {
		/* A clone whose start was cut short, or a QEMU that is stuck. */
		g_warning("ending VM '%s': %s", vm->name, ok ? "it was starting" : why->message);
		cop_vm_kill(vm);
		return;
	}
	g_mutex_lock(&vm->state->lock);
	vm->run = running ? COP_VM_RUNNING : COP_VM_PAUSED;
	g_mutex_unlock(&vm->state->lock);
	/* The pager knows it already, unless it was just being started. If there is no pager now, the
	 * next one is told. */
	if (cop_machine_is_paged(vm->machine) && !cop_pager_add_vm(vm, FALSE, &why))
		g_warning("VM '%s': %s", vm->name, why->message);
}
