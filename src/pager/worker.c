/* SPDX-License-Identifier: MIT */
/*
 * worker.c: the thread that does all that changes what a VM has in RAM, one job after the other.
 *
 * Discards go first, as a guest waits for them. A long job is done in slices and queued again, so
 * that others get their turn.
 *
 * The simple rule that keeps the whole under its limit: above HIGH percent evict from the VM that
 * has most of its own in RAM, until below LOW; a VM whose pages come back at once is left alone for
 * a while, longer each time.
 */
#include "pager/pager.h"
#include "base/cleanup.h"
#include "base/fd.h"
#include "mem/image.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

#define URGENT_RUN    16u /* discards in a row, while something else waits */
#define SLICE_PAGES   2048u
#define HIGH	      88 /* percent of the limit */
#define LOW	      84
#define TRIM_CHUNKS   64 /* of each template a tick: 4 MiB */
#define COMPACT_BYTES (128u << 10) /* of the store a tick: a fault may have to wait for it */
#define MAX_BACKOFF_S 64

struct job *job_new(enum job_type type, const struct vm *vm)
{
	struct job *job = calloc(1, sizeof(*job));

	if (!job) {
		/* A few hundred bytes: the daemon starts another pager, nothing is lost. */
		pager_log(0, "out of memory");
		abort();
	}
	job->type = type;
	if (vm) {
		job->slot = vm->slot;
		job->serial = vm->serial;
	}
	return job;
}

void worker_push(struct job *job)
{
	bool urgent = job->type == JOB_DISCARD || job->type == JOB_LATE;
	struct job ***end = urgent ? &pager.urgent_end : &pager.jobs_end;

	job->next = NULL;
	(void)pthread_mutex_lock(&pager.lock);
	**end = job;
	*end = &job->next;
	(void)pthread_cond_signal(&pager.work);
	(void)pthread_mutex_unlock(&pager.lock);
}

static struct job *pull(struct job **first, struct job ***end)
{
	struct job *job = *first;

	*first = job->next;
	if (!*first)
		*end = first;
	return job;
}

static void answer(const struct job *job, int status, uint64_t value, const char *why)
{
	uint64_t values[COP_PAGER_NR_VALUES] = {value};

	conn_answer(job->conn, &job->request, status, values, why && *why ? why : NULL);
}

static struct conn *conn_of(uint32_t serial)
{
	for (unsigned int i = 0; i < MAX_CONNS; i++) {
		if (pager.conns[i].serial == serial && serial)
			return &pager.conns[i];
	}
	return NULL;
}

static int template_add(struct job *job)
{
	const struct cop_pager_request *q = &job->request;
	bool fresh, whole = q->flags & COP_PAGER_WHOLE;
	struct cop_image *image;
	int r = 0;

	if (q->image == 0 || (job->nr_fds != 1 && job->nr_fds != 3 && job->nr_fds != 4))
		return -EINVAL;
	cop_engine_lock(&pager.engine);
	image = cop_image_find(&pager.engine, q->image);
	fresh = !image;
	if (fresh)
		r = cop_image_new(&pager.engine, q->image, q->domain, q->size, job->fds[0], &image);
	if (r == 0 && fresh)
		job->fds[0] = -1;
	if (r == 0 && (image->domain != q->domain || image->size_bytes != q->size))
		r = -EEXIST;
	if (r == 0 && job->nr_fds >= 3 && image->file < 0) {
		r = cop_image_set_file(image, job->fds[1], job->fds[2],
				       job->nr_fds == 4 ? job->fds[3] : -1, whole);
		if (r == 0)
			job->fds[1] = job->fds[2] = job->fds[3] = -1;
		if (r == 0 && !whole)
			loader_prefetch(image);
		if (r && fresh)
			cop_image_free(image);
	}
	cop_engine_unlock(&pager.engine);
	return r;
}

static int template_remove(uint64_t id)
{
	struct cop_image *image;
	int r = 0;

	cop_engine_lock(&pager.engine);
	image = cop_image_find(&pager.engine, id);
	if (image && (image->vms || image->refs || image->pins))
		r = -EBUSY;
	else if (image)
		cop_image_free(image);
	cop_engine_unlock(&pager.engine);
	return r;
}

