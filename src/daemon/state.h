/* All that the daemon knows: its VMs and templates, and who may touch what.
 *
 * Data: struct cop_state holds the tables. A VM or template is reference-counted.
 * Threads and locks: the main loop's thread serves the API and sees processes end; operations run
 * on worker threads. `lock` guards every field of every structure here. An operation claims its VM
 * or template by setting `busy` under the lock; from then on it alone may use the VM's monitor and
 * change its machine, until it clears `busy`. So no lock is held over I/O that can take long (files
 * are renamed and removed under it, so that nobody sees half of that), and a second operation gets a
 * clear "busy" error. `changed` is broadcast on every change of a state.
 */
#ifndef COP_DAEMON_STATE_H
#define COP_DAEMON_STATE_H

#include <glib.h>
#include <stdint.h>
#include <sys/types.h>

#include "config.h"
#include "machine.h"

struct cop_qmp;
struct cop_console;
struct cop_pager;

enum cop_vm_state {
	COP_VM_STARTING,
	COP_VM_RUNNING,
	COP_VM_PAUSED,
	COP_VM_STOPPED,
	COP_VM_FAILED,
};

struct cop_start_times {
	double spawn_ms, qmp_ms, load_ms, total_ms;
};

struct cop_freeze_times {
	double window_ms, disks_ms, state_ms, ram_ms, total_ms;
};

struct cop_vm {
	gatomicrefcount refs;
	struct cop_state *state;
	char *name;
	unsigned id; /* of DIR/vms/ID, and of the user id */
	enum cop_vm_state run;
	char *reason;	 /* "" when there is nothing to say */
	const char *busy; /* "" or a constant word */
	char *template;	 /* name, or NULL */
	struct cop_machine *machine;
	char *ram_id;	   /* RAM image that is mapped; NULL when not running */
	gboolean ram_shared; /* mapped shared: a booted VM that was never frozen */
	unsigned domain;     /* trust domain of an image that no template has; 0: not given */
	gboolean held;	     /* the pager holds it for a freeze */
	char *doom;	     /* why the daemon has ended the process, or NULL */
	pid_t pid;	   /* 0 when there is no process */
	uint64_t pid_start; /* start time from /proc/PID/stat: tells reused ids apart */
	gboolean saving;    /* the process is gone, its end is being written to vm.json */
	int pidfd;
	guint pid_source;
	struct cop_qmp *qmp;
	struct cop_console *console;
	guint vnc_source;
	int vnc_fd;
	unsigned ssh_port;
	gint64 created_s;
	gboolean started_once;
	struct cop_start_times start;
	JsonObject *intent; /* what a freeze in progress had planned; NULL otherwise */
};

struct cop_template {
	gatomicrefcount refs;
	char *name;
	gboolean ready;	   /* FALSE while a freeze makes it: the name is taken, that is all */
	gboolean ephemeral; /* made by fork: goes when its last VM goes */
	char *broken;	   /* why it can't be used, or NULL */
	unsigned busy_users; /* clone operations in progress */
	char *parent, *from_vm;
	gint64 created_s;
	struct cop_machine *machine; /* top layers are read-only; clones add one each */
	char *ram_id;		     /* copy in ram_dir; NULL when not loaded */
	char *lost_ram_id;	     /* the one that was there when another daemon served, or NULL */
	unsigned domain;	     /* trust domain of the pager's records, no other's */
	GMutex load_lock;	     /* one loader or verifier at a time; taken before `lock` */
	struct cop_freeze_times times;
	uint64_t ram_bytes; /* of the RAM image, holes left out */
	JsonObject *sums;   /* checksums and file ids: see template.c */
};

