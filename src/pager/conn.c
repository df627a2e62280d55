/* SPDX-License-Identifier: MIT */
/*
 * conn.c: connections of the daemon: requests in, answers out. Messages: proto/pager.h.
 *
 * A request is answered here if that takes no time; the others become jobs of the worker, which
 * answers by the connection's serial: if that is closed by then, nobody is answered.
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

bool conn_any(void)
{
	bool any = false;

	(void)pthread_mutex_lock(&pager.lock);
	for (unsigned int i = 0; i < MAX_CONNS && !any; i++)
		any = pager.conns[i].serial != 0;
	(void)pthread_mutex_unlock(&pager.lock);
	return any;
}

void conn_accept(int listen_fd)
{
	cop_auto_close int fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC);
	struct ucred peer;
	socklen_t len = sizeof(peer);

	if (fd < 0 || getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0 ||
	    (peer.uid != 0 && peer.uid != geteuid()))
		return;
	(void)pthread_mutex_lock(&pager.lock);
	for (unsigned int i = 0; i < MAX_CONNS; i++) {
		struct conn *conn = &pager.conns[i];

		if (conn->serial)
			continue;
		*conn = (struct conn){.fd = fd, .serial = pager.next_serial++};
		if (pager_watch(SOURCE_CONN, i, conn->serial, fd) < 0)
			conn->serial = 0;
		else
			(void)cop_steal_fd(&fd);
		break;
	}
	(void)pthread_mutex_unlock(&pager.lock);
}

static void hang_up(struct conn *conn)
{
	struct job *unpin = job_new(JOB_UNPIN, NULL);

	(void)pthread_mutex_lock(&pager.lock);
	close(conn->fd);
	unpin->request.image = conn->pinned;
	conn->serial = 0;
	(void)pthread_mutex_unlock(&pager.lock);
	if (unpin->request.image)
		worker_push(unpin);
	else
		free(unpin);
}

void conn_answer(uint32_t serial, const struct cop_pager_request *request, int status,
		 const uint64_t *values, const char *text)
{
	struct cop_pager_answer answer = {
		.magic = COP_PAGER_MAGIC,
		.version = COP_PAGER_VERSION,
		.type = request->type,
		.id = request->id,
		.status = status,
	};

	if (values)
		memcpy(answer.value, values, sizeof(answer.value));
	if (text)
		(void)snprintf(answer.text, sizeof(answer.text), "%s", text);
	else if (status)
		(void)snprintf(answer.text, sizeof(answer.text), "%s", strerror(-status));
	(void)pthread_mutex_lock(&pager.lock);
	for (unsigned int i = 0; i < MAX_CONNS; i++) {
		/* Who lets answers pile up gets no more. */
		if (pager.conns[i].serial == serial && serial)
			(void)cop_fd_send(pager.conns[i].fd, &answer, sizeof(answer), NULL, 0,
					  MSG_DONTWAIT);
	}
	(void)pthread_mutex_unlock(&pager.lock);
}

static void get_stats(uint64_t *v)
{
	struct cop_store_stats stats;
	struct stat st = {0};

	cop_engine_lock(&pager.engine);
	cop_store_get_stats(pager.engine.store, &stats);
	v[COP_PAGER_STAT_EVICTED] = pager.engine.evicted;
	v[COP_PAGER_STAT_RESTORED] = pager.engine.restored;
	v[COP_PAGER_STAT_FAULTS] = pager.engine.faults;
	v[COP_PAGER_STAT_DAMAGED] = pager.engine.damaged;
	cop_engine_unlock(&pager.engine);
	(void)fstat(pager.engine.store_fd, &st); /* can't fail: it is open */
	v[COP_PAGER_STAT_STORE_BYTES] = (uint64_t)st.st_blocks * 512;
	v[COP_PAGER_STAT_METADATA_BYTES] =
		stats.slot_bytes + stats.ptab_bytes + stats.dir_bytes + stats.dead_bytes;
	v[COP_PAGER_STAT_INDEX_BYTES] = stats.memory_bytes;
	v[COP_PAGER_STAT_RECORDS] = stats.records;
	v[COP_PAGER_STAT_RAW_BYTES] = stats.raw_bytes;
	v[COP_PAGER_STAT_DUPLICATES] = stats.duplicates;
	v[COP_PAGER_STAT_STORE_LIMIT] = pager.engine.store_bytes;
	(void)pthread_mutex_lock(&pager.lock);
	v[COP_PAGER_STAT_USED] = pager.used_bytes;
	v[COP_PAGER_STAT_LIMIT] = pager.limit_bytes;
	(void)pthread_mutex_unlock(&pager.lock);
}