static int template_load(const struct job *job, char *why, size_t why_len)
{
	struct cop_image *image;
	struct conn *conn;
	int r = 0;

	(void)pthread_mutex_lock(&pager.lock);
	cop_engine_lock(&pager.engine);
	image = cop_image_find(&pager.engine, job->request.image);
	conn = conn_of(job->conn);
	if (!image)
		r = -ENOENT;
	else if (!conn || (conn->pinned && conn->pinned != image->id))
		r = -EBUSY;
	if (r == 0 && !conn->pinned) {
		conn->pinned = image->id;
		image->pins++;
	}
	cop_engine_unlock(&pager.engine);
	(void)pthread_mutex_unlock(&pager.lock);
	for (uint32_t gfn = 0; r == 0 && gfn < image->nr_chunks * COP_CHUNK_PAGES;
	     gfn += COP_CHUNK_PAGES) {
		bool loaded;

		cop_engine_lock(&pager.engine);
		loaded = cop_image_is_loaded(image, gfn);
		cop_engine_unlock(&pager.engine);
		if (!loaded)
			r = cop_space_load(&pager.engine, image, gfn);
		if (r == -EBADMSG)
			(void)snprintf(why, why_len,
				       "the template's RAM image was altered at byte %" PRIu64,
				       (uint64_t)gfn * COP_PAGE_BYTES);
	}
	return r;
}

static void unpin(uint64_t id)
{
	struct cop_image *image;

	cop_engine_lock(&pager.engine);
	image = cop_image_find(&pager.engine, id);
	if (image && image->pins)
		image->pins--;
	cop_engine_unlock(&pager.engine);
}

/* Of the worker the table is; only it takes VMs out. */
static struct vm *find_vm(uint64_t key)
{
	struct vm *vm;

	(void)pthread_mutex_lock(&pager.lock);
	vm = vm_by_key(key);
	(void)pthread_mutex_unlock(&pager.lock);
	return vm;
}

static int add(struct job *job, char *why, size_t why_len)
{
	const struct cop_pager_request *q = &job->request;
	bool shared = q->flags & COP_PAGER_SHARED;
	struct vm *vm = find_vm(q->vm);
	int r;

	if (q->vm == 0 || job->nr_fds != (shared ? 2u : 1u))
		return -EINVAL;
	if (vm && vm->space->pid == (pid_t)q->pid && !vm->hung_up)
		return 0;
	if (vm)
		vm_remove(vm);
	r = vm_add(q, job->fds[0], shared ? job->fds[1] : -1, why, why_len);
	if (r == 0)
		job->fds[0] = job->fds[1] = -1;
	return r;
}

static int release(struct vm *vm, const struct cop_pager_request *q)
{
	bool shared = q->flags & COP_PAGER_SHARED;
	struct cop_image *image = NULL;
	int r = 0;

	if (shared && (!vm->space->shared || q->image != vm->image_id))
		return -EINVAL; /* nothing makes a VM shared again */
	if (!shared && (vm->space->shared || q->image != vm->image_id)) {
		cop_engine_lock(&pager.engine);
		image = cop_image_find(&pager.engine, q->image);
		cop_engine_unlock(&pager.engine);
		if (!image)
			r = -ENOENT;
		else if (image->size_bytes != (uint64_t)vm->space->nr_pages * COP_PAGE_BYTES)
			r = -EINVAL;
		else
			r = vm->space->stuck ? -EBUSY
					     : cop_space_rebase(vm->space, image, image->domain);
	}
	if (r)
		return r;
	vm->image_id = q->image;
	vm->space->held = false;
	return 0;
}

static int hold(struct vm *vm, char *why, size_t why_len)
{
	int r;

	vm->space->held = true;
	r = cop_space_restore_all(vm->space);
	if (r) {
		vm->space->held = false;
		(void)snprintf(why, why_len, "%s", vm->space->why);
	}
	return r;
}

/* What a former pager left of a VM that has ended since. */
static void forget(uint64_t key)
{
	struct cop_ptab *table;

	cop_engine_lock(&pager.engine);
	if (cop_ptab_find(pager.engine.store, key, &table) == 0)
		cop_ptab_free(table);
	cop_engine_unlock(&pager.engine);
}

/* One slice. Returns true when there is more to do. */
static bool evict(struct vm *vm, struct job *job, int *ret_status)
{
	uint64_t want = SLICE_PAGES, gone = 0, size = job->request.size, left = size - job->done;

	left = left / COP_PAGE_BYTES + (left % COP_PAGE_BYTES != 0);
	if (left < want)
		want = left;
	*ret_status = cop_space_evict(vm->space, want, &gone);
	job->done += gone * COP_PAGE_BYTES;
	/* A round that found less than it might is over; and a guest that touches all again at once
	 * must not keep this going for ever. */
	return *ret_status == 0 && gone == want && job->done < size &&
	       job->done < (uint64_t)vm->space->nr_pages * COP_PAGE_BYTES;
}

