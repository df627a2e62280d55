/* SPDX-License-Identifier: MIT */
/*
 * pager.h: what the parts of coppice-pager share.
 *
 * Threads:
 *	main    (loop.c)    sockets: of the daemon (conn.c), of the shims (vm.c); ends of VMs; ticks
 *	fault   (fault.c)   events of all userfaultfds; never waits for any other thread but for
 *			    short sections of the engine's lock
 *	worker  (worker.c)  one job after the other: all that makes pages leave, VMs come and go
 *	loader  (loader.c)  chunks of templates from disk; wakes whose page had to wait
 *
 * Locks, in this order: pager.lock (VMs, connections, queues), engine.lock (pages). Neither is held
 * across a wait or a read from disk.
 *
 * A VM is removed by the worker only; the others find it by slot and serial, with pager.lock or the
 * engine's lock held (the worker takes both to remove it).
 */
#ifndef COP_PAGER_PAGER_H
#define COP_PAGER_PAGER_H

#include "mem/engine.h"
#include "mem/space.h"
#include "proto/pager.h"
#include "proto/shim.h"

#include <stdio.h>

#define MAX_VMS	  4096
#define MAX_CONNS 64

struct vm {
	uint64_t key;
	uint32_t slot, serial;
	struct cop_space *space;
	int shim;  /* socket; read by main once the VM is added */
	int pidfd;
	uint32_t last_id;      /* of requests to the shim */
	uint32_t awaited;      /* 0: none */
	bool answered, hung_up, late, lost;
	unsigned int discards; /* not yet answered; a shim may have COP_SHIM_MAX_DISCARDS */
	struct job *parked;    /* the worker's: discards that wait for a late answer */
	int status;
	unsigned int done;
	uint64_t image_id;
	/* The simple rule's memory of this VM. */
	uint64_t evicted_then, restored_then;
	uint32_t backoff_until_s, backoff_s, nothing_until_s;
};

struct conn {
	int fd;
	uint32_t serial; /* 0: free */
	uint64_t pinned; /* image that TEMPLATE_LOAD keeps in RAM, 0: none */
};

enum job_type { JOB_REQUEST, JOB_DISCARD, JOB_LATE, JOB_END, JOB_UNPIN, JOB_TICK };

struct job {
	struct job *next;
	enum job_type type;
	uint32_t conn;	     /* serial of who asked */
	uint32_t slot, serial; /* of the VM, but for REQUEST */
	struct cop_pager_request request;
	int fds[COP_PAGER_MAX_FDS];
	size_t nr_fds;
	uint32_t id;	    /* DISCARD: of the shim's message */
	uint64_t addr, len; /* DISCARD; LATE: len ranges done */
	uint64_t done;	    /* EVICT: bytes so far */
};

struct pager {
	struct cop_engine engine;
	pthread_mutex_t lock;
	pthread_cond_t work;	 /* jobs came */
	pthread_cond_t answered; /* a shim answered, or hung up */
	struct vm *vms[MAX_VMS];
	uint32_t next_serial;
	struct conn conns[MAX_CONNS];
	struct job *jobs, **jobs_end;
	struct job *urgent, **urgent_end; /* discards: a guest waits */
	bool tick_queued;
	int listen_fd, timer;
	int epoll;	 /* main's */
	int fault_epoll; /* the fault thread's */
	int usage_fd;	 /* what the host pays, -1: unknown */
	uint64_t limit_bytes, used_bytes;
	bool quit;
	int log_level;
	/* Set before the start. */
	unsigned int tick_ms; /* below 1000; 0: no ticks */
	unsigned int attach_ms, replace_ms; /* how long the worker waits for a shim */
	unsigned int access_ms; /* and for a VM's memory, which may need a disk */
};

extern struct pager pager;

/* Levels: 0 errors, 1 what an owner should know, 2 decisions, 3 all. */
void pager_log(int level, const char *format, ...) __attribute__((format(printf, 2, 3)));

/*
 * loop.c: pager_start() makes the threads and watches the listening socket; 0 or -errno. The engine is
 * there already. pager_loop() is the main thread's, until pager.quit.
 */
int pager_start(int listen_fd);
void pager_loop(void);

/* epoll's data names what an event is of. */
enum source { SOURCE_LISTEN, SOURCE_CONN, SOURCE_SHIM, SOURCE_PID, SOURCE_TICK };
int pager_watch(enum source source, uint32_t slot, uint32_t serial, int fd);
int64_t pager_now_ms(void);
uint32_t pager_now_s(void);

/* conn.c */
void conn_accept(int listen_fd);
void conn_readable(uint32_t slot, uint32_t serial);
/* Answers whoever is still there. values: COP_PAGER_NR_VALUES or NULL; text may be NULL. */
void conn_answer(uint32_t serial, const struct cop_pager_request *request, int status,
		 const uint64_t *values, const char *text);
bool conn_any(void);

/* vm.c */
/* With pager.lock or engine.lock: the VM, or NULL when it is gone. */
struct vm *vm_get(uint32_t slot, uint32_t serial);
struct vm *vm_by_key(uint64_t key);
/* Worker. */
int vm_add(const struct cop_pager_request *request, int shim, int own_fd, char *why, size_t why_len);
void vm_remove(struct vm *vm);
/* An answer that the shim has no room for is hung up on. */
void vm_answer_discard(struct vm *vm, uint32_t id, int status);
/* If the shim said that memory is lost, the VM is damaged from now on. */
void vm_look_at_loss(struct vm *vm);
/* Main. */
void shim_readable(uint32_t slot, uint32_t serial);
void pid_ended(uint32_t slot, uint32_t serial);

/* worker.c: takes the job, which malloc made. */
void worker_push(struct job *job);
struct job *job_new(enum job_type type, const struct vm *vm);
void *worker_thread(void *unused);

/* fault.c */
void *fault_thread(void *unused);

/* loader.c */
/* With the engine's lock: load image's chunk of gfn, then wake the VM's page at addr. image NULL:
 * wake it after a while. */
void loader_push(const struct vm *vm, uint64_t addr, struct cop_image *image, uint32_t gfn);
/* Bring in what clones touched first, in the background. With the engine's lock. */
void loader_prefetch(struct cop_image *image);
void *loader_thread(void *unused);

#endif