static int get_vm_stats(uint64_t key, uint64_t *v, char *why, size_t why_len)
{
	const struct cop_space *space;
	struct vm *vm;

	cop_engine_lock(&pager.engine);
	vm = vm_by_key(key);
	if (!vm) {
		cop_engine_unlock(&pager.engine);
		return -ENOENT;
	}
	space = vm->space;
	v[COP_PAGER_VM_STATE] = space->state == COP_SPACE_DAMAGED ? COP_PAGER_VM_DAMAGED
				: space->state == COP_SPACE_GONE || vm->hung_up ? COP_PAGER_VM_GONE
				: space->held ? COP_PAGER_VM_HELD
					      : COP_PAGER_VM_RUNNING;
	v[COP_PAGER_VM_STORED_RAW_BYTES] = (uint64_t)space->entries[COP_PAGE_RECORD] * COP_PAGE_BYTES;
	v[COP_PAGER_VM_STORED_BYTES] = space->coded_bytes;
	v[COP_PAGER_VM_ZERO_BYTES] = (uint64_t)space->entries[COP_PAGE_ZERO] * COP_PAGE_BYTES;
	v[COP_PAGER_VM_SAME_BYTES] = (uint64_t)space->entries[COP_PAGE_SAME] * COP_PAGE_BYTES;
	v[COP_PAGER_VM_DISCARDED_BYTES] =
		(uint64_t)space->entries[COP_PAGE_DISCARDED] * COP_PAGE_BYTES;
	v[COP_PAGER_VM_EVICTED] = space->evicted;
	v[COP_PAGER_VM_RESTORED] = space->restored;
	v[COP_PAGER_VM_FAULTS] = space->faults;
	v[COP_PAGER_VM_MAPPINGS] = space->mappings;
	(void)snprintf(why, why_len, "%s", space->why);
	cop_engine_unlock(&pager.engine);
	return 0;
}

static int get_template_stats(uint64_t id, uint64_t *v)
{
	const struct cop_image *image;

	cop_engine_lock(&pager.engine);
	image = cop_image_find(&pager.engine, id);
	if (image) {
		v[COP_PAGER_TEMPLATE_RESIDENT_BYTES] = cop_image_resident_bytes(image);
		v[COP_PAGER_TEMPLATE_NONZERO_BYTES] = image->nonzero_bytes;
		v[COP_PAGER_TEMPLATE_LOADED_BYTES] = image->loaded_bytes;
		v[COP_PAGER_TEMPLATE_DROPPED_BYTES] = image->dropped_bytes;
		v[COP_PAGER_TEMPLATE_VMS] = image->vms;
	}
	cop_engine_unlock(&pager.engine);
	return image ? 0 : -ENOENT;
}

static int set_limit(const struct cop_pager_request *request, int *fds, size_t nr_fds)
{
	if (nr_fds > 1)
		return -EINVAL;
	(void)pthread_mutex_lock(&pager.lock);
	pager.limit_bytes = request->size;
	if (nr_fds) {
		cop_close(&pager.usage_fd);
		pager.usage_fd = cop_steal_fd(&fds[0]);
	}
	(void)pthread_mutex_unlock(&pager.lock);
	return 0;
}

/* Returns false when the connection is to be closed. */
static bool serve(struct conn *conn)
{
	struct cop_pager_request request = {0};
	uint64_t values[COP_PAGER_NR_VALUES] = {0};
	char why[COP_PAGER_TEXT_BYTES] = "";
	int fds[COP_PAGER_MAX_FDS], status = 0;
	size_t nr_fds = 0;
	ssize_t n = cop_fd_recv(conn->fd, &request, sizeof(request), fds, COP_PAGER_MAX_FDS, &nr_fds,
				MSG_DONTWAIT);
	struct job *job;

	if (n == -EAGAIN)
		return true;
	if (n != sizeof(request) || request.magic != COP_PAGER_MAGIC) {
		while (n > 0 && nr_fds)
			close(fds[--nr_fds]);
		return false;
	}
	if (request.version != COP_PAGER_VERSION) {
		status = -EPROTONOSUPPORT;
		request.type = 0;
	}
	switch (request.type) {
	case 0:
		break;
	case COP_PAGER_HELLO:
		values[0] = (uint64_t)getpid();
		break;
	case COP_PAGER_STATS:
		get_stats(values);
		break;
	case COP_PAGER_VM_STATS:
		status = get_vm_stats(request.vm, values, why, sizeof(why));
		break;
	case COP_PAGER_TEMPLATE_STATS:
		status = get_template_stats(request.image, values);
		break;
	case COP_PAGER_LIMIT:
		status = set_limit(&request, fds, nr_fds);
		break;
	case COP_PAGER_TEMPLATE_ADD:
	case COP_PAGER_TEMPLATE_REMOVE:
	case COP_PAGER_TEMPLATE_LOAD:
	case COP_PAGER_VM_ADD:
	case COP_PAGER_VM_REMOVE:
	case COP_PAGER_EVICT:
	case COP_PAGER_HOLD:
	case COP_PAGER_RELEASE:
	case COP_PAGER_QUIT:
		job = job_new(JOB_REQUEST, NULL);
		job->conn = conn->serial;
		job->request = request;
		memcpy(job->fds, fds, sizeof(fds));
		job->nr_fds = nr_fds;
		worker_push(job);
		return true;
	default:
		status = -EOPNOTSUPP;
	}
	while (nr_fds)
		cop_close(&fds[--nr_fds]);
	conn_answer(conn->serial, &request, status, values, *why ? why : NULL);
	return true;
}

void conn_readable(uint32_t slot, uint32_t serial)
{
	struct conn *conn = &pager.conns[slot];

	if (conn->serial == serial && !serve(conn))
		hang_up(conn);
}