/* Returns true when the job is to be queued again. */
static bool request(struct job *job)
{
	const struct cop_pager_request *q = &job->request;
	char why[COP_PAGER_TEXT_BYTES] = "";
	struct vm *vm = NULL;
	bool again = false;
	int r = 0;

	if (q->type == COP_PAGER_EVICT || q->type == COP_PAGER_HOLD || q->type == COP_PAGER_RELEASE) {
		vm = find_vm(q->vm);
		if (!vm)
			r = -ENOENT;
	}
	if (r == 0) {
		switch (q->type) {
		case COP_PAGER_TEMPLATE_ADD:
			r = template_add(job);
			break;
		case COP_PAGER_TEMPLATE_REMOVE:
			r = template_remove(q->image);
			break;
		case COP_PAGER_TEMPLATE_LOAD:
			r = template_load(job, why, sizeof(why));
			break;
		case COP_PAGER_VM_ADD:
			r = add(job, why, sizeof(why));
			break;
		case COP_PAGER_VM_REMOVE:
			vm = find_vm(q->vm);
			if (vm)
				vm_remove(vm);
			else
				forget(q->vm);
			break;
		case COP_PAGER_EVICT:
			again = evict(vm, job, &r);
			break;
		case COP_PAGER_HOLD:
			r = hold(vm, why, sizeof(why));
			break;
		case COP_PAGER_RELEASE:
			r = release(vm, q);
			break;
		case COP_PAGER_QUIT:
			for (uint32_t i = 0; i < MAX_VMS && r == 0; i++)
				r = pager.vms[i] ? -EBUSY : 0;
			pager.quit = r == 0; /* seen at the next tick at the latest */
			break;
		default:
			r = -EOPNOTSUPP;
		}
	}
	if (!again)
		answer(job, r, job->done, why);
	return again;
}

/* Returns true when the VM's shim is late: the job waits with the VM until its answer comes. */
static bool discard(struct vm *vm, struct job *job)
{
	int r = cop_space_discard(vm->space, job->addr, job->len);

	if ((r == -EBUSY || r == -ETIMEDOUT) && vm->space->stuck) {
		job->next = vm->parked;
		vm->parked = job;
		return true;
	}
	vm_answer_discard(vm, job->id, r);
	return false;
}

static void late_answer(struct vm *vm, unsigned int done)
{
	struct job *parked = vm->parked;

	cop_space_late_answer(vm->space, done);
	vm_look_at_loss(vm);
	vm->parked = NULL;
	while (parked) {
		struct job *job = parked;

		parked = job->next;
		worker_push(job);
	}
}

static void read_usage(void)
{
	char text[32] = "";
	uint64_t used = 0;

	(void)pthread_mutex_lock(&pager.lock);
	if (pager.usage_fd >= 0 && pread(pager.usage_fd, text, sizeof(text) - 1, 0) > 0)
		used = strtoull(text, NULL, 10);
	pager.used_bytes = used;
	(void)pthread_mutex_unlock(&pager.lock);
}

/* Host memory that is the VM's own and could leave. */
static uint64_t own_bytes(const struct vm *vm)
{
	char path[40], line[128];
	unsigned long kib = 0;
	struct stat st;
	FILE *file;

	if (vm->space->shared)
		return fstat(vm->space->own_fd, &st) < 0 ? 0 : (uint64_t)st.st_blocks * 512;
	(void)snprintf(path, sizeof(path), "/proc/%d/status", (int)vm->space->pid);
	file = fopen(path, "re");
	while (file && fgets(line, sizeof(line), file) && sscanf(line, "RssAnon: %lu kB", &kib) != 1)
		;
	if (file)
		fclose(file);
	return (uint64_t)kib * 1024;
}

/* Did most of what was evicted last come back since? */
static bool backs_off(struct vm *vm, uint32_t now_s)
{
	uint64_t evicted = vm->space->evicted - vm->evicted_then;
	uint64_t back = vm->space->restored - vm->restored_then;

	if (now_s < vm->backoff_until_s)
		return true;
	if (evicted < SLICE_PAGES)
		return false;
	vm->backoff_s = back > evicted / 2 ? vm->backoff_s ? vm->backoff_s * 2 : 1 : 0;
	if (vm->backoff_s > MAX_BACKOFF_S)
		vm->backoff_s = MAX_BACKOFF_S;
	vm->backoff_until_s = now_s + vm->backoff_s;
	vm->evicted_then = vm->space->evicted;
	vm->restored_then = vm->space->restored;
	if (vm->backoff_s)
		pager_log(2, "VM %" PRIu64 ": %" PRIu64 " of %" PRIu64 " evicted pages came back: "
			  "left alone for %" PRIu32 " s",
			  vm->key - 1, back, evicted, vm->backoff_s);
	return vm->backoff_s != 0;
}

