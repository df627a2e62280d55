/* The pager's process: started, told of everything, watched, started again.
 *
 * Data: one connection, this thread's own, that shows when the pager dies. DIR/pager.lock is locked by
 * the pager, which inherits the descriptor: so there is never a second one, and who holds the lock but
 * doesn't answer is stuck and killed (its number is in the file).
 *
 * States (p->phase) and who moves them, all this thread: STARTING -> UP once a pager has been told of
 * every template and VM; UP -> STARTING when the connection ends; STARTING -> BROKEN when it can't be
 * started, tried again after a pause of at most a second.
 *
 * Order when it is told of everything (tell_all): templates, VMs with what they map now and whether a
 * freeze holds them, VMs that are gone, and the limit last: before it knows the limit a pager evicts
 * nothing, so a VM that is held can't lose a page in between.
 *
 * On failure of one VM or template the others go on; a VM that the pager can't serve would stand still
 * for ever, and is ended with a reason.
 */
#include "pager-impl.h"
#include "cgroup.h"
#include "gerror.h"
#include "json.h"
#include "launch.h"
#include "sockets.h"
#include "vm.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define HELLO_MS 10000
#define LOOK_MS 1000
#define MAX_PAUSE_MS 1000
#define LIVED_US (5 * G_USEC_PER_SEC) /* a pager that lived this long was no failed start */
#define MIN_STORE_BYTES (16ull << 20)
#define TRIES 3

/* Of the thread. */
struct watch {
	struct cop_pager *p;
	struct cop_pager_client *client;
	pid_t pid;
	int pidfd; /* -1: none, or reaped */
	gboolean child; /* else of an earlier daemon */
	gint64 started_us;
	unsigned pause_ms;
};

static void set_phase(struct cop_pager *p, enum cop_pager_phase phase, const char *trouble)
{
	g_mutex_lock(&p->lock);
	if (strcmp(p->trouble, trouble) != 0) {
		g_free(p->trouble);
		p->trouble = g_strdup(trouble);
		if (*trouble)
			g_warning("the pager does not run: %s", trouble);
	}
	p->phase = phase;
	g_cond_broadcast(&p->changed);
	g_mutex_unlock(&p->lock);
}

static gboolean is_ending(struct cop_pager *p)
{
	gboolean ending;

	g_mutex_lock(&p->lock);
	ending = p->ending;
	g_mutex_unlock(&p->lock);
	return ending;
}

/* A quarter of what there is: records are a fraction of the pages that left. One that is there keeps
 * its size, as it has to be opened with it. */
static uint64_t store_bytes(struct cop_pager *p)
{
	uint64_t host = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
	struct statvfs fs;
	struct stat st;

	if (stat(p->store_path, &st) == 0 && st.st_size > 0)
		return (uint64_t)st.st_size;
	if (statvfs(p->state->config->ram_dir, &fs) == 0 && fs.f_blocks)
		host = MIN(host, (uint64_t)fs.f_blocks * fs.f_frsize);
	return MAX(host / 4 & ~((1ull << 20) - 1), MIN_STORE_BYTES);
}

static void reap(struct watch *w)
{
	struct pollfd ended = {.fd = w->pidfd, .events = POLLIN};
	siginfo_t info = {0};

	if (w->pidfd < 0 || poll(&ended, 1, 0) != 1)
		return;
	if (!w->child) {
		close(w->pidfd);
		w->pidfd = -1;
	} else if (waitid(P_PIDFD, (id_t)w->pidfd, &info, WEXITED | WNOHANG) == 0 && info.si_pid) {
		if (info.si_code != CLD_EXITED || info.si_status)
			g_warning("the pager, process %d, was ended by %s %d", (int)info.si_pid,
				  info.si_code == CLD_EXITED ? "status" : "signal",
				  info.si_status);
		close(w->pidfd);
		w->pidfd = -1;
	}
}