struct cop_state {
	struct cop_config *config;
	GMutex lock;
	GCond changed;
	GHashTable *vms;       /* name -> struct cop_vm, owned */
	GHashTable *templates; /* name -> struct cop_template, owned */
	GHashTable *pinned;    /* file names in use by operations, a set */
	gboolean keep_files;   /* a manifest could not be read: remove no unknown file */
	char *cgroup_path;     /* own memory cgroup, or NULL */
	gboolean cgroup_v2;
	int cgroup_procs_fd;
	char *machine_type; /* found on first use */
	JsonObject *accel_report; /* what "auto" means here; found on first use */
	GMutex probe_lock;
	gint64 active_us; /* time of the last request */
	struct cop_pager *pager; /* the memory engine's process; see pager.h */
};

struct cop_state *cop_state_new(struct cop_config *config);
void cop_state_free(struct cop_state *state);

/* Paths; caller frees. */
char *cop_state_vm_dir(struct cop_state *state, unsigned id);
char *cop_state_template_dir(struct cop_state *state, const char *name);
char *cop_state_layer_path(struct cop_state *state, const struct cop_layer *layer);
char *cop_state_blob_path(struct cop_state *state, const char *name);
char *cop_state_ram_path(struct cop_state *state, const char *ram_id);

struct cop_vm *cop_vm_ref(struct cop_vm *vm);
void cop_vm_unref(struct cop_vm *vm);
struct cop_template *cop_template_new(const char *name);
struct cop_template *cop_template_ref(struct cop_template *tpl);
void cop_template_unref(struct cop_template *tpl);

const char *cop_vm_state_word(enum cop_vm_state run);
/* All VMs by id, with a reference each; caller unrefs the array. With the lock held. */
GPtrArray *cop_state_all_vms(struct cop_state *state);
/* With the lock held. */
gboolean cop_vm_alive(const struct cop_vm *vm);

/* Finds and claims. A new reference with busy set, or NULL: no such VM, busy with something else,
 * or (need_alive) not running. Takes the lock. */
struct cop_vm *cop_state_claim_vm(struct cop_state *state, const char *name, const char *busy,
				  gboolean need_alive, GError **error);
/* Clears busy and drops the reference. Takes the lock; NULL is fine. */
void cop_state_release_vm(struct cop_vm *vm);
/* A reference without a claim. */
struct cop_vm *cop_state_find_vm(struct cop_state *state, const char *name, GError **error);
struct cop_template *cop_state_find_template(struct cop_state *state, const char *name,
					     GError **error);

/* Reserves `count` VMs in state "starting", busy, each with its own id; or none, with an error:
 * a name is taken, or a limit would be passed (with the figures). names may be NULL: then
 * PREFIX-1, PREFIX-2 and so on, whatever is free. memory_bytes is of each. Takes the lock. */
GPtrArray *cop_state_reserve_vms(struct cop_state *state, char *const *names, const char *prefix,
				 unsigned count, uint64_t memory_bytes, GError **error);
/* Do the limits allow that a stopped VM starts again? Takes the lock. */
gboolean cop_state_check_start(struct cop_vm *vm, GError **error);
/* Takes a VM out of the table, with its folder and what only it used. Takes the lock. */
void cop_state_forget_vm(struct cop_vm *vm);

/* Limits, with the lock held. */
uint64_t cop_state_given_bytes(struct cop_state *state);
unsigned cop_state_nr_vms(struct cop_state *state);
/* Host disk used by everything in DIR; no lock needed. */
uint64_t cop_state_disk_bytes(struct cop_state *state);
uint64_t cop_state_max_disk_bytes(struct cop_state *state);
gboolean cop_state_check_disk(struct cop_state *state, GError **error);

/* Files by reference: whatever no manifest and no operation names is removed. Takes the lock. */
void cop_state_pin(struct cop_state *state, const char *file);
void cop_state_unpin(struct cop_state *state, const char *file);
void cop_state_collect(struct cop_state *state);

/* Writes DIR/vms/ID/vm.json from the VM's fields. Takes the lock. The second form syncs it to disk. */
gboolean cop_vm_save(struct cop_vm *vm, GError **error);
gboolean cop_vm_save_durable(struct cop_vm *vm, GError **error);

#endif