/* One slice from the VM that has most. Returns whether anything left. */
static bool press(uint32_t now_s, bool spare)
{
	struct vm *most = NULL;
	uint64_t most_bytes = 0, gone = 0;
	int r;

	for (uint32_t i = 0; i < MAX_VMS; i++) {
		struct vm *vm = pager.vms[i];
		uint64_t bytes;

		if (!vm || vm->space->held || vm->space->stuck || vm->hung_up ||
		    vm->space->state != COP_SPACE_RUNNING || now_s < vm->nothing_until_s ||
		    (spare && backs_off(vm, now_s)))
			continue;
		bytes = own_bytes(vm);
		if (bytes > most_bytes) {
			most = vm;
			most_bytes = bytes;
		}
	}
	if (!most)
		return false;
	r = cop_space_evict(most->space, SLICE_PAGES, &gone);
	if (gone < SLICE_PAGES / 4)
		most->nothing_until_s = now_s + 2;
	pager_log(r ? 1 : 2, "limit: VM %" PRIu64 ": evicted %" PRIu64 " of %" PRIu64 " KiB%s%s",
		  most->key - 1, gone * 4, most_bytes / 1024, r ? ": " : "", r ? strerror(-r) : "");
	return true;
}

static uint64_t trim_templates(uint32_t now_s, unsigned int chunks, bool force)
{
	uint64_t left = 0;

	for (unsigned int i = 0;; i++) {
		struct cop_image *image;
		unsigned int nth = 0;

		cop_engine_lock(&pager.engine);
		for (image = pager.engine.images; image && nth < i; image = image->next)
			nth++;
		if (image)
			left += cop_image_trim(image, now_s, chunks, force);
		cop_engine_unlock(&pager.engine);
		if (!image)
			return left;
	}
}

static void tick(void)
{
	uint32_t now_s = pager_now_s();

	(void)pthread_mutex_lock(&pager.lock);
	pager.tick_queued = false;
	(void)pthread_mutex_unlock(&pager.lock);
	(void)trim_templates(now_s, TRIM_CHUNKS, false);
	cop_engine_lock(&pager.engine);
	(void)cop_store_compact(pager.engine.store, COMPACT_BYTES);
	(void)cop_store_trim(pager.engine.store, pager.engine.store_fd);
	cop_engine_unlock(&pager.engine);
	read_usage();
	if (!pager.limit_bytes || pager.used_bytes <= pager.limit_bytes / 100 * HIGH)
		return;
	/* A few slices; others get their turn, and the next tick goes on. */
	for (int i = 0; i < 16 && pager.used_bytes > pager.limit_bytes / 100 * LOW; i++) {
		if (!press(now_s, true) && !press(now_s, false) &&
		    !trim_templates(now_s, 256, true))
			break;
		read_usage();
		if (pager.urgent || pager.jobs)
			break;
	}
}

enum outcome { DONE, AGAIN, KEPT };

static enum outcome run(struct job *job)
{
	struct vm *vm;

	(void)pthread_mutex_lock(&pager.lock);
	vm = vm_get(job->slot, job->serial);
	(void)pthread_mutex_unlock(&pager.lock);
	switch (job->type) {
	case JOB_REQUEST:
		return request(job) ? AGAIN : DONE;
	case JOB_DISCARD:
		return vm && !vm->hung_up && discard(vm, job) ? KEPT : DONE;
	case JOB_LATE:
		if (vm)
			late_answer(vm, (unsigned int)job->len);
		break;
	case JOB_END:
		if (vm)
			vm_remove(vm);
		break;
	case JOB_UNPIN:
		unpin(job->request.image);
		break;
	case JOB_TICK:
		tick();
		break;
	}
	return DONE;
}

void *worker_thread(void *unused)
{
	unsigned int in_a_row = 0;

	(void)pthread_setname_np(pthread_self(), "worker"); /* only for people who look */
	for (;;) {
		enum outcome outcome;
		struct job *job;
		bool urgent;

		(void)pthread_mutex_lock(&pager.lock);
		while (!pager.jobs && !pager.urgent)
			(void)pthread_cond_wait(&pager.work, &pager.lock);
		/* A guest that discards all the time must not keep others from their turn. */
		urgent = pager.urgent && (!pager.jobs || in_a_row < URGENT_RUN);
		in_a_row = urgent ? in_a_row + 1 : 0;
		job = urgent ? pull(&pager.urgent, &pager.urgent_end)
			     : pull(&pager.jobs, &pager.jobs_end);
		(void)pthread_mutex_unlock(&pager.lock);
		outcome = run(job);
		if (outcome == AGAIN)
			worker_push(job);
		if (outcome != DONE)
			continue;
		for (size_t i = 0; i < job->nr_fds; i++)
			cop_close(&job->fds[i]);
		free(job);
	}
	return NULL;
}