/* The lock of the one pager; one that holds it but does not answer is killed. -1 with error set. */
static int take_lock(struct watch *w, GError **error)
{
	struct cop_pager *p = w->p;
	int fd = cop_file_open(p->lock_path, O_RDWR | O_CREAT, 0600, error);
	gint64 deadline_us = g_get_monotonic_time() + 10 * G_USEC_PER_SEC;
	char text[32] = "";

	while (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) < 0) {
		/* Nobody else has it open, so the process is the one that wrote its number. */
		if (pread(fd, text, sizeof(text) - 1, 0) > 0 && atoi(text) > 1)
			(void)kill(atoi(text), SIGKILL);
		reap(w);
		if (g_get_monotonic_time() > deadline_us) {
			cop_gerror_set(error, COP_ERR_INTERNAL,
				       "an older pager, process %s, does not end", text);
			close(fd);
			return -1;
		}
		g_usleep(10000);
	}
	return fd;
}

static gboolean spawn(struct watch *w, GError **error)
{
	struct cop_pager *p = w->p;
	const struct cop_config *c = p->state->config;
	struct cop_launch_process process = {
		.dir = c->dir, .log_path = p->log_path, .uid = (uid_t)-1, .gid = (gid_t)-1,
		.extra_gid = (gid_t)-1, .cgroup_procs_fd = p->state->cgroup_procs_fd};
	struct cop_launch *launch = cop_launch_new(c->pager);
	int lock_fd = take_lock(w, error), listen_fd, go_fd = -1;
	char text[32];
	pid_t pid = -1;

	if (lock_fd >= 0) {
		listen_fd = cop_socket_listen(p->socket_path, SOCK_SEQPACKET, error);
		if (listen_fd >= 0) {
			cop_launch_arg(launch, "--socket-fd");
			cop_launch_arg(launch, "%d", cop_launch_fd(launch, listen_fd));
			cop_launch_arg(launch, "--store");
			cop_launch_arg(launch, "%s", p->store_path);
			cop_launch_arg(launch, "--store-bytes");
			cop_launch_arg(launch, "%" PRIu64, store_bytes(p));
			(void)cop_launch_fd(launch, dup(lock_fd)); /* it holds the lock */
			pid = cop_launch_fork(launch, &process, &go_fd, error);
		}
	}
	cop_launch_free(launch);
	if (pid > 0) {
		int len = g_snprintf(text, sizeof(text), "%d\n", (int)pid);

		(void)!ftruncate(lock_fd, 0); /* for who finds it stuck: no harm without */
		(void)!pwrite(lock_fd, text, (size_t)len, 0);
		w->started_us = g_get_monotonic_time();
		w->pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
		w->child = TRUE;
	}
	if (lock_fd >= 0)
		close(lock_fd);
	return pid > 0 && cop_launch_go(go_fd, c->pager, error);
}

/* The pager that runs, or a new one. */
static gboolean find_or_start(struct watch *w, GError **error)
{
	struct cop_pager *p = w->p;
	struct cop_error why = {0};
	int pid = 0, r;

	r = cop_pager_client_new(p->socket_path, HELLO_MS, &w->client, &pid, &why);
	if (r < 0 && r != -EPROTONOSUPPORT) {
		reap(w);
		if (!spawn(w, error))
			return FALSE;
		r = cop_pager_client_new(p->socket_path, HELLO_MS, &w->client, &pid, &why);
	}
	if (r == -EPROTONOSUPPORT)
		return cop_gerror_set(error, COP_ERR_INTERNAL,
				      "the pager that runs is of another version of coppice\n"
				      "stop its VMs with the coppiced that started it, or end it: "
				      "its process is in %s", p->lock_path);
	if (r < 0)
		return cop_gerror_set(error, COP_ERR_INTERNAL, "%s\nsee %s", why.text,
				      p->log_path);
	w->pid = pid;
	if (w->pidfd < 0) {
		w->pidfd = (int)syscall(SYS_pidfd_open, pid, 0); /* -1: it just ended */
		w->child = FALSE;
	}
	return TRUE;
}

/* Ends a VM that would stand still for ever. */
static void doom(struct cop_vm *vm, const char *why)
{
	g_mutex_lock(&vm->state->lock);
	if (vm->pidfd >= 0 && !vm->doom) {
		vm->doom = g_strdup(why);
		g_warning("ending VM '%s': %s", vm->name, why);
		(void)syscall(SYS_pidfd_send_signal, vm->pidfd, SIGKILL, NULL, 0);
	} else if (vm->pid && !vm->doom && cop_vm_pid_start(vm->pid) == vm->pid_start) {
		/* Of an earlier daemon, and not taken up yet. */
		vm->doom = g_strdup(why);
		g_warning("ending VM '%s': %s", vm->name, why);
		(void)kill(vm->pid, SIGKILL);
	}
	g_mutex_unlock(&vm->state->lock);
}

static gboolean is_broken(struct watch *w)
{
	return cop_pager_client_is_broken(w->client);
}

static void tell_vm(struct watch *w, struct cop_vm *vm)
{
	g_autoptr(GError) error = NULL;
	struct cop_pager_vm v;
	gboolean looked, there;
	int r = 0;

	g_mutex_lock(&vm->state->lock);
	/* A clone that is only just being started is told by who starts it. */
	looked = vm->run != COP_VM_STARTING && cop_pager_vm_look(vm, &v);
	there = looked && cop_vm_pid_start(v.pid) == vm->pid_start;
	g_mutex_unlock(&vm->state->lock);
	for (int i = 0; there && i < TRIES; i++) {
		g_clear_error(&error);
		r = cop_pager_send_vm(w->p, w->client, &v, &error);
		if (r == 0 && v.held)
			r = cop_pager_send_simple(w->client, COP_PAGER_HOLD, v.number,
						  COP_PAGER_ASK_MS, NULL, &error);
		else if (r == 0)
			r = cop_pager_send_release(w->client, &v, &error);
		if (r == 0 || is_broken(w))
			break;
		g_usleep(50000);
	}
	if (there && r < 0 && !is_broken(w)) {
		g_autofree char *text =
			g_strdup_printf("the pager can't serve it: %s", error->message);

		doom(vm, text);
	}
	if (looked)
		cop_pager_vm_clear(&v);
}

/* An image that the pager is to know. */
struct image {
	char *ram_id;
	uint64_t size_bytes;
	unsigned domain;
	struct cop_template *tpl; /* or NULL */
};

static void image_free(void *p)
{
	struct image *image = p;

	g_free(image->ram_id);
	cop_template_unref(image->tpl);
	g_free(image);
}

static void note_image(GPtrArray *images, const char *ram_id, uint64_t size_bytes, unsigned domain,
		       struct cop_template *tpl)
{
	struct image *image;

	for (guint i = 0; i < images->len; i++) {
		image = images->pdata[i];
		if (strcmp(image->ram_id, ram_id) == 0)
			return;
	}
	image = g_new0(struct image, 1);
	image->ram_id = g_strdup(ram_id);
	image->size_bytes = size_bytes;
	image->domain = domain;
	image->tpl = tpl ? cop_template_ref(tpl) : NULL;
	g_ptr_array_add(images, image);
}

/* With state->lock. */
static GPtrArray *all_images(struct cop_state *state, GPtrArray *vms)
{
	GPtrArray *images = g_ptr_array_new_with_free_func(image_free);
	struct cop_template *tpl;
	GHashTableIter iter;

	g_hash_table_iter_init(&iter, state->templates);
	while (g_hash_table_iter_next(&iter, NULL, (void **)&tpl)) {
		if (tpl->ready && tpl->ram_id && cop_machine_is_paged(tpl->machine))
			note_image(images, tpl->ram_id, tpl->machine->memory_bytes, tpl->domain,
				   tpl);
	}
	for (guint i = 0; i < vms->len; i++) {
		struct cop_pager_vm v;

		if (((struct cop_vm *)vms->pdata[i])->run == COP_VM_STARTING ||
		    !cop_pager_vm_look(vms->pdata[i], &v))
			continue;
		if (!v.shared)
			note_image(images, v.ram_id, v.size_bytes, v.domain, NULL);
		cop_pager_vm_clear(&v);
	}
	return images;
}

static void tell_limit(struct watch *w)
{
	struct cop_state *state = w->p->state;
	struct cop_pager_request request = {
		.type = COP_PAGER_LIMIT,
		.size = state->config->memory_budget_bytes ?: state->config->cgroup_limit_bytes};
	int fd = cop_cgroup_open_usage(state);
	struct cop_error why = {0};

	if (cop_pager_client_call(w->client, &request, &fd, fd >= 0, COP_PAGER_ASK_MS, NULL,
				  &why) < 0)
		g_warning("%s", why.text);
	if (fd >= 0)
		close(fd);
}

/* VMs that a former pager or daemon may have left in the store. */
static void tell_gone(struct watch *w, GPtrArray *vms)
{
	gboolean alive[COP_PAGER_MAX_VM + 1] = {FALSE};

	g_mutex_lock(&w->p->state->lock);
	for (guint i = 0; i < vms->len; i++) {
		struct cop_vm *vm = vms->pdata[i];

		alive[vm->id + 1] = vm->pid != 0;
	}
	g_mutex_unlock(&w->p->state->lock);
	for (uint64_t n = 1; n <= COP_PAGER_MAX_VM && !is_broken(w); n++) {
		if (!alive[n])
			(void)cop_pager_send_simple(w->client, COP_PAGER_VM_REMOVE, n,
						    COP_PAGER_ASK_MS, NULL, NULL);
	}
}

/* A pager that went on without a daemon may know images whose files are gone by now: they are on the
 * list of those that it knows, and so they will be found unused. With state->lock. */
static void note_lost_images(struct cop_pager *p)
{
	struct cop_template *tpl;
	GHashTableIter iter;

	g_mutex_lock(&p->lock);
	g_hash_table_remove_all(p->images);
	g_hash_table_iter_init(&iter, p->state->templates);
	while (g_hash_table_iter_next(&iter, NULL, (void **)&tpl)) {
		if (tpl->lost_ram_id)
			g_hash_table_add(p->images, g_strdup(tpl->lost_ram_id));
	}
	g_mutex_unlock(&p->lock);
}

/* With the gate held to write. FALSE: it died meanwhile. */
static gboolean tell_all(struct watch *w)
{
	struct cop_state *state = w->p->state;
	g_autoptr(GPtrArray) vms = NULL, images = NULL;

	g_mutex_lock(&state->lock);
	vms = cop_state_all_vms(state);
	images = all_images(state, vms);
	note_lost_images(w->p);
	g_mutex_unlock(&state->lock);
	for (guint i = 0; i < images->len && !is_broken(w); i++) {
		struct image *image = images->pdata[i];
		g_autoptr(GError) error = NULL;

		if (cop_pager_send_image(w->p, w->client, image->ram_id, image->size_bytes,
					 image->domain, image->tpl, FALSE, &error) < 0)
			g_warning("RAM image %s%s%s: %s", image->ram_id,
				  image->tpl ? " of template " : "",
				  image->tpl ? image->tpl->name : "", error->message);
	}
	for (guint i = 0; i < vms->len && !is_broken(w); i++)
		tell_vm(w, vms->pdata[i]);
	tell_gone(w, vms);
	tell_limit(w);
	return !is_broken(w);
}

/* VMs that have ended. */
static void send_gone(struct watch *w)
{
	struct cop_pager *p = w->p;
	gboolean maybe[COP_PAGER_MAX_VM + 1];

	g_mutex_lock(&p->lock);
	memcpy(maybe, p->gone, sizeof(maybe));
	g_mutex_unlock(&p->lock);
	for (unsigned n = 1; n <= COP_PAGER_MAX_VM && !is_broken(w); n++) {
		gboolean gone;
		int r;

		if (!maybe[n])
			continue;
		g_mutex_lock(&p->gone_lock);
		g_mutex_lock(&p->lock);
		gone = p->gone[n];
		g_mutex_unlock(&p->lock);
		if (gone) {
			r = cop_pager_send_simple(w->client, COP_PAGER_VM_REMOVE, n,
						  COP_PAGER_ASK_MS, NULL, NULL);
			g_mutex_lock(&p->lock);
			p->gone[n] = r < 0 && r != -ENOENT;
			g_mutex_unlock(&p->lock);
		}
		g_mutex_unlock(&p->gone_lock);
	}
}

/* Does a VM, template or operation name the image? With state->lock. */
static gboolean image_used(struct cop_state *state, const char *ram_id)
{
	struct cop_template *tpl;
	GHashTableIter iter;
	struct cop_vm *vm;

	if (g_hash_table_contains(state->pinned, ram_id))
		return TRUE;
	g_hash_table_iter_init(&iter, state->vms);
	while (g_hash_table_iter_next(&iter, NULL, (void **)&vm)) {
		if (g_strcmp0(vm->ram_id, ram_id) == 0)
			return TRUE;
	}
	g_hash_table_iter_init(&iter, state->templates);
	while (g_hash_table_iter_next(&iter, NULL, (void **)&tpl)) {
		if (g_strcmp0(tpl->ram_id, ram_id) == 0)
			return TRUE;
	}
	return FALSE;
}

static void send_unused_images(struct watch *w)
{
	struct cop_pager *p = w->p;
	g_autoptr(GPtrArray) unused = g_ptr_array_new_with_free_func(g_free);
	GHashTableIter iter;
	const char *id;

	g_mutex_lock(&p->state->lock);
	g_mutex_lock(&p->lock);
	g_hash_table_iter_init(&iter, p->images);
	while (g_hash_table_iter_next(&iter, (void **)&id, NULL)) {
		if (!image_used(p->state, id))
			g_ptr_array_add(unused, g_strdup(id));
	}
	g_mutex_unlock(&p->lock);
	g_mutex_unlock(&p->state->lock);
	for (guint i = 0; i < unused->len && !is_broken(w); i++) {
		struct cop_pager_request request = {.type = COP_PAGER_TEMPLATE_REMOVE,
						    .image = cop_pager_image(unused->pdata[i])};
		int r = cop_pager_client_call(w->client, &request, NULL, 0, COP_PAGER_ASK_MS, NULL,
					      NULL);

		if (r == -EBUSY || is_broken(w))
			continue; /* its VM is about to be gone */
		g_mutex_lock(&p->lock);
		g_hash_table_remove(p->images, unused->pdata[i]);
		g_mutex_unlock(&p->lock);
	}
}

/* VMs that have lost a page are ended, and those whose shim hung up are added again. */
static void look_at_vms(struct watch *w)
{
	struct cop_state *state = w->p->state;
	g_autoptr(GPtrArray) vms = NULL;

	g_mutex_lock(&state->lock);
	vms = cop_state_all_vms(state);
	g_mutex_unlock(&state->lock);
	for (guint i = 0; i < vms->len && !is_broken(w); i++) {
		struct cop_vm *vm = vms->pdata[i];
		struct cop_pager_answer answer;
		gboolean ours;

		g_mutex_lock(&state->lock);
		ours = cop_vm_alive(vm) && cop_machine_is_paged(vm->machine) && !vm->doom;
		g_mutex_unlock(&state->lock);
		if (!ours || cop_pager_send_simple(w->client, COP_PAGER_VM_STATS, vm->id + 1,
						   COP_PAGER_ASK_MS, &answer, NULL) < 0)
			continue;
		if (answer.value[COP_PAGER_VM_STATE] == COP_PAGER_VM_DAMAGED)
			doom(vm, *answer.text ? answer.text : "a page of its memory is damaged");
		else if (answer.value[COP_PAGER_VM_STATE] == COP_PAGER_VM_GONE)
			tell_vm(w, vm);
	}
}

/* Serves one pager, from its start to its end. */
static void live(struct watch *w)
{
	struct cop_pager *p = w->p;
	gint64 looked_us = 0;
	gboolean known;

	g_rw_lock_writer_lock(&p->gate);
	known = tell_all(w);
	g_rw_lock_writer_unlock(&p->gate);
	if (!known)
		return;
	g_mutex_lock(&p->lock);
	p->pid = w->pid;
	g_mutex_unlock(&p->lock);
	set_phase(p, COP_PAGER_UP, "");
	while (!is_broken(w) && !is_ending(p)) {
		struct pollfd fds[] = {
			{.fd = cop_pager_client_fd(w->client), .events = POLLIN},
			{.fd = p->kick_fd, .events = POLLIN},
		};
		uint64_t count;

		if (poll(fds, 2, LOOK_MS) < 0 && errno != EINTR)
			break;
		if (fds[0].revents)
			break; /* it never speaks unasked: it has hung up */
		(void)!read(p->kick_fd, &count, sizeof(count));
		send_gone(w);
		send_unused_images(w);
		if (!is_broken(w) && g_get_monotonic_time() - looked_us > LOOK_MS * 1000) {
			look_at_vms(w);
			looked_us = g_get_monotonic_time();
		}
	}
}

/* At the daemon's end. A pager without VMs has nothing to outlive it for. */
static void end(struct watch *w)
{
	struct cop_pager *p = w->p;
	struct cop_pager_client *client = NULL;
	gint64 deadline_us = g_get_monotonic_time() + 5 * G_USEC_PER_SEC;
	gboolean needed = FALSE;
	GHashTableIter iter;
	struct cop_vm *vm;

	g_mutex_lock(&p->state->lock);
	g_hash_table_iter_init(&iter, p->state->vms);
	while (g_hash_table_iter_next(&iter, NULL, (void **)&vm))
		needed = needed || (vm->pid && cop_machine_is_paged(vm->machine));
	g_mutex_unlock(&p->state->lock);
	if (needed)
		return;
	if (w->client && !is_broken(w)) {
		send_gone(w);
		send_unused_images(w);
		if (cop_pager_send_simple(w->client, COP_PAGER_QUIT, 0, HELLO_MS, NULL, NULL) ==
		    -EBUSY)
			return;
	}
	/* Gone when nobody answers any more. */
	while (cop_pager_client_new(p->socket_path, HELLO_MS, &client, NULL, NULL) == 0 &&
	       g_get_monotonic_time() < deadline_us) {
		cop_pager_client_free(client);
		g_usleep(5000);
	}
	while (w->pidfd >= 0 && g_get_monotonic_time() < deadline_us) {
		reap(w);
		g_usleep(w->pidfd >= 0 ? 2000 : 0);
	}
	(void)unlink(p->store_path); /* they may not be there */
	(void)unlink(p->socket_path);
	(void)unlink(p->lock_path);
}

gpointer cop_pager_watch(gpointer user)
{
	struct watch w = {.p = user, .pidfd = -1};

	while (!is_ending(w.p)) {
		g_autoptr(GError) error = NULL;

		if (find_or_start(&w, &error)) {
			live(&w);
			if (is_ending(w.p))
				break;
			if (g_get_monotonic_time() - w.started_us > LIVED_US)
				w.pause_ms = 0;
			g_warning("the pager has ended; starting it again");
			set_phase(w.p, COP_PAGER_STARTING, "");
		} else {
			g_autofree char *text = cop_gerror_message(error);

			set_phase(w.p, COP_PAGER_BROKEN, text);
			w.pause_ms = MAX(w.pause_ms, 100);
		}
		cop_pager_client_free(w.client);
		w.client = NULL;
		reap(&w);
		g_usleep(w.pause_ms * 1000ul);
		w.pause_ms = MIN(MAX(w.pause_ms * 2, 20), MAX_PAUSE_MS);
	}
	end(&w);
	cop_pager_client_free(w.client);
	if (w.pidfd >= 0)
		close(w.pidfd);
	return NULL;
}
